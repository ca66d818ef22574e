import shutil
import warnings

import numpy as np
import pytest
import torch

from bsrnn.data import bundled_song
from bsrnn.metrics import csdr, csdr_frames, median, si_sdr, usdr


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


needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="museval needs the ffmpeg program to be imported")


def equals_museval(references, estimates, rate):
    """Frames and medians of csdr against museval.evaluate, which is what its eval_mus_track calls."""
    import museval

    pair = (signals.double().transpose(1, 2).numpy() for signals in (references, estimates))
    scores = museval.evaluate(*pair, rate, rate)[0]
    found = csdr_frames(references, estimates, rate).numpy()
    np.testing.assert_allclose(found, scores, atol=1e-6, rtol=0, equal_nan=True)
    with warnings.catch_warnings(action="ignore"):
        medians = np.nanmedian(scores, axis=1)
    np.testing.assert_allclose(csdr(references, estimates, rate).numpy(), medians, atol=1e-6, rtol=0, equal_nan=True)
    return found


# a filter of museval has 512 taps, and a frame must not be shorter
@needs_ffmpeg
@pytest.mark.parametrize(("seconds", "channels"), [(3.4, 2), (4, 1), (0.5, 1), (1, 2)])
def test_csdr_equals_museval(seconds, channels):
    rate = 1_500
    references = noise(2, channels, int(seconds * rate))
    errors = noise(2, channels, int(seconds * rate), seed=1)
    estimates = references + errors * torch.tensor([0.03, 0.6])[:, None, None]
    if seconds > 2:
        references[1, :, rate : 2 * rate] = 0  # museval leaves a frame with a silent source out, for every source
        if channels == 2:  # channels that cancel each other are silence to museval
            estimates[0, 1, :rate] = -estimates[0, 0, :rate]
    found = equals_museval(references, estimates, rate)
    assert np.isnan(found).any() == (seconds > 2)
    assert not np.isnan(found[:, -1]).any()


@needs_ffmpeg
def test_csdr_equals_museval_on_real_audio():
    mixture, stems, rate = bundled_song()
    references = torch.stack([stems["vocals"], stems["drums"]])[..., : int(2.2 * rate)]
    estimates = 0.8 * references + 0.1 * mixture[:, : references.shape[-1]]
    estimates[0, :, :rate] = 0
    found = equals_museval(references, estimates, rate)
    assert np.isnan(found[:, 0]).all() and np.isfinite(found[:, 1]).all()


def test_a_source_that_never_sounds_is_nothing_to_the_others():
    references, estimates = noise(3, 2, 350), noise(3, 2, 350, seed=1)
    expected = csdr_frames(references[:1], estimates[:1], 100)
    references[1], estimates[2] = 0, 0
    found = csdr_frames(references, estimates, 100)
    torch.testing.assert_close(found[:1], expected)
    assert found[1:].isnan().all()
    references[1, :, 310:] = 1  # it sounds in what is left over of a frame: museval then has every frame silent
    assert csdr_frames(references, estimates, 100).isnan().all()


@pytest.mark.parametrize("seed", range(10))
def test_median_equals_numpys(seed):
    draw = np.random.default_rng(seed)
    frames = draw.choice([1.0, 2.0, 4.0, np.inf, np.nan], (20, int(draw.integers(1, 7))))
    with warnings.catch_warnings(action="ignore"):
        np.testing.assert_array_equal(median(torch.from_numpy(frames)).numpy(), np.nanmedian(frames, axis=-1))
