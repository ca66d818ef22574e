"""Between waveforms and spectrograms."""

import torch
from torch import Tensor

OVERLAP = 4  # windows over each sample: hop = n_fft / 4 (Luo & Yu, section IV-A4: 2048 and 512)


def num_frames(length: int, n_fft: int) -> int:
    """The frames T that `stft` makes of `length` samples."""
    return length // (n_fft // OVERLAP) + 1


def stft(waveform: Tensor, n_fft: int) -> Tensor:
    """Short-time Fourier transform with a Hann window of `n_fft` samples and a hop of a quarter of it.

    Args:
        waveform: (..., L) real.
        n_fft: FFT size in samples.

    Returns:
        (..., F, T) complex, F = n_fft // 2 + 1, T = `num_frames(L, n_fft)`.
    """
    window = torch.hann_window(n_fft, device=waveform.device)
    flat = waveform.float().reshape(-1, waveform.shape[-1])
    # constant padding takes any length; reflection would need more than n_fft / 2 samples
    spectrogram = torch.stft(flat, n_fft, n_fft // OVERLAP, window=window, pad_mode="constant", return_complex=True)
    return spectrogram.reshape(*waveform.shape[:-1], *spectrogram.shape[-2:])


def istft(spectrogram: Tensor, n_fft: int, length: int) -> Tensor:
    """The inverse of `stft`: (..., F, T) complex to (..., length) real."""
    window = torch.hann_window(n_fft, device=spectrogram.device)
    flat = spectrogram.reshape(-1, *spectrogram.shape[-2:])
    waveform = torch.istft(flat, n_fft, n_fft // OVERLAP, window=window, length=length)
    return waveform.reshape(*spectrogram.shape[:-2], length)


def standardize(spectrogram: Tensor, eps: float = 1e-8) -> Tensor:
    """Subtract the complex mean and divide by the standard deviation of each (F, T) plane of (..., F, T).

    The model looks at the result, but its mask multiplies the spectrogram itself, so there is nothing to undo and
    an identity mask is exact. A silent plane stays silent. Refined BSRNN; not in the paper.
    """
    centred = spectrogram - spectrogram.mean((-2, -1), keepdim=True)
    deviation = centred.abs().square().mean((-2, -1), keepdim=True).sqrt()
    return centred / deviation.clamp_min(eps)
