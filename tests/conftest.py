import os

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes share the tests, and the cores: said before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import devices, separate
from bsrnn.config import Config
from bsrnn.data import STEMS
from bsrnn.model import BSRNN


@pytest.fixture
def tiny():
    """Makes a model that is small and quick; always the same weights."""

    def make(sources, **config):
        torch.manual_seed(0)
        sizes = {"n_fft": 512, "chunk": 0.2, "feature_dim": 4, "hidden_dim": 4, "num_blstm_layers": 1, "mlp_dim": 4}
        return BSRNN(Config(tuple(sources), **(sizes | config))).eval()

    return make


@pytest.fixture
def identity(tiny):
    """Makes a model whose masks are exactly one: every estimate is the mixture."""

    def make(sources, **config):
        model = tiny(sources, **config)
        for head in model.heads.children():
            torch.nn.init.zeros_(head.mask_weight)
            head.mask_bias.data[:] = torch.tensor([1.0, 0.0, 100.0, 100.0])  # open gates
        return model

    return make


@pytest.fixture
def bf16(monkeypatch):
    """The CPU computes in bfloat16, in software where it must."""
    monkeypatch.setattr(separate, "gains_by_bf16", lambda device: True)
    if devices.has_bf16(torch.device("cpu")):
        yield
        return
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)
    with torch.backends.mkldnn.flags(enabled=False):  # oneDNN's LSTM needs the hardware, torch's own does not
        yield


@pytest.fixture
def songs(tmp_path):
    """A data set of 8 training and 2 test songs of noise, 2 s long, at 8 kHz."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        for i in range(count):
            folder = tmp_path / "songs" / split / f"song {i}"
            folder.mkdir(parents=True)
            stems = {stem: draw.normal(0, 0.05, (16_000, 2)) for stem in STEMS}
            stems["drums"] *= (np.arange(16_000) % 2_000 < 400)[:, None]  # something to tell it by
            for name, samples in (stems | {"mixture": sum(stems.values())}).items():
                soundfile.write(folder / f"{name}.wav", samples, 8_000, subtype="FLOAT")
    return tmp_path / "songs"
