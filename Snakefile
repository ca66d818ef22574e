# The experiment graph: data -> base, scratch, longer, multi-task per schema -> transfers -> comparison, listening.
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

alone = f"{DONE}/{{experiment}}-{{schema}}-{{sources}}-{{seed}}.ipynb"
on_a_base = f"{DONE}/{{experiment}}-{{schema}}-{{base}}-{{sources}}-{{seed}}.ipynb"


wildcard_constraints:
    schema=r"[a-z0-9]+(-\d+-\d+)?",
    sources=r"[^-/]+",
    base=r"[^-/]+",
    seed=r"\d+",


def run_of(wildcards):
    """The run that a notebook is to hold."""
    base = wildcards.get("base", "")
    return study.Run(
        wildcards.experiment, wildcards.schema, tuple(wildcards.sources.split("+")), int(wildcards.seed),
        tuple(base.split("+")) if base else (),
    )


def base_of(wildcards):
    """The notebook in which the base of a transfer is trained."""
    return f"{DONE}/{run_of(wildcards).base_run.name}.ipynb"


def yaml_list(names):
    return f"[{', '.join(names)}]"


def sources(wildcards):
    return yaml_list(run_of(wildcards).sources)


def training(wildcards):
    """How to train, in one line of YAML."""
    settings = study.training(SETTINGS, run_of(wildcards))
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
        alone,
    wildcard_constraints:
        experiment="base|scratch|longer",
        sources=r"[^-+/]+",
    params:
        sources=sources,
        training=training,
    priority: 1
    shell:
        "{WITH_PROFILE} -p experiment {wildcards.experiment} -p schema {wildcards.schema} -p seed {wildcards.seed}"
        " -y 'sources: {params.sources}' -y 'training_config: {params.training}'"
        " notebooks/02_base_training.ipynb {output}"


rule multitask:
    input:
        rules.data.output,
    output:
        alone,
    wildcard_constraints:
        experiment="multitask|longer",
        sources=r"[^-/]+\+[^-/]+",
    params:
        sources=sources,
        training=training,
    priority: 2  # the longest first: no core idles at the end
    shell:
        "{WITH_PROFILE} -p experiment {wildcards.experiment} -p schema {wildcards.schema} -p seed {wildcards.seed}"
        " -y 'sources: {params.sources}' -y 'training_config: {params.training}'"
        " notebooks/04_multitask_learning.ipynb {output}"


rule transfer:
    input:
        base_of,
    output:
        on_a_base,
    wildcard_constraints:
        experiment="transfer|longer_transfer",
    params:
        base=lambda wildcards: yaml_list(run_of(wildcards).base),
        sources=sources,
        training=training,
    shell:
        "{WITH_PROFILE} -p experiment {wildcards.experiment} -p schema {wildcards.schema} -p seed {wildcards.seed}"
        " -y 'base_sources: {params.base}' -y 'sources: {params.sources}' -y 'training_config: {params.training}'"
        " notebooks/03_transfer_learning.ipynb {output}"


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
        expand(alone, experiment="multitask", schema=GRID["schemas"], sources=GRID["multitask"][0],
               seed=GRID["seeds"][0]),
    output:
        f"{DONE}/06_listening.ipynb",
    params:
        schemas=yaml_list(GRID["schemas"]),
        seed=GRID["seeds"][0],
        sources=yaml_list(GRID["multitask"][0].split("+")),
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
