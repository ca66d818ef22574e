import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

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


def test_a_folder_whose_process_is_about_to_lock_it_is_left_alone(tmp_path):
    (tmp_path / ".partial-a").mkdir()
    (tmp_path / ".partial-a" / files.LOCK).touch()
    with files.written_whole(tmp_path / "b") as partial:
        partial.write_text("whole")
    assert (tmp_path / ".partial-a" / files.LOCK).is_file()


def test_several_write_to_one_folder_at_once(tmp_path):
    def write(name):
        for _ in range(50):
            with files.written_whole(tmp_path / name) as partial:
                partial.write_text(name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("locked", [False, True])
def test_what_a_full_disk_says_gets_the_folder(tmp_path, monkeypatch, locked):
    monkeypatch.chdir(tmp_path)
    folder, cause = files.Path("new"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for named in (cause, OSError(*cause.args, "other", None, str(tmp_path / "new" / ".partial-a" / "b"))):
        context = files.locked(folder / "lock", "", ": make room") if locked else files.written_together(folder)
        with pytest.raises(OSError) as error, context:
            raise named
        assert str(error.value) == "new: cannot be written to (No space left on device)" + ": make room" * locked
    assert folder.exists() == locked


@pytest.mark.parametrize(
    "cause",
    [
        OSError("said already"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/song.wav"),
    ],
)
def test_what_is_wrong_elsewhere_is_not_said_of_the_folder(tmp_path, cause):
    with pytest.raises(OSError) as error, files.written_together(tmp_path):
        raise cause
    assert error.value is cause


def test_infinity_is_a_number_in_json(tmp_path):
    infinity = float("inf")
    content = {"to Infinity": infinity, "list": [-infinity, 1.0, infinity], "text": "is Infinity", "nan": None}
    files.save_json(tmp_path / "a.json", content | {"nan": float("nan")})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == content and json.loads(text, parse_constant=lambda name: pytest.fail(name))


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
        code = f"from bsrnn.files import *\nwith locked(Path({str(tmp_path / 'lock')!r}), 'taken'): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stderr.endswith("ValueError: taken\n")
    with files.locked(tmp_path / "lock", "taken"):
        pass


def test_a_lock_that_cannot_be_made_says_what_to_do(tmp_path, monkeypatch):
    def read_only(path, **_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(files.Path, "mkdir", read_only)
    with pytest.raises(OSError) as error, files.locked(tmp_path / "new" / ".lock", "taken", ": choose another"):
        pass
    assert str(error.value) == f"{tmp_path / 'new'}: cannot be written to (Read-only file system): choose another"


def test_the_root_that_is_named_needs_no_current_folder(tmp_path, monkeypatch):
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    gone.rmdir()
    assert files.root() == tmp_path
