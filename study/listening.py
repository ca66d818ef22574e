"""Listening in a notebook: what a model makes of a song, and where it fails."""

import base64
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from bsrnn import checkpoint
from study import figures
from bsrnn.data import Track
from bsrnn.metrics import error_per_second, usdr
from bsrnn.separate import separate

AROUND = 1  # seconds before and after the one that is chosen
WHOLE = -1  # in place of a second


class Listening:
    """A form to pick a track, a model and a source, and to hear target, estimate and error, in whole or around the
    seconds of largest error.

    As the value of a notebook's cell it is a form in JupyterLab. Where nobody can fill it in (papermill, nbval) it is
    plain HTML that shows the first choice.

    Args:
        tracks: songs with their stems.
        checkpoints: name -> folder of a model, which is loaded when it is chosen.
        worst: how many seconds to offer.
    """

    def __init__(self, tracks: Sequence[Track], checkpoints: Mapping[str, Path], worst: int = 5):
        import ipywidgets  # which only this needs

        self.tracks, self.worst, self._busy = {track.name: track for track in tracks}, worst, False
        self._load = lru_cache(2)(lambda model: checkpoint.load(checkpoints[model]))
        self._estimates = lru_cache(2)(self._separate)  # two, to go back and forth between models
        offers = {"track": list(self.tracks), "model": list(checkpoints), "source": [], "where": []}
        choices = [ipywidgets.Dropdown(options=options, description=name, layout={"width": "40em"})
                   for name, options in offers.items()]  # fmt: skip
        self.track, self.model, self.source, self.second = choices
        self.view = ipywidgets.HTML()
        self.form = ipywidgets.VBox([*choices, self.view])
        self._update()
        for choice in choices:
            choice.observe(self._update, "value")

    def _separate(self, track: str, model: str) -> Mapping[str, Tensor]:
        song = self.tracks[track]
        return separate(self._load(model), song.read("mixture"), song.sample_rate)

    def _update(self, change: Mapping | None = None) -> None:
        """Offer the sources and seconds of a new choice, the worst second first, and show it."""
        if self._busy:  # the changes made below are no choices
            return
        self._busy = True
        try:
            if change is None or change["owner"] is not self.second:
                chosen, sources = self.source.value, self._load(self.model.value).config.sources
                self.source.options = sources
                self.source.value = chosen if chosen in sources else sources[0]
                errors = self.errors()
                seconds = [(f"{figures.clock(second)}, error {errors[second]:.1f} dB", second)
                           for second in figures.worst_seconds(errors, self.worst)]  # fmt: skip
                self.second.options = [*seconds, ("the whole song", WHOLE)]
                self.second.index = 0
            self.view.value = self._html()
        finally:
            self._busy = False

    def _pair(self) -> tuple[Tensor, Tensor]:
        """The chosen target and its estimate, (C, L) each."""
        target = self.tracks[self.track.value].read(self.source.value)
        return target, self._estimates(self.track.value, self.model.value)[self.source.value]

    def errors(self) -> list[float]:
        """`metrics.error_per_second` of the choice."""
        return error_per_second(*self._pair(), self.tracks[self.track.value].sample_rate).tolist()

    def heard(self) -> dict[str, Tensor]:
        """Target, estimate and error at the chosen place: (C, L) each, at the track's sample rate."""
        target, estimate = self._pair()
        second, rate = self.second.value, self.tracks[self.track.value].sample_rate
        place = slice(max(0, second - AROUND) * rate, (second + 1 + AROUND) * rate) if second != WHOLE else slice(None)
        sounds = {"target": target, "estimate": estimate, "error": target - estimate}
        return {name: sound[:, place] for name, sound in sounds.items()}

    def _html(self) -> str:
        track, source = self.tracks[self.track.value], self.source.value
        title = f"{source} of {track.name} by {self.model.value}: uSDR {usdr(*self._pair()):.2f} dB"
        picture = figures.error_over_time({source: self.errors()}, self.worst)._repr_png_()
        place = ("" if self.second.value == WHOLE else "Around ") + self.second.label
        parts = [f"<p><b>{title}</b></p>", '<img style="max-width: 100%" src="data:image/png;base64,',
                 f'{base64.b64encode(picture).decode()}"><p>{place}:</p>']  # fmt: skip
        for name, sound in self.heard().items():
            parts.append(f"<p>{name}<br>{figures.player(sound.numpy(), track.sample_rate)._repr_html_()}</p>")
        return "".join(parts)

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        # Jupyter Server sets the variable for kernels that have a front end
        display(self.form if "JPY_SESSION_NAME" in os.environ else HTML(self.view.value))
