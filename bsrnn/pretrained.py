"""Published models by name: fetched once, verified, converted, and kept in a cache folder; from then on offline.

The weights are those of Magron, Serizel & Douwes, "The Costs of Reproducibility in Music Separation Research: a
Replication of Band-Split RNN", arXiv 2603.09187. Sizes and MD5 sums are as third parties report them.
"""

import errno
import hashlib
import os
import shutil
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import platformdirs
from filelock import FileLock, Timeout
from tqdm import tqdm

from bsrnn.config import CONFIGS, costs

ADDRESS = "https://zenodo.org/api/records/17516442/files/{}/content"  # $BSRNN_PRETRAINED_URL may name another
LICENCE = "CC BY 4.0 as two third parties read it, not stated as another does: see zenodo.org/records/17516442"
CITATION = (
    "Magron, Serizel & Douwes, The Costs of Reproducibility in Music Separation Research: a Replication of Band-Split "
    "RNN, arXiv 2603.09187; trained on MUSDB18-HQ"
)
BYTES_OF_CHECKPOINT, BYTES_OF_MODEL = 12, 4  # per parameter: with the state of its optimizer, and alone
BLOCK = 2**20  # bytes


@dataclass(frozen=True)
class Archive:
    """A published file, and the models in it."""

    file: str
    size: int  # bytes
    md5: str
    checkpoints: Mapping[
        str, str
    ]  # names of models in `CONFIGS`, which say their heads' order, to files in the archive
    scores: Mapping[str, float]  # cSDR in dB on MUSDB18-HQ's test songs, as published, by source

    def parameters(self, model: str) -> int:
        """How many one of its models has."""
        return sum(cost.parameters for cost in costs(CONFIGS[model]))


def _of_targets(name: str) -> dict[str, str]:
    return {f"{name}-{source}": f"{source}.ckpt" for source in ("vocals", "bass", "drums", "other")}


def _scores(*values: float) -> dict[str, float]:
    return dict(zip(("vocals", "bass", "drums", "other", "mean"), values, strict=True))


ARCHIVES = {
    "obsrnn-simo": Archive(
        "simo-bsrnn-opt.zip",
        1_213_413_202,
        "817e8ce4bcd17c38bd3812167e97db58",
        {"obsrnn-simo": "separator.ckpt"},
        _scores(10.66, 9.73, 10.98, 7.78, 9.79),
    ),
    "obsrnn": Archive(
        "bsrnn-opt.zip",
        1_827_060_285,
        "89075aac776f82295a074a56d0428a18",
        _of_targets("obsrnn"),
        _scores(9.81, 9.85, 10.31, 6.31, 9.07),
    ),
    "bsrnn-large": Archive(
        "bsrnn-large.zip",
        1_627_580_581,
        "0d1e298e725bf45577a4f61e0a30c2b1",
        _of_targets("bsrnn-large"),
        _scores(9.14, 7.72, 8.07, 5.68, 7.65),
    ),
}


def cache() -> Path:
    """The folder that keeps the models: $BSRNN_CACHE, or the platform's place for such files."""
    return Path(os.environ.get("BSRNN_CACHE") or platformdirs.user_cache_dir("bsrnn"))


def models(name: str | os.PathLike) -> list[str]:
    """The models that a name means: itself, all those of an archive, or none where it is no such name."""
    name = os.fspath(name)
    if name in ARCHIVES:
        return list(ARCHIVES[name].checkpoints)
    return [name] if any(name in archive.checkpoints for archive in ARCHIVES.values()) else []


def folders(path: str | os.PathLike) -> list[Path]:
    """Where models lie: the path itself, or, where nothing is there and it is a published name, folders in the cache,
    to which they are fetched if need be.

    Raises:
        OSError, ValueError: they cannot be fetched, or are not what was published; see `fetch`.
    """
    names = [] if os.path.exists(path) else models(path)
    for archive in ARCHIVES.values():
        if any(name in archive.checkpoints and not (cache() / name).is_dir() for name in names):
            fetch(archive)
    return [cache() / name for name in names] or [Path(path)]


def fetch(archive: Archive) -> None:
    """Fetch an archive, verify it, convert the models in it to folders in the cache, and remove it.

    A download that broke off or was interrupted goes on the next time. After any other failure nothing is left of it.

    Raises:
        OSError: there is no room or no connection.
        ValueError: it is not the published file, or not what that should hold; or another process is fetching.
    """
    folder = cache()
    part = folder / f"{archive.file}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            _check_space(archive, part)
            _download(archive, part)
            try:
                _check_sum(archive, part)
                _convert(archive, part)
            except (OSError, ValueError):
                part.unlink()
                raise
            part.unlink()
    except Timeout:
        raise ValueError(f"{folder}: another process is fetching models: wait for it") from None
    print(f"weights by {CITATION}; licence: {LICENCE}", file=sys.stderr)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _check_space(archive: Archive, part: Path) -> None:
    """See that there is room for the archive, one checkpoint from it, and all its models."""
    sizes = [archive.parameters(model) for model in archive.checkpoints]
    needed = archive.size - _size(part) + BYTES_OF_CHECKPOINT * max(sizes) + BYTES_OF_MODEL * sum(sizes)
    if (free := shutil.disk_usage(part.parent).free) < needed:
        sizes = f"{needed / 1e9:.1f} GB, of which {BYTES_OF_MODEL * sum(sizes) / 1e9:.1f} GB stay"
        raise OSError(
            f"{part.parent}: fetching {archive.file} takes {sizes}, and {free / 1e9:.1f} GB are free: make "
            "room, or set BSRNN_CACHE to another folder"
        )


def _download(archive: Archive, part: Path) -> None:
    """Fetch what is missing of an archive, in as many requests as it takes while each brings something."""
    address = os.environ.get("BSRNN_PRETRAINED_URL", ADDRESS).format(archive.file)
    with tqdm(total=archive.size, desc=archive.file, unit="B", unit_scale=True, disable=None) as bar:
        while (before := _size(part)) < archive.size:
            reason = "the connection broke off"
            try:
                _append(address, part, archive.size, bar)
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    part.unlink()
                    raise OSError(f"{part}: no space left: make room, or set BSRNN_CACHE to another folder") from None
                reason = error
            if (there := _size(part)) <= before:
                raise ConnectionError(
                    f"{address}: cannot be fetched ({reason}); {there:,} of {archive.size:,} bytes are "
                    "there, and the same command goes on after them"
                )


def _append(address: str, part: Path, size: int, bar: tqdm) -> None:
    """Fetch from an address what a file lacks of its size, until the connection ends."""
    have = _size(part)
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        have = have if answer.status == 206 else 0  # a server without ranges sends all of it
        with part.open("ab" if have else "wb") as file:
            bar.n = have
            while block := answer.read1(min(BLOCK, size - bar.n)):
                file.write(block)
                bar.update(len(block))


def _check_sum(archive: Archive, file: Path) -> None:
    with file.open("rb") as content:
        found = hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        raise ValueError(f"{archive.file} came with the MD5 sum {found}, not {archive.md5}: not used, and removed")


def _convert(archive: Archive, file: Path) -> None:
    """Put all models of an archive into the cache, or none."""
    from bsrnn import checkpoint

    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".partial-") as partial, zipfile.ZipFile(file) as content:
        for model, name in archive.checkpoints.items():
            members = [member for member in content.namelist() if PurePosixPath(member).name == name]
            if len(members) != 1:
                raise ValueError(f"{archive.file} holds {len(members)} files named {name}, not one")
            extracted = Path(partial, name)
            with content.open(members[0]) as source, extracted.open("wb") as target:
                shutil.copyfileobj(source, target, BLOCK)
            converted = checkpoint.convert(extracted, CONFIGS[model].sources)
            if converted.config != CONFIGS[model]:
                raise ValueError(f"{name} in {archive.file} is not {model}: it is {converted.config}")
            checkpoint.save(converted, Path(partial, model))
            extracted.unlink()
        for model in archive.checkpoints:
            if not (file.parent / model).is_dir():
                os.replace(Path(partial, model), file.parent / model)


def table() -> str:
    """What there is, in text: a line per name, and what to know of all."""
    lines = [("name", "sources", "download", "cSDR", "cached")]
    for name, archive in ARCHIVES.items():
        for own in dict.fromkeys((name, *archive.checkpoints)):
            parts = models(own)
            sources = [source for model in parts for source in CONFIGS[model].sources]
            score = archive.scores["mean"] if len(sources) > 1 else archive.scores[sources[0]]
            cached = all((cache() / model).is_dir() for model in parts)
            lines.append(
                (own, ", ".join(sources), f"{archive.size / 1e9:.2f} GB", f"{score:.2f}", "yes" if cached else "no")
            )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return f"""{rows}

cSDR: median over frames, then songs, of the test songs of MUSDB18-HQ, in dB as published; of several sources, the mean
All models of an archive are fetched together, to {cache()}
weights  {CITATION}
licence  {LICENCE}"""
