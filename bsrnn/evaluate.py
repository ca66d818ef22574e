"""A model over the songs of a split, as a tidy table of scores."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from bsrnn.data import Track, check_sources
from bsrnn.metrics import csdr, si_sdr, usdr
from bsrnn.model import BSRNN
from bsrnn.records import SCORE_COLUMNS
from bsrnn.separate import separate


def evaluate(
    model: BSRNN, tracks: Sequence[Track], *, split: str, run: str = "", experiment: str = "", base_source: str = "",
    seed: int = 0, hop: float | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Separate every song and score every source the model knows.

    Args:
        model: to be scored.
        tracks: the songs.
        split: what the songs are, for the table.
        run, experiment, base_source, seed: what the model is, for the table.
        hop: between the starts of chunks, in seconds; None is half a chunk.

    Returns:
        one row per track, source and metric (uSDR, cSDR and SI-SDR in dB; NaN where the source is silent).
    """
    sources = model.config.sources
    check_sources(sources, tracks)
    model.eval()
    rows = []
    for track in tqdm(tracks, f"evaluating {run}", unit="song", delay=2, disable=None):
        estimates = separate(model, track.read("mixture"), track.sample_rate, hop=hop)
        rows += _rows(track, sources, torch.stack([estimates[source] for source in sources]))
    common = {"run": run, "experiment": experiment, "schema": model.config.schema, "base_source": base_source,
              "split": split, "seed": seed}  # fmt: skip
    return pd.DataFrame(rows).assign(**common)[list(SCORE_COLUMNS)]


def baselines(tracks: Sequence[Track], split: str) -> pd.DataFrame:
    """The scores of the two trivial estimates of every source: the mixture itself, and silence."""
    rows = []
    for track in tracks:
        mixture = track.read("mixture").expand(len(track.sources), -1, -1)
        for name, estimates in (("mixture", mixture), ("silence", torch.zeros_like(mixture))):
            rows += [{"run": name, **row} for row in _rows(track, track.sources, estimates)]
    common = {"experiment": "baseline", "schema": "", "base_source": "", "split": split, "seed": 0}
    return pd.DataFrame(rows).assign(**common)[list(SCORE_COLUMNS)]


def _rows(track: Track, sources: Sequence[str], estimates: Tensor) -> list[dict]:
    references = track.stems(sources)
    scores = {"uSDR": usdr(references, estimates), "cSDR": csdr(references, estimates, track.sample_rate),
              "SI-SDR": si_sdr(references, estimates)}  # fmt: skip
    return [
        {"source": source, "track": track.name, "metric": metric, "value": float(value)}
        for metric, values in scores.items()
        for source, value in zip(sources, values, strict=True)
    ]
