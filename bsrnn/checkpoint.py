"""Models as files: saved as safetensors with their configuration beside them, loaded, refused, or converted."""

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from bsrnn.config import CONFIG, Config
from bsrnn.files import written_together
from bsrnn.model import BSRNN

WEIGHTS = "model.safetensors"  # in a model's folder, beside its configuration


def save(model: BSRNN, folder: str | os.PathLike) -> None:
    """Write weights (safetensors) and configuration (JSON) to a folder, made if missing; OSError if that fails."""
    with written_together(Path(folder)) as partial:
        (partial / CONFIG).write_text(json.dumps(asdict(model.config), indent=2) + "\n")
        # save_file would let its owner alone read it
        (partial / WEIGHTS).write_bytes(safetensors.torch.save(model.state_dict()))


def load(path: str | os.PathLike) -> BSRNN:
    """Load a model, in evaluation mode on the CPU, from a folder as `save` wrote it, the last.ckpt of a training, or a
    file of torch.save that holds a state dict, with a config.json beside it. Nothing in a file is ever executed. Raises
    FileNotFoundError where something is missing, and ValueError where a file is damaged, holds more than tensors, or is
    of another architecture than its configuration."""
    path = Path(path)
    place = path.parent if path.name in (WEIGHTS, CONFIG) else path
    if place.is_file():
        content = _unpacked(place, weights_only=True)
        weights = content.get("state_dict", content) if isinstance(content, dict) else None
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise ValueError(f"{place} is of another architecture: it holds no state dict")
        config = Config.of(content["config"], place) if "config" in content else Config.read(place.parent)
        return _with_weights(config, {name.removeprefix("model."): w for name, w in weights.items()}, place)
    config, file = Config.read(place), place / WEIGHTS
    try:
        return _with_weights(config, safetensors.torch.load_file(file), file)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _with_weights(config: Config, weights: Mapping[str, Tensor], file: Path) -> BSRNN:
    for name, w in weights.items():
        plain = name.isprintable() and isinstance(w, Tensor) and w.is_cpu and w.layout == torch.strided
        if not (plain and not w.is_nested and w.is_floating_point() and w.untyped_storage().nbytes() >= w.nbytes):
            raise ValueError(f"{file} is of another architecture: {name!r} is no plain tensor of real numbers")
        if not w.isfinite().all():
            raise ValueError(f"{file} is broken: {name!r} holds numbers that are not finite (NaN or infinity)")
    try:
        with torch.device("meta"):  # where sizes beyond all memory cost nothing
            BSRNN(config).load_state_dict(weights, assign=True)
    except RuntimeError as error:
        # the first of several, after a headline
        raise ValueError(f"{file} is of another architecture: {str(error).splitlines()[:2][-1].strip()}") from None
    model = BSRNN(config)
    model.load_state_dict(weights)
    return model.eval()


def digest(*modules: nn.Module) -> str:
    """Twelve hex digits that change when a weight of a module does, or a model's configuration."""
    parts = hashlib.sha256()
    for module in modules:
        parts.update(repr(getattr(module, "config", None)).encode())
        for name, weight in module.state_dict().items():
            parts.update(name.encode())
            parts.update(weight.cpu().contiguous().view(torch.uint8).numpy())
    return parts.hexdigest()[:12]


def _unpacked(file: Path, **options):
    """What torch.load makes of a file of torch.save: of no program, which it would run, and of nothing compressed, as
    torch stores plainly, and such a thing may have no end. OSError if it cannot be read, ValueError if refused."""
    try:
        # torch's older format, which is no archive, holds no programs
        if not options["weights_only"] or zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
            if any(x.compress_type != zipfile.ZIP_STORED or x.filename.endswith("constants.pkl") for x in entries):
                raise pickle.UnpicklingError
        return torch.load(file, "cpu", **options)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise type(error)(f"{file}: cannot be read ({error.strerror})") from None
    except Exception:  # torch raises what zip files and pickles raise
        reasons = "holds more than tensors, or is damaged, or no checkpoint"
        raise ValueError(f"{file} {reasons}: refused, nothing in it was run") from None


def convert(file: Path, config: Config) -> BSRNN:
    """Convert a checkpoint of Lightning by the program of Magron, Serizel & Douwes (arXiv 2603.09187), whose heads are
    in the order of `config.sources`, with the errors of `load`. Nothing in the file is ever executed."""
    content = _unpacked(file, pickle_module=_Restricted, weights_only=False, mmap=True)
    try:
        theirs = {  # convolutions of width 1 as matrices
            name: w.flatten(1) if w.ndim > 2 and w.shape[-1] == 1 else w
            for name, w in content["state_dict"].items()
            if not name.endswith("transf.window")
        }
        ours = _translated(theirs, config) | theirs  # of which nothing should be left
    except KeyError as error:
        raise ValueError(f"{file} is of another architecture: it has no {error.args[0]}") from None
    except (RuntimeError, ValueError) as error:  # the former of shapes, at times with a stack after its first line
        raise ValueError(f"{file} is of another architecture: {str(error).splitlines()[0]}") from None
    except (AttributeError, IndexError, TypeError):  # as it holds something else
        raise ValueError(f"{file} is damaged, or no checkpoint of Lightning") from None
    return _with_weights(config, ours, file)


class _Inert:
    """Stands in for whatever a pickle names that is no tensor: takes everything, does nothing."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_, **__):
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__


class _Restricted:
    """Stands in for the pickle module: builds tensors and dictionaries only; their storages are torch's business."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            admitted = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
            return super().find_class(module, name) if f"{module}.{name}" in admitted else _Inert


_RENAMED = (  # of theirs, what only has another name with us; one after the other
    (r"separator\.(\d+)\.(time|band)_net\.", r"band_sequence.\2.\1."),
    (r"\.main_layer\.", ".rnn."),
    (r"\.proj\.", ".linear."),
    (r"separator\.(\d+)\.tac_module\.(\w+)\.0\.", r"band_sequence.tac.\1.\2."),
    (r"separator\.(\d+)\.tac_module\.\w+\.1\.", r"band_sequence.tac.\1.activation."),
    (r"separator\.(\d+)\.attn_block\.attn_", r"band_sequence.attention.\1."),
    (r"concat_proj\.", "output."),
    (r"conv_Q_(\d+)\.", r"queries.\1."),
    (r"conv_K_(\d+)\.", r"keys.\1."),
    (r"conv_V_(\d+)\.", r"values.\1."),
    (r"\.0\.(weight|bias)$", r".linear.\1"),
    (r"\.1\.weight$", ".activation.weight"),
    (r"\.2\.gamma$", ".norm.weight"),
    (r"\.2\.beta$", ".norm.bias"),
)


def _translated(theirs: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Foreign weights under our names and in our layout; they are taken out of `theirs`."""
    ours = {}
    for name in [name for name in theirs if name.startswith("separator.")]:
        value, new = theirs.pop(name), name
        for pattern, replacement in _RENAMED:
            new = re.sub(pattern, replacement, new)
        if value.ndim == 4:  # gain or bias of an attention's norm, (1, D, 1, K)
            value = value.permute(3, 0, 2, 1)
        if new in ours and not torch.equal(value, ours[new]):  # of a TAC's activation, which is there three times
            raise ValueError(f"the slopes in {name.rpartition('.')[0]!r} differ")
        ours[new] = value

    bands = [  # theirs around the number of a band, ours, and a band's layout: they have all real parts first
        ("BN", 0, "band_split.norm_", lambda x: x.unflatten(0, (2, -1)).T),
        ("BN", 1, "band_split.", lambda x: x.T.unflatten(0, (2, -1)).transpose(0, 1) if x.ndim > 1 else x[None]),
    ]
    for j, source in enumerate(config.sources):
        bands += [
            (f"maskers.{j}.mask", 0, f"heads.{source}.norm.", lambda x: x[None, None]),
            (f"maskers.{j}.mask", 1, f"heads.{source}.hidden.0.", lambda x: x.transpose(0, -1)[None]),
            (f"maskers.{j}.mask", 3, f"heads.{source}.hidden.1.", lambda x: x.transpose(0, -1)[None]),
            # values, then gates, of either real parts, then imaginary ones
            (f"maskers.{j}.mask", 5, f"heads.{source}.mask_", lambda x: x.unflatten(0, (4, -1)).transpose(0, 1)),
        ]
    for before, layer, name, layout in bands:
        for part in ("weight", "bias"):
            values = [theirs.pop(f"{before}.{k}.{layer}.{part}") for k in range(len(config.bins()))]
            ours[name + part] = torch.cat([layout(value) for value in values])
    return ours
