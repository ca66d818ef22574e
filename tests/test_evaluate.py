import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from bsrnn import audio, checkpoint, evaluate
from bsrnn.data import STEMS, find_tracks
from bsrnn.evaluate import COLUMNS, Estimator, ScoreTable, find_estimators, of_folder
from bsrnn.metrics import csdr_frames, usdr
from bsrnn.separate import Separator

KEY = ["source", "track", "metric"]
needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="museval needs the ffmpeg program to be imported")


def score(*arguments, **options):
    return pd.DataFrame(evaluate.score(*arguments, **options))


def score_model(model, tracks, **options):
    return pd.DataFrame(evaluate.evaluate(model, tracks, **options))


def read_scores(file):
    return pd.DataFrame(evaluate.read_rows(file))


def mean_usdr(scores):
    """Mean uSDR by run and source."""
    return scores.query("metric == 'uSDR'").pivot_table("value", "source", "run")


def baselines(tracks, split, sample_rate=44_100, n_fft=2048):
    return score(evaluate.baselines(tracks[0].sources, sample_rate, n_fft), tracks, split=split)


@pytest.fixture
def tracks(songs):
    return find_tracks(songs, "test")


@pytest.fixture
def varied(tmp_path):
    """Stereo of 2.5 s, mono of 0.5 s without bass, mono of 100 samples, all at 8 kHz, mixtures summed from stems."""
    draw = np.random.default_rng(0)
    for name, shape in (("long", (20_000, 2)), ("mono", (4_000, 1)), ("short", (100, 1))):
        for stem in STEMS:
            if (name, stem) != ("mono", "bass"):
                write(tmp_path / "varied" / "test" / name / f"{stem}.wav", draw.normal(0, 0.1, shape))
    (tmp_path / "varied" / "train").mkdir()
    return find_tracks(tmp_path / "varied", "test")


def write(file, samples, rate=8_000):
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, samples, rate, subtype="FLOAT")


def values(scores):
    return scores.set_index(KEY)["value"].sort_index()


def song_of(track):
    return {name: track.read(name) for name in ("mixture", *track.sources)}


def estimate(name, track, rate=8_000, n_fft=512):
    (run,) = (run for run in evaluate.baselines(track.sources, rate, n_fft) if run.name == name)
    return run.estimate(track, song_of(track))


def half(track, song):
    return torch.stack([song["mixture"] / 2] * 4)


def counted(name="half", estimate=half, **settings):
    """A run that lists what it was asked for."""
    asked = []

    def listed(track, song):
        asked.append(track.name)
        return estimate(track, song)

    return Estimator(name, STEMS, listed, settings), asked


# scores of songs


def test_identity_model_scores_like_the_mixture(identity, tracks):
    found = score_model(identity(STEMS, sample_rate=8_000), tracks, split="test")
    mixture = baselines(tracks, "test").query("run == 'mixture'")
    assert len(found) == 4 * 2 * 3
    pd.testing.assert_series_equal(values(found), values(mixture), atol=1e-4, rtol=0)


def test_silence_scores_zero_and_the_mixture_as_defined(tracks):
    scores = baselines(tracks, "test").query("metric == 'uSDR'")
    assert (scores.query("run == 'silence'")["value"] == 0).all()
    for track in tracks:
        for stem in STEMS:
            found = scores.query("run == 'mixture' and source == @stem and track == @track.name")["value"].item()
            assert found == pytest.approx(float(usdr(track.read(stem), track.read("mixture"))))


def test_a_silent_stem_scores_nan_and_is_nothing_to_the_others(identity, songs):
    one, both = (identity(sources, sample_rate=8_000) for sources in (("drums",), ("bass", "drums")))
    before = values(score_model(one, find_tracks(songs, "test"), split="test"))
    write(songs / "test" / "song 0" / "bass.wav", np.zeros((16_000, 2)))
    scores = score_model(both, find_tracks(songs, "test"), split="test")
    found = values(scores)
    assert found["bass", "song 0"].isna().all() and len(found["bass", "song 0"]) == 3
    assert found.drop(("bass", "song 0")).notna().all()
    pd.testing.assert_series_equal(found[["drums"]], before)


def test_rows_say_what_was_scored(tiny, songs):
    model = tiny(("drums", "bass"), sample_rate=8_000, schema="v3").train()
    scores = score_model(model, find_tracks(songs, "validation"), split="validation", run="a run")
    assert tuple(scores.columns) == COLUMNS
    assert set(scores["run"]) == {"a run"} and set(scores["split"]) == {"validation"}
    assert set(scores["track"]) == {"song 0", "song 6"}
    assert len(scores) == 2 * 2 * 3
    assert not scores.duplicated(KEY).any()


def test_the_source_of_a_row_is_that_of_its_head(identity, tracks):
    one, other = (
        score_model(identity(sources, sample_rate=8_000), tracks, split="test")
        for sources in (("bass", "drums"), ("drums", "bass"))
    )
    pd.testing.assert_series_equal(values(one), values(other))


def test_tracks_of_any_length_and_channels(identity, varied):
    found = score_model(identity(STEMS, sample_rate=8_000), varied, split="test", run="model")
    scores = pd.concat([found, baselines(varied, "test", 8_000, 512)])
    lacking = (scores["track"] == "mono") & (scores["source"] == "bass")
    silent = (scores["run"] == "silence") & (scores["metric"] != "uSDR")
    assert scores[lacking]["value"].isna().all() and lacking.sum() == 5 * 3
    assert scores[~lacking & ~silent]["value"].notna().all()
    track = varied[2]  # of a single frame, whose median it is
    stem = track.read("drums")
    expected = float(usdr(stem, track.read("mixture")))
    mixture = values(scores.query("run == 'mixture'"))
    found = [mixture["drums", "short", metric] for metric in ("uSDR", "cSDR")]
    assert found == pytest.approx([expected] * 2)


def test_an_estimate_that_is_not_finite_is_refused(tracks):
    run, _ = counted(estimate=lambda track, song: half(track, song) * torch.nan)
    with pytest.raises(ValueError, match="half: its estimate of song 0 is not finite"):
        score([run], tracks, split="test")


# oracles


def test_the_stft_oracle_is_the_source_at_the_models_sample_rate(varied):
    for track in varied[:2]:
        whole, half_rate = estimate("STFT", track), estimate("STFT", track, 4_000)
        for stem, full, low in zip(track.stems(STEMS), whole, half_rate, strict=True):
            torch.testing.assert_close(full, stem, atol=1e-6, rtol=0)
            expected = audio.resample(audio.resample(stem, 8_000, 4_000), 4_000, 8_000)
            torch.testing.assert_close(low[:, :-20], expected[:, : track.length - 20], atol=1e-3, rtol=0)
            assert low.shape == stem.shape


def test_the_stft_oracle_has_nothing_where_the_mixture_is_zero(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, (16_000, 1))
    gate = (np.arange(16_000) >= 8_000)[:, None]
    folder = tmp_path / "songs" / "test" / "song"
    for name, samples in (("drums", noise), ("bass", -noise * (1 - gate)), ("mixture", noise * gate)):
        write(folder / f"{name}.wav", samples)
    (tmp_path / "songs" / "train").mkdir()
    (track,) = find_tracks(tmp_path / "songs", "test")
    drums = estimate("STFT", track)[0]
    assert (drums[:, :7_500] == 0).all()
    torch.testing.assert_close(drums[:, 8_300:], track.read("drums")[:, 8_300:], atol=1e-6, rtol=0)


def test_the_ratio_mask_is_of_magnitudes_and_shares_out_the_mixture(tmp_path, varied):
    for track in varied:
        torch.testing.assert_close(estimate("IRM", track).sum(0), track.read("mixture"), atol=1e-5, rtol=0)
    noise = np.random.default_rng(0).normal(0, 0.1, (8_000, 2))
    for name, samples in (("drums", 3 * noise), ("bass", noise)):
        write(tmp_path / "songs" / "test" / "song" / f"{name}.wav", samples)
    (tmp_path / "songs" / "train").mkdir()
    (track,) = find_tracks(tmp_path / "songs", "test")
    torch.testing.assert_close(estimate("IRM", track), track.stems(STEMS), atol=1e-5, rtol=0)


def test_oracles_are_above_all_else(varied):
    table = mean_usdr(baselines(varied, "test", 8_000, 512))
    assert (table["STFT"] > table["IRM"] + 20).all()
    assert (table["IRM"] > table[["mixture", "silence"]].max(axis=1)).all()


@pytest.mark.parametrize(("sample_rate", "n_fft", "message"), [(0, 512, "sample_rate"), (8_000, 510, "n_fft")])
def test_oracles_of_no_stft(sample_rate, n_fft, message):
    with pytest.raises(ValueError, match=message):
        evaluate.baselines(STEMS, sample_rate, n_fft)


# models by name


def test_runs_are_named_after_their_folders(tiny, tmp_path, tracks, monkeypatch):
    for place, sources in (("one", ["bass"]), ("two/model", ["drums"])):
        checkpoint.save(tiny(sources, sample_rate=8_000), tmp_path / place)
    runs = find_estimators([tmp_path / "one", tmp_path / "two" / "model"], [], tracks)
    assert [run.name for run in runs] == ["one", "two", "mixture", "silence", "IRM", "STFT"]
    assert runs[-1].settings == {"sample_rate": 8_000, "n_fft": 512}
    assert find_estimators([], [], tracks)[-1].settings == {"sample_rate": 44_100, "n_fft": 2048}
    assert runs[0].settings["weights"] != runs[1].settings["weights"]
    monkeypatch.setattr(Separator, "from_pretrained", lambda _: Separator([tiny(["bass"], sample_rate=8_000)]))
    assert find_estimators([Path("/model")], [], tracks)[0].name == "model"  # as containers have it
    with pytest.raises(ValueError, match="two runs would have the name one"):
        find_estimators([tmp_path / "one", tmp_path / "one"], [], tracks)


def test_models_that_differ_need_the_oracles_stft(tiny, tmp_path, tracks):
    for name, rate in (("one", 8_000), ("two", 4_000)):
        checkpoint.save(tiny(["bass"], sample_rate=rate), tmp_path / name)
    folders = [tmp_path / "one", tmp_path / "two"]
    with pytest.raises(ValueError, match="the models differ in sample_rate: give the oracles' --sample_rate"):
        find_estimators(folders, [], tracks)
    assert find_estimators(folders, [], tracks, sample_rate=6_000)[-1].settings == {"sample_rate": 6_000, "n_fft": 512}


# an interrupted evaluation


def test_an_interrupted_evaluation_goes_on(tracks, tmp_path, capsys):
    def interrupted(track, song):
        if track.name == "song 1":
            raise KeyboardInterrupt
        return half(track, song)

    run, asked = counted(estimate=interrupted, hop=1.0)
    others = evaluate.baselines(STEMS, 8_000, 512)
    options = {"split": "test", "data": "a", "out": tmp_path / "out" / "scores.csv"}
    with pytest.raises(KeyboardInterrupt):
        score([others[0], run, *others[1:]], tracks, **options)
    before = read_scores(options["out"])
    assert before.groupby("track")["run"].nunique().to_dict() == {"song 0": 5, "song 1": 1}

    run, asked = counted(hop=1.0)
    table = score([others[0], run, *others[1:]], tracks, **options)
    assert asked == ["song 1"]
    assert "6 of 10 were scored before" in capsys.readouterr().out
    whole = score([others[0], counted(hop=1.0)[0], *others[1:]], tracks, **options | {"out": tmp_path / "whole.csv"})
    pd.testing.assert_frame_equal(table, whole, atol=1e-4, rtol=0)
    assert options["out"].read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out/[!.]*")) == ["scores.csv", "scores.settings.json"]

    run, asked = counted(hop=1.0)
    score([run], tracks, **options)
    assert asked == []
    assert options["out"].read_bytes() == (tmp_path / "whole.csv").read_bytes()


KILLED = """
import os, signal, sys
from bsrnn import cli, separate

before, songs = separate.separated, []

def killed(*arguments):
    songs.append(0)
    if len(songs) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*arguments)

separate.separated = killed
cli.main(sys.argv[1:])
"""


def test_a_killed_process_goes_on(tiny, songs, tmp_path, monkeypatch):
    from bsrnn import cli, separate

    checkpoint.save(tiny(["bass", "drums"], sample_rate=8_000), tmp_path / "net")
    songs_and_model = ["--checkpoint_fp", tmp_path / "net", "--musdbhq_location", songs]
    arguments = ["evaluate", *map(str, [*songs_and_model, "--save-audio", tmp_path / "audio", "--out"])]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments, str(tmp_path / "killed.csv")])
    assert done.returncode == -signal.SIGKILL
    assert set(read_scores(tmp_path / "killed.csv").query("run == 'net'")["track"]) == {"song 0"}
    first = tmp_path / "audio" / "net" / "song 0" / "bass.wav"
    written = first.stat().st_mtime_ns
    separated, before = [], separate.separated
    monkeypatch.setattr(separate, "separated", lambda *args: separated.append(0) or before(*args))
    assert cli.main([*arguments, str(tmp_path / "killed.csv")]) == 0
    assert len(separated) == 1
    assert first.stat().st_mtime_ns == written
    assert cli.main([*arguments, str(tmp_path / "whole.csv")]) == 0
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert sorted(path.name for path in (tmp_path / "audio").rglob("*.wav")) == ["bass.wav"] * 2 + ["drums.wav"] * 2


def test_a_file_may_grow_by_runs_and_by_metrics(tracks, tmp_path):
    out = tmp_path / "scores.csv"
    for name in ("b", "a"):
        run, asked = counted(name)
        score([run], tracks, split="test", out=out)
        assert len(asked) == 2
    assert read_scores(out)["run"].unique().tolist() == ["b", "a"]
    assert set(json.loads((tmp_path / "scores.settings.json").read_text())) == {"a", "b"}
    for songs in (["song 0", "song 1"], []):  # the second time, its files are there
        run, asked = counted("a")
        found = score([replace(run, is_model=True)], tracks, split="test", out=out, audio_folder=tmp_path / "audio")
        assert asked == songs
    assert found["run"].unique().tolist() == ["b", "a"]
    assert found.groupby("run").size().to_dict() == {"a": 24, "b": 24}


def test_rows_that_were_added_stay_as_they_are(tmp_path):
    table = ScoreTable({"a": {}}, ["song 0", "song 1", "song 2"], tmp_path / "scores.csv")
    rows = [dict(zip(COLUMNS, ("a", "test", f"song {n}", "bass", "uSDR", n + 1 / 3), strict=True)) for n in range(3)]
    for row in rows:
        (tmp_path / "scores.csv").unlink(missing_ok=True)
        table.add([row])
    assert table.rows() == rows
    assert read_scores(tmp_path / "scores.csv")["value"].tolist() == [0.3333, 1.3333, 2.3333]


def test_several_processes_add_to_one_table(tmp_path):
    file, songs = tmp_path / "scores.csv", [f"song {number}" for number in range(8)]
    tables = {run: ScoreTable({run: {"hop": run}, "mixture": {}}, songs, file) for run in "ab"}

    def fill(item):
        for song, run in itertools.product(songs, (item[0], "mixture")):
            item[1].add([dict(zip(COLUMNS, (run, "test", song, "bass", "uSDR", 1.0), strict=True))])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fill, tables.items()))
    assert read_scores(file).groupby("run")["track"].nunique().to_dict() == {"a": 8, "b": 8, "mixture": 8}
    known = json.loads((tmp_path / "scores.settings.json").read_text())
    assert known == {"a": {"hop": "a"}, "b": {"hop": "b"}, "mixture": {}}


def test_what_another_process_has_scored_otherwise_meanwhile_is_kept(tmp_path):
    file = tmp_path / "scores.csv"
    one, other = (ScoreTable({"a": {"hop": hop}}, ["song"], file) for hop in (1, 2))
    one.add([dict(zip(COLUMNS, ("a", "test", "song", "bass", "uSDR", 1.0), strict=True))])
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"holds scores of a with other settings \(hop: 1, now 2\)"):
        other.add([dict(zip(COLUMNS, ("a", "test", "song", "bass", "uSDR", 2.0), strict=True))])
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "b"}, "other settings (data: a, now b)"),
        ({"split": "validation"}, "other settings (split: test, now validation)"),
        ({"hop": 0.5}, "other settings (hop: 1.0, now 0.5)"),
        ({"weights": "d"}, "other settings (weights: c, now d)"),
    ],
)
def test_scores_of_other_settings_are_kept(tracks, tmp_path, change, message):
    out, options = tmp_path / "scores.csv", {"split": "test", "data": "a"}
    settings = {"hop": 1.0, "weights": "c"}
    score([counted(**settings)[0]], tracks, out=out, **options)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    run, asked = counted(**{name: change.get(name, value) for name, value in settings.items()})
    with pytest.raises(ValueError) as error:
        score([run], tracks, out=out, **{name: change.get(name, value) for name, value in options.items()})
    assert f"holds scores of half with {message}: remove it or choose another" in str(error.value)
    assert asked == []
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda out, note: note.unlink(),
        lambda out, note: note.write_text("{"),
        lambda out, note: note.write_text("[]"),
        lambda out, note: note.write_text('{"half": 1}'),
        lambda out, note: out.write_text(""),
        lambda out, note: out.write_bytes(b"\xff\xfe"),
        lambda out, note: out.write_text("a,b\n1,2"),
    ],
)
def test_a_file_of_unknown_origin_is_kept(tracks, tmp_path, spoil):
    out, note = tmp_path / "scores.csv", tmp_path / "scores.settings.json"
    score([counted()[0]], tracks, split="test", out=out)
    spoil(out, note)
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"scores.csv is no table of scores .* remove it") as error:
        score([counted()[0]], tracks, split="test", out=out)
    assert "\n" not in str(error.value)
    assert out.read_bytes() == before


# what is kept beside the table


def test_audio_is_kept_on_request_and_scores_the_same_from_its_files(identity, varied, tmp_path):
    checkpoint.save(identity(STEMS, sample_rate=8_000), tmp_path / "net")
    runs = find_estimators([tmp_path / "net"], [], varied)
    table = score(runs, varied, split="test", audio_folder=tmp_path / "audio")
    assert [path.name for path in (tmp_path / "audio").iterdir()] == ["net"]
    for track in varied:
        info = soundfile.info(tmp_path / "audio" / "net" / track.name / "drums.wav")
        assert (info.frames, info.channels, info.samplerate) == (track.length, track.channels, track.sample_rate)
        assert info.subtype == "FLOAT"
    again = score([of_folder(tmp_path / "audio" / "net", varied)], varied, split="test")
    pd.testing.assert_series_equal(values(again), values(table.query("run == 'net'")))


@needs_ffmpeg
def test_museval_aggregates_the_json(varied, tmp_path):
    import museval

    runs = [counted("a")[0], *evaluate.baselines(STEMS, 8_000, 512)]
    table = score(runs, varied, split="test", museval_folder=tmp_path)
    methods = museval.MethodStore()
    for run in ("a", "IRM"):
        store = museval.EvalStore()
        store.add_eval_dir(tmp_path / run)
        ours = table.query("metric == 'cSDR' and run == @run").groupby("source")["value"].median()
        found = store.agg_frames_tracks_scores().xs("SDR", level="metric")
        np.testing.assert_allclose(found[list(ours.index)], ours, atol=1e-5)
        assert store.agg_frames_scores().xs("ISR", level="metric").isna().all()
        methods.add_eval_dir(tmp_path / run)
        both = methods.agg_frames_tracks_scores()[run].xs("SDR", level="metric")
        np.testing.assert_allclose(both[list(ours.index)], ours, atol=1e-5)
    content = json.loads((tmp_path / "a" / "test" / "long.json").read_text())
    track = museval.TrackStore("long")
    track.scores = content
    track.validate()
    frames = csdr_frames(varied[0].stems(STEMS), half(None, song_of(varied[0])), 8_000)
    for target, ratios in zip(content["targets"], frames, strict=True):
        assert [frame["time"] for frame in target["frames"]] == [0, 1]
        np.testing.assert_allclose([frame["metrics"]["SDR"] for frame in target["frames"]], ratios, atol=1e-5)


@needs_ffmpeg
def test_bsseval_is_musevals(varied, tmp_path):
    import museval

    pair = ("drums", "bass")
    run, _ = counted("a", lambda track, song: torch.stack([song[s] + 0.3 * song["mixture"] for s in pair]))
    run = replace(run, sources=pair)
    silence = evaluate.baselines(pair, 8_000, 512)[1]
    out = tmp_path / "scores.csv"
    score([run], varied, split="test", out=out)
    table = score([run, silence], varied, split="test", out=out, with_bsseval=True, museval_folder=tmp_path)
    assert len(table) == 2 * 3 * 2 * 6
    assert table.query("run == 'silence' and metric in ['ISR', 'SIR', 'SAR']")["value"].isna().all()
    found = values(table.query("run == 'a'"))
    assert found["bass", "mono"].isna().all()
    for track in varied[:2]:
        sources = [source for source in pair if track.read(source).any()]
        references = track.stems(sources).transpose(1, 2)
        estimates = references + 0.3 * track.read("mixture").T
        expected = museval.evaluate(references.double().numpy(), estimates.double().numpy(), 8_000, 8_000)
        for metric, ratios in zip(("cSDR", "ISR", "SIR", "SAR"), expected, strict=True):
            for source, frames in zip(sources, ratios, strict=True):
                assert found[source, track.name, metric] == pytest.approx(np.nanmedian(frames), abs=1e-4)
    store = museval.EvalStore()
    store.add_eval_dir(tmp_path / "a")
    ours = table.query("run == 'a' and metric == 'SAR'").groupby("source")["value"].median()
    found = store.agg_frames_tracks_scores().xs("SAR", level="metric")
    np.testing.assert_allclose(found[list(ours.index)], ours, atol=1e-4)


@needs_ffmpeg
def test_bsseval_stands_a_singular_matrix_and_can_be_ended(monkeypatch):
    references, estimates = torch.randn(2, 2, 1, 8_000, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(np.linalg, "solve", raising := Mock(side_effect=np.linalg.LinAlgError))
    assert all(ratio.isfinite().all() for ratio in evaluate.bsseval_frames(references, estimates, 8_000).values())
    raising.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        evaluate.bsseval_frames(references, estimates, 8_000)


# estimates that another program wrote


@pytest.fixture
def estimates(songs):
    """Half the mixture as estimates of drums and bass of both test songs."""
    folder = songs.parent / "another"
    for track in find_tracks(songs, "test"):
        (folder / track.name).mkdir(parents=True)
        for name, kind in (("drums.wav", "FLOAT"), ("bass.FLAC", "PCM_24")):
            samples = track.read("mixture").T.numpy() / 2
            soundfile.write(folder / track.name / name, samples, 8_000, subtype=kind)
    return folder


def test_estimates_of_another_program(estimates, tracks):
    (estimates / "song 0" / "notes.txt").write_text("")
    (estimates / "song 0" / "._drums.wav").write_text("")
    (estimates / "song 0" / "drums.wav").rename(estimates / "song 0" / "Drums.wav")
    if shutil.which("ffmpeg"):  # which reads what does not tell its length
        flac = bytearray((estimates / "song 1" / "bass.FLAC").read_bytes())
        flac[21:26] = bytes([flac[21] & 0xF0, 0, 0, 0, 0])
        (estimates / "song 1" / "bass.FLAC").write_bytes(flac)
    (estimates / "no song").mkdir()
    run = of_folder(estimates, tracks)
    assert (run.name, run.sources) == ("another", ("drums", "bass"))
    found = values(score([run], tracks, split="test"))
    expected = values(score([counted()[0]], tracks, split="test").query("source in ['drums', 'bass']"))
    pd.testing.assert_series_equal(found, expected, atol=1e-3, rtol=0)


def test_all_problems_of_estimates_are_named_at_once(estimates, songs, tracks):
    noise = np.zeros((16_000, 2))
    write(estimates / "song 0" / "drums.wav", noise[:-3])
    shutil.rmtree(estimates / "song 1")
    (estimates / "song 0" / "bass.FLAC").unlink()  # no song has bass then: it is not asked for
    with pytest.raises(ValueError) as error:
        of_folder(estimates, tracks)
    file = estimates / "song 0" / "drums.wav"
    assert str(error.value).splitlines() == [
        f"{file}: is 3 samples shorter than its song: see that both start together, then pad its end",
        f"{estimates / 'song 1'}: has no estimate of drums",
    ]


@pytest.mark.parametrize(
    ("shape", "rate", "message"),
    [
        ((16_001, 2), 8_000, "is 1 sample longer than its song: see that both start together, then cut its end"),
        ((16_000, 1), 8_000, "has 1 channels, its song 2: convert it"),
        ((16_000, 2), 7_000, "has a sample rate of 7000 Hz, not 8000 as its song: resample it"),
        (None, 0, "cannot be read as audio"),
    ],
)
def test_estimates_that_do_not_fit(estimates, tracks, shape, rate, message):
    file = estimates / "song 1" / "drums.wav"
    file.write_text("text") if shape is None else write(file, np.zeros(shape), rate)
    with pytest.raises(ValueError) as error:
        of_folder(estimates, tracks)
    assert f"{file}: {message}" in str(error.value) and "\n" not in str(error.value)


def test_no_estimates(tmp_path, tracks):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        of_folder(tmp_path / "nowhere", tracks)
    with pytest.raises(ValueError, match=r"songs: holds no estimates; expected song 0/drums.wav"):
        of_folder(tmp_path / "songs", tracks)


def test_estimates_that_changed_are_not_taken_for_scored(estimates, tracks, tmp_path):
    one = of_folder(estimates, tracks)
    file = estimates / "song 0" / "drums.wav"
    state = file.stat()
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    other = of_folder(estimates, tracks)
    assert other.settings != one.settings
    score([one], tracks, split="test", out=tmp_path / "scores.csv")
    with pytest.raises(ValueError, match=r"with other settings .files"):
        score([other], tracks, split="test", out=tmp_path / "scores.csv")


def test_means_are_a_table(tracks):
    lines = evaluate.means(evaluate.score([counted()[0]], tracks, split="test")).splitlines()
    assert lines[0].split() == ["run", "source", "uSDR", "cSDR", "SI-SDR"]
    assert [line.split()[:2] for line in lines[1:]] == [["half", stem] for stem in STEMS]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize("options", [{"with_bsseval": True}, {"museval_folder": "somewhere"}])
def test_museval_without_ffmpeg_is_refused(monkeypatch, tracks, options):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="museval takes the ffmpeg program, which is not installed"):
        score([counted()[0]], tracks, split="test", **options)
