"""Where a model runs, and in which precision."""

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def torch_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first CUDA device, or the CPU where there is none.

    Raises:
        ValueError: it is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not available here: choose auto or cpu")
    return device


def keep_memory() -> None:
    """Let this process keep freed memory for its next use, where the C library is glibc; elsewhere do nothing.

    By default glibc hands every large block back to the system, which has to clear it again for the next one: a third
    of the time of a training step of a small model on two cores. Peak memory grows by about a tenth.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, -1)


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16; on other CPUs torch's LSTM fails there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, bf16: bool) -> torch.autocast:
    """A context in which models compute their matrix products in bfloat16, or as usual.

    The residual stream, norms, masks, STFT and all that follows stay in float32.

    Raises:
        ValueError: the device cannot.
    """
    if bf16 and not has_bf16(device):
        raise ValueError(f"this {device.type.upper()} has no bfloat16: leave out --bf16")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
