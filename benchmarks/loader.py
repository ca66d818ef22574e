"""How many training chunks per second one core reads and mixes, beside reading chunks through musdb's own interface.

Writes results/benchmark/loader.csv.
"""

import argparse
import statistics
import time
from pathlib import Path

import musdb
import report
import torch

from bsrnn.config import Config, TrainingConfig
from bsrnn.data import STEMS, Mixes, find_data, find_tracks

CHUNK, COUNT, REPEATS = 3.0, 10, 5


def ours(mixes: Mixes, first: int) -> None:
    """Chunks of four sources, each from a song of its own."""
    for index in range(first, first + COUNT):
        mixes[index]


def through_musdb(tracks: list, first: int) -> None:
    """Chunks of four sources of one song, as musdb's readme shows."""
    for number in range(first, first + COUNT):
        track = tracks[number % len(tracks)]
        track.chunk_duration = CHUNK
        track.chunk_start = (track.duration - CHUNK) * (number % 7) / 7
        for stem in STEMS:
            torch.from_numpy(track.targets[stem].audio.T.astype("float32"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--musdbhq_location", type=Path, default="demo", help="data set (default: %(default)s)")
    root = find_data(parser.parse_args().musdbhq_location)
    torch.set_num_threads(1)
    songs = find_tracks(root, "train")
    model = Config(STEMS, sample_rate=songs[0].sample_rate, chunk=CHUNK)
    mixes = Mixes(songs, model, TrainingConfig(drop=0.0), seed=0)
    names = {song.name for song in songs}
    tracks = [track for track in musdb.DB(root, is_wav=True, subsets="train") if track.name in names]
    rates = {"bsrnn": [], "musdb": []}
    for repeat in range(REPEATS + 1):
        for name, read, source in (("bsrnn", ours, mixes), ("musdb", through_musdb, tracks)):
            started = time.perf_counter()
            read(source, repeat * COUNT)
            rates[name].append(COUNT / (time.perf_counter() - started))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}  # the first warms the file cache
    rows = [
        {"loader": name, "chunks_per_second": rate, "of_musdb": rate / medians["musdb"]}
        for name, rate in medians.items()
    ]
    print(report.save("loader", rows))


if __name__ == "__main__":
    main()
