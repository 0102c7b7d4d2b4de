"""The result of a prediction, and a folder of results: its videos are written on demand."""

from __future__ import annotations

import json
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from stt.checkpoint import write_whole
from stt.encode import Pixels, enlarge, is_lossless, pack_frames, unpack_frames, write_gif, write_mp4
from stt.request import RequestError
from stt.side_by_side import SideBySide

MIN_SIDE = 256  # pixels of the longer side of a single future's video
NO_RESULT = "This result is gone; predict it again."
FILE = "result.npz"
ALL = "futures.zip"
ARRAYS = ("context", "futures", "truth", "surprise", "ending")
JPEG_QUALITY = 95  # of stored frames that are large
INDEX = "-jpeg"  # ends the name of the array that divides another one into JPEG files
NEW_SETTINGS = {"between": False, "action": []}  # missing in older files
NEW_REPORT = {"between": False, "ending_frames": 0, "action": {}, "details": []}


@dataclass(frozen=True)
class Result:
    """One prediction: enough to show it again and to write all of its videos."""

    report: dict[str, Any]  # JSON, see `stt.report`
    context: Pixels  # (P, H, W, 3) frames of the clip that the model saw
    futures: Pixels  # (F, T, H, W, 3)
    truth: Pixels  # (T' <= T, H, W, 3) what really followed; may be empty
    surprise: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1, 1), np.float32))
    # (P + T' + E - 1, h, w) bits per dimension and place of every frame but the first; empty without a likelihood
    ending: Pixels = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    # (E, H, W, 3) frames of the clip after the gap; empty without a gap, or if it is not filled to its end

    @property
    def bytes(self) -> int:
        """In memory, which its file and each of its videos stay below."""
        return sum(getattr(self, name).nbytes for name in ARRAYS) + 100_000

    @property
    def fps(self) -> float:
        return self.report["fps"]

    @property
    def layout(self) -> SideBySide:
        frames = len(self.context), self.futures.shape[1], len(self.ending)
        first = max(self.report["settings"]["prompt_frames"] - len(self.context), 0)
        size, names = self.context.shape[1:3], tuple(self.report["names"])
        return SideBySide(size, names, *frames, first=first, clip_frames=self.report.get("clip_frames", 0))

    def save(self, path: Path) -> None:
        arrays = {}
        for name in ARRAYS:
            array = arrays[name] = getattr(self, name)
            if name != "surprise" and array.size and not is_lossless(array):
                arrays[name], arrays[name + INDEX] = pack_frames(array, JPEG_QUALITY)
        report = np.asarray(json.dumps(self.report))
        write_whole(path, lambda file: np.savez_compressed(file, report=report, **arrays))

    @classmethod
    def load(cls, path: Path) -> Result:
        report, arrays = _read(path, ARRAYS)
        return cls(report, **arrays)

    # ---- videos --------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Of the files that `write` makes; futures count from 1."""
        return [f"{stem}.{ending}" for stem in ("side-by-side", *self._stems) for ending in ("mp4", "gif")] + [ALL]

    @property
    def _stems(self) -> list[str]:
        return [f"future-{k}" for k in range(1, 1 + len(self.futures))]

    def write(self, name: str, path: Path) -> None:
        """Writes the file called `name`, one of `names`."""
        if name == ALL:
            return self._write_zip(path)
        future, ending = _parse_name(name)
        video = self.side_by_side() if future is None else self.single(future)
        if ending == "gif":
            write_gif(path, video, self.fps)
        else:
            write_mp4(path, video, self.fps, self.metadata(future))

    def _write_zip(self, path: Path) -> None:
        """Every future as an mp4."""
        with tempfile.TemporaryDirectory(dir=path.parent) as folder, ZipFile(Path(folder) / ALL, "w") as archive:
            for name in (f"{stem}.mp4" for stem in self._stems):
                self.write(name, Path(folder) / name)
                archive.write(Path(folder) / name, self.title(name))
            archive.close()
            os.replace(Path(folder) / ALL, path)

    def only(self, future: int) -> Result:
        """One of its futures as a result of its own, without an id."""
        report = self.report | {"spread": [0.0] * len(self.report["spread"])}
        report["settings"] = report["settings"] | {"seed": report["seeds"][future], "futures": 1}
        report |= {name: report[name][future : future + 1] for name in ("names", "seeds")}
        if scores := report["scores"]:
            one = {name: lines[future : future + 1] for name, lines in scores["futures"].items()}
            report["scores"] = scores | {"futures": one}
        return replace(self, report=report, futures=self.futures[future : future + 1])

    def single(self, future: int) -> Pixels:
        """The context, one future, and the clip after a gap (P + T + E, H', W', 3), enlarged by a whole factor."""
        video = np.concatenate([self.context, self.futures[future], *self.ending[:, None]])
        return enlarge(video, -(-MIN_SIDE // max(video.shape[1:3])))

    def side_by_side(self) -> Pixels:
        """The clip beside all futures, frame by frame. The truth, where known, takes the clip's place."""
        frames = [(frame, [frame] * len(self.futures)) for frame in self.context]
        for t, futures in enumerate(self.futures.swapaxes(0, 1)):
            frames.append((self.truth[t] if t < len(self.truth) else frames[-1][0], list(futures)))
        frames += [(frame, [frame] * len(self.futures)) for frame in self.ending]
        layout = self.layout
        return np.stack([layout.draw(clip, futures, t) for t, (clip, futures) in enumerate(frames)])

    def metadata(self, future: int | None = None) -> dict[str, Any]:
        """What a video stores about itself: its settings, and what made it. future: from 0; None: all of them."""
        settings = self.report["settings"]
        if future is not None:
            settings = settings | {"seed": self.report["seeds"][future], "futures": 1}
        source = {name: self.report.get(name) for name in ("id", "family", "weights", "clip")}
        return {"app": "stt", **settings, **source, "context": len(self.context), "alone": future is not None}

    def title(self, name: str) -> str:
        """The name of a downloaded video: its model and its seeds."""
        names, seeds = self.report["names"], self.report["seeds"]
        future, ending = (None, "zip") if name == ALL else _parse_name(name)
        which = names[future or 0]
        if future is None:
            which = (f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else which) + (
                " side-by-side" if name != ALL else ""
            )
        return re.sub(r"[^\w.-]+", "-", f"{self.report['settings']['model']} {which}") + f".{ending}"


@dataclass(frozen=True)
class ShippedResult:
    """A result that comes with the app. Its frames are read when they are asked for: all of them fill 140 MB."""

    path: Path
    report: dict[str, Any]
    last_frame: Pixels  # (H, W, 3) of the context

    @classmethod
    def read(cls, path: Path) -> ShippedResult:
        report, arrays = _read(path, ("context",))
        return cls(path, report | {"id": path.stem}, arrays["context"][-1].copy())

    def load(self) -> Result:
        return replace(Result.load(self.path), report=self.report)


def _read(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """The report of a result's file, and those of its arrays that it has; older files lack some."""
    arrays = {}
    with open(path, "rb") as opened, np.load(opened) as file:  # numpy refuses pickles by default
        for name in names:
            stored = "given" if name == "context" and "given" in file.files else name  # of older files
            if name + INDEX in file.files:
                arrays[name] = unpack_frames(file[name], file[name + INDEX])
            elif stored in file.files:
                arrays[name] = file[stored]
        report = NEW_REPORT | json.loads(str(file["report"]))
    settings = NEW_SETTINGS | report["settings"]
    settings.pop("steps", None)  # of older files
    return report | {"settings": settings}, arrays


def _parse_name(name: str) -> tuple[int | None, str]:
    """ "future-2.mp4" -> (1, "mp4"), "side-by-side.gif" -> (None, "gif")."""
    stem, _, ending = name.partition(".")
    return None if stem == "side-by-side" else int(stem.removeprefix("future-")) - 1, ending


def new_id() -> str:
    """An id that nobody can guess; whoever has it may see the result."""
    return secrets.token_urlsafe(12)


class ResultStore:
    """Results by id, in a folder."""

    def __init__(
        self,
        folder: Path,
        shipped: Mapping[str, ShippedResult] | None = None,
        make_room: Callable[[Path, int], None] = lambda path, size: None,
    ) -> None:
        """make_room: is called before a file of about so many bytes is written; may raise RequestError."""
        self.folder = folder
        self.shipped = dict(shipped or {})  # results that come with the app
        self.make_room = make_room
        self.writing = threading.Lock()

    @property
    def permanent(self) -> Path:
        """Where the videos of shipped results lie: they are made once."""
        return self.folder / "shipped"

    def put(self, result: Result, name: str | None = None) -> Result:
        """Saves a result; returns it with its id in the report."""
        result = replace(result, report=result.report | {"id": name or new_id()})
        path = self.folder / result.report["id"] / FILE
        self.make_room(path, result.bytes)
        result.save(path)
        return result

    def get(self, name: Any) -> Result:
        """Raises RequestError for an unknown id."""
        if isinstance(name, str) and re.fullmatch(r"[\w-]{4,64}", name):
            if name in self.shipped and self.shipped[name].path.is_file():
                return self.shipped[name].load()
            path = self.folder / name / FILE
            if path.is_file():
                return Result.load(path)
        raise RequestError(NO_RESULT)

    def video(self, name: Any, video: str) -> tuple[Path, str]:
        """(path, download title) of one of the result's videos; the first call writes it."""
        result = self.get(name)
        if video not in result.names:
            raise RequestError("There is no such file.")
        path = (self.permanent if name in self.shipped else self.folder) / name / video
        with self.writing if not path.is_file() else nullcontext():  # one at a time: an encoder takes a whole core
            if not path.is_file():
                self.make_room(path, result.bytes)
                path.parent.mkdir(parents=True, exist_ok=True)
                result.write(video, path)
        return path, result.title(video)
