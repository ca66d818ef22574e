import base64
import io
import re
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import checkpoint
from bsrnn.data import find_tracks
from bsrnn.metrics import usdr
from study.listening import WHOLE, Listening, energy_around, error_per_second, usdr_per_band

RATE = 8_000


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def form(identity, tiny, songs, tmp_path):
    """Two test songs of 4 s, of which the drums are loud in the third second of the first, and two models."""
    for number in (0, 1):
        for name in ("drums", "mixture"):
            file = songs / "test" / f"song {number}" / f"{name}.wav"
            samples = np.tile(soundfile.read(file)[0], (2, 1))
            samples[2 * RATE : 3 * RATE] *= 1 if number else 5
            soundfile.write(file, samples, RATE, subtype="FLOAT")
        for name in ("bass", "other", "vocals"):
            file = songs / "test" / f"song {number}" / f"{name}.wav"
            soundfile.write(file, np.tile(soundfile.read(file)[0], (2, 1)), RATE, subtype="FLOAT")
    checkpoint.save(identity(("drums", "bass"), sample_rate=RATE), tmp_path / "one")
    checkpoint.save(tiny(("vocals", "bass"), sample_rate=RATE), tmp_path / "two")
    return Listening(find_tracks(songs, "test"), {"one": tmp_path / "one", "two": tmp_path / "two"}, worst=3)


def played(form):
    """The sounds in the page, as they are decoded."""
    sounds = re.findall(r"data:audio/\w+;base64,([^\"]+)", form.view.value)
    return [soundfile.read(io.BytesIO(base64.b64decode(sound)))[0].T for sound in sounds]


def test_it_starts_at_the_worst_second(form):
    track = form.tracks["song 0"]
    bass, mixture = track.read("bass"), track.read("mixture")
    assert (form.track.value, form.model.value, form.source.value) == ("song 0", "one", "drums")
    form.source.value = "bass"  # of the identity model: its error is all else, the loud drums too
    assert form.second.value == 2 and form.second.label.startswith("0:02, error")
    np.testing.assert_allclose(form.errors(), error_per_second(bass, mixture, RATE), atol=1e-3)
    heard = form.heard()
    assert list(heard) == ["target", "estimate", "error"]
    torch.testing.assert_close(heard["target"], bass[:, RATE : 4 * RATE])
    torch.testing.assert_close(heard["error"], (bass - mixture)[:, RATE : 4 * RATE], atol=1e-4, rtol=0)
    assert "bass of song 0 by one" in form.view.value and "image/png" in form.view.value


def test_it_plays_what_is_heard(form):
    form.source.value = "bass"
    sounds = played(form)
    assert len(sounds) == 3
    for sound, heard in zip(sounds, form.heard().values(), strict=True):
        assert abs(sound.shape[-1] - heard.shape[-1]) < 3_000  # MP3 pads
        assert np.square(sound).sum() == pytest.approx(float(heard.clamp(-1, 1).square().sum()), rel=0.2)


def test_places(form):
    form.second.value = WHOLE
    assert all(sound.shape[-1] == 4 * RATE for sound in form.heard().values())
    assert "Around" not in form.view.value
    before = form.view.value
    form.second.value = next(second for _, second in form.second.options if second == 0)
    assert form.heard()["target"].shape[-1] == 2 * RATE  # nothing lies before the first second
    assert form.view.value != before and "Around 0:00" in form.view.value


def test_another_choice_offers_its_own_sources_and_seconds(form):
    form.source.value = "bass"
    before = form.second.options
    form.model.value = "two"
    assert form.source.options == ("vocals", "bass") and form.source.value == "bass"  # kept where it is known
    assert form.second.options != before and len(form.second.options) == 4
    form.track.value = "song 1"
    target = form.tracks["song 1"].read("bass")
    form.second.value = WHOLE
    torch.testing.assert_close(form.heard()["target"], target)
    form.source.value = "vocals"
    form.model.value = "one"
    assert form.source.value == "drums"
    assert "drums of song 1 by one" in form.view.value
    form.second.value = WHOLE
    mixture = form.tracks["song 1"].read("mixture")
    torch.testing.assert_close(form.heard()["estimate"], mixture, atol=1e-4, rtol=0)  # of the identity model


def test_a_silent_source_has_no_worst_second(form):
    form.tracks["song 0"].files["bass"][0].path.write_bytes(b"")
    file = form.tracks["song 0"].files["bass"][0].path
    soundfile.write(file, np.zeros((4 * RATE, 2)), RATE)
    form.source.value = "bass"
    assert form.second.options == (("the whole song", WHOLE),)


@pytest.mark.parametrize("server", [True, False])
def test_without_a_front_end_it_is_plain_html(form, monkeypatch, server):
    shown = []
    monkeypatch.setattr("study.listening.display", shown.append)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if server:
        monkeypatch.setenv("JPY_SESSION_NAME", "a notebook")
    form._ipython_display_()
    assert shown == [form.form] if server else shown[0].data == form.view.value


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


@pytest.mark.parametrize("n_fft", [16, 18])
def test_usdr_per_band_equals_its_definition(n_fft):
    length, ranges = 61, [(0, 2), (2, 3), (3, 7), (7, n_fft // 2 + 1)]
    s, estimate = noise(2, 2, length), noise(2, 2, length, seed=1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)

    def energies(signal):  # of all bins, those of negative frequency too
        padded = np.pad(signal, n_fft // 2)
        frames = [padded[start : start + n_fft] for start in range(0, length + 1, n_fft // 4)]
        return sum(np.abs(np.fft.fft(window * frame)) ** 2 for frame in frames)

    for source in range(2):
        signal, error = (sum(energies(channel) for channel in x[source].numpy()) for x in (s, s - estimate))
        bins = [[k for k in range(n_fft) if low <= min(k, n_fft - k) < high] for low, high in ranges]
        expected = [10 * np.log10(signal[band].sum() / error[band].sum()) for band in bins]
        np.testing.assert_allclose(usdr_per_band(s, estimate, ranges, n_fft)[source], expected, atol=1e-4)


def test_usdr_of_all_bands_together_is_usdr():
    s, estimate = noise(3, 2, 4000), noise(3, 2, 4000, seed=1)
    for signal in (s, estimate):  # at the ends of a track, fewer windows overlap
        signal[..., :64], signal[..., -64:] = 0, 0
    torch.testing.assert_close(usdr_per_band(s, estimate, [(0, 33)], 64)[:, 0], usdr(s, estimate), atol=1e-4, rtol=0)


def test_a_band_without_energy_to_speak_of_has_no_usdr():
    time = torch.arange(4000) / 8000
    tone = (torch.sin(2 * torch.pi * 1000 * time) * torch.hann_window(4000))[None]
    low, at, high = usdr_per_band(tone, 0.9 * tone + 1e-4 * noise(1, 4000), [(0, 16), (16, 64), (64, 129)], 256)
    assert at == pytest.approx(20, abs=0.01)
    assert low.isnan() and high.isnan()
    assert usdr_per_band(0 * tone, tone, [(0, 129)], 256).isnan()


def test_error_per_second_says_what_costs_usdr():
    s, estimate = noise(2, 2, 350), noise(2, 2, 350, seed=1)
    estimate[0, :, 100:200] = s[0, :, 100:200]
    errors = error_per_second(s, estimate, 100)
    assert errors.shape == (2, 4) and errors[0, 1] == -torch.inf
    second = (s - estimate)[1, :, 200:300].square().sum() / (s[1].square().sum() / 3.5)
    assert float(errors[1, 2]) == pytest.approx(10 * np.log10(float(second)))
    torch.testing.assert_close((10 ** (errors / 10)).sum(-1) / 3.5, 10 ** (-usdr(s, estimate) / 10))
    assert error_per_second(0 * s, estimate, 100).isnan().all()
    s[:, :, :100] = 0
    assert error_per_second(s, estimate, 100).isfinite().all(1).tolist() == [False, True]  # in silence too
