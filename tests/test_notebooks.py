"""What the notebooks promise of themselves; nbval executes them."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from study import runs

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_CELL = 15
TRAININGS = ("02", "03", "04")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, 4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook):
    return [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]


def test_all_are_there():
    expected = """
        00_quickstart 01_band_schemas 02_base_training 03_transfer_learning 04_multitask_learning 05_usdr_comparison
        06_listening 07_model_size 08_power 09_open_set
    """
    assert [path.stem for path in NOTEBOOKS] == expected.split()


def test_thin(notebook):
    for cell in code(notebook):
        assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.source
        assert not re.search(r"^\s*class |lambda", cell.source, re.MULTILINE), cell.source


def test_one_cell_of_literal_parameters(notebook):
    (cell,) = parameters(notebook)
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)


def test_executed_in_order_without_errors(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.get("data", {}) for output in outputs]
    assert all("image/png" in data for data in shown if "Figure" in data.get("text/plain", ""))  # not its name alone
    checked = [cell for cell in code(notebook) if cell.source.startswith("# NBVAL_CHECK_OUTPUT")]
    assert all(cell.outputs for cell in checked)


def test_ends_with_its_claims(notebook):
    assert "assert " in notebook.cells[-1].source
    assert any(cell.cell_type == "markdown" for cell in notebook.cells[:1])


def test_no_traces_of_a_machine(notebook):
    text = nbformat.writes(notebook)
    assert not re.search(r"/(home|root|tmp|Users|work)/", text)
    assert "papermill" not in notebook.metadata
    assert notebook.metadata.kernelspec.display_name == "Python 3 (ipykernel)"  # another is changed by JupyterLab
    assert not [cell for cell in notebook.cells if "papermill" in cell.metadata or "execution" in cell.metadata]
    assert not [output for cell in code(notebook) for output in cell.outputs if output.get("name") == "stderr"]


@pytest.mark.parametrize("number", TRAININGS)
def test_defaults_are_a_run_of_the_demo_profile(number, monkeypatch):
    monkeypatch.setenv("BSRNN_ROOT", str(ROOT))
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith(number))
    values = {}
    exec(parameters(nbformat.read(path, 4))[0].source, values)
    settings, listed = runs.load("demo")
    for name in ("profile", "dataset", "model_config", "training_config"):
        assert values[name] == settings[name]
    (run,) = (run for run in listed if run.name == values["run"])
    assert run.training == values["training_config"] and run.sources == tuple(values["sources"])
    for name in ("experiment", "schema", "learned", "seed"):
        assert getattr(run, name) == values[name]
    assert run.base_run == values.get("base_run", "")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml")))
def test_profiles_have_the_same_parameters(name):
    demo, other = (yaml.safe_load((ROOT / "profiles" / f"{stem}.yaml").read_text()) for stem in ("demo", name))
    assert other.keys() - {"apart", "package"} == demo.keys()
    assert other["profile"] == name
    assert other["claims"].keys() == other["questions"].keys()
    assert all(text.keys() == {"claim", "done", "doubt"} for text in other["claims"].values())
    assert other["model_config"].keys() == demo["model_config"].keys()
