import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import audio, checkpoint, demo
from bsrnn import separate as module
from bsrnn.data import find_tracks
from bsrnn.metrics import usdr
from bsrnn.separate import LONGEST, OVERLAP, Separator, _long_chunks, estimate, find_songs, overlap_add, separate
from bsrnn.spectral import istft, stft

TRAINED = Path(__file__).parents[1] / "results/demo/checkpoints/multitask-generic-drums+bass+other+vocals-0"


def noise(channels, length, seed=0):
    return torch.randn(channels, length, generator=torch.Generator().manual_seed(seed)) * 0.1


def cut(song, seed):
    """A song in blocks of random lengths."""
    draw, start = np.random.default_rng(seed), 0
    while start < song.shape[-1]:
        size = int(draw.integers(1, 2 + song.shape[-1] // 3))
        yield song[:, start : start + size]
        start += size


def joined(process, song, size, hop, **options):
    return torch.cat(list(overlap_add(process, song, size, hop, **options)), -1)


@pytest.mark.parametrize("length", [1, 7, 99, 100, 101, 1000, 1234])
@pytest.mark.parametrize(("size", "hop"), [(100, 100), (100, 50), (100, 25), (100, 33), (99, 98), (1, 1)])
def test_overlap_add_reconstructs(length, size, hop):
    song = noise(2, length)
    shapes = set()

    def twice(chunks):
        shapes.add(chunks.shape[1:])
        return torch.stack([chunks, 2 * chunks], 1)

    stems = joined(twice, cut(song, length), size, hop, batch=3)
    assert shapes == {(2, size)}
    torch.testing.assert_close(stems, torch.stack([song, 2 * song]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_overlap_add_equals_its_definition(seed):
    draw = np.random.default_rng(seed)
    size = int(draw.integers(1, 50))
    hop, length, batch = int(draw.integers(1, size + 1)), int(draw.integers(1, 300)), int(draw.integers(1, 9))
    song, scale = noise(2, length, seed), torch.from_numpy(draw.normal(size=size)).float()

    expected, weight = torch.zeros(2, length), torch.zeros(length)
    for first in range(hop - size, length, hop):  # every chunk that holds a sample of the song, and as many at its ends
        for i in range(size):
            if 0 <= first + i < length:
                expected[:, first + i] += song[:, first + i] * scale[i] * min(i + 1, size - i)
                weight[first + i] += min(i + 1, size - i)
    result = joined(lambda chunks: (chunks * scale)[:, None], cut(song, seed), size, hop, batch=batch)
    torch.testing.assert_close(result[0], expected / weight, rtol=1e-4, atol=1e-5)


def test_every_sample_lies_in_as_many_chunks():
    seen = []
    joined(lambda chunks: seen.append((chunks != 0).sum()) or chunks[:, None], [torch.ones(1, 1000)], 100, 25)
    assert sum(seen) == 4 * 1000


@pytest.mark.parametrize("length", [1, 100, 2_000, 50_000])
@pytest.mark.parametrize("channels", [1, 2, 8])
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_identity_model_returns_the_song(identity, length, channels, sample_rate):
    song = noise(channels, length) * 3
    stems = separate(identity(("bass", "drums"), sample_rate=sample_rate, n_fft=512, chunk=0.5), song, sample_rate)
    assert list(stems) == ["bass", "drums"]
    for stem in stems.values():
        torch.testing.assert_close(stem, song, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 44_101, 48_000, 192_000])
def test_other_sample_rates_come_back(identity, rate):
    song = torch.sin(2 * torch.pi * 440 * torch.arange(rate) / rate)[None]
    stem = separate(identity(("bass",), sample_rate=16_000, n_fft=512, chunk=0.5), song, rate)["bass"]
    assert stem.shape == song.shape
    inner = slice(rate // 20, -rate // 20)
    assert float((stem - song)[:, inner].abs().max()) < 0.001


@pytest.mark.parametrize("fader", [False, True])
def test_songs_of_which_no_sample_is_left_at_the_rate_of_the_model(tiny, fader):
    stem = separate(tiny(("bass",), sample_rate=2_000, fader=fader), noise(2, 1), 96_000)["bass"]
    assert torch.equal(stem, torch.zeros(2, 1))


@pytest.mark.parametrize("seed", range(9))
def test_blocks_change_nothing(tiny, seed):
    draw = np.random.default_rng(seed)
    model = tiny(("bass", "drums"), sample_rate=int(draw.choice([8_000, 11_025])))
    rate, hop = int(draw.choice([8_000, 16_000])), [None, 0.07, 0.2][seed % 3]
    song = noise(1 + seed % 2, int(draw.integers(1, 30_000)), seed)
    whole = torch.stack(list(separate(model, song, rate, hop=hop, long=seed > 5).values()))
    levels = audio.Levels.of(cut(song, seed))
    blocks = torch.cat(list(module.separated(model, cut(song, seed), rate, levels, hop, long=seed > 5)), -1)
    assert blocks.shape == (2, *song.shape)
    assert float((blocks - whole).abs().max()) < 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_long_chunks_are_equal_few_and_cover_a_song(seed):
    draw = np.random.default_rng(seed)
    trained, length = int(draw.integers(3, 400)), int(10 ** draw.uniform(0, 5))
    size, hop = _long_chunks(trained, length)
    assert 0 < hop < size <= LONGEST * trained and size - hop == trained // OVERLAP
    sizes = []

    def process(chunks):
        sizes.extend(chunk.shape[-1] for chunk in chunks)
        return chunks[:, None]

    song = noise(1, length, seed)
    torch.testing.assert_close(joined(process, [song], size, hop), song[None])
    assert set(sizes) == {size}
    assert len(sizes) == -(-(length + trained // OVERLAP) // (LONGEST * trained - trained // OVERLAP))


def test_songs_are_separated_in_long_chunks(tiny):
    model, song = tiny(("bass",), sample_rate=8_000), noise(2, 20_000)
    size, hop = _long_chunks(1_600, 20_000)
    gain = audio.Levels.of([song]).gain
    plain = joined(partial(estimate, model), [gain * song], size, hop)[0] / gain
    torch.testing.assert_close(Separator([model])(song, 8_000)["bass"], plain)
    assert float((separate(model, song, 8_000)["bass"] - plain).abs().max()) > 1e-4  # half of a trained chunk


def test_estimates_follow_the_level(tiny):
    song = noise(2, 30_000)
    loud, soft = (separate(tiny(("bass",)), song * gain, 44_100)["bass"] / gain for gain in (10, 0.001))
    torch.testing.assert_close(loud, soft, rtol=1e-3, atol=1e-5)


def test_silence_stays_silent(tiny):
    assert not separate(tiny(("bass",)), torch.zeros(2, 10_000), 44_100)["bass"].any()


def test_estimate_is_the_model(tiny):
    model, chunks, threads = tiny(("bass", "drums")), noise(6, 3_000).view(3, 2, 3_000), torch.get_num_threads()
    with torch.no_grad():
        expected = istft(model(stft(chunks, 512)), 512, 3_000)
    torch.set_num_threads(2)
    try:
        result = estimate(model, chunks)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


def test_a_gpu_short_of_memory_takes_less_at_once(tiny, monkeypatch):
    model, chunks, sizes = tiny(("bass",)), noise(10, 3_000).view(5, 2, 3_000), []
    expected = estimate(model, chunks)

    def full(function, batch, most=3):
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return function(batch)

    monkeypatch.setattr(module, "by_item", full)
    torch.testing.assert_close(estimate(model, chunks), expected, rtol=1e-4, atol=1e-6)
    assert max(sizes) == 10 and sizes.count(10) == 1 and min(sizes) <= 3
    monkeypatch.setattr(module, "by_item", partial(full, most=0))
    with pytest.raises(torch.OutOfMemoryError):
        estimate(model, chunks)


def test_no_seams(tmp_path):
    demo.generate(tmp_path / "songs", train=1, test=3, seconds=12, seed=5)
    model = checkpoint.load(TRAINED)
    tracks = find_tracks(tmp_path / "songs", "test")

    def at_borders(size, hop):
        """How much larger the error is within 10 ms of a chunk's start, and its steps right there, than in the same
        places in a separation whose chunks start elsewhere: two ratios of energies."""
        errors, steps, rate = [], [], model.config.sample_rate
        for track in tracks:
            stems = track.stems(model.config.sources)
            targets = audio.resample(stems.flatten(0, 1), track.sample_rate, rate).unflatten(0, stems.shape[:2])
            mixture, energies = targets.sum(0), []
            for lead in (0, hop // 2):
                padded = torch.nn.functional.pad(mixture, (lead, 0))
                energies.append((joined(partial(estimate, model), [padded], size, hop)[..., lead:] - targets).double())
            place = (torch.arange(mixture.shape[-1]) - (hop - size)) % hop / rate
            near = (place < 0.01) | (place > hop / rate - 0.01)
            errors.append([energy[..., near].square().mean() for energy in energies])
            right_there = (place[1:] < place[:-1]).nonzero()[:, 0] + torch.arange(-2, 3)[:, None]
            steps.append([energy.diff()[..., right_there].square().mean() for energy in energies])
        return [float(ours / others) for ours, others in torch.tensor([errors, steps]).sum(1)]

    trained = model.config.chunk_samples
    for size, hop in ((trained, trained // 2), (LONGEST * trained, LONGEST * trained - trained // OVERLAP)):
        error, step = at_borders(size, hop)
        assert error < 1.1 and step < 1.2
    _, step = at_borders(trained, trained)
    assert step > 1.5  # chunks side by side do click: the measure can see it


# from Python


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(4_000,), (1, 4_000), (2, 4_000)])
def test_arrays_come_back_as_they_went_in(tiny, tmp_path, kind, dtype, shape):
    checkpoint.save(tiny(("bass", "drums"), sample_rate=8_000), tmp_path / "model")
    song = noise(2, 4_000)[: shape[0]].reshape(shape) if len(shape) > 1 else noise(1, 4_000)[0]
    waveform = kind(song.numpy().astype(dtype))
    stems = Separator.from_pretrained(tmp_path / "model", bf16=False)(waveform, 8_000)
    expected = separate(tiny(("bass", "drums"), sample_rate=8_000), song.reshape(-1, 4_000), 8_000, long=True)
    assert list(stems) == ["bass", "drums"]
    for source, stem in stems.items():
        assert type(stem) is type(waveform) and stem.dtype == waveform.dtype and stem.shape == waveform.shape
        assert np.allclose(np.asarray(stem), expected[source].reshape(shape).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((2, 100), np.int16), "expected floats"),
        (np.zeros((1, 2, 100)), "expected floats"),
        (np.zeros((2, 0)), "expected floats"),
        (np.array([0.0, np.nan]), "not finite"),
        (torch.tensor(1.0), "expected"),
        (np.zeros((44_100, 2)), "expected floats of shape"),
        (np.array([1e40, 0]), "not finite"),
    ],
)
def test_arrays_that_are_no_waveforms(tiny, waveform, message):
    with pytest.raises(ValueError, match=message):
        Separator([tiny(("bass",))])(waveform, 8_000)


def test_several_models(tiny, identity):
    song = noise(2, 8_000)
    both = Separator([tiny(("bass",), sample_rate=8_000), identity(("drums",), sample_rate=16_000)])
    stems = both(song, 8_000)
    assert list(stems) == list(both.sources) == ["bass", "drums"]
    assert torch.equal(stems["bass"], separate(tiny(("bass",), sample_rate=8_000), song, 8_000, long=True)["bass"])
    assert float((stems["drums"] - song)[:, 200:-200].abs().mean()) < 0.03
    with pytest.raises(ValueError, match="several models estimate bass"):
        Separator([tiny(("bass",)), tiny(("drums", "bass"))])


def test_sources_are_chosen(tiny, tmp_path):
    checkpoint.save(tiny(("bass", "drums")), tmp_path / "one")
    checkpoint.save(tiny(("vocals",)), tmp_path / "two")
    separator = Separator.from_pretrained(tmp_path / "one", tmp_path / "two", sources=["drums"], bf16=False)
    assert separator.sources == ("drums",)
    assert len(separator.models) == 1 and separator.models[0].config.sources == ("drums",)
    song = noise(1, 9_000)
    expected = separate(tiny(("bass", "drums")), song, 44_100, long=True)["drums"]  # by products of other shapes
    torch.testing.assert_close(separator(song, 44_100)["drums"], expected)
    with pytest.raises(ValueError, match="no model estimates 'guitar': choose from bass, drums, vocals"):
        Separator.from_pretrained(tmp_path / "one", tmp_path / "two", sources=["drums", "guitar"])


@pytest.mark.parametrize("form", ["mp4", "WAV"])
def test_formats_that_are_none(tiny, form):
    with pytest.raises(ValueError, match=f"unknown form {form!r} or loudness"):
        Separator([tiny(("bass",))]).separate_file("song.wav", "out", form=form)


def test_nothing_to_separate(tiny, tmp_path):
    checkpoint.save(tiny(("residual",)), tmp_path)
    with pytest.raises(ValueError, match="no model estimates nothing: choose from residual"):
        Separator.from_pretrained(tmp_path, sources=[])
    with pytest.raises(ValueError, match="it cannot be both"):
        Separator.from_pretrained(tmp_path, sources="residual").targets(tmp_path, residual=True)


@pytest.mark.parametrize("hop", [0, -1, 0.21, 1e-9, float("inf"), float("nan")])
def test_hops_that_are_none(tiny, hop):
    with pytest.raises(ValueError, match=r"hop must be above 0 and at most the model's chunk of 0.2 s"):
        Separator([tiny(("bass",))], hop=hop)


def test_bf16_separates_alike(bf16):
    separator = Separator.from_pretrained(TRAINED)
    assert separator.bf16
    song = noise(2, 22_050)
    exact, rounded = (Separator(separator.models, bf16=each)(song, 22_050)["drums"] for each in (False, True))
    assert not torch.equal(exact, rounded)
    assert float(usdr(exact, rounded)) > 30


# from file to files


@pytest.fixture
def song(tmp_path):
    soundfile.write(tmp_path / "song.wav", noise(2, 30_011).T.numpy(), 11_025, subtype="FLOAT")
    return tmp_path / "song.wav"


@pytest.mark.parametrize("form", audio.FORMATS)
def test_files_equal_arrays(tiny, song, tmp_path, form):
    separator = Separator([tiny(("bass", "drums"), sample_rate=8_000), tiny(("vocals",), sample_rate=11_025)])
    waveform, rate = audio.read(song)
    expected = separator(waveform, rate)
    expected["residual"] = waveform - sum(expected.values())
    written = separator.separate_file(song, tmp_path / "out" / "song", form=form, residual=True)
    suffix = audio.FORMATS[form][0]
    assert written.files == tuple(tmp_path / "out" / "song" / f"{name}{suffix}" for name in expected)
    assert sorted((tmp_path / "out" / "song").iterdir()) == sorted(written.files)
    peak = max(float(stem.abs().max()) for stem in expected.values())
    assert written.gain == 1 and written.peak == pytest.approx(peak)
    for file, stem in zip(written.files, expected.values(), strict=True):
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        assert rate == 11_025 and soundfile.info(file).subtype == audio.FORMATS[form][2]
        if form in ("mp3", "ogg"):
            assert samples.std() == pytest.approx(float(stem.std()), rel=0.15)
        if form == "mp3":  # which adds silence
            assert 0 <= len(samples) - 30_011 < 3_000
            continue
        assert samples.T.shape == (2, 30_011)
        if form == "ogg":
            assert np.corrcoef(samples.T.ravel(), stem.numpy().ravel())[0, 1] > 0.9
        else:
            assert np.abs(samples.T - stem.numpy()).max() < (2**-16 if form == "wav16" else 1e-6) * 1.01


def test_the_hop_is_kept(tiny, song, tmp_path):
    model, results = tiny(("bass",), sample_rate=8_000), []
    waveform, rate = audio.read(song)
    for hop in (None, 0.05, 0.2):
        separator = Separator([model], hop=hop)
        results.append(separator(waveform, rate)["bass"])
        assert torch.equal(results[-1], separate(model, waveform, rate, hop=hop, long=True)["bass"])
        (file,) = separator.separate_file(song, tmp_path / "out").files
        assert float((audio.read(file)[0] - results[-1]).abs().max()) < 1e-6
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert float((results[one] - results[other]).abs().max()) > 1e-4


@pytest.mark.parametrize("form", ["wav", "wav16", "flac"])
@pytest.mark.parametrize("loudness", ["rescale", "clamp"])
def test_beyond_full_scale(identity, tmp_path, form, loudness):
    loud = torch.sin(torch.arange(8_000) / 5)[None] * torch.linspace(0, 2, 8_000)
    soundfile.write(tmp_path / "loud.wav", loud.T.numpy(), 8_000, subtype="FLOAT")
    separator = Separator([identity(("bass", "drums"), sample_rate=8_000)])
    written = separator.separate_file(tmp_path / "loud.wav", tmp_path / "out", form=form, loudness=loudness)
    assert written.peak == pytest.approx(2, abs=0.01)
    expected = {"wav": loud, "rescale": loud / written.peak, "clamp": loud.clamp(-1, 1)}
    for file in written.files:
        stem, _ = audio.read(file)
        difference = stem - expected["wav" if form == "wav" else loudness]
        assert float(difference.abs().max()) < 1e-4
    rescaled = form != "wav" and loudness == "rescale"
    assert written.gain == pytest.approx(1 / written.peak if rescaled else 1)


def test_stems_are_not_written_over_their_song(tiny, song):
    with pytest.raises(ValueError, match="its stems would be written over it"):
        Separator([tiny(("song",), sample_rate=8_000)]).separate_file(song, song.parent)


@pytest.mark.parametrize("stage", ["listening", "bass", "residual", "bass.flac", "residual.flac"])
def test_what_is_there_stays_when_a_song_is_interrupted(tiny, song, tmp_path, monkeypatch, stage):
    separator, shown = Separator([tiny(("bass",), sample_rate=8_000)]), module._shown
    options = {"form": "flac", "residual": True}
    files = separator.separate_file(song, tmp_path / "out", **options).files
    before = [file.read_bytes() for file in files]

    def interrupted(blocks, recording, what, progress):
        for block in shown(blocks, recording, what, progress):
            yield block
            if what == stage:
                raise KeyboardInterrupt

    monkeypatch.setattr(module, "_shown", interrupted)
    for folder in ("out", "new/folder"):
        with pytest.raises(KeyboardInterrupt):
            separator.separate_file(song, tmp_path / folder, **options)
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    assert [file.read_bytes() for file in files] == before
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured as Linux does")
def test_memory_does_not_grow_with_the_song(tiny, tmp_path):
    checkpoint.save(tiny(("bass", "drums"), sample_rate=8_000, chunk=1), tmp_path / "model")
    options = ["--hop", "1", "--format", "flac", "--residual"]
    code = (
        "import sys; from bsrnn.cli import main; code = main(sys.argv[1:]);"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0]); sys.exit(code)"
    )
    peaks = []
    for seconds in (30, 900):  # 56 MB more of samples, and twice that of stems
        soundfile.write(tmp_path / f"{seconds}.wav", noise(2, 9_000 * seconds).T.numpy(), 9_000, subtype="FLOAT")
        arguments = ["--checkpoint_fp", tmp_path / "model", *options, "--input", tmp_path / f"{seconds}.wav"]
        command = [sys.executable, "-c", code, "infer", *arguments, "--out", tmp_path / "out"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]))
    assert peaks[1] < 1.05 * peaks[0]


# which songs


def test_songs_of_files_and_folders(tmp_path):
    for name in ("a.wav", "in/b.FLAC", "in/deep/c.m4a", "in/deep/.hidden.wav", "in/text.txt", "in/out/b/drums.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    out = tmp_path / "in" / "out"
    assert find_songs([tmp_path / "a.wav", tmp_path / "in", tmp_path / "missing.wav"], out) == {
        tmp_path / "a.wav": out / "a",
        tmp_path / "in/b.FLAC": out / "b",
        tmp_path / "in/deep/c.m4a": out / "deep" / "c",
        tmp_path / "missing.wav": out / "missing",
    }
    assert find_songs([tmp_path / "in"], tmp_path) == {
        tmp_path / "in/b.FLAC": tmp_path / "b",
        tmp_path / "in/deep/c.m4a": tmp_path / "deep" / "c",
        tmp_path / "in/out/b/drums.wav": tmp_path / "out" / "b" / "drums",
    }
    with pytest.raises(ValueError, match="cannot be the folder of the stems as well"):
        find_songs([tmp_path / "in"], tmp_path / "in")


def test_songs_of_one_name(tmp_path):
    a, b, c, d = (tmp_path / name for name in ("a.wav", "a.mp3", "x/a.wav", "...wav"))
    expected = {a: tmp_path / "a", b: tmp_path / "a.mp3", d: tmp_path / "...wav"}
    assert find_songs([a, b, a, tmp_path / "x" / ".." / "a.mp3", d], tmp_path) == expected
    with pytest.raises(ValueError, match=r"x.a.wav: its stems would have the place of those of .*a.wav"):
        find_songs([a, tmp_path / "y" / "a.wav", c], tmp_path)
