"""Band-Split RNN (Luo & Yu, arXiv 2209.15174): mixture spectrogram in, one estimate per source out.

In the order of the data: `BandSplit`, `BandSequence`, `MaskEstimation` (one per source), `BSRNN`.
Axes: B batch, C channels, S sources, F bins, T frames, K bands, N features, M hidden units of a mask estimation."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bsrnn.config import Config
from bsrnn.packed import PackedBands
from bsrnn.spectral import standardize


def _uniform(*shape: int, fan_in: int | Tensor) -> nn.Parameter:
    """A parameter drawn as in `nn.Linear`: uniform within 1 / sqrt(fan_in). Initialization is not in the paper; our
    choice is torch's everywhere."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / torch.as_tensor(fan_in).sqrt())


class SequenceNorm(nn.Module):
    """Group norm with one group, over the sequence (first axis) and the features (last): "group norm" in the paper,
    these axes in the authors' code. `shape` is that of gain and bias: the features last, after axes of 1 for those that
    share them."""

    def __init__(self, *shape: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)  # in full precision, also under autocast
        # two means in a row are several times faster on CPUs than one over both axes, or torch.var_mean
        x = x - x.mean(-1, keepdim=True).mean(0, keepdim=True)
        variance = x.square().mean(-1, keepdim=True).mean(0, keepdim=True)
        return torch.addcmul(self.bias, x, (variance + self.eps).rsqrt() * self.weight)


class BandSplit(nn.Module):
    """Each band of the spectrogram, real and imaginary parts side by side -> norm -> linear -> N features (section
    III-A). The norm is over the band's bins, parts and all frames, with one gain and bias per bin and part: the paper
    says "layer norm", the authors' public code does this."""

    def __init__(self, config: Config):
        super().__init__()
        self.eps = config.eps
        self.bands = PackedBands(config.bins())
        num_bins, inputs, feature_dim = self.bands.num_bins, 2 * self.bands.widths, config.feature_dim
        self.norm_weight = nn.Parameter(torch.ones(num_bins, 2))
        self.norm_bias = nn.Parameter(torch.zeros(num_bins, 2))
        self.weight = _uniform(num_bins, 2, feature_dim, fan_in=inputs[self.bands.band_of_bin, None, None])
        self.bias = _uniform(self.bands.num_bands, feature_dim, fan_in=inputs[:, None])

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, F, T) complex -> (T, K, B, N)."""
        x = torch.view_as_real(spectrogram).permute(1, 3, 0, 2).contiguous()  # (F, 2, B, T)
        x = x - self.bands.mean(x)
        scale = (self.bands.mean(x.square()) + self.eps).rsqrt() * self.norm_weight[..., None, None]
        x = torch.addcmul(self.norm_bias[..., None, None], x, scale)
        features = self.bands.to_bands(x.flatten(2), self.weight) + self.bias[:, None]  # (K, B * T, N)
        return features.unflatten(1, x.shape[2:]).permute(2, 0, 1, 3)


class ResidualRNN(nn.Module):
    """Norm -> BLSTM of one layer -> linear, plus the input (section III-B), along the first axis of (sequence, ..., N).
    There is no dropout, as in the paper."""

    def __init__(self, config: Config):
        super().__init__()
        self.norm = SequenceNorm(config.feature_dim, eps=config.eps)
        self.rnn = nn.LSTM(config.feature_dim, config.hidden_dim, bidirectional=True)
        self.linear = nn.Linear(2 * config.hidden_dim, config.feature_dim)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.rnn(self.norm(x).flatten(1, -2))
        return x + self.linear(y).view(x.shape)


class TAC(nn.Module):
    """Transform, average, concatenate: what the channels have to tell each other, any number of them, plus the input;
    of every frame and band by itself, with one slope for all activations. Not in the paper; as in arXiv 2603.09187."""

    def __init__(self, feature_dim: int):
        super().__init__()
        inside = 3 * feature_dim
        self.transform = nn.Linear(feature_dim, inside)
        self.average = nn.Linear(inside, inside)
        self.concat = nn.Linear(2 * inside, feature_dim)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(..., C, N) -> (..., C, N)."""
        own = self.activation(self.transform(x.contiguous()))  # or bfloat16 takes 5 GB more for a chunk of 12 s
        common = self.activation(self.average(own.mean(-2, keepdim=True)))
        return x + self.activation(self.concat(torch.cat([own, common.expand_as(own)], -1)))


class Attention(nn.Module):
    """Multi-head attention along time, of every channel by itself, plus the input. A token is a frame with all its
    bands, without a position. The heads have `attention_dim` features of queries and keys for each band, and share N as
    values. A projection to these, and of the result, ends in a norm over all features and bands of a frame. Not in the
    paper; as in arXiv 2603.09187."""

    def __init__(self, config: Config):
        super().__init__()
        size, heads, dim = config.feature_dim, range(config.attention_heads), config.attention_dim

        def projection(out_features):
            norm = SequenceNorm(len(config.bins()), 1, 1, out_features, eps=config.eps)
            return nn.Sequential(OrderedDict(linear=nn.Linear(size, out_features), activation=nn.PReLU(), norm=norm))

        self.queries = nn.ModuleList(projection(dim) for _ in heads)
        self.keys = nn.ModuleList(projection(dim) for _ in heads)
        self.values = nn.ModuleList(projection(size // len(heads)) for _ in heads)
        self.output = projection(size)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K, B, C, N) -> (T, K, B, C, N)."""
        items = x.flatten(2, 3).transpose(0, 1).contiguous()  # (K, T, B * C, N)
        queries, keys, values = (
            torch.stack([head(items) for head in heads]).permute(3, 0, 2, 1, 4).flatten(3)  # (B * C, heads, T, K * D)
            for heads in (self.queries, self.keys, self.values)
        )
        tokens = nn.functional.scaled_dot_product_attention(queries, keys, values)
        joint = tokens.unflatten(3, (x.shape[1], -1)).permute(3, 2, 0, 1, 4).flatten(3)  # (K, T, B * C, N)
        return x + self.output(joint).transpose(0, 1).view(x.shape)


class BandSequence(nn.Module):
    """Alternating RNNs along time, with weights shared by all bands, and along bands, shared by all frames (section
    III-B); time comes first, as in the paper. TAC and attention, where the configuration has them, end each block."""

    def __init__(self, config: Config):
        super().__init__()
        blocks = range(config.num_blstm_layers)
        self.time = nn.ModuleList(ResidualRNN(config) for _ in blocks)
        self.band = nn.ModuleList(ResidualRNN(config) for _ in blocks)
        self.tac = nn.ModuleList(TAC(config.feature_dim) if config.tac else nn.Identity() for _ in blocks)
        self.attention = nn.ModuleList(Attention(config) if config.attention_heads else nn.Identity() for _ in blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K, B, C, N) -> (T, K, B, C, N)."""
        for time, band, tac, attention in zip(self.time, self.band, self.tac, self.attention, strict=True):
            x = band(time(x).transpose(0, 1)).transpose(0, 1)
            x = attention(tac(x))
        return x


class BandLinear(nn.Module):
    """A linear layer of its own for each band: (K, R, in) -> (K, R, out)."""

    def __init__(self, num_bands: int, in_features: int, out_features: int):
        super().__init__()
        self.weight = _uniform(num_bands, in_features, out_features, fan_in=in_features)
        self.bias = _uniform(num_bands, out_features, fan_in=in_features)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class MaskEstimation(nn.Module):
    """Features of each band -> norm -> MLP with tanh -> GLU -> complex mask of the band's bins (section III-C). The
    norm is that of the RNNs, with a gain and bias per band, as in the authors' code. The GLU (section IV-A4) has no
    activation but its gate; its layout is our choice: per bin two values (real, imaginary), then their two gates."""

    def __init__(self, config: Config):
        super().__init__()
        self.bands = PackedBands(config.bins())
        num_bins, num_bands, M = self.bands.num_bins, self.bands.num_bands, config.mlp_dim
        self.norm = SequenceNorm(num_bands, 1, config.feature_dim, eps=config.eps)
        inputs = [config.feature_dim] + [M] * (config.mlp_layers - 1)
        self.hidden = nn.ModuleList(BandLinear(num_bands, size, M) for size in inputs)
        self.mask_weight = _uniform(num_bins, 4, M, fan_in=M)
        self.mask_bias = _uniform(num_bins, 4, fan_in=M)

    def forward(self, x: Tensor) -> Tensor:
        """(T, K, B, N) -> (B, F, T) complex."""
        hidden = self.norm(x).permute(1, 2, 0, 3).flatten(1, 2)  # (K, B * T, N)
        for layer in self.hidden:
            hidden = torch.tanh(layer(hidden))
        values = self.bands.to_bins(hidden, self.mask_weight, self.mask_bias)  # (F, 4, B * T)
        mask = nn.functional.glu(values, dim=1).unflatten(2, (-1, len(x)))  # (F, 2, B, T)
        return torch.complex(mask[:, 0], mask[:, 1]).transpose(0, 1)


class BSRNN(nn.Module):
    """Band-Split RNN: `band_split` and `band_sequence` are the extractor, shared by all sources; `heads` holds the
    `MaskEstimation` of each by its name: ValueError for one that torch's modules have a use for, such as "forward". One
    source is the paper's model; several are multi-task learning."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.band_split = BandSplit(config)
        self.band_sequence = BandSequence(config)
        self.heads = nn.Module()
        for source in config.sources:
            if hasattr(self.heads, source):
                raise ValueError(f"a source cannot be called {source!r}, as torch's modules have a use for that name")
            self.heads.add_module(source, MaskEstimation(config))

    def forward(self, mixture: Tensor) -> Tensor:
        """Mask times mixture, for every source in the order of `config.sources`: (B, C, F, T) complex, of any number of
        channels and frames -> (B, S, C, F, T) complex. Without TAC, channels are separated one by one, with the same
        weights, as in the paper."""
        return self.masks(mixture) * mixture[:, None]

    def masks(self, mixture: Tensor) -> Tensor:
        """The complex masks (B, S, C, F, T) of a mixture (B, C, F, T)."""
        flat = mixture.flatten(0, 1)
        if self.config.standardize:
            flat = standardize(flat)
        features = self.band_split(flat).unflatten(2, mixture.shape[:2])  # (T, K, B, C, N)
        features = self.band_sequence(features).flatten(2, 3)
        masks = torch.stack([head(features) for head in self.heads.children()], 1)  # (B * C, S, F, T)
        return masks.unflatten(0, mixture.shape[:2]).transpose(1, 2)

    def extractor(self) -> nn.ModuleList:
        """What all sources share."""
        return nn.ModuleList([self.band_split, self.band_sequence])

    def with_heads(self, sources: Sequence[str]) -> "BSRNN":
        """A new model with a copy of this one's extractor and new, untrained heads for `sources`."""
        model = BSRNN(replace(self.config, sources=sources))
        model.extractor().load_state_dict(self.extractor().state_dict())
        return model

    def keep_heads(self, sources: Sequence[str]) -> "BSRNN":
        """Drop the heads of all sources but these, which it has. Returns self."""
        kept = {source: self.heads.get_submodule(source) for source in sources}
        self.config, self.heads = replace(self.config, sources=tuple(kept)), nn.Module()
        for source, head in kept.items():
            self.heads.add_module(source, head)
        return self

    def freeze_extractor(self) -> "BSRNN":
        """Leave only the heads trainable; the extractor then runs as in inference. Returns self."""
        self.extractor().requires_grad_(False)
        return self.train(self.training)

    @property
    def frozen(self) -> bool:
        """Whether only the heads are trained."""
        return not self.band_split.weight.requires_grad

    def train(self, mode: bool = True) -> "BSRNN":
        """Set training mode; a frozen extractor stays in evaluation, where LSTMs keep nothing for a backward pass."""
        super().train(mode)
        self.extractor().train(mode and not self.frozen)
        return self
