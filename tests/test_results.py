import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from convert_results import convert
from matplotlib.figure import Figure
from safetensors.torch import load_file

from bsrnn import checkpoint
from bsrnn.config import Config
from bsrnn.evaluate import COLUMNS
from bsrnn.files import save_json, save_rows
from study import results, statistics
from study.runs import load

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = sorted(path.parent.name for path in (ROOT / "results").glob("*/summary.csv"))


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    return tmp_path


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def record(run, schema="v7", seed=0, **change):
    history = [{"epoch": i, "step": 10 * i + 10, "validation_usdr": x} for i, x in enumerate((None, 2.0, 1.0))]
    model = {"sources": ["drums"], "schema": schema, "sample_rate": 22_050, "chunk": 20.0}
    known = {"run": run, "experiment": "base", "learned": "drums", "base_run": "", "seed": seed, "parameters": 1234}
    known |= {"model": model, "training": {"batch_size": 3, "accumulate": 2, "portion": 0.5}, "history": history}
    known |= {"songs": {"train": 5, "validation": 1}, "bands": 34, "processes": 1, "seconds": 90.0, "data": "abc"}
    return known | {"hardware": "a computer", "threads": 2} | change


def rows(run, scores, source="drums", metric="uSDR"):
    fixed = {"run": run, "split": "test", "source": source, "metric": metric}
    return [{name: (fixed | {"track": f"00{i}", "value": x})[name] for name in COLUMNS} for i, x in enumerate(scores)]


def trained(profile, run, scores, **change):
    """A run that was trained and scored."""
    folder = results.working(profile, run)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "last.ckpt").write_bytes(b"large")
    save_json(folder / "record.json", record(run, **change))
    both = rows(run, scores) + rows(run, [*scores[:-1], np.nan], metric="cSDR")
    results.save_run(profile, run, both + rows(run, [-np.inf] * len(scores), metric="SI-SDR"))


BASELINE = [row for name, value in (("mixture", -3.0), ("silence", 0.0)) for row in rows(name, [value] * 8)]


@pytest.fixture
def study(root):
    """Three seeds in two schemas, as they lie under runs/ once trained; published."""
    for schema, level in (("v7", 2.0), ("generic", 4.0)):
        for seed in range(3):
            scores = level + 0.1 * seed + np.arange(8) / 10
            trained("demo", f"base-{schema}-drums-{seed}", scores.tolist(), schema=schema, seed=seed)
    save_rows(results.working("demo") / "scores" / "baseline.csv", BASELINE)
    for name in ("baseline.settings.json", ".baseline.csv.lock"):
        (results.working("demo") / "scores" / name).touch()
    (results.working("demo") / "figures").mkdir()
    (results.working("demo") / "figures" / "05_a.png").write_bytes(b"picture")
    (results.working("demo") / "figures" / "05_a.svg").write_bytes(b"picture")
    results.publish("demo")
    return root


def test_what_is_published(study):
    run = "base-v7-drums-0"
    found = files(study / "results" / "demo")
    assert [name for name in found if run in name] == [
        f"checkpoints/{run}/README.md",
        f"checkpoints/{run}/model.safetensors",
        f"runs/{run}.json",
        f"scores/{run}.csv",
    ]
    others = ["README.md", "comparisons.csv", "scores/baseline.csv", "summary.csv"]
    assert [name for name in found if "drums" not in name] == others
    assert files(study / "figures") == ["demo/05_a.png"]
    saved = json.loads((study / "results" / "demo" / "runs" / f"{run}.json").read_text())
    assert saved == record(run, profile="demo", scores={"test uSDR drums": 2.35, "test cSDR drums": 2.3})
    card = (results.checkpoint("demo", run) / "README.md").read_text()
    budget = "30 steps of 6 chunks of 20 s, 1.0 hours of mixtures, seed 0;\n  1.5 minutes on a computer (threads: 2)"
    told = (f"# {run}", "1,234 parameters, 34 bands (v7)", budget, "epoch 2 of 3", "| test | drums | 2.35 | 2.30 |")
    assert [text for text in told if text not in card] == []
    before = {name: (study / "results" / name).read_bytes() for name in files(study / "results")}
    results.publish("demo")
    assert before == {name: (study / "results" / name).read_bytes() for name in files(study / "results")}


def test_the_model_of_the_package_is_published_at_half_precision(study, tiny):
    settings = study / "profiles" / "demo.yaml"
    settings.write_text(f"{settings.read_text()}\npackage: base-generic-drums-1\n")
    model = tiny(["drums"])
    checkpoint.save(model, results.checkpoint("demo", "base-generic-drums-1", "runs"))
    results.publish("demo")
    weights, published = model.state_dict(), load_file(study / "bsrnn" / "open" / "model.safetensors")
    assert weights.keys() == published.keys()
    assert all(torch.equal(published[name], weights[name].half()) for name in weights)
    assert checkpoint.load(study / "bsrnn" / "open").config == model.config


MODELS = [*sorted((ROOT / "results").glob("*/checkpoints/*")), ROOT / "bsrnn" / "open"]


def test_the_models_in_the_repository_are_those_that_profiles_name():
    named = [(name, run) for name in PUBLISHED for run in load(name)[0]["models"]]
    assert sorted(named) == [(path.parts[-3], path.name) for path in MODELS[:-1]]
    assert sum(file.stat().st_size for path in MODELS for file in path.iterdir()) < 25 * 2**20
    settings, listed = load("open")
    (run,) = (run for run in listed if run.name == settings["package"])
    config = Config.read(MODELS[-1])
    assert (config.schema, config.sources) == (run.schema, run.sources)
    assert {name: getattr(config, name) for name in run.model} == run.model


@pytest.mark.parametrize("path", MODELS, ids=lambda path: f"{path.parts[-3]}-{path.name}")
def test_a_model_in_the_repository_loads_bit_for_bit(path):
    weights, model = load_file(path / "model.safetensors"), checkpoint.load(path).state_dict()
    assert weights.keys() == model.keys() and all(torch.equal(weights[name].float(), model[name]) for name in weights)


def test_scores_come_back_with_what_their_run_is(study):
    for folder in ("results", "runs"):
        table = results.load_scores("demo", folder)
        assert list(table) == [*COLUMNS, *results.IDENTITY] and len(table) == 6 * 24 + 16
        run = table[table["run"] == "base-generic-drums-2"]
        assert run.iloc[0].tolist()[-6:] == [4.2, "base", "generic", "drums", "", 2]
        assert run["track"].tolist()[:2] == ["000", "001"] and run["value"].isna().sum() == 1
        assert set(table.loc[table["experiment"] == "baseline", "run"]) == {"mixture", "silence"}
    runs = results.load_runs("demo")
    assert set(results.IDENTITY) | {"run", "source", "parameters", "portion", "history"} <= set(runs)
    assert (runs["source"] == "drums").all() and runs["history"][0] == record("")["history"]
    with pytest.raises(FileNotFoundError, match="run `make reproduce PROFILE=open` first"):
        results.load_scores("open")


def test_the_readme_of_a_profile_holds_its_tables(study):
    text = (study / "results" / "demo" / "README.md").read_text()
    assert "| base | drums | drums | 3 of 3 | 3 of 3 |" in text
    assert "| base | drums | drums | generic | 4.45 | 4.40 | 3 | 8 | 0.00 | 4.45 | base-generic-drums-{0,1,2} |" in text
    assert "| generic minus v7 | base | drums | drums | 4.45 | 2.45 | 2.00 |" in text and "nan" not in text
    assert "| multitask | drums+bass+other+vocals | drums+bass+other+vocals | 0 of 3 | 0 of 3 |" in text


def test_songs_that_a_profile_keeps_apart_take_no_part_in_the_answers(study):
    profile = study / "profiles" / "demo.yaml"
    profile.write_text(profile.read_text() + '\napart: ["007"]\n')
    scores, apart = results.load_test_scores("demo")
    assert set(apart["track"]) == {"007"} and len(scores) == 7 * len(apart)
    results.write_tables("demo")
    _, others = (study / "results" / "demo" / "README.md").read_text().split("## Every cell, on the songs")
    assert "| base | drums | drums | generic | 4.80 |  | 3 | 1 | 0.00 | 4.80 | base-generic-drums-{0,1,2} |" in others
    assert "| generic minus v7 | base | drums | drums | 4.40 | 2.40 | 2.00 |" in others


def test_a_rerun_that_agrees_and_one_that_does_not(study, capsys):
    results.main("compare", "demo")
    shown = capsys.readouterr().out
    assert re.search(r"drums of base-v7-drums-0 +2.35 +2.35 +0.00 +0.28 +agrees", shown)
    run = "base-generic-drums-1"
    for shift, agrees in ((0.27, True), (0.29, False)):  # the standard deviation over seeds is 0.1
        save_rows(results.working("demo") / "scores" / f"{run}.csv", rows(run, 4.1 + np.arange(8) / 10 + shift))
        table = results.compare("demo").set_index("cell")
        assert (table.loc[f"drums of {run}", "verdict"] == "agrees") == agrees
        assert (table.drop(f"drums of {run}")["verdict"] == "agrees").all()
    with pytest.raises(SystemExit, match=f"^demo: beyond what seeds make two runs differ by: drums of {run}$"):
        results.main("compare", "demo")
    published = study / "results" / "demo" / "scores"
    for schema, verdict in (("generic", "differs"), ("v7", "one seed")):  # of the other cell there are three seeds
        for other in ("0", "2"):
            (published / f"base-{schema}-drums-{other}.csv").unlink()
        assert results.compare("demo").set_index("cell").loc[f"drums of {run}", "verdict"] == verdict
    (study / "runs" / "demo" / "scores" / "base-v7-drums-2.csv").unlink()
    assert len(results.compare("demo")) == 5  # what was rerun


def test_old_results_are_converted(tmp_path):
    old = {"experiment": "transfer", "schema": "v7", "base_source": "drums", "source": "bass", "split": "test"}
    table = pd.DataFrame([{"run": "b", **old, "track": "01", "metric": "uSDR", "value": "1.50", "seed": 0}])
    (tmp_path / "scores").mkdir()
    table.to_csv(tmp_path / "scores" / "b.csv", index=False)
    for name, sources, base in (("a", ["drums", "other"], {}), ("b", ["bass"], {"base": "a"})):
        save_json(tmp_path / "runs" / f"{name}.json", {"run": name, "model": {"sources": sources}, **base})
    for _ in range(2):
        convert(tmp_path)
        assert (tmp_path / "scores" / "b.csv").read_text() == f"{','.join(COLUMNS)}\nb,test,01,bass,uSDR,1.50\n"
        first, second = (json.loads((tmp_path / "runs" / f"{name}.json").read_text()) for name in "ab")
        assert (first["learned"], first["base_run"]) == ("drums+other", "")
        assert (second["learned"], second["base_run"]) == ("drums+other", "a") and "base" not in second


@pytest.mark.parametrize("profile", PUBLISHED)
def test_the_published_tables_are_those_of_the_published_scores(profile, monkeypatch, tmp_path):
    folder = ROOT / "results" / profile
    for file in (folder / "scores").glob("*.csv"):
        assert file.read_text().startswith(",".join(COLUMNS) + "\n")
    records = {file.stem: json.loads(file.read_text()) for file in (folder / "runs").glob("*.json")}
    for name, known in records.items():
        base = records.get(known["base_run"], known)
        assert known["run"] == name and known["learned"] == "+".join(base["model"]["sources"])
        assert bool(known["base_run"]) == ("transfer" in known["experiment"])
    for part in ("scores", "runs"):
        shutil.copytree(folder / part, tmp_path / "results" / profile / part)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    results.write_tables(profile)
    for name in ("README.md", "summary.csv", "comparisons.csv"):
        assert (tmp_path / "results" / profile / name).read_text() == (folder / name).read_text(), name
    scores = results.load_test_scores(profile)[0].query("metric == 'uSDR'")
    means = scores.groupby([*statistics.CELL, "run"])["value"].mean()
    for row in pd.read_csv(folder / "summary.csv").itertuples():
        cell = means.loc[row.split, row.experiment, row.learned, row.source, row.schema]
        assert cell.mean() == pytest.approx(row.uSDR, abs=1e-4) and len(cell) == row.runs


def figure():
    figure = Figure(figsize=(2, 1))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1, 3, 2], clip_on=True, label="bass")
    axes.fill_between([0, 1, 2], [1, 3, 2], hatch="/")
    axes.legend()
    return figure


def test_figures_are_the_same_bytes_every_time_without_date_path_or_program(tmp_path, monkeypatch):
    seen = []
    for place, time in (("here", 0), ("there", 10**9)):
        monkeypatch.setenv("BSRNN_ROOT", str(tmp_path / place))
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(time))
        made = tmp_path / place / "runs" / "demo" / "figures"
        assert results.save_figure(figure(), "demo", "a") == made / "a.png"
        assert files(tmp_path / place) == ["runs/demo/figures/a.png", "runs/demo/figures/a.svg"]
        seen.append([(made / f"a.{suffix}").read_bytes() for suffix in ("png", "svg")])
    assert seen[0] == seen[1]
    png, svg = seen[0]
    assert not any(chunk in png for chunk in (b"tEXt", b"iTXt", b"zTXt", b"tIME"))
    assert not re.search(rb"20\d\d-\d\d", svg) and b"<dc:date" not in svg and b"Matplotlib v" not in svg
    assert str(tmp_path).encode() not in png + svg
    assert b">bass</text>" in svg  # text stays text
