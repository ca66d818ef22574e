import json
import pickle
import zipfile
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from bsrnn import checkpoint
from bsrnn.config import CONFIGS, Config
from bsrnn.model import BSRNN

CONFIG = Config(n_fft=512, feature_dim=6, hidden_dim=5, num_blstm_layers=2, mlp_dim=7)


@pytest.fixture
def model():
    return BSRNN(CONFIG).eval()


@pytest.fixture
def folder(model, tmp_path):
    """A folder with a model in it."""
    checkpoint.save(model, tmp_path / "model")
    return tmp_path / "model"


@contextmanager
def refused(message):
    """Something is, in one line with this message."""
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        yield
    assert str(error.value).isprintable()


def content(model, **changes):
    """What a checkpoint holds."""
    return {"config": asdict(model.config), "state_dict": model.state_dict()} | changes


def test_save_and_load(tmp_path):
    model = BSRNN(replace(CONFIG, sources=("drums", "bass"), schema="v3")).eval()
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


def test_checkpoints_of_torch(model, folder, tmp_path):
    weights = model.state_dict()
    in_training = {f"model.{name}": value for name, value in weights.items()}
    files = [
        folder / "model.safetensors",
        saved(content(model, state_dict=in_training, epoch=3), tmp_path, "last.ckpt"),
        saved(content(model), tmp_path, "complete.pt"),
        saved(weights, folder, "weights.pt"),
    ]
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


def test_hostile_files_run_nothing(model, folder, tmp_path):
    trace = tmp_path / "trace"
    hostile = content(model, state_dict=Hostile(trace))
    file = saved(hostile, tmp_path, "model.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(hostile, protocol=2))
    (folder / "model.safetensors").write_bytes(pickle.dumps(hostile, protocol=2))
    for path in (file, tmp_path / "plain.pt", folder):
        with refused(r"holds more than tensors|damaged"):
            checkpoint.load(path)
        assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # it would have


IMPOSSIBLE = {
    "n_fft": (512.0, "512", 2**40),
    "sample_rate": (8000.5,),
    "chunk": (10**400, True),
    "standardize": ("no",),
    "schema": (7, "generic-1-\x1b[31m"),
    "sources": (7, [1], [None], ["keys"], ["a\x85"], ["\u202ea"], ["a\nb"]),
    "feature_dim": (8, 10**15),
    "hidden_dim": (2**18,),
    "num_blstm_layers": (10**9,),
    "mlp_layers": (10**9,),
    "layers": (2,),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in IMPOSSIBLE for value in IMPOSSIBLE[name]])
def test_configurations_that_cannot_be(folder, name, value):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {name: value}))
    with refused(r"(config.json|safetensors) is of another architecture"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("512", 5_000 * "9", "config.json is not JSON"), (CONFIG.schema, "v8", "unknown band schema")],
)
def test_configurations_that_cannot_be_read(folder, old, new, message):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace(old, new))
    with refused(message):
        checkpoint.load(folder)


def test_names_of_weights_are_not_shown_raw(model, tmp_path):
    for name in ("\x1b[31mevil\nname", "a\x85", "\u202ea"):
        with refused("is of another architecture"):
            checkpoint.load(saved(content(model, state_dict=model.state_dict() | {name: torch.zeros(1)}), tmp_path))


def test_damaged_checkpoints(model, tmp_path):
    whole = saved(content(model), tmp_path).read_bytes()
    (tmp_path / "text.pt").write_text("no checkpoint at all")
    cases = {
        saved(model.state_dict(), tmp_path, "alone.pt"): "has no config.json",
        saved([1, 2], tmp_path, "list.pt"): "holds no state dict",
        saved({"state_dict": 3}, tmp_path, "number.pt"): "holds no state dict",
        saved({1: torch.ones(2)}, tmp_path, "names.pt"): "holds no state dict",
        saved(content(model, config={"layers": 3}), tmp_path, "layers.pt"): "another architecture",
        saved(content(model, state_dict={"a": torch.ones(2)}), tmp_path, "others.pt"): "another architecture",
        tmp_path / "text.pt": "damaged",
    }
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / f"{length}.pt").write_bytes(whole[:length])
        cases[tmp_path / f"{length}.pt"] = "damaged"
    for file, message in cases.items():
        with refused(message):
            checkpoint.load(file)


def test_damaged_folders(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    with refused("damaged"):
        checkpoint.load(folder)
    (folder / "model.safetensors").unlink()
    with refused(r"No such file or directory: .*model\.safetensors"):
        checkpoint.load(folder)


def test_a_configuration_without_later_fields_is_read(folder):
    config = json.loads((folder / "config.json").read_text())
    for name in ("mlp_layers", "bin_convention", "standardize", "eps"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    assert checkpoint.load(folder).config == CONFIG


def test_a_digest_tells_weights_and_configurations_apart(model):
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
        (lambda x: torch.nested.nested_tensor([x, x[:1]]), "no plain tensor"),
        (lambda x: x[:1, :1].clone().expand_as(x), "no plain tensor"),
        (lambda x: "text", "no plain tensor"),
    ],
)
def test_weights_are_plain_finite_tensors(model, tmp_path, change, message):
    weights = model.state_dict()
    weights["band_split.norm_weight"] = change(weights["band_split.norm_weight"])
    file = saved(content(model, state_dict=weights), tmp_path)
    with refused(f"{message}|holds more than tensors"):
        checkpoint.load(file)


def test_a_compressed_checkpoint_is_refused_before_it_grows(model, tmp_path):
    file = saved(content(model), tmp_path)
    with zipfile.ZipFile(file) as plain, zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for entry in plain.infolist():
            small.writestr(entry.filename, plain.read(entry))
    with refused("holds more than tensors, or is damaged"):
        checkpoint.load(tmp_path / "small.pt")


def test_the_older_format_of_torch_is_read(tiny, tmp_path):
    model = tiny(["drums"])
    torch.save(content(model), tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    found = checkpoint.load(tmp_path / "old.ckpt").state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())


def test_a_tensor_alone_is_no_checkpoint_of_lightning(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "alone.ckpt")
    with pytest.raises(ValueError, match=r"alone.ckpt is damaged, or no checkpoint of Lightning$"):
        checkpoint.convert(tmp_path / "alone.ckpt", CONFIGS["small"])
    with pytest.raises(OSError, match=r"cannot be read \(Is a directory\)$"):
        checkpoint.convert(tmp_path, CONFIGS["small"])
