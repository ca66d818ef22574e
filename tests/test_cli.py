import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import yaml
from options import MODEL_OPTIONS

from bsrnn import checkpoint, cli
from bsrnn.config import CONFIGS, Config, TrainingConfig
from bsrnn.data import STEMS
from bsrnn.evaluate import COLUMNS as SCORE_COLUMNS

RATE = 8_000
SIZES = [*MODEL_OPTIONS, "--batch_size", "2", "--max_epochs", "1"]
PAPER_OPTIONS = """
    --sample_rate --generic_bands --chunk_size_in_seconds --n_fft --feature_dim --num_blstm_layers --mlp_dim
    --batch_size --reduce_size --part --portion --clip_grad_norm --max_epochs --lr --loss --data_loader_workers
    --musdbhq_location --checkpoint_fp --name
"""
EXTRA_OPTIONS = """
    --schema --hidden_dim --config --accumulate --ema --epoch_size --aligned --target_songs --equal_levels --salient
    --segment --gain_db --drop --peak_division --pitch --lr_decay --patience --validation_seconds --bf16 --transfer
    --device --seed --mlp_layers --bin_convention --standardize --eps --padding --tac --attention_heads
    --attention_dim --fader --init
"""
OPTIONS = {
    "": "--device --seed",
    "train": PAPER_OPTIONS + EXTRA_OPTIONS,
    "infer": """
        --checkpoint_fp --input --out --sources --residual --format --loudness --hop --skip-existing --fp32 --device
    """,
    "evaluate": """
        --checkpoint_fp --estimates --musdbhq_location --split --out --bsseval --museval --save-audio --hop --bf16
        --device --sample_rate --n_fft
    """,
    "info": "",
    "models": "",
    "import": "--config",
    "demo-data": "",
}
BASELINES = {"mixture", "silence", "IRM", "STFT"}


def write(file, samples, channels=2, rate=RATE):
    noise = np.random.default_rng(len(str(file))).normal(0, 0.1, (samples, channels))
    soundfile.write(file, noise, rate, subtype="FLOAT")


@pytest.fixture
def data(tmp_path):
    """Three training songs, the first of which validates, and a test song, of half a second."""
    for name in ("train/a", "train/b", "train/c", "test/t"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for stem in (*STEMS, "mixture"):
            write(tmp_path / "data" / name / f"{stem}.wav", RATE // 2)
    return tmp_path / "data"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Where runs are written; nothing is there."""
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path / "root"))
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def model(tiny, tmp_path):
    """A model folder."""
    checkpoint.save(tiny(("bass", "vocals"), sample_rate=RATE), tmp_path / "model")
    return tmp_path / "model"


def bsrnn(*arguments):
    return cli.main([str(argument) for argument in arguments])


def tree(folder):
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


# options


@pytest.mark.parametrize("command", OPTIONS)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        bsrnn(*command.split(), "--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: bsrnn {command}".rstrip())
    assert sorted(re.findall(r"^  (--[\w-]+)", text, re.MULTILINE)) == sorted(OPTIONS[command].split())
    if not command:
        assert re.findall(r"^    (\S+)  ", text, re.MULTILINE) == [name for name in OPTIONS if name]
    if command == "train":
        assert "(default: 44100)" in text and "(default: True)" in text


def test_info(model, tmp_path, capsys):
    assert bsrnn("info") == 0
    assert capsys.readouterr().out.split() == list(CONFIGS)
    assert bsrnn("info", "paper-bass") == 0
    assert "24,917,512" in capsys.readouterr().out
    assert bsrnn("info", "open") == 0
    assert "sources         drums, bass, other, vocals" in capsys.readouterr().out
    content = {"config": asdict(Config.read(model)), "state_dict": checkpoint.load(model).state_dict()}
    torch.save(content, tmp_path / "last.ckpt")
    for place in (model, model / "model.safetensors", tmp_path / "last.ckpt"):
        assert bsrnn("info", place) == 0
        assert "sources         bass, vocals" in capsys.readouterr().out
    assert bsrnn("info", "paper") == 2
    assert capsys.readouterr().err == f"bsrnn info: unknown model 'paper': choose from {', '.join(CONFIGS)}\n"


@pytest.mark.parametrize(("missing", "given"), [("--musdbhq_location", "--name"), ("--name", "--musdbhq_location")])
def test_where_the_data_is_and_a_name_are_required(missing, given, capsys):
    with pytest.raises(SystemExit) as stop:
        bsrnn("train", given, "demo")
    assert stop.value.code == 2
    assert f"the following arguments are required: {missing}" in capsys.readouterr().err


def trained(monkeypatch, data, *arguments):
    """The model and the configuration that `train` would train."""
    seen = []
    monkeypatch.setattr("bsrnn.train.fit", lambda model, dataset, config, folder, **rest: seen.append((model, config)))
    assert bsrnn("train", "--musdbhq_location", data, "--name", "a run", *arguments) == 0
    return seen[0]


def test_a_model_by_name(monkeypatch, data, root):
    assert trained(monkeypatch, data, "--config", "authors-drums")[0].config == CONFIGS["authors-drums"]
    model, config = trained(monkeypatch, data, "--config", "small", "--part", "bass", "--batch_size", 5, "--bf16")
    assert model.config == replace(CONFIGS["small"], sources=("bass",))
    assert config.bf16 and config.batch_size == 5


def test_options_reach_model_and_training(monkeypatch, data, root):
    options = """
        --part bass --part drums --portion 0.5 --clip_grad_norm 2 --lr 0.1 --data_loader_workers 3 --batch_size 7
        --max_epochs 9 --no-salient --no-peak_division --segment 4 --lr_decay 0.9 --patience 5 --pitch 2 --aligned 0.5
        --loss snr --validation_seconds 8 --accumulate 2 --epoch_size 50 --gain_db 3 --drop 0.2 --ema 0.9 --target_songs
        --equal_levels
    """
    model, config = trained(monkeypatch, data, *SIZES, *options.split())
    assert model.config == Config(("bass", "drums"), "generic-12-8", RATE, 512, 0.2, 4, 5, 1, 6)
    expected = """
        {batch_size: 7, accumulate: 2, max_epochs: 9, epoch_size: 50, lr: 0.1, lr_decay: 0.9, loss: snr,
        clip_grad_norm: 2, patience: 5, ema: 0.9, salient: false, segment: 4, aligned: 0.5, target_songs: true,
        equal_levels: true, gain_db: 3, drop: 0.2, peak_division: false, pitch: 2, portion: 0.5,
        validation_seconds: 8, workers: 3}
    """
    assert config == TrainingConfig(**yaml.safe_load(expected))
    assert [name for name, value in asdict(TrainingConfig()).items() if getattr(config, name) == value] == ["bf16"]


SMALL = "--feature_dim 4 --num_blstm_layers 1 --mlp_dim 4"
REDUCED = {"num_blstm_layers": 4, "mlp_dim": 64}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (SMALL, {"sources": STEMS, "schema": "generic", "sample_rate": 44_100, "n_fft": 2048, "chunk": 3.0}),
        (f"{SMALL} --generic_bands N", {"schema": "v7"}),
        (f"{SMALL} --generic_bands N --schema v3", {"schema": "v3"}),
        (SMALL, {"feature_dim": 4, "hidden_dim": 8}),
        ("--reduce_size --part bass", REDUCED | {"feature_dim": 32, "hidden_dim": 32, "sources": ("bass",)}),
        (
            "--reduce_size --feature_dim 8 --n_fft 512",
            REDUCED | {"feature_dim": 8, "hidden_dim": 16, "sources": STEMS, "n_fft": 512},
        ),
        (
            "--config small --schema v7 --chunk_size_in_seconds 1",
            {"schema": "v7", "chunk": 1, "feature_dim": 32, "sources": ("vocals", "bass", "drums", "other")},
        ),
    ],
)
def test_defaults(monkeypatch, data, root, arguments, expected):
    model, config = trained(monkeypatch, data, *arguments.split())
    assert {name: getattr(model.config, name) for name in expected} == expected
    assert config == TrainingConfig()


def test_seed_gives_the_initial_weights(monkeypatch, data, root):
    monkeypatch.setattr("bsrnn.train.fit", lambda model, *_, **rest: weights.append((model.state_dict(), rest["seed"])))
    weights = []
    for seed in (1, 1, 2):  # before the command, and after it
        bsrnn("--seed", seed, "train", "--musdbhq_location", data, "--name", "run", *SIZES)
        bsrnn("train", "--seed", seed, "--musdbhq_location", data, "--name", "run", *SIZES)
    same = [all(torch.equal(weights[0][0][name], other[name]) for name in other) for other, _ in weights]
    assert same == [True] * 4 + [False] * 2
    assert [seed for _, seed in weights] == [1, 1, 1, 1, 2, 2]


def test_a_random_seed_is_drawn_and_printed(monkeypatch, data, root, capsys):
    seeds = []
    monkeypatch.setattr("bsrnn.train.fit", lambda *_, seed, **rest: seeds.append(seed))
    for _ in range(2):
        bsrnn("--seed", -1, "train", "--musdbhq_location", data, "--name", "run", *SIZES)
    assert capsys.readouterr().out.splitlines()[::2] == [f"seed {seed}" for seed in seeds]
    assert seeds[0] != seeds[1]


# from songs to scores


def test_train_transfer_infer_evaluate(data, root, tmp_path, capsys):
    assert bsrnn("--seed", 4, "train", "--musdbhq_location", data, "--name", "base", "--part", "drums", *SIZES) == 0
    base = root / "runs" / "base" / "model"
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"model: {base}"
    assert err == ""
    assert json.loads((root / "runs" / "base" / "record.json").read_text())["seed"] == 4

    train = ["train", "--musdbhq_location", data, "--batch_size", 2, "--max_epochs", 1]
    transfer = ["--transfer", "--checkpoint_fp", base, "--part", "bass", "--part", "vocals"]
    assert bsrnn(*train, "--name", "moved", *transfer) == 0
    moved = root / "runs" / "moved" / "model"
    before, after = (checkpoint.load(folder) for folder in (base, moved))
    assert after.config.sources == ("bass", "vocals")
    assert after.config.feature_dim == 4
    for name in ("band_split", "band_sequence"):
        pairs = zip(getattr(before, name).parameters(), getattr(after, name).parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)

    write(tmp_path / "song.wav", 11_025, channels=1, rate=22_050)
    capsys.readouterr()
    assert bsrnn("infer", "--checkpoint_fp", moved, "--input", tmp_path / "song.wav", "--out", tmp_path / "s") == 0
    stems = [tmp_path / "s" / "song" / f"{source}.wav" for source in ("bass", "vocals")]
    assert sorted((tmp_path / "s" / "song").iterdir()) == stems
    assert capsys.readouterr().out.split() == [str(stem) for stem in stems]
    for stem in stems:
        info = soundfile.info(stem)
        assert (info.frames, info.samplerate, info.channels) == (11_025, 22_050, 1)

    table = tmp_path / "tables" / "scores.csv"
    models = ["--checkpoint_fp", base, "--checkpoint_fp", moved]
    assert bsrnn("evaluate", *models, "--musdbhq_location", data, "--out", table) == 0
    scores = pd.read_csv(table)
    assert tuple(scores.columns) == SCORE_COLUMNS
    assert scores.groupby("run")["source"].unique().map(list).to_dict() == {
        "base": ["drums"],
        "moved": ["bass", "vocals"],
        **{name: list(STEMS) for name in BASELINES},
    }
    assert set(scores["track"]) == {"t"}
    assert sorted(path.name for path in table.parent.glob("[!.]*")) == ["scores.csv", "scores.settings.json"]


@pytest.mark.parametrize(("split", "tracks"), [("train", {"b", "c"}), ("validation", {"a"}), ("test", {"t"})])
def test_evaluate_without_a_model_scores_baselines(data, root, tmp_path, capsys, split, tracks):
    assert bsrnn("evaluate", "--musdbhq_location", data, "--split", split, "--out", tmp_path / "a.csv") == 0
    scores = pd.read_csv(tmp_path / "a.csv")
    assert set(scores["run"]) == BASELINES
    assert set(scores["source"]) == set(STEMS)
    assert set(scores["track"]) == tracks
    printed = capsys.readouterr().out
    assert all(name in printed for name in BASELINES)
    assert all(metric in printed for metric in set(scores["metric"]))


def test_options_of_evaluate_reach_it(data, model, root, tmp_path, monkeypatch, bf16):
    from bsrnn import evaluate

    calls, before = [], evaluate.score

    def score(runs, tracks, **rest):
        calls.append((runs, rest))
        return before(runs, tracks, **rest | {"with_bsseval": False, "museval_folder": None})

    monkeypatch.setattr(evaluate, "score", score)
    common = ["evaluate", "--musdbhq_location", data, "--split", "validation"]
    settings = ["--hop", 0.05, "--bf16", "--sample_rate", 4000, "--n_fft", 256]
    outputs = ["--out", tmp_path / "a.csv", "--museval", tmp_path / "json", "--save-audio", tmp_path / "audio"]
    assert bsrnn(*common, "--checkpoint_fp", model, "--bsseval", *settings, *outputs) == 0
    ((runs, rest),) = calls
    assert {name: runs[0].settings[name] for name in ("hop", "bf16")} == {"hop": 0.05, "bf16": True}
    assert runs[-1].settings == {"sample_rate": 4_000, "n_fft": 256}
    assert (rest["split"], rest["with_bsseval"], rest["museval_folder"]) == ("validation", True, tmp_path / "json")
    estimates = tmp_path / "audio" / runs[0].name
    assert {path.name for path in (estimates / "a").iterdir()} == {"bass.wav", "vocals.wav"}
    assert bsrnn(*common, "--estimates", estimates, "--out", tmp_path / "b.csv") == 0
    tables = (pd.read_csv(tmp_path / name) for name in ("a.csv", "b.csv"))
    one, other = (table[table["run"] == estimates.name]["value"].to_list() for table in tables)
    assert one == other and len(one) == 6


def test_a_run_that_was_interrupted_is_resumed(data, root, monkeypatch, capsys):
    from bsrnn import train

    arguments = ["train", "--musdbhq_location", data, "--name", "run", "--part", "drums", *SIZES]
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:

        def interrupt(*_):
            raise KeyboardInterrupt

        patch.setattr(train.TrainingModule, "training_step", interrupt)
        try:
            code = bsrnn(*arguments)
        finally:
            signal.signal(signal.SIGINT, handler)
    assert code == 130
    assert capsys.readouterr().err == "bsrnn train: interrupted\n"
    assert not (root / "runs" / "run" / "model").exists()
    assert bsrnn(*arguments) == 0
    assert (root / "runs" / "run" / "model").is_dir()
    weights = (root / "runs" / "run" / "model" / "model.safetensors").read_bytes()
    assert bsrnn(*arguments) == 0  # which has nothing left to do
    assert (root / "runs" / "run" / "model" / "model.safetensors").read_bytes() == weights


# what is refused: exit code, one line that says why, nothing written

SONG = "train/b"  # trained on, neither in validation nor in test


def edit_config(model, **change):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | change))


def occupy(folder):
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{}")


def rename_head(model):
    checkpoint.save(checkpoint.load(model).with_heads(["guitar"]), model)


def nothing(places):
    """Spoils nothing: the arguments are at fault."""


def no_stems(folder):
    for stem in STEMS:
        (folder / f"{stem}.wav").unlink()


def no_songs(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def separated(places):
    (places["tmp"] / "other" / "t").mkdir(parents=True)
    write(places["tmp"] / "other" / "t" / "bass.wav", RATE // 2 - 10)


def constant(file, value, samples=RATE // 2):
    soundfile.write(file, np.full((samples, 2), float(value)), RATE, subtype="FLOAT")


TRAIN = ["train", "--musdbhq_location", "{data}", "--name", "run", *SIZES]
INFER = ["infer", "--checkpoint_fp", "{model}", "--input", "{data}/test/t/mixture.wav", "--out", "{tmp}/out"]
EVALUATE = ["evaluate", "--checkpoint_fp", "{model}", "--musdbhq_location", "{data}", "--out", "{tmp}/scores.csv"]
TRANSFER = [*TRAIN[: -len(SIZES)], "--transfer", "--checkpoint_fp", "{model}"]
INIT = [*TRAIN[: -len(SIZES)], "--init", "{model}"]
LARGE = "--feature_dim 8192 --hidden_dim 8192 --num_blstm_layers 100".split()
BAD_INPUT = {
    "train, missing data": (TRAIN, lambda p: shutil.rmtree(p["data"]), "no such file or folder"),
    "evaluate, missing data": (EVALUATE, lambda p: shutil.rmtree(p["data"]), "no such file or folder"),
    "train, data without train": (TRAIN, lambda p: shutil.rmtree(p["data"] / "train"), "has no train"),
    "train, data without test": (TRAIN, lambda p: shutil.rmtree(p["data"] / "test"), "has no test"),
    "evaluate, data without both": (EVALUATE, lambda p: no_songs(p["data"]), "has no train and no test"),
    "train, no songs": (TRAIN, lambda p: no_songs(p["data"] / "train"), "no songs for train"),
    "train, stems lacking": (TRAIN, lambda p: no_stems(p["data"] / SONG), "has no stems"),
    "train, validation stems lacking": (TRAIN, lambda p: no_stems(p["data"] / "train/a"), "has no stems"),
    "evaluate, stems lacking": (EVALUATE, lambda p: no_stems(p["data"] / "test/t"), "has no stems"),
    "train, stems.yaml is none": (TRAIN, lambda p: (p["data"] / "stems.yaml").write_text("drums"), "should map each"),
    "train, not a number": (TRAIN, lambda p: constant(p["data"] / SONG / "bass.wav", np.nan), "not finite"),
    "train, unreadable": (TRAIN, lambda p: (p["data"] / SONG / "other.wav").write_text("text"), "cannot be read"),
    "evaluate, unreadable": (EVALUATE, lambda p: (p["data"] / "test/t/bass.wav").write_text("text"), "cannot be read"),
    "train, empty audio": (TRAIN, lambda p: constant(p["data"] / SONG / "bass.wav", 0, 0), "holds no samples"),
    "infer, unknown source": ([*INFER, "--sources", "guitar"], nothing, "no model estimates 'guitar'"),
    "infer, hop": ([*INFER, "--hop", "0"], nothing, "hop must be above 0"),
    "infer, one source by two models": ([*INFER, "--checkpoint_fp", "{model}"], nothing, "several models estimate"),
    "train, lengths differ": (TRAIN, lambda p: write(p["data"] / SONG / "bass.wav", 100), "differ in length"),
    "train, rates differ": (TRAIN, lambda p: write(p["data"] / SONG / "bass.wav", RATE // 2, 2, 100), "sample rate"),
    "train, silent source": (
        [*TRAIN, "--part", "bass"],
        lambda p: [constant(p["data"] / f"train/{song}/bass.wav", 0) for song in "bc"],
        "bass is silent in all",
    ),
    "train, unknown schema": ([*TRAIN, "--schema", "v8"], nothing, "unknown band schema"),
    "train, unknown source": ([*TRAIN, "--part", "guitar"], nothing, "unknown source 'guitar'"),
    "train, source twice": ([*TRAIN, "--part", "bass", "--part", "bass"], nothing, "different names"),
    "transfer, unknown source": ([*TRANSFER, "--part", "guitar"], nothing, "unknown source 'guitar'"),
    "train, odd n_fft": ([*TRAIN, "--n_fft", "513"], nothing, "n_fft"),
    "train, no hidden units": ([*TRAIN, "--hidden_dim", "0"], nothing, "hidden_dim must be at least 1"),
    "train, a wide model": ([*TRAIN, "--hidden_dim", str(2**18)], nothing, "at least 1 and at most 8192, not 262144"),
    "train, an endless rate": ([*TRAIN, "--lr", "inf"], nothing, "lr must be at least 1e-30 and at most 10, not inf"),
    "train, an endless segment": ([*TRAIN, "--segment", "inf"], nothing, "segment must be at least 0.1 and at most"),
    "train, a tiny segment": ([*TRAIN, "--segment", "1e-9"], nothing, "segment must be at least 0.1 and at most"),
    "train, a huge pitch": ([*TRAIN, "--pitch", "100000"], nothing, "pitch must be at least 0 and at most 24"),
    "train, a huge chunk": ([*TRAIN, "--chunk_size_in_seconds", "20000"], nothing, "chunk must be at least 0 and at"),
    "train, a huge seed": ([*TRAIN, "--seed", "1099511627776"], nothing, "--seed must be at least 0 and at most"),
    "train, an empty name": ([*TRAIN, "--name", ""], nothing, "--name '' must be a plain name"),
    "train, the folder above": ([*TRAIN, "--name", ".."], nothing, "--name '..' must be a plain name"),
    "train, a name of two lines": ([*TRAIN, "--name", "a\nb"], nothing, "--name 'a\\nb' must be a plain name"),
    "train, a name that ends": ([*TRAIN, "--name", "a\0b"], nothing, "must be a plain name"),
    "train, a long name": ([*TRAIN, "--name", 201 * "a"], nothing, "must be a plain name of at most 200 letters"),
    "train, no data": ([*TRAIN, "--musdbhq_location", ""], nothing, "'' is no path"),
    "infer, no input": ([*INFER, "--input", ""], nothing, "'' is no path"),
    "infer, no song": (["infer", ""], nothing, "'' is no path"),
    "infer, no folder": ([*INFER, "--out", ""], nothing, "'' is no path"),
    "evaluate, no table": ([*EVALUATE, "--out", ""], nothing, "'' is no path"),
    "train, all of it large": ([*TRAIN, *LARGE], nothing, "a model has at most 2,000,000,000 parameters"),
    "train, a model beyond all bounds": ([*TRAIN, "--num_blstm_layers", "1000000000"], nothing, "at most 100"),
    "infer, a model beyond all bounds": (INFER, lambda p: edit_config(p["model"], num_blstm_layers=10**9), "at most"),
    "infer, sources without names": (INFER, lambda p: edit_config(p["model"], sources=[None]), "different names"),
    "train, no epoch": ([*TRAIN, "--max_epochs", "0"], nothing, "max_epochs"),
    "train, name elsewhere": ([*TRAIN, "--name", "../elsewhere"], nothing, "must be a plain name"),
    "train, portion": ([*TRAIN, "--portion", "2"], nothing, "portion"),
    "train, negative workers": ([*TRAIN, "--data_loader_workers", "-2"], nothing, "workers"),
    "train, endless chunk": ([*TRAIN, "--chunk_size_in_seconds", "inf"], nothing, "chunk"),
    "train, negative seed": (["--seed", "-2", *TRAIN], nothing, "-2"),
    "infer, another architecture": (INFER, lambda p: edit_config(p["model"], feature_dim=8), "another architecture"),
    "infer, unknown configuration": (INFER, lambda p: edit_config(p["model"], layers=8), "another architecture"),
    "infer, configuration of wrong type": (INFER, lambda p: edit_config(p["model"], n_fft="512"), "config.json"),
    "evaluate, another architecture": (EVALUATE, lambda p: edit_config(p["model"], mlp_dim=8), "another architecture"),
    "evaluate, source that the data lacks": (EVALUATE, lambda p: rename_head(p["model"]), "guitar"),
    "transfer, another architecture": (TRANSFER, lambda p: edit_config(p["model"], mlp_dim=8), "another architecture"),
    "infer, damaged weights": (INFER, lambda p: (p["model"] / "model.safetensors").write_bytes(b"x" * 99), "damaged"),
    "infer, no model": (INFER, lambda p: shutil.rmtree(p["model"]), "no such file or folder"),
    "evaluate, no model": (EVALUATE, lambda p: shutil.rmtree(p["model"]), "no such file or folder"),
    "transfer, no model": (TRANSFER, lambda p: shutil.rmtree(p["model"]), "no such file or folder"),
    "transfer, a model by name": ([*TRANSFER, "--config", "small"], nothing, "--config and --transfer exclude"),
    "transfer, a size": ([*TRANSFER, "--sample_rate", "22050"], nothing, "--transfer and --sample_rate exclude"),
    "transfer, from nothing": ([*TRAIN, "--transfer"], nothing, "--transfer and --checkpoint_fp go together"),
    "init, another source": ([*INIT, "--part", "guitar"], nothing, "only: take --transfer for others"),
    "train, from a model": ([*TRAIN, "--checkpoint_fp", "{model}"], nothing, "--transfer and --checkpoint_fp"),
    "train, name taken": (TRAIN, lambda p: occupy(p["root"] / "runs" / "run"), "is not a run: choose another name"),
    "evaluate, out is a folder": (EVALUATE, lambda p: (p["tmp"] / "scores.csv").mkdir(), "scores.csv is a folder"),
    "evaluate, out is something else": (EVALUATE, lambda p: (p["tmp"] / "scores.csv").write_text("mine"), "remove it"),
    "evaluate, hop": ([*EVALUATE, "--hop", "9"], nothing, "hop must be above 0"),
    "evaluate, n_fft": ([*EVALUATE, "--n_fft", "6"], nothing, "n_fft must be a multiple of 4"),
    "evaluate, one model twice": ([*EVALUATE, "--checkpoint_fp", "{model}"], nothing, "two runs would have the name"),
    "evaluate, no estimates": ([*EVALUATE, "--estimates", "{data}/train"], nothing, "holds no estimates"),
    "evaluate, short estimates": ([*EVALUATE, "--estimates", "{tmp}/other"], separated, "is 10 samples shorter than"),
    "train, no such device": (["--device", "cuda:99", *TRAIN], nothing, "not available here"),
    "infer, no such device": (["--device", "gpu", *INFER], nothing, "not available here"),
    "evaluate, no such device": (["--device", "cuda:99", *EVALUATE], nothing, "not available here"),
    "train, device that cannot compute": (["--device", "meta", *TRAIN], nothing, "not available here"),
}


MISSING = """
    train --name z --musdbhq_location nothere
    train --name z --musdbhq_location demo --init nothere
    train --name z --musdbhq_location demo --transfer --checkpoint_fp nothere
    evaluate --out z.csv --musdbhq_location nothere
    evaluate --out z.csv --musdbhq_location demo --estimates nothere
    evaluate --out z.csv --musdbhq_location demo --checkpoint_fp open --checkpoint_fp nothere
    infer nothere
    infer . --model obsrnn-vocals --model nothere
    import nothere z
"""


def test_what_is_missing_is_told_without_torch(root):
    commands = [line.split() for line in MISSING.strip().splitlines()]
    code = "import sys; sys.modules.update(torch=None, lightning=None); from bsrnn.cli import main; "
    code += f"[main(command) for command in {commands}]"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    told = [f"bsrnn {command[0]}: nothere: no such file or folder" for command in commands]
    assert done.stderr.splitlines() == told and not any(root.iterdir())


def test_another_model_to_go_on_from_is_another_run(data, root, model, capsys):
    train = ["train", "--musdbhq_location", data, "--name", "run", "--init", model, "--max_epochs", 1]
    assert bsrnn(*train) == bsrnn(*train) == 0
    weights = checkpoint.load(model)
    weights.heads.bass.mask_bias.data += 0.1
    checkpoint.save(weights, model)
    assert bsrnn(*train, "--part", "vocals", "--part", "bass") == bsrnn(*train) == cli.EXIT_USER_ERROR
    assert "with other settings (init: " in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_comes_before_published_models_of_its_name(data, root, model, monkeypatch):
    monkeypatch.chdir(model.rename(model.with_name("obsrnn")).parent)
    train = ["train", "--musdbhq_location", data, "--name", "run", "--max_epochs", 1]
    assert bsrnn(*train, "--init", "obsrnn") == 0


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_nothing_is_written(case, data, root, model, tmp_path, capsys):
    arguments, spoil, message = BAD_INPUT[case]
    places = {"data": data, "root": root, "model": model, "tmp": tmp_path}
    spoil(places)
    before = tree(tmp_path)
    code = bsrnn(*(argument.format(**places) for argument in arguments))
    out, err = capsys.readouterr()
    assert code == cli.EXIT_USER_ERROR
    command = next(argument for argument in arguments if argument in ("train", "infer", "evaluate"))
    assert err.startswith(f"bsrnn {command}: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert tree(tmp_path) == before


def test_several_unusable_songs_are_a_line_each(data, root, tmp_path, capsys):
    for song in "bc":
        no_stems(data / "train" / song)
    before = tree(tmp_path)
    assert bsrnn(*(argument.format(data=data) for argument in TRAIN)) == cli.EXIT_USER_ERROR
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(str(data / "train" / song) in line for song, line in zip("bc", lines, strict=True))
    assert tree(tmp_path) == before


def test_libraries_say_nothing_of_a_home_that_cannot_be_written(tmp_path):
    arguments = ["train", "--name", "a", "--musdbhq_location", str(tmp_path)]
    code = f"import sys; from bsrnn import cli; sys.exit(cli.main({arguments}))"
    places = {"HOME": "/dev/null", "BSRNN_ROOT": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=places, capture_output=True, text=True)
    assert done.returncode == cli.EXIT_USER_ERROR
    assert len(done.stderr.splitlines()) == 1, done.stderr
