"""Estimates of the songs of a split against their sources, as rows of scores."""

import csv
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import normalize, pad
from tqdm import tqdm

import bsrnn
from bsrnn import audio, checkpoint, files
from bsrnn.config import Config
from bsrnn.data import Track, check_sources, noted, open_stems, report
from bsrnn.metrics import csdr, csdr_frames, median, si_sdr, silent, usdr
from bsrnn.model import BSRNN
from bsrnn.separate import Separator
from bsrnn.spectral import istft, stft

COLUMNS = ("run", "split", "track", "source", "metric", "value")  # of a row of scores
METRICS = ("uSDR", "cSDR", "SI-SDR")
MODEL_PARTS = ("model", checkpoint.WEIGHTS, checkpoint.CONFIG, "last.ckpt")  # of a run, which a model is named after
BSSEVAL = ("ISR", "SIR", "SAR")  # beside SDR
NOTE = ".settings.json"  # beside a table


@dataclass(frozen=True)
class Estimator:
    """What estimates sources of songs."""

    name: str
    sources: tuple[str, ...]
    estimate: Callable[[Track, Mapping[str, Tensor]], Tensor]  # a song's "mixture" and sources, (C, L), to (S, C, L)
    settings: Mapping[str, object] = field(default_factory=dict)  # what its scores depend on, beside the songs
    is_model: bool = False  # whose audio may be kept


def measure(references: Tensor, estimates: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """How close estimates are to their sources, (S, C, L) at a rate in Hz: each of `METRICS` to (S,) in dB; NaN where
    the source is silent."""
    scores = usdr(references, estimates), csdr(references, estimates, sample_rate), si_sdr(references, estimates)
    return dict(zip(METRICS, scores, strict=True))


def evaluate(model: BSRNN, tracks: Sequence[Track], *, split: str, run: str = "") -> list[dict]:
    """`score` a model on all songs and sources that it knows; in the rows, `split` names the songs, `run` the model."""
    return score([_of_separator(Separator([model.eval()]), run)], tracks, split=split)


def score(
    estimators: Sequence[Estimator],
    tracks: Sequence[Track],
    *,
    split: str,
    data: str = "",
    out: Path | None = None,
    with_bsseval: bool = False,
    museval_folder: Path | None = None,
    audio_folder: Path | None = None,
) -> list[dict]:
    """Score every estimator, of different names, on every song. Returns a row of `COLUMNS` per estimator, track, source
    and metric: uSDR, cSDR and SI-SDR in dB, `with_bsseval` also medians over frames of ISR, SIR and SAR by museval,
    which take minutes per song; NaN where the source is silent. Raises ValueError where an estimator does not fit the
    songs, its estimate is not finite, or `out` holds other scores, and OSError where a file cannot be written.

    Args:
        split, data: what the songs are, for the rows, and their fingerprint.
        out: CSV file that gets the rows after every song, see `ScoreTable`. What it holds already is not scored again.
        museval_folder: gets <run>/<split>/<track>.json, which museval aggregates.
        audio_folder: gets <run>/<track>/<source>.wav of the models."""
    check_sources([source for estimator in estimators for source in estimator.sources], tracks)
    if (with_bsseval or museval_folder) and not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise ValueError("museval takes the ffmpeg program, which is not installed")
    common = {"data": data, "split": split, "code": bsrnn.__version__}
    table = ScoreTable({x.name: {**common, **x.settings} for x in estimators}, [track.name for track in tracks], out)
    metrics = (*METRICS, *BSSEVAL) if with_bsseval else METRICS

    @lru_cache(1)  # as the songs come one after the other, each is read once
    def read(track: Track) -> dict[str, Tensor]:
        return {name: track.read(name) for name in ("mixture", *track.sources)}

    def is_done(estimator: Estimator, track: Track) -> bool:
        kept = [museval_folder / estimator.name / split / f"{track.name}.json"] if museval_folder else []
        if audio_folder and estimator.is_model:
            kept += [audio_folder / estimator.name / track.name / f"{source}.wav" for source in estimator.sources]
        rows = ((estimator.name, split, track.name, source, name) for source in estimator.sources for name in metrics)
        return all(row in table.scores for row in rows) and all(file.is_file() for file in kept)

    todo = [(track, estimator) for track in tracks for estimator in estimators if not is_done(estimator, track)]
    if done := len(tracks) * len(estimators) - len(todo):
        print(f"{out}: {done} of {done + len(todo)} were scored before", flush=True)
    with tqdm(todo, unit="song", delay=2, disable=None) as bar:
        for track, estimator in bar:
            bar.set_description(f"evaluating {estimator.name}", refresh=False)  # which would show it before its time
            song = read(track)
            estimates = estimator.estimate(track, song)
            if not estimates.isfinite().all():
                raise ValueError(f"{estimator.name}: its estimate of {track.name} is not finite")
            references = torch.stack([song[source] for source in estimator.sources])
            values = measure(references, estimates, track.sample_rate)
            if audio_folder and estimator.is_model:
                with files.written_together(audio_folder / estimator.name / track.name) as folder:
                    paths = [folder / f"{source}.wav" for source in estimator.sources]
                    audio.write(paths, [estimates], track.files["mixture"][0])
            frames = bsseval_frames(references, estimates, track.sample_rate) if with_bsseval else {}
            values |= {ratio: median(of_frames) for ratio, of_frames in frames.items()}
            if museval_folder:
                frames["SDR"] = csdr_frames(references, estimates, track.sample_rate)
                _write_museval(museval_folder / estimator.name / split, track.name, estimator.sources, frames)
            table.add(
                [
                    dict(zip(COLUMNS, (estimator.name, split, track.name, source, metric, float(value)), strict=True))
                    for metric, of_sources in values.items()
                    for source, value in zip(estimator.sources, of_sources, strict=True)
                ]
            )
    return table.rows()


def bsseval_frames(references: Tensor, estimates: Tensor, sample_rate: int) -> dict[str, Tensor]:
    """ISR, SIR and SAR by museval of every frame of a second, (S, frames) each in dB, of sources (S, C, L); NaN for
    silent ones, which museval refuses."""
    import museval

    heard = ~(silent(references) | silent(estimates))
    frames = max(1, references.shape[-1] // sample_rate)
    ratios = torch.full((len(BSSEVAL), len(references), frames), torch.nan, dtype=torch.double)
    if heard.any():
        ours, theirs = (signals[heard].transpose(1, 2).double().numpy() for signals in (references, estimates))
        with mock.patch.object(np.linalg, "linalg", np.linalg, create=True):  # museval's name for it, gone from numpy
            ratios[:, heard] = torch.tensor(np.stack(museval.evaluate(ours, theirs, sample_rate, sample_rate)[1:]))
    return dict(zip(BSSEVAL, ratios, strict=True))


def means(rows: Sequence[Mapping]) -> str:
    """Means over tracks, NaN left out, as a table in text: a line per run and source, a column per metric in dB."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    values = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[row["run"], row["source"]][row["metric"]].append(row["value"])
    lines = [["run", "source", *metrics]]
    for key, known in values.items():
        lines.append([*key, *(f"{torch.tensor(known[metric]).nanmean():.2f}" for metric in metrics)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(" ".join(map(str.rjust, line, widths)) for line in lines)


class ScoreTable:
    """Rows of scores in the order of the runs of `settings`, which tells what their scores depend on, and of the names
    of `tracks`, after those of other runs. With a CSV file, they are those of the file as well, which is written whole
    each time, and a .settings.json beside it holds the settings; ValueError if it holds scores of others, or of unknown
    ones. Several processes may add to a file at once."""

    def __init__(self, settings: Mapping[str, Mapping], tracks: Sequence[str], file: Path | None = None):
        self.settings, self.file, self.added = dict(settings), file, {}
        self.ranks = {key: rank for rank, key in enumerate((run, track) for run in settings for track in tracks)}
        self.scores = self._read()[1]  # refuses before anything is written
        self.add([])  # raises now where nothing can be written

    def _read(self) -> tuple[dict[str, dict], dict[tuple[str, ...], dict]]:
        """The settings that the file holds, and its rows by all their columns but the value."""
        if not (self.file and self.file.exists()):
            return {}, {}
        if self.file.is_dir():
            raise IsADirectoryError(f"{self.file} is a folder, not a file")
        note, remedy = self.file.with_suffix(NOTE), "choose another file"
        try:
            known = {run: {**told} for run, told in json.loads(note.read_text()).items()}
            scores = _by_key(read_rows(self.file))
        except Exception:  # of reading, or of what else the two may hold
            raise ValueError(
                f"{self.file} is no table of scores with {note.name} beside it: remove it or {remedy}"
            ) from None
        for run in self.settings.keys() & known.keys():
            files.check_same(known[run], self.settings[run], f"{self.file} holds scores of {run}", remedy)
        return known, scores

    def add(self, rows: Sequence[dict]) -> None:
        """Take rows in place of those of the same run, song, source and metric, and others from the file."""
        self.added |= _by_key(rows)
        self.scores |= self.added
        if self.file:
            # the folder first, which says best why nothing can be written to it
            with files.written_together(self.file.parent), FileLock(self.file.with_name(f".{self.file.name}.lock")):
                known, scores = self._read()
                self.scores = scores | self.added
                files.save_json(self.file.with_suffix(NOTE), known | self.settings)
                if self.added:
                    files.save_rows(self.file, self.rows())

    def rows(self) -> list[dict]:
        """All rows: those of other runs, then in the order of runs and tracks."""
        return sorted(self.scores.values(), key=lambda row: self.ranks.get((row["run"], row["track"]), -1))


def _by_key(rows: Sequence[dict]) -> dict[tuple[str, ...], dict]:
    return {tuple(row[name] for name in COLUMNS[:-1]): row for row in rows}


def read_rows(file: Path) -> list[dict]:
    """The rows of scores in a CSV file; ValueError or KeyError if it holds something else."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    if not rows:
        raise ValueError(f"{file}: holds no rows")
    return [{name: row[name] for name in COLUMNS} | {"value": float(row["value"] or "nan")} for row in rows]


def find_estimators(
    checkpoints: Sequence[Path],
    folders: Sequence[Path],
    tracks: Sequence[Track],
    *,
    sample_rate: int | None = None,
    n_fft: int | None = None,
    **options,
) -> list[Estimator]:
    """Models, estimates in folders (see `of_folder`), and the baselines of all of them, for these songs. A model is
    named after its folder, or, of runs/<name>/model, after the run; `options` are those of `Separator.from_pretrained`.
    The oracles' sample rate and FFT size are, where not given, those of the models, or 44.1 kHz and 2048.
    FileNotFoundError or ValueError, a line per problem, if something cannot be used."""
    separators = [Separator.from_pretrained(path, **options) for path in checkpoints]
    paths = [Path(os.path.abspath(path)) for path in checkpoints]
    # the last part that names something, of which the file system's root is none
    runs = [next((part for part in path.parts[:0:-1] if part not in MODEL_PARTS), path.name) for path in paths]
    found = [*map(_of_separator, separators, runs), *(of_folder(folder, tracks) for folder in folders)]
    configs = [model.config for separator in separators for model in separator.models] or [Config()]
    oracles = {}
    for name, given in (("sample_rate", sample_rate), ("n_fft", n_fft)):
        values = {getattr(config, name) for config in configs} if given is None else {given}
        if len(values) > 1:
            raise ValueError(f"the models differ in {name}: give the oracles' --{name}")
        oracles[name] = values.pop()
    found += baselines(tracks[0].sources, **oracles)
    if twice := [name for name, count in Counter(estimator.name for estimator in found).items() if count > 1]:
        raise ValueError(f"two runs would have the name {twice[0]}: rename the folder of one")
    return found


def _of_separator(separator: Separator, name: str) -> Estimator:
    return Estimator(
        name,
        separator.sources,
        lambda track, song: torch.stack([*separator(song["mixture"], track.sample_rate, long=False).values()]),
        {"weights": checkpoint.digest(*separator.models), "hop": separator.hop, "bf16": separator.bf16},
        is_model=True,
    )


def of_folder(folder: Path, tracks: Sequence[Track]) -> Estimator:
    """Estimates that some other program wrote: `folder`/<track>/<source>.wav, or another suffix of `audio.SUFFIXES`,
    but for sources of which no track has one. FileNotFoundError or ValueError, a line per problem, if folder or
    estimates are missing, or do not have their song's sample rate, channels and length."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; it should hold estimates as TRACK/SOURCE.wav")
    known, found, problems = tracks[0].sources, {}, []
    for track in tracks:
        with noted(problems):
            found[track] = open_stems(folder / track.name, [source.lower() for source in known])
    names = [source for source in known if any(source.lower() in stems for stems in found.values())]
    if not names and not problems:
        raise ValueError(f"{folder}: holds no estimates; expected {tracks[0].name}/{known[0]}.wav and so on")
    for track, stems in found.items():
        problems += [f"{folder / track.name}: has no estimate of {name}" for name in names if name.lower() not in stems]
        problems += [problem for estimate in stems.values() for problem in _mismatches(estimate, track)]
    report(problems)
    states = {estimate.path: estimate.path.stat() for stems in found.values() for estimate in stems.values()}
    return Estimator(
        Path(os.path.abspath(folder)).name,
        tuple(names),
        lambda track, _: torch.stack([found[track][source.lower()].read() for source in names]),
        {"files": {file.relative_to(folder).as_posix(): [s.st_size, s.st_mtime_ns] for file, s in states.items()}},
    )


def _mismatches(estimate: audio.Recording, track: Track) -> list[str]:
    """What keeps an estimate from being scored, a line each."""
    channels, rate, excess = estimate.channels, estimate.sample_rate, estimate.length - track.length
    count = f"{abs(excess)} sample{'s' * (abs(excess) > 1)} {'longer' if excess > 0 else 'shorter'}"
    remedy = f"see that both start together, then {'cut' if excess > 0 else 'pad'} its end"
    wrong = {
        f"has {channels} channels, its song {track.channels}: convert it": channels != track.channels,
        f"has a sample rate of {rate} Hz, not {track.sample_rate} as its song: resample it": rate != track.sample_rate,
        f"is {count} than its song: {remedy}": rate == track.sample_rate and excess,  # else the rates say why
    }
    return [f"{estimate.path}: {problem}" for problem, holds in wrong.items() if holds]


def baselines(sources: tuple[str, ...], sample_rate: int, n_fft: int) -> list[Estimator]:
    """What needs no model: the mixture and silence as estimates of the sources, and two oracles, which know these.
    "IRM" multiplies the mixture's STFT by the ideal ratio mask, each source's share in the sum of all magnitudes: IRM1
    in SiSEC 2018 (Stöter, Liutkus & Ito), whose IRM2 takes powers. "STFT" is the limit of any complex mask, and of the
    models: what is left of a source at `sample_rate` (Hz) and `n_fft` (samples), in bins in which the mixture is not
    zero."""
    Config(sources, sample_rate=sample_rate, n_fft=n_fft)  # refuses what no model can have
    settings = {"sample_rate": sample_rate, "n_fft": n_fft}
    masks = {
        "IRM": lambda mixture, stems: mixture * normalize(stems.abs(), p=1, dim=0),
        "STFT": lambda mixture, stems: stems.where(mixture != 0, 0),  # stems / mixture * mixture
    }
    return [
        Estimator("mixture", sources, lambda _, song: song["mixture"].expand(len(sources), -1, -1)),
        Estimator("silence", sources, lambda _, song: torch.zeros(len(sources), *song["mixture"].shape)),
        *(Estimator(name, sources, partial(_masked, mask, **settings), settings) for name, mask in masks.items()),
    ]


def _masked(mask: Callable, track: Track, song: Mapping[str, Tensor], sample_rate: int, n_fft: int) -> Tensor:
    """All sources (S, C, L) by `mask`: STFT of a mixture (C, F, T) and its stems (S, C, F, T) to those of estimates."""
    signals = torch.stack(list(song.values()))  # (1 + S, C, L), the mixture first
    resampled = audio.resample(signals.flatten(0, 1), track.sample_rate, sample_rate)
    spectra = stft(resampled, n_fft).unflatten(0, signals.shape[:2])
    estimates = istft(mask(spectra[0], spectra[1:]), n_fft, resampled.shape[-1])
    back = audio.resample(estimates.flatten(0, 1), sample_rate, track.sample_rate)  # too long or short, if by little
    return pad(back, (0, track.length - back.shape[-1])).unflatten(0, estimates.shape[:2])


def _write_museval(folder: Path, track: str, sources: Sequence[str], frames: Mapping[str, Tensor]) -> None:
    """A track's scores as museval writes them: SDR of every frame, (S, frames), and its other ratios where known."""
    import museval

    store, unknown = museval.TrackStore(track), torch.full_like(frames["SDR"], torch.nan)
    for index, source in enumerate(sources):
        store.add_target(source, {ratio: frames.get(ratio, unknown)[index].tolist() for ratio in ("SDR", *BSSEVAL)})
    with files.written_whole(folder / f"{track}.json") as partial:
        store.save(partial)
