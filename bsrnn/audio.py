"""Waveforms: decode, encode, resample, normalize. A waveform is a float tensor (C, L), full scale 1; long ones come as
blocks (C, any length). libsndfile decodes what it provably reads whole, wherever the reading starts. Everything else is
decoded by libav, the libraries of FFmpeg, which come with PyAV: mp3 and other formats, joined files, files that do not
say how long they are. What is damaged or cut off is refused."""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
import torch
from av.error import FFmpegError, PatchWelcomeError
from av.stream import Disposition
from torch import Tensor

from bsrnn import containers
from bsrnn.config import FORMATS

SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .mp2 .aif .aiff .aifc .au .caf .w64 .wv "
    ".m4a .m4b .aac .mp4 .mov .webm .mka .mkv .avi .wma".split()
)
BLOCK = 2**16  # samples that are decoded at once
LEAD = 2**14  # samples that are decoded before a part, since compressed frames build on those before
NEVER = 2**62  # samples: more than any file has
SLACK = 0.01  # s: containers round durations
RMS_LEVEL = 0.1  # -20 dB; not in the paper, our choice
SILENT = 1e-30  # a peak that no gain makes audible
SYSTEM_ERROR = 2  # libsndfile's number for what the operating system refused
# bytes that headers written to a pipe promise, the first in aiff; sox promises up to 4096 less
UNKNOWN, NEAR = (0x7F000000, 2**31, 2**32, 2**63), 2**12
WAV_BYTES = 0xFFFF0000  # that a wav file can hold; longer ones become RF64, which most programs read as well
# about 250 kbit/s in ogg, 320 kbit/s in mp3
COMPRESSION = {"OGG": {"compression_level": 0.2}, "MP3": {"compression_level": 0.0, "bitrate_mode": "CONSTANT"}}
_UNCOMPRESSED = (b"RIFF", b"RIFX", b"RF64", b"FORM", b".snd", b"riff", b"caff")  # starts of wav, aiff, au, w64, caf
# what libsndfile says of a file whose header promises more than there is
_SIZES = re.compile(r"^ *(?:data|SSND|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_FRAMES = ("mp3", "aac")  # libav's names of formats of nothing but one frame after the other
_EXACT = ("mp3", "mov,mp4,m4a,3gp,3g2,mj2")  # of those that tell the exact place of each frame
_TIMED = ("asf", "flv", "matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2")  # and of those that tell it within some ms
_STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}


@dataclass(frozen=True)
class Recording:
    """An audio file, or one stream of it, that is decoded block by block or in parts, as often as one likes."""

    path: Path
    sample_rate: int  # Hz
    channels: int
    length: int  # samples; where libav decodes, about, until `measured`
    stream: int | None = None  # that libav decodes; None: libsndfile decodes the file
    lead: int = 0  # samples before a part from which it is decoded, so that it equals that part of the whole
    delay: int = 0  # samples of silence at the beginning, where a video starts before its sound

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Recording":
        """A file's default stream. Raises FileNotFoundError, or ValueError where it is known not to be whole audio."""
        return recordings(path)[0]

    def measured(self) -> "Recording":
        """The same with its length in samples, for which it may have to be decoded; raises what `blocks` does."""
        if self.stream is None:
            return self
        return replace(self, length=sum(block.shape[-1] for block in self.blocks()))

    def blocks(self) -> Iterator[Tensor]:
        """The whole file as blocks (C, up to BLOCK). Raises ValueError where it is damaged, cut off, empty, or holds
        samples that are not finite."""
        return self._decoded(0, self.length if self.stream is None else NEVER)

    def read(self, start: int = 0, frames: int = -1) -> Tensor:
        """Samples (C, frames) from `start` on; -1: the rest of a `measured` file. Raises what `blocks` does."""
        stop = self.length if frames < 0 else start + frames
        return torch.cat([torch.zeros(self.channels, 0), *self._decoded(start, stop)], -1)

    def _decoded(self, start: int, stop: int) -> Iterator[Tensor]:
        """The samples from `start` to `stop` in blocks, which are finite; NEVER: what is there, at least one."""
        least = 1 if stop == NEVER else stop
        first = max(0, start - self.lead)
        for place, decoded in self._by_libsndfile(first, stop) if self.stream is None else self._by_libav(first):
            block = decoded[:, max(0, start - place) : stop - place]
            finite = np.isfinite(block.numpy())
            if not finite.all():
                second = (start + int(finite.all(0).argmin())) / self.sample_rate
                raise ValueError(f"{self.path}: holds samples that are not finite, the first at {second:.3f} s")
            start += block.shape[-1]
            yield block
            if start == stop:
                return
        if start < least:
            seconds = f"{start / self.sample_rate:.2f} of {least / self.sample_rate:.2f} s"
            raise ValueError(f"{self.path}: is damaged, cut off or empty: {seconds} can be read")

    def _by_libsndfile(self, place, stop):
        """Blocks with their places in samples, as `_by_libav` gives them; the first does not begin after `place`."""
        try:
            with soundfile.SoundFile(self.path) as file:
                file.seek(place)
                while len(samples := file.read(min(stop - place, BLOCK), dtype="float32", always_2d=True)):
                    yield place, torch.from_numpy(samples.T)
                    place += len(samples)
        except soundfile.LibsndfileError as error:
            what = "cannot be read" if error.code == SYSTEM_ERROR else "is damaged or cut off"
            raise ValueError(
                f"{self.path}: {what} after {place / self.sample_rate:.1f} s ({error.error_string.rstrip('.')})"
            ) from None

    def _by_libav(self, start):
        yield 0, torch.zeros(1, 1).expand(self.channels, self.delay)  # however long, of no size
        converter, place = av.AudioResampler("fltp", frame_size=BLOCK), None
        for first, frame in chain(self._frames(max(0, start - self.delay)), [(0, None)]):
            place = first if place is None else place
            for part in converter.resample(frame):
                yield self.delay + place, torch.from_numpy(part.to_ndarray())
                place += part.samples

    def _frames(self, start):
        """Frames with their places in samples, from one on that is not after `start`."""
        place, due = 0, 0  # samples: by counting, and by the file's clock
        try:
            with containers.opened(self.path) as container:
                stream, name = container.streams[self.stream], container.format.name
                stream.codec_context.options, stream.codec_context.thread_count = _STRICT, 1
                origin, tick = stream.start_time or 0, float(stream.time_base * self.sample_rate)
                early = origin + int(start / tick)
                if start and name not in _FRAMES:
                    container.seek(early, stream=stream)
                checked = containers.whole_frames if name in _FRAMES else _whole_packets
                for packet in checked(self.path, container):
                    skipped = start and packet.pts is not None and packet.pts + (packet.duration or 0) <= early
                    for frame in [] if skipped or packet.stream is not stream else packet.decode():
                        if (frame.sample_rate, frame.layout.nb_channels) != (self.sample_rate, self.channels):
                            raise PatchWelcomeError(0, "")  # as libav itself does in some formats
                        told = -1 if frame.pts is None else round((frame.pts - origin) * tick)
                        slack = max(SLACK * self.sample_rate, frame.samples / 2)
                        if (name == "flac" and told != place) or (
                            name in _TIMED and due and told >= 0 and abs(told - due) > slack
                        ):
                            raise ValueError("a part is missing, or another file follows")
                        place = told if name in _EXACT else place
                        yield place, frame
                        place, due = place + frame.samples, told + frame.samples if told >= 0 else 0
        except (FFmpegError, ValueError) as error:
            what = "is damaged or cut off" if isinstance(error, ValueError) else "cannot be read"
            changes = isinstance(error, PatchWelcomeError) and "its sample rate or channels change: convert it to wav"
            seconds, reason = (place + self.delay) / self.sample_rate, changes or getattr(error, "strerror", error)
            raise ValueError(f"{self.path}: {what} after {seconds:.1f} s ({reason})") from None


def _whole_packets(path, container):
    """All packets of a file that libav opened; raises ValueError where one is not whole or missing at the end."""
    reached, whole, begin = 0, (container.duration or 0) / av.time_base, (container.start_time or 0) / av.time_base
    if container.format.name == "avi":  # tells frames, no duration: ffmpeg 2^30 in a pipe, and of wma one too many
        whole = max((x.frames % 2**30 - ("wma" in x.name)) * float(x.time_base) for x in container.streams.audio)
    for packet in container.demux():
        if packet.is_corrupt:
            raise ValueError("a packet is not whole")
        reached = max(reached, ((packet.pts or 0) + (packet.duration or 0)) * float(packet.time_base))
        yield packet
    if reached - begin < whole - SLACK:
        raise ValueError(f"{reached - begin:.2f} of {whole:.2f} s are there")


def recordings(path: str | os.PathLike) -> list[Recording]:
    """The audio streams of a file: all of them where libav decodes it, else one; the default one first. Raises what
    `Recording.open` does."""
    path = Path(path)
    try:
        str(path).encode()
        if os.path.isdir(path):
            raise ValueError(f"{path}: is a folder, without audio files that can be read")
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as file:
            start = file.read(4)
        if not start:
            raise ValueError(f"{path}: is empty")
        page = start == b"OggS" and containers.last_ogg_page(path)
        whole = page or start in _UNCOMPRESSED or (start == b"fLaC" and containers.is_one_flac(path))
        # a page that ends before its packets do is misplaced by libsndfile, unless the one before is decoded too
        recording = _opened(path, LEAD + page if page else 0) if whole else None
        return [recording] if recording else _streams(path)
    except UnicodeEncodeError:
        raise ValueError(f"{str(path)!r}: its name is not UTF-8: rename it") from None
    except FFmpegError as error:  # of which some are errors of the system as well
        raise ValueError(f"{path}: cannot be read as audio ({error.strerror})") from None
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def _opened(path: Path, lead: int) -> Recording | None:
    """A file that libsndfile decodes; None if it does not, or would guess the length, as that of MPEG in a wav file."""
    with suppress(soundfile.LibsndfileError), soundfile.SoundFile(path) as file:
        sizes = _SIZES.search(file.extra_info)
        promised, there = map(int, sizes.groups()) if sizes else (1, 1)
        if promised > there and all(abs(promised - size) > NEAR for size in UNKNOWN):
            raise ValueError(f"{path}: is cut off: {there} of {promised} bytes of audio are there")
        if promised < there or not file.frames:
            raise ValueError(f"{path}: holds no samples, or its header was never finished: repair it")
        if not file.subtype.startswith("MPEG"):
            return Recording(path, file.samplerate, file.channels, file.frames, lead=lead)


def _streams(path: Path) -> list[Recording]:
    """The audio streams that libav decodes, the default one first."""
    found = []
    with containers.opened(path) as container:
        lead = LEAD if container.format.name in _EXACT else NEVER
        begin = (container.start_time or 0) / av.time_base
        for stream in sorted(container.streams.audio, key=lambda stream: not stream.disposition & Disposition.default):
            if stream.codec_context and stream.codec_context.channels:
                rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
                delay = max(0, round(((stream.start_time or 0) * stream.time_base - begin) * rate))
                length = delay + int((stream.duration or 0) * stream.time_base * rate)
                found.append(Recording(path, rate, channels, length, stream.index, lead, delay))
    if not found:
        raise ValueError(f"{path}: holds no audio")
    return found


def read(path: str | os.PathLike) -> tuple[Tensor, int]:
    """A whole audio file: its waveform (C, L) and sample rate in Hz. Raises what `Recording.open` and `blocks` do."""
    recording = Recording.open(path)
    return torch.cat(list(recording.blocks()), -1), recording.sample_rate


def write(paths: Sequence[Path], blocks: Iterable[Tensor], like: Recording, form: str = "wav") -> float:
    """Encode waveforms that come together in blocks (S, C, n), each to its file in a folder that exists, and return
    their peak. `like` has the sample rate, the channels and the length of each. A `form` is one of `config.FORMATS`;
    all but "wav", which holds floats, cut off what exceeds full scale. Raises ValueError where the format does not hold
    them or they are not finite, OSError where a file cannot be written."""
    _, kind, subtype = FORMATS[form]
    if kind == "WAV" and like.length * like.channels * 4 > WAV_BYTES:
        kind = "RF64"
    steps = 2**15 if subtype == "PCM_16" else 2**23  # of full scale
    full = OSError(errno.ENOSPC, "no space left, or a file would be too large", str(paths[0]))
    files, peak = [], 0.0
    try:
        with ExitStack() as stack:
            for path in paths:
                path.touch()  # an OSError says more than libsndfile
                file = soundfile.SoundFile(
                    path, "w", like.sample_rate, like.channels, subtype, format=kind, **COMPRESSION.get(kind, {})
                )
                files.append(stack.enter_context(file))
            for block in blocks:
                for path, file, signal in zip(paths, files, block, strict=True):
                    peak = max(_peak(signal), peak)  # in this order NaN stays
                    if not np.isfinite(peak):
                        raise ValueError(f"{path.stem}: the estimate is not finite: its model is broken")
                    if form != "wav":  # to the nearest step, as libsndfile would round down
                        signal = (signal.clamp(-1, 1) * steps).round() / steps
                    try:
                        file.write(signal.T.numpy())
                    except AssertionError:  # less was written than wanted
                        raise full from None
        # what an encoder holds back until the end is lost without a word on a full disk, and may be all there is
        if not all(len(soundfile.read(file.name, 1, file.frames - 1)[0]) for file in files if file.frames):
            raise full
    except soundfile.LibsndfileError as error:
        if len(files) < len(paths) and error.code != SYSTEM_ERROR:
            raise ValueError(
                f"{form} does not hold {like.channels} channels at {like.sample_rate} Hz: choose wav"
            ) from None
        raise full from None
    return peak


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
        stream = stream or soxr.ResampleStream(source_rate, target_rate, len(block), dtype="float32")
        yield torch.from_numpy(stream.resample_chunk(block.T.contiguous().numpy()).T)
    if stream:
        yield torch.from_numpy(stream.resample_chunk(block[:, :0].T.contiguous().numpy(), last=True).T)


def _peak(block: Tensor) -> float:  # by numpy: cores that share so small a sum wait for each other on a busy machine
    return float(np.abs(block.numpy()).max(initial=0))


@dataclass(frozen=True)
class Levels:
    """How long, wide and loud a waveform is."""

    length: int  # samples
    channels: int
    rms: float
    peak: float

    @classmethod
    def of(cls, blocks: Iterable[Tensor]) -> "Levels":
        """Of a waveform that comes in blocks (C, n)."""
        length, energy, peak = 0, 0.0, 0.0
        for block in blocks:
            length += block.shape[-1]
            energy += float(np.square(block.numpy(), dtype=np.float64).sum()) / len(block)
            peak = max(peak, _peak(block))
        return cls(length, len(block), (energy / length) ** 0.5, peak)

    @property
    def gain(self) -> float:
        """Brings the waveform to an RMS of 0.1, or, where that exceeds full scale, its peak to 1; silence keeps a gain
        of 1. Targets take the mixture's, and estimates are divided by it. Refined BSRNN; the level is our choice."""
        return min(RMS_LEVEL / self.rms, 1 / self.peak) if self.peak > SILENT else 1.0
