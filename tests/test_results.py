import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from bsrnn import records


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    return tmp_path


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def scores(run="a", value=(1.23456, np.nan), **columns):
    defaults = {"run": run, "experiment": "base", "schema": "v7", "base_source": "", "source": "bass", "split": "test",
                "track": ["NA", "007"], "metric": "uSDR", "value": value, "seed": 0}  # fmt: skip
    return pd.DataFrame(defaults | columns)[list(records.SCORE_COLUMNS)]


# where it lies


def test_root_is_set_or_found(tmp_path, monkeypatch):
    (tmp_path / "repository" / "profiles").mkdir(parents=True)
    inner = tmp_path / "repository" / "notebooks" / "deeper"
    inner.mkdir(parents=True)
    monkeypatch.delenv("BSRNN_ROOT", raising=False)
    monkeypatch.chdir(inner)
    assert records.root() == tmp_path / "repository"
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    assert records.root() == tmp_path
    assert records.checkpoint("demo", "run") == tmp_path / "results" / "demo" / "checkpoints" / "run"
    assert records.working("demo", "run") == tmp_path / "runs" / "demo" / "run"


@pytest.mark.parametrize(("arguments", "name"), [
    (("base", "generic", ["drums"], 0), "base-generic-drums-0"),
    (("transfer", "v7", ["bass"], 0, "drums"), "transfer-v7-drums-bass-0"),
    (("multitask", "generic", ("drums", "bass"), 12), "multitask-generic-drums+bass-12"),
    (("transfer", "v7", ["bass", "other"], 1, "drums+vocals"), "transfer-v7-drums+vocals-bass+other-1"),
])  # fmt: skip
def test_run_names(arguments, name):
    assert records.run_name(*arguments) == name


# whole or not at all


def test_written_whole_replaces_the_file_at_the_end(tmp_path):
    file = tmp_path / "new" / "a.txt"
    for text in ("old", "new"):
        with records.written_whole(file) as partial:
            assert partial.suffix == ".txt"
            assert partial.parent.parent == file.parent  # on the same disk
            partial.write_text(text)
            assert not file.exists() or file.read_text() == "old"
        assert file.read_text() == text
    assert files(tmp_path) == ["new/a.txt"]


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    for error in (OSError("disk full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), records.written_whole(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise error
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.save_json(tmp_path / "a.txt", {"value": float("nan")})
    with pytest.raises(TypeError):
        records.save_json(tmp_path / "b.json", {"value": object()})
    assert files(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


# tables


def test_scores_come_back_as_they_were(root):
    for run in ("b", "a"):
        records.save_scores("demo", run, scores(run).assign(extra="not a column"))
    found = records.load_scores("demo")
    expected = pd.concat([scores("a", (1.2346, np.nan)), scores("b", (1.2346, np.nan))], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert found["track"].tolist() == ["NA", "007"] * 2
    assert found["base_source"].tolist() == [""] * 4
    assert found["value"].dtype == float


def test_saving_twice_gives_the_same_bytes(root):
    records.save_scores("demo", "a", scores())
    before = (root / "results/demo/scores/a.csv").read_bytes()
    records.save_scores("demo", "a", records.load_scores("demo"))
    assert (root / "results/demo/scores/a.csv").read_bytes() == before
    assert b"\r" not in before


def test_no_scores(root):
    with pytest.raises(FileNotFoundError, match="run `make reproduce PROFILE=demo` first"):
        records.load_scores("demo")


RECORD = {
    "run": "base-v7-bass-0", "seed": 0, "parameters": 1234, "bands": 34, "processes": 1, "seconds": 90.0, "data": "abc",
    "model": {"sources": ["bass"], "schema": "v7", "sample_rate": 22_050, "chunk": 20.0}, "hardware": "a computer",
    "training": {"batch_size": 3, "accumulate": 2}, "songs": {"train": 5, "validation": 1}, "threads": 2,
    "history": [{"epoch": i, "step": 10 * i + 10, "validation_usdr": x} for i, x in enumerate((None, 2.0, 1.0))],
}  # fmt: skip


def test_publish(root):
    folder = root / "runs" / "demo" / "base-v7-bass-0"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "last.ckpt").write_bytes(b"large")
    records.save_json(folder / "record.json", RECORD)
    rows = pd.concat([scores(folder.name, (1.0, 2.00004)), scores(folder.name, (np.nan, 5.0), metric="cSDR"),
                      scores(folder.name, (-np.inf, 5.0), metric="SI-SDR"),
                      scores(folder.name, (np.nan, np.nan), source="drums")])  # fmt: skip
    records.publish(folder, "demo", rows)
    assert files(root / "results") == [
        "demo/checkpoints/base-v7-bass-0/README.md", "demo/checkpoints/base-v7-bass-0/config.json",
        "demo/checkpoints/base-v7-bass-0/model.safetensors",
        "demo/runs/base-v7-bass-0.json", "demo/scores/base-v7-bass-0.csv",
    ]  # fmt: skip
    record = json.loads((root / "results/demo/runs/base-v7-bass-0.json").read_text())
    assert record == RECORD | {"profile": "demo", "scores": {"test uSDR bass": 1.5, "test cSDR bass": 5.0}}
    card = (records.checkpoint("demo", folder.name) / "README.md").read_text()
    for text in ("# base-v7-bass-0", "estimates bass of a song: 1,234 parameters,\n34 bands (v7), 22,050 Hz",
                 "30 steps of 6 chunks of 20 s, 1.0 hours of mixtures,\n  seed 0", "epoch 2 of 3",
                 "| test | bass | 1.50 | -inf | 5.00 | 2 |"):  # fmt: skip
        assert text in card
    assert (records.checkpoint("demo", folder.name) / "model.safetensors").read_bytes() == b"weights"
    assert len(records.load_scores("demo")) == 8


@pytest.mark.parametrize(("base", "expected"), [
    ({}, ""), ({"base": "base-v7-drums-0"}, "drums"), ({"base": "another"}, ""),
    ({"base": "multitask-generic-24-41-drums+other-12"}, "drums+other"),
])  # fmt: skip
def test_runs_are_loaded_as_a_table(root, base, expected):
    model = RECORD["model"] | {"sources": ["bass", "vocals"]}
    record = RECORD | {"experiment": "transfer", "model": model, "training": {"portion": 0.5}} | base
    records.save_json(records.results("demo") / "runs" / "b.json", record)
    (row,) = records.load_runs("demo").to_dict("records")
    assert (row["source"], row["base_source"], row["schema"], row["portion"]) == ("bass+vocals", expected, "v7", 0.5)
    assert (row["run"], row["experiment"], row["seed"], row["parameters"]) == ("base-v7-bass-0", "transfer", 0, 1234)
    assert row["history"] == RECORD["history"]
    assert records.load_runs("nothing").empty


README = """# Title
<!-- first -->
| old |
<!-- /first -->
between
<!-- second -->
<!-- /second -->
end
"""


def test_readme_table_replaces_only_its_block(root):
    table = pd.DataFrame({"source": ["bass"], "uSDR": [1.239], "runs": [3]})
    block = "| source | uSDR | runs |\n| --- | --- | --- |\n| bass | 1.24 | 3 |\n"
    (root / "README.md").write_text(README)
    records.readme_table("second", table)
    assert (root / "README.md").read_text() == README.replace("<!-- /second -->", block + "<!-- /second -->")
    records.readme_table("first", table)
    once = (root / "README.md").read_text()
    assert once.count(block) == 2
    assert "| old |" not in once
    records.readme_table("first", table)
    assert (root / "README.md").read_text() == once


def test_readme_without_the_block_is_left_alone(root):
    table = pd.DataFrame({"a": [1]})
    records.readme_table("third", table)
    assert files(root) == []
    for text in (README, "<!-- third -->\nno end\n", "no start\n<!-- /third -->\n"):
        (root / "README.md").write_text(text)
        records.readme_table("third", table)
        assert (root / "README.md").read_text() == text


# figures


def figure():
    figure = Figure(figsize=(2, 1))
    axes = figure.subplots()
    axes.plot([0, 1, 2], [1, 3, 2], clip_on=True, label="bass")
    axes.fill_between([0, 1, 2], [1, 3, 2], hatch="/")
    axes.legend()
    return figure


def test_figures_are_the_same_bytes_every_time(tmp_path, monkeypatch):
    seen = []
    for place, time in (("here", 0), ("there", 10**9)):
        monkeypatch.setenv("BSRNN_ROOT", str(tmp_path / place))
        monkeypatch.setenv("SOURCE_DATE_EPOCH", str(time))
        assert records.save_figure(figure(), "demo", "a") == tmp_path / place / "figures" / "demo" / "a.png"
        assert files(tmp_path / place) == ["figures/demo/a.png", "figures/demo/a.svg"]
        seen.append([(tmp_path / place / "figures" / "demo" / f"a.{suffix}").read_bytes() for suffix in ("png", "svg")])
    assert seen[0] == seen[1]


def test_figures_hold_no_date_path_or_program(root, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    records.save_figure(figure(), "demo", "a")
    png, svg = ((root / "figures" / "demo" / f"a.{suffix}").read_bytes() for suffix in ("png", "svg"))
    assert not any(kind in png for kind in (b"tEXt", b"iTXt", b"zTXt", b"tIME"))
    assert not re.search(rb"20\d\d-\d\d", svg)
    assert b"<dc:date" not in svg
    assert b"Matplotlib v" not in svg
    assert str(root).encode() not in png + svg
    assert b">bass</text>" in svg  # text stays text


# provenance


def test_provenance_is_json_and_complete(root):
    found = json.loads(json.dumps(records.provenance(torch.device("cpu"))))
    assert found["commit"] is None  # no git checkout here
    assert set(found["libraries"]) == set(records.LIBRARIES)
    assert all(found[name] for name in ("code", "python", "hardware"))
