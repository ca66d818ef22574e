"""What a MIDI song says: which instrument belongs to which stem, what can be sung of it, and which passage is taken.

Times are in seconds, pitches in MIDI notes. Songs are pretty_midi.PrettyMIDI objects.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

INSTRUMENT_STEMS = ("drums", "bass", "other")
BASSES = range(32, 40)  # General MIDI's programs for basses
NEVER_LEADS = (47, *BASSES, *range(112, 128))  # timpani, basses, percussion and effects
OFTEN_LEADS = (29, 30, 40, 41, 42, 52, 53, 54, *range(56, 88))  # guitar solos, strings, voices, winds, synthesizers
SHORTEST, LONGEST = 0.17, 3.5  # seconds a note is sung
LEGATO = 0.3  # seconds between notes that are sung without a pause
EARLY = 0.05  # seconds that a note may overlap the next one
RANGE_BELOW, RANGE_ABOVE = 9, 10  # semitones about a voice's centre
ENOUGH_NOTES = 8  # of a melody
GAP = 8.0  # seconds of silence that another instrument's melody may fill
ENOUGH_SUNG = 0.6  # the share of a song at which no further melody is looked for
STEP = 5  # seconds between the passages that are compared
LEAD_IN = 2.0  # seconds that are rendered before a passage, for what still sounds
BRIEFEST = 0.005  # seconds of a part's note: one that ends as it starts would never be let go, and sound for ever


@dataclass(frozen=True)
class Note:
    """A note of a melody."""

    start: float
    end: float
    pitch: float
    velocity: int

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Melody:
    """What is sung of a song: notes that follow each other, and the instruments that play them.

    Args:
        notes: in order of time, within the singer's range.
        leads: number of an instrument of the song, and from when to when its notes are sung.
    """

    notes: tuple[Note, ...]
    leads: tuple[tuple[int, float, float], ...]

    def within(self, start: float, stop: float) -> tuple[Note, ...]:
        """The notes that lie in a passage, timed from its start."""
        return tuple(
            replace(note, start=note.start - start, end=note.end - start)
            for note in self.notes
            if note.start >= start + EARLY and note.end <= stop - EARLY
        )


def stem_of(instrument) -> str:
    """The stem that an instrument belongs to."""
    return "drums" if instrument.is_drum else "bass" if instrument.program in BASSES else "other"


def highest_voice(instrument) -> list[Note]:
    """The highest of the notes that an instrument plays at any time, without those that are too short to be sung."""
    line = []
    for note in sorted(instrument.notes, key=lambda note: (note.start, -note.pitch)):
        if line:
            last = line[-1]
            hidden = note.start < last.end - EARLY and note.pitch < last.pitch - 2
            if hidden or note.start < last.start + SHORTEST:
                continue
            line[-1] = replace(last, end=min(last.end, note.start))
        line.append(Note(note.start, max(note.end, note.start + SHORTEST), note.pitch, note.velocity))
    tied = [replace(note, end=_tied_end(note, following)) for note, following in pairwise(line)] + line[-1:]
    return [note for note in tied if note.seconds >= SHORTEST - 0.02]


def _tied_end(note: Note, following: Note) -> float:
    return following.start if following.start - note.end < LEGATO else min(note.end, following.start)


def lead_melody(song, centre: float) -> Melody:
    """The melody of the instrument that leads best; where it rests for long, the next best ones take over.

    Args:
        song: that is sung.
        centre: the note about which the voice sings; notes are moved by octaves into its range.
    """
    notes, leads = [], []
    for number, line in _ranked_lines(song):
        octaves = 12 * round((centre - np.median([note.pitch for note in line])) / 12)
        for start, stop in _gaps(notes, song.get_end_time()):
            part = [note for note in line if start <= note.start and note.end <= stop] if notes else line
            if sum(note.seconds for note in part) < 3:
                continue
            leads.append((number, part[0].start, part[-1].end))
            notes += [
                replace(note, end=min(note.end, note.start + LONGEST), pitch=_in_range(note.pitch + octaves, centre))
                for note in part
            ]
        if sum(note.seconds for note in notes) > ENOUGH_SUNG * song.get_end_time():
            break
    return Melody(tuple(sorted(notes, key=lambda note: note.start)), tuple(leads))


def _ranked_lines(song) -> list[tuple[int, list[Note]]]:
    """The instruments that could lead, by number, with their highest voices; the best one first."""
    ranked = []
    for number, instrument in enumerate(song.instruments):
        line = highest_voice(instrument)
        if instrument.is_drum or instrument.program in NEVER_LEADS or len(line) < ENOUGH_NOTES:
            continue
        ranked.append((-_leading(instrument, line, song.get_end_time()), number, line))
    return [(number, line) for _, number, line in sorted(ranked, key=lambda entry: entry[:2])]


def _leading(instrument, line: list[Note], song_seconds: float) -> float:
    """How much an instrument leads: it plays often, one note at a time, several pitches, in a singer's register."""
    sung = sum(note.seconds for note in line)
    played = sum(note.end - note.start for note in instrument.notes)
    pitches = [note.pitch for note in line]
    score = (sung / song_seconds) ** 0.5 * (0.3 + sung / max(sung, played)) * min(1.0, len(set(pitches)) / 8)
    return (
        score * (1.5 if instrument.program in OFTEN_LEADS else 1.0) * (1.0 if 55 <= np.median(pitches) <= 90 else 0.5)
    )


def _gaps(notes: list[Note], song_seconds: float) -> list[tuple[float, float]]:
    """Where nobody sings for long, half a second from the notes around."""
    busy = sorted((note.start, note.end) for note in notes)
    edges = [-0.5, *(time for span in busy for time in span), song_seconds + 0.5]
    spans = zip(edges[::2], edges[1::2], strict=True)
    return [(start + 0.5, stop - 0.5) for start, stop in spans if stop - start >= GAP]


def _in_range(pitch: float, centre: float) -> float:
    while pitch > centre + RANGE_ABOVE:
        pitch -= 12
    while pitch < centre - RANGE_BELOW:
        pitch += 12
    return pitch


def activity(song, melody: Melody) -> dict[str, np.ndarray]:
    """Of every stem, whether it plays in each second of the song, (seconds,) booleans; "lead" is what is sung, and
    "rest" is other without it."""
    playing = {name: np.zeros(int(song.get_end_time()) + 1, bool) for name in (*INSTRUMENT_STEMS, "lead", "rest")}
    for number, instrument in enumerate(song.instruments):
        for note in instrument.notes:
            span = slice(int(note.start), int(note.end) + 1)
            playing[stem_of(instrument)][span] = True
            if stem_of(instrument) == "other" and not is_sung(melody, number, note):
                playing["rest"][span] = True
    for note in melody.notes:
        playing["lead"][int(note.start) : int(note.end) + 1] = True
    return playing


def passages(song, melody: Melody, seconds: float) -> list[float]:
    """Where the best passages start that do not overlap, the best one first: in which all stems play, and the voice
    above all."""
    playing = activity(song, melody)
    score = 2.0 * playing["lead"] + playing["drums"] + playing["bass"] + playing["other"]
    starts = np.arange(0, max(1, song.get_end_time() - seconds), STEP)
    sums = [score[int(start) : int(start + seconds)].sum() for start in starts]
    chosen = []
    for index in np.argsort(sums, kind="stable")[::-1]:
        if all(abs(starts[index] - other) >= seconds for other in chosen):
            chosen.append(float(starts[index]))
    return chosen


def is_sung(melody: Melody, number: int, note) -> bool:
    """Whether a note of an instrument is one of those that the voice sings."""
    return any(number == lead and start - 0.01 <= note.start < stop for lead, start, stop in melody.leads)


def part(song, stem: str, start: float, stop: float, transpose: int, without: Melody | None = None):
    """A song of one stem's instruments alone, from `start` to `stop`, whose controllers are as at its start.

    Args:
        song: to take from.
        stem: drums, bass or other.
        start, stop: of the passage.
        transpose: semitones that all but the drums are moved by.
        without: a melody whose notes are left out.
    """
    import pretty_midi

    result = pretty_midi.PrettyMIDI(resolution=960)  # half a millisecond
    for number, instrument in enumerate(song.instruments):
        if stem_of(instrument) != stem:
            continue
        copy = pretty_midi.Instrument(instrument.program, instrument.is_drum)
        moved = 0 if instrument.is_drum else transpose
        for note in instrument.notes:
            span = (max(note.start, start) - start, min(note.end, stop) - start)
            if span[1] - span[0] >= BRIEFEST and not (without and is_sung(without, number, note)):
                copy.notes.append(pretty_midi.Note(note.velocity, int(np.clip(note.pitch + moved, 0, 127)), *span))
        copy.control_changes = _controls(instrument.control_changes, start, stop, lambda event: event.number)
        copy.pitch_bends = _controls(instrument.pitch_bends, start, stop, lambda event: None)
        result.instruments.append(copy)
    return result


def _controls(events, start: float, stop: float, number) -> list:
    """Copies of a passage's events, timed from its start, where the last one of each number before it comes first."""
    import copy

    before, inside = {}, []
    for event in sorted(events, key=lambda event: event.time):
        moved = copy.copy(event)
        moved.time = max(0.0, event.time - start)
        if event.time <= start:
            before[number(event)] = moved
        elif event.time < stop:
            inside.append(moved)
    return [*before.values(), *inside]
