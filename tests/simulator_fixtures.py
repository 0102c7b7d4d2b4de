"""The page's callbacks without a page: an app's folders, clips and models, and readable answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from stt.models.stt import STT
from stt.results import Result, Results
from stt.ui.callbacks import ARGUMENTS, Callbacks
from tests.ui_fixtures import moving_dot

SETTINGS = {
    "model": "tiny", "frames": 3, "temperature": 0.8, "seed": 7, "futures": 2, "prompt_frames": 4, "top_k": 5,
    "top_p": 0.9, "stride": 2, "fit": "pad", "fps": 12, "labels": [3, 7],
    "between": False, "action": [],
}  # fmt: skip
OTHERS = {
    "model": "other", "frames": 9, "temperature": 1.5, "seed": None, "futures": 1, "prompt_frames": 1, "top_k": 0,
    "top_p": 1, "stride": 1, "fit": "crop", "fps": 0, "labels": [],
    "between": True, "action": [0.5, -1.0],
}  # fmt: skip


@dataclass(frozen=True)
class Visitor:
    """As much of a gr.Request as callbacks look at."""

    session_hash: str


ME, ANOTHER = Visitor("me"), Visitor("another")


@dataclass
class Desk:
    """The callbacks of an app, with folders of its own."""

    folder: Path
    models: dict[str, STT]
    shipped: dict[str, Result] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uploads = self.folder / "uploads"
        self.uploads.mkdir(parents=True)
        self.examples = [moving_dot(self.uploads / f"example-{k}.mp4", frames=12, start=3 * k) for k in range(2)]
        self.runs = Results(self.folder / "runs", self.shipped)
        self.callbacks = Callbacks(self.models, [self.uploads], self.runs, self.examples, self.uploads)

    def upload(self, **changes) -> Path:
        return moving_dot(self.uploads / "mine.mp4", **{"frames": 12, "width": 48, **changes})

    def predict(self, clip: Path, **changes) -> Result:
        *_, (shown, _) = self.callbacks.watch(ME, False, *values(clip, **changes))
        return self.runs.get(shown["id"])

    def choose(
        self, clip: Path | None, wanted: dict | None = None, visitor: Visitor | None = None, **changes
    ) -> Answer:
        return Answer(*self.callbacks.choose(visitor or ME, wanted or {}, *values(clip, **changes)))


class Answer:
    """What `choose` answers: for the player, what is still wanted, and the controls that change."""

    def __init__(self, player: Any, wanted: dict, *controls: Any) -> None:
        self.player, self.wanted = player, wanted
        self.controls = changed(controls)


def values(clip: Path | None, **changes) -> list[Any]:
    named = {"clip": None if clip is None else str(clip)} | SETTINGS | changes
    return [named[name] for name in ARGUMENTS]


def changed(controls) -> dict[str, Any]:
    assert len(controls) == len(ARGUMENTS) + 1
    return {n: value for n, value in zip([*ARGUMENTS, "fresh"], controls, strict=True) if value != gr.skip()}


def event_of(**data) -> gr.EventData:
    return gr.EventData(None, data)
