import errno
import importlib.metadata
import json
import logging
import math
import os
import signal
import sys
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from filelock import FileLock
from graphs import make_graphed_callables, take_part

from bsrnn import checkpoint, demo, devices, train
from bsrnn.config import TrainingConfig
from bsrnn.data import Mixes, find_tracks, fingerprint
from bsrnn.evaluate import evaluate
from bsrnn.metrics import usdr
from bsrnn.separate import estimate
from bsrnn.train import fit

QUICK = {"batch_size": 4, "max_epochs": 2, "portion": 0.34}  # of 6 training songs, 2: five steps in an epoch
STUCK = 1e-30  # a learning rate that changes no weight: no epoch is better than the first


@pytest.fixture
def small(tiny):
    return lambda *sources: tiny(sources, sample_rate=8_000, schema="generic-12-8")


@pytest.fixture(autouse=True)
def _interrupt_signal():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def part(weights, prefix):
    return {name: value for name, value in weights.items() if name.startswith(prefix)}


@pytest.fixture
def steps(monkeypatch):
    """Counts training steps; `steps.stop_at` raises `steps.error` in that one."""

    class Steps:
        count, stop_at, error = 0, None, RuntimeError("power cut")

    original = train.TrainingModule.training_step

    def training_step(module, *batch):
        Steps.count += 1
        if Steps.count == Steps.stop_at:
            raise Steps.error
        return original(module, *batch)

    monkeypatch.setattr(train.TrainingModule, "training_step", training_step)
    return Steps


def test_fit_leaves_a_model_a_record_a_checkpoint_and_a_history(small, songs, tmp_path):
    config = TrainingConfig(**QUICK, clip_grad_norm=math.inf)
    fitted = fit(small("drums", "bass"), songs, config, tmp_path / "a run", seed=3, device="cpu", experiment="base")
    files = ".lock history.csv last.ckpt model previous.ckpt record.json settings.json tensorboard".split()
    assert sorted(path.name for path in (tmp_path / "a run").iterdir()) == files
    assert same(checkpoint.load(tmp_path / "a run" / "model").state_dict(), fitted.model.state_dict())
    assert not fitted.model.training
    record = json.loads((tmp_path / "a run" / "record.json").read_text())
    assert (record["run"], record["experiment"], record["seed"]) == ("a run", "base", 3)
    assert record["model"]["sources"] == ["drums", "bass"]
    assert TrainingConfig(**record["training"]) == config
    assert record["data"] == fingerprint(songs)
    assert record["songs"] == {"train": 2, "validation": 2}
    assert record["trainable"] == ["band_sequence", "band_split", "heads"]
    assert {"code", "commit", "python", "libraries", "hardware", "seconds"} <= record.keys()
    history = fitted.history
    assert record["history"] == history
    assert [(row["epoch"], row["step"]) for row in history] == [(0, 5), (1, 10)]
    for row in history:
        mean = (row["validation_usdr/drums"] + row["validation_usdr/bass"]) / 2
        assert row["validation_usdr"] == pytest.approx(mean)
    lines = (tmp_path / "a run" / "history.csv").read_text().splitlines()
    assert lines[0].split(",") == list(history[0]) and len(lines) == 3


def test_the_loss_falls_and_the_best_epoch_is_returned(small, songs, tmp_path):
    fitted = fit(small("drums"), songs, TrainingConfig(4, 4, lr=0.01, portion=0.34), tmp_path / "run", device="cpu")
    losses = [row["train_loss"] for row in fitted.history]
    assert losses[-1] < 0.9 * losses[0]
    rows = evaluate(fitted.model, find_tracks(songs, "validation"), split="validation")
    scores = [row["value"] for row in rows if row["metric"] == "uSDR"]
    # validation takes one chunk over each sample, evaluation two
    assert np.mean(scores) == pytest.approx(max(row["validation_usdr"] for row in fitted.history), abs=0.3)


def test_the_loss_falls_on_demo_songs(tiny, tmp_path):
    demo.generate(tmp_path / "demo", train=3, test=0, seconds=4.0)
    (tmp_path / "demo" / "test").mkdir(exist_ok=True)
    model = tiny(("drums", "vocals"), sample_rate=8_000, schema="generic-12-8", chunk=0.5)
    config = TrainingConfig(8, max_epochs=2, epoch_size=80, lr=0.01, validation_seconds=2.0)
    first, last = fit(model, tmp_path / "demo", config, tmp_path / "run", device="cpu").history
    assert last["train_loss"] < 0.9 * first["train_loss"]


def test_adam_takes_the_rates_of_the_paper_and_clipped_gradients(small, songs, tmp_path, monkeypatch):
    rates, norms, steps, original = [], [], [], torch.optim.Adam.step

    def step(optimizer, closure=None):
        parameters = optimizer.param_groups[0]["params"]
        loss = closure()  # Lightning's: it also clips
        norms.append(float(torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()))
        rates.append(optimizer.param_groups[0]["lr"])
        before = [parameter.detach().clone() for parameter in parameters]
        original(optimizer)
        steps.append(max(float((old - new.detach()).abs().max()) for old, new in zip(before, parameters, strict=True)))
        return loss

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    config = TrainingConfig(2, max_epochs=5, epoch_size=4, clip_grad_norm=1e-3, portion=0.34)
    fit(small("drums"), songs, config, tmp_path / "run", device="cpu")
    assert rates == pytest.approx([1e-3] * 4 + [0.98e-3] * 4 + [0.98**2 * 1e-3] * 2)
    assert norms == pytest.approx([1e-3] * 10, rel=1e-3)
    assert steps[0] == pytest.approx(1e-3, rel=0.01)  # Adam's first step is as long as its rate in every direction


def test_the_best_weights_are_kept_when_later_ones_are_worse(small, songs, tmp_path, monkeypatch):
    seen = {}
    original = train.TrainingModule.on_validation_epoch_end

    def worse_every_epoch(module):
        seen[module.current_epoch] = state(module.model)
        for name, (score, loss) in module.tracks.items():
            module.tracks[name] = torch.full_like(score, -module.current_epoch), loss
        original(module)

    monkeypatch.setattr(train.TrainingModule, "on_validation_epoch_end", worse_every_epoch)
    fitted = fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")
    assert same(fitted.model.state_dict(), seen[0])
    assert not same(seen[0], seen[1])


def test_training_is_a_function_of_the_seed(small, songs, tmp_path):
    config = TrainingConfig(**QUICK | {"max_epochs": 1})
    one, again, other = (
        fit(small("drums"), songs, config, tmp_path / name, seed=seed, device="cpu").model.state_dict()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert same(one, again)
    assert not same(one, other)


def test_the_number_of_workers_changes_nothing(small, songs, tmp_path):
    configs = [TrainingConfig(**QUICK, workers=workers) for workers in (-1, 0, 1, 4)]
    fitted = [fit(small("drums"), songs, config, tmp_path / str(config.workers), device="cpu") for config in configs]
    none, *others = (each.model.state_dict() for each in fitted)
    assert all(same(none, other) for other in others)


def test_a_run_goes_on_with_other_workers(small, songs, tmp_path, steps):
    configs = [TrainingConfig(**QUICK | {"workers": workers}) for workers in (2, 0)]
    straight = fit(small("drums"), songs, configs[1], tmp_path / "straight", device="cpu")
    steps.stop_at = 10 + 8
    with pytest.raises(RuntimeError, match="power cut"):
        fit(small("drums"), songs, configs[0], tmp_path / "run", device="cpu")
    resumed = fit(small("drums"), songs, configs[1], tmp_path / "run", device="cpu")
    assert same(resumed.model.state_dict(), straight.model.state_dict())


# transfer


def test_transfer_trains_the_heads_only(small, songs, tmp_path):
    base = small("drums")
    model = train.transfer(base, ("bass", "vocals"))
    before = state(model)
    after = fit(model, songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu").model.state_dict()
    for extractor in ("band_split", "band_sequence"):
        assert same(part(after, extractor), part(base.state_dict(), extractor))
    for source in ("bass", "vocals"):
        changed = part(after, f"heads.{source}")
        assert not any(torch.equal(value, before[name]) for name, value in changed.items())
    assert json.loads((tmp_path / "run" / "record.json").read_text())["trainable"] == ["heads"]


def test_the_frozen_extractor_runs_once_per_batch_for_all_heads(small):
    model, modes, items = train.transfer(small("drums"), ("bass", "vocals")).train(), set(), []
    for part in (model.band_split, model.band_sequence):
        part.register_forward_hook(lambda part, _, output: modes.add((part.training, output.requires_grad)))
    model.band_sequence.register_forward_hook(lambda part, _, output: items.append(output.shape[2]))  # (T, K, B, N)
    batch = (torch.randn(2, 1, 1_600), torch.randn(2, 2, 1, 1_600))
    train.TrainingModule(model, TrainingConfig()).training_step(batch, 0).backward()
    assert modes == {(False, False)}
    assert sum(items) == 2
    assert all(parameter.grad is not None for parameter in model.heads.parameters())


def test_heads_transferred_together_equal_each_transferred_alone(small, songs, tmp_path):
    # clipped, so that its scope matters; of very different levels, so that a target may exceed the mixture
    config = TrainingConfig(**QUICK | {"max_epochs": 1}, clip_grad_norm=0.05, gain_db=30.0)
    both = train.transfer(small("drums"), ("bass", "vocals"))
    heads = state(both)
    together = fit(both, songs, config, tmp_path / "both", device="cpu").model.state_dict()
    for source in ("bass", "vocals"):
        single = train.transfer(small("drums"), (source,))
        single.load_state_dict({name: heads[name] for name in single.state_dict()})
        alone = fit(single, songs, config, tmp_path / source, device="cpu").model.state_dict()
        for name, value in part(alone, "heads").items():
            torch.testing.assert_close(together[name], value, rtol=0, atol=1e-6)


# resumption


def test_an_interrupted_run_ends_as_if_it_had_not_been(small, songs, tmp_path, steps, capsys):
    config = TrainingConfig(**QUICK | {"max_epochs": 3}, lr_decay=0.5)
    straight = fit(small("drums"), songs, config, tmp_path / "straight", device="cpu")
    steps.stop_at = 15 + 8  # the middle of the second epoch of the next run
    with pytest.raises(RuntimeError, match="power cut"):
        fit(small("drums"), songs, config, tmp_path / "broken", device="cpu")
    assert not (tmp_path / "broken" / "record.json").exists()
    capsys.readouterr()
    resumed = fit(small("drums"), songs, config, tmp_path / "broken", device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "going on after epoch 1"
    assert [line[:11] for line in lines[1:]] == ["epoch   2 o", "epoch   3 o"]
    assert steps.count == 15 + 8 + 10  # the first epoch is not done again
    assert same(resumed.model.state_dict(), straight.model.state_dict())
    assert resumed.history == straight.history
    last = [torch.load(tmp_path / run / "last.ckpt", weights_only=True) for run in ("straight", "broken")]
    assert same(last[0]["state_dict"], last[1]["state_dict"])
    last.append(torch.load(tmp_path / "broken" / "previous.ckpt", weights_only=True))
    _, after, before = (content["callbacks"]["Timer"]["time_elapsed"]["train"] for content in last)
    took = json.loads((tmp_path / "broken" / "record.json").read_text())["seconds"]
    assert 0 < before < after < took + 0.1  # of all its processes


def test_an_epoch_without_progress_is_not_done_again(small, songs, tmp_path, steps):
    config = TrainingConfig(**QUICK | {"max_epochs": 3}, lr=STUCK)
    steps.stop_at = 13  # in the third epoch, of five steps
    with pytest.raises(RuntimeError, match="power cut"):
        fit(small("drums"), songs, config, tmp_path / "run", device="cpu")
    assert len(torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["history"]) == 2
    history = fit(small("drums"), songs, config, tmp_path / "run", device="cpu").history
    assert steps.count == 13 + 5
    assert [row["epoch"] for row in history] == [0, 1, 2]


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "killed before its record"])
@pytest.mark.parametrize(
    "limit",
    [{}, {"lr": STUCK}, {"max_epochs": 5, "patience": 1, "lr": STUCK}],
    ids=["epochs", "no progress", "patience"],
)
def test_a_finished_run_trains_nothing_more(small, songs, tmp_path, steps, limit, recorded):
    config = TrainingConfig(**QUICK | limit)
    first = fit(small("drums"), songs, config, tmp_path / "run", device="cpu")
    assert len(first.history) == 2  # with patience: the first epoch, and one without progress
    if not recorded:
        (tmp_path / "run" / "record.json").unlink()
    steps.count = 0
    again = fit(small("drums"), songs, config, tmp_path / "run", device="cpu")
    assert steps.count == 0
    assert same(again.model.state_dict(), first.model.state_dict())
    assert again.history == first.history
    assert (tmp_path / "run" / "record.json").is_file()


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("training.lr: 0.001, now 0.002", {"config": TrainingConfig(**QUICK, lr=2e-3)}),
        ("seed: 0, now 1", {"seed": 1}),
        ("extractor: None, now [0-9a-f]+", {"frozen": True}),
        ("model.sources: .'drums'., now .'bass'.", {"sources": ("bass",)}),
        ("experiment: base, now other", {"experiment": "other"}),
        ("data: [0-9a-f]+, now [0-9a-f]+", {"shorter": True}),
    ],
)
def test_another_run_in_the_same_folder_is_refused(small, songs, tmp_path, steps, what, change):
    settings = {"sources": ("drums",), "config": TrainingConfig(**QUICK), "seed": 0, "experiment": "base"}
    steps.stop_at = 1

    def run(sources, config, frozen=False, shorter=False, **details):
        model = small(*sources).freeze_extractor() if frozen else small(*sources)
        if shorter:
            (songs / "test" / "song 1" / "drums.wav").unlink()
        fit(model, songs, config, tmp_path / "run", device="cpu", **details)

    with pytest.raises(RuntimeError, match="power cut"):
        run(**settings)
    before = (tmp_path / "run" / "settings.json").read_bytes()
    with pytest.raises(ValueError, match=rf"other settings \({what}\)") as error:
        run(**settings | change)
    assert "\n" not in str(error.value)
    assert (tmp_path / "run" / "settings.json").read_bytes() == before


def test_another_base_of_equal_sizes_is_another_run(small, songs, tmp_path):
    base, other = small("drums"), small("drums")
    other.band_sequence.time[0].linear.bias.data += 0.1
    fit(train.transfer(base, ("bass",)), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match=r"other settings \(extractor: [0-9a-f]+, now [0-9a-f]+\)"):
        fit(train.transfer(other, ("bass",)), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")


def test_other_weights_to_begin_with_are_another_run(small, songs, tmp_path):
    def run(**details):
        fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu", **details)

    run(init="one")
    for other in ("two", None):
        with pytest.raises(ValueError, match=rf"other settings \(init: one, now {other}\)"):
            run(init=other)
    note = tmp_path / "run" / "settings.json"
    note.write_text(json.dumps({name: value for name, value in json.loads(note.read_text()).items() if name != "init"}))
    run(init="two")  # which a run of earlier did not note


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_one_line_with_the_folder(small, songs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    told = f"^{tmp_path / 'run'}: cannot be written to [(]No space left on device[)]: make room, or set BSRNN_ROOT"
    with pytest.raises(OSError, match=told):
        fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")


def test_a_run_that_another_process_trains_is_refused(small, songs, tmp_path):
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"), pytest.raises(ValueError, match="is being trained by another process"):
        fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")
    fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")


def test_a_training_prints_a_line_per_epoch_and_leaves_the_process_as_it_was(small, songs, tmp_path, capsys):
    def state():
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        level = logging.getLogger("lightning.pytorch").level
        threads = torch.get_num_threads(), threading.excepthook
        return handlers, level, list(warnings.filters), threads, torch.is_grad_enabled()

    assert not sys.stdout.isatty()
    before = state()
    fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")
    assert state() == before
    out, err = capsys.readouterr()
    assert [line.split("loss")[0].split() for line in out.splitlines()] == [["epoch", i, "of", "2"] for i in "12"]
    assert err == ""


def test_a_checkout_that_is_not_installed_has_a_record(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(importlib.metadata, "distributions", lambda name: [])
        importlib.reload(train.bsrnn)
    recorded = train.provenance(torch.device("cpu"))["code"]
    importlib.reload(train.bsrnn)
    assert recorded is None and train.bsrnn.__version__


def test_an_interrupt_by_the_user_reaches_the_caller(small, songs, tmp_path, steps):
    steps.stop_at, steps.error = 3, KeyboardInterrupt()
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")
    assert signal.getsignal(signal.SIGINT) is handler


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_hostile_checkpoint_runs_nothing(tmp_path, capsys):
    torch.save({"history": [{}]}, tmp_path / "previous.ckpt")
    torch.save({"history": [Hostile(tmp_path / "made")]}, tmp_path / "last.ckpt")
    assert train.last_checkpoint(tmp_path) == (tmp_path / "previous.ckpt", 1)
    assert f"{tmp_path / 'last.ckpt'} is damaged and left aside" in capsys.readouterr().out
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    torch.save({"history": [{}]}, tmp_path / "last.ckpt")

    def refuse(file, **_):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError):
        train.last_checkpoint(tmp_path)


def test_a_damaged_checkpoint_is_left_aside(small, songs, tmp_path, steps, capsys):
    config = TrainingConfig(**QUICK | {"max_epochs": 3})
    straight = fit(small("drums"), songs, config, tmp_path / "straight", device="cpu")
    steps.stop_at = 15 + 13  # in the third epoch
    with pytest.raises(RuntimeError, match="power cut"):
        fit(small("drums"), songs, config, tmp_path / "broken", device="cpu")
    last = tmp_path / "broken" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-500])
    capsys.readouterr()
    resumed = fit(small("drums"), songs, config, tmp_path / "broken", device="cpu")
    assert steps.count == 15 + 13 + 10  # from the checkpoint before, after the first epoch
    assert f"{last} is damaged and left aside" in capsys.readouterr().out
    assert same(resumed.model.state_dict(), straight.model.state_dict())
    assert resumed.history == straight.history


# what is learned


def test_overfits_one_batch(tiny):
    model = tiny(("bass", "drums"), sample_rate=8_000, chunk=0.5, feature_dim=16, hidden_dim=16, mlp_dim=32).train()
    time = torch.arange(4_000) / 8_000
    bass = torch.stack([torch.sin(2 * torch.pi * pitch * time) for pitch in (110, 165)])[:, None]
    drums = torch.randn(2, 1, 4_000) * torch.exp(-30 * (time % 0.125))
    targets = 0.3 * torch.stack([bass, drums], 1)  # (B, S, 1, L)
    batch = (targets.sum(1), targets)
    module = train.TrainingModule(model, TrainingConfig())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(200):
        optimizer.zero_grad()
        module.training_step(batch, step).backward()
        optimizer.step()
    estimates = estimate(model.eval(), batch[0])
    assert float(torch.stack([usdr(*pair) for pair in zip(targets, estimates, strict=True)]).mean()) > 15


def test_the_gradient_of_several_tasks_is_the_sum_of_theirs(small):
    both = small("drums", "bass").train()
    batch = (torch.randn(2, 1, 1_600), torch.randn(2, 2, 1, 1_600))
    train.TrainingModule(both, TrainingConfig()).training_step(batch, 0).backward()
    expected = {}
    for number, source in enumerate(both.config.sources):
        single = small(source).train()
        weights = both.state_dict()
        single.load_state_dict({name: weights[name] for name in single.state_dict()})
        one_of_them = (batch[0], batch[1][:, number : number + 1])
        train.TrainingModule(single, TrainingConfig()).training_step(one_of_them, 0).backward()
        for name, parameter in single.named_parameters():
            expected[name] = expected.get(name, 0) + parameter.grad
    for name, parameter in both.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_accumulated_batches_are_one_step_of_a_large_one(small, songs, tmp_path):
    large = fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "large", device="cpu")
    parts = TrainingConfig(**QUICK | {"batch_size": 2, "accumulate": 2, "epoch_size": 20})
    small_ones = fit(small("drums"), songs, parts, tmp_path / "parts", device="cpu")
    assert [row["step"] for row in small_ones.history] == [row["step"] for row in large.history] == [5, 10]
    for name, value in large.model.state_dict().items():
        torch.testing.assert_close(small_ones.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)


# graphs


@pytest.fixture(params=["stand-in", "card"])
def graphs(request, monkeypatch):
    """Trainings take graphs, those of a card or the stand-in: the device's name, and a list of those that were made."""
    made, device = [], "cuda" if request.param == "card" else "cpu"
    if device == "cpu":
        monkeypatch.setattr(train, "has_graphs", lambda device: True)
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    elif not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(train, "Graphed", lambda *args: made.append(devices.Graphed(*args)) or made[-1])
    return device, made


@pytest.mark.parametrize("frozen", [False, True], ids=["all", "heads"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"ema": 0.9, "clip_grad_norm": 0.1}, {"batch_size": 2, "accumulate": 2, "epoch_size": 20}, {"epoch_size": 18}],
    ids=["plain", "average", "accumulated", "a batch that is not full"],
)
def test_graphs_train_as_the_network_does(small, songs, tmp_path, monkeypatch, graphs, changes, frozen):
    device, made = graphs
    config = TrainingConfig(**QUICK | changes)

    def trained(name):
        model = small("drums", "bass")
        model = train.transfer(model, ("bass", "vocals")) if frozen else model
        return fit(model, songs, config, tmp_path / name, device=device)

    with_graphs = trained("graphs")
    monkeypatch.setattr(train, "has_graphs", lambda device: False)
    without = trained("none")
    assert [graph.replays for graph in made] == [without.history[-1]["step"] * config.accumulate]
    for ours, plain in zip(with_graphs.history, without.history, strict=True):
        assert ours == pytest.approx(plain, rel=1e-3, abs=2e-3)
    for name, value in without.model.state_dict().items():
        torch.testing.assert_close(with_graphs.model.state_dict()[name], value, rtol=1e-2, atol=2e-3)


def test_a_training_with_graphs_is_resumed(small, songs, tmp_path, steps, graphs):
    device, made = graphs
    config = TrainingConfig(**QUICK | {"ema": 0.5})
    straight = fit(small("drums"), songs, config, tmp_path / "straight", device=device)
    steps.stop_at = 10 + 8
    with pytest.raises(RuntimeError, match="power cut"):
        fit(small("drums"), songs, config, tmp_path / "broken", device=device)
    resumed = fit(small("drums"), songs, config, tmp_path / "broken", device=device)
    assert [graph.replays for graph in made] == [10, 7, 5]
    for name, value in straight.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_two_processes_with_graphs_have_the_gradients_of_one(small, tmp_path, graphs):
    model = small("drums", "bass")
    batches = [(0.1 * torch.randn(4, 1, 1_600), 0.1 * torch.randn(4, 2, 1, 1_600)) for _ in range(3)]
    args = (str(tmp_path / "meeting"), graphs[0], model, batches, str(tmp_path / "gradients.pt"))
    torch.multiprocessing.spawn(take_part, args, nprocs=2)
    module = train.TrainingModule(model.train(), TrainingConfig())
    module.training_step(batches[-1], 0).backward()
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)


def _out_of_reach(network, samples):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def _wrong(network, samples):
    network.forward = partial(lambda forward, x: 1.1 * forward(x), network.forward)


@pytest.mark.parametrize(
    ("capture", "problem"),
    [(_out_of_reach, "operation not permitted when stream is capturing"), (_wrong, "it does not compute what")],
)
def test_without_a_graph_the_network_trains_as_it_is(small, songs, tmp_path, monkeypatch, capsys, capture, problem):
    plain = fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "plain", device="cpu")
    monkeypatch.setattr(train, "has_graphs", lambda device: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    capsys.readouterr()
    other = fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "other", device="cpu")
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"training without a CUDA graph, which takes longer: {problem}") and len(told) == 3
    assert same(other.model.state_dict(), plain.model.state_dict())


def test_a_graph_is_for_inputs_of_its_shape(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed_callables)
    model = small("drums").train()
    short, long = (torch.randn(2, 1, 257, frames, dtype=torch.complex64) for frames in (9, 12))
    graphed = devices.Graphed(model, short, False)
    for x, replays in ((short, 1), (long, 1), (short[:1], 1), (short, 2)):
        torch.testing.assert_close(graphed(x), model(x))
        assert graphed.replays == replays
    assert "forward" not in vars(model)


# the moving average, and what goes wrong


def test_the_moving_average_is_what_is_validated_and_kept(small, songs, tmp_path, monkeypatch):
    weights = []
    original = train.TrainingModule.optimizer_step

    def optimizer_step(module, *args, **kwargs):
        original(module, *args, **kwargs)
        weights.append(module.model.heads.drums.mask_bias.detach().clone())

    monkeypatch.setattr(train.TrainingModule, "optimizer_step", optimizer_step)
    config = TrainingConfig(**QUICK | {"max_epochs": 1}, ema=0.5)
    kept = fit(small("drums"), songs, config, tmp_path / "run", device="cpu").model
    average = weights[0]
    for value in weights[1:]:
        average = 0.5 * average + 0.5 * value
    torch.testing.assert_close(kept.heads.drums.mask_bias.detach(), average)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_checkpoint_of_training_is_a_model(small, songs, tmp_path, ema):
    config = TrainingConfig(**QUICK | {"max_epochs": 1}, ema=ema)
    kept = fit(small("drums"), songs, config, tmp_path / "run", device="cpu").model
    loaded = checkpoint.load(tmp_path / "run" / "last.ckpt")
    assert loaded.config == kept.config
    assert same(loaded.state_dict(), kept.state_dict())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_the_songs_and_the_last_checkpoint(small, songs, tmp_path, monkeypatch, what):
    original = train.TrainingModule.training_step

    def training_step(module, batch, number):
        loss = original(module, batch, number)
        if module.global_step < 7:
            return loss
        return loss * torch.nan if what == "loss" else loss + 1e30 * loss**9 * 1e30

    monkeypatch.setattr(train.TrainingModule, "training_step", training_step)
    config = TrainingConfig(1, max_epochs=2, epoch_size=5)
    with pytest.raises(FloatingPointError) as error:
        fit(small("drums"), songs, config, tmp_path / "run", device="cpu")
    mixes = Mixes(find_tracks(songs, "train"), small("drums").config, config, seed=0)
    drawn = [", ".join(mixes.songs(index)) for index in (6, 7, 8)]
    assert len(set(drawn)) == 3
    assert str(error.value) == (
        f"loss or gradient is not finite in step 8; songs: {drawn[1]}; "
        f"last good checkpoint: {tmp_path / 'run' / 'last.ckpt'}"
    )
    assert checkpoint.load(tmp_path / "run" / "model")


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_model_that_is_not_finite_in_validation_is_not_kept(small, songs, tmp_path, monkeypatch, epoch):
    original = train.TrainingModule.optimizer_step

    def optimizer_step(module, *args, **kwargs):
        original(module, *args, **kwargs)
        if module.global_step == 5 * epoch + 4:  # counted after it; the last of an epoch: no gradient sees it
            module.model.heads.drums.mask_bias.data.fill_(torch.nan)

    monkeypatch.setattr(train.TrainingModule, "optimizer_step", optimizer_step)
    folder = tmp_path / "run"
    with pytest.raises(FloatingPointError) as error:
        fit(small("drums"), songs, TrainingConfig(**QUICK), folder, device="cpu")
    last = folder / "last.ckpt" if epoch else "none"
    assert str(error.value) == (
        f"validation loss is not finite after step {5 * (epoch + 1)}; songs: song 0, song 6; "
        f"last good checkpoint: {last}"
    )
    assert train.last_checkpoint(folder)[1] == epoch
    assert not (folder / "record.json").exists()
    assert (folder / "model").exists() == bool(epoch)
    if epoch:
        weights = state(checkpoint.load(folder / "model"))
        assert all(value.isfinite().all() for value in weights.values())


# what is refused


BAD = """batch_size=0 accumulate=0 ema=1.0 epoch_size=-1 aligned=1.5 max_epochs=0 lr=0.0 lr=NaN lr="1e-4" lr_decay=-1.0
    clip_grad_norm=0.0 patience=0 gain_db=-1.0 gain_db=NaN validation_seconds=-1.0 pitch=-1.0 drop=1.0 drop=-0.1
    batch_size=4097 portion=0.0 portion=1.1 workers=-2 segment=0.0"""


@pytest.mark.parametrize("setting", BAD.split())
def test_training_config_out_of_range(setting):
    name, value = setting.split("=")
    with pytest.raises(ValueError, match=name) as error:
        TrainingConfig(**{name: json.loads(value)})
    assert str(json.loads(value)) in str(error.value)


@pytest.mark.parametrize(
    ("device", "told"), [("cuda:99", "not available here: choose auto or cpu"), ("cpu", "this CPU has no bfloat16")]
)
def test_a_device_without_what_is_asked_leaves_no_folder(small, songs, tmp_path, monkeypatch, device, told):
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    with pytest.raises(ValueError, match=told):
        fit(small("drums"), songs, TrainingConfig(**QUICK, bf16=device == "cpu"), tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_trains_in_bf16(small, songs, tmp_path, bf16):
    exact = fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "fp32", device="cpu").history
    rounded = fit(small("drums"), songs, TrainingConfig(**QUICK, bf16=True), tmp_path / "bf16", device="cpu").history
    assert rounded != exact
    losses = ([row["train_loss"] for row in history] for history in (rounded, exact))
    assert next(losses) == pytest.approx(next(losses), rel=0.02)


def test_bad_data_leaves_no_folder(small, songs, tmp_path):
    (songs / "train" / "song 6" / "vocals.wav").write_text("text")  # a validation song
    with pytest.raises(ValueError, match=r"song 6.vocals\.wav: cannot be read"):
        fit(small("drums"), songs, TrainingConfig(**QUICK), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_problems_of_both_splits_and_all_stages_are_lines_of_one_error(small, songs, tmp_path):
    nan, silent = np.full((16_000, 2), np.nan), np.zeros((16_000, 2))
    soundfile.write(songs / "train" / "song 6" / "mixture.wav", nan, 8_000, subtype="FLOAT")  # a validation song
    soundfile.write(songs / "train" / "song 2" / "bass.wav", nan, 8_000, subtype="FLOAT")
    for number in range(8):
        soundfile.write(songs / "train" / f"song {number}" / "vocals.wav", silent, 8_000, subtype="FLOAT")
    (songs / "train" / "song 0" / "other.wav").write_text("text")
    (songs / "train" / "song 1" / "drums.wav").write_text("text")
    with pytest.raises(ValueError) as error:
        fit(small("drums", "vocals"), songs, TrainingConfig(), tmp_path / "run", device="cpu")
    place = f"{songs / 'train'}{os.sep}"
    assert [line.removeprefix(place).replace(os.sep, "/") for line in str(error.value).splitlines()] == [
        "song 1/drums.wav: cannot be read as audio (Invalid data found when processing input)",
        "song 0/other.wav: cannot be read as audio (Invalid data found when processing input)",
        "song 2/bass.wav: holds samples that are not finite, the first at 0.000 s",
        "vocals is silent in all 5 songs: nothing to learn",
        "song 6/mixture.wav: holds samples that are not finite, the first at 0.000 s",
        "vocals is silent in all that validates: nothing to score",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_while_training_is_one_line(small, songs, tmp_path, monkeypatch, workers):
    original = train._train

    def without_files(*arguments):
        for file in songs.glob("train/*/drums.wav"):
            file.unlink()
        return original(*arguments)

    monkeypatch.setattr(train, "_train", without_files)
    with pytest.raises(ValueError, match=r"^[^\n]*song \d.drums\.wav: cannot be read after \d\.\d s \(.*\)$"):
        fit(small("drums"), songs, TrainingConfig(**QUICK, workers=workers), tmp_path / "run", device="cpu")
