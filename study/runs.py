"""The runs of a study: what a profile lists, by name.

    schemas: [v7, generic]
    seeds: [0, 1, 2]
    questions:
      schemas: [{one: {schema: generic}, other: {schema: v7}, where: {experiment: base}}]
    claims: {schemas: {claim: ..., done: ..., doubt: ...}}  # of each question, in words
    models: [base-generic-drums-0]  # those that are published
    listen: {generic: ["base-generic-drums-{seed}"]}  # what notebook 06 compares, of one or several runs each
    excerpts: []  # test songs of which it keeps sound
    runs:
      base-{schema}-drums-{seed}: {experiment: base, sources: [drums]}
      transfer-{schema}-drums-bass-{seed}:
        {experiment: transfer, base_run: "base-{schema}-drums-{seed}", sources: [bass], training: {max_epochs: 3}}
      base-joint-drums-{seed}: {experiment: base, schema: joint, sources: [drums]}
      longer-v7-drums-0: {experiment: longer, schema: v7, seed: 0, sources: [drums], training: {max_epochs: 9}}

A name with {schema} or {seed} stands for a run in each of the profile's schemas, and with each of its seeds, or of the
run's own `seeds`; any other run says its own. What differs from the profile's `training_config` and `model_config`
stands in `training` and `model`. The new heads of a transfer are trained on the frozen extractor of its `base_run`. A
run with `gpu: true` would take a CPU days, and is made only where there is a GPU.

A question compares runs of two kinds, told by columns of `statistics.CELL`, on the same songs, among those of `where`;
those of a topic are corrected together, and all else that a study finds is exploratory. Test songs that a profile has
`apart` take no part in the answers, and have a table of their own. The run that it names as `package` is `bsrnn/open`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import yaml

from bsrnn import files
from bsrnn.config import Config, TrainingConfig

_KEYS = {"experiment", "schema", "sources", "seed", "seeds", "base_run", "training", "model", "gpu"}


@dataclass(frozen=True)
class Run:
    """One training of a profile."""

    name: str
    experiment: str  # base, transfer and so on, see docs/method.md
    schema: str
    sources: tuple[str, ...]
    seed: int
    learned: str  # the sources that the extractor was trained on, joined by "+"
    base_run: str  # whose extractor a transfer takes
    training: Mapping[str, object]  # all settings of it
    model: Mapping[str, object]  # all sizes of it
    gpu: bool  # whether it wants one


def load(profile: str, seeds: Iterable[int | str] = ()) -> tuple[dict, list[Run]]:
    """The settings of a profile, a file in profiles/, and its runs as it lists them, with `seeds`, numbers or text, in
    place of its own. Raises FileNotFoundError where there is none, and ValueError where a run lacks something, has
    something unknown, or a base that does not stand before it, or is the same as another."""
    known = {file.stem: file for file in sorted((files.root() / "profiles").glob("*.yaml"))}
    if profile not in known:
        raise FileNotFoundError(f"no profile {profile!r}: choose from {', '.join(known)}")
    settings = yaml.safe_load(known[profile].read_text())
    runs, cells = {}, {}
    for template, entry in settings["runs"].items():
        if wrong := sorted(entry.keys() - _KEYS | {"experiment", "sources"} - entry.keys()):
            raise ValueError(f"{profile}: {template}: {wrong[0]!r} is unknown or missing; a run has {sorted(_KEYS)}")
        schemas = settings["schemas"] if "{schema}" in template else [entry.get("schema")]
        numbers = [*map(int, seeds)] or entry.get("seeds", settings["seeds"])
        for schema, seed in product(schemas, numbers if "{seed}" in template else [entry.get("seed")]):
            name, base = (text.format(schema=schema, seed=seed) for text in (template, entry.get("base_run", "")))
            if None in (schema, seed) or name in runs or (base and base not in runs):
                raise ValueError(f"{profile}: {name}: has no schema or seed, is there twice, or stands before its base")
            learned = runs[base].learned if base else "+".join(entry["sources"])
            cell = (entry["experiment"], schema, tuple(entry["sources"]), seed, learned)
            if cell in cells:  # tables would take them for runs of one cell with different seeds
                raise ValueError(f"{profile}: {name}: differs from {cells[cell]} by name alone: name its experiment")
            training, model = (settings[f"{x}_config"] | entry.get(x, {}) for x in ("training", "model"))
            TrainingConfig(**training), Config(entry["sources"], schema, **model).bins()
            runs[name], cells[cell] = Run(name, *cell, base, training, model, entry.get("gpu", False)), name
    return settings, list(runs.values())
