"""Every figure of the study, as functions of tables, arrays and schemas.

A function takes data and returns a matplotlib figure; it runs no model, saves nothing and leaves pyplot alone. A
notebook shows the figure once, as the last expression of a cell, and `records.save_figure` writes it. Colour is never
the only code: V7 is red and round, the generic schema blue and square, any other grey or purple and of another shape.
"""

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence

import librosa
import numpy as np
import pandas as pd
import soundfile
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator, NullLocator
from scipy.signal import stft

from bsrnn.bands import A4, HEARING, BandSchema
from bsrnn.statistics import bootstrap_interval

SOURCES = ("drums", "bass", "vocals", "other")  # the order of sources in every figure
EXPERIMENTS = ("base", "transfer", "multitask")
_SOURCE_STYLES = (  # Okabe & Ito's colours, which colour-blind readers tell apart
    ("#D55E00", "o"), ("#0072B2", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"),
)  # fmt: skip
_INK, _FAINT = "#333333", "#dddddd"
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
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#888888")
        ax.grid(color=_FAINT, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=10, color="#888888", labelcolor=_INK)
        ax.xaxis.label.set(size=11, color=_INK)
        ax.yaxis.label.set(size=11, color=_INK)
    return figure, axes


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
        history: columns epoch, train_loss, validation_loss, validation_usdr (dB, mean over sources), and
            validation_usdr/<source> for each source; missing values are skipped.
    """
    figure, [[losses, usdr]] = _axes(1, 2, (9.5, 3.8))

    def line(ax: Axes, column: str, **style) -> None:
        known = history[["epoch", column]].dropna()
        ax.plot(known["epoch"], known[column], markersize=4, **style)

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


def _mark_mixture(ax: Axes, sources: Sequence[str], mixture: pd.Series) -> None:
    """A dash in each group at its source's score for the mixture, or a note where that would compress the axis."""
    bottom, top = ax.get_ylim()
    for group, source in enumerate(sources):
        if mixture.get(source, -np.inf) >= bottom - 0.1 * (top - bottom):
            ax.hlines(mixture[source], group - 0.43, group + 0.43, _INK, "--", label="mixture unchanged")
        elif source in mixture:
            ax.text(group, 0.01, f"▼ mixture {mixture[source]:.1f}".replace("-", "−"), size=9, color=_INK, ha="center",
                    transform=ax.get_xaxis_transform())  # fmt: skip


def usdr_comparison(scores: pd.DataFrame, metric: str = "uSDR") -> Figure:
    """The study's figure: each run's scores per track, their mean and its 95% interval, per cell of the grid.

    A group is a cell (experiment, base source, source); within it schemas stand side by side. Several runs of a schema
    in one cell differ in shade; the mean and its interval are then those of each track's average over runs. Scores far
    below the others, and a mixture baseline that would compress the axis, are marked at its lower end.

    Args:
        scores: tidy score rows with columns run, experiment, schema, base_source, source, split, track, metric and
            value (dB); baselines are rows of the experiment "baseline", whose run is "mixture" or "silence".
        metric: which rows to draw.

    Raises:
        ValueError: no run has such a score, or the rows mix splits.
    """
    scores = scores[scores["metric"] == metric].fillna({"base_source": "", "schema": ""})
    finite = scores[np.isfinite(scores["value"].astype(float))]
    baseline = finite["experiment"] == "baseline"
    runs, splits = finite[~baseline], " and ".join(sorted(scores["split"].unique()))
    if runs.empty or scores["split"].nunique() != 1:
        raise ValueError(f"needs {metric} scores of runs on one split: found {len(runs)}, splits: {splits or 'none'}")
    mixture = finite[baseline & (finite["run"] == "mixture")].groupby("source")["value"].mean()

    tables = {  # (experiment, base source, source, schema) -> scores (tracks, runs)
        key: rows.pivot_table(index="track", columns="run", values="value")
        for key, rows in runs.groupby(["experiment", "base_source", "source", "schema"])
    }
    rank = {name: place for order in (EXPERIMENTS, SOURCES) for place, name in enumerate(order)}
    cells = sorted({key[:3] for key in tables}, key=lambda cell: [(rank.get(name, 99), name) for name in cell])
    names = sorted({key[3] for key in tables}, key=lambda name: (name != "v7", name != "generic", name))
    width = 0.86 / len(names)
    place = {(*cell, name): group + (index - (len(names) - 1) / 2) * width
             for group, cell in enumerate(cells) for index, name in enumerate(names)}  # fmt: skip
    tracks = {key: table.mean(axis=1) for key, table in tables.items()}
    means = {key: (place[key] + 0.24 * width, values.mean(), *bootstrap_interval(values))
             for key, values in tracks.items()}  # fmt: skip
    quarter, half = np.percentile(runs["value"], [25, 50])
    # a stem that is almost silent can lie 30 dB below all others
    usual = runs.loc[runs["value"] >= quarter - 6 * (half - quarter), "value"]
    floor = min(0, usual.min(), *(low for _, _, low, _ in means.values()))

    figure, [[ax]] = _axes(1, 1, (max(7, 1.2 + len(cells) * max(1.3, 0.7 * len(names))), 5.2))
    for name in names:
        marker, colour = _marker(name, names), _shades(name, other="Purples")[0]
        keys = [(*cell, name) for cell in cells if (*cell, name) in tables]
        for key in keys:
            _draw_runs(ax, tables[key], place[key], width, floor, name, marker)
            x, mean, _, high = means[key]
            text = ax.annotate(f"{mean:.2f}", (x, high), (0, 4), textcoords="offset points", ha="center", size=10,
                               color=colour, weight="bold")  # fmt: skip
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        x, mean, low, high = np.array([means[key] for key in keys]).T
        error = np.maximum([mean - low, high - mean], 0)
        ax.errorbar(x, mean, error, fmt=marker, color=colour, ms=8, mec="white", capsize=4, zorder=3, label=name)

    ax.axhline(0, color=_INK, linewidth=1, label="silence (0 dB)")
    _mark_mixture(ax, [cell[2] for cell in cells], mixture)
    ax.margins(y=0.09)
    ax.set(ylabel=f"{metric} (dB)", xlim=(-0.5, len(cells) - 0.5))
    together = len({base for experiment, base, _ in cells if experiment == "multitask"}) > 1
    forms = {"base": "{2}", "transfer": "{1}\n→ {2}", "multitask": "multi-task" + "\n{1}" * together + ":\n{2}"}
    ax.set_xticks(range(len(cells)), [forms.get(cell[0], "{0}:\n{2}").format(*cell) for cell in cells], size=11)
    ax.grid(visible=False, axis="x")
    legend = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))  # by label: one mixture line for all
    legend = {label: legend[label] for label in sorted(legend, key=lambda label: label not in names)}
    columns = int(figure.get_figwidth() / 1.6)
    figure.legend(legend.values(), legend, loc="outside upper center", ncols=columns, fontsize=10, frameon=False)
    sizes = sorted({function(map(len, tracks.values())) for function in (min, max)})
    several = any(table.shape[1] > 1 for table in tables.values())
    below = int((runs["value"] < floor).sum())
    undefined = int((scores["experiment"] != "baseline").sum()) - len(runs)
    caption = f"split: {splits}, tracks: {'–'.join(map(str, sizes))}, runs: {runs['run'].nunique()}. Small: one track; "
    caption += "large: mean over tracks and its 95% interval (bootstrap over tracks)"
    caption += "; runs of one cell (shades, dashes) are averaged per track first" * several
    caption += f"; {below} below the axis (▼)" * bool(below)
    caption += f"; {undefined} undefined, left out" * bool(undefined)
    figure.supxlabel(textwrap.fill(caption, int(13 * figure.get_figwidth())), size=9, color=_INK)
    return figure


def _panels(
    images: Mapping[str, np.ndarray],
    sample_rate: int,
    hop: int,
    label: str,
    scale: tuple[float, float],
    unit: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes, of one image (F, T) per name over logarithmic frequency and time.

    Args:
        images: what is averaged where several bins share a row of the picture, as they do at high frequencies.
        sample_rate: in Hz.
        hop: samples between frames.
        label: what colour stands for.
        scale: its limits, the same for all images.
        unit: turns averages into what is shown.
    """
    figure, axes = _axes(len(images), 1, (9.5, 1 + 1.6 * len(images)), sharex=True, sharey=True)
    for ax, (name, image) in zip(axes[:, 0], images.items(), strict=True):
        count, frames = image.shape
        starts = np.unique(np.geomspace(1, count, 241).astype(int))[:-1]  # first bins of at most 240 rows
        rows = np.add.reduceat(image, starts, axis=0) / np.diff([*starts, count])[:, None]
        limits = (np.array([*starts, count]) - 0.5) * sample_rate / (2 * (count - 1))
        times = np.arange(frames + 1) * hop / sample_rate
        mesh = ax.pcolormesh(times, limits, unit(rows), cmap="magma", vmin=scale[0], vmax=scale[1], rasterized=True)
        ax.text(0.01, 0.93, name, transform=ax.transAxes, va="top", size=11, color="white", weight="bold",
                bbox={"facecolor": "black", "alpha": 0.5, "linewidth": 0})  # fmt: skip
        ax.grid(visible=False)
        _frequency_axis(ax, sample_rate, "y", (20, 100, 1_000, 10_000))
    axes[-1, 0].set_xlabel("time (s)")
    figure.supylabel("frequency (Hz)", size=11, color=_INK)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=12 * len(images))
    bar.set_label(label, size=11, color=_INK)
    bar.outline.set_visible(False)
    return figure, axes[:, 0]


def spectrograms(signals: Mapping[str, np.ndarray], sample_rate: int) -> Figure:
    """The spectrogram of each signal, in dB below the loudest point of all of them, so that levels compare.

    Args:
        signals: name -> waveform, (L,) or (C, L); channels are averaged in power.
        sample_rate: in Hz.
    """
    n_fft = 4096
    # at most about 800 columns, more than a screen shows
    hop = max(n_fft // 8, max(np.shape(signal)[-1] for signal in signals.values()) // 800)
    powers = {}
    for name, signal in signals.items():
        # scipy's, because librosa's first transform takes many seconds to load a compiler
        spectrum = stft(np.atleast_2d(signal), nperseg=n_fft, noverlap=n_fft - hop)[2]
        powers[name] = (np.abs(spectrum) ** 2).mean(axis=0)  # (F, T)
    loudest = max(power.max() for power in powers.values()) or 1.0

    def level(power: np.ndarray) -> np.ndarray:
        return 10 * np.log10(np.maximum(power / loudest, 1e-12))

    return _panels(powers, sample_rate, hop, "level (dB)", (-80, 0), level)[0]


def masks(masks: Mapping[str, np.ndarray], sample_rate: int, n_fft: int, schema: BandSchema | None = None) -> Figure:
    """The magnitude of each source's mask; 1 lets a bin pass as it is.

    Args:
        masks: name -> magnitude, (F, T) with F = n_fft / 2 + 1 and frames n_fft / 4 samples apart.
        sample_rate: in Hz.
        n_fft: FFT size in samples.
        schema: draws a thin line at each of its edges.
    """
    top = max(1.0, *(np.percentile(mask, 99.5) for mask in masks.values()))
    figure, axes = _panels(masks, sample_rate, n_fft // 4, "mask magnitude", (0, top))
    for ax in axes if schema else ():
        ax.hlines(schema.edges, *ax.get_xlim(), color="#888888", linewidth=0.5)
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
