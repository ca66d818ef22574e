"""Speed and memory of the model, beside the plain version with a loop over bands (plain.py): one table.

Both run in turns with the same weights, so that a noisy machine is as noisy for the one as for the other. Writes
results/benchmark/<device>.csv. On an H100 it takes at most six minutes.
"""

import argparse
import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import report
import torch
from plain import PlainBSRNN
from tqdm import tqdm

from bsrnn.config import CONFIGS, Config, TrainingConfig, costs, named_config
from bsrnn.devices import Graphed, autocast, gains_by_bf16, has_graphs, keep_memory, torch_device
from bsrnn.model import BSRNN
from bsrnn.separate import estimate
from bsrnn.spectral import stft
from bsrnn.train import TrainingModule

# What to measure on which device: models, tasks, batches, and seconds to time one row of the table. The tasks: separate
# all sources of the model; a training step for one source, for all of them, for a new head, for all but one.
PLANS = {
    "cpu": (("small", "paper-vocals"), ("inference", "base", "multitask", "transfer", "transfers"), (1, 4, 16), 10.0),
    "cuda": (("small", "authors-vocals", "obsrnn-vocals"), ("inference", "base"), (2, 8, 16, 64), 2.0),
}
MOST_ON_CPU = {"inference": 4}  # chunks of a model other than the small one: a step takes 5 GB for each
REPEATS, LEAST_REPEATS = 15, 3
LSTM_EVENTS = ("aten::lstm", "autograd::engine::evaluate_function: MkldnnRnnLayerBackward0")

Cell = tuple[str, str, int, bool]  # a row of the table: model, task, batch, bf16


def workload(
    model: torch.nn.Module, task: str, chunks: torch.Tensor, bf16: bool, graph: bool = False
) -> Callable[[], None]:
    """One pass over a batch of chunks (B, 1, L): estimates, or a training step, of which the network may be a graph."""

    def inference():
        with autocast(chunks.device, bf16):
            estimate(model, chunks)

    if task == "inference":
        model.eval()
        return inference
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not task.startswith("transfer") or name.startswith("heads."))
    model.train()
    if isinstance(model, PlainBSRNN):
        model.frozen = task.startswith("transfer")
    warnings.filterwarnings("ignore", ".*trainer` reference is not registered")  # Lightning's, of a step without it
    module = TrainingModule(model, TrainingConfig())
    (optimizer,), _ = module.configure_optimizers()
    targets = chunks[:, None].expand(-1, len(model.config.sources), -1, -1) / 2
    if graph:
        module.graphed = Graphed(model, stft(chunks, model.config.n_fft, model.config.padding), bf16)

    def step():
        with autocast(chunks.device, bf16):
            loss = module.training_step((chunks, targets), 0)
        module.step_losses.clear()
        module.optimizer_zero_grad(0, 0, optimizer)
        loss.backward()
        module.configure_gradient_clipping(optimizer)
        optimizer.step()

    return step


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """How long one call takes."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    started = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - started


def in_turns(device: torch.device, budget: float, *runs: Callable[[], None]) -> list[float]:
    """The median duration of each of several functions, called in turns until the seconds of the budget are over."""
    for run in (*runs, *runs):
        run()  # warm up, also for memory
    times, started = [], time.perf_counter()
    while len(times) < REPEATS and (len(times) < LEAST_REPEATS or time.perf_counter() - started < budget):
        times.append([seconds(run, device) for run in runs])
    return [statistics.median(column) for column in zip(*times, strict=True)]


def multiplication(device: torch.device, bf16: bool, size: int) -> Callable[[], None]:
    """A square matrix product; its rate is what the machine can do at most."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    return lambda: torch.mm(a, b)


def lstm_share(run: Callable[[], None], task: str) -> float:
    """The share of the time of one call on a CPU that is spent in LSTMs, forward and backward, by torch's profiler."""
    threads = torch.get_num_threads()
    if task == "inference" or task.startswith("transfer"):
        torch.set_num_threads(1)  # the profiler would not follow the threads that share chunks
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile:
        run()
    torch.set_num_threads(threads)
    events = profile.key_averages()
    lstms = sum(event.cpu_time_total for event in events if event.key in LSTM_EVENTS)
    return lstms / sum(event.self_cpu_time_total for event in events)


def configuration(name: str, task: str) -> Config:
    """The model of that name, with the sources that the task is about."""
    config = named_config(name)
    sources = {"base": config.sources[:1], "transfer": config.sources[:1], "transfers": config.sources[1:]}
    return replace(config, sources=sources.get(task, config.sources))


def versions(cell: Cell, device: torch.device) -> list[Callable[[], None]]:
    """The workload of a cell, by our model and by the plain version, and a training on a card by our model's graph."""
    name, task, batch, bf16 = cell
    torch.manual_seed(0)
    model = BSRNN(configuration(name, task)).to(device)
    chunks = 0.1 * torch.randn(batch, 1, model.config.chunk_samples, device=device)
    runs = [workload(version, task, chunks, bf16) for version in (model, PlainBSRNN(model).to(device))]
    graph = has_graphs(device) and task != "inference"
    return runs + [workload(copy.deepcopy(model), task, chunks, bf16, graph=True)] * graph


def peak_memory(run: Callable[[], None], device: torch.device) -> float:
    """Megabytes that a first call needs beyond what is there before it; NaN where the system does not tell."""
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


def peak_alone(cell: Cell, version: int, device: torch.device) -> float:
    """The peak memory of a version of a cell's workload, in a process that has not run the others."""
    return peak_memory(versions(cell, device)[version], device)


def alone(function: Callable, *arguments):
    """Call a function in a process of its own, which leaves no memory taken."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(cell: Cell, device: torch.device, budget: float) -> dict:
    """The columns of a row that are measured."""
    name, task, batch, bf16 = cell
    config, size = configuration(name, task), 8192 if device.type == "cuda" else 2048
    on_cpu = device.type == "cpu"
    peaks = [alone(peak_alone, cell, version, device) for version in (0, 1)] if on_cpu else []
    keep_memory()
    runs = versions(cell, device)
    peaks = peaks or [peak_memory(run, device) for run in runs]
    ours, theirs, *graph, product = in_turns(device, budget, *runs, multiplication(device, bf16, size))
    graphed, macs = sum(graph) or math.nan, 0.0
    for cost in costs(config):  # a backward pass has twice the products of a forward pass
        forward_only = task == "inference" or (task.startswith("transfer") and cost.module.startswith("band"))
        macs += batch * config.chunk * cost.macs * (1 if forward_only else 3)
    return {
        "ms": 1e3 * ours,
        "plain_ms": 1e3 * theirs,
        "speedup": theirs / ours,
        **({} if on_cpu else {"graph_ms": 1e3 * graphed, "graph_speedup": theirs / graphed}),
        "chunks_per_second": batch / ours,
        "times_real_time": batch * config.chunk / ours,
        **({"lstm_share": lstm_share(runs[0], task)} if on_cpu else {}),
        "of_gemm_rate": macs / ours / (size**3 / product),
        "peak_MB": peaks[0],
        "plain_peak_MB": peaks[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: %(default)s)")
    parser.add_argument("--models", nargs="+", help="by name, see `bsrnn info`")
    parser.add_argument("--tasks", nargs="+", choices=PLANS["cpu"][1], help="what to time")
    parser.add_argument("--batches", nargs="+", type=int, help="chunks in a batch")
    args = parser.parse_args()
    device = torch_device(args.device)
    names, tasks, batches, budget = PLANS[device.type]
    cells = [
        (name, task, batch, bf16)
        for name in args.models or [name for name in names if name in CONFIGS]
        for task in args.tasks or tasks
        for bf16 in (False, True)[: 1 + gains_by_bf16(device)]
        for batch in args.batches or batches
        if task not in ("multitask", "transfers") or len(named_config(name).sources) > 1
        if args.batches or device.type == "cuda" or name == "small" or batch <= MOST_ON_CPU.get(task, 1)
    ]
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    hardware += f", {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    rows, base_ms, text = [], {}, ""
    for cell in tqdm(cells, "measuring", unit="cell"):
        name, task, batch, bf16 = cell
        try:  # on a CPU in a process of its own; on a GPU its start would take longer than the rest
            measured = alone(measure, cell, device, budget) if device.type == "cpu" else measure(cell, device, budget)
        except torch.OutOfMemoryError:
            print(f"{cell}: takes more memory than there is, left out")
            continue
        finally:
            torch.cuda.empty_cache()
        row = {"model": name, "task": task, "precision": "bf16" if bf16 else "fp32", "batch": batch, **measured}
        if task == "base":
            base_ms[name, batch, bf16] = row["ms"]
        if device.type == "cpu":  # as how many base steps, one for each source
            same = base_ms.get((name, batch, bf16), math.nan) if task not in ("inference", "base") else math.nan
            row["base_steps"] = len(configuration(name, task).sources) * same / row["ms"]
        rows.append(row | {"hardware": hardware})
        text = report.save(device.type, rows)
    print(text)


if __name__ == "__main__":
    main()
