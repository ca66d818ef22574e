import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from study.statistics import (
    bootstrap_interval,
    comparisons,
    detectable,
    gains,
    holm,
    interval,
    joined,
    paired_differences,
    pairs,
    rank_biserial,
    summary,
    trend,
)

GENERIC, V7 = {"schema": "generic"}, {"schema": "v7"}
FROM_DRUMS, FROM_BOTH = ({"experiment": "transfer", "learned": learned} for learned in ("drums", "drums+bass"))
QUESTIONS = {
    "schemas": [
        {"one": GENERIC, "other": V7},
        {"one": {"schema": "joint"}, "other": V7},
        {"one": {"schema": "joint"}, "other": GENERIC},
    ],
    "transfer": [
        {"one": FROM_DRUMS, "other": {"experiment": "scratch"}},
        {"one": FROM_DRUMS, "other": {"experiment": "base"}, "where": {"schema": "generic"}},
        {"one": FROM_BOTH, "other": FROM_DRUMS},
    ],
    "multitask": [{"one": {"experiment": "multitask", "learned": "drums+bass"}, "other": {"experiment": "base"}}],
}


def table(rows, **common):
    """Score rows of (run, track, value)."""
    defaults = {"experiment": "base", "schema": "v7", "learned": "bass", "source": "bass", "split": "test", "seed": 0}
    return pd.concat(
        [
            pd.DataFrame(rows, columns=["run", "track", "value"]).assign(metric=metric, **(defaults | common))
            for metric in ("uSDR", "cSDR")
        ],
        ignore_index=True,
    )


def test_summary_is_the_mean_over_tracks_then_over_runs():
    scores = table(
        [("a", "x", 1.0), ("a", "y", 3.0), ("a", "z", 4.0), ("b", "x", 5.0), ("b", "y", np.nan), ("b", "z", 8.0)]
    )
    scores.loc[scores["metric"] == "cSDR", "value"] += 1
    (row,) = summary(scores).to_dict("records")
    assert row["uSDR"] == pytest.approx(((1 + 3 + 4) / 3 + (5 + 8) / 2) / 2)
    assert row["cSDR"] == pytest.approx(row["uSDR"] + 1)
    assert (row["runs"], row["tracks"], row["run"]) == (2, 3, "{a,b}")
    kind = {"split": "test", "experiment": "base", "learned": "bass", "source": "bass", "schema": "v7"}
    assert {name: row[name] for name in kind} == kind


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["base-v7-drums-0"] * 2, "base-v7-drums-0"),
        (["base-v7-drums-1", "base-v7-drums-0"], "base-v7-drums-{0,1}"),
        (["v7-9", "v7-10", "v7-11"], "v7-{10,11,9}"),
        (["v7-10", "v7-11"], "v7-1{0,1}"),
    ],
)
def test_names_of_runs_are_joined_as_a_shell_takes_them_apart(names, expected):
    assert joined(names) == expected
    if shutil.which("bash"):
        echoed = subprocess.run(["bash", "-c", f"echo {expected}"], capture_output=True, text=True, check=True).stdout
        assert sorted(echoed.split()) == sorted(set(names))


@pytest.mark.parametrize("column", ["split", "experiment", "learned", "source", "schema"])
def test_summary_never_mixes_cells(column):
    scores = pd.concat([table([("a", "x", 1.0)]), table([("b", "x", 3.0)], **{column: "drums"})])
    assert sorted(summary(scores)["uSDR"]) == [1, 3]


def test_a_source_that_is_silent_in_all_songs_has_no_mean():
    (row,) = summary(table([("a", "x", np.nan)])).to_dict("records")
    assert np.isnan(row["uSDR"])
    assert (row["runs"], row["tracks"]) == (1, 0)


def test_gain_is_over_the_better_trivial_estimate():
    trivial = {"experiment": "baseline", "schema": ""}
    scores = pd.concat(
        [
            table([("a", "x", 2.0), ("a", "y", 4.0)]),
            table([("b", "x", 6.0)], source="drums"),
            table([("mixture", "x", -4.0), ("mixture", "y", -2.0)], **trivial),
            table([("silence", "x", 0.0), ("silence", "y", 0.0)], **trivial),
            table([("mixture", "x", 1.5), ("silence", "x", 0.0)], source="drums", **trivial),
            table([("mixture", "x", 100.0)], split="validation", **trivial),
            table([("IRM", "x", 8.0), ("IRM", "y", 10.0)], **trivial),
        ]
    )
    assert gains(scores[scores["run"] != "IRM"]).columns[-5:].tolist() == ["runs", "tracks", "trivial", "gain", "run"]
    found = gains(scores).set_index("source")
    assert found["IRM"].loc["bass"] == 9 and np.isnan(found["IRM"].loc["drums"])
    assert found["run"].to_dict() == {"bass": "a", "drums": "b"}
    assert set(found["experiment"]) == {"base"}
    assert found["uSDR"].to_dict() == {"bass": 3, "drums": 6}
    assert found["trivial"].to_dict() == {"bass": 0, "drums": 1.5}
    assert found["gain"].to_dict() == {"bass": 3, "drums": 4.5}


def test_paired_differences():
    scores = pd.concat(
        [
            table([("g0", "x", 1.0), ("g0", "y", 6.0), ("g0", "z", 9.0)], **GENERIC),
            table([("g1", "x", 3.0), ("g1", "y", 8.0)], **GENERIC),
            table([("v0", "x", 1.5), ("v0", "y", 2.0), ("v0", "z", np.nan)]),
            table([("w0", "x", -50.0)], schema="v1"),  # takes no part
        ]
    )
    (row,) = paired_differences(scores, GENERIC, V7).to_dict("records")
    assert (row["first"], row["second"]) == ((1 + 3 + 6 + 8) / 4, (1.5 + 2.0) / 2)  # of tracks x and y
    assert row["difference"] == pytest.approx(row["first"] - row["second"])
    # of two tracks and two runs, an end of the interval is any pair, runs stretched by the root of 2 / (2 - 1)
    assert (row["low"], row["high"]) == pytest.approx((0.5 - 2**0.5, 5 + 2**0.5))
    assert (row["runs"], row["tracks"]) == (1, 2)
    (turned,) = paired_differences(scores, V7, GENERIC).to_dict("records")
    assert turned["difference"] == -row["difference"]
    assert (turned["low"], turned["high"]) == pytest.approx((-row["high"], -row["low"]))


def test_paired_differences_are_of_usdr_and_per_cell():
    scores = pd.concat(
        [
            table([("g", "x", value)], schema="generic", source=source, experiment=experiment)
            for source, experiment, value in (("bass", "base", 3.0), ("drums", "base", 5.0), ("bass", "transfer", 7.0))
        ]
        + [
            table([("v", "x", 1.0)], source=source, experiment=experiment)
            for source in ("bass", "drums")
            for experiment in ("base", "transfer")
        ]
    )
    scores.loc[scores["metric"] == "cSDR", "value"] = 1000.0
    found = paired_differences(scores, GENERIC, V7).set_index(["experiment", "source"])["difference"]
    assert found.to_dict() == {("base", "bass"): 2, ("base", "drums"): 4, ("transfer", "bass"): 6}


def test_schemas_without_common_tracks_have_no_difference():
    scores = pd.concat([table([("g", "x", 1.0)], schema="generic"), table([("v", "y", 1.0)])])
    assert paired_differences(scores, GENERIC, V7).empty
    assert paired_differences(scores, GENERIC, {"schema": "v1"}).empty


def test_kinds_may_differ_in_several_columns():
    scores = pd.concat(
        [
            table([("t", "x", 3.0), ("t", "y", 4.0)], experiment="transfer", learned="drums"),
            table([("u", "x", 9.0)], experiment="transfer", learned="vocals"),
            table([("b", "x", 1.0), ("b", "y", 1.0)]),
        ]
    )
    transfer = {"experiment": "transfer", "learned": "drums"}
    (row,) = paired_differences(scores, transfer, {"experiment": "base"}).to_dict("records")
    assert row["difference"] == 2.5
    assert row["source"] == "bass" and row["schema"] == "v7"


def test_pairs_are_of_the_tracks_that_all_runs_have():
    scores = pd.concat(
        [
            table([("g0", "x", 1.0), ("g0", "y", 2.0), ("g1", "x", 3.0)], schema="generic"),
            table([("v0", "x", 4.0), ("v0", "y", 5.0)]),
        ]
    )
    ((key, (ours, theirs)),) = pairs(scores, GENERIC, V7).items()
    assert key == ("test", "base", "bass", "bass")
    assert ours.to_dict() == {"x": {"g0": 1, "g1": 3}} and theirs.to_dict() == {"x": {"v0": 4}}


@pytest.fixture
def study():
    """Scores of a whole study: what each experiment gains over a base, and a schema over V7, and noise."""
    draw, songs = np.random.default_rng(0), np.random.default_rng(1).normal(size=20)
    kinds = {
        ("base", "bass"): 0.0,
        ("scratch", "bass"): -1.0,
        ("multitask", "drums+bass"): 2.0,
        ("transfer", "drums"): 0.5,
        ("transfer", "drums+bass"): 1.5,
    }
    cells = [
        (*kind, schema, lift + gain)
        for kind, lift in kinds.items()
        for schema, gain in (("v7", 0.0), ("generic", 0.25))
    ] + [("base", "bass", "joint", -0.5)]
    models = [
        table(
            [
                (f"{experiment}-{base}-{schema}-{seed}", str(i), value + lift + 0.05 * draw.normal())
                for seed in range(3)
                for i, value in enumerate(songs)
            ],
            experiment=experiment,
            learned=base,
            schema=schema,
        )
        for experiment, base, schema, lift in cells
    ]
    silence = table([("silence", str(i), 0.0) for i in range(20)], experiment="baseline", schema="")
    return pd.concat([*models, silence])


def test_the_questions_of_the_study_and_their_answers(study):
    found = comparisons(study, QUESTIONS).set_index(["question", "experiment", "learned", "schema"])
    expected = {
        "generic minus v7": 0.25,
        "joint minus v7": -0.5,
        "joint minus generic": -0.75,
        "transfer drums minus scratch": 1.5,
        "transfer drums minus base": 0.5,
        "transfer drums+bass minus transfer drums": 1.0,
        "multitask drums+bass minus base": 2.0,
    }
    assert list(dict.fromkeys(found.index.get_level_values("question"))) == list(expected)
    for question, difference in expected.items():
        answer = found.loc[question]
        # of schemas: a row per experiment and base; of trainings: per schema
        counts = {"generic minus v7": 5, "joint minus v7": 1, "joint minus generic": 1, "transfer drums minus base": 1}
        assert len(answer) == counts.get(question, 2)
        np.testing.assert_allclose(answer["difference"], difference, atol=0.05)
        one, other = question.split(" minus ")
        assert set(answer["better"]) == {one if difference > 0 else other}
    assert set(found["runs"]) == {3} and set(found["tracks"]) == {20}
    assert found.loc["joint minus v7"].index.tolist() == [("base", "bass", "")]
    assert found.loc["transfer drums minus base"].index.tolist() == [("", "", "generic")]  # as asked


def test_p_is_corrected_for_the_rows_of_a_topic_that_can_have_support(study):
    noisy = study.assign(value=study["value"] + np.random.default_rng(2).normal(scale=3, size=len(study)))
    few = cells(1 + 0.1 * np.random.default_rng(3).normal(size=5), runs=3, source="vocals")
    every, p = comparisons(pd.concat([noisy, few]), QUESTIONS), {}
    for topic, asked in QUESTIONS.items():
        for question in asked:
            rows = noisy if "where" not in question else noisy[noisy["schema"] == "generic"]
            p.setdefault(topic, []).extend(paired_differences(rows, question["one"], question["other"])["p"])
    assert {topic: len(rows) for topic, rows in p.items()} == {"schemas": 7, "transfer": 5, "multitask": 2}
    enough = every[every["source"] == "bass"]
    for topic, values in p.items():
        assert enough.loc[enough["topic"] == topic, "p"].tolist() == holm(np.array(values)).tolist()
    (row,) = every[every["source"] == "vocals"].to_dict("records")
    assert (row["topic"], row["p"], row["better"]) == ("schemas", 2 / 2**5, "no support")


def test_a_study_without_pairs_has_no_answers(study):
    found = comparisons(study.query("schema == 'v7' and experiment == 'base'"), QUESTIONS)
    assert found.empty and list(found)[:3] == ["topic", "question", "split"]


def cells(differences, runs=3, source="bass"):
    """Rows of two schemas that differ by so much on tracks 0, 1, ... in every run."""
    scores = []
    for schema, sign in (("generic", 1), ("v7", -1)):
        for run in range(runs):
            rows = [(f"{schema}{run}", str(i), sign * value / 2) for i, value in enumerate(differences)]
            scores.append(table(rows, schema=schema, source=source))
    return pd.concat(scores)


def test_a_difference_is_told_where_it_has_support_only():
    draw = np.random.default_rng(0)
    clear, none, few = 1 + 0.1 * draw.normal(size=20), draw.normal(size=20), 1 + 0.1 * draw.normal(size=4)
    scores = pd.concat(
        [cells(clear), cells(-clear, source="drums"), cells(none, source="other"), cells(few, source="vocals")]
    )
    found = comparisons(scores, QUESTIONS).set_index("source")
    assert found["better"].sort_index().tolist() == ["generic", "v7", "no support", "no support"]
    assert found["effect"].round(6).loc[["bass", "drums", "vocals"]].tolist() == [1, -1, 1]
    assert found.loc["vocals", "low"] > 0  # the interval alone would have told; four songs are too few for the test
    p = [wilcoxon(values).pvalue for values in (clear, clear, none)]
    np.testing.assert_allclose(found.loc[["bass", "drums", "other"], "p"], holm(np.array(p)))


@pytest.mark.parametrize("runs", [1, 2])
def test_of_too_few_runs_no_difference_is_told(runs):
    clear = 1 + 0.1 * np.random.default_rng(0).normal(size=20)
    (row,) = comparisons(cells(clear, runs), QUESTIONS).to_dict("records")
    assert row["low"] > 0 and row["p"] < 0.01 and row["better"] == "no support"


def test_nothing_differs():
    (row,) = comparisons(cells(np.zeros(6)), QUESTIONS).to_dict("records")
    assert (row["difference"], row["low"], row["high"], row["effect"], row["p"]) == (0, 0, 0, 0, 1)
    assert row["better"] == "no support"


# the luck of a run and what a song has of its own for each side, in dB: of the open study in the last two
@pytest.mark.parametrize(
    ("runs", "songs", "luck", "own", "least"),
    [(3, 30, 0.5, 0.3, 0.8), (10, 30, 0.5, 0.3, 0.88), (3, 15, 0.12, 0.5, 0.9), (2, 15, 0.12, 0.5, 0.86)],
)
def test_intervals_hold_the_mean_as_often_as_they_say(runs, songs, luck, own, least):
    draw, held = np.random.default_rng(1), 0
    for _ in range(200):
        seeds = luck * draw.normal(size=(2, runs, 1))
        same, sides = draw.normal(size=(1, 1, songs)), own * draw.normal(size=(2, 1, songs))
        one, other = same + sides + seeds + 0.3 * draw.normal(size=(2, runs, songs))
        low, high = interval([(1, one + 1), (-1, other)])
        held += low <= 1 <= high
    assert least <= held / 200 <= 0.99


def sized(draw, slope, runs=3, songs=20, spread=0.1):
    """Both sides for three numbers of parameters, whose difference grows by so much for ten times as many."""
    own = draw.normal(size=songs)
    return {
        10**power: tuple(
            pd.DataFrame(own + sign * slope * power / 2 + spread * draw.normal(size=(runs, songs))) for sign in (1, -1)
        )
        for power in (5, 5.5, 6.5)
    }


def test_a_trend_is_the_slope_over_the_logarithm_of_the_parameters():
    draw, held = np.random.default_rng(4), 0
    for _ in range(100):
        sides = sized(draw, slope=0.4)
        found, low, high = trend(sides)
        means = [one.to_numpy().mean() - other.to_numpy().mean() for one, other in sides.values()]
        assert found == pytest.approx(np.polyfit(np.log10(list(sides)), means, 1)[0])
        assert low < found < high
        held += low <= 0.4 <= high
    assert held >= 85
    assert trend(sized(draw, slope=0.4, spread=1e-9)) == pytest.approx((0.4, 0.4, 0.4))


def test_what_is_detectable_is_found_in_four_of_five_studies():
    draw, found, songs, runs = np.random.default_rng(5), 0, 40, 5

    def sides(difference, songs, runs):
        same, own = draw.normal(size=(1, 1, songs)), 0.4 * draw.normal(size=(2, 1, songs))
        one, other = same + own + 0.1 * draw.normal(size=(2, runs, 1))
        return one + difference, other

    least = np.mean([detectable(*sides(0, 200, 50), songs, runs, rows=1) for _ in range(5)])
    assert least < np.mean([detectable(*sides(0, 200, 50), songs, runs, rows=4) for _ in range(5)])
    for _ in range(200):
        one, other = sides(least, songs, runs)
        found += wilcoxon(one.mean(0) - other.mean(0)).pvalue < 0.05
    assert 0.7 <= found / 200 <= 0.9


def test_an_interval_of_one_mean_is_that_of_a_difference_to_nothing():
    values = np.random.default_rng(2).normal(3, 1, 12)
    low, high = bootstrap_interval([*values, np.nan])
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values)
    assert bootstrap_interval([4.0]) == (4, 4)
    assert np.isnan(bootstrap_interval([np.nan])).all()


def test_an_interval_of_several_runs_is_wider():
    values = np.random.default_rng(3).normal(3, 1, 12)
    apart = np.stack([values - 2, values + 2])
    assert np.diff(bootstrap_interval(apart)) > 2 * np.diff(bootstrap_interval(values))
    assert bootstrap_interval([[1.0, np.nan], [2.0, np.nan]]) == bootstrap_interval([[1.0], [2.0]])
    (low, high), (without, _) = bootstrap_interval([[1.0, 4.0], [1.0, np.nan]]), bootstrap_interval([[1.0, 4.0]])
    assert (low, high) == (1, 4) and without == 1  # a run without a score of a track takes the others'


def test_holm():
    # by hand: 4 * 0.005, 3 * 0.01, 2 * 0.03 and 0.04, no smaller than the one before
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]
    assert len(holm(np.array([]))) == 0


@pytest.mark.parametrize("seed", range(5))
def test_rank_biserial_equals_wilcoxons_statistic(seed):
    values = np.random.default_rng(seed).normal(0.3, 1, 15)
    smaller = wilcoxon(values).statistic  # the smaller sum of ranks
    assert abs(rank_biserial(values)) == pytest.approx(1 - 2 * smaller / (15 * 16 / 2))
    assert rank_biserial(-values) == -rank_biserial(values)
