from pathlib import Path

import pytest
import yaml

from study import runs

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "schemas": ["v7", "generic"],
    "seeds": [0, 1],
    "model_config": {"n_fft": 512},
    "training_config": {"lr": 0.1, "max_epochs": 8},
    "runs": {
        "base-{schema}-drums-{seed}": {"experiment": "base", "sources": ["drums"]},
        "base-joint-drums-{seed}": {"experiment": "base", "schema": "joint", "sources": ["drums"]},
        "multitask-{schema}-drums+bass-{seed}": {"experiment": "multitask", "sources": ["drums", "bass"]},
        "transfer-{schema}-{seed}": {
            "experiment": "transfer",
            "base_run": "multitask-{schema}-drums+bass-{seed}",
            "sources": ["vocals"],
            "training": {"max_epochs": 2},
        },
        "longer": {"experiment": "longer", "schema": "v7", "seed": 7, "sources": ["bass"], "training": {"lr": 0.2}},
    },
}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a profile that has these settings, and these runs besides."""
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    (tmp_path / "profiles").mkdir()

    def load(more=(), **options):
        settings = SETTINGS | {"runs": SETTINGS["runs"] | dict(more)}
        (tmp_path / "profiles" / "mine.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        return runs.load("mine", **options)[1]

    return load


def test_a_name_stands_for_a_run_per_schema_and_seed(load):
    found = {run.name: run for run in load()}
    assert len(found) == 4 + 2 + 4 + 4 + 1 and next(iter(found)) == "base-v7-drums-0"
    run = found["transfer-generic-1"]
    assert (run.experiment, run.schema, run.seed, run.sources) == ("transfer", "generic", 1, ("vocals",))
    assert (run.base_run, run.learned) == ("multitask-generic-drums+bass-1", "drums+bass")
    assert run.training == {"lr": 0.1, "max_epochs": 2}
    assert (found["base-joint-drums-1"].schema, found["base-joint-drums-1"].learned) == ("joint", "drums")
    assert (found["longer"].seed, found["longer"].training["lr"], found["longer"].base_run) == (7, 0.2, "")
    assert {run.seed for run in load(seeds=[5]) if run.name != "longer"} == {5}
    assert [run.name for run in load(entry(gpu=True)) if run.gpu] == ["one"]


def entry(**change):
    return {"one": {"experiment": "base", "schema": "v7", "seed": 0, "sources": ["bass"]} | change}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"one": {"experiment": "base"}}, "one: 'sources' is unknown or missing"),
        (entry(trainning={}), "one: 'trainning' is unknown or missing"),
        (entry(schema=None), "one: has no schema or seed"),
        (entry(base_run="base-v7-bass-0"), "one: .*stands before its base"),
        (entry(sources=["drums"]), "one: differs from base-v7-drums-0 by name alone"),
        (entry(training={"max_epochs": "4"}), "max_epochs must be of type int"),
        (entry(schema="v9"), "v9"),
    ],
)
def test_a_profile_that_cannot_be_run(load, more, message):
    with pytest.raises(ValueError, match=message) as raised:
        load(more)
    assert "\n" not in str(raised.value)


def test_no_profile(load):
    load()
    with pytest.raises(FileNotFoundError, match="no profile 'yours': choose from mine"):
        runs.load("yours")


@pytest.mark.parametrize(
    ("profile", "count"), [("demo", 18), ("open-1", 76), ("open", 111), ("musdb", 18), ("large", 18)]
)
def test_the_profiles_list_the_runs_that_are_published(profile, count, monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(ROOT))
    listed = {run.name for run in runs.load(profile)[1]}
    published = {file.stem for file in (ROOT / "results" / profile / "runs").glob("*.json")}
    assert len(listed) == count
    assert listed == published or (profile != "open-1" and published < listed)
