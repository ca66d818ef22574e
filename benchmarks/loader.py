"""How many training chunks per second one core reads and mixes, beside reading chunks through musdb's own interface."""

import argparse
import statistics
import time
from pathlib import Path

import musdb
import pandas as pd
import torch

from bsrnn import records
from bsrnn.config import TrainingConfig
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--musdbhq_location", type=Path, default="demo", help="data set (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = find_data(args.musdbhq_location)
    songs = find_tracks(root, "train")
    mixes = Mixes(songs, STEMS, TrainingConfig(drop=0.0), sample_rate=songs[0].sample_rate, chunk=CHUNK, seed=0)
    names = {song.name for song in songs}
    tracks = [track for track in musdb.DB(root, is_wav=True, subsets="train") if track.name in names]
    rows = []
    for repeat in range(REPEATS + 1):
        for name, read, source in (("bsrnn", ours, mixes), ("musdb", through_musdb, tracks)):
            started = time.perf_counter()
            read(source, repeat * COUNT)
            rate = COUNT / (time.perf_counter() - started)
            rows.append({"loader": name, "repeat": repeat, "chunks_per_second": rate})
    table = pd.DataFrame(rows).query("repeat > 0")  # the first round warms the file cache
    medians = table.groupby("loader")["chunks_per_second"].agg(statistics.median)
    result = pd.DataFrame({"loader": medians.index, "chunks_per_second": medians.values,
                           "of_musdb": medians.values / medians["musdb"]})  # fmt: skip
    records.save_table(records.results("benchmark") / "loader.csv", result)
    print(f"chunks of {CHUNK:g} s, four sources, one core, {root.name}")
    print(result.to_string(index=False, float_format="%.2f"))


if __name__ == "__main__":
    main()
