"""Every figure of the study: functions of tables, arrays and schemas that run no model, save nothing (that is for
`results.save_figure`) and leave pyplot and matplotlib's settings alone. Colour is never the only code: V7 is red and
round, the generic schema blue and square, any other purple and of another shape."""

import io
from collections.abc import Iterable, Mapping, Sequence

import librosa
import matplotlib
import numpy as np
import pandas as pd
import seaborn
import soundfile
from IPython.core.pylabtools import print_figure
from IPython.display import Audio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.signal import stft

from bsrnn.bands import A4, HEARING, BandSchema
from study import statistics

SOURCES = ("drums", "bass", "vocals", "other")  # the order of sources in every figure
ORDER = ("base", "scratch", "transfer", "multitask", "tiny", "longer", "longer_transfer", *SOURCES, "v7", "generic")
MARKERS = {"v7": "o", "generic": "s", "joint": "X", "bass": "^", "drums": "v", "": "D"}  # others: P
INK, GREY = "#333333", "#888888"
# Okabe & Ito's colours, which colour-blind readers tell apart, and shapes to go with them
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHAPES, HATCHES = ("o", "s", "^", "D", "v", "P"), ("", "//", "..", "xx")
TICKS = {20: "20", 50: "50", 100: "100", 200: "200", 500: "500", 1_000: "1k", 2_000: "2k", 5_000: "5k", 10_000: "10k"}
STYLE = {
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in (("color", GREY), ("labelcolor", INK))},
    **{f"{axis}tick.minor.size": 0 for axis in "xy"},
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.labelsize", "axes.titlesize", "figure.labelsize"), 11),
    **{"axes.edgecolor": GREY, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#dddddd"},
    **{"legend.frameon": False, "legend.fontsize": 10, "figure.dpi": 110, "figure.facecolor": "white"},
}
styled = matplotlib.rc_context(STYLE)


class _Figure(Figure):
    """A figure in the style all figures share, which Jupyter shows as PNG without pyplot, that would keep it open."""

    @styled
    def draw(self, renderer):
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        return print_figure(self, "png")


def _axes(rows: int, columns: int, size: tuple[float, float], xlabel="", ylabel="", **options):
    """A figure of `size` inches, labelled as a whole, and its axes (rows, columns)."""
    figure = _Figure(figsize=size, layout="constrained")
    figure.supxlabel(xlabel)
    figure.supylabel(ylabel)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _frequency_axis(ax: Axes, sample_rate: int, which: str = "x", ticks: Iterable[int] = tuple(TICKS)) -> None:
    """Makes the x or y axis logarithmic in Hz, from 20 Hz to Nyquist."""
    shown = {tick: TICKS[tick] for tick in ticks if tick < sample_rate / 2}
    settings = {"scale": "log", "lim": (HEARING[0], sample_rate / 2), "ticks": [*shown], "ticklabels": shown.values()}
    ax.set(**{which + name: value for name, value in settings.items()})


def _note_axis(ax: Axes, sample_rate: int) -> None:
    """Names the notes A0, A1, ... above a frequency axis; 440 Hz is A4."""
    notes = [note for octave in range(-4, 10) if (note := A4 * 2.0**octave) < sample_rate / 2]
    ax.secondary_xaxis("top", xlabel="note").set_ticks(notes, librosa.hz_to_note(notes))


def _shades(schema: str, other: str = "Greys") -> list[tuple[float, ...]]:
    """A dark and a light colour of a schema: reds for the V7 family, blues for generic ones, else `other`."""
    name = "Reds" if schema in ("v7", "vocals", "other") else "Blues" if schema.startswith("generic") else other
    return [matplotlib.colormaps[name](shade) for shade in (0.7 if name == "Greys" else 0.85, 0.45)]


def _style(schema: str) -> dict:
    """How a schema's scores are drawn, or what is of no schema."""
    return {"color": _shades(schema, other="Purples")[0] if schema else INK, "marker": MARKERS.get(schema, "P")}


def _ordered(names: Iterable) -> list:
    """Names, or tuples of names, each once, in the order that all figures keep."""
    return sorted(set(names), key=lambda key: [(ORDER.index(x) if x in ORDER else 99, x) for x in np.atleast_1d(key)])


def way(experiment: str, learned: str) -> str:
    """What a way of training is called: base, transfer from drums, multitask d+b (initials of several sources)."""
    short = "+".join(name[0] for name in learned.split("+")) if "+" in learned else learned
    named = f" from {short}" if "transfer" in experiment else f" {short}" * ("+" in learned)
    return experiment.replace("_", " ") + named


def _cell(experiment: str, learned: str, source: str) -> str:
    """What a cell is called; without an experiment, where it is told otherwise, by its source alone."""
    return f"{way(experiment, learned)}: {source}" if experiment else source


def _beside(ax: Axes, row: float, text: object, **style) -> None:
    """Writes a number beside a row of a panel, where it hides nothing."""
    ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", **style)


def _legend(figure: Figure) -> Figure:
    """Adds one legend above all panels, a handle per label."""
    labels = {text: handle for ax in figure.axes for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(labels.values(), labels, loc="outside upper center", ncols=4)
    return figure


@styled
def schemas(rows: Sequence[tuple[str, BandSchema, int]], sample_rate: int) -> Figure:
    """Labels, schemas and FFT sizes, each as a row of bands over frequency (Hz) and notes, and how many of them such an
    STFT leaves: no bin lies within the hollow ones."""
    figure, [[ax]] = _axes(1, 1, (9.5, 1.3 + 0.3 * len(rows)))
    for place, (_, schema, n_fft) in enumerate(rows):
        bounds = np.clip([0, *schema.edges, sample_rate / 2], HEARING[0], sample_rate / 2)
        # the band of each range's first bin; the tolerance is that of BandSchema.bins
        first = np.array(schema.bins(sample_rate, n_fft))[:, 0] * sample_rate / n_fft
        kept = set(np.searchsorted(schema.edges, first * (1 + 1e-9), side="right"))
        dark, light = _shades(schema.name)
        faces = [(dark, light)[band % 2] if band in kept else "white" for band in range(len(bounds) - 1)]
        ax.broken_barh(np.stack([bounds[:-1], np.diff(bounds)], 1), (place - 0.4, 0.8), fc=faces, ec=dark, lw=0.5)
        _beside(ax, place, f"{len(kept)} of {len(faces)}")
    ax.set(xlabel="frequency (Hz)", ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), [label for label, *_ in rows])
    _frequency_axis(ax, sample_rate)
    _note_axis(ax, sample_rate)
    return figure


def semitones(schema: BandSchema) -> np.ndarray:
    """Widths in semitones of the bands that have a lower and an upper edge, all but the first and the last."""
    return 12 * np.diff(np.log2(schema.edges))


def unevenness(schema: BandSchema) -> float:
    """Standard deviation of the band widths in semitones over their mean: 0 for bands of equal width in notes."""
    return semitones(schema).std() / semitones(schema).mean()


@styled
def band_widths(schemas: Sequence[BandSchema], sample_rate: int, n_fft: int) -> Figure:
    """The width of every band over its place on the frequency axis: as designed in semitones, as cut by an STFT of
    `n_fft` samples in bins. In semitones the first band, from 0 Hz, has no width, nor the last: both are left out."""
    figure, [[notes], [bins]] = _axes(2, 1, (9.5, 6.2), sharex=True)
    for schema in schemas:
        cut = schema.bins(sample_rate, n_fft)
        style = _style(schema.name) | {"label": f"{schema.name}: unevenness {unevenness(schema):.2f}, K = {len(cut)}"}
        limits = np.clip(np.transpose(cut) * sample_rate / n_fft, HEARING[0], sample_rate / 2)
        for ax, low, high, width in (
            (notes, schema.edges[:-1], schema.edges[1:], semitones(schema)),
            (bins, *limits, np.diff(cut)[:, 0]),
        ):
            ax.hlines(width, low, high, linewidth=2, color=style["color"])
            ax.plot(np.sqrt(np.multiply(low, high)), width, linestyle="", ms=5, **style)
    notes.set(ylabel="width (semitones)", ylim=(0, None))
    bins.set(yscale="log", xlabel="frequency (Hz)", ylabel=f"width (bins of {sample_rate / n_fft:.1f} Hz)")
    bins.set_yticks(ticks := [1, 2, 5, 10, 20, 50, 100, 200], ticks)
    notes.legend()
    _frequency_axis(bins, sample_rate)
    _note_axis(notes, sample_rate)
    return figure


@styled
def learning_curve(history: pd.DataFrame) -> Figure:
    """Losses, and validation uSDR of each source, over the epochs of one training, `train.Fitted.history` as a table;
    missing values are skipped."""
    figure, [[losses, usdr]] = _axes(1, 2, (9.5, 3.8))
    sources = [name.partition("/")[2] for name in history if name.startswith("validation_usdr/")]
    # a source looks the same whichever others are present
    looks = dict(zip(dict.fromkeys((*SOURCES, *sources)), 9 * list(zip(COLOURS, SHAPES, strict=True)), strict=False))
    curves = [
        (losses, "train_loss", "training", INK, "o"),
        (losses, "validation_loss", "validation", COLOURS[1], "s"),
        *((usdr, f"validation_usdr/{source}", source, *look) for source, look in looks.items() if source in sources),
        *[(usdr, "validation_usdr", "mean over sources", INK, "")] * (len(sources) != 1),
    ]
    for ax, column, label, colour, marker in curves:
        known = history.dropna(subset=column)
        ax.plot(known["epoch"] + 1, known[column], color=colour, marker=marker, ms=4, label=label)
    usdr.axhline(0, color=INK, linestyle=":", label="silence")
    for ax, label in ((losses, "loss"), (usdr, "validation uSDR (dB)")):
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def _curves(table: pd.DataFrame, x: str, columns: int, size: tuple[float, float], errorbar, **options) -> Figure:
    """A panel per cell, or per source where there are no cells, `columns` of them in a row; in it a line per schema,
    the mean of `value` over `x`, and a band, the `errorbar`. Options are those of `_axes`."""
    names = _ordered(table["schema"])
    panels = dict(list(table.groupby([name for name in ("experiment", "learned", "source") if name in table])))
    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    looks = {
        **dict.fromkeys(("hue", "style"), "schema"),
        **dict.fromkeys(("hue_order", "style_order"), names),
        "palette": [_style(name)["color"] for name in names],
        "markers": [_style(name)["marker"] for name in names],
        "dashes": False,
        "errorbar": errorbar,
    }
    figure, axes = _axes(rows, columns, (max(5.5, size[0] * columns), 0.9 + size[1] * rows), sharey=True, **options)
    for ax, cell in zip(axes.flat, _ordered(panels), strict=False):
        seaborn.lineplot(panels[cell], x=x, y="value", **looks, ms=5, ax=ax)
        ax.get_legend().remove()
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.axhline(0, color=INK, linewidth=1)
        ax.set(title=_cell(*cell).replace(": ", "\n") if len(cell) > 1 else cell[0], xlabel="", ylabel="")
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    return _legend(figure)


@styled
def learning_curves(runs: pd.DataFrame) -> Figure:
    """Validation uSDR over the epochs of several trainings, rows of `results.load_runs`: a panel for what they learn, a
    line per schema."""
    line = ["experiment", "learned", "source", "schema"]
    table = pd.json_normalize(runs.to_dict("records"), "history", [*line, "run"])
    table = table.assign(epoch=table["epoch"] + 1, value=table["validation_usdr"].astype(float))
    reached = table.groupby([*line, "epoch"])["value"].transform("count")
    table = table[reached == table.groupby(line)["run"].transform("nunique")]
    label = "epoch; line: mean over seeds, as far as all of them went; band: from the lowest to the highest"
    return _curves(table, "epoch", 4, (2.9, 2.5), ("pi", 100), xlabel=label, ylabel="validation uSDR (dB)")


@styled
def usdr_per_band(table: pd.DataFrame) -> Figure:
    """uSDR over frequency: a panel per source, a line per schema. The table has a row per run, schema, source, track
    and band, told by its upper limit `high` in Hz, and the `value` in dB, see `listening.usdr_per_band`; NaN is left
    out."""
    label = "upper limit of the band (Hz); line: mean over tracks; band: its 95% interval (bootstrap over tracks)"
    table, labels = table[table["high"] > HEARING[0]], {"xlabel": label, "ylabel": "uSDR (dB) within each band"}
    figure = _curves(table, "high", 2, (4.9, 2.7), statistics.bootstrap_interval, sharex=True, **labels)
    _frequency_axis(figure.axes[0], round(2 * table["high"].max()))
    return figure


@styled
def seams(energies: Mapping[str, np.ndarray], reach: float) -> Figure:
    """The energy of errors around the borders of chunks, with 95% intervals: a seam is a peak in the middle. Energies
    are name -> (borders, bins), see `listening.energy_around`, and the bins lie up to `reach` seconds from a border."""
    figure, [[ax]] = _axes(1, 1, (7.2, 3.6))
    for (name, values), colour, marker in zip(energies.items(), COLOURS[1:], SHAPES[1:], strict=False):
        centres = 1e3 * reach * ((2 * np.arange(values.shape[1]) + 1) / values.shape[1] - 1)
        table = pd.DataFrame(values, columns=centres).melt(var_name="ms")
        looks = {"color": colour, "marker": marker, "label": f"{name} ({len(values)} borders)"}
        seaborn.lineplot(table, x="ms", y="value", **looks, errorbar=statistics.bootstrap_interval, ax=ax)
    ax.axvline(0, color=INK, linewidth=1, linestyle=":")
    ax.set(xlabel="ms from the border of a chunk", ylabel="energy of the error / mean", ylim=(0, None))
    return figure


@styled
def model_costs(costs: pd.DataFrame) -> Figure:
    """Parameters and multiply-accumulates of several models, a bar each, by module: rows of model, module, parameters,
    and macs per second of audio."""
    models, modules = (costs[column].unique() for column in ("model", "module"))
    figure, [axes] = _axes(1, 2, (9.5, 1.5 + 0.36 * len(models)), sharey=True)
    for ax, column, unit, label in (
        (axes[0], "parameters", 1e6, "million parameters"),
        (axes[1], "macs", 1e9, "billion multiply-accumulates\nper second of audio"),
    ):
        table = costs.pivot_table(index="model", columns="module", values=column, aggfunc="sum", fill_value=0) / unit
        table.loc[models[::-1], modules].plot.barh(ax=ax, stacked=True, width=0.7, color=COLOURS, legend=False)
        for bar, hatch in zip(ax.patches, np.repeat(HATCHES, len(models)), strict=False):
            bar.set(hatch=hatch, edgecolor="white", linewidth=0)
        ax.bar_label(ax.containers[-1], [f"{table.loc[model].sum():.1f}" for model in models[::-1]], padding=4)
        ax.set(xlabel=label, ylabel="", xmargin=0.12)
        ax.grid(visible=False, axis="y")
    return _legend(figure)


def _interval(ax: Axes, row: float, mean: float, ends: Sequence[float], **style) -> None:
    """A mean with its interval in a row of a panel."""
    ax.errorbar(mean, row, xerr=np.abs(np.transpose([ends]) - mean), linestyle="", **style)


def _rows(ax: Axes, labels: Sequence[str], title: str) -> None:
    """Names the rows of a panel, from top to bottom, and marks 0."""
    ax.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
    ax.set_title(title, loc="left")
    ax.axvline(0, color=INK, linewidth=1)
    ax.grid(visible=False, axis="y")


@styled
def usdr_comparison(scores: pd.DataFrame, answers: pd.DataFrame) -> Figure:
    """The study's figure: a panel per source, a row in it for a way of training. To the left a mark per track (runs
    averaged) and the mean with its 95% interval, in V7 and in generic; to the right the difference per track, and its
    mean with its interval, filled where it has support, by `statistics.comparisons`. Raises ValueError where no run has
    such a score, or the rows mix splits."""
    scores = scores[(scores["metric"] == "uSDR") & np.isfinite(scores["value"])]
    models = scores[scores["schema"].isin(("v7", "generic"))]
    if scores["split"].nunique() != 1 or models.empty:
        raise ValueError(f"needs uSDR of V7 or generic on one split: found {sorted(scores['split'].unique())}")
    baselines = scores.query("experiment == 'baseline' and run != 'silence'").groupby(["source", "run"])["value"].mean()
    tables = dict(list(models.groupby(["source", "experiment", "learned", "schema"])))
    ways = {source: _ordered(key[1:3] for key in tables if key[0] == source) for source in _ordered(models["source"])}
    heights, floor = [len(rows) + 0.6 for rows in ways.values()], min(0, models["value"].quantile(0.02))
    label = "small: a track (at an edge: beyond it); large: mean, 95% interval; hollow: no support"
    size, shared = (10.5, 1.4 + 0.45 * sum(heights)), {"sharex": "col", "sharey": "row"}
    figure, axes = _axes(len(ways), 2, size, label, **shared, width_ratios=(1.5, 1), height_ratios=heights)
    panels = dict(zip(ways, axes, strict=True))
    for source, *cell, schema in _ordered(tables):
        left, table = panels[source][0], tables[source, *cell, schema].pivot_table("value", "run", "track")
        row, style = ways[source].index(tuple(cell)) + (0.2 if schema == "generic" else -0.2), _style(schema)
        tracks, ends = table.mean(), statistics.bootstrap_interval(table)
        left.scatter(tracks.clip(lower=floor), [row] * len(tracks), 25, alpha=0.25, linewidth=0, **style)
        _interval(left, row, tracks.mean(), ends, ms=8, mec="white", capsize=3, label=schema, **style)
        _beside(left, row, f"{tracks.mean():.2f}", color=style["color"])
    found = answers[answers["question"] == "generic minus v7"].drop_duplicates(list(statistics.CELL[:-1]))
    reach = 1.2 * found[["low", "high"]].abs().max(axis=None)
    sides = statistics.pairs(scores, {"schema": "generic"}, {"schema": "v7"})
    for answer in found.itertuples():
        right, row = panels[answer.source][1], ways[answer.source].index((answer.experiment, answer.learned))
        one, other = sides[answer.split, answer.experiment, answer.learned, answer.source]
        right.plot((one.mean() - other.mean()).clip(-reach, reach), [row] * one.shape[1], "|", color=GREY, alpha=0.5)
        winner = "" if answer.better == "no support" else answer.better
        look = _style(winner) if winner else {"color": GREY, "marker": "D", "mfc": "white"}
        _interval(right, row, answer.difference, (answer.low, answer.high), ms=7, capsize=3, **look)
        _beside(right, row, f"{answer.difference:+.2f} {winner}".replace("-", "−"), color=look["color"])
    for source, rows in ways.items():  # an oracle above 30 dB limits nothing
        known = [f"{name} {score:.1f}" for (of, name), score in baselines.items() if of == source and score < 30]
        _rows(panels[source][0], [way(*cell) for cell in rows], f"{source}    {', '.join(known)}".replace("-", "−"))
        _rows(panels[source][1], [way(*cell) for cell in rows], "")
    axes[-1, 0].set_xlabel("uSDR (dB)")
    axes[-1, 1].set_xlabel("v7 is better  ←  generic − v7 (dB)  →  generic is better")
    return _legend(figure)


@styled
def differences(table: pd.DataFrame) -> Figure:
    """Answers to questions, rows of `statistics.comparisons`: a panel for each, in it every cell's mean difference with
    its 95% interval, filled where it has support, hollow where it has none."""
    questions, schemas = dict(list(table.groupby("question", sort=False))), _ordered(set(table["schema"]) - {""})
    cells = [_ordered(map(tuple, rows[["experiment", "learned", "source"]].to_numpy())) for rows in questions.values()]
    heights = [len(labels) + 1.6 for labels in cells]
    figure, axes = _axes(len(cells), 1, (7.5, 0.8 + 0.26 * sum(heights)), sharex=True, height_ratios=heights)
    for ax, labels, (question, rows) in zip(axes[:, 0], cells, questions.items(), strict=True):
        for row in rows.itertuples():
            shift = 0.3 * schemas.index(row.schema) - 0.15 * (len(schemas) - 1) if row.schema else 0
            look = _style(row.schema) | ({"mfc": "white"} if row.better == "no support" else {})
            place, ends = labels.index((row.experiment, row.learned, row.source)) + shift, (row.low, row.high)
            _interval(ax, place, row.difference, ends, label=row.schema or None, ms=6, capsize=2, **look)
        _rows(ax, [_cell(*cell) for cell in labels], question.replace(" minus ", " − "))
    ax.set_xlabel("uSDR difference (dB), its 95% interval; filled: supported, hollow: not")
    return _legend(figure)


def clock(second: int) -> str:
    """Seconds as minutes and seconds, 0:07."""
    return f"{second // 60}:{second % 60:02d}"


def worst_seconds(errors: Sequence[float], count: int) -> list[int]:
    """The seconds of largest error, worst first; those whose error is not finite are left out."""
    return pd.Series(errors).replace([np.inf, -np.inf], np.nan).dropna().nlargest(count).index.tolist()


@styled
def error_over_time(errors: Mapping[str, np.ndarray], worst: int = 3) -> Figure:
    """The error of every second of a track, in dB, see `listening.error_per_second`, a panel per name, the `worst`
    seconds marked. What is not finite is left blank, what is more than 30 dB below the largest cut off."""
    figure, axes = _axes(len(errors), 1, (9.5, 0.9 + 1.3 * len(errors)), "", "error (dB)", sharex=True, sharey=True)
    bottom = max((value for values in errors.values() for value in values if np.isfinite(value)), default=0) - 30
    for ax, (name, values) in zip(axes[:, 0], errors.items(), strict=True):
        marked, heights = worst_seconds(values, worst), np.where(np.isfinite(values), np.subtract(values, bottom), 0)
        faces = [COLOURS[0 if second in marked else 5] for second in range(len(values))]
        ax.bar(range(len(values)), heights.clip(0), 1, bottom, align="edge", color=faces, edgecolor="white", lw=0.4)
        ax.plot(np.add(marked, 0.5), np.asarray(values)[marked] + 2.5, "v", color=COLOURS[0], ms=6)
        ax.set_title(f"{name}: worst at {', '.join(map(clock, marked)) or 'none'}", loc="left")
        ax.grid(visible=False, axis="x")
    ax.set(xlabel="time (s)", xlim=(0, max(map(len, errors.values()))), ylim=(bottom, bottom + 36))
    ax.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _levels(signals: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    """The power (F, T) of each signal's spectrogram over that of the loudest point of all, as `_images` takes it."""
    # at most about 800 columns, more than a screen shows
    hop = max(512, max(np.shape(signal)[-1] for signal in signals.values()) // 800)
    # scipy's, because librosa's first transform takes many seconds to load a compiler
    powers = [
        np.square(np.abs(stft(np.atleast_2d(signal), nperseg=4096, noverlap=4096 - hop)[2])).mean(axis=0)
        for signal in signals.values()
    ]
    loudest = max(power.max() for power in powers) or 1.0
    return {name: (power / loudest, hop, "level (dB)") for name, power in zip(signals, powers, strict=True)}


def _images(images: Mapping[str, tuple], sample_rate: int, beside: bool = False) -> tuple[Figure, np.ndarray]:
    """Images over logarithmic frequency and time, with a bar per scale. Each has values (F, T), averaged where bins
    share a row of the picture; samples between frames; and a label: "level (dB)", of powers, or "mask magnitude"."""
    shape, size = ((1, len(images)), (12, 3.7)) if beside else ((len(images), 1), (9.5, 1 + 1.6 * len(images)))
    (figure, axes), bars = _axes(*shape, size, "time (s)", "frequency (Hz)", sharex=True, sharey=True), {}
    loud = max([1.0, *(np.percentile(image, 99.5) for image, _, label in images.values() if label != "level (dB)")])
    for ax, (name, (image, hop, label)) in zip(axes.flat, images.items(), strict=True):
        count, frames = image.shape
        starts = np.unique(np.geomspace(1, count, 241).astype(int))[:-1]  # first bins of at most 240 rows
        rows = np.add.reduceat(image, starts, axis=0) / np.diff([*starts, count])[:, None]
        rows, low, high = (10 * np.log10(np.maximum(rows, 1e-12)), -80, 0) if label == "level (dB)" else (rows, 0, loud)
        limits = (np.array([*starts, count]) - 0.5) * sample_rate / (2 * (count - 1))
        times = np.arange(frames + 1) * hop / sample_rate
        mesh = ax.pcolormesh(times, limits, rows, cmap="magma", vmin=low, vmax=high, rasterized=True)
        bars[label] = (mesh, ax if beside else axes)
        ax.grid(visible=False)
        ax.set_title(name, loc="left")
    _frequency_axis(ax, sample_rate, "y", (20, 100, 1_000, 10_000))
    for label, (mesh, beneath) in bars.items():
        figure.colorbar(mesh, ax=beneath, pad=0.01, label=label).outline.set_visible(False)
    return figure, axes.flat


@styled
def spectrograms(signals: Mapping[str, np.ndarray], sample_rate: int) -> Figure:
    """The spectrogram of each waveform, (L,) or (C, L) with channels averaged in power, in dB below the loudest point
    of all of them, so that levels compare."""
    return _images(_levels(signals), sample_rate)[0]


@styled
def masks(masks: Mapping[str, np.ndarray], sample_rate: int, n_fft: int, schema: BandSchema | None = None) -> Figure:
    """The magnitude of each source's mask, (F, T) with frames n_fft / 4 samples apart; 1 lets a bin pass as it is. A
    schema draws a thin line at each of its edges."""
    figure, axes = _images({name: (mask, n_fft // 4, "mask magnitude") for name, mask in masks.items()}, sample_rate)
    for ax in axes if schema else ():
        ax.hlines(schema.edges, *ax.get_xlim(), color=GREY, linewidth=0.5)
    return figure


@styled
def separation(signals: Mapping[str, np.ndarray], mask: np.ndarray, sample_rate: int, n_fft: int) -> Figure:
    """One source's way through a model, side by side: the spectrogram of the first signal, the mixture; the magnitude
    of the `mask`, see `masks`; and the spectrograms of the others, the estimate and the target, (C, L) each."""
    (first, mixture), *others = _levels(signals).items()
    figure, axes = _images(
        {first: mixture, "mask": (mask, n_fft // 4, "mask magnitude"), **dict(others)}, sample_rate, beside=True
    )
    axes[0].set_xlim(0, np.shape(signals[first])[-1] / sample_rate)
    return figure


def player(waveform: np.ndarray, sample_rate: int) -> Audio:
    """An audio player for a notebook, its sound (C, L) embedded as MP3, small enough to commit; full scale clips."""
    buffer, samples = io.BytesIO(), np.clip(np.asarray(waveform).T, -1, 1)
    soundfile.write(buffer, samples, sample_rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.7)
    return Audio(buffer.getvalue(), embed=True)
