"""Whether a compressed audio file is one whole recording, which libsndfile reads to its end.

It would read of joined files the first one only, and of one that was cut off what is left, without a word.
"""

import mmap
import re
import zlib
from pathlib import Path

_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))  # Ogg's checksums are zlib's with mirrored bits
_MP3_FRAME = re.compile(rb"\xff[\xe2-\xff]")
_XING = re.compile(rb"(?:Xing|Info)...[\1\3\5\7\x09\x0b\x0d\x0f](....)", re.DOTALL)  # with the number of frames
_BITRATES = (  # kbit/s: MPEG 2 and 2.5; MPEG 1 layer 2; MPEG 1 layer 3
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)


def is_one_ogg(path: Path) -> bool:
    """Whether an Ogg file is one stream; raises ValueError if it is damaged or cut off."""
    streams, running, size = 0, set(), path.stat().st_size
    with path.open("rb") as file:
        while (place := file.tell()) < size:
            header = file.read(27)
            if not running and streams and header[:4] != b"OggS":
                return False  # something else follows
            segments = file.read(header[-1])
            body = file.read(sum(segments))
            page = (header[:22] + bytes(4) + header[26:] + segments + body).translate(_MIRRORED)
            checksum = (zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big").translate(_MIRRORED)
            if header[:4] != b"OggS" or header[22:26] != checksum:
                what = "is cut off" if file.tell() == size else "is damaged"
                raise ValueError(f"{path}: {what} at byte {place} of {size}")
            serial = header[14:18]
            if header[5] & 2:  # the first page of a stream
                streams += 1
                running.add(serial)
            if header[5] & 4:  # its last page
                running.discard(serial)
    if running:
        raise ValueError(f"{path}: is cut off: its last page is missing")
    return streams == 1


def is_one_flac(path: Path) -> bool:
    """Whether a FLAC file has no frame after the last one that its header tells of."""
    place, last = 4, 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        shortest, longest, total = (_number(content[part]) for part in (slice(8, 10), slice(10, 12), slice(18, 26)))
        while not last and place < len(content):  # blocks of metadata
            last, place = content[place] & 128, place + 4 + _number(content[place + 1 : place + 4])
        frame, total = content[place : place + 4], total % 2**36
        if not total or not 0 < shortest == longest or frame[:2] != b"\xff\xf8":
            return False
        # the start of a frame of any size and channels, of the same rate and depth, with the number after the last one
        rate, depth = (re.escape(bytes(high | low & 15 for high in range(0, 256, 16))) for low in frame[2:])
        number = re.escape(chr(-(-total // longest)).encode(errors="surrogatepass"))
        return not re.compile(b"\xff\xf8[%b][%b]%b" % (rate, depth, number)).search(content, place)


def _number(big_endian: bytes) -> int:
    return int.from_bytes(big_endian, "big")


def is_one_mp3(path: Path) -> bool:
    """Whether an MP3 file is one row of as many frames as its first one tells; raises ValueError if it is cut off."""
    rows, place = [], 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        while found := _MP3_FRAME.search(content, place):
            start, place, count = found.start(), found.start(), 0
            while size := _mp3_frame(content[place : place + 4]):
                place, count = place + size, count + 1
            if count > 3:
                rows.append((count, content[start : start + 512]))
            else:  # it was none
                place = start + 1
        if place > len(content):
            raise ValueError(f"{path}: is cut off: its last frame is not whole")
    if len(rows) != 1 or not (header := _XING.search(rows[0][1])):
        return False
    count, promised = rows[0][0] - 1, _number(header[1])
    if count + 1 < promised:
        raise ValueError(f"{path}: is cut off: {count} of {promised} frames are there")
    return count <= promised


def _mp3_frame(header: bytes) -> int:
    """The size of a frame of MPEG audio in bytes, 0 where none starts."""
    if not _MP3_FRAME.match(header) or len(header) < 4:
        return 0
    version, layer = 3 - (header[1] >> 3 & 3), 4 - (header[1] >> 1 & 3)  # version 0: MPEG 1, 1: 2, 3: 2.5
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 2 or layer not in (2, 3) or bitrate in (0, 15) or rate == 3:
        return 0
    bits = _BITRATES[0 if version else layer - 1][bitrate - 1] * 1000 * (72 if version and layer == 3 else 144)
    return bits // ((44_100, 48_000, 32_000)[rate] >> (version + 1) // 2) + (header[2] >> 1 & 1)
