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
from concurrent.futures import ProcessPoolExecutor, wait
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
    """The four stems (L, 2) of a passage of a composed song, and the notes that are sung in it, timed from its start.

    Args:
        song: to be made.
        seconds: of the passage; a shorter song is taken whole.
    """
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
    return mix.balanced(stems, song.vocals_db, song.draws("balance")), notes if song.voice == "sung" else ()


def vocals(song: plan.ComposedSong, notes: tuple[score.Note, ...], frames: int) -> np.ndarray:
    """The voice of a song, dry, in the middle: (frames, 2)."""
    rng = song.draws("voice")
    if song.voice == "spoken":
        samples = voice.chained(song.singer.folder, frames, rng)
    else:
        samples = sing.sing(notes, voice.Deck(song.singer.folder, rng), song.singer.centre, frames, rng)
    return np.repeat(samples[:, None], 2, axis=1)


def recorded(song: plan.RecordedSong) -> dict[str, np.ndarray]:
    """The four stems (L, 2) of a recorded song, as they are."""
    return {stem: soundfile.read(song.folder / f"{stem}.ogg", dtype="float32", always_2d=True)[0] for stem in STEMS}


def licence_text(song: plan.ComposedSong | plan.RecordedSong) -> str:
    """What the stems of a song are made of, and which licences they carry."""
    if isinstance(song, plan.RecordedSong):
        return f"all: {song.licence} ({song.name} of everythingisfree)\n"
    fonts, lines = soundfonts(song), []
    for stem in score.INSTRUMENT_STEMS:
        licence = plan.combined([song.licence, fonts[stem].licence])
        lines.append(f"{stem}: {licence} ({song.midi.name} of {song.origin}, played with {fonts[stem].name})")
    lines.append(f"vocals: {song.singer.licence} ({song.singer.name}: {song.singer.credit}; {song.voice})")
    parts = [song.licence, song.singer.licence, *(font.licence for font in fonts.values())]
    lines.append(f"mixture: {plan.combined(parts)}")
    return "\n".join(lines) + "\n"


def build(out: Path, seconds: float, songs: list[plan.ComposedSong | plan.RecordedSong]) -> None:
    """Make those of some songs that are not there as `licence_text` says."""
    for song in songs:
        folder, licence = out / song.place, licence_text(song)
        if is_built(folder, licence):
            continue
        stems, notes = compose(song, seconds) if isinstance(song, plan.ComposedSong) else (recorded(song), ())
        with mix.song_written(folder, stems) as partial:
            (partial / "licence.txt").write_text(licence, encoding="utf-8")
            if notes:
                write_melody(partial / "melody.csv", notes)


def is_built(folder: Path, licence: str) -> bool:
    """Whether a song is there, and made of what its licence says."""
    file = folder / "licence.txt"
    return (folder / "mixture.wav").is_file() and file.is_file() and file.read_text(encoding="utf-8") == licence


def write_melody(file: Path, notes: tuple[score.Note, ...]) -> None:
    """Write the notes that are sung, in seconds and MIDI notes."""
    with open(file, "w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["start", "end", "pitch"])
        writer.writerows([f"{note.start:.3f}", f"{note.end:.3f}", f"{note.pitch:g}"] for note in notes)


def by_singer(songs) -> list[list]:
    """Songs in groups, largest first: a singer's clips are analysed once for all that one process sings with them."""
    groups = defaultdict(list)
    for song in songs:
        groups[song.singer.name if isinstance(song, plan.ComposedSong) else song.name].append(song)
    return sorted(groups.values(), key=len, reverse=True)


def build_all(out: Path, seconds: float, songs: list[plan.ComposedSong | plan.RecordedSong], jobs: int) -> None:
    """Make songs in so many processes, with a progress bar."""
    paths = {out / song.place: licence_text(song) for song in songs}
    with ProcessPoolExecutor(jobs) as pool, tqdm(desc="building", total=len(songs), unit="song") as bar:
        running = {pool.submit(build, out, seconds, group) for group in by_singer(songs)}
        try:
            while running:
                done, running = wait(running, timeout=2)
                for group in done:
                    group.result()  # raises what went wrong
                bar.update(sum(is_built(*song) for song in paths.items()) - bar.n)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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
    build_all(args.out, args.seconds, songs, args.jobs)
    held_out = sorted(song.name for song in songs if song.split == "validation")
    (args.out / VALIDATION).write_text("".join(f"{name}\n" for name in held_out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
