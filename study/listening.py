"""Listening in a notebook: what a model makes of a song, and where it fails."""

import base64
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import ipywidgets
import torch
from IPython.display import HTML, display
from torch import Tensor

from bsrnn import Separator
from bsrnn.data import Track
from bsrnn.metrics import paired, usdr
from bsrnn.spectral import stft
from study import figures

AUDIBLE = 1e-6  # of a track's energy: a band that holds less has none, as far as its SDR goes; our choice
AROUND, WHOLE = 1, -1  # seconds before and after the one that is chosen; what is chosen in place of one


class Listening:
    """A form to pick one of some tracks, a model by the name of its folder and a source, and to hear target, estimate
    and error, in whole or around the `worst` seconds. As the value of a notebook's cell it is a form in JupyterLab;
    where nobody can fill it in (papermill, nbval) it is plain HTML that shows the first choice."""

    def __init__(self, tracks: Sequence[Track], checkpoints: Mapping[str, Path], worst: int = 5):
        self.tracks, self.worst, self._busy = {track.name: track for track in tracks}, worst, Lock()
        self._load = lru_cache(2)(lambda name: Separator.from_pretrained(checkpoints[name], device="cpu", bf16=False))
        self._estimates = lru_cache(2)(  # two, to go back and forth between models
            lambda song, model: self._load(model)(song.read("mixture"), song.sample_rate, long=False)
        )
        offers = {"track": list(self.tracks), "model": list(checkpoints), "source": [], "where": []}
        choices = [
            ipywidgets.Dropdown(options=offers[name], description=name, layout={"width": "40em"}) for name in offers
        ]
        self.track, self.model, self.source, self.second = choices
        self.view = ipywidgets.HTML()
        self.form = ipywidgets.VBox([*choices, self.view])
        for choice in choices:
            choice.observe(self._update, "value")
        self._update({"owner": self.model})

    def _update(self, change: Mapping) -> None:
        """Offer the sources and seconds of a new choice, the worst second first, and show it."""
        if self._busy.locked():  # the changes made below are no choices
            return
        with self._busy:
            if change["owner"] is not self.second:
                chosen, self.source.options = self.source.value, self._load(self.model.value).sources
                self.source.value = chosen if chosen in self.source.options else self.source.options[0]
                errors = self.errors()
                worst = figures.worst_seconds(errors, self.worst)
                seconds = [(f"{figures.clock(second)}, error {errors[second]:.1f} dB", second) for second in worst]
                self.second.options = [*seconds, ("the whole song", WHOLE)]
                self.second.index = 0
            self.view.value = self._html()

    def _pair(self) -> tuple[Tensor, Tensor]:
        """The chosen target and its estimate, (C, L) each."""
        song = self.tracks[self.track.value]
        return song.read(self.source.value), self._estimates(song, self.model.value)[self.source.value]

    def errors(self) -> list[float]:
        """`error_per_second` of the choice."""
        return error_per_second(*self._pair(), self.tracks[self.track.value].sample_rate).tolist()

    def heard(self) -> dict[str, Tensor]:
        """Target, estimate and error at the chosen place: (C, L) each, at the track's sample rate."""
        second, rate = self.second.value, self.tracks[self.track.value].sample_rate
        place = slice(max(0, second - AROUND) * rate, (second + 1 + AROUND) * rate) if second != WHOLE else slice(None)
        target, estimate = (sound[:, place] for sound in self._pair())
        return {"target": target, "estimate": estimate, "error": target - estimate}

    def _html(self) -> str:
        track, source = self.tracks[self.track.value], self.source.value
        title = f"{source} of {track.name} by {self.model.value}: uSDR {usdr(*self._pair()):.2f} dB"
        picture = base64.b64encode(figures.error_over_time({source: self.errors()}, self.worst)._repr_png_()).decode()
        players = "".join(
            f"<p>{name}<br>{figures.player(sound.numpy(), track.sample_rate)._repr_html_()}</p>"
            for name, sound in self.heard().items()
        )
        return (
            f'<p><b>{title}</b></p><img style="max-width: 100%" src="data:image/png;base64,{picture}">'
            f"<p>{'' if self.second.value == WHOLE else 'Around '}{self.second.label}:</p>{players}"
        )

    def _ipython_display_(self) -> None:
        # Jupyter Server sets the variable for kernels that have a front end
        display(self.form if "JPY_SESSION_NAME" in os.environ else HTML(self.view.value))


def energy_around(error: Tensor, period: int, reach: int, bins: int) -> Tensor:
    """The energy of a signal (C, L) around every multiple of a period, over its mean there: what chunks do at their
    borders. Of `reach` samples on either side, at most half a period, in so many bins: (multiples, bins), each multiple
    with a mean of 1. Silent ones are left out."""
    power = error.double().square().sum(0)
    windows = power[period - reach :].unfold(0, 2 * reach, period)
    windows = windows[windows.any(1)]
    edges = [round(2 * reach * k / bins) for k in range(1, bins)]
    energies = [part.mean(1) for part in windows.tensor_split(edges, 1)]
    return torch.stack(energies, 1) / windows.mean(1, keepdim=True)


def usdr_per_band(references: Tensor, estimates: Tensor, ranges: Sequence[tuple[int, int]], n_fft: int) -> Tensor:
    """uSDR within ranges of frequency: of the energies that the bins of an STFT of `n_fft` samples hold there, over a
    whole track: (..., C, L) to (..., ranges) in dB. Ranges are half-open, of bins, as `BandSchema.bins` gives them; one
    of all bins gives uSDR, but for the track's ends. NaN where the reference has at most a millionth of its energy."""
    references, estimates = paired(references, estimates)
    spectra = (stft(signals, n_fft).abs().double() for signals in (references, references - estimates))
    bins = torch.stack([magnitudes.square().sum((-3, -1)) for magnitudes in spectra])  # (2, ..., F)
    bins[..., 1 : (n_fft + 1) // 2] *= 2  # bins of negative frequency; 0 Hz and Nyquist have none
    signal, noise = torch.stack([bins[..., low:high].sum(-1) for low, high in ranges], -1)
    return 10 * torch.log10(signal / noise).where(signal > AUDIBLE * bins[0].sum(-1, keepdim=True), torch.nan)


def error_per_second(references: Tensor, estimates: Tensor, sample_rate: int) -> Tensor:
    """Energy of the error in every second, over the reference's mean energy per second: what of the track costs uSDR.
    (..., C, L) to (..., seconds) in dB; the last one may be a part of a second. Unlike the SDR of a second it is known
    where the reference is silent, and there tells what leaks in. Its sum in energy, over the length in seconds, is the
    inverse of uSDR. A silent reference gives NaN, a second without error minus infinity."""
    references, estimates = paired(references, estimates)
    power = (references - estimates).square().sum(-2)
    seconds = torch.nn.functional.pad(power, (0, -power.shape[-1] % sample_rate)).unflatten(-1, (-1, sample_rate))
    mean = references.square().sum((-2, -1))[..., None] * sample_rate / references.shape[-1]
    return 10 * torch.log10(seconds.sum(-1) / mean).where(mean > 0, torch.nan)
