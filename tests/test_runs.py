import pytest
import yaml
from bsrnn.study import PROFILES, Run, coverage, grid, training

from bsrnn import records
from bsrnn.config import Config, TrainingConfig

SETTINGS = {
    "schemas": ["v7", "generic"], "seeds": [0, 1], "base": ["drums", "bass"], "multitask": ["drums+bass+other"],
    "transfer": {"drums": "bass+vocals", "drums+bass+other": "vocals"}, "transfer_training": {}, "scratch": ["vocals"],
    "more_schemas": ["joint"], "longer": {"bass": {}, "bass+drums": {}},
    "longer_transfer": {"bass+drums": {"drums": {}}},
}  # fmt: skip


def test_every_cell_in_every_schema_with_every_seed():
    runs = grid(SETTINGS)
    assert len(set(runs)) == len(runs) == 2 * 2 * (2 + 1 + 2 + 1) + 2 + 2 + 1
    names = {run.name for run in runs if run.schema != "v7" and run.seed == 1}
    assert names == {
        "base-generic-drums-1", "base-generic-bass-1", "scratch-generic-vocals-1", "base-joint-drums-1",
        "multitask-generic-drums+bass+other-1", "transfer-generic-drums-bass+vocals-1",
        "transfer-generic-drums+bass+other-vocals-1",
    }  # fmt: skip


def test_what_is_compared_with_a_transfer_is_trained_as_long():
    settings = {"training_config": {"lr": 1, "max_epochs": 8}, "grid": {
        "transfer_training": {"max_epochs": 2}, "longer": {"bass": {"max_epochs": 32}},
        "longer_transfer": {"drums+other": {"bass": {"max_epochs": 4}}},
    }}  # fmt: skip
    epochs = {"base": 8, "multitask": 8, "transfer": 2, "scratch": 2, "longer": 32, "longer_transfer": 4}
    for name, count in epochs.items():
        base = ("drums", "other") if "transfer" in name else ()
        assert training(settings, Run(name, "v7", ("bass",), 0, base)) == {"lr": 1, "max_epochs": count}


def test_the_base_of_a_transfer():
    runs = grid(SETTINGS)
    bases = {run.base_run.name for run in runs if run.experiment == "transfer" and run.schema == "v7"}
    assert bases == {f"{name}-{seed}" for name in ("base-v7-drums", "multitask-v7-drums+bass+other") for seed in (0, 1)}
    assert Run("transfer", "v7", ("bass",), 0, ("drums",)).base_run in runs
    (longer,) = (run for run in runs if run.experiment == "longer_transfer")
    assert longer.name == "longer_transfer-generic-bass+drums-drums-0"
    assert longer.base_run.name == "longer-generic-bass+drums-0"


@pytest.mark.parametrize(("change", "message"), [
    ({"transfer": {"vocals": "bass"}}, "transfer-v7-vocals-bass-0 needs base-v7-vocals-0, which the grid has not"),
    ({"transfer": {"drums+vocals": "bass"}}, "needs multitask-v7-drums.vocals-0, which the grid has not"),
    ({"longer": {"drums": None}}, "is named with what differs in it"),
    ({"longer_transfer": {"bass": "drums"}}, "is named with what differs in it"),
    ({"longer_transfer": {"vocals": {"bass": {}}}}, "needs longer-generic-vocals-0, which the grid has not"),
    ({"scratch": ["drums+bass"]}, "scratch lists single sources, not drums.bass"),
    ({"base": ["drums", "lead-vocals"]}, "a source's name has none: lead-vocals"),
    ({"sctratch": ["bass"]}, "unknown 'sctratch'; it may have schemas, seeds"),
])  # fmt: skip
def test_a_grid_that_cannot_be_run(change, message):
    with pytest.raises(ValueError, match=message):
        grid(SETTINGS | change)


def test_coverage_tells_what_has_scores_and_what_the_rest_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    profile = {"grid": SETTINGS, "needs": "patience"}
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "a.yaml").write_text(yaml.safe_dump(profile))
    scores = records.results("a") / "scores"
    scores.mkdir(parents=True)
    for name in ("baseline", "base-v7-drums-0", "base-v7-drums-1", "base-generic-drums-1", "base-joint-drums-0",
                 "base-joint-drums-1", "transfer-v7-drums-bass+vocals-0", "base-v7-drums-9"):  # fmt: skip
        (scores / f"{name}.csv").touch()
    table = coverage(["a"]).set_index(["experiment", "base_source", "source"])
    assert list(table) == ["profile", "v7", "generic", "joint", "needs"]
    assert table.loc[("base", "", "drums")].tolist() == ["a", "2 of 2", "1 of 2", "2 of 2", "patience"]
    assert table.loc[("base", "", "bass")].tolist() == ["a", "not run", "not run", "", "patience"]
    assert table.loc[("transfer", "drums", "bass+vocals")].tolist() == ["a", "1 of 2", "not run", "", "patience"]
    (scores / "base-generic-drums-0.csv").touch()
    assert coverage(["a"]).set_index(["experiment", "source"]).loc[("base", "drums"), "needs"] == ""


def test_the_profiles_can_be_run():
    for profile in PROFILES:
        settings = yaml.safe_load((records.root() / "profiles" / f"{profile}.yaml").read_text())
        for run in grid(settings["grid"]):
            TrainingConfig(**training(settings, run))
            assert Config(run.sources, run.schema, **settings["model_config"]).bins()


def test_a_grid_may_be_small():
    assert [run.name for run in grid({"schemas": ["v7"], "seeds": [3], "base": ["bass"]})] == ["base-v7-bass-3"]
