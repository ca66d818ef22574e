"""How close an estimate is to its source, in dB."""

from itertools import pairwise

import torch
from torch import Tensor


def _ratio_db(signal: Tensor, noise: Tensor) -> Tensor:
    return 10 * torch.log10(signal / noise)


def _pair(references: Tensor, estimates: Tensor) -> tuple[Tensor, Tensor]:
    if references.shape != estimates.shape:
        raise ValueError(f"references {tuple(references.shape)} and estimates {tuple(estimates.shape)} differ in shape")
    return references.double(), estimates.double()


def usdr(references: Tensor, estimates: Tensor) -> Tensor:
    """Utterance-level SDR: 10 log10(sum s^2 / sum (s - s_hat)^2) over a whole track and its channels.

    As in the Music Demixing Challenge 2021, without its small constants: a silent reference gives NaN, a perfect
    estimate infinity, and silence as an estimate 0 dB.

    Args:
        references, estimates: (..., C, L).

    Returns:
        (...) in dB.
    """
    references, estimates = _pair(references, estimates)
    signal = references.square().sum((-2, -1))
    return _ratio_db(signal, (references - estimates).square().sum((-2, -1))).where(signal > 0, torch.nan)


def si_sdr(references: Tensor, estimates: Tensor) -> Tensor:
    """Scale-invariant SDR (Le Roux et al., 2019) over a whole track and its channels: that of the estimate to the
    multiple of the reference that is closest to it. Means are not removed.

    A silent reference gives NaN, an estimate without any of it, silence too, minus infinity.

    Args:
        references, estimates: (..., C, L).

    Returns:
        (...) in dB.
    """
    references, estimates = _pair(references, estimates)
    product = (references * estimates).sum((-2, -1))
    signal = references.square().sum((-2, -1))
    closest = (product / signal)[..., None, None] * references
    ratio = _ratio_db(closest.square().sum((-2, -1)), (closest - estimates).square().sum((-2, -1)))
    return ratio.where(product != 0, -torch.inf).where(signal > 0, torch.nan)


def csdr_frames(references: Tensor, estimates: Tensor, sample_rate: int) -> Tensor:
    """SDR of every whole frame of one second, as museval (BSSEval v4, images) gives it.

    Like museval, all sources of a frame are NaN if any reference or estimate is silent in it (its channels sum to
    zero throughout), and a track shorter than a frame is one frame.

    Args:
        references, estimates: (S, C, L).
        sample_rate: in Hz; also the frame in samples.

    Returns:
        (S, frames) in dB.
    """
    references, estimates = _pair(references, estimates)
    frame = min(sample_rate, references.shape[-1])
    references, estimates = (x.unfold(-1, frame, frame) for x in (references, estimates))  # (S, C, frames, frame)
    ratios = _ratio_db(references.square().sum((1, 3)), (references - estimates).square().sum((1, 3)))
    silent = sum((x.sum(1) == 0).all(-1).any(0) for x in (references, estimates)) > 0  # (frames,)
    return ratios.masked_fill(silent, torch.nan)


def csdr(references: Tensor, estimates: Tensor, sample_rate: int) -> Tensor:
    """Chunk-level SDR: the median over the frames of `csdr_frames` that are not NaN. (S, C, L) to (S,) in dB."""
    return csdr_frames(references, estimates, sample_rate).nanquantile(0.5, dim=-1)


def energy_around(error: Tensor, period: int, reach: int, bins: int) -> Tensor:
    """The energy of a signal around every multiple of a period, over its mean there: what chunks do at their borders.

    Args:
        error: (C, L).
        period: in samples.
        reach: how far around, in samples, at most half a period.
        bins: parts of the window of 2 reach samples.

    Returns:
        (multiples, bins); each multiple has a mean of 1. Silent ones are left out.
    """
    power = error.double().square().sum(0)
    places = range(period, len(power) - reach, period)
    windows = torch.stack([power[place - reach : place + reach] for place in places])
    edges = [round(2 * reach * k / bins) for k in range(bins + 1)]
    energies = torch.stack([windows[:, a:b].mean(1) for a, b in pairwise(edges)], 1)
    means = windows.mean(1, keepdim=True)
    return (energies / means)[means[:, 0] > 0]
