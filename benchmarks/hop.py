"""What a shorter hop gains and costs when songs are separated: uSDR and time by chunks per sample of the song.

Scores a model of the demo on generated songs that nothing else here has seen. Writes results/benchmark/hop.csv.
"""

import tempfile
import time
from pathlib import Path

import pandas as pd

from bsrnn import checkpoint, demo, records
from bsrnn.data import find_tracks
from bsrnn.evaluate import evaluate

CHECKPOINT = "multitask-generic-drums+bass+other+vocals-0"
OVERLAPS = (1, 2, 3, 4, 6, 8)  # chunks that hold each sample; the hop is the chunk divided by it
SONGS, SEED = 12, 77


def main() -> None:
    model = checkpoint.load(records.checkpoint("demo", CHECKPOINT))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        demo.generate(Path(folder, "songs"), train=1, test=SONGS, seed=SEED)
        tracks = find_tracks(Path(folder, "songs"), "test")
        for overlap in OVERLAPS:
            hop = model.config.chunk / overlap
            started = time.perf_counter()
            scores = evaluate(model, tracks, split="test", hop=hop)
            seconds = time.perf_counter() - started
            means = scores[scores["metric"] == "uSDR"].groupby("source")["value"].mean()
            rows.append({"hop": hop, "chunks": overlap, **means, "mean": means.mean(), "seconds": seconds})
    table = pd.DataFrame(rows)
    seconds = table.pop("seconds")
    table["time"] = seconds / seconds.iloc[0]
    file = records.save_table(records.results("benchmark") / "hop.csv", table)
    print(table.to_string(index=False, float_format="%.3f"))
    print(file.relative_to(records.root()))


if __name__ == "__main__":
    main()
