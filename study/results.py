"""What experiments leave behind: where it lies, what it says, how it is published, and whether a rerun agrees.

    runs/<profile>/                    what trainings and notebooks write; not in git, and of it published:
    results/<profile>/runs/<run>.json      what a run is, its settings, its history and its mean scores
    results/<profile>/scores/<run>.csv     its scores, a row per track, source and metric
    results/<profile>/checkpoints/<run>/   its model, if it is one of those that the profile names
    results/<profile>/README.md            all tables, beside the same as CSV
    figures/<profile>/                     PNG

Where a function has a `folder`, it is "results" or "runs": in both, the same files have the same places.

    python -m study.results compare PROFILE   does what was rerun score what is published?
    python -m study.results publish PROFILE   copy what was rerun to results/ and figures/, and write its tables
    python -m study.results tables PROFILE    write the tables of what is published
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context

from bsrnn import files
from study import runs, statistics

IDENTITY = ("experiment", "schema", "learned", "base_run", "seed")  # what a run is
BASELINE = dict.fromkeys(IDENTITY, "") | {"experiment": "baseline", "seed": 0}


def results(profile: str, folder: str = "results") -> Path:
    """The folder of a profile's tables, run records and models."""
    return files.root() / folder / profile


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
    """Write a figure to runs/<profile>/figures/ as <name>.svg and .png, of which it returns the path. Its bytes tell no
    date and no program: only a change of the picture changes them."""
    folder = working(profile) / "figures"
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), files.written_together(folder) as partial:
        figure.savefig(partial / f"{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        figure.savefig(partial / f"{name}.png", metadata={"Software": None}, dpi=150, bbox_inches="tight")
    return folder / f"{name}.png"


def save_run(profile: str, run: str, rows: Sequence[Mapping]) -> None:
    """Write the scores of a run, rows of `evaluate.evaluate`, its record with their means, and its model with a card
    to where `publish` takes them from; it was trained in `working`."""
    folder = working(profile)
    record = json.loads((folder / run / "record.json").read_text())
    means = pd.DataFrame(rows).groupby(["split", "metric", "source"])["value"].mean().round(4).items()
    record |= {"profile": profile, "scores": {" ".join(key): mean for key, mean in means if np.isfinite(mean)}}
    files.save_json(folder / "runs" / f"{run}.json", record)
    files.save_rows(folder / "scores" / f"{run}.csv", rows)
    with files.written_together(checkpoint(profile, run, "runs")) as partial:
        shutil.copytree(folder / run / "model", partial, dirs_exist_ok=True)
        (partial / "README.md").write_text(model_card(record, pd.DataFrame(rows)))


def load_scores(profile: str, folder: str = "results") -> pd.DataFrame:
    """All score rows of a profile: `evaluate.COLUMNS`, and `IDENTITY` of their run; "baseline" is an experiment too."""
    tables = {
        file.stem: pd.read_csv(file, dtype={"track": str}, keep_default_na=False, na_values={"value": [""]})
        for file in sorted((results(profile, folder) / "scores").glob("*.csv"))
    }
    if not tables:
        raise FileNotFoundError(f"no scores in {folder}/{profile}/scores: run `make reproduce PROFILE={profile}` first")
    told = pd.DataFrame(
        (BASELINE if x == "baseline" else _record(profile, folder, x) for x in tables), tables, IDENTITY
    )
    return pd.concat(tables, names=["file"]).join(told, on="file").reset_index(drop=True)


def load_test_scores(profile: str, folder: str = "results") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The score rows of the test songs, and of those among them that the profile keeps `apart`, see `study.runs`."""
    tests = load_scores(profile, folder).query("split == 'test'")
    apart = tests["track"].isin(runs.load(profile)[0].get("apart", ()))
    return tests[~apart], tests[apart]


def load_runs(profile: str, folder: str = "results") -> pd.DataFrame:
    """The run records of a profile, a row each: `run`, what it is (see `IDENTITY`), `source` (all of the run's, joined
    by "+"), `parameters`, all other settings of model and training, and `history`, a mapping per epoch."""
    stems = sorted(file.stem for file in (results(profile, folder) / "runs").glob("*.json"))
    return pd.DataFrame(run["model"] | run["training"] | run for run in (_record(profile, folder, x) for x in stems))


def _record(profile: str, folder: str, run: str) -> dict:
    record = json.loads((results(profile, folder) / "runs" / f"{run}.json").read_text())
    return record | {"schema": record["model"]["schema"], "source": "+".join(record["model"]["sources"])}


def coverage(profile: str) -> pd.DataFrame:
    """Of how many seeds there are published scores, such as "2 of 3", or why of none: a row per cell, a column per
    schema, empty where the profile has no such cell."""
    columns, done = list(statistics.CELL[1:]), {file.stem for file in (results(profile) / "scores").glob("*.csv")}
    cells = (
        pd.DataFrame(runs.load(profile)[1])
        .assign(source=lambda run: run["sources"].map("+".join), done=lambda run: run["name"].isin(done))
        .groupby(columns, sort=False)
    )
    told = (cells["done"].sum().astype(str) + " of " + cells.size().astype(str)).mask(
        cells["gpu"].any() & ~cells["done"].any(), "not run: wants a GPU"
    )
    return told.unstack(fill_value="", sort=False).rename_axis(columns=None).reset_index()


def compare(profile: str) -> pd.DataFrame:
    """The uSDR of every cell (source of a run) that was rerun beside what is published of it, their difference, what is
    `allowed`, all in dB, and the verdict: agrees, differs or one seed. Allowed are two standard deviations of what
    seeds alone make two runs differ by, as on another CPU rounding does; it is measured on all published cells of a
    source together, as the few seeds of one may lie close by luck."""
    means = {
        name: load_scores(profile, folder)
        .query("metric == 'uSDR' and experiment != 'baseline'")
        .groupby([*statistics.CELL, "run"])["value"]
        .mean()
        for name, folder in (("published", "results"), ("reproduced", "runs"))
    }
    table = pd.DataFrame(means).reset_index().eval("difference = reproduced - published")
    place = ["split", "source"]
    variance = table.groupby(list(statistics.CELL))["published"].var().groupby(place).mean()
    table = table.join((2 * (2 * variance) ** 0.5).rename("allowed"), on=place)
    cases = [table["allowed"].isna(), table["difference"].abs() <= table["allowed"]]
    table["verdict"] = np.select(cases, ["one seed", "agrees"], "differs")
    table.insert(0, "cell", table["source"] + " of " + table["run"])
    return table.dropna(subset="reproduced").drop(columns=[*statistics.CELL, "run"])


def publish(profile: str) -> None:
    """Copy what was rerun of a profile to its results and figures, of models those that it names, of notebooks those
    that lie there, and the package's model, at half precision, to `bsrnn/open`; and write its tables."""
    from bsrnn.checkpoint import load, save

    made, published, settings = working(profile), results(profile), runs.load(profile)[0]
    temporary = shutil.ignore_patterns("*.settings.json", "*.lock", "*.svg", "*.ipynb")
    for part in ("runs", "scores", "audio", "figures", *map("checkpoints/{}".format, settings["models"])):
        if (made / part).is_dir():
            to = results(profile, "figures") if part == "figures" else published / part
            shutil.copytree(made / part, to, dirs_exist_ok=True, ignore=temporary)
    for file in (published / "bands.csv", *(published / "notebooks").glob("*.ipynb")):
        if (made / file.relative_to(published)).is_file():
            shutil.copyfile(made / file.relative_to(published), file)
    if "package" in settings and (folder := checkpoint(profile, settings["package"], "runs")).is_dir():
        save(load(folder).half(), files.root() / "bsrnn" / "open")
    write_tables(profile)


def write_tables(profile: str) -> None:
    """Write results/<profile>/README.md whole, and the tables in it as CSV."""
    folder, (scores, apart) = results(profile), load_test_scores(profile)
    songs = {"Every cell": scores, "Every cell, on the songs that are kept apart": apart}
    cells = {title: statistics.gains(rows) for title, rows in songs.items() if len(rows)}
    answers = statistics.comparisons(scores, runs.load(profile)[0]["questions"])
    save_table(folder / "summary.csv", cells["Every cell"])
    save_table(folder / "comparisons.csv", answers)
    topics = {f"Questions: {topic}": rows.drop(columns="topic") for topic, rows in answers.groupby("topic")}
    tables = {"What was run": coverage(profile)} | cells | topics
    parts = [
        f"\n## {title}\n\n{markdown(table.drop(columns='split', errors='ignore').loc[:, (table != '').any()])}"
        for title, table in tables.items()
    ]
    with files.written_whole(folder / "README.md") as partial:
        partial.write_text(STUDY.format(profile=profile) + "".join(parts))


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers with two decimals, those that are not (NaN) empty."""
    # as many decimals as `save_table` keeps, first: the table and its file then round alike
    text = table.map(lambda cell: f"{round(cell, 4):.2f}".replace("nan", "") if isinstance(cell, float) else str(cell))
    rows = ([*table], ["---"] * len(table.columns), *text.itertuples(index=False))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


STUDY = """# Results of the `{profile}` profile

Written by `python -m study.results tables {profile}` from `scores/` and `runs/`. All scores are of test songs, in dB.

*What was run* counts the seeds with scores of those that `profiles/{profile}.yaml` lists. *Every cell* has the mean
over songs, then over seeds; *trivial* is the better of mixture and silence, *gain* what a model has over it, and
oracles know the sources: IRM is the ideal ratio mask, STFT what any complex mask could reach. `learned` are the sources
that the extractor was trained on; `run` names the runs as a shell would, whose records are `runs/<run>.json`.

*Questions*, which the profile names, compare cells song by song: the means of the two sides, their difference with its
95% interval (bootstrap over songs and runs), the rank-biserial correlation, and p of Wilcoxon's signed-rank test after
Holm's correction within the topic. *better* names a side only where interval and test agree, and each side has three
runs or more.
"""

CARD = """---
license: mit
tags: [music-source-separation, band-split-rnn]
---

# {run}

A band-split RNN that estimates {sources} of a song: {parameters:,} parameters, {bands} bands ({schema}) at
{sample_rate:,} Hz. A run of the `{profile}` profile of Refined BSRNN{base}.

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


def model_card(record: Mapping, scores: pd.DataFrame) -> str:
    """What a user of a run's model should know, as on the Hugging Face hub, by its record and score rows."""
    model, training, history = record["model"], record["training"], record["history"]
    batch, steps = training["batch_size"] * training["accumulate"] * record["processes"], history[-1]["step"]
    best = max(history, key=lambda row: -np.inf if row["validation_usdr"] is None else row["validation_usdr"])
    table = (
        scores.groupby(["split", "source", "metric"], sort=False)["value"].agg(["mean", "count"]).unstack(sort=False)
    )
    told = {
        "sources": ", ".join(model["sources"]),
        "base": f", on the frozen extractor of {record['base_run']}" if record["base_run"] else "",
        "hours": steps * batch * model["chunk"] / 3600,
        "minutes": record["seconds"] / 60,
        "kept": best["epoch"] + 1,
    }
    text = CARD.format(**model | record | told, steps=steps, batch=batch, epochs=len(history))
    return text + markdown(table["mean"].assign(tracks=table["count", "uSDR"]).reset_index())


def main(command: str, profile: str) -> None:
    """The command line, see above; ends with exit code 1 where a cell differs from what is published."""
    if command != "compare":
        return {"publish": publish, "tables": write_tables}[command](profile)
    table = compare(profile)
    print(table.to_string(index=False, float_format="%.2f"))
    if len(wrong := table[table["verdict"] == "differs"]):
        sys.exit(f"{profile}: beyond what seeds make two runs differ by: {', '.join(wrong['cell'])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
