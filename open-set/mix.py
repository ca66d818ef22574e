"""Stems as a mixing desk leaves them: coloured, balanced, and written beside their exact sum.

Signals are (L, 2) at 44.1 kHz.
"""

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy import fft, signal

from bsrnn.data import STEMS
from bsrnn.files import written_together

RATE = 44_100  # Hz
PEAK = 0.9
BLOCK = 0.1  # seconds in which a level is measured
SILENCE = 40  # dB below the loudest block

# Levels relative to each other, between those of the real song that comes with stempeg (drums -4.1 dB, bass -2.9 dB,
# other -5.4 dB relative to the mixture) and equal ones, and how far songs are from them; our choice
BALANCE = {"drums": -4.5, "bass": -4.0, "other": -4.0}  # dB
SPREAD, FARTHEST = 2.0, 4.0  # dB, standard deviation and limit
EQUALIZER = (60, 150, 400, 1000, 2500, 6000, 14_000)  # Hz
EQUALIZER_SPREAD = 2.0  # dB


@dataclass(frozen=True)
class Treatment:
    """How often the stems of one kind are treated in one way; our choice, so that no effect tells a stem."""

    saturated: float
    doubled: float
    in_room: float


TREATMENTS = {
    "drums": Treatment(saturated=0.3, doubled=0.0, in_room=0.35),
    "bass": Treatment(saturated=0.4, doubled=0.1, in_room=0.1),
    "other": Treatment(saturated=0.3, doubled=0.3, in_room=0.4),
    "vocals": Treatment(saturated=0.3, doubled=0.3, in_room=0.85),
}


def level(samples: np.ndarray) -> float:
    """The RMS of a signal where it sounds: of the blocks of 0.1 s that are at most 40 dB below the loudest."""
    size = int(BLOCK * RATE)
    blocks = samples[: len(samples) // size * size].reshape(-1, size * samples.shape[1])
    power = np.mean(blocks.astype(np.float64) ** 2, axis=1)
    sounding = power[power > power.max() * 10 ** (-SILENCE / 10)]
    return float(np.sqrt(sounding.mean())) if len(sounding) else 0.0


def treated(stem: str, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A stem with the equalizer, saturation, doubling and room that are drawn for it."""
    chances = rng.random(3)
    result = equalized(samples, rng.normal(0, EQUALIZER_SPREAD, len(EQUALIZER)))
    treatment = TREATMENTS[stem]
    if chances[0] < treatment.saturated:
        result = saturated(result, rng.uniform(0.5, 2.0))
    if chances[1] < treatment.doubled:
        result = doubled(result, rng)
    if chances[2] < treatment.in_room:
        result = in_room(result, rng.uniform(0.3, 1.5), rng.uniform(-20, -11), rng)
    return result.astype(np.float32)


def equalized(samples: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """A signal whose level at each frequency of `EQUALIZER` is changed by so many dB, smoothly between them."""
    size = fft.next_fast_len(len(samples), real=True)
    frequencies = np.maximum(fft.rfftfreq(size, 1 / RATE), 1.0)
    curve = 10 ** (np.interp(np.log(frequencies), np.log(EQUALIZER), gains) / 20)
    return fft.irfft(fft.rfft(samples, size, axis=0) * curve[:, None], size, axis=0)[: len(samples)]


def saturated(samples: np.ndarray, drive: float) -> np.ndarray:
    """A signal through a soft limiter. At a drive of 1, its level is where the limiter begins to bend."""
    scale = drive / max(3 * level(samples), 1e-9)
    return np.tanh(samples * scale) / scale


def doubled(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A signal and two copies of it, softer, on either side, late by 12 to 30 ms, which waver in pitch."""
    time = np.arange(len(samples)) / RATE
    middle, result = samples.mean(1), samples.astype(np.float64)
    for side in range(2):
        delay = rng.uniform(0.012, 0.030) + rng.uniform(1e-3, 3e-3) * np.sin(
            2 * np.pi * (rng.uniform(0.15, 0.6) * time + rng.random())
        )
        copy = np.interp(time - delay, time, middle, left=0.0)
        result[:, side] += copy * 10 ** (rng.uniform(-9, -3) / 20)
    return result


def in_room(samples: np.ndarray, decay: float, wet: float, rng: np.random.Generator) -> np.ndarray:
    """A signal with the echo of a room, which differs between the sides.

    Args:
        samples: the signal.
        decay: seconds until the echo is 60 dB down.
        wet: the echo's level in dB, relative to the signal.
        rng: draws the room.
    """
    time = np.arange(int(1.1 * decay * RATE)) / RATE
    result = samples.astype(np.float64)
    for side in range(2):
        echo = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay) * (time > rng.uniform(0.008, 0.03))
        echo = signal.sosfilt(signal.butter(1, [250, 6000], "bandpass", fs=RATE, output="sos"), echo)
        echo *= 10 ** (wet / 20) / np.sqrt((echo**2).sum())
        result[:, side] += signal.oaconvolve(samples[:, side], echo)[: len(samples)]
    return result


def balanced(stems: Mapping[str, np.ndarray], vocals_db: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Stems with levels that are drawn around those of `BALANCE`, and vocals with theirs.

    Args:
        stems: drums, bass, other and vocals; a silent one stays silent.
        vocals_db: the vocals' level in dB above that of the other three together.
        rng: draws the levels.
    """
    offsets = np.clip(rng.normal(0, SPREAD, len(BALANCE)), -FARTHEST, FARTHEST)
    balance = {
        stem: _at_level(stems[stem], 10 ** ((usual + offset) / 20) / 10)
        for (stem, usual), offset in zip(BALANCE.items(), offsets, strict=True)
    }
    loudness = level(sum(balance.values())) * 10 ** (vocals_db / 20)
    return {**balance, "vocals": _at_level(stems["vocals"], loudness)}


def _at_level(samples: np.ndarray, wanted: float) -> np.ndarray:
    return (samples * (wanted / max(level(samples), 1e-9))).astype(np.float32)


@contextmanager
def song_written(folder: Path, stems: Mapping[str, np.ndarray]):
    """Write a song's stems, 16 bit, and their exact sum; yields the folder in which what belongs to it can be put, all
    of which appears together. Stems are brought down together where one, or their sum, would pass a peak of 0.9; a
    missing one is silent."""
    length = min(map(len, stems.values()))
    stems = {stem: stems.get(stem, np.zeros((length, 2), np.float32))[:length] for stem in STEMS}
    peak = max(float(np.abs(samples).max()) for samples in (sum(stems.values()), *stems.values()))
    gain = min(1.0, PEAK / max(peak, 1e-9))
    integers = {stem: np.round(samples * gain * 32767).astype(np.int32) for stem, samples in stems.items()}
    with written_together(folder) as partial:
        yield partial
        for name, samples in {**integers, "mixture": sum(integers.values())}.items():
            soundfile.write(partial / f"{name}.wav", samples.astype(np.int16), RATE, subtype="PCM_16")
