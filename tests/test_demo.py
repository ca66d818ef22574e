import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from bsrnn import demo

FILES = ("mixture", *demo.STEMS)
SHORT = {"train": 2, "test": 1, "seconds": 2.5}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "data"
    demo.generate(out, **SHORT)
    return out


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_layout_and_format(made):
    songs = {"train/demo-train-00", "train/demo-train-01", "test/demo-test-00"}
    assert set(_files(made)) == {"demo.json"} | {f"{song}/{name}.wav" for song in songs for name in FILES}
    assert [path.name for path in made.parent.iterdir()] == ["data"]  # nothing left beside it
    for path in made.rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (44_100, 2, "PCM_16", 110_250)


def test_mixture_is_the_exact_sum_of_sounding_stems(made):
    for folder in made.glob("*/*"):
        mixture, *stems = (soundfile.read(folder / f"{name}.wav", dtype="int16")[0].astype(int) for name in FILES)
        assert np.array_equal(mixture, sum(stems))
        assert 0.5 < np.abs([mixture, *stems]).max() / 32768 <= 0.9
        levels = [10 * np.log10((stem**2).mean()) for stem in stems] - np.array(list(demo.LEVELS.values()))
        assert np.ptp(levels) < 6.1  # each within 3 dB of its level
        assert np.abs([stem[-1] for stem in stems]).max() <= 1  # faded out


def test_files_hold_what_song_returns(made):
    for name, stem in demo.song(1, "train", seed=0, seconds=2.5).items():
        wave, _ = soundfile.read(made / "train" / "demo-train-01" / f"{name}.wav", dtype="float32")
        assert stem.dtype == np.float32 and np.array_equal(wave.T, stem)


def test_same_bytes_whatever_the_count(made, tmp_path):
    demo.generate(tmp_path / "one", train=3, test=1, seconds=2.5)
    assert {item for item in _files(made).items() if item[0].endswith("wav")} < set(_files(tmp_path / "one").items())


def test_same_samples_in_another_process():
    code = "import sys; from bsrnn.demo import song; sys.stdout.buffer.write(song(0, 'test', 3, 1)['vocals'].tobytes())"
    assert subprocess.check_output([sys.executable, "-c", code]) == demo.song(0, "test", 3, 1)["vocals"].tobytes()


def test_songs_splits_and_seeds_differ():
    songs = [demo.song(*key, 1.0) for key in ((0, "train", 0), (1, "train", 0), (0, "test", 0), (0, "train", 1))]
    for name in demo.STEMS:
        assert len({song[name].tobytes() for song in songs}) == len(songs)
        assert all(song[name].any() for song in songs)  # a stem sounds even in the shortest song


def test_classes_keep_their_character():
    """Medians over songs: bass lies lowest, drums are the brightest and most percussive, voices stand in the middle."""
    low, high, crest, side = ({name: [] for name in demo.STEMS} for _ in range(4))
    for index in range(6):
        for name, stem in demo.song(index, "train", 7, 4.0).items():
            power = np.abs(np.fft.rfft(stem.mean(0))) ** 2
            hertz = np.fft.rfftfreq(stem.shape[1], 1 / demo.RATE)
            low[name].append(power[hertz < 300].sum() / power.sum())
            high[name].append(power[(hertz > 5_000) & (hertz < 16_000)].sum() / power.sum())
            crest[name].append(np.abs(stem).max() / np.sqrt((stem**2).mean()))
            side[name].append(((stem[0] - stem[1]) ** 2).mean() / (stem**2).mean())
    low, high, crest, side = ({k: np.median(v) for k, v in table.items()} for table in (low, high, crest, side))
    assert low["bass"] > 0.8 and max(low["other"], low["vocals"]) < 0.6
    assert high["drums"] > 3 * max(high["bass"], high["other"], high["vocals"])
    assert max(crest, key=crest.get) == "drums" and side["vocals"] < side["other"]


def test_musdb_reads_it(made):
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        pytest.skip("musdb needs the ffmpeg and ffprobe programs")
    import musdb

    tracks = musdb.DB(root=str(made), is_wav=True, subsets="train").tracks
    assert [track.name for track in tracks] == ["demo-train-00", "demo-train-01"]
    assert np.array_equal(tracks[0].targets["vocals"].audio.T, demo.song(0, "train", 0, 2.5)["vocals"].astype(float))


def test_a_finished_set_is_kept_and_a_spoilt_one_refused(made, tmp_path, monkeypatch):
    out = shutil.copytree(made, tmp_path / "data")
    monkeypatch.setattr(demo, "song", lambda *_: pytest.fail("generated again"))
    demo.generate(out, **SHORT)
    for changed in ({"train": 1}, {"test": 0}, {"seconds": 3}, {"seed": 1}):
        with pytest.raises(FileExistsError, match="remove it or choose another folder"):
            demo.generate(out, **SHORT | changed)
    (out / "train/demo-train-01/bass.wav").unlink()
    with pytest.raises(FileExistsError, match="remove it"):
        demo.generate(out, **SHORT)


def test_other_content_is_refused_and_untouched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(FileExistsError, match="remove it or choose another folder"):
            demo.generate(out, **SHORT)
        assert _files(tmp_path) == {"notes.txt": b"mine"}


def test_two_processes_do_not_generate_one_folder(tmp_path):
    with FileLock(tmp_path / ".data.lock"), pytest.raises(ValueError, match="data is being generated by another"):
        demo.generate(tmp_path / "data", **SHORT)
    assert not (tmp_path / "data").exists()


def test_a_full_disk_is_told_with_the_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=f"^{tmp_path}: cannot be written to [(][^\n]+[)]$"):
            demo.generate(tmp_path / "data", **SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("exists", [True, False])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, exists):
    out, real = tmp_path / "data", demo.song
    tmp_path.joinpath(*["data"] * exists).mkdir(exist_ok=True)

    def stop_at_second(index, *rest):
        if index == 1:
            raise KeyboardInterrupt
        return real(index, *rest)

    monkeypatch.setattr(demo, "song", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        demo.generate(out, train=2, test=0, seconds=1)
    assert list(tmp_path.rglob("*")) == [out] * exists
    monkeypatch.undo()
    demo.generate(out, train=1, test=0, seconds=1)
    assert (out / "demo.json").is_file()


@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": -1}, {"seconds": 0}, {"seconds": float("nan")}, {"seed": -1}])
def test_parameters_out_of_range(tmp_path, wrong):
    told = "^demo data: train and seconds must be at least 1, test and seed at least 0$"
    with pytest.raises(ValueError, match=told):
        demo.generate(tmp_path / "data", **SHORT | wrong)
    assert not any(tmp_path.iterdir())
