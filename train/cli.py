"""Flags of the training commands: presets with overrides, kept in the folder of the run for --resume."""

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

from stt.api import Config
from stt.checkpoint import find, read_header, write_whole
from stt.models.layered import LayeredConfig
from train.checkpoint import checkpoints
from train.data.digits import Split
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.data.tabletop import TabletopDataset
from train.data.video_folder import VideoFolder, VideoFolderConfig
from train.presets import PRESETS, Preset, Videos
from train.trainer import TrainerConfig

FILE = "run.json"
SOURCES = ("tokenizer", "start_from", "predictor")  # flags whose text may be a path


def parsed(parser: argparse.ArgumentParser, module: str, words: list[str] | None = None) -> argparse.Namespace:
    """The flags in `words` (default: the command line's); with --resume also those that the run has, behind them.

    `command` is what the run came about by, as words. Raises SystemExit where flags are missing or --out is the folder
    of another run.
    """
    words = sys.argv[1:] if words is None else words
    args = parser.parse_args(words)
    path = args.out / FILE
    command = ["python", "-m", module, *words]
    if args.resume and path.is_file():
        kept = json.loads(path.read_text())
        if kept["command"][2] != module:
            raise SystemExit(f"{args.out} is a run of {kept['command'][2]}, not of {module}")
        flags = kept["flags"]
        for name, other in (("steps", "minutes"), ("minutes", "steps")):
            if getattr(args, name) is not None:
                flags.pop(other, None)
        parser.set_defaults(**flags)
        args = parser.parse_args(words)
        more = beside_resume(words)
        known = more == beside_resume(kept["command"][3:])  # the same command once more, as launchers give it
        command = kept["command"] + ([] if known else more)
    elif not args.resume and (old := checkpoints(args.out)):
        raise SystemExit(f"{args.out} holds a run ({old[-1].name}): --resume continues it, else give another --out")
    if not args.preset:
        known = f"; {path} is not there to tell it" if args.resume else ""
        parser.error(f"the following arguments are required: --preset{known}")
    args.command = command
    return args


def beside_resume(words: list[str]) -> list[str]:
    """The flags that are not --resume and --out."""
    resume = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    resume.add_argument("--resume", action="store_true")
    resume.add_argument("--out")
    return resume.parse_known_args(words)[1]


def keep(args: argparse.Namespace, resumed: bool = False) -> None:
    """Writes the flags to the run's folder, paths in full; with --resume only once the run has been resumed by them."""
    path = args.out / FILE
    if int(os.environ.get("RANK", 0)) or (args.resume and path.is_file() and not resumed):
        return  # the first process writes
    flags = {name: value for name, value in vars(args).items() if name not in ("out", "resume", "command")}
    for name, value in flags.items():
        if isinstance(value, Path) or (name in SOURCES and value and Path(value).exists()):
            flags[name] = str(Path(value).absolute())
    text = json.dumps({"command": args.command, "flags": flags}, indent=1)
    write_whole(path, lambda file: file.write(text.encode()))


def arguments(description: str) -> argparse.ArgumentParser:
    """The flags that all training commands share; those of the schedule come from TrainerConfig."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--preset", choices=sorted(PRESETS), help="what to train")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--mnist", type=Path, help="folder of the MNIST .gz files; downloaded when not given")
    parser.add_argument("--data", type=Path, help="folder of your own videos, or of the tabletop's clips")
    parser.add_argument("--strokes", type=float, help="share of drawn digits; 1 needs no MNIST")
    parser.add_argument("--digits", type=int, help="digits per clip")
    parser.add_argument("--frames", type=int, help="frames per clip")
    parser.add_argument("--stride", type=int, help="of your own videos, take every n-th frame")
    parser.add_argument("--fit", choices=["crop", "pad"], help="make your own videos square by a crop or by black bars")
    parser.add_argument("--flip", action="store_true", default=None, help="mirror clips of your own videos at random")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--start-from", help="file or run folder of a model whose weights to begin with")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out exactly, with its own flags")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override a model field")
    for f in dataclasses.fields(TrainerConfig):
        kind = type(f.default)
        if kind is bool:
            parser.add_argument(f"--{f.name}", action=argparse.BooleanOptionalAction, default=None)
        else:
            parser.add_argument(f"--{f.name.replace('_', '-')}", type=kind, help=f"default {f.default} or the preset's")
    return parser


def card_of(args: argparse.Namespace, preset: Preset) -> dict[str, Any]:
    """How a run came about, for its checkpoint's header; the cards of what it builds on are nested in it."""
    card = {
        "preset": args.preset,
        "world": dataclasses.asdict(preset.world),
        "command": without_folders(args.command),
    }
    for name in ("tokenizer", "start_from"):
        if source := getattr(args, name, None):
            card[name] = read_header(find(source))["card"]
    return card


def without_folders(words: list[str]) -> str:
    """A command line whose paths to elsewhere are cut to their last part: a card travels, folders do not."""
    parts = [word.partition("=") if word.startswith("--") else ("", "", word) for word in words]
    elsewhere = ("/", "..", "~")
    return shlex.join(a + b + (Path(c).name if c.startswith(elsewhere) else c) for a, b, c in parts)


def overridden(config: Config, items: list[str]) -> Config:
    """A config with fields replaced by NAME=VALUE, values as Python literals."""
    fields = dict(item.split("=", 1) for item in items)
    return config.from_dict(config.to_dict() | {name: ast.literal_eval(value) for name, value in fields.items()})


def chosen(args: argparse.Namespace) -> Preset:
    """The preset with the command line's overrides."""
    preset = PRESETS[args.preset]
    loop = {f.name: getattr(args, f.name) for f in dataclasses.fields(TrainerConfig)}
    loop = {name: value for name, value in loop.items() if value is not None}
    if "steps" in loop:
        loop.setdefault("minutes", 0.0)
    world = {name: getattr(args, name) for name in ("strokes", "digits", "frames", "stride", "fit", "flip")}
    world = {name: value for name, value in world.items() if value is not None}
    if args.data and not is_tabletop(args.data) and not isinstance(preset.world, VideoFolderConfig):
        preset = replace(preset, world=VideoFolderConfig(frames=preset.world.frames))
    if unknown := set(world) - {f.name for f in dataclasses.fields(preset.world)}:
        kind = preset.world.kind
        raise SystemExit(f"--{min(unknown)} means nothing to {kind} clips, which {args.preset} learns here")
    model = overridden(preset.model, args.set)
    return replace(preset, model=model, world=replace(preset.world, **world), loop=replace(preset.loop, **loop))


def is_tabletop(folder: Path) -> bool:
    """Whether train.make_tabletop wrote it; any other folder holds videos."""
    path = folder / "train" / "index.json"
    return path.is_file() and {"format", "per_shard", "crf"} <= set(json.loads(path.read_text()))


def videos_of(preset: Preset, args: argparse.Namespace, split: Split, device: torch.device) -> Videos:
    """The clips of the preset's world, or of --data, on the training device; SystemExit where the two do not fit."""
    world, model = preset.world, preset.model
    if isinstance(world, VideoFolderConfig):
        if not args.data:
            raise SystemExit(f"the preset {args.preset} needs --data, a folder of videos")
        options = {name: getattr(world, name) for name in ("frames", "stride", "fit", "flip")}
        try:
            videos = VideoFolder(
                args.data, split, image_size=model.image_size, channels=model.channels, device=device, **options
            )
        except (ValueError, FileNotFoundError) as error:
            raise SystemExit(str(error)) from error
        check_folder(videos, preset)
        return videos
    maps, layered = getattr(model, "maps", ()), isinstance(model, LayeredConfig)
    if isinstance(world, MovingMNISTConfig):
        if args.data:
            raise SystemExit(f"--data is a set of the tabletop, the preset {args.preset} learns digits: leave it out")
        if layered:
            raise SystemExit("the family layered learns from poses, which only sets of the tabletop have")
        return MovingMNIST(world, args.mnist, split, device, maps=maps)
    if not args.data:
        raise SystemExit(f"the preset {args.preset} needs --data, the folder that train.make_tabletop wrote")
    if getattr(model, "classes", 0) or maps:
        raise SystemExit("the tabletop has no classes and no maps")
    beside = [args.data / "straight_line"] if split == "train" and layered else []
    try:
        return TabletopDataset(args.data / split, *beside, frames=world.frames, sprites=layered, device=device)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from error


def check_folder(videos: VideoFolder, preset: Preset) -> None:
    """SystemExit where a model learns what a folder does not tell: actions, classes, maps."""
    model, folder = preset.model, videos.folder
    actions, classes = len(getattr(model, "actions", ())), getattr(model, "classes", 0)
    if isinstance(model, LayeredConfig):
        raise SystemExit("the family layered learns from poses, which only sets of the tabletop have")
    if actions and videos.actions != actions:
        has = f"{videos.actions} numbers a frame" if videos.actions else "no actions"
        raise SystemExit(f'the model takes {actions} actions, {folder} has {has}: add --set "actions=()" for none')
    if classes and not videos.classes:
        raise SystemExit(f"the model takes {classes} classes, {folder} has no class sub-folders: add --set classes=0")
    if classes and len(videos.classes) > classes:
        count = len(videos.classes)
        raise SystemExit(f"the model takes {classes} classes, {folder} has {count}: add --set classes={count}")
    if getattr(model, "maps", ()):
        raise SystemExit(f'the model learns maps of {", ".join(model.maps)}, {folder} has none: add --set "maps=()"')
