"""What predictions left behind: kept for an hour, so that nothing is computed twice and any file can be made."""

from __future__ import annotations

import json
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stt.checkpoint import write_whole
from stt.encode import enlarge, write_gif, write_mp4
from stt.request import Refused
from stt.side_by_side import Frame, SideBySide

SHOWN_SIZE = 256  # pixels per side of a single future's video, at least
NO_RUN = "This result is no longer kept here, predict it again."
FILE = "run.npz"


@dataclass(frozen=True)
class Result:
    """One prediction, whole: enough to show it again and to write any of its files."""

    report: dict[str, Any]  # JSON: what was asked, what was used, what was measured
    given: Frame  # (P, H, W, 3) frames of the clip that the model saw
    futures: Frame  # (F, T, H, W, 3)
    truth: Frame  # (T' <= T, H, W, 3) what really followed; empty where nobody knows
    surprise: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 1, 1), np.float32))
    # (P + T' + E - 1, h, w) bits per dimension of every frame but the first, by place; empty without a likelihood
    ending: Frame = field(default_factory=lambda: np.zeros((0, 1, 1, 3), np.uint8))
    # (E, H, W, 3) frames of the clip after the gap; empty where none was filled to its end

    @property
    def fps(self) -> float:
        return self.report["fps"]

    @property
    def board(self) -> SideBySide:
        frames = len(self.given), self.futures.shape[1], len(self.ending)
        return SideBySide(self.given.shape[1], tuple(self.report["names"]), *frames)

    def save(self, path: Path) -> None:
        arrays = {name: getattr(self, name) for name in ("given", "futures", "truth", "surprise", "ending")}
        report = np.asarray(json.dumps(self.report))
        write_whole(path, lambda file: np.savez_compressed(file, report=report, **arrays))

    @classmethod
    def load(cls, path: Path) -> Result:
        with open(path, "rb") as opened, np.load(opened) as file:  # numpy refuses pickles by itself
            report = {"between": False, "ending_frames": 0, "action": {}} | json.loads(str(file["report"]))
            report["settings"] = {"between": False, "action": []} | report["settings"]  # unknown to older ones
            report["settings"].pop("steps", None)  # older ones name it: passes of a refiner, which no model has
            return cls(report, **{name: file[name] for name in file.files if name != "report"})

    # ---- files ---------------------------------------------------------------------------------------

    def settings(self, future: int | None = None) -> dict[str, Any]:
        """What a file says of itself: `Request.settings`, and what made it. future: from 0; None is all of them."""
        asked = self.report["settings"]
        if future is not None:
            asked = asked | {"seed": self.report["seeds"][future], "futures": 1}
        made = {name: self.report[name] for name in ("family", "weights", "clip")}
        return {"app": "stt", **asked, **made, "given": len(self.given), "alone": future is not None}

    def alone(self, future: int) -> Frame:
        """The clip, one future, and the clip after a gap (P + T + E, H', W', 3), enlarged by a whole factor."""
        video = np.concatenate([self.given, self.futures[future], *self.ending[:, None]])
        return enlarge(video, -(-SHOWN_SIZE // video.shape[1]))

    def together(self) -> Frame:
        """The clip beside all of its futures, frame by frame; what really followed goes on in the clip's place."""
        moments = [(frame, [frame] * len(self.futures)) for frame in self.given]
        for t, futures in enumerate(self.futures.swapaxes(0, 1)):
            moments.append((self.truth[t] if t < len(self.truth) else moments[-1][0], futures))
        moments += [(frame, [frame] * len(self.futures)) for frame in self.ending]
        board = self.board
        return np.stack([board.draw(*moment, t) for t, moment in enumerate(moments, 1)])

    def write(self, name: str, path: Path) -> None:
        """name: one of `names`; futures are counted from 1."""
        stem, _, ending = name.partition(".")
        future = None if stem == "side-by-side" else int(stem.removeprefix("future-")) - 1
        video = self.together() if future is None else self.alone(future)
        if ending == "gif":
            write_gif(path, video, self.fps)
        else:
            write_mp4(path, video, self.fps, self.settings(future))

    @property
    def names(self) -> list[str]:
        """Files that can be made of it."""
        stems = ["side-by-side", *(f"future-{k}" for k in range(1, 1 + len(self.futures)))]
        return [f"{stem}.{ending}" for stem in stems for ending in ("mp4", "gif")]

    def title(self, name: str) -> str:
        """The name under which a file is saved by who downloads it."""
        stem, _, ending = name.partition(".")
        names, seeds, kind = self.report["names"], self.report["seeds"], re.search(r"\d", stem)
        which = names[int(kind[0]) - 1] if kind else names[0]
        if not kind:
            which = (f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else which) + " side-by-side"
        return re.sub(r"[^\w.-]+", "-", f"{self.report['settings']['model']} {which}") + f".{ending}"


def new_name() -> str:
    """An id that cannot be guessed; who has it may see the run."""
    return secrets.token_urlsafe(12)


class Results:
    """Results by id, in a folder that the janitor empties."""

    def __init__(self, folder: Path, shipped: Mapping[str, Result] | None = None) -> None:
        self.folder = folder
        self.shipped = dict(shipped or {})  # those that come with the app
        self.writing = threading.Lock()

    def put(self, run: Result, name: str | None = None) -> Result:
        """Keeps a run; the same one with its id in the report."""
        run = replace(run, report=run.report | {"id": name or new_name()})
        run.save(self.folder / run.report["id"] / FILE)
        return run

    def get(self, name: Any) -> Result:
        """Raises Refused when there is none of this id."""
        if isinstance(name, str) and re.fullmatch(r"[\w-]{4,64}", name):
            if name in self.shipped:
                return self.shipped[name]
            path = self.folder / name / FILE
            if path.is_file():
                return Result.load(path)
        raise Refused(NO_RUN)

    def file(self, name: Any, file: str) -> tuple[Path, str]:
        """(where it lies, what to call it); made when it is asked for the first time."""
        run = self.get(name)
        if file not in run.names:
            raise Refused("There is no such file.")
        path = self.folder / name / file
        with self.writing:  # one at a time: an encoder takes a whole core
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                run.write(file, path)
        return path, run.title(file)
