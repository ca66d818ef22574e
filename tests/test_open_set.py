"""The builder of the open set, without the programs that render songs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bsrnn.data import STEMS, find_tracks

FOLDER = Path(__file__).resolve().parents[1] / "open-set"


@pytest.fixture
def open_set():
    spec = importlib.util.spec_from_file_location("open_set", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_split(open_set):
    places = open_set.songs()
    halves = [place.split("/")[0] for place in places]
    assert (halves.count("train"), halves.count("test")) == (71, 15)
    assert {place for place, path in places.items() if path.is_dir() and place.startswith("test")} == {
        "test/2.Lithium", "test/7.Francium",
    }  # fmt: skip
    assert all(path.exists() for path in places.values())
    held_out = open_set.validation(places)
    assert len(set(held_out)) == len(held_out) == 13
    assert {place for place in places if place.removeprefix("train/") in held_out} == {f"train/{n}" for n in held_out}


def test_a_song_is_the_exact_sum_of_its_stems(open_set, tmp_path):
    draw = np.random.default_rng(0)
    stems = {stem: draw.normal(0, 0.3, (1_000 + i, 2)).astype(np.float32) for i, stem in enumerate(STEMS[:3])}
    open_set.write(tmp_path / "song", stems)
    parts = {name: soundfile.read(tmp_path / "song" / f"{name}.wav", dtype="int16")[0] for name in (*STEMS, "mixture")}
    assert {len(part) for part in parts.values()} == {1_000}
    assert (parts["mixture"] == sum(parts[stem].astype(int) for stem in STEMS)).all()
    assert not parts["vocals"].any() and parts["drums"].any()
    assert np.abs(parts["mixture"]).max() == pytest.approx(0.9 * 32767, abs=3)


def test_recorded_songs(open_set, tmp_path):
    open_set.build(tmp_path, 60.0, ("train/song", FOLDER / "stems" / "1.Hydrogen"))
    (tmp_path / "test").mkdir()
    (track,) = find_tracks(tmp_path, "validation")
    assert (track.sample_rate, track.channels, track.length / track.sample_rate) == (44_100, 2, 180)
    before = (tmp_path / "train" / "song" / "bass.wav").stat().st_mtime_ns
    open_set.build(tmp_path, 60.0, ("train/song", FOLDER / "stems" / "1.Hydrogen"))
    assert (tmp_path / "train" / "song" / "bass.wav").stat().st_mtime_ns == before
