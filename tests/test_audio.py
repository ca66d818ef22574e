import io
import re
import shutil
import struct
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import soundfile
import torch

from bsrnn import audio
from bsrnn.data import open_stems

FFMPEG = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="the ffmpeg program, which makes a file, is not there")


def like(rate, channels, length=1000):
    return audio.Recording(None, rate, channels, length)


def test_write_and_read(tmp_path):
    waveform = torch.randn(2, 1000) * 2  # beyond full scale: float files keep it
    peak = audio.write([tmp_path / "a.wav"], waveform[None].split(300, -1), like(48_000, 2))
    read, rate = audio.read(tmp_path / "a.wav")
    assert torch.equal(read, waveform)
    assert (rate, peak) == (48_000, float(waveform.abs().max()))


def test_files_that_are_too_long_for_wav(tmp_path):
    for length, kind in ((2**28, "WAV"), (2**30, "RF64")):
        audio.write([tmp_path / "a.wav"], [torch.zeros(1, 2, 10)], like(44_100, 2, length))
        assert soundfile.info(tmp_path / "a.wav").format == kind
        assert audio.read(tmp_path / "a.wav")[0].shape == (2, 10)


@pytest.mark.parametrize("seed", range(8))
def test_resampling_in_blocks(seed):
    draw = np.random.default_rng(seed)
    source, target = (int(rate) for rate in draw.choice([8_000, 11_025, 22_050, 44_100, 44_101, 48_000, 192_000], 2))
    waveform = torch.randn(int(draw.integers(1, 4)), int(draw.integers(1, 60_000)))
    whole = audio.resample(waveform, source, target)
    assert abs(whole.shape[-1] - waveform.shape[-1] * target / source) <= 1
    size = int(draw.integers(1, 20_000))
    assert torch.equal(torch.cat(list(audio.resampled(waveform.split(size, -1), source, target)), -1), whole)


def test_resampling_keeps_what_both_rates_hold():
    time = torch.arange(44_100).double() / 44_100
    low, high = (torch.sin(2 * torch.pi * hertz * time).float() for hertz in (1_000, 15_000))
    inner = slice(2_000, -2_000)
    halved = audio.resample(torch.stack([low, high]), 44_100, 22_050)
    assert float((halved[0] - low[::2])[inner].abs().max()) < 1e-4
    assert float(halved[1, inner].abs().max()) < 1e-4  # what would alias is gone


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats(tmp_path, suffix):
    tone = np.sin(np.arange(22_050) / 10)[:, None] * 0.5
    soundfile.write(tmp_path / f"a.{suffix}", np.repeat(tone, 2, 1), 22_050)
    waveform, rate = audio.read(tmp_path / f"a.{suffix}")
    assert (rate, len(waveform)) == (22_050, 2)
    assert abs(waveform.shape[1] - 22_050) < 1500
    assert float(waveform.square().mean().sqrt()) == pytest.approx(0.3535, abs=0.02)


PLAYLISTS = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nb.wav\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile b.wav\n",
)
NO_AUDIO = [
    b"not audio at all" * 10,
    b"RIFF",
    *PLAYLISTS,
    PLAYLISTS[0] + bytes(range(256)),
    b"fLaC\0",
    b"ID3\4" + bytes(99),
]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"OggS\0", "is cut off"), *((content, "cannot be read as audio") for content in NO_AUDIO)],
)
def test_unreadable(tmp_path, content, message):
    soundfile.write(tmp_path / "b.wav", np.zeros(8_000), 8_000)  # which a playlist must not open
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^[^\n]*({message})[^\n]*$"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("promised", "whole"),
    [
        *((size, False) for size in (32_004, 1_500_000_000, 2**31 - 10_000, 3_000_000_000, 2**32 - 10_000)),
        *((size, True) for size in (2**31 - 2**12, 2**31 - 1, 2**31, 2**31 + 36, 2**32 - 2**12, 2**32 - 37, 2**32 - 1)),
    ],
)
def test_what_a_header_promises(tmp_path, promised, whole):
    """Sizes that programs write into a pipe, because they do not know better, are no promise."""
    soundfile.write(tmp_path / "a.wav", np.zeros((8_000, 2)), 8_000)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", min(promised + 36, 2**32 - 1)), struct.pack("<I", promised)
    (tmp_path / "a.wav").write_bytes(content)
    if whole:
        assert audio.read(tmp_path / "a.wav")[0].shape == (2, 8_000)
    else:
        with pytest.raises(ValueError, match=f"is cut off: 32000 of {promised} bytes"):
            audio.read(tmp_path / "a.wav")


# files that do not say how long they are, or say it wrongly


def sound(form, seconds=2.0, rate=48_000, subtype=None, **options):
    """The content of a file of noise."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), 2))
    soundfile.write(file, noise, rate, subtype, format=form, **options)
    return file.getvalue()


def damaged(content, place=0.5, new=bytes(range(200))):
    place = round(place * len(content))
    return content[:place] + new + content[place + len(new) :]


def cut(content, share=0.7):
    return content[: round(share * len(content))]


def told(flac, total):
    """A FLAC file that tells another number of samples, less than 2^32; 0 is unknown."""
    return flac[:22] + struct.pack(">I", total) + flac[26:]


def untold(mp3):
    return re.sub(b"Xing|Info", bytes(4), mp3)


VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.9}
CONSTANT = {"bitrate_mode": "CONSTANT", "compression_level": 0}
ID3 = b"ID3\3\0\0\0\0\x4e\x10" + bytes(10_000)
APE = b"APETAGEX" + struct.pack("<4I", 2_000, 20_032, 1, 0x80 << 24) + bytes(8) + bytes(range(200)) * 100
WHOLE = {  # content and seconds
    "joined.ogg": (lambda: sound("OGG") + sound("OGG", 1), 3),
    "joined.opus": (lambda: sound("OGG", subtype="OPUS") + sound("OGG", 1, subtype="OPUS"), 3),
    "joined.mp3": (lambda: sound("MP3") + sound("MP3", 1), 3),
    "constant, untold.mp3": (lambda: untold(sound("MP3", bitrate_mode="CONSTANT")), 2),
    "variable, untold.mp3": (lambda: untold(sound("MP3", **VARIABLE)), 2),
    "less told.flac": (lambda: told(sound("FLAC"), 40_000), 2),
    "piped.flac": (lambda: told(sound("FLAC"), 0), 2),
    "tagged.flac": (lambda: ID3 + sound("FLAC"), 2),
    "flac.wav": (lambda: sound("FLAC"), 2),
    "wav.mp3": (lambda: sound("WAV"), 2),
    "mp3.ogg": (lambda: sound("MP3"), 2),
    "tagged.mp3": (lambda: ID3 + sound("MP3", **VARIABLE) + b"TAG" + bytes(125), 2),
    "joined, tagged.mp3": (lambda: sound("MP3") + b"TAG" + bytes(125) + ID3 + sound("MP3", 1), 3),
    "piped by sox.aiff": (lambda: re.sub(b"SSND....", b"SSND\x7f\0\0\x08", sound("AIFF"), flags=re.DOTALL), 2),
    "ends with a picture.mp3": (lambda: sound("MP3") + APE, 2),
    "ends with lyrics.mp3": (lambda: sound("MP3") + b"LYRICSBEGINlalala000006LYRICS200" * 9, 2),
    "ends with zeros.mp3": (lambda: sound("MP3") + bytes(5_000), 2),
}
CHANGE = "its sample rate or channels change"
LOST = {
    "cut.ogg": (lambda: cut(sound("OGG")), r"is cut off at byte \d+ of \d+"),
    "cut.opus": (lambda: cut(sound("OGG", subtype="OPUS")), "is cut off at byte"),
    "no last page.ogg": (lambda: sound("OGG")[: sound("OGG").rindex(b"OggS")], "its last page is missing"),
    "scratched.ogg": (lambda: damaged(sound("OGG")), "is damaged at byte"),
    "scratched, joined.ogg": (lambda: sound("OGG") + damaged(sound("OGG")), "is damaged at byte"),
    "cut.mp3": (lambda: cut(sound("MP3")), "after 1.. s .60 of 85 frames are there"),
    "cut, untold.mp3": (lambda: cut(untold(sound("MP3"))), "its last frame is not whole"),
    "cut between frames.mp3": (lambda: sound("MP3", **CONSTANT)[: 960 * 30], "29 of 85 frames are there"),
    "scratched.mp3": (lambda: damaged(sound("MP3")), "is damaged or cut off after [01].. s"),
    "cut.flac": (lambda: cut(sound("FLAC")), "is damaged or cut off after"),
    "scratched, piped.flac": (lambda: damaged(told(sound("FLAC"), 0)), "is damaged or cut off after [01].. s"),
    "cut, piped.flac": (lambda: cut(told(sound("FLAC"), 0)), "is damaged or cut off after 1.. s"),
    "scratched, untold.mp3": (lambda: damaged(untold(sound("MP3"))), "is damaged or cut off after [01].. s"),
    "joined.flac": (lambda: sound("FLAC") + sound("FLAC"), "or another file follows"),
    "joined to a longer one.flac": (lambda: sound("FLAC", 1) + sound("FLAC"), "or another file follows"),
    "joined to a shorter one.flac": (lambda: sound("FLAC") + sound("FLAC", 1), "or another file follows"),
    "another rate.ogg": (lambda: sound("OGG") + sound("OGG", 1, 44_100), f"after 2.0 s .{CHANGE}"),
    "another rate.mp3": (lambda: sound("MP3") + sound("MP3", 1, 44_100), f"after 2.. s .{CHANGE}"),
    "never finished.w64": (lambda: sound("W64")[:16] + bytes(8) + sound("W64")[24:], "never finished: repair it"),
    "never finished.wav": (lambda: sound("WAV")[:40] + bytes(4) + sound("WAV")[44:], "never finished: repair it"),
    **{
        f"cut.{form.lower()}": (lambda form=form: cut(sound(form)), "cut off|cannot be read as audio")
        for form in "AIFF AU AVR CAF IRCAM MAT4 MAT5 MPC2K NIST PAF PVF RF64 VOC W64 WAV WAVEX".split()
    },
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_there_is_read_whole_and_in_parts(tmp_path, capfd, name):
    make, seconds = WHOLE[name]
    (tmp_path / name).write_bytes(make())
    recording = audio.Recording.open(tmp_path / name)
    whole = torch.cat(list(recording.blocks()), -1)
    assert abs(whole.shape[-1] / recording.sample_rate - seconds) < 0.08
    for second in whole.split(recording.sample_rate, -1)[:seconds]:
        assert float(second.std()) == pytest.approx(0.1, rel=0.6)
    recording = recording.measured()
    assert recording.length == whole.shape[-1]
    for start, frames in ((0, 100), (70_001, 5_000), (whole.shape[-1] - 7, 7)):
        part = recording.read(start, frames)
        torch.testing.assert_close(part, whole[:, start : start + frames], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="is damaged, cut off or empty: "):
        recording.read(whole.shape[-1] - 7, 8)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", LOST)
def test_what_is_lost_is_told(tmp_path, capfd, name):
    make, message = LOST[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(ValueError, match=rf"^[^\n]*{name}: .*({message})[^\n]*$"):
        audio.read(tmp_path / name)
    assert capfd.readouterr().err == ""


PICTURE = ["-f", "lavfi", "-i", "color=c=red:s=16x16:d=4:r=10"]
SHORT_PICTURE, SILENCE = ([*PICTURE[:3], source] for source in ("color=c=red:s=16x16:d=1", "anullsrc=d=1"))
BOTH = ["-map", "0", "-map", "1"]


@FFMPEG
@pytest.mark.parametrize(
    ("name", "inputs", "options", "seconds"),
    [
        *((f"a.{form}", [], [], 2) for form in "m4a webm aac wma avi wv mp2".split()),
        ("a.wav", [], ["-c:a", "libmp3lame"], 2),
        ("ac3.wav", [], ["-c:a", "ac3"], 2),
        ("uncompressed.avi", [], ["-c:a", "pcm_s16le"], 2),
        ("short picture.avi", SHORT_PICTURE, [*BOTH, "-c:a", "wmav2"], 2),
        ("a.flv", [], ["-ar", "44100"], 2),
        ("late.mp4", PICTURE, BOTH, 3),
        ("late.mkv", PICTURE, BOTH, 3),
        ("cover.mp3", PICTURE, [*BOTH, "-frames:v", "1", "-disposition:1", "attached_pic"], 2),
        ("second.mka", SILENCE, [*BOTH, "-disposition:0", "0", "-disposition:1", "default"], 1),
    ],
)
def test_what_ffmpeg_decodes(tmp_path, name, inputs, options, seconds):
    (tmp_path / "source.wav").write_bytes(sound("WAV"))
    late = ["-itsoffset", "1"] if seconds == 3 else []
    command = ["ffmpeg", "-v", "error", *late, "-i", tmp_path / "source.wav", *inputs, *options, tmp_path / name]
    subprocess.run(command, check=True)
    waveform, rate = audio.read(tmp_path / name)
    assert abs(waveform.shape[-1] / rate - seconds) < 0.1
    assert waveform[:, : rate // 2].any() == (seconds == 2)  # the others begin with silence
    recording = audio.Recording.open(tmp_path / name).measured()
    assert torch.equal(recording.read(1_000, 900), waveform[:, 1_000:1_900])
    assert seconds < 3 or next(recording.blocks()).untyped_storage().nbytes() == 4  # silence, however long
    (tmp_path / name).write_bytes(cut((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=r"is (damaged or )?cut off|cannot be read as audio"):
        audio.read(tmp_path / name)


@FFMPEG
@pytest.mark.parametrize("name", ["a.avi", "a.flv", "a.webm", "a.wma", "piped.mka", "piped.webm"])
def test_no_part_is_taken_for_the_whole(tmp_path, name):
    (tmp_path / "source.wav").write_bytes(sound("WAV", rate=44_100))
    form = {"mka": "matroska", "wma": "asf"}.get(name[-3:], name.split(".")[1])
    target = "-" if "piped" in name else tmp_path / name
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "source.wav", "-f", form, target]
    content = subprocess.run(command, check=True, capture_output=True).stdout or (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content)
    whole = audio.read(tmp_path / name)[0].shape[-1]
    assert abs(whole / 44_100 - 2) < 0.2
    for place in np.linspace(0.1, 0.9, 30):
        for part in [damaged(content, place), *([] if "piped" in name else [cut(content, place)])]:
            (tmp_path / name).write_bytes(part)
            with suppress(ValueError):
                assert audio.read(tmp_path / name)[0].shape[-1] == whole, place


@FFMPEG
def test_parts_of_ogg_files_of_ffmpeg(tmp_path):
    """Their last page is long and ends before its packets do; where one is cut out of another, so does the first."""
    (tmp_path / "source.wav").write_bytes(sound("WAV", 4.0))
    options = (["-i", "source.wav", "-c:a", "libvorbis"], ["-ss", "1.3", "-i", "a.ogg", "-c", "copy"])
    for name, option in zip("ab", options, strict=True):
        subprocess.run(["ffmpeg", "-v", "error", *option, f"{name}.ogg"], check=True, cwd=tmp_path)
    wholes = [audio.read(tmp_path / f"{name}.ogg")[0] for name in "ab"]
    torch.testing.assert_close(wholes[1][:, -40_000:], wholes[0][:, -40_000:], rtol=0, atol=1e-6)
    for name, whole in zip("ab", wholes, strict=True):
        recording = audio.Recording.open(tmp_path / f"{name}.ogg")
        for start in range(0, whole.shape[-1] - 900, 4_999):
            part = recording.read(start, 900)
            torch.testing.assert_close(part, whole[:, start : start + 900], rtol=0, atol=1e-6)


@FFMPEG
def test_stems_of_any_format(tmp_path):
    (tmp_path / "drums.wav").write_bytes(sound("WAV"))
    exact = ["-aac_pns", "0"]  # or the decoder makes some noise of its own
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "drums.wav", *exact, tmp_path / "bass.m4a"], check=True)
    stems = open_stems(tmp_path, ["drums", "bass"])
    whole = stems["bass"].read()
    assert stems["bass"].length == whole.shape[-1] and abs(whole.shape[-1] - 96_000) < 2_000
    assert torch.equal(stems["bass"].read(50_001, 3_000), whole[:, 50_001:53_001])


@pytest.mark.skipif(sys.platform == "win32", reason="limits are those of POSIX")
@pytest.mark.parametrize("form", audio.FORMATS)
@pytest.mark.parametrize(("length", "room"), [(500, 0), (500, 60), (1_000, 1_000), (9_000, 0), (9_000, 1_000)])
def test_no_room(tmp_path, form, length, room):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OSError, match=r"no space left.*a\.sound"):
            audio.write([tmp_path / "a.sound"], torch.randn(1, 2, length).split(4_000, -1), like(44_100, 2), form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_samples_or_not_finite(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44_100)
    with pytest.raises(ValueError, match="no samples"):
        audio.read(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([[0.0], [np.nan]]), 44_100, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        audio.read(tmp_path / "nan.wav")
    with pytest.raises(FileNotFoundError):
        audio.read(tmp_path / "missing.wav")


def test_levels():
    waveform = torch.randn(2, 10_000)
    levels = audio.Levels.of(waveform.split(999, -1))
    assert levels.length == 10_000
    assert float((waveform * levels.gain).square().mean().sqrt()) == pytest.approx(0.1, rel=1e-4)
    click = torch.zeros(1, 10_000)
    click[0, 5] = 0.2
    assert audio.Levels.of([click]).gain * 0.2 == pytest.approx(1)
    assert audio.Levels.of([torch.zeros(1, 10)]).gain == 1
