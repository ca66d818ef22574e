"""What experiments leave behind: where it lies, what it says, and how it is written whole or not at all.

    profiles/<profile>.yaml           the parameters of every experiment
    results/<profile>/runs/           one JSON per run
    results/<profile>/scores/         one tidy CSV of scores per run
    results/<profile>/checkpoints/    one model per run
    figures/<profile>/                PNG and SVG
    runs/                             everything large or temporary; not in git
"""

import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import pandas as pd

SCORE_COLUMNS = (
    "run", "experiment", "schema", "base_source", "source", "split", "track", "metric", "value", "seed",
)  # fmt: skip
LIBRARIES = ("torch", "lightning", "numpy", "pandas", "soundfile", "soxr", "librosa", "musdb", "museval")


def root() -> Path:
    """The folder of the repository: $BSRNN_ROOT, else the nearest folder from here upwards that holds `profiles/`."""
    if folder := os.environ.get("BSRNN_ROOT"):
        return Path(folder).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "profiles").is_dir()), here)


def results(profile: str) -> Path:
    """The folder of a profile's tables, run records and small checkpoints."""
    return root() / "results" / profile


def figures(profile: str) -> Path:
    """The folder of a profile's figures."""
    return root() / "figures" / profile


def working(profile: str, run: str) -> Path:
    """The folder in which a run trains; what is worth keeping is copied from it by `publish`."""
    return root() / "runs" / profile / run


def checkpoint(profile: str, run: str) -> Path:
    """The folder of a run's model, for `BSRNN.from_pretrained`."""
    return results(profile) / "checkpoints" / run


def run_name(experiment: str, schema: str, sources: Iterable[str], seed: int, base: str | None = None) -> str:
    """The name of one cell of the study, such as base-generic-drums-0 or transfer-v7-drums-bass-0.

    Args:
        experiment: base, scratch, longer, multitask, transfer or longer_transfer.
        schema: name of the band schema.
        sources: what the run learns to estimate.
        seed: of the run.
        base: for a transfer, the sources of the base joined by "+".
    """
    return "-".join(part for part in (experiment, schema, base, "+".join(sources), str(seed)) if part)


@contextmanager
def written_whole(path: Path):
    """Yields a path to write to, of the same name; at the end the file appears at `path`, or not at all."""
    with written_together(path.parent) as folder:
        yield folder / path.name


@contextmanager
def written_together(folder: Path):
    """Yields an empty folder to write files to, and moves them to `folder`, made if missing, at the end; where anything
    goes wrong before, nothing appears.

    Raises:
        OSError: nothing can be written to the folder, or a folder is in a file's place.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary = tempfile.TemporaryDirectory(dir=folder, prefix=".partial-")
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(f"{folder}: is a file, or lies in one, and no folder") from None
        except OSError as error:
            raise OSError(f"{folder}: cannot be written to ({error.strerror})") from None
        with temporary as partial:
            yield Path(partial)
            files = sorted(Path(partial).iterdir())
            for file in files:
                if (folder / file.name).is_dir():
                    raise IsADirectoryError(f"{folder / file.name}: is a folder, and in the way of a file")
            for file in files:
                os.replace(file, folder / file.name)
    except BaseException:
        for path in made:
            with suppress(OSError):  # not empty, or not there
                path.rmdir()
        raise


def save_json(path: Path, content: Mapping) -> Path:
    """Write a mapping as indented JSON."""
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    return path


def save_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as CSV, numbers rounded to 4 decimals so that a rerun on another day gives the same file."""
    with written_whole(path) as partial:
        table.to_csv(partial, index=False, float_format="%.4f", lineterminator="\n")
    return path


def save_scores(profile: str, run: str, scores: pd.DataFrame) -> Path:
    """Write a run's score rows to results/<profile>/scores/<run>.csv."""
    return save_table(results(profile) / "scores" / f"{run}.csv", scores[list(SCORE_COLUMNS)])


def load_scores(profile: str) -> pd.DataFrame:
    """All score rows of a profile, one row per run, track, source and metric."""
    folder = results(profile) / "scores"
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"no scores in results/{profile}/scores: run `make reproduce PROFILE={profile}` first")
    return pd.concat(map(read_scores, files), ignore_index=True)


def read_scores(file: Path) -> pd.DataFrame:
    """The score rows in a file."""
    text = dict.fromkeys(("run", "experiment", "schema", "base_source", "source", "split", "track", "metric"), str)
    return pd.read_csv(file, dtype=text, keep_default_na=False, na_values={"value": ["", "nan"]})


def load_runs(profile: str) -> pd.DataFrame:
    """The run records of a profile, a row each: run, experiment, base_source, source (all of the run's, joined by "+"),
    schema, seed, parameters, all other settings of model and training, and `history`, a mapping per epoch."""
    rows = []
    for file in sorted((results(profile) / "runs").glob("*.json")):
        record = json.loads(file.read_text())
        base = record.get("base", "").rsplit("-", 2)  # see run_name
        rows.append({
            **record["model"], **record["training"], "base_source": base[-2] if len(base) > 2 else "",
            "source": "+".join(record["model"]["sources"]),
            **{name: record[name] for name in ("run", "experiment", "seed", "parameters", "history")},
        })  # fmt: skip
    return pd.DataFrame(rows)


def publish(folder: Path, profile: str, scores: pd.DataFrame) -> None:
    """Copy a run's model and record from its working folder to the profile's results, and write its scores beside them.

    Args:
        folder: of the run, as `train.fit` left it; its name is the run's.
        profile: whose results they are.
        scores: rows of `evaluate.evaluate`.
    """
    record = json.loads((folder / "record.json").read_text())
    means = scores.groupby(["split", "metric", "source"])["value"].mean().round(4)
    scored = {f"{split} {metric} {source}": value for (split, metric, source), value in means.items()
              if math.isfinite(value)}  # fmt: skip
    save_json(results(profile) / "runs" / f"{folder.name}.json", {**record, "profile": profile, "scores": scored})
    save_scores(profile, folder.name, scores)
    with written_together(checkpoint(profile, folder.name)) as partial:
        shutil.copytree(folder / "model", partial, dirs_exist_ok=True)
        (partial / "README.md").write_text(model_card(record, profile, scores))


def model_card(record: Mapping, profile: str, scores: pd.DataFrame) -> str:
    """What a user of a run's model should know, as on the Hugging Face hub: data, budget, scores, licence.

    Args:
        record: of the run.
        profile: whose run it is.
        scores: rows of `evaluate.evaluate`; scores are means over tracks in dB.
    """
    model, training, history = record["model"], record["training"], record["history"]
    batch = training["batch_size"] * training["accumulate"] * record["processes"]
    steps = history[-1]["step"]
    hours = steps * batch * model["chunk"] / 3600
    kept = max(history, key=lambda row: -math.inf if row["validation_usdr"] is None else row["validation_usdr"])
    table = scores.groupby(["split", "source", "metric"])["value"].agg(["mean", "count"]).unstack()
    order = ["uSDR", *table["mean"].columns.drop("uSDR")]
    table = table["mean"][order].assign(tracks=table["count", "uSDR"].astype(int)).reset_index()
    base = f", on the frozen extractor of {record['base']}" if "base" in record else ""
    return f"""---
license: mit
tags: [music-source-separation, band-split-rnn]
---

# {record["run"]}

A band-split RNN that estimates {", ".join(model["sources"])} of a song: {record["parameters"]:,} parameters,
{record["bands"]} bands ({model["schema"]}), {model["sample_rate"]:,} Hz. A run of the `{profile}` profile of Refined
BSRNN{base}.

```python
from bsrnn import audio
from bsrnn.separate import Separator

separator = Separator.from_pretrained("results/{profile}/checkpoints/{record["run"]}")
stems = separator(*audio.read("song.wav"))  # source -> (channels, samples)
```

- Data: {record["songs"]["train"]} songs for training and {record["songs"]["validation"]} for validation, fingerprint
  `{record["data"]}`; the section *Data* of the repository's README says what they are and under which licences.
- Budget: {steps:,} steps of {batch} chunks of {model["chunk"]:g} s, {hours:.1f} hours of mixtures,
  seed {record["seed"]}; {record["seconds"] / 60:.1f} minutes on {record["hardware"]} (threads: {record["threads"]}).
- Kept: epoch {kept["epoch"] + 1} of {len(history)}, the best in validation.
- Licence: MIT for code and weights; the songs have licences of their own.

Scores in dB, means over the songs in which the source sounds; silence has a uSDR of 0:

{markdown(table)}"""


def readme_table(name: str, table: pd.DataFrame) -> None:
    """Put a table, as Markdown, between `<!-- name -->` and `<!-- /name -->` in README.md, where it has such marks."""
    file = root() / "README.md"
    before, mark, rest = (file.read_text() if file.is_file() else "").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if end:
        with written_whole(file) as partial:
            partial.write_text(f"{before}{mark}{markdown(table)}{end}{after}")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers with two decimals, those that are not (NaN) empty."""
    def cell(value):
        # as many decimals as `save_table` keeps, first: the table and its file then round alike
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{round(value, 4):.2f}"
        return str(value)

    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(cell(value) for value in row)} |\n" for row in rows)


def save_figure(figure, profile: str, name: str) -> Path:
    """Write a matplotlib figure to figures/<profile>/<name>.png and .svg, without dates, so that only a change of
    the picture changes the files. Returns the path of the PNG."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
            with written_whole(figures(profile) / f"{name}{suffix}") as partial:
                figure.savefig(partial, metadata=metadata, dpi=150, bbox_inches="tight")
    return figures(profile) / f"{name}.png"


def provenance(device) -> dict:
    """The code's version, the libraries' versions and the hardware, for the record of a run on a `torch.device`."""
    import torch

    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "code": version("bsrnn"),
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "hardware": f"{platform.system()}, {hardware}",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The commit of the code, with "-dirty" when package or profiles differ from it; None outside a git checkout."""
    def git(*arguments):
        done = subprocess.run(["git", "-C", str(root()), *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", "bsrnn", "profiles")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return None
