"""Models by name, and what they cost: parameters and multiply-accumulates, by arithmetic.

    paper-SOURCE     Luo & Yu, section IV-A4, with the paper's schema for that source
    authors-SOURCE   the authors' later public code: two hidden layers in the mask estimation
    small            the small model of this project, all four sources, generic schema

All are mono: the paper separates the channels of a stereo song one by one with the same weights, and so does `BSRNN`.
"""

import math
import textwrap
from dataclasses import dataclass, replace

from bsrnn.model import Config
from bsrnn.spectral import num_frames

_SCHEMAS = {"vocals": "v7", "bass": "bass", "drums": "drums", "other": "v7"}  # section V-A
_PAPER = {source: Config((source,), schema, standardize=False) for source, schema in _SCHEMAS.items()}
_AUTHORS = {"mlp_layers": 2, "bin_convention": "floor", "eps": 2**-23}

CONFIGS = {
    **{f"paper-{source}": config for source, config in _PAPER.items()},
    **{f"authors-{source}": replace(config, **_AUTHORS) for source, config in _PAPER.items()},
    "small": Config(tuple(_SCHEMAS), feature_dim=32, hidden_dim=32, num_blstm_layers=4, mlp_dim=64),
}


def named_config(name: str) -> Config:
    """The configuration of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in CONFIGS:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(CONFIGS)}")
    return CONFIGS[name]


@dataclass(frozen=True)
class Cost:
    """What one module of a model takes."""

    module: str
    parameters: int
    macs: float  # multiply-accumulates of its matrix products per second of audio and channel


def costs(config: Config) -> list[Cost]:
    """The cost of every module of a model, in the order of the data, each head by its source.

    Counted are the products of features with weights, as in the plain definition of the model: not norms, gates, the
    STFT or the product of mask and mixture, which are together below 1% of the paper's model. A second of audio is one
    of a chunk, so overlapping chunks cost that many times more.
    """
    bins = config.bins()
    K, F, N, H, M = len(bins), bins[-1][1], config.feature_dim, config.hidden_dim, config.mlp_dim
    directions, gates, parts, halves = 2, 4, 2, 2  # of a BLSTM, of an LSTM cell; real and imaginary; value and gate
    lstm = directions * gates * H * (N + H)
    lstm_biases = directions * gates * H * 2  # torch keeps two
    projection = directions * H * N
    inner = M * M * (config.mlp_layers - 1)  # between the hidden layers
    outputs = F * parts * halves
    layers = 2 * config.num_blstm_layers
    rate = num_frames(round(config.chunk * config.sample_rate), config.n_fft) / config.chunk  # frames per second
    norm = 2 * N  # gain and bias
    return [
        Cost("band_split", 2 * F * parts + F * parts * N + K * N, rate * F * parts * N),
        Cost("band_sequence", layers * (norm + lstm + lstm_biases + projection + N),
             rate * layers * K * (lstm + projection)),
        *(Cost(f"heads.{source}",
               K * (norm + N * M + inner + M * config.mlp_layers) + outputs * M + outputs,
               rate * (K * (N * M + inner) + outputs * M)) for source in config.sources),
    ]  # fmt: skip


def describe(config: Config) -> str:
    """A model in words and a table: sources, bands, what a frame of its output depends on, cost per module."""
    rows, bins = costs(config), config.bins()
    starts = " ".join(f"{start * config.sample_rate / config.n_fft:.0f}" for start, _ in bins)
    frames = num_frames(round(config.chunk * config.sample_rate), config.n_fft)
    total = Cost("total", sum(row.parameters for row in rows), math.fsum(row.macs for row in rows))
    table = "\n".join(f"{row.module:<16}{row.parameters:>12,}{row.macs / 1e9:>12.3f}" for row in [*rows, total])
    return (
        f"sources         {', '.join(config.sources)}\n"
        f"bands           {len(bins)} ({config.schema}, {config.bin_convention}), with their first bins at these Hz:\n"
        f"{textwrap.fill(starts, 100, initial_indent=' ' * 16, subsequent_indent=' ' * 16)}\n"
        f"STFT            {config.n_fft} / {config.n_fft // 4} samples at {config.sample_rate} Hz\n"
        f"chunk           {config.chunk:g} s, {frames} frames: each output frame sees them all\n"
        f"channels        separated one by one, with the same weights\n\n"
        f"module            parameters      GMAC/s\n{table}\n\n"
        "GMAC/s: billions of multiply-accumulates per second of audio, for one channel"
    )
