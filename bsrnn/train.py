"""Training: one source, several, or new heads on a frozen extractor; resumed where it stopped, bit for bit."""

import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, Timer, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

import bsrnn
from bsrnn import checkpoint, data, files, losses
from bsrnn.config import TrainingConfig
from bsrnn.devices import Graphed, autocast, has_graphs, short_of_memory, torch_device
from bsrnn.metrics import usdr
from bsrnn.model import BSRNN
from bsrnn.separate import separate
from bsrnn.spectral import istft, stft

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # variables that it sets
WORKERS = 4  # beside a GPU; each mixes 120 chunks of four sources a second from wav files
LIBRARIES = ("torch", "torchaudio", "lightning", "numpy", "scipy", "soundfile", "soxr", "musdb")


@dataclass(frozen=True)
class Fitted:
    """What training leaves: the best model by validation, and a row of losses and scores per epoch."""

    model: BSRNN
    history: list[dict]


def transfer(base: BSRNN, sources: tuple[str, ...]) -> BSRNN:
    """A model ready for transfer learning: the base's extractor, frozen, and new heads for `sources`."""
    return base.with_heads(sources).freeze_extractor()


def fit(
    model: BSRNN, dataset: Path, config: TrainingConfig, folder: Path, *, seed: int = 0, device: str = "auto", **details
) -> Fitted:
    """Train a model, or go on where a run of the same settings in `folder` stopped; a finished one is only loaded. All
    parameters that require gradients are trained, for all the model's sources: the heads only, after
    `model.freeze_extractor()`. A killed run, started again, ends with the weights and history it would have had. Under
    torchrun the processes train one model together: each takes `batch_size` samples of every batch.
    Raises FileNotFoundError or ValueError, a line per problem, where data or `device` cannot be used, or `folder` holds
    another run, or one that another process trains; FloatingPointError, with the step and the songs, where a loss or
    gradient is not finite; and OSError where a checkpoint cannot be written, of which the one before is intact.

    Args:
        dataset: a folder of songs, see data.py; validation songs are held out of the training songs.
        folder: of this run; it gets what `Epochs` says, record.json at the end, and TensorBoard's events.
        seed: of the training samples, not of the initial weights, which `model` has.
        details: what else the run depends on, such as the weights that it begins with, and its record shall say."""
    target = torch_device(device)
    autocast(target, config.bf16)  # refuses what the device lacks
    rank, processes = _processes()
    problems = []
    tracks = data.find_tracks(dataset, "train", config.portion, problems)
    validation = data.find_tracks(dataset, "validation", problems=problems)
    mixes = data.Mixes(tracks, model.config, config, seed=seed, problems=problems) if tracks else None
    data.check_heard(validation, model.config.sources, config.validation_seconds, problems)
    data.report(problems)
    assert mixes  # as there are no problems
    settings = {
        "model": asdict(model.config),
        "training": asdict(config),
        "seed": seed,
        "data": data.fingerprint(dataset),
        "trainable": sorted({name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}),
        **({"extractor": checkpoint.digest(model.band_split, model.band_sequence)} if model.frozen else {}),
        **details,
    }
    record = {
        "run": folder.name,
        **settings,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bands": len(model.config.bins()),
        "songs": {"train": len(tracks), "validation": len(validation)},
        "processes": processes,
        **provenance(target),
    }
    finished = folder / "record.json"
    with _claimed(folder, settings) if rank == 0 else nullcontext():
        if finished.is_file():
            history = json.loads(finished.read_text())["history"]
            print(f"{folder.name} was trained before: loaded, with the history of its training")
            print(*(epoch_line(row, config.max_epochs) for row in history), sep="\n")
        else:
            module = TrainingModule(model, config, validation)
            history, seconds = _train(module, mixes, folder, target, rank, processes)
            if rank == 0:
                files.save_json(finished, record | {"seconds": seconds, "history": history})
            if processes > 1:
                torch.distributed.barrier()  # the first one has written the model
    return Fitted(checkpoint.load(folder / "model"), history)


@contextmanager
def _claimed(folder: Path, settings: dict) -> Iterator[None]:
    """Note a new run's settings, or see that they are those of the run to go on with; keep other trainings out."""
    note = folder / "settings.json"
    if folder.exists() and not note.is_file() and any(file.name != files.LOCK for file in folder.iterdir()):
        raise ValueError(f"{folder} exists and is not a run: choose another name")
    refusal = f"{folder} is being trained by another process: wait for it, or choose another name"
    with files.locked(folder / files.LOCK, refusal, ": make room, or set BSRNN_ROOT to another folder for runs/"):
        settings = json.loads(json.dumps(settings))
        if note.is_file():
            known = {"init": settings.get("init"), **json.loads(note.read_text())}  # which runs did not note once
            known["training"]["workers"] = settings["training"]["workers"]  # which may change: samples do not
            files.check_same(known, settings, f"{folder} holds a run", "choose another name")
        files.save_json(note, settings)
        yield


def _train(
    module: "TrainingModule", mixes: data.Mixes, folder: Path, device: torch.device, rank: int, processes: int
) -> tuple[list[dict], float]:
    """Train to the end, from the folder's last checkpoint if it has one: the history, and the seconds that it took."""
    model, config = module.model, module.settings
    sampler = data.EpochSampler(len(mixes), config.batch_size, rank, processes)
    terminal = sys.stdout.isatty()  # where Lightning's bar goes
    # not finite is what the module refuses; a perfect score is infinite
    patience = EarlyStopping("validation_usdr", mode="max", patience=config.patience, check_finite=False)
    average = [WeightAveraging(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(config.ema))] if config.ema else []
    bar, clock = [TQDMProgressBar()] if terminal else [], Timer()  # a clock that goes on with the training
    last, epochs = last_checkpoint(folder)
    if epochs and rank == 0:
        print(f"going on after epoch {epochs}", flush=True)
    sampler.set_epoch(epochs)  # Lightning does so too, but only after workers have begun to read
    # every process validates something, if need be what another one does: Lightning would leave it out otherwise
    validated = range(rank, max(len(module.validation), processes), processes)
    by_default = min(WORKERS, os.cpu_count() or 1) if device.type == "cuda" else 0
    workers = config.workers if config.workers >= 0 else by_default
    loader = DataLoader(
        mixes,
        config.batch_size,
        sampler=sampler,
        pin_memory=device.type == "cuda",
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_heed_no_signal,
    )
    logger = logging.getLogger("lightning.pytorch")
    interrupt, level, hook = signal.getsignal(signal.SIGINT), logger.level, threading.excepthook
    model.train()
    # processes on this machine, as many as on each other one
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if processes > 1 else 1
    rank_zero_only.rank = rank  # also where a scheduler started this process beside others
    threading.excepthook = lambda told: told.exc_type is OSError or hook(told)  # TensorBoard's raise it again, here
    logger.setLevel(logging.WARNING)  # Lightning's advertisements are for no log and no notebook
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")  # its advice, and torch's of what it does
            trainer = lightning.Trainer(
                accelerator=device.type,
                devices=[device.index or 0] if device.type == "cuda" and processes == 1 else local,
                num_nodes=processes // local,
                plugins=LightningEnvironment() if processes == 1 else None,  # not the scheduler's
                precision="bf16-mixed" if config.bf16 else "32-true",
                max_epochs=config.max_epochs,
                accumulate_grad_batches=config.accumulate,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                enable_model_summary=False,
                enable_progress_bar=terminal,
                log_every_n_steps=10,
                logger=TensorBoardLogger(folder, name=None, version="tensorboard"),
                # the average comes first, as it sees to it that the checkpoints hold the averaged weights
                callbacks=[*average, Epochs(folder), patience, clock, *bar],
            )
            if has_graphs(device):  # before DDP wraps the model
                mixtures = torch.stack([mixes[0][0]] * config.batch_size).to(trainer.strategy.root_device)
                spectra = stft(mixtures, model.config.n_fft, model.config.padding)
                module.graphed = Graphed(model.to(mixtures.device), spectra, config.bf16)
            trainer.fit(module, loader, validated, ckpt_path=last, weights_only=True)
    except SystemExit as end:
        signal.signal(signal.SIGINT, interrupt)
        raise (KeyboardInterrupt if end.code in (None, 1) else end) from None  # those two are Lightning's
    except ValueError as error:  # of reading; from a worker with its traceback in the text
        raise ValueError(str(error).rpartition("\nValueError: ")[2].strip()) from None
    except (RuntimeError, ConnectionError, EOFError) as error:  # the latter two while samples are handed over
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        remedy = "give it more memory (/dev/shm, in a container), or fewer --data_loader_workers: 0 for none"
        raise OSError(f"a process that reads data beside the training has ended: {remedy}") from None
    except FloatingPointError as error:
        raise FloatingPointError(f"{error}; last good checkpoint: {last_checkpoint(folder)[0] or 'none'}") from None
    finally:
        threading.excepthook = hook
        logger.setLevel(level)
    return module.history, round(clock.time_elapsed(), 1)


def _heed_no_signal(_: int) -> None:
    """Of a worker: a signal to all processes is the training's to heed, which then ends its workers."""
    sys.excepthook = lambda *_: None  # by which Python's thread that hands samples over tells that nobody takes them
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)


def _processes() -> tuple[int, int]:
    """Which of how many processes this is, as torchrun says; ValueError if only a part of its variables is set."""
    missing = [name for name in TORCHRUN if name not in os.environ]
    if 0 < len(missing) < len(TORCHRUN):
        raise ValueError(f"of torchrun's variables {missing[0]} is missing: start with torchrun, or unset the others")
    return (0, 1) if missing else (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


class TrainingModule(lightning.LightningModule):
    """The training and validation step of a BSRNN, for Lightning; a batch to validate is the index of a song."""

    def __init__(self, model: BSRNN, config: TrainingConfig, validation: Sequence[data.Track] = ()):
        super().__init__()
        self.model, self.settings, self.validation = model, config, validation
        self.graphed: Graphed | None = None  # the model in training, where a card has graphs
        self.objective = losses.OBJECTIVES[config.loss]
        self.history: list[dict] = []
        self.step_losses: list[torch.Tensor] = []
        self.tracks: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # scores and loss of every validation song

    def on_train_start(self):
        if stopping := self.trainer.early_stopping_callback:  # a run that had stopped stays stopped
            self.trainer.should_stop = stopping.wait_count >= stopping.patience

    def training_step(self, batch, number):
        mixture, targets = batch  # (B, C, L), (B, S, C, L)
        n_fft, padding = self.model.config.n_fft, self.model.config.padding
        estimates = (self.graphed or self.model)(stft(mixture, n_fft, padding))
        waveforms = istft(estimates, n_fft, mixture.shape[-1])
        loss = self.objective(estimates, stft(targets, n_fft, padding), waveforms, targets).sum()
        self.step_losses.append(loss.detach())
        self.log("step_loss", loss, prog_bar=True)
        return loss

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        # heads on a frozen extractor are trainings of their own that share its output: each is clipped alone
        for part in self.model.heads.children() if self.model.frozen else [self.model]:
            norm = torch.nn.utils.clip_grad_norm_(part.parameters(), self.settings.clip_grad_norm)
            if not norm.isfinite():
                loader: Any = self.trainer.train_dataloader
                last = self.trainer.fit_loop.batch_idx  # of this step
                batches = islice(loader.batch_sampler, last - last % self.settings.accumulate, last + 1)
                songs = {song for batch in batches for index in batch for song in loader.dataset.songs(index)}
                raise FloatingPointError(
                    f"loss or gradient is not finite in step {self.global_step + 1}; songs: {', '.join(sorted(songs))}"
                )

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        optimizer.zero_grad(set_to_none=not self.graphed)
        if self.graphed:  # Lightning sets them to None before it validates
            for parameter in (p for group in optimizer.param_groups for p in group["params"] if p.grad is None):
                parameter.grad = torch.zeros_like(parameter)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=self.settings.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2, self.settings.lr_decay)]

    def validation_step(self, number, _):
        config = self.model.config
        track = self.validation[number % len(self.validation)]
        song = track.stems(("mixture", *config.sources), *track.middle(self.settings.validation_seconds))
        song = song / song.abs().max().clamp_min(1e-8)  # as in training by default, for losses of one scale
        mixture, targets = song[0], song[1:]
        estimates = torch.stack([*separate(self.model, mixture, track.sample_rate, hop=config.chunk).values()])
        spectrum, target = (stft(signals, config.n_fft, config.padding) for signals in (estimates, targets))
        loss = self.objective(spectrum[None], target[None], estimates[None], targets[None]).sum()
        self.tracks[track.name] = usdr(targets, estimates), loss

    def on_validation_epoch_end(self):
        # of every process: its part of the songs, and the losses of its steps
        parts = [(self.tracks, [float(loss) for loss in self.step_losses])] * self.trainer.world_size
        if len(parts) > 1:
            torch.distributed.all_gather_object(parts, parts[0])
        tracks = {name: track for songs, _ in parts for name, track in songs.items()}
        if songs := ", ".join(sorted(name for name, (_, loss) in tracks.items() if not loss.isfinite())):
            raise FloatingPointError(f"validation loss is not finite after step {self.global_step}; songs: {songs}")
        step_losses = [loss for _, steps in parts for loss in steps]
        per_source = torch.stack([scores for scores, _ in tracks.values()]).nanmean(0)
        row = {
            "epoch": self.current_epoch,
            "step": self.global_step,
            "train_loss": sum(step_losses) / len(step_losses),
            "validation_loss": float(torch.stack([loss for _, loss in tracks.values()]).mean()),
            "validation_usdr": float(per_source.mean()),
            **{
                f"validation_usdr/{name}": float(x)
                for name, x in zip(self.model.config.sources, per_source, strict=True)
            },
        }
        self.history.append(row)
        self.step_losses.clear()
        self.tracks.clear()
        self.log("validation_usdr", row["validation_usdr"], prog_bar=True)
        self.log("loss", row["train_loss"])

    def on_save_checkpoint(self, checkpoint):  # with the configuration it is also a model, see checkpoint.load
        checkpoint.update(history=self.history, config=asdict(self.model.config))

    def on_load_checkpoint(self, checkpoint):
        self.history = checkpoint["history"]


class Epochs(Checkpoint):
    """After every epoch: last.ckpt, the one before it as previous.ckpt, history.csv, model/ if validation was never
    better, all written whole, unlike Lightning's own checkpoints; and a line where there is no bar."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_epoch_end(self, trainer, module):
        last = self.folder / "last.ckpt"
        if not trainer.is_global_zero:
            trainer.save_checkpoint(last)  # in which all processes take part, and the first one writes
            return
        try:
            with files.written_whole(last) as partial:
                trainer.save_checkpoint(partial)
                scores = [row["validation_usdr"] for row in module.history]
                if len(scores) == 1 or scores[-1] > max(scores[:-1]):
                    checkpoint.save(checkpoint.load(partial), self.folder / "model")
                files.save_rows(self.folder / "history.csv", module.history)
                if last.is_file():
                    os.replace(last, self.folder / "previous.ckpt")
        except (OSError, RuntimeError) as error:  # the latter is torch's
            wrong = f"{last}: the checkpoint of epoch {module.current_epoch + 1} cannot be written ({error})"
            raise OSError(f"{wrong}; the one before is intact: make room and run the same command again") from None
        if not trainer.progress_bar_callback:
            print(epoch_line(module.history[-1], trainer.max_epochs), flush=True)


def last_checkpoint(folder: Path) -> tuple[Path | None, int]:
    """The last checkpoint in a folder that can be read, if there is one, and the number of epochs it has behind it."""
    for file in (folder / "last.ckpt", folder / "previous.ckpt"):
        if file.is_file():
            try:
                return file, len(torch.load(file, map_location="cpu", weights_only=True)["history"])
            except Exception as error:  # torch raises what zip files and unpickling raise
                if isinstance(error, PermissionError) or short_of_memory(error):
                    raise
                print(f"{file} is damaged and left aside", flush=True)
    return None, 0


def epoch_line(row: dict, epochs: int) -> str:
    """An epoch of a history in words."""
    return (
        f"epoch {row['epoch'] + 1:3d} of {epochs}   loss {row['train_loss']:.4f}   "
        f"validation uSDR {row['validation_usdr']:6.2f} dB"
    )


def provenance(device: torch.device) -> dict:
    """The code's version, the libraries' versions and the hardware, for the record of a run."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "code": bsrnn.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "hardware": f"{platform.system()}, {hardware}",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The commit of the code, with "-dirty" when package or profiles differ from it; None outside a git checkout."""
    command = ["git", "-C", files.root(), "status", "--porcelain=v2", "--branch", "--", "bsrnn", "profiles"]
    with suppress(OSError, subprocess.CalledProcessError):
        commit, *told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        dirty = "-dirty" if any(not line.startswith("# ") for line in told) else ""
        return commit.removeprefix("# branch.oid ")[:12] + dirty
