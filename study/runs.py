"""The grid of a study: which runs a profile asks for.

    grid:
      schemas: [v7, generic]            every run below, in each of them
      seeds: [0, 1, 2]                  and with each of these
      base: [drums, vocals]             models of one source
      multitask: [drums+bass]           models of several
      transfer: {drums: bass+vocals}    new heads (one run for all) on the frozen extractor of one of the models above
      transfer_training: {max_epochs: 3}   what differs from training_config in a transfer
      scratch: [bass]                   models of one source with the budget of a transfer, to compare transfers with
      more_schemas: [joint]             the first base in other schemas
      longer: {drums: {max_epochs: 40}} one source or several, the last of the schemas, the first seed, and what differs
                                        from training_config
      longer_transfer: {drums: {bass: {lr: 0.001}}}   new heads on the frozen extractor of one of the longer models
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import pandas as pd
import yaml

from bsrnn import records

PROFILES = ("demo", "open", "musdb", "large")
KEYS = ("schemas", "seeds", "base", "multitask", "transfer", "transfer_training", "scratch", "more_schemas", "longer",
        "longer_transfer")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run: a cell of the grid, with one seed."""

    experiment: str  # base, scratch, longer, multitask, transfer or longer_transfer
    schema: str
    sources: tuple[str, ...]
    seed: int
    base: tuple[str, ...] = ()  # what the extractor of a transfer was trained for

    @property
    def name(self) -> str:
        """The run's name, as `records.run_name` gives it."""
        return records.run_name(self.experiment, self.schema, self.sources, self.seed, "+".join(self.base))

    @property
    def base_run(self) -> "Run":
        """The run whose extractor a transfer takes."""
        trained = "longer" if self.experiment == "longer_transfer" else "multitask" if len(self.base) > 1 else "base"
        return Run(trained, self.schema, self.base, self.seed)


def grid(settings: Mapping) -> list[Run]:
    """The runs of a profile's `grid`, of which schemas, seeds and base are needed.

    Raises:
        ValueError: a transfer has a base that is not in the grid, or a run that is for one source several; or the grid
            has something that no grid has, or no settings for what it trains longer.
    """
    runs = []
    if unknown := sorted(settings.keys() - set(KEYS)):
        raise ValueError(f"grid: unknown {unknown[0]!r}; it may have {', '.join(KEYS)}")
    settings = {"multitask": [], "transfer": {}, "scratch": [], "more_schemas": [], "longer": {}, "longer_transfer": {},
                **settings}  # fmt: skip
    for group in (settings["longer"], *settings["longer_transfer"].values()):
        if not isinstance(group, Mapping) or not all(isinstance(own, Mapping) for own in group.values()):
            raise ValueError("grid: a longer training or transfer is named with what differs in it: {} for nothing")
    for schema, seed in product(settings["schemas"], settings["seeds"]):
        runs += [Run(experiment, schema, (source,), seed)
                 for experiment in ("base", "scratch") for source in settings[experiment]]  # fmt: skip
        runs += [Run("multitask", schema, tuple(sources.split("+")), seed) for sources in settings["multitask"]]
        runs += [Run("transfer", schema, tuple(sources.split("+")), seed, tuple(base.split("+")))
                 for base, sources in settings["transfer"].items()]  # fmt: skip
    runs += [Run("base", schema, (settings["base"][0],), seed)
             for schema, seed in product(settings["more_schemas"], settings["seeds"])]  # fmt: skip
    runs += [Run("longer", settings["schemas"][-1], tuple(sources.split("+")), settings["seeds"][0])
             for sources in settings["longer"]]  # fmt: skip
    runs += [Run("longer_transfer", settings["schemas"][-1], tuple(sources.split("+")), settings["seeds"][0],
                 tuple(base.split("+")))
             for base, heads in settings["longer_transfer"].items() for sources in heads]  # fmt: skip
    for run in runs:
        if run.base and run.base_run not in runs:
            raise ValueError(f"grid: {run.name} needs {run.base_run.name}, which the grid has not")
        if run.experiment in ("base", "scratch") and "+" in run.sources[0]:
            raise ValueError(f"grid: {run.experiment} lists single sources, not {run.sources[0]}")
        if dashed := [source for source in (*run.sources, *run.base) if "-" in source]:
            raise ValueError(f"grid: names of runs are made with hyphens, so a source's name has none: {dashed[0]}")
    return runs


def training(settings: Mapping, run: Run) -> dict:
    """How a profile trains a run of its grid: what is compared with a transfer has a transfer's budget, and what is
    trained longer, or transferred from there, settings of its own."""
    grid, own, sources = settings["grid"], {}, "+".join(run.sources)
    if run.experiment in ("transfer", "scratch"):
        own = grid.get("transfer_training", {})
    elif run.experiment == "longer":
        own = grid["longer"][sources]
    elif run.experiment == "longer_transfer":
        own = grid["longer_transfer"]["+".join(run.base)][sources]
    return settings["training_config"] | own


def coverage(profiles: Iterable[str] = PROFILES) -> pd.DataFrame:
    """How much of each profile's grid has scores: a row per cell, a column per schema that says of how many seeds, such
    as "2 of 3" or "not run", empty where the grid has no such cell; and, where some are missing, what they need."""
    rows = []
    for profile in profiles:
        settings = yaml.safe_load((records.root() / "profiles" / f"{profile}.yaml").read_text())
        done = {file.stem for file in (records.results(profile) / "scores").glob("*.csv")}
        cells = {}
        for run in grid(settings["grid"]):
            cell = (profile, run.experiment, "+".join(run.base), "+".join(run.sources))
            cells.setdefault(cell, {}).setdefault(run.schema, []).append(run.name in done)
        for cell, schemas in cells.items():
            missing = not all(map(all, schemas.values()))
            counts = {name: f"{sum(seeds)} of {len(seeds)}" if any(seeds) else "not run"
                      for name, seeds in schemas.items()}  # fmt: skip
            names = dict(zip(("profile", "experiment", "base_source", "source"), cell, strict=True))
            rows.append(names | counts | {"needs": settings["needs"] * missing})
    table = pd.DataFrame(rows).fillna("")
    return table.assign(needs=table.pop("needs"))
