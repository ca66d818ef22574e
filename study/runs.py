"""The runs of a study: what a profile lists, by name.

    schemas: [v7, generic]
    seeds: [0, 1, 2]
    runs:
      base-{schema}-drums-{seed}: {experiment: base, sources: [drums]}
      transfer-{schema}-drums-bass-{seed}:
        {experiment: transfer, base_run: "base-{schema}-drums-{seed}", sources: [bass], training: {max_epochs: 3}}
      base-joint-drums-{seed}: {experiment: base, schema: joint, sources: [drums]}
      longer-generic-drums-0: {experiment: longer, schema: generic, seed: 0, sources: [drums], training: {max_epochs: 9}}

A name with {schema} or {seed} stands for a run in each of the profile's schemas, and with each of its seeds; any other
run says its own. What differs from the profile's `training_config` stands in `training`. A transfer has a `base_run`,
whose frozen extractor its new heads are trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import yaml

from bsrnn import files
from bsrnn.config import Config, TrainingConfig

_KEYS = {"experiment", "schema", "sources", "seed", "base_run", "training"}


@dataclass(frozen=True)
class Run:
    """One training of a profile."""

    name: str
    experiment: str  # base, scratch, longer, multitask, transfer or longer_transfer
    schema: str
    sources: tuple[str, ...]
    seed: int
    learned: str  # the sources that the extractor was trained on, joined by "+"
    base_run: str = ""  # whose extractor a transfer takes
    training: Mapping[str, object] = field(default_factory=dict, hash=False)  # all settings of it


def load(profile: str, seeds: list[int] | None = None) -> tuple[dict, list[Run]]:
    """The settings of a profile, and its runs in the order in which it lists them.

    Args:
        profile: name of a file in profiles/.
        seeds: in place of the profile's.

    Raises:
        FileNotFoundError: there is no such profile.
        ValueError: a run lacks something, has something unknown, or has a base that the profile has not.
    """
    folder = files.root() / "profiles"
    if not (folder / f"{profile}.yaml").is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise FileNotFoundError(f"no profile {profile!r}: choose from {known}")
    settings = yaml.safe_load((folder / f"{profile}.yaml").read_text())
    runs: dict[str, Run] = {}
    for template, entry in settings["runs"].items():
        wrong = sorted(entry.keys() - _KEYS) or sorted({"experiment", "sources"} - entry.keys())
        if wrong:
            raise ValueError(f"{profile}: {template}: {wrong[0]!r} is unknown or missing; a run has {sorted(_KEYS)}")
        schemas = settings["schemas"] if "{schema}" in template else [entry.get("schema")]
        for schema, seed in product(
            schemas, (seeds or settings["seeds"]) if "{seed}" in template else [entry.get("seed")]
        ):
            name, base = (text.format(schema=schema, seed=seed) for text in (template, entry.get("base_run", "")))
            if schema is None or seed is None:
                raise ValueError(f"{profile}: {name}: has no schema or no seed, in its name or beside it")
            if name in runs or (base and base not in runs):
                raise ValueError(f"{profile}: {name}: is there twice, or before its base {base!r}")
            learned = runs[base].learned if base else "+".join(entry["sources"])
            training = settings["training_config"] | entry.get("training", {})
            runs[name] = Run(name, entry["experiment"], schema, tuple(entry["sources"]), seed, learned, base, training)
            TrainingConfig(**training), Config(entry["sources"], schema, **settings["model_config"]).bins()
    return settings, list(runs.values())
