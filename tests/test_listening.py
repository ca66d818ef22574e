import base64
import io
import re

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import checkpoint
from bsrnn.data import find_tracks
from bsrnn.metrics import error_per_second
from study.listening import WHOLE, Listening

RATE = 8_000


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
