"""Training clips from a folder of videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

import numpy as np
import torch

from stt.api import Batch
from train.data.account import Account, from_json, lines_of, printable
from train.data.arrays import ArrayOptions, extremes, open_array
from train.data.digits import Split
from train.data.index import IndexedFolder, IndexedVideo, index_videos
from train.data.readers import ReadOptions
from train.data.splits import SPLITS, by_file, file_of
from train.seeding import generator_for

KIND, FORMATS = "video folder", (1, 2)  # of a packed set's index.json; the first knows no frame rates
PACKED_ACCOUNT = "account.json"
SAME_RATE = 0.02  # a rate so near a multiple of another counts as one: 29.97 is 30
MAX_CARD_NAMES = 1000


@dataclass(frozen=True, kw_only=True)
class VideoFolderConfig:
    """What a preset trains on: clips cut from a folder of videos."""

    kind: Literal["folder"] = "folder"
    frames: int = 20  # per clip
    fps: float = 0.0  # frames a second of a clip; 0: the median of the folder's rates, divided by `stride`
    stride: int = 1  # where fps is 0; and of a file without a rate, every n-th frame
    fit: Literal["crop", "pad"] = "crop"
    flip: bool = False


class VideoFolder:
    """Clips of a folder's videos; a batch depends on (split, size, seed, index) alone.

    folder: what train.data.sources reads, in sub-folders train/ and test/, or in one sub-folder per class, or in both
    (train/CLASS), or in none; or a packed set. Clips have `frames` frames at `fps` frames a second, the nearest in time
    of a video's own, and never cross a cut or a segment's end. fps 0: the median of the folder's rates divided by
    `stride`, which also counts the frames of files without a rate. fit: "crop" takes the centre square, "pad" adds
    black bars. flip: mirrors clips at random. cache: folder for the decoded frames, size * size * channels bytes each;
    None: in the folder, or, where that is read-only, in $STT_CACHE or ~/.cache/stt. arrays: see `ArrayOptions`.
    The split "test" alone can be opened where nothing is there to train on. Raises ValueError for arguments and for
    what cannot be read, FileNotFoundError where there is no folder.
    """

    def __init__(
        self,
        folder: Path,
        split: Split,
        frames: int,
        image_size: int,
        channels: int,
        fps: float = 0.0,
        stride: int = 1,
        fit: str = "crop",
        flip: bool = False,
        device: torch.device | str = "cpu",
        cache: Path | None = None,
        arrays: ArrayOptions | None = None,
    ) -> None:
        self.folder, self.split, self.device = Path(folder), split, torch.device(device)
        self.frames, self.stride, self.flip = frames, stride, flip
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, must be 'train' or 'test'")
        if fit not in ("crop", "pad") or channels not in (1, 3):
            raise ValueError(f"fit is {fit!r} and channels {channels}, must be 'crop' or 'pad', and 1 or 3")
        if min(frames, stride, image_size) < 1 or not 0 <= fps <= 1000:
            raise ValueError(
                f"frames {frames}, stride {stride} and image_size {image_size} must be 1 or more, fps {fps:g} 0 to 1000"
            )
        options = ReadOptions(size=image_size, channels=channels, fit=fit, arrays=arrays or ArrayOptions())
        indexed = open_packed(self.folder, options) or index_videos(self.folder, options, cache)
        self.classes, self.account_file = indexed.classes, indexed.account_file
        self.fps = fps or default_fps(indexed.account, stride)  # 0 where no file has a rate
        self._open = lru_cache(maxsize=1024)(open_array)
        self._steps = lru_cache(maxsize=None)(lambda own: resampled(frames, step_of(own, self.fps, stride)))
        self.actions = self._action_size(indexed.videos)  # numbers of an action; 0 where some video has none
        if flip and self.actions:
            raise ValueError(f"{folder} has actions, which flip would not mirror with the pictures: leave it out")
        self._videos, short = self._usable(indexed)
        self.names = by_file({v.name: side for side, of_side in self._videos.items() for v in of_side})  # by split
        self.account = self._account(indexed.account, short)
        self._starts = np.cumsum([v.last - v.first - self.span(v) + 1 for v in self._videos[split]])
        self._clips = sum((v.last - v.first) // self.span(v) for v in self._videos[split])

    def __len__(self) -> int:
        """Clips of this split that share no frame; batches also begin in between."""
        return self._clips

    def steps(self, video: IndexedVideo) -> np.ndarray:
        """Frames of a video that make a clip, counted from its first: (frames,)."""
        return self._steps(video.fps)

    def span(self, video: IndexedVideo) -> int:
        """Frames of a video from a clip's first to its last."""
        return int(self.steps(video)[-1]) + 1

    def batch(self, size: int, seed: int, index: int) -> Batch:
        """Random clips (size, frames, C, H, W), all starts equally likely, with the folder's actions and classes."""
        generator = generator_for("folder", self.split, seed, index)
        starts = torch.randint(int(self._starts[-1]), (size,), generator=generator).numpy()
        mirrored = torch.rand(size, generator=generator) < 0.5
        which = np.searchsorted(self._starts, starts, side="right")
        videos = [self._videos[self.split][k] for k in which]
        ends = self._starts[which] - 1 - starts  # starts of the same video that come later
        clips = self._cut(videos, [v.last - self.span(v) - int(end) for v, end in zip(videos, ends, strict=True)])
        if self.flip:
            mirrored = mirrored.to(self.device)[:, None, None, None, None]
            clips = replace(clips, video=torch.where(mirrored, clips.video.flip(-1), clips.video))
        return clips

    def held_out(self, count: int) -> Batch:
        """`count` clips of the test split that share no frame, whichever split this is; its videos take turns."""
        test = self._videos["test"]
        places = [(v, first) for v in test for first in range(v.first, v.last - self.span(v) + 1, self.span(v))]
        places.sort(key=lambda place: place[1] - place[0].first)
        if not 1 <= count <= len(places):
            raise ValueError(f"count is {count}, {self.folder} holds out {len(places)} clips of {self.frames} frames")
        return self._cut(*zip(*places[:count], strict=True))

    def report(self) -> None:
        """Prints what was understood of the folder, once a process, and writes it as JSON beside the index."""
        self.account.publish(self.account_file)

    def card(self) -> dict[str, Any]:
        """Names of files by split, for the card of a model: at most 1,000 each, and how many there are more."""
        more = {f"more_{side}": len(names) - MAX_CARD_NAMES for side, names in self.names.items()}
        names = {side: names[:MAX_CARD_NAMES] for side, names in self.names.items()}
        return names | {name: count for name, count in more.items() if count > 0}

    def check_actions(self) -> None:
        """Raises ValueError for actions that are not numbers from -1 to 1, and names their files."""
        wrong = []
        for name, path in {file_of(v.name): v.actions for v in (*self._videos["train"], *self._videos["test"])}.items():
            low, high = extremes(self._open(path)) if path else (0.0, 0.0)
            if not (low >= -1 and high <= 1):
                values = f"go from {low:g} to {high:g}" if np.isfinite([low, high]).all() else "are not all finite"
                wrong.append(f"\n  {name}: actions {values}")
        if wrong:
            raise ValueError(f"{self.folder}: a model takes actions from -1 to 1:{''.join(wrong[:20])}")

    def _cut(self, videos: Sequence[IndexedVideo], starts: Sequence[int]) -> Batch:
        """Clips of videos from frames of their files on."""
        places = list(
            zip(videos, (start + self.steps(v) for v, start in zip(videos, starts, strict=True)), strict=True)
        )
        frames = torch.from_numpy(np.stack([self._open(v.pixels)[frames] for v, frames in places]))
        frames = frames.pin_memory() if self.device.type == "cuda" else frames
        video = frames.to(self.device, non_blocking=True).movedim(-1, -3).contiguous().float().div_(127.5).sub_(1)
        actions = labels = None
        if self.actions:
            actions = torch.from_numpy(np.stack([self._open(v.actions)[frames] for v, frames in places])).to(
                self.device
            )
        if self.classes:
            labels = torch.tensor([[v.label] for v in videos], device=self.device)
        return Batch(video, actions, labels)

    def _usable(self, indexed: IndexedFolder) -> tuple[dict[str, list[IndexedVideo]], dict[str, str]]:
        """Videos by split that hold a clip, and why other files hold none.

        ValueError where a split that is needed has no clip: that of this object, and test to train with.
        """
        videos = {side: [v for v in indexed.videos if v.split == side] for side in SPLITS}
        usable = {side: [v for v in of_side if v.last - v.first >= self.span(v)] for side, of_side in videos.items()}
        enough = {file_of(v.name) for of_side in usable.values() for v in of_side}
        longest: dict[str, IndexedVideo] = {}
        for v in sorted(indexed.videos, key=lambda v: v.last - v.first):
            longest[file_of(v.name)] = v
        short = {
            name: f"{v.last - v.first} frame{'s' * (v.last - v.first > 1)} without a cut, a clip takes {self.span(v)}"
            for name, v in sorted(longest.items()) if name not in enough
        }  # fmt: skip
        for side in dict.fromkeys((self.split, "test")):
            if not videos[side]:
                raise ValueError(self._one_sided(indexed, side))
            if not usable[side]:
                names = sorted({file_of(v.name) for v in videos[side]} & short.keys())
                reasons = "".join(f"\n  {name}: {short[name]}" for name in names)
                raise ValueError(
                    f"{self.folder}: everything in the {side} split is too short for {self._clip()}:{reasons}"
                )
        return usable, short

    def _clip(self) -> str:
        rate = f" at {self.fps:g} frames a second" if self.fps else f" at stride {self.stride}"
        return f"a clip of {self.frames} frames{rate}"

    def _one_sided(self, indexed: IndexedFolder, lacking: str) -> str:
        """Why a folder cannot be used that has nothing in a split."""
        if "sub-folders" not in indexed.account.split:
            v, passed_over = indexed.videos[0], lines_of(indexed.account.passed_over)
            only = printable(v.name)
            return f"{self.folder} has a {v.split} split alone, of {only}: another video is needed{passed_over}"
        made = f"{self.folder} is split {indexed.account.split}"
        if lacking == "train":
            return f"{made}: it can be scored, but to train it needs a sub-folder train/"
        return f"{made}: it needs a sub-folder test/ or validation/ too, or none of these"

    def _account(self, account: Account, short: dict[str, str]) -> Account:
        clips = {"frames": self.frames, "fps": round(self.fps, 3), "stride": self.stride}
        clips |= {
            side: sum((v.last - v.first) // self.span(v) for v in of_side) for side, of_side in self._videos.items()
        }
        steps = {name: step_of(fps, self.fps, self.stride) for name, fps in account.fps.items() if fps}
        steps = {name: step for name, step in steps.items() if name not in short}
        return replace(
            account, clips=clips, resampled=sorted(name for name, step in steps.items() if step != 1),
            too_short=short, slower=sorted(name for name, step in steps.items() if step < 1),
            split_files={side: len(names) for side, names in self.names.items()},
        )  # fmt: skip

    def _action_size(self, videos: list[IndexedVideo]) -> int:
        sizes = {self._open(path).shape[-1] if path else 0 for path in {v.actions for v in videos}}
        if len(sizes - {0}) > 1:
            raise ValueError(f"{self.folder} has actions of {sorted(sizes)} numbers; all must have as many")
        return min(sizes)


# ---- frame rates -------------------------------------------------------------------------------------


def default_fps(account: Account, stride: int) -> float:
    """The median of a folder's rates, one that some file has, divided by the stride; 0 where no file has a rate."""
    return median_low(account.rates) / stride if account.rates else 0.0


def step_of(own: float, fps: float, stride: int) -> float:
    """Frames of a video at its own rate to one of a clip; `stride` where a rate is not known (0)."""
    if not own or not fps:
        return float(stride)
    step = own / fps
    return float(round(step)) if abs(step - round(step)) <= SAME_RATE * step else step


def resampled(count: int, step: float) -> np.ndarray:
    """The nearest frame in time for each of `count` frames, `step` apart."""
    return np.floor(np.arange(count) * step + 0.5).astype(np.int64)


# ---- packed sets -------------------------------------------------------------------------------------


def open_packed(folder: Path, options: ReadOptions) -> IndexedFolder | None:
    """A packed set; None for another folder. ValueError where it is of another format, size or number of channels."""
    path, pixels = folder / "index.json", folder / "frames.npy"
    index = read_json(path)
    if index.get("kind") != KIND:
        if index or not (path.exists() and pixels.exists()):
            return None
        raise ValueError(f"{folder} is a packed set whose index.json is damaged: pack it again")
    expected = {"format": FORMATS, "image_size": (options.size,), "channels": (options.channels,)}
    for name, values in expected.items():
        if index[name] not in values:
            raise ValueError(f"{folder} is packed with {name} {index[name]}, not {values[-1]}: pack it again")
    actions = folder / "actions.npy" if index["actions"] else None
    videos = [IndexedVideo(*row[:3], pixels, actions, *row[3:]) for row in index["recordings"]]
    for array in filter(None, (pixels, actions)):
        try:
            whole = len(open_array(array)) >= max(v.last for v in videos)
        except (OSError, ValueError, EOFError):
            whole = False
        if not whole:
            raise ValueError(f"{array} is missing or damaged: pack the folder again")
    return IndexedFolder(
        videos, tuple(index["classes"]), packed_account(folder, videos, index), folder / PACKED_ACCOUNT
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; {} where there is none or it is damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def packed_account(folder: Path, videos: list[IndexedVideo], index: dict[str, Any]) -> Account:
    """The account of the folder that was packed, with the rates and frames of the packed set."""
    path = folder / PACKED_ACCOUNT
    rates = {file_of(v.name): v.fps for v in videos}
    mine = {
        "folder": str(folder), "files": len(rates), "frames": sum(v.last - v.first for v in videos), "fps": rates,
        "classes": index["classes"],
    }  # fmt: skip
    size = f"{index['image_size']}x{index['image_size']}"
    stored = read_json(path) or {"split": "as packed", "sizes": {size: len(rates)}}
    return from_json(stored | mine | {"clips": {}, "resampled": [], "slower": [], "too_short": {}})
