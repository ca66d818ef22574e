import io
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import audio, data
from bsrnn.config import Config, TrainingConfig
from bsrnn.data import STEMS, EpochSampler, Mixes, active_segments, find_tracks

RATE = 8_000
FFMPEG = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="takes the ffmpeg program, which is not installed")


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype("float32")


def write_songs(root, *names, suffix=".wav", samples=800, **stems):
    """Songs of noise; the stems' levels, or all of them and the mixture at one level."""
    for name in names:
        (root / name).mkdir(parents=True)
        for i, (stem, level) in enumerate((stems or dict.fromkeys((*STEMS, "mixture"), 1)).items()):
            soundfile.write(root / name / f"{stem}{suffix}", level * noise(samples, 2, seed=i), RATE)


def rewrite(songs, stem, signal, numbers=range(8)):
    """Replace a stem of the training songs by what `signal` makes of their number."""
    for i in numbers:
        soundfile.write(songs / "train" / f"song {i}" / f"{stem}.wav", signal(i), RATE, subtype="FLOAT")


def silence(songs, stem, *numbers):
    rewrite(songs, stem, lambda i: np.zeros((16_000, 2)), numbers)


@pytest.fixture
def empty(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    return tmp_path


def names(root, split, *portion):
    return [track.name for track in find_tracks(root, split, *portion)]


# splits


def test_every_sixth_training_song_validates(empty):
    write_songs(empty / "train", *(f"{i:02}" for i in range(13)))
    write_songs(empty / "test", "t")
    assert names(empty, "validation") == ["00", "06", "12"]
    assert names(empty, "train") == ["01", "02", "03", "04", "05", "07", "08", "09", "10", "11"]
    assert names(empty, "test") == ["t"]


def test_a_list_of_validation_songs(empty):
    write_songs(empty / "train", "a", "b", "c", "d ä")
    (empty / "validation.txt").write_text("b\n\n d ä \n", encoding="utf-8")
    assert names(empty, "validation") == ["b", "d ä"]
    assert names(empty, "train") == ["a", "c"]
    listed = data.fingerprint(empty)
    (empty / "validation.txt").write_text("b\nthe other\n")
    assert data.fingerprint(empty) != listed
    with pytest.raises(ValueError, match=r"validation\.txt: no training song is named 'the other'"):
        names(empty, "train")


def test_musdb_validation_songs_are_known_by_name(empty):
    held_out = ["Actions - One Minute Smile", "Leaf - Summerghost", "Meaxic - Take A Step", "Triviul - Angelsaint"]
    others = ["A Classic Education - NightOwl", "Night Panther - Fire", "Unknown - Song"]
    write_songs(empty / "train", *held_out, *others)
    assert names(empty, "validation") == held_out
    assert names(empty, "train") == others


@pytest.mark.parametrize(("portion", "count"), [(1.0, 6), (0.5, 3), (0.34, 2), (0.01, 1)])
def test_portion_takes_the_first_songs(songs, portion, count):
    assert names(songs, "train", portion) == names(songs, "train")[:count]


def test_a_track_tells_its_rate_length_and_middle_and_reads_parts(songs):
    track = find_tracks(songs, "test")[1]
    assert (track.name, track.sample_rate, track.length) == ("song 1", RATE, 16_000)
    samples, _ = soundfile.read(songs / "test" / "song 1" / "bass.wav", dtype="float32")
    assert np.array_equal(track.read("bass", 100, 50), samples.T[:, 100:150])
    stems = track.stems(("vocals", "bass"))
    assert stems.shape == (2, 2, 16_000)
    assert torch.equal(stems[1], track.read("bass"))
    for seconds, first, frames in ((0.0, 0, 16_000), (0.5, 6_000, 4_000), (100.0, 0, 16_000)):
        assert track.middle(seconds) == (first, frames)


def test_an_excerpt_without_a_source_is_found_before(songs):
    for i in range(2):
        samples, _ = soundfile.read(songs / "test" / f"song {i}" / "bass.wav")
        samples[4_000:12_000] = 0
        soundfile.write(songs / "test" / f"song {i}" / "bass.wav", samples, RATE, subtype="FLOAT")
    tracks = find_tracks(songs, "test")
    problems = []
    data.check_heard(tracks, ("bass",), 1.1, problems)
    data.check_heard(tracks, ("drums",), 1.0, problems)
    assert not problems
    data.check_heard(tracks, ("bass",), 1.0, problems)
    assert problems == ["bass is silent in all that validates: nothing to score"]


# what cannot be used


@contextmanager
def refused(message, error=ValueError):
    """Something is, in one line with this message."""
    with pytest.raises(error, match=message) as caught:
        yield caught
    assert "\n" not in str(caught.value)


def test_missing_folders(tmp_path):
    for lookup in (data.find_data, lambda root: find_tracks(root, "train")):
        with refused("nowhere: no such folder", FileNotFoundError):
            lookup(tmp_path / "nowhere")
    with refused("no train and no test", FileNotFoundError):
        find_tracks(tmp_path, "train")
    (tmp_path / "train").mkdir()
    with refused("has no test folder", FileNotFoundError):
        find_tracks(tmp_path, "train")


def test_no_songs_or_unknown_split(empty):
    for split in ("train", "validation", "test"):
        with pytest.raises(ValueError, match=f"no songs for {split}"):
            find_tracks(empty, split)
    with pytest.raises(ValueError, match="unknown split 'valid': choose from train, validation, test"):
        find_tracks(empty, "valid")
    write_songs(empty / "train", "only one")  # it validates: nothing is left to train on
    with pytest.raises(ValueError, match="no songs for train"):
        find_tracks(empty, "train")


def test_a_song_that_is_there_twice(empty):
    write_songs(empty / "test", "song")
    (empty / "test" / "song.stem.mp4").touch()
    with refused("song: is a song as a folder and as a .stem.mp4 file: remove one"):
        find_tracks(empty, "test")


DAMAGE = {
    "has no stems": lambda folder: [(folder / f"{stem}.wav").unlink() for stem in STEMS],
    "drums.wav: cannot be read as audio": lambda folder: (folder / "drums.wav").write_text("not audio" * 20),
    "vocals.wav: holds no samples": lambda folder: soundfile.write(folder / "vocals.wav", np.zeros((0, 2)), RATE),
    "differ in length": lambda folder: soundfile.write(folder / "other.wav", noise(799, 2), RATE),
    "differ in sample rate": lambda folder: soundfile.write(folder / "other.wav", noise(800, 2), 44_100),
    "differ in channels": lambda folder: soundfile.write(folder / "other.wav", noise(800, 1), RATE),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_song_that_cannot_be_used_is_named(empty, message):
    write_songs(empty / "test", "good", "damaged")
    DAMAGE[message](empty / "test" / "damaged")
    with refused(message) as error:
        find_tracks(empty, "test")
    assert str(empty / "test" / "damaged") in str(error.value)


def test_several_problems_are_a_line_each(empty):
    for i, damage in enumerate(DAMAGE.values()):
        write_songs(empty / "test", f"song {i}")
        damage(empty / "test" / f"song {i}")
    write_songs(empty / "test", "song 9")
    with pytest.raises(ValueError) as error:
        find_tracks(empty, "test")
    lines = str(error.value).splitlines()
    for i, (message, line) in enumerate(zip(DAMAGE, lines, strict=True)):
        assert f"song {i}" in line and message in line


def test_the_fingerprint_is_that_of_names_and_sizes(empty):
    write_songs(empty / "train", "a")
    (empty / "validation.txt").write_text("a")
    assert data.fingerprint(empty) == "1b5aa06b8b9f"  # records of trained models say it
    seen = [data.fingerprint(empty)]
    soundfile.write(empty / "train" / "a" / "bass.wav", noise(801, 2), RATE)
    seen.append(data.fingerprint(empty))
    (empty / "train" / "a").rename(empty / "train" / "b")
    seen.append(data.fingerprint(empty))
    (empty / "train" / "b" / "bass.wav").unlink()
    seen.append(data.fingerprint(empty))
    write_songs(empty.parent, "linked")
    (empty / "train" / "c").symlink_to(empty.parent / "linked")
    seen.append(data.fingerprint(empty))
    (empty / "train" / "c").unlink()
    seen.append(data.fingerprint(empty))
    assert len(set(seen)) == 5
    (empty / "elsewhere").mkdir()
    for part in ("train", "validation.txt"):
        (empty / part).rename(empty / "elsewhere" / part)
    assert data.fingerprint(empty / "elsewhere") == seen[-1]


# source activity detection


def plain_segments(stem, rate):
    """The definition, in loops."""
    size = min(6 * rate, stem.shape[1])
    part = size // 10
    starts, start = [], 0
    while start + size <= stem.shape[1]:
        starts.append(start)
        start += size // 2
    levels = {}
    for start in starts:
        for i in range(10):
            chunk = stem[:, start + i * part : start + (i + 1) * part].astype(float)
            levels[start, i] = max(np.sqrt((chunk**2).sum() / chunk.size), 1e-5)
    threshold = max(np.quantile(list(levels.values()), 0.15), 1e-3)
    return [(start, start + size) for start in starts if sum(levels[start, i] > threshold for i in range(10)) > 5]


def test_active_segments_equal_the_plain_definition():
    partly = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        rate, seconds = int(draw.integers(20, 60)), int(draw.integers(3, 80))
        levels = np.repeat(10.0 ** draw.uniform(-5, 0, seconds), rate)  # another level every second
        stem = (draw.normal(size=(2, seconds * rate)) * levels).astype("float32")
        expected = plain_segments(stem, rate)
        assert active_segments(torch.from_numpy(stem), rate) == expected
        partly += 0 < len(expected) < seconds // 3 - 1
    assert partly > 5


def test_a_silent_stem_has_no_active_segment_and_one_shorter_than_a_segment_is_one():
    assert active_segments(torch.zeros(2, 30 * 100), 100) == []
    assert active_segments(torch.full((2, 30 * 100), 5e-4), 100) == []  # below -60 dB
    assert active_segments(torch.from_numpy(noise(1, 250)), 100) == [(0, 250)]
    assert active_segments(torch.from_numpy(noise(1, 7)), 100) == [(0, 7)]
    assert active_segments(torch.zeros(1, 250), 100) == []


# random mixes


def mixes(songs, sources=STEMS, **settings):
    model = {"sample_rate": RATE, "chunk": 0.2, "tac": False}
    model |= {name: settings.pop(name) for name in model.keys() & settings.keys()}
    seed = settings.pop("seed", 0)
    return Mixes(find_tracks(songs, "train"), Config(sources, **model), TrainingConfig(**settings), seed=seed)


def as_mixed(samples, source, index):
    """A source as it goes into a sample, before the division by the peak."""
    return samples._stem(source, *samples._choices(index)[source])


def test_channels_kept_together_are_those_of_the_sample(songs):
    alone, together = (mixes(songs, tac=together, drop=0.3, peak_division=False) for together in (False, True))
    for index in range(10):
        (mono, targets), (stereo, pairs) = alone[index], together[index]
        assert stereo.shape == (2, 1_600) and pairs.shape == (4, 2, 1_600)
        assert torch.allclose(stereo, pairs.sum(0), atol=1e-6) and torch.allclose(mono, targets.sum(0), atol=1e-6)
        for target, pair in zip(targets, pairs, strict=True):  # each source has had one of its channels
            assert any(torch.equal(target[0], channel) for channel in pair)
    for file in (songs / "train" / "song 2").iterdir():
        soundfile.write(file, soundfile.read(file)[0][:, 0], RATE)
    with pytest.raises(ValueError, match="has another number of channels than"):
        mixes(songs, tac=True)


def test_a_sample_is_a_function_of_seed_and_index(songs):
    first, again, other = mixes(songs, seed=3), mixes(songs, seed=3), mixes(songs, seed=4)
    mixture, targets = first[5]
    first[6]
    for repeated in (first[5], again[5]):
        assert torch.equal(repeated[0], mixture) and torch.equal(repeated[1], targets)
    assert not torch.equal(other[5][0], mixture)
    drawn = [first[i][0] for i in range(20)]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_the_mixture_is_the_sum_of_the_stems_and_never_clips(songs):
    samples = mixes(songs)
    for i in range(50):
        mixture, targets = samples[i]
        assert (mixture.shape, targets.shape) == ((1, 1_600), (4, 1, 1_600))
        torch.testing.assert_close(targets.sum(0), mixture, rtol=1e-5, atol=1e-6)
        if mixture.any():
            assert float(torch.cat([mixture[None], targets]).abs().max()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5])
def test_a_stem_is_dropped_as_often_as_said(songs, drop):
    samples = mixes(songs, chunk=0.01, drop=drop)
    sounding = torch.stack([samples[i][1].abs().amax((1, 2)) > 0 for i in range(300)])[:, 1:]  # drums have pauses
    assert float(sounding.float().mean()) == pytest.approx(1 - drop, abs=0.04)


@pytest.mark.parametrize("gain_db", [0.0, 10.0])
def test_gains_are_uniform_in_decibels(songs, gain_db):
    samples = mixes(songs, gain_db=gain_db, drop=0.0)
    rms = [as_mixed(samples, "bass", i).square().mean().sqrt() for i in range(300)]
    decibels = 20 * np.log10(np.array(rms) / 0.05)
    assert np.quantile(decibels, [0, 0.25, 0.5, 0.75, 1]) == pytest.approx(np.linspace(-gain_db, gain_db, 5), abs=1.2)


def test_a_mixture_joins_songs_and_channels(songs):
    ramp = 1 + 1e-3 * np.linspace(0, 1, 16_000)[:, None]
    for stem in STEMS:  # every song and channel is a constant of its own
        rewrite(songs, stem, lambda i: np.tile([i + 1, -(i + 1)], (16_000, 1)) / 10 * ramp)
    samples = mixes(songs, gain_db=0.0, drop=0.0)
    drawn = [[round(10 * float(as_mixed(samples, source, i).mean())) for source in STEMS] for i in range(60)]
    values = {value for stems in drawn for value in stems}
    assert values == {sign * (i + 1) for i in (1, 2, 3, 4, 5, 7) for sign in (1, -1)}  # songs 0 and 6 validate
    assert sum(len({abs(value) for value in stems}) > 1 for stems in drawn) > 40


def test_the_order_of_sources_is_that_of_the_targets(songs):
    forward, backward = mixes(songs, ("bass", "vocals")), mixes(songs, ("vocals", "bass"))
    for i in range(5):
        assert torch.equal(forward[i][0], backward[i][0])
        assert torch.equal(forward[i][1], backward[i][1].flip(0))


@pytest.mark.parametrize("source", STEMS)
def test_a_sample_is_the_same_whatever_else_is_learned(songs, source):
    # heads trained in one run see what each would see alone
    alone, together = mixes(songs, (source,)), mixes(songs)
    for i in range(40):
        assert torch.equal(alone[i][0], together[i][0])
        assert torch.equal(alone[i][1][0], together[i][1][STEMS.index(source)])


def test_the_draws_do_not_depend_on_a_silent_stem(songs):
    before = mixes(songs, ("bass",))
    silence(songs, "vocals", *range(8))
    after = mixes(songs, ("bass",))
    for i in range(10):
        (_, one), (_, two) = before[i], after[i]
        torch.testing.assert_close(one / one.abs().max().clamp_min(1e-8), two / two.abs().max().clamp_min(1e-8))


def test_unknown_or_silent_sources(songs):
    with pytest.raises(ValueError, match="unknown source 'guitar': choose from drums"):
        mixes(songs, ("drums", "guitar"))
    silence(songs, "bass", *range(8))
    with pytest.raises(ValueError, match="bass is silent in all 6 songs"):
        mixes(songs, ("drums", "bass"))
    assert not mixes(songs, ("drums",)).segments["bass"]


def test_silent_songs_are_never_drawn(songs):
    silence(songs, "bass", 1, 2, 3, 4, 5)  # 0 and 6 validate: song 7 is left
    samples = mixes(songs, ("bass",), drop=0.0)
    assert all(samples[i][1].any() for i in range(20))


@pytest.mark.parametrize("sample_rate", [4_000, 11_025, 16_000])
def test_samples_have_the_rate_of_the_model(songs, sample_rate):
    time = np.arange(16_000) / RATE
    tone = 0.1 * np.sin(2 * np.pi * 500 * time) * (1 + 0.1 * time)
    rewrite(songs, "bass", lambda i: np.stack([tone, tone], 1))
    samples = mixes(songs, ("bass",), sample_rate=sample_rate, chunk=0.3)
    drawn = next(targets for _, targets in (samples[i] for i in range(10)) if targets.any())
    length = round(0.3 * sample_rate)
    assert drawn.shape == (1, 1, length)
    assert int(torch.fft.rfft(drawn[0, 0]).abs().argmax()) == pytest.approx(500 * 0.3, abs=1)


def test_a_chunk_longer_than_the_segment_ends_in_silence(songs):
    mixture, targets = mixes(songs, chunk=3.0)[0]
    assert (mixture.shape, targets.shape) == ((1, 24_000), (4, 1, 24_000))
    assert mixture[:, :16_000].any() and not mixture[:, 16_000:].any()


# epochs


def test_an_epoch_is_as_many_chunks_as_the_songs_hold(songs):
    assert len(mixes(songs, chunk=0.5)) == 6 * 4
    assert len(mixes(songs, chunk=5.0)) == 6  # at least one of every song


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_epochs_never_share_an_index_and_processes_share_the_batches_of_one(processes):
    indices, one = [], EpochSampler(25, 4 * processes)
    samplers = [EpochSampler(25, 4, rank, processes) for rank in range(processes)]
    for epoch in range(4):
        for sampler in (one, *samplers):
            sampler.set_epoch(epoch)
        *parts, whole = (np.reshape(list(sampler), (one.batches, -1)) for sampler in (*samplers, one))
        assert np.array_equal(np.hstack(parts), whole)
        for sampler in samplers:
            assert len(list(sampler)) == len(sampler) == 25 // (4 * processes) * 4
            indices += sampler
    assert sorted(indices) == list(range(len(indices)))


def test_an_epoch_has_at_least_one_batch():
    assert list(EpochSampler(3, 5)) == [0, 1, 2, 3, 4]


# other layouts


def test_a_folder_of_songs_without_splits(tmp_path):
    write_songs(tmp_path, *(f"song {i}" for i in range(7)), drums=1, vocals=0.5)
    assert names(tmp_path, "validation") == ["song 0", "song 6"]
    assert names(tmp_path, "train") == [f"song {i}" for i in range(1, 6)]
    with pytest.raises(FileNotFoundError, match="no songs for test"):
        find_tracks(tmp_path, "test")
    (track, *_) = find_tracks(tmp_path, "train")
    assert track.sources == STEMS
    assert torch.equal(track.read("bass"), torch.zeros(2, 800))
    assert torch.equal(track.read("mixture"), track.read("drums") + track.read("vocals"))


@pytest.fixture
def frames_read(monkeypatch):
    """How many frames every reading of a file asked for."""
    asked, original = [], soundfile.SoundFile.read

    def read(*args, **options):
        samples = original(*args, **options)
        asked.extend([len(samples)] * (len(samples) > 0))
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    return asked


def test_a_sample_reads_no_more_than_its_crops(songs, frames_read):
    samples = mixes(songs, chunk=0.2, drop=0.0)
    assert frames_read == [16_000] * 6 * 5  # to find problems: every file, once
    frames_read.clear()
    samples[0]
    assert frames_read == [1_600] * 4


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_formats_are_read_at_random(tmp_path, suffix, frames_read):
    write_songs(tmp_path, "a", "b", suffix=suffix, samples=30_000, drums=1, bass=1)
    (track,) = find_tracks(tmp_path, "train")
    whole = track.read("drums")
    frames_read.clear()
    for start, frames in ((0, 100), (12_345, 3_000), (track.length - 7, 7)):
        part = track.read("drums", start, frames)
        torch.testing.assert_close(part, whole[:, start : start + frames], rtol=0, atol=1e-6)
    if suffix != ".mp3":  # which libsndfile does not read
        lead = audio.Recording.open(tmp_path / "a" / f"drums{suffix}").lead
        assert all(asked <= lead + frames for asked, frames in zip(frames_read, (100, 3_000, 7), strict=True))


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_a_file_that_is_cut_off_later_is_named(tmp_path, suffix):
    write_songs(tmp_path, "a", "b", suffix=suffix, samples=40_000, drums=1)
    file = tmp_path / "b" / f"drums{suffix}"
    (track,) = find_tracks(tmp_path, "train")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    with refused(rf"^{file}: is (damaged or )?cut off (after|before) .*$"):
        track.read("drums", 35_000, 1_000)


@FFMPEG
def test_a_stem_is_no_stricter_than_a_song(tmp_path):
    write_songs(tmp_path, "a", drums=1)
    write_songs(tmp_path, "b", samples=30_000, drums=1)
    flac, mp3, wav = (tmp_path / "b" / name for name in ("bass.flac", "other.mp3", "drums.wav"))
    with flac.open("wb") as file:
        subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-f", "flac", "-"], stdout=file, check=True)
    (track,) = find_tracks(tmp_path, "train")  # of unknown length
    assert torch.equal(track.read("bass", 20_001, 500), track.read("drums", 20_001, 500))
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, "-write_xing", "0", mp3], check=True)
    with pytest.raises(ValueError, match=r"differ in length: bass 30000, drums 30000, other 3\d{4}$"):
        find_tracks(tmp_path, "train")  # it tells no length, and has what its encoder added
    flac.unlink()
    wav.unlink()
    (track,) = find_tracks(tmp_path, "train")
    assert track.read("other").std() == pytest.approx(0.1, rel=0.2)


def test_a_file_that_is_damaged_says_nothing_of_silence(tmp_path):
    write_songs(tmp_path, *"abc", drums=1)
    for name in "abc":
        soundfile.write(tmp_path / name / "drums.wav", np.full((800, 2), np.nan), RATE, subtype="FLOAT")
    problems = []
    data.check_heard(find_tracks(tmp_path, "train"), ("drums",), 0.0, problems)
    with pytest.raises(ValueError) as error:
        mixes(tmp_path, ("drums",))
    assert problems and all("not finite" in line for line in [*problems, *str(error.value).splitlines()])


def test_a_constant_stem_is_not_silent(tmp_path):
    write_songs(tmp_path, "a", "b", drums=1)
    for name in "ab":
        soundfile.write(tmp_path / name / "drums.wav", np.full((800, 2), 0.1), RATE, subtype="FLOAT")
    assert mixes(tmp_path, ("drums",), chunk=0.05, drop=0.0)[0][1].all()


def test_hidden_files_are_not_there(tmp_path):
    for split in ("Train", "TEST"):
        write_songs(tmp_path / split, "a", "b", drums=1)
    before = data.fingerprint(tmp_path)
    hidden = ("._drums.wav", ".hidden/drums.wav", "__MACOSX/drums.wav", "Train/._b.stem.mp4", "Train/__MACOSX/x.wav")
    for name in (*hidden, "Train/a/._drums.wav", "Train/.c/drums.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    for name, target in (("nowhere.wav", "missing"), ("circle.wav", "circle.wav"), ("circle", "circle")):
        (tmp_path / "Train" / "a" / name).symlink_to(tmp_path / "Train" / "a" / target)
        (tmp_path / "Train" / name).symlink_to(tmp_path / "Train" / target)
    assert (names(tmp_path, "train"), names(tmp_path, "test")) == (["b"], ["a", "b"])
    assert data.fingerprint(tmp_path) == before


@pytest.mark.parametrize("name", ["b/bass.wav", "a.stem.mp4"])
@pytest.mark.parametrize("circle", [True, False])
def test_a_link_that_leads_nowhere_is_named(tmp_path, name, circle):
    write_songs(tmp_path, "b", drums=1)
    (tmp_path / name).symlink_to(tmp_path / (name if circle else "missing.wav"))
    with pytest.raises(ValueError, match=rf"{name}: (no such file|cannot be read \(Too many levels.*\))$"):
        find_tracks(tmp_path, "validation")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_a_name_that_is_not_utf8_is_told(tmp_path):
    write_songs(tmp_path, "a", drums=1)
    os.rename(tmp_path / "a", os.fsencode(tmp_path) + b"/caf\xe9")
    assert len(data.fingerprint(tmp_path)) == 12
    with pytest.raises(ValueError, match=r"caf\\udce9/drums\.wav': its name is not UTF-8: rename it$"):
        find_tracks(tmp_path, "validation")


@pytest.mark.parametrize("other", ["drums.flac", "Drums.wav"])
def test_two_files_for_a_stem_are_named(tmp_path, other):
    write_songs(tmp_path, "a", drums=1)
    soundfile.write(tmp_path / "a" / other, noise(800, 2), RATE)
    with pytest.raises(ValueError, match=r"a: which is drums, .* or .*\? Remove one$"):
        find_tracks(tmp_path, "validation")


@pytest.mark.parametrize("file", ["stems.yaml", "validation.txt"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1", "utf-16"])
def test_encodings_of_text(tmp_path, file, encoding):
    write_songs(tmp_path, "a", "bä", kück=1, drums=1)
    text = {"stems.yaml": "drums: [kück]\n", "validation.txt": "bä\na\n"}[file]
    (tmp_path / file).write_bytes(text.encode(encoding))
    if encoding == "utf-8-sig":
        assert find_tracks(tmp_path, "validation")[0].read("drums").any()
    else:
        with refused(f"{file}: is not in UTF-8"):
            find_tracks(tmp_path, "validation")


def test_names_in_capitals_are_known(tmp_path):
    write_songs(tmp_path, "a", "b", Drums=1, BASS=0.5, Mixture=2)
    (track,) = find_tracks(tmp_path, "train")
    assert [name for name in (*STEMS, "mixture") if track.read(name).any()] == ["drums", "bass", "mixture"]
    assert not torch.equal(track.read("mixture"), track.read("drums") + track.read("bass"))


def test_a_mapping_joins_stems(tmp_path_factory, tmp_path):
    for name, hats in (("a", {"Hats": 1}), ("b", {})):  # linked from elsewhere
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        write_songs(elsewhere, name, kick=1, snare=0.5, lead=0.3, unused=1, **hats)
        (tmp_path / name).symlink_to(elsewhere / name)
    (tmp_path / "stems.yaml").write_text("drums: [Kick, snare, hats]\nmelody: [lead]\n")
    (track,) = find_tracks(tmp_path, "train")
    assert track.sources == ("drums", "melody")
    files = (tmp_path / "b" / f"{name}.wav" for name in ("kick", "snare", "lead"))
    parts = [torch.from_numpy(soundfile.read(file, dtype="float32")[0].T) for file in files]
    assert torch.equal(track.read("drums"), parts[0] + parts[1])
    torch.testing.assert_close(track.read("mixture"), sum(parts))
    samples = mixes(tmp_path, ("melody",), drop=0.0, chunk=0.05)
    assert samples[0][1].any()
    with pytest.raises(ValueError, match="unknown source 'bass': choose from drums, melody"):
        mixes(tmp_path, ("bass",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, "should map each")
            for text in ("drums", "drums: kick", "", "drums: [[kick]]", "drums: {kick: [kick]}")
        ),
        ("{", "is not YAML"),
        ("[" * 30_000, "is not YAML"),
        ("drums: [kick]\nbass: [Kick]", "kick belongs to one source only"),
        ("drums: [kick]\nbass: [snare]\ndrums: [snare]", "names a source twice"),
        ("mixture: [kick]", "mixture is no source"),
        ("drums: [kik, snare]", "no song has kik, snare; stems that are there and not named: kick"),
    ],
)
def test_a_mapping_that_is_none(tmp_path, text, message):
    write_songs(tmp_path, "a", kick=1)
    (tmp_path / "stems.yaml").write_text(text)
    with refused(message):
        find_tracks(tmp_path, "train")


def test_a_stem_file_of_musdb18(empty):
    stempeg = pytest.importorskip("stempeg", reason="stempeg needs the ffmpeg program", exc_type=RuntimeError)
    shutil.copy(stempeg.example_stem_path(), empty / "test" / "a song.stem.mp4")
    (track,) = find_tracks(empty, "test")
    mixture, stems, rate = data.bundled_song()
    assert (track.name, track.sample_rate, track.length) == ("a song", rate, mixture.shape[1])
    for source in STEMS:
        for start in (0, 700, 100_000, track.length - 5_000):
            part = track.read(source, start, 5_000)
            assert torch.equal(part, stems[source][:, start : start + 5_000])


def soundfile_bytes():
    file = io.BytesIO()
    soundfile.write(file, noise(800, 2), RATE, format="WAV")
    return file.getvalue()


def scratched(content):
    half = len(content) // 2
    return content[:half] + bytes(range(250)) * 40 + content[half + 10_000 :]


def film(_):
    return mp4("color=c=red:s=16x16:d=1")


def bass_of_one_channel(_):
    return mp4("sine=d=1", *["-map", "0"] * 5, "-ac", "2", "-ac:a:2", "1")


def mp4(picture_or_sound, *options):
    form = ["-f", "mp4", "-movflags", "frag_keyframe+empty_moov", "-"]
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture_or_sound, *options, *form]
    return subprocess.run(command, check=True, capture_output=True).stdout


@FFMPEG
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "is empty"),
        (film, "holds no audio"),
        (lambda content: soundfile_bytes(), "has 1 streams"),
        (lambda content: content[: len(content) // 2], "is damaged or cut off|cannot be read as audio"),
        (scratched, "is damaged or cut off after"),
        (bass_of_one_channel, "differ in channels: mixture 2, drums 2, bass 1, other 2, vocals 2$"),
    ],
)
def test_a_stem_file_that_cannot_be_used(tmp_path, damage, message):
    import stempeg

    write_songs(tmp_path, "b", drums=1)
    (tmp_path / "a.stem.mp4").write_bytes(damage(Path(stempeg.example_stem_path()).read_bytes()))
    with refused(rf"a\.stem\.mp4: .*({message})"):
        find_tracks(tmp_path, "validation")


def test_a_mapping_applies_to_stem_files_too(tmp_path):
    stempeg = pytest.importorskip("stempeg", reason="stempeg needs the ffmpeg program", exc_type=RuntimeError)
    write_songs(tmp_path, "a", kick=1, vocals=1)
    shutil.copy(stempeg.example_stem_path(), tmp_path / "b.stem.mp4")
    (tmp_path / "stems.yaml").write_text("drums: [kick, drums]\nbacking: [bass, other]\nvocals: [vocals]\n")
    (track,) = find_tracks(tmp_path, "train")
    _, stems, _ = data.bundled_song()
    assert track.sources == ("drums", "backing", "vocals")
    for source, parts in (("drums", stems["drums"]), ("backing", stems["bass"] + stems["other"])):
        torch.testing.assert_close(track.read(source, 100_000, 5_000), parts[:, 100_000:105_000], rtol=0, atol=1e-3)


def test_all_problems_are_found_before_training(songs):
    rewrite(songs, "bass", lambda i: np.full((16_000, 2), np.nan), [2])
    rewrite(songs, "mixture", lambda i: np.full((16_000, 2), np.inf), [3])
    silence(songs, "vocals", *range(8))
    files = r".*song 2.bass\.wav: .*not finite.*\n.*song 3.mixture\.wav: .*not finite.*"
    with pytest.raises(ValueError, match=f"^{files}\nvocals is silent in all 6 .*$"):
        mixes(songs)


def test_aligned_mixes_are_one_place_of_one_song_in_its_balance(songs):
    for loudness, source in enumerate(STEMS):  # a ramp tells the place, its offset the song
        rewrite(songs, source, lambda i, gain=2**loudness: (np.linspace(0, 0.1, 16_000)[:, None] + [i, i + 0.5]) * gain)
    samples = mixes(songs, aligned=1.0, salient=False, gain_db=10.0, drop=0.5, equal_levels=True)
    places = set()
    for index in range(20):
        stems = [as_mixed(samples, source, index) for source in STEMS]
        assert all(torch.equal(stem, stems[0] * 2**loudness) for loudness, stem in enumerate(stems))
        places.add(float(stems[0][0, 0]))
        assert len(samples.songs(index)) == 1
    assert len(places) == 20


def test_stems_can_be_those_of_songs_in_which_a_target_sounds(songs):
    silence(songs, "vocals", 3, 4, 5, 7)
    silence(songs, "bass", 1, 2)
    settings = {"target_songs": True, "drop": 0.0}

    def origins(samples):
        choices = [samples._choices(index) for index in range(60)]
        return {source: {choice[source][0][0].name for choice in choices} for source in STEMS}

    found = origins(mixes(songs, ("vocals",), **settings))
    assert found["vocals"] == found["drums"] == found["other"] == {"song 1", "song 2"}
    assert found["bass"] == {"song 3", "song 4", "song 5", "song 7"}  # singers have no bass: it comes from any
    everyone = {f"song {i}" for i in (1, 2, 3, 4, 5, 7)}
    assert origins(mixes(songs, ("vocals", "drums"), **settings))["drums"] == everyone  # a target at a time
    with_it, without = (mixes(songs, ("drums",), **settings | {"target_songs": on}) for on in (True, False))
    assert all(torch.equal(with_it[index][0], without[index][0]) for index in range(10))  # all songs have drums


def test_some_samples_are_aligned_at_a_place_where_some_source_sounds(songs):
    quarter, rest = (4_000, 2), np.zeros((12_000, 2))
    rewrite(songs, "bass", lambda i: np.concatenate([rest, noise(*quarter, seed=i)]))
    rewrite(songs, "drums", lambda i: np.concatenate([noise(*quarter, seed=i), rest]))
    settings = {"segment": 0.5, "chunk": 0.2, "drop": 0.0}
    every, none, some = (mixes(songs, ("bass",), aligned=share, **settings) for share in (1.0, 0.0, 0.3))
    for index in range(20):
        assert len(every.songs(index)) == 1
        # the others are what they would be without
        assert torch.equal(some[index][0], (every if len(some.songs(index)) == 1 else none)[index][0])
    assert 60 < sum(len(some.songs(index)) == 1 for index in range(300)) < 130
    assert {as_mixed(every, "bass", index).any().item() for index in range(20)} == {True, False}
    bass = mixes(songs, ("bass",), aligned=1.0, target_songs=True, **settings)
    assert all(as_mixed(bass, "bass", i).any() and not as_mixed(bass, "drums", i).any() for i in range(20))
    two = mixes(songs, ("bass", "drums"), aligned=1.0, target_songs=True, **settings)
    assert {as_mixed(two, "bass", index).any().item() for index in range(20)} == {True, False}


@pytest.mark.parametrize("targets", [("drums",), ("vocals", "bass"), STEMS])
def test_samples_do_not_depend_on_what_is_learned(songs, targets):
    silence(songs, "vocals", 3, 4)
    settings = {"aligned": 0.5, "equal_levels": True, "gain_db": 6.0}
    ours, theirs = mixes(songs, targets, **settings), mixes(songs, ("other",), **settings)
    for index in range(20):
        assert torch.equal(ours[index][0], theirs[index][0])
        assert torch.equal(as_mixed(ours, "bass", index), as_mixed(theirs, "bass", index))


def test_equal_levels_are_those_of_where_a_stem_sounds(songs):
    heard = (np.arange(16_000) < 8_000)[:, None]
    for loudness, source in enumerate(STEMS, 1):
        rewrite(songs, source, lambda i, loudness=loudness: heard * noise(16_000, 2, seed=i) * 0.1 * loudness * (1 + i))
    samples = mixes(songs, segment=0.5, chunk=0.2, gain_db=0.0, drop=0.0, equal_levels=True)
    levels = {float(as_mixed(samples, source, index).square().mean().sqrt()) for index in range(20) for source in STEMS}
    np.testing.assert_allclose(list(levels), 0.05, rtol=0.2)
    silence(songs, "bass", 0)  # has no level to bring it to
    mixes(songs, segment=0.5, equal_levels=True, salient=False)


@pytest.mark.parametrize("mixing", ["random", "aligned"])
def test_pitch_moves_what_is_heard_within_its_limits(songs, mixing):
    tone = np.sin(2 * np.pi * 500 / RATE * np.arange(16_000))[:, None] * [0.1, 0.1]
    for source in STEMS:
        rewrite(songs, source, lambda i: tone)
    settings = {"pitch": 3.0, "drop": 0.0, "aligned": float(mixing == "aligned"), "chunk": 0.5, "salient": False}
    samples = mixes(songs, **settings)
    shifts = []
    for index in range(30):
        found = [as_mixed(samples, source, index) for source in STEMS]
        assert {stem.shape for stem in found} == {(1, RATE // 2)}
        spectra = np.abs(np.fft.rfft(torch.cat(found).numpy() * np.hanning(RATE // 2), 2**16))
        shifts.append(12 * np.log2(spectra.argmax(1) * RATE / 2**16 / 500))
    shifts = np.array(shifts)
    assert -3.05 < shifts.min() < -2 and 2 < shifts.max() < 3.05
    assert (np.ptp(shifts, axis=1) < 0.05).all() == (mixing == "aligned")
    assert torch.equal(samples[3][0], mixes(songs, **settings)[3][0])


def test_songs_of_a_sample(songs):
    samples = mixes(songs)
    assert any(len(samples.songs(index)) > 2 for index in range(5))
    assert all(name in names(songs, "train") for index in range(20) for name in samples.songs(index))


def test_without_activity_detection_every_segment_is_taken(songs):
    rewrite(songs, "bass", lambda i: noise(16_000, 2) * (np.arange(16_000) >= 12_000)[:, None])
    every = mixes(songs, ("bass",), segment=0.5, salient=False).segments["bass"]
    active = mixes(songs, ("bass",), segment=0.5).segments["bass"]
    assert [start for _, start, _ in every] == list(range(0, 12_001, 2_000)) * 6
    assert [start for _, start, _ in active] == [12_000] * 6


def test_without_peak_division_levels_stay(songs):
    divided, plain = mixes(songs, drop=0.0), mixes(songs, drop=0.0, peak_division=False)
    for index in range(5):
        peak = max(float(part.abs().max()) for part in (plain[index][0], *plain[index][1]))
        torch.testing.assert_close(divided[index][1], plain[index][1] / peak)
        assert peak != pytest.approx(1)
