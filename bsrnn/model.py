"""Band-Split RNN (Luo & Yu, arXiv 2209.15174): mixture spectrogram in, one estimate per source out.

In the order of the data: `BandSplit`, `BandSequence`, `MaskEstimation` (one per source), `BSRNN`.
Axes: B batch, C channels, S sources, F bins, T frames, K bands, N features.

Parameters that belong to bands of different widths are stored by bin, without padding. The modules gather them into a
few groups of bands of similar width (powers of two) and compute each group in one batched product, so that the
number of operations does not depend on the number of bands.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bsrnn.bands import band_schema
from bsrnn.devices import by_item
from bsrnn.records import written_together
from bsrnn.settings import check_types
from bsrnn.spectral import standardize

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MOST_LAYERS, LARGEST = 100, 2**18  # sizes of a model: beyond them a configuration is damaged, or a trap


@dataclass(frozen=True)
class Config:
    """Everything that defines a model. The sizes are the paper's (section IV-A4), the rest is this project's choice;
    `configs.CONFIGS` holds the models of the paper and of its authors' later code."""

    sources: tuple[str, ...] = ("vocals",)  # what the heads estimate
    schema: str = "generic"  # band schema by name, see bands.py
    sample_rate: int = 44_100  # Hz
    n_fft: int = 2048  # samples; the hop is a quarter of it
    chunk: float = 3.0  # seconds of the chunks the model is trained on and separates songs in
    feature_dim: int = 128  # N
    hidden_dim: int = 256  # of each LSTM direction
    num_blstm_layers: int = 12  # pairs of BLSTMs, one along time and one along bands
    mlp_dim: int = 512  # units of each hidden layer of the mask estimation
    mlp_layers: int = 1  # hidden layers of the mask estimation; 2 in the authors' later code
    bin_convention: str = "centre"  # how Hz become bins, see bands.py; "floor" in the authors' code
    standardize: bool = True  # show the network a standardized spectrogram (Refined BSRNN) or the plain one (the paper)
    eps: float = 1e-5  # of all norms: torch's default; not in the paper, 2 ** -23 in the authors' code

    def __post_init__(self):
        object.__setattr__(self, "sources", tuple(self.sources))
        check_types(self)
        plain = all(isinstance(source, str) and re.fullmatch(r"[^/\\.\0]+", source) for source in self.sources)
        if not self.sources or not plain or len(set(self.sources)) < len(self.sources):  # they name files and modules
            raise ValueError(f"sources must be one or more different names without any of / \\ ., not {self.sources}")
        if self.n_fft < 4 or self.n_fft % 4:
            raise ValueError(f"n_fft must be a positive multiple of 4, not {self.n_fft}")
        for name in ("sample_rate", "n_fft", "feature_dim", "hidden_dim", "num_blstm_layers", "mlp_dim", "mlp_layers"):
            most = MOST_LAYERS if name.endswith("layers") else LARGEST
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be at least 1 and at most {most}, not {getattr(self, name)}")
        if not 1 <= self.chunk * self.sample_rate < 2**31:
            raise ValueError(f"chunk must be finite and longer than a sample, not {self.chunk:g} s")
        if not 0 < self.eps < 1:
            raise ValueError(f"eps must be between 0 and 1, not {self.eps}")

    def bins(self) -> tuple[tuple[int, int], ...]:
        """The half-open bin range of every band."""
        return band_schema(self.schema).bins(self.sample_rate, self.n_fft, self.bin_convention)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Config":
        """Read the configuration of a model, see `BSRNN.from_pretrained`.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or of another architecture.
        """
        path = _place(path)
        if path.is_file():
            return _load_checkpoint(path)[0]
        file = path / CONFIG
        if not file.is_file():
            here = f"; the model of this run is {path / 'model'}" if (path / "model" / CONFIG).is_file() else ""
            raise FileNotFoundError(f"{path} is not a model folder: it has no {CONFIG}{here}")
        try:
            return cls.of(json.loads(file.read_text()), file)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            raise ValueError(f"{file} is not JSON") from None

    @classmethod
    def of(cls, values: dict, file: Path) -> "Config":
        """The configuration that a file holds as `values`; raises ValueError if that is none."""
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not {"sources", "schema"} <= set(values) <= names:
            raise ValueError(f"{file} is of another architecture: a model is told by {', '.join(sorted(names))}")
        try:
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{file} is of another architecture: {error}") from None


class BandGroups(nn.Module):
    """Index tables that pack bins into rectangles, one per group of bands of similar width.

    Band k of width G belongs to the group of the smallest power of two P >= G; in its group it is a row of P bins, of
    which the last P - G are padding. Reading, padding points to the extra bin F, which the caller sets to zero;
    writing, it is dropped. Waste is less than a factor of two, and groups are at most log2(F) + 2.
    """

    def __init__(self, bins: Iterable[tuple[int, int]]):
        super().__init__()
        bins = list(bins)
        self.num_bins = bins[-1][1]
        widths = [1 << (stop - start - 1).bit_length() for start, stop in bins]
        self.shapes = [(widths.count(width), width) for width in sorted(set(widths))]  # (bands, P) of each group
        order = sorted(range(len(bins)), key=widths.__getitem__)
        packed = []
        for group, (_, width) in enumerate(self.shapes):
            rows = [f if f < bins[k][1] else self.num_bins
                    for k in order if widths[k] == width for f in range(bins[k][0], bins[k][0] + width)]  # fmt: skip
            packed += rows
            self._index(f"bins_{group}", rows)
        self._index("order", order)  # the bands, group after group
        self._index("band_place", torch.tensor(order).argsort())  # where band k is in that order
        # where bin f is in the groups, one after the other
        self._index("bin_place", torch.tensor(packed).argsort()[: self.num_bins])
        self._index("band_of_bin", [k for k, (start, stop) in enumerate(bins) for _ in range(start, stop)])
        self._index("widths", [stop - start for start, stop in bins])

    def _index(self, name, values):
        self.register_buffer(name, torch.as_tensor(values), persistent=False)

    def pack(self, x: Tensor) -> list[Tensor]:
        """Bins (F, ...) to the groups' rectangles (k, P, ...), padded with zeros."""
        padded = torch.cat([x, x.new_zeros(1, *x.shape[1:])])
        return [padded.index_select(0, getattr(self, f"bins_{group}")).unflatten(0, shape)
                for group, shape in enumerate(self.shapes)]  # fmt: skip

    def unpack(self, groups: Iterable[Tensor]) -> Tensor:
        """The groups' rectangles (k, P, ...) to bins (F, ...), without the padding."""
        return torch.cat([group.flatten(0, 1) for group in groups]).index_select(0, self.bin_place)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """A parameter drawn as in `nn.Linear`: uniform within 1 / sqrt(fan_in). Initialization is not in the paper; our
    choice is torch's everywhere."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / math.sqrt(fan_in))


class BandSplit(nn.Module):
    """Each band of the spectrogram -> norm -> linear -> N features (section III-A).

    The norm is a group norm with one group, over the band's bins, real and imaginary parts and all frames, with one
    gain and bias per bin and part: the paper says "layer norm", the authors' public code does this. The linear layer
    sees real and imaginary parts side by side, as in the paper.

    Args:
        bins: half-open bin range of each band.
        feature_dim: N.
        eps: of the norm.
    """

    def __init__(self, bins: Iterable[tuple[int, int]], feature_dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.groups = BandGroups(bins)
        num_bins, widths = self.groups.num_bins, self.groups.widths
        bound = (2 * widths).rsqrt()
        self.norm_weight = nn.Parameter(torch.ones(num_bins, 2))
        self.norm_bias = nn.Parameter(torch.zeros(num_bins, 2))
        self.weight = _uniform(num_bins, 2, feature_dim, fan_in=1)
        self.bias = _uniform(len(widths), feature_dim, fan_in=1)
        with torch.no_grad():
            self.weight *= bound[self.groups.band_of_bin, None, None]
            self.bias *= bound[:, None]

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, F, T) complex -> (T, K, B, N)."""
        batch = len(spectrogram)
        x = self._normalize(torch.view_as_real(spectrogram).permute(1, 3, 0, 2).contiguous())  # (F, 2, B, T)
        features = [torch.bmm(x.flatten(1, 2).flatten(2).transpose(1, 2), weight.flatten(1, 2))  # (k, B * T, N)
                    for x, weight in zip(self.groups.pack(x), self.groups.pack(self.weight), strict=True)]  # fmt: skip
        features = torch.cat(features).index_select(0, self.groups.band_place) + self.bias[:, None]
        return features.unflatten(1, (batch, -1)).permute(2, 0, 1, 3)

    def _normalize(self, x: Tensor) -> Tensor:
        band_of_bin, widths = self.groups.band_of_bin, self.groups.widths

        def band_mean(x):  # (F, 2, B, T) -> (F, 1, B, 1): the mean over the band each bin lies in
            of_bins = x.mean(3).mean(1)
            sums = of_bins.new_zeros(len(widths), x.shape[2]).index_add(0, band_of_bin, of_bins)
            return (sums / widths[:, None]).index_select(0, band_of_bin)[:, None, :, None]

        x = x - band_mean(x)
        scale = (band_mean(x.square()) + self.eps).rsqrt() * self.norm_weight[..., None, None]
        return torch.addcmul(self.norm_bias[..., None, None], x, scale)


class SequenceNorm(nn.Module):
    """Group norm with one group, over the sequence (first axis) and the features (last), with one gain and bias per
    feature: "group norm" in the paper, these axes in the authors' code.

    Args:
        shape: of gain and bias: the features last, after axes of 1 for those that share them.
        eps: added to the variance.
    """

    def __init__(self, *shape: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        # two means in a row are several times faster on CPUs than one over both axes, or torch.var_mean
        x = x - x.mean(-1, keepdim=True).mean(0, keepdim=True)
        variance = x.square().mean(-1, keepdim=True).mean(0, keepdim=True)
        return torch.addcmul(self.bias, x, (variance + self.eps).rsqrt() * self.weight)


class ResidualRNN(nn.Module):
    """Norm -> BLSTM -> linear, plus the input (section III-B), along the first axis of (sequence, ..., N).

    The BLSTM has one layer (24 in all in section IV-A4); the linear layer joins its two directions. Dropout is not in
    the paper, nor here.
    """

    def __init__(self, feature_dim: int, hidden_dim: int, eps: float):
        super().__init__()
        self.norm = SequenceNorm(feature_dim, eps=eps)
        self.rnn = nn.LSTM(feature_dim, hidden_dim, bidirectional=True)
        self.linear = nn.Linear(2 * hidden_dim, feature_dim)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.norm(x).flatten(1, 2))
        return x + self.linear(y).view(x.shape)


class BandSequence(nn.Module):
    """Alternating RNNs along time, with weights shared by all bands, and along bands, shared by all frames (section
    III-B); time comes first, as in the paper."""

    def __init__(self, feature_dim: int, hidden_dim: int, num_blstm_layers: int, eps: float):
        super().__init__()
        self.time = nn.ModuleList(ResidualRNN(feature_dim, hidden_dim, eps) for _ in range(num_blstm_layers))
        self.band = nn.ModuleList(ResidualRNN(feature_dim, hidden_dim, eps) for _ in range(num_blstm_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(T, K, B, N) -> (T, K, B, N)."""
        for time, band in zip(self.time, self.band, strict=True):
            x = time(x)
            x = band(x.transpose(0, 1)).transpose(0, 1)
        return x


class BandLinear(nn.Module):
    """A linear layer of its own for each band."""

    def __init__(self, num_bands: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = _uniform(num_bands, in_features, out_features, fan_in=in_features)
        self.bias = _uniform(num_bands, out_features, fan_in=in_features)

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """(K, rows, in) -> (K, rows, out), the bands in the given order."""
        return torch.baddbmm(self.bias.index_select(0, order)[:, None], x, self.weight.index_select(0, order))


class MaskEstimation(nn.Module):
    """Features of each band -> norm -> MLP with tanh -> GLU -> complex mask of the band's bins (section III-C).

    The norm is that of the RNNs, with a gain and bias per band, as in the authors' code, which has a group norm with
    one group everywhere. The GLU (section IV-A4) has no activation but its gate. Its layout is not in the paper; our
    choice: per bin two values (real, imaginary), then their two gates.

    Args:
        bins: half-open bin range of each band.
        feature_dim: N.
        mlp_dim: units of a hidden layer.
        mlp_layers: hidden layers: one in the paper's text, two in the authors' later code.
        eps: of the norm.
    """

    def __init__(self, bins: Iterable[tuple[int, int]], feature_dim: int, mlp_dim: int, mlp_layers: int, eps: float):
        super().__init__()
        self.groups = BandGroups(bins)
        num_bins, num_bands = self.groups.num_bins, len(self.groups.widths)
        self.norm = SequenceNorm(num_bands, 1, feature_dim, eps=eps)
        inputs = [feature_dim] + [mlp_dim] * (mlp_layers - 1)
        self.hidden = nn.ModuleList(BandLinear(num_bands, size, mlp_dim) for size in inputs)
        self.mask_weight = _uniform(num_bins, 4, mlp_dim, fan_in=mlp_dim)
        self.mask_bias = _uniform(num_bins, 4, fan_in=mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K, B, N) -> (B, F, T) complex."""
        frames, _, batch, _ = x.shape
        order = self.groups.order
        x = self.norm(x).permute(1, 2, 0, 3).index_select(0, order).flatten(1, 2)  # (K, B * T, N)
        for hidden in self.hidden:
            x = torch.tanh(hidden(x, order))
        rows = x.split([count for count, _ in self.groups.shapes])
        mask = self.groups.unpack(
            self._gated(*group) for group in
            zip(rows, self.groups.pack(self.mask_weight), self.groups.pack(self.mask_bias), strict=True)
        )  # fmt: skip
        mask = mask.unflatten(2, (batch, frames))  # (F, 2, B, T)
        return torch.complex(mask[:, 0], mask[:, 1]).transpose(0, 1)

    @staticmethod
    def _gated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(k, B * T, M) -> (k, P, 2, B * T): real and imaginary parts of the masks of one group's bins."""
        values = torch.bmm(weight.flatten(1, 2), x.transpose(1, 2)).unflatten(1, (-1, 4)) + bias[..., None]
        return nn.functional.glu(values, dim=2)  # in float32 also under autocast, by the bias


class Heads(nn.ModuleDict):
    """Source -> its `MaskEstimation`, whatever the source is called: torch refuses names such as keys or training."""

    def add_module(self, name: str, module: nn.Module) -> None:
        self._modules[name] = module

    def train(self, mode: bool = True) -> "Heads":
        for head in self.values():
            head.train(mode)
        return self


class BSRNN(nn.Module):
    """Band-Split RNN with one mask estimation per source.

    `band_split` and `band_sequence` are the extractor, shared by all sources; `heads` maps a source to its
    `MaskEstimation`. One source is the paper's model; several are multi-task learning.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        bins = config.bins()
        size, eps = config.feature_dim, config.eps
        self.band_split = BandSplit(bins, size, eps)
        self.band_sequence = BandSequence(size, config.hidden_dim, config.num_blstm_layers, eps)
        self.heads = Heads({source: MaskEstimation(bins, size, config.mlp_dim, config.mlp_layers, eps)
                            for source in config.sources})  # fmt: skip

    def forward(self, mixture: Tensor) -> Tensor:
        """Estimate every source of a mixture.

        Args:
            mixture: (B, C, F, T) complex; any number of frames. Channels are separated one by one, with the same
                weights, as in the paper.

        Returns:
            (B, S, C, F, T) complex, sources in the order of `config.sources`: mask times mixture.
        """
        return self.masks(mixture) * mixture[:, None]

    def masks(self, mixture: Tensor) -> Tensor:
        """The complex masks (B, S, C, F, T) of a mixture (B, C, F, T)."""
        flat = mixture.flatten(0, 1)
        if self.config.standardize:
            flat = standardize(flat)
        # a frozen extractor runs as in inference, once for all heads
        features = by_item(self._features, flat, 2) if self.frozen else self._features(flat)
        masks = torch.stack([head(features) for head in self.heads.values()], 1)  # (B * C, S, F, T)
        return masks.unflatten(0, mixture.shape[:2]).transpose(1, 2)

    def _features(self, spectrogram: Tensor) -> Tensor:
        """(B, F, T) complex -> (T, K, B, N)."""
        return self.band_sequence(self.band_split(spectrogram))

    def with_heads(self, sources: Iterable[str]) -> "BSRNN":
        """A new model with a copy of this one's extractor and new, untrained heads for `sources`."""
        model = BSRNN(replace(self.config, sources=tuple(sources)))
        model.band_split.load_state_dict(self.band_split.state_dict())
        model.band_sequence.load_state_dict(self.band_sequence.state_dict())
        return model

    def keep_heads(self, sources: Iterable[str]) -> "BSRNN":
        """Drop the heads of all sources but these, which it has. Returns self."""
        self.config = replace(self.config, sources=tuple(sources))
        self.heads = Heads({source: self.heads[source] for source in self.config.sources})
        return self

    def freeze_extractor(self) -> "BSRNN":
        """Leave only the heads trainable; the extractor then runs as in inference. Returns self."""
        self.band_split.requires_grad_(False)
        self.band_sequence.requires_grad_(False)
        return self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether only the heads are trained."""
        return not self.band_split.weight.requires_grad

    def train(self, mode: bool = True) -> "BSRNN":
        """Set training mode; a frozen extractor stays in evaluation, where LSTMs keep nothing for a backward pass."""
        super().train(mode)
        if self.frozen:
            self.band_split.eval()
            self.band_sequence.eval()
        return self

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write weights (safetensors) and configuration (JSON) to a folder, made if missing."""
        with written_together(Path(folder)) as partial:
            save_file({name: value.cpu() for name, value in self.state_dict().items()}, partial / WEIGHTS)
            (partial / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors would let its owner alone read it

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike) -> "BSRNN":
        """Load a model, in evaluation mode on the CPU. Nothing in a file is ever executed.

        Args:
            path: a folder as `save_pretrained` wrote it, the last.ckpt of a training, or a file of torch.save that
                holds a state dict, with a config.json beside it.

        Raises:
            FileNotFoundError: something is missing.
            ValueError: a file is damaged or holds more than tensors, or weights and configuration do not belong
                together or to this architecture.
        """
        path = _place(path)
        if path.is_file():
            file, (config, weights) = path, _load_checkpoint(path)
        else:
            file, config = path / WEIGHTS, Config.load(path)
            if not file.is_file():
                raise FileNotFoundError(f"{path} is not a model folder: it has no {WEIGHTS}")
            try:
                weights = load_file(file)
            except SafetensorError as error:
                raise ValueError(f"{file} is damaged: {error}") from None
        try:
            with torch.device("meta"):  # where sizes beyond all memory cost nothing
                cls(config).load_state_dict(weights, assign=True)
        except RuntimeError as error:
            reason = str(error).split("\n\t")[1] if "\n\t" in str(error) else str(error)
            raise ValueError(f"{file} is of another architecture: {reason}") from None
        model = cls(config)
        model.load_state_dict(weights)
        return model.eval()


def _place(path: str | os.PathLike) -> Path:
    """A model's folder, also where one of the files in it is meant, or its checkpoint file."""
    path = Path(path)
    return path.parent if path.name in (WEIGHTS, CONFIG) else path


def _load_checkpoint(file: Path) -> tuple[Config, dict[str, Tensor]]:
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
    for prefix in ("average.module.", "model."):  # of a training's moving average, and of its model
        if chosen := {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}:
            weights = chosen
            break
    config = Config.of(content["config"], file) if "config" in content else Config.load(file.parent)
    return config, weights
