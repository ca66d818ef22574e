"""What experiments leave behind: where it lies, what it says, how it is published, and whether a rerun agrees.

    runs/<profile>/                    what trainings and notebooks write; not in git, and of it published:
    results/<profile>/runs/<run>.json      what a run is, its settings, its history and its mean scores
    results/<profile>/scores/<run>.csv     its scores, a row per track, source and metric
    results/<profile>/checkpoints/<run>/   its model
    results/<profile>/README.md            all tables, beside the same as CSV
    figures/<profile>/                     PNG

Where a function has a `folder`, it is "results" or "runs": in both, the same files have the same places.

    python -m study.results compare PROFILE   does what was rerun score what is published?
    python -m study.results publish PROFILE   copy what was rerun to results/ and figures/, and write its tables
    python -m study.results tables PROFILE    write the tables of what is published, or those of the benchmark
"""

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd

from bsrnn import files
from study import runs, statistics

IDENTITY = ("experiment", "schema", "learned", "base_run", "seed")  # what a run is
BASELINE = dict.fromkeys(IDENTITY, "") | {"experiment": "baseline", "seed": 0}
NUMBERED = ("01_band_schemas", "05_usdr_comparison", "06_listening")
SPREADS = 2  # standard deviations over seeds within which a rerun agrees


def results(profile: str, folder: str = "results") -> Path:
    """The folder of a profile's tables, run records and models."""
    return files.root() / folder / profile


def figures(profile: str) -> Path:
    """The folder of a profile's published figures."""
    return files.root() / "figures" / profile


def working(profile: str, run: str = "") -> Path:
    """The folder in which notebooks write, and trainings in that of their run."""
    return results(profile, "runs") / run


def checkpoint(profile: str, run: str, folder: str = "results") -> Path:
    """The folder of a run's model, for `checkpoint.load`."""
    return results(profile, folder) / "checkpoints" / run


def save_table(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as CSV, see `files.save_rows`."""
    return files.save_rows(path, table.to_dict("records"))


def save_figure(figure, profile: str, name: str) -> Path:
    """Write a matplotlib figure to runs/<profile>/figures/<name>.png and .svg, without dates, so that only a change of
    the picture changes the files. Returns the path of the PNG."""
    folder = working(profile) / "figures"
    with (
        matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}),
        files.written_together(folder) as partial,
    ):
        figure.savefig(partial / f"{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        figure.savefig(partial / f"{name}.png", metadata={"Software": None}, dpi=150, bbox_inches="tight")
    return folder / f"{name}.png"


def save_run(profile: str, run: str, rows: Sequence[Mapping]) -> None:
    """Write the scores of a run that was trained in `working`, its record with their means, and its model with a card,
    to runs/<profile>/, from where `publish` takes them.

    Args:
        profile, run: which.
        rows: of `evaluate.evaluate`.
    """
    folder = working(profile)
    record = json.loads((folder / run / "record.json").read_text())
    means = pd.DataFrame(rows).groupby(["split", "metric", "source"])["value"].mean().round(4)
    known = {" ".join(key): value for key, value in means.items() if math.isfinite(value)}
    files.save_json(folder / "runs" / f"{run}.json", {**record, "profile": profile, "scores": known})
    files.save_rows(folder / "scores" / f"{run}.csv", rows)
    with files.written_together(checkpoint(profile, run, "runs")) as partial:
        shutil.copytree(folder / run / "model", partial, dirs_exist_ok=True)
        (partial / "README.md").write_text(model_card(record, profile, pd.DataFrame(rows)))


def load_scores(profile: str, folder: str = "results") -> pd.DataFrame:
    """All score rows of a profile: `evaluate.COLUMNS`, and what the run is that they are of, see `IDENTITY`; those of
    baselines are of the experiment "baseline"."""
    tables = []
    for file in sorted((results(profile, folder) / "scores").glob("*.csv")):
        table = pd.read_csv(file, dtype={"track": str}, keep_default_na=False, na_values={"value": [""]})
        record = _record(profile, folder, file.stem) if file.stem != "baseline" else BASELINE
        tables.append(table.assign(**{name: record[name] for name in IDENTITY}))
    if not tables:
        raise FileNotFoundError(f"no scores in {folder}/{profile}/scores: run `make reproduce PROFILE={profile}` first")
    return pd.concat(tables, ignore_index=True)


def load_runs(profile: str, folder: str = "results") -> pd.DataFrame:
    """The run records of a profile, a row each: `run`, what it is (see `IDENTITY`), `source` (all of the run's, joined
    by "+"), `parameters`, all other settings of model and training, and `history`, a mapping per epoch."""
    names = sorted(file.stem for file in (results(profile, folder) / "runs").glob("*.json"))
    records = [_record(profile, folder, name) for name in names]
    return pd.DataFrame([record["model"] | record["training"] | record for record in records])


def _record(profile: str, folder: str, run: str) -> dict:
    record = json.loads((results(profile, folder) / "runs" / f"{run}.json").read_text())
    return record | {"schema": record["model"]["schema"], "source": "+".join(record["model"]["sources"])}


def coverage(profile: str) -> pd.DataFrame:
    """How much of a profile's runs has published scores: a row per cell, a column per schema that says of how many
    seeds, such as "2 of 3", empty where the profile has no such cell."""
    columns, done = ["experiment", "learned", "source", "schema"], results(profile) / "scores"
    rows = [(run.experiment, run.learned, "+".join(run.sources), run.schema, (done / f"{run.name}.csv").is_file())
            for run in runs.load(profile)[1]]  # fmt: skip
    seeds = pd.DataFrame(rows, columns=[*columns, "done"]).groupby(columns, sort=False)["done"].agg(["sum", "size"])
    counts = seeds["sum"].astype(str) + " of " + seeds["size"].astype(str)
    return counts.unstack(fill_value="", sort=False).rename_axis(columns=None).reset_index()


def compare(profile: str) -> pd.DataFrame:
    """The uSDR of every cell that was rerun beside what is published of the same run.

    Returns:
        columns cell (source of a run), published, reproduced and difference in dB, `allowed`, two standard deviations
        over the published seeds of the cell, and the verdict: agrees or differs, or "one seed" where none can be told.
    """
    tables = []
    for folder in ("results", "runs"):
        scores = load_scores(profile, folder).query("metric == 'uSDR' and experiment != 'baseline'")
        tables.append(scores.groupby([*statistics.CELL, "run"])["value"].mean())
    table = pd.DataFrame(dict(zip(("published", "reproduced"), tables, strict=True)))
    table["difference"] = table["reproduced"] - table["published"]
    table["allowed"] = SPREADS * table.groupby(list(statistics.CELL))["published"].transform("std")
    table["verdict"] = (table["difference"].abs() <= table["allowed"]).map({True: "agrees", False: "differs"})
    table.loc[table["allowed"].isna() | table["published"].isna(), "verdict"] = "one seed"
    table = table.dropna(subset="reproduced").reset_index()
    table.insert(0, "cell", table["source"] + " of " + table["run"])
    return table.drop(columns=[*statistics.CELL, "run"])


def publish(profile: str) -> None:
    """Copy what was rerun of a profile to its results and figures, and write its tables."""
    made, published = working(profile), results(profile)
    settings, listed = runs.load(profile)
    for part in ("runs", "scores", "checkpoints", "audio", "figures"):
        to, ignored = figures(profile) if part == "figures" else published / part, ("*.settings.json", "*.svg")
        if (made / part).is_dir():
            shutil.copytree(made / part, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*ignored))
    # the executed notebooks of the demo are those in notebooks/
    first = {run.experiment: run.name for run in reversed(listed) if run.schema == settings["schemas"][-1]}
    read = [f"notebooks/{name}.ipynb" for name in (first["base"], first["multitask"], first["transfer"], *NUMBERED)]
    for name in ["bands.csv", *(read if profile != "demo" else ())]:
        if (made / name).is_file():
            (published / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(made / name, published / name)
    write_tables(profile)


def write_tables(profile: str) -> None:
    """Write results/<profile>/README.md whole, and, of a study, the tables in it as CSV."""
    folder = results(profile)
    if profile == "benchmark":
        text, sections = BENCHMARK, {file.stem: pd.read_csv(file) for file in sorted(folder.glob("*.csv"))}
    else:
        scores = load_scores(profile).query("split == 'test'")
        cells, answers = statistics.gains(scores), statistics.comparisons(scores)
        save_table(folder / "summary.csv", cells)
        save_table(folder / "comparisons.csv", answers)
        text = STUDY.format(profile=profile)
        sections = {"What was run": coverage(profile), "Every cell": cells.drop(columns="split")}
        for topic, rows in answers.drop(columns="split").groupby("topic"):
            sections[f"Questions: {topic}"] = rows.drop(columns="topic").loc[:, (rows != "").any()]
    text += "".join(f"\n## {title}\n\n{markdown(table)}" for title, table in sections.items())
    with files.written_whole(folder / "README.md") as partial:
        partial.write_text(text)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers with two decimals, those that are not (NaN) empty."""

    def cell(value):
        # as many decimals as `save_table` keeps, first: the table and its file then round alike
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{round(value, 4):.2f}"
        return str(value)

    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "".join(f"| {' | '.join(cell(value) for value in row)} |\n" for row in rows)


BENCHMARK = """# Speed and memory

What `make benchmark` last measured, written by it; `notebooks/07_model_size.ipynb` explains the columns.
"""

STUDY = """# Results of the `{profile}` profile

Written by `python -m study.results tables {profile}` from `scores/` and `runs/`. All scores are of test songs, in dB.

*What was run* counts the seeds with scores, by band schema, of those that `profiles/{profile}.yaml` lists. *Every cell*
has the mean over songs, then over seeds; *trivial* is the better of mixture and silence, *gain* what a model has over
it, and oracles know the sources: IRM is the ideal ratio mask, STFT what any complex mask could reach. `learned` are the
sources that the extractor was trained on; `run` names the runs as a shell would, whose records are `runs/<run>.json`.

*Questions* compare cells song by song: *first* and *second* are the means of the two sides, then their difference with
its 95% interval (bootstrap over songs and runs), the rank-biserial correlation, and p of Wilcoxon's signed-rank test
after Holm's correction within the topic. *better* names a side only where interval and test agree, and each side has
three runs or more.
"""

CARD = """---
license: mit
tags: [music-source-separation, band-split-rnn]
---

# {run}

A band-split RNN that estimates {sources} of a song: {parameters:,} parameters, {bands} bands ({schema}), {sample_rate:,}
Hz. A run of the `{profile}` profile of Refined BSRNN{base}.

```python
from bsrnn import Separator, audio

separator = Separator.from_pretrained("results/{profile}/checkpoints/{run}")
stems = separator(*audio.read("song.wav"))  # source -> (channels, samples)
```

- Data: {songs[train]} songs for training and {songs[validation]} for validation, fingerprint `{data}`; the repository
  says what they are and under which licences.
- Budget: {steps:,} steps of {batch} chunks of {chunk:g} s, {hours:.1f} hours of mixtures, seed {seed};
  {minutes:.1f} minutes on {hardware} (threads: {threads}).
- Kept: epoch {kept} of {epochs}, the best in validation.
- Licence: MIT for code and weights; the songs have licences of their own.

Scores in dB, means over the songs in which the source sounds; silence has a uSDR of 0:

"""


def model_card(record: Mapping, profile: str, scores: pd.DataFrame) -> str:
    """What a user of a run's model should know, as on the Hugging Face hub: data, budget, scores, licence.

    Args:
        record: of the run.
        profile: whose run it is.
        scores: rows of `evaluate.evaluate`.
    """
    model, training, history = record["model"], record["training"], record["history"]
    batch, steps = training["batch_size"] * training["accumulate"] * record["processes"], history[-1]["step"]
    best = max(history, key=lambda row: -math.inf if row["validation_usdr"] is None else row["validation_usdr"])
    table = (
        scores.groupby(["split", "source", "metric"], sort=False)["value"].agg(["mean", "count"]).unstack(sort=False)
    )
    table = table["mean"].assign(tracks=table["count", "uSDR"]).reset_index()
    values = model | record | {"sources": ", ".join(model["sources"]), "profile": profile, "epochs": len(history)}
    values |= {"base": f", on the frozen extractor of {record['base_run']}" if record["base_run"] else ""}
    values |= {"hours": steps * batch * model["chunk"] / 3600, "minutes": record["seconds"] / 60}
    return CARD.format(**values, steps=steps, batch=batch, kept=best["epoch"] + 1) + markdown(table)


def main(command: str, profile: str) -> None:
    """The command line, see above; ends with exit code 1 where a cell differs from what is published."""
    if command != "compare":
        {"publish": publish, "tables": write_tables}[command](profile)
        return
    if not (results(profile) / "scores").is_dir():
        sys.exit(print(f"{profile}: nothing is published to compare with"))
    table = compare(profile)
    print(table.to_string(index=False, float_format="%.2f"))
    if len(wrong := table[table["verdict"] == "differs"]):
        sys.exit(f"{profile}: beyond two standard deviations over seeds: {', '.join(wrong['cell'])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
