import numpy as np
import pandas as pd
import pytest
import soundfile

from bsrnn.data import STEMS, find_tracks
from bsrnn.evaluate import baselines, evaluate, gains, paired_differences, summary
from bsrnn.metrics import usdr
from bsrnn.records import SCORE_COLUMNS

KEY = ["source", "track", "metric"]


@pytest.fixture
def tracks(songs):
    return find_tracks(songs, "test")


def silence_stem(songs, number, stem):
    soundfile.write(songs / "test" / f"song {number}" / f"{stem}.wav", np.zeros((16_000, 2)), 8_000, subtype="FLOAT")


def values(scores):
    return scores.set_index(KEY)["value"].sort_index()


# scores of songs


def test_identity_model_scores_like_the_mixture(identity, tracks):
    found = evaluate(identity(STEMS, sample_rate=8_000), tracks, split="test")
    mixture = baselines(tracks, "test").query("run == 'mixture'")
    assert len(found) == 4 * 2 * 2
    pd.testing.assert_series_equal(values(found), values(mixture), atol=1e-4, rtol=0)


def test_silence_scores_zero_and_the_mixture_as_defined(tracks):
    scores = baselines(tracks, "test").query("metric == 'uSDR'")
    assert (scores.query("run == 'silence'")["value"] == 0).all()
    for track in tracks:
        for stem in STEMS:
            found = scores.query("run == 'mixture' and source == @stem and track == @track.name")["value"].item()
            assert found == pytest.approx(float(usdr(track.read(stem), track.read("mixture"))))


def test_a_silent_stem_scores_nan(identity, songs):
    silence_stem(songs, 0, "bass")
    scores = evaluate(identity(("bass", "drums"), sample_rate=8_000), find_tracks(songs, "test"), split="test")
    found = values(scores)
    assert np.isnan(found["bass", "song 0", "uSDR"])
    assert np.isnan(found["bass", "song 0", "cSDR"])
    assert found.drop(("bass", "song 0")).xs("uSDR", level="metric").notna().all()
    assert summary(scores).set_index("source")["tracks"].to_dict() == {"bass": 1, "drums": 2}


def test_rows_say_what_was_scored(tiny, songs):
    model = tiny(("drums", "bass"), sample_rate=8_000, schema="v3").train()
    details = {"run": "a run", "experiment": "transfer", "base_source": "vocals", "seed": 5}
    scores = evaluate(model, find_tracks(songs, "validation"), split="validation", **details)
    assert tuple(scores.columns) == SCORE_COLUMNS
    constant = scores[["run", "experiment", "schema", "base_source", "split", "seed"]].drop_duplicates()
    assert constant.values.tolist() == [["a run", "transfer", "v3", "vocals", "validation", 5]]
    assert set(scores["track"]) == {"song 0", "song 6"}
    assert len(scores) == 2 * 2 * 2
    assert not scores.duplicated(KEY).any()


def test_the_source_of_a_row_is_that_of_its_head(identity, tracks):
    one, other = (evaluate(identity(sources, sample_rate=8_000), tracks, split="test")
                  for sources in (("bass", "drums"), ("drums", "bass")))  # fmt: skip
    pd.testing.assert_series_equal(values(one), values(other))


# tables of scores, by hand


def table(rows, **common):
    """Score rows of (run, track, value)."""
    defaults = {"experiment": "base", "schema": "v7", "base_source": "", "source": "bass", "split": "test", "seed": 0}
    return pd.concat([pd.DataFrame(rows, columns=["run", "track", "value"]).assign(metric=metric, **(defaults | common))
                      for metric in ("uSDR", "cSDR")], ignore_index=True)  # fmt: skip


def test_summary_is_the_mean_over_tracks_then_over_runs():
    scores = table([("a", "x", 1.0), ("a", "y", 3.0), ("a", "z", 4.0), ("b", "x", 5.0), ("b", "y", np.nan),
                    ("b", "z", 8.0)])  # fmt: skip
    scores.loc[scores["metric"] == "cSDR", "value"] += 1
    (row,) = summary(scores).to_dict("records")
    assert row["uSDR"] == pytest.approx(((1 + 3 + 4) / 3 + (5 + 8) / 2) / 2)
    assert row["cSDR"] == pytest.approx(row["uSDR"] + 1)
    assert (row["runs"], row["tracks"]) == (2, 3)
    assert [row[name] for name in ("split", "experiment", "base_source", "source", "schema")] == [
        "test", "base", "", "bass", "v7",
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["split", "experiment", "base_source", "source", "schema"])
def test_summary_never_mixes_cells(column):
    scores = pd.concat([table([("a", "x", 1.0)]), table([("b", "x", 3.0)], **{column: "drums"})])
    assert sorted(summary(scores)["uSDR"]) == [1, 3]


def test_a_source_that_is_silent_in_all_songs_has_no_mean():
    (row,) = summary(table([("a", "x", np.nan)])).to_dict("records")
    assert np.isnan(row["uSDR"])
    assert (row["runs"], row["tracks"]) == (1, 0)


def test_gain_is_over_the_better_trivial_estimate():
    trivial = {"experiment": "baseline", "schema": ""}
    scores = pd.concat([
        table([("a", "x", 2.0), ("a", "y", 4.0)]), table([("b", "x", 6.0)], source="drums"),
        table([("mixture", "x", -4.0), ("mixture", "y", -2.0)], **trivial),
        table([("silence", "x", 0.0), ("silence", "y", 0.0)], **trivial),
        table([("mixture", "x", 1.5), ("silence", "x", 0.0)], source="drums", **trivial),
        table([("mixture", "x", 100.0)], split="validation", **trivial),
    ])  # fmt: skip
    found = gains(scores).set_index("source")
    assert set(found["experiment"]) == {"base"}
    assert found["uSDR"].to_dict() == {"bass": 3, "drums": 6}
    assert found["trivial"].to_dict() == {"bass": 0, "drums": 1.5}
    assert found["gain"].to_dict() == {"bass": 3, "drums": 4.5}


def test_paired_differences():
    scores = pd.concat([
        table([("g0", "x", 1.0), ("g0", "y", 6.0), ("g1", "x", 3.0), ("g1", "y", 8.0), ("g0", "z", 9.0)],
              schema="generic"),
        table([("v0", "x", 1.5), ("v0", "y", 2.0), ("v0", "z", np.nan)]),
        table([("w0", "x", -50.0)], schema="v1"),  # takes no part
    ])  # fmt: skip
    (row,) = paired_differences(scores, "generic", "v7").to_dict("records")
    assert row["difference"] == pytest.approx(((1 + 3) / 2 - 1.5 + (6 + 8) / 2 - 2.0) / 2)  # of tracks x and y
    assert (row["low"], row["high"]) == (0.5, 5)  # of two values, an end of the interval is either
    assert (row["runs"], row["tracks"]) == (1, 2)
    (turned,) = paired_differences(scores, "v7", "generic").to_dict("records")
    assert turned["difference"] == -row["difference"]
    assert (turned["low"], turned["high"]) == (-5, -0.5)


def test_paired_differences_are_of_usdr_and_per_cell():
    scores = pd.concat([table([("g", "x", value)], schema="generic", source=source, experiment=experiment)
                        for source, experiment, value in (("bass", "base", 3.0), ("drums", "base", 5.0),
                                                          ("bass", "transfer", 7.0))]
                       + [table([("v", "x", 1.0)], source=source, experiment=experiment)
                          for source in ("bass", "drums") for experiment in ("base", "transfer")])  # fmt: skip
    scores.loc[scores["metric"] == "cSDR", "value"] = 1000.0
    found = paired_differences(scores, "generic", "v7").set_index(["experiment", "source"])["difference"]
    assert found.to_dict() == {("base", "bass"): 2, ("base", "drums"): 4, ("transfer", "bass"): 6}


def test_schemas_without_common_tracks_have_no_difference():
    scores = pd.concat([table([("g", "x", 1.0)], schema="generic"), table([("v", "y", 1.0)])])
    assert paired_differences(scores, "generic", "v7").empty
    assert paired_differences(scores, "generic", "v1").empty
