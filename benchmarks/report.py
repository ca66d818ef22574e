"""The tables that the benchmarks leave, and the page that shows them all."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from bsrnn import files

_SPEED = (
    "The model beside the plain version with a loop over bands, with the same weights, in turns: `speedup` is plain "
    "over ours, `times_real_time` seconds of audio per second, `of_gemm_rate` our operations per second against those "
    "of one large matrix product, and `peak_MB` the memory beyond the model's own."
)
TABLES = {  # file -> what it shows
    "cpu": _SPEED,
    "cuda": _SPEED,
    "hop": "Separating generated songs that no training saw with the demo's multi-task model, by `hop` in seconds, so "
    "that `chunks` hold each sample: uSDR in dB, and time over that of chunks side by side.",
    "memory": "The peak of `bsrnn infer`, the whole process, for a short and a long song in every format.",
    "loader": "Training chunks of four sources that one core reads and mixes, beside reading them through musdb.",
    "metrics": "cSDR of 30 s of a song with four sources, here and by museval, which computes other ratios too.",
}


def save(name: str, rows: Sequence[Mapping]) -> str:
    """Write a table to results/benchmark/<name>.csv and the page of all tables beside it; returns its section there."""
    folder = files.root() / "results" / "benchmark"
    files.save_rows(folder / f"{name}.csv", rows)
    with files.written_whole(folder / "README.md") as partial:
        partial.write_text(page(folder))
    return section(folder / f"{name}.csv")


def page(folder: Path) -> str:
    """The tables in a folder as Markdown."""
    tables = [section(folder / f"{name}.csv") for name in TABLES if (folder / f"{name}.csv").is_file()]
    return "\n".join(["# Benchmarks\n\nWhat `make benchmark` measured last; this page is written by it.\n", *tables])


def section(file: Path) -> str:
    """A table as Markdown, below its name and a sentence; a hardware that is that of all rows is named once."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    hardware = "".join(f" {name}." for name in {row.pop("hardware", "") for row in rows} if name)
    cells = [list(rows[0]), ["---"] * len(rows[0]), *([_rounded(cell) for cell in row.values()] for row in rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in cells)
    return f"## {file.stem}\n\n{TABLES[file.stem]}{hardware}\n\n{table}"


def _rounded(cell: str) -> str:
    """A number with decimals to two of them, anything else as it is."""
    number = cell.lstrip("-").replace(".", "", 1).isdecimal() and "." in cell
    return f"{float(cell):.2f}" if number else cell
