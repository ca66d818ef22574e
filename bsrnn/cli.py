"""The command line: argument parsing only."""

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from bsrnn.config import CONFIGS, FORMATS, LOUDNESS, MOST_SEED, SPLITS, Config, TrainingConfig, describe, named_config

EXIT_USER_ERROR = 2
GRACE = 5  # seconds

DATA_HELP = "folder of songs with their stems, with train/ and test/ or without; or demo: generated songs"
MODEL_HELP = "model folder, last.ckpt of a training, or a published model by name; repeat for several models"
HOP_HELP = "seconds from one chunk to the next, less is better and slower; none means half a chunk, or as published"


def build_parser() -> argparse.ArgumentParser:
    """The parser of `bsrnn`; each command's function is its `run` default."""
    parser = argparse.ArgumentParser(
        prog="bsrnn", description="Band-split RNN music source separation: train, separate, evaluate."
    )
    names = "{train,infer,evaluate,info,models,import,demo-data}"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)

    def anywhere(*names, default, **options):  # before the command or after it
        options["help"] += f" (default: {default})"
        parser.add_argument(*names, default=default, **options)
        return lambda sub: sub.add_argument(*names, default=argparse.SUPPRESS, **options)

    device = anywhere("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    seed = anywhere("--seed", default=0, type=int, help="of weights and samples; -1: random")

    def command(name, function, text, *common):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=function)
        for add in common:
            add(sub)

        def add(*names, **options):
            if options.get("default") not in (None, [], argparse.SUPPRESS) and "action" not in options:
                options["help"] += " (default: %(default)s)"
            sub.add_argument(*names, **options)

        return add

    text = "train a model for one or several sources, or transfer one to new sources"
    add = command("train", train, text, device, seed)
    add("--musdbhq_location", type=Path, required=True, help=DATA_HELP)
    add(
        "--name",
        required=True,
        help="of the run; it lies in runs/NAME, its model in runs/NAME/model; the same command again goes on where it "
        "stopped",
    )
    text = "source to estimate; repeat for several (multi-task); none means all of the data, or those of --config"
    add("--part", action="append", help=text)
    text = "a model by name, such as paper-vocals, from which only what is given below differs; `bsrnn info` lists them"
    add("--config", help=text)
    add("--reduce_size", action="store_true", help="the sizes of --config small, for the sources of the data")
    text = "the generic band schema (Y) or the paper's V7 (N), where --schema names none (default: Y)"
    add("--generic_bands", choices=("Y", "N"), default=argparse.SUPPRESS, help=text)
    for setting in fields(Config)[1:]:  # absent if not given: then it is what the model by name or Config says
        _add_setting(
            add, setting, default=argparse.SUPPRESS, help=f"{setting.metadata['help']} (default: {setting.default})"
        )
    for setting in fields(TrainingConfig):
        _add_setting(add, setting, default=setting.default, help=setting.metadata["help"])
    add("--checkpoint_fp", type=Path, help="model folder or name, whose frozen extractor is transferred to the parts")
    add("--transfer", action="store_true", help="transfer from --checkpoint_fp, whose schema, sizes and rate apply")
    add("--init", type=Path, help="model folder or name, to go on from with all its weights, for those parts it has")

    add = command("infer", infer, "separate songs into their sources", device)
    add("--checkpoint_fp", "--model", type=Path, action="append", required=True, help=MODEL_HELP)
    text = "songs, or folders of them: wav, flac, ogg, mp3, and what else the ffmpeg program reads"
    add("songs", type=Path, nargs="*", help=text)
    add("--input", type=Path, nargs="+", default=[], help="more songs, or folders of them")
    add("--out", type=Path, default="separated", help="folder that gets SONG/SOURCE.wav; what is there is replaced")
    add("--sources", nargs="+", help="what to estimate of what the models can; none means everything")
    add("--residual", action="store_true", help="also write what the estimated sources leave of the song")
    add("--format", choices=FORMATS, default="wav", help="wav holds 32-bit floats; wav24 and wav16 are wav as well")
    text = (
        "where stems exceed what a format other than wav can hold: bring all of a song down by one gain, or cut off "
        "what exceeds"
    )
    add("--loudness", choices=LOUDNESS, default="rescale", help=text)
    add("--hop", type=float, help=HOP_HELP)
    add("--skip-existing", action="store_true", help="leave out songs whose stems are all there, of whatever bit depth")
    add("--fp32", action="store_true", help="compute in float32 also where bfloat16 is faster")

    add = command("evaluate", evaluate, "score models, baselines and others on the songs of a split", device)
    add("--checkpoint_fp", type=Path, action="append", default=[], help=MODEL_HELP)
    text = "folder of what another program separated, as TRACK/SOURCE.wav (or flac, ogg, mp3); repeat for several"
    add("--estimates", type=Path, action="append", default=[], help=text)
    add("--musdbhq_location", type=Path, required=True, help=DATA_HELP)
    add("--split", choices=SPLITS, default="test", help="which songs")
    text = (
        "CSV file that gets one row per run, song, source and metric; the same command again goes on where it stopped"
    )
    add("--out", type=Path, required=True, help=text)
    add("--bsseval", action="store_true", help="also ISR, SIR and SAR, by museval: minutes per song and run")
    add("--museval", type=Path, help="folder that gets RUN/SPLIT/TRACK.json for museval's own aggregation")
    add("--save-audio", type=Path, help="folder that gets the models' estimates as RUN/TRACK/SOURCE.wav")
    add("--hop", type=float, help=HOP_HELP)
    add("--bf16", action="store_true", help="compute matrix products in bfloat16, on devices that have it")
    add("--sample_rate", type=int, help="of the oracles, in Hz; none means that of the models, or 44100")
    add("--n_fft", type=int, help="of the oracles, in samples; none means that of the models, or 2048")

    add = command("info", info, "show a model's bands, parameters and cost")
    add("model", nargs="?", help="a model's name, folder or checkpoint file; none lists the names")

    command("models", models, "list the published models: sources, size, licence, scores, and whether they are cached")

    add = command("import", import_checkpoint, "convert a checkpoint of magronp/bsrnn, such as their separator.ckpt")
    add("checkpoint", type=Path, help="file to convert; nothing in it is executed")
    add("out", type=Path, help="model folder to make")
    add("--config", default="obsrnn-simo", help="the published model that it is, such as obsrnn-vocals")

    add = command("demo-data", demo_data, "generate a small data set in MUSDB18-HQ layout")
    add("out", type=Path, help="folder to make")
    return parser


def _add_setting(add, setting, **options) -> None:
    """An option for a field of a settings class."""
    kind = {"action": argparse.BooleanOptionalAction} if setting.type is bool else {"type": setting.type}
    add(f"--{setting.metadata['flag'] or setting.name}", dest=setting.name, **kind, **options)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; an error the user can mend is one line and exit code 2."""
    args = build_parser().parse_args(arguments)
    try:
        if args.seed == -1 and "WORLD_SIZE" in os.environ:
            raise ValueError("several processes need the same --seed: give one")
        if not -1 <= args.seed <= MOST_SEED:
            raise ValueError(f"--seed must be at least 0 and at most {MOST_SEED}, or -1, not {args.seed}")
        if args.seed == -1:
            args.seed = random.randrange(MOST_SEED)
            print(f"seed {args.seed}")
        with _cleaning_up(), _told_out_of_memory():
            args.run(args)
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"bsrnn {args.command}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"bsrnn {args.command}: interrupted", file=sys.stderr)
        return 130
    return 0


@contextmanager
def _told_out_of_memory(what: str = "") -> Iterator[None]:
    """Say in one line where memory does not suffice, and for what."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        from bsrnn.devices import short_of_memory

        if (device := short_of_memory(error)) is None:
            raise
        remedy = (
            "end other programs that use it, choose another --device, or, to train, a smaller --batch_size or model"
        )
        raise MemoryError(f"{what}out of memory on {device}: {remedy}") from None


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """Let a signal to end raise, so that nothing half written stays; by default it would end Python at once. Those that
    follow within `GRACE` change nothing, as cleaning up may take a while; a later one ends the process as it is."""
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    # but for those that nohup and the like leave out
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    told = []  # when

    def end(number, _):
        told.append(time.monotonic())
        if len(told) == 1:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        if told[-1] - told[0] > GRACE:
            os._exit(128 + number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if not told and signal.getsignal(number) is end:  # once told, here or within, the process is about to end
                signal.signal(number, handler)


# Commands import what they need: --help should not wait for torch.


def train(args: argparse.Namespace) -> None:
    if args.name in ("", "..") or Path(args.name).name != args.name:
        raise ValueError(f"--name {args.name!r} must be a plain name, without folders")
    if args.transfer != (args.checkpoint_fp is not None):
        raise ValueError("--transfer and --checkpoint_fp go together: the model folder to transfer from")
    given = {setting.name: getattr(args, setting.name) for setting in fields(Config) if hasattr(args, setting.name)}
    if hasattr(args, "generic_bands"):
        given.setdefault("schema", "generic" if args.generic_bands == "Y" else "v7")
    origin = args.checkpoint_fp or args.init
    bases = [name for name in ("config", "reduce_size", "transfer", "init") if getattr(args, name)]
    exclusive = [f"--{name}" for name in (*bases, *(given if origin else ()))]
    if len(exclusive) > 1:
        raise ValueError(f"{exclusive[0]} and {exclusive[1]} exclude each other: both say how large the model is")
    named = named_config(args.config) if args.config else None
    config = TrainingConfig(**{setting.name: getattr(args, setting.name) for setting in fields(TrainingConfig)})

    from bsrnn import checkpoint, files, pretrained, train
    from bsrnn.data import find_data, stem_mapping
    from bsrnn.devices import keep_memory
    from bsrnn.model import BSRNN

    keep_memory()
    dataset = find_data(args.musdbhq_location)
    if origin:
        if len(names := pretrained.models(origin)) > 1:
            raise ValueError(f"{origin} is several models: choose from {', '.join(names)}")
        with _cleaning_up():
            base = checkpoint.load(*pretrained.folders(origin))
    known = base.config if args.init else named
    sources = tuple(args.part or (known.sources if known else stem_mapping(dataset)))
    if args.init and known and not set(sources) <= set(known.sources):
        raise ValueError(f"{args.init} estimates {', '.join(known.sources)} only: --transfer makes heads for others")
    train.seed_everything(args.seed)
    if origin:
        model = train.transfer(base, sources) if args.transfer else base.keep_heads(sources)
    else:
        if "feature_dim" in given:
            given.setdefault("hidden_dim", 2 * given["feature_dim"])
        base = named or (CONFIGS["small"] if args.reduce_size else Config())
        model = BSRNN(replace(base, sources=sources, **given))
    folder = files.root() / "runs" / args.name
    train.fit(model, dataset, config, folder, seed=args.seed, device=args.device)
    print(f"model: {folder / 'model'}")


def infer(args: argparse.Namespace) -> None:
    from bsrnn import pretrained

    given = [*args.songs, *args.input]
    if not given:
        raise ValueError("which song? Give one before the options, or after --input")
    unknown = [path for path in args.checkpoint_fp if not os.path.exists(path) and not pretrained.models(path)]
    if unknown or not any(map(os.path.exists, given)):  # which does not raise, as path.exists() may
        raise FileNotFoundError(f"{[*unknown, *given][0]}: no such file or folder")

    from bsrnn.devices import keep_memory
    from bsrnn.separate import Separator, find_songs

    keep_memory()
    bf16 = False if args.fp32 else None
    options = {"sources": args.sources, "hop": args.hop, "device": args.device, "bf16": bf16}
    songs = find_songs(given, args.out)
    with _cleaning_up():
        separator = Separator.from_pretrained(*args.checkpoint_fp, **options)
    inputs = {song.resolve() for song in songs}
    for song, folder in songs.items():
        for target in separator.targets(folder, args.format, args.residual).values():
            if target.resolve() in inputs:
                raise ValueError(f"{song}: its stem {target} would take the place of a song: choose another --out")
    failures = []
    for song, folder in songs.items():
        targets = separator.targets(folder, args.format, args.residual)
        if args.skip_existing and all(file.is_file() for file in targets.values()):
            print(f"{folder}: is there already")
            continue
        try:
            with _cleaning_up(), _told_out_of_memory(f"{song}: "):
                if (seconds := round(separator.expected_seconds(song))) >= 5:  # else it is not worth a line
                    print(f"{song}: about {seconds // 60} min {seconds % 60} s", file=sys.stderr)
                options = {"form": args.format, "residual": args.residual, "loudness": args.loudness}
                written = separator.separate_file(song, folder, progress=True, **options)
        except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, MemoryError) as error:
            # of this song; the others may be better
            failures.append(str(error))
            continue
        except OSError as error:  # of writing, which will be no better for the others
            raise OSError("\n".join([*failures, str(error)])) from None
        if written.peak > 1 and args.format != "wav":
            what = f"all were scaled by {written.gain:.3f}" if written.gain < 1 else "what exceeds was cut off"
            level = f"{song}: the stems peak at {written.peak:.2f}, full scale is 1"
            print(f"{level}: {what}; --format wav keeps them as they are", file=sys.stderr)
        print(*written.files, sep="\n")
    if failures:
        raise ValueError("\n".join(failures))


def evaluate(args: argparse.Namespace) -> None:
    from bsrnn import data, evaluate
    from bsrnn.devices import keep_memory

    keep_memory()
    folder = data.find_data(args.musdbhq_location)
    tracks = data.find_tracks(folder, args.split)
    oracles = {"sample_rate": args.sample_rate, "n_fft": args.n_fft}
    models = {"hop": args.hop, "device": args.device, "bf16": args.bf16}
    with _cleaning_up():
        estimators = evaluate.find_estimators(args.checkpoint_fp, args.estimates, tracks, **oracles, **models)
        rows = evaluate.score(
            estimators,
            tracks,
            split=args.split,
            data=data.fingerprint(folder),
            out=args.out,
            with_bsseval=args.bsseval,
            museval_folder=args.museval,
            audio_folder=args.save_audio,
        )
    print(evaluate.means(rows))


def info(args: argparse.Namespace) -> None:
    if args.model is None:
        print("\n".join(CONFIGS))
    elif os.path.exists(args.model):
        from bsrnn.checkpoint import load_config

        print(describe(load_config(args.model)))
    else:
        print(describe(named_config(args.model)))


def models(args: argparse.Namespace) -> None:
    from bsrnn import pretrained

    print(pretrained.table())


def import_checkpoint(args: argparse.Namespace) -> None:
    from bsrnn import checkpoint

    if os.path.exists(args.out):
        raise FileExistsError(f"{args.out} is there already: choose another folder")
    checkpoint.save(checkpoint.convert(args.checkpoint, named_config(args.config)), args.out)
    print(args.out)


def demo_data(args: argparse.Namespace) -> None:
    from bsrnn import demo

    demo.generate(args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
