"""How long cSDR takes here and in museval, on 30 s of a real song with four sources in stereo, and whether they agree.

museval is asked as its eval_mus_track asks it; it computes ISR, SIR and SAR as well, and cannot leave them out. Writes
results/benchmark/metrics.csv.
"""

import statistics
import time
from collections.abc import Callable

import museval
import numpy as np
import report
import torch

from bsrnn.data import bundled_song
from bsrnn.metrics import csdr

SECONDS, REPEATS = 30, 11


def timed(function: Callable, *arguments) -> tuple[object, float]:
    """What a function returns, and the milliseconds that it takes."""
    started = time.perf_counter()
    result = function(*arguments)
    return result, 1e3 * (time.perf_counter() - started)


def main() -> None:
    mixture, stems, rate = bundled_song()
    length = SECONDS * rate
    references = torch.stack(list(stems.values())).repeat(1, 1, 6)[..., :length]  # it has 6 s
    noise = 0.01 * torch.randn(references.shape, generator=torch.Generator().manual_seed(0))
    estimates = 0.8 * references + 0.1 * mixture.repeat(1, 6)[:, :length] + noise
    ours = [timed(csdr, references, estimates, rate) for _ in range(REPEATS)]
    arrays = [signals.transpose(1, 2).double().numpy() for signals in (references, estimates)]  # as musdb gives them
    scores, theirs = timed(museval.evaluate, *arrays, rate, rate)
    ours += [timed(csdr, references, estimates, rate) for _ in range(REPEATS)]
    difference = np.abs(ours[0][0].numpy() - np.nanmedian(scores[0], axis=1)).max()
    assert difference < 1e-6, difference
    times = {"museval": theirs, "bsrnn": statistics.median(milliseconds for _, milliseconds in ours)}
    print(
        report.save(
            "metrics", [{"cSDR": name, "ms": value, "speedup": theirs / value} for name, value in times.items()]
        )
    )


if __name__ == "__main__":
    main()
