"""What tables of scores say, and how sure it is: means over tracks and runs, paired differences, their support.

Functions of score rows as `evaluate.evaluate` makes them (columns `records.SCORE_COLUMNS`); no model is needed.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import rankdata, wilcoxon

CELL = ("split", "experiment", "base_source", "source", "schema")  # what the runs of one cell have in common
DRAWS = 2_000  # of a bootstrap
LEVEL = 0.05  # of a test


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of score rows: first over tracks (NaN left out), then over runs.

    Returns:
        a row per split, experiment (or trivial estimate), base_source, source and schema, with columns uSDR and cSDR in
        dB, the number of runs, and of tracks in which the source sounds.
    """
    named = scores.assign(experiment=scores["experiment"].where(scores["experiment"] != "baseline", scores["run"]))
    runs = named.groupby([*CELL, "run", "metric"])["value"].agg(["mean", "count"])
    table = runs["mean"].groupby([*CELL, "metric"]).mean().unstack("metric")[["uSDR", "cSDR"]]
    counts = runs.xs("uSDR", level="metric")["count"].groupby(list(CELL)).agg(["size", "max"])
    return table.assign(runs=counts["size"], tracks=counts["max"]).rename_axis(columns=None).reset_index()


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """The summary of models' uSDR beside the better trivial estimate of each source, and the gain over it, in dB."""
    table = summary(scores)
    trivial = table["experiment"].isin(["mixture", "silence"])
    best = table[trivial].groupby(["split", "source"])["uSDR"].max().rename("trivial")
    models = table[~trivial].join(best, on=["split", "source"])
    return models.assign(gain=models["uSDR"] - models["trivial"]).reset_index(drop=True)


def paired_differences(
    scores: pd.DataFrame, one: Mapping[str, str], other: Mapping[str, str], metric: str = "uSDR"
) -> pd.DataFrame:
    """What cells of one kind score more than the same cells of another kind, on the same tracks.

    Args:
        scores: rows; those of several seeds are runs of one cell.
        one, other: what tells the two kinds apart, such as {"schema": "generic"} and {"schema": "v7"}: columns of
            `CELL`, the same in both. Cells agree in all other columns.
        metric: which.

    Returns:
        a row per pair of cells: the columns they agree in; `difference`, the mean over tracks and runs in dB, with its
        95% interval `low` to `high` from a bootstrap over tracks and runs; `effect`, the rank-biserial correlation of
        the tracks' differences, -1 to 1; `p`, of Wilcoxon's signed-rank test over tracks, by Holm's correction for all
        rows; `runs`, of the side that has fewer; `tracks`; and `better`, the name of the side that interval and
        test agree on, or "no support".
    """
    columns = list(one)
    agreed = [column for column in CELL if column not in columns]
    chosen = scores[scores["metric"] == metric]

    def cells(kind):
        rows = chosen[(chosen[columns] == pd.Series(kind)).all(axis=1)]
        return {key: cell.pivot_table("value", "run", "track") for key, cell in rows.groupby(agreed)}

    ours, theirs, rows = cells(one), cells(other), []
    for key in sorted(ours.keys() & theirs.keys()):
        tracks = ours[key].columns.intersection(theirs[key].columns)
        a, b = (side[key][tracks].dropna(axis=1) for side in (ours, theirs))
        tracks = a.columns.intersection(b.columns)
        if tracks.empty:
            continue
        a, b = a[tracks].to_numpy(), b[tracks].to_numpy()
        differences = a.mean(0) - b.mean(0)
        low, high = difference_interval(a, b)
        p = wilcoxon(differences).pvalue if differences.any() else 1.0
        rows.append([*key, differences.mean(), low, high, rank_biserial(differences), p, min(len(a), len(b)),
                     len(tracks)])  # fmt: skip
    table = pd.DataFrame(rows, columns=[*agreed, "difference", "low", "high", "effect", "p", "runs", "tracks"])
    table["p"] = holm(table["p"].to_numpy(float))
    supported = (table["p"] < LEVEL) & ((table["low"] > 0) | (table["high"] < 0))
    names = [" ".join(filter(None, kind.values())) for kind in (one, other)]
    table["better"] = np.where(supported, np.where(table["difference"] > 0, *names), "no support")
    return table


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval of the mean of some values (n,), by the percentiles of resampled means; always the same for the same
    values. NaN values are left out; a single value is its own interval."""
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    return difference_interval(values[None], np.zeros((1, len(values))))


def difference_interval(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """95% interval of the difference of two means over runs and tracks.

    Tracks are resampled together for both sides, which pairs them; runs, where a side has several, for each side. So
    the interval holds what other songs and other seeds would change; of a single run it cannot know the latter.

    Args:
        one, other: (runs, tracks), the same tracks.
    """
    draw = np.random.default_rng(0)
    tracks = draw.integers(one.shape[1], size=(DRAWS, 1, one.shape[1]))
    means = []
    for side in (one, other):
        runs = draw.integers(len(side), size=(DRAWS, len(side), 1))
        means.append(side[runs, tracks].mean((1, 2)))
    low, high = np.quantile(means[0] - means[1], (0.025, 0.975))
    return float(low), float(high)


def rank_biserial(differences: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation: the share of rank sums in favour minus that against, zeros left out. The
    effect size that belongs to Wilcoxon's signed-rank test (Kerby, 2014); 0 where nothing differs."""
    differences = np.asarray(differences, float)
    differences = differences[differences != 0]
    if not len(differences):
        return 0.0
    ranks = rankdata(np.abs(differences))
    return float((ranks * np.sign(differences)).sum() / ranks.sum())


def holm(p: np.ndarray) -> np.ndarray:
    """p values (n,), each corrected for being one of n (Holm, 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1)
    return corrected
