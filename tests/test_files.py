import subprocess
import sys

import pytest

from bsrnn import files

KILLED = """
import os, signal, sys
from pathlib import Path
from bsrnn.files import written_together

with written_together(Path(sys.argv[1])) as partial:
    (partial / "a").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_appear_together_or_not_at_all(tmp_path):
    folder = tmp_path / "new" / "folder"
    with pytest.raises(ZeroDivisionError), files.written_together(folder) as partial:
        (partial / "a").write_text("half")
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    with files.written_together(folder) as partial:
        for name in ("a", "b"):
            (partial / name).write_text(name)
        assert sorted(path.name for path in folder.iterdir()) == [partial.name]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert len(list(tmp_path.glob(".partial-*"))) == 1
    with files.written_whole(tmp_path / "a") as partial:
        partial.write_text("whole")
        with files.written_whole(tmp_path / "b") as other:  # which leaves what is being written alone
            other.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_rows_are_written_with_four_decimals(tmp_path):
    rows = [{"name": "a, b", "count": 3, "value": 1 / 3}, {"name": "c", "count": 4, "value": float("nan")}]
    assert files.save_rows(tmp_path / "rows.csv", rows).read_text() == 'name,count,value\n"a, b",3,0.3333\nc,4,\n'


def test_settings_that_differ_are_named_with_their_place():
    before, now = {"model": {"sources": ["a"], "n_fft": 512}, "seed": 0}, {"model": {"sources": ["a"], "n_fft": 256}}
    files.check_same(before, before, "a run", "choose another")
    with pytest.raises(ValueError, match=r"^a run with other settings \(model.n_fft: 512, now 256\): remove it"):
        files.check_same(before, now | {"seed": 0}, "a run", "choose another")
    with pytest.raises(ValueError, match=r"\(seed: 0, now None\)"):
        files.check_same(before, before | {"seed": None}, "a run", "choose another")


def test_a_lock_refuses_a_second_process_and_ends_with_the_first(tmp_path):
    with files.locked(tmp_path / "lock", "taken"):
        code = f"from bsrnn.files import locked\nwith locked({str(tmp_path / 'lock')!r}, 'taken'): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stderr.endswith("ValueError: taken\n")
    with files.locked(tmp_path / "lock", "taken"):
        pass
