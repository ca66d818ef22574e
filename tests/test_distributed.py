"""Trainings as processes of their own: several at once, killed, out of disk space."""

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import pandas as pd
import pytest
import safetensors.torch
import torch
from options import MODEL_OPTIONS

from bsrnn.train import last_checkpoint

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.fixture
def command(songs, tmp_path, monkeypatch):
    """The arguments of a training of `name` in the folder `root`."""
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (tmp_path / "root").mkdir()

    def make(name, *options, launcher=()):
        start = [sys.executable, *launcher, "-m", "bsrnn.cli", "--device", "cpu", "train", "--musdbhq_location", songs]
        return [*start, "--part", "drums", "--part", "bass", "--name", name, *MODEL_OPTIONS, *map(str, options)]

    return make


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr
    return done


def left_by(tmp_path, name):
    folder = tmp_path / "root" / "runs" / name
    return (folder / "model" / "model.safetensors").read_bytes(), (folder / "history.csv").read_bytes()


@pytest.mark.parametrize(
    ("processes", "batch", "options"),
    [(2, 4, ("--max_epochs", 2)), (3, 3, ("--max_epochs", 1, "--epoch_size", 6))],
    ids=["two", "more than validation songs"],
)
def test_processes_train_as_one_with_the_whole_batch(command, tmp_path, processes, batch, options):
    run(command("one", "--batch_size", batch, *options))
    run(command("all", "--batch_size", batch // processes, *options, launcher=[*TORCHRUN, str(processes)]))
    one, several = (pd.read_csv(tmp_path / "root" / "runs" / name / "history.csv") for name in ("one", "all"))
    assert one["step"].tolist() == several["step"].tolist()
    pd.testing.assert_frame_equal(one, several, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("number", "line", "epochs", "options"),
    [
        (signal.SIGKILL, "", 0, ()),
        (signal.SIGKILL, "", 1, ("--data_loader_workers", 1, "--ema", 0.9)),
        (signal.SIGTERM, "", 1, ("--data_loader_workers", 2)),
        (signal.SIGINT, "bsrnn train: interrupted\n", 1, ("--data_loader_workers", 2)),
    ],
)
def test_killed_at_any_step_the_same_command_ends_the_same(command, tmp_path, number, line, epochs, options):
    options = ("--batch_size", 1, "--max_epochs", 4, "--epoch_size", 60, *options)
    run(command("straight", *options))
    history = tmp_path / "root" / "runs" / "killed" / "history.csv"
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where a job in the background is to ignore it
    process = subprocess.Popen(command("killed", *options), **PIPES, start_new_session=True, preexec_fn=heed)
    settings = history.with_name("settings.json")
    while not settings.is_file() or (epochs and not history.is_file()):
        time.sleep(0.02)
        assert process.poll() is None
    time.sleep(0.3)  # into the next epoch
    for _ in range(3):  # to it and its workers; by a hasty user more than once
        os.killpg(process.pid, number)
        time.sleep(0.1)
    assert process.communicate(timeout=100)[1] == line
    assert process.returncode in (128 + number, -number)  # the latter when Python is all but gone; alike to a shell
    assert not history.with_name("record.json").is_file() and not list(history.parent.rglob("*partial*"))
    done = last_checkpoint(history.parent)[1]
    assert done >= epochs
    again = run(command("killed", *options))
    assert (f"going on after epoch {done}" in again.stdout) == (done > 0)
    assert left_by(tmp_path, "killed") == left_by(tmp_path, "straight")


def children(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_two_machines_of_which_one_is_killed_train_as_one(command, tmp_path):
    options = ("--max_epochs", 3, "--epoch_size", 200)
    run(command("one", "--batch_size", 4, *options))
    with socket.create_server(("localhost", 0)) as free:
        endpoint = f"localhost:{free.getsockname()[1]}"
    meeting = f"--nnodes 2 --rdzv_backend c10d --rdzv_endpoint {endpoint}".split()
    launcher = [*TORCHRUN[:2], *meeting, TORCHRUN[-1], "1"]

    def start():
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        two = command("two", "--batch_size", 2, *options, launcher=launcher)
        return [subprocess.Popen(two, **quiet) for _ in range(2)]

    machines = start()
    history = tmp_path / "root" / "runs" / "two" / "history.csv"
    while not history.is_file():
        time.sleep(0.02)
        assert [machine.poll() for machine in machines] == [None, None]
    for pid in (machines[1].pid, *children(machines[1])):
        os.kill(pid, signal.SIGKILL)
    assert machines[0].wait(100) > 0
    machines[1].wait()
    assert not history.with_name("record.json").is_file()
    assert [machine.wait(200) for machine in start()] == [0, 0]
    one, two = (pd.read_csv(history.parents[1] / name / "history.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, rtol=1e-3, atol=1e-3)
    one, two = (safetensors.torch.load(left_by(tmp_path, name)[0]) for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-3)


def test_a_full_disk_leaves_the_last_checkpoint(command, tmp_path):
    options = ("--batch_size", 1, "--max_epochs", 2, "--epoch_size", 200)
    run(command("straight", *options))
    folder = tmp_path / "root" / "runs" / "run"
    process = subprocess.Popen(command("run", *options), stdout=subprocess.DEVNULL)
    while not last_checkpoint(folder)[1]:
        time.sleep(0.02)
        assert process.poll() is None
    process.kill()
    process.wait()
    before = (folder / "last.ckpt").read_bytes()

    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))}
    done = subprocess.run(command("run", *options), capture_output=True, text=True, timeout=300, **limited)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert "the checkpoint of epoch 2 cannot be written" in line and "run the same command again" in line
    assert "Traceback" not in done.stderr
    assert (folder / "last.ckpt").read_bytes() == before
    assert [path.name for path in folder.rglob("*") if "ckpt" in path.name] == ["last.ckpt"]
    run(command("run", *options))
    assert left_by(tmp_path, "run") == left_by(tmp_path, "straight")


@pytest.mark.parametrize(
    ("options", "variables", "line"),
    [
        (["--seed", "-1"], {"RANK": "0"}, "several processes need the same --seed: give one"),
        ([], {}, "of torchrun's variables RANK is missing: start with torchrun, or unset the others"),
    ],
)
def test_what_processes_must_agree_on_is_one_line(command, options, variables, line):
    arguments = [sys.executable, "-m", "bsrnn.cli", *options, *command("run")[3:]]
    environment = os.environ | {"WORLD_SIZE": "2"} | variables
    done = subprocess.run(arguments, text=True, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (2, f"bsrnn train: {line}\n")


def test_a_scheduler_that_starts_several_trainings_is_not_taken_for_one(command, tmp_path):
    (tmp_path / "srun").touch(0o755)  # which Lightning would have us use
    path = f"{tmp_path}:{os.environ['PATH']}"
    slurm = {"PATH": path, "SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "job"}
    done = run(command("run", "--batch_size", 2, "--max_epochs", 1, "--epoch_size", 4), env=os.environ | slurm)
    assert "srun" not in done.stderr
    assert list((tmp_path / "root" / "runs" / "run" / "tensorboard").iterdir())


def test_a_reader_that_is_killed_is_one_line(command, tmp_path):
    arguments = command("run", "--data_loader_workers", 1, "--epoch_size", 4000, "--max_epochs", 2)
    process = subprocess.Popen(arguments, **PIPES)
    readers = []
    while not readers:
        time.sleep(0.1)
        assert process.poll() is None
        readers = children(process) if (tmp_path / "root/runs/run/tensorboard").is_dir() else []
    time.sleep(1)
    os.kill(readers[-1], signal.SIGKILL)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 2
    assert error.splitlines()[-1].startswith("bsrnn train: a process that reads data beside the training has ended")
    assert "Traceback" not in error


def test_the_bar_in_a_terminal_shows_loss_score_and_speed(command):
    termios, pty = pytest.importorskip("termios", reason="no terminals"), pytest.importorskip("pty")
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 200))
    arguments = command("run", "--max_epochs", 2, "--epoch_size", 40)
    process = subprocess.Popen(arguments, stdout=terminal, stderr=subprocess.DEVNULL)
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(main, 4_096):
            shown += part
    except OSError:  # what Linux makes of a terminal that nobody holds any more
        pass
    os.close(main)
    assert process.wait() == 0, shown.decode()
    assert re.search(rb"Epoch 1:.*it/s.*step_loss=\d.*validation_usdr=-?\d", shown)
