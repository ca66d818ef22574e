"""Build the open set: openly licensed music as a folder in MUSDB18-HQ's layout.

Composed songs (midi/) are rendered to drums, bass and other, and have no vocals; recorded songs (stems/) have real
voices. ORIGIN.md says where they come from. Every sixth composed song and two of the recorded ones are for testing.
Songs are 44.1 kHz, 16 bit, stereo, and their mixture is the exact sum of the stems. A build that was interrupted goes
on with the songs that are missing.

Needs the fluidsynth program, the MuseScore General soundfont and pretty_midi:

    apt-get install fluidsynth musescore-general-soundfont-small
    .venv/bin/python -m pip install pretty_midi
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from bsrnn.data import STEMS, VALIDATION
from bsrnn.records import written_together

HERE = Path(__file__).resolve().parent
RATE = 44_100  # Hz
SOUNDFONT = Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3")
BASSES = range(32, 40)  # General MIDI's programs for basses
TEST_EVERY = 6
TEST_RECORDINGS = ("2.Lithium", "7.Francium")
VALIDATION_RECORDING = "6.Caesium"  # of the four for training; our choice
STEP = 5  # seconds between the passages that are compared
AUDIBLE = 1e-3  # RMS
PEAK = 0.9


def songs() -> dict[str, Path]:
    """Where each song goes, such as train/d_e1m1, and what it is made from."""
    composed = sorted((HERE / "midi").glob("*.mid"))
    recorded = sorted(folder for folder in (HERE / "stems").iterdir() if folder.is_dir())
    places = {f"{'test' if number % TEST_EVERY == TEST_EVERY - 1 else 'train'}/{path.stem}": path
              for number, path in enumerate(composed)}  # fmt: skip
    return places | {f"{'test' if path.name in TEST_RECORDINGS else 'train'}/{path.name}": path for path in recorded}


def validation(places: dict[str, Path]) -> list[str]:
    """Which training songs validate: one of the recordings, and every sixth of the others."""
    composed = [place for place, path in places.items() if place.startswith("train") and path.is_file()]
    return [VALIDATION_RECORDING, *(Path(place).name for place in composed[::TEST_EVERY])]


def render(path: Path, seconds: float) -> dict[str, np.ndarray]:
    """The stems (L, 2) of a composed song, rendered one by one: the busiest passage of so many seconds."""
    import pretty_midi

    song, stems = pretty_midi.PrettyMIDI(str(path)), {}
    length = int(song.get_end_time() * RATE)
    for stem in ("drums", "bass", "other"):
        part = pretty_midi.PrettyMIDI(str(path))
        part.instruments = [instrument for instrument in part.instruments if _stem_of(instrument) == stem]
        with tempfile.TemporaryDirectory() as folder:
            midi, wav = f"{folder}/part.mid", f"{folder}/part.wav"
            part.write(midi)
            options = ["-niq", "-g", "0.4", "-r", str(RATE), "-O", "float", "-F", wav]
            subprocess.run(["fluidsynth", *options, str(SOUNDFONT), midi], check=True, capture_output=True)
            samples, _ = soundfile.read(wav, dtype="float32", always_2d=True)
        stems[stem] = np.pad(samples, ((0, max(0, length - len(samples))), (0, 0)))[:length]
    size = min(length, int(seconds * RATE))
    starts = range(0, max(1, length - size), STEP * RATE)
    start = max(starts, key=lambda start: sum(_busyness(stem[start : start + size]) for stem in stems.values()))
    return {name: stem[start : start + size] for name, stem in stems.items()}


def _stem_of(instrument) -> str:
    return "drums" if instrument.is_drum else "bass" if instrument.program in BASSES else "other"


def _busyness(stem: np.ndarray) -> float:
    audible = float(np.sqrt(np.mean(stem**2)) > AUDIBLE)
    return audible + min(1.0, 10 * float(np.abs(stem).mean()))


def recorded(folder: Path) -> dict[str, np.ndarray]:
    """The stems (L, 2) of a recorded song."""
    return {stem: soundfile.read(folder / f"{stem}.ogg", dtype="float32", always_2d=True)[0] for stem in STEMS}


def write(folder: Path, stems: dict[str, np.ndarray]) -> None:
    """Write stems and their exact sum as integers, together brought down where one would pass a peak of 0.9; a missing
    stem is silent."""
    length = min(map(len, stems.values()))
    stems = {stem: stems.get(stem, np.zeros((length, 2), np.float32))[:length] for stem in STEMS}
    peak = max(float(np.abs(signal).max()) for signal in (sum(stems.values()), *stems.values()))
    gain = min(1.0, PEAK / max(peak, 1e-9))
    integers = {stem: np.round(signal * gain * 32767).astype(np.int32) for stem, signal in stems.items()}
    with written_together(folder) as partial:
        for name, signal in {**integers, "mixture": sum(integers.values())}.items():
            soundfile.write(partial / f"{name}.wav", signal.astype(np.int16), RATE, subtype="PCM_16")


def build(out: Path, seconds: float, song: tuple[str, Path]) -> None:
    """Make one song, if it is not there."""
    place, path = song
    if not (out / place / "mixture.wav").is_file():
        write(out / place, recorded(path) if path.is_dir() else render(path, seconds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to make: 5 GB")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each composed song (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="songs at once (default: %(default)s)")
    args = parser.parse_args()
    if not shutil.which("fluidsynth") or not SOUNDFONT.is_file():
        print(f"build.py: needs the fluidsynth program and {SOUNDFONT}: apt-get install fluidsynth "
              "musescore-general-soundfont-small", file=sys.stderr)  # fmt: skip
        return 2
    every = songs()
    with ProcessPoolExecutor(args.jobs) as pool:
        made = pool.map(partial(build, args.out, args.seconds), every.items())
        list(tqdm(made, "building", total=len(every), unit="song"))
    (args.out / VALIDATION).write_text("".join(f"{name}\n" for name in validation(every)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
