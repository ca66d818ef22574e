import json
import pickle
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from bsrnn import checkpoint
from bsrnn.config import Config
from bsrnn.model import BSRNN

SMALL = {"feature_dim": 6, "hidden_dim": 5, "num_blstm_layers": 2, "mlp_dim": 7}


def test_save_and_load(tmp_path):
    model = BSRNN(Config(("drums", "bass"), "v3", n_fft=512, **SMALL)).eval()
    checkpoint.save(model, tmp_path / "model")
    loaded = checkpoint.load(tmp_path / "model")
    assert loaded.config == model.config
    mixture = torch.randn(1, 1, 257, 5, dtype=torch.complex64)
    assert torch.equal(loaded(mixture), model(mixture))
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def saved(content, folder, name="model.pt"):
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / name)
    return folder / name


def test_checkpoints_of_torch(tmp_path):
    model = BSRNN(Config(n_fft=512, **SMALL)).eval()
    config, weights = asdict(model.config), model.state_dict()
    in_training = {f"model.{name}": value for name, value in weights.items()}
    checkpoint.save(model, tmp_path / "saved")
    files = [
        tmp_path / "saved" / "model.safetensors",
        saved({"state_dict": in_training, "config": config, "epoch": 3}, tmp_path, "last.ckpt"),
        saved({"state_dict": weights, "config": config}, tmp_path, "complete.pt"),
        saved(weights, tmp_path / "folder", "weights.pt"),
    ]
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    for file in files:
        loaded = checkpoint.load(file)
        assert loaded.config == model.config and not loaded.training
        assert all(torch.equal(value, weights[name]) for name, value in loaded.state_dict().items())


class Hostile:
    """Runs code where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_hostile_files_run_nothing(tmp_path):
    trace = tmp_path / "trace"
    hostile = {"config": asdict(Config(n_fft=512, **SMALL)), "state_dict": Hostile(trace)}
    file = saved(hostile, tmp_path, "model.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(hostile, protocol=2))
    folder = tmp_path / "model"
    checkpoint.save(BSRNN(Config(n_fft=512, **SMALL)), folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(hostile, protocol=2))
    for path in (file, tmp_path / "plain.pt", folder):
        with pytest.raises(ValueError, match=r"holds more than tensors|damaged") as error:
            checkpoint.load(path)
        assert "\n" not in str(error.value)
        assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # it would have


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_fft", 512.0),
        ("n_fft", "512"),
        ("sample_rate", 8000.5),
        ("chunk", 10**400),
        ("chunk", True),
        ("standardize", "no"),
        ("schema", 7),
        ("sources", 7),
        ("sources", [1]),
        ("sources", [None]),
        ("sources", ["keys"]),
        ("feature_dim", 10**15),
        ("num_blstm_layers", 10**9),
        ("mlp_layers", 10**9),
        ("n_fft", 2**40),
        ("hidden_dim", 2**18),
    ],
)
def test_configurations_that_cannot_be(tmp_path, name, value):
    checkpoint.save(BSRNN(Config(n_fft=512, **SMALL)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(ValueError, match="is of another architecture") as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value)


def test_damaged_checkpoints(tmp_path):
    model = BSRNN(Config(n_fft=512, **SMALL))
    content = {"config": asdict(model.config), "state_dict": model.state_dict()}
    whole = saved(content, tmp_path).read_bytes()
    text = tmp_path / "text.pt"
    text.write_text("no checkpoint at all")
    cases = {
        saved(model.state_dict(), tmp_path, "alone.pt"): "has no config.json",
        saved([1, 2], tmp_path, "list.pt"): "holds no state dict",
        saved({"state_dict": 3}, tmp_path, "number.pt"): "holds no state dict",
        saved({1: torch.ones(2)}, tmp_path, "names.pt"): "holds no state dict",
        saved(content | {"config": {"layers": 3}}, tmp_path, "layers.pt"): "another architecture",
        saved(content | {"state_dict": {"a": torch.ones(2)}}, tmp_path, "others.pt"): "another architecture",
        text: "damaged",
    }
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / f"{length}.pt").write_bytes(whole[:length])
        cases[tmp_path / f"{length}.pt"] = "damaged"
    for file, message in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            checkpoint.load(file)
        assert "\n" not in str(error.value)


def test_a_configuration_without_later_fields_is_read(tmp_path):
    checkpoint.save(BSRNN(Config(n_fft=512, **SMALL)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("mlp_layers", "bin_convention", "standardize", "eps"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert checkpoint.load(tmp_path).config == Config(n_fft=512, **SMALL)


def test_another_architecture_is_refused(tmp_path):
    checkpoint.save(BSRNN(Config(n_fft=512, **SMALL)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in [
        ({"feature_dim": 8}, "another architecture"),
        ({"layers": 2}, "another architecture"),
        ({"schema": "v8"}, "unknown band schema"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message) as error:
            checkpoint.load(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="has no model"):
        checkpoint.load(tmp_path)


def test_a_digest_tells_weights_and_configurations_apart():
    model = BSRNN(Config(n_fft=512, **SMALL))
    before = checkpoint.digest(model)
    assert before == checkpoint.digest(model)
    model.heads.vocals.mask_bias.data[0, 0] += 1e-6
    assert checkpoint.digest(model) != before
    assert checkpoint.digest(model.band_split) == checkpoint.digest(model.with_heads(["bass"]).band_split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x * torch.nan, "not finite"),
        (lambda x: x.to(torch.complex64), "no plain tensor"),
        (lambda x: x.long(), "no plain tensor"),
        (lambda x: x.to_sparse(), "no plain tensor"),
        (lambda x: x.to("meta"), "no plain tensor"),
        (lambda x: x[:1, :1].clone().expand_as(x), "no plain tensor"),
        (lambda x: "text", "no plain tensor"),
    ],
)
def test_weights_are_plain_finite_tensors(tmp_path, change, message):
    model = BSRNN(Config(n_fft=512, **SMALL))
    weights = model.state_dict()
    weights["band_split.norm_weight"] = change(weights["band_split.norm_weight"])
    file = saved({"config": asdict(model.config), "state_dict": weights}, tmp_path)
    with pytest.raises(ValueError, match=f"{message}|holds more than tensors") as error:
        checkpoint.load(file)
    assert "\n" not in str(error.value)


def test_a_compressed_checkpoint_is_refused_before_it_grows(tmp_path):
    model = BSRNN(Config(n_fft=512, **SMALL))
    file = saved({"config": asdict(model.config), "state_dict": model.state_dict()}, tmp_path)
    with zipfile.ZipFile(file) as plain, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for entry in plain.infolist():
            small.writestr(entry.filename, plain.read(entry))
    with pytest.raises(ValueError, match="holds more than tensors, or is damaged"):
        checkpoint.load(tmp_path / "small.pt")
