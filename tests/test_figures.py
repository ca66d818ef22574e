import colorsys
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest
from bsrnn.statistics import bootstrap_interval, comparisons
from matplotlib._pylab_helpers import Gcf
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bsrnn import plots
from bsrnn.bands import SCHEMA_NAMES, band_schema

matplotlib.use("Agg")

RATE, N_FFT = 44_100, 2048


def drawn(figure):
    """The figure, drawn as it is when saved."""
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    return figure


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text)).replace("\n", " ")


def hue(colour):
    """red, blue, or grey when a colour has little of any."""
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    names = {"red": hue < 0.09 or hue > 0.95, "blue": 0.52 < hue < 0.68}
    return "grey" if saturation < 0.1 else next((name for name, found in names.items() if found), "another")


def bars(ax):
    return [collection for collection in ax.collections if isinstance(collection, PolyCollection)]


def cell(experiment, base, source, schema, values, seed=0, split="test", metric="uSDR"):
    """Score rows of one run, or of a baseline if that is the experiment."""
    run = schema if experiment == "baseline" else f"{experiment}-{schema}-{base}-{source}-{seed}"
    fixed = {"run": run, "experiment": experiment, "schema": None if experiment == "baseline" else schema, "seed": seed}
    fixed |= {"base_source": base, "source": source, "split": split, "metric": metric}
    return pd.DataFrame([{**fixed, "track": f"song {i}", "value": value} for i, value in enumerate(values)])


@pytest.fixture
def scores():
    """Two cells of both schemas, one without V7, and the mixture far below."""
    return pd.concat(
        [
            cell("base", "", "drums", "v7", [1.0, 2.0, 6.0]),
            cell("base", "", "drums", "generic", [2.0, 4.0, 6.5]),
            cell("transfer", "drums", "bass", "generic", [0.5, 1.0, 3.0]),
            cell("multitask", "drums+bass", "drums", "v7", [2.0, 2.5, 5.0]),
            cell("multitask", "drums+bass", "drums", "generic", [2.0, 3.0, 5.5]),
            cell("baseline", None, "drums", "mixture", [-9.0, -8.0, -7.0]),
            cell("baseline", None, "drums", "silence", [0.0, 0.0, 0.0]),
            cell("baseline", None, "drums", "IRM", [6.0, 6.5, 7.0]),
            cell("baseline", None, "drums", "best", [19.0, 20.0, 21.0]),
            cell("baseline", None, "drums", "STFT", [70.0, 80.0, 90.0]),
        ],
        ignore_index=True,
    )


def means(ax):
    """schema -> (positions, means, intervals), as the error bars are drawn."""
    found = {}
    for container in ax.containers:
        line, _, (bars,) = container.lines
        intervals = np.array([segment[:, 1] for segment in bars.get_segments()])
        found[container.get_label()] = (line.get_xdata(), line.get_ydata(), intervals)
    return found


def test_schemas_draws_every_band_in_its_familys_colour():
    names = list(SCHEMA_NAMES)
    figure = drawn(plots.schemas([band_schema(name) for name in names], RATE, N_FFT))
    rows = bars(figure.axes[0])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    for name, row in zip(names, rows, strict=True):
        count = len(band_schema(name).bins(RATE, N_FFT))
        assert len(row.get_paths()) == count
        expected = {"v7": "red", "vocals": "red", "other": "red", "generic": "blue"}.get(name, "grey")
        assert {hue(colour) for colour in row.get_facecolor()[:, :3]} == {expected}
        assert len({tuple(colour) for colour in row.get_facecolor()}) == 2  # neighbours differ in shade
    counts = [int(text.get_text()) for text in figure.axes[0].texts if text.get_text().isdigit()]
    assert counts == [len(band_schema(name).bins(RATE, N_FFT)) for name in names]


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_440_hz_is_labelled_a4_where_the_frequency_axis_has_440_hz(rate):
    ax = drawn(plots.schemas([band_schema("v7")], rate, N_FFT)).axes[0]
    (top,) = ax.child_axes
    labels = dict(zip(top.get_xticks(), (label.get_text() for label in top.get_xticklabels()), strict=True))
    assert labels[440.0] == "A4" and labels[880.0] == "A5"
    assert ax.get_xlim() == (20, rate / 2) and ax.get_xscale() == "log"
    for note in labels:  # the same place on both axes
        assert top.transData.transform((note, 0))[0] == pytest.approx(ax.transData.transform((note, 0))[0])


def test_band_widths_are_those_of_the_schemas():
    pair = [band_schema("v7"), band_schema("generic")]
    semitones, bins = drawn(plots.band_widths(pair, RATE, N_FFT)).axes
    for schema, notes, counts, colour in zip(pair, semitones.lines, bins.lines, ("red", "blue"), strict=True):
        assert notes.get_ydata() == pytest.approx(schema.semitones())
        assert sum(counts.get_ydata()) == N_FFT // 2 + 1
        assert hue(notes.get_color()) == hue(counts.get_color()) == colour
        assert f"{schema.unevenness():.2f}" in notes.get_label()
        # the middle of a band, in notes, lies within it
        assert notes.get_xdata() == pytest.approx(np.sqrt(np.array(schema.edges[:-1]) * schema.edges[1:]))
    assert bins.get_yscale() == "log"


def test_collapse_hides_exactly_the_bands_without_a_bin():
    sizes = [512, 2048]
    schema = band_schema("generic")
    left, right = drawn(plots.collapse(schema, RATE, sizes)).axes
    counts = left.lines[1].get_xdata()
    for n_fft, row, count in zip(sizes, bars(right), counts, strict=True):
        centres = np.arange(n_fft // 2 + 1) * RATE / n_fft
        limits = [0, *schema.edges, np.inf]
        filled = [((centres >= low) & (centres < high)).any() for low, high in pairwise(limits)]
        assert [tuple(face[:3]) != (1, 1, 1) for face in row.get_facecolor()] == filled
        assert count == sum(filled) == len(schema.bins(RATE, n_fft))
    assert left.lines[0].get_xdata()[0] == len(schema.edges) + 1


def test_collapse_shows_several_schemas_each_in_its_colour():
    axes = drawn(plots.collapse([band_schema("v7"), band_schema("generic")], RATE, [1024])).axes
    assert [hue(ax.lines[1].get_color()) for ax in axes[::2]] == ["red", "blue"]


@pytest.mark.parametrize("sources", [["bass"], ["drums", "kazoo"]])
def test_learning_curve_draws_each_source(sources):
    history = pd.DataFrame({"epoch": [0, 1, 2], "step": [10, 20, 30], "train_loss": [3.0, 2.0, 1.0]})
    history["validation_loss"] = [3.5, np.nan, 2.5]
    for i, source in enumerate(sources):
        history[f"validation_usdr/{source}"] = [-1.0, i, 2.0]
    history["validation_usdr"] = history.filter(like="/").mean(axis=1)
    losses, usdr = drawn(plots.learning_curve(history)).axes
    lines = {line.get_label(): line for line in (*losses.lines, *usdr.lines)}
    assert list(lines["training"].get_ydata()) == [3, 2, 1]
    assert list(lines["validation"].get_xdata()) == [1, 3]  # joined over what is missing
    for source in sources:
        assert list(lines[source].get_ydata()) == list(history[f"validation_usdr/{source}"])
    assert ("mean over sources" in lines) == (len(sources) > 1)


def test_a_source_looks_the_same_alone_and_among_others():
    alone = pd.DataFrame({"epoch": [0], "train_loss": 1.0, "validation_loss": 1.0, "validation_usdr": 1.0})
    alone["validation_usdr/vocals"] = 1.0
    both = alone.rename(columns={"validation_usdr/vocals": "validation_usdr/drums"}).join(alone.iloc[:, -1:])
    first, second = (
        next(line for line in plots.learning_curve(history).axes[1].lines if line.get_label() == "vocals")
        for history in (alone, both)
    )
    assert (first.get_color(), first.get_marker()) == (second.get_color(), second.get_marker())


def test_comparison_has_a_group_per_cell_and_a_mean_per_schema(scores):
    figure = drawn(plots.usdr_comparison(scores))
    drums, bass = figure.axes
    assert [ax.get_title() for ax in (drums, bass)] == ["drums", "bass"]
    labels = [label.get_text().replace("\n", " ") for label in bass.get_xticklabels()]
    assert labels == ["base", "transfer drums", "multitask d+b"]
    shown = {"drums": means(drums), "bass": means(bass)}
    assert list(shown["drums"]) == ["v7", "generic"]
    for source, schema, groups in (("drums", "v7", [0, 2]), ("drums", "generic", [0, 2]), ("bass", "generic", [1])):
        x, y, intervals = shown[source][schema]
        assert [round(position) for position in x] == groups
        rows = scores[(scores["schema"] == schema) & (scores["source"] == source)]
        assert y == pytest.approx(rows.groupby("experiment", sort=False)["value"].mean().to_numpy())
        assert (intervals[:, 0] < y).all() and (y < intervals[:, 1]).all()
    assert shown["drums"]["v7"][0][0] < shown["drums"]["generic"][0][0]  # side by side
    lines = [container.lines[0] for container in drums.containers]
    assert [hue(line.get_color()) for line in lines] == ["red", "blue"]
    assert lines[0].get_marker() != lines[1].get_marker()


def test_comparison_draws_every_track_beside_its_mean(scores):
    axes = drawn(plots.usdr_comparison(scores)).axes
    lines = [line for ax in axes for line in ax.lines if line.get_markersize() == 4.5]
    points = sorted(value for line in lines for value in line.get_ydata())
    assert points == sorted(scores.loc[scores["experiment"] != "baseline", "value"])


def test_comparison_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = np.array([bootstrap_interval(rng.normal(3, 2, 40)) for _ in range(200)])
    assert 0.88 < np.mean((intervals[:, 0] < 3) & (3 < intervals[:, 1])) < 0.99
    assert np.diff(intervals).mean() == pytest.approx(2 * 1.96 * 2 / np.sqrt(40), rel=0.1)


def test_comparison_averages_seeds_per_track_first():
    # song 2 has no score with seed 1: averaging all rows alike would give 3.4
    table = pd.concat(
        [
            cell("base", "drums", "drums", "v7", [1.0, 2.0, 6.0], seed=0),
            cell("base", "drums", "drums", "v7", [3.0, 5.0, np.nan], seed=1),
        ]
    )
    figure = drawn(plots.usdr_comparison(table))
    assert means(figure.axes[0])["v7"][1] == pytest.approx([(2 + 3.5 + 6) / 3])
    points = [line for line in figure.axes[0].lines if line.get_markersize() == 4.5]
    shades = {line.get_color() for line in points if len(line.get_xdata())}
    assert len(shades) == 2 and {hue(shade) for shade in shades} == {"red"}
    assert "averaged per track first" in texts(figure)
    assert "tracks: 3, runs: 2" in texts(figure) and "1 undefined" in texts(figure)


def test_comparison_keeps_a_far_baseline_or_track_off_the_axis_and_says_so(scores):
    figure = drawn(plots.usdr_comparison(scores))
    assert figure.axes[0].get_ylim()[0] > -3
    assert texts(figure).count("mixture −8.0") == 1  # in the panel of drums
    assert "oracle IRM" in texts(figure) and "oracle IRM 6" not in texts(figure)  # within the axis
    assert texts(figure).count("▲ oracle best 20.0") == 1 and figure.axes[0].get_ylim()[1] < 10
    assert "STFT" not in texts(figure)  # which limits nothing
    near = scores.assign(value=scores["value"].clip(lower=-0.3))
    figure = drawn(plots.usdr_comparison(near))
    assert "mixture −" not in texts(figure) and "mixture" in texts(figure)
    # one of thirty tracks, so that the interval of the mean stays near
    figure = drawn(plots.usdr_comparison(cell("base", "drums", "drums", "v7", [*np.linspace(3, 5, 60), -40])))
    assert figure.axes[0].get_ylim()[0] > -5 and "1 below the axis" in texts(figure)


def test_comparison_shows_one_track_without_an_interval_and_other_metrics():
    base = ("base", "drums", "drums", "joint")
    table = pd.concat([cell(*base, [2.0], metric="cSDR"), cell(*base, [9.0], metric="uSDR")])
    figure = drawn(plots.usdr_comparison(table, "cSDR"))
    _, (mean,), (interval,) = means(figure.axes[0])["joint"]
    assert mean == 2 and list(interval) == [2, 2]
    assert "cSDR (dB)" in texts(figure)
    assert hue(figure.axes[0].containers[0].lines[0].get_color()) == "another"


def test_comparison_tells_sets_of_sources_learnt_together_apart():
    table = pd.concat([cell("multitask", base, "bass", "v7", [1.0, 2.0]) for base in ("bass+drums", "bass+other")])
    figure = drawn(plots.usdr_comparison(table))
    labels = figure.axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["multitask\nb+d", "multitask\nb+o"]
    assert "Initials: sources learned at once" in texts(figure)


def test_comparison_refuses_mixed_splits_and_tables_without_runs(scores):
    mixed = pd.concat([scores, cell("base", "drums", "drums", "v7", [1.0], split="validation")])
    with pytest.raises(ValueError, match="test and validation"):
        plots.usdr_comparison(mixed)
    for table in (scores[scores["experiment"] == "baseline"], scores[:0], scores.assign(value=np.nan)):
        with pytest.raises(ValueError, match="found 0"):
            plots.usdr_comparison(table)


def test_comparison_has_the_same_places_in_every_panel():
    table = pd.concat([cell("transfer", f"base {i}", source, "v7", [i, i + 1]) for i in range(9)
                       for source in ("drums", "other")[: 1 + i % 2]])  # fmt: skip
    drums, other = drawn(plots.usdr_comparison(table)).axes
    assert drums.get_xlim() == other.get_xlim() and drums.get_ylim() == other.get_ylim()
    assert means(drums)["v7"][1] == pytest.approx(np.arange(9) + 0.5)
    x, y, _ = means(other)["v7"]
    assert [round(place) for place in x] == [1, 3, 5, 7] and y == pytest.approx([1.5, 3.5, 5.5, 7.5])


def run(schema, seed, usdr, experiment="base", base="", source="drums", **settings):
    """A row of `records.load_runs`, validation uSDR by epoch."""
    history = [{"epoch": epoch, "validation_usdr": value} for epoch, value in enumerate(usdr)]
    row = {"run": f"{schema}-{seed}", "experiment": experiment, "base_source": base, "source": source}
    return {**row, "schema": schema, "seed": seed, "history": history, **settings}


def test_learning_curves_have_the_mean_over_seeds_and_their_range():
    runs = pd.DataFrame([
        run("generic", 0, [1.0, 2.0, 3.0]), run("generic", 1, [3.0, 3.0, 7.0, 9.0]), run("v7", 0, [0.0, 1.0]),
        run("v7", 0, [5.0, 6.0], experiment="transfer", base="drums", source="bass+other"),
        run("v7", 0, [7.0, 8.0], experiment="longer_transfer", base="drums+bass", source="other"),
    ])  # fmt: skip
    figure = drawn(plots.learning_curves(runs))
    base, _, transfer = figure.axes
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["drums", "longer d+b\n→ other", "drums\n→ bass+other"]
    lines = {line.get_label(): line for line in base.lines}
    assert lines["generic"].get_ydata().tolist() == [2, 2.5, 5]  # as far as both went
    assert lines["v7"].get_ydata().tolist() == [0, 1]
    assert hue(lines["generic"].get_color()) == "blue" and hue(lines["v7"].get_color()) == "red"
    (band,) = (band for band in base.collections if hue(band.get_facecolor()[0][:3]) == "blue")
    corners = band.get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} >= {(1, 1), (2, 2), (3, 3), (1, 3), (2, 3), (3, 7)}
    assert [line.get_ydata().tolist() for line in transfer.lines] == [[5, 6]]
    assert transfer.get_xlim()[1] < 2.5 < base.get_xlim()[1]  # a short training has an axis of its own
    assert all(ax.xaxis.get_tick_params()["labelbottom"] for ax in (base, transfer))
    assert "mean over seeds (1–2)" in texts(figure)
    with pytest.raises(ValueError, match="one size and portion"):
        plots.learning_curves(pd.concat([runs, runs[:1]]))


def test_many_ways_of_training_leave_two_panels_side_by_side():
    kinds = [("base", ""), ("longer", ""), ("longer_transfer", "drums+bass"), ("scratch", ""), ("transfer", "drums"),
             ("multitask", "drums+bass")]  # fmt: skip
    scores = pd.concat([cell(*kind, source, schema, [1.0, 2.0]) for kind in kinds
                        for source in ("drums", "bass", "other") for schema in ("v7", "generic")])  # fmt: skip
    figure = drawn(plots.usdr_comparison(scores))
    assert "longer transfer d+b" in texts(figure)
    drums, bass, other = (ax.get_position() for ax in figure.axes[:3])
    assert drums.y0 == bass.y0 > other.y1 and drums.x1 < bass.x0


def test_scores_against_portion():
    table = pd.concat(
        [cell("base", "", "drums", schema, [portion, 3 * portion], seed=seed).assign(portion=portion, seed=seed)
         for schema in ("v7", "generic") for portion in (0.25, 1.0) for seed in (0, 1)]
        + [cell("base", "", "bass", "v7", [5.0, np.nan]).assign(portion=1.0)]
    )  # fmt: skip
    table["run"] += table["portion"].astype(str)
    figure = drawn(plots.usdr_against(table, "portion", "share of songs"))
    drums, bass = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["drums", "bass"]
    for container, colour in zip(drums.containers, ("red", "blue"), strict=True):
        line, _, (bars,) = container.lines
        assert hue(line.get_color()) == colour
        np.testing.assert_allclose(line.get_xydata(), [[0.25, 0.5], [1, 2]])
        assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.25, 0.75], [1, 3]]
    assert bass.containers[0].lines[0].get_ydata().tolist() == [5]
    assert [label.get_text() for label in drums.get_xticklabels()] == ["0.25", "1"]
    assert "share of songs" in texts(figure)


GENERIC, V7 = {"schema": "generic"}, {"schema": "v7"}


def test_paired_tracks_and_their_mean_difference(scores):
    scores = scores.fillna({"base_source": ""})
    table = comparisons(scores)
    figure = drawn(plots.paired(scores, table, GENERIC, V7))
    upper, lower = figure.axes
    lines = [line.get_xydata() for line in upper.lines if len(line.get_xdata()) == 2]
    assert [line[:, 1].tolist() for line in lines[:3]] == [[1, 2], [2, 4], [6, 6.5]]
    assert all(line[0, 0] < line[1, 0] for line in lines)
    points = {line.get_label(): line for line in upper.lines if len(line.get_xdata()) == 3}
    assert hue(points["v7"].get_color()) == "red" and hue(points["generic"].get_color()) == "blue"
    table = table[table["topic"] == "schemas"].set_index("experiment").loc[["base", "multitask"]]
    for container, (_, row) in zip(lower.containers, table.iterrows(), strict=True):
        line, _, (bars,) = container.lines
        assert line.get_ydata()[0] == pytest.approx(row["difference"])
        assert bars.get_segments()[0][:, 1] == pytest.approx([row["low"], row["high"]])
    assert [label.get_text().replace("\n", " ") for label in lower.get_xticklabels()] == ["drums", "d+b: drums"]
    assert texts(figure).count("no support") == 2 and "+1.17" in texts(figure)


def test_paired_kinds_need_not_be_schemas():
    transfer, scratch = ("transfer", "drums", "bass", "v7"), ("scratch", "", "bass", "v7")
    table = pd.concat([cell(*transfer, [1.0, 2.0]), cell(*scratch, [3.0, 2.5])])
    figure = drawn(plots.paired(table, comparisons(table), {"experiment": "transfer", "base_source": "drums"},
                                {"experiment": "scratch", "base_source": ""}))  # fmt: skip
    upper, lower = figure.axes
    assert lower.get_xticklabels()[0].get_text() == "bass\nv7"
    points = [line for line in upper.lines if line.get_marker() != "None"]
    styles = {line.get_label(): (line.get_color(), line.get_marker()) for line in points}
    assert set(styles) == {"transfer drums", "scratch"} and len(set(zip(*styles.values(), strict=True))) == 2
    assert "−1.25" in texts(figure)


def test_differences_have_a_panel_per_question_and_a_point_per_row():
    draw = np.random.default_rng(0)
    table = comparisons(pd.concat([
        cell(experiment, base, "bass", schema, lift + draw.normal(scale=0.1, size=8), seed)
        for experiment, base, lift in (("base", "", 1.0), ("transfer", "drums", 1.0), ("multitask", "drums+bass", 3.0))
        for schema in ("v7", "generic") for seed in range(3)]))  # fmt: skip
    figure = drawn(plots.differences(table))
    panels = {ax.get_title(loc="left").replace(" − ", " minus "): ax for ax in figure.axes}
    assert list(panels) == list(dict.fromkeys(table["question"]))
    for question, rows in table.groupby("question"):
        ax = panels[question]
        points = [container.lines[0] for container in ax.containers]
        assert sorted(float(point.get_xdata()[0]) for point in points) == pytest.approx(sorted(rows["difference"]))
        ends = sorted(container.lines[2][0].get_segments()[0][:, 0].tolist() for container in ax.containers)
        assert ends == pytest.approx(np.array(sorted(rows[["low", "high"]].to_numpy().tolist())))
        hollow = [point for point in points if point.get_markerfacecolor() == "white"]
        assert len(hollow) == (rows["better"] == "no support").sum()
    several = panels["multitask drums+bass minus base"]
    assert {hue(container.lines[0].get_color()) for container in several.containers} == {"red", "blue"}
    assert not any(container.lines[0].get_markerfacecolor() == "white" for container in several.containers)
    assert [label.get_text() for label in panels["generic minus v7"].get_yticklabels()] == [
        "bass", "drums → bass", "d+b: bass"]  # fmt: skip


def test_usdr_per_band_draws_means_within_bands():
    rows = [("a", schema, "bass", track, high, value + 2 * (track == "y"))
            for schema, shift in (("v7", 0), ("generic", 5)) for track in "xy"
            for high, value in ((10.0, 99.0), (100.0, 1 + shift), (1000.0, 3 + shift), (8000.0, np.nan))]  # fmt: skip
    table = pd.DataFrame(rows, columns=["run", "schema", "source", "track", "high", "value"])
    figure = drawn(plots.usdr_per_band(pd.concat([table, table.assign(source="drums")])))
    drums, bass = figure.axes[:2]
    assert [ax.get_title() for ax in (drums, bass)] == ["drums", "bass"]
    for container, mean, colour in zip(bass.containers, ([2, 4], [7, 9]), ("red", "blue"), strict=True):
        line, _, (bars,) = container.lines
        assert hue(line.get_color()) == colour
        assert line.get_ydata()[:2].tolist() == mean and np.isnan(line.get_ydata()[2])
        assert [segment[:, 1].tolist() for segment in bars.get_segments()[:2]] == [[m - 1, m + 1] for m in mean]
        assert 20 < line.get_xdata()[0] < 100 < line.get_xdata()[1] < 1000
    assert bass.get_xlim() == (20, 8000)


def test_worst_seconds():
    assert plots.worst_seconds([1.0, np.nan, 3.0, -np.inf, 2.0, 3.0], 3) == [2, 5, 4]
    assert plots.worst_seconds([np.nan, -np.inf], 3) == []
    assert plots.clock(67) == "1:07"


def test_error_over_time_marks_the_worst_seconds():
    errors = {"v7": np.array([-10.0, np.nan, 2.0, -np.inf, 1.0, -90.0]), "silent": np.full(6, np.nan)}
    first, second = drawn(plots.error_over_time(errors, 2)).axes
    tops = [bar.get_y() + bar.get_height() for bar in first.patches]
    bottom = first.get_ylim()[0]
    assert bottom == -28 and tops == pytest.approx([-10, bottom, 2, bottom, 1, bottom])
    assert len({bar.get_facecolor() for bar in first.patches}) == 2
    assert first.patches[2].get_facecolor() == first.patches[4].get_facecolor() != first.patches[0].get_facecolor()
    assert first.lines[0].get_xydata().tolist() == [[2.5, 4.5], [4.5, 3.5]]
    assert first.get_title("left") == "v7: worst at 0:02, 0:04" and second.get_title("left") == "silent: worst at none"
    drawn(plots.error_over_time({"nothing": np.array([np.nan])}))


def test_separation_stands_side_by_side():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)[None]
    mask = np.full((N_FFT // 2 + 1, RATE * 4 // N_FFT + 1), 0.25)
    figure = drawn(plots.separation({"mixture": tone, "estimate": tone / 10, "target": 0 * tone}, mask, RATE, N_FFT))
    panels = figure.axes[:4]
    assert [ax.get_title() for ax in panels] == ["mixture", "mask magnitude", "estimate", "target"]
    meshes = [ax.collections[0] for ax in panels]
    assert set(meshes[1].get_array().ravel()) == {0.25} and meshes[1].get_clim() == (0, 1)
    peaks = [float(mesh.get_array().max()) for mesh in meshes]
    assert -6 < peaks[0] <= 0 and peaks[0] - peaks[2] == pytest.approx(20, abs=0.01)
    assert peaks[3] <= -80 and {mesh.get_clim() for mesh in (meshes[0], *meshes[2:])} == {(-80, 0)}
    assert len({ax.get_xlim() for ax in panels}) == len({ax.get_ylim() for ax in panels}) == 1


def test_spectrograms_show_a_tone_at_its_frequency_and_level():
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time)
    figure = drawn(plots.spectrograms({"mono": tone, "stereo": np.stack([tone, tone]) / 10, "none": 0 * tone}, RATE))
    meshes = [mesh for ax in figure.axes[:3] for mesh in ax.collections if isinstance(mesh, QuadMesh)]
    levels = [mesh.get_array().reshape(mesh.get_coordinates().shape[0] - 1, -1) for mesh in meshes]
    middle = levels[0].shape[1] // 2
    loudest = levels[0][:, middle].argmax()
    low, high = meshes[0].get_coordinates()[loudest : loudest + 2, 0, 1]
    assert low < 1000 < high and high / low < 1.06
    assert levels[0][loudest, middle] - levels[1][loudest, middle] == pytest.approx(20, abs=0.1)
    assert (levels[2] <= -80).all()
    assert len({mesh.get_clim() for mesh in meshes}) == 1
    assert [ax.texts[0].get_text() for ax in figure.axes[:3]] == ["mono", "stereo", "none"]
    assert {ax.get_ylim() for ax in figure.axes[:3]} == {(20, RATE / 2)}


def test_masks_keep_their_values_and_mark_the_edges():
    mask = np.zeros((N_FFT // 2 + 1, 9))
    mask[200:] = 0.75
    schema = band_schema("v7")
    figure = drawn(plots.masks({"drums": mask, "bass": 1 - mask}, RATE, N_FFT, schema))
    mesh, edges = figure.axes[0].collections
    rows = mesh.get_array().reshape(-1, 9)[:, 0]
    limits = mesh.get_coordinates()[:, 0, 1]
    assert set(np.round(rows[limits[1:] < 199 * RATE / N_FFT], 9)) == {0}
    assert set(np.round(rows[limits[:-1] > 200 * RATE / N_FFT], 9)) == {0.75}
    assert mesh.get_clim() == (0, 1)
    assert [segment[0, 1] for segment in edges.get_segments()] == pytest.approx(schema.edges)
    assert mesh.get_coordinates()[0, -1, 0] == pytest.approx(9 * N_FFT / 4 / RATE)
    assert len(drawn(plots.masks({"drums": mask}, RATE, N_FFT)).axes[0].collections) == 1


def test_a_figure_shows_itself_and_pyplot_does_not_know_it():
    before = set(Gcf.figs)
    figure = plots.schemas([band_schema("v7")], RATE, N_FFT)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert set(Gcf.figs) == before


def test_model_costs_add_up():
    rows = [("a", "x", 1e6, 2e9), ("a", "y", 3e6, 4e9), ("a", "y", 1e6, 1e9), ("b", "x", 2e6, 5e9)]
    figure = drawn(plots.model_costs(pd.DataFrame(rows, columns=["model", "module", "parameters", "macs"])))
    for ax, totals in zip(figure.axes, ([5, 2], [7, 5]), strict=True):
        ends = [max(bar.get_x() + bar.get_width() for bar in ax.patches if bar.get_y() < row < bar.get_y() + 0.7)
                for row in range(2)]  # fmt: skip
        assert ends == pytest.approx(totals)
    assert "million parameters" in texts(figure) and "5.0" in texts(figure)


def test_seams_are_a_peak_in_the_middle():
    draw = np.random.default_rng(0)
    flat = draw.uniform(0.9, 1.1, (40, 11))
    peak = flat + np.eye(11)[5]
    (ax,) = drawn(plots.seams({"flat": flat, "peak": peak}, 0.1)).axes
    curves = {line.get_label(): line.get_xydata() for line in ax.lines if "borders" in str(line.get_label())}
    assert set(curves) == {"flat (40 borders)", "peak (40 borders)"}
    x, y = curves["peak (40 borders)"].T
    assert abs(x[y.argmax()]) < 1e-9 and x[0] > -100 and x[-1] < 100
    np.testing.assert_allclose(curves["flat (40 borders)"][:, 1], flat.mean(0))
    bands = [each for each in ax.collections if isinstance(each, PolyCollection)]
    assert len(bands) == 2
