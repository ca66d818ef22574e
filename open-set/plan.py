"""What the open set consists of: its songs, who sings them, and which licences may stand together in one song.

songs.csv has a row for every composed song, voices/singers.csv one for every singer; the recorded songs are the folders
of stems/. Nobody who sings in a test song sings anywhere else, and neither does a singer of the validation songs.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
TEST_RECORDINGS = ("2.Lithium", "7.Francium")
VALIDATION_RECORDING = "6.Caesium"  # of the four for training; our choice
REPLACES_LEAD = 0.7  # how often the voice takes the place of the lead, if anything else plays

ORIGINS = {
    "freedoom": "BSD-3-Clause",
    "openmsx": "GPL-2.0-only",
    "planetblupi": "GPL-3.0-or-later",
    "everythingisfree": "CC0-1.0",
}  # where songs come from, and their licence

# What a work may be under that combines parts under these licences. Creative Commons' ShareAlike is kept apart from the
# GNU licences, as the singers' versions of it are not known.
GPL_3 = frozenset({"GPL-3.0-only", "GPL-3.0-or-later"})
GPL = GPL_3 | {"GPL-2.0-only", "GPL-2.0-or-later"}
ANY = GPL | {"GPL-1.0-or-later", "LicenseRef-CC-BY-SA", "CC-BY-4.0", "BSD-3-Clause"}
PERMITS = {
    "BSD-3-Clause": ANY,
    "MIT": ANY,
    "LicenseRef-Public-Domain": ANY,
    "CC-BY-4.0": GPL_3 | {"CC-BY-4.0"},
    "LicenseRef-CC-BY-SA": frozenset({"LicenseRef-CC-BY-SA"}),
    "GPL-1.0-or-later": GPL | {"GPL-1.0-or-later"},
    "GPL-2.0-or-later": GPL,
    "GPL-2.0-only": frozenset({"GPL-2.0-only"}),
    "GPL-3.0-or-later": GPL_3,
    "GPL-3.0-only": frozenset({"GPL-3.0-only"}),
}


@dataclass(frozen=True)
class Singer:
    """Someone whose syllables were recorded.

    Args:
        name: of the folder in voices/ that has the clips.
        split: train, validation or test: the songs that this voice may sing.
        centre: the MIDI note about which the voice sings.
        licence: of the clips, as an SPDX identifier; a stem made of them carries it.
        credit: who is to be named.
    """

    name: str
    split: str
    centre: float
    licence: str
    credit: str

    @property
    def folder(self) -> Path:
        return HERE / "voices" / self.name


@dataclass(frozen=True)
class ComposedSong:
    """A song that is rendered from MIDI and sung.

    Args:
        name: of the song's folder in the set.
        midi: the file in midi/.
        passage: 0 for the song's best passage, 1 for the best of those that do not overlap it.
        origin: a key of `ORIGINS`.
        split: train, validation or test.
        voice: "sung", or "spoken" for clips as they were recorded, one after the other.
        singer: whose voice it is.
        seed: of all that is drawn for the song.
        vocals_db: the level of the vocals, in dB above that of the other three stems together.
    """

    name: str
    midi: Path
    passage: int
    origin: str
    split: str
    voice: str
    singer: Singer
    seed: int
    vocals_db: float

    @property
    def place(self) -> str:
        """The song's folder in the set: validation songs lie among those for training."""
        return f"{'test' if self.split == 'test' else 'train'}/{self.name}"

    @property
    def licence(self) -> str:
        return ORIGINS[self.origin]

    @property
    def replaces_lead(self) -> bool:
        return self.voice == "sung" and self.draws("lead").random() < REPLACES_LEAD

    def draws(self, purpose: str) -> np.random.Generator:
        """The random numbers for one purpose, which those of another do not change."""
        return np.random.default_rng([self.seed, *purpose.encode()])


@dataclass(frozen=True)
class RecordedSong:
    """A song whose stems were recorded: a folder of stems/."""

    name: str

    @property
    def folder(self) -> Path:
        return HERE / "stems" / self.name

    @property
    def split(self) -> str:
        return (
            "test" if self.name in TEST_RECORDINGS else "validation" if self.name == VALIDATION_RECORDING else "train"
        )

    @property
    def place(self) -> str:
        return f"{'test' if self.split == 'test' else 'train'}/{self.name}"

    @property
    def licence(self) -> str:
        return ORIGINS["everythingisfree"]


@cache
def singers() -> dict[str, Singer]:
    """Every singer by name."""
    with open(HERE / "voices" / "singers.csv", newline="", encoding="utf-8") as file:
        return {
            row["singer"]: Singer(row["singer"], row["split"], float(row["centre"]), row["licence"], row["credit"])
            for row in csv.DictReader(file)
        }


@cache
def composed_songs() -> tuple[ComposedSong, ...]:
    """The songs of songs.csv."""
    with open(HERE / "songs.csv", newline="", encoding="utf-8") as file:
        return tuple(
            ComposedSong(
                name=row["song"],
                midi=HERE / "midi" / row["midi"],
                passage=int(row["passage"]),
                origin=row["origin"],
                split=row["split"],
                voice=row["voice"],
                singer=singers()[row["singer"]],
                seed=int(row["seed"]),
                vocals_db=float(row["vocals_db"]),
            )
            for row in csv.DictReader(file)
        )


def recorded_songs() -> tuple[RecordedSong, ...]:
    """The songs of stems/."""
    return tuple(RecordedSong(folder.name) for folder in sorted((HERE / "stems").iterdir()) if folder.is_dir())


def may_combine(licences: Iterable[str]) -> bool:
    """Whether parts under these licences may stand together in one work."""
    return bool(frozenset.intersection(*(PERMITS[licence] for licence in licences)))


def combined(licences: Iterable[str]) -> str:
    """The licence of a work that combines parts under these licences: the one that asks for most.

    Raises:
        ValueError: they may not stand together.
    """
    licences = sorted(set(licences))
    if not may_combine(licences):
        raise ValueError(f"no licence allows {', '.join(licences)} in one work")
    return min(licences, key=lambda licence: len(PERMITS[licence]))
