"""Published models, from a server that has files of the same make."""

import errno
import hashlib
import http.server
import random
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import nn

from bsrnn import checkpoint, cli, data, pretrained, separate
from bsrnn.config import CONFIGS, costs
from bsrnn.separate import Separator, crossfade, estimate

RATE = 44_100
SIZES = {"feature_dim": 8, "hidden_dim": 5, "num_blstm_layers": 2, "mlp_dim": 6}


# an independent network with the names of the published one, band by band and channel by channel


class Norm(nn.Module):
    """Of each frame over features and bands: (B, D, T, K)."""

    def __init__(self, features, bands):
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.randn(1, features, 1, bands)) for _ in range(2))

    def forward(self, x):
        variance, mean = torch.var_mean(x, (1, 3), correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-7) * self.gamma + self.beta


class Attention(nn.Module):
    def __init__(self, features, bands, heads, size):
        super().__init__()

        def projection(out):
            return nn.Sequential(nn.Conv2d(features, out, 1), nn.PReLU(init=random.random()), Norm(out, bands))

        for h in range(heads):
            for letter, out in (("Q", size), ("K", size), ("V", features // heads)):
                self.add_module(f"attn_conv_{letter}_{h}", projection(out))
        self.attn_concat_proj, self.heads = projection(features), heads

    def forward(self, x):
        found = []
        for h in range(self.heads):
            query, key, value = (self.get_submodule(f"attn_conv_{letter}_{h}")(x) for letter in "QKV")
            scores = torch.einsum("bdtk,bdsk->bts", query, key) / (query.shape[1] * query.shape[3]) ** 0.5
            found.append(torch.einsum("bts,bdsk->bdtk", scores.softmax(2), value))
        return x + self.attn_concat_proj(torch.cat(found, 1))


class Residual(nn.Module):
    def __init__(self, features, hidden):
        super().__init__()
        self.norm = nn.GroupNorm(1, features, 1e-7)
        self.main_layer = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.proj = nn.Linear(2 * hidden, features)

    def forward(self, rows):  # (rows, N, length)
        return rows + self.proj(self.main_layer(self.norm(rows).transpose(1, 2))[0]).transpose(1, 2)


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        features, bands, self.more = config.feature_dim, len(config.bins()), config.tac
        self.time_net, self.band_net = (Residual(features, config.hidden_dim) for _ in range(2))
        if self.more:
            slope, inside = nn.PReLU(init=0.3), 3 * features
            sizes = {"transform": (features, inside), "average": (inside, inside), "concat": (2 * inside, features)}
            parts = {name: nn.Sequential(nn.Linear(*size), slope) for name, size in sizes.items()}
            self.tac_module = nn.ModuleDict(parts)
            self.attn_block = Attention(features, bands, config.attention_heads, config.attention_dim)

    def forward(self, x):  # (C, N, T, K), of one song
        x = torch.stack([self.time_net(band) for band in x.unbind(3)], 3)
        x = torch.stack([self.band_net(frame) for frame in x.unbind(2)], 2)
        if self.more:
            y = x.permute(0, 2, 3, 1)
            own = self.tac_module["transform"](y)
            common = self.tac_module["average"](own.mean(0)).expand_as(own)
            x = x + self.tac_module["concat"](torch.cat([own, common], -1)).permute(0, 3, 1, 2)
            x = self.attn_block(x)
        return x


class Mask(nn.Module):
    def __init__(self, widths, features, units):
        super().__init__()
        self.mask = nn.ModuleList(
            nn.Sequential(
                *(nn.GroupNorm(1, features, 1e-7), nn.Conv1d(features, units, 1), nn.Tanh()),
                *(nn.Conv1d(units, units, 1), nn.Tanh(), nn.Conv1d(units, 4 * width, 1), nn.GLU(1)),
            )
            for width in widths
        )

    def forward(self, x):  # (C, N, T, K) -> (C, F, T)
        parts = [mask(x[..., k]).unflatten(1, (2, -1)) for k, mask in enumerate(self.mask)]
        return torch.cat([torch.complex(part[:, 0], part[:, 1]) for part in parts], 1)


class Window(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(2048))


class Published(nn.Module):
    def __init__(self, config):
        super().__init__()
        torch.manual_seed(len(config.sources) + len(config.bins()))
        self.bins, size = config.bins(), config.feature_dim
        widths = [stop - start for start, stop in self.bins]
        self.stft, self.istft = (nn.ModuleDict({"transf": Window()}) for _ in range(2))
        split = (nn.Sequential(nn.GroupNorm(1, 2 * g, 1e-7), nn.Conv1d(2 * g, size, 1)) for g in widths)
        self.BN = nn.ModuleList(split)
        self.separator = nn.ModuleList(Block(config) for _ in range(config.num_blstm_layers))
        self.maskers = nn.ModuleList(Mask(widths, size, config.mlp_dim) for _ in config.sources)
        for name, parameter in self.named_parameters():
            if name.endswith(("norm.weight", "norm.bias", ".0.weight", ".0.bias")) and parameter.ndim == 1:
                nn.init.normal_(parameter)

    def forward(self, song):  # (C, L) -> (S, C, L), in one pass
        window = self.stft["transf"].window
        mixture = torch.stft(song, 2048, 512, window=window, pad_mode="reflect", return_complex=True)
        bands = [mixture[:, start:stop] for start, stop in self.bins]
        rows = (torch.cat([band.real, band.imag], 1) for band in bands)
        x = torch.stack([split(row) for split, row in zip(self.BN, rows, strict=True)], 3)
        for block in self.separator:
            x = block(x)
        stems = [mask(x) * mixture for mask in self.maskers]
        return torch.stack([torch.istft(stem, 2048, 512, window=window, length=song.shape[-1]) for stem in stems])

    @torch.no_grad()
    def infer(self, song):
        """Chunks as the paper's program makes them, at the song's peak level, which is undone."""
        length, peak, result = song.shape[-1], song.abs().max(), 0
        starts = [0, *(start for start in range(441_000, length - 44_100, 485_100))] if length > 485_100 else [0]
        for start in starts:
            stop = min(length, start + (529_200 if start else 485_100))
            part = self((song / peak)[:, start:stop])
            if start:
                part[..., :44_100] *= torch.linspace(0, 1, 44_100)
            if stop < length:
                part[..., -44_100:] *= 1 - torch.linspace(0, 1, 44_100)
            result = result + nn.functional.pad(part, (start, length - stop))
        return result * peak


class Foreign(dict):
    """What Lightning leaves beside the weights: settings of a class that is not installed here."""

    trace: Path

    def __setstate__(self, state):
        self.trace.touch()

    def __reduce__(self):
        return Foreign, (), {"a": 1}, None, iter([("b", [Path("c")])])


def published(file, config, change=lambda weights: None):
    """A file of the same make; returns its network."""
    network = Published(config).eval()
    weights = network.state_dict()
    change(weights)
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]}
    others = {"hyper_parameters": Foreign(), "loops": {"a": {1, 2}}, "callbacks": {"c": torch.device("cpu")}}
    torch.save({"epoch": 3, "state_dict": weights, "optimizer_states": [moments], **others}, file)
    return network


def small(name, **changes):
    config = replace(CONFIGS[name], **SIZES, **changes)
    return replace(config, attention_dim=3) if config.attention_heads else config


def distance(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(autouse=True)
def trace(tmp_path):
    """Appears where something in a checkpoint is run."""
    Foreign.trace = tmp_path / "trace"
    yield
    assert not Foreign.trace.exists()


# conversion


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        *zip((f"bsrnn-large-{source}" for source in pretrained.SOURCES), (782, 650, 950, 782), strict=True),
        *zip((f"obsrnn-{source}" for source in pretrained.SOURCES), (1310, 1178, 1478, 1310), strict=True),
        ("obsrnn-simo", 2870),
    ],
)
def test_the_published_sizes_are_those_of_this_network(name, keys):
    """As third parties report them of the files, which hold the slope of each TAC three times, and two windows."""
    with torch.device("meta"):
        weights = Published(CONFIGS[name]).state_dict()
    parameters = sum(cost.parameters for cost in costs(CONFIGS[name]))
    assert len(weights) == keys
    assert sum(value.numel() for value in weights.values()) == parameters + 2 * 2048 + 24 * CONFIGS[name].tac


@pytest.mark.parametrize(
    "name", ["bsrnn-large-vocals", "obsrnn-other", "obsrnn-bass", "bsrnn-large-drums", "obsrnn-simo"]
)
def test_a_converted_model_is_the_published_one(name, tmp_path, monkeypatch):
    config, torch_song = small(name), torch.randn(2, 20_000, generator=torch.Generator().manual_seed(0))
    network = published(tmp_path / "their.ckpt", config)
    monkeypatch.setitem(CONFIGS, "tiny", config)
    assert run("import", tmp_path / "their.ckpt", tmp_path / "model", "--config", "tiny") == 0
    model = checkpoint.load(tmp_path / "model")
    assert model.config == config
    if len(config.sources) > 1:
        assert config.sources == ("vocals", "bass", "drums", "other")
    windows, shared = 2 * 2048, 2 * config.num_blstm_layers * config.tac
    elements = sum(value.numel() for value in network.state_dict().values())
    assert sum(parameter.numel() for parameter in model.parameters()) == elements - windows - shared
    for song in (torch_song, torch_song[:1]):
        with torch.no_grad():
            assert distance(estimate(model, song[None])[0], network(song)) < 1e-5
    mono, stereo = (estimate(model, song[None])[0] for song in (torch_song[:1], torch_song[:1].expand(2, -1)))
    torch.testing.assert_close(stereo, mono.expand(-1, 2, -1), rtol=1e-4, atol=1e-5)


WRONG = {
    "unknown": (lambda w: w.update({"extra.weight": torch.zeros(1)}), 'Unexpected key(s) in state_dict: "extra'),
    "missing": (lambda w: w.pop("separator.1.time_net.proj.bias"), "Missing key"),
    "missing band": (lambda w: w.pop("maskers.2.mask.7.3.bias"), "maskers.2.mask.7.3.bias"),
    "shape": (lambda w: w.update({"BN.3.1.bias": torch.zeros(9)}), "is of another architecture"),
    "slopes": (lambda w: w.update({"separator.0.tac_module.average.1.weight": torch.zeros(1)}), "slopes in"),
    "bands": (lambda w: w.update({"BN.0.0.weight": torch.zeros(40)}), "is of another architecture"),
    "heads": (lambda w: [w.pop(name) for name in list(w) if name.startswith("maskers.3")], "maskers.3.mask.0.0.weight"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_other_checkpoints_are_refused_in_one_line(wrong, tmp_path, monkeypatch, capsys):
    change, message = WRONG[wrong]
    published(tmp_path / "separator.ckpt", small("obsrnn-simo"), change)
    monkeypatch.setitem(CONFIGS, "obsrnn-simo", small("obsrnn-simo"))
    assert run("import", tmp_path / "separator.ckpt", tmp_path / "model") == cli.EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "model").exists()


def test_no_file_is_run(tmp_path):
    scripted = torch.jit.script(nn.Linear(2, 2))
    scripted.save(tmp_path / "program.ckpt")
    torch.save({"state_dict": {"a": Foreign()}}, tmp_path / "foreign.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    (tmp_path / "text.ckpt").write_text("la la la")
    for name in ("program", "foreign", "old", "text"):
        with pytest.raises(ValueError, match="is damaged, or no checkpoint"):
            checkpoint.convert(tmp_path / f"{name}.ckpt", CONFIGS["obsrnn-simo"])


# fetching


class Server(http.server.ThreadingHTTPServer):
    """Serves one file with ranges, `most` bytes per answer, and keeps what it was asked for."""

    def handle_error(self, request, client_address):
        """A client that hangs up is none of the test's business: the server would print a traceback."""

    def __init__(self, content):
        self.content, self.asked, self.most, self.stalls = content, [], len(content), False
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted, server = self.headers["Range"], self.server
        server.asked.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : start + server.most])
        self.wfile.flush()
        while server.stalls:
            time.sleep(0.01)

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Puts small models of the published make on a server, under names of their own, and returns it and networks."""
    servers = []

    def serve(name="obsrnn-simo", change=lambda weights: None, **settings):
        files, archive = {}, pretrained.ARCHIVES[name]
        for model, file in archive.checkpoints.items():
            config = small(model, **settings)
            monkeypatch.setitem(CONFIGS, f"tiny-{model}", config)
            files[f"tiny-{model}"] = published(tmp_path / file, config, change)
        with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as content:
            for file in archive.checkpoints.values():
                content.write(tmp_path / file, f"folder/{file}")
        content = (tmp_path / "archive.zip").read_bytes()
        checkpoints = {f"tiny-{model}": file for model, file in archive.checkpoints.items()}
        tiny = replace(archive, size=len(content), md5=hashlib.md5(content).hexdigest(), checkpoints=checkpoints)
        monkeypatch.setattr(pretrained, "ARCHIVES", {f"tiny-{name}": tiny})
        servers.append(Server(content))
        monkeypatch.setenv("BSRNN_PRETRAINED_URL", f"http://127.0.0.1:{servers[-1].server_port}/records/{{}}")
        return servers[-1], files

    monkeypatch.setenv("BSRNN_CACHE", str(tmp_path / "cache"))
    yield serve
    for server in servers:
        server.stalls = False
        server.shutdown()
        server.server_close()


def cached(tmp_path):
    folder = tmp_path / "cache"
    return sorted(
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() and file.name != ".lock"
    )


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def test_a_song_through_a_published_model(served, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    server, networks = served()
    song = np.random.default_rng(0).normal(0, 0.05, (12 * RATE, 2)) * np.linspace(1, 3, 12 * RATE)[:, None]
    soundfile.write("song.wav", song, RATE, subtype="FLOAT")
    assert run("infer", "--model", "tiny-obsrnn-simo", "song.wav", "--fp32") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"separated/song/{source}.wav" for source in ("vocals", "bass", "drums", "other")]
    assert err.count("arXiv 2603.09187") == 1 and err.count("licence") == 1
    assert server.asked == [("/records/simo-bsrnn-opt.zip", None)]
    assert cached(tmp_path) == ["tiny-obsrnn-simo/config.json", "tiny-obsrnn-simo/model.safetensors"]
    expected = networks["tiny-obsrnn-simo"].infer(torch.from_numpy(song.T).float())
    for file, stem in zip(out.splitlines(), expected, strict=True):
        assert distance(torch.from_numpy(soundfile.read(file, dtype="float32")[0].T), stem) < 1e-5
    server.shutdown()  # from now on offline
    soundfile.write("mono.wav", song[: 2 * RATE, 0], RATE)
    soundfile.write("eight.wav", song[:16_000], 8_000)
    soundfile.write("short.wav", song[:1], RATE)
    for options in ([], ["--hop", "1.5"]):
        assert run("infer", "mono.wav", "eight.wav", "short.wav", "--model", "tiny-obsrnn-simo", *options) == 0
    assert "arXiv" not in capsys.readouterr().err and len(server.asked) == 1
    assert {soundfile.info(f"separated/{name}/bass.wav").channels for name in ("mono", "eight", "short")} == {1, 2}
    run("models")
    assert "tiny-obsrnn-simo    vocals, bass, drums, other  0.00 GB   9.79   yes" in capsys.readouterr().out


def test_one_model_comes_with_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mixture, targets, rate = data.bundled_song()
    soundfile.write("song.wav", mixture[:, : 2 * rate].T.numpy(), rate, subtype="FLOAT")
    assert cli.main(["infer", "song.wav", "--fp32"]) == 0
    told = capsys.readouterr()
    assert told.err == "model: open, a small one; --model obsrnn-simo separates better, see bsrnn models\n"
    assert [line.partition("song/")[2] for line in told.out.split()] == [f"{source}.wav" for source in targets]
    assert cli.main(["infer", "song.wav", "--model", "open", "--fp32", "--out", "again"]) == 0
    assert not capsys.readouterr().err  # as it was asked for
    for source in targets:
        one, other = (soundfile.read(f"{folder}/song/{source}.wav")[0] for folder in ("separated", "again"))
        assert np.array_equal(one, other) and np.abs(one).max() > 0.01
    assert Separator.from_pretrained(sources=["drums"]).sources == ("drums",)
    (folder,) = pretrained.folders("open")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    assert load_file(folder / checkpoint.WEIGHTS)["band_split.weight"].dtype == torch.half


def test_four_targets_under_one_name(served, tmp_path):
    server, networks = served("obsrnn")
    separator = Separator.from_pretrained("tiny-obsrnn", bf16=False)
    assert separator.sources == ("vocals", "bass", "drums", "other")
    song = torch.randn(2, 10_000)
    for source, stem in separator(song, RATE).items():
        assert distance(stem, networks[f"tiny-obsrnn-{source}"].infer(song)[0]) < 1e-5
    assert Separator.from_pretrained("tiny-obsrnn-bass").sources == ("bass",)
    assert len(server.asked) == 1
    others = [tmp_path / "cache" / f"tiny-obsrnn-{source}" / "config.json" for source in ("vocals", "drums", "other")]
    before = [file.stat() for file in others]
    shutil.rmtree(tmp_path / "cache" / "tiny-obsrnn-bass")
    assert Separator.from_pretrained("tiny-obsrnn").sources == ("vocals", "bass", "drums", "other")
    assert len(server.asked) == 2 and [file.stat() for file in others] == before
    assert len(cached(tmp_path)) == 8


def test_a_connection_that_breaks_off_is_taken_up(served, tmp_path):
    server, _ = served()
    server.most = len(server.content) // 3 - 1_000
    assert [folder.is_dir() for folder in pretrained.folders("tiny-obsrnn-simo")] == [True]
    assert [asked for _, asked in server.asked] == [None, *(f"bytes={n * server.most}-" for n in (1, 2, 3))]


def test_a_killed_download_goes_on_where_it_was(served, tmp_path):
    server, _ = served()
    server.most, server.stalls = len(server.content) // 2, True
    ((name, archive),) = pretrained.ARCHIVES.items()
    arguments = f"{archive.file!r}, {archive.size}, {archive.md5!r}, {{}}, ()"
    program = f"from bsrnn import pretrained as p; p._check_space = print; p.fetch(p.Archive({arguments}))"
    part = tmp_path / "cache" / "simo-bsrnn-opt.zip.part"
    process = subprocess.Popen([sys.executable, "-c", program])
    while not (part.exists() and part.stat().st_size == server.most):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    server.stalls, server.most, there = False, len(server.content), part.stat().st_size
    pretrained.folders(name)
    assert [asked for _, asked in server.asked] == [None, f"bytes={there}-"]
    assert cached(tmp_path) == ["tiny-obsrnn-simo/config.json", "tiny-obsrnn-simo/model.safetensors"]


class Space:
    free = 1_000


def on_a_full_disk(patch):
    original = Path.open

    def write(path, mode="r", *more):
        if path.suffix == ".part" and mode == "wb":
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, mode, *more)

    patch.setattr(Path, "open", write)


FAILURES = {
    "sum": (lambda server, patch: setattr(server, "content", server.content[::-1]), "came with the MD5 sum"),
    "server": (lambda _, patch: patch.setenv("BSRNN_PRETRAINED_URL", "http://127.0.0.1:9/{}"), "cannot be fetched"),
    "space": (lambda _, patch: patch.setattr(pretrained.shutil, "disk_usage", lambda _: Space), "0.0 GB are free"),
    "full disk": (lambda _, patch: on_a_full_disk(patch), "(No space left on device): make room, or set BSRNN_CACHE"),
    "size": (lambda _, patch: patch.setitem(CONFIGS, "tiny-obsrnn-simo", CONFIGS["small"]), "another architecture"),
}


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch, capsys):
    soundfile.write(tmp_path / "song.wav", np.zeros((100, 2)), RATE)
    monkeypatch.setenv("BSRNN_CACHE", str(tmp_path / "cache"))

    def read_only(path, **_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert run("infer", tmp_path / "song.wav", "--model", "obsrnn-vocals") == cli.EXIT_USER_ERROR
    line = f"{tmp_path / 'cache'}: cannot be written to (Read-only file system): {pretrained.ROOM}"
    assert capsys.readouterr().err == f"bsrnn infer: {line}\n"


@pytest.mark.parametrize("failure", FAILURES)
def test_failures_are_one_line_and_leave_nothing(failure, served, tmp_path, monkeypatch, capsys):
    (server, _), (break_it, message) = served(), FAILURES[failure]
    soundfile.write(tmp_path / "song.wav", np.zeros((100, 2)), RATE)
    break_it(server, monkeypatch)
    assert run("infer", tmp_path / "song.wav", "--model", "tiny-obsrnn-simo") == cli.EXIT_USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and cached(tmp_path) == []


def test_names_where_folders_go(served, songs, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BSRNN_ROOT", str(tmp_path))
    served()
    train = ["train", "--musdbhq_location", songs, "--max_epochs", "1", "--batch_size", "2", "--epoch_size", "2"]
    name = "tiny-obsrnn-simo"
    assert run(*train, "--name", "a", "--transfer", "--checkpoint_fp", name, "--part", "bass") == 0
    assert run(*train, "--name", "b", "--init", name, "--part", "vocals", "--part", "bass") == 0
    found = (tmp_path / "cache" / name, tmp_path / "runs" / "a" / "model", tmp_path / "runs" / "b" / "model")
    base, new, tuned = map(checkpoint.load, found)
    assert new.config == replace(base.config, sources=("bass",))
    assert tuned.config == replace(base.config, sources=("vocals", "bass"))
    for part in ("band_split", "band_sequence"):
        assert checkpoint.digest(new.get_submodule(part)) == checkpoint.digest(base.get_submodule(part))
        assert checkpoint.digest(tuned.get_submodule(part)) != checkpoint.digest(base.get_submodule(part))
    evaluate = ["evaluate", "--musdbhq_location", songs, "--out", tmp_path / "scores.csv"]
    assert run(*evaluate, "--checkpoint_fp", name) == 0
    assert name in capsys.readouterr().out
    assert run(*train, "--name", "c", "--init", name, "--part", "piano") == cli.EXIT_USER_ERROR
    assert run(*train, "--name", "c", "--init", name, "--tac") == cli.EXIT_USER_ERROR
    assert "exclude each other" in capsys.readouterr().err


def test_names_are_listed(capsys):
    assert run("models") == 0
    listed = capsys.readouterr().out
    for expected in ("obsrnn-simo         vocals, bass, drums, other  1.21 GB   9.79", "CC BY 4.0", "2603.09187"):
        assert expected in listed


# chunks


@pytest.mark.parametrize("seed", range(8))
def test_crossfades_are_those_of_the_definition(seed):
    draw = np.random.default_rng(seed)
    size, fade = int(draw.integers(10, 20)), int(draw.integers(2, 10))
    length = int(draw.choice([1, size, size + 1, draw.integers(1, 100)]))
    song, seen = torch.randn(2, length), []

    def process(chunk):  # something that depends on where the chunk is cut
        seen.append(chunk.shape)
        return torch.stack([chunk, chunk.cumsum(-1)], 1)

    blocks = song.split(int(draw.integers(1, 30)), 1)
    result = torch.cat(list(crossfade(process, iter(blocks), size, fade)), -1)
    expected = torch.zeros(2, 2, length)
    for start in [0, *range(size - fade, length - fade, size)] if length > size else [0]:
        stop = min(length, start + size + fade * (start > 0))
        part = process(song[None, :, start:stop])[0]
        rise = torch.linspace(0, 1, fade)
        if start:
            part[..., :fade] *= rise
        if stop < length:
            part[..., -fade:] *= 1 - rise
        expected[..., start:stop] += part
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    torch.testing.assert_close(result[0], song, rtol=1e-5, atol=1e-5)


def test_a_song_is_never_split(tiny, monkeypatch):
    model, chunks, shapes = tiny(("bass",), tac=True, attention_heads=2), torch.randn(5, 2, 3_000), []
    expected = estimate(model, chunks)

    def full(function, batch):
        shapes.append(batch.shape)
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return function(batch)

    monkeypatch.setattr(separate, "by_item", full)
    torch.testing.assert_close(estimate(model, chunks), expected, rtol=1e-4, atol=1e-6)
    assert {shape[1:] for shape in shapes} == {(2, 3_000)}
