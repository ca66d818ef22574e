import numpy as np
import pytest
import soundfile
import torch

from bsrnn import audio


def test_write_and_read(tmp_path):
    waveform = torch.randn(2, 1000) * 2  # beyond full scale: float files keep it
    audio.write(tmp_path / "new folder" / "a.wav", waveform, 48_000)
    read, rate = audio.read(tmp_path / "new folder" / "a.wav")
    assert rate == 48_000
    assert torch.equal(read, waveform)
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["a.wav"]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats(tmp_path, suffix):
    tone = np.sin(np.arange(22_050) / 10)[:, None] * 0.5
    soundfile.write(tmp_path / f"a.{suffix}", np.repeat(tone, 2, 1), 22_050)
    waveform, rate = audio.read(tmp_path / f"a.{suffix}", 44_100)
    assert rate == 44_100
    assert waveform.shape[0] == 2
    assert abs(waveform.shape[1] - 44_100) < 3000
    assert float(waveform.square().mean().sqrt()) == pytest.approx(0.3535, abs=0.02)


@pytest.mark.parametrize(("content", "message"), [
    (b"", "cannot be read"), (b"not audio at all" * 10, "cannot be read"), (b"RIFF", "cannot be read"),
])  # fmt: skip
def test_unreadable(tmp_path, content, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        audio.read(tmp_path / "a.wav")
    assert "\n" not in str(error.value)


def test_no_samples_or_not_finite(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44_100)
    with pytest.raises(ValueError, match="no samples"):
        audio.read(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([[0.0], [np.nan]]), 44_100, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        audio.read(tmp_path / "nan.wav")
    with pytest.raises(FileNotFoundError):
        audio.read(tmp_path / "missing.wav")


def test_normalization_gain():
    waveform = torch.randn(2, 10_000)
    scaled = waveform * audio.normalization_gain(waveform)
    assert float(scaled.square().mean().sqrt()) == pytest.approx(0.1, rel=1e-4)
    click = torch.zeros(1, 10_000)
    click[0, 5] = 0.2
    assert float((click * audio.normalization_gain(click)).max()) == pytest.approx(1)
    assert audio.normalization_gain(torch.zeros(1, 10)) == 1
