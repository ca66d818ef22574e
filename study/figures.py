"""Every figure of the study, as functions of tables, arrays and schemas.

A function takes data and returns a matplotlib figure; it runs no model, saves nothing and leaves pyplot and the settings
of matplotlib alone. A notebook shows the figure once, as the last expression of a cell; `results.save_figure` writes it.
Colour is never the only code: V7 is red and round, the generic schema blue and square, others purple and of other shapes.
"""

import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import librosa
import matplotlib
import numpy as np
import pandas as pd
import seaborn
import soundfile
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy.signal import stft

from bsrnn.bands import A4, HEARING, BandSchema
from study import statistics

SOURCES = ("drums", "bass", "vocals", "other")  # the order of sources in every figure
ORDER = ("base", "scratch", "transfer", "multitask", "longer", "longer_transfer", *SOURCES, "v7", "generic")
LEVELS = (-80, 0)  # dB, of spectrograms
INK, GREY = "#333333", "#888888"
# Okabe & Ito's colours, which colour-blind readers tell apart
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHAPES = ("o", "s", "^", "D", "v", "P")
TICKS = {20: "20", 50: "50", 100: "100", 200: "200", 500: "500", 1_000: "1k", 2_000: "2k", 5_000: "5k", 10_000: "10k"}
STYLE = {
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    **{
        f"{axis}.{name}": value for axis in ("xtick", "ytick") for name, value in (("color", GREY), ("labelcolor", INK))
    },
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.labelsize", "axes.titlesize", "figure.labelsize"), 11),
    **{
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.7,
    },
    **{"legend.frameon": False, "legend.fontsize": 10, "figure.dpi": 110, "figure.facecolor": "white"},
}
LOSSES = {"train_loss": "training", "validation_loss": "validation"}
HATCHES = ("", "//", "..", "xx")
PAIR = ("v7", "generic")  # the schemas of the main comparison
HARMLESS = 30.0  # dB; an oracle above it limits nothing, and is not named
styled = matplotlib.rc_context(STYLE)


class _Figure(Figure):
    """A figure in the style all figures share, which Jupyter shows as PNG without pyplot, that would keep it open."""

    @styled
    def draw(self, renderer):
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def _axes(rows: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches and its axes (rows, columns)."""
    figure = _Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _frequency_axis(ax: Axes, sample_rate: int, which: str = "x", ticks: Iterable[int] = tuple(TICKS)) -> None:
    """Makes the x or y axis logarithmic in Hz, from 20 Hz to Nyquist."""
    ax.set(**{f"{which}scale": "log", f"{which}lim": (HEARING[0], sample_rate / 2)})
    axis, ticks = getattr(ax, f"{which}axis"), [tick for tick in ticks if tick < sample_rate / 2]
    axis.set_ticks(ticks, [TICKS[tick] for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _note_axis(ax: Axes, sample_rate: int) -> None:
    """Names the notes A0, A1, ... above a frequency axis; 440 Hz is A4."""
    notes = [note for octave in range(-4, 10) if (note := A4 * 2.0**octave) < sample_rate / 2]
    top = ax.secondary_xaxis("top")
    top.set_ticks(notes, [librosa.hz_to_note(note) for note in notes])
    top.set_xlabel("note")
    top.xaxis.set_minor_locator(NullLocator())


def _shades(schema: str, count: int = 1, other: str = "Greys") -> list[tuple[float, ...]]:
    """`count` colours of a schema, dark to light: the V7 family in reds, generic schemas in blues, else `other`."""
    name = "Reds" if schema in ("v7", "vocals", "other") else "Blues" if schema.startswith("generic") else other
    return [matplotlib.colormaps[name](shade) for shade in np.linspace(0.7 if name == "Greys" else 0.85, 0.45, count)]


def _style(schema: str, schemas: Collection[str]) -> dict:
    """How a schema is drawn among others: V7 round, generic square, others as their place says."""
    others = [name for name in schemas if name not in ("v7", "generic")]
    marker = {"v7": "o", "generic": "s"}.get(schema) or "D^vPX*<>"[others.index(schema) % 8]
    return {"color": _shades(schema, other="Purples")[0], "marker": marker}


def _limits(schema: BandSchema, sample_rate: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits in Hz of the bands that an STFT leaves, within what figures show (20 Hz to Nyquist)."""
    limits = np.array(schema.bins(sample_rate, n_fft)).T * sample_rate / n_fft
    return tuple(np.clip(limits, HEARING[0], sample_rate / 2))


def _ordered(names: Iterable) -> list:
    """Names, or tuples of names, each once, in the order that all figures keep."""
    rank = {name: place for place, name in enumerate(ORDER)}
    return sorted(set(names), key=lambda key: [(rank.get(x, 99), x) for x in ((key,) if isinstance(key, str) else key)])


def way(experiment: str, learned: str) -> str:
    """What a way of training is called: base, transfer from drums, multitask d+b; initials where several are learned."""
    several = "+" in learned
    short = "+".join(name[0] for name in learned.split("+")) if several else learned
    if "transfer" in experiment:
        return f"{experiment.replace('_', ' ')} from {short}"
    return f"{experiment} {short}" if several else experiment


def _beside(ax: Axes) -> dict:
    """How a number stands beside a panel, where it hides nothing."""
    return {"transform": ax.get_yaxis_transform(), "va": "center"}


def _legend(figure: Figure, columns: int = 4) -> None:
    """One legend above all panels, a handle per label."""
    handles = {}
    for ax in figure.axes:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=columns)


@styled
def schemas(schemas: Sequence[BandSchema], sample_rate: int, n_fft: int) -> Figure:
    """Every schema as a row of bands, as the STFT's bins cut them, over frequency and notes; K is their number.

    Args:
        schemas: one row each, top to bottom.
        sample_rate: in Hz.
        n_fft: FFT size in samples.
    """
    figure, [[ax]] = _axes(1, 1, (9.5, 1.3 + 0.34 * len(schemas)))
    for row, schema in enumerate(schemas):
        low, high = _limits(schema, sample_rate, n_fft)
        colours = (_shades(schema.name, 2) * len(low))[: len(low)]
        ax.broken_barh(np.stack([low, high - low], 1), (row - 0.4, 0.8), facecolors=colours, linewidth=0)
        ax.text(1.015, row, len(low), **_beside(ax))
    ax.text(1.015, -0.95, "K", **_beside(ax), weight="bold")
    ax.set(xlabel="frequency (Hz)", ylabel="band schema", ylim=(len(schemas) - 0.5, -0.5))
    ax.set_yticks(range(len(schemas)), [schema.name for schema in schemas])
    _frequency_axis(ax, sample_rate)
    _note_axis(ax, sample_rate)
    return figure


@styled
def band_widths(schemas: Sequence[BandSchema], sample_rate: int, n_fft: int) -> Figure:
    """The width of every band over its place on the frequency axis: as designed in semitones, as cut in STFT bins.

    In semitones the first band (from 0 Hz) has no width and the last ends where the sampling does: both are left out.

    Args:
        schemas: those to compare; usually V7 and generic.
        sample_rate: in Hz.
        n_fft: FFT size in samples.
    """
    figure, [[notes], [bins]] = _axes(2, 1, (9.5, 6.2), sharex=True)
    names = [schema.name for schema in schemas]
    for schema in schemas:
        cut, style = schema.bins(sample_rate, n_fft), _style(schema.name, names)
        label = f"{schema.name}: unevenness {schema.unevenness():.2f}, K = {len(cut)}"
        designed = (schema.edges[:-1], schema.edges[1:], schema.semitones())
        bands = (*_limits(schema, sample_rate, n_fft), [high - low for low, high in cut])
        for ax, (low, high, width) in ((notes, designed), (bins, bands)):
            ax.hlines(width, low, high, linewidth=2, color=style["color"])
            ax.plot(np.sqrt(np.multiply(low, high)), width, linestyle="", markersize=5, label=label, **style)
    notes.set(ylabel="width (semitones)", ylim=(0, None))
    bins.set(yscale="log", xlabel="frequency (Hz)", ylabel=f"width (bins of {sample_rate / n_fft:.1f} Hz)")
    bins.set_yticks(ticks := [1, 2, 5, 10, 20, 50, 100, 200], [str(tick) for tick in ticks])
    bins.yaxis.set_minor_locator(NullLocator())
    notes.legend()
    _frequency_axis(bins, sample_rate)
    _note_axis(notes, sample_rate)
    return figure


@styled
def collapse(schemas: BandSchema | Sequence[BandSchema], sample_rate: int, n_ffts: Sequence[int]) -> Figure:
    """Which bands of a schema remain at each FFT size, how many of all, and which vanish (hollow) because no bin lies
    within them.

    Args:
        schemas: one or several.
        sample_rate: in Hz.
        n_ffts: FFT sizes in samples.
    """
    schemas = [schemas] if isinstance(schemas, BandSchema) else schemas
    size = (10, 1.3 + (0.3 + 0.22 * len(n_ffts)) * len(schemas))
    figure, axes = _axes(len(schemas), 1, size, sharex=True)
    for schema, ax in zip(schemas, axes[:, 0], strict=True):
        dark, light = _shades(schema.name, 2)
        bounds = np.clip([0, *schema.edges, sample_rate / 2], HEARING[0], sample_rate / 2)
        for row, n_fft in enumerate(n_ffts):
            # the band of each range's first bin; the tolerance is that of BandSchema.bins
            first = np.array(schema.bins(sample_rate, n_fft))[:, 0] * sample_rate / n_fft
            kept = set(np.searchsorted(schema.edges, first * (1 + 1e-9), side="right"))
            faces = [(dark, light)[band % 2] if band in kept else "white" for band in range(len(bounds) - 1)]
            spans = np.stack([bounds[:-1], np.diff(bounds)], 1)
            ax.broken_barh(spans, (row - 0.38, 0.76), facecolors=faces, edgecolor=dark, linewidth=0.6)
            ax.text(1.01, row, f"{len(kept)} of {len(faces)}", **_beside(ax))
        ax.set_yticks(range(len(n_ffts)), n_ffts)
        ax.set_ylabel(f"{schema.name}\nFFT size")
    axes[-1, 0].set_xlabel("frequency (Hz)")
    _frequency_axis(axes[-1, 0], sample_rate)
    _note_axis(axes[0, 0], sample_rate)
    return figure


@styled
def learning_curve(history: pd.DataFrame) -> Figure:
    """Losses, and validation uSDR of each source, over the epochs of one training.

    Args:
        history: columns epoch (counted from 0), train_loss, validation_loss, validation_usdr (dB, mean over sources),
            and validation_usdr/<source> for each source; missing values are skipped.
    """
    figure, [[losses, usdr]] = _axes(1, 2, (9.5, 3.8))
    sources = [name for name in history if name.startswith("validation_usdr/")]
    # a source looks the same whichever others are present
    order = list(dict.fromkeys((*(f"validation_usdr/{source}" for source in SOURCES), *sources)))
    looks = {name: (COLOURS[place % 6], SHAPES[place % 6]) for place, name in enumerate(order)}
    looks |= {"train_loss": (INK, "o"), "validation_loss": (COLOURS[1], "s"), "validation_usdr": (INK, "")}
    curves = ["validation_usdr"] * (len(sources) != 1) + sorted(sources, key=order.index)
    for ax, columns, label in ((losses, LOSSES, "loss"), (usdr, curves, "validation uSDR (dB)")):
        for column in columns:
            known, (colour, marker) = history[["epoch", column]].dropna(), looks[column]
            name = {**LOSSES, "validation_usdr": "mean over sources"}.get(column) or column.partition("/")[2]
            ax.plot(known["epoch"] + 1, known[column], color=colour, marker=marker, ms=4, label=name)  # from 1
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    usdr.axhline(0, color=INK, linestyle=":", linewidth=1)  # what silence scores
    return figure


def _curves(
    table: pd.DataFrame, x: str, columns: int, size: tuple[float, float], **options
) -> tuple[Figure, np.ndarray]:
    """A panel per `panel`, columns of them in a row; in it a line per schema, the mean of `value` over `x`, and a band.

    Args:
        table: rows with columns panel, schema, value and `x`.
        options: of the band, and sharex.
    """
    panels, names = list(dict.fromkeys(table["panel"])), _ordered(table["schema"])
    columns, styles = min(columns, len(panels)), {name: _style(name, names) for name in names}
    looks = {"hue": "schema", "style": "schema", "hue_order": names, "style_order": names, "dashes": False, "ms": 5}
    looks |= {"palette": {name: style["color"] for name, style in styles.items()}}
    looks |= {"markers": {name: style["marker"] for name, style in styles.items()}, "errorbar": options.pop("errorbar")}
    rows = -(-len(panels) // columns)
    figure, axes = _axes(rows, columns, (max(5.5, size[0] * columns), 0.9 + size[1] * rows), sharey=True, **options)
    for ax, panel in zip(axes.flat, panels, strict=False):
        seaborn.lineplot(table[table["panel"] == panel], x=x, y="value", **looks, legend=ax is axes[0, 0], ax=ax)
        ax.set(title=panel, xlabel="", ylabel="")
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    axes[0, 0].get_legend().remove()
    _legend(figure)
    return figure, axes.flat[: len(panels)]


def _by_cell(table: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of cells, with a `panel` that says of which they are."""
    cells = list(zip(table["experiment"], table["learned"], table["source"], strict=True))
    order = _ordered(cells)
    table = table.assign(panel=[f"{way(*cell[:2])}\n{cell[2]}" for cell in cells], place=list(map(order.index, cells)))
    return table.sort_values("place", kind="stable")


@styled
def learning_curves(runs: pd.DataFrame) -> Figure:
    """Validation uSDR over the epochs of several trainings: a panel for what they learn, a line for each schema.

    A line is the mean over seeds, as far as all of them went, its band the range from the lowest seed to the highest.

    Args:
        runs: rows of `results.load_runs`.

    Raises:
        ValueError: runs of a line have the same seed, so differ in something else.
    """
    line = ["experiment", "learned", "source", "schema"]
    if (twice := runs.duplicated([*line, "seed"])).any():
        raise ValueError(f"{runs['run'][twice].iloc[0]} and another have one seed: choose runs of one size and portion")
    table = runs.explode("history", ignore_index=True)
    history = pd.DataFrame(table["history"].tolist())
    table = table.assign(epoch=history["epoch"] + 1, value=history["validation_usdr"].astype(float))
    seeds = table.groupby(line)["run"].transform("nunique")
    table = table[table.groupby([*line, "epoch"])["value"].transform("count") == seeds]
    figure, axes = _curves(_by_cell(table), "epoch", 4, (2.9, 2.5), errorbar=("pi", 100))
    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supylabel("validation uSDR (dB), mean over sources")
    figure.supxlabel("epoch; line: mean over seeds, as far as all of them went; band: from the lowest to the highest")
    return figure


@styled
def usdr_against(scores: pd.DataFrame, x: str, label: str) -> Figure:
    """uSDR over what runs differ in, such as size or portion of the songs: a panel per cell, a line per schema.

    Args:
        scores: score rows of runs on one split, with a column `x` besides: the number they differ in, above 0.
        x: its name.
        label: what it is called.
    """
    line = ["experiment", "learned", "source", "schema", x]
    tracks = scores[scores["metric"] == "uSDR"].groupby([*line, "track"])["value"].mean().reset_index()
    interval = statistics.bootstrap_interval
    figure, axes = _curves(_by_cell(tracks), x, 4, (2.9, 2.5), errorbar=interval, sharex=True)
    axes[0].set_xscale("log")
    figure.supylabel("uSDR (dB)")
    figure.supxlabel(f"{label}; line: mean over tracks, runs averaged; band: its 95% interval (bootstrap over tracks)")
    return figure


@styled
def usdr_per_band(table: pd.DataFrame) -> Figure:
    """uSDR over frequency: a panel per source, a line per schema, the mean over tracks and its 95% interval.

    Args:
        table: a row per run, source, track and band: columns run, schema (of the model), source, track, high (Hz, the
            band's upper limit, the same bands for all) and value (dB, see `metrics.usdr_per_band`; NaN is left out).
    """
    table = table[table["high"] > HEARING[0]]
    table = table.assign(panel=table["source"]).sort_values("source", key=lambda names: names.map(ORDER.index))
    highs = np.unique(table["high"])
    centres = np.sqrt(highs * np.array([HEARING[0], *highs[:-1]]))
    table["centre"] = table["high"].map(dict(zip(highs, centres, strict=True)))
    figure, axes = _curves(table, "centre", 2, (4.9, 2.7), errorbar=statistics.bootstrap_interval, sharex=True)
    for ax in axes:
        ax.axhline(0, color=INK, linewidth=1)
    _frequency_axis(axes[0], round(2 * highs[-1]))
    figure.supylabel("uSDR (dB) within each band; silence: 0")
    figure.supxlabel("frequency (Hz); line: mean over tracks; band: its 95% interval (bootstrap over tracks)")
    return figure


@styled
def seams(energies: Mapping[str, np.ndarray], reach: float) -> Figure:
    """The energy of errors around the borders of chunks: a seam is a peak in the middle.

    Args:
        energies: name -> (borders, bins), relative to their mean, see `metrics.energy_around`.
        reach: how far around a border the bins lie, in seconds.
    """
    figure, [[ax]] = _axes(1, 1, (7.2, 3.6))
    for (name, values), colour, marker in zip(energies.items(), COLOURS[1:], SHAPES[1:], strict=False):
        centres = (np.arange(values.shape[1]) + 0.5) / values.shape[1] * 2e3 * reach - 1e3 * reach
        low, high = np.transpose([statistics.bootstrap_interval(column) for column in values.T])
        ax.fill_between(centres, low, high, color=colour, alpha=0.2)
        ax.plot(centres, values.mean(0), color=colour, marker=marker, ms=3, label=f"{name} ({len(values)} borders)")
    ax.axvline(0, color=INK, linewidth=1, linestyle=":")
    ax.set(xlabel="ms from the border of a chunk", ylabel="energy of the error / mean", ylim=(0, None))
    ax.legend(loc="lower right")
    return figure


@styled
def model_costs(costs: pd.DataFrame) -> Figure:
    """Parameters and multiply-accumulates of several models, a bar each, by module.

    Args:
        costs: columns model, module, parameters, macs (per second of audio); a row per model and module.
    """
    models, modules = (list(dict.fromkeys(costs[column])) for column in ("model", "module"))
    figure, [axes] = _axes(1, 2, (9.5, 1.5 + 0.36 * len(models)), sharey=True)
    labels = {"parameters": "million parameters", "macs": "billion multiply-accumulates\nper second of audio"}
    for ax, (column, label), unit in zip(axes, labels.items(), (1e6, 1e9), strict=True):
        table = costs.pivot_table(index="model", columns="module", values=column, aggfunc="sum", fill_value=0) / unit
        table.loc[models[::-1], modules].plot.barh(ax=ax, stacked=True, width=0.7, color=COLOURS, legend=False)
        for bars, hatch in zip(ax.containers, HATCHES, strict=False):
            for bar in bars:
                bar.set(hatch=hatch, edgecolor="white", linewidth=0)
        ax.bar_label(ax.containers[-1], fmt="%.1f", padding=4, fontsize=9)
        ax.set(xlabel=label, ylabel="")
        ax.margins(x=0.12)
        ax.grid(visible=False, axis="y")
    _legend(figure)
    return figure


def _interval(ax: Axes, row: tuple, place: float, style: Mapping) -> None:
    """A difference with its interval, filled where it has support, hollow where it has none."""
    face = "white" if row.better == "no support" else style["color"]
    reach = [[row.difference - row.low], [row.high - row.difference]]
    ax.errorbar(row.difference, place, xerr=reach, ms=6, mfc=face, capsize=2, linestyle="", **style)


def _rows(ax: Axes, labels: Sequence[str], title: str) -> None:
    """Names the rows of a panel, from top to bottom, and marks 0."""
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_title(title, loc="left")
    ax.axvline(0, color=INK, linewidth=1)
    ax.grid(visible=False, axis="y")


@styled
def usdr_comparison(scores: pd.DataFrame, answers: pd.DataFrame) -> Figure:
    """The study's figure: what every cell scores in V7 and generic, how much they differ, and what supports it.

    A panel is a source, a row in it a way of training. To the left a dot per track (runs averaged) and the mean with its
    95% interval, of each schema; to the right the mean difference with its interval, filled where it has support.

    Args:
        scores: rows of `results.load_scores` on one split.
        answers: what `statistics.comparisons` says of them.

    Raises:
        ValueError: no run has such a score, or the rows mix splits.
    """
    scores = scores[(scores["metric"] == "uSDR") & np.isfinite(scores["value"])]
    models = scores[scores["schema"].isin(PAIR)]
    if scores["split"].nunique() != 1 or models.empty:
        raise ValueError(f"needs uSDR of V7 or generic on one split: found {sorted(scores['split'].unique())}")
    baselines = scores[scores["experiment"] == "baseline"].groupby(["source", "run"])["value"].mean()
    tables = dict(list(models.groupby(["source", "experiment", "learned", "schema"])))
    ways = {source: _ordered(key[1:3] for key in tables if key[0] == source) for source in _ordered(models["source"])}
    heights, low = [len(rows) + 0.6 for rows in ways.values()], min(0, models["value"].quantile(0.02))
    size = {"width_ratios": (1.7, 1), "height_ratios": heights}
    figure, axes = _axes(len(ways), 2, (10.5, 1.4 + 0.45 * sum(heights)), sharex="col", sharey="row", **size)
    for (source, *cell, schema), rows in tables.items():
        left, table = axes[list(ways).index(source), 0], rows.pivot_table("value", "run", "track")
        place = ways[source].index(tuple(cell)) + (0.2 if schema == PAIR[1] else -0.2)
        style, tracks, ends = _style(schema, PAIR), table.mean(), statistics.bootstrap_interval(table)
        for shown, marker in ((tracks >= low, style["marker"]), (tracks < low, "<")):
            dots = tracks[shown].clip(lower=low)
            left.plot(dots, [place] * len(dots), marker, color=style["color"], alpha=0.25, mew=0, ms=5)
        reach = np.abs(np.transpose([ends]) - tracks.mean())
        left.errorbar(tracks.mean(), place, xerr=reach, ms=8, mec="white", capsize=3, ls="", label=schema, **style)
        left.text(1.01, place, f"{tracks.mean():.2f}", color=style["color"], **_beside(left))
    for row in answers[answers["question"] == f"{PAIR[1]} minus {PAIR[0]}"].itertuples():
        right, place = axes[list(ways).index(row.source), 1], ways[row.source].index((row.experiment, row.learned))
        style = _style(row.better, PAIR) if row.better in PAIR else {"color": GREY, "marker": "D"}
        _interval(right, row, place, style)
        text = f"{row.difference:+.2f}".replace("-", "−") + f" {row.better}" * (row.better in PAIR)
        right.text(1.01, place, text, color=style["color"], **_beside(right))
    for (source, rows), (left, right) in zip(ways.items(), axes, strict=True):
        known = baselines.get(source, baselines[:0]).drop("silence", errors="ignore")
        beside = ", ".join(f"{name} {value:.1f}" for name, value in known[known < HARMLESS].items())
        _rows(left, [way(*cell) for cell in rows], f"{source}    {beside}".replace("-", "−"))
        _rows(right, [way(*cell) for cell in rows], "")
    axes[-1, 0].set_xlabel("uSDR (dB)")
    axes[-1, 1].set_xlabel(f"{PAIR[1]} − {PAIR[0]} (dB)")
    figure.supxlabel(
        "small: a track, runs averaged (◄ beyond the axis); large: mean; bars: 95% intervals; hollow: no support"
    )
    _legend(figure)
    return figure


@styled
def differences(table: pd.DataFrame) -> Figure:
    """Answers to questions: a panel for each, in it every cell's mean difference with its 95% interval, filled where it
    has support, hollow where it has none.

    Args:
        table: rows of `statistics.comparisons`.
    """
    names, questions = _ordered(set(table["schema"]) - {""}), dict(list(table.groupby("question", sort=False)))
    cells = {name: _ordered(zip(rows["experiment"], rows["learned"], rows["source"], strict=True))
             for name, rows in questions.items()}  # fmt: skip
    heights = [len(rows) + 1.6 for rows in cells.values()]
    figure, axes = _axes(len(cells), 1, (7.5, 0.8 + 0.26 * sum(heights)), sharex=True, height_ratios=heights)
    for ax, (name, rows) in zip(axes[:, 0], questions.items(), strict=True):
        for row in rows.itertuples():
            shift = (names.index(row.schema) - (len(names) - 1) / 2) * 0.3 if row.schema else 0
            style = _style(row.schema, names) | {"label": row.schema} if row.schema else {"color": INK, "marker": "D"}
            _interval(ax, row, cells[name].index((row.experiment, row.learned, row.source)) + shift, style)
        labels = [f"{way(*cell[:2])}: {cell[2]}" if cell[0] else cell[2] for cell in cells[name]]
        _rows(ax, labels, name.replace(" minus ", " − "))
    axes[-1, 0].set_xlabel("uSDR difference (dB), its 95% interval; filled: supported, hollow: not")
    _legend(figure)
    return figure


@styled
def paired(scores: pd.DataFrame, one: Mapping[str, str], other: Mapping[str, str]) -> Figure:
    """The songs behind the means: by how much each track's uSDR, averaged over runs, is better in a cell of one kind
    than in the same cell of another kind; a row per cell, in it a line per track and a diamond at their mean.

    Args:
        scores, one, other: see `statistics.pairs`.
    """
    columns, gains = statistics.agreed(one, other), {}
    for key, (first, second) in statistics.pairs(scores, one, other).items():
        cell = dict(zip(columns, key, strict=True))
        gains[cell["source"], cell.get("experiment", ""), cell.get("learned", cell.get("schema"))] = (
            first.mean() - second.mean()
        )
    order = _ordered(gains)
    figure, [[ax]] = _axes(1, 1, (8, 1 + 0.3 * len(order)))
    for place, key in enumerate(order):
        ax.plot(gains[key], [place] * len(gains[key]), "|", color=COLOURS[1], ms=11)
        ax.plot(gains[key].mean(), place, "D", color=INK)
    _rows(ax, [f"{source}: {way(*cell) if cell[0] else cell[1]}" for source, *cell in order], "")
    ax.set_xlabel(
        f"{' '.join(one.values())} − {' '.join(other.values())} (dB): a line per track, a diamond at their mean"
    )
    return figure


def clock(second: int) -> str:
    """Seconds as minutes and seconds, 0:07."""
    return f"{second // 60}:{second % 60:02d}"


def worst_seconds(errors: Sequence[float], count: int) -> list[int]:
    """The seconds of largest error, worst first; those whose error is not finite are left out."""
    errors = np.asarray(errors, float)
    finite = np.flatnonzero(np.isfinite(errors))
    return finite[np.argsort(-errors[finite], kind="stable")[:count]].tolist()


@styled
def error_over_time(errors: Mapping[str, np.ndarray], worst: int = 3) -> Figure:
    """The error of every second of a track, a panel per name, the worst seconds marked.

    Args:
        errors: name -> (seconds,) in dB, see `metrics.error_per_second`. What is not finite is left blank, what is more
            than 30 dB below the largest cut off.
        worst: how many seconds to mark.
    """
    figure, axes = _axes(len(errors), 1, (9.5, 0.9 + 1.3 * len(errors)), sharex=True, sharey=True)
    bottom = max((value for values in errors.values() for value in values if np.isfinite(value)), default=0) - 30
    for ax, (name, values) in zip(axes[:, 0], errors.items(), strict=True):
        marked, heights = worst_seconds(values, worst), np.where(np.isfinite(values), np.subtract(values, bottom), 0)
        faces = [COLOURS[0] if second in marked else COLOURS[5] for second in range(len(values))]
        ax.bar(range(len(values)), heights.clip(0), 1, bottom, align="edge", color=faces, edgecolor="white", lw=0.4)
        ax.plot(np.add(marked, 0.5), np.asarray(values)[marked] + 2.5, "v", color=COLOURS[0], ms=6)
        ax.set_title(f"{name}: worst at {', '.join(map(clock, marked)) or 'none'}", loc="left")
        ax.grid(visible=False, axis="x")
        ax.set_ylim(bottom, bottom + 36)
    axes[-1, 0].set(xlabel="time (s)", xlim=(0, max(map(len, errors.values()))))
    axes[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supylabel("error (dB)")
    return figure


def _levels(signals: Mapping[str, np.ndarray]) -> dict[str, tuple]:
    """The power (F, T) of each signal's spectrogram over that of the loudest point of all, as `_images` takes it."""
    n_fft, powers = 4096, {}
    # at most about 800 columns, more than a screen shows
    hop = max(n_fft // 8, max(np.shape(signal)[-1] for signal in signals.values()) // 800)
    for name, signal in signals.items():
        # scipy's, because librosa's first transform takes many seconds to load a compiler
        spectrum = stft(np.atleast_2d(signal), nperseg=n_fft, noverlap=n_fft - hop)[2]
        powers[name] = (np.abs(spectrum) ** 2).mean(axis=0)
    loudest = max(power.max() for power in powers.values()) or 1.0
    return {name: (power / loudest, hop, LEVELS, "level (dB)") for name, power in powers.items()}


def _masks(masks: Mapping[str, np.ndarray], n_fft: int) -> dict[str, tuple]:
    """Magnitudes of masks as `_images` takes them."""
    top = max(1.0, *(np.percentile(mask, 99.5) for mask in masks.values()))
    return {name: (mask, n_fft // 4, (0, top), "mask magnitude") for name, mask in masks.items()}


def _images(images: Mapping[str, tuple], sample_rate: int, beside: bool = False) -> tuple[Figure, np.ndarray]:
    """Images over logarithmic frequency and time, one above the other or beside each other, with a bar per scale.

    Args:
        images: name -> magnitudes or powers (F, T), averaged where several bins share a row of the picture; samples
            between frames; limits of the colours; and their label: of "level (dB)", values are powers.
        sample_rate: in Hz.
    """
    shape, size = ((1, len(images)), (12, 3.7)) if beside else ((len(images), 1), (9.5, 1 + 1.6 * len(images)))
    figure, axes = _axes(*shape, size, sharex=True, sharey=True)
    bars = {}
    for ax, (name, (image, hop, scale, label)) in zip(axes.flat, images.items(), strict=True):
        count, frames = image.shape
        starts = np.unique(np.geomspace(1, count, 241).astype(int))[:-1]  # first bins of at most 240 rows
        rows = np.add.reduceat(image, starts, axis=0) / np.diff([*starts, count])[:, None]
        values = 10 * np.log10(np.maximum(rows, 1e-12)) if label == "level (dB)" else rows
        limits = (np.array([*starts, count]) - 0.5) * sample_rate / (2 * (count - 1))
        times = np.arange(frames + 1) * hop / sample_rate
        mesh = ax.pcolormesh(times, limits, values, cmap="magma", vmin=scale[0], vmax=scale[1], rasterized=True)
        bars[label] = (mesh, [ax] if beside else list(axes.flat))
        ax.grid(visible=False)
        ax.set_title(name, loc="left")
    _frequency_axis(axes.flat[0], sample_rate, "y", (20, 100, 1_000, 10_000))
    for label, (mesh, beneath) in bars.items():
        figure.colorbar(mesh, ax=beneath, pad=0.01, label=label).outline.set_visible(False)
    figure.supxlabel("time (s)")
    figure.supylabel("frequency (Hz)")
    return figure, axes.flat


@styled
def spectrograms(signals: Mapping[str, np.ndarray], sample_rate: int) -> Figure:
    """The spectrogram of each signal, in dB below the loudest point of all of them, so that levels compare.

    Args:
        signals: name -> waveform, (L,) or (C, L); channels are averaged in power.
        sample_rate: in Hz.
    """
    return _images(_levels(signals), sample_rate)[0]


@styled
def masks(masks: Mapping[str, np.ndarray], sample_rate: int, n_fft: int, schema: BandSchema | None = None) -> Figure:
    """The magnitude of each source's mask; 1 lets a bin pass as it is.

    Args:
        masks: name -> magnitude, (F, T) with F = n_fft / 2 + 1 and frames n_fft / 4 samples apart.
        sample_rate: in Hz.
        n_fft: FFT size in samples.
        schema: draws a thin line at each of its edges.
    """
    figure, axes = _images(_masks(masks, n_fft), sample_rate)
    for ax in axes if schema else ():
        ax.hlines(schema.edges, *ax.get_xlim(), color=GREY, linewidth=0.5)
    return figure


@styled
def separation(signals: Mapping[str, np.ndarray], mask: np.ndarray, sample_rate: int, n_fft: int) -> Figure:
    """One source's way through a model, side by side: the mixture's spectrogram, the mask, and the other signals'.

    Args:
        signals: name -> waveform (C, L): the mixture first, then the estimate, the target.
        mask: magnitude (F, T), see `masks`.
        sample_rate: in Hz, of all.
        n_fft: FFT size of the mask in samples.
    """
    (mixture, first), *others = _levels(signals).items()
    figure, axes = _images({mixture: first, **_masks({"mask": mask}, n_fft), **dict(others)}, sample_rate, beside=True)
    axes[0].set_xlim(0, np.shape(signals[mixture])[-1] / sample_rate)
    return figure


def player(waveform: np.ndarray, sample_rate: int) -> "IPython.display.Audio":  # noqa: F821
    """An audio player for a notebook, its sound embedded as MP3: small enough to commit.

    Args:
        waveform: (C, L), full scale 1; beyond it is clipped.
        sample_rate: in Hz.
    """
    from IPython.display import Audio

    buffer, samples = io.BytesIO(), np.clip(np.asarray(waveform).T, -1, 1)
    soundfile.write(buffer, samples, sample_rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.7)
    return Audio(buffer.getvalue(), embed=True)
