"""The README says what the repository holds."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from bsrnn import records
from bsrnn.cli import build_parser

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"<!-- (\w+) (\w+) -->\n(.*?)<!-- /\1 \2 -->", README, re.DOTALL)
MADE = {"results": "{}/summary.csv", "differences": "{}/generic_minus_v7.csv", "speed": "benchmark/{}.csv"}
PROFILES = sorted({name for kind, name, _ in BLOCKS if kind == "results"})


@pytest.fixture(autouse=True)
def at_the_repository(monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(ROOT))


def test_there_are_tables():
    assert {kind for kind, _, _ in BLOCKS} == set(MADE)


@pytest.mark.parametrize(("kind", "name", "text"), BLOCKS, ids=lambda value: value[:12])
def test_tables_equal_results(kind, name, text):
    table = pd.read_csv(ROOT / "results" / MADE[kind].format(name), keep_default_na=False)
    assert text == records.markdown(table.drop(columns="hardware", errors="ignore"))


@pytest.mark.parametrize("profile", PROFILES)
def test_summaries_equal_scores(profile):
    from bsrnn import statistics

    scores = records.load_scores(profile).query("split == 'test'")
    differences = statistics.paired_differences(scores, {"schema": "generic"}, {"schema": "v7"})
    for name, made in (("summary.csv", statistics.gains(scores)), ("generic_minus_v7.csv", differences)):
        written = pd.read_csv(records.results(profile) / name, keep_default_na=False)
        pd.testing.assert_frame_equal(written, made, atol=1e-3, check_dtype=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_run_has_its_record_and_model(profile):
    runs = records.load_scores(profile).query("experiment != 'baseline'")["run"].unique()
    for run in runs:
        assert (records.results(profile) / "runs" / f"{run}.json").is_file()
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
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
