"""What training minimizes: one of `OBJECTIVES`, summed over a model's sources (L_MTL of Refined BSRNN)."""

from torch import Tensor

FLOOR = 2e-3  # mean square, 27 dB below full scale; with 2e-5, what is silent teaches silence (docs/method.md)


def objective(estimates: Tensor, targets: Tensor, waveforms: Tensor, target_waveforms: Tensor) -> Tensor:
    """L_obj of each source, (S,): L1 of the real part, of the imaginary part and of the waveform, each a mean,
    unweighted (Luo & Yu, section IV-A3); of spectra (B, S, C, F, T) and waveforms (B, S, C, L)."""
    difference = estimates - targets
    spectral = difference.real.abs() + difference.imag.abs()
    return spectral.mean((0, 2, 3, 4)) + (waveforms - target_waveforms).abs().mean((0, 2, 3))


def noise_to_signal(estimates: Tensor, targets: Tensor, waveforms: Tensor, target_waveforms: Tensor) -> Tensor:
    """The error's level over that of each source, in dB, of every sample and then on average: shapes as of `objective`.
    Not in the paper; our choice. Where a source is likelier below half of the mixture than above, an L1 loss is least
    for silence, and small models of vocals or bass stay there for long. `FLOOR` is added to both levels: errors far
    below it, and samples whose source is silent, matter little."""
    error, level = (x.square().mean((2, 3)) + FLOOR for x in (waveforms - target_waveforms, target_waveforms))
    return 10 * (error / level).log10().mean(0)


OBJECTIVES = {"l1": objective, "snr": noise_to_signal}
