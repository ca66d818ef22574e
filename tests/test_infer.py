"""`bsrnn infer` with songs as people have them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import audio, checkpoint, cli, devices, separate

RATE = 8_000
FFMPEG = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="takes the ffmpeg program, which is not installed")


def tone(samples=RATE, channels=2):
    return 0.5 * np.sin(np.arange(samples) / 9)[:, None] * np.ones(channels)


def noise(samples=RATE, channels=2):
    return np.random.default_rng(0).normal(0, 0.1, (samples, channels))


@pytest.fixture
def model(tiny, tmp_path):
    """A model folder with two sources."""
    checkpoint.save(tiny(("bass", "vocals"), sample_rate=RATE), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def infer(model, tmp_path, capsys):
    """Runs the command on songs; returns exit code, lines on stdout, and lines on stderr."""

    def run(*songs, arguments=(), before=()):
        command = [*before, "infer", "--checkpoint_fp", model, "--out", tmp_path / "out", "--input", *songs, *arguments]
        code = cli.main([str(argument) for argument in command])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


def written(folder):
    """What lies in a folder, hidden files too."""
    return sorted(str(Path(parent, name).relative_to(folder)) for parent, _, names in os.walk(folder) for name in names)


def cut_off(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])


def not_finite(file, place, value):
    samples = noise()
    samples[place] = value
    soundfile.write(file, samples, RATE, subtype="FLOAT")


def ffmpeg(*arguments):
    subprocess.run(["ffmpeg", "-v", "error", *arguments], check=True)


def refused(result, message):
    """The command ended with an error that one line tells."""
    code, _, err = result
    assert code == cli.EXIT_USER_ERROR
    assert len(err) == 1 and message in err[0]


# what cannot be separated: how the file is made, and what is said of it

BAD = {
    "empty.wav": (lambda file: file.touch(), "is empty"),
    "zero samples.wav": (lambda file: soundfile.write(file, noise(0), RATE), "holds no samples"),
    "text.wav": (lambda file: file.write_text("la la la " * 99), "cannot be read as audio"),
    "header.wav": (lambda file: file.write_bytes(b"RIFF\x24\0\0\0WAVE"), "cannot be read as audio"),
    "cut off.wav": (lambda file: (soundfile.write(file, noise(), RATE), cut_off(file)), "is cut off"),
    "cut off.flac": (lambda file: (soundfile.write(file, noise(), RATE), cut_off(file)), "cut off"),
    "cut off.mp3": (lambda file: (soundfile.write(file, noise(9 * RATE), RATE), cut_off(file)), "cut off"),
    "nan.wav": (
        lambda file: not_finite(file, 4_000, np.nan),
        "holds samples that are not finite, the first at 0.500 s",
    ),
    "inf.wav": (lambda file: not_finite(file, -1, -np.inf), "holds samples that are not finite, the first at 1.000 s"),
    "missing.wav": (lambda file: None, "no such file"),
    "cut off.aiff": (lambda file: (soundfile.write(file, noise(), RATE), cut_off(file)), "is cut off"),
    "cut off.au": (lambda file: (soundfile.write(file, noise(), RATE), cut_off(file)), "is cut off"),
    "folder": (lambda file: file.mkdir(), "is a folder, without audio files"),
    "pipe.wav": (lambda file: os.mkfifo(file), "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_songs_are_one_line_and_leave_nothing(infer, tmp_path, name):
    make, message = BAD[name]
    make(tmp_path / name)
    before = written(tmp_path)
    code, out, err = infer(tmp_path / name)
    assert code == cli.EXIT_USER_ERROR
    assert out == []
    assert len(err) == 1 and err[0].startswith(f"bsrnn infer: {tmp_path / name}: ") and message in err[0]
    assert written(tmp_path) == before and not (tmp_path / "out").exists()


@FFMPEG
def test_damage_that_ffmpeg_finds(infer, tmp_path):
    soundfile.write(tmp_path / "long.wav", noise(60 * RATE), RATE)
    ffmpeg("-i", tmp_path / "long.wav", tmp_path / "scratched.m4a")
    content = bytearray((tmp_path / "scratched.m4a").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3_000] = bytes(range(250)) * 12
    (tmp_path / "scratched.m4a").write_bytes(content)
    ffmpeg("-f", "lavfi", "-i", "color=c=red:s=16x16:d=1", tmp_path / "picture.mp4")
    refused(infer(tmp_path / "picture.mp4"), "no audio")
    refused(infer(tmp_path / "scratched.m4a"), "is damaged or cut off after ")
    assert not (tmp_path / "out").exists()


# what can

GOOD = {
    "one sample.wav": (noise(1), RATE),
    "one fast sample.wav": (noise(1), 192_000),
    "hardly a sound.wav": (1e-41 * noise(), RATE),
    "silence.wav": (np.zeros((RATE, 2)), RATE),
    "direct current.wav": (np.full((RATE, 2), 0.25), RATE),
    "clipped.wav": (np.clip(20 * noise(), -1, 1), RATE),
    "mono.wav": (noise(channels=1), RATE),
    "8 channels.wav": (noise(channels=8), RATE),
    "8 kHz.flac": (noise(), 8_000),
    "192 kHz.flac": (noise(48_000), 192_000),
    "a song ünïcode 音楽's.wav": (noise(), RATE),
    "-v.ogg": (tone(), RATE),
    "UPPER.MP3": (tone(), RATE),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_songs(infer, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    samples, rate = GOOD[name]
    soundfile.write(name, samples, rate, subtype="FLOAT" if "hardly" in name else None)
    length, handler = soundfile.info(name).frames, signal.getsignal(signal.SIGTERM)
    code, out, err = infer(f"./{name}" if name.startswith("-") else name)
    assert (code, err) == (0, [])
    assert signal.getsignal(signal.SIGTERM) is handler  # signals mean what they meant
    folder = tmp_path / "out" / Path(name).stem
    assert out == [str(folder / "bass.wav"), str(folder / "vocals.wav")]
    for file in out:
        info = soundfile.info(file)
        assert (info.frames, info.samplerate, info.channels) == (length, rate, samples.shape[1])
        stem, _ = soundfile.read(file)
        assert np.isfinite(stem).all()
        assert (np.abs(stem).max() < 1e-40) == (name in ("silence.wav", "hardly a sound.wav", "one fast sample.wav"))
    assert len(written(tmp_path / "out")) == 2


@FFMPEG
@pytest.mark.parametrize("name", ["song.m4a", "song.mp4", "song.webm", "-i file:x.mka"])
def test_what_ffmpeg_reads(infer, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    soundfile.write("song.wav", tone(48_000), 48_000)
    ffmpeg("-i", "song.wav", f"file:{tmp_path / name}")
    code, out, err = infer(f"./{name}")
    assert (code, err) == (0, [])
    info = soundfile.info(out[0])
    assert (info.samplerate, info.channels) == (48_000, 2) and abs(info.frames - 48_000) < 5_000


# many songs, and what is written


def test_a_bad_song_does_not_stop_the_others(infer, tmp_path):
    (tmp_path / "songs" / "deep").mkdir(parents=True)
    (tmp_path / "songs" / "a.wav").write_text("text")
    (tmp_path / "songs" / "circle.wav").symlink_to(tmp_path / "songs" / "circle.wav")
    (tmp_path / "songs" / "nowhere.wav").symlink_to(tmp_path / "missing.wav")
    soundfile.write(tmp_path / "songs" / "b.wav", tone(), RATE)
    soundfile.write(tmp_path / "songs" / "deep" / "c.flac", tone(), RATE)
    code, out, err = infer(tmp_path / "songs")
    assert code == cli.EXIT_USER_ERROR
    assert written(tmp_path / "out") == ["b/bass.wav", "b/vocals.wav", "deep/c/bass.wav", "deep/c/vocals.wav"]
    assert len(out) == 4
    told = [line.removeprefix("bsrnn infer: ").split(": ")[0] for line in err]
    assert told == [str(tmp_path / "songs" / f"{name}.wav") for name in ("a", "circle", "nowhere")]


def test_songs_that_are_there_are_skipped(infer, tmp_path):
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tone(), RATE)
    infer(tmp_path / "a.wav")
    before = os.stat(tmp_path / "out" / "a" / "bass.wav").st_mtime_ns
    _, out, _ = infer(tmp_path / "a.wav", tmp_path / "b.wav", arguments=["--skip-existing"])
    assert out[0] == f"{tmp_path / 'out' / 'a'}: is there already"
    assert os.stat(tmp_path / "out" / "a" / "bass.wav").st_mtime_ns == before
    assert "b/bass.wav" in written(tmp_path / "out")
    _, out, _ = infer(tmp_path / "a.wav", arguments=["--skip-existing", "--residual"])
    assert out[-1].endswith("residual.wav")


def test_sources_residual_and_format(infer, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), RATE, subtype="FLOAT")
    code, out, _ = infer(tmp_path / "a.wav", arguments=["--sources", "bass", "--residual", "--format", "flac"])
    assert code == 0
    assert [Path(file).name for file in out] == ["bass.flac", "residual.flac"]
    parts = sum(soundfile.read(file)[0] for file in out)
    assert np.abs(parts - tone()).max() < 1e-6


@FFMPEG
def test_residual_of_a_video_that_starts_before_its_sound(infer, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(90_000), RATE)
    picture = ["-f", "lavfi", "-i", "color=c=red:s=16x16:d=13:r=10", "-map", "0", "-map", "1"]
    ffmpeg("-itsoffset", "1", "-i", tmp_path / "a.wav", *picture, tmp_path / "late.mp4")
    code, out, err = infer(tmp_path / "late.mp4", arguments=["--residual"])
    assert (code, err) == (0, [])
    song, _ = audio.read(tmp_path / "late.mp4")
    assert not song[:, : RATE // 2].any() and song.shape[-1] > 97_000
    assert float((sum(audio.read(file)[0] for file in out) - song).abs().max()) < 1e-6


def test_hop_and_several_models(infer, tiny, model, tmp_path, bf16):
    more = tiny(("drums",), sample_rate=2 * RATE)
    checkpoint.save(more, tmp_path / "more")
    soundfile.write(tmp_path / "a.wav", noise(), RATE, subtype="FLOAT")
    waveform, models = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].T, [checkpoint.load(model), more]
    stems = []
    for arguments, options in (([], {}), (["--hop", "0.05"], {"hop": 0.05}), (["--fp32"], {"bf16": False})):
        code, out, _ = infer(tmp_path / "a.wav", arguments=["--checkpoint_fp", tmp_path / "more", *arguments])
        assert code == 0 and [Path(file).stem for file in out] == ["bass", "vocals", "drums"]
        expected = separate.Separator(models, **{"bf16": True} | options)(waveform, RATE)
        stems.append(np.stack([soundfile.read(file)[0].T for file in out]))
        assert np.abs(stems[-1] - np.stack(list(expected.values()))).max() < 1e-6
    for one, other in ((0, 1), (0, 2)):
        assert (np.abs(stems[one] - stems[other]).max((1, 2)) > 1e-5).all()


def test_the_device_is_the_given_one(infer, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(separate, "torch_device", lambda name: asked.append(name) or devices.torch_device("cpu"))
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    assert infer(tmp_path / "a.wav", before=["--device", "cpu"])[0] == 0
    assert infer(tmp_path / "a.wav")[0] == 0
    assert asked == ["cpu", "auto"]


def test_a_peak_over_full_scale_is_named(infer, identity, model, tmp_path):
    checkpoint.save(identity(("bass", "vocals"), sample_rate=RATE), model)
    soundfile.write(tmp_path / "a.wav", 3 * tone(), RATE, subtype="FLOAT")
    _, _, err = infer(tmp_path / "a.wav", arguments=["--format", "wav16"])
    assert len(err) == 1 and "the stems peak at 1.50, full scale is 1: all were scaled by 0.66" in err[0]
    _, _, err = infer(tmp_path / "a.wav", arguments=["--format", "mp3", "--loudness", "clamp"])
    assert len(err) == 1 and "what exceeds was cut off" in err[0]
    assert infer(tmp_path / "a.wav")[2] == []


@pytest.mark.parametrize(("channels", "rate", "form"), [(2, 192_000, "mp3"), (8, RATE, "mp3"), (9, RATE, "flac")])
def test_formats_that_do_not_hold_the_song(infer, tmp_path, channels, rate, form):
    soundfile.write(tmp_path / "a.wav", noise(channels=channels), rate)
    result = infer(tmp_path / "a.wav", arguments=["--format", form])
    refused(result, f"{form} does not hold {channels} channels at {rate} Hz")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [["out/bass/bass.wav"], ["a.wav", "out/a/bass.wav"]])
def test_stems_are_not_written_over_songs(infer, tmp_path, names):
    songs = [tmp_path / name for name in names]
    songs[-1].parent.mkdir(parents=True)
    for song in songs:
        soundfile.write(song, tone(), RATE)
    before = songs[-1].read_bytes()
    refused(infer(*songs), "would take the place of a song")
    assert songs[-1].read_bytes() == before and len(written(tmp_path / "out")) == 1


def test_a_folder_in_a_stems_place(infer, tmp_path):
    (tmp_path / "out" / "a" / "vocals.wav").mkdir(parents=True)
    (tmp_path / "out" / "a" / "bass.wav").write_text("mine")
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", tone(), RATE)
    refused(infer(tmp_path / "a.wav", tmp_path / "b.wav"), "vocals.wav: is a folder, and in the way of a file")
    assert (tmp_path / "out" / "a" / "bass.wav").read_text() == "mine"
    assert written(tmp_path / "out") == ["a/bass.wav", "b/bass.wav", "b/vocals.wav"]


def test_a_broken_model_leaves_nothing(infer, tiny, model, tmp_path):
    broken = tiny(("bass", "vocals"), sample_rate=RATE)
    broken.heads.vocals.mask_bias.data[:] = np.nan
    checkpoint.save(broken, model)
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    refused(infer(tmp_path / "a.wav"), "is broken: 'heads.vocals.mask_bias' holds numbers that are not finite")
    assert not (tmp_path / "out").exists()


def test_out_that_is_a_file(infer, tmp_path):
    (tmp_path / "out").write_text("mine")
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    refused(infer(tmp_path / "a.wav"), "is a file, or lies in one, and no folder")
    assert (tmp_path / "out").read_text() == "mine"


@contextmanager
def unprivileged():
    """Mind permissions, which root does not have to."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are those of POSIX")
@pytest.mark.parametrize(
    ("given", "spoiled", "mode", "message", "separated"),
    [
        ("songs", "songs/locked", 0o000, "songs/locked: is a folder, without audio files that can be read", "az"),
        ("songs", "songs/locked", 0o444, "songs/locked/b.wav: cannot be read (Permission denied)", "az"),
        ("songs/a.wav", "songs/a.wav", 0o000, "songs/a.wav: cannot be read (Permission denied)", ""),
        ("songs/a.wav", "out", 0o555, "out/a: cannot be written to (Permission denied)", ""),
    ],
)
def test_permissions(tiny, capsys, given, spoiled, mode, message, separated):
    with tempfile.TemporaryDirectory() as name:  # pytest's own lets only its owner in
        folder = Path(name)
        checkpoint.save(tiny(("bass",), sample_rate=RATE), folder / "model")
        for place in ("songs/locked", "out"):
            (folder / place).mkdir(parents=True)
        for song in ("songs/a.wav", "songs/locked/b.wav", "songs/z.wav"):
            soundfile.write(folder / song, tone(), RATE)
        for path, bits in ((folder, 0o755), (folder / "out", 0o777), (folder / spoiled, mode)):
            path.chmod(bits)
        with unprivileged():
            code = cli.main(f"infer {folder}/{given} --checkpoint_fp {folder}/model --out {folder}/out".split())
        (folder / spoiled).chmod(0o755)
        refused((code, [], capsys.readouterr().err.splitlines()), f"{folder}/{message}")
        assert written(folder / "out") == [f"{song}/bass.wav" for song in separated]


# interrupted, or out of space

RUN = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from bsrnn.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
@pytest.mark.parametrize(
    ("form", "room"),
    # 60 bytes are less than a header; a semaphore of the threads takes 32
    [("wav", 60), ("wav16", 60), *((form, 100_000) for form in ("wav", "wav24", "flac", "ogg", "mp3"))],
)
def test_a_full_disk(model, tmp_path, form, room):
    soundfile.write(tmp_path / "a.wav", noise(40_000), RATE)
    arguments = f"infer {tmp_path}/a.wav --checkpoint_fp {model} --out {tmp_path}/out --format {form}".split()
    command = [sys.executable, "-c", RUN, str(room), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == cli.EXIT_USER_ERROR
    assert done.stderr.count("\n") == 1 and f"{tmp_path}/out/a: cannot be written to (" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["listening", "bass, vocals", "bass.flac"])
def test_control_c_at_any_stage(infer, tmp_path, monkeypatch, stage):
    shown = separate._shown

    def interrupted(blocks, recording, what, progress):
        for block in shown(blocks, recording, what, progress):
            if what == stage:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(separate, "_shown", interrupted)
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    assert infer(tmp_path / "a.wav", arguments=["--format", "flac"]) == (130, [], ["bsrnn infer: interrupted"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "device"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB"), "cuda"),
        (MemoryError(), "cpu"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "cpu"),
    ],
)
def test_out_of_memory_the_next_song_is_separated(infer, tmp_path, monkeypatch, error, device):
    before = separate.separated

    def short(model, song, sample_rate, levels, hop, long):
        if levels.length > RATE:
            raise error
        return before(model, song, sample_rate, levels, hop, long)

    monkeypatch.setattr(separate, "separated", short)
    for name, samples in (("a", 2 * RATE), ("b", RATE)):
        soundfile.write(tmp_path / f"{name}.wav", tone(samples), RATE)
    code, _, err = infer(tmp_path / "a.wav", tmp_path / "b.wav", arguments=["--format", "flac"])
    assert code == cli.EXIT_USER_ERROR
    assert len(err) == 1 and err[0].startswith(f"bsrnn infer: {tmp_path / 'a.wav'}: out of memory on {device}: end")
    assert written(tmp_path / "out") == ["b/bass.flac", "b/vocals.flac"]


def test_other_errors_are_not_hidden(infer, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(), RATE)

    def wrong(*_, **__):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(separate, "separated", wrong)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        infer(tmp_path / "a.wav")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
@pytest.mark.parametrize(
    ("number", "times", "code", "message"),
    [
        (signal.SIGINT, 1, 130, "bsrnn infer: interrupted\n"),
        (signal.SIGINT, 3, 130, "bsrnn infer: interrupted\n"),
        (signal.SIGTERM, 2, 143, ""),
    ],
)
def test_interrupted(tiny, tmp_path, number, times, code, message):
    checkpoint.save(tiny(("bass",), sample_rate=RATE, feature_dim=64, hidden_dim=64), tmp_path / "model")
    soundfile.write(tmp_path / "a.wav", noise(600 * RATE, 1), RATE)
    arguments = f"infer {tmp_path}/a.wav --checkpoint_fp {tmp_path}/model --out {tmp_path}/out --hop 0.02".split()
    command = [sys.executable, "-m", "bsrnn.cli", *arguments]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where a job in the background is to ignore it
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/a/.partial-*/bass.wav")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(times):
        process.send_signal(number)
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (code, -number)  # the latter when Python is all but gone; alike to a shell
    assert (out, err) == ("", message)
    assert not (tmp_path / "out").exists()
