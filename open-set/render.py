"""Instruments of a MIDI song, played by the fluidsynth program with one of several soundfonts."""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 44_100  # Hz


@dataclass(frozen=True)
class Soundfont:
    """Sampled instruments: the file, the Debian package that has it, and its licence, which rendered stems carry."""

    name: str
    path: Path
    package: str
    licence: str

    @property
    def installed(self) -> bool:
        return self.path.is_file()


SOUNDFONTS = (
    Soundfont(
        "MuseScore General",
        Path("/usr/share/sounds/sf3/MuseScore_General_Lite.sf3"),
        "musescore-general-soundfont-small",
        "MIT",
    ),
    Soundfont("FluidR3", Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"), "fluid-soundfont-gm", "MIT"),
    Soundfont("TimGM6mb", Path("/usr/share/sounds/sf2/TimGM6mb.sf2"), "timgm6mb-soundfont", "GPL-2.0-only"),
)


def play(song, soundfont: Soundfont, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A MIDI song's sound (frames, 2) float32, with the synthesizer's reverb and chorus or without.

    Args:
        song: a pretty_midi.PrettyMIDI.
        soundfont: whose instruments play.
        frames: samples to return.
        rng: draws reverb and chorus.
    """
    reverb, chorus, room, level = rng.random(4)
    options = {
        "synth.reverb.active": int(reverb < 0.6),
        "synth.reverb.room-size": f"{0.2 + 0.5 * room:.2f}",
        "synth.reverb.level": f"{0.2 + 0.6 * level:.2f}",
        "synth.chorus.active": int(chorus < 0.4),
    }
    with tempfile.TemporaryDirectory() as folder:
        midi, wav = f"{folder}/part.mid", f"{folder}/part.wav"
        song.write(midi)
        command = ["fluidsynth", "-niq", "-g", "0.4", "-r", str(RATE), "-O", "float", "-F", wav]
        settings = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        subprocess.run([*command, *settings, str(soundfont.path), midi], check=True, capture_output=True)
        samples, _ = soundfile.read(wav, dtype="float32", always_2d=True)
    return np.pad(samples, ((0, max(0, frames - len(samples))), (0, 0)))[:frames]
