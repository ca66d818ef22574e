"""The README, its tables and the figures say what the repository holds."""

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from bsrnn import records
from bsrnn.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"(<!-- (\w+) (\w+) -->\n)(.*?)(<!-- /\2 \3 -->)", re.DOTALL)
PROFILES = sorted({name for _, kind, name, *_ in BLOCK.findall(README) if kind == "results"})
FIGURE_NOTEBOOKS = re.findall(r"notebooks/(\w+)\.ipynb runs/\1", (ROOT / "Makefile").read_text())
TABLES = ("summary.csv", "comparisons.csv")


@pytest.fixture(autouse=True)
def at_the_repository(monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(ROOT))


@pytest.fixture(scope="module")
def remade(tmp_path_factory):
    """A folder in which `make figures` was run, its kernels and pictures' pixels excepted, on committed results whose
    tables, and those of the README, were emptied first."""
    root = tmp_path_factory.mktemp("remade")
    shutil.copytree(ROOT / "profiles", root / "profiles")
    shutil.copytree(ROOT / "results", root / "results", ignore=shutil.ignore_patterns("checkpoints"))
    (root / "README.md").write_text(BLOCK.sub(r"\1\5", README))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BSRNN_ROOT", str(root))
        for profile, table in itertools.product(PROFILES, TABLES):
            (records.results(profile) / table).unlink()
        for profile, name in itertools.product(PROFILES, FIGURE_NOTEBOOKS):
            values = {}
            for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4).cells:
                if cell.cell_type == "code":
                    exec(cell.source, values)
                    values["profile"] = profile
    return root


def contents(folder, pattern):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.glob(pattern)}


def drawing(svg):
    """What an SVG shows: numbers to a hundredth of a point, without names that hash the last digits of a layout."""
    named = re.sub(r"\b[pm][0-9a-f]{10}\b", "name", svg)
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}", named)


def test_tables_of_the_readme_are_those_of_the_results(remade):
    assert {kind for _, kind, *_ in BLOCK.findall(README)} == {
        "results", "schemas", "multitask", "transfer", "runs", "speed",
    }  # fmt: skip
    assert all(table for *_, table, _ in BLOCK.findall(README))
    assert (remade / "README.md").read_text() == README


@pytest.mark.parametrize("profile", PROFILES)
def test_tables_are_those_of_the_scores(remade, profile):
    pattern = f"results/{profile}/*.csv"
    assert contents(remade, pattern) == contents(ROOT, pattern)


@pytest.mark.parametrize("profile", PROFILES)
def test_figures_are_those_of_the_results(remade, profile):
    pattern = f"figures/{profile}/*.svg"
    made, committed = contents(remade, pattern), contents(ROOT, pattern)
    assert len(made) >= 10
    # the pictures of notebook 06 are of sound, and no table holds it
    others = {name: text for name, text in committed.items() if not Path(name).name.startswith("06_")}
    assert made.keys() == others.keys()
    assert [name for name in made if drawing(made[name]) != drawing(others[name])] == []
    for name, text in committed.items():
        assert (ROOT / name).with_suffix(".png").is_file()
        assert not re.search(r"/(home|root|tmp|Users|work)/|<dc:date>", text)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_number_names_its_runs(profile):
    summary = pd.read_csv(records.results(profile) / "summary.csv", keep_default_na=False)
    assert len(summary)
    for row in summary.itertuples():
        prefix, _, ends = row.run.partition("{")
        runs = [prefix + end for end in ends.removesuffix("}").split(",")]
        assert len(runs) == row.runs
        for run in runs:
            record = json.loads((records.results(profile) / "runs" / f"{run}.json").read_text())
            assert (record["run"], record["experiment"], record["model"]["schema"]) == (run, row.experiment, row.schema)
            assert row.source in record["model"]["sources"]
        if len(runs) == 1:
            assert record["scores"][f"{row.split} uSDR {row.source}"] == pytest.approx(row.uSDR, abs=1e-3)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_run_has_its_record_and_model(profile):
    runs = records.load_scores(profile).query("experiment != 'baseline'")["run"].unique()
    for run in runs:
        assert (records.results(profile) / "runs" / f"{run}.json").is_file()
        # of several seeds the first one's models are in the repository, and of trainings from scratch none
        if run.endswith("-0") and not run.startswith("scratch-"):
            assert (records.checkpoint(profile, run) / "model.safetensors").is_file()


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert len(links) > 10
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
    for path, _, heading in (link.partition("#") for link in links):
        assert (ROOT / path).exists()
        assert not heading or heading in headings


def test_commands_exist():
    joined = README.replace("\\\n", " ")
    lines = re.findall(r"^\.venv/bin/bsrnn (.*)$", joined, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        build_parser().parse_args(shlex.split(line))
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
