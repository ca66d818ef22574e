"""Published models by name: one comes with the package; others are fetched once, verified, converted, and cached."""

import hashlib
import os
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import platformdirs
from tqdm import tqdm

from bsrnn.config import CONFIGS, costs
from bsrnn.files import FULL, locked, written_together

ADDRESS = "https://zenodo.org/api/records/17516442/files/{}/content"  # $BSRNN_PRETRAINED_URL may name another
LICENCE = "CC BY 4.0 as two third parties read it, not stated as another does: see zenodo.org/records/17516442"
CITATION = "Magron, Serizel & Douwes, The Costs of Reproducibility in Music Separation Research, arXiv 2603.09187"
ROOM = "make room, or set BSRNN_CACHE to another folder"
SOURCES = ("vocals", "bass", "drums", "other")
BLOCK = 2**20  # bytes
OPEN = "open"  # the model of this project that comes with the package, a folder beside this file


@dataclass(frozen=True)
class Archive:
    """A published file, and the models in it."""

    file: str
    size: int  # bytes; as third parties report it, like the sum
    md5: str
    checkpoints: Mapping[str, str]  # models in `CONFIGS`, which tell the order of heads, to files in the archive
    scores: tuple[float, ...]  # cSDR in dB on MUSDB18-HQ's test songs, as published, of `SOURCES`, and their mean


SIMO = {"obsrnn-simo": "separator.ckpt"}
OPT, LARGE = ({f"{name}-{source}": f"{source}.ckpt" for source in SOURCES} for name in ("obsrnn", "bsrnn-large"))
ARCHIVES = {
    "obsrnn-simo": Archive(
        "simo-bsrnn-opt.zip", 1_213_413_202, "817e8ce4bcd17c38bd3812167e97db58", SIMO, (10.66, 9.73, 10.98, 7.78, 9.79)
    ),
    "obsrnn": Archive(
        "bsrnn-opt.zip", 1_827_060_285, "89075aac776f82295a074a56d0428a18", OPT, (9.81, 9.85, 10.31, 6.31, 9.07)
    ),
    "bsrnn-large": Archive(
        "bsrnn-large.zip", 1_627_580_581, "0d1e298e725bf45577a4f61e0a30c2b1", LARGE, (9.14, 7.72, 8.07, 5.68, 7.65)
    ),
}


def cache() -> Path:
    """The folder that keeps the models: $BSRNN_CACHE, or the platform's place for such files."""
    return Path(os.environ.get("BSRNN_CACHE") or platformdirs.user_cache_dir("bsrnn"))


def place(name: str) -> Path:
    """The folder of a published model, whether it is there already or not."""
    return Path(__file__).with_name(OPEN) if name == OPEN else cache() / name


def models(name: str | os.PathLike) -> list[str]:
    """The models that a name means: itself, all those of an archive, or none where it is no such name."""
    known = {OPEN: [OPEN]} | {name: [*archive.checkpoints] for name, archive in ARCHIVES.items()}
    alone = {model: [model] for models in known.values() for model in models}
    return (alone | known).get(os.fspath(name), [])


def folders(path: str | os.PathLike) -> list[Path]:
    """Where models lie: the path itself, or, where nothing is there and it is a published name, their folders, to which
    they are fetched if need be, see `fetch`."""
    names = [] if os.path.exists(path) else models(path)
    for archive in ARCHIVES.values():
        if any(name in archive.checkpoints and not place(name).is_dir() for name in names):
            fetch(archive)
    return [place(name) for name in names] or [Path(path)]


def fetch(archive: Archive) -> None:
    """Fetch an archive, verify it, convert the models in it to folders in the cache, and remove it. A download that
    broke off or was interrupted goes on the next time; one that is wrong, or filled the disk, is removed. OSError if
    there is no room or connection; ValueError if it is not the published file, or another process is fetching."""
    folder = cache()
    part = folder / f"{archive.file}.part"
    with locked(folder / ".lock", f"{folder}: another process is fetching models: wait for it", f": {ROOM}"):
        _check_space(archive, part)
        _download(archive, part)
        try:
            with part.open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if found != archive.md5:
                raise ValueError(f"{archive.file} came with the MD5 sum {found}, not {archive.md5}: removed")
            _convert(archive, part)
        except Exception:  # an interrupted one goes on
            part.unlink()
            raise
        part.unlink()
    print(f"{archive.file}: weights by {CITATION}; trained on MUSDB18-HQ; licence: {LICENCE}", file=sys.stderr)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _check_space(archive: Archive, part: Path) -> None:
    """See that there is room for the archive, one checkpoint from it, and all its models."""
    counts = [sum(cost.parameters for cost in costs(CONFIGS[model])) for model in archive.checkpoints]
    kept = 4 * sum(counts)  # bytes; with the state of its optimizer, a checkpoint has three times as many
    needed, free = archive.size - _size(part) + 12 * max(counts) + kept, shutil.disk_usage(part.parent).free
    if free < needed:
        amounts = f"takes {needed / 1e9:.1f} GB, of which {kept / 1e9:.1f} GB stay, and {free / 1e9:.1f} GB are free"
        raise OSError(f"{part.parent}: fetching {archive.file} {amounts}: {ROOM}")


def _download(archive: Archive, part: Path) -> None:
    """Fetch what is missing of an archive, in as many requests as it takes while each brings something."""
    address = os.environ.get("BSRNN_PRETRAINED_URL", ADDRESS).replace("{}", archive.file)
    with tqdm(total=archive.size, desc=archive.file, unit="B", unit_scale=True, disable=None) as bar:
        while (before := _size(part)) < archive.size:
            request = urllib.request.Request(address, headers={"Range": f"bytes={before}-"} if before else {})
            reason = "the connection broke off"
            try:
                with (
                    urllib.request.urlopen(request, timeout=60) as answer,
                    part.open("ab" if answer.status == 206 else "wb") as file,  # without ranges, a server sends it all
                ):
                    bar.n = file.tell()
                    while block := answer.read1(min(BLOCK, archive.size - file.tell())):
                        bar.update(file.write(block))
            except (OSError, HTTPException) as error:
                if getattr(error, "errno", None) in FULL:
                    part.unlink()
                    raise
                reason = error
            if (there := _size(part)) <= before:
                done = f"{there:,} of {archive.size:,} bytes are there, and the same command goes on after them"
                raise ConnectionError(f"{address}: cannot be fetched ({reason}); {done}")


def _convert(archive: Archive, file: Path) -> None:
    """Put all models of an archive into the cache, or none."""
    from bsrnn import checkpoint

    with written_together(file.parent) as partial, zipfile.ZipFile(file) as content:
        members = {PurePosixPath(member.filename).name: member for member in content.infolist()}
        for model, name in archive.checkpoints.items():
            if (file.parent / model).is_dir():
                continue
            if name not in members:
                raise ValueError(f"{archive.file} holds no {name}")
            members[name].filename = name  # without the folder it lies in
            extracted = Path(content.extract(members[name], partial))
            checkpoint.save(checkpoint.convert(extracted, CONFIGS[model]), partial / model)
            extracted.unlink()


def table() -> str:
    """What there is, in text: a line per name, and what to know of all."""
    rows = [f"{'name':<20}{'sources':<28}{'download':<10}cSDR   cached"]
    for name, archive in ARCHIVES.items():
        for own in dict.fromkeys((name, *archive.checkpoints)):
            sources = [source for model in models(own) for source in CONFIGS[model].sources]
            score = archive.scores[SOURCES.index(sources[0]) if len(sources) == 1 else -1]
            cached = "yes" if all(place(model).is_dir() for model in models(own)) else "no"
            rows.append(f"{own:<20}{', '.join(sources):<28}{archive.size / 1e9:.2f} GB   {score:<7.2f}{cached}")
    notes = (
        f"{OPEN}     comes with this package: small, trained on the songs of open-set/, not on MUSDB18-HQ",
        "cSDR     in dB on the test songs of MUSDB18-HQ, as published; of several sources, the mean",
    )
    return "\n".join([*rows, "", *notes, f"cache    {cache()}", f"weights  {CITATION}", f"licence  {LICENCE}"])
