"""nbval executes the notebooks on a copy of the results, so that a test run leaves the committed ones alone."""

import os
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SCRATCH = REPOSITORY / "runs" / "nbval"

if "PYTEST_XDIST_WORKER" not in os.environ:  # once for all processes that share the tests
    shutil.rmtree(SCRATCH, ignore_errors=True)
    (SCRATCH / "runs").mkdir(parents=True)
    for folder in ("results", "profiles"):
        shutil.copytree(REPOSITORY / folder, SCRATCH / folder)
    (SCRATCH / "open-set").symlink_to(REPOSITORY / "open-set")
    (SCRATCH / "runs" / "demo-data").symlink_to(REPOSITORY / "runs" / "demo-data")
os.environ["BSRNN_ROOT"] = str(SCRATCH)
