"""A model over the songs of a split, as a tidy table of scores."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from bsrnn.data import Track, check_sources
from bsrnn.metrics import bootstrap_interval, csdr, usdr
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
        one row per track, source and metric (uSDR, cSDR in dB; NaN where the source is silent).
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
    scores = {"uSDR": usdr(references, estimates), "cSDR": csdr(references, estimates, track.sample_rate)}
    return [
        {"source": source, "track": track.name, "metric": metric, "value": float(value)}
        for metric, values in scores.items()
        for source, value in zip(sources, values, strict=True)
    ]


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of score rows: first over tracks (NaN left out), then over runs.

    Returns:
        a row per split, experiment (or trivial estimate), base_source, source and schema, with columns uSDR and cSDR in
        dB, the number of runs, and of tracks in which the source sounds.
    """
    cell = ["split", "experiment", "base_source", "source", "schema"]
    named = scores.assign(experiment=scores["experiment"].where(scores["experiment"] != "baseline", scores["run"]))
    runs = named.groupby([*cell, "run", "metric"])["value"].agg(["mean", "count"])
    table = runs["mean"].groupby([*cell, "metric"]).mean().unstack("metric")[["uSDR", "cSDR"]]
    counts = runs.xs("uSDR", level="metric")["count"].groupby(cell).agg(["size", "max"])
    return table.assign(runs=counts["size"], tracks=counts["max"]).rename_axis(columns=None).reset_index()


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """The summary of models' uSDR beside the better trivial estimate of each source, and the gain over it, in dB."""
    table = summary(scores)
    trivial = table["experiment"].isin(["mixture", "silence"])
    best = table[trivial].groupby(["split", "source"])["uSDR"].max().rename("trivial")
    models = table[~trivial].join(best, on=["split", "source"])
    return models.assign(gain=models["uSDR"] - models["trivial"]).reset_index(drop=True)


def paired_differences(scores: pd.DataFrame, schema: str, other: str) -> pd.DataFrame:
    """uSDR of one schema minus another's, paired by track: the mean over tracks with its 95% interval, in dB.

    Runs of the same cell are averaged per track first; the number of runs behind either side stands in `runs`.
    """
    cell = ["split", "experiment", "base_source", "source"]
    chosen = scores[(scores["metric"] == "uSDR") & scores["schema"].isin([schema, other])]
    pairs = chosen.groupby([*cell, "track", "schema"])["value"].mean().unstack("schema")
    pairs = pairs.reindex(columns=[schema, other])
    difference = (pairs[schema] - pairs[other]).dropna()
    counts = chosen.groupby([*cell, "schema"])["run"].nunique().groupby(cell).min()
    rows = []
    for key, values in difference.groupby(cell):
        low, high = bootstrap_interval(values.to_numpy())
        rows.append({**dict(zip(cell, key, strict=True)), "difference": values.mean(), "low": low, "high": high,
                     "runs": counts[key], "tracks": len(values)})  # fmt: skip
    return pd.DataFrame(rows)
