"""Training: one source, several, or new heads on a frozen extractor; resumed where it stopped."""

import json
import logging
import math
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from torch.utils.data import DataLoader

from bsrnn import data, losses, records
from bsrnn.devices import autocast, keep_memory, torch_device
from bsrnn.metrics import usdr
from bsrnn.model import BSRNN
from bsrnn.separate import separate
from bsrnn.spectral import istft, stft


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. The defaults are the paper's (section IV-A); the batch is that of one of its eight GPUs."""

    batch_size: int = 2
    max_epochs: int = 100
    lr: float = 1e-3  # of Adam
    lr_decay: float = 0.98  # factor on lr every two epochs
    clip_grad_norm: float = 5.0
    patience: int = 10  # epochs without a better validation before training stops
    gain_db: float = 10.0  # stems are mixed with gains within plus and minus this
    drop: float = 0.1  # probability that a stem is left out of a sample
    portion: float = 1.0  # share of the training songs
    bf16: bool = False  # matrix products in bfloat16, on devices that have it
    workers: int = 0  # processes that read data beside the training

    def __post_init__(self):
        for name in ("batch_size", "max_epochs", "lr", "lr_decay", "clip_grad_norm", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("gain_db", "workers"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop must be at least 0 and below 1, not {self.drop}")
        if not 0 < self.portion <= 1:
            raise ValueError(f"portion must be above 0 and at most 1, not {self.portion}")


@dataclass(frozen=True)
class Fitted:
    """What training leaves: the best model by validation, and a row of losses and scores per epoch."""

    model: BSRNN
    history: pd.DataFrame


class Module(lightning.LightningModule):
    """The training and validation step of a BSRNN, for Lightning."""

    def __init__(self, model: BSRNN, config: TrainingConfig):
        super().__init__()
        self.model, self.settings = model, config
        self.history: list[dict] = []
        self.step_losses: list[torch.Tensor] = []
        self.track_scores: list[torch.Tensor] = []
        self.track_losses: list[torch.Tensor] = []

    def losses(self, waveforms: torch.Tensor, targets: torch.Tensor, spectrograms: torch.Tensor) -> torch.Tensor:
        target_spectrograms = stft(targets, self.model.config.n_fft)
        return losses.objective(spectrograms, target_spectrograms, waveforms, targets)

    def training_step(self, batch, _):
        mixture, targets = batch  # (B, 1, L), (B, S, 1, L)
        n_fft = self.model.config.n_fft
        estimates = self.model(stft(mixture, n_fft))
        loss = losses.multitask(self.losses(istft(estimates, n_fft, mixture.shape[-1]), targets, estimates))
        self.step_losses.append(loss.detach())
        return loss

    def validation_step(self, batch, _):
        mixture, targets, sample_rate = (part.cpu() if isinstance(part, torch.Tensor) else part for part in batch)
        peak = max(mixture.abs().max(), targets.abs().max())  # as in training, for losses of the same scale
        mixture, targets = mixture / peak, targets / peak
        estimates = separate(self.model, mixture, sample_rate, overlap=1)
        estimates = torch.stack(list(estimates.values()))
        self.track_scores.append(usdr(targets, estimates))
        spectrograms = stft(estimates, self.model.config.n_fft)
        self.track_losses.append(losses.multitask(self.losses(estimates[None], targets[None], spectrograms[None])))

    def on_validation_epoch_end(self):
        per_source = torch.stack(self.track_scores).nanmean(0)
        row = {
            "epoch": self.current_epoch,
            "step": self.global_step,
            "train_loss": float(torch.stack(self.step_losses).mean()),
            "validation_loss": float(torch.stack(self.track_losses).mean()),
            "validation_usdr": float(per_source.nanmean()),
        }
        names = (f"validation_usdr/{source}" for source in self.model.config.sources)
        row |= dict(zip(names, per_source.tolist(), strict=True))
        self.history.append(row)
        for values in (self.step_losses, self.track_losses, self.track_scores):
            values.clear()
        self.log("validation_usdr", row["validation_usdr"], prog_bar=True)
        self.log("loss", row["train_loss"], prog_bar=True)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        # heads on a frozen extractor are trainings of their own that share its output: each is clipped alone
        frozen = not self.model.band_split.weight.requires_grad
        for part in self.model.heads.values() if frozen else [self.model]:
            torch.nn.utils.clip_grad_norm_(part.parameters(), self.settings.clip_grad_norm)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.settings.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, self.settings.lr_decay)]

    def on_save_checkpoint(self, checkpoint):
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


class EpochLines(Callback):
    """A line per epoch: progress for notebooks and logs, where a bar would be redrawn in vain."""

    def on_train_start(self, trainer, module):
        if module.history:
            print(f"going on after epoch {len(module.history)}", flush=True)

    def on_train_epoch_end(self, trainer, module):
        self.write(module.history[-1], trainer.max_epochs)

    @staticmethod
    def write(row, epochs):
        print(f"epoch {row['epoch'] + 1:3d} of {epochs}   loss {row['train_loss']:.4f}   "
              f"validation uSDR {row['validation_usdr']:6.2f} dB", flush=True)  # fmt: skip


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and Python: the initial weights follow. Training samples have a generator of their own."""
    _hush()
    lightning.seed_everything(seed, verbose=False)


def fit(
    model: BSRNN, dataset: Path, config: TrainingConfig, folder: Path, *, seed: int = 0, device: str = "auto",
    **details,
) -> Fitted:  # fmt: skip
    """Train a model, or go on where a run of the same settings in `folder` stopped; a finished one is only loaded.

    All parameters that require gradients are trained, for all the model's sources: the heads only, after
    `model.freeze_extractor()`. Writes to `folder`: last.ckpt (everything needed to resume) after every epoch,
    best.ckpt, model/ (the best weights by mean validation uSDR) and record.json.

    Args:
        model: with initial weights.
        dataset: a folder in MUSDB18-HQ's layout; its validation songs are held out of train/.
        config: how to train.
        folder: of this run.
        seed: of the training samples.
        device: auto, cpu, cuda or cuda:1.
        details: what else the run record shall say.

    Raises:
        FileNotFoundError, ValueError: the data cannot be used, or `folder` holds a run of other settings.
    """
    _hush()
    keep_memory()
    target = torch_device(device)
    autocast(target, config.bf16)  # refuses what the device lacks
    mixes, validation = _datasets(model, dataset, config, seed)
    settings = {
        "model": asdict(model.config), "training": asdict(config), "seed": seed, "data": data.fingerprint(dataset),
        "trainable": sorted({name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}), **details,
    }  # fmt: skip
    _claim(folder, settings)
    if (folder / "record.json").is_file():
        fitted = _finished(model, folder)
        print(f"{folder.name} was trained before: loaded, with the history of its training")
        for row in fitted.history.to_dict("records"):
            EpochLines.write(row, config.max_epochs)
        return fitted
    module = Module(model, config)
    terminal = sys.stderr.isatty()
    saving = {"dirpath": folder, "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(filename="best", monitor="validation_usdr", mode="max", **saving)
    last = ModelCheckpoint(filename="last", **saving)  # after `best`, whose state it holds
    trainer = lightning.Trainer(
        accelerator=target.type, devices=[target.index or 0] if target.type == "cuda" else 1,
        precision="bf16-mixed" if config.bf16 else "32-true",
        max_epochs=config.max_epochs, num_sanity_val_steps=0, use_distributed_sampler=False,
        logger=False, enable_model_summary=False, enable_progress_bar=terminal,
        callbacks=[EarlyStopping("validation_usdr", mode="max", patience=config.patience), best, last,
                   TQDMProgressBar() if terminal else EpochLines()],
    )  # fmt: skip
    started = time.monotonic()
    resume = folder / "last.ckpt"
    interrupt = signal.getsignal(signal.SIGINT)
    model.train()
    try:
        trainer.fit(
            module, data.training_loader(mixes, config.batch_size, config.workers),
            DataLoader(validation, batch_size=None), ckpt_path=resume if resume.is_file() else None, weights_only=True,
        )  # fmt: skip
    except SystemExit:  # what Lightning makes of an interrupt
        signal.signal(signal.SIGINT, interrupt)
        raise KeyboardInterrupt from None
    model.load_state_dict(_model_state(folder / "best.ckpt"))
    model.save_pretrained(folder / "model")
    history = [{name: None if math.isnan(value) else value for name, value in row.items()} for row in module.history]
    records.save_json(folder / "record.json", {
        "run": folder.name, **settings, "parameters": sum(p.numel() for p in model.parameters()),
        "bands": len(model.config.bins()), "songs": {"train": len({t for s in mixes.segments.values() for t, *_ in s}),
                                                     "validation": len(validation)},
        "seconds": round(time.monotonic() - started, 1), "history": history, **records.provenance(),
    })  # fmt: skip
    return _finished(model, folder)


def _finished(model: BSRNN, folder: Path) -> Fitted:
    model.load_state_dict(BSRNN.from_pretrained(folder / "model").state_dict())
    history = json.loads((folder / "record.json").read_text())["history"]
    return Fitted(model.cpu().eval(), pd.DataFrame(history))


def _datasets(model, dataset, config, seed):
    sources = model.config.sources
    tracks = data.find_tracks(dataset, "train", config.portion)
    validation = data.find_tracks(dataset, "validation")
    mixes = data.RandomMixes(tracks, sources, sample_rate=model.config.sample_rate, chunk=model.config.chunk, seed=seed,
                             gain_db=config.gain_db, drop=config.drop)  # fmt: skip
    return mixes, data.WholeTracks(validation, sources)


def _claim(folder: Path, settings: dict) -> None:
    """Note the settings of a new run in its folder, or see that they are those of the run to go on with."""
    file = folder / "settings.json"
    settings = json.loads(json.dumps(settings))
    if file.is_file():
        before = json.loads(file.read_text())
        for name in sorted(settings.keys() | before.keys()):
            if settings.get(name) != before.get(name):
                raise ValueError(f"{folder} holds a run with other settings ({name}): remove it or choose another name")
    records.save_json(file, settings)


def _model_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items()}


def transfer(base: BSRNN, sources: tuple[str, ...]) -> BSRNN:
    """A model ready for transfer learning: the base's extractor, frozen, and new heads for `sources`."""
    return base.with_heads(sources).freeze_extractor()


def _hush() -> None:
    """Keep Lightning's advertisements, and hints that do not apply here, out of logs and notebooks."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in ("does not have many workers", "LeafSpec", "Checkpoint directory", "isinstance.treespec"):
        warnings.filterwarnings("ignore", f".*{message}.*")
