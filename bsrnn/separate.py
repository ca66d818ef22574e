"""A song to its stems."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from tqdm import tqdm

from bsrnn import audio
from bsrnn.devices import autocast
from bsrnn.model import BSRNN
from bsrnn.spectral import istft, stft

BATCH = 16  # chunks in one call of the model, or in turns on the cores of a CPU


def separate(
    model: BSRNN, waveform: Tensor, sample_rate: int, *, overlap: int = 2, progress: bool = False
) -> Mapping[str, Tensor]:
    """Estimate the sources of a song of any length.

    The song is resampled to the model's rate and normalized, cut into equal chunks, which are separated one by one and
    overlap-added, and all of this is undone. With a mask of one the song comes back as it was.

    Args:
        model: on whatever device the work is to be done.
        waveform: (C, L).
        sample_rate: in Hz.
        overlap: how many chunks cover each sample; the hop is the chunk / overlap.
        progress: show a progress bar in a terminal.

    Returns:
        source -> (C, L), at `sample_rate`.
    """
    config = model.config
    song = audio.resample(waveform, sample_rate, config.sample_rate)
    gain = audio.normalization_gain(song)
    hop = max(1, round(config.chunk * config.sample_rate / overlap))
    stems = overlap_add(lambda chunks: estimate(model, chunks), song * gain, hop * overlap, hop, progress) / gain
    stems = audio.resample(stems, config.sample_rate, sample_rate)[..., : waveform.shape[-1]]
    return dict(zip(config.sources, stems, strict=True))


def estimate(model: BSRNN, chunks: Tensor) -> Tensor:
    """Separate chunks of a song: (B, C, L) -> (B, S, C, L), on the model's device and back.

    A GPU takes them all at once. On a CPU every core takes one at a time: cores that share one chunk, or the rows of a
    batch, wait for each other at every step of the LSTMs.
    """
    device = next(model.parameters()).device
    n_fft = model.config.n_fft
    bf16 = torch.is_autocast_enabled(device.type)  # threads do not inherit it

    @torch.inference_mode()
    def separated(part):
        with autocast(device, bf16):
            return istft(model(stft(part.to(device), n_fft)), n_fft, part.shape[-1]).cpu()

    cores = torch.get_num_threads()
    workers = min(cores, len(chunks))
    if device.type != "cpu" or workers == 1:
        return separated(chunks)
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(cores // workers,)) as pool:
        results = list(pool.map(separated, chunks.split(1)))
    torch.set_num_threads(cores)  # the workers' setting is also that of threads to come
    return torch.cat(results)


def overlap_add(
    process: Callable[[Tensor], Tensor], song: Tensor, size: int, hop: int, progress: bool = False
) -> Tensor:
    """Apply `process` to overlapping chunks of a song and join the results by windows that sum to one.

    The song is padded with silence so that every sample lies in size / hop chunks; its length is free.

    Args:
        process: (B, C, size) -> (B, S, C, size).
        song: (C, L).
        size: of a chunk in samples, a multiple of `hop`.
        hop: between the starts of chunks in samples.
        progress: show a progress bar in a terminal.

    Returns:
        (S, C, L)
    """
    length = song.shape[-1]
    margin = size - hop
    count = -(-(length + margin) // hop)  # chunks, the first of which starts `margin` before the song
    padded = torch.nn.functional.pad(song, (margin, count * hop + margin - length - margin))
    chunks = padded.unfold(-1, size, hop).transpose(0, 1)  # (count, C, size)
    # a triangle is never zero, so the first and last samples of a chunk need no special case
    window = torch.minimum(torch.arange(1, size + 1), torch.arange(size, 0, -1)).float()
    weight = song.new_zeros(padded.shape[-1])
    stems = None
    with tqdm(total=count, unit="chunk", disable=None if progress else True, leave=False, delay=2) as bar:
        for first in range(0, count, BATCH):
            for i, result in enumerate(process(chunks[first : first + BATCH]), first):
                if stems is None:
                    stems = song.new_zeros(*result.shape[:-1], padded.shape[-1])
                stems[..., i * hop : i * hop + size] += result * window
                weight[i * hop : i * hop + size] += window
                bar.update()
    inside = slice(margin, margin + length)
    return stems[..., inside] / weight[inside]
