"""Running predictions for the page: one model, or every model of a world beside each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from stt.prediction import conclude
from stt.request import Request
from stt.results import Result, new_id
from stt.ui.backend import Backend
from stt.ui.callbacks import Callbacks, changed
from stt.ui.errors import plain_errors
from stt.ui.examples import rivals
from stt.ui.player import progress_value, result_value

PREVIEW_PAUSE = 0.1  # seconds between two pictures of a running prediction


class Runs:
    """`values` are those of the page's controls, one per name in ARGUMENTS."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks

    @property
    def backend(self) -> Backend:
        return self.callbacks.backend

    def predict(self, visitor: gr.Request, new_seed: bool, *values: Any) -> Iterator[tuple[Any, Any]]:
        """(player, seed) again and again."""
        with plain_errors():
            request = self.callbacks.request(*changed(values, seed=None) if new_seed else values)
            for value in self._run(request, visitor):
                yield value, request.seed

    def compare(self, visitor: gr.Request, *values: Any) -> Iterator[tuple[Any, Any]]:
        """The same prompt and seed by every model of the world, one future each: (player, seed) again and again.

        Each model's result stays beside the next one's. The last value is again that of the first model, which the page
        names as chosen. "place": how many of the results in "beside" stand in front of it.
        """
        with plain_errors():
            request = self.callbacks.request(*values)
            beside: list[str] = []
            chosen: dict[str, Any] = {}
            for name in rivals(request.model, self.backend.models, self.backend.gallery):
                own = self.callbacks.request(
                    *changed(values, model=name, futures=1, seed=request.seed, labels=[], action=[])
                )
                value: dict[str, Any] = {}
                for value in self._run(own, visitor):
                    value = value | {"beside": list(beside), "place": len(beside)}
                    yield value, request.seed
                beside.append(value["id"])
                chosen = chosen or value
            yield chosen | {"beside": beside[1:], "place": 0}, request.seed

    def _run(self, request: Request, visitor: gr.Request) -> Iterator[dict[str, Any]]:
        """Values of the player. The result is stored, also of a run that is stopped or fails."""
        backend, name, last, value, progress = self.backend, new_id(), 0.0, None, None
        try:
            for event in backend.predict(request):
                if isinstance(event, Result):
                    progress = None
                    yield result_value(backend.results.put(event, name), value)
                    return
                if progress is None:
                    backend.clips.add(request.clip, visitor.session_hash, event.prompt.sha256, name)
                progress, done = event, len(event.frames)
                if done <= 1 or done == request.frames or time.monotonic() - last > PREVIEW_PAUSE:
                    last = time.monotonic()
                    value = progress_value(value, event, name)
                    yield value
        finally:
            if progress is not None and progress.frames:
                backend.results.put(conclude(progress), name)
