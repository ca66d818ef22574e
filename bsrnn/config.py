"""Models and trainings as settings, without torch, so that the command line answers at once. Models by name:

paper-SOURCE     Luo & Yu, section IV-A4, with the paper's schema for that source
authors-SOURCE   the authors' later public code: two hidden layers in the mask estimation
small            the small model of this project, all four sources, generic schema
bsrnn-large-SOURCE, obsrnn-SOURCE, obsrnn-simo (all four)    those of arXiv 2603.09187, with published weights
obsrnn-generic   obsrnn-simo on the generic schema"""

import json
import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from bsrnn.bands import BIN_CONVENTIONS, band_schema

CONFIG = "config.json"  # in a model's folder
OVERLAP = 4  # windows over each sample: the hop is n_fft / 4 (Luo & Yu, section IV-A4: 2048 and 512)
MOST_SOURCES = 100
MOST_PARAMETERS = 2 * 10**9  # the largest published model has 108,727,540
MOST_SEED = 2**32 - 1
SPLITS = ("train", "validation", "test")  # of a data set
FORMATS = {  # of stems: suffix, and what soundfile calls it
    "wav": (".wav", "WAV", "FLOAT"),
    "wav24": (".wav", "WAV", "PCM_24"),
    "wav16": (".wav", "WAV", "PCM_16"),
    "flac": (".flac", "FLAC", "PCM_24"),
    "ogg": (".ogg", "OGG", "VORBIS"),
    "mp3": (".mp3", "MP3", "MPEG_LAYER_III"),
}
LOUDNESS = ("rescale", "clamp")  # what becomes of stems that exceed what a format can hold


def setting(default, text: str, least: float = -math.inf, most: float = math.inf, flag: str = "", choices=()):
    """A field of a settings class: `text` explains it, on the command line too; `least` and `most` are limits of a
    number, both allowed, or `choices` all there is; `flag` is what the command line calls it, if not by its name."""
    return field(default=default, metadata={"help": text, "least": least, "most": most, "flag": flag, "of": choices})


def check(settings) -> None:
    """Raise ValueError unless the plain fields of a settings class have their types and lie within their limits, or are
    one of their choices. Of YAML's numbers, 1e-4 is text and 1.0e-4 a number."""
    for item in (item for item in fields(settings) if item.metadata):  # those that are a `setting`
        value, kind, rule = getattr(settings, item.name), type(item.default), item.metadata
        if type(value) not in ((float, int) if kind is float else (kind,)):
            raise ValueError(f"{item.name} must be of type {kind.__name__}, not {value!r}")
        if kind in (int, float) and not rule["least"] <= value <= rule["most"]:
            raise ValueError(f"{item.name} must be at least {rule['least']} and at most {rule['most']}, not {value}")
        if rule["of"] and value not in rule["of"]:
            raise ValueError(f"{item.name} must be one of {', '.join(rule['of'])}, not {value!r}")


@dataclass(frozen=True)
class Config:
    """Everything that defines a model. The sizes are the paper's (section IV-A4), the rest is this project's choice;
    `CONFIGS` holds those of the paper, of its authors' later code, published ones, and a small one, by name."""

    sources: tuple[str, ...] = ("vocals",)  # what the heads estimate; names that files and modules can have
    schema: str = setting("generic", "v1 to v7, vocals, bass, drums, other, joint, generic, or generic-DIVISIONS-EDGES")
    sample_rate: int = setting(44_100, "of the model, in Hz", 1, 2**20)
    n_fft: int = setting(2048, "FFT size in samples; the hop is a quarter of it", 4, 2**16)
    chunk: float = setting(3.0, "seconds of the chunks that the model is trained on", 0, 120, "chunk_size_in_seconds")
    feature_dim: int = setting(128, "features per band, N", 1, 2**13)
    hidden_dim: int = setting(256, "of each BLSTM direction; twice --feature_dim where only that is given", 1, 2**13)
    num_blstm_layers: int = setting(12, "pairs of BLSTMs, one along time and one along bands", 1, 100)
    mlp_dim: int = setting(512, "units of each hidden layer of the mask estimation", 1, 2**13)
    mlp_layers: int = setting(1, "hidden layers of the mask estimation; 2 in the authors' later code", 1, 100)
    bin_convention: str = setting("centre", "how Hz become bins; floor in the authors' code", choices=BIN_CONVENTIONS)
    standardize: bool = setting(True, "show the network a standardized spectrogram, not the plain one of the paper")
    eps: float = setting(1e-5, "of all norms; not in the paper, 2 ** -23 in the authors' code", 1e-12, 0.1)
    padding: str = setting("constant", "at a waveform's ends: constant or reflect", choices=("constant", "reflect"))
    tac: bool = setting(False, "keep channels together, joined in every block by transform-average-concatenate")
    attention_heads: int = setting(0, "of an attention along time in every block; 0: none", 0, 100)
    attention_dim: int = setting(16, "of the queries and keys of a head, for each band", 1, 2**13)
    fader: bool = setting(False, "separate songs in chunks of 12 s that fade into each other, unless a hop is given")

    def __post_init__(self):
        check(self)
        names = () if isinstance(self.sources, str) else tuple(self.sources)  # every letter of a text would be one
        valid = {x for x in names if isinstance(x, str) and x.isprintable() and re.fullmatch(r"[^/\\.]+", x)}
        rules = {
            f"sources must be one or more different names without / \\ . or controls, not {self.sources!r}": (
                names and len(names) == len(valid)
            ),
            f"a model has at most {MOST_SOURCES} sources, not {len(names)}": len(names) <= MOST_SOURCES,
            f"n_fft must be a multiple of {OVERLAP}, not {self.n_fft}": self.n_fft % OVERLAP == 0,
            f"chunk must be longer than a sample, not {self.chunk:g} s": self.chunk * self.sample_rate >= 1,
            f"feature_dim must be a multiple of attention_heads, not {self.feature_dim}": (
                self.feature_dim % max(self.attention_heads, 1) == 0
            ),
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise ValueError(broken[0])
        object.__setattr__(self, "sources", names)
        if (count := sum(cost.parameters for cost in costs(self))) > MOST_PARAMETERS:
            raise ValueError(f"a model has at most {MOST_PARAMETERS:,} parameters, not {count:,}: choose smaller sizes")

    @classmethod
    def of(cls, values: Mapping, origin: object) -> "Config":
        """The configuration that a file holds as `values`; ValueError, with the `origin`, if it is none of ours."""
        names = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or not {"sources", "schema"} <= set(values) <= names:
            raise ValueError(f"{origin} is of another architecture: a model is told by {', '.join(sorted(names))}")
        try:
            return cls(**values)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{origin} is of another architecture: {error}") from None

    @classmethod
    def read(cls, folder: Path) -> "Config":
        """The configuration in a model's folder; FileNotFoundError if it has none, ValueError if it is none of ours."""
        file = folder / CONFIG
        if not file.is_file():
            here = f"; the model of this run is {folder / 'model'}" if (folder / "model" / CONFIG).is_file() else ""
            raise FileNotFoundError(f"{folder} is not a model folder: it has no {CONFIG}{here}")
        try:
            values = json.loads(file.read_text())
        except (ValueError, RecursionError):  # the former also of numbers without end
            raise ValueError(f"{file} is not JSON") from None
        return cls.of(values, file)

    def bins(self) -> tuple[tuple[int, int], ...]:
        """The half-open bin range of every band."""
        return band_schema(self.schema).bins(self.sample_rate, self.n_fft, self.bin_convention)

    @property
    def chunk_samples(self) -> int:
        """Samples of a chunk."""
        return round(self.chunk * self.sample_rate)

    @property
    def chunk_frames(self) -> int:
        """Frames T of a chunk's spectrogram."""
        return self.chunk_samples // (self.n_fft // OVERLAP) + 1


@dataclass(frozen=True)
class Cost:
    """What one module of a model takes."""

    module: str
    parameters: int
    macs: float  # multiply-accumulates of its matrix products per second of audio and channel


def costs(config: Config) -> list[Cost]:
    """The cost of every module of a model by arithmetic, in the order of the data, each head by its source. Counted are
    the products of features with weights, and of attention's tokens: not norms, gates, the STFT or the product of mask
    and mixture, together below 1% of the paper's model. Chunks that overlap n-fold cost n times as much."""
    bins, blocks = config.bins(), config.num_blstm_layers
    rate = config.chunk_frames / config.chunk  # frames per second
    K, F, N, H, M = len(bins), bins[-1][1], config.feature_dim, config.hidden_dim, config.mlp_dim
    heads, E = config.attention_heads, config.attention_dim
    # weights, which are as many products per frame (per band too in the sequence); beside them norms, biases and slopes
    split, beside_split = 2 * F * N, 4 * F + K * N  # real and imaginary parts
    rnn, beside_rnn = 8 * H * (N + H) + 2 * H * N, 16 * H + 3 * N  # 4 gates in 2 directions, with 2 biases in torch
    tac, beside_tac = (18 * N * N, 7 * N + 1) if config.tac else (0, 0)  # 3 N features of N, 3 N of these, N of both
    width = heads * E + N  # features of all queries and of the values; as many of the keys and of the result
    attention, beside_attention = (2 * width * N, 2 * width * (1 + 2 * K) + 3 * heads + 1) if heads else (0, 0)
    tokens = config.chunk_frames * width if heads else 0  # products of each with all, and of all
    head = K * M * (N + M * (config.mlp_layers - 1)) + 4 * F * M  # of both parts, values and gates
    beside_head = K * (2 * N + M * config.mlp_layers) + 4 * F
    block, beside_block = 2 * rnn + tac + attention, 2 * beside_rnn + beside_tac + beside_attention
    return [
        Cost("band_split", split + beside_split, rate * split),
        Cost("band_sequence", blocks * (block + beside_block), rate * K * blocks * (block + tokens)),
        *(Cost(f"heads.{source}", head + beside_head, rate * head) for source in config.sources),
    ]


_SCHEMAS = {"vocals": "v7", "bass": "bass", "drums": "drums", "other": "v7"}  # section V-A
_PAPER: dict = {"standardize": False}
_AUTHORS: dict = _PAPER | {"mlp_layers": 2, "bin_convention": "floor", "eps": 2**-23}
_LARGE: dict = _AUTHORS | {"eps": 1e-7, "padding": "reflect", "fader": True}
_OBSRNN: dict = _LARGE | {"tac": True, "attention_heads": 2}
_FAMILIES: dict[str, dict] = {"paper": _PAPER, "authors": _AUTHORS, "bsrnn-large": _LARGE, "obsrnn": _OBSRNN}
CONFIGS = {
    **{
        f"{name}-{source}": Config((source,), schema, **settings)
        for name, settings in _FAMILIES.items()
        for source, schema in _SCHEMAS.items()
    },
    "obsrnn-simo": Config(tuple(_SCHEMAS), "joint", **_OBSRNN),
    "obsrnn-generic": replace(Config(tuple(_SCHEMAS), **_OBSRNN), bin_convention="centre"),
    "small": Config(tuple(_SCHEMAS), feature_dim=32, hidden_dim=32, num_blstm_layers=4, mlp_dim=64),
}


def named_config(name: str) -> Config:
    """The configuration of that name; ValueError if there is none."""
    if name not in CONFIGS:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(CONFIGS)}")
    return CONFIGS[name]


def describe(config: Config) -> str:
    """A model in words and a table: sources, bands, what a frame of its output depends on, cost per module."""
    rows, bins = costs(config), config.bins()
    starts = " ".join(f"{start * config.sample_rate / config.n_fft:.0f}" for start, _ in bins)
    total = Cost("total", sum(row.parameters for row in rows), math.fsum(row.macs for row in rows))
    table = "\n".join(f"{row.module:<16}{row.parameters:>12,}{row.macs / 1e9:>12.3f}" for row in [*rows, total])
    return (
        f"sources         {', '.join(config.sources)}\n"
        f"bands           {len(bins)} ({config.schema}, {config.bin_convention}), with their first bins at these Hz:\n"
        f"{textwrap.fill(starts, 100, initial_indent=' ' * 16, subsequent_indent=' ' * 16)}\n"
        f"STFT            {config.n_fft} / {config.n_fft // OVERLAP} samples at {config.sample_rate} Hz\n"
        f"chunk           {config.chunk:g} s, {config.chunk_frames} frames: each output frame sees them all\n"
        f"channels        {'kept together' if config.tac else 'separated one by one, with the same weights'}\n\n"
        f"module            parameters      GMAC/s\n{table}\n\n"
        "GMAC/s: billions of multiply-accumulates per second of audio, for one channel"
    )


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults are the paper's (section IV-A, samples in IV-A1 and IV-A2); the batch is that of one
    of its eight GPUs. What is "ours" is not in the paper, and off by default."""

    batch_size: int = setting(2, "samples in a batch of one process", 1, 2**12)
    accumulate: int = setting(1, "batches per step", 1, 2**16)
    max_epochs: int = setting(100, "epochs at most", 1, 10**6)
    epoch_size: int = setting(0, "samples per epoch (the paper: 10,000 batches); 0: one per chunk of songs", 0, 2**40)
    lr: float = setting(1e-3, "learning rate of Adam", 1e-30, 10)
    lr_decay: float = setting(0.98, "factor on the learning rate every two epochs", 1e-6, 10)
    loss: str = setting("l1", "l1, the paper's, or snr, ours: noise over signal in dB", choices=("l1", "snr"))
    clip_grad_norm: float = setting(5.0, "largest norm of the gradient; inf: any", 1e-12)
    patience: int = setting(10, "epochs without a better validation before training stops", 1, 10**6)
    ema: float = setting(0.0, "ours: decay per step of an average of the weights, which is kept; 0: none", 0, 1 - 1e-9)
    salient: bool = setting(True, "take segments in which the source sounds, or any")
    segment: float = setting(6.0, "seconds of a segment, of which a sample is a crop as long as a chunk", 0.1, 3600)
    aligned: float = setting(0.0, "ours: share of samples that are a song as mixed, where a source sounds", 0, 1)
    target_songs: bool = setting(False, "ours: take stems from songs in which a target sounds, a target at a time")
    equal_levels: bool = setting(False, "ours: bring the stems of different songs to one level before their gains")
    gain_db: float = setting(10.0, "gains are uniform within plus and minus this; one for all where aligned", 0, 100)
    drop: float = setting(0.1, "probability that a source is left out of a sample that is not aligned", 0, 1 - 1e-9)
    peak_division: bool = setting(True, "divide mixture and targets by the largest of their peaks")
    pitch: float = setting(0.0, "ours: speed stems up or down, their pitch with it, by up to so many semitones", 0, 24)
    portion: float = setting(1.0, "share of the training songs", 1e-9, 1)
    validation_seconds: float = setting(0.0, "of each validation song, from its middle; 0: all of it", 0, 10**6)
    bf16: bool = setting(False, "compute matrix products in bfloat16, on devices that have it")
    workers: int = setting(-1, "processes that read data; -1: 4 for a GPU, else 0", -1, 1024, "data_loader_workers")

    __post_init__ = check
