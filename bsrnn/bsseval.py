"""BSSEval v4 by museval, in processes of their own, which need nothing else of this package."""

import multiprocessing
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import numpy as np

METRICS = ("ISR", "SIR", "SAR")  # beside SDR
PROCESSES = 4  # at most: each takes gigabytes for a song of four minutes


def check() -> None:
    """Raises ValueError where museval cannot be imported."""
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise ValueError("museval takes the ffmpeg program, which is not installed")


def ratios(references: np.ndarray, estimates: np.ndarray, sample_rate: int) -> np.ndarray:
    """ISR, SIR and SAR of every frame of a second, (3, S, frames) in dB, of sources (S, C, L), none of them silent."""
    import museval

    pair = (signals.swapaxes(1, 2).astype(float) for signals in (references, estimates))
    return np.stack(museval.evaluate(*pair, sample_rate, sample_rate)[1:])


@contextmanager
def processes() -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, and at once if anything goes wrong here.

    Raises:
        OSError: one of them was ended.
    """
    context = multiprocessing.get_context("spawn")
    end, held = context.Pipe(duplex=False)
    with ProcessPoolExecutor(min(PROCESSES, os.cpu_count()), context, _end_with, (end,)) as pool:
        try:
            yield pool
        except BaseException as error:
            held.close()
            if isinstance(error, BrokenProcessPool):
                raise OSError("a process of museval was ended, perhaps for want of memory") from None
            raise


def _end_with(pipe) -> None:
    """End this process when the other end of a pipe is closed, whatever it is doing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    threading.Thread(target=lambda: (pipe.poll(None), os._exit(1)), daemon=True).start()
