"""Training clips from a folder of videos."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stt.api import Batch
from stt.checkpoint import write_whole
from train.data.arrays import write_frames
from train.data.digits import Split
from train.data.index import IndexedVideo, index_videos, warn_once
from train.seeding import generator_for

SPLITS = ("train", "test")
KIND, FORMAT = "video folder", 1  # of a packed set's index.json


@dataclass(frozen=True, kw_only=True)
class VideoFolderConfig:
    """What a preset trains on: clips cut from a folder of videos."""

    kind: Literal["folder"] = "folder"
    frames: int = 20  # per clip
    stride: int = 1  # every n-th frame of the video
    fit: Literal["crop", "pad"] = "crop"
    flip: bool = False


class VideoFolder:
    """Clips of a folder's videos; a batch depends on (split, size, seed, index) alone.

    folder: video files, image packs and arrays (see train.data.readers), in sub-folders train/ and test/, or in one
    sub-folder per class, or in both (train/CLASS), or in none; or a packed set. Clips have `frames` frames, every
    `stride`-th of a video, and never cross a cut or a segment's end. fit: "crop" takes the centre square, "pad" adds
    black bars. flip: mirrors clips at random. cache: folder for the decoded frames, size * size * channels bytes each;
    None: in the folder, or, where that is read-only, in $STT_CACHE or ~/.cache/stt.
    Raises ValueError for arguments and for what cannot be read, FileNotFoundError where there is no folder.
    """

    def __init__(
        self,
        folder: Path,
        split: Split,
        frames: int,
        image_size: int,
        channels: int,
        stride: int = 1,
        fit: str = "crop",
        flip: bool = False,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
    ) -> None:
        self.folder, self.split, self.device = Path(folder), split, torch.device(device)
        self.frames, self.stride, self.flip = frames, stride, flip
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, must be 'train' or 'test'")
        if fit not in ("crop", "pad") or channels not in (1, 3):
            raise ValueError(f"fit is {fit!r} and channels {channels}, must be 'crop' or 'pad', and 1 or 3")
        if min(frames, stride, image_size) < 1:
            raise ValueError(f"frames {frames}, stride {stride} and image_size {image_size} must be at least 1")
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
        if (index := packed_index(self.folder)) is None:
            videos, self.classes = index_videos(self.folder, image_size, channels, fit, cache)
        else:
            videos, self.classes = unpacked(self.folder, index, image_size, channels), tuple(index["classes"])
        self._open = lru_cache(maxsize=1024)(lambda path: np.load(path, mmap_mode="r"))
        self.actions = self._action_size(videos)  # numbers of an action; 0 where some video has none
        if flip and self.actions:
            raise ValueError(f"{folder} has actions, which flip would not mirror with the pictures: leave it out")
        self._videos = {name: self._long_enough(videos, name) for name in SPLITS}
        lengths = [v.last - v.first for v in self._videos[split]]
        self._starts = np.cumsum([length - self.span + 1 for length in lengths])
        self._clips = sum(length // self.span for length in lengths)

    @property
    def span(self) -> int:
        """Frames of a video from a clip's first to its last."""
        return (self.frames - 1) * self.stride + 1

    def __len__(self) -> int:
        """Clips of this split that share no frame; batches also begin in between."""
        return self._clips

    def batch(self, size: int, seed: int, index: int) -> Batch:
        """Random clips (size, frames, C, H, W), all starts equally likely, with the folder's actions and classes."""
        generator = generator_for("folder", self.split, seed, index)
        starts = torch.randint(int(self._starts[-1]), (size,), generator=generator).numpy()
        mirrored = torch.rand(size, generator=generator) < 0.5
        which = np.searchsorted(self._starts, starts, side="right")
        videos = [self._videos[self.split][k] for k in which]
        ends = self._starts[which] - 1 - starts  # starts of the same video that come later
        clips = self._cut(videos, [v.last - self.span - int(end) for v, end in zip(videos, ends, strict=True)])
        if self.flip:
            mirrored = mirrored.to(self.device)[:, None, None, None, None]
            clips = replace(clips, video=torch.where(mirrored, clips.video.flip(-1), clips.video))
        return clips

    def held_out(self, count: int) -> Batch:
        """`count` clips of the test split that share no frame, whichever split this is; its videos take turns."""
        test = self._videos["test"]
        places = [(v, first) for v in test for first in range(v.first, v.last - self.span + 1, self.span)]
        places.sort(key=lambda place: place[1] - place[0].first)
        if not 1 <= count <= len(places):
            raise ValueError(f"count is {count}, {self.folder} holds out {len(places)} clips of {self.frames} frames")
        return self._cut(*zip(*places[:count], strict=True))

    def _cut(self, videos: Sequence[IndexedVideo], starts: Sequence[int]) -> Batch:
        """Clips of videos from frames of their files on."""
        steps = [slice(start, start + self.span, self.stride) for start in starts]
        pixels = np.stack([self._open(v.pixels)[step] for v, step in zip(videos, steps, strict=True)])
        frames = torch.from_numpy(pixels)
        frames = frames.pin_memory() if self.device.type == "cuda" else frames
        video = frames.to(self.device, non_blocking=True).movedim(-1, -3).contiguous().float().div_(127.5).sub_(1)
        actions = labels = None
        if self.actions:
            rows = np.stack([self._open(v.actions)[step] for v, step in zip(videos, steps, strict=True)])
            actions = torch.from_numpy(rows).to(self.device)
        if self.classes:
            labels = torch.tensor([[v.label] for v in videos], device=self.device)
        return Batch(video, actions, labels)

    def _long_enough(self, videos: list[IndexedVideo], split: str) -> list[IndexedVideo]:
        """Those of a split that hold a clip; names the others, ValueError where none is left."""
        lengths: dict[str, int] = {}
        for v in videos:
            if v.split == split:
                lengths[v.name] = max(lengths.get(v.name, 0), v.last - v.first)
        short = {name: length for name, length in lengths.items() if length < self.span}
        names = "".join(f"\n  {name}: {length} frames without a cut" for name, length in short.items())
        clip = f"a clip of {self.frames} frames at stride {self.stride}, which takes {self.span}"
        if len(short) == len(lengths):
            raise ValueError(f"{self.folder}: everything in the {split} split is too short for {clip}:{names}")
        if short:
            warn_once(
                f"{self.folder}: {len(short)} of {len(lengths)} in the {split} split are too short for {clip}:{names}"
            )
        return [v for v in videos if v.split == split and v.last - v.first >= self.span]

    def _action_size(self, videos: list[IndexedVideo]) -> int:
        sizes = {self._open(path).shape[-1] if path else 0 for path in {v.actions for v in videos}}
        if len(sizes - {0}) > 1:
            raise ValueError(f"{self.folder} has actions of {sorted(sizes)} numbers; all must have as many")
        return min(sizes)


# ---- packed sets -------------------------------------------------------------------------------------


def pack(folder: Path, out: Path, image_size: int, channels: int, fit: str) -> None:
    """Writes a folder's videos as frames.npy (F, size, size, channels), actions.npy (F, A) and index.json.

    Raises ValueError for a folder that `VideoFolder` cannot read, and where `out` is not empty.
    """
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give another folder, or delete what it holds")
    with tempfile.TemporaryDirectory(dir=out) as cache:
        videos, classes = index_videos(folder, image_size, channels, fit, Path(cache))
        shape = (sum(v.last - v.first for v in videos), image_size, image_size, channels)
        write_frames(out / "frames.npy", shape, (np.load(v.pixels, mmap_mode="r")[v.first : v.last] for v in videos))
        ends = np.cumsum([v.last - v.first for v in videos]).tolist()
        rows = [[v.name, v.split, v.label, end - v.last + v.first, end] for v, end in zip(videos, ends, strict=True)]
        if actions := all(v.actions for v in videos):
            parts = [np.load(v.actions, mmap_mode="r")[v.first : v.last] for v in videos]
            np.save(out / "actions.npy", np.concatenate(parts))
    index = {
        "kind": KIND, "format": FORMAT, "image_size": image_size, "channels": channels, "fit": fit,
        "classes": classes, "actions": actions, "recordings": rows,
    }  # fmt: skip
    write_whole(out / "index.json", lambda file: file.write(json.dumps(index).encode()))


def packed_index(folder: Path) -> dict[str, Any] | None:
    """The index of a packed set; None for another folder."""
    path = folder / "index.json"
    index = json.loads(path.read_text()) if path.is_file() else {}
    return index if isinstance(index, dict) and index.get("kind") == KIND else None


def unpacked(folder: Path, index: dict[str, Any], image_size: int, channels: int) -> list[IndexedVideo]:
    """The videos of a packed set; ValueError where it is of another format, size or number of channels."""
    for name, expected in (("format", FORMAT), ("image_size", image_size), ("channels", channels)):
        if index[name] != expected:
            raise ValueError(f"{folder} is packed with {name} {index[name]}, not {expected}: pack it again")
    pixels, actions = folder / "frames.npy", folder / "actions.npy" if index["actions"] else None
    return [IndexedVideo(*row[:3], pixels, actions, *row[3:]) for row in index["recordings"]]
