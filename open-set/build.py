"""Build the open set: openly licensed music with four stems, as a folder in MUSDB18-HQ's layout.

Composed songs (midi/) are rendered to drums, bass and other, and recorded voices (voices/) are made to sing their
melodies; recorded songs (stems/) have real voices and stay as they are. ORIGIN.md says where all of it comes from.
Songs are 44.1 kHz, 16 bit, stereo, and their mixture is the exact sum of the stems. Beside them lie licence.txt, and of
a composed song melody.csv, the notes that are sung. A build that was interrupted goes on with the songs that are
missing; the same programs and soundfonts on the same machine give the same bytes.

Needs the fluidsynth program, at least one of three soundfonts, pretty_midi and pyworld:

    apt-get install fluidsynth musescore-general-soundfont-small fluid-soundfont-gm timgm6mb-soundfont
    .venv/bin/python -m pip install pretty_midi pyworld
"""

import argparse
import csv
import os
import shutil
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import mix
import numpy as np
import plan
import render
import score
import sing
import soundfile
import voice
from tqdm import tqdm

from bsrnn.data import STEMS, VALIDATION

RATE = render.RATE
TRANSPOSED = 2  # semitones up or down at most
PACKAGES = ", ".join(font.package for font in render.SOUNDFONTS)
ENOUGH_REST = 0.5  # of a passage in which other must play without the lead, for the voice to take its place


def soundfonts(song: plan.ComposedSong) -> dict[str, render.Soundfont]:
    """The soundfont that is drawn for each instrumental stem, among those that are installed and whose licences can
    stand beside those of the song and the singer."""
    fitting = [
        font
        for font in render.SOUNDFONTS
        if font.installed and plan.may_combine([song.licence, song.singer.licence, font.licence])
    ]
    if not fitting:
        raise FileNotFoundError(f"{song.name}: no soundfont is installed whose licence fits: install {PACKAGES}")
    drawn = song.draws("soundfonts").integers(len(fitting), size=len(score.INSTRUMENT_STEMS))
    return {stem: fitting[number] for stem, number in zip(score.INSTRUMENT_STEMS, drawn, strict=True)}


def compose(song: plan.ComposedSong, seconds: float) -> tuple[dict[str, np.ndarray], tuple[score.Note, ...]]:
    """The four stems (L, 2) of a passage of a composed song, and the notes that are sung in it."""
    import pretty_midi

    midi = pretty_midi.PrettyMIDI(str(song.midi))
    transpose = int(song.draws("transposition").integers(-TRANSPOSED, TRANSPOSED + 1))
    melody = score.lead_melody(midi, song.singer.centre - transpose)
    starts = score.passages(midi, melody, seconds)
    start = starts[min(song.passage, len(starts) - 1)]
    stop = min(start + seconds, midi.get_end_time())
    notes = tuple(replace(note, pitch=note.pitch + transpose) for note in melody.within(start, stop))
    frames, before = round((stop - start) * RATE), min(score.LEAD_IN, start)
    rest = score.activity(midi, melody)["rest"][int(start) : int(stop)]
    without = melody if song.replaces_lead and rest.mean() > ENOUGH_REST else None
    stems = {"vocals": vocals(song, notes, frames)}
    for stem, font in soundfonts(song).items():
        part = score.part(midi, stem, start - before, stop, transpose, without if stem == "other" else None)
        played = render.play(part, font, frames + round(before * RATE), song.draws(f"synthesizer {stem}"))
        stems[stem] = played[round(before * RATE) :]
    stems = {stem: mix.treated(stem, samples, song.draws(f"treatment {stem}")) for stem, samples in stems.items()}
    return mix.balanced(stems, song.vocals_db, song.draws("balance")), notes


def vocals(song: plan.ComposedSong, notes: tuple[score.Note, ...], frames: int) -> np.ndarray:
    """The voice of a song, dry, in the middle: (frames, 2)."""
    rng = song.draws("voice")
    if song.voice == "spoken":
        samples = voice.chained(song.singer.folder, frames, rng)
    else:
        samples = sing.sing(notes, voice.Deck(song.singer.folder, rng), song.singer.centre, frames, rng)
    return np.repeat(samples[:, None], 2, axis=1)


def licence_text(song: plan.ComposedSong) -> str:
    """What the stems of a composed song are made of, and which licences they carry."""
    fonts, lines = soundfonts(song), []
    for stem in score.INSTRUMENT_STEMS:
        licence = plan.combined([song.licence, fonts[stem].licence])
        lines.append(f"{stem}: {licence} ({song.midi.name} of {song.origin}, played with {fonts[stem].name})")
    lines.append(f"vocals: {song.singer.licence} ({song.singer.name}: {song.singer.credit}; {song.voice})")
    parts = [song.licence, song.singer.licence, *(font.licence for font in fonts.values())]
    lines.append(f"mixture: {plan.combined(parts)}")
    return "\n".join(lines) + "\n"


def build_composed(folder: Path, song: plan.ComposedSong, seconds: float) -> None:
    """Make a composed song's folder."""
    stems, notes = compose(song, seconds)
    with mix.song_written(folder, stems) as partial_folder:
        (partial_folder / "licence.txt").write_text(licence_text(song), encoding="utf-8")
        with open(partial_folder / "melody.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["start", "end", "pitch"])
            writer.writerows([f"{note.start:.3f}", f"{note.end:.3f}", f"{note.pitch:g}"] for note in notes)


def build_recorded(folder: Path, song: plan.RecordedSong) -> None:
    """Make a recorded song's folder."""
    stems = {stem: soundfile.read(song.folder / f"{stem}.ogg", dtype="float32", always_2d=True)[0] for stem in STEMS}
    with mix.song_written(folder, stems) as partial_folder:
        (partial_folder / "licence.txt").write_text(f"all: {song.licence} ({song.name} of everythingisfree)\n")


def build(out: Path, seconds: float, songs: list[plan.ComposedSong | plan.RecordedSong]) -> int:
    """Make those of some songs that are not there; returns how many songs these are."""
    for song in songs:
        folder = out / song.place
        if (folder / "mixture.wav").is_file():
            continue
        if isinstance(song, plan.RecordedSong):
            build_recorded(folder, song)
        else:
            build_composed(folder, song, seconds)
    return len(songs)


def by_singer(songs) -> list[list]:
    """Songs in groups, largest first: a singer's clips are analysed once for all that one process sings with them."""
    groups = defaultdict(list)
    for song in songs:
        groups[song.singer.name if isinstance(song, plan.ComposedSong) else song.name].append(song)
    return sorted(groups.values(), key=len, reverse=True)


def missing() -> str:
    """What a build needs and is not installed, in one line; empty where nothing is."""
    if not shutil.which("fluidsynth"):
        return f"needs the fluidsynth program and soundfonts: apt-get install fluidsynth {PACKAGES.replace(',', '')}"
    if not any(font.installed and font.licence == "MIT" for font in render.SOUNDFONTS):
        return f"needs a soundfont: apt-get install {PACKAGES.replace(',', '')}"
    if absent := [package for package in ("pretty_midi", "pyworld") if find_spec(package) is None]:
        return f"needs {' and '.join(absent)}: python -m pip install {' '.join(absent)}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make: 8 GB")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each composed song (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="singers at once (default: %(default)s)")
    args = parser.parse_args()
    if problem := missing():
        print(f"build.py: {problem}", file=sys.stderr)
        return 2
    print("soundfonts:", ", ".join(font.name for font in render.SOUNDFONTS if font.installed))
    songs = [*plan.composed_songs(), *plan.recorded_songs()]
    with (
        ProcessPoolExecutor(args.jobs) as pool,
        tqdm(desc="building", total=len(songs), unit="song", smoothing=0) as bar,
    ):
        groups = [pool.submit(build, args.out, args.seconds, group) for group in by_singer(songs)]
        for done in as_completed(groups):
            bar.update(done.result())
    held_out = sorted(song.name for song in songs if song.split == "validation")
    (args.out / VALIDATION).write_text("".join(f"{name}\n" for name in held_out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
