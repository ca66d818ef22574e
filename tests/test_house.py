"""The rules of the house that can be checked: small packages, imports that go down only, one formatter."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST = {"bsrnn": (2_350, 3_900), "study": (600, 1_100)}  # statements without docstrings, and lines; never more
MOST_SKIPS = 20  # of the formatter, in the whole repository
HEAVY = {"IPython", "ipywidgets", "jupyterlab", "librosa", "matplotlib", "pandas", "papermill", "seaborn", "snakemake"}


def modules(package):
    return {f"{package}.{file.stem}": ast.parse(file.read_text()) for file in sorted((ROOT / package).glob("*.py"))}


def imported(tree):
    """Everything that a module imports, at its top or within a function, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(tree, names):
    """Which of the modules named a module imports."""
    return {name for name in names for found in imported(tree) if found == name or found.startswith(f"{name}.")}


def run_without(missing, code):
    """Run Python code as if these modules were not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(missing)})); {code}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("package", MOST)
def test_packages_stay_small(package):
    nodes = [node for tree in modules(package).values() for node in ast.walk(tree)]
    docstrings = sum(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in nodes)
    statements = sum(isinstance(node, ast.stmt) for node in nodes) - docstrings
    lines = sum(len(file.read_text().splitlines()) for file in (ROOT / package).glob("*.py"))
    assert (statements <= MOST[package][0], lines <= MOST[package][1]) == (True, True), (statements, lines)


def test_the_formatter_is_seldom_left_out():
    folders = ("bsrnn", "study", "tests", "benchmarks", "open-set", "notebooks")
    files = [file for folder in folders for ending in ("py", "ipynb") for file in (ROOT / folder).glob(f"*.{ending}")]
    assert sum(len(re.findall("# fmt: [so]", file.read_text())) for file in [*files, ROOT / "Snakefile"]) <= MOST_SKIPS


def test_imports_go_down_only():
    trees = modules("bsrnn")
    for name, tree in trees.items():
        packages = {found.split(".")[0] for found in imported(tree)}
        assert not packages & (HEAVY | {"study", "notebooks", "tests"}), name
    graph = {name: within(tree, trees) - {name} for name, tree in (trees | modules("study")).items()}
    order = list(TopologicalSorter(graph).static_order())  # raises where modules import one another in a circle
    assert not graph["bsrnn.config"] - {"bsrnn.bands"}
    assert order.index("bsrnn.model") < order.index("bsrnn.separate") < order.index("bsrnn.cli")


def test_the_package_needs_no_study():
    # but for training, where Lightning looks for matplotlib, and does without it where it is not installed
    names = ", ".join(modules("bsrnn").keys() - {"bsrnn.__init__", "bsrnn.train"})
    done = run_without(HEAVY | {"study"}, f"import {names}; from bsrnn import BSRNN, Config, Separator, band_schema")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["info", "paper-vocals"], ["info", "open"], ["models"]], ids=" ".join
)
def test_the_command_line_answers_without_torch(arguments):
    done = run_without({"torch", "lightning", "numpy"}, f"from bsrnn.cli import main; main({arguments})")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5


def test_the_hooks_have_the_version_of_the_lock():
    (version,) = re.findall(r"^(ruff==[\d.]+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert set(re.findall(r"ruff==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())) == {version}


def test_dependencies_are_what_the_package_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = {re.match(r"[\w-]+", line)[0].replace("pyyaml", "yaml") for line in project["dependencies"]}
    packages = {found.split(".")[0] for tree in modules("bsrnn").values() for found in imported(tree)}
    others = {"tensorboard", "musdb", "stempeg"}  # the first is of Lightning's logger
    assert "tensorboard" not in packages and listed == packages - sys.stdlib_module_names - {"bsrnn"} | others


def test_torch_and_torchaudio_are_of_one_release():
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    torch, torchaudio = (line for line in dependencies if line.startswith("torch"))
    assert torchaudio == torch.replace("torch", "torchaudio") and "<" in torch
