"""Peak memory of separating a short and a long song, for every output format: it should not depend on the length.

Each is a process of its own, `bsrnn infer` from a file to one of drums and one of the rest; its peak resident memory is
what Linux says at its end. Writes results/benchmark/memory.csv.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import report
import torch
from tqdm import tqdm

from bsrnn import audio, demo, files
from bsrnn.config import FORMATS
from bsrnn.data import find_tracks

MODEL = Path("results", "demo", "checkpoints", "base-generic-drums-0")
MOST = 1.1  # times the memory of the short song
MEASURED = """
import sys
from bsrnn.cli import main
code = main(sys.argv[1:])
# what getrusage says would be no less than the peak of the process that started this one
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
sys.exit(code)
"""


def make_song(path: Path, songs: Path, minutes: float) -> None:
    """A stereo song of that length: generated ones in turns."""
    mixture = torch.cat([track.read("mixture") for track in find_tracks(songs, "test")], -1)
    length, rate = round(minutes * 60 * demo.RATE), demo.RATE
    blocks = (mixture[None, :, : length - start] for start in range(0, length, mixture.shape[-1]))
    audio.write([path], blocks, audio.Recording(path, rate, len(mixture), length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", nargs="+", type=float, default=(2, 60), help="of the songs")
    lengths = parser.parse_args().minutes
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        demo.generate(Path(folder, "songs"), train=1, test=6)
        for minutes in lengths:
            make_song(Path(folder, f"{minutes}.wav"), Path(folder, "songs"), minutes)
        for form in tqdm(FORMATS, "measuring", unit="format"):
            peaks = {}
            for minutes in lengths:
                song = ["--input", f"{folder}/{minutes}.wav", "--out", folder]
                options = ["--checkpoint_fp", files.root() / MODEL, "--format", form, "--hop", "1", "--residual"]
                command = [sys.executable, "-c", MEASURED, "infer", *song, *options]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                peaks[minutes] = int(done.stdout.splitlines()[-1]) / 1e3
                ratio = peaks[minutes] / peaks[lengths[0]]
                rows.append({"format": form, "minutes": minutes, "peak_MB": peaks[minutes], "ratio": ratio})
    print(report.save("memory", rows))
    assert max(row["ratio"] for row in rows) <= MOST, "memory grows with the song"


if __name__ == "__main__":
    main()
