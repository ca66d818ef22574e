"""A melody sung with the syllables of a recorded voice.

Every note takes the singer's next syllable. Its vowel begins with the note and is held as long, its consonants keep
their length, and unvoiced ones keep the very samples that were recorded. Between them the WORLD vocoder sings the
melody, with glides, scoops, vibrato and drift; level and brightness follow the notes' velocity and pitch. It is no
singing: nobody sings like this, and words are cut without regard to sense.

T frames of 5 ms, F bins, L samples at 44.1 kHz.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from score import SHORTEST, Note
from voice import FRAME, FREQUENCIES, HOP, RATE, Clip, Deck, Syllable

PHRASE = 6.0  # seconds that are sung on one breath
BREATH = 0.25  # seconds
REST = 0.08  # seconds between phrases
BAR = 8.0  # seconds of which all phrases rest, now and then
RESTING = 0.12  # share of these bars
LEAST_SUNG = 0.4  # of a passage; where it would be less, no bar rests
TIMING = 0.010  # seconds, the standard deviation of a note's start
FEWEST_FRAMES = 12  # between two notes' starts
SHORTEST_VOWEL = 6  # frames
EDGE = 180  # samples of a cross-fade between vocoder and recording
OUT_OF_TUNE = 0.06  # semitones, the standard deviation of a note's pitch
TOP_LEFT_ALONE = 18_000  # Hz that clips have by themselves


@dataclass(frozen=True)
class Style:
    """How one song is sung; all drawn."""

    glide: float  # seconds from a note to the next
    scoop: float  # how often a phrase starts from below
    vibrato: float  # semitones
    vibrato_delay: float  # seconds
    vibrato_rate: float  # Hz
    melisma: float  # how often a syllable goes on over the next note
    ring: float  # Hz, the middle of the singer's formant
    clearness: float  # exponent on the share of noise
    tract: float  # length of the vocal tract, as a factor

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Style":
        return cls(
            glide=rng.uniform(0.05, 0.11),
            scoop=rng.uniform(0.2, 0.7),
            vibrato=rng.uniform(0.15, 0.6),
            vibrato_delay=rng.uniform(0.12, 0.35),
            vibrato_rate=rng.uniform(4.8, 6.4),
            melisma=rng.uniform(0.05, 0.25),
            ring=rng.uniform(2500, 3300),
            clearness=rng.uniform(1.0, 1.3),
            tract=rng.uniform(0.95, 1.05),
        )


@dataclass(frozen=True)
class Sound:
    """A syllable as it is sung: the frames of the clip that it takes, and how loud and bright they are.

    Args:
        clip: that it comes from.
        path: (T,) places in the clip, in frames; they stand still, or go to and fro, where the vowel is held.
        held: the frames of `path` that are the vowel's, as a slice.
        gain: dB.
        effort: from -1, soft, to 1.5, loud.
    """

    clip: Clip
    path: np.ndarray
    held: slice
    gain: float
    effort: float

    @property
    def frames(self) -> np.ndarray:
        """The nearest frames of the clip (T,)."""
        return np.minimum((self.path + 0.5).astype(int), len(self.clip.voiced) - 1)

    @property
    def voiced(self) -> np.ndarray:
        """(T,): whether a frame is sung; all of the vowel is."""
        voiced = self.clip.voiced[self.frames]
        voiced[self.held] = True
        return voiced


def sing(notes: Sequence[Note], deck: Deck, centre: float, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A melody sung dry and mono: (frames,) samples, whose level is not set.

    Args:
        notes: of the melody, timed from the first sample.
        deck: of the singer's syllables.
        centre: the note at which the voice is neither loud nor soft.
        frames: samples to return.
        rng: draws the style and all that varies.
    """
    style, sung = Style.drawn(rng), np.zeros(frames)
    for phrase in _without_rests(phrases(notes), frames / RATE, rng):
        start, samples = sing_phrase(phrase, deck, style, centre, rng)
        samples = samples[max(0, -start) :]
        start = max(0, start)
        samples = samples[: max(0, frames - start)]
        sung[start : start + len(samples)] += samples
    return with_top(sung)


def _without_rests(parts: list[list[Note]], seconds: float, rng: np.random.Generator) -> list[list[Note]]:
    """The phrases of a passage of so many seconds, but those of some bars, so that the voice rests now and then."""
    resting = rng.random(int(seconds / BAR) + 2) < RESTING
    kept = [part for part in parts if not resting[int(part[0].start / BAR)]]
    return kept if sum(part[-1].end - part[0].start for part in kept) > LEAST_SUNG * seconds else parts


def phrases(notes: Sequence[Note]) -> list[list[Note]]:
    """What is sung on one breath: notes part where the melody rests, and long runs at their longest notes."""
    runs = []
    for note in notes:
        if runs and note.start - runs[-1][-1].end < REST:
            runs[-1].append(note)
        else:
            runs.append([note])
    parts = [part for run in runs for part in _breaths(run)]
    return [part for part in parts if len(part) > 1 or part[0].seconds > 0.2]


def _breaths(run: list[Note]) -> list[list[Note]]:
    if len(run) < 6 or run[-1].end - run[0].start < PHRASE:
        return [run]
    third = len(run) // 3
    longest = max(range(third, len(run) - third), key=lambda index: run[index].seconds)
    last = replace(run[longest], end=run[longest].end - BREATH)
    kept = [last] if last.seconds >= SHORTEST - 0.02 else []
    return [*_breaths(run[:longest] + kept), *_breaths(run[longest + 1 :])]


def sing_phrase(
    notes: Sequence[Note], deck: Deck, style: Style, centre: float, rng: np.random.Generator
) -> tuple[int, np.ndarray]:
    """One phrase: where it starts, in samples from the start of the passage, and its samples (L,)."""
    import pyworld

    starts = _note_frames(notes, rng)
    cast = _cast(notes, deck, style, rng)
    first = starts[0] - cast[0][1].onset
    sounds = _sounds(notes, starts, cast, first, centre, rng)
    voiced = np.concatenate([sound.voiced for sound in sounds])
    spectrum = _spectrum(sounds, style, rng)
    noise = np.concatenate([sound.clip.noise_at(sound.frames) for sound in sounds])
    curve = pitch_curve(notes, [start - first for start in starts[:-1]], len(voiced), style, rng)
    pitch = np.where(voiced, 440 * 2 ** ((curve - 69) / 12), 0.0)
    noise = np.clip(noise**style.clearness, 1e-4, 1.0)
    rows = [np.ascontiguousarray(track, np.float64) for track in (pitch, np.exp(spectrum), noise)]
    samples = pyworld.synthesize(*rows, RATE, 1000 * FRAME)
    _put_consonants(samples, sounds)
    start = int(first * HOP)
    if rng.random() < 0.7:
        breath = _breath(spectrum[voiced].mean(0), float(np.sqrt(np.mean(samples**2))), rng)
        return start - len(breath), np.concatenate([breath, samples])
    return start, samples


def _note_frames(notes: Sequence[Note], rng: np.random.Generator) -> list[int]:
    """The frame in which each note starts, and the one in which the last one ends."""
    starts = []
    for note in notes:
        start = round((note.start + rng.normal(0, TIMING)) / FRAME)
        starts.append(max(start, starts[-1] + FEWEST_FRAMES) if starts else start)
    return [*starts, max(round(notes[-1].end / FRAME), starts[-1] + 16)]


def _cast(notes: Sequence[Note], deck: Deck, style: Style, rng: np.random.Generator) -> dict[int, Syllable]:
    """The clip and syllable of each note; a note without goes on with the vowel before."""
    cast, goes_on = {}, False
    for index, note in enumerate(notes):
        may = index > 0 and not goes_on and note.seconds < 0.5
        goes_on = may and rng.random() < style.melisma
        if not goes_on:
            cast[index] = deck.deal()
    return cast


def _sounds(notes, starts, cast, first: int, centre: float, rng: np.random.Generator) -> list[Sound]:
    """The syllables of a phrase, each as long as it takes to the next one's consonants.

    Args:
        notes, starts, cast: of the phrase: see `_note_frames` and `_cast`.
        first: the frame in which the phrase starts.
        centre: of the voice.
    """
    sounds, position = [], first
    for index, following in pairwise([*cast, len(notes)]):
        clip, syllable = cast[index]
        onset = cast[following][1].onset if following in cast else 0
        path, held = _path(syllable, len(clip.voiced), position, starts[index], starts[following], onset)
        gain, effort = _dynamics(notes[index], (index + 0.5) / len(notes), centre, rng)
        level = 10 * np.log10(np.exp(clip.spectrum[syllable.vowel : syllable.coda, 6:190]).mean())
        sounds.append(Sound(clip, path, held, gain - level, effort))
        position += len(path)
    return sounds


def _path(
    syllable: Syllable, length: int, position: int, start: int, stop: int, next_onset: int
) -> tuple[np.ndarray, slice]:
    """The places in a clip that a sung syllable goes through, and which of them are the vowel's.

    Args:
        syllable: of the clip.
        length: of the clip, in frames.
        position: the frame of the song in which the syllable begins.
        start, stop: the frames in which its note starts and the next syllable's note starts.
        next_onset: frames that the next syllable's consonants take before that.
    """
    onset = min(max(0, start - position), syllable.onset)
    begin, coda = position + onset, syllable.stop - syllable.coda
    room = stop - next_onset - begin - coda
    if room < 10:  # too short a note: its consonants give way
        share = float(np.clip((stop - begin - 10) / max(1, next_onset + coda), 0, 1))
        coda, next_onset = int(coda * share), int(next_onset * share)
        room = max(SHORTEST_VOWEL, stop - next_onset - begin - coda)
    parts = (
        np.arange(syllable.vowel - onset, syllable.vowel),
        held_vowel(syllable.vowel, syllable.coda, room),
        np.arange(syllable.coda, syllable.coda + coda),
    )
    return np.clip(np.concatenate(parts), 0, length - 1.001), slice(onset, onset + room)


def held_vowel(first: int, stop: int, frames: int) -> np.ndarray:
    """Places in a clip that make a vowel last for so many frames: its ends as they are, its middle to and fro."""
    span = stop - first
    if frames <= span:
        return np.linspace(first, stop, frames)
    edge = span // 4
    inner, room = span - 2 * edge, frames - 2 * edge
    turns = 2 * int(room / max(inner, 1) / 6) + 1  # odd, so that it ends at the far end
    swing = np.linspace(0, turns, room) % 2
    middle = first + edge + inner * np.minimum(swing, 2 - swing)
    return np.concatenate([np.arange(first, first + edge), middle, np.arange(stop - edge, stop)])


def _dynamics(note: Note, progress: float, centre: float, rng: np.random.Generator) -> tuple[float, float]:
    """The level of a note in dB and the effort with which it is sung: phrases swell, and high notes are louder."""
    swell, height = np.sin(np.pi * progress), note.pitch - centre
    level = (note.velocity - 90) / 14 + 2.5 * swell + 0.25 * height + rng.normal(0, 1.2)
    return level, float(np.clip((note.velocity - 80) / 40 + 0.08 * height + 0.4 * swell, -1.0, 1.5))


def _spectrum(sounds: Sequence[Sound], style: Style, rng: np.random.Generator) -> np.ndarray:
    """The logarithm of a phrase's power (T, F)."""
    parts, joins = [], np.cumsum([len(sound.path) for sound in sounds])[:-1]
    places = np.clip(np.arange(len(FREQUENCIES)) * style.tract, 0, len(FREQUENCIES) - 1.001)
    below, share = places.astype(int), places % 1
    tilt = 0.10 * np.log(np.maximum(FREQUENCIES, 200) / 1000)
    ring = 0.7 * np.exp(-(((FREQUENCIES - style.ring) / 450) ** 2))
    for sound in sounds:
        colour = tilt * sound.effort + ring * max(0.0, sound.effort) + sound.gain * np.log(10) / 10
        spectrum = sound.clip.spectrum_at(sound.path)
        parts.append(spectrum[:, below] * (1 - share) + spectrum[:, below + 1] * share + colour)
    spectrum = np.concatenate(parts)
    for join in joins:  # no jump of the timbre
        start, stop = max(0, join - 4), min(len(spectrum), join + 4)
        ramp = np.linspace(0, 1, stop - start)[:, None]
        spectrum[start:stop] += spectrum[start] * (1 - ramp) + spectrum[stop - 1] * ramp
        spectrum[start:stop] /= 2
    spectrum[-12:] += np.linspace(0, -6, 12)[-len(spectrum[-12:]) :, None]
    return spectrum + 0.12 * slow_noise(rng, len(spectrum), 12)[:, None]


def pitch_curve(
    notes: Sequence[Note], starts: Sequence[int], frames: int, style: Style, rng: np.random.Generator
) -> np.ndarray:
    """The pitch of a phrase in MIDI notes (frames,).

    Args:
        notes: of the phrase.
        starts: the frame in which each starts.
        frames: of the phrase.
    """
    targets = [note.pitch + rng.normal(0, OUT_OF_TUNE) for note in notes]
    curve, time = np.full(frames, targets[0]), np.arange(frames)
    if rng.random() < style.scoop:
        curve -= rng.uniform(0.7, 2.5) * np.exp(-np.maximum(time - starts[0], 0) * FRAME / 0.05)
    for start, (before, after) in zip(starts[1:], pairwise(targets), strict=True):
        width = style.glide * (1 + abs(after - before) / 8) / FRAME / 6
        curve += (after - before) / (1 + np.exp(-np.clip((time - start + 2) / width, -50, 50)))
    for start, stop in pairwise([*starts, frames]):
        if (stop - start) * FRAME > 0.3:
            curve[start:stop] += _vibrato(stop - start, style, rng)
    return curve + 0.10 * slow_noise(rng, frames, 40) + 0.03 * slow_noise(rng, frames, 3)


def _vibrato(frames: int, style: Style, rng: np.random.Generator) -> np.ndarray:
    time = np.arange(frames) * FRAME
    depth = style.vibrato * rng.uniform(0.6, 1.3) * np.clip((time - style.vibrato_delay) / 0.3, 0, 1)
    depth *= np.clip((frames * FRAME - time) / 0.08, 0, 1)
    rate = style.vibrato_rate * (1 + 0.05 * slow_noise(rng, frames, 40))
    return depth * np.sin(2 * np.pi * np.cumsum(rate) * FRAME)


def slow_noise(rng: np.random.Generator, frames: int, period: int) -> np.ndarray:
    """Noise of unit variance (frames,) that changes over about so many frames."""
    kernel = np.hanning(2 * period + 3)
    return np.convolve(rng.standard_normal(frames + len(kernel) - 1), kernel / np.sqrt((kernel**2).sum()), "valid")


def _put_consonants(samples: np.ndarray, sounds: Sequence[Sound]) -> None:
    """Put unvoiced consonants, as they were recorded, in place of what the vocoder made of them."""
    position = 0
    for sound in sounds:
        unvoiced = np.flatnonzero(~sound.voiced)
        for run in np.split(unvoiced, np.flatnonzero(np.diff(unvoiced) > 1) + 1) if len(unvoiced) else ():
            start, source = int((position + run[0]) * HOP), int(sound.frames[run[0]] * HOP)
            count = min(int(len(run) * HOP), len(samples) - start, len(sound.clip.wave) - source)
            if count > 3 * EDGE:
                fade = np.clip(np.minimum(np.arange(count), np.arange(count)[::-1]) / EDGE, 0, 1)
                recorded = sound.clip.wave[source : source + count] * 10 ** (sound.gain / 20)
                samples[start : start + count] *= 1 - fade
                samples[start : start + count] += recorded * fade
        position += len(sound.path)


def _breath(spectrum: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Air that is taken before a phrase (L,), and a short pause.

    Args:
        spectrum: the mean logarithm of the phrase's power (F,).
        level: RMS of the phrase.
    """
    count = int(rng.uniform(0.18, 0.32) * RATE)
    frequencies = np.fft.rfftfreq(count, 1 / RATE)
    colour = np.exp(0.5 * np.interp(frequencies, FREQUENCIES, spectrum)) * np.clip(frequencies / 1500, 0, 1)
    air = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * colour, count)
    air *= np.sin(np.linspace(0, np.pi, count)) ** 1.5
    air *= level * 10 ** (rng.uniform(-32, -24) / 20) / max(1e-9, float(np.sqrt(np.mean(air**2))))
    return np.concatenate([air, np.zeros(int(0.04 * RATE))])


def with_top(samples: np.ndarray) -> np.ndarray:
    """A voice (L,) with the high frequencies that a lossy codec cut from its clips: a faint copy of those below."""
    spectrum, frequencies = np.fft.rfft(samples), np.fft.rfftfreq(len(samples), 1 / RATE)
    edges = np.arange(1000, 20_251, 250)
    power, _ = np.histogram(frequencies, edges, weights=np.abs(spectrum) ** 2)
    if not power.any():
        return samples
    top = edges[np.flatnonzero(power > 1e-7 * power.max())[-1]] - 250
    if top > TOP_LEFT_ALONE:
        return samples
    above = np.maximum(frequencies - top, 0)
    shift = int(np.searchsorted(frequencies, top) - np.searchsorted(frequencies, top - 5500))
    copy = np.zeros_like(spectrum)
    copy[shift:] = spectrum[: len(spectrum) - shift]
    copy *= 10 ** (-(10 + above / 400) / 20) * np.clip(above / 300, 0, 1)
    return samples + np.fft.irfft(copy, len(samples))
