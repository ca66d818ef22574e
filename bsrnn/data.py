"""Songs with their stems, and the training samples drawn from them.

A data set is a folder in the layout of MUSDB18-HQ: {train,test}/<song>/{mixture,drums,bass,other,vocals}.wav.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from bsrnn import audio, demo, records

STEMS = ("drums", "bass", "other", "vocals")
SPLITS = ("train", "validation", "test")
VALIDATION_SHARE = 6  # without a list of its own, every sixth training song validates; our choice

# Source activity detection, Luo & Yu, section IV-A1
SEGMENT = 6.0  # seconds, with half overlap
SEGMENT_CHUNKS = 10
SILENT_LEVEL = 1e-5
ACTIVE_QUANTILE = 0.15
ACTIVE_LEVEL = 1e-3


@dataclass(frozen=True)
class Track:
    """One song: a folder with one wav file per stem and one of the mixture, all of the same rate and length."""

    folder: Path
    sample_rate: int  # Hz
    length: int  # samples

    @property
    def name(self) -> str:
        return self.folder.name

    def read(self, stem: str, start: int = 0, frames: int = -1) -> Tensor:
        """A part of a stem, or of "mixture", as (C, frames); -1 reads to the end."""
        samples, _ = soundfile.read(_file(self.folder, stem), frames, start, dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T)

    def stems(self, names: Sequence[str] = STEMS) -> Tensor:
        """Whole stems (S, C, L)."""
        return torch.stack([self.read(name) for name in names])


def _file(folder: Path, stem: str) -> Path:
    return folder / f"{stem}.wav"


def find_data(data: str | Path) -> Path:
    """The folder of a data set; "demo" is the generated one, which is made on first use."""
    if str(data) == "demo":
        folder = records.root() / "runs" / "demo-data"
        demo.generate(folder)
        return folder
    folder = Path(data)
    if not folder.is_dir():
        raise FileNotFoundError(f"{data}: no such folder; it should hold train/ and test/ as MUSDB18-HQ does")
    return folder


def find_tracks(root: Path, split: str, portion: float = 1.0) -> list[Track]:
    """The songs of a split, sorted by name, each checked.

    Validation songs are taken from train/: those of musdb's own list, or, where none of them is there, every sixth.

    Args:
        root: the data set.
        split: train, validation or test.
        portion: share of the songs to use, 0 (exclusive) to 1; the first ones, at least one.

    Raises:
        FileNotFoundError: the folder or its train/ or test/ is missing.
        ValueError: songs that cannot be used, one line each; or there are none.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    if not 0 < portion <= 1:
        raise ValueError(f"portion must be above 0 and at most 1, not {portion}")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; it should hold train/ and test/ as MUSDB18-HQ does")
    if missing := [name for name in ("train", "test") if not (root / name).is_dir()]:
        raise FileNotFoundError(f"{root}: has no {' and no '.join(missing)} folder; expected MUSDB18-HQ's layout")
    folders = sorted(path for path in (root / split.replace("validation", "train")).iterdir() if path.is_dir())
    if split != "test":
        held_out = _validation_names() & {folder.name for folder in folders}
        held_out = held_out or {folder.name for folder in folders[::VALIDATION_SHARE]}
        folders = [folder for folder in folders if (folder.name in held_out) == (split == "validation")]
    if not folders:
        raise ValueError(f"{root}: no songs for {split}")
    found = [_open_track(folder) for folder in folders[: max(1, round(portion * len(folders)))]]
    if problems := [problem for problem in found if isinstance(problem, str)]:
        raise ValueError("\n".join(problems))
    return found


def _validation_names() -> set[str]:
    # read from the package's file: importing musdb needs the ffmpeg program, which wav files do not
    settings = Path(find_spec("musdb").submodule_search_locations[0], "configs", "mus.yaml")
    return set(yaml.safe_load(settings.read_text())["validation_tracks"])


def _open_track(folder: Path) -> Track | str:
    """The track in a folder, or a line that says why there is none."""
    infos = {}
    for stem in (*STEMS, "mixture"):
        file = _file(folder, stem)
        if not file.is_file():
            return f"{folder}: has no {file.name}"
        try:
            infos[stem] = soundfile.info(file)
        except (soundfile.LibsndfileError, OSError):
            return f"{file}: cannot be read as audio"
        if infos[stem].frames == 0:
            return f"{file}: holds no samples"
    for name in ("samplerate", "frames", "channels"):
        values = {stem: getattr(info, name) for stem, info in infos.items()}
        if len(set(values.values())) > 1:
            return f"{folder}: files differ in {name}: " + ", ".join(f"{stem} {n}" for stem, n in values.items())
    return Track(folder, infos["mixture"].samplerate, infos["mixture"].frames)


def fingerprint(root: Path) -> str:
    """Identifies a data set by its files' names and sizes."""
    return records.fingerprint(root.glob("*/*/*.wav"), root)


def active_segments(stem: Tensor, sample_rate: int) -> list[tuple[int, int]]:
    """Where a stem sounds: the 6 s segments, half overlapping, that source activity detection keeps.

    A segment is cut into ten chunks. The threshold is the 15% quantile of the RMS of all the track's chunks, at least
    1e-3; a segment is kept if more than half of its chunks exceed it. That energy means RMS is our choice.

    Args:
        stem: (C, L). Shorter than 6 s, it is one segment.
        sample_rate: in Hz.

    Returns:
        half-open ranges of samples.
    """
    size = min(round(SEGMENT * sample_rate), stem.shape[-1])
    part = max(1, size // SEGMENT_CHUNKS)
    starts = range(0, stem.shape[-1] - size + 1, max(1, size // 2))
    segments = torch.stack([stem[:, start : start + part * SEGMENT_CHUNKS] for start in starts])
    levels = segments.unflatten(-1, (-1, part)).square().mean((1, 3)).sqrt()  # (segments, chunks)
    levels = levels.clamp_min(SILENT_LEVEL)
    threshold = max(float(levels.quantile(ACTIVE_QUANTILE)), ACTIVE_LEVEL)
    active = (levels > threshold).float().mean(1) > 0.5
    return [(start, start + size) for start, keep in zip(starts, active, strict=True) if keep]


def bundled_song() -> tuple[Tensor, dict[str, Tensor], int] | None:
    """The real song that comes with stempeg (a dependency of musdb): mixture (C, L), its stems, and the sample rate.

    "The Easton Ellises - Falcon 69", 6 s, CC BY-NC-SA 3.0, a test song of MUSDB18: to listen to, never to train on.
    None where the ffmpeg program is missing, without which stempeg cannot be imported.
    """
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        return None
    import stempeg

    samples, rate = stempeg.read_stems(stempeg.example_stem_path(), dtype=np.float32)  # (mixture and stems, L, C)
    mixture, *stems = torch.from_numpy(samples).transpose(1, 2)
    return mixture, dict(zip(STEMS, stems, strict=True)), int(rate)


class RandomMixes(Dataset):
    """Training samples: salient segments of different songs, mixed on the fly (Luo & Yu, section IV-A2).

    Sample i is a pure function of (seed, i): per stem a song, one of its active segments, a random crop, one channel,
    a gain, and now and then silence; their sum is the mixture; all is divided by the largest peak. One channel, because
    the model separates channels one by one.

    Args:
        tracks: the songs.
        sources: the targets, in order.
        sample_rate: of the samples, in Hz.
        chunk: length of a sample in seconds.
        seed: of all draws.
        gain_db: gains are uniform within plus and minus this, in dB.
        drop: probability that a stem is silent.

    Each item is a mixture (1, L) and the targets (S, 1, L).
    """

    def __init__(
        self, tracks: Sequence[Track], sources: Sequence[str], *, sample_rate: int, chunk: float, seed: int,
        gain_db: float, drop: float,
    ):  # fmt: skip
        if unknown := [source for source in sources if source not in STEMS]:
            raise ValueError(f"unknown source {unknown[0]!r}: choose from {', '.join(STEMS)}")
        self.sources, self.sample_rate, self.chunk, self.seed = tuple(sources), sample_rate, chunk, seed
        self.gain_db, self.drop = gain_db, drop
        self.segments = {stem: [] for stem in STEMS}
        for track in tqdm(tracks, "finding where stems sound", unit="song", delay=2, leave=False, disable=None):
            for stem in STEMS:
                found = active_segments(track.read(stem), track.sample_rate)
                self.segments[stem] += [(track, *segment) for segment in found]
        if silent := [source for source in self.sources if not self.segments[source]]:
            raise ValueError(f"no training song has {silent[0]} that sounds: nothing to learn it from")
        # one epoch: as many chunks as the songs hold
        self.epoch_size = sum(max(1, int(track.length / track.sample_rate / chunk)) for track in tracks)

    def __len__(self) -> int:
        return self.epoch_size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw = np.random.default_rng([self.seed, index])
        stems = {stem: self._stem(stem, draw) for stem in STEMS}
        mixture = sum(stems.values())
        targets = torch.stack([stems[source] for source in self.sources])
        # of all stems, so that a sample does not depend on which of them are targets
        peak = max(1e-8, *(float(signal.abs().max()) for signal in (mixture, *stems.values())))
        return mixture / peak, targets / peak

    def _stem(self, stem: str, draw: np.random.Generator) -> Tensor:
        length = round(self.chunk * self.sample_rate)
        # every number is drawn, needed or not, so that the draws of one stem do not depend on another's fate
        choice, offset, side, gain, fate = draw.random(5)
        if not self.segments[stem] or fate < self.drop:
            return torch.zeros(1, length)
        track, start, stop = self.segments[stem][int(choice * len(self.segments[stem]))]
        frames = min(round(self.chunk * track.sample_rate), stop - start)
        crop = track.read(stem, start + int(offset * (stop - start - frames + 1)), frames)
        crop = audio.resample(crop[int(side * len(crop))][None], track.sample_rate, self.sample_rate)
        crop = torch.nn.functional.pad(crop, (0, max(0, length - crop.shape[-1])))[:, :length]
        return crop * 10 ** (self.gain_db * (2 * gain - 1) / 20)


class EpochSampler(Sampler):
    """Indices that never repeat: epoch e has those from e * size on, so that an index alone says what to draw.

    Args:
        size: samples in an epoch.
    """

    def __init__(self, size: int):
        self.size, self.epoch = size, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.size, (self.epoch + 1) * self.size))


class WholeTracks(Dataset):
    """Songs as they are: item i is track i's mixture (C, L), its targets (S, C, L) and its sample rate."""

    def __init__(self, tracks: Sequence[Track], sources: Sequence[str]):
        self.tracks, self.sources = tracks, sources
        for source in sources:
            if not any(track.read(source).any() for track in tracks):
                raise ValueError(f"{source} is silent in all {len(tracks)} songs: nothing to score it on")

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        track = self.tracks[index]
        return track.read("mixture"), track.stems(self.sources), track.sample_rate


def training_loader(mixes: RandomMixes, batch_size: int, workers: int) -> DataLoader:
    """Batches of random mixes: (B, 1, L) and (B, S, 1, L)."""
    sampler = EpochSampler(max(len(mixes) // batch_size, 1) * batch_size)
    return DataLoader(mixes, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
