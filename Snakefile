# The experiment graph: data -> base per schema -> transfers, multi-task -> comparison, listening.
#
# A rule is one papermill call. Its output is the executed notebook under runs/, which a fresh clone does not have, so
# everything is made anew there; tables, records and models go to results/. A killed run continues: finished notebooks
# stay, and a training goes on from its last checkpoint.

import os

import yaml

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
BASE, TRANSFER, MULTITASK = GRID["base"], "+".join(GRID["transfer"]), "+".join(GRID["multitask"])
DONE = f"runs/{PROFILE}/notebooks"
PAPERMILL = "papermill --cwd . --no-progress-bar --log-level ERROR"
WITH_PROFILE = f"{PAPERMILL} -f {FILE} -p dataset '{DATASET}'"

base = f"{DONE}/base-{{schema}}-{BASE}-{{seed}}.ipynb"
transfer = f"{DONE}/transfer-{{schema}}-{BASE}-{TRANSFER}-{{seed}}.ipynb"
multitask = f"{DONE}/multitask-{{schema}}-{MULTITASK}-{{seed}}.ipynb"
listening = f"{DONE}/06_listening.ipynb"


wildcard_constraints:
    schema=r"[a-z0-9]+(-\d+-\d+)?",
    seed=r"\d+",


def runs():
    cells = dict(schema=GRID["schemas"], seed=GRID["seeds"])
    return expand(transfer, **cells) + expand(multitask, **cells)


def yaml_list(sources):
    return "[" + ", ".join(sources) + "]"


rule all:
    input:
        f"{DONE}/01_band_schemas.ipynb",
        f"{DONE}/05_usdr_comparison.ipynb",
        listening,


rule data:
    output:
        touch(f"runs/{PROFILE}/data.ready"),
    params:
        scores=f"results/{PROFILE}/scores/baseline.csv",
    shell:
        "bsrnn evaluate --musdbhq_location '{DATASET}' --out {params.scores}"


rule band_schemas:
    output:
        f"{DONE}/01_band_schemas.ipynb",
    shell:
        "{PAPERMILL} -p profile {PROFILE} notebooks/01_band_schemas.ipynb {output}"


rule base:
    input:
        rules.data.output,
    output:
        base,
    params:
        sources=yaml_list([BASE]),
    priority: 1
    shell:
        "{WITH_PROFILE} -p schema {wildcards.schema} -p seed {wildcards.seed} -y 'sources: {params.sources}'"
        " notebooks/02_base_training.ipynb {output}"


rule transfer:
    input:
        base,
    output:
        transfer,
    params:
        base=yaml_list([BASE]),
        sources=yaml_list(GRID["transfer"]),
    shell:
        "{WITH_PROFILE} -p schema {wildcards.schema} -p seed {wildcards.seed} -y 'base_sources: {params.base}'"
        " -y 'sources: {params.sources}' notebooks/03_transfer_learning.ipynb {output}"


rule multitask:
    input:
        rules.data.output,
    output:
        multitask,
    params:
        sources=yaml_list(GRID["multitask"]),
    priority: 2  # the longest first: no core idles at the end
    shell:
        "{WITH_PROFILE} -p schema {wildcards.schema} -p seed {wildcards.seed} -y 'sources: {params.sources}'"
        " notebooks/04_multitask_learning.ipynb {output}"


rule comparison:
    input:
        runs(),
    output:
        f"{DONE}/05_usdr_comparison.ipynb",
    shell:
        "{PAPERMILL} -p profile {PROFILE} notebooks/05_usdr_comparison.ipynb {output}"


rule listening:
    input:
        multitask.format(schema=GRID["schemas"][-1], seed=GRID["seeds"][0]),
    output:
        listening,
    params:
        schema=GRID["schemas"][-1],
        seed=GRID["seeds"][0],
        sources=yaml_list(GRID["multitask"]),
    shell:
        "{PAPERMILL} -p profile {PROFILE} -p dataset '{DATASET}' -p schema {params.schema} -p seed {params.seed}"
        " -y 'sources: {params.sources}' notebooks/06_listening.ipynb {output}"
