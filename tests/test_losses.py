import itertools

import torch

from bsrnn import losses
from bsrnn.metrics import usdr


def noise(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_objective_equals_a_plain_loop():
    estimates, targets = (noise(2, 3, 2, 5, 4, dtype=torch.complex64, seed=seed) for seed in (1, 2))
    waveforms, target_waveforms = (noise(2, 3, 2, 7, seed=seed) for seed in (3, 4))
    found = losses.objective(estimates, targets, waveforms, target_waveforms)
    assert found.shape == (3,)
    for s in range(3):
        real = imaginary = wave = 0.0
        for b, c in itertools.product(range(2), range(2)):
            for f, t in itertools.product(range(5), range(4)):
                difference = complex(estimates[b, s, c, f, t]) - complex(targets[b, s, c, f, t])
                real += abs(difference.real) / (2 * 2 * 5 * 4)
                imaginary += abs(difference.imag) / (2 * 2 * 5 * 4)
            for i in range(7):
                wave += abs(float(waveforms[b, s, c, i] - target_waveforms[b, s, c, i])) / (2 * 2 * 7)
        torch.testing.assert_close(float(found[s]), real + imaginary + wave, rtol=1e-5, atol=1e-6)


def test_a_perfect_estimate_costs_least():
    targets, waveforms = noise(1, 2, 1, 5, 4, dtype=torch.complex64), noise(1, 2, 1, 7)
    assert not losses.objective(targets, targets, waveforms, waveforms).any()
    perfect = losses.noise_to_signal(targets, targets, waveforms, waveforms)
    torch.testing.assert_close(
        perfect, 10 * (losses.FLOOR / (waveforms.square().mean(3) + losses.FLOOR)).log10()[0, :, 0]
    )
    assert (perfect < losses.noise_to_signal(targets, targets, waveforms + 0.01, waveforms)).all()


def test_the_other_objective_is_the_negative_sdr_of_every_sample():
    waveforms, target_waveforms = (100 * noise(3, 2, 2, 50, seed=seed) for seed in (3, 4))
    found = losses.noise_to_signal(waveforms, waveforms, waveforms, target_waveforms)
    torch.testing.assert_close(found.double(), -usdr(target_waveforms, waveforms).mean(0), rtol=1e-3, atol=1e-3)
    silence = torch.zeros(1, 1, 1, 50)  # as an estimate of itself it costs nothing, and noise costs the more the louder
    costs = [float(losses.noise_to_signal(x, x, x, silence)) for x in (silence, 0.001 * silence.cos(), silence.cos())]
    assert costs[0] == 0 and 0 < costs[1] < 0.3 and costs[2] > 25
    quiet = (0.01 * waveforms).requires_grad_()  # a gradient that does not depend on how loud a sample is
    losses.noise_to_signal(quiet, quiet, quiet, 0.01 * target_waveforms).sum().backward()
    assert quiet.grad.isfinite().all()
