import numpy as np
import pandas as pd
import pytest
import soundfile

from bsrnn.data import STEMS, find_tracks
from bsrnn.evaluate import baselines, evaluate
from bsrnn.metrics import usdr
from bsrnn.records import SCORE_COLUMNS
from bsrnn.statistics import summary

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
    assert len(found) == 4 * 2 * 3
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
    assert len(scores) == 2 * 2 * 3
    assert not scores.duplicated(KEY).any()


def test_the_source_of_a_row_is_that_of_its_head(identity, tracks):
    one, other = (evaluate(identity(sources, sample_rate=8_000), tracks, split="test")
                  for sources in (("bass", "drums"), ("drums", "bass")))  # fmt: skip
    pd.testing.assert_series_equal(values(one), values(other))
