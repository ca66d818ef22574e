from pathlib import Path

import pytest
import torch

from bsrnn import audio, demo, devices
from bsrnn.data import find_tracks
from bsrnn.evaluate import evaluate
from bsrnn.model import BSRNN

CPU = torch.device("cpu")
TRAINED = Path(__file__).parents[1] / "results/demo/checkpoints/multitask-generic-drums+bass+other+vocals-0"


def test_device_that_is_there():
    assert devices.torch_device("cpu") == CPU
    assert devices.torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_bf16_where_there_is_none(monkeypatch):
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match="this CPU has no bfloat16: leave out --bf16"):
        devices.autocast(CPU, bf16=True)
    with devices.autocast(CPU, bf16=False):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


def test_bf16_is_in_the_network_only(tiny, bf16):
    model = tiny(("drums", "bass"))
    dtypes = {}
    for name in ("band_split", "band_sequence.time.0.linear", "band_sequence"):

        def note(_, inputs, output, name=name):
            dtypes[name] = output.dtype

        model.get_submodule(name).register_forward_hook(note)
    with devices.autocast(CPU, bf16=True):
        estimates = model(torch.randn(1, 1, 257, 9, dtype=torch.complex64))
        waveform = torch.randn(1, 8_000)
        resampled = audio.resample(waveform, 8_000, 16_000)
    assert estimates.dtype == torch.complex64
    assert dtypes == {"band_split": torch.float32, "band_sequence.time.0.linear": torch.bfloat16,
                      "band_sequence": torch.float32}  # fmt: skip
    assert torch.equal(resampled, audio.resample(waveform, 8_000, 16_000))


def test_bf16_separates_as_well(tmp_path, bf16):
    demo.generate(tmp_path / "songs", train=1, test=1, seconds=4, seed=1)
    tracks, model = find_tracks(tmp_path / "songs", "test"), BSRNN.from_pretrained(TRAINED)
    exact = evaluate(model, tracks, split="test")["value"]
    with devices.autocast(CPU, bf16=True):
        rounded = evaluate(model, tracks, split="test")["value"]
    assert not rounded.equals(exact)
    assert (rounded - exact).abs().max() < 0.05  # dB
