"""Waveforms: read, write, resample, normalize. A waveform is a float tensor (C, L), full scale 1."""

import os
from functools import lru_cache
from pathlib import Path

import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import Resample

from bsrnn.records import written_whole

RMS_LEVEL = 0.1  # -20 dB; not in the paper, our choice


def read(path: str | os.PathLike, sample_rate: int | None = None) -> tuple[Tensor, int]:
    """Read an audio file (wav, flac, ogg, mp3).

    Args:
        path: of the file.
        sample_rate: what to resample to, in Hz; None keeps the file's.

    Returns:
        the waveform (C, L) and its sample rate.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not readable audio, has no samples, or has samples that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as audio ({_reason(error)}); use wav, flac, ogg or mp3") from None
    waveform = torch.from_numpy(samples.T.copy())
    if waveform.shape[-1] == 0:
        raise ValueError(f"{path}: holds no samples")
    if not waveform.isfinite().all():
        raise ValueError(f"{path}: holds samples that are not finite (NaN or infinity)")
    return resample(waveform, rate, sample_rate or rate), sample_rate or rate


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def write(path: str | os.PathLike, waveform: Tensor, sample_rate: int) -> None:
    """Write a waveform (C, L) as 32-bit float wav, whole or not at all; it never clips."""
    path = Path(path)
    try:
        with written_whole(path) as partial:
            soundfile.write(partial, waveform.cpu().numpy().T, sample_rate, subtype="FLOAT")
    except soundfile.LibsndfileError as error:
        raise OSError(f"{path}: cannot be written ({_reason(error)})") from None


def resample(waveform: Tensor, source_rate: int, target_rate: int) -> Tensor:
    """Resample (..., L) from one rate in Hz to another by torchaudio's windowed sinc interpolation, in float32."""
    if source_rate == target_rate:
        return waveform
    with torch.autocast(waveform.device.type, enabled=False):
        return _resampler(source_rate, target_rate)(waveform)


_resampler = lru_cache(Resample)  # making the filter takes as long as applying it to a second of sound


def normalization_gain(waveform: Tensor) -> float:
    """The gain that brings a waveform to an RMS of 0.1 and, where that would exceed full scale, its peak to 1.

    Multiply the mixture and its targets by the same gain, so that stems still sum to the mixture, and divide the
    estimates by it. Silence keeps a gain of 1. Refined BSRNN; the level is our choice.
    """
    peak = float(waveform.abs().max())
    if peak == 0:
        return 1.0
    rms = float(waveform.double().square().mean().sqrt())
    return min(RMS_LEVEL / rms, 1 / peak)
