"""Whether a compressed audio file is one whole recording: of joined ones libsndfile would read the first one only, and
of one that was cut off libav would read what is left."""

import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # Ogg's checksums are zlib's with mirrored bits
_XING = re.compile(rb"(?:Xing|Info)...[\1\3\5\7\x09\x0b\x0d\x0f](....)", re.DOTALL)  # with the number of frames
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")  # how every file starts, which compressed samples hardly ever spell
_SYNC, _LARGEST_FRAME = 0xFF, 2**12  # the byte that frames of MP3 and AAC start with, and how many they may have
_OPTIONS = {  # no playlists, which would open other files, and nothing of which one cannot say whether it was cut off
    "format_whitelist": "aac,aiff,amr,ape,asf,avi,dsf,flac,flv,matroska,mov,mp3,nistsphere,ogg,tak,tta,voc,wav,webm,wv",
    "protocol_whitelist": "file",
}


def opened(path: Path) -> Any:  # an InputContainer, of whose streams the type stubs know too little
    """A file that libav opens; no name is taken for another protocol."""
    return av.open(f"file:{path.absolute()}", options=_OPTIONS)


def last_ogg_page(path: Path) -> int:
    """How many samples the last page of an Ogg file that is one stream may hold; 0 where it is not one stream, or was
    cut out of one. Raises ValueError if the file is damaged or cut off."""
    begun, ended, size, ends = 0, 0, path.stat().st_size, [0, 0]  # streams, bytes, and samples until each page's end
    with path.open("rb") as file:
        while (place := file.tell()) < size:
            header = file.read(27)
            if begun and begun == ended and header[:4] != b"OggS":
                return 0  # something else follows
            segments = file.read(header[-1])
            page = (header[:22] + bytes(4) + header[26:] + segments + file.read(sum(segments))).translate(_MIRRORED)
            checksum = (zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big").translate(_MIRRORED)
            if header[:4] != b"OggS" or header[22:26] != checksum:
                what = "is cut off" if file.tell() == size else "is damaged"
                raise ValueError(f"{path}: {what} at byte {place} of {size}")
            begun += bool(header[5] & 2)  # with the first page of a stream
            ended += bool(header[5] & 4)
            ends.append(max(ends[-1], int.from_bytes(header[6:14], "little", signed=True)))  # -1: no packet ends there
    if ended < begun:
        raise ValueError(f"{path}: is cut off: its last page is missing")
    with opened(path) as container:
        first = next(container.demux())
    return max(1, ends[-1] - ends[-2]) if begun == 1 and (first.pts or 0) + (first.duration or 0) >= 0 else 0


def is_one_flac(path: Path) -> bool:
    """Whether a FLAC file tells how long it is, and neither a frame nor another file follows."""
    with path.open("rb") as file:
        file.seek(4)
        blocks = pairwise(chain([b""], iter(lambda: file.read(2**20), b"")))
        joined = any(_FLAC.search(before[-7:] + block) for before, block in blocks)
    with opened(path) as file, suppress(FFmpegError):  # of the seek, in one that has hardly a frame
        stream = file.streams[0]
        if stream.duration and not joined:
            file.seek(stream.duration, stream=stream)
            return all(packet.pts is None or packet.pts < stream.duration for packet in file.demux())
    return False


def whole_frames(path: Path, container: Any) -> Iterator[av.Packet]:
    """The packets of a file of nothing but frames, such as MP3, without what follows them; raises ValueError where one
    is damaged, and at the end if there are fewer than a header tells, or if the last one is not whole."""
    count, promised, last, other, late = 0, 0, None, False, 0
    for packet in container.demux():
        if packet.size and packet.stream.type == "audio":
            if last is None:
                promised = _promised(path, packet.pos or 0)
            if memoryview(packet)[0] != _SYNC:  # zeros or an unknown tag, which must end it, or a joined file's tag
                other |= bytes(packet)[:3] not in (b"TAG", b"ID3")
                late += packet.duration or 0  # libav takes it for a frame
                continue
            if other:
                raise ValueError("something else lies between its frames")
            count, last = count + 1, packet
            packet.pts = packet.pts and packet.pts - late
        yield packet
    if count + 1 < promised:
        raise ValueError(f"{count} of {promised} frames are there")
    if last:
        parser = av.CodecContext.create(last.stream.codec_context.name, "r")
        whole = parser.parse(bytes(last) + bytes(_LARGEST_FRAME))
        if whole and whole[0].size > last.size:
            raise ValueError("its last frame is not whole")


def _promised(path: Path, first: int) -> int:
    """How many frames the header of an MP3 file tells of that lies before the first one; 0 where there is none."""
    with path.open("rb") as file:
        file.seek(max(0, first - _LARGEST_FRAME))
        header = _XING.search(file.read(min(first, _LARGEST_FRAME)))
    return int.from_bytes(header[1], "big") if header else 0
