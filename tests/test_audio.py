import struct
import sys

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import audio


def like(rate, channels, length=1000):
    return audio.Recording(None, rate, channels, length)


def test_write_and_read(tmp_path):
    waveform = torch.randn(2, 1000) * 2  # beyond full scale: float files keep it
    peak = audio.write(tmp_path / "a.wav", waveform.split(300, -1), like(48_000, 2))
    read, rate = audio.read(tmp_path / "a.wav")
    assert rate == 48_000
    assert torch.equal(read, waveform)
    assert peak == float(waveform.abs().max())


def test_files_that_are_too_long_for_wav(tmp_path):
    for length, kind in ((2**28, "WAV"), (2**30, "RF64")):
        audio.write(tmp_path / "a.wav", [torch.zeros(2, 10)], like(44_100, 2, length))
        assert soundfile.info(tmp_path / "a.wav").format == kind
        assert audio.read(tmp_path / "a.wav")[0].shape == (2, 10)


@pytest.mark.parametrize("seed", range(8))
def test_resampling_in_blocks(seed):
    draw = np.random.default_rng(seed)
    source, target = (int(rate) for rate in draw.choice([8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 192_000], 2))
    waveform = torch.randn(int(draw.integers(1, 4)), int(draw.integers(1, 60_000)))
    whole = audio.resample(waveform, source, target)
    assert abs(whole.shape[-1] - waveform.shape[-1] * target / source) <= 1
    size = int(draw.integers(1, 20_000))
    assert torch.equal(torch.cat(list(audio.resampled(waveform.split(size, -1), source, target)), -1), whole)


def test_resampling_keeps_what_both_rates_hold():
    time = torch.arange(44_100).double() / 44_100
    low, high = (torch.sin(2 * torch.pi * hertz * time).float() for hertz in (1_000, 15_000))
    inner = slice(2_000, -2_000)
    halved = audio.resample(torch.stack([low, high]), 44_100, 22_050)
    assert float((halved[0] - low[::2])[inner].abs().max()) < 1e-4
    assert float(halved[1, inner].abs().max()) < 1e-4  # what would alias is gone


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats(tmp_path, suffix):
    tone = np.sin(np.arange(22_050) / 10)[:, None] * 0.5
    soundfile.write(tmp_path / f"a.{suffix}", np.repeat(tone, 2, 1), 22_050)
    waveform, rate = audio.read(tmp_path / f"a.{suffix}")
    assert rate == 22_050
    assert waveform.shape[0] == 2
    assert abs(waveform.shape[1] - 22_050) < 1500
    assert float(waveform.square().mean().sqrt()) == pytest.approx(0.3535, abs=0.02)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty"), (b"not audio at all" * 10, "cannot be read"), (b"RIFF", "cannot be read"),
])  # fmt: skip
def test_unreadable(tmp_path, content, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        audio.read(tmp_path / "a.wav")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("promised", [
    32_004, 1_500_000_000, 2**31 - 10_000, 3_000_000_000, 2**32 - 10_000, 2**31 - 2**12, 2**31 - 1, 2**31, 2**31 + 36,
    2**32 - 2**12, 2**32 - 37, 2**32 - 1,
])  # fmt: skip
def test_what_a_header_promises(tmp_path, promised):
    """Sizes that programs write into a pipe, because they do not know better, are no promise."""
    soundfile.write(tmp_path / "a.wav", np.zeros((8_000, 2)), 8_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", min(promised + 36, 2**32 - 1)), struct.pack("<I", promised)
    (tmp_path / "a.wav").write_bytes(content)
    if min(abs(promised - unknown) for unknown in (2**31, 2**32)) <= 2**12:
        assert audio.read(tmp_path / "a.wav")[0].shape == (2, 8_000)
    else:
        with pytest.raises(ValueError, match=f"is cut off: 32000 of {promised} bytes"):
            audio.read(tmp_path / "a.wav")


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
@pytest.mark.parametrize("form", audio.FORMATS)
@pytest.mark.parametrize(("length", "room"), [(500, 0), (500, 60), (1_000, 1_000), (9_000, 0), (9_000, 1_000)])
def test_no_room(tmp_path, form, length, room):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match=r"^a\.sound: cannot be written: no space left"):
            audio.write(tmp_path / "a.sound", torch.randn(2, length).split(4_000, -1), like(44_100, 2), form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_samples_or_not_finite(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44_100)
    with pytest.raises(ValueError, match="no samples"):
        audio.read(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([[0.0], [np.nan]]), 44_100, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        audio.read(tmp_path / "nan.wav")
    with pytest.raises(FileNotFoundError):
        audio.read(tmp_path / "missing.wav")


def test_levels():
    waveform = torch.randn(2, 10_000)
    levels = audio.Levels.of(waveform.split(999, -1))
    assert levels.length == 10_000
    assert float((waveform * levels.gain).square().mean().sqrt()) == pytest.approx(0.1, rel=1e-4)
    click = torch.zeros(1, 10_000)
    click[0, 5] = 0.2
    assert audio.Levels.of([click]).gain * 0.2 == pytest.approx(1)
    assert audio.Levels.of([torch.zeros(1, 10)]).gain == 1
