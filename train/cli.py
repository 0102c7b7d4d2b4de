"""Flags of the training commands: a preset and overrides of it, saved in the folder of the run for --resume."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stt.api import Config
from stt.checkpoint import find, load_any, read_header, write_whole
from stt.models.layered import LayeredConfig
from train.checkpoint import list_checkpoints
from train.data.arrays import add_array_flags, array_options
from train.data.digits import Split
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.data.robot import RobotDataConfig, RobotDataset
from train.data.shards import world_of
from train.data.tabletop import TabletopDataConfig, TabletopDataset
from train.data.video_folder import VideoFolder, VideoFolderConfig
from train.presets import PRESETS, Dataset, Preset
from train.schedule import TrainerConfig

FLAGS_FILE = "run.json"
SOURCE_FLAGS = ("tokenizer", "start_from")  # each takes a path or a name on the Hub
DATA_FLAGS = ("strokes", "digits", "frames", "fps", "stride", "fit", "flip", "partial")
NUM_ACTIONS = {"tabletop": 2, "robot": 3}  # numbers of an action in simulated sets


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
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, with the flags it began with")
    parser.add_argument(
        "--start-from", metavar="MODEL", help="file or run folder of a model whose weights to begin with"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="set a field of the network")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    data = parser.add_argument_group("data")
    data.add_argument("--data", type=Path, metavar="DIR", help="folder of your own videos, or of simulated clips")
    data.add_argument(
        "--mnist", type=Path, metavar="DIR", help="folder of the MNIST .gz files; else they are downloaded"
    )
    data.add_argument("--strokes", type=float, metavar="SHARE", help="share of drawn digits; with 1 no MNIST is needed")
    data.add_argument("--digits", type=int, help="digits in a clip")
    data.add_argument("--frames", type=int, help="frames of a clip")
    data.add_argument("--fps", type=float, help="frames a second of your own videos' clips; default: their median rate")
    data.add_argument("--stride", type=int, metavar="N", help="instead of --fps: every n-th frame at the median rate")
    data.add_argument("--fit", choices=["crop", "pad"], help="make your own videos square: crop, or add black bars")
    data.add_argument("--flip", action="store_true", default=None, help="mirror clips of your own videos at random")
    data.add_argument("--partial", action="store_true", default=None, help="train on what there is of a robot set yet")
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
    of another run.
    """
    words = sys.argv[1:] if words is None else words
    args = parser.parse_args(words)
    path = args.out / FLAGS_FILE
    command = [*parser.prog.split(), *words]
    if args.resume and path.is_file():
        saved = json.loads(path.read_text())
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
        card["files"] = clips.card()
    for name in SOURCE_FLAGS:
        if source := getattr(args, name, None):
            card[name] = read_header(find(source))["card"]
    return card


def without_folders(words: list[str]) -> str:
    """A command line whose paths to other folders are cut to their last part, so that a card names no such folder."""
    parts = [word.partition("=") if word.startswith("--") else ("", "", word) for word in words]
    return shlex.join(a + b + (Path(c).name if c.startswith(("/", "..", "~")) else c) for a, b, c in parts)


def with_overrides(config: Config, items: list[str]) -> Config:
    """A config with fields replaced by NAME=VALUE, values as Python literals."""
    fields = dict(item.split("=", 1) for item in items)
    return config.from_dict(config.to_dict() | {name: ast.literal_eval(value) for name, value in fields.items()})


def preset_of(args: argparse.Namespace) -> Preset:
    """The preset with the overrides of the flags."""
    preset = PRESETS[args.preset]
    training = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainerConfig)}
    training = {name: value for name, value in training.items() if value is not None}
    if "steps" in training:
        training.setdefault("minutes", 0.0)
    if args.data and not world_of(args.data) and not isinstance(preset.data, VideoFolderConfig):
        preset = replace(preset, data=VideoFolderConfig(frames=preset.data.frames))
    if args.fps and args.stride:
        raise SystemExit("--fps says the rate by itself, and so does --stride: leave out one of them")
    data = {name: getattr(args, name) for name in DATA_FLAGS if getattr(args, name) is not None}
    if unknown := set(data) - {f.name for f in dataclasses.fields(preset.data)}:
        raise SystemExit(f"--{min(unknown)} does not apply to the {preset.data.kind} clips of {args.preset}")
    model = with_overrides(preset.model, args.set)
    data, training = replace(preset.data, **data), replace(preset.training, **training)
    return replace(preset, model=model, data=data, training=training)


def start_from(model: nn.Module, source: str | None) -> None:
    """Copies the weights of the model that --start-from names, and prints which ones it lacks.

    SystemExit if it has weights that `model` lacks.
    """
    if not source:
        return
    missing, unexpected = model.load_state_dict(load_any(source).state_dict(), strict=False)
    if unexpected:
        raise SystemExit(f"--start-from {source}: it holds {unexpected[0]!r}, which this preset lacks")
    for name in missing:
        print(f"{name} begins untrained")


def open_dataset(preset: Preset, args: argparse.Namespace, split: Split, device: torch.device) -> Dataset:
    """The preset's clips, or those of --data. SystemExit where the preset and --data do not fit."""
    data, model = preset.data, preset.model
    maps, layered = getattr(model, "maps", ()), isinstance(model, LayeredConfig)
    if layered and not isinstance(data, TabletopDataConfig):
        raise SystemExit("the family layered learns from poses, which only tabletop sets have")
    world = args.data and world_of(args.data)
    try:
        if isinstance(data, VideoFolderConfig):
            if not args.data:
                raise SystemExit(f"the preset {args.preset} needs --data, a folder of videos")
            if world:
                raise SystemExit(f"--data holds {world} clips, but the preset {args.preset} learns videos")
            options = {name: getattr(data, name) for name in ("frames", "fps", "stride", "fit", "flip")}
            options |= {"image_size": model.image_size, "channels": model.channels, "arrays": array_options(args)}
            folder = VideoFolder(args.data, split, device=device, **options)
            check_folder(folder, preset)
            if os.environ.get("RANK", "0") == "0":
                folder.report()
            return folder
        if isinstance(data, MovingMNISTConfig):
            if args.data:
                raise SystemExit(f"--data holds {world} clips, but the preset {args.preset} learns digits")
            return MovingMNIST(data, args.mnist, split, device, maps=maps)
        if not args.data:
            raise SystemExit(f"the preset {args.preset} needs --data, the folder that train.make_{data.kind} wrote")
        check_simulated(preset)
        if isinstance(data, RobotDataConfig):
            options = {"image_size": model.image_size, "frames": data.frames, "partial": data.partial}
            return RobotDataset(args.data / split, device=device, **options)
        straight = [args.data / "straight_line"] if split == "train" and layered else []
        return TabletopDataset(args.data / split, *straight, frames=data.frames, sprites=layered, device=device)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error


def check_simulated(preset: Preset) -> None:
    """SystemExit where a model learns from what simulated clips lack: classes, maps, other actions."""
    model, kind = preset.model, preset.data.kind
    if getattr(model, "classes", 0) or getattr(model, "maps", ()):
        raise SystemExit(f"{kind} clips have no classes and no maps")
    actions = len(getattr(model, "actions", ()))
    if actions not in (0, NUM_ACTIONS[kind]):
        raise SystemExit(f"the model takes {actions} actions, {kind} clips have {NUM_ACTIONS[kind]}")


def check_folder(videos: VideoFolder, preset: Preset) -> None:
    """SystemExit where a model learns from what a folder lacks: actions, classes, maps."""
    model, folder = preset.model, videos.folder
    reason = videos.account.no_classes
    why = f"no class sub-folders ({reason})" if reason else "no class sub-folders"
    actions, classes = len(getattr(model, "actions", ())), getattr(model, "classes", 0)
    if actions and videos.actions != actions:
        number = f"{videos.actions} numbers a frame" if videos.actions else "no actions"
        raise SystemExit(f'the model takes {actions} actions, {folder} has {number}: add --set "actions=()" for none')
    if actions:
        videos.check_actions()
    if classes and not videos.classes:
        raise SystemExit(f"the model takes {classes} classes, {folder} has {why}: add --set classes=0")
    if classes and len(videos.classes) > classes:
        count = len(videos.classes)
        raise SystemExit(f"the model takes {classes} classes, {folder} has {count}: add --set classes={count}")
    if getattr(model, "maps", ()):
        raise SystemExit(f'the model learns maps of {", ".join(model.maps)}, {folder} has none: add --set "maps=()"')
