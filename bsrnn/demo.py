"""A small generated data set in MUSDB18-HQ layout, so that all runs without downloading music. Four players read a
score: drums are transients and noise, bass is one low voice, other is steady harmony, vocals glide from vowel to vowel.
Spectra overlap as in music, yet a small model learns the difference in a minute. Not in the paper; our choice."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.ndimage import uniform_filter1d
from scipy.signal import butter, istft, oaconvolve, sawtooth, sosfilt, stft
from tqdm import tqdm

from bsrnn.files import locked, written_whole

RATE = 44_100  # Hz
SPLITS = ("train", "test")
VERSION = 2  # of the generator: raise it when the same parameters give other samples

SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))  # major and minor, in semitones above the key
PROGRESSIONS = ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (0, 5, 2, 6), (0, 2, 3, 4))  # a degree a bar
RHYTHMS = {  # a character for each sixteenth of a bar: x starts a note, - holds it
    "kick": ("x.......x.......", "x.....x.x.......", "x..x..x...x.....", "x.x....x..x.....", "x...x...x...x..."),
    "snare": ("....x.......x...", "....x..x....x..x", "....x.......x.x."),
    "hat": ("x.x.x.x.x.x.x.x.", "..x...x...x...x.", "xxxxxxxxxxxxxxxx", "x...x...x...x.x."),
    "bass": ("x-x-x-x-x-x-x-x-", "x-----x-x---x-x-", "x---x---x---x---", "x---------------", "x--x--x-----x---"),
    "chords": ("x---------------", "x-------x-------", "x-----x---------", "..x-..x-..x-..x-", "x---x---x---x---"),
    "riff": ("x-..x-x-..x-..x-", "..x-x-..x-..x-x-", "x-x-..x-x-x-..x-"),
    "vocals": ("x---x-x-------..", "x-x-x-x-x------.", "..x-x---x------.", "x-------x---x-..", "x-x---x-x-x-----"),
}
# The first three formants in Hz of a man's a, e, i, o and u
VOWELS = np.array([(730, 1090, 2440), (530, 1840, 2480), (280, 2250, 2950), (560, 850, 2410), (310, 870, 2240)])


@dataclass(frozen=True)
class Score:
    """What the players of a song agree on."""

    samples: int
    step: float  # seconds of a sixteenth of a bar
    scale: tuple[int, ...]  # pitch classes of its seven degrees, 0 = C
    chords: tuple[int, ...]  # degree of the chord of each bar; the bars cover the samples

    def pitch(self, degree: int, lowest: int) -> int:
        """MIDI number of the first note of that degree of the scale at or above `lowest`."""
        return lowest + (self.scale[degree % 7] - lowest) % 12

    def notes(self, rng: np.random.Generator, part: str, rest: float = 0.08) -> Iterator[tuple[float, float, int]]:
        """Start and length in seconds and chord of the notes of a part, which rests in some bars, but the first two."""
        rhythm = rng.choice(RHYTHMS[part])
        for bar, chord in enumerate(self.chords):
            if bar < 2 or rng.random() > rest:
                for note in re.finditer("x-*", rhythm):
                    yield (16 * bar + note.start()) * self.step, len(note[0]) * self.step, chord


def bandpass(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """What lies between two frequencies in Hz."""
    return np.asarray(sosfilt(butter(2, (low, high), "band", fs=RATE, output="sos"), x))


def hit(rng: np.random.Generator, decay: float, tone: float, pitch: float, noise: float, low: float) -> np.ndarray:
    """A drum: so much of a tone that falls to a pitch in Hz and of noise above `low` Hz, fading in `decay` seconds."""
    t = np.arange(round(5 * decay * RATE)) / RATE
    skin = np.sin(2 * np.pi * np.cumsum(pitch * (1 + 2 * np.exp(-t / 0.02))) / RATE)
    return np.exp(-t / decay) * (tone * skin + noise * bandpass(rng.standard_normal(len(t)), low, 11_000))


def instrument(rng: np.random.Generator, partials: int, slope: float, fade: float, attack: float) -> Callable:
    """A timbre of partials that are almost harmonic, as a function of a MIDI number and the seconds that it is held.
    Partial k has a gain of about k ** -slope; the first fades at a rate in 1/s, 0 for an organ, the upper ones faster;
    `attack` is the seconds until a note is loudest."""
    k = np.arange(1, partials + 1)[:, None]
    gains, ratios = rng.uniform(0.3, 1, k.shape) * k**-slope, k * rng.normal(1, 0.001, k.shape)

    @cache
    def sound(midi: int, seconds: float) -> np.ndarray:
        t, hertz = np.arange(round((seconds + 0.1) * RATE)) / RATE, 440 * 2 ** ((midi - 69) / 12) * ratios
        waves = gains * (hertz < 16_000) * np.exp(-fade * (0.7 + 0.3 * k) * t) * np.sin(2 * np.pi * hertz * t)
        return waves.sum(0) * np.minimum(t / attack, 1) * np.clip((t[-1] - t) / 0.1, 0, 1)

    return sound


def sing(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """A source (L,) through a mouth whose formants (3, L) in Hz shape its spectrum, and move."""
    hertz, times, frames = stft(source, RATE, nperseg=1024)
    centres = formants[:, np.minimum(np.round(times * RATE).astype(int), len(source) - 1)]
    shapes = zip(centres, (80, 100, 140), (1.0, 0.7, 0.5), strict=True)  # Hz, width in Hz, gain
    mouth = sum(gain / (1 + ((hertz[:, None] - centre) / width) ** 2) for centre, width, gain in shapes)
    return istft(frames * mouth, RATE, nperseg=1024)[1][: len(source)]


def placed(notes: Iterable[tuple[float, np.ndarray]], samples: int, position: float) -> np.ndarray:
    """A stereo track (2, L) of sounds and their starts in seconds, at a position from -1, left, to 1, right."""
    track, angle = np.zeros(samples), (position + 1) * np.pi / 4
    for start, sound in notes:
        first = round(start * RATE)
        track[first : first + len(sound)] += sound[: max(0, samples - first)]
    return np.outer((np.cos(angle), np.sin(angle)), track)


def play_drums(rng: np.random.Generator, score: Score) -> np.ndarray:  # stereo (2, L), as all players
    """A groove on one kit, a few milliseconds off the grid."""
    kit = {
        "kick": hit(rng, rng.uniform(0.1, 0.2), 1.4, rng.uniform(42, 62), 0.08, 1_000),
        "snare": hit(rng, rng.uniform(0.06, 0.14), 0.7, rng.uniform(160, 240), 1.4, rng.uniform(500, 1_500)),
        "hat": hit(rng, rng.uniform(0.015, 0.06), 0.0, 0.0, 0.9, rng.uniform(5_000, 8_000)),
    }
    stem = np.zeros((2, score.samples))
    for part, sound in kit.items():
        hits = ((at + rng.uniform(0, 0.006), rng.uniform(0.7, 1.1) * sound) for at, *_ in score.notes(rng, part))
        stem += placed(hits, score.samples, rng.uniform(-0.3, 0.3))
    return stem


def play_bass(rng: np.random.Generator, score: Score) -> np.ndarray:
    """A line of roots and some fifths from E1 (41 Hz) upwards, plucked or held; centred."""
    voice = instrument(rng, 14, rng.uniform(0.7, 1.5), rng.choice([0.3, 3]), 0.006)
    notes = (
        (start, voice(score.pitch(chord + rng.choice([0, 0, 0, 4]), 28), seconds))
        for start, seconds, chord in score.notes(rng, "bass")
    )
    return placed(notes, score.samples, 0.0)


def play_other(rng: np.random.Generator, score: Score) -> np.ndarray:
    """Chords from E3 upwards and a riff above them, each on its own instrument and side."""
    riff, side, stem = rng.choice([[0], [2], [4], [6]], 5), rng.uniform(-0.7, 0.7), np.zeros((2, score.samples))
    for part, figure, lowest, position in (("chords", [[0, 2, 4]], 52, side), ("riff", riff, 72, -side)):
        fade, attack = ((rng.uniform(1, 4), 0.003), (0.0, rng.uniform(0.01, 0.15)))[rng.integers(2)]
        voice = instrument(rng, 30, rng.uniform(0.7, 1.6), fade, attack)
        notes = (
            (start, voice(score.pitch(chord + step, lowest), seconds))
            for number, (start, seconds, chord) in enumerate(score.notes(rng, part))
            for step in figure[number % len(figure)]
        )
        stem += placed(notes, score.samples, position)
    return stem


def play_vocals(rng: np.random.Generator, score: Score) -> np.ndarray:
    """A man or a woman near the centre, who glides from note to note and vowel to vowel, and hisses consonants."""
    lowest, size = ((46, 1.0), (57, 1.17))[rng.integers(2)]
    curves = np.zeros((6, score.samples))  # pitch, level, level of consonants, three formants
    for start, seconds, chord in score.notes(rng, "vocals", rest=0.15):
        first, last = round(start * RATE), round((start + 0.93 * seconds) * RATE)
        note = (score.pitch(chord + int(rng.integers(5)), lowest), rng.uniform(0.7, 1), 0, *size * rng.choice(VOWELS))
        curves[:, first:] = np.c_[list(note)]
        curves[1, last:] = 0
        curves[2, max(0, first - RATE // 20) : first] = rng.choice([0, 0.2])
    pitch, level, consonants, *formants = uniform_filter1d(curves, RATE // 20, mode="nearest")  # glides of 50 ms
    pitch += rng.uniform(0.2, 0.5) * np.sin(2 * np.pi * rng.uniform(4.8, 6.5) * np.arange(score.samples) / RATE)
    glottis = sawtooth(2 * np.pi * np.cumsum(440 * 2 ** ((pitch - 69) / 12)) / RATE)
    air = (consonants + 0.02 * level) * bandpass(rng.standard_normal(score.samples), 4_500, 12_000)
    return placed([(0.0, sing(level * glottis, np.array(formants)) + air)], score.samples, rng.uniform(-0.1, 0.1))


PLAYERS = {"drums": play_drums, "bass": play_bass, "other": play_other, "vocals": play_vocals}
STEMS = tuple(PLAYERS)
LEVELS = {"drums": -1.0, "bass": -1.8, "other": 0.0, "vocals": 2.2}  # dB


def song(index: int, split: str = "train", seed: int = 0, seconds: float = 12.0) -> dict[str, np.ndarray]:
    """The stems of a song, which depend on its number within a split, the seed, 0 or more, and the length in seconds
    alone: float32 (2, L) at 44.1 kHz for each of `STEMS`, in multiples of 1 / 32768, so that 16-bit files hold them and
    their sum, the mixture, exactly; no peak of a stem or of the sum exceeds 0.9."""
    rng, *rngs = (np.random.default_rng((seed, SPLITS.index(split), index, part)) for part in range(1 + len(STEMS)))
    step, scale = 15 / rng.uniform(80, 150), (rng.integers(12) + rng.choice(SCALES)) % 12  # 80 to 150 beats a minute
    chords = np.resize(rng.choice(PROGRESSIONS), int(np.ceil(seconds / (16 * step))))
    score = Score(round(seconds * RATE), step, tuple(scale.tolist()), tuple(chords.tolist()))
    peak, stems = rng.uniform(0.6, 0.89), {}
    room = bandpass(rng.standard_normal((2, RATE // 2)), 200, 6_000) * np.geomspace(0.01, 1e-5, RATE // 2)
    for own, (name, play) in zip(rngs, PLAYERS.items(), strict=True):
        dry = play(own, score)
        stem = dry + own.uniform(0, 1) * oaconvolve(dry, room, axes=1)[:, : score.samples]
        stem[:, -RATE // 50 :] *= np.linspace(1, 0, RATE // 50)
        stems[name] = stem * 10 ** ((LEVELS[name] + own.uniform(-3, 3)) / 20) / np.sqrt((stem**2).mean())
    scale = 32768 * peak / max(np.abs(wave).max() for wave in (*stems.values(), sum(stems.values())))
    return {name: (np.round(scale * stem) / 32768).astype(np.float32) for name, stem in stems.items()}


def _write_song(root: Path, index: int, split: str, seed: int, seconds: float) -> None:
    folder, stems = root / split / f"demo-{split}-{index:02d}", song(index, split, seed, seconds)
    folder.mkdir(parents=True)
    for name, wave in {"mixture": sum(stems.values()), **stems}.items():
        wavfile.write(folder / f"{name}.wav", RATE, (32768 * wave.T).astype(np.int16))


def generate(out: Path, train: int = 24, test: int = 6, seconds: float = 12.0, seed: int = 0) -> None:
    """Writes the data set: `out`/{train,test}/<song>/{mixture,drums,bass,other,vocals}.wav, 16 bits, `train` and `test`
    songs of `seconds`, see `song`. The folder, which may exist if empty, appears whole or not at all; one that holds
    this very data set, as its demo.json tells, is left as it is. Raises ValueError where a parameter is out of range,
    or another process generates the folder, FileExistsError where it holds something else, and OSError where it cannot
    be written."""
    if not (train >= 1 and test >= 0 and seed >= 0 and 1 <= seconds < float("inf")):
        raise ValueError("demo data: train and seconds must be at least 1, test and seed at least 0")
    given, out = out, Path(out).resolve()
    parameters = {"version": VERSION, "train": train, "test": test, "seconds": float(seconds), "seed": int(seed)}
    note, lock = (json.dumps(parameters, indent=2) + "\n").encode(), out.with_name(f".{out.name}.lock")
    songs = [(index, split, seed, seconds) for split in SPLITS for index in range(parameters[split])]
    if [file.read_bytes() for file in out.glob("demo.json")] == [note] and len([*out.rglob("*.wav")]) == 5 * len(songs):
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{given} holds something other than this demo data: remove it or choose another folder")
    alone = locked(lock, f"{given} is being generated by another process: wait for it")
    with ExitStack() as stack, alone, written_whole(out) as partial, ThreadPoolExecutor() as pool:
        stack.callback(lock.unlink, missing_ok=True)
        written = pool.map(lambda key: _write_song(partial, *key), songs)
        list(tqdm(written, desc="demo songs", total=len(songs), unit="song", disable=None))
        (partial / "demo.json").write_bytes(note)
        if out.is_dir():
            out.rmdir()  # empty; not every system renames onto a folder
