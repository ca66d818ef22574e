"""What training minimizes."""

from torch import Tensor


def objective(estimates: Tensor, targets: Tensor, waveforms: Tensor, target_waveforms: Tensor) -> Tensor:
    """L_obj of each source: L1 of the real part, of the imaginary part and of the waveform, each a mean, unweighted
    (Luo & Yu, section IV-A3).

    Args:
        estimates, targets: (B, S, C, F, T) complex.
        waveforms, target_waveforms: (B, S, C, L).

    Returns:
        (S,)
    """
    difference = estimates - targets
    spectral = difference.real.abs() + difference.imag.abs()
    return spectral.mean((0, 2, 3, 4)) + (waveforms - target_waveforms).abs().mean((0, 2, 3))


def multitask(losses: Tensor) -> Tensor:
    """L_MTL: the sum of the sources' losses (S,) (Refined BSRNN; not in the paper)."""
    return losses.sum()
