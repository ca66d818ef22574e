import colorsys
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bsrnn.bands import SCHEMA_NAMES, BandSchema, band_schema
from study import figures
from study.statistics import bootstrap_interval, comparisons

matplotlib.use("Agg")

RATE, N_FFT = 44_100, 2048
QUESTIONS = {
    "schemas": [{"one": {"schema": "generic"}, "other": {"schema": "v7"}}],
    "multitask": [{"one": {"experiment": "multitask", "learned": "drums+bass"}, "other": {"experiment": "base"}}],
}


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


def cell(experiment, learned, source, schema, values, seed=0, split="test", metric="uSDR"):
    """Score rows of one run, or of a baseline if that is the experiment."""
    run = schema if experiment == "baseline" else f"{experiment}-{schema}-{learned}-{source}-{seed}"
    fixed = {"run": run, "experiment": experiment, "schema": "" if experiment == "baseline" else schema, "seed": seed}
    fixed |= {"learned": learned, "source": source, "split": split, "metric": metric}
    return pd.DataFrame([{**fixed, "track": f"song {i}", "value": value} for i, value in enumerate(values)])


@pytest.fixture
def scores():
    """Two cells of both schemas, one without V7, and the mixture far below."""
    return pd.concat(
        [
            cell("base", "drums", "drums", "v7", [1.0, 2.0, 6.0]),
            cell("base", "drums", "drums", "generic", [2.0, 4.0, 6.5]),
            cell("transfer", "drums", "bass", "generic", [0.5, 1.0, 3.0]),
            cell("multitask", "drums+bass", "drums", "v7", [2.0, 2.5, 5.0]),
            cell("multitask", "drums+bass", "drums", "generic", [2.0, 3.0, 5.5]),
            cell("baseline", "", "drums", "mixture", [-9.0, -8.0, -7.0]),
            cell("baseline", "", "drums", "silence", [0.0, 0.0, 0.0]),
            cell("baseline", "", "drums", "STFT", [70.0, 80.0, 90.0]),
        ],
        ignore_index=True,
    )


def means(ax):
    """label -> (means, rows, intervals), as the error bars are drawn."""
    found = {}
    for container in ax.containers:
        line, _, (bars,) = container.lines
        drawn = found.setdefault(container.get_label(), ([], [], []))
        for values, more in zip(drawn, (line.get_xdata(), line.get_ydata(), bars.get_segments()), strict=True):
            values += list(more)
    return {label: (x, y, [segment[:, 0].tolist() for segment in ends]) for label, (x, y, ends) in found.items()}


def test_schemas_draws_every_band_in_its_familys_colour():
    names = list(SCHEMA_NAMES)
    (ax,) = drawn(figures.schemas([(name, band_schema(name), N_FFT) for name in names], RATE)).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == names
    for name, row, text in zip(names, bars(ax), ax.texts, strict=True):
        designed, left = len(band_schema(name).edges) + 1, len(band_schema(name).bins(RATE, N_FFT))
        assert len(row.get_paths()) == designed and text.get_text() == f"{left} of {designed}"
        faces = [tuple(colour) for colour in row.get_facecolor() if tuple(colour[:3]) != (1, 1, 1)]
        expected = {"v7": "red", "vocals": "red", "other": "red", "generic": "blue"}.get(name, "grey")
        assert len(faces) == left and {hue(colour[:3]) for colour in faces} == {expected}
        assert len(set(faces)) == 2  # neighbours differ in shade


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_440_hz_is_labelled_a4_where_the_frequency_axis_has_440_hz(rate):
    ax = drawn(figures.schemas([("v7", band_schema("v7"), N_FFT)], rate)).axes[0]
    (top,) = ax.child_axes
    labels = dict(zip(top.get_xticks(), (label.get_text() for label in top.get_xticklabels()), strict=True))
    assert labels[440.0] == "A4" and labels[880.0] == "A5"
    assert ax.get_xlim() == (20, rate / 2) and ax.get_xscale() == "log"
    for note in labels:  # the same place on both axes
        assert top.transData.transform((note, 0))[0] == pytest.approx(ax.transData.transform((note, 0))[0])


def test_generic_is_even_and_v7_is_not():
    assert figures.unevenness(band_schema("generic")) < 0.1 < 0.5 < figures.unevenness(band_schema("v7"))
    octaves = BandSchema("octaves", (100.0, 200.0, 400.0))
    assert figures.unevenness(octaves) == pytest.approx(0)
    assert figures.semitones(octaves) == pytest.approx((12, 12))


def test_band_widths_are_those_of_the_schemas():
    pair = [band_schema("v7"), band_schema("generic")]
    semitones, bins = drawn(figures.band_widths(pair, RATE, N_FFT)).axes
    for schema, notes, counts, colour in zip(pair, semitones.lines, bins.lines, ("red", "blue"), strict=True):
        assert notes.get_ydata() == pytest.approx(figures.semitones(schema))
        assert sum(counts.get_ydata()) == N_FFT // 2 + 1
        assert hue(notes.get_color()) == hue(counts.get_color()) == colour
        assert f"{figures.unevenness(schema):.2f}" in notes.get_label()
        # the middle of a band, in notes, lies within it
        assert notes.get_xdata() == pytest.approx(np.sqrt(np.array(schema.edges[:-1]) * schema.edges[1:]))
    assert bins.get_yscale() == "log"


def test_collapse_hides_exactly_the_bands_without_a_bin():
    sizes, names = [512, 2048], ["v7", "generic"]
    (ax,) = drawn(
        figures.schemas([(f"{name} {size}", band_schema(name), size) for name in names for size in sizes], RATE)
    ).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{name} {n_fft}" for name in names for n_fft in sizes]
    for label, row, text in zip(labels, bars(ax), ax.texts, strict=True):
        name, n_fft = label.split()
        centres = np.arange(int(n_fft) // 2 + 1) * RATE / int(n_fft)
        limits = [0, *band_schema(name).edges, np.inf]
        filled = [((centres >= low) & (centres < high)).any() for low, high in pairwise(limits)]
        assert [tuple(face[:3]) != (1, 1, 1) for face in row.get_facecolor()] == filled
        assert text.get_text() == f"{sum(filled)} of {len(filled)}"


@pytest.mark.parametrize("sources", [["bass"], ["drums", "kazoo"]])
def test_learning_curve_draws_each_source(sources):
    history = pd.DataFrame({"epoch": [0, 1, 2], "step": [10, 20, 30], "train_loss": [3.0, 2.0, 1.0]})
    history["validation_loss"] = [3.5, np.nan, 2.5]
    for i, source in enumerate(sources):
        history[f"validation_usdr/{source}"] = [-1.0, i, 2.0]
    history["validation_usdr"] = history.filter(like="/").mean(axis=1)
    losses, usdr = drawn(figures.learning_curve(history)).axes
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
        next(line for line in figures.learning_curve(history).axes[1].lines if line.get_label() == "vocals")
        for history in (alone, both)
    )
    assert (first.get_color(), first.get_marker()) == (second.get_color(), second.get_marker())


def comparison(scores):
    return drawn(figures.usdr_comparison(scores, comparisons(scores, QUESTIONS)))


def test_comparison_has_a_row_per_cell_and_a_mean_per_schema(scores):
    drums, drums_differ, bass, bass_differ = comparison(scores).axes
    assert [ax.get_title("left").split()[0] for ax in (drums, bass)] == ["drums", "bass"]
    assert [label.get_text() for label in drums.get_yticklabels()] == ["base", "multitask d+b"]  # and no empty rows
    assert [label.get_text() for label in bass.get_yticklabels()] == ["transfer from drums"]
    assert list(means(drums)) == ["v7", "generic"] and list(means(bass)) == ["generic"]
    for schema in ("v7", "generic"):
        x, y, intervals = means(drums)[schema]
        rows = scores[(scores["schema"] == schema) & (scores["source"] == "drums")]
        assert x == pytest.approx(rows.groupby("experiment", sort=False)["value"].mean().to_numpy())
        assert [round(row) for row in y] == [0, 1] and all(row < round(row) for row in y) == (schema == "v7")
        assert all(low < mean < high for mean, (low, high) in zip(x, intervals, strict=True))
    lines = [container.lines[0] for container in drums.containers]
    assert {(hue(line.get_color()), line.get_marker()) for line in lines} == {("red", "o"), ("blue", "s")}
    assert "mixture −8.0" in drums.get_title("left") and "STFT" not in drums.get_title("left")  # which limits nothing
    differences = [container.lines[0].get_xdata()[0] for container in drums_differ.containers]
    assert differences == pytest.approx([3.5 / 3, 1 / 3]) and not bass_differ.containers
    assert [text.get_text() for text in drums_differ.texts] == ["+1.17 ", "+0.33 "]


def test_comparison_draws_every_track_and_no_number_lies_on_a_mark(scores):
    figure = comparison(scores)
    drums, drums_differ, bass, _ = figure.axes
    dots = [each for ax in (drums, bass) for each in ax.collections if isinstance(each, PathCollection)]
    points = [x for each in dots for x in each.get_offsets()[:, 0]]
    assert sorted(points) == sorted(scores.loc[scores["experiment"] != "baseline", "value"])
    songs = [line.get_xdata() for line in drums_differ.lines if line.get_marker() == "|" and line.get_alpha()]
    assert [values.tolist() for values in songs] == [[1, 2, 0.5], [0, 0.5, 0.5]]
    renderer = FigureCanvasAgg(figure).get_renderer()
    for ax in figure.axes:
        assert all(text.get_window_extent(renderer).x0 > ax.get_window_extent(renderer).x1 for text in ax.texts)


def test_comparison_tells_the_winner_where_there_is_support():
    draw = np.random.default_rng(0)
    table = pd.concat(
        cell("base", source, source, schema, lift + 0.1 * draw.normal(size=9), seed)
        for source in ("drums", "bass")
        for schema, lift in (("v7", 1.0), ("generic", 2.0 if source == "drums" else 1.0))
        for seed in range(3)
    )
    _, drums, _, bass = comparison(table).axes
    (clear,), (none,) = (ax.containers[0].lines[:1] for ax in (drums, bass))
    assert hue(clear.get_color()) == "blue" and clear.get_markerfacecolor() == clear.get_color()
    assert hue(none.get_color()) == "grey" and none.get_markerfacecolor() == "white"
    assert drums.texts[0].get_text().endswith("generic") and not bass.texts[0].get_text().strip()[-1:].isalpha()


def test_comparison_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = np.array([bootstrap_interval(rng.normal(3, 2, 40)) for _ in range(200)])
    assert 0.88 < np.mean((intervals[:, 0] < 3) & (3 < intervals[:, 1])) < 0.99
    assert np.diff(intervals).mean() == pytest.approx(2 * 1.96 * 2 / np.sqrt(40), rel=0.1)


def test_comparison_averages_seeds_per_track_first():
    # song 2 has no score with seed 1: averaging all rows alike would give 3.4
    table = pd.concat(
        cell("base", "drums", "drums", "v7", values, seed)
        for seed, values in enumerate(([1.0, 2.0, 6.0], [3.0, 5.0, np.nan]))
    )
    other = cell("base", "drums", "drums", "generic", [1.0, 1.0, 1.0])
    assert means(comparison(pd.concat([table, other])).axes[0])["v7"][0] == pytest.approx([(2 + 3.5 + 6) / 3])


def test_comparison_keeps_a_far_track_at_the_edge():
    far = [*np.linspace(3, 5, 60), -40]
    table = pd.concat([cell("base", "drums", "drums", schema, far) for schema in ("v7", "generic")])
    assert comparison(table).axes[0].get_xlim()[0] > -5


def test_comparison_refuses_mixed_splits_and_tables_without_runs(scores):
    mixed = pd.concat([scores, cell("base", "drums", "drums", "v7", [1.0], split="validation")])
    with pytest.raises(ValueError, match=r"'test', 'validation'"):
        figures.usdr_comparison(mixed, comparisons(scores, QUESTIONS))
    with pytest.raises(ValueError, match="needs uSDR of V7 or generic"):
        figures.usdr_comparison(scores[scores["experiment"] == "baseline"], comparisons(scores, QUESTIONS))


@pytest.mark.parametrize(
    ("experiment", "learned", "name"),
    [
        ("base", "drums", "base"),
        ("transfer", "drums+bass", "transfer from d+b"),
        ("longer_transfer", "drums", "longer transfer from drums"),
        ("longer", "drums+bass", "longer d+b"),
    ],
)
def test_ways_of_training_have_names(experiment, learned, name):
    assert figures.way(experiment, learned) == name


def run(schema, seed, usdr, experiment="base", learned="drums", source="drums"):
    """A row of `results.load_runs`, validation uSDR by epoch."""
    history = [{"epoch": epoch, "validation_usdr": value} for epoch, value in enumerate(usdr)]
    row = {"run": f"{experiment}-{schema}-{seed}", "experiment": experiment, "learned": learned, "source": source}
    return {**row, "schema": schema, "seed": seed, "history": history}


def marked(ax):
    """colour -> points of its line with markers."""
    lines = (line for line in ax.lines if line.get_marker() in ("o", "s") and len(line.get_xdata()))
    return {hue(line.get_color()): line.get_xydata().tolist() for line in lines}


def test_learning_curves_have_the_mean_over_seeds_and_their_range():
    runs = pd.DataFrame(
        [
            run("generic", 0, [1.0, 2.0, 3.0]),
            run("generic", 1, [3.0, 3.0, 7.0, 9.0]),
            run("v7", 0, [0.0, 1.0]),
            run("v7", 0, [5.0, 6.0], experiment="transfer", source="bass+other"),
        ]
    )
    base, transfer = drawn(figures.learning_curves(runs)).axes
    assert [ax.get_title() for ax in (base, transfer)] == ["base\ndrums", "transfer from drums\nbass+other"]
    assert marked(base) == {"blue": [[1, 2], [2, 2.5], [3, 5]], "red": [[1, 0], [2, 1]]}  # as far as both went
    (band,) = (band for band in base.collections if hue(band.get_facecolor()[0][:3]) == "blue")
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    assert corners >= {(1, 1), (2, 2), (3, 3), (1, 3), (2, 3), (3, 7)}
    assert transfer.get_xlim()[1] < 2.5 < base.get_xlim()[1]  # a short training has an axis of its own


def test_differences_have_a_panel_per_question_and_a_point_per_row():
    draw = np.random.default_rng(0)
    cells = (("base", "bass", 1.0), ("transfer", "drums", 1.0), ("multitask", "drums+bass", 3.0))
    table = comparisons(
        pd.concat(
            cell(experiment, learned, "bass", schema, lift + draw.normal(scale=0.1, size=8), seed)
            for experiment, learned, lift in cells
            for schema in ("v7", "generic")
            for seed in range(3)
        ),
        QUESTIONS,
    )
    figure = drawn(figures.differences(table))
    panels = {ax.get_title(loc="left").replace(" − ", " minus "): ax for ax in figure.axes}
    assert list(panels) == list(dict.fromkeys(table["question"]))
    for question, rows in table.groupby("question"):
        points = [container.lines[0] for container in panels[question].containers]
        assert sorted(float(point.get_xdata()[0]) for point in points) == pytest.approx(sorted(rows["difference"]))
        ends = sorted(end for *_, intervals in means(panels[question]).values() for end in intervals)
        assert np.array(ends) == pytest.approx(np.array(sorted(rows[["low", "high"]].to_numpy().tolist())))
        hollow = [point for point in points if point.get_markerfacecolor() == "white"]
        assert len(hollow) == (rows["better"] == "no support").sum()
    several = panels["multitask drums+bass minus base"]
    assert {hue(container.lines[0].get_color()) for container in several.containers} == {"red", "blue"}
    names = [label.get_text() for label in panels["generic minus v7"].get_yticklabels()]
    assert names == ["base: bass", "transfer from drums: bass", "multitask d+b: bass"]


def test_usdr_per_band_draws_means_within_bands():
    values = ((10.0, 99.0), (100.0, 1.0), (1000.0, 3.0), (8000.0, np.nan))
    rows = [
        ("a", schema, source, track, high, value + shift + 2 * (track == "y"))
        for schema, shift in (("v7", 0), ("generic", 5))
        for source in ("bass", "drums")
        for track in "xy"
        for high, value in values
    ]
    table = pd.DataFrame(rows, columns=["run", "schema", "source", "track", "high", "value"])
    drums, bass = drawn(figures.usdr_per_band(table)).axes
    assert [ax.get_title() for ax in (drums, bass)] == ["drums", "bass"]
    assert marked(bass) == {"red": [[100, 2], [1000, 4]], "blue": [[100, 7], [1000, 9]]}
    heights = {height for band in bass.collections for height in band.get_paths()[0].vertices[:, 1]}
    assert heights >= {1, 3, 5, 6, 8, 10}  # of two tracks, an interval is from one to the other
    assert bass.get_xlim() == (20, 8000)


def test_worst_seconds():
    assert figures.worst_seconds([1.0, np.nan, 3.0, -np.inf, 2.0, 3.0], 3) == [2, 5, 4]
    assert figures.worst_seconds([np.nan, -np.inf], 3) == []
    assert figures.clock(67) == "1:07"


def test_error_over_time_marks_the_worst_seconds():
    errors = {"v7": np.array([-10.0, np.nan, 2.0, -np.inf, 1.0, -90.0]), "silent": np.full(6, np.nan)}
    first, second = drawn(figures.error_over_time(errors, 2)).axes
    tops = [bar.get_y() + bar.get_height() for bar in first.patches]
    bottom = first.get_ylim()[0]
    assert bottom == -28 and tops == pytest.approx([-10, bottom, 2, bottom, 1, bottom])
    assert len({bar.get_facecolor() for bar in first.patches}) == 2
    assert first.patches[2].get_facecolor() == first.patches[4].get_facecolor() != first.patches[0].get_facecolor()
    assert first.lines[0].get_xydata().tolist() == [[2.5, 4.5], [4.5, 3.5]]
    assert first.get_title("left") == "v7: worst at 0:02, 0:04" and second.get_title("left") == "silent: worst at none"
    drawn(figures.error_over_time({"nothing": np.array([np.nan])}))


def test_separation_stands_side_by_side():
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)[None]
    mask = np.full((N_FFT // 2 + 1, RATE * 4 // N_FFT + 1), 0.25)
    figure = drawn(figures.separation({"mixture": tone, "estimate": tone / 10, "target": 0 * tone}, mask, RATE, N_FFT))
    panels = figure.axes[:4]
    assert [ax.get_title("left") for ax in panels] == ["mixture", "mask", "estimate", "target"]
    meshes = [ax.collections[0] for ax in panels]
    assert set(meshes[1].get_array().ravel()) == {0.25} and meshes[1].get_clim() == (0, 1)
    peaks = [float(mesh.get_array().max()) for mesh in meshes]
    assert -6 < peaks[0] <= 0 and peaks[0] - peaks[2] == pytest.approx(20, abs=0.01)
    assert peaks[3] <= -80 and {mesh.get_clim() for mesh in (meshes[0], *meshes[2:])} == {(-80, 0)}
    assert len({ax.get_xlim() for ax in panels}) == len({ax.get_ylim() for ax in panels}) == 1


def test_spectrograms_show_a_tone_at_its_frequency_and_level():
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time)
    figure = drawn(figures.spectrograms({"mono": tone, "stereo": np.stack([tone, tone]) / 10, "none": 0 * tone}, RATE))
    meshes = [mesh for ax in figure.axes[:3] for mesh in ax.collections if isinstance(mesh, QuadMesh)]
    levels = [mesh.get_array().reshape(mesh.get_coordinates().shape[0] - 1, -1) for mesh in meshes]
    middle = levels[0].shape[1] // 2
    loudest = levels[0][:, middle].argmax()
    low, high = meshes[0].get_coordinates()[loudest : loudest + 2, 0, 1]
    assert low < 1000 < high and high / low < 1.06
    assert levels[0][loudest, middle] - levels[1][loudest, middle] == pytest.approx(20, abs=0.1)
    assert (levels[2] <= -80).all()
    assert len({mesh.get_clim() for mesh in meshes}) == 1
    assert [ax.get_title("left") for ax in figure.axes[:3]] == ["mono", "stereo", "none"]
    assert {ax.get_ylim() for ax in figure.axes[:3]} == {(20, RATE / 2)}


def test_masks_keep_their_values_and_mark_the_edges():
    mask = np.zeros((N_FFT // 2 + 1, 9))
    mask[200:] = 0.75
    schema = band_schema("v7")
    figure = drawn(figures.masks({"drums": mask, "bass": 1 - mask}, RATE, N_FFT, schema))
    mesh, edges = figure.axes[0].collections
    rows = mesh.get_array().reshape(-1, 9)[:, 0]
    limits = mesh.get_coordinates()[:, 0, 1]
    assert set(np.round(rows[limits[1:] < 199 * RATE / N_FFT], 9)) == {0}
    assert set(np.round(rows[limits[:-1] > 200 * RATE / N_FFT], 9)) == {0.75}
    assert mesh.get_clim() == (0, 1)
    assert [segment[0, 1] for segment in edges.get_segments()] == pytest.approx(schema.edges)
    assert mesh.get_coordinates()[0, -1, 0] == pytest.approx(9 * N_FFT / 4 / RATE)
    assert len(drawn(figures.masks({"drums": mask}, RATE, N_FFT)).axes[0].collections) == 1


def test_a_figure_shows_itself_and_pyplot_does_not_know_it():
    before = set(Gcf.figs)
    figure = figures.schemas([("v7", band_schema("v7"), N_FFT)], RATE)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert set(Gcf.figs) == before


def test_model_costs_add_up():
    rows = [("a", "x", 1e6, 2e9), ("a", "y", 3e6, 4e9), ("a", "y", 1e6, 1e9), ("b", "x", 2e6, 5e9)]
    figure = drawn(figures.model_costs(pd.DataFrame(rows, columns=["model", "module", "parameters", "macs"])))
    for ax, totals in zip(figure.axes, ([5, 2], [7, 5]), strict=True):
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        for name, total in zip("ab", totals, strict=True):
            row = labels.index(name)
            ends = [bar.get_x() + bar.get_width() for bar in ax.patches if bar.get_y() < row < bar.get_y() + 0.7]
            assert max(ends) == pytest.approx(total) and ax.texts[row].get_text() == f"{total:.1f}"
    assert "million parameters" in texts(figure) and "5.0" in texts(figure)


def test_seams_are_a_peak_in_the_middle():
    draw = np.random.default_rng(0)
    flat = draw.uniform(0.9, 1.1, (40, 11))
    peak = flat + np.eye(11)[5]
    (ax,) = drawn(figures.seams({"flat": flat, "peak": peak}, 0.1)).axes
    curves = {line.get_label(): line.get_xydata() for line in ax.lines if "borders" in str(line.get_label())}
    assert set(curves) == {"flat (40 borders)", "peak (40 borders)"}
    x, y = curves["peak (40 borders)"].T
    assert abs(x[y.argmax()]) < 1e-9 and x[0] > -100 and x[-1] < 100
    np.testing.assert_allclose(curves["flat (40 borders)"][:, 1], flat.mean(0))
    bands = [each for each in ax.collections if isinstance(each, PolyCollection)]
    assert len(bands) == 2


@pytest.mark.parametrize("pattern", ["01_*.png", "07_*.png"])
def test_what_no_profile_decides_is_published_alike(pattern):
    folders = (Path(__file__).resolve().parents[1] / "figures").iterdir()
    published = [{file.name: file.read_bytes() for file in folder.glob(pattern)} for folder in folders]
    one, *others = filter(None, published)  # a study that is planned has none
    assert all(other == one for other in others)
