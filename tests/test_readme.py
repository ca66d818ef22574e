"""README.md and docs/ say what the repository holds, and every number names its runs."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from bsrnn.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.name: path.read_text(encoding="utf-8").replace("\\\n", " ") for path in PATHS}
PROFILES = [path.parent.name for path in sorted((ROOT / "results").glob("*/summary.csv"))]
VALUE = r"(−?\d+\.\d+)"
# a score in dB, perhaps with its interval, and the comment beside it that says which row of a table it is
NUMBER = re.compile(rf"{VALUE} dB(?: \({VALUE} to {VALUE}\))?(?:<!-- ([^>]*) -->)?")
ELSEWHERE = "not in results"  # the comment beside a score of a run that is not kept

texts = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
profiles = pytest.mark.parametrize("profile", PROFILES)


def blocks(path, language=""):
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXTS[path.name], re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def rows(profile, table):
    with (ROOT / "results" / profile / table).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def row_of(source):
    """The row of a profile's tables that holds all cells in a comment, such as "open-1: base-v7-bass-{0,1,2}, bass"."""
    profile, _, cells = source.partition(": ")
    wanted = set(re.split(r", (?![^{]*})", cells))
    both = rows(profile, "comparisons.csv") + rows(profile, "summary.csv")
    found = [row for row in both if wanted <= set(row.values())]
    # one row may answer two topics, with a correction for each
    assert len({row.get("difference", row.get("uSDR")) for row in found}) == 1, f"{source}: {len(found)} rows"
    return found[0]


def test_the_readme_is_short():
    lines = PATHS[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert sum(len(line.split()) for line in lines) <= 2_500
    assert 3 <= len(NUMBER.findall(TEXTS["README.md"])) <= 10
    assert {file.name for file in (ROOT / "docs").iterdir()} == set(re.findall(r"\(docs/([\w.]+)", TEXTS["README.md"]))


@texts
def test_links_lead_somewhere(path):
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXTS[path.name]) if not link.startswith("https://")]
    assert links
    for name, _, heading in (link.partition("#") for link in links):
        target = (path.parent / name).resolve() if name else path
        assert target.exists() and target.is_relative_to(ROOT), name
        titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@texts
def test_commands_exist(path, monkeypatch):
    parser = build_parser()
    monkeypatch.setattr("os.path.exists", lambda path: True)  # songs and models of the reader
    for line in re.findall(r"^(?:\.venv/bin/bsrnn|.*-m bsrnn\.cli) (.*)$", "".join(blocks(path)), re.MULTILINE):
        parser.parse_args(shlex.split(line, comments=True))
    (commands,) = (action.choices for action in parser._actions if action.dest == "command")
    known = {flag for command in commands.values() for action in command._actions for flag in action.option_strings}
    assert set(re.findall(r"`(?:bsrnn \w+ )?(--\w[\w-]*)", TEXTS[path.name])) <= known
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make (?:\w+=\S+ )*([\w-]+)", TEXTS[path.name], re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", [path for path in PATHS if path.name in ("README.md", "separate.md")], ids=str)
def test_python_examples_run(path, tmp_path, monkeypatch):
    (tmp_path / "results").symlink_to(ROOT / "results")
    monkeypatch.chdir(tmp_path)
    for song in ("song.wav", "song.mp3"):
        soundfile.write(song, np.random.default_rng(0).normal(0, 0.1, (44_100, 2)), 44_100)
    (example,), values = blocks(path, "python"), {}
    exec(example, values)
    assert values["stems"].keys() == {"drums", "bass", "other", "vocals"}
    assert all(stem.shape == values["song"].shape for stem in values["stems"].values())


@texts
def test_numbers_are_those_of_the_results(path):
    for *quoted, source in NUMBER.findall(re.sub(r"\s+", " ", TEXTS[path.name])):
        assert source, f"{quoted[0]} dB: no comment says which row of a table it is"
        if source != ELSEWHERE:
            row = row_of(source)
            values = [row.get("difference", row.get("uSDR")), row.get("low"), row.get("high")]
            told = [value.replace("−", "-") for value in quoted if value]
            assert told == [f"{float(value):.2f}" for value in values if value]


@profiles
def test_every_number_names_its_runs(profile):
    apart = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text()).get("apart", ())
    for row in rows(profile, "summary.csv"):
        prefix, _, ends = row["run"].partition("{")
        runs = [prefix + end for end in ends.removesuffix("}").split(",")]
        assert len(runs) == int(row["runs"])
        for run in runs:
            record = json.loads((ROOT / "results" / profile / "runs" / f"{run}.json").read_text())
            known = (record["run"], record["experiment"], record["model"]["schema"])
            assert known == (run, row["experiment"], row["schema"])
            assert row["source"] in record["model"]["sources"]
        if len(runs) == 1:
            meant = {"split": row["split"], "metric": "uSDR", "source": row["source"]}.items()
            heard = [x for x in rows(profile, f"scores/{runs[0]}.csv") if meant <= x.items() and x["value"]]
            scores = [float(x["value"]) for x in heard if x["track"] not in apart]
            assert np.mean(scores) == pytest.approx(float(row["uSDR"]), abs=1e-3)
