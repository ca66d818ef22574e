"""Songs with their stems, and the training samples drawn from them.

A data set is a folder with train/ and test/, or with songs only; a song is a folder with one audio file per stem, as in
MUSDB18-HQ, or a .stem.mp4 file, as in MUSDB18. A stem without a file is silent, and a mixture without one is the sum of
the stems. A stems.yaml beside the songs may say which stems make up a source, as `drums: [kick, snare]`; files that no
source names are left out, hidden files are not seen, and whether names are in capitals does not matter. A
validation.txt, a name in each line, may say which training songs validate."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from bsrnn import audio, demo, files
from bsrnn.config import SPLITS, Config, TrainingConfig

STEMS = ("drums", "bass", "other", "vocals")  # the sources, where no stems.yaml names others
STEM_LEVEL = 0.05  # RMS that stems are brought to; our choice
MAPPING, VALIDATION = "stems.yaml", "validation.txt"
DEPTHS = ("*", "*/*", "*/*/*")  # of a data set's files; unlike ** they follow links to folders
STEM_FILE = ".stem.mp4"
STREAM_SLACK = 4_096  # samples by which the streams of a .stem.mp4 file may differ: the shortest one tells
VALIDATION_SHARE = 6  # without a list of its own, every sixth training song validates; our choice
# Source activity detection, Luo & Yu, section IV-A1
SEGMENT_CHUNKS = 10
SILENT_LEVEL = 1e-5
ACTIVE_QUANTILE = 0.15
ACTIVE_LEVEL = 1e-3


@dataclass(frozen=True)
class Track:
    """One song: the files of each source, all of the same rate, length and channels."""

    path: Path
    sample_rate: int  # Hz
    length: int  # samples
    channels: int
    files: Mapping[str, tuple[audio.Recording, ...]] = field(compare=False, repr=False)  # of sources, and of "mixture"

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(STEM_FILE)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(name for name in self.files if name != "mixture")

    def read(self, source: str, start: int = 0, frames: int = -1) -> Tensor:
        """A part of a source, or of "mixture", as (C, frames), -1: to the end; with the errors of `Recording.read`."""
        frames = self.length - start if frames < 0 else frames
        parts = [file.read(start, frames) for file in self.files[source]]
        return sum(parts[1:], parts[0]) if parts else torch.zeros(self.channels, frames)

    def middle(self, seconds: float) -> tuple[int, int]:
        """Start and length in samples of so many seconds from its middle; 0 is all of it."""
        length = min(round(seconds * self.sample_rate) or self.length, self.length)
        return (self.length - length) // 2, length

    def stems(self, names: Sequence[str], start: int = 0, frames: int = -1) -> Tensor:
        """The same part of several sources, (S, C, frames)."""
        return torch.stack([self.read(name, start, frames) for name in names])


def find_data(data: str | Path) -> Path:
    """The folder of a data set; "demo" is the generated one, which is made on first use."""
    folder = files.root() / "runs" / "demo-data" if str(data) == "demo" else Path(data)
    if str(data) == "demo":
        demo.generate(folder)
    elif not folder.is_dir():
        raise FileNotFoundError(f"{data}: no such folder; give one of songs, with train/ and test/ or without, or demo")
    return folder


def find_tracks(root: Path, split: str, portion: float = 1.0, problems: list[str] | None = None) -> list[Track]:
    """The songs of a split of the data set in a folder, sorted by name, each checked; of these the first `portion`, at
    least one. Validation songs are taken from the training songs: those that a validation.txt names, or those of
    musdb's own list, or, where none of them is there, every sixth. A folder without train/ and test/ has training songs
    only. Raises FileNotFoundError where the folder or its train/ or test/ is missing, and ValueError where it has no
    songs, or with a line for each problem of a song; `problems` gets these lines instead, and leaves the song out."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    songs, mapping = _songs(root, split), stem_mapping(root)
    if split != "test":
        names = {song.name.removesuffix(STEM_FILE): song for song in songs}
        held_out = _held_out(root, [*names])
        songs = [song for name, song in names.items() if (name in held_out) == (split == "validation")]
    if not songs:
        raise ValueError(f"{root}: no songs for {split}")
    tracks, found = [], [] if problems is None else problems
    for song in songs[: max(1, round(portion * len(songs)))]:
        with noted(found):
            tracks.append(_open_track(song, mapping))
    report(found, problems)
    return tracks


@contextmanager
def noted(problems: list[str]) -> Iterator[None]:
    """Adds what cannot be used to the problems, a line each, instead of raising it, so that the rest is looked at."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        problems += str(error).splitlines()


def report(found: Sequence[str], problems: list[str] | None = None) -> None:
    """Raises ValueError of a line for each problem that was found, unless somebody collects them."""
    if found and problems is None:
        raise ValueError("\n".join(dict.fromkeys(found)))


def _visible(folder: Path, patterns: Sequence[str] = ("*",)) -> list[Path]:
    """What lies in a folder, sorted, but for what is hidden or left by macOS beside files (._X, __MACOSX)."""
    found = ((path, path.relative_to(folder).parts) for pattern in patterns for path in folder.glob(pattern))
    return sorted(path for path, parts in found if not any(part[0] == "." or part == "__MACOSX" for part in parts))


def _songs(root: Path, split: str) -> list[Path]:
    """The songs of a split, validation songs among those of train, sorted by name."""
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    folders = {path.name.lower(): path for path in _visible(root) if path.is_dir()}
    missing = {"train", "test"} - folders.keys()
    if len(missing) == 1:
        raise FileNotFoundError(f"{root}: has no {missing.pop()} folder beside the other")
    folder = root if missing else folders["test" if split == "test" else "train"]
    songs = [path for path in _visible(folder) if path.is_dir() or path.name.endswith(STEM_FILE)]
    if twice := [song for song in songs if song.with_name(song.name + STEM_FILE) in songs]:
        raise ValueError(f"{twice[0]}: is a song as a folder and as a {STEM_FILE} file: remove one")
    if missing and (split == "test" or not songs):
        remedy = f"songs (folders of stems, or {STEM_FILE} files) right in it are for train and validation"
        raise FileNotFoundError(f"{root}: has no train and no test folder, and so no songs for {split}: {remedy}")
    return songs


def _text(file: Path) -> str:
    """What a small text file says."""
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is not in UTF-8, but in another encoding: save it in UTF-8") from None


def stem_mapping(root: Path) -> dict[str, tuple[str, ...]]:
    """The stems of every source of a data set: as its stems.yaml says, or one of the same name for each of `STEMS`.
    ValueError if the file does not map names to lists of names, one stem belongs to two sources, or no song has it."""
    file = root / MAPPING
    if not file.is_file():
        return {stem: (stem,) for stem in STEMS}
    try:
        content = yaml.load(_text(file), yaml.BaseLoader)  # which makes strings of all names, such as 808 and no
    except (yaml.YAMLError, RecursionError):
        raise ValueError(f"{file}: is not YAML") from None
    if not (isinstance(content, dict) and content) or not all(
        isinstance(stems, list) and stems and all(isinstance(stem, str) for stem in stems) for stems in content.values()
    ):
        raise ValueError(f"{file}: should map each source to a list of stems, such as `drums: [kick, snare]`")
    mapping = {source: tuple(stem.lower() for stem in stems) for source, stems in content.items()}
    named = Counter(stem for stems in mapping.values() for stem in stems)
    found = {
        stem
        for path in _visible(root, DEPTHS)
        if path.suffix.lower() in audio.SUFFIXES
        for stem in (STEMS if path.name.endswith(STEM_FILE) else (path.stem.lower(),))
    } - {"mixture"}
    most, times = named.most_common(1)[0]
    missing, left_out = (", ".join(sorted(names)) for names in (named.keys() - found, found - named.keys()))
    wrong = {
        "names a source twice": len(yaml.compose(_text(file), yaml.BaseLoader).value) > len(content),
        f"{most} belongs to one source only, but is named more than once": times > 1,
        "mixture is no source": "mixture" in mapping,
        f"no song has {missing}; stems that are there and not named: {left_out or 'none'}": missing,
    }
    if told := [problem for problem, holds in wrong.items() if holds]:
        raise ValueError(f"{file}: {told[0]}")
    return mapping


def _held_out(root: Path, names: Sequence[str]) -> set[str]:
    """Which of the training songs validate."""
    file = root / VALIDATION
    if file.is_file():
        listed = {line.strip() for line in _text(file).splitlines()} - {""}
        if unknown := sorted(listed.difference(names)):
            raise ValueError(f"{file}: no training song is named {unknown[0]!r}")
        return listed
    # read from the package's file: importing musdb needs the ffmpeg program, which wav files do not
    settings = yaml.safe_load(distribution("musdb").locate_file("musdb/configs/mus.yaml").read_text())
    return set(settings["validation_tracks"]).intersection(names) or set(names[::VALIDATION_SHARE])


def _open_track(song: Path, mapping: Mapping[str, tuple[str, ...]]) -> Track:
    """The track in a folder or .stem.mp4 file; raises ValueError of a line for every file that cannot be used."""
    wanted = [stem for stems in mapping.values() for stem in stems]
    found = _open_streams(song) if song.name.endswith(STEM_FILE) else open_stems(song, ["mixture", *wanted])
    parts = {source: tuple(found[stem] for stem in stems if stem in found) for source, stems in mapping.items()}
    every = tuple(found[stem] for stem in wanted if stem in found)
    if not every:
        raise ValueError(f"{song}: has no stems: none is named {', '.join(wanted)} (a {MAPPING} can name others)")
    parts["mixture"] = (found["mixture"],) if "mixture" in found else every
    for attribute in ("sample_rate", "length", "channels"):
        if len({getattr(part, attribute) for part in found.values()}) > 1:
            listed = ", ".join(f"{name} {getattr(part, attribute)}" for name, part in found.items())
            raise ValueError(f"{song}: files differ in {attribute.replace('_', ' ')}: {listed}")
    return Track(song, every[0].sample_rate, every[0].length, every[0].channels, parts)


def open_stems(folder: Path, wanted: Sequence[str]) -> dict[str, audio.Recording]:
    """Those audio files in a folder whose names, in small letters, are wanted; raises ValueError of a line for each
    that cannot be used."""
    problems, found = [], {}
    for file in _visible(folder):
        name = file.stem.lower()
        if name in wanted and file.suffix.lower() in audio.SUFFIXES:
            with noted(problems):
                if name in found:
                    raise ValueError(f"{folder}: which is {name}, {found[name].path.name} or {file.name}? Remove one")
                found[name] = audio.Recording.open(file).measured()
    report(problems)
    return found


def _open_streams(song: Path) -> dict[str, audio.Recording]:
    """The mixture and the stems in a .stem.mp4 file."""
    streams = sorted(audio.recordings(song), key=lambda part: part.stream or 0)
    if len(streams) != len(STEMS) + 1:
        raise ValueError(f"{song}: has {len(streams)} streams, not the mixture and four stems of MUSDB18")
    # those of which the file says the same length have the same length
    lengths = {part.measured().length for part in {part.length: part for part in streams}.values()}
    if max(lengths) - min(lengths) > STREAM_SLACK:
        raise ValueError(f"{song}: its streams differ in length")
    return {name: replace(part, length=min(lengths)) for name, part in zip(("mixture", *STEMS), streams, strict=True)}


def fingerprint(root: Path) -> str:
    """Twelve hex digits that change when the names or sizes of a data set's files do."""
    meant = [
        f"{file.relative_to(root).as_posix()} {file.stat().st_size}\n"
        for file in _visible(root, DEPTHS)
        if (file.suffix.lower() in audio.SUFFIXES or file.name in (MAPPING, VALIDATION)) and file.is_file()
    ]
    return hashlib.sha256("".join(meant).encode(errors="surrogateescape")).hexdigest()[:12]


def windows(length: int, sample_rate: int, segment: float = 6.0) -> list[tuple[int, int]]:
    """The half overlapping segments of so many seconds of a song of `length` samples; a shorter one is one segment."""
    size = min(round(segment * sample_rate), length)
    return [(start, start + size) for start in range(0, length - size + 1, max(1, size // 2))]


def active_segments(stem: Tensor, sample_rate: int, segment: float = 6.0) -> list[tuple[int, int]]:
    """Where a stem (C, L) at a rate in Hz sounds: those of its `windows` of so many seconds, half-open ranges of
    samples, that source activity detection keeps. Each is cut into ten chunks, and kept if more than half of them
    exceed the 15% quantile of the RMS of all chunks, at least 1e-3, or 1e-3 where none would be kept. That energy means
    RMS is our choice."""
    segments = windows(stem.shape[-1], sample_rate, segment)
    part = max(1, (segments[0][1] - segments[0][0]) // SEGMENT_CHUNKS)
    chunks = torch.stack([stem[:, start : start + part * SEGMENT_CHUNKS] for start, _ in segments])
    levels = chunks.unflatten(-1, (-1, part)).square().mean((1, 3)).sqrt().clamp_min(SILENT_LEVEL)  # (segments, chunks)
    thresholds = max(float(levels.quantile(ACTIVE_QUANTILE)), ACTIVE_LEVEL), ACTIVE_LEVEL
    usual, constant = ((levels > threshold).float().mean(1) > 0.5 for threshold in thresholds)
    active = usual if usual.any() else constant  # a level that is constant does not exceed its own quantile
    return [segment for segment, keep in zip(segments, active, strict=True) if keep]


def bundled_song() -> tuple[Tensor, dict[str, Tensor], int]:
    """The real song that comes with stempeg (a dependency of musdb): mixture (C, L), its stems, and the sample rate.
    "The Easton Ellises - Falcon 69", 6 s, CC BY-NC-SA 3.0, a test song of MUSDB18: to listen to, never to train on."""
    # importing stempeg needs the ffmpeg program, which its file does not
    file = distribution("stempeg").locate_file("stempeg/data/The Easton Ellises - Falcon 69.stem.mp4")
    song = _open_track(Path(str(file)), {stem: (stem,) for stem in STEMS})
    return song.read("mixture"), {stem: song.read(stem) for stem in STEMS}, song.sample_rate


def _signals(tracks: Sequence[Track], problems: list[str]) -> Iterator[tuple[Track, str, Tensor]]:
    """Every source of every song, whole. What cannot be read is a problem, be it a mixture, and such a source is taken
    to sound all the time, so that it is not called silent on top of that."""
    for track in tqdm(tracks, "listening for problems", unit="song", delay=2, leave=False, disable=None):
        for source in track.files if len(track.files["mixture"]) == 1 else track.sources:  # where it is no sum of stems
            signal = torch.ones(()).expand(track.channels, track.length)
            with noted(problems):
                signal = track.read(source)
            if source != "mixture":
                yield track, source, signal


class Mixes(Dataset):
    """Training samples mixed on the fly (Luo & Yu, section IV-A2): mixtures (C, L) and their targets (S, C, L), which
    are the sources of the `model`, in order.

    Sample i is a pure function of (seed, i): per source a song, one of its segments, a random crop, one channel (with
    `model.tac` all, of which every song then has the same number), a gain, and now and then silence; their sum is the
    mixture; all is divided by the largest peak. Samples do not depend on what the targets are, but with
    `target_songs`: then a sample is for one of them, and a source that no song with it has comes from any. `problems`
    gets a line for all that is wrong with the songs, which are read once; None raises them."""

    def __init__(self, tracks: Sequence[Track], model: Config, config: TrainingConfig, *, seed: int, problems=None):
        check_sources(model.sources, tracks)
        self.model, self.config, self.seed = model, config, seed
        self.channels = tracks[0].channels if model.tac else 1
        self.segments = {source: [] for source in tracks[0].sources}
        self.factors = {}  # that bring the stems of songs to one level
        heard, found = {source: set() for source in self.segments}, [] if problems is None else problems
        for track, source, signal in _signals(tracks, found):
            if signal.any():
                heard[source].add(track)
            salient = active_segments(signal, track.sample_rate, config.segment)
            ranges = salient if config.salient else windows(track.length, track.sample_rate, config.segment)
            self.segments[source] += [(track, *limits) for limits in ranges]
            if config.equal_levels and salient:
                power = sum(signal[:, start:stop].square().mean() for start, stop in salient) / len(salient)
                self.factors[track, source] = STEM_LEVEL / float(power) ** 0.5
        odd = [track.path for track in tracks if model.tac and track.channels != self.channels]
        silent = [source for source in model.sources if not heard[source] or not self.segments[source]]
        found += [f"{path}: has another number of channels than {tracks[0].path}: convert it" for path in odd]
        found += [f"{source} is silent in all {len(tracks)} songs: nothing to learn" for source in silent]
        report(found, problems)
        self.pools = {  # segments of all sources, by the source for which a sample is drawn
            target: {
                source: (config.target_songs and [part for part in parts if part[0] in heard[target]]) or parts
                for source, parts in self.segments.items()
            }
            for target in (model.sources if config.target_songs else self.segments)
        }
        self.epoch_size = config.epoch_size or sum(max(1, int(x.length / x.sample_rate / model.chunk)) for x in tracks)

    def __len__(self) -> int:
        return self.epoch_size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        stems = {source: self._stem(source, *choice) for source, choice in self._choices(index).items()}
        mixture = sum(stems.values(), torch.zeros(()))
        levels = [float(x.abs().max()) for x in (mixture, *stems.values())]  # of all, whichever are targets
        peak = max(1e-8, *levels) if self.config.peak_division else 1.0
        return mixture / peak, torch.stack([stems[source] for source in self.model.sources]) / peak

    def songs(self, index: int) -> list[str]:
        """The names of the songs that sound in a sample."""
        return sorted({segment[0].name for segment, *_ in self._choices(index).values() if segment})

    def _choices(self, index: int) -> dict[str, tuple]:
        """Of every source: its segment, or None for silence; the place of the crop and the channel, from 0 to 1; what
        it is multiplied by; and the speed, from 0 to 1."""
        draw, speeds, kind = (np.random.default_rng([self.seed, index, *more]) for more in ((), (1,), (2,)))
        aligned, target = kind.random(2)
        target, pool = [*self.pools.items()][int(target * len(self.pools))]
        common = pool[target] if aligned < self.config.aligned else []
        # every number is drawn, needed or not, so that the draws of one source do not depend on another's fate
        draws = [(*draw.random(5), speeds.random()) for _ in pool]
        if common:
            draws = draws[:1] * len(draws)  # one segment, place, channel, gain and speed for all
        choices = {}
        for (source, own), (choice, offset, side, gain, fate, speed) in zip(pool.items(), draws, strict=True):
            segments = common or (own if fate >= self.config.drop else [])
            segment = segments[int(choice * len(segments))] if segments else None
            factor = 10 ** (self.config.gain_db * (2 * gain - 1) / 20)
            if segment and not common:
                factor *= self.factors.get((segment[0], source), 1.0)
            choices[source] = (segment, offset, side, factor, speed)
        return choices

    def _stem(self, source, segment, offset, side, factor, speed):
        """A source of a sample, (C, L), by what `_choices` says of it."""
        if segment is None:
            return torch.zeros(self.channels, self.model.chunk_samples)
        track, start, stop = segment
        rate = track.sample_rate * 2 ** (self.config.pitch * (2 * speed - 1) / 12)  # what the samples are taken to have
        frames = min(round(self.model.chunk * rate), stop - start)
        crop = track.read(source, start + int(offset * (stop - start - frames + 1)), frames)
        crop = crop if self.model.tac else crop[int(side * len(crop))][None]
        crop = audio.resample(crop, rate, self.model.sample_rate)
        return torch.nn.functional.pad(crop, (0, self.model.chunk_samples - crop.shape[-1])) * factor


def check_sources(wanted: Sequence[str], tracks: Sequence[Track]) -> None:
    """Raises ValueError if the songs do not have one of the wanted sources."""
    if unknown := [source for source in wanted if source not in tracks[0].sources]:
        raise ValueError(f"unknown source {unknown[0]!r}: choose from {', '.join(tracks[0].sources)}")


class EpochSampler(Sampler):
    """The samples of one of several processes: its `batch_size` of every batch; an epoch has about `size` samples of
    all processes together. Indices never repeat, so that one alone says what to draw; and all processes take together
    what one with the whole batch would take."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, processes: int = 1):
        self.batch_size, self.rank, self.processes, self.epoch = batch_size, rank, processes, 0
        self.batches = max(1, size // (batch_size * processes))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for batch in range(self.epoch * self.batches, (self.epoch + 1) * self.batches):
            first = (batch * self.processes + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)


def check_heard(tracks: Sequence[Track], targets: Sequence[str], seconds: float, problems: list[str]) -> None:
    """Adds a line to the problems for all that is wrong with songs that validate, which are read once, and for each
    target that is silent in so many seconds from the middle of all of them, 0: in all of all."""
    heard = {name for track, name, x in _signals(tracks, problems) if x.narrow(1, *track.middle(seconds)).any()}
    problems += [f"{x} is silent in all that validates: nothing to score" for x in targets if tracks and x not in heard]
