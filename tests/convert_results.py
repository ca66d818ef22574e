"""Score files and run records as they once were, with columns of the run in every row and `base_source` of two
meanings, to what `study.results` reads now: `python tests/convert_results.py results/demo results/open-1`."""

import json
import sys
from pathlib import Path

import pandas as pd

from bsrnn.evaluate import COLUMNS
from bsrnn.files import save_json


def convert(folder: Path) -> None:
    """Rewrite the scores and records in a profile's results; what is converted already stays as it is."""
    for file in sorted((folder / "scores").glob("*.csv")):
        table = pd.read_csv(file, dtype=str, keep_default_na=False)  # text: no digit changes
        table[list(COLUMNS)].to_csv(file, index=False, lineterminator="\n")
    records = {file: json.loads(file.read_text()) for file in sorted((folder / "runs").glob("*.json"))}
    sources = {record["run"]: "+".join(record["model"]["sources"]) for record in records.values()}
    for file, record in records.items():
        base = record.pop("base", record.get("base_run", ""))
        save_json(file, record | {"learned": sources[base or record["run"]], "base_run": base})


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        convert(Path(argument))
