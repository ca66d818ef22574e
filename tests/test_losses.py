import itertools

import torch

from bsrnn import losses


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


def test_a_perfect_estimate_costs_nothing():
    targets, waveforms = noise(1, 2, 1, 5, 4, dtype=torch.complex64), noise(1, 2, 1, 7)
    assert not losses.objective(targets, targets, waveforms, waveforms).any()


def test_multitask_loss_is_the_sum():
    assert float(losses.multitask(torch.tensor([1.0, 2.5, 4.0]))) == 7.5
