"""Training clips from a folder of videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stt.api import Video
from train.data.digits import Split
from train.data.index import Recording, recordings, say
from train.seeding import generator_for

SPLITS = ("train", "test")
KIND, FORMAT = "video folder", 1  # of a packed set's index.json


@dataclass(frozen=True, kw_only=True)
class VideoFolderConfig:
    """What a preset trains on: clips cut from a folder of videos."""

    kind: Literal["folder"] = "folder"
    frames: int = 20  # per clip
    stride: int = 1  # every n-th frame of the recording
    fit: Literal["crop", "pad"] = "crop"
    flip: bool = False


class VideoFolderBatch(NamedTuple):
    video: Video  # (B, T, C, H, W)
    actions: Tensor | None  # (B, T, A), of each kept frame; None where a source has none
    labels: Tensor | None  # (B, 1) int64, the class; None where there are none


class VideoFolder:
    """Clips of a folder's recordings; a batch depends on (split, size, seed, index) alone.

    folder: video files, image packs and arrays (see train.data.readers), in sub-folders train/ and test/, or in one
    sub-folder per class, or in both (train/CLASS), or in none; or a packed set. Clips have `frames` frames, every
    `stride`-th of a recording, and never cross a cut or a segment's end. fit: "crop" takes the centre square, "pad"
    adds black bars. flip: mirrors clips at random. cache: where decoded frames are kept, size * size * channels bytes
    each; None: in the folder, or, where that is read-only, in $STT_CACHE or ~/.cache/stt.
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
        self.image_size, self.channels = image_size, channels
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, must be 'train' or 'test'")
        if fit not in ("crop", "pad") or channels not in (1, 3):
            raise ValueError(f"fit is {fit!r} and channels {channels}, must be 'crop' or 'pad', and 1 or 3")
        if min(frames, stride, image_size) < 1:
            raise ValueError(f"frames {frames}, stride {stride} and image_size {image_size} must be at least 1")
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
        if (index := packed_index(self.folder)) is None:
            found, self.classes = recordings(self.folder, image_size, channels, fit, cache)
        else:
            found, self.classes = self._packed(index)
        self._open = lru_cache(maxsize=1024)(lambda path: np.load(path, mmap_mode="r"))
        self.actions = self._actions(found)  # numbers of an action; 0 where a source has none
        if flip and self.actions:
            raise ValueError(f"{folder} has actions, which flip would not turn with the pictures: leave it out")
        self._recordings = {name: self._long_enough(found, name) for name in SPLITS}
        lengths = [r.last - r.first for r in self._recordings[split]]
        self._starts = np.cumsum([length - self.span + 1 for length in lengths])
        self._clips = sum(length // self.span for length in lengths)

    @property
    def span(self) -> int:
        """Frames of a recording from a clip's first to its last."""
        return (self.frames - 1) * self.stride + 1

    def __len__(self) -> int:
        """Clips of this split that share no frame; batches also begin in between."""
        return self._clips

    def batch(self, size: int, seed: int, index: int) -> Video:
        """Random clips, any start as likely as another: (size, frames, C, H, W) in [-1, 1] on the set's device."""
        return self.sample(size, seed, index).video

    def sample(self, size: int, seed: int, index: int) -> VideoFolderBatch:
        """The same clips, with what was done in them and the classes that they are of."""
        generator = generator_for("folder", self.split, seed, index)
        drawn = torch.randint(int(self._starts[-1]), (size,), generator=generator).numpy()
        turned = torch.rand(size, generator=generator) < 0.5
        which = np.searchsorted(self._starts, drawn, side="right")
        some = [self._recordings[self.split][k] for k in which]
        begins = [
            r.last - self.span - int(self._starts[k] - 1 - at) for r, k, at in zip(some, which, drawn, strict=True)
        ]
        clips = self._cut(some, begins)
        if self.flip:
            video = torch.where(turned.to(self.device)[:, None, None, None, None], clips.video.flip(-1), clips.video)
            clips = clips._replace(video=video)
        return clips

    def held_out(self, count: int) -> VideoFolderBatch:
        """`count` clips of the test split that share no frame, whichever split this is; its recordings take turns."""
        places = [
            (r, first) for r in self._recordings["test"] for first in range(r.first, r.last - self.span + 1, self.span)
        ]
        places.sort(key=lambda place: place[1] - place[0].first)
        if not 1 <= count <= len(places):
            raise ValueError(f"count is {count}, {self.folder} holds out {len(places)} clips of {self.frames} frames")
        return self._cut(*zip(*places[:count], strict=True))

    def _cut(self, some: Sequence[Recording], begins: Sequence[int]) -> VideoFolderBatch:
        """Clips of recordings from frames of their files on."""
        steps = [slice(begin, begin + self.span, self.stride) for begin in begins]
        pixels = np.stack([self._open(r.pixels)[step] for r, step in zip(some, steps, strict=True)])
        frames = torch.from_numpy(pixels)
        frames = frames.pin_memory() if self.device.type == "cuda" else frames
        video = frames.to(self.device, non_blocking=True).movedim(-1, -3).contiguous().float().div_(127.5).sub_(1)
        actions = labels = None
        if self.actions:
            rows = np.stack([self._open(r.actions)[step] for r, step in zip(some, steps, strict=True)])
            actions = torch.from_numpy(rows).to(self.device)
        if self.classes:
            labels = torch.tensor([[r.label] for r in some], device=self.device)
        return VideoFolderBatch(video, actions, labels)

    def _long_enough(self, found: list[Recording], split: str) -> list[Recording]:
        """Those of a split that hold a clip; names the others, ValueError where none is left."""
        own = [r for r in found if r.split == split]
        some = [r for r in own if r.last - r.first >= self.span]
        longest: dict[str, int] = {}
        for r in own:
            longest[r.name] = max(longest.get(r.name, 0), r.last - r.first)
        short = {name: length for name, length in longest.items() if length < self.span}
        names = "".join(f"\n  {name}: {length} frames without a cut" for name, length in short.items())
        clip = f"a clip of {self.frames} frames at stride {self.stride}, which takes {self.span}"
        if not some:
            raise ValueError(f"{self.folder}: everything in the {split} split is too short for {clip}:{names}")
        if short:
            say(f"{self.folder}: {len(short)} of {len(longest)} in the {split} split are too short for {clip}:{names}")
        return some

    def _actions(self, found: list[Recording]) -> int:
        widths = {path: self._open(path).shape[-1] if path else 0 for path in {r.actions for r in found}}
        if len(set(widths.values()) - {0}) > 1:
            raise ValueError(f"{self.folder} has actions of {sorted(set(widths.values()))} numbers; they must be alike")
        return min(widths.values())

    def _packed(self, index: dict[str, Any]) -> tuple[list[Recording], tuple[str, ...]]:
        for name, asked in (("format", FORMAT), ("image_size", self.image_size), ("channels", self.channels)):
            if index[name] != asked:
                raise ValueError(f"{self.folder} is packed with {name} {index[name]}, not {asked}: pack it again")
        pixels = self.folder / "frames.npy"
        actions = self.folder / "actions.npy" if index["actions"] else None
        found = [Recording(*row[:3], pixels, actions, *row[3:]) for row in index["recordings"]]
        return found, tuple(index["classes"])


# ---- packed sets -------------------------------------------------------------------------------------


def packed_index(folder: Path) -> dict[str, Any] | None:
    """The index of a packed set; None for another folder."""
    path = folder / "index.json"
    index = json.loads(path.read_text()) if path.is_file() else {}
    return index if isinstance(index, dict) and index.get("kind") == KIND else None
