# The experiment graph: data -> trainings -> transfers of them -> listening -> comparison.
#
# A rule is one papermill call. Its output is the executed notebook; all that it writes lies under runs/<profile>/. A
# killed run continues: finished notebooks stay, and a training goes on from its last checkpoint.

import math
import re

import yaml

from study import runs

PROFILE = config["profile"]
try:
    SETTINGS, LISTED = runs.load(PROFILE, config.get("seeds", ()))
except (FileNotFoundError, ValueError) as error:
    raise WorkflowError(str(error))
RUNS = {run.name: run for run in LISTED}
if any(run.gpu for run in LISTED):
    import torch
WANTED = [run.name for run in LISTED if not run.gpu or torch.cuda.is_available()]
DATASET = config.get("data") or SETTINGS["dataset"]
if not DATASET:
    raise WorkflowError(f"the {PROFILE} profile needs a data set: make reproduce PROFILE={PROFILE} DATA=folder")

MADE = f"runs/{PROFILE}"
DONE = f"{MADE}/notebooks"
PAPERMILL = "papermill --cwd . --no-progress-bar --log-level ERROR"
LISTENED = {
    name: [run.format(seed=LISTED[0].seed) for run in listed] for name, listed in SETTINGS["listen"].items()
}


def notebook(wildcards):
    """The notebook that trains a run."""
    run = RUNS[wildcards.run]
    several = "04_multitask_learning" if len(run.sources) > 1 else "02_base_training"
    return f"notebooks/{'03_transfer_learning' if run.base_run else several}.ipynb"


def line(values):
    """Parameters of a notebook in one line of YAML."""
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def parameters(wildcards):
    """What a run's notebook is given."""
    run = RUNS[wildcards.run]
    values = {name: getattr(run, name) for name in ("experiment", "schema", "learned", "seed")}
    values |= {"profile": PROFILE, "dataset": DATASET, "run": run.name, "sources": list(run.sources)}
    values |= {"base_run": run.base_run, "folder": "runs"} if run.base_run else {}
    return line(values | {"model_config": run.model, "training_config": run.training})


rule all:
    input:
        f"{DONE}/01_band_schemas.ipynb",
        f"{DONE}/05_usdr_comparison.ipynb",


rule data:
    output:
        touch(f"{MADE}/data.ready"),
    params:
        scores=f"{MADE}/scores/baseline.csv",
        stft="--sample_rate {sample_rate} --n_fft {n_fft}".format(**SETTINGS["model_config"]),
    shell:
        "bsrnn evaluate --musdbhq_location {DATASET:q} {params.stft} --out {params.scores}"


rule band_schemas:
    output:
        f"{DONE}/01_band_schemas.ipynb",
    shell:
        "{PAPERMILL} -p profile {PROFILE} notebooks/01_band_schemas.ipynb {output}"


rule train:
    input:
        rules.data.output,
        lambda wildcards: [f"{DONE}/{base}.ipynb" for base in [RUNS[wildcards.run].base_run] if base],
    output:
        f"{DONE}/{{run}}.ipynb",
    wildcard_constraints:
        run="|".join(map(re.escape, RUNS)),
    params:
        notebook=notebook,
        values=parameters,
    shell:
        "{PAPERMILL} -y {params.values:q} {params.notebook} {output}"


rule listening:
    input:
        [f"{DONE}/{run}.ipynb" for listed in LISTENED.values() for run in listed],
    output:
        f"{DONE}/06_listening.ipynb",
    params:
        values=line(
            {"profile": PROFILE, "dataset": DATASET, "folder": "runs"}
            | {"models": LISTENED, "excerpts": SETTINGS["excerpts"]}
        ),
    shell:
        "{PAPERMILL} -y {params.values:q} notebooks/06_listening.ipynb {output}"


rule comparison:
    input:
        [f"{DONE}/{run}.ipynb" for run in WANTED],
        rules.listening.output,  # which leaves scores per band
    output:
        f"{DONE}/05_usdr_comparison.ipynb",
    shell:
        "{PAPERMILL} -p profile {PROFILE} -p folder runs notebooks/05_usdr_comparison.ipynb {output}"
