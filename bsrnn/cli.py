"""The command line: argument parsing only."""

import argparse
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

from bsrnn import pretrained
from bsrnn.config import CONFIGS, FORMATS, LOUDNESS, MOST_SEED, SPLITS, Config, TrainingConfig, describe, named_config

EXIT_USER_ERROR = 2
GRACE = 5  # seconds


def path(text: str) -> Path:
    """A path as an option; an empty one would mean the current folder."""
    if not text:
        raise FileNotFoundError("'' is no path")
    return Path(text)


def there(text: str) -> Path:
    """A path of what is there, or the name of a model or of songs: told now, as the imports take seconds."""
    if text and not (os.path.exists(text) or text == "demo" or pretrained.models(text)):
        raise FileNotFoundError(f"{text}: no such file or folder")
    return path(text)


def options_of(settings: type) -> dict[str, dict]:
    """An option for each `setting` of a settings class, absent where it is not given."""
    return {
        f"--{item.metadata['flag'] or item.name}": {
            "dest": item.name,
            "default": argparse.SUPPRESS,
            "help": f"{item.metadata['help']} (default: {item.default})",
            **({"action": argparse.BooleanOptionalAction} if item.type is bool else {"type": item.type}),
        }
        for item in fields(settings)
        if item.metadata
    }


SHOWN = "(default: %(default)s)"
DEVICE = {"--device": dict(help="auto, cpu, cuda or cuda:1 (default: auto)", default=argparse.SUPPRESS)}
SEED = {"--seed": dict(help="of weights and samples; -1: random (default: 0)", type=int, default=argparse.SUPPRESS)}
SONGS = "folder of songs with their stems, with train/ and test/ or without; or demo: generated songs"
DATA = {"--musdbhq_location": dict(help=SONGS, type=there, required=True)}
PATHS, SWITCH = {"type": there, "action": "append", "default": []}, {"action": "store_true"}
MODEL = "model folder, last.ckpt of a training, or a published model by name; repeat for several models"
STEP = "seconds between chunks as long as in training, less is better and slower; none means "
OPTIONS: dict[str, dict[str, dict]] = {  # of each command, what argparse takes for each of its options and arguments
    "": DEVICE | SEED,  # before the command or after it, with the defaults of `main`
    "train": {
        **(DEVICE | SEED | DATA),
        "--name": dict(help="of the run, in runs/NAME; the same command again goes on with it", required=True),
        "--part": dict(help="source, repeat for several; none means those of --config, or the data", action="append"),
        "--config": dict(help="a model by name, see `bsrnn info`, from which only what is given below differs"),
        "--reduce_size": dict(help="the sizes of --config small, for the sources of the data", **SWITCH),
        "--generic_bands": dict(help="without --schema: generic (Y, the default) or V7 (N)", choices=("Y", "N")),
        **(options_of(Config) | options_of(TrainingConfig)),
        "--checkpoint_fp": dict(help="model folder or name, whose extractor is transferred, frozen", type=there),
        "--transfer": dict(help="transfer from --checkpoint_fp, whose schema, sizes and rate apply", **SWITCH),
        "--init": dict(
            help="model folder or name, to go on from with its weights, for all or some sources", type=there
        ),
    },
    "infer": {
        **DEVICE,
        "--checkpoint_fp --model": dict(help=f"{MODEL}; none means open, which comes with bsrnn", **PATHS),
        "songs": dict(help="or folders of them: wav, flac, ogg, mp3, m4a, and most others", type=path, nargs="*"),
        "--input": dict(help="more songs, or folders of them", type=path, nargs="+", default=[]),
        "--out": dict(help=f"folder of SONG/SOURCE.wav; old ones are replaced {SHOWN}", type=path, default="separated"),
        "--sources": dict(help="what to estimate of what the models can; none means everything", nargs="+"),
        "--residual": dict(help="also write what the estimated sources leave of the song", **SWITCH),
        "--format": dict(help=f"wav: 32-bit floats; wav24, wav16: integers {SHOWN}", choices=FORMATS, default="wav"),
        "--loudness": dict(help=f"stems too loud: one gain, or cut off {SHOWN}", choices=LOUDNESS, default="rescale"),
        "--hop": dict(help=f"{STEP}long chunks, or as published", type=float),
        "--skip-existing": dict(help="leave out songs whose stems are all there, of whatever bit depth", **SWITCH),
        "--fp32": dict(help="compute in float32 also where bfloat16 is faster", **SWITCH),
    },
    "evaluate": {
        **DEVICE,
        "--checkpoint_fp": dict(help=MODEL, **PATHS),
        "--estimates": dict(help="another program's TRACK/SOURCE.wav (or flac, ogg, mp3); repeatable", **PATHS),
        **DATA,
        "--split": dict(help=f"which songs {SHOWN}", choices=SPLITS, default="test"),
        "--out": dict(help="CSV table to write or extend, by run, song, source and metric", type=path, required=True),
        "--bsseval": dict(help="also ISR, SIR and SAR, by museval: minutes per song and run", **SWITCH),
        "--museval": dict(help="folder that gets RUN/SPLIT/TRACK.json for museval's own aggregation", type=path),
        "--save-audio": dict(help="folder that gets the models' estimates as RUN/TRACK/SOURCE.wav", type=path),
        "--hop": dict(help=f"{STEP}half a chunk, or as published", type=float),
        "--bf16": dict(help="compute matrix products in bfloat16, on devices that have it", **SWITCH),
        "--sample_rate": dict(help="of the oracles, in Hz; none means that of the models, or 44100", type=int),
        "--n_fft": dict(help="of the oracles, in samples; none means that of the models, or 2048", type=int),
    },
    "info": {"model": dict(help="a model's name, folder or checkpoint file; none lists the names", nargs="?")},
    "import": {
        "checkpoint": dict(help="file to convert; nothing in it is executed", type=there),
        "out": dict(help="model folder to make", type=path),
        "--config": dict(help=f"the published model that it is, such as obsrnn-bass {SHOWN}", default="obsrnn-simo"),
    },
    "demo-data": {"out": dict(help="folder to make", type=path)},
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of `bsrnn`; a command's `run` is its function, which imports what it needs, as torch is slow."""
    parser = argparse.ArgumentParser("bsrnn", description="Separate music into its sources by band-split RNNs.")
    for names, settings in OPTIONS[""].items():
        parser.add_argument(names, **settings)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("train", train, "train a model for one or several sources, or transfer one to new sources"),
        ("infer", infer, "separate songs into their sources"),
        ("evaluate", evaluate, "score models, baselines and others on the songs of a split"),
        ("info", info, "show a model's bands, parameters and cost"),
        (
            "models",
            models,
            "list the published models: sources, size, licence, scores, whether cached",
        ),
        ("import", import_checkpoint, "convert a checkpoint of magronp/bsrnn, such as their separator.ckpt"),
        ("demo-data", demo_data, "generate a small data set in MUSDB18-HQ layout"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(run=run)
        for names, settings in OPTIONS.get(name, {}).items():
            command.add_argument(*names.split(), **settings)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command; an error the user can mend is one line and exit code 2; of `infer`, a line per song."""
    args = argparse.Namespace(device="auto", seed=0)
    try:
        build_parser().parse_args(arguments, args)
        if args.seed == -1 and "WORLD_SIZE" in os.environ:
            raise ValueError("several processes need the same --seed: give one")
        if not -1 <= args.seed <= MOST_SEED:
            raise ValueError(f"--seed must be at least 0 and at most {MOST_SEED}, or -1, not {args.seed}")
        if args.seed == -1:
            args.seed = random.randrange(MOST_SEED)
            print(f"seed {args.seed}")
        with _cleaning_up(), _told_out_of_memory():
            return args.run(args) or 0
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"bsrnn {args.command}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"bsrnn {args.command}: interrupted", file=sys.stderr)
        return 130


@contextmanager
def _told_out_of_memory(what: str = "") -> Iterator[None]:
    """Say in one line where memory does not suffice, and for what."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        from bsrnn.devices import short_of_memory

        if (device := short_of_memory(error)) is None:
            raise
        remedy = "end other programs there, choose another --device, or, to train, a smaller --batch_size or model"
        raise MemoryError(f"{what}out of memory on {device}: {remedy}") from None


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """Let a signal to end raise, so that nothing half written stays; by default it would end Python at once. Those that
    follow within `GRACE` change nothing, as cleaning up may take a while; a later one ends the process as it is."""
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    told = []  # when

    def end(number, _):
        told.append(time.monotonic())
        if len(told) == 1:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        if told[-1] - told[0] > GRACE:
            os._exit(128 + number)

    # but for those that nohup and the like leave out
    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            if not told and signal.getsignal(number) is end:  # once told, here or within, the process is about to end
                signal.signal(number, handler)


def train(args: argparse.Namespace) -> None:
    if not (args.name.isprintable() and Path(args.name).name == args.name != ".." and 0 < len(args.name) <= 200):
        raise ValueError(f"--name {args.name!r} must be a plain name of at most 200 letters, without folders")
    if args.transfer != (args.checkpoint_fp is not None):
        raise ValueError("--transfer and --checkpoint_fp go together: the model folder to transfer from")
    given, settings = _given(args, Config), TrainingConfig(**_given(args, TrainingConfig))
    if args.generic_bands:
        given.setdefault("schema", "generic" if args.generic_bands == "Y" else "v7")
    origin = args.checkpoint_fp or args.init
    bases = [name for name in ("config", "reduce_size", "transfer", "init") if getattr(args, name)]
    exclusive = [f"--{name}" for name in (*bases, *(given if origin else ()))]
    if len(exclusive) > 1:
        raise ValueError(f"{exclusive[0]} and {exclusive[1]} exclude each other: both say how large the model is")
    config = named_config(args.config) if args.config else CONFIGS["small"] if args.reduce_size else Config()

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # Lightning imports it, and a home may be read-only
    import torch

    from bsrnn import checkpoint, data, devices, files, train
    from bsrnn.model import BSRNN

    devices.keep_memory()
    dataset = data.find_data(args.musdbhq_location)
    if origin:
        if len(names := pretrained.models(origin)) > 1 and not os.path.exists(origin):
            raise ValueError(f"{origin} is several models: choose from {', '.join(names)}")
        base = checkpoint.load(*pretrained.folders(origin))
        config = base.config
    sources = tuple(args.part or (config.sources if args.config or args.init else data.stem_mapping(dataset)))
    if args.init and not set(sources) <= set(config.sources):
        raise ValueError(f"{args.init} estimates {', '.join(config.sources)} only: take --transfer for others")
    torch.manual_seed(args.seed)  # of initial weights; samples have a generator of their own
    if origin:
        model = train.transfer(base, sources) if args.transfer else base.keep_heads(sources)
    else:
        if "feature_dim" in given:
            given.setdefault("hidden_dim", 2 * given["feature_dim"])
        model = BSRNN(replace(config, sources=sources, **given))
    folder = files.root() / "runs" / args.name
    init = args.init and checkpoint.digest(*model.children())
    train.fit(model, dataset, settings, folder, seed=args.seed, device=args.device, init=init)
    print(f"model: {folder / 'model'}")


def _given(args: argparse.Namespace, settings: type) -> dict:
    """The fields of a settings class that the command line gives."""
    return {item.name: getattr(args, item.name) for item in fields(settings) if hasattr(args, item.name)}


def infer(args: argparse.Namespace) -> int:
    given = [*args.songs, *args.input]
    if not given:
        raise ValueError("which song? Give one before the options, or after --input")
    if not any(map(os.path.exists, given)):  # which does not raise, as path.exists() may
        raise FileNotFoundError(f"{given[0]}: no such file or folder")

    from bsrnn import devices, separate

    devices.keep_memory()
    songs = separate.find_songs(given, args.out)
    if not args.checkpoint_fp:
        print("model: open, a small one; --model obsrnn-simo separates better, see bsrnn models", file=sys.stderr)
    separator = separate.Separator.from_pretrained(
        *args.checkpoint_fp, sources=args.sources, hop=args.hop, device=args.device, bf16=False if args.fp32 else None
    )
    inputs, code = {os.path.realpath(song) for song in songs}, 0
    stems = {song: separator.targets(folder, args.format, args.residual).values() for song, folder in songs.items()}
    if taken := [(song, stem) for song in songs for stem in stems[song] if os.path.realpath(stem) in inputs]:
        raise ValueError("{}: its stem {} would take the place of a song: choose another --out".format(*taken[0]))
    for song, folder in songs.items():
        if args.skip_existing and all(stem.is_file() for stem in stems[song]):
            print(f"{folder}: is there already")
            continue
        try:
            with _told_out_of_memory(f"{song}: "):
                written = separator.separate_file(
                    song, folder, form=args.format, residual=args.residual, loudness=args.loudness, progress=True
                )
        except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, MemoryError) as error:
            print(f"bsrnn infer: {error}", file=sys.stderr)  # of this song; the others may be better
            code = EXIT_USER_ERROR
        else:
            if written.peak > 1 and args.format != "wav":
                what = f"all were scaled by {written.gain:.3f}" if written.gain < 1 else "what exceeds was cut off"
                level = f"{song}: the stems peak at {written.peak:.2f}, full scale is 1"
                print(f"{level}: {what}; --format wav keeps them as they are", file=sys.stderr)
            print(*written.files, sep="\n")
    return code


def evaluate(args: argparse.Namespace) -> None:
    from bsrnn import data, devices, evaluate

    devices.keep_memory()
    folder = data.find_data(args.musdbhq_location)
    tracks = data.find_tracks(folder, args.split)
    options = {name: getattr(args, name) for name in ("sample_rate", "n_fft", "hop", "device", "bf16")}
    estimators = evaluate.find_estimators(args.checkpoint_fp, args.estimates, tracks, **options)
    songs = {"split": args.split, "data": data.fingerprint(folder), "out": args.out}
    extras = {"with_bsseval": args.bsseval, "museval_folder": args.museval, "audio_folder": args.save_audio}
    print(evaluate.means(evaluate.score(estimators, tracks, **songs, **extras)))


def info(args: argparse.Namespace) -> None:
    if args.model is None:
        print("\n".join(CONFIGS))
        return
    place = Path(args.model) if os.path.exists(args.model) else pretrained.place(args.model)
    place = place.parent if place.name in ("config.json", "model.safetensors") else place
    if place.is_file():
        from bsrnn import checkpoint

        config = checkpoint.load(place).config
    else:  # without torch, whose import takes seconds
        config = Config.read(place) if place.is_dir() else named_config(args.model)
    print(describe(config))


def models(_: argparse.Namespace) -> None:
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
