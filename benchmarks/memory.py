"""Peak memory of separating a short and a long song, for every output format: it should not depend on the length.

Each is a process of its own, `bsrnn infer` from a file to one of drums and one of the rest; its peak resident memory is
what Linux says at its end. Writes results/benchmark/memory.csv.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from bsrnn import audio, demo, records
from bsrnn.data import find_tracks

CHECKPOINT = "base-generic-drums-0"
MINUTES = (2, 60)
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
    blocks = (mixture[:, : length - start] for start in range(0, length, mixture.shape[-1]))
    audio.write(path, blocks, audio.Recording(path, rate, len(mixture), length))


def main() -> None:
    model = records.checkpoint("demo", CHECKPOINT)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        demo.generate(Path(folder, "songs"), train=1, test=6)
        for minutes in MINUTES:
            make_song(Path(folder, f"{minutes}.wav"), Path(folder, "songs"), minutes)
        for form in tqdm(audio.FORMATS, "measuring", unit="format"):
            peaks = {}
            for minutes in MINUTES:
                song = ["--input", f"{folder}/{minutes}.wav", "--out", folder]
                options = ["--checkpoint_fp", model, "--format", form, "--hop", "1", "--residual"]
                command = [sys.executable, "-c", MEASURED, "infer", *song, *options]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                peaks[minutes] = int(done.stdout.splitlines()[-1]) / 1e3
                rows.append({"format": form, "minutes": minutes, "peak_MB": peaks[minutes],
                             "ratio": peaks[minutes] / peaks[MINUTES[0]]})  # fmt: skip
    table = pd.DataFrame(rows)
    file = records.save_table(records.results("benchmark") / "memory.csv", table)
    print(table.to_string(index=False, float_format="%.2f"))
    print(file.relative_to(records.root()))
    assert table["ratio"].max() <= MOST, "memory grows with the song"


if __name__ == "__main__":
    main()
