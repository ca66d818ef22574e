"""Waveforms: decode, encode, resample, normalize. A waveform is a float tensor (C, L), full scale 1; long ones come as
blocks (C, any length), one after the other."""

import json
import math
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from bsrnn.config import FORMATS

BLOCK = 2**16  # samples that are decoded at once
RMS_LEVEL = 0.1  # -20 dB; not in the paper, our choice
SILENT = 1e-30  # a peak that no gain makes audible
SYSTEM_ERROR = 2  # libsndfile's number for what the operating system refused
UNKNOWN, NEAR = 2**31, 2**12  # bytes: writing to a pipe, programs promise about a multiple of this (sox 4096 less)
WAV_BYTES = 0xFFFF0000  # that a wav file can hold; longer ones become RF64, which most programs read as well

# of what comes closest to the original: about 250 kbit/s in ogg, 320 kbit/s in mp3
COMPRESSION = {"OGG": {"compression_level": 0.2}, "MP3": {"compression_level": 0.0, "bitrate_mode": "CONSTANT"}}


@dataclass(frozen=True)
class Recording:
    """An audio file that is decoded block by block, from its beginning, as often as one likes."""

    path: Path
    sample_rate: int  # Hz
    channels: int
    length: int  # samples, as its header says; 0: unknown
    by_ffmpeg: bool = False

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Recording":
        """Look at a file: wav, flac, ogg, mp3 and others by libsndfile, anything else by the ffmpeg program.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not readable audio, or known to be cut off.
        """
        path = Path(path)
        if os.path.isdir(path):
            raise ValueError(f"{path}: is a folder, without audio files that can be read")
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise FileNotFoundError
            with path.open("rb") as file:
                if not file.read(1):
                    raise ValueError(f"{path}: is empty")
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"{path}: no such file") from None
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            with soundfile.SoundFile(path) as file:
                if match := _SIZES.search(file.extra_info):
                    promised, there = map(int, match.groups())
                    piped = promised > NEAR and (promised + NEAR) % UNKNOWN <= 2 * NEAR
                    if there < promised and not piped:
                        raise ValueError(f"{path}: is cut off: {there} of {promised} bytes of audio are there")
                unknown = (file.format == "MP3" and not _counts_frames(path)) or file.frames > 2**48
                if unknown and shutil.which("ffmpeg") and shutil.which("ffprobe"):
                    # libsndfile guesses the length of an mp3 from its beginning, and cannot read flac from a pipe
                    return cls(path, file.samplerate, file.channels, 0, by_ffmpeg=True)
                return cls(path, file.samplerate, file.channels, max(0, file.frames))
        except UnicodeEncodeError:
            raise ValueError(f"{path!r}: its name is not UTF-8: rename it") from None
        except (soundfile.LibsndfileError, OSError) as error:
            reason = str(getattr(error, "error_string", error)).strip().rstrip(".")
        if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
            raise ValueError(f"{path}: cannot be read as audio ({reason}); formats other than wav, flac, ogg and mp3 "
                             "take the ffmpeg program, which is not installed")  # fmt: skip
        return cls._probe(path, reason)

    @classmethod
    def _probe(cls, path, reason):
        command = ["ffprobe", *_FFMPEG_INPUT, _url(path), "-select_streams", "a:0", "-of", "json", "-show_entries",
                   "stream=sample_rate,channels,duration:format=format_name,nb_streams,duration"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        content = json.loads(done.stdout) if done.returncode == 0 else {}
        if not content.get("streams"):
            what = "holds no audio" if done.returncode == 0 else f"cannot be read as audio ({reason})"
            raise ValueError(f"{path}: {what}")
        stream = content["streams"][0]
        rate = int(stream["sample_rate"])
        container, duration = content["format"], stream.get("duration", 0)
        if container["format_name"] == "aac":
            duration = 0  # a guess from the first bit rate
        elif not duration and container["nb_streams"] == 1:  # else it may be that of a video
            duration = container.get("duration", 0)
        # containers round durations, and count samples that decoders leave out
        length = max(0, math.floor((float(duration) - 1) * rate))
        return cls(path, rate, int(stream["channels"]), length, by_ffmpeg=True)

    def blocks(self) -> Iterator[Tensor]:
        """The whole file as blocks (C, up to BLOCK).

        Raises:
            ValueError: it is damaged, cut off, empty, or holds samples that are not finite.
        """
        done = 0
        for block in self._by_ffmpeg() if self.by_ffmpeg else self._by_soundfile():
            finite = np.isfinite(block.numpy())
            if not finite.all():
                first = done + int(finite.all(0).argmin())
                raise ValueError(f"{self.path}: holds samples that are not finite (NaN or infinity), the first at "
                                 f"{first / self.sample_rate:.3f} s")  # fmt: skip
            done += block.shape[-1]
            yield block
        if done < self.length:
            raise ValueError(f"{self.path}: is cut off: {done / self.sample_rate:.1f} of "
                             f"{self.length / self.sample_rate:.1f} s can be read")  # fmt: skip
        if done == 0:
            raise ValueError(f"{self.path}: holds no samples")

    def _by_soundfile(self):
        try:
            with soundfile.SoundFile(self.path) as file:
                while len(samples := file.read(BLOCK, dtype="float32", always_2d=True)):
                    yield torch.from_numpy(samples.T)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{self.path}: is damaged or cut off ({_reason(error)})") from None

    def _by_ffmpeg(self):
        command = ["ffmpeg", "-xerror", *_FFMPEG_INPUT, _url(self.path), "-map", "0:a:0", "-f", "f32le",
                   "-ar", str(self.sample_rate), "-ac", str(self.channels), "-"]  # fmt: skip
        with tempfile.TemporaryFile() as messages:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages)
            try:
                while data := process.stdout.read(4 * self.channels * BLOCK):
                    yield torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, self.channels).T
                failed = process.wait()
            finally:
                process.kill()
                process.wait()
                process.stdout.close()
            if failed:
                messages.seek(0)
                lines = messages.read().decode(errors="replace").strip().splitlines()
                raise ValueError(f"{self.path}: is damaged ({lines[-1] if lines else 'ffmpeg failed'})")


def _counts_frames(path: Path) -> bool:
    """Whether an mp3 file tells its length, in a Xing, Info or VBRI header in its first frame."""
    with path.open("rb") as file:
        start = file.read(10)
        if start[:3] == b"ID3":  # tags come first, with a size of four times seven bits
            file.seek(10 + sum(byte << (7 * i) for i, byte in enumerate(reversed(start[6:10]))))
        first = file.read(512)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


# what libsndfile says of a file whose header promises more audio than there is, in wav, aiff, au and w64
_SIZES = re.compile(r"^ *(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_FFMPEG_INPUT = ("-v", "error", "-protocol_whitelist", "file", "-i")


def _url(path: Path) -> str:
    return f"file:{path.absolute()}"  # so that no name is taken for an option or a protocol


def _reason(error: soundfile.LibsndfileError) -> str:
    return error.error_string.strip().rstrip(".")


def read(path: str | os.PathLike) -> tuple[Tensor, int]:
    """Read a whole audio file: the waveform (C, L) and its sample rate in Hz.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not readable audio, cut off, has no samples, or has samples that are not finite.
    """
    recording = Recording.open(path)
    return torch.cat(list(recording.blocks()), -1), recording.sample_rate


class Encoder:
    """An audio file that is written block by block. All formats but "wav", which holds floats, cut off what exceeds
    full scale.

    Args:
        path: of the file, in a folder that exists.
        like: has the sample rate, the channels and the length of what will be written, as `Recording` does.
        form: one of `config.FORMATS`.

    Raises:
        ValueError: the format does not hold such a waveform.
        OSError: the file cannot be written; also when it is written to or closed.
    """

    def __init__(self, path: Path, like: Recording, form: str = "wav"):
        self.path, self.peak, self.length = path, 0.0, 0
        _, kind, subtype = FORMATS[form]
        if kind == "WAV" and like.length * like.channels * 4 > WAV_BYTES:
            kind = "RF64"
        path.touch()  # an OSError says more than libsndfile
        try:
            self._file = soundfile.SoundFile(path, "w", like.sample_rate, like.channels, subtype, format=kind,
                                             **COMPRESSION.get(kind, {}))  # fmt: skip
        except soundfile.LibsndfileError as error:
            if error.code == SYSTEM_ERROR:
                raise self._error() from None
            raise ValueError(f"{form} does not hold {like.channels} channels at {like.sample_rate} Hz: "
                             "choose wav") from None  # fmt: skip

    def write(self, block: Tensor) -> None:
        """Append a block (C, n); raises ValueError if it is not finite, OSError if it cannot be written."""
        if not block.numel():
            return
        peak = float(block.abs().max())
        if not math.isfinite(peak):
            raise ValueError(f"{self.path.stem}: the estimate is not finite: its model is broken")
        self.peak = max(self.peak, peak)
        self.length += block.shape[-1]
        try:
            self._file.write(self._convert(block).T.numpy())
        except (soundfile.LibsndfileError, AssertionError):  # the latter where less was written than wanted
            raise self._error() from None

    def _convert(self, block):
        if bits := {"PCM_16": 16, "PCM_24": 24}.get(self._file.subtype):  # libsndfile would round down
            scale = 2 ** (bits - 1)
            return (block * scale).round().clamp(-scale, scale - 1).to(torch.int32) << (32 - bits)
        return block if self._file.subtype == "FLOAT" else block.clamp(-1, 1)

    def close(self) -> None:
        """Finish the file; raises OSError if it is not complete."""
        self._file.close()
        if not self.length:
            return
        try:  # what an encoder holds back until the end is lost without a word on a full disk, and may be all there is
            with soundfile.SoundFile(self.path) as file:
                file.seek(self.length - 1)
                whole = len(file.read(1)) == 1
        except soundfile.LibsndfileError:
            whole = False
        if not whole:
            raise self._error()

    def _error(self):
        return OSError(f"{self.path.name}: cannot be written: no space left, or the file would be too large")

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(self, kind, *_) -> None:
        self.close() if kind is None else self._file.close()


def write(path: Path, blocks: Iterable[Tensor], like: Recording, form: str = "wav") -> float:
    """Encode a waveform that comes in blocks (C, n) to a file and return its peak, see `Encoder`."""
    with Encoder(path, like, form) as file:
        for block in blocks:
            file.write(block)
    return file.peak


def resample(waveform: Tensor, source_rate: float, target_rate: float) -> Tensor:
    """Resample (C, L) from one rate in Hz to another by libsoxr's band-limited interpolation."""
    return torch.cat(list(resampled([waveform], source_rate, target_rate)), -1)


def resampled(blocks: Iterable[Tensor], source_rate: float, target_rate: float) -> Iterator[Tensor]:
    """Resample a waveform that comes in blocks (C, n), with the same result however it is cut into blocks."""
    if source_rate == target_rate:
        yield from blocks
        return
    stream = None
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(source_rate, target_rate, len(block), dtype="float32")
        yield torch.from_numpy(stream.resample_chunk(block.T.contiguous().numpy()).T)
    if stream is not None:
        yield torch.from_numpy(stream.resample_chunk(block[:, :0].T.contiguous().numpy(), last=True).T)


@dataclass(frozen=True)
class Levels:
    """How long and how loud a waveform is."""

    length: int  # samples
    rms: float
    peak: float

    @classmethod
    def of(cls, blocks: Iterable[Tensor]) -> "Levels":
        """Of a waveform that comes in blocks (C, n)."""
        length, energy, count, peak = 0, 0.0, 0, 0.0
        for block in blocks:
            length += block.shape[-1]
            count += block.numel()
            samples = block.numpy()  # cores that share such small sums wait for each other on a busy machine
            energy += float(np.square(samples, dtype=np.float64).sum())
            peak = max(peak, float(np.abs(samples).max(initial=0)))
        return cls(length, math.sqrt(energy / count), peak)

    @property
    def gain(self) -> float:
        """Brings the waveform to an RMS of 0.1 and, where that would exceed full scale, its peak to 1.

        Multiply the mixture and its targets by the same gain, so that stems still sum to the mixture, and divide the
        estimates by it. Silence keeps a gain of 1. Refined BSRNN; the level is our choice.
        """
        return min(RMS_LEVEL / self.rms, 1 / self.peak) if self.peak > SILENT else 1.0
