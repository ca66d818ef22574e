"""Between waveforms and spectrograms."""

from functools import cache

import torch
from torch import Tensor
from torchaudio.transforms import InverseSpectrogram, Spectrogram

from bsrnn.config import OVERLAP


@cache
def _transforms(n_fft: int, padding: str, device: torch.device) -> tuple[Spectrogram, InverseSpectrogram]:
    """Both ways, with torchaudio's default window, a periodic Hann window of `n_fft` samples."""
    with torch.inference_mode(False):  # a window that was made in inference could not serve training
        forward = Spectrogram(n_fft, hop_length=n_fft // OVERLAP, power=None, pad_mode=padding)
        return forward.to(device), InverseSpectrogram(n_fft, hop_length=n_fft // OVERLAP).to(device)


def stft(waveform: Tensor, n_fft: int, padding: str = "constant") -> Tensor:
    """Short-time Fourier transform with a Hann window of `n_fft` samples and a hop of a quarter of it: (..., L) real to
    (..., F, T) complex, F = n_fft // 2 + 1, T = L // hop + 1. Both ends are padded with zeros ("constant"), or by
    reflection ("reflect") where there are more than `n_fft` / 2 samples."""
    padding = padding if waveform.shape[-1] > n_fft // 2 else "constant"
    return _transforms(n_fft, padding, waveform.device)[0](waveform.float())


def istft(spectrogram: Tensor, n_fft: int, length: int) -> Tensor:
    """The inverse of `stft`: (..., F, T) complex to (..., length) real."""
    return _transforms(n_fft, "constant", spectrogram.device)[1](spectrogram, length)


def standardize(spectrogram: Tensor, eps: float = 1e-8) -> Tensor:
    """Subtract the complex mean and divide by the standard deviation of each (F, T) plane of (..., F, T). The model
    looks at the result, but its mask multiplies the spectrogram itself, so there is nothing to undo and an identity
    mask is exact. A silent plane stays silent. Refined BSRNN; not in the paper."""
    centred = spectrogram - spectrogram.mean((-2, -1), keepdim=True)
    deviation = centred.abs().square().mean((-2, -1), keepdim=True).sqrt()
    return centred / deviation.clamp_min(eps)
