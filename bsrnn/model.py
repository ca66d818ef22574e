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
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bsrnn.bands import band_schema
from bsrnn.spectral import standardize

EPS = 1e-5  # of all norms; not in the paper, torch's default
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Config:
    """Everything that defines a model. The defaults are the paper's (section IV-A4), with the generic schema."""

    sources: tuple[str, ...] = ("vocals",)  # what the heads estimate
    schema: str = "generic"  # band schema by name, see bands.py
    sample_rate: int = 44_100  # Hz
    n_fft: int = 2048  # samples; the hop is a quarter of it
    chunk: float = 3.0  # seconds of the chunks the model is trained on and separates songs in
    feature_dim: int = 128  # N
    hidden_dim: int = 256  # of each LSTM direction
    num_blstm_layers: int = 12  # pairs of BLSTMs, one along time and one along bands
    mlp_dim: int = 512  # hidden units of the mask estimation

    def __post_init__(self):
        object.__setattr__(self, "sources", tuple(self.sources))
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError(f"sources must be one or more different names, not {list(self.sources)}")
        if self.n_fft < 4 or self.n_fft % 4:
            raise ValueError(f"n_fft must be a positive multiple of 4, not {self.n_fft}")
        for name in ("sample_rate", "feature_dim", "hidden_dim", "num_blstm_layers", "mlp_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 1 <= self.chunk * self.sample_rate < math.inf:
            raise ValueError(f"chunk must be finite and longer than a sample, not {self.chunk} s")

    def bins(self) -> tuple[tuple[int, int], ...]:
        """The half-open bin range of every band."""
        return band_schema(self.schema).bins(self.sample_rate, self.n_fft)


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
        self.count = len(set(widths))
        order, packed = [], []
        for group, width in enumerate(sorted(set(widths))):
            members = [k for k, other in enumerate(widths) if other == width]
            rows = [[f if f < bins[k][1] else self.num_bins for f in range(bins[k][0], bins[k][0] + width)]
                    for k in members]  # fmt: skip
            order += members
            packed += [f for row in rows for f in row]
            self._index(f"bands_{group}", members)
            self._index(f"bins_{group}", rows)
        self._index("band_order", _inverse(order))  # where band k is when the groups are concatenated
        self._index("bin_order", _inverse(packed)[: self.num_bins])  # where bin f is, likewise
        self._index("band_of_bin", [k for k, (start, stop) in enumerate(bins) for _ in range(start, stop)])
        self._index("widths", [stop - start for start, stop in bins])

    def _index(self, name, values):
        self.register_buffer(name, torch.tensor(values), persistent=False)

    def __iter__(self):
        """Per group: its bands (k,) and the bins of each (k, P)."""
        return ((getattr(self, f"bands_{g}"), getattr(self, f"bins_{g}")) for g in range(self.count))


def _inverse(order: list[int]) -> list[int]:
    places = {item: place for place, item in enumerate(order)}
    return [places[item] for item in sorted(places)]


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """A parameter drawn as in `nn.Linear`: uniform within 1 / sqrt(fan_in)."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / math.sqrt(fan_in))


class BandSplit(nn.Module):
    """Each band of the spectrogram -> norm -> linear -> N features (section III-A).

    The norm is a group norm with one group, over the band's bins, real and imaginary parts and all frames, with one
    gain and bias per bin and part: the paper says "layer norm", the authors' public code does this.

    Args:
        bins: half-open bin range of each band.
        feature_dim: N.
    """

    def __init__(self, bins: Iterable[tuple[int, int]], feature_dim: int):
        super().__init__()
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
        x = torch.view_as_real(spectrogram).permute(2, 0, 1, 3)  # (T, B, F, 2)
        x = self._normalize(x)
        x = nn.functional.pad(x, (0, 0, 0, 1))  # bin F of zeros
        weight = nn.functional.pad(self.weight, (0, 0, 0, 0, 0, 1))
        frames, batch = x.shape[:2]
        features = []
        for _, bins in self.groups:
            grouped = x[:, :, bins].flatten(3).permute(2, 0, 1, 3).flatten(1, 2)  # (k, T * B, 2P)
            features.append(torch.bmm(grouped, weight[bins].flatten(1, 2)))  # (k, T * B, N)
        features = torch.cat(features)[self.groups.band_order] + self.bias[:, None]
        return features.unflatten(1, (frames, batch)).transpose(0, 1)

    def _normalize(self, x: Tensor) -> Tensor:
        band_of_bin = self.groups.band_of_bin
        count = 2 * self.groups.widths * x.shape[0]

        def band_mean(values):  # (T, B, F, 2) -> (B, F): the mean over the band each bin lies in
            sums = values.new_zeros(values.shape[1], len(count)).index_add(1, band_of_bin, values.sum((0, 3)))
            return (sums / count)[:, band_of_bin]

        x = x - band_mean(x)[..., None]
        x = x * (band_mean(x.square()) + EPS).rsqrt()[..., None]
        return x * self.norm_weight + self.norm_bias


class SequenceNorm(nn.Module):
    """Group norm with one group, over the sequence (first axis) and the features (last), as in the authors' code."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (0, -1), correction=0, keepdim=True)
        return (x - mean) * (variance + EPS).rsqrt() * self.weight + self.bias


class ResidualRNN(nn.Module):
    """Norm -> BLSTM -> linear, plus the input (section III-B), along the first axis of (sequence, ..., N)."""

    def __init__(self, feature_dim: int, hidden_dim: int):
        super().__init__()
        self.norm = SequenceNorm(feature_dim)
        self.rnn = nn.LSTM(feature_dim, hidden_dim, bidirectional=True)
        self.linear = nn.Linear(2 * hidden_dim, feature_dim)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.norm(x).flatten(1, 2))
        return x + self.linear(y).view(x.shape)


class BandSequence(nn.Module):
    """Alternating RNNs along time, with weights shared by all bands, and along bands, shared by all frames."""

    def __init__(self, feature_dim: int, hidden_dim: int, num_blstm_layers: int):
        super().__init__()
        self.time = nn.ModuleList(ResidualRNN(feature_dim, hidden_dim) for _ in range(num_blstm_layers))
        self.band = nn.ModuleList(ResidualRNN(feature_dim, hidden_dim) for _ in range(num_blstm_layers))

    def forward(self, x: Tensor) -> Tensor:
        """(T, K, B, N) -> (T, K, B, N)."""
        for time, band in zip(self.time, self.band, strict=True):
            x = time(x)
            x = band(x.transpose(0, 1)).transpose(0, 1)
        return x


class MaskEstimation(nn.Module):
    """Features of each band -> norm -> linear, tanh, linear, GLU -> complex mask of the band's bins (section III-C).

    GLU layout, our choice: per bin two values (real, imaginary), then their two gates.

    Args:
        bins: half-open bin range of each band.
        feature_dim: N.
        mlp_dim: hidden units.
    """

    def __init__(self, bins: Iterable[tuple[int, int]], feature_dim: int, mlp_dim: int):
        super().__init__()
        self.groups = BandGroups(bins)
        num_bins, num_bands = self.groups.num_bins, len(self.groups.widths)
        self.norm = SequenceNorm(num_bands, 1, feature_dim)
        self.hidden_weight = _uniform(num_bands, feature_dim, mlp_dim, fan_in=feature_dim)
        self.hidden_bias = _uniform(num_bands, mlp_dim, fan_in=feature_dim)
        self.mask_weight = _uniform(num_bins, 4, mlp_dim, fan_in=mlp_dim)
        self.mask_bias = _uniform(num_bins, 4, fan_in=mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K, B, N) -> (B, F, T) complex."""
        frames, _, batch, _ = x.shape
        x = self.norm(x).transpose(0, 1).flatten(1, 2)  # (K, T * B, N)
        hidden = torch.tanh(torch.baddbmm(self.hidden_bias[:, None], x, self.hidden_weight))
        weight = nn.functional.pad(self.mask_weight, (0, 0, 0, 0, 0, 1))
        values = []
        for bands, bins in self.groups:
            grouped = torch.bmm(weight[bins].flatten(1, 2), hidden[bands].transpose(1, 2))  # (k, 4P, T * B)
            values.append(grouped.view(-1, 4, frames, batch))
        values = torch.cat(values)[self.groups.bin_order] + self.mask_bias[..., None, None]  # (F, 4, T, B)
        mask = nn.functional.glu(values.float(), dim=1)
        return torch.complex(mask[:, 0], mask[:, 1]).permute(2, 0, 1)


class BSRNN(nn.Module):
    """Band-Split RNN with one mask estimation per source.

    `band_split` and `band_sequence` are the extractor, shared by all sources; `heads` maps a source to its
    `MaskEstimation`. One source is the paper's model; several are multi-task learning.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        bins = config.bins()
        self.band_split = BandSplit(bins, config.feature_dim)
        self.band_sequence = BandSequence(config.feature_dim, config.hidden_dim, config.num_blstm_layers)
        self.heads = nn.ModuleDict(
            {source: MaskEstimation(bins, config.feature_dim, config.mlp_dim) for source in config.sources}
        )

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
        flat = standardize(mixture.flatten(0, 1))
        features = self.band_sequence(self.band_split(flat))
        masks = torch.stack([head(features) for head in self.heads.values()], 1)  # (B * C, S, F, T)
        return masks.unflatten(0, mixture.shape[:2]).transpose(1, 2)

    def with_heads(self, sources: Iterable[str]) -> "BSRNN":
        """A new model with a copy of this one's extractor and new, untrained heads for `sources`."""
        model = BSRNN(replace(self.config, sources=tuple(sources)))
        model.band_split.load_state_dict(self.band_split.state_dict())
        model.band_sequence.load_state_dict(self.band_sequence.state_dict())
        return model

    def freeze_extractor(self) -> "BSRNN":
        """Leave only the heads trainable; the extractor then runs without autograd. Returns self."""
        self.band_split.requires_grad_(False)
        self.band_sequence.requires_grad_(False)
        return self

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write weights (safetensors) and configuration (JSON) to a folder, made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
            save_file({name: value.cpu() for name, value in self.state_dict().items()}, Path(partial, WEIGHTS))
            Path(partial, CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
            for name in (CONFIG, WEIGHTS):
                os.replace(Path(partial, name), folder / name)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> "BSRNN":
        """Load what `save_pretrained` wrote, in evaluation mode on the CPU.

        Raises:
            FileNotFoundError: the folder lacks one of the two files.
            ValueError: a file is damaged, or weights and configuration do not belong to this architecture.
        """
        folder = Path(folder)
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is not a model folder: it has no {name}")
        try:
            values = json.loads((folder / CONFIG).read_text())
        except ValueError:
            raise ValueError(f"{folder / CONFIG} is not JSON") from None
        names = {field.name for field in fields(Config)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"{folder / CONFIG} is of another architecture: it must have {', '.join(sorted(names))}")
        try:
            model = cls(Config(**values))
        except TypeError as error:
            raise ValueError(f"{folder / CONFIG} is of another architecture: {error}") from None
        try:
            model.load_state_dict(load_file(folder / WEIGHTS))
        except SafetensorError as error:
            raise ValueError(f"{folder / WEIGHTS} is damaged: {error}") from None
        except RuntimeError as error:
            reason = str(error).split("\n\t")[1] if "\n\t" in str(error) else str(error)
            raise ValueError(f"{folder / WEIGHTS} is of another architecture: {reason}") from None
        return model.eval()
