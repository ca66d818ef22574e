"""The open set: its plan, its parts, and one song that is built with the programs that render it."""

import csv
import hashlib
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import build
import mix
import numpy as np
import plan
import pytest
import render
import score
import sing
import soundfile
import voice

from bsrnn.data import STEMS, find_tracks

RATE = 44_100
SONGS = plan.composed_songs()
built = pytest.mark.skipif(bool(build.missing()), reason=build.missing())


def decibels(ratio):
    return 20 * np.log10(ratio)


def test_songs_for_testing_stay_apart():
    splits = [song.split for song in SONGS]
    assert splits.count("test") >= 25 and splits.count("validation") >= 10
    for split in ("train", "validation", "test"):
        inside = [song for song in SONGS if song.split == split]
        outside = [song for song in SONGS if song.split != split]
        assert not {song.midi for song in inside} & {song.midi for song in outside}
        assert not {song.singer.name for song in inside} & {song.singer.name for song in outside}
        assert {song.singer.split for song in inside} == {split}
    assert all(song.voice == "sung" for song in SONGS if song.split != "train")
    assert len({song.name for song in SONGS}) == len({song.seed for song in SONGS}) == len(SONGS)
    assert all(song.midi.is_file() for song in SONGS)


def test_published_models_trained_on_no_test_song():
    published = sorted((plan.HERE / "midi").glob("*.mid"))
    trained_on = {path for number, path in enumerate(published) if number % 6 != 5}
    assert not trained_on & {song.midi for song in SONGS if song.split == "test"}
    recorded = {song.name: song.split for song in plan.recorded_songs()}
    assert {name for name, split in recorded.items() if split == "test"} == {"2.Lithium", "7.Francium"}
    assert recorded["6.Caesium"] == "validation" and len(recorded) == 6


def test_licences_stand_together(monkeypatch):
    monkeypatch.setattr(render.Soundfont, "installed", True)
    for song in SONGS:
        fonts = build.soundfonts(song)
        parts = [song.licence, song.singer.licence, *(font.licence for font in fonts.values())]
        gnu = {part for part in parts if part.startswith("GPL")}
        assert not (gnu & {"GPL-2.0-only"} and gnu & plan.GPL_3), song.name
        text = build.licence_text(song)
        assert f"mixture: {plan.combined(parts)}\n" in text and song.singer.credit in text
        assert [line.split(":")[0] for line in text.splitlines()] == ["drums", "bass", "other", "vocals", "mixture"]
    used = {font.name for song in SONGS for font in build.soundfonts(song).values()}
    assert used == {font.name for font in render.SOUNDFONTS}


def test_which_licence_a_mixture_has():
    assert plan.combined(["MIT", "BSD-3-Clause", "LicenseRef-Public-Domain"]) in {"MIT", "BSD-3-Clause"}
    assert plan.combined(["GPL-1.0-or-later", "BSD-3-Clause"]) == "GPL-1.0-or-later"
    assert plan.combined(["GPL-1.0-or-later", "GPL-2.0-or-later", "MIT"]) == "GPL-2.0-or-later"
    assert plan.combined(["GPL-2.0-or-later", "GPL-2.0-only"]) == "GPL-2.0-only"
    assert plan.combined(["GPL-2.0-or-later", "GPL-3.0-only"]) == "GPL-3.0-only"
    with pytest.raises(ValueError, match="no licence allows"):
        plan.combined(["GPL-2.0-only", "GPL-3.0-or-later"])
    assert not plan.may_combine(["GPL-2.0-only", "LicenseRef-CC-BY-SA"])


def test_singers_have_clips_licence_and_credit():
    folders = {path.name for path in (plan.HERE / "voices").iterdir() if path.is_dir()}
    assert folders == set(plan.singers())
    for singer in plan.singers().values():
        assert singer.licence in plan.PERMITS and singer.credit
        assert (singer.folder / "LICENSE.txt").is_file()
        info = soundfile.info(voice.clips(singer.folder)[0])
        assert (info.samplerate, info.channels) == (RATE, 1)
        assert 40 < singer.centre < 75


def test_origin_has_the_tables_of_the_plan():
    import tables

    assert tables.updated(tables.FILE.read_text(encoding="utf-8")) == tables.FILE.read_text(encoding="utf-8")


def test_draws_depend_on_song_and_purpose():
    song, other = SONGS[0], SONGS[1]
    assert song.draws("balance").random() == song.draws("balance").random()
    assert len({song.draws("balance").random(), song.draws("voice").random(), other.draws("balance").random()}) == 3
    sung = [song for song in SONGS if song.voice == "sung"]
    assert 0.6 < np.mean([song.replaces_lead for song in sung]) < 0.8
    assert not any(song.replaces_lead for song in SONGS if song.voice == "spoken")


def test_a_song_is_the_exact_sum_of_its_stems(tmp_path):
    draw = np.random.default_rng(0)
    stems = {stem: draw.normal(0, 0.3, (1_000 + i, 2)).astype(np.float32) for i, stem in enumerate(STEMS[:3])}
    with mix.song_written(tmp_path / "song", stems) as partial:
        (partial / "licence.txt").write_text("none")
    parts = {name: soundfile.read(tmp_path / "song" / f"{name}.wav", dtype="int16")[0] for name in (*STEMS, "mixture")}
    assert {len(part) for part in parts.values()} == {1_000}
    assert (parts["mixture"] == sum(parts[stem].astype(int) for stem in STEMS)).all()
    assert not parts["vocals"].any() and parts["drums"].any()
    assert np.abs(parts["mixture"]).max() == pytest.approx(0.9 * 32767, abs=3)
    assert (tmp_path / "song" / "licence.txt").is_file()


def test_recorded_songs(tmp_path):
    song = next(song for song in plan.recorded_songs() if song.name == "1.Hydrogen")
    build.build(tmp_path, 60.0, [song])
    (tmp_path / "test").mkdir()
    (track,) = find_tracks(tmp_path, "validation")
    assert (track.sample_rate, track.channels, track.length / track.sample_rate) == (RATE, 2, 180)
    before = (tmp_path / song.place / "bass.wav").stat().st_mtime_ns
    build.build(tmp_path, 60.0, [song])
    assert (tmp_path / song.place / "bass.wav").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def stems():
    draw = np.random.default_rng(1)
    sounds = draw.normal(0, 1, (4, 2 * RATE, 2)).astype(np.float32) * np.array([0.3, 0.01, 0.1, 0.05])[:, None, None]
    return dict(zip(STEMS, sounds, strict=True))


def test_balance(stems):
    offsets = []
    for seed in range(30):
        balanced = mix.balanced(stems, -5.0, np.random.default_rng(seed))
        rest = sum(balanced[stem] for stem in mix.BALANCE)
        assert decibels(mix.level(balanced["vocals"]) / mix.level(rest)) == pytest.approx(-5.0, abs=0.01)
        levels = [decibels(10 * mix.level(balanced[stem])) for stem in mix.BALANCE]
        offsets.append(np.subtract(levels, list(mix.BALANCE.values())))
    assert np.abs(offsets).max() <= mix.FARTHEST + 0.01
    assert np.abs(np.mean(offsets, 0)).max() < 1.5 and np.std(offsets) > 1


def test_level_is_that_of_what_sounds(stems):
    sound = stems["drums"]
    padded = np.concatenate([np.zeros_like(sound), sound, 1e-4 * sound])
    assert mix.level(padded) == pytest.approx(mix.level(sound), rel=1e-3)
    assert mix.level(np.zeros((RATE, 2))) == 0


@pytest.mark.parametrize("stem", STEMS)
def test_treatment_is_drawn(stems, stem):
    first, again, other = (mix.treated(stem, stems[stem], np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.shape == stems[stem].shape and first.dtype == np.float32 and np.isfinite(first).all()
    assert (first == again).all() and not np.allclose(first, other)
    assert not mix.treated(stem, np.zeros_like(first), np.random.default_rng(0)).any()


def test_equalizer_changes_levels_by_its_gains():
    time = np.arange(RATE) / RATE
    tone = np.stack([np.sin(2 * np.pi * 1000 * time)] * 2, axis=1)
    gains = np.where(np.equal(mix.EQUALIZER, 1000), 6.0, 0.0)
    assert decibels(mix.level(mix.equalized(tone, gains)) / mix.level(tone)) == pytest.approx(6.0, abs=0.05)


def instrument(*notes, program=73, is_drum=False):
    played = [SimpleNamespace(start=start, end=end, pitch=pitch, velocity=90) for start, end, pitch in notes]
    return SimpleNamespace(program=program, is_drum=is_drum, notes=played, control_changes=[], pitch_bends=[])


def midi_song(*instruments, seconds=40.0):
    return SimpleNamespace(instruments=list(instruments), get_end_time=lambda: seconds)


SCALE = [(float(n), n + 0.9, 72 + n % 8) for n in range(2, 38)]


def test_the_melody_is_the_leads_highest_voice():
    chords = [(start, end, pitch - below) for start, end, pitch in SCALE for below in (0, 4, 7)]
    bass = instrument(*[(start, end, 36) for start, end, _ in SCALE], program=33)
    drums = instrument(*SCALE, is_drum=True)
    song = midi_song(drums, bass, instrument(*chords))
    melody = score.lead_melody(song, centre=60)
    assert melody.leads == ((2, 2.0, pytest.approx(37.9)),)
    assert [note.pitch for note in melody.notes] == [pitch - 12 for *_, pitch in SCALE]
    assert all(first.end <= second.start for first, second in pairwise(melody.notes))
    inside = melody.within(10.0, 20.0)
    assert inside[0].start == 1.0 and inside[-1].end <= 10 and len(inside) == 8
    playing = score.activity(song, melody)
    assert playing["other"].any() and not playing["rest"][:38].any()


def test_passages_do_not_overlap_and_have_the_voice():
    song = midi_song(instrument(*[(s + 60, e + 60, p) for s, e, p in SCALE]), seconds=120.0)
    starts = score.passages(song, score.lead_melody(song, centre=70), 30.0)
    assert 60 <= starts[0] <= 75 and len(starts) >= 3
    assert np.diff(sorted(starts)).min() >= 30


def test_a_part_has_the_controllers_of_its_start():
    pretty_midi = pytest.importorskip("pretty_midi")
    song = pretty_midi.PrettyMIDI()
    lead = pretty_midi.Instrument(73)
    lead.notes = [pretty_midi.Note(90, pitch, start, end) for start, end, pitch in SCALE]
    lead.control_changes = [pretty_midi.ControlChange(7, value, time) for value, time in ((100, 0), (20, 5), (90, 12))]
    song.instruments.append(lead)
    part = score.part(song, "other", 10.0, 20.0, transpose=2)
    (cut,) = part.instruments
    assert [(change.value, change.time) for change in cut.control_changes] == [(20, 0.0), (90, 2.0)]
    assert len(cut.notes) == 10 and cut.notes[0].start == 0 and cut.notes[0].pitch == SCALE[8][2] + 2
    melody = score.lead_melody(song, centre=66)
    assert not score.part(song, "other", 10.0, 20.0, 0, without=melody).instruments[0].notes
    assert not score.part(song, "bass", 10.0, 20.0, 0).instruments
    for start, end in ((19.999, 25.0), (12.0, 12.0), (5.0, 10.001)):  # within the passage they start as they end
        song.instruments[0].notes.append(pretty_midi.Note(100, 42, start, end))
    assert all(note.pitch != 42 + 2 for note in score.part(song, "other", 10.0, 20.0, 2).instruments[0].notes)


def test_syllables_part_where_it_is_quiet():
    loudness = np.full(200, -60.0)
    loudness[20:70] = 20 * np.sin(np.linspace(0, np.pi, 50)) - 25
    loudness[90:150] = 20 * np.sin(np.linspace(0, np.pi, 60)) - 25
    first, second = voice.syllables(loudness, loudness > -22)
    assert first.first <= first.vowel < 45 < first.coda <= first.stop <= second.first < second.vowel < 120 < second.coda
    assert first.onset == first.vowel - first.first


def test_a_held_vowel_begins_and_ends_as_it_was():
    for frames in (10, 40, 41, 200, 1_000):
        path = sing.held_vowel(100, 140, frames)
        assert len(path) == frames and path.min() >= 100 and path.max() <= 140
        assert path[0] == 100 and path[-1] == pytest.approx(140, abs=1)
        assert frames <= 40 or np.abs(np.diff(path)).max() < 1.7


def test_the_pitch_is_that_of_the_notes():
    notes = [score.Note(0.0, 1.0, 60, 90), score.Note(1.0, 2.0, 67, 90), score.Note(2.0, 3.0, 55, 90)]
    style = replace(sing.Style.drawn(np.random.default_rng(0)), vibrato=0.0)
    curve = sing.pitch_curve(notes, [0, 200, 400], 600, style, np.random.default_rng(1))
    for note, start in zip(notes, (0, 200, 400), strict=True):
        assert abs(np.median(curve[start + 60 : start + 180]) - note.pitch) < 0.3


def test_phrases_have_breaths():
    notes = [score.Note(0.5 * n, 0.5 * n + 0.5, 60, 90) for n in range(40)]
    parts = sing.phrases(notes)
    assert len(parts) > 2 and max(part[-1].end - part[0].start for part in parts) < 8
    assert all(second[0].start - first[-1].end >= 0.2 for first, second in pairwise(parts))


def test_a_voice_that_sings_little_does_not_rest():
    parts = [[score.Note(8.0 * n, 8.0 * n + 7.0, 60, 90)] for n in range(20)]
    assert 10 < len(sing._without_rests(parts, 160.0, np.random.default_rng(0))) < 20
    short = [[replace(note, end=note.start + 1.0) for note in part] for part in parts]
    assert sing._without_rests(short, 160.0, np.random.default_rng(0)) == short


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def built_song(tmp_path_factory):
    out = tmp_path_factory.mktemp("open-set")
    song = next(song for song in SONGS if song.singer.name == "gd-public-domain")
    build.build(out, 20.0, [song])
    folder = out / song.place
    return song, folder, {name: soundfile.read(folder / f"{name}.wav")[0] for name in (*STEMS, "mixture")}


def test_what_is_missing_is_said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(build.shutil, "which", lambda program: None)
    monkeypatch.setattr("sys.argv", ["build.py", str(tmp_path / "out")])
    assert build.main() == 2
    assert "apt-get install fluidsynth" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_songs_of_a_singer_are_made_together():
    groups = build.by_singer([*SONGS, *plan.recorded_songs()])
    assert sum(map(len, groups)) == len(SONGS) + 6 and [*map(len, groups)] == sorted(map(len, groups), reverse=True)
    assert all(len({getattr(song, "singer", song) for song in group}) == 1 for group in groups)


@built
def test_a_built_song_has_four_stems(built_song):
    song, folder, sounds = built_song
    assert np.array_equal(sounds["mixture"], sum(sounds[stem] for stem in STEMS))
    rest = sum(sounds[stem] for stem in mix.BALANCE)
    assert decibels(mix.level(sounds["vocals"]) / mix.level(rest)) == pytest.approx(song.vocals_db, abs=1)
    assert all(sounds[stem].any() for stem in STEMS)
    frames = sounds["vocals"][: 20 * RATE].reshape(-1, RATE // 10 * 2)
    power = np.mean(frames**2, axis=1)
    assert np.mean(power > 1e-4 * power.max()) > 0.3
    assert build.licence_text(song) == (folder / "licence.txt").read_text(encoding="utf-8")


@built
def test_a_built_voice_sings_the_melody(built_song):
    import pyworld

    _, folder, sounds = built_song
    frequency, _ = pyworld.dio(sounds["vocals"].mean(1), RATE, f0_floor=71.0, f0_ceil=800.0, frame_period=10.0)
    pitch, errors = 69 + 12 * np.log2(np.maximum(frequency, 1) / 440), []
    with open(folder / "melody.csv", newline="") as file:
        for row in csv.DictReader(file):
            start, end = float(row["start"]) + 0.1, float(row["end"]) - 0.05
            note = slice(int(100 * start), int(100 * end))
            errors += list(pitch[note][frequency[note] > 0] - float(row["pitch"]))
    assert len(errors) > 200 and np.mean(np.abs(errors) < 1) > 0.8 and abs(np.median(errors)) < 0.2


@built
def test_a_built_voice_has_the_whole_band(built_song):
    vocals = built_song[2]["vocals"].mean(1)
    power, edges = np.abs(np.fft.rfft(vocals)) ** 2, np.arange(0, 22_001, 500)
    bands, _ = np.histogram(np.fft.rfftfreq(len(vocals), 1 / RATE), edges, weights=power)
    assert edges[np.flatnonzero(bands > 1e-7 * bands.max())[-1]] >= 15_000


@built
def test_a_song_is_built_alike_twice(built_song, tmp_path):
    song, folder, _ = built_song
    build.build(tmp_path, 20.0, [song])
    assert digests(tmp_path / song.place) == digests(folder)
