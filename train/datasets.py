"""Opens a preset's clips for the training commands, and checks that the network can learn from them."""

from __future__ import annotations

import argparse
import os

import torch

from stt.models.layered import LayeredConfig
from train.data.arrays import array_options
from train.data.digits import Split
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.data.radar import RadarConfig, RadarDataset
from train.data.robot import RobotDataConfig, RobotDataset
from train.data.scenes import ScenesConfig, ScenesDataset
from train.data.shards import world_of
from train.data.tabletop import TabletopDataConfig, TabletopDataset
from train.data.video_folder import VideoFolder, VideoFolderConfig
from train.presets import Dataset, Preset

NUM_ACTIONS = {"tabletop": 2, "robot": 3}  # numbers of an action in simulated sets


def open_dataset(preset: Preset, args: argparse.Namespace, split: Split, device: torch.device) -> Dataset:
    """The preset's clips, or those of --data. SystemExit where the preset and --data do not fit."""
    data, model = preset.data, preset.model
    maps, layered = getattr(model, "maps", ()), isinstance(model, LayeredConfig)
    if layered and not isinstance(data, TabletopDataConfig):
        raise SystemExit("the family layered learns from poses, which only tabletop sets have")
    world = args.data and world_of(args.data)
    first = os.environ.get("RANK", "0") == "0"
    try:
        if isinstance(data, ScenesConfig | RadarConfig):
            if world:
                raise SystemExit(f"--data holds {world} clips, but the preset {args.preset} learns {data.kind}")
            if maps or getattr(model, "actions", ()) or getattr(model, "classes", 0):
                raise SystemExit(f"{data.kind} clips have no actions, classes and maps")
        if isinstance(data, RadarConfig):
            if not args.data:
                raise SystemExit(f"the preset {args.preset} needs --data, a folder of radar events")
            return RadarDataset(data, args.data, split, model.image_size, model.channels)
        if isinstance(data, ScenesConfig):
            if model.channels != 3:
                raise SystemExit("generated scenes are in colour: the model must have 3 channels")
            real = {args.data: data.real} if args.data else {}
            scenes = ScenesDataset(data, split, model.image_size, real, arrays=array_options(args))
            if first:
                scenes.report()
            return scenes
        if isinstance(data, VideoFolderConfig):
            if not args.data:
                raise SystemExit(f"the preset {args.preset} needs --data, a folder of videos")
            if world:
                raise SystemExit(f"--data holds {world} clips, but the preset {args.preset} learns videos")
            options = {name: getattr(data, name) for name in ("frames", "fps", "stride", "fit", "flip")}
            options |= {"image_size": model.image_size, "channels": model.channels, "arrays": array_options(args)}
            folder = VideoFolder(args.data, split, device=device, **options)
            check_folder(folder, preset)
            if first:
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
            straight = [args.data / "straight_line"] if split == "train" and getattr(model, "actions", ()) else []
            options = {"image_size": model.image_size, "frames": data.frames, "partial": data.partial}
            return RobotDataset(args.data / split, *straight, device=device, **options)
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
