"""Speed and memory of the model, beside the plain version with a loop over bands (plain.py): one table.

Both run in turns with the same weights, so that a noisy machine is as noisy for the one as for the other. Writes
results/benchmark/<device>.csv; notebook 07 and the README show it.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from plain import PlainBSRNN
from tqdm import tqdm

from bsrnn import records
from bsrnn.config import Config, costs, named_config
from bsrnn.devices import autocast, has_bf16, keep_memory, torch_device
from bsrnn.model import BSRNN
from bsrnn.separate import estimate
from bsrnn.train import Module, TrainingConfig, seed_everything

MODELS = ("small", "paper-vocals")
# separate all sources of the model; a training step for one source, for all of them, for a new head, for all but one
TASKS = ("inference", "base", "multitask", "transfer", "transfers")
BATCHES = (1, 2, 4, 8, 16, 64)
# a step of the paper's model takes 5 GB a chunk, and several versions of it are held
CPU_BATCHES = {("small", task): (1, 4, 16) for task in TASKS} | {("paper-vocals", "inference"): (1, 4)}
REPEATS, LEAST_REPEATS, BUDGET = 15, 3, 10.0  # of one measurement; the budget is in seconds
LSTM_EVENTS = {"aten::lstm", "autograd::engine::evaluate_function: MkldnnRnnLayerBackward0",
               "autograd::engine::evaluate_function: CudnnRnnBackward0"}  # fmt: skip


def workload(model: torch.nn.Module, task: str, chunks: torch.Tensor, bf16: bool) -> Callable[[], None]:
    """One pass over a batch of chunks (B, 1, L): estimates, or a training step."""
    if task == "inference":
        model.eval()

        def run():
            with autocast(chunks.device, bf16):
                estimate(model, chunks)

        return run
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(not task.startswith("transfer") or parameter_name.startswith("heads."))
    model.train()
    module = Module(model, TrainingConfig())
    (optimizer,), _ = module.configure_optimizers()
    targets = chunks[:, None].expand(-1, len(model.config.sources), -1, -1) / 2

    def step():
        with autocast(chunks.device, bf16):
            loss = module.training_step((chunks, targets), 0)
        module.step_losses.clear()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), module.settings.clip_grad_norm)
        optimizer.step()

    return step


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """How long one call takes."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def in_turns(device: torch.device, *runs: Callable[[], None]) -> list[float]:
    """The median duration of each of several functions, called in turns."""
    for run in (*runs, *runs):
        run()  # warm up, also for memory
    times, started = [], time.perf_counter()
    while len(times) < REPEATS and (len(times) < LEAST_REPEATS or time.perf_counter() - started < BUDGET):
        times.append([seconds(run, device) for run in runs])
    return [statistics.median(column) for column in zip(*times, strict=True)]


def multiplication(device: torch.device, bf16: bool, size: int) -> Callable[[], None]:
    """A square matrix product; its rate is what the machine can do at most."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    return lambda: torch.mm(a, b)


def lstm_share(run: Callable[[], None], device: torch.device, task: str) -> float:
    """The share of the time of one call that is spent in LSTMs, forward and backward, by torch's profiler."""
    threads = torch.get_num_threads()
    if task == "inference" or task.startswith("transfer"):
        torch.set_num_threads(1)  # the profiler would not follow the threads that share chunks
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        run()
        synchronize(device)
    torch.set_num_threads(threads)
    events = profile.key_averages()
    lstms = [event for event in events if event.key in LSTM_EVENTS]
    if device.type == "cuda":  # kernels are events of their own, beside the operators that start them
        kernels = (event for event in events if event.device_type == torch.autograd.DeviceType.CUDA)
        return sum(event.device_time_total for event in lstms) / sum(event.self_device_time_total for event in kernels)
    return sum(event.cpu_time_total for event in lstms) / sum(event.self_cpu_time_total for event in events)


def configuration(name: str, task: str) -> Config:
    """The model of that name, with the sources that the task is about."""
    config = named_config(name)
    sources = {"base": config.sources[:1], "transfer": config.sources[:1], "transfers": config.sources[1:]}
    return replace(config, sources=sources.get(task, config.sources))


def pair(cell: tuple[str, str, int, bool], device: torch.device) -> list[Callable[[], None]]:
    """The workload of a cell of the table (model, task, batch, bf16), by our model and by the plain version."""
    name, task, batch, bf16 = cell
    seed_everything(0)
    model = BSRNN(configuration(name, task)).to(device)
    samples = round(model.config.chunk * model.config.sample_rate)
    chunks = 0.1 * torch.randn(batch, 1, samples, device=device)
    return [workload(each, task, chunks, bf16) for each in (model, PlainBSRNN(model).to(device))]


def peak_memory(cell: tuple[str, str, int, bool], which: int, device: torch.device) -> float:
    """Megabytes that a first call in this process needs beyond what is there before it; NaN where the system does not
    tell."""
    run = pair(cell, device)[which]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    except OSError:
        return float("nan")
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1e3


def _status(field: str) -> int:
    """A field of this process's status in kilobytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def alone(function: Callable, *arguments):
    """Call a function in a process of its own, which leaves no memory taken."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(cell: tuple[str, str, int, bool], device: torch.device) -> dict:
    """One row of the table, but for memory."""
    keep_memory()
    name, task, batch, bf16 = cell
    config = configuration(name, task)
    audio = batch * config.chunk
    size = 8192 if device.type == "cuda" else 2048
    runs = pair(cell, device)
    base = [] if task in ("inference", "base") else [pair((name, "base", batch, bf16), device)[0]]
    ours, theirs, product, *base = in_turns(device, *runs, multiplication(device, bf16, size), *base)
    # a backward pass has twice the products of a forward pass
    passes = [1 if task == "inference" or (task.startswith("transfer") and cost.module.startswith("band")) else 3
              for cost in costs(config)]  # fmt: skip
    rate = audio * sum(each * cost.macs for each, cost in zip(passes, costs(config), strict=True)) / ours
    share = lstm_share(runs[0], device, task)
    return {
        "model": name, "task": task, "precision": "bf16" if bf16 else "fp32", "batch": batch,
        "ms": 1e3 * ours, "plain_ms": 1e3 * theirs, "speedup": theirs / ours,
        "base_steps": len(config.sources) * base[0] / ours if base else float("nan"), "times_real_time": audio / ours,
        "lstm_share": share, "of_gemm_rate": rate / (size**3 / product),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=MODELS, help="by name, see `bsrnn info`")
    parser.add_argument("--batches", nargs="+", type=int, help="chunks in a batch")
    args = parser.parse_args()
    device = torch_device(args.device)
    cells = [
        (name, task, batch, bf16)
        for name in args.models for task in TASKS for bf16 in (False, True)
        for batch in args.batches or (BATCHES if device.type == "cuda" else CPU_BATCHES.get((name, task), (1,)))
        if (has_bf16(device) or not bf16)
        and (task not in ("multitask", "transfers") or len(named_config(name).sources) > 1)
    ]  # fmt: skip
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else (
        f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")  # fmt: skip
    rows = []
    for cell in tqdm(cells, "measuring", unit="cell"):
        try:
            ours, plain = (alone(peak_memory, cell, which, device) for which in range(2))
            rows.append(alone(measure, cell, device) | {"peak_MB": ours, "plain_peak_MB": plain, "hardware": hardware})
        except torch.OutOfMemoryError:
            print(f"{cell}: takes more memory than there is, left out")
            continue
        table = pd.DataFrame(rows)
        file = records.save_table(records.results("benchmark") / f"{device.type}.csv", table)
    print(table.to_string(index=False, float_format="%.2f"))
    print(file.relative_to(records.root()))


if __name__ == "__main__":
    main()
