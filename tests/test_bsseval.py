import os
import shutil
import subprocess
import sys
import time

import pytest
from bsrnn.bsseval import processes

from bsrnn import bsseval


def test_processes_end_with_what_goes_wrong():
    with pytest.raises(OSError, match="a process of museval was ended"), processes() as pool:
        pool.submit(os._exit, 1).result()
    started = time.monotonic()
    with pytest.raises(ZeroDivisionError), processes() as pool:
        pool.submit(int).result()  # the process is there
        pool.submit(time.sleep, 300)
        raise ZeroDivisionError
    assert time.monotonic() - started < 100


def test_processes_end_with_a_killed_parent():
    code = ("import os, signal, time; from bsrnn.bsseval import processes\n"
            "with processes() as pool:\n    print(pool.submit(os.getpid).result(), flush=True)\n"
            "    pool.submit(time.sleep, 300)\n    os.kill(os.getpid(), signal.SIGKILL)")  # fmt: skip
    # the pipe of the output is closed when the last process that holds it has ended
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=100)
    assert int(done.stdout) > 0


def test_museval_without_ffmpeg_is_refused(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="museval takes the ffmpeg program, which is not installed"):
        bsseval.check()
