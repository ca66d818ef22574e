"""Models as files: saved as safetensors with their configuration beside them, loaded, or refused."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bsrnn.config import Config
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
    try:
        with torch.device("meta"):  # where sizes beyond all memory cost nothing
            BSRNN(config).load_state_dict(weights, assign=True)
    except RuntimeError as error:
        reason = str(error).split("\n\t")[1] if "\n\t" in str(error) else str(error)
        raise ValueError(f"{file} is of another architecture: {reason}") from None
    model = BSRNN(config)
    model.load_state_dict(weights)
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
    except UnpicklingError:
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
