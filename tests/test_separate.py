import pytest
import torch

from bsrnn.separate import overlap_add, separate


def noise(channels, length, seed=0):
    return torch.randn(channels, length, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("length", [1, 7, 99, 100, 101, 1000, 1234])
@pytest.mark.parametrize(("size", "hop"), [(100, 100), (100, 50), (100, 25), (99, 33), (1, 1)])
def test_overlap_add_reconstructs(length, size, hop):
    song = noise(2, length)
    shapes = set()

    def twice(chunks):
        shapes.add(chunks.shape[1:])
        return torch.stack([chunks, 2 * chunks], 1)

    stems = overlap_add(twice, song, size, hop)
    assert shapes == {(2, size)}
    torch.testing.assert_close(stems, torch.stack([song, 2 * song]), rtol=1e-5, atol=1e-6)


def test_every_sample_lies_in_as_many_chunks():
    counts = overlap_add(lambda chunks: torch.ones_like(chunks)[:, None], noise(1, 1000), 100, 25)
    assert torch.allclose(counts, torch.ones(()))
    seen = []
    overlap_add(lambda chunks: seen.append((chunks != 0).sum()) or chunks[:, None], torch.ones(1, 1000), 100, 25)
    assert sum(seen) == 4 * 1000


@pytest.mark.parametrize("length", [1, 100, 2_000, 50_000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_identity_model_returns_the_song(identity, length, channels, sample_rate):
    song = noise(channels, length) * 3
    stems = separate(identity(("bass", "drums"), sample_rate=sample_rate, n_fft=512, chunk=0.5), song, sample_rate)
    assert list(stems) == ["bass", "drums"]
    for stem in stems.values():
        torch.testing.assert_close(stem, song, rtol=1e-4, atol=1e-5)


def test_other_sample_rates_come_back(identity):
    time = torch.arange(48_000) / 48_000
    song = torch.sin(2 * torch.pi * 440 * time)[None]
    stem = separate(identity(("bass",), sample_rate=16_000, n_fft=512, chunk=0.5), song, 48_000)["bass"]
    assert stem.shape == song.shape
    inner = slice(1000, -1000)
    assert float((stem - song)[:, inner].abs().max()) < 0.01


def test_estimates_follow_the_level(tiny):
    song = noise(2, 30_000)
    loud, soft = (separate(tiny(("bass",)), song * gain, 44_100)["bass"] / gain for gain in (10, 0.001))
    torch.testing.assert_close(loud, soft, rtol=1e-3, atol=1e-5)


def test_silence_stays_silent(tiny):
    assert not separate(tiny(("bass",)), torch.zeros(2, 10_000), 44_100)["bass"].any()
