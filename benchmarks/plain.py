"""BSRNN as its public implementations write it: torch's own layers, and a Python loop over bands.

The reference that tests compare `bsrnn.model` with, and the baseline that benchmarks time it against.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from bsrnn.config import Config
from bsrnn.model import BSRNN
from bsrnn.spectral import standardize


class PlainResidualRNN(nn.Module):
    def __init__(self, feature_dim: int, hidden_dim: int, eps: float):
        super().__init__()
        self.norm = nn.GroupNorm(1, feature_dim, eps)
        self.rnn = nn.LSTM(feature_dim, hidden_dim, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden_dim, feature_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, sequence, N) -> (rows, sequence, N)."""
        y = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return x + self.linear(self.rnn(y)[0])


class PlainMLP(nn.Module):
    """The mask of one band."""

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.norm = nn.GroupNorm(1, config.feature_dim, config.eps)
        sizes = [config.feature_dim] + [config.mlp_dim] * config.mlp_layers
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(config.mlp_dim, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, N) -> (B, G, T) complex."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        for layer in self.hidden:
            x = torch.tanh(layer(x))
        value, gate = self.output(x).unflatten(-1, (-1, 2, 2)).unbind(-2)
        value = (value * torch.sigmoid(gate)).to(gate.dtype if gate.dtype == torch.float64 else torch.float32)
        return torch.view_as_complex(value).transpose(1, 2)


class PlainBSRNN(nn.Module):
    """The same function as a `BSRNN`, with a copy of its weights."""

    def __init__(self, model: BSRNN):
        super().__init__()
        config = self.config = model.config
        self.bins = config.bins()
        widths = [high - low for low, high in self.bins]
        self.norms = nn.ModuleList(nn.GroupNorm(1, 2 * width, config.eps) for width in widths)
        self.splits = nn.ModuleList(nn.Linear(2 * width, config.feature_dim) for width in widths)
        for axis in ("time", "band"):
            layers = (
                PlainResidualRNN(config.feature_dim, config.hidden_dim, config.eps)
                for _ in range(config.num_blstm_layers)
            )
            setattr(self, axis, nn.ModuleList(layers))
        self.heads = nn.ModuleDict(
            {source: nn.ModuleList(PlainMLP(width, config) for width in widths) for source in config.sources}
        )
        self.to(next(model.parameters()).dtype)
        self.load_state_dict(per_band(model.state_dict(), config))

    def forward(self, mixture: Tensor) -> Tensor:
        """(B, C, F, T) complex -> (B, S, C, F, T) complex."""
        batch, channels = mixture.shape[:2]
        x = standardize(mixture.flatten(0, 1)) if self.config.standardize else mixture.flatten(0, 1)
        x = torch.view_as_real(x)  # (B, F, T, 2)
        features = []
        for (low, high), norm, split in zip(self.bins, self.norms, self.splits, strict=True):
            band = norm(x[:, low:high].transpose(2, 3).flatten(1, 2))  # (B, 2G, T)
            features.append(split(band.transpose(1, 2)))
        z = torch.stack(features, 1)  # (B, K, T, N)
        for time, band in zip(self.time, self.band, strict=True):
            z = time(z.flatten(0, 1)).view(z.shape)
            z = z.transpose(1, 2).contiguous()
            z = band(z.flatten(0, 1)).view(z.shape).transpose(1, 2).contiguous()
        heads = [torch.cat([mlp(z[:, k]) for k, mlp in enumerate(head)], 1) for head in self.heads.values()]
        masks = torch.stack(heads, 1)
        return masks.unflatten(0, (batch, channels)).transpose(1, 2) * mixture[:, None]


def per_band(tensors: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """What belongs to the parameters of a `BSRNN`, by name, as it belongs to those of its `PlainBSRNN`."""
    bins = config.bins()
    result = {}
    for name, value in tensors.items():
        if name.startswith("band_sequence."):
            result[name.removeprefix("band_sequence.")] = value
        elif name == "band_split.bias":
            result |= {f"splits.{k}.bias": row for k, row in enumerate(value)}
        elif name == "band_split.weight":
            result |= {f"splits.{k}.weight": value[low:high].flatten(0, 1).T for k, (low, high) in enumerate(bins)}
        elif name.startswith("band_split.norm_"):
            kind = name.removeprefix("band_split.norm_")
            result |= {f"norms.{k}.{kind}": value[low:high].flatten() for k, (low, high) in enumerate(bins)}
        else:
            _, source, *part = name.split(".")
            for k, (low, high) in enumerate(bins):
                head = f"heads.{source}.{k}"
                if part[0] in ("mask_weight", "mask_bias"):
                    result[f"{head}.output.{part[0].removeprefix('mask_')}"] = value[low:high].flatten(0, 1)
                elif part[-1] == "weight" and part[0] == "hidden":
                    result[f"{head}.{'.'.join(part)}"] = value[k].T
                else:
                    result[f"{head}.{'.'.join(part)}"] = value[k].flatten()
    return result
