"""How a training goes, as settings with their explanations, which the command line shows without waiting for torch."""

import math
from dataclasses import dataclass, field, fields


def check_types(settings) -> None:
    """See that the plain fields of a dataclass hold what they are declared to.

    Raises:
        ValueError: one does not; of YAML's numbers, 1e-4 is text and 1.0e-4 a number.
    """
    for each in fields(settings):
        value, kind = getattr(settings, each.name), each.type
        if kind in (str, int, float, bool) and type(value) not in ((float, int) if kind is float else (kind,)):
            raise ValueError(f"{each.name} must be of type {kind.__name__}, not {value!r}")


def _setting(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults are the paper's (section IV-A, samples in IV-A1 and IV-A2); the batch is that of one
    of its eight GPUs. What is "ours" is not in the paper, and off by default."""

    batch_size: int = _setting(2, "samples in a batch of one process")
    accumulate: int = _setting(1, "batches per step")
    max_epochs: int = _setting(100, "epochs at most")
    epoch_size: int = _setting(0, "samples in an epoch; 0: as many chunks as the songs hold; the paper: 10,000 batches")
    lr: float = _setting(1e-3, "learning rate of Adam")
    lr_decay: float = _setting(0.98, "factor on the learning rate every two epochs")
    clip_grad_norm: float = _setting(5.0, "largest norm of the gradient")
    patience: int = _setting(10, "epochs without a better validation before training stops")
    ema: float = _setting(0.0, "ours: decay per step of a moving average of the weights, which is then kept; 0: none")
    salient: bool = _setting(True, "take segments in which the source sounds, or any")
    segment: float = _setting(6.0, "seconds of a segment; a sample is a crop of it as long as the model's chunk")
    aligned: float = _setting(0.0, "ours: share of samples that are a song as it is mixed, where a target sounds")
    target_songs: bool = _setting(False, "ours: take stems from songs in which a target sounds, a target at a time")
    equal_levels: bool = _setting(False, "ours: bring the stems of different songs to one level before their gains")
    gain_db: float = _setting(10.0, "gains are uniform within plus and minus this; an aligned sample has one for all")
    drop: float = _setting(0.1, "probability that a source is left out of a sample that is not aligned")
    peak_division: bool = _setting(True, "divide mixture and targets by the largest of their peaks")
    pitch: float = _setting(0.0, "ours: play stems faster and higher or slower and lower, by up to so many semitones")
    portion: float = _setting(1.0, "share of the training songs, 0 to 1")
    validation_seconds: float = _setting(0.0, "of each validation song, from its middle; 0: all of it")
    bf16: bool = _setting(False, "compute matrix products in bfloat16, on devices that have it")
    workers: int = _setting(0, "processes that read data beside the training")

    def __post_init__(self):
        check_types(self)
        for name in ("batch_size", "accumulate", "max_epochs", "lr", "lr_decay", "clip_grad_norm", "patience",
                     "segment"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("gain_db", "pitch", "epoch_size", "validation_seconds", "workers"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("drop", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if not 0 <= self.aligned <= 1:
            raise ValueError(f"aligned must be at least 0 and at most 1, not {self.aligned}")
        if not 0 < self.portion <= 1:
            raise ValueError(f"portion must be above 0 and at most 1, not {self.portion}")
