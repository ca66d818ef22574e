"""What a shorter hop gains and costs when songs are separated: uSDR and time by chunks per sample of the song.

Scores a model of the demo on generated songs that nothing else here has seen. Writes results/benchmark/hop.csv.
"""

import tempfile
import time
from pathlib import Path

import report
import torch

from bsrnn import checkpoint, demo, files
from bsrnn.data import find_tracks
from bsrnn.metrics import usdr
from bsrnn.separate import Separator

MODEL = Path("results", "demo", "checkpoints", "multitask-generic-drums+bass+other+vocals-0")
OVERLAPS = (1, 2, 3, 4, 6, 8)  # chunks that hold each sample; the hop is the chunk divided by it
SONGS, SEED = 12, 77


def main() -> None:
    model = checkpoint.load(files.root() / MODEL)
    rows, times = [], []
    with tempfile.TemporaryDirectory() as folder:
        demo.generate(Path(folder, "songs"), train=1, test=SONGS, seed=SEED)
        tracks = find_tracks(Path(folder, "songs"), "test")
        for overlap in OVERLAPS:
            separator, scores, seconds = Separator([model], hop=model.config.chunk / overlap), [], 0.0
            for track in tracks:
                mixture, references = track.read("mixture"), track.stems(separator.sources)
                started = time.perf_counter()
                stems = separator(mixture, track.sample_rate)
                seconds += time.perf_counter() - started
                scores.append(usdr(references, torch.stack(list(stems.values()))))
            means = dict(zip(separator.sources, torch.stack(scores).nanmean(0).tolist(), strict=True))
            times.append(seconds)
            mean = sum(means.values()) / len(means)
            rows.append({"hop": separator.hop, "chunks": overlap, **means, "mean": mean, "time": seconds / times[0]})
    print(report.save("hop", rows))


if __name__ == "__main__":
    main()
