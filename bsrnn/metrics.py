"""How close an estimate is to its source, in dB."""

import torch
from torch import Tensor


def paired(references: Tensor, estimates: Tensor) -> tuple[Tensor, Tensor]:
    """Both in double precision; ValueError where they differ in shape."""
    if references.shape != estimates.shape:
        raise ValueError(f"references {tuple(references.shape)} and estimates {tuple(estimates.shape)} differ in shape")
    return references.double(), estimates.double()


def usdr(references: Tensor, estimates: Tensor) -> Tensor:
    """Utterance-level SDR: 10 log10(sum s^2 / sum (s - s_hat)^2) over a whole track and its channels, of (..., C, L) to
    (...) in dB. As in the Music Demixing Challenge 2021, without its small constants: a silent reference gives NaN, a
    perfect estimate infinity, and silence as an estimate 0 dB."""
    references, estimates = paired(references, estimates)
    signal, noise = (x.square().sum((-2, -1)) for x in (references, references - estimates))
    return 10 * torch.log10(signal / noise).where(signal > 0, torch.nan)


def si_sdr(references: Tensor, estimates: Tensor) -> Tensor:
    """Scale-invariant SDR (Le Roux et al., 2019) over a whole track and its channels, of (..., C, L) to (...) in dB:
    that of the estimate to the multiple of the reference that is closest to it. Means are not removed. A silent
    reference gives NaN, an estimate without any of it, silence too, minus infinity."""
    references, estimates = paired(references, estimates)
    product = (references * estimates).sum((-2, -1))
    signal = references.square().sum((-2, -1))
    closest = (product / signal)[..., None, None] * references
    return usdr(closest, estimates).where(product != 0, -torch.inf).where(signal > 0, torch.nan)


def silent(signals: Tensor) -> Tensor:
    """Whether a signal is silent as museval sees it: its channels sum to zero throughout. (..., C, L) to (...)."""
    few = ~signals[..., ::64].sum(-2).any(-1)  # settles it for most, which makes cSDR 1.4 x faster
    return ~signals.sum(-2).any(-1) if few.any() else few


def csdr_frames(references: Tensor, estimates: Tensor, sample_rate: int) -> Tensor:
    """SDR of every whole frame of one second, as museval (BSSEval v4, images) gives it: (S, C, L) to (S, frames) in dB.
    Like there, all sources of a frame are NaN if any reference or estimate is `silent` in it, and a track shorter than
    a frame is one frame. A source that is silent all the time, or whose estimate is, museval refuses: it is NaN, and
    the others are as without it."""
    pair = paired(references.cpu(), estimates.cpu())
    frame = min(sample_rate, references.shape[-1])
    framed = [signals.unfold(-1, frame, frame).transpose(1, 2) for signals in pair]  # (S, frames, C, frame)
    absent, paused = (silent(reference) | silent(estimate) for reference, estimate in (pair, framed))
    return usdr(*framed).masked_fill(absent[:, None] | paused[~absent].any(0), torch.nan)


def csdr(references: Tensor, estimates: Tensor, sample_rate: int) -> Tensor:
    """Chunk-level SDR: the `median` of `csdr_frames`. (S, C, L) to (S,) in dB."""
    return median(csdr_frames(references, estimates, sample_rate))


def median(frames: Tensor) -> Tensor:
    """The median of those values of (..., frames) that are not NaN; of an even number, the mean of the two in the
    middle, also where they are infinite. NaN where there is none."""
    return (frames.nanmedian(-1).values - (-frames).nanmedian(-1).values) / 2  # torch takes the lower of the two
