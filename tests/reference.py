"""Plain definitions that the fast paths are compared with: one band after the other, as the paper tells it."""

import torch
from torch import nn


class PlainBSRNN:
    """BSRNN with a Python loop over bands and torch's own layers, on the weights of a `bsrnn.model.BSRNN`."""

    def __init__(self, model):
        self.model = model
        self.bins = model.config.bins()

    def __call__(self, mixture):  # (B, C, F, T) -> (B, S, C, F, T)
        batch, channels = mixture.shape[:2]
        estimates = []
        for b in range(batch):
            for c in range(channels):
                masks = self.masks(mixture[b, c])
                estimates.append(masks * mixture[b, c])
        return torch.stack(estimates).unflatten(0, (batch, channels)).transpose(1, 2)

    def masks(self, x):  # (F, T) -> (S, F, T)
        x = x - x.mean()
        x = x / x.abs().square().mean().sqrt()
        z = torch.stack([self.split(k, x[low:high]) for k, (low, high) in enumerate(self.bins)])  # (K, T, N)
        sequence = self.model.band_sequence
        for time, band in zip(sequence.time, sequence.band, strict=True):
            z = torch.stack([self.residual(time, z[k]) for k in range(len(z))])
            z = torch.stack([self.residual(band, z[:, t]) for t in range(z.shape[1])], 1)
        return torch.stack([
            torch.cat([self.mask(head, k, z[k]) for k in range(len(z))]) for head in self.model.heads.values()
        ])

    def split(self, k, x):  # (G, T) -> (T, N)
        low, high = self.bins[k]
        split = self.model.band_split
        x = torch.view_as_real(x).permute(0, 2, 1).flatten(0, 1)[None]  # (1, 2G, T)
        x = nn.functional.group_norm(
            x, 1, split.norm_weight[low:high].flatten(), split.norm_bias[low:high].flatten()
        )
        return x[0].T @ split.weight[low:high].flatten(0, 1) + split.bias[k]

    @staticmethod
    def residual(module, x):  # (sequence, N) -> (sequence, N)
        y = nn.functional.group_norm(x.T[None], 1, module.norm.weight, module.norm.bias)[0].T
        return x + module.linear(module.rnn(y)[0])

    def mask(self, head, k, x):  # (T, N) -> (G, T)
        low, high = self.bins[k]
        x = nn.functional.group_norm(x.T[None], 1, head.norm.weight[k, 0], head.norm.bias[k, 0])[0].T
        x = torch.tanh(x @ head.hidden_weight[k] + head.hidden_bias[k])
        x = x @ head.mask_weight[low:high].flatten(0, 1).T + head.mask_bias[low:high].flatten()
        x = x.unflatten(-1, (high - low, 4))
        x = x[..., :2] * torch.sigmoid(x[..., 2:])
        return torch.complex(x[..., 0], x[..., 1]).T
