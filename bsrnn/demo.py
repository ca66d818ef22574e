"""A small generated data set in MUSDB18-HQ layout, so that everything here runs without downloading music.

Every song is synthesized from a score (tempo, key, chords) and four players. Each keeps to the character of its
class: drums are transients and noise, bass is one low voice, other is steady harmony, vocals glide between formants.
Spectra overlap as in music, yet a small model learns the difference in a minute. Not in the paper; our choice.
"""

import json
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import butter, iirpeak, lfilter, oaconvolve, sosfilt
from tqdm import tqdm

RATE = 44_100  # Hz
STEMS = ("drums", "bass", "other", "vocals")
SPLITS = ("train", "test")
VERSION = 1  # of the generator: raise it when the same parameters give other samples

Voice = Callable[[float, float], np.ndarray]  # (fundamental in Hz, seconds held) -> mono samples that end in silence
Note = tuple[float, float, int, float]  # start in seconds, seconds held, MIDI number, gain

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}  # semitones above the key
PROGRESSIONS = {  # scale degrees, one a bar; 0 is the tonic
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (1, 4, 0, 5), (0, 2, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 6, 2), (0, 6, 5, 6), (0, 0, 3, 4), (5, 6, 0, 0), (0, 2, 6, 3)),
}
GROOVES = (  # kick, snare, hat: sixteenths of a bar; x hit, o open, g ghost note
    ("x.......x.......", "....x.......x...", "x.x.x.x.x.x.x.x."),
    ("x.....x.x.......", "....x.......x...", "x.x.x.x.x.x.x.o."),
    ("x...x...x...x...", "....x.......x...", "..o...o...o...o."),
    ("x..x..x...x.....", "....x..g.g..x..g", "xgxgxgxgxgxgxgxg"),
    ("x.........x.....", "........x.......", "x.x.x.x.x.x.x.x."),
    ("x.x....x..x.....", "....x.......x.g.", "x...x...x...x.o."),
    ("x.....x...x...x.", "....x..g....x...", "x.xgx.xgx.xgx.xg"),
)
BASS_LINES = (  # position and length in beats, scale steps above the chord's root
    tuple((i / 2, 0.45, 0) for i in range(8)),
    ((0, 1.4, 0), (1.5, 0.4, 0), (2, 0.9, 4), (3, 0.4, 7), (3.5, 0.4, 4)),
    ((0, 0.9, 0), (1, 0.9, 2), (2, 0.9, 4), (3, 0.9, 2)),
    ((0, 3.8, 0),),
    tuple((i / 2, 0.4, 7 * (i % 2)) for i in range(8)),
    ((0, 0.7, 0), (0.75, 0.7, 0), (1.5, 1.3, 0), (3, 0.9, 4)),
)
COMPING = (  # position and length in beats of chords
    ((0, 3.9),),
    ((0, 1.9), (2, 1.9)),
    ((0, 1.4), (1.5, 2.4)),
    ((0.5, 0.4), (1.5, 0.4), (2.5, 0.4), (3.5, 0.4)),
    ((0, 0.9), (1, 0.9), (2, 0.9), (3, 0.9)),
)
SYLLABLES = (  # position and length in beats of sung notes
    ((0, 1), (1, 0.5), (1.5, 1.8)),
    ((0, 0.5), (0.5, 0.5), (1, 0.5), (1.5, 0.5), (2, 1.6)),
    ((0.5, 0.5), (1, 1), (2, 1.7)),
    ((0, 2), (2, 1), (3, 0.5)),
    ((0, 3.4),),
    ((0, 0.5), (0.5, 1), (1.5, 0.5), (2, 0.5), (2.5, 1.4)),
    ((0, 0.75), (0.75, 0.75), (1.5, 0.5), (2, 2)),
)
VOWELS = {  # the first four formants of a man's voice in Hz, rounded
    "a": (730, 1090, 2440, 3400),
    "e": (530, 1840, 2480, 3500),
    "i": (280, 2250, 2950, 3600),
    "o": (560, 850, 2410, 3300),
    "u": (310, 870, 2240, 3200),
}


@dataclass(frozen=True)
class Score:
    """What the players of a song agree on."""

    samples: int
    beat: float  # seconds; a bar has four beats
    swing: float  # delay of every second eighth, in beats
    key: int  # pitch class of the tonic, 0 = C
    scale: tuple[int, ...]  # semitones above the key, seven
    chords: tuple[int, ...]  # degree of the chord of each bar; the bars cover the samples

    def time(self, bar: int, position: float) -> float:
        """Seconds from the start of the song to a position in beats within a bar."""
        return (4 * bar + position + self.swing * (position % 1 == 0.5)) * self.beat

    def pitch(self, degree: int, lowest: int) -> int:
        """MIDI number of the first note of that degree of the scale at or above `lowest`."""
        return lowest + (self.key + self.scale[degree % 7] - lowest) % 12

    def playing(self, rng: np.random.Generator, rest: float) -> list[int]:
        """The bars in which a player plays: the first two, and each later one unless it rests with that probability."""
        bars = range(len(self.chords))
        return [bar for bar, chance in zip(bars, rng.random(len(bars)), strict=True) if bar < 2 or chance > rest]


def compose(rng: np.random.Generator, seconds: float) -> Score:
    """A score of that length: tempo 80 to 150 beats a minute, any key, straight or swung."""
    beat = 60 / rng.uniform(80, 150)
    mode = str(rng.choice(list(SCALES)))
    progression = PROGRESSIONS[mode][rng.integers(len(PROGRESSIONS[mode]))]
    return Score(
        samples=round(seconds * RATE),
        beat=beat,
        swing=rng.uniform(0.06, 0.16) if rng.random() < 0.3 else 0.0,
        key=int(rng.integers(12)),
        scale=SCALES[mode],
        chords=tuple(progression[bar % 4] for bar in range(int(np.ceil(seconds / (4 * beat))))),
    )


# Oscillators, envelopes, filters


def _saw(phase: np.ndarray) -> np.ndarray:
    """A sawtooth with little aliasing (the slope of a parabola) from an ascending phase in cycles."""
    parabola = (2 * (phase % 1) - 1) ** 2
    return np.diff(parabola, prepend=parabola[:1]) / (4 * np.gradient(phase))


def _envelope(seconds: float, attack: float, decay: float, sustain: float, release: float):
    """Times in seconds and a note's gain at them: rises from 0, sinks to `sustain`, is back at 0 after the release."""
    t = np.arange(round((seconds + release) * RATE)) / RATE
    held = sustain + (1 - sustain) * np.exp(-t / decay)
    return t, held * np.minimum(t / attack, 1) * np.clip((t[-1] - t) / release, 0, 1)


def _filter(x: np.ndarray, hertz, kind: str, order: int = 2) -> np.ndarray:
    return sosfilt(butter(order, hertz, kind, fs=RATE, output="sos"), x)


def _smooth(x: np.ndarray, seconds: float) -> np.ndarray:
    """Lets a control curve follow its steps with a time constant, twice, so that its slope is continuous too."""
    pole = np.exp(-1 / (seconds * RATE))
    for _ in range(2):
        x = lfilter([1 - pole], [1, -pole], x, zi=[pole * x[0]])[0]
    return x


def _add(track: np.ndarray, sound: np.ndarray, start: float) -> None:
    """Adds a sound to a track at a time in seconds, in place; what lies beyond the end is lost."""
    first = max(0, round(start * RATE))
    part = sound[: max(0, len(track) - first)]
    track[first : first + len(part)] += part


def _play(notes: list[Note], voice: Voice, samples: int) -> np.ndarray:
    """Mono track of the notes; a voice sounds each (pitch, length) once and repeats it."""
    track, sounds = np.zeros(samples), {}
    for start, seconds, midi, gain in notes:
        key = midi, round(seconds, 3)
        if key not in sounds:
            sounds[key] = voice(440 * 2 ** ((midi - 69) / 12), seconds)
        _add(track, gain * sounds[key], start)
    return track


def _pan(track: np.ndarray, position: float, width: float = 0.0) -> np.ndarray:
    """Stereo (2, L) of a mono track: position -1 left to 1 right, equal power; a delayed copy is the side signal."""
    angle = (position + 1) * np.pi / 4
    side = width * np.concatenate([np.zeros(600), track])[: len(track)]
    return np.stack([np.cos(angle) * track + side, np.sin(angle) * track - side])


# Timbres: each draws its parameters once per song and returns a voice


def reed_voice(rng: np.random.Generator, shape: str, cutoff: float, attack: float, release: float) -> Voice:
    """A saw or square, or three slightly detuned, through a low-pass `cutoff` Hz above the note: bass, pad, lead."""
    detune = rng.uniform(0.001, 0.006) * np.arange(-1, 2) if rng.random() < 0.7 else np.zeros(1)
    phases, sustain = rng.random(len(detune)), rng.uniform(0.4, 0.9)

    def voice(freq, seconds):
        t, gain = _envelope(seconds, attack, 0.25, sustain, release)
        cycles = [freq * (1 + off) * t + phase for off, phase in zip(detune, phases, strict=True)]
        tone = sum(_saw(c) if shape == "saw" else _saw(c) - _saw(c + 0.5) for c in cycles) / len(cycles)
        return gain * _filter(tone, cutoff + freq, "low")

    return voice


def fm_voice(rng: np.random.Generator, index: float, decay: float) -> Voice:
    """Two operators, the modulator fading faster than the carrier: electric pianos and FM basses."""
    ratio, index = rng.choice([1.0, 1.0, 2.0, 3.0]), index * rng.uniform(0.6, 1.4)

    def voice(freq, seconds):
        t, gain = _envelope(seconds, 0.004, decay, 0.1, 0.08)
        modulator = index * np.exp(-t / (0.4 * decay)) * np.sin(2 * np.pi * freq * ratio * t)
        return gain * np.sin(2 * np.pi * freq * t + modulator)

    return voice


def partial_voice(ratios, gains, rates, attack: float, release: float) -> Voice:
    """Partials at ratios of the fundamental, each fading at its rate in 1/s; those above 16 kHz are left out."""

    def voice(freq, seconds):
        t, gain = _envelope(seconds, attack, 1, 1, release)
        tone = np.zeros_like(t)
        for ratio, level, rate in zip(ratios, gains, rates, strict=True):
            if freq * ratio < 16_000:
                tone += level * np.exp(-rate * t) * np.sin(2 * np.pi * freq * ratio * t)
        return gain * tone

    return voice


def organ_voice(rng: np.random.Generator) -> Voice:
    """Drawbars: steady partials that start and stop at once."""
    gains = rng.random(8) * (1, 1.5, 0.5, 1, 0.7, 0.6, 0.4, 0.3)
    return partial_voice((0.5, 1, 1.5, 2, 3, 4, 6, 8), gains, np.zeros(8), 0.012, 0.04)


def string_voice(rng: np.random.Generator, partials: int, decay: float) -> Voice:
    """A plucked string: upper partials fade first, and those with a node at the plucking point are missing."""
    k = np.arange(1, partials + 1)
    gains = np.sin(np.pi * k * rng.uniform(0.1, 0.4)) / k ** rng.uniform(0.8, 1.3)
    rates = (1 + rng.uniform(0.15, 0.4) * (k - 1)) / decay
    return partial_voice(k * np.sqrt(1 + 1e-4 * k**2), gains, rates, 0.003, 0.12)  # stiff, hence slightly sharp above


def bell_voice(rng: np.random.Generator) -> Voice:
    """A struck bar: few partials, not harmonic."""
    gains, rates = rng.uniform(0.3, 1, 4) * (1, 0.6, 0.3, 0.15), rng.uniform(1.5, 3) * np.array([1, 1.7, 3, 5])
    return partial_voice((1, 2.76, 5.4, 8.93), gains, rates, 0.002, 0.3)


# Players: rng, score -> stereo (2, L)


def _drum(rng: np.random.Generator, pitch: float, sweep: float, decay: float, click: float) -> np.ndarray:
    """A skin: a sine that falls by `sweep` octaves to `pitch` in Hz, and the click of the beater."""
    t, gain = _envelope(3 * decay, 0.001, decay, 0.0, 0.02)
    cycles = np.cumsum(pitch * 2 ** (sweep * np.exp(-t / 0.03))) / RATE
    return gain * np.sin(2 * np.pi * cycles) + click * np.exp(-t / 0.004) * gain * rng.standard_normal(len(t))


def _noise(rng: np.random.Generator, low: float, high: float, decay: float) -> np.ndarray:
    """Noise between two frequencies in Hz that fades with a time constant in seconds."""
    t, gain = _envelope(4 * decay, 0.001, decay, 0.0, 0.02)
    return gain * _filter(rng.standard_normal(len(t)), (low, high), "band")


def _kit(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, float]]:
    """One-shot sounds and their pan positions."""
    snare = _noise(rng, rng.uniform(500, 1_500), rng.uniform(7_000, 13_000), rng.uniform(0.06, 0.14))
    _add(snare, rng.uniform(0.5, 1.2) * _drum(rng, rng.uniform(160, 240), 0.5, 0.06, 0.3), 0)
    edge, side, low = rng.uniform(5_000, 8_500), rng.uniform(0.1, 0.6) * rng.choice([-1, 1]), rng.uniform(80, 110)
    kick = _drum(rng, rng.uniform(42, 62), rng.uniform(1, 2.2), rng.uniform(0.1, 0.22), 0.3)
    return {
        "kick": (1.2 * kick, 0.0),
        "snare": (1.6 * snare, 0.1 * side),
        "closed": (0.9 * _noise(rng, edge, 16_500, rng.uniform(0.015, 0.04)), side),
        "open": (0.6 * _noise(rng, edge, 16_500, rng.uniform(0.1, 0.2)), side),
        "crash": (0.6 * _noise(rng, 3_000, 16_500, rng.uniform(0.3, 0.6)), -side),
    } | {f"tom{i}": (_drum(rng, low * (2 - i / 2), 0.6, 0.15, 0.15), side * (1 - i)) for i in range(3)}


def play_drums(rng: np.random.Generator, score: Score) -> np.ndarray:
    """A groove on one kit, with a fill in some fourth bars and hits a few milliseconds off the grid."""
    kit, groove = _kit(rng), GROOVES[rng.integers(len(GROOVES))]
    loudness = dict(zip(("kick", "snare", "hat"), rng.uniform((0.8, 0.7, 0.5), (1.2, 1.2, 1.1)), strict=True))
    tracks = {name: np.zeros(score.samples) for name in kit}
    for bar in score.playing(rng, rest=0.08):
        fill = 12 if bar % 4 == 3 and rng.random() < 0.6 else 16
        hits = [("crash", 0, 0.8)] if bar % 4 == 0 and rng.random() < 0.4 else []
        for piece, steps in zip(loudness, groove, strict=True):
            for step, mark in enumerate(steps[:fill]):
                name = {"x": "closed", "g": "closed", "o": "open"}.get(mark) if piece == "hat" else piece
                if mark != ".":
                    hits.append((name, step, loudness[piece] * (0.3 if mark == "g" else 1.0)))
        hits += [(f"tom{(step - fill) * 3 // 4}", step, 0.9) for step in range(fill, 16)]
        for name, step, gain in hits:
            start = score.time(bar, step / 4) + max(0, 0.003 * rng.standard_normal())
            _add(tracks[name], gain * rng.uniform(0.8, 1.1) * kit[name][0], start)
    return sum(_pan(tracks[name], position) for name, (_, position) in kit.items())


def play_bass(rng: np.random.Generator, score: Score) -> np.ndarray:
    """One line from the roots of the chords, E1 (41 Hz) upwards, on one of four timbres; centred."""
    timbres = (
        lambda: reed_voice(rng, "saw", rng.uniform(300, 1_200), 0.006, 0.05),
        lambda: reed_voice(rng, "square", rng.uniform(300, 1_200), 0.006, 0.05),
        lambda: fm_voice(rng, 2.5, 0.7),
        lambda: string_voice(rng, 14, 0.6),
    )
    voice, line = timbres[rng.integers(4)](), BASS_LINES[rng.integers(len(BASS_LINES))]
    lowest, notes = int(rng.integers(28, 33)), []
    for bar in score.playing(rng, rest=0.08):
        root = score.pitch(score.chords[bar], lowest)
        for position, length, step in line:
            midi = score.pitch(score.chords[bar] + step, root + step)  # a scale step spans a semitone or more
            notes.append((score.time(bar, position), length * score.beat, midi, rng.uniform(0.8, 1)))
    return _pan(_play(notes, voice, score.samples), 0.0)


def _comping(rng: np.random.Generator, score: Score, bars: list[int]) -> list[Note]:
    """Chords of three or four notes in close position from E3 to G4, or broken up, an octave higher."""
    rhythm, lowest = COMPING[rng.integers(len(COMPING))], int(rng.integers(52, 57))
    steps, broken = ((0, 2, 4, 6) if rng.random() < 0.3 else (0, 2, 4)), rng.random() < 0.3
    notes = []
    for bar in bars:
        chord = sorted(score.pitch(score.chords[bar] + step, lowest) for step in steps)
        if broken:
            line = (*chord, *chord[-2:0:-1])  # up and down again
            notes += [(score.time(bar, i / 2), 0.6 * score.beat, line[i % len(line)] + 12, 1.0) for i in range(8)]
        else:
            notes += [(score.time(bar, at), long * score.beat, midi, 0.7) for at, long in rhythm for midi in chord]
    return notes


def _riff(rng: np.random.Generator, score: Score, bars: list[int]) -> list[Note]:
    """A figure of chord tones above the chords, the same in every bar."""
    figure = [(i / 2, int(rng.choice([0, 2, 4, 4, 6]))) for i in range(8) if rng.random() < 0.5]
    return [
        (score.time(bar, at), 0.6 * score.beat, score.pitch(score.chords[bar] + step, 72), rng.uniform(0.4, 0.6))
        for bar in bars
        for at, step in figure
    ]


def play_other(rng: np.random.Generator, score: Score) -> np.ndarray:
    """Chords, and in most songs a riff, each on its own timbre and side; the tone opens and closes slowly."""
    timbres = (
        lambda: reed_voice(rng, "saw", rng.uniform(1_500, 6_000), rng.uniform(0.02, 0.15), 0.2),
        lambda: reed_voice(rng, "square", rng.uniform(1_000, 4_000), 0.01, 0.1),
        lambda: fm_voice(rng, 1.2, 1.0),
        lambda: organ_voice(rng),
        lambda: string_voice(rng, 30, 0.9),
        lambda: bell_voice(rng),
    )
    bars, side, width = score.playing(rng, rest=0.08), rng.uniform(-0.5, 0.5), rng.uniform(0.0, 0.4)
    chords = _play(_comping(rng, score, bars), timbres[rng.integers(5)](), score.samples)  # no chords of bells
    opening = 0.5 + 0.5 * np.sin(2 * np.pi * np.arange(score.samples) / RATE / (score.beat * rng.choice([4, 8, 16])))
    opening = 1 - rng.uniform(0, 0.8) * opening
    chords = opening * chords + (1 - opening) * _filter(chords, 900, "low", 1)
    riff = _play(_riff(rng, score, bars), timbres[rng.integers(6)](), score.samples)
    return _pan(chords, side, width) + (rng.random() < 0.7) * _pan(riff, -side, 0.5 * width)


def _melody(rng: np.random.Generator, score: Score, lowest: int) -> list[Note]:
    """Sung notes: a walk on the scale within a tenth that meets the chord in each bar, and rests between phrases."""
    ladder = np.array([midi for midi in range(lowest, lowest + 16) if (midi - score.key) % 12 in score.scale])
    place, notes = int(rng.integers(2, len(ladder) - 2)), []
    for bar in score.playing(rng, rest=0.15):
        chord = [score.pitch(score.chords[bar] + step, 0) for step in (0, 2, 4)]
        home = np.flatnonzero(np.isin(ladder % 12, chord))
        place = home[np.abs(home - place).argmin()]
        for at, long in SYLLABLES[rng.integers(len(SYLLABLES))]:
            notes.append((score.time(bar, at), 0.93 * long * score.beat, int(ladder[place]), rng.uniform(0.7, 1)))
            place = np.clip(place + rng.choice([-2, -1, -1, 0, 1, 1, 2]), 0, len(ladder) - 1)
    return notes


def _sing(rng: np.random.Generator, notes: list[Note], samples: int, size: float) -> np.ndarray:
    """A voice: glottal pulses that glide and quiver, through formants that move from vowel to vowel, and consonants.

    Args:
        notes: in order of time.
        samples: length.
        size: factor on the formants, 1 for a man's throat.
    """
    vowels = rng.permutation(list(VOWELS))[:3]
    pitch, level, quiver, hiss = np.full(samples, notes[0][2], float), *np.zeros((3, samples))
    mouth = np.eye(len(vowels), 1) * np.ones(samples)  # which vowel is sung when
    for start, seconds, midi, gain in notes:
        first, last = (round(at * RATE) for at in (start, start + seconds))
        pitch[first:] = midi
        level[first:last] = gain
        quiver[first + RATE // 5 : last] = 1  # vibrato sets in late
        mouth[:, first:] = np.eye(len(vowels))[rng.integers(len(vowels))][:, None]
        if rng.random() < 0.6:
            low, long = rng.uniform(2_000, 6_000), rng.choice([0.012, 0.03, 0.05])
            _add(hiss, 0.8 * gain * _noise(rng, low, min(2.5 * low, 12_000), long), start - long)
    wave = np.sin(2 * np.pi * (rng.uniform(4.8, 6.5) * np.arange(samples) / RATE + rng.random()))
    drift = 3 * _smooth(rng.standard_normal(samples), 0.02)  # the semitones by which a voice is never quite in tune
    midi = _smooth(pitch, rng.uniform(0.015, 0.04)) + rng.uniform(0.25, 0.6) * _smooth(quiver, 0.06) * wave + drift
    cycles = np.cumsum(440 * 2 ** ((midi - 69) / 12)) / RATE
    breath = rng.uniform(0.05, 0.15) * rng.standard_normal(samples) * (1 - cycles % 1)
    source = _smooth(level, 0.015) * (_filter(_saw(cycles), 4_000, "low", 1) + breath)
    voice = 0.2 * _filter(source, 400, "low")
    for vowel, weight in zip(vowels, mouth, strict=True):
        formants = zip(VOWELS[vowel], (100, 120, 170, 230), (1, 1.2, 1.4, 1.2), strict=True)  # Hz, width in Hz, gain
        shaped = sum(gain * lfilter(*iirpeak(size * hz, hz / width, fs=RATE), source) for hz, width, gain in formants)
        voice += _smooth(weight, 0.025) * 0.25 * shaped / np.sqrt((shaped**2).mean())  # no vowel drowns the others
    return voice + 0.5 * hiss


def play_vocals(rng: np.random.Generator, score: Score) -> np.ndarray:
    """A man or a woman near the centre; in a quarter of the songs a second take, softer and wider."""
    woman = rng.random() < 0.5
    lowest, size = (int(rng.integers(56, 62)), 1.17) if woman else (int(rng.integers(45, 52)), 1.0)
    size *= rng.uniform(0.94, 1.06)
    notes = _melody(rng, score, lowest)
    voice = _pan(_sing(rng, notes, score.samples, size), rng.uniform(-0.1, 0.1))
    if rng.random() < 0.25:
        voice += 0.4 * _pan(_sing(rng, notes, score.samples, size), 0.0, 0.4)
    return voice


# Songs

PLAYERS = dict(zip(STEMS, (play_drums, play_bass, play_other, play_vocals), strict=True))
LEVELS = {"drums": -1.5, "bass": -2.5, "other": 2.2, "vocals": 2.2}  # dB


def _room(rng: np.random.Generator) -> np.ndarray:
    """Stereo impulse response (2, L) of unit energy: noise that fades within 0.3 to 1 s, dull, after a short delay."""
    length, delay = round(rng.uniform(0.3, 1.0) * RATE), round(rng.uniform(0.005, 0.03) * RATE)
    fading = rng.standard_normal((2, length)) * np.exp(-6.9 * np.arange(length) / length)  # by 60 dB
    echo = _filter(fading, (200, rng.uniform(3_000, 8_000)), "band", 1)
    echo /= np.sqrt((echo**2).sum(1, keepdims=True))
    return np.pad(echo, ((0, 0), (delay, 0))).astype(np.float32)  # half the time of float64


def _produce(rng: np.random.Generator, stem: np.ndarray, room: np.ndarray, wet: float, level: float) -> np.ndarray:
    """A stem with reverb, now and then mild saturation, no rumble, clean ends, and an RMS within 3 dB of `level` dB."""
    stem = stem + wet * oaconvolve(stem.mean(0, keepdims=True).astype(np.float32), room, axes=1)[:, : stem.shape[1]]
    if rng.random() < 0.25:
        stem = np.tanh(rng.uniform(1, 2.5) * stem / np.abs(stem).max())
    stem = _filter(stem, 25, "high") * np.minimum(1, np.arange(stem.shape[1])[::-1] / (0.02 * RATE))
    return stem * 10 ** ((level + rng.uniform(-3, 3)) / 20) / np.sqrt((stem**2).mean())


def song(index: int, split: str = "train", seed: int = 0, seconds: float = 12.0) -> dict[str, np.ndarray]:
    """The stems of one song, a pure function of the arguments.

    Args:
        index: number of the song within its split.
        split: train or test.
        seed: of the data set.
        seconds: length, at least 1; another length is another song.

    Returns:
        float32 (2, L) at 44.1 kHz for each of `STEMS`, in multiples of 1 / 32768, so that 16-bit files hold them and
        their sum exactly; no peak of a stem or of the sum exceeds 0.9.
    """
    key = (seed, SPLITS.index(split), index)
    rng = np.random.default_rng((*key, 0))
    score, room, peak = compose(rng, seconds), _room(rng), rng.uniform(0.6, 0.89)
    wets = rng.uniform((0.02, 0.0, 0.05, 0.05), (0.15, 0.05, 0.35, 0.3))
    stems = {}
    for number, (name, play) in enumerate(PLAYERS.items()):
        rng = np.random.default_rng((*key, 1 + number))
        stems[name] = _produce(rng, play(rng, score), room, wets[number], LEVELS[name])
    scale = 32768 * peak / max(np.abs(wave).max() for wave in (*stems.values(), sum(stems.values())))
    return {name: (np.round(scale * stem) / 32768).astype(np.float32) for name, stem in stems.items()}


def _write_song(folder: Path, *which) -> None:
    stems = song(*which)
    folder.mkdir(parents=True)
    for name, wave in {"mixture": sum(stems.values()), **stems}.items():
        soundfile.write(folder / f"{name}.wav", (32768 * wave.T).astype(np.int16), RATE, subtype="PCM_16")


def generate(
    out: Path, train: int = 24, test: int = 6, seconds: float = 12.0, seed: int = 0, workers: int | None = None
) -> None:
    """Writes the data set: OUT/{train,test}/<song>/{mixture,drums,bass,other,vocals}.wav, 44.1 kHz, 16 bits, stereo.

    The mixture is the exact sum of the stems. The folder appears whole or not at all; one that already holds this very
    data set, as its demo.json tells, is left as it is.

    Args:
        out: folder to make, with its parents; it may exist if empty.
        train: number of songs to train on, at least 1.
        test: number of songs to test on, 0 or more.
        seconds: length of each song, at least 1.
        seed: 0 or more; song n of a split depends on the seed and the length, not on the number of songs.
        workers: threads, by default one per processor; they change nothing but the time.

    Raises:
        ValueError: a parameter is out of range.
        FileExistsError: the folder holds something else.
    """
    limits = {"train": (train, 1), "test": (test, 0), "seconds": (seconds, 1), "seed": (seed, 0)}
    for name, (value, least) in limits.items():
        if not least <= value < float("inf"):
            raise ValueError(f"demo data: {name} must be at least {least}, not {value}")
    given = Path(out)
    out = given.resolve()
    parameters = {"version": VERSION, "train": train, "test": test, "seconds": float(seconds), "seed": int(seed)}
    songs = [(index, split) for split, count in zip(SPLITS, (train, test), strict=True) for index in range(count)]
    folders = [Path(split, f"demo-{split}-{index:02d}") for index, split in songs]
    if _holds(out, parameters, folders):
        return
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise FileExistsError(f"{given} holds something other than this demo data: remove it or choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.partial-", dir=out.parent) as beside:
        whole = Path(beside, "whole")
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            try:
                jobs = [
                    pool.submit(_write_song, whole / folder, *which, seed, seconds)
                    for folder, which in zip(folders, songs, strict=True)
                ]
                for job in tqdm(jobs, desc="demo songs", unit="song", disable=None):
                    job.result()
            finally:
                pool.shutdown(cancel_futures=True)  # after an interruption, start no further song
        (whole / "demo.json").write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")
        if out.is_dir():
            out.rmdir()  # empty; not every system renames onto a folder
        whole.rename(out)


def _holds(out: Path, parameters: dict, folders: list[Path]) -> bool:
    """Whether a folder is a finished data set of these parameters with no file missing."""
    try:
        found = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    files = (out / folder / f"{name}.wav" for folder in folders for name in ("mixture", *STEMS))
    return found == parameters and all(file.is_file() for file in files)
