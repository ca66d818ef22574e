"""Where a model runs, and in which precision."""

import atexit
import ctypes
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from multiprocessing.pool import ThreadPool

import torch
from torch import Tensor, nn

MOST_OFF = 0.05  # of a graph's results, whose products may be summed in another order
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def torch_device(name: str) -> torch.device:
    """The device of that name, ValueError if it is not available; "auto" is the first CUDA device, or else the CPU."""
    # counted, not tried: under torchrun every process would take memory of the first GPU
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = [*(["cuda"] if count else []), *(f"cuda:{index}" for index in range(count)), "cpu", "cpu:0"]
    if name not in ("auto", *known):
        raise ValueError(f"device {name!r} is not available here: choose auto or cpu")
    return torch.device(known[0] if name == "auto" else name)


def short_of_memory(error: Exception) -> str | None:
    """Where memory does not suffice, cpu or cuda, by an error for which torch has no type; None: it says otherwise."""
    kinds = r"out of memory|not enough memory|allocate memory|bad_alloc|ALLOC_FAILED"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(kinds, str(error))):
        return "cuda" if re.search("CUDA|CUDNN", str(error)) else "cpu"


def keep_memory() -> None:
    """Let this process keep freed memory for its next use, where the C library is glibc, which by default hands every
    large block back to the system to be cleared for the next one: a third of the time of a training step of a small
    model on two cores. Peak memory grows by about a tenth."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for size in (2**25, 2**30):  # of which older ones refuse the second
            mallopt(M_MMAP_THRESHOLD, size)
        mallopt(M_TRIM_THRESHOLD, -1)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; on other CPUs torch's LSTM fails there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def gains_by_bf16(device: torch.device) -> bool:
    """Whether the device is faster in bfloat16, which CPUs that have AVX512 without AVX512_BF16 compute by way of
    float32, in twice its time."""
    x86 = device.type == "cpu" and platform.machine() in ("x86_64", "AMD64")
    return has_bf16(device) and (not x86 or torch.cpu._is_avx512_bf16_supported())


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """A context in which models compute their matrix products in bfloat16, or as usual, ValueError if it cannot.
    The residual stream, norms, masks, STFT and all that follows stay in float32."""
    if bf16 and not has_bf16(device):
        raise ValueError(f"this {device.type.upper()} has no bfloat16: leave out --bf16, or, in a profile, bf16")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def has_graphs(device: torch.device) -> bool:
    """Whether work on the device can be a graph, see `Graphed`."""
    return device.type == "cuda"


class Graphed:
    """A network in training whose passes are CUDA graphs: one launch each, not thousands that the host is slow to make.
    Where the card cannot do it, and for an input of another shape than the `sample`, it is the network as it is. The
    network is on its device, in training mode, and its parameters stay where they are. Before a step their gradients
    are to be zeros, not None: the first one would else be memory of the graph's own, which the next one overwrites."""

    def __init__(self, network: nn.Module, sample: Tensor, bf16: bool):
        self.network, self.shape, self.replays = network, None, 0
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]

        def outcome():
            result = network(sample)
            return [result.detach().clone(), *torch.autograd.grad(result.abs().square().mean(), trained)]

        try:
            with torch.cuda.device_of(sample), torch.autocast(sample.device.type, torch.bfloat16, bf16, False):
                plain = outcome()
                torch.cuda.make_graphed_callables(network, (sample.clone(),))
                self._replay = network.forward
                if not all((a - b).norm() <= MOST_OFF * b.norm() for a, b in zip(outcome(), plain, strict=True)):
                    raise RuntimeError("it does not compute what the network does")
                self.shape = sample.shape
        except RuntimeError as error:
            problem = str(error).partition("\n")[0]
            print(f"training without a CUDA graph, which takes longer: {problem}", flush=True)
        finally:
            network.__dict__.pop("forward", None)  # by which torch has replaced that of the class

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape != self.shape:
            return self.network(x)
        self.replays += 1
        return self._replay(x)


def by_item(function: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    """Apply a function of any number of items, without gradients, to a batch (B, ...) on the device that it works on. A
    GPU takes the batch at once, a CPU one item per core at a time: cores that share an item, or the rows of a batch,
    would wait for each other at every step of an LSTM."""
    cores = torch.get_num_threads()
    if batch.device.type != "cpu" or min(cores, len(batch)) == 1:
        return function(batch)
    bf16 = torch.is_autocast_enabled("cpu")  # threads do not inherit it
    share = max(1, cores // len(batch))

    def of_item(item):
        if torch.get_num_threads() != share:
            torch.set_num_threads(share)
        with torch.no_grad(), autocast(batch.device, bf16):
            return function(item)

    results = _pool(cores).map_async(of_item, batch.split(1), 1)
    try:
        return torch.cat(results.get())
    finally:
        results.wait()  # also when interrupted: Python must not end while threads compute
        torch.set_num_threads(cores)  # the workers' setting is also that of threads to come


@cache
def _pool(cores: int) -> ThreadPool:
    """A worker per core. They are kept: every new thread would have the C library set memory apart. An executor of
    concurrent.futures would not do: interrupted while it starts a thread, it keeps Python from ending."""
    pool = ThreadPool(cores)
    atexit.register(pool.terminate)  # or Python's end would print that it cannot
    return pool
