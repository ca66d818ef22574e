"""Every figure of the study, as functions of tables, arrays and schemas.

A function takes data and returns a matplotlib figure; it runs no model, saves nothing and leaves pyplot alone. A
notebook shows the figure once, as the last expression of a cell, and `results.save_figure` writes it. Colour is never
the only code: V7 is red and round, the generic schema blue and square, any other grey or purple and of another shape.
"""

import io
import re
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import librosa
import numpy as np
import pandas as pd
import soundfile
from study.statistics import CELL, TRIVIAL, bootstrap_interval, name_of, pairs
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy.signal import stft

from bsrnn.bands import A4, HEARING, BandSchema

SOURCES = ("drums", "bass", "vocals", "other")  # the order of sources in every figure
EXPERIMENTS = ("base", "longer", "longer_transfer", "scratch", "transfer", "multitask")
MOST_GROUPS = 8  # side by side
HARMLESS = 30.0  # dB; an oracle above it limits nothing, and is not marked
LEVELS = (-80, 0)  # dB, of spectrograms
_SOURCE_STYLES = (  # Okabe & Ito's colours, which colour-blind readers tell apart
    ("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
)  # fmt: skip
_INK, _FAINT = "#333333", "#dddddd"
_OUTLINE = [withStroke(linewidth=2.5, foreground="white")]  # of text over lines
_TICKS = {20: "20", 50: "50", 100: "100", 200: "200", 500: "500", 1_000: "1k", 2_000: "2k", 5_000: "5k", 10_000: "10k"}


class _Figure(Figure):
    """A figure that Jupyter shows as PNG without pyplot, which would keep it open and might show it twice."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def _axes(rows: int, columns: int, size: tuple[float, float], **options) -> tuple[Figure, np.ndarray]:
    """A figure of `size` inches and its axes (rows, columns), in the style all figures share."""
    figure = _Figure(figsize=size, dpi=110, layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        _style_axes(ax)
    return figure, axes


def _style_axes(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#888888")
    ax.grid(color=_FAINT, linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=10, color="#888888", labelcolor=_INK)
    ax.xaxis.label.set(size=11, color=_INK)
    ax.yaxis.label.set(size=11, color=_INK)


def _frequency_axis(ax: Axes, sample_rate: int, which: str = "x", ticks: Sequence[int] = tuple(_TICKS)) -> None:
    """Makes the x or y axis logarithmic in Hz, from 20 Hz to Nyquist."""
    ax.set(**{f"{which}scale": "log", f"{which}lim": (HEARING[0], sample_rate / 2)})
    axis = ax.xaxis if which == "x" else ax.yaxis
    ticks = [tick for tick in ticks if tick < sample_rate / 2]
    axis.set_ticks(ticks, [_TICKS[tick] for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _note_axis(ax: Axes, sample_rate: int) -> None:
    """Names the notes A0, A1, ... above a frequency axis; 440 Hz is A4."""
    notes = [note for octave in range(-4, 10) if (note := A4 * 2.0**octave) < sample_rate / 2]
    top = ax.secondary_xaxis("top")
    top.set_ticks(notes, [librosa.hz_to_note(note) for note in notes])
    top.tick_params(labelsize=10, color="#888888", labelcolor=_INK)
    top.tick_params(which="minor", length=0)
    top.set_xlabel("note", size=11, color=_INK)
    top.spines["top"].set_visible(False)


def _shades(schema: str, count: int = 1, other: str = "Greys") -> list[tuple[float, ...]]:
    """`count` colours of a schema, dark to light: the V7 family in reds, generic schemas in blues, else `other`."""
    name = "Reds" if schema in ("v7", "vocals", "other") else "Blues" if schema.startswith("generic") else other
    return [colormaps[name](shade) for shade in np.linspace(0.7 if name == "Greys" else 0.85, 0.45, count)]


def _marker(schema: str, schemas: Sequence[str]) -> str:
    """Round for V7, square for generic, another shape for each other schema of the figure."""
    others = [name for name in schemas if name not in ("v7", "generic")]
    return {"v7": "o", "generic": "s"}.get(schema) or "D^vPX*<>"[others.index(schema) % 8]


def _limits(schema: BandSchema, sample_rate: int, n_fft: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits in Hz of the bands that an STFT leaves, within what figures show (20 Hz to Nyquist)."""
    limits = np.array(schema.bins(sample_rate, n_fft)).T * sample_rate / n_fft
    return tuple(np.clip(limits, HEARING[0], sample_rate / 2))


def _grid(
    count: int, columns: int = 4, size: tuple[float, float] = (2.9, 2.7), sharex: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels of `size` inches, at most `columns` to a row, that share the y axis, and x or not."""
    columns = min(columns, count)
    rows = -(-count // columns)
    whole = (max(5.5, size[0] * columns), 0.9 + size[1] * rows)
    figure, axes = _axes(rows, columns, whole, sharex=sharex, sharey=True)
    for place, ax in enumerate(axes.flat):
        ax.set_visible(place < count)
        ax.xaxis.set_tick_params(labelbottom=not sharex or place + columns >= count)
        ax.title.set(size=11, color=_INK)
    return figure, list(axes.flat[:count])


def _legend(figure: Figure) -> None:
    """One legend above all panels: a handle per label, means with an interval first."""
    handles = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    handles = dict(sorted(handles.items(), key=lambda item: not isinstance(item[1], ErrorbarContainer)))
    figure.legend(handles.values(), handles, loc="outside upper center", fontsize=10, frameon=False,
                  ncols=int(figure.get_figwidth() / 1.6))  # fmt: skip


def _caption(figure: Figure, text: str) -> None:
    names = [name.get_text() for ax in figure.axes for name in (*ax.get_xticklabels(), ax.title)]
    text += ". Initials: sources learned at once" * any(re.search(r"\b\w\+\w\b", name) for name in names)
    figure.supxlabel(textwrap.fill(text, int(13 * figure.get_figwidth())), size=9, color=_INK)


def _range(counts: Iterable[int]) -> str:
    """3, or 2–5 where they differ."""
    counts = list(counts)
    return "–".join(str(count) for count in sorted({min(counts), max(counts)}))


def _ordered(cells: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Cells, each once, in the order of experiments and sources that all figures keep."""
    rank = {name: place for order in (EXPERIMENTS, SOURCES, ("v7", "generic")) for place, name in enumerate(order)}
    return sorted(set(cells), key=lambda cell: [(rank.get(name, 99), name) for name in cell])


def _set_name(sources: str) -> str:
    """A short name of what is learned at once: drums, or the initials of several."""
    names = sources.split("+")
    return sources if len(names) == 1 else "+".join(name[:1] for name in names)


def _cell_name(experiment: str = "", learned: str = "", source: str = "", schema: str = "", **_: str) -> str:
    """What a cell is called on an axis or above a panel, by those columns of `CELL` that tell it apart."""
    if experiment == "base":
        return source
    if experiment in ("transfer", "longer_transfer"):
        return "longer " * (experiment == "longer_transfer") + f"{_set_name(learned)}\n→ {source}"
    if experiment == "multitask":
        return _set_name(learned or source) + f":\n{source}" * bool(learned)
    if experiment:
        return f"{experiment}:\n{_set_name(source)}"
    return "\n".join(filter(None, (source, learned, schema)))


def _schema_order(names: Iterable[str]) -> list[str]:
    return [name for (name,) in _ordered((name,) for name in names)]


def _style(schema: str, schemas: Sequence[str]) -> dict:
    """How a schema's means are drawn among others."""
    return {"color": _shades(schema, other="Purples")[0], "marker": _marker(schema, schemas), "label": schema}


def _lines(table: pd.DataFrame, panels: list[str], **grid) -> tuple[Figure, list[tuple[Axes, dict, pd.DataFrame]]]:
    """A figure with a panel per combination of the columns `panels`; and per panel and schema: axes, style, rows."""
    cells = {key: rows for key, rows in table.groupby(panels)}
    names, found = _schema_order(table["schema"]), []
    figure, axes = _grid(len(cells), **grid)
    for ax, cell in zip(axes, _ordered(cells), strict=True):
        ax.set_title(_cell_name(**dict(zip(panels, cell, strict=True))))
        found += [(ax, _style(name, names), rows) for name, rows in cells[cell].groupby("schema")]
    return figure, sorted(found, key=lambda each: names.index(each[1]["label"]))


def _errors(tables: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each table, (tracks,) or (runs, tracks), and how far its 95% interval reaches below and above."""
    means = [(pd.DataFrame(np.atleast_2d(table)).mean().mean(), *bootstrap_interval(table)) for table in tables]
    mean, low, high = np.reshape(means, (-1, 3)).T
    return mean, np.maximum([mean - low, high - mean], 0)


def _in_rows(groups: Sequence) -> list[Sequence]:
    """Groups in rows of even length, at most `MOST_GROUPS` in each."""
    size = -(-len(groups) // -(-len(groups) // MOST_GROUPS))
    return [groups[start : start + size] for start in range(0, len(groups), size)]


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
        dark, light = _shades(schema.name, 2)
        colours = [light if band % 2 else dark for band in range(len(low))]
        ax.broken_barh(np.stack([low, high - low], 1), (row - 0.4, 0.8), facecolors=colours, linewidth=0)
        ax.text(1.015, row, len(low), transform=ax.get_yaxis_transform(), va="center", size=10, color=_INK)
    ax.text(1.015, -0.95, "K", transform=ax.get_yaxis_transform(), va="center", size=11, weight="bold", color=_INK)
    ax.set(xlabel="frequency (Hz)", ylabel="band schema", ylim=(len(schemas) - 0.5, -0.5))
    ax.set_yticks(range(len(schemas)), [schema.name for schema in schemas])
    ax.tick_params(axis="y", length=0)
    _frequency_axis(ax, sample_rate)
    _note_axis(ax, sample_rate)
    return figure


def band_widths(schemas: Sequence[BandSchema], sample_rate: int, n_fft: int) -> Figure:
    """The width of every band over its place on the frequency axis: as designed in semitones, as cut in STFT bins.

    In semitones the first band (from 0 Hz) has no width and the last ends where the sampling does: both are left out.

    Args:
        schemas: those to compare; usually V7 and generic.
        sample_rate: in Hz.
        n_fft: FFT size in samples.
    """
    figure, axes = _axes(2, 1, (9.5, 6.2), sharex=True)
    names = [schema.name for schema in schemas]
    for schema in schemas:
        style = {"color": _shades(schema.name)[0], "zorder": 2}
        designed = (schema.edges[:-1], schema.edges[1:], schema.semitones())
        bins = schema.bins(sample_rate, n_fft)
        cut = (*_limits(schema, sample_rate, n_fft), [high - low for low, high in bins])
        for ax, (low, high, width) in zip(axes[:, 0], (designed, cut), strict=True):
            ax.hlines(width, low, high, linewidth=2, **style)
            label = f"{schema.name}: unevenness {schema.unevenness():.2f}, K = {len(bins)}"
            marker = _marker(schema.name, names)
            ax.plot(np.sqrt(np.multiply(low, high)), width, marker, markersize=5, label=label, **style)
    axes[0, 0].set(ylabel="width (semitones)")
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set(yscale="log", xlabel="frequency (Hz)", ylabel=f"width (bins of {sample_rate / n_fft:.1f} Hz)")
    axes[1, 0].set_yticks([1, 2, 5, 10, 20, 50, 100, 200], ["1", "2", "5", "10", "20", "50", "100", "200"], minor=False)
    axes[1, 0].yaxis.set_minor_locator(NullLocator())
    axes[0, 0].legend(fontsize=10, frameon=False)
    _frequency_axis(axes[1, 0], sample_rate)
    _note_axis(axes[0, 0], sample_rate)
    return figure


def collapse(schemas: BandSchema | Sequence[BandSchema], sample_rate: int, n_ffts: Sequence[int]) -> Figure:
    """How many bands of a schema remain at each FFT size, and which vanish (hollow) because no bin lies within them.

    Args:
        schemas: one or several.
        sample_rate: in Hz.
        n_ffts: FFT sizes in samples.
    """
    schemas = [schemas] if isinstance(schemas, BandSchema) else list(schemas)
    size = (10, 1.3 + (0.3 + 0.22 * len(n_ffts)) * len(schemas))
    figure, axes = _axes(len(schemas), 2, size, width_ratios=(1, 3.2), sharey=True, sharex="col")
    for schema, (left, right) in zip(schemas, axes, strict=True):
        colour, light = _shades(schema.name, 2)
        bounds = np.clip([0, *schema.edges, sample_rate / 2], HEARING[0], sample_rate / 2)
        counts = []
        for row, n_fft in enumerate(n_ffts):
            # the band of each range's first bin; the tolerance is that of BandSchema.bins
            first = np.array(schema.bins(sample_rate, n_fft))[:, 0] * sample_rate / n_fft
            kept = np.searchsorted(schema.edges, first * (1 + 1e-9), side="right")
            faces = ["white"] * (len(schema.edges) + 1)
            for band in kept:
                faces[band] = light if band % 2 else colour
            spans = np.stack([bounds[:-1], np.diff(bounds)], 1)
            right.broken_barh(spans, (row - 0.38, 0.76), facecolors=faces, edgecolor=colour, linewidth=0.6)
            counts.append(len(kept))
            left.annotate(counts[-1], (counts[-1], row), (-7, 0), textcoords="offset points", size=9, color=_INK,
                          ha="right", va="center")  # fmt: skip
        left.axvline(len(schema.edges) + 1, color=_INK, linestyle=":", linewidth=1)
        left.plot(counts, range(len(n_ffts)), "o-", color=colour, markersize=5)
        left.set_yticks(range(len(n_ffts)), n_ffts)
        left.set(ylabel=f"{schema.name}\nFFT size", ylim=(-0.6, len(n_ffts) - 0.4))
        _frequency_axis(right, sample_rate)
    most = max(len(schema.edges) + 1 for schema in schemas)
    axes[-1, 0].set(xlabel="bands left (dotted: all)", xlim=(0, most * 1.08))
    axes[-1, 1].set(xlabel="frequency (Hz)")
    _note_axis(axes[0, 1], sample_rate)
    return figure


def learning_curve(history: pd.DataFrame) -> Figure:
    """Losses, and validation uSDR of each source, over the epochs of one training.

    Args:
        history: columns epoch (counted from 0), train_loss, validation_loss, validation_usdr (dB, mean over sources),
            and validation_usdr/<source> for each source; missing values are skipped.
    """
    figure, [[losses, usdr]] = _axes(1, 2, (9.5, 3.8))

    def line(ax: Axes, column: str, **style) -> None:
        known = history[["epoch", column]].dropna()
        ax.plot(known["epoch"] + 1, known[column], markersize=4, **style)  # from 1, like the printed lines

    line(losses, "train_loss", color=_INK, marker="o", linestyle="--", label="training")
    line(losses, "validation_loss", color="#0072B2", marker="s", label="validation")
    sources = [column.partition("/")[2] for column in history if column.startswith("validation_usdr/")]
    order = list(dict.fromkeys((*SOURCES, *sources)))  # a source looks the same whichever others are present
    for source in sorted(sources, key=order.index):
        colour, marker = _SOURCE_STYLES[order.index(source) % len(_SOURCE_STYLES)]
        line(usdr, f"validation_usdr/{source}", color=colour, marker=marker, label=source)
    if len(sources) != 1:
        line(usdr, "validation_usdr", color=_INK, linewidth=2.2, label="mean over sources")
    usdr.axhline(0, color=_INK, linestyle=":", linewidth=1, label="silence")
    for ax, label in ((losses, "loss"), (usdr, "validation uSDR (dB)")):
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(fontsize=10, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def learning_curves(runs: pd.DataFrame) -> Figure:
    """Validation uSDR over the epochs of several trainings: a panel for what they learn, a line for each schema.

    A line is the mean over seeds, as far as all of them went, its band the range from the lowest seed to the highest.

    Args:
        runs: rows of `results.load_runs`.

    Raises:
        ValueError: runs of a line have the same seed, so differ in something else.
    """
    # trainings differ much in length
    figure, lines = _lines(runs, ["experiment", "learned", "source"], sharex=False)
    for ax, style, rows in lines:
        if rows["seed"].duplicated().any():
            raise ValueError(f"{rows['run'].iloc[0]} and another have one seed: choose runs of one size and portion")
        histories = [pd.DataFrame(history).set_index("epoch")["validation_usdr"] for history in rows["history"]]
        table = pd.concat(histories, axis=1).astype(float).dropna()
        epochs = table.index + 1  # from 1, like the printed lines
        ax.fill_between(epochs, table.min(axis=1), table.max(axis=1), color=style["color"], alpha=0.2, linewidth=0)
        ax.plot(epochs, table.mean(axis=1), ms=4, **style)
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.supylabel("validation uSDR (dB)", size=11, color=_INK)
    _legend(figure)
    seeds = _range(len(rows) for _, _, rows in lines)
    _caption(figure, f"Over epochs. Line: mean over seeds ({seeds}), as far as all of them went; band: from the lowest "
                     "to the highest. uSDR is the mean over the sources of a run")  # fmt: skip
    return figure


def usdr_against(scores: pd.DataFrame, x: str, label: str) -> Figure:
    """uSDR over what runs differ in, such as size or portion of the songs: a panel per cell, a line per schema.

    Args:
        scores: score rows of runs on one split, with a column `x` besides: the number they differ in, above 0.
        x: its name.
        label: what it is called.
    """
    scores = scores[scores["metric"] == "uSDR"]
    values = np.unique(scores[x])
    ticks = values[np.insert(values[1:] > 1.2 * values[:-1], 0, True)]  # one for schemas that hardly differ in size
    figure, lines = _lines(scores, ["experiment", "learned", "source"])
    for ax, style, rows in lines:
        tables = {value: each.pivot_table("value", "run", "track") for value, each in rows.groupby(x)}
        ax.errorbar(list(tables), *_errors(tables.values()), ms=6, mec="white", capsize=3, **style)
        ax.set(xscale="log")
        ax.set_xticks(ticks, [f"{tick / 1e6:.2g} M" if tick >= 1e5 else f"{tick:.2g}" for tick in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    figure.supylabel("uSDR (dB)", size=11, color=_INK)
    _legend(figure)
    _caption(figure, f"Over {label}: mean over tracks and runs, and its 95% interval (bootstrap over both)")
    return figure


def seams(energies: Mapping[str, np.ndarray], reach: float) -> Figure:
    """The energy of errors around the borders of chunks: a seam is a peak in the middle.

    Args:
        energies: name -> (borders, bins), relative to their mean, see `metrics.energy_around`.
        reach: how far around a border the bins lie, in seconds.
    """
    figure, axes = _axes(1, 1, (7.2, 3.6))
    ax = axes[0, 0]
    ax.axvline(0, color=_INK, linewidth=1, linestyle=":")
    for (name, values), (colour, marker) in zip(energies.items(), _SOURCE_STYLES[1:], strict=False):
        edges = np.linspace(-reach, reach, values.shape[1] + 1) * 1e3
        centres = (edges[1:] + edges[:-1]) / 2
        low, high = np.transpose([bootstrap_interval(column) for column in values.T])
        ax.fill_between(centres, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(centres, values.mean(0), color=colour, marker=marker, markersize=3, linewidth=1.4,
                label=f"{name} ({len(values)} borders)")  # fmt: skip
    ax.set(xlabel="ms from the border of a chunk", ylabel="energy of the error / mean", ylim=(0, None))
    ax.legend(frameon=False, fontsize=10, loc="lower right")
    return figure


def model_costs(costs: pd.DataFrame) -> Figure:
    """Parameters and multiply-accumulates of several models, a bar each, by module.

    Args:
        costs: columns model, module, parameters, macs (per second of audio); a row per model and module.
    """
    models, modules = (list(dict.fromkeys(costs[column])) for column in ("model", "module"))
    panels = (("parameters", 1e6, "million parameters"),
              ("macs", 1e9, "billion multiply-accumulates\nper second of audio"))  # fmt: skip
    figure, [axes] = _axes(1, 2, (9.5, 1.5 + 0.36 * len(models)), sharey=True)
    for ax, (column, unit, label) in zip(axes, panels, strict=True):
        table = costs.pivot_table(index="model", columns="module", values=column, aggfunc="sum").loc[models] / unit
        left = np.zeros(len(models))
        for module, (colour, _), hatch in zip(modules, _SOURCE_STYLES, ("", "//", "..", "xx", "", ""), strict=False):
            values = table[module].to_numpy(na_value=0)
            ax.barh(models, values, 0.7, left, color=colour, hatch=hatch, edgecolor="white", linewidth=0, label=module)
            left += values
        for row, total in enumerate(left):
            ax.annotate(f"{total:.1f}", (total, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        ax.set(xlabel=label, xlim=(0, 1.12 * left.max()))
        ax.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=10, frameon=False, loc="outside upper center", ncols=3)
    return figure


def _draw_runs(ax: Axes, table: pd.DataFrame, x: float, width: float, floor: float, schema: str, marker: str) -> None:
    """One dot per run and track, those below `floor` at it; where there are several runs, a dash at each one's mean.

    Args:
        table: scores in dB, (tracks, runs).
        x: the middle of this schema's place in its group; dots go left of it, dashes right.
        width: of that place.
    """
    shades = _shades(schema, table.shape[1] + 1, "Purples")[1:]
    spread = x + (np.arange(len(table)) * 0.618 % 1 - 1.1) * 0.4 * width  # golden ratio: even, and always the same
    for (_, values), shade in zip(table.items(), shades, strict=True):
        for shown, shape, size in ((values >= floor, marker, 4.5), (values < floor, "v", 7)):
            ax.plot(spread[shown], values[shown].clip(lower=floor), shape, color=shade, ms=size, alpha=0.8, mew=0)
        if table.shape[1] > 1:
            ax.hlines(values.mean(), x + 0.06 * width, x + 0.42 * width, color=shade, linewidth=1.5)


def _mark_baselines(axes: Mapping[str, Axes], baselines: pd.DataFrame) -> None:
    """A line across each source's panel at what its baselines score, or a note where that would compress the axis.

    Args:
        axes: of each source; they share the y axis.
        baselines: scores in dB, (sources, baselines); silence is the zero line.
    """
    ends = next(iter(axes.values())).get_ylim()
    reach, notes = 0.1 * (ends[1] - ends[0]), defaultdict(list)
    for name, style in zip(baselines.columns.drop("silence", errors="ignore"), ("--", ":", "-.", "-"), strict=False):
        label = name if name in TRIVIAL else f"oracle {name}"
        for source, value in baselines[name].reindex(list(axes)).items():
            if ends[0] - reach <= value <= ends[1] + reach:
                axes[source].axhline(value, color=_INK, linestyle=style, linewidth=1.2, label=label)
            elif value < HARMLESS:
                notes[source, value > ends[1]].append(f"{label} {value:.1f}".replace("-", "−"))
    for (source, above), labels in notes.items():
        mark, y, align = ("▲", 0.99, "top") if above else ("▼", 0.01, "bottom")
        axes[source].text(0.99, y, f"{mark} " + ", ".join(labels), size=9, color=_INK, ha="right", va=align,
                          transform=axes[source].transAxes)  # fmt: skip
    some = next(iter(axes.values()))
    some.set_ylim(top=some.get_ylim()[1] + 0.6 * reach * any(above for _, above in notes))


def usdr_comparison(scores: pd.DataFrame, metric: str = "uSDR") -> Figure:
    """The study's figure: each run's scores per track, their mean and its 95% interval, per cell of the grid.

    A panel is a source, a group in it a way of training (experiment, base source), the same in all panels; within a
    group schemas stand side by side. Several runs of a schema in one cell differ in shade; the mean is that of each
    track's average over runs. Scores far below the others, and baselines that would compress the axis, are marked at
    its ends.

    Args:
        scores: tidy score rows with columns run, experiment, schema, learned, source, split, track, metric and
            value (dB); baselines are rows of the experiment "baseline": runs "mixture", "silence" and oracles.
        metric: which rows to draw.

    Raises:
        ValueError: no run has such a score, or the rows mix splits.
    """
    scores = scores[scores["metric"] == metric].fillna({"learned": "", "schema": ""})
    finite = scores[np.isfinite(scores["value"].astype(float))]
    baseline = finite["experiment"] == "baseline"
    runs, splits = finite[~baseline], " and ".join(sorted(scores["split"].unique()))
    if runs.empty or scores["split"].nunique() != 1:
        raise ValueError(f"needs {metric} scores of runs on one split: found {len(runs)}, splits: {splits or 'none'}")
    baselines = finite[baseline].pivot_table("value", "source", "run")

    tables = {  # (experiment, base source, source, schema) -> scores (tracks, runs)
        key: rows.pivot_table(index="track", columns="run", values="value")
        for key, rows in runs.groupby(["experiment", "learned", "source", "schema"])
    }
    mean, reach = _errors(table.T for table in tables.values())
    means = pd.DataFrame({"mean": mean, "below": reach[0], "above": reach[1]}, pd.MultiIndex.from_tuples(tables))
    names, sources = _schema_order(runs["schema"]), [source for (source,) in _ordered((key[2],) for key in tables)]
    trainings = _ordered(key[:2] for key in tables)
    width = 0.86 / len(names)
    quarter, half = np.percentile(runs["value"], [25, 50])
    # a stem that is almost silent can lie 30 dB below all others
    usual = runs.loc[runs["value"] >= quarter - 6 * (half - quarter), "value"]
    floor = min(0, usual.min(), (mean - reach[0]).min())

    size = (0.6 + len(trainings) * max(1.1, 0.55 * len(names)), 2.9)
    figure, axes = _grid(len(sources), max(2, MOST_GROUPS // len(trainings)), size)
    axes = dict(zip(sources, axes, strict=True))
    for source, ax in axes.items():
        for index, name in enumerate(names):
            style, shift = _style(name, names), (index - (len(names) - 1) / 2) * width
            keys = [(*training, source, name) for training in trainings]
            groups = {group: key for group, key in enumerate(keys) if key in tables}
            for group, key in groups.items():
                _draw_runs(ax, tables[key], group + shift, width, floor, name, style["marker"])
            shown, x = means.loc[list(groups.values())], np.array(list(groups)) + shift + 0.24 * width
            errors = shown[["below", "above"]].to_numpy().T
            ax.errorbar(x, shown["mean"], errors, ms=8, mec="white", capsize=4, zorder=3, linestyle="", **style)
            for place, row in zip(x, shown.itertuples(), strict=True):
                ax.annotate(
                    f"{row.mean:.2f}",
                    (place, row.mean + row.above),
                    (0, 4),
                    textcoords="offset points",
                    color=style["color"],
                    size=10,
                    ha="center",
                    weight="bold",
                    path_effects=_OUTLINE,
                )
        ax.axhline(0, color=_INK, linewidth=1, label="silence (0 dB)")
        ax.margins(y=0.09)
        ax.set(title=source, xlim=(-0.5, len(trainings) - 0.5))
        labels = [f"{name.replace('_', ' ')}\n{_set_name(base)}".strip() for name, base in trainings]
        ax.set_xticks(range(len(trainings)), labels)
        ax.grid(visible=False, axis="x")
    _mark_baselines(axes, baselines)
    figure.supylabel(f"{metric} (dB)", size=11, color=_INK)
    _legend(figure)
    several = any(table.shape[1] > 1 for table in tables.values())
    below = int((runs["value"] < floor).sum())
    undefined = int((scores["experiment"] != "baseline").sum()) - len(runs)
    tracks = _range(len(table) for table in tables.values())
    caption = f"split: {splits}, tracks: {tracks}, runs: {runs['run'].nunique()}. Small: one track; "
    caption += f"large: mean over tracks and its 95% interval (bootstrap over tracks{' and runs' * several})"
    caption += "; runs of one cell (shades, dashes) are averaged per track first" * several
    caption += f"; {below} below the axis (▼)" * bool(below)
    caption += f"; {undefined} undefined (silent source), left out" * bool(undefined)
    _caption(figure, caption)
    return figure


def paired(scores: pd.DataFrame, table: pd.DataFrame, one: Mapping[str, str], other: Mapping[str, str]) -> Figure:
    """Every track's uSDR, averaged over runs, as a line from cells of one kind to the same cells of another kind, and
    below it the mean difference with its 95% interval.

    Args:
        scores, one, other: see `statistics.pairs`; lines go from `other` to `one`.
        table: what `statistics.comparisons` says of all scores.
    """
    agreed, sides = [column for column in CELL if column not in one], pairs(scores, one, other)
    names, rows = [name_of(other), name_of(one)], _in_rows(_ordered(sides))
    answers = table[table["question"] == f"{names[1]} minus {names[0]}"]
    found = answers.set_index(agreed).to_dict("index")
    size = (max(7, 1.2 + 1.35 * len(rows[0])), 1.1 + 4.6 * len(rows))
    figure, axes = _axes(2 * len(rows), 1, size, height_ratios=(2, 1.1) * len(rows))
    for (upper, lower), cells in zip(axes.reshape(-1, 2), rows, strict=True):
        for group, key in enumerate(cells):
            ends = np.array([side.mean() for side in reversed(sides[key])])  # (2, tracks)
            places = group + np.array([-0.25, 0.25])
            upper.plot(places, ends, color="#bbbbbb", linewidth=0.9, zorder=1)
            for name, values, place, family in zip(names, ends, places, ("Purples", "Oranges"), strict=True):
                style = _style(name, names) | {"color": _shades(name, other=family)[0]}
                upper.plot(np.full(len(values), place), values, linestyle="", ms=5, alpha=0.8, mew=0, **style)
                upper.hlines(values.mean(), place - 0.12, place + 0.12, style["color"], linewidth=2)
            mean, low, high, better = (found[key][name] for name in ("difference", "low", "high", "better"))
            lower.errorbar(group, mean, [[mean - low], [high - mean]], fmt="D", color=_INK, ms=5, capsize=4)
            lower.annotate(f"{mean:+.2f}\n{better}".replace("-", "−"), (group, high), (0, 5), ha="center", size=9,
                           textcoords="offset points", color=_INK, path_effects=_OUTLINE)  # fmt: skip
        names_of_cells = [_cell_name(**dict(zip(agreed, key, strict=True))) for key in cells]
        lower.set_xticks(range(len(cells)), names_of_cells, size=11)
        upper.set_xticks(range(len(cells)), [])
        lower.axhline(0, color=_INK, linewidth=1)
        lower.margins(y=0.35)
        for ax, label in ((upper, "uSDR (dB)"), (lower, f"{names[1]}\n− {names[0]} (dB)")):
            ax.set(xlim=(-0.5, len(rows[0]) - 0.5), ylabel=label)
            ax.grid(visible=False, axis="x")
    _legend(figure)
    tracks, runs = (_range(row[name] for row in found.values()) for name in ("tracks", "runs"))
    _caption(figure, f"Above: a line per track ({tracks}), a bar at each mean. Below: mean difference with its 95% "
                     f"interval (bootstrap over tracks, and runs: {runs} a side) and what has support")  # fmt: skip
    return figure


def differences(table: pd.DataFrame) -> Figure:
    """What a study found in one picture: a panel for each question, in it every cell's mean difference with its 95%
    interval, filled where it has support, hollow where it has none.

    Args:
        table: rows of `statistics.comparisons`.
    """
    questions = {name: rows for name, rows in table.groupby("question", sort=False)}
    names = _schema_order(set(table["schema"]) - {""})
    # questions about schemas to the left, in grey; those about training to the right, a colour per schema
    columns = [column for column in ([name for name, rows in questions.items() if (rows["schema"] == "").all() == left]
                                     for left in (True, False)) if column]  # fmt: skip
    cells = {name: _ordered(rows[["experiment", "learned", "source"]].itertuples(index=False, name=None))
             for name, rows in questions.items()}  # fmt: skip
    heights = [[len(cells[name]) + 1.6 for name in column] for column in columns]
    figure = _Figure(figsize=(5.2 * len(columns) + 1, 0.8 + 0.26 * max(map(sum, heights))), dpi=110,
                     layout="constrained", facecolor="white")  # fmt: skip
    grid, first = figure.add_gridspec(1, len(columns)), None
    for place, (column, ratios) in enumerate(zip(columns, heights, strict=True)):
        for part, name in zip(grid[place].subgridspec(len(column), 1, height_ratios=ratios), column, strict=True):
            first = ax = figure.add_subplot(part, sharex=first)
            _draw_differences(ax, questions[name], cells[name], names)
            ax.set_title(name.replace(" minus ", " − "), size=11, color=_INK, loc="left")
            ax.xaxis.set_tick_params(labelbottom=name == column[-1])
    _legend(figure)
    tracks, runs = _range(table["tracks"]), _range(table["runs"])
    _caption(figure, f"uSDR difference in dB: mean over tracks ({tracks}) and its 95% interval (bootstrap over tracks, "
                     f"and runs: {runs} a side). Filled: interval and test agree; hollow: no support")  # fmt: skip
    return figure


def _draw_differences(ax: Axes, rows: pd.DataFrame, cells: Sequence[tuple[str, ...]], schemas: Sequence[str]) -> None:
    """The rows of one question, schemas beside each other."""
    _style_axes(ax)
    shown = _schema_order(rows["schema"])
    for index, schema in enumerate(shown):
        part = rows[rows["schema"] == schema]
        style = _style(schema, schemas) if schema else {"color": _INK, "marker": "D"}
        shift = (index - (len(shown) - 1) / 2) * 0.3
        for row in part.itertuples():
            place = cells.index((row.experiment, row.learned, row.source)) + shift
            ends = [[row.difference - row.low], [row.high - row.difference]]
            face = "white" if row.better == "no support" else style["color"]
            ax.errorbar(row.difference, place, xerr=ends, ms=6, mfc=face, capsize=2, linestyle="", **style)
    labels = [" ".join(_cell_name(*cell).split()) for cell in cells]
    ax.set_yticks(range(len(cells)), labels)
    ax.set_ylim(len(cells) - 0.4, -0.6)
    ax.axvline(0, color=_INK, linewidth=1)
    ax.grid(visible=False, axis="y")


def usdr_per_band(table: pd.DataFrame) -> Figure:
    """uSDR over frequency: a panel per source, a line per schema, the mean over tracks and its 95% interval.

    Args:
        table: a row per run, source, track and band: columns run, schema (of the model), source, track, high (Hz, the
            band's upper limit, the same bands for all) and value (dB, see `metrics.usdr_per_band`; NaN is left out).
    """
    table = table[table["high"] > HEARING[0]]
    edges = np.array([HEARING[0], *np.unique(table["high"])])
    figure, lines = _lines(table, ["source"], columns=2, size=(4.9, 2.9))
    for ax, style, rows in lines:
        values = rows.pivot_table("value", "track", "high", dropna=False).reindex(columns=edges[1:])
        mean, reach = _errors(values.T.to_numpy())
        aside = 1.03 if style["label"] == "generic" else 0.97  # beside each other in narrow bands too
        ax.stairs(mean, edges, baseline=None, alpha=0.6, color=style["color"])
        centres = np.sqrt(edges[1:] * edges[:-1]) * aside
        ax.errorbar(centres, mean, reach, ms=4, capsize=2, elinewidth=1, linestyle="", **style)
    for ax in {id(ax): ax for ax, _, _ in lines}.values():
        ax.axhline(0, color=_INK, linewidth=1, label="silence (0 dB)")
        _frequency_axis(ax, round(2 * edges[-1]))
    figure.supylabel("uSDR (dB) within each band", size=11, color=_INK)
    _legend(figure)
    _caption(figure, f"Over frequency (Hz): mean over tracks ({table['track'].nunique()}) and its 95% interval "
                     "(bootstrap over tracks). Bands where the source has next to no energy are left out")  # fmt: skip
    return figure


def clock(second: int) -> str:
    """Seconds as minutes and seconds, 0:07."""
    return f"{second // 60}:{second % 60:02d}"


def worst_seconds(errors: Sequence[float], count: int) -> list[int]:
    """The seconds of largest error, worst first; those whose error is not finite are left out."""
    errors = np.asarray(errors, float)
    finite = np.flatnonzero(np.isfinite(errors))
    return finite[np.argsort(-errors[finite], kind="stable")[:count]].tolist()


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
        faces = ["#D55E00" if second in marked else "#56B4E9" for second in range(len(values))]
        ax.bar(range(len(values)), heights.clip(0), 1, bottom, align="edge", color=faces, edgecolor="white", lw=0.4)
        ax.plot(np.add(marked, 0.5), np.asarray(values)[marked] + 2.5, "v", color="#D55E00", ms=6)
        ax.set_title(f"{name}: worst at {', '.join(map(clock, marked)) or 'none'}", loc="left", size=10, color=_INK)
        ax.grid(visible=False, axis="x")
        ax.set_ylim(bottom, bottom + 36)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1, 0].set(xlabel="time (s)", xlim=(0, max(map(len, errors.values()))))
    figure.supylabel("error (dB)", size=11, color=_INK)
    return figure


def _image(
    ax: Axes, image: np.ndarray, sample_rate: int, hop: int, scale: tuple[float, float],
    unit: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> QuadMesh:  # fmt: skip
    """Draws an image (F, T) over logarithmic frequency and time.

    Args:
        image: is averaged where several bins share a row of the picture, as they do at high frequencies.
        sample_rate: in Hz.
        hop: samples between frames.
        scale: limits of the colours.
        unit: turns averages into what is shown.
    """
    count, frames = image.shape
    starts = np.unique(np.geomspace(1, count, 241).astype(int))[:-1]  # first bins of at most 240 rows
    rows = np.add.reduceat(image, starts, axis=0) / np.diff([*starts, count])[:, None]
    limits = (np.array([*starts, count]) - 0.5) * sample_rate / (2 * (count - 1))
    times = np.arange(frames + 1) * hop / sample_rate
    mesh = ax.pcolormesh(times, limits, unit(rows), cmap="magma", vmin=scale[0], vmax=scale[1], rasterized=True)
    ax.grid(visible=False)
    _frequency_axis(ax, sample_rate, "y", (20, 100, 1_000, 10_000))
    return mesh


def _bar(figure: Figure, mesh: QuadMesh, axes: np.ndarray, label: str) -> None:
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=12 * np.size(axes))
    bar.set_label(label, size=11, color=_INK)
    bar.outline.set_visible(False)


def _panels(images: Mapping[str, np.ndarray], label: str, *options) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes, of one image per name, one above the other, with what `_image` takes besides."""
    figure, axes = _axes(len(images), 1, (9.5, 1 + 1.6 * len(images)), sharex=True, sharey=True)
    for ax, (name, image) in zip(axes[:, 0], images.items(), strict=True):
        mesh = _image(ax, image, *options)
        ax.text(0.01, 0.93, name, transform=ax.transAxes, va="top", size=11, color="white", weight="bold",
                bbox={"facecolor": "black", "alpha": 0.5, "linewidth": 0})  # fmt: skip
    axes[-1, 0].set_xlabel("time (s)")
    figure.supylabel("frequency (Hz)", size=11, color=_INK)
    _bar(figure, mesh, axes, label)
    return figure, axes[:, 0]


def _powers(signals: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """The power (F, T) of each signal's spectrogram over that of the loudest point of all, and the hop in samples."""
    n_fft = 4096
    # at most about 800 columns, more than a screen shows
    hop = max(n_fft // 8, max(np.shape(signal)[-1] for signal in signals.values()) // 800)
    powers = {}
    for name, signal in signals.items():
        # scipy's, because librosa's first transform takes many seconds to load a compiler
        spectrum = stft(np.atleast_2d(signal), nperseg=n_fft, noverlap=n_fft - hop)[2]
        powers[name] = (np.abs(spectrum) ** 2).mean(axis=0)
    loudest = max(power.max() for power in powers.values()) or 1.0
    return {name: power / loudest for name, power in powers.items()}, hop


def _level(power: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.maximum(power, 1e-12))


def spectrograms(signals: Mapping[str, np.ndarray], sample_rate: int) -> Figure:
    """The spectrogram of each signal, in dB below the loudest point of all of them, so that levels compare.

    Args:
        signals: name -> waveform, (L,) or (C, L); channels are averaged in power.
        sample_rate: in Hz.
    """
    powers, hop = _powers(signals)
    return _panels(powers, "level (dB)", sample_rate, hop, LEVELS, _level)[0]


def masks(masks: Mapping[str, np.ndarray], sample_rate: int, n_fft: int, schema: BandSchema | None = None) -> Figure:
    """The magnitude of each source's mask; 1 lets a bin pass as it is.

    Args:
        masks: name -> magnitude, (F, T) with F = n_fft / 2 + 1 and frames n_fft / 4 samples apart.
        sample_rate: in Hz.
        n_fft: FFT size in samples.
        schema: draws a thin line at each of its edges.
    """
    top = max(1.0, *(np.percentile(mask, 99.5) for mask in masks.values()))
    figure, axes = _panels(masks, "mask magnitude", sample_rate, n_fft // 4, (0, top))
    for ax in axes if schema else ():
        ax.hlines(schema.edges, *ax.get_xlim(), color="#888888", linewidth=0.5)
    return figure


def separation(signals: Mapping[str, np.ndarray], mask: np.ndarray, sample_rate: int, n_fft: int) -> Figure:
    """One source's way through a model, side by side: the mixture's spectrogram, the mask, and the other signals'.

    Args:
        signals: name -> waveform (C, L): the mixture first, then the estimate, the target.
        mask: magnitude (F, T), see `masks`.
        sample_rate: in Hz, of all.
        n_fft: FFT size of the mask in samples.
    """
    powers, hop = _powers(signals)
    images = [(name, power, hop, LEVELS, _level) for name, power in powers.items()]
    images.insert(1, ("mask magnitude", mask, n_fft // 4, (0, max(1.0, np.percentile(mask, 99.5))), np.asarray))
    figure, [axes] = _axes(1, len(images), (12, 3.7), sharex=True, sharey=True)
    meshes = []
    for ax, (name, image, step, scale, unit) in zip(axes, images, strict=True):
        meshes.append(_image(ax, image, sample_rate, step, scale, unit))
        ax.set_title(name, size=11, color=_INK)
    axes[0].set_xlim(0, np.shape(signals["mixture"])[-1] / sample_rate)
    axes[0].set_ylabel("frequency (Hz)")
    figure.supxlabel("time (s)", size=11, color=_INK)
    _bar(figure, meshes[1], axes[1], "")
    _bar(figure, meshes[-1], axes[-1], "level (dB)")
    return figure


def player(waveform: np.ndarray, sample_rate: int) -> "IPython.display.Audio":  # noqa: F821
    """An audio player for a notebook, its sound embedded as MP3: small enough to commit.

    Args:
        waveform: (C, L), full scale 1; beyond it is clipped.
        sample_rate: in Hz.
    """
    from IPython.display import Audio

    buffer = io.BytesIO()
    samples = np.clip(np.asarray(waveform).T, -1, 1)
    soundfile.write(buffer, samples, sample_rate, format="MP3", bitrate_mode="CONSTANT", compression_level=0.7)
    return Audio(buffer.getvalue(), embed=True)
