# The experiment graph: data -> base, scratch, multi-task per schema -> transfers -> comparison, listening.
#
# A rule is one papermill call. Its output is the executed notebook under runs/, which a fresh clone does not have, so
# everything is made anew there; tables, records and models go to results/. A killed run continues: finished notebooks
# stay, and a training goes on from its last checkpoint.

import math
import os

import yaml

from bsrnn import study

PROFILE = config["profile"]
FILE = f"profiles/{PROFILE}.yaml"
if not os.path.isfile(FILE):
    known = ", ".join(sorted(name[:-5] for name in os.listdir("profiles") if name.endswith(".yaml")))
    raise WorkflowError(f"no profile {PROFILE!r}: choose from {known}")
with open(FILE) as stream:
    SETTINGS = yaml.safe_load(stream)
DATASET = config.get("data") or SETTINGS["dataset"]
if not DATASET:
    raise WorkflowError(f"the {PROFILE} profile needs a data set: make reproduce PROFILE={PROFILE} DATA=folder")

GRID = SETTINGS["grid"]
RUNS = study.grid(GRID)
DONE = f"runs/{PROFILE}/notebooks"
PAPERMILL = "papermill --cwd . --no-progress-bar --log-level ERROR"
WITH_PROFILE = f"{PAPERMILL} -f {FILE} -p dataset '{DATASET}'"

single = f"{DONE}/{{experiment}}-{{schema}}-{{source}}-{{seed}}.ipynb"
several = f"{DONE}/{{experiment}}-{{schema}}-{{several}}-{{seed}}.ipynb"
transfer = f"{DONE}/transfer-{{schema}}-{{base}}-{{sources}}-{{seed}}.ipynb"


wildcard_constraints:
    experiment="base|scratch|longer|multitask",
    schema=r"[a-z0-9]+(-\d+-\d+)?",
    source=r"[^-+/]+",
    several=r"[^-/]+\+[^-/]+",
    sources=r"[^-/]+",
    base=r"[^-/]+",
    seed=r"\d+",


def base_of(wildcards):
    """The notebook in which the base of a transfer is trained."""
    run = study.Run("transfer", wildcards.schema, (), wildcards.seed, tuple(wildcards.base.split("+")))
    return f"{DONE}/{run.base_run.name}.ipynb"


def yaml_list(sources):
    return "[" + ", ".join(sources.split("+")) + "]"


def training(experiment, sources=""):
    """How to train, in one line of YAML."""
    settings = study.training(SETTINGS, experiment, sources)
    return yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=math.inf).strip()


# executed notebooks to read: those of the demo profile are in notebooks/
FIRST = {run.experiment: run.name for run in reversed(RUNS) if run.schema == GRID["schemas"][-1]}
READ = [FIRST["base"], FIRST["transfer"], FIRST["multitask"], "01_band_schemas", "05_usdr_comparison", "06_listening"]


rule all:
    input:
        f"{DONE}/01_band_schemas.ipynb",
        f"{DONE}/05_usdr_comparison.ipynb",
        [f"results/{PROFILE}/notebooks/{name}.ipynb" for name in READ if PROFILE != "demo"],


rule data:
    output:
        touch(f"runs/{PROFILE}/data.ready"),
    params:
        made=f"runs/{PROFILE}/baseline.csv",
        scores=f"results/{PROFILE}/scores/baseline.csv",
        stft="--sample_rate {sample_rate} --n_fft {n_fft}".format(**SETTINGS["model_config"]),
    shell:
        "bsrnn evaluate --musdbhq_location '{DATASET}' {params.stft} --out {params.made}"
        " && mkdir -p $(dirname {params.scores}) && cp {params.made} {params.scores}"


rule band_schemas:
    output:
        f"{DONE}/01_band_schemas.ipynb",
    shell:
        "{PAPERMILL} -p profile {PROFILE} notebooks/01_band_schemas.ipynb {output}"


rule single:
    input:
        rules.data.output,
    output:
        single,
    params:
        training=lambda wildcards: training(wildcards.experiment, wildcards.source),
    priority: 1
    shell:
        "{WITH_PROFILE} -p experiment {wildcards.experiment} -p schema {wildcards.schema} -p seed {wildcards.seed}"
        " -y 'sources: [{wildcards.source}]' -y 'training_config: {params.training}'"
        " notebooks/02_base_training.ipynb {output}"


rule transfer:
    input:
        base_of,
    output:
        transfer,
    params:
        base=lambda wildcards: yaml_list(wildcards.base),
        sources=lambda wildcards: yaml_list(wildcards.sources),
        training=training("transfer"),
    shell:
        "{WITH_PROFILE} -p schema {wildcards.schema} -p seed {wildcards.seed} -y 'base_sources: {params.base}'"
        " -y 'sources: {params.sources}' -y 'training_config: {params.training}'"
        " notebooks/03_transfer_learning.ipynb {output}"


rule multitask:
    input:
        rules.data.output,
    output:
        several,
    params:
        sources=lambda wildcards: yaml_list(wildcards.several),
        training=lambda wildcards: training(wildcards.experiment, wildcards.several),
    priority: 2  # the longest first: no core idles at the end
    shell:
        "{WITH_PROFILE} -p experiment {wildcards.experiment} -p schema {wildcards.schema} -p seed {wildcards.seed}"
        " -y 'sources: {params.sources}' -y 'training_config: {params.training}'"
        " notebooks/04_multitask_learning.ipynb {output}"


rule comparison:
    input:
        [f"{DONE}/{run.name}.ipynb" for run in RUNS],
        f"{DONE}/06_listening.ipynb",  # which leaves scores per band
    output:
        f"{DONE}/05_usdr_comparison.ipynb",
    shell:
        "{PAPERMILL} -p profile {PROFILE} notebooks/05_usdr_comparison.ipynb {output}"


rule listening:
    input:
        expand(several, experiment="multitask", schema=GRID["schemas"], several=GRID["multitask"][0],
               seed=GRID["seeds"][0]),
    output:
        f"{DONE}/06_listening.ipynb",
    params:
        schemas=f"[{', '.join(GRID['schemas'])}]",
        seed=GRID["seeds"][0],
        sources=yaml_list(GRID["multitask"][0]),
    shell:
        "{PAPERMILL} -p profile {PROFILE} -p dataset '{DATASET}' -p seed {params.seed}"
        " -y 'schemas: {params.schemas}' -y 'sources: {params.sources}' notebooks/06_listening.ipynb {output}"


rule published:
    input:
        f"{DONE}/{{name}}.ipynb",
    output:
        f"results/{PROFILE}/notebooks/{{name}}.ipynb",
    shell:
        "nbstripout --textconv --keep-output --keep-count"
        " --extra-keys 'metadata.papermill cell.metadata.papermill cell.metadata.execution' {input} > {output}"
