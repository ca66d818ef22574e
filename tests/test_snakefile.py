"""The graph of experiments, without running it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from study import runs

ROOT = Path(__file__).resolve().parents[1]


def plan(*config):
    options = ["--dry-run", "--forceall", "--nolock", "--cores", "1", "--printshellcmds"]
    command = [sys.executable, "-m", "snakemake", *options, "--config", *config]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def jobs(plan):
    assert plan.returncode == 0, plan.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", plan.stdout.split("Reasons")[0], re.MULTILINE))
    return {rule: int(count) for rule, count in counts.items() if rule != "total"}


def test_every_run_of_a_profile_has_a_job_with_its_parameters(monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(ROOT))
    _, listed = runs.load("open-1")
    done = plan("profile=open-1", "data=some folder")
    assert jobs(done) == {"all": 1, "data": 1, "band_schemas": 1, "train": 76, "listening": 1, "comparison": 1}
    commands = [shlex.split(line) for line in done.stdout.splitlines() if "papermill" in line and " -y " in line]
    found = {}
    for command in commands:
        values = yaml.safe_load(command[command.index("-y") + 1])
        found[values.pop("run", "listening")] = (Path(command[-2]).stem, values)
    notebook, values = found.pop("listening")
    assert notebook == "06_listening" and values["folder"] == "runs" and values["excerpts"] == []
    assert values["models"] == {
        schema: [f"multitask-{schema}-drums+bass+other+vocals-0"] for schema in ("v7", "generic")
    }
    assert found.keys() == {run.name for run in listed}
    for run in listed:
        notebook, values = found[run.name]
        assert notebook[:2] == ("03" if run.base_run else "04" if len(run.sources) > 1 else "02")
        assert values["training_config"] == run.training and values["model_config"] == run.model
        assert (values["dataset"], values["sources"]) == ("some folder", list(run.sources))
        assert values.get("base_run", "") == run.base_run and values["learned"] == run.learned


def test_a_transfer_waits_for_its_base_and_fewer_seeds_can_be_asked_for():
    done = plan("profile=demo", "seeds=[1]")
    assert jobs(done)["train"] == 6
    assert re.search(r"input: .*notebooks/base-v7-drums-1.ipynb\n +output: .*transfer-v7-drums-", done.stdout)


def test_what_wants_a_gpu_is_made_where_there_is_one(monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(ROOT))
    wanted = [run for run in runs.load("open")[1] if not run.gpu or torch.cuda.is_available()]
    assert jobs(plan("profile=open", "data=some folder"))["train"] == len(wanted)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (["profile=musdb"], "needs a data set: make reproduce PROFILE=musdb DATA=folder"),
        (["profile=nothing"], "no profile 'nothing': choose from demo, large, musdb, open"),
    ],
)
def test_wrong_configuration(config, message):
    done = plan(*config)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
