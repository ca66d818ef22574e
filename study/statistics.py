"""What score rows, see `results.load_scores`, say, and how sure it is: means, paired differences, and their support."""

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata, wilcoxon

CELL = ("split", "experiment", "learned", "source", "schema")  # what the runs of one cell have in common
DRAWS = 2_000  # of a bootstrap
LEVEL = 0.05  # of a test
POWER = 0.8  # of a study that is planned
LEAST_RUNS = 3  # of each side: fewer cannot tell what they are from lucky seeds
LEAST_TRACKS = 6  # of fewer, Wilcoxon's smallest p, 2 / 2^n, is above LEVEL
ANSWER = ("first", "second", "difference", "low", "high", "effect", "p", "runs", "tracks")  # see `paired_differences`
TRIVIAL = ("mixture", "silence")  # baselines that need no model; all others are oracles


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean uSDR and cSDR of score rows in dB: first over tracks (NaN left out), then over runs. A row per cell, or per
    baseline as an experiment, with the number of runs, and of tracks in which the source sounds, and `run`, their names
    as `joined`."""
    named = scores.assign(experiment=scores["experiment"].where(scores["experiment"] != "baseline", scores["run"]))
    runs = named.groupby([*CELL, "run", "metric"])["value"].agg(["mean", "count"])
    table = runs["mean"].groupby([*CELL, "metric"]).mean().unstack("metric")[["uSDR", "cSDR"]]
    counts = runs.xs("uSDR", level="metric")["count"].groupby(list(CELL)).agg(["size", "max"])
    table = table.assign(runs=counts["size"], tracks=counts["max"], run=named.groupby(list(CELL))["run"].agg(joined))
    return table.rename_axis(columns=None).reset_index()


def joined(runs: Iterable[str]) -> str:
    """The names of runs in one, as a shell takes it: base-v7-drums-{0,1} is base-v7-drums-0 and base-v7-drums-1."""
    names = sorted(set(runs))
    common = os.path.commonprefix(names)  # noqa: RUF071 - names are no paths
    return names[0] if len(names) == 1 else f"{common}{{{','.join(name[len(common) :] for name in names)}}}"


def gains(scores: pd.DataFrame) -> pd.DataFrame:
    """The `summary` of models, with their gain in uSDR over the better trivial estimate of each source, and the uSDR of
    the oracles that were scored, all in dB."""
    table, place = summary(scores), ["split", "source"]
    baselines = table[table["schema"] == ""].pivot(index=place, columns="experiment", values="uSDR")
    trivial = baselines.reindex(columns=TRIVIAL).max(axis=1).rename("trivial")
    oracles = baselines.drop(columns=list(TRIVIAL), errors="ignore")
    models = table[table["schema"] != ""].join(trivial, on=place).eval("gain = uSDR - trivial").join(oracles, on=place)
    return models.assign(run=models.pop("run")).reset_index(drop=True)


def agreed(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """The columns of `CELL` in which cells of two kinds that are compared are the same: all that neither kind names."""
    return [column for column in CELL if column not in one and column not in other]


def pairs(scores: pd.DataFrame, one: Mapping[str, str], other: Mapping[str, str]) -> dict[tuple, tuple]:
    """The uSDR, in dB, of cells of one kind and of the same cells of another: two tables (runs, tracks) of those tracks
    in which all runs have a score, by the columns in which the cells agree."""
    cells = [_of(scores[scores["metric"] == "uSDR"], kind).groupby(agreed(one, other)) for kind in (one, other)]
    ours, theirs = ({key: cell.pivot_table("value", "run", "track").dropna(axis=1) for key, cell in x} for x in cells)
    found = {key: ours[key].align(theirs[key], "inner", axis=1) for key in sorted(ours.keys() & theirs.keys())}
    return {key: sides for key, sides in found.items() if sides[0].size}


def _of(scores: pd.DataFrame, kind: Mapping[str, str]) -> pd.DataFrame:
    """The rows of one kind."""
    return scores[(scores[list(kind)] == pd.Series(kind, dtype=object)).all(axis=1)]


def paired_differences(scores: pd.DataFrame, one: Mapping[str, str], other: Mapping[str, str]) -> pd.DataFrame:
    """How much uSDR, in dB, cells of a kind, such as {"schema": "generic"}, gain over the same cells of another kind. A
    row per pair: the columns of `CELL` that neither kind names; `first` and `second`, the means over the tracks that
    both have; `difference`, with its 95% interval `low` to `high` by a bootstrap over tracks and runs; `effect`, the
    rank-biserial correlation of the tracks' differences, -1 to 1; `p`, of Wilcoxon's signed-rank test over tracks, each
    the mean of its runs; `runs`, of the side that has fewer; and `tracks`."""
    rows = []
    for key, sides in pairs(scores, one, other).items():
        a, b = (side.to_numpy() for side in sides)
        difference = a.mean(0) - b.mean(0)
        p = wilcoxon(difference).pvalue if difference.any() else 1.0
        means = (a.mean(), b.mean(), difference.mean(), *interval([(1, a), (-1, b)]))
        rows.append([*key, *means, rank_biserial(difference), p, min(len(a), len(b)), a.shape[1]])
    return pd.DataFrame(rows, columns=[*agreed(one, other), *ANSWER])


def comparisons(scores: pd.DataFrame, questions: Mapping[str, Iterable[Mapping]]) -> pd.DataFrame:
    """The rows of `paired_differences` for each question, by topic, see `study.runs`, that the scores can answer, with
    `topic`; `question`, such as "generic minus v7"; the columns of `CELL`, empty where the two sides differ; `p` by
    Holm's correction for the rows of a topic that have `LEAST_TRACKS` or more, as no others can have support; and
    `better`, the side that interval and test agree on where both have `LEAST_RUNS` or more, or "no support"."""
    answers = [
        paired_differences(_of(scores, question.get("where", {})), question["one"], question["other"]).assign(
            topic=topic, one=" ".join(question["one"].values()), other=" ".join(question["other"].values())
        )
        for topic, asked in questions.items()
        for question in asked
    ]
    table = pd.concat([answer for answer in answers if len(answer)] or answers, ignore_index=True)
    counted = table["tracks"] >= LEAST_TRACKS
    table.loc[counted, "p"] = table[counted].groupby("topic")["p"].transform(lambda p: holm(p.to_numpy(float)))
    supported = (table["p"] < LEVEL) & ((table["low"] > 0) | (table["high"] < 0)) & (table["runs"] >= LEAST_RUNS)
    table = table.assign(
        question=table["one"] + " minus " + table["other"],
        better=table["one"].where(table["difference"] > 0, table["other"]).where(supported, "no support"),
    )
    table = table.reindex(columns=["topic", "question", *CELL, *ANSWER, "better"], fill_value="")
    return table.fillna(dict.fromkeys(CELL, ""))


def trend(sides: Mapping[float, tuple[pd.DataFrame, pd.DataFrame]]) -> tuple[float, float, float]:
    """How a difference grows with a model's size, in dB for ten times the parameters, and its 95% interval: the slope
    by least squares over the logarithm of the parameters. `sides` are, by number of parameters, two or more, the scores
    of both, (runs, tracks) of the same tracks, see `pairs`."""
    centred = np.log10(list(sides)) - np.mean(np.log10(list(sides)))
    weights = centred / np.square(centred).sum()
    parts = [
        (sign * weight, side.to_numpy())
        for weight, pair in zip(weights, sides.values(), strict=True)
        for sign, side in zip((1, -1), pair, strict=True)
    ]
    return sum(weight * side.mean() for weight, side in parts), *interval(parts)


def detectable(one: np.ndarray, other: np.ndarray, tracks: int, runs: int, rows: int) -> float:
    """The difference in dB that a study of so many songs, and runs a side, would find in 80% of its repetitions, by a
    test that is corrected for so many rows, if it has the spread of these scores, (runs, tracks) of two runs or more;
    by the normal approximation."""
    songs = (one.mean(0) - other.mean(0)).var(ddof=1)
    luck = sum(side.mean(1).var(ddof=1) for side in (one, other))
    return float(norm.isf([LEVEL / rows / 2, 1 - POWER]).sum() * np.sqrt(songs / tracks + luck / runs))


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """95% interval of the mean of some values, (tracks,) or (runs, tracks), by the percentiles of resampled means; the
    same values always have the same. NaN values are left out; a single value is its own interval."""
    table = pd.DataFrame(np.atleast_2d(values)).dropna(axis=1, how="all")
    return interval([(1, table.fillna(table.mean()).to_numpy(float))]) if table.size else (np.nan, np.nan)


def interval(sides: Sequence[tuple[float, np.ndarray]]) -> tuple[float, float]:
    """95% interval of a sum of means, each times its weight, of scores (runs, tracks) of the same tracks: of a
    difference, weights are 1 and -1. Tracks are resampled together for all sides, which pairs them; runs, where there
    are several, for each side. So it holds what other songs and other seeds would change; of a single run it cannot
    know the latter. What resampling n runs understates, a variance smaller by (n - 1) / n, is made up for."""
    draw, count = np.random.default_rng(0), sides[0][1].shape[1]
    tracks, total = draw.integers(count, size=(DRAWS, 1, count)), np.zeros(DRAWS)
    for weight, side in sides:
        runs = draw.integers(len(side), size=(DRAWS, len(side), 1))
        mean = side.mean(0)[tracks[:, 0]].mean(1)
        luck = (side[runs, tracks].mean((1, 2)) - mean) * (len(side) / max(1, len(side) - 1)) ** 0.5
        total += weight * (mean + luck)
    return tuple(np.quantile(total, (0.025, 0.975)).tolist())


def rank_biserial(differences: np.ndarray) -> float:
    """Matched-pairs rank-biserial correlation: the share of rank sums in favour minus that against, zeros left out. The
    effect size that belongs to Wilcoxon's signed-rank test (Kerby, 2014); 0 where nothing differs."""
    differences = differences[differences != 0]
    ranks = rankdata(np.abs(differences))
    return float((ranks * np.sign(differences)).sum() / max(ranks.sum(), 1))


def holm(p: np.ndarray) -> np.ndarray:
    """p values (n,), each corrected for being one of n (Holm, 1979)."""
    stepped = np.maximum.accumulate(np.sort(p) * np.arange(len(p), 0, -1))
    return np.minimum(stepped, 1)[np.argsort(np.argsort(p))]
