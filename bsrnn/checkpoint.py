"""Models as files: saved as safetensors with their configuration beside them, loaded, or refused; and converted from
the checkpoints of another program."""

import hashlib
import itertools
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bsrnn.bands import PAPER_SCHEMAS
from bsrnn.config import CONFIGS, Config
from bsrnn.files import written_together
from bsrnn.model import BSRNN

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save(model: BSRNN, folder: str | os.PathLike) -> None:
    """Write weights (safetensors) and configuration (JSON) to a folder, made if missing.

    Raises:
        OSError: they cannot be written.
    """
    with written_together(Path(folder)) as partial:
        (partial / CONFIG).write_text(json.dumps(asdict(model.config), indent=2) + "\n")
        try:
            save_file({name: value.cpu() for name, value in model.state_dict().items()}, partial / WEIGHTS)
        except SafetensorError as error:
            raise OSError(f"{folder}: the model cannot be written ({error})") from None
        shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors would let its owner alone read it


def load(path: str | os.PathLike) -> BSRNN:
    """Load a model, in evaluation mode on the CPU. Nothing in a file is ever executed.

    Args:
        path: a folder as `save` wrote it, the last.ckpt of a training, or a file of torch.save that holds a state dict,
            with a config.json beside it.

    Raises:
        FileNotFoundError: something is missing.
        ValueError: a file is damaged or holds more than tensors, or weights and configuration do not belong together
            or to this architecture.
    """
    path = _folder_or_checkpoint(path)
    if path.is_file():
        file, (config, weights) = path, _read_checkpoint(path)
    else:
        file, config = path / WEIGHTS, load_config(path)
        if not file.is_file():
            raise FileNotFoundError(f"{path} is not a model folder: it has no {WEIGHTS}")
        try:
            weights = load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged: {error}") from None
    _assigned(config, weights, file)  # refuses before memory is taken for what does not fit
    model = BSRNN(config)
    model.load_state_dict(weights)
    return model.eval()


def _assigned(config: Config, weights: Mapping[str, Tensor], file: Path) -> BSRNN:
    """A model that has these very tensors."""
    try:
        with torch.device("meta"):  # where sizes beyond all memory cost nothing
            model = BSRNN(config)
            model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).split("\n\t")[1] if "\n\t" in str(error) else str(error)
        raise ValueError(f"{file} is of another architecture: {reason}") from None
    return model.eval()


def load_config(path: str | os.PathLike) -> Config:
    """Read the configuration of a model, see `load`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another architecture.
    """
    path = _folder_or_checkpoint(path)
    if path.is_file():
        return _read_checkpoint(path)[0]
    file = path / CONFIG
    if not file.is_file():
        here = f"; the model of this run is {path / 'model'}" if (path / "model" / CONFIG).is_file() else ""
        raise FileNotFoundError(f"{path} is not a model folder: it has no {CONFIG}{here}")
    try:
        return Config.of(json.loads(file.read_text()), file)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{file} is not JSON") from None


def digest(*modules: nn.Module) -> str:
    """Twelve hex digits that change when a weight of a module does, or a model's configuration."""
    parts = hashlib.sha256()
    for module in modules:
        parts.update(repr(getattr(module, "config", None)).encode())
        for name, weight in module.state_dict().items():
            parts.update(name.encode())
            parts.update(weight.cpu().contiguous().view(torch.uint8).numpy())
    return parts.hexdigest()[:12]


def _folder_or_checkpoint(path: str | os.PathLike) -> Path:
    """A model's folder, also where one of the files in it is meant, or its checkpoint file."""
    path = Path(path)
    return path.parent if path.name in (WEIGHTS, CONFIG) else path


def _read_checkpoint(file: Path) -> tuple[Config, dict[str, Tensor]]:
    """Configuration and weights in a file of torch.save: those that a training would keep, where it is a checkpoint."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{file} holds more than tensors, or is damaged: refused, nothing in it was run") from None
    except Exception:  # torch raises what zip files raise
        raise ValueError(f"{file} is damaged, or no checkpoint") from None
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"{file} is of another architecture: it holds no state dict")
    if of_training := {name: value for name, value in weights.items() if name.startswith("model.")}:
        weights = {name.removeprefix("model."): value for name, value in of_training.items()}
    config = Config.of(content["config"], file) if "config" in content else load_config(file.parent)
    return config, weights


def convert(path: str | os.PathLike, sources: Sequence[str] = ()) -> BSRNN:
    """Convert a checkpoint of the program of Magron, Serizel & Douwes (arXiv 2603.09187, github.com/magronp/bsrnn), in
    evaluation mode on the CPU. Nothing in the file is ever executed, and all but tensors in it is left aside.

    Args:
        path: of the file, as Lightning wrote it.
        sources: of its heads, in their order, which the file does not tell. Without, they are those of the published
            files: all four, or the one that the file is named after.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, is no such checkpoint, or does not say what it estimates.
    """
    file, published = Path(path), CONFIGS["obsrnn-simo"].sources
    theirs = _read_foreign(file)
    heads = _count(theirs, "maskers.{}.mask.0.0.weight")
    sources = sources or (published if heads == len(published) else [file.stem] * (file.stem in published))
    if heads != len(sources):
        raise ValueError(f"{file} estimates {heads} sources and does not say which: give them with --part, in order")
    try:
        config = _foreign_config(theirs, sources)
        ours = _translated(theirs, config)
    except KeyError as error:
        raise ValueError(f"{file} is of another architecture: it has no {error.args[0]}") from None
    except (RuntimeError, ValueError) as error:  # the former of shapes that do not fit
        raise ValueError(f"{file} is of another architecture: {error}") from None
    if theirs:
        raise ValueError(f"{file} is of another architecture: {min(theirs)} is unknown")
    return _assigned(config, ours, file)


class _Inert:
    """Stands in for whatever a pickle names that is no tensor: takes everything, does nothing."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_, **__):
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__


class _Unpickler(pickle.Unpickler):
    """Builds tensors and dictionaries only; their storages are torch's business."""

    admitted = (
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch._utils", "_rebuild_parameter"),
    )

    def find_class(self, module, name):
        return super().find_class(module, name) if (module, name) in self.admitted else _Inert


def _read_foreign(file: Path) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, without its windows; whatever else the file holds is not built."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    options = {
        "mmap": True,
        "weights_only": False,
        "pickle_module": SimpleNamespace(__name__="restricted", Unpickler=_Unpickler),
    }
    try:
        with zipfile.ZipFile(file) as content:
            if any(name.endswith("constants.pkl") for name in content.namelist()):  # a program, which torch would run
                raise ValueError
        weights = torch.load(file, map_location="cpu", **options)["state_dict"]
        return {name: value.detach() for name, value in weights.items() if not name.endswith("transf.window")}
    except Exception:  # torch raises what zip files and pickles raise
        raise ValueError(f"{file} is damaged, or no checkpoint of Lightning") from None


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many names of a pattern there are, numbered from 0."""
    return next(number for number in itertools.count() if pattern.format(number) not in weights)


def _foreign_config(theirs: Mapping[str, Tensor], sources: Sequence[str]) -> Config:
    """The configuration that foreign weights belong to, by their names and shapes."""
    widths = [len(theirs[f"BN.{k}.0.weight"]) // 2 for k in range(_count(theirs, "BN.{}.0.weight"))]
    heads = _count(theirs, "separator.0.attn_block.attn_conv_Q_{}.0.weight")
    config = replace(
        CONFIGS["obsrnn-simo"],
        sources=tuple(sources),
        n_fft=2 * sum(widths) - 2,
        feature_dim=len(theirs["BN.0.1.bias"]),
        hidden_dim=theirs["separator.0.time_net.main_layer.weight_hh_l0"].shape[1],
        num_blstm_layers=_count(theirs, "separator.{}.time_net.norm.weight"),
        mlp_dim=len(theirs["maskers.0.mask.0.1.bias"]),
        tac="separator.0.tac_module.average.0.weight" in theirs,
        attention_heads=heads,
    )
    if heads:
        config = replace(config, attention_dim=len(theirs["separator.0.attn_block.attn_conv_Q_0.0.weight"]))
    for schema in PAPER_SCHEMAS:
        config = replace(config, schema=schema)
        if [stop - start for start, stop in config.bins()] == widths:
            return config
    raise ValueError(f"its {len(widths)} bands are those of no schema")


def _translated(theirs: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Foreign weights under our names and in our layout; they are taken out of `theirs`."""
    ours, take, bands = {}, theirs.pop, range(len(config.bins()))

    def move(prefix, new):
        for name in [name for name in theirs if name.startswith(prefix)]:
            ours[new + name.removeprefix(prefix)] = take(name)

    splits = [take(f"BN.{k}.1.weight") for k in bands]  # (N, 2G, 1): all real parts, then all imaginary ones
    ours["band_split.weight"] = torch.cat([w.reshape(len(w), 2, -1).permute(2, 1, 0) for w in splits])
    ours["band_split.bias"] = torch.stack([take(f"BN.{k}.1.bias") for k in bands])
    for part in ("weight", "bias"):
        ours[f"band_split.norm_{part}"] = torch.cat([take(f"BN.{k}.0.{part}").reshape(2, -1).T for k in bands])
    for i in range(config.num_blstm_layers):
        for axis, (part, name) in itertools.product(("time", "band"), _RNN_PARTS.items()):
            move(f"separator.{i}.{axis}_net.{part}.", f"band_sequence.{axis}.{i}.{name}.")
        if config.tac:
            old, new, parts = (
                f"separator.{i}.tac_module.",
                f"band_sequence.tac.{i}.",
                ("transform", "average", "concat"),
            )
            slopes = [take(f"{old}{part}.1.weight") for part in parts]
            if not slopes[0] == slopes[1] == slopes[2]:
                raise ValueError(f"the slopes in {old[:-1]} differ")
            ours[f"{new}activation.weight"] = slopes[0]
            for part in parts:
                move(f"{old}{part}.0.", f"{new}{part}.")
        projections = {"concat_proj": "output"} if config.attention_heads else {}
        for h, (letter, name) in itertools.product(range(config.attention_heads), _ATTENTION_PARTS.items()):
            projections[f"conv_{letter}_{h}"] = f"{name}.{h}"
        for part, name in projections.items():
            old, new = f"separator.{i}.attn_block.attn_{part}.", f"band_sequence.attention.{i}.{name}."
            ours[f"{new}linear.weight"] = take(f"{old}0.weight").flatten(1)
            ours[f"{new}linear.bias"] = take(f"{old}0.bias")
            ours[f"{new}activation.weight"] = take(f"{old}1.weight")
            ours[f"{new}norm.weight"] = take(f"{old}2.gamma").permute(3, 0, 2, 1)
            ours[f"{new}norm.bias"] = take(f"{old}2.beta").permute(3, 0, 2, 1)
    for j, source in enumerate(config.sources):
        masks = {part: [take(f"maskers.{j}.mask.{k}.{part}") for k in bands] for part in _MASK_PARTS}
        head = f"heads.{source}."
        for part in ("weight", "bias"):
            ours[f"{head}norm.{part}"] = torch.stack(masks[f"0.{part}"])[:, None]
        for layer in (0, 1):
            ours[f"{head}hidden.{layer}.weight"] = torch.stack(
                [w.flatten(1).T for w in masks[f"{2 * layer + 1}.weight"]]
            )
            ours[f"{head}hidden.{layer}.bias"] = torch.stack(masks[f"{2 * layer + 1}.bias"])
        # (4G, M, 1): value or gate, real or imaginary, bin
        outputs = [w.reshape(2, 2, -1, config.mlp_dim).permute(2, 0, 1, 3) for w in masks["5.weight"]]
        ours[f"{head}mask_weight"] = torch.cat(outputs).flatten(1, 2)
        ours[f"{head}mask_bias"] = torch.cat([b.reshape(4, -1).T for b in masks["5.bias"]])
    return {name: value.float().contiguous() for name, value in ours.items()}


_RNN_PARTS = {"norm": "norm", "main_layer": "rnn", "proj": "linear"}
_ATTENTION_PARTS = {"Q": "queries", "K": "keys", "V": "values"}
_MASK_PARTS = [f"{layer}.{part}" for layer in (0, 1, 3, 5) for part in ("weight", "bias")]
