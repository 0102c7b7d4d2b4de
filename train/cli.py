"""Flags of the training commands: a preset and overrides of it, saved in the folder of the run for --resume."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from stt.api import Config, Model
from stt.checkpoint import FILE_NAME, build, find, load_any, one_line, read_header, write_whole
from train.checkpoint import list_checkpoints
from train.data.arrays import add_array_flags
from train.data.radar import RadarConfig
from train.data.scenes import ScenesConfig, ScenesDataset
from train.data.shards import world_of
from train.data.video_folder import VideoFolder, VideoFolderConfig
from train.flags import check_output, count, number, place, whole
from train.presets import PRESETS, Dataset, Preset
from train.schedule import TrainerConfig

if TYPE_CHECKING:
    from train.trainer import Trainer

FLAGS_FILE = "run.json"
SOURCE_FLAGS = ("tokenizer", "start_from")  # each takes a path or a name on the Hub
DATA_FLAGS = ("strokes", "digits", "frames", "fps", "stride", "fit", "flip", "partial", "real", "workers")


def training_parser(module: str, description: str) -> argparse.ArgumentParser:
    """The flags of all training commands. Those of the schedule are the fields of TrainerConfig."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.epilog = "presets:\n" + "\n".join(f"  {name}\n      {p.summary}" for name, p in PRESETS.items())
    parser.add_argument("--preset", choices=sorted(PRESETS), metavar="NAME", help="what to train, listed below")
    parser.add_argument("--out", required=True, type=place, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, with the flags it began with")
    parser.add_argument(
        "--start-from", metavar="MODEL", help="file or run folder of a model whose weights to begin with"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="set a field of the network")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=place, metavar="DIR", help="folder of your own videos, or of simulated clips")
    data.add_argument(
        "--mnist", type=place, metavar="DIR", help="folder of the MNIST .gz files; else they are downloaded"
    )
    data.add_argument("--strokes", type=number, metavar="SHARE", help="share of synthetic digits; 1 needs no MNIST")
    data.add_argument("--digits", type=count, help="digits in a clip")
    data.add_argument("--frames", type=count, help="frames of a clip")
    data.add_argument("--fps", type=number, help="frames a second of your own videos; default: their median rate")
    data.add_argument("--stride", type=count, metavar="N", help="instead of --fps: every n-th frame at the median rate")
    data.add_argument("--fit", choices=["crop", "pad"], help="make your own videos square: crop, or add black bars")
    data.add_argument("--flip", action="store_true", default=None, help="mirror clips of your own videos at random")
    data.add_argument("--partial", action="store_true", default=None, help="train on what there is of a robot set yet")
    data.add_argument("--real", type=number, metavar="SHARE", help="share of clips of --data beside generated scenes")
    data.add_argument("--workers", type=whole, help="processes that generate scenes; 0: the training itself")
    add_array_flags(data)
    schedule = parser.add_argument_group("schedule", "Values in brackets hold where the preset does not set another.")
    for f in dataclasses.fields(TrainerConfig):
        name, text = f"--{f.name.replace('_', '-')}", f.metadata["help"]
        if isinstance(f.default, bool):
            schedule.add_argument(name, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            kind = type(f.default)
            text += f" [{f.default}]" if f.default else ""
            schedule.add_argument(name, type=kind, metavar=kind.__name__.upper(), help=text)
    return parser


def parse(parser: argparse.ArgumentParser, words: list[str] | None = None) -> argparse.Namespace:
    """The flags in `words`, by default the command line's. With --resume the flags of the run fill the others.

    `command` is added: the words that the run came about by. SystemExit where flags are missing or --out is the folder
    of another run, or none that can be written.
    """
    words = sys.argv[1:] if words is None else words
    args = parser.parse_args(words)
    check_output("--out", args.out, folder=True)
    path = args.out / FLAGS_FILE
    command = [*parser.prog.split(), *words]
    if args.resume and path.is_file():
        try:
            saved = json.loads(path.read_text())
            saved["flags"], saved["command"][2]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise SystemExit(f"{path} is damaged: give the run's flags again, with another --out") from error
        if saved["command"][2] != command[2]:
            raise SystemExit(f"{args.out} is a run of {saved['command'][2]}, not of {command[2]}")
        flags = saved["flags"]
        for name, other in (("steps", "minutes"), ("minutes", "steps")):
            if getattr(args, name) is not None:
                flags.pop(other, None)
        parser.set_defaults(**flags)
        args = parser.parse_args(words)
        changes = without_resume(words)
        repeated = changes == without_resume(saved["command"][3:])  # launchers repeat the first command
        command = saved["command"] + ([] if repeated else changes)
    elif not args.resume and (old := list_checkpoints(args.out)):
        raise SystemExit(f"{args.out} holds a run ({old[-1].name}): add --resume to continue it, or give another --out")
    if not args.preset:
        parser.error("--preset is missing" + (f", and there is no {path} to read it from" if args.resume else ""))
    if args.preset not in PRESETS:  # the saved flags of an older version
        parser.error(f"--preset {args.preset} is unknown; the presets are {', '.join(PRESETS)}")
    args.command = command
    return args


def without_resume(words: list[str]) -> list[str]:
    """Flags without --resume and --out."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--out")
    return parser.parse_known_args(words)[1]


def save_flags(args: argparse.Namespace, resumed: bool = False) -> None:
    """Writes the flags to the run's folder, paths in full. With --resume only after the run could be resumed."""
    path = args.out / FLAGS_FILE
    if int(os.environ.get("RANK", 0)) or (args.resume and path.is_file() and not resumed):
        return  # the first process writes
    flags = {name: value for name, value in vars(args).items() if name not in ("out", "resume", "command")}
    for name, value in flags.items():
        if isinstance(value, Path) or (name in SOURCE_FLAGS and value and Path(value).exists()):
            flags[name] = str(Path(value).absolute())
    text = json.dumps({"command": args.command, "flags": flags}, indent=1)
    write_whole(path, lambda file: file.write(text.encode()))


def training_card(args: argparse.Namespace, preset: Preset, clips: Dataset) -> dict[str, Any]:
    """How a run came about, for the header of its model; the cards of the models that it builds on are nested.

    Of your own videos it holds the frame rate of the clips, and which files were trained on and held out.
    """
    card = {"preset": args.preset, "world": dataclasses.asdict(preset.data), "command": without_folders(args.command)}
    if isinstance(clips, VideoFolder):
        card["world"]["fps"] = round(clips.fps, 3)
    if isinstance(clips, VideoFolder | ScenesDataset):
        card["files"] = clips.card()
        if args.resume and (args.out / FILE_NAME).is_file():  # the folder may have lost files since
            before = read_header(args.out / FILE_NAME)["card"].get("files", {}).get("train", [])
            card["files"]["train"] = sorted({*card["files"]["train"], *before})
    for name in SOURCE_FLAGS:
        if source := getattr(args, name, None):
            card[name] = read_header(find(source))["card"]
    return card


def without_folders(words: list[str]) -> str:
    """A command line whose paths to other folders are cut to their last part, so that a card names no such folder."""
    parts = [word.partition("=") if word.startswith("--") else ("", "", word) for word in words]
    return shlex.join(a + b + (Path(c).name if c.startswith(("/", "..", "~")) else c) for a, b, c in parts)


def charge(args: argparse.Namespace, begin: float) -> None:
    """Takes the time since `begin`, of time.monotonic, from --minutes, which are those of the whole command."""
    if args.minutes and not args.resume:
        args.minutes = round(max(args.minutes - (time.monotonic() - begin) / 60, 0.01), 3)


def with_overrides(config: Config, items: list[str]) -> Config:
    """A config with fields replaced by NAME=VALUE, values as Python literals. SystemExit where that is no config."""
    fields = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (equals and name.isidentifier()):
            raise SystemExit(f'--set {item}: must be NAME=VALUE, such as --set depth=3 or --set "actions=()"')
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise SystemExit(f"--set {item}: {value!r} is no number, quoted text, list, True, False or None") from None
    try:
        return config.from_dict(config.to_dict() | fields)
    except (ValueError, TypeError) as error:
        raise SystemExit(f"--set {' '.join(items)}: {error}") from error


def preset_of(args: argparse.Namespace) -> Preset:
    """The preset with the overrides of the flags. SystemExit where they are no preset."""
    preset = PRESETS[args.preset]
    training = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainerConfig)}
    training = {name: value for name, value in training.items() if value is not None}
    if "steps" in training:
        training.setdefault("minutes", 0.0)
    try:
        world = args.data and world_of(args.data)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    takes_data = isinstance(preset.data, VideoFolderConfig | ScenesConfig | RadarConfig)
    if args.data and not world and not takes_data:
        preset = replace(preset, data=VideoFolderConfig(frames=preset.data.frames))
    if args.fps and args.stride:
        raise SystemExit("--fps says the rate by itself, and so does --stride: leave out one of them")
    data = {name: getattr(args, name) for name in DATA_FLAGS if getattr(args, name) is not None}
    if unknown := set(data) - {f.name for f in dataclasses.fields(preset.data)}:
        raise SystemExit(f"--{min(unknown)} does not apply to the {preset.data.kind} clips of {args.preset}")
    model = with_overrides(preset.model, args.set)
    if args.set:
        check_network(preset.family, model, args.set)
    try:
        data, training = replace(preset.data, **data), replace(preset.training, **training)
    except ValueError as error:
        raise SystemExit(f"{args.preset}: {error}") from error
    return replace(preset, model=model, data=data, training=training)


def check_network(family: str, config: Config, items: list[str]) -> None:
    """SystemExit where --set asks for a network that cannot be built; takes no memory."""
    try:
        with torch.device("meta"):
            build(family, config)
    except Exception as error:  # sizes that do not go together may break a network anywhere
        raise SystemExit(f"--set {' '.join(items)}: the network cannot be built: {one_line(error)}") from error


def load_source(flag: str, source: str) -> Model:
    """The model that a flag names. SystemExit where there is none."""
    try:
        return load_any(source)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{flag} {source}: {error}") from error


def start_from(model: nn.Module, source: str | None, quiet: bool = False) -> None:
    """Copies the weights of the model that --start-from names, and prints which ones it lacks.

    SystemExit if it has weights that `model` lacks, or of other shapes.
    """
    if not source:
        return
    weights = load_source("--start-from", source).state_dict()
    own = model.state_dict()
    if other := next((name for name in weights if name in own and weights[name].shape != own[name].shape), None):
        shapes = tuple(weights[other].shape), tuple(own[other].shape)
        raise SystemExit(f"--start-from {source}: its {other!r} has shape {shapes[0]}, this network's {shapes[1]}")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected:
        raise SystemExit(f"--start-from {source}: it holds {unexpected[0]!r}, which this preset lacks")
    for name in missing:
        if not quiet:
            print(f"{name} begins untrained")


def resume(run: Trainer, args: argparse.Namespace) -> None:
    """Continues the run where --resume asks for it. SystemExit where its checkpoint is of another network."""
    if not args.resume:
        return
    try:
        run.resume()
    except (RuntimeError, ValueError, KeyError) as error:
        raise SystemExit(f"{args.out}: its checkpoint does not fit these flags: {one_line(error)}") from error
    save_flags(args, resumed=True)
