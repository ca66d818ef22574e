import pickle
import platform
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bsrnn import audio, checkpoint, demo, devices, train
from bsrnn.data import find_tracks
from bsrnn.metrics import usdr
from bsrnn.separate import Separator

CPU = torch.device("cpu")
TRAINED = Path(__file__).parents[1] / "results/demo/checkpoints/multitask-generic-drums+bass+other+vocals-0"


def test_device_that_is_there():
    assert devices.torch_device("cpu") == CPU
    assert devices.torch_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "meta", "cpu:1", "cuda:99", "cuda:159", "cuda:-1"])
def test_devices_that_are_not_there(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="not available here"):
        devices.torch_device(name)
    assert devices.torch_device("cuda:1").index == 1  # and no memory of it was taken: there is none
    assert devices.torch_device("auto") == torch.device("cuda")


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_batches_of_other_sizes_take_no_more_threads(four_threads):
    counts, shares = [], {}
    for size in (4, 3, 2, 9) * 3:

        def square(item, size=size):
            shares.setdefault(size, set()).add(torch.get_num_threads())
            return item**2

        batch = torch.arange(float(size))[:, None]
        assert torch.equal(devices.by_item(square, batch), batch**2)
        assert torch.get_num_threads() == 4
        counts.append(threading.active_count())
    assert len(set(counts)) == 1
    assert shares == {4: {1}, 3: {1}, 2: {2}, 9: {1}}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "cuda"),
        (MemoryError(), "cpu"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "cpu"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), "cpu"),
        (RuntimeError("std::bad_alloc"), "cpu"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "cuda"),
        (RuntimeError("size mismatch"), None),
        (pickle.UnpicklingError("Unsupported global: x.bad_alloc"), None),  # a name that a file holds
    ],
)
def test_out_of_memory(error, expected):
    assert devices.short_of_memory(error) == expected


def test_other_cpus(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    assert not devices.has_bf16(CPU) and not devices.gains_by_bf16(CPU)


@pytest.mark.parametrize("instructions", [False, True])
@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "arm64"])
def test_only_cpus_with_the_instructions_gain_by_bf16(monkeypatch, machine, instructions):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)
    assert devices.gains_by_bf16(CPU) == (instructions or machine == "arm64")
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    assert not devices.gains_by_bf16(CPU)


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
    assert list(dtypes.values()) == [torch.float32, torch.bfloat16, torch.float32]
    assert torch.equal(resampled, audio.resample(waveform, 8_000, 16_000))


class Products(TorchDispatchMode):
    """Notes the types of all that is multiplied by weights, or by a whole LSTM at once."""

    def __init__(self):
        super().__init__()
        self.dtypes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in ("mm", "linear", "mkldnn_rnn_layer")):
            self.dtypes |= {part.dtype for part in args[:2]}
        return function(*args, **kwargs or {})


def test_bf16_is_in_the_lstm(tiny, bf16):
    lstm = tiny(("drums",)).band_sequence.time[0].rnn
    for on, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        with torch.no_grad(), devices.autocast(CPU, bf16=on), Products() as products:
            lstm(torch.randn(5, 3, 4))
        assert products.dtypes == {dtype}


def test_bf16_leaves_stft_and_loss_alone(tiny, bf16, monkeypatch):
    module, seen = train.TrainingModule(tiny(("drums", "bass")).train(), train.TrainingConfig()), {}

    def spy(function, name, *args):
        result = function(*args)
        seen[name] = {part.dtype for part in (*args, result) if isinstance(part, torch.Tensor)}
        return result

    for place, name in ((train, "stft"), (train, "istft"), (module, "objective")):
        monkeypatch.setattr(place, name, partial(spy, getattr(place, name), name))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    with devices.autocast(CPU, bf16=True):
        loss = module.training_step((torch.randn(1, 1, 4_000), torch.randn(1, 2, 1, 4_000)), 0)
    loss.backward()
    real, both = {torch.float32}, {torch.float32, torch.complex64}
    assert seen == {"stft": both, "istft": both, "objective": both} and loss.dtype == torch.float32
    assert {parameter.grad.dtype for parameter in module.parameters()} == real


def test_bf16_separates_as_well(tmp_path, bf16):
    demo.generate(tmp_path / "songs", train=1, test=1, seconds=4, seed=1)
    (track,), model = find_tracks(tmp_path / "songs", "test"), checkpoint.load(TRAINED)
    mixture, stems = track.read("mixture"), track.stems(model.config.sources)
    found = (Separator([model], bf16=each)(mixture, track.sample_rate) for each in (False, True))
    exact, rounded = (usdr(stems, torch.stack([*estimates.values()])) for estimates in found)
    assert not torch.equal(exact, rounded)
    assert float((rounded - exact).abs().max()) < 0.05  # dB
