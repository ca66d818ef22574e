"""The graph of experiments, without running it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def plan(*config):
    options = ["--dry-run", "--forceall", "--nolock", "--cores", "1"]
    command = [sys.executable, "-m", "snakemake", *options, "--config", *config]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def jobs(*config):
    done = plan(*config)
    assert done.returncode == 0, done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout.split("Reasons")[0], re.MULTILINE))
    return {rule: int(count) for rule, count in counts.items() if rule != "total"}


@pytest.mark.parametrize(("profile", "seeds"), [("demo", 1), ("musdb", 3)])
def test_a_job_per_cell_of_the_grid(profile, seeds):
    cells = 2 * seeds  # two schemas
    assert jobs(f"profile={profile}", "data=somewhere") == {
        "all": 1, "data": 1, "band_schemas": 1, "single": cells, "transfer": cells, "multitask": cells, "comparison": 1,
        "listening": 1,
    }  # fmt: skip


def test_parameters_reach_the_notebooks():
    commands = plan("profile=open", "data=some folder", "--printshellcmds").stdout
    assert "-f profiles/open.yaml -p dataset 'some folder' -p schema v7 -p seed 0 -y 'sources: [drums]'" in commands
    assert "-y 'base_sources: [drums]' -y 'sources: [bass, other, vocals]' notebooks/03_transfer" in commands


@pytest.mark.parametrize(("config", "message"), [
    (["profile=open"], "needs a data set: make reproduce PROFILE=open DATA=folder"),
    (["profile=nothing"], "no profile 'nothing': choose from demo, large, musdb, open"),
])  # fmt: skip
def test_wrong_configuration(config, message):
    done = plan(*config)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
