"""The graph of experiments, without running it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
    } | ({} if profile == "demo" else {"published": 6})  # fmt: skip


def in_a_line(settings):
    """As YAML, which is what papermill reads: JSON's 5e-05 would be text."""
    return yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=10_000).strip()


def test_parameters_reach_the_notebooks():
    profile = yaml.safe_load((ROOT / "profiles" / "open.yaml").read_text())
    commands = plan("profile=open", "data=some folder", "--printshellcmds").stdout
    training = in_a_line(profile["training_config"])
    assert ("-f profiles/open.yaml -p dataset 'some folder' -p experiment base -p schema v7 -p seed 0"
            f" -y 'sources: [drums]' -y 'training_config: {training}' notebooks/02_base") in commands  # fmt: skip
    training = in_a_line(profile["training_config"] | profile["grid"]["transfer_training"])
    assert ("-y 'base_sources: [drums]' -y 'sources: [bass, other, vocals]'"
            f" -y 'training_config: {training}' notebooks/03_transfer") in commands  # fmt: skip
    longer = profile["grid"]["longer_transfer"]["drums+bass+other+vocals"]["vocals"]
    training = in_a_line(profile["training_config"] | longer)
    assert ("-p experiment longer_transfer -p schema generic -p seed 0 -y 'base_sources: [drums, bass, other, vocals]'"
            f" -y 'sources: [vocals]' -y 'training_config: {training}' notebooks/03_transfer") in commands  # fmt: skip


@pytest.mark.parametrize(("config", "message"), [
    (["profile=musdb"], "needs a data set: make reproduce PROFILE=musdb DATA=folder"),
    (["profile=nothing"], "no profile 'nothing': choose from demo, large, musdb, open"),
])  # fmt: skip
def test_wrong_configuration(config, message):
    done = plan(*config)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
