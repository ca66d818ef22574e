"""A song to its stems: in memory, or from file to files, of any length."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from bsrnn import audio, checkpoint, pretrained
from bsrnn.config import FORMATS, LOUDNESS
from bsrnn.devices import autocast, by_item, gains_by_bf16, torch_device
from bsrnn.files import written_together
from bsrnn.model import BSRNN
from bsrnn.spectral import istft, stft

BATCH = 64  # chunks at once on a GPU; one that is short of memory halves them
BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.0f} of {total_fmt} s [{elapsed}<{remaining}]"
PASSAGE, FADE = 11, 1  # seconds that a chunk adds, and over which the one before fades out: as arXiv 2603.09187 does
LONGEST, OVERLAP = 2, 8  # a chunk in trained ones at most, and the part of a trained one by which chunks overlap
RESIDUAL = "residual"
MOST_CHANNELS = 64  # of an array: one with more is probably the other way round


class Separator:
    """One or several models, on one device, that separate songs together: in long chunks, or as `config.fader` says, or
    with a `hop` in seconds, see `separated`; and with matrix products in bfloat16 if wanted. Raises ValueError where
    two of them estimate the same source, or the hop does not fit one."""

    def __init__(self, models: Sequence[BSRNN], *, hop: float | None = None, bf16: bool = False):
        self.models, self.hop, self.bf16 = list(models), hop, bf16
        self.sources = tuple(source for model in self.models for source in model.config.sources)
        if twice := sorted({source for source in self.sources if self.sources.count(source) > 1}):
            raise ValueError(f"several models estimate {twice[0]}: leave one of them out")
        for model in self.models:
            _samples(model, hop)

    @classmethod
    def from_pretrained(
        cls,
        *checkpoints: str | os.PathLike,
        sources: Sequence[str] | None = None,
        hop: float | None = None,
        device: str = "auto",
        bf16: bool | None = None,
    ) -> "Separator":
        """Load models from folders or checkpoint files, see `checkpoint.load`, or published ones by name, which are
        fetched on first use; none means `open`, which comes with this package. `device` is auto, cpu, cuda or cuda:1;
        `sources` None means all that they can estimate, `bf16` None where it gains. Raises FileNotFoundError or
        ValueError where a model cannot be loaded or a source estimated, and OSError where one cannot be fetched."""
        target = torch_device(device)
        folders = [folder for path in checkpoints for folder in pretrained.folders(path)]
        models = [checkpoint.load(folder) for folder in folders or [pretrained.place(pretrained.OPEN)]]
        known = [source for model in models for source in model.config.sources]
        wanted = known if sources is None else [sources] if isinstance(sources, str) else sources
        if (unknown := [repr(source) for source in wanted if source not in known]) or not wanted:
            raise ValueError(f"no model estimates {', '.join(unknown) or 'nothing'}: choose from {', '.join(known)}")
        kept = [[source for source in model.config.sources if source in wanted] for model in models]
        models = [model.keep_heads(names) for model, names in zip(models, kept, strict=True) if names]
        bf16 = gains_by_bf16(target) if bf16 is None else bf16
        autocast(target, bf16)  # refuses what the device lacks
        return cls([model.to(target) for model in models], hop=hop, bf16=bf16)

    def __call__(self, waveform: Tensor | np.ndarray, sample_rate: int, *, long: bool = True) -> dict[str, Any]:
        """Separate a song that is in memory, floats (C, L) or (L,) with full scale 1 at a rate in Hz: source -> an
        array of the same kind, shape and type. `long` is that of `separated`. Raises ValueError where it is no such
        waveform."""
        song = torch.tensor(np.array(waveform)) if isinstance(waveform, np.ndarray) else waveform.detach()
        flat = torch.atleast_2d(song.cpu().float())
        if not song.is_floating_point() or song.ndim not in (1, 2) or not song.numel() or len(flat) > MOST_CHANNELS:
            raise ValueError(f"expected floats of shape (channels, samples), not {song.dtype} {tuple(song.shape)}")
        if not flat.isfinite().all():
            raise ValueError("the waveform holds samples that are not finite (NaN or infinity)")
        stems = {}
        with autocast(_device(self.models[0]), self.bf16):
            for model in self.models:
                stems |= separate(model, flat, sample_rate, hop=self.hop, long=long)
        stems = {source: stem.reshape(song.shape).to(song) for source, stem in stems.items()}
        return {source: stem.numpy() if isinstance(waveform, np.ndarray) else stem for source, stem in stems.items()}

    def separate_file(
        self,
        song: str | os.PathLike,
        folder: str | os.PathLike,
        *,
        form: str = "wav",
        residual: bool = False,
        loudness: str = "rescale",
        progress: bool = False,
    ) -> "Written":
        """Separate a file into files, `folder`/<source>.wav and so on, at its own sample rate and length, in memory
        that does not grow with the song. The files appear at the end, and none of them where anything goes wrong
        before: FileNotFoundError or ValueError where the song cannot be used, or the format does not hold it, and
        OSError where the files cannot be written.

        Args:
            form: of the files, one of `config.FORMATS`.
            residual: also write what is left of the song after all estimated sources.
            loudness: where stems exceed what the format holds: "rescale" all by one gain, or "clamp" what exceeds.
            progress: show a bar in a terminal."""
        if form not in FORMATS or loudness not in LOUDNESS:
            raise ValueError(
                f"unknown form {form!r} or loudness {loudness!r}: see FORMATS and LOUDNESS in bsrnn.config"
            )
        recording = audio.Recording.open(song)
        targets = self.targets(folder, form, residual)
        if recording.path.resolve() in {target.resolve() for target in targets.values()}:
            raise ValueError(f"{song}: its stems would be written over it: choose another folder")
        with written_together(Path(folder)) as new, autocast(_device(self.models[0]), self.bf16):
            stems = {name: new / path.name for name, path in targets.items()}
            audio.write([*stems.values()], [], recording, form)  # refuses now what it would refuse at the end
            levels = audio.Levels.of(_shown(recording.blocks(), recording, "listening", progress))
            recording = replace(recording, length=levels.length)
            floats = stems if form == "wav" else {name: new / f"{name}.floats" for name in targets}
            parts = {
                m.config.sources: separated(m, recording.blocks(), recording.sample_rate, levels, self.hop, long=True)
                for m in self.models
            }
            if residual:
                parts[RESIDUAL,] = _rest(recording.blocks(), [floats[source] for source in self.sources])
            peak = 0.0
            for names, blocks in parts.items():
                blocks = _shown(blocks, recording, ", ".join(names), progress)
                peak = max(peak, audio.write([floats[name] for name in names], blocks, recording))
            gain = 1 / peak if form != "wav" and loudness == "rescale" and peak > 1 else 1.0
            if form != "wav":
                for name, path in stems.items():
                    blocks = (gain * block[None] for block in audio.Recording.open(floats[name]).blocks())
                    audio.write([path], _shown(blocks, recording, path.name, progress), recording, form)
                    floats[name].unlink()
        return Written(tuple(targets.values()), peak, gain)

    def targets(self, folder: str | os.PathLike, form: str = "wav", residual: bool = False) -> dict[str, Path]:
        """The files that `separate_file` writes: source -> path."""
        if residual and RESIDUAL in self.sources:
            raise ValueError(f"{RESIDUAL} is a source of a model: it cannot be both")
        names = [*self.sources, RESIDUAL] if residual else self.sources
        return {name: Path(folder, name + FORMATS[form][0]) for name in names}


@dataclass(frozen=True)
class Written:
    """What `Separator.separate_file` wrote."""

    files: tuple[Path, ...]
    peak: float  # of all estimates, before the gain
    gain: float  # below 1 where they were rescaled to fit the format


def find_songs(inputs: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Songs, which are files, or all audio files in folders but hidden ones and what lies in `out`, and the folder in
    `out` for the stems of each: named as the file, a second one of that name with its suffix, and below the folders the
    song was found in. ValueError where `out` is one of the inputs, or two songs' stems would have the same place."""
    found = {}  # real path -> song, and where the folder for its stems is to be
    for path in inputs:
        if os.path.isdir(path) and os.path.realpath(path) == os.path.realpath(out):
            raise ValueError(f"{path}: holds the songs, and cannot be the folder of the stems as well")
        for song in _audio_files(path, os.path.realpath(out)):
            found.setdefault(os.path.realpath(song), (song, out / song.relative_to(path).parent))
    songs = {}  # place -> song
    for song, parent in found.values():
        places = [parent / name for name in (song.stem, song.name) if name.strip(".")]
        free = [place for place in places if place not in songs]
        if not free:
            raise ValueError(f"{song}: its stems would have the place of those of {songs[places[0]]}: rename it")
        songs[free[0]] = song
    return {song: place for place, song in songs.items()}


def _audio_files(path: Path, out: str) -> list[Path]:
    """The audio files in a folder and below, but not in `out`, and folders that are locked; or `path` itself, where it
    is a file or a folder of none: what cannot be read is told later."""
    found = []
    for parent, folders, names in os.walk(path, onerror=lambda error: found.append(Path(error.filename))):
        folders[:] = [name for name in folders if name[0] != "." and os.path.realpath(Path(parent, name)) != out]
        found.extend(Path(parent, x) for x in names if x[0] != "." and Path(x).suffix.lower() in audio.SUFFIXES)
    return sorted(found) or [path]


def _shown(blocks: Iterable[Tensor], recording: audio.Recording, what: str, progress: bool) -> Iterator[Tensor]:
    """The same blocks, with a progress bar in seconds of sound."""
    text, total = f"{recording.path.name}: {what}", round(recording.length / recording.sample_rate) or None
    with tqdm(desc=text, total=total, bar_format=BAR, leave=False, delay=2, disable=None if progress else True) as bar:
        for block in blocks:
            yield block
            bar.update(block.shape[-1] / recording.sample_rate)


def _rest(song: Iterable[Tensor], files: Sequence[Path]) -> Iterator[Tensor]:
    """What is left of a song, which comes in blocks (C, any length), after its stems, as blocks (1, C, n)."""
    start, stems = 0, [audio.Recording.open(file) for file in files]
    for block in song:
        yield (block - sum(stem.read(start, block.shape[-1]) for stem in stems))[None]
        start += block.shape[-1]


def separate(
    model: BSRNN, waveform: Tensor, sample_rate: int, *, hop: float | None = None, long: bool = False
) -> dict[str, Tensor]:
    """Estimate the sources of a song that is in memory: source -> (C, L), at its own rate. See `separated`."""
    stems = separated(model, [waveform], sample_rate, audio.Levels.of([waveform]), hop, long)
    return dict(zip(model.config.sources, torch.cat(list(stems), -1), strict=True))


def separated(
    model: BSRNN, song: Iterable[Tensor], sample_rate: int, levels: audio.Levels, hop: float | None, long: bool
) -> Iterator[Tensor]:
    """Estimate the sources of a song, blocks (C, any length) at a rate in Hz, whose length and loudness `levels` tell:
    yields blocks (S, C, n) at that rate, together as long as the song. It is normalized and resampled to the model's
    rate, cut into equal chunks, which are separated one by one and overlap-added, and all of this is undone. With a
    mask of one the song comes back as it was. How the song is cut into blocks changes nothing.

    Args:
        hop: seconds between the starts of chunks, above 0 and at most a chunk, or ValueError is raised. None is half a
            chunk; with `config.fader`, the peak then becomes 1, and chunks are those of `crossfade`.
        long: without a hop, take chunks of up to `LONGEST` trained ones, which overlap by a part of one: 1.07 times the
            work of chunks side by side, not 2, for 0.02 dB. Published scores are of half a chunk."""
    config, rate = model.config, model.config.sample_rate
    faded = config.fader and hop is None
    gain = 1 / levels.peak if faded and levels.peak > audio.SILENT else levels.gain
    normalized = audio.resampled((gain * block for block in song), sample_rate, rate)
    process = partial(estimate, model)
    if faded:
        estimates = crossfade(process, normalized, PASSAGE * rate, FADE * rate)
    else:
        size, step = _samples(model, hop)
        batch = BATCH if _device(model).type == "cuda" else 2 * torch.get_num_threads()
        if long and hop is None:
            size, step = _long_chunks(size, round(levels.length * rate / sample_rate))
            batch = -(-batch // LONGEST)
        estimates = overlap_add(process, normalized, size, step, batch)
    left = levels.length
    for block in audio.resampled((stems.flatten(0, 1) / gain for stems in estimates), rate, sample_rate):
        yield block[:, :left].unflatten(0, (len(config.sources), -1))
        left -= min(left, block.shape[-1])
    if left:  # a song that was resampled twice may have lost a sample or two; if it had no more, it is all zeros
        yield torch.zeros(len(config.sources), levels.channels, left)


def _samples(model: BSRNN, hop: float | None) -> tuple[int, int]:
    """Size and hop in samples of chunks as long as in training; no hop is half of one."""
    config, size = model.config, model.config.chunk_samples
    if hop is None:
        return size, -(-size // 2)
    if not 1 / config.sample_rate <= hop <= config.chunk:
        raise ValueError(f"hop must be above 0 and at most the model's chunk of {config.chunk:g} s, not {hop} s")
    return size, min(size, round(hop * config.sample_rate))


def _long_chunks(trained: int, length: int) -> tuple[int, int]:
    """Size and hop of the fewest equal chunks, of at most `LONGEST` trained ones, that cover a length in samples."""
    overlap = trained // OVERLAP
    count = -(-(length + overlap) // (LONGEST * trained - overlap))
    hop = -(-(length + overlap) // count)
    return hop + overlap, hop


def _device(model: BSRNN) -> torch.device:
    return next(model.parameters()).device


def estimate(model: BSRNN, chunks: Tensor) -> Tensor:
    """Separate chunks of a song: (B, C, L) -> (B, S, C, L), on the model's device and back."""
    config, length = model.config, chunks.shape[-1]

    @torch.inference_mode()
    def of_items(part):  # (b, c, L) -> (b, S, c, L)
        return istft(model(stft(part, config.n_fft, config.padding)), config.n_fft, length)

    def attempt(items):
        try:
            return by_item(of_items, items).cpu()
        except torch.OutOfMemoryError:
            if len(items) == 1:
                raise
        torch.cuda.empty_cache()
        return torch.cat([attempt(half) for half in items.chunk(2)])

    items = chunks if config.tac else chunks.flatten(0, 1)[:, None]  # (B, C, L) or (B * C, 1, L)
    results = attempt(items.to(_device(model)))  # (B, S, C, L) or (B * C, S, 1, L)
    return results.unflatten(0, (len(chunks), -1)).transpose(1, 2).flatten(2, 3)


def overlap_add(
    process: Callable[[Tensor], Tensor], song: Iterable[Tensor], size: int, hop: int, batch: int = 16
) -> Iterator[Tensor]:
    """Apply `process`, (B, C, size) -> (B, S, C, size), to overlapping chunks of a song in blocks (C, any length), at
    most `batch` at once, and join the results by windows that sum to one: yields blocks (S, C, n), together as long as
    the song. A chunk starts `hop` samples, at most `size`, after the one before. Padded with silence, the song's ends
    lie in as many chunks as its middle."""
    margin = size - hop
    # a triangle is never zero, so the first and last samples of a chunk need no special case
    window = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1)).float()
    weights = pad(window, (0, -size % hop)).view(-1, hop).sum(0)  # all windows over a sample; the next hop has the same
    pending, sums = torch.zeros(1, margin), torch.zeros(margin)  # input, and results, from the next chunk on
    position, length = -margin, 0  # where the next chunk starts in the song, and the length of the song so far
    for block in chain(song, [None]):
        if block is None:
            pending, wanted = pad(pending, (0, -pending.shape[-1] % hop + margin)), size
        else:
            length += block.shape[-1]
            pending, wanted = torch.cat([pending.expand(len(block), -1), block], -1), size + (batch - 1) * hop
        while pending.shape[-1] >= wanted:
            chunks = pending.unfold(-1, size, hop)[:, :batch].transpose(0, 1)
            for result in process(chunks):
                total = pad(sums, (0, hop)) + result * window
                yield (total[..., :hop] / weights)[..., max(0, -position) : length - position]
                sums, position = total[..., hop:], position + hop
            pending = pending[:, len(chunks) * hop :]


def crossfade(process: Callable[[Tensor], Tensor], song: Iterable[Tensor], size: int, fade: int) -> Iterator[Tensor]:
    """What `overlap_add` does, with long chunks that fade into each other linearly: the first is the first `size`
    samples; each next one begins `fade` before the end of the one before, and ends `size` after it, or where the song
    does."""
    rise = torch.linspace(0, 1, fade)
    # the song from the next chunk on, the length of that chunk, and the end of the one before, which fades out
    pending, wanted, end = torch.zeros(1, 0), size, torch.zeros(0)
    for block in chain(song, [None]):
        if block is not None:
            pending = torch.cat([pending.expand(len(block), -1), block], -1)
        # at the song's end there is a chunk more only if something is left after the end of the one before
        while pending.shape[-1] > (end.shape[-1] if block is None else wanted):
            start, rest = process(pending[None, :, :wanted])[0].tensor_split([end.shape[-1]], -1)
            result = torch.cat([end.lerp(start, rise[: end.shape[-1]]), rest], -1)
            yield result[..., :-fade]
            end, pending, wanted = result[..., -fade:], pending[:, wanted - fade :], size + fade
    if end.numel():
        yield end
