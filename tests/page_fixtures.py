"""The page's callbacks without a browser: an app's folders, clips and models, and readable answers."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import gradio as gr
import numpy as np

from stt.api import Predictor
from stt.results import Result, ResultStore
from stt.ui.backend import ARGUMENTS, Backend
from stt.ui.callbacks import Callbacks
from stt.ui.running import Runs
from stt.ui.server import load_results
from tests.ui_fixtures import moving_dot, ship

SETTINGS = {
    "model": "tiny", "frames": 3, "temperature": 0.8, "seed": 7, "futures": 2, "prompt_frames": 4, "top_k": 5,
    "top_p": 0.9, "stride": 2, "fit": "pad", "fps": 12, "labels": [3, 7], "between": False, "action": [],
}  # fmt: skip
OTHERS = {
    "model": "other", "frames": 9, "temperature": 1.5, "seed": None, "futures": 1, "prompt_frames": 1, "top_k": 0,
    "top_p": 1, "stride": 1, "fit": "crop", "fps": 0, "labels": [], "between": True, "action": [0.5, -1.0],
}  # fmt: skip


@dataclass(frozen=True)
class Visitor:
    """The part of a gr.Request that callbacks use."""

    session_hash: str


ME, ANOTHER = Visitor("me"), Visitor("another")


@dataclass
class FakePage:
    """The callbacks of an app with folders of its own."""

    folder: Path
    models: dict[str, Predictor]

    def __post_init__(self) -> None:
        self.uploads = self.folder / "uploads"
        self.uploads.mkdir(parents=True)
        self.examples = [moving_dot(self.uploads / f"example-{k}.mp4", frames=12, start=3 * k) for k in range(2)]
        shipped = load_results(ship(self.models, self.examples, self.folder) if "tiny" in self.models else [])
        self.results = ResultStore(self.folder / "results", shipped)
        self.backend = Backend(self.models, self.results, self.uploads, self.examples)
        self.callbacks = Callbacks(self.backend)
        self.runs = Runs(self.callbacks)

    def upload(self, **changes) -> Path:
        return moving_dot(self.uploads / "mine.mp4", **{"frames": 12, "width": 48, **changes})

    def watch(self, clip: Path | None, new_seed: bool = False, **changes):
        """The values that the player gets during a prediction, and the seeds."""
        yield from self.runs.predict(ME, new_seed, *values(clip, **changes))

    def predict(self, clip: Path, **changes) -> Result:
        *_, (value, _) = self.watch(clip, **changes)
        return self.results.get(value["id"])

    def choose(
        self, clip: Path | None, pending: dict | None = None, visitor: Visitor | None = None, **changes
    ) -> Answer:
        return Answer(*self.callbacks.change_clip(visitor or ME, pending or {}, *values(clip, **changes)))


class Answer:
    """What `change_clip` answers: for the player, what is pending, and the controls that change."""

    def __init__(self, pending: dict, player: Any, start: Any, *controls: Any) -> None:
        self.pending, self.player, self.start = pending, player, start
        self.controls = changes_of(controls)


def values(clip: Any, **changes) -> list[Any]:
    named = {"clip": str(clip) if isinstance(clip, Path) else clip} | SETTINGS | changes
    return [named[name] for name in ARGUMENTS]


def changes_of(controls) -> dict[str, Any]:
    assert len(controls) == len(ARGUMENTS) + 1
    return {n: value for n, value in zip([*ARGUMENTS, "new_seed"], controls, strict=True) if value != gr.skip()}


def event_of(**data) -> gr.EventData:
    return gr.EventData(None, data)


def sheet(source: str, size: int = 16) -> np.ndarray:
    """The frames (F, T, H, W, 3) of a strip."""
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    picture = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    rows, columns = (side // size for side in picture.shape[:2])
    return picture.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
