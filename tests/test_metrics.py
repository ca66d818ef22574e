import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch

from bsrnn.metrics import csdr, csdr_frames, energy_around, si_sdr, usdr


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_usdr_closed_forms():
    s = noise(3, 2, 1000)
    torch.testing.assert_close(usdr(s, 0 * s), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(usdr(s, 0.9 * s), torch.full((3,), 20.0, dtype=torch.float64))
    torch.testing.assert_close(usdr(s, -s), torch.full((3,), -20 * np.log10(2), dtype=torch.float64))
    assert usdr(s, s).isinf().all()
    assert usdr(0 * s, s).isnan().all()
    assert usdr(0 * s, 0 * s).isnan().all()


def test_usdr_is_over_all_samples_and_channels():
    s = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    estimate = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert float(usdr(s, estimate)) == pytest.approx(10.0)


def test_si_sdr_ignores_scale_and_is_usdr_at_the_best_one():
    s, other = noise(3, 2, 1000), noise(3, 2, 1000, seed=1)
    estimate = 0.7 * s + 0.2 * other
    expected = torch.stack([usdr(s, a * estimate) for a in torch.linspace(0.5, 3, 2501)]).max(0).values
    # scaling the estimate instead of the reference adds 1 to the ratio
    ratio = 10 ** (si_sdr(s, estimate) / 10)
    torch.testing.assert_close(10 * torch.log10(ratio + 1), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(si_sdr(s, 5 * estimate), si_sdr(s, estimate))
    torch.testing.assert_close(si_sdr(3 * s, -estimate), si_sdr(s, estimate))
    assert (si_sdr(s, 0 * s) == -torch.inf).all()
    assert si_sdr(0 * s, s).isnan().all() and si_sdr(0 * s, 0 * s).isnan().all()
    assert (si_sdr(s, 2 * s) > 200).all()


def test_csdr_is_the_median_of_whole_frames():
    s = noise(1, 1, 350)
    estimate = s.clone()
    for frame, error in enumerate([0.1, 0.01, 0.5]):
        estimate[..., frame * 100 : frame * 100 + 100] *= 1 - error
    estimate[..., 300:] = 0  # a last part of a frame does not count
    torch.testing.assert_close(csdr_frames(s, estimate, 100)[0], torch.tensor([20.0, 40.0, 6.0206]).double())
    assert float(csdr(s, estimate, 100)) == pytest.approx(20)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        usdr(noise(1, 10), noise(1, 9))


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="museval needs the ffmpeg program to be imported")
@pytest.mark.parametrize(("seconds", "channels"), [(3.4, 2), (0.5, 1)])
def test_csdr_equals_museval(seconds, channels):
    import museval

    rate = 1_000
    references = noise(3, channels, int(seconds * rate))
    errors = noise(3, channels, int(seconds * rate), seed=1)
    estimates = references + 0.3 * errors * torch.linspace(0.1, 2, 3)[:, None, None]
    if seconds > 2:
        references[1, :, rate : 2 * rate] = 0  # museval leaves a frame with a silent source out, for every source
    # museval's filter has 512 taps and needs a frame longer than that; SDR does not depend on it
    scores = museval.metrics.bss_eval(
        references.transpose(1, 2).numpy(), estimates.transpose(1, 2).numpy(), window=rate, hop=rate,
        filters_len=16, framewise_filters=False, bsseval_sources_version=False, compute_permutation=False,
    )[0]  # fmt: skip
    np.testing.assert_allclose(csdr_frames(references, estimates, rate).numpy(), scores, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
def test_energy_around_equals_its_definition(seed):
    draw = np.random.default_rng(seed)
    period, bins = int(draw.integers(20, 200)), int(draw.integers(1, 6))
    reach = int(draw.integers(bins, period // 2 + 1))
    error = torch.from_numpy(draw.normal(size=(2, period * 7 + 3)))
    error[:, period * 2 - reach : period * 2 + reach] = 0  # a silent one
    expected = []
    for place in range(period, error.shape[1] - reach, period):
        window = [float(error[0, i] ** 2 + error[1, i] ** 2) for i in range(place - reach, place + reach)]
        edges = [round(2 * reach * k / bins) for k in range(bins + 1)]
        if any(window):
            expected.append([np.mean(window[a:b]) / np.mean(window) for a, b in pairwise(edges)])
    np.testing.assert_allclose(energy_around(error, period, reach, bins), expected, rtol=1e-9)
