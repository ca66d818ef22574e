"""Recorded clips of a voice, analysed with the WORLD vocoder and cut into syllables.

L samples at 44.1 kHz, T frames of 5 ms, F = 1025 bins up to 22.05 kHz.
"""

import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from scipy import signal

RATE = 44_100  # Hz
FRAME = 0.005  # seconds
HOP = RATE * FRAME  # samples in a frame
FFT_SIZE = 2048
FREQUENCIES = np.arange(FFT_SIZE // 2 + 1) * RATE / FFT_SIZE  # Hz
RUMBLE = 70  # Hz
PITCH_FLOOR, PITCH_CEILING = 71.0, 650.0  # Hz; WORLD's floor goes with its FFT size
NOISE_STEP = 4  # frames; aperiodicity is what takes the time, and changes slowly
LOUDNESS_BAND = (FREQUENCIES > 250) & (FREQUENCIES < 4000)  # of vowels
FEWEST_VOICED = 12  # frames of a clip that can be sung
SPEECH_FLOOR = 38  # dB below the loudest frame
VOWEL_FLOOR = 22  # dB below the loudest vowel
DIP = 3  # dB between two vowels
VOWEL_EDGE = 7  # dB below a vowel's peak
SHORTEST_VOWEL = 9  # frames
LONGEST_ONSET, LONGEST_CODA = 36, 30  # frames of consonants
SYLLABLES_OF_A_CLIP = 6


@dataclass(frozen=True)
class Syllable:
    """Frames of a clip: consonants from `first`, a vowel from `vowel`, consonants from `coda`, to `stop`."""

    first: int
    vowel: int
    coda: int
    stop: int

    @property
    def onset(self) -> int:
        """How many frames sound before the vowel."""
        return self.vowel - self.first


@dataclass(frozen=True)
class Clip:
    """A recording, and what WORLD makes of it.

    Args:
        wave: (L,).
        voiced: (T,) booleans.
        spectrum: (T, F), the logarithm of the power.
        noise: (T / 4, F), the share of it that is noise.
        syllables: in order of time.
    """

    wave: np.ndarray = field(repr=False)
    voiced: np.ndarray = field(repr=False)
    spectrum: np.ndarray = field(repr=False)
    noise: np.ndarray = field(repr=False)
    syllables: tuple[Syllable, ...]

    def noise_at(self, frames: np.ndarray) -> np.ndarray:
        """The share of noise in some frames (N, F): all of it where nothing is voiced."""
        nearest = np.minimum((frames + NOISE_STEP // 2) // NOISE_STEP, len(self.noise) - 1)
        return np.where(self.voiced[frames, None], self.noise[nearest], 1.0)

    def spectrum_at(self, path: np.ndarray) -> np.ndarray:
        """The spectrum between frames (N, F): `path` says where, in frames."""
        below = path.astype(int)
        share = (path - below)[:, None]
        return self.spectrum[below] * (1 - share) + self.spectrum[below + 1] * share


@lru_cache(maxsize=200)
def analysed(path: Path) -> Clip | None:
    """A clip in WORLD's terms; None where no syllable is found.

    Raises:
        ValueError: the clip does not have 44.1 kHz.
    """
    wave, rate = soundfile.read(path, always_2d=True)
    if rate != RATE:
        raise ValueError(f"{path}: has {rate} Hz, not {RATE}")
    wave = signal.sosfiltfilt(signal.butter(2, RUMBLE, "highpass", fs=RATE, output="sos"), wave.mean(1))
    return _analysed(np.ascontiguousarray(wave))


def _analysed(wave: np.ndarray) -> Clip | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pkg_resources, which pyworld imports
        import pyworld

    pitch, times = pyworld.dio(wave, RATE, f0_floor=PITCH_FLOOR, f0_ceil=PITCH_CEILING, frame_period=1000 * FRAME)
    pitch = pyworld.stonemask(wave, pitch, times, RATE)
    voiced = pitch > 0
    if voiced.sum() < FEWEST_VOICED:
        return None
    power = pyworld.cheaptrick(wave, pitch, times, RATE, fft_size=FFT_SIZE)
    coarse = [np.ascontiguousarray(track[::NOISE_STEP]) for track in (pitch, times)]
    noise = np.minimum(pyworld.d4c(wave, *coarse, RATE, fft_size=FFT_SIZE), 0.999)
    loudness = 10 * np.log10(power[:, LOUDNESS_BAND].mean(1) + 1e-14)
    found = syllables(loudness, voiced)
    spectrum = np.log(power + 1e-14).astype(np.float32)
    return Clip(wave, voiced, spectrum, noise.astype(np.float32), found) if found else None


def syllables(loudness: np.ndarray, voiced: np.ndarray) -> tuple[Syllable, ...]:
    """Syllables of a clip: each has a vowel, which is a peak of loudness where the clip is voiced, and they part where
    it is quietest between.

    Args:
        loudness: of each frame, in dB.
        voiced: which frames have a pitch.
    """
    window = np.hanning(9) / np.hanning(9).sum()
    smooth = np.convolve(np.where(voiced, loudness, loudness - 20), window, "same")
    peaks = _vowel_peaks(smooth, voiced)
    heard = np.flatnonzero(loudness > loudness.max() - SPEECH_FLOOR)
    dips = [left + int(smooth[left:right].argmin()) for left, right in pairwise(peaks)]
    borders = [max(0, heard[0] - 2), *dips, min(len(smooth), heard[-1] + 3)]
    found = []
    for peak, start, stop in zip(peaks, borders[:-1], borders[1:], strict=True):
        vowel, coda = _vowel(voiced & (smooth > smooth[peak] - VOWEL_EDGE), peak, start, stop)
        if coda - vowel >= SHORTEST_VOWEL:
            first, last = max(start, vowel - LONGEST_ONSET), min(stop, coda + LONGEST_CODA)
            found.append(Syllable(int(first), int(vowel), int(coda), int(last)))
    return tuple(found[:SYLLABLES_OF_A_CLIP])


def _vowel_peaks(smooth: np.ndarray, voiced: np.ndarray) -> list[int]:
    """The loudest frame of each vowel."""
    tops, _ = signal.find_peaks(smooth, height=smooth.max() - VOWEL_FLOOR)
    peaks = []
    for top in tops[voiced[tops]]:
        if peaks and smooth[peaks[-1] : top].min() > min(smooth[peaks[-1]], smooth[top]) - DIP:
            peaks[-1] = max(peaks[-1], top, key=smooth.__getitem__)
        else:
            peaks.append(top)
    return [int(peak) for peak in peaks]


def _vowel(inside: np.ndarray, peak: int, start: int, stop: int) -> tuple[int, int]:
    """The run of frames around a peak that lie inside a vowel, within a syllable's borders."""
    outside = np.flatnonzero(~inside[start:stop]) + start
    before, after = outside[outside < peak], outside[outside > peak]
    return (before[-1] + 1 if len(before) else start), (after[0] if len(after) else stop - 1)


class Deck:
    """A singer's syllables, dealt in the order of clips that are shuffled again and again.

    Args:
        folder: of the singer's clips.
        rng: shuffles.
    """

    def __init__(self, folder: Path, rng: np.random.Generator):
        self.files = clips(folder)
        self.rng = rng
        self.order, self.queue = [], []

    def deal(self) -> tuple[Clip, Syllable]:
        """The next syllable, and the clip that it belongs to."""
        while not self.queue:
            if not self.order:
                self.order = list(self.rng.permutation(len(self.files)))
            if clip := analysed(self.files[self.order.pop()]):
                self.queue = [(clip, syllable) for syllable in clip.syllables]
        return self.queue.pop(0)


def clips(folder: Path) -> list[Path]:
    """The clips of a singer."""
    return sorted(folder.glob("*.ogg"))


def chained(folder: Path, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A singer's clips as they were recorded (frames,), in a shuffled order, equally loud, with pauses between."""
    files, chain, start = clips(folder), np.zeros(frames, np.float32), 0
    order = []
    while start < frames:
        order = order or list(rng.permutation(len(files)))
        wave, _ = soundfile.read(files[order.pop()], dtype="float32", always_2d=True)
        wave = wave.mean(1)
        wave = 0.1 * wave / max(1e-4, float(np.sqrt(np.mean(wave**2))))
        piece = wave[: frames - start] * 10 ** (rng.normal(0, 2) / 20)
        chain[start : start + len(piece)] = piece
        start += len(wave) + int(rng.exponential(0.3) * RATE)
    return chain
