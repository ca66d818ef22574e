"""Files that are written whole or not at all, and where a repository's own files lie."""

import csv
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, OWNED = ".lock", ".owned"  # of which the second tells that the first has been taken
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # or broken: what a disk can be


def root() -> Path:
    """The folder of the repository: $BSRNN_ROOT, else the nearest folder from here upwards that holds `profiles/`."""
    if folder := os.environ.get("BSRNN_ROOT"):  # first, as the current folder may be gone
        return Path(folder).resolve()
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "profiles").is_dir()), here)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a path to write to, of the same name; at the end the file appears at `path`, or not at all."""
    with written_together(path.parent) as folder:
        yield folder / path.name


@contextmanager
def _writable(folder: Path, remedy: str = "") -> Iterator[None]:
    """Make a folder if missing, for as long as something lies in it; say in one line, with a `remedy`, where nothing
    can be written to it, or it is none."""
    made = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:  # which has no name where a disk is full, or that of a file that is no more
        path, place = Path(error.filename2 or error.filename or folder).absolute(), folder.absolute()
        within = path.is_relative_to(place) or place.is_relative_to(path)
        if not within or not (error.filename or error.errno in FULL):
            raise
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise NotADirectoryError(f"{folder}: is a file, or lies in one, and no folder") from None
        raise OSError(f"{folder}: cannot be written to ({error.strerror}){remedy}") from None
    finally:
        for path in made:
            with suppress(OSError):  # as long as something lies there
                path.rmdir()


@contextmanager
def written_together(folder: Path) -> Iterator[Path]:
    """Yields a new folder to write to, and moves what is written to `folder`, made if missing, at the end; where
    anything goes wrong before, nothing appears. What a killed process left behind is removed. Raises OSError where
    nothing can be written to the folder, then or later, or a folder is in a file's place."""
    with _writable(folder):
        for owned in folder.glob(f".partial-*/{OWNED}"):  # nobody holds the lock of a process that is no more
            with suppress(OSError), FileLock(owned.with_name(LOCK), timeout=0):
                shutil.rmtree(owned.parent, ignore_errors=True)
        with (
            # another process may remove it too, in the moment after the lock's end
            tempfile.TemporaryDirectory(dir=folder, prefix=".partial-", ignore_cleanup_errors=True) as partial,
            FileLock(Path(partial, LOCK)),
        ):
            Path(partial, OWNED).touch()
            yield Path(partial)
            files = sorted(file for file in Path(partial).iterdir() if file.name not in (LOCK, OWNED))
            for file in files:
                if (folder / file.name).is_dir():
                    raise IsADirectoryError(f"{folder / file.name}: is a folder, and in the way of a file")
            for file in files:
                os.replace(file, folder / file.name)


@contextmanager
def locked(file: Path, refusal: str, remedy: str = "") -> Iterator[None]:
    """Keep other processes out; the lock ends with the process, however that ends. Raises ValueError, which says the
    `refusal`, where another has it, and OSError, with the `remedy`, where nothing can be written to its folder."""
    with _writable(file.parent, remedy):
        try:
            with FileLock(file, timeout=0):
                yield
        except Timeout:
            raise ValueError(refusal) from None


def save_json(path: Path, content: Mapping) -> None:
    """Write a mapping as indented JSON: infinity, which that has not, as a number that is read as such, NaN as null."""
    with written_whole(path) as partial:
        text = re.sub(r"\bInfinity(?=,?$)", "1e999", json.dumps(content, indent=2), flags=re.MULTILINE)
        partial.write_text(re.sub(r"\bNaN(?=,?$)", "null", text, flags=re.MULTILINE) + "\n")  # texts end with a "


def save_rows(path: Path, rows: Sequence[Mapping]) -> Path:
    """Write rows of the same columns, at least one, as CSV: floats with 4 decimals, in which reruns agree, and NaN as
    nothing."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(rows[0])
        cells = ([f"{x:.4f}".replace("nan", "") if isinstance(x, float) else x for x in row.values()] for row in rows)
        table.writerows(cells)
    return path


def check_same(before: Mapping, now: Mapping, subject: str, remedy: str, group: str = "") -> None:
    """Raises ValueError where settings that a result depends on, nested or not, differ from those of the `subject` that
    is there; the `remedy` is what else the user can do than remove it. Of nested ones, `group.` comes before names."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            check_same(old, new, subject, remedy, f"{group}{name}.")
        elif old != new:
            raise ValueError(f"{subject} with other settings ({group}{name}: {old}, now {new}): remove it or {remedy}")
