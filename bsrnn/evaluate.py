"""Estimates of the songs of a split against their sources, as a tidy table of scores."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from bsrnn import audio, bsseval, records
from bsrnn.data import SUFFIXES, AudioFile, Track, check_sources
from bsrnn.metrics import csdr_frames, median, si_sdr, silent, usdr
from bsrnn.model import BSRNN, Config
from bsrnn.separate import Separator
from bsrnn.spectral import istft, stft

METRICS = ("uSDR", "cSDR", "SI-SDR")


@dataclass(frozen=True)
class Run:
    """What estimates sources of songs, and what the table says of it."""

    name: str
    sources: tuple[str, ...]
    estimate: Callable[[Track, Mapping[str, Tensor]], Tensor]  # a song's "mixture" and sources, (C, L), to (S, C, L)
    columns: Mapping[str, str | int]  # experiment, schema, base_source and seed
    settings: Mapping[str, object] = field(default_factory=dict)  # what its scores depend on, beside the songs
    is_model: bool = False  # whose audio may be kept


def evaluate(
    model: BSRNN, tracks: Sequence[Track], *, split: str, run: str = "", experiment: str = "", base_source: str = "",
    seed: int = 0, hop: float | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Separate every song and score every source the model knows.

    Args:
        model: to be scored.
        tracks: the songs.
        split: what the songs are, for the table.
        run, experiment, base_source, seed: what the model is, for the table.
        hop: between the starts of chunks, in seconds; None is half a chunk.

    Returns:
        see `score`.
    """
    separator = Separator([model.eval()], hop=hop)
    return score([_of_separator(separator, run, experiment, base_source, seed)], tracks, split=split)


def find_runs(
    checkpoints: Sequence[Path], folders: Sequence[Path], tracks: Sequence[Track], *, sample_rate: int | None = None,
    n_fft: int | None = None, **options,
) -> list[Run]:  # fmt: skip
    """Models, estimates in folders, and the baselines of all of them.

    Args:
        checkpoints: models, each named after its folder, or of runs/<name>/model after that of the run.
        folders: see `of_folder`.
        tracks: the songs.
        sample_rate, n_fft: of the oracles; None is that of the models, or 44.1 kHz and 2048 where there are none.
        options: of the models, see `Separator.from_pretrained`.

    Raises:
        FileNotFoundError, ValueError: something cannot be used, one line per problem.
    """
    runs, configs = [], []
    for path in checkpoints:
        separator, place = Separator.from_pretrained(path, **options), Path(os.path.abspath(path))
        while place.name in ("model", "model.safetensors", "config.json", "last.ckpt"):
            place = place.parent
        runs.append(_of_separator(separator, place.name, place.name))
        configs += [model.config for model in separator.models]
    runs += [of_folder(folder, tracks) for folder in folders]
    oracle = {"sample_rate": sample_rate, "n_fft": n_fft}
    for name, default in (("sample_rate", 44_100), ("n_fft", 2048)):
        values = {getattr(config, name) for config in configs} or {default}
        if oracle[name] is None and len(values) > 1:
            raise ValueError(f"the models differ in {name}: give the oracles' --{name}")
        oracle[name] = values.pop() if oracle[name] is None else oracle[name]
    runs += baseline_runs(tracks[0].sources, **oracle)
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two runs would have the name {twice[0]}: rename the folder of one")
    return runs


def _of_separator(separator: Separator, name: str, experiment: str, base_source: str = "", seed: int = 0) -> Run:
    (model,) = separator.models
    weights = [repr(model.config).encode()]
    weights += [part for key, tensor in model.state_dict().items() for part in (key.encode(), tensor.cpu().numpy())]
    return Run(
        name, separator.sources,
        lambda track, song: torch.stack(list(separator(song["mixture"], track.sample_rate).values())),
        {"experiment": experiment, "schema": model.config.schema, "base_source": base_source, "seed": seed},
        {"weights": _digest(weights), "hop": separator.hop, "bf16": separator.bf16}, is_model=True,
    )  # fmt: skip


def _digest(parts: Iterable[bytes | np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:12]


def of_folder(folder: Path, tracks: Sequence[Track]) -> Run:
    """Estimates that some other program wrote: `folder`/<track>/<source>.wav, or another suffix of `data.SUFFIXES`.

    Sources of which no track has an estimate are not scored.

    Raises:
        FileNotFoundError, ValueError: the folder or estimates are missing, or do not have their song's sample rate,
            channels and length; one line per problem.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; it should hold estimates as TRACK/SOURCE.wav")
    known, files, problems = tracks[0].sources, {}, []
    for track in tracks:
        place = folder / track.name
        found = sorted(place.iterdir()) if place.is_dir() else []
        files[track.name] = {file.stem: file for file in found if file.suffix.lower() in SUFFIXES}
    sources = tuple(source for source in known if any(source in stems for stems in files.values()))
    if not sources:
        raise ValueError(f"{folder}: holds no estimates; expected {tracks[0].name}/{known[0]}.wav and so on")
    for track in tracks:
        for source in sources:
            if file := files[track.name].get(source):
                problems += _mismatches(file, track)
            else:
                problems.append(f"{folder / track.name}: has no estimate of {source}")
    if problems:
        raise ValueError("\n".join(problems))
    states = [(file, file.stat()) for stems in files.values() for source, file in stems.items() if source in sources]
    return Run(
        folder.absolute().name, sources,
        lambda track, _: torch.stack([AudioFile(files[track.name][source]).read(0, track.length, track.sample_rate)
                                      for source in sources]),
        {"experiment": folder.absolute().name, "schema": "", "base_source": "", "seed": 0},
        {"files": _digest(f"{file.relative_to(folder).as_posix()} {state.st_size} {state.st_mtime_ns}\n".encode()
                          for file, state in states)},
    )  # fmt: skip


def _kind(channels: int) -> str:
    return {1: "mono", 2: "stereo"}.get(channels, f"of {channels} channels")


def _mismatches(file: Path, track: Track) -> list[str]:
    try:
        info = soundfile.info(file)
    except (soundfile.LibsndfileError, OSError):
        return [f"{file}: cannot be read as audio"]
    if info.samplerate != track.sample_rate:
        return [f"{file}: has a sample rate of {info.samplerate} Hz, not {track.sample_rate} as its song: resample it"]
    problems, excess = [], info.frames - track.length
    if info.channels != track.channels:
        problems.append(f"{file}: is {_kind(info.channels)}, its song {_kind(track.channels)}: convert it")
    if excess:
        what, cure = ("longer", "cut") if excess > 0 else ("shorter", "pad")
        count = f"{abs(excess)} sample{'s' * (abs(excess) > 1)}"
        problems.append(f"{file}: is {count} {what} than its song: see that both start together, then {cure} its end")
    return problems


def baseline_runs(sources: tuple[str, ...], sample_rate: int, n_fft: int) -> list[Run]:
    """What needs no model: the mixture and silence as estimates, and two oracles, which know the sources.

    "IRM" multiplies the mixture's STFT by the ideal ratio mask: each source's share in the sum of all magnitudes, as
    IRM1 in SiSEC 2018 (Stöter, Liutkus & Ito), whose IRM2 takes powers. "STFT" is the limit of any complex mask, and
    of the models: what is left of a source at `sample_rate`, in bins in which the mixture is not zero.

    Args:
        sources: of the songs.
        sample_rate, n_fft: of the oracles, in Hz and samples.
    """
    Config(sources, sample_rate=sample_rate, n_fft=n_fft)  # refuses what no model can have
    columns = {"experiment": "baseline", "schema": "", "base_source": "", "seed": 0}
    settings = {"sample_rate": sample_rate, "n_fft": n_fft}
    return [
        Run("mixture", sources, lambda _, song: song["mixture"].expand(len(sources), -1, -1), columns),
        Run("silence", sources, lambda _, song: torch.zeros(len(sources), *song["mixture"].shape), columns),
        Run("IRM", sources, partial(_masked, _ratio_mask, **settings), columns, settings),
        Run("STFT", sources, partial(_masked, _complex_mask, **settings), columns, settings),
    ]


def _ratio_mask(mixture: Tensor, stems: Tensor) -> Tensor:
    magnitudes = stems.abs()
    return mixture * magnitudes / magnitudes.sum(0).clamp_min(torch.finfo(magnitudes.dtype).tiny)


def _complex_mask(mixture: Tensor, stems: Tensor) -> Tensor:
    return stems.where(mixture != 0, 0)  # stems / mixture * mixture


def _masked(mask: Callable, track: Track, song: Mapping[str, Tensor], sample_rate: int, n_fft: int) -> Tensor:
    """All sources (S, C, L) by `mask`: STFT of a mixture (F, T) and its stems (S, F, T) to those of estimates."""
    signals = torch.stack(list(song.values())).transpose(0, 1)  # (C, 1 + S, L), the mixture first
    resampled = audio.resample(signals.flatten(0, 1), track.sample_rate, sample_rate).unflatten(0, signals.shape[:2])
    length, estimates = resampled.shape[-1], []
    for channel in resampled:
        spectra = stft(channel, n_fft)
        estimates.append(istft(mask(spectra[0], spectra[1:]), n_fft, length))
    back = audio.resample(torch.cat(estimates), sample_rate, track.sample_rate)[:, : track.length]
    back = torch.nn.functional.pad(back, (0, track.length - back.shape[-1]))
    return back.unflatten(0, (len(signals), -1)).transpose(0, 1)


def score(
    runs: Sequence[Run], tracks: Sequence[Track], *, split: str, data: str = "", out: Path | None = None,
    with_bsseval: bool = False, museval_folder: Path | None = None, audio_folder: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Score every run on every song.

    Args:
        runs: models and others, of different names.
        tracks: the songs.
        split: what the songs are, for the table.
        data: fingerprint of the songs.
        out: CSV file that gets the table after every song, see `Table`. What it holds already is not scored again.
        with_bsseval: also ISR, SIR and SAR, by museval in processes beside the separation of the next songs.
        museval_folder: gets <run>/<split>/<track>.json, which museval aggregates.
        audio_folder: gets <run>/<track>/<source>.wav of the models.

    Returns:
        the table: one row per run, track, source and metric: uSDR, cSDR and SI-SDR in dB, and medians over frames of
        ISR, SIR and SAR; NaN where the source is silent.

    Raises:
        ValueError: a run does not fit the songs, its estimate is not finite, or `out` holds scores of other settings.
        OSError: a file cannot be written, or a process of museval was ended.
    """
    for run in runs:
        check_sources(run.sources, tracks)
    if with_bsseval or museval_folder:
        bsseval.check()
    common = {"data": data, "split": split, "code": version("bsrnn")}
    table = Table({run.name: common | run.settings for run in runs}, [track.name for track in tracks], out)
    metrics = (*METRICS, *bsseval.METRICS) if with_bsseval else METRICS

    def is_done(run, track):
        files = [museval_folder / run.name / split / f"{track.name}.json"] if museval_folder else []
        if audio_folder and run.is_model:
            files += [audio_folder / run.name / track.name / f"{source}.wav" for source in run.sources]
        return table.holds(run.name, track.name, metrics) and all(file.is_file() for file in files)

    def finish(run, track, values, frames, heard, future):
        ratios = np.full((len(bsseval.METRICS), *frames.shape), np.nan)
        if future:
            ratios[:, heard] = future.result()
        if with_bsseval:
            values |= dict(zip(bsseval.METRICS, median(torch.from_numpy(ratios)), strict=True))
        if museval_folder:
            file = museval_folder / run.name / split / f"{track.name}.json"
            _write_museval(file, track, dict(zip(run.sources, np.stack([frames, *ratios], 1), strict=True)))
        table.add(run.name, track.name, pd.DataFrame(
            {"source": source, "track": track.name, "metric": metric, "value": float(value)}
            for metric, each in values.items() for source, value in zip(run.sources, each, strict=True)
        ).assign(run=run.name, split=split, **run.columns)[list(records.SCORE_COLUMNS)])  # fmt: skip
        bar.update()

    todo = [(track, run) for track in tracks for run in runs if not is_done(run, track)]
    if done := len(tracks) * len(runs) - len(todo):
        print(f"{out}: {done} of {done + len(todo)} were scored before", flush=True)
    waiting = deque()  # for museval
    with (bsseval.processes() if with_bsseval else nullcontext() as pool,
          tqdm(total=len(todo), unit="song", delay=2, disable=None) as bar):  # fmt: skip
        for run, track, references, estimates in _estimates(todo, bar):
            if audio_folder and run.is_model:
                _write_audio(audio_folder / run.name / track.name, track, run.sources, estimates)
            frames = csdr_frames(references, estimates, track.sample_rate)
            values = {"uSDR": usdr(references, estimates), "cSDR": median(frames),
                      "SI-SDR": si_sdr(references, estimates)}  # fmt: skip
            heard, future = ~(silent(references) | silent(estimates)), None  # museval refuses what is silent
            if with_bsseval and heard.any():
                pair = (signals[heard].numpy() for signals in (references, estimates))
                future = pool.submit(bsseval.ratios, *pair, track.sample_rate)
            waiting.append((run, track, values, frames, heard, future))
            while waiting and (len(waiting) > bsseval.PROCESSES or not waiting[0][-1] or waiting[0][-1].done()):
                finish(*waiting.popleft())
        while waiting:
            finish(*waiting.popleft())
    return table.whole()


def _estimates(todo: Sequence[tuple[Track, Run]], bar: tqdm) -> Iterator[tuple[Run, Track, Tensor, Tensor]]:
    """Each run and track with its references and estimates (S, C, L); songs are read once."""
    for track, pairs in groupby(todo, itemgetter(0)):
        song = {name: track.read(name) for name in ("mixture", *track.sources)}
        for _, run in pairs:
            bar.set_description(f"evaluating {run.name}", refresh=False)  # which would show it before its time
            estimates = run.estimate(track, song)
            if not estimates.isfinite().all():
                raise ValueError(f"{run.name}: its estimate of {track.name} is not finite")
            yield run, track, torch.stack([song[source] for source in run.sources]), estimates


class Table:
    """Score rows by run and track. With a file, they are those of the file as well, which is written whole each time,
    and a .settings.json beside it says what they depend on.

    Args:
        settings: what the scores of each run depend on.
        tracks: names of the songs, in order.
        file: a CSV file, or None.

    Raises:
        ValueError: the file holds scores of other settings, or of unknown ones.
    """

    def __init__(self, settings: Mapping[str, Mapping], tracks: Sequence[str], file: Path | None = None):
        self.file, self.rows = file, {}
        self.ranks = {key: rank for rank, key in enumerate((run, track) for run in settings for track in tracks)}
        if file is None:
            return
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder, not a file")
        note, before = file.with_suffix(".settings.json"), {}
        if file.exists():
            try:
                before = json.loads(note.read_text())
                self.rows = dict(iter(records.read_scores(file).groupby(["run", "track"], sort=False)))
            except (OSError, ValueError, KeyError):
                raise ValueError(f"{file} is there, but not as a table of scores with {note.name} beside it: remove it "
                                 "or choose another file") from None  # fmt: skip
        for run in sorted(settings.keys() & before.keys()):
            for name in sorted(settings[run].keys() | before[run].keys()):
                old, new = before[run].get(name), settings[run].get(name)
                if old != new:
                    raise ValueError(f"{file} holds scores of {run} with another {name} ({old}, now {new}): remove it "
                                     "or choose another file")  # fmt: skip
        records.save_json(note, before | settings)

    def holds(self, run: str, track: str, metrics: Sequence[str]) -> bool:
        """Whether a song has all of these metrics."""
        return (run, track) in self.rows and set(metrics) <= set(self.rows[run, track]["metric"])

    def add(self, run: str, track: str, rows: pd.DataFrame) -> None:
        self.rows[run, track] = rows
        if self.file:
            records.save_table(self.file, self.whole())

    def whole(self) -> pd.DataFrame:
        """All rows: those of other runs, then in the order of runs and tracks."""
        keys = sorted(self.rows, key=lambda key: self.ranks.get(key, -1))
        return pd.concat([self.rows[key] for key in keys], ignore_index=True)


def _write_audio(folder: Path, track: Track, sources: Sequence[str], estimates: Tensor) -> None:
    with records.written_together(folder) as partial:
        for source, stem in zip(sources, estimates, strict=True):
            file = partial / f"{source}.wav"
            audio.write(file, [stem], audio.Recording(file, track.sample_rate, track.channels, track.length))


def _write_museval(file: Path, track: Track, frames: Mapping[str, np.ndarray]) -> None:
    """A track's scores as museval writes them: source -> (SDR, ISR, SIR and SAR, frames)."""
    import museval

    store = museval.TrackStore(track.name)
    for source, ratios in frames.items():
        store.add_target(source, dict(zip(("SDR", *bsseval.METRICS), ratios.tolist(), strict=True)))
    with records.written_whole(file) as partial:
        store.save(partial)
