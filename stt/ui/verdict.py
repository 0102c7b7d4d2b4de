"""Tells a visitor before Predict whether the chosen model knows such clips, and which one does best on this clip."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from stt.request import Request, RequestError
from stt.self_check import HELD_BACK, WORSE, SelfCheck, self_check, usual_figure
from stt.ui.callbacks import Callbacks, changed, path_of
from stt.video import VideoError

MAX_SECONDS = 1.5  # of a check of a model that nobody chose
TRAIN = (
    "<br>To train one on your own videos, in a copy of this project (about 40 minutes on two cores):<br>"
    "<code>python -m train.predictor --preset videos/stt/cpu --data FOLDER --fps 10 --out runs/own</code>"
)


class Verdicts:
    """Checks each clip once a model."""

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks
        self._checks: dict[tuple[Any, ...], SelfCheck | None] = {}

    def check(self, *values: Any) -> Iterator[Any]:
        """HTML for the page. Between the frames of a check it yields nothing new, so that Gradio can cancel it."""
        backend = self.callbacks.backend
        try:
            request = self.callbacks.request(*changed(values, seed=0))
            known = request.clip is None or backend.result_of(path_of(values[0]), request.model) is not None
            if known or os.environ.get("SPACES_ZERO_GPU"):  # a lent GPU is for predictions
                yield ""
                return
            own = yield from self._check(request)
            if own is None:
                yield _text(f"Too short to tell whether {_name(request.model)} knows such clips.")
                return
            if own.passes(backend.models[request.model].card):
                yield _text(f"✓ {_name(request.model)} knows such clips: it predicts the last frames of this one.")
                return
            sentence = _reason(request.model, own, backend.models[request.model].card)
            yield _text(f"{sentence} The other models are tried …", bad=True)
            best = yield from self._best(request)
            offer = f"No model here does.{TRAIN}"
            if best:
                button = f'<button type="button" data-event="model" data-model="{escape(best)}">'
                offer = f"{button}Use {escape(best)}</button>, which does best on them."
            yield _text(f"{sentence} {offer}", bad=True)
        except (RequestError, VideoError, ValueError):
            yield ""  # the preview says what is wrong with the clip

    def _check(self, request: Request) -> Generator[Any, None, SelfCheck | None]:
        """Returns the check of the request's model, None for a clip that is too short."""
        key = str(request.clip), request.model, request.fit, request.stride
        if key not in self._checks:
            if len(self._checks) > 1000:
                self._checks.clear()
            last = None
            for event in self_check(request, self.callbacks.backend.models[request.model]):
                last = event
                yield gr.skip()
            self._checks[key] = last
        return self._checks[key]

    def _best(self, request: Request) -> Generator[Any, None, str | None]:
        """Returns the name of the quick model with the least error of those that know the clip, None without one."""
        models = self.callbacks.backend.models
        errors: dict[str, float] = {}
        for name, model in models.items():
            if name == request.model or (usual_figure(model.card, "seconds") or 0) > MAX_SECONDS:
                continue
            check = yield from self._check(replace(request, model=name, labels=(), action=(), between=False))
            if check is not None and check.passes(model.card):
                errors[name] = check.error
        return min(errors, key=errors.__getitem__, default=None)


def _text(sentence: str, bad: bool = False) -> str:
    return f'<p class="verdict{" bad" * bad}" role="status">{sentence}</p>'


def _name(model: str) -> str:
    return f"<b>{escape(model)}</b>"


def _reason(model: str, check: SelfCheck, card: Any) -> str:
    usual = usual_figure(card, "error")
    if check.ratio > WORSE or not usual:
        why = "a still picture is as good a guess"
    else:
        why = f"its error is {check.error / usual:.0f} times that on clips that it knows"
    return f"{_name(model)} does not know such clips: on the last {HELD_BACK} frames of this one, {why}."
