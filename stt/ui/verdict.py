"""Tells a visitor before Predict whether the chosen model knows such clips, and which one does best on this clip.

A new clip that no model knows, or that the model for any clip predicts better than they, goes to that one. All that the
page says of a model and a clip is what it has measured on the clip's last frames.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from stt.request import Request, RequestError
from stt.self_check import HELD_BACK, WORSE, SelfCheck, self_check, usual_figure
from stt.ui.backend import ARGUMENTS, drop_oldest
from stt.ui.callbacks import Callbacks, Switch, changed, chosen, is_square, models_of_whole_frames, path_of, updates
from stt.video import VideoError

SUBJECT = ("clip", "model", "stride", "fit")
MAX_CLIPS = 1000  # whose checks are remembered
UNKNOWN = "{} does not know such clips"
NO_CLOSER = "On the last frames of this clip, {} is no closer than a still picture"
NEARLY_STILL = 0.01  # error of a still picture of a clip in which hardly anything moves
MAX_SECONDS = 1.5  # of a check of a model that nobody chose
TRAIN = (
    "<details><summary>Train a model on your own videos</summary>"
    "About 40 minutes on two cores, in a copy of this project:<br>"
    "<code>python -m train.predictor --preset videos/stt/cpu "
    "<span>--data FOLDER</span> <span>--fps 10</span> <span>--out runs/own</span></code></details>"
)


class Verdicts:
    """Checks each clip once a model.

    An answer names what it is of, so that the page shows that of its present clip and model, whichever comes last.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        self.callbacks = callbacks
        self._checks: dict[tuple[Any, ...], SelfCheck | None] = {}
        self._chosen: dict[str, list[Any]] = {}  # by session: what its latest check is of

    def choose(self, visitor: gr.Request, *values: Any) -> None:
        """Drops the visitor's check of anything else."""
        self._chosen[str(visitor.session_hash)] = subject(values)
        drop_oldest(self._chosen)

    def check_new(self, visitor: gr.Request, *values: Any) -> Generator[Any, None, None]:
        """`check` of a new clip. Where no model here knows such clips, `follow` brings the one that takes any."""
        own: Sequence[Any] = values
        with suppress(RequestError, VideoError, ValueError):  # `check` meets it again
            model = self.callbacks.model_for(self.callbacks.request(*changed(values, seed=0)))
            own = changed(values, model=model, labels=[], action=[], between=False)
        end = yield from self._answers(visitor, values, own)
        if end and (clip := end[0].clip):
            self.callbacks.note_switch(clip, Switch(end[0].model, end[1], by_shape=False))

    def check(self, visitor: gr.Request, *values: Any) -> Generator[Any, None, None]:
        """Yields {"of": [clip, model, stride, fit], "html"}; between the frames nothing new, so that it can end."""
        yield from self._answers(visitor, values, values)

    def _answers(
        self, visitor: gr.Request, chosen: Sequence[Any], values: Sequence[Any]
    ) -> Generator[Any, None, tuple[Request, str] | None]:
        """Returns what `_steps` returns, None when the visitor has chosen something else. chosen: the page's values."""
        self.choose(visitor, *chosen)
        mine, of, steps = subject(chosen), subject(values), self._steps(values)
        try:
            while True:
                html = next(steps)
                if self._chosen.get(str(visitor.session_hash), mine) != mine:
                    return None
                yield html if html == gr.skip() else {"of": of, "html": html}
        except StopIteration as end:
            return end.value

    def follow(self, visitor: gr.Request, *values: Any) -> tuple[Any, ...]:
        """The model that `check_new` chose, and its preview; nothing otherwise.

        It comes after the check, so that it is of the clip that is on the page then.
        """
        switch = self.callbacks.switched.get(str(path_of(values[0])))
        if switch is None or switch.by_shape or values[1] != switch.before:
            return gr.skip(), gr.skip(), *updates({})
        player, start, *controls = self.callbacks.change_model(visitor, *changed(values, model=switch.after))
        return player, start, *updates({**chosen(controls), "model": switch.after})

    def _steps(self, values: Sequence[Any]) -> Generator[Any, None, tuple[Request, str] | None]:
        """Yields HTML; returns (request, name of the model for any clip) where that is to take the model's place."""
        backend = self.callbacks.backend
        try:
            request = self.callbacks.request(*changed(values, seed=0))
            known = request.clip is None or backend.result_of(path_of(values[0]), request.model) is not None
            if known or os.environ.get("SPACES_ZERO_GPU"):  # a lent GPU is for predictions
                yield ""
                return None
            model = backend.models[request.model]
            if self._key(request) not in self._checks:
                yield _text(f"{_name(request.model)} is tried on the clip's last frames …")
            own = yield from self._check(request)
            if model.whole_frames:
                text = self._any_clip(request, own)
                doubt = NO_CLOSER.format(request.model) if own is not None and own.ratio > WORSE else ""
                yield _text(f"{text} The other models are tried …", doubt)
                best = yield from self._best(request)
                if best and not (yield from self._closer(request, best, request.model)):
                    best = None
                yield _text(f"{text} {_name(best)} comes closer: {_use(best)}" if best else text + TRAIN, doubt)
                return None
            if own is None:
                yield _text(f"Too short to tell whether {_name(request.model)} knows such clips.")
                return None
            knows = own.passes(model.card)
            doubt = "" if knows else UNKNOWN.format(request.model)
            sentence = _praise(request.model) if knows else _reason(request.model, own, model.card)
            yield _text(f"{sentence} The other models are tried …", doubt)
            best = yield from self._best(request)
            nearest = best or (request.model if knows else None)
            for name in models_of_whole_frames(backend.models):
                if nearest is None or (yield from self._closer(request, name, nearest)):
                    if not knows:
                        yield _text(f"{sentence} {_use(name)}, which takes any clip.", doubt)
                        return request, name
                    best = name
            if not best:
                text = f"✓ {sentence}" if knows else f"{sentence} No model here does.{TRAIN}"
            elif knows:
                text = f"{sentence} {_name(best)} comes closer still: {_use(best)}"
            else:
                text = f"{sentence} {_use(best)}, which does best on them."
            yield _text(text, doubt)
        except (RequestError, VideoError, ValueError):
            yield ""  # the preview says what is wrong with the clip
        return None

    def _any_clip(self, request: Request, check: SelfCheck | None) -> str:
        """What to expect of a model for any clip, by the clip's own last frames."""
        switch, why = self.callbacks.switched.get(str(request.clip)), ""
        if switch and switch.after == request.model:
            before = _name(switch.before)
            why = (
                ": it takes whole frames, not only squares"
                if switch.by_shape
                else f", as {before} does not know such clips"
            )
        text = f"{_name(request.model)} predicts this clip{why}. It carries on what moves, in any clip."
        if check is not None and check.copy < NEARLY_STILL:
            text += " Hardly anything moves at its end: under Advanced, the future can start earlier."
        elif check is not None and check.ratio > WORSE:
            text += f" But tried on the last {HELD_BACK} frames, it is no closer than a still picture."
        elif check is not None:
            less = 100 * (1 - check.ratio)
            text += f" Tried on the last {HELD_BACK} frames, its error is {less:.0f} % below a still picture's."
        return text

    def _key(self, request: Request) -> tuple[Any, ...]:
        return str(request.clip), request.model, request.fit, request.stride

    def _check(self, request: Request) -> Generator[Any, None, SelfCheck | None]:
        """Returns the check of the request's model, None for a clip that is too short."""
        key = self._key(request)
        if key not in self._checks:
            if len(self._checks) > MAX_CLIPS:
                self._checks.clear()
            last = None
            for event in self_check(request, self.callbacks.backend.models[request.model]):
                last = event
                yield gr.skip()
            self._checks[key] = last
        return self._checks[key]

    def _best(self, request: Request) -> Generator[Any, None, str | None]:
        """Returns the name of the quick model with the least error of those that know the clip and see all of it.

        None where there is none, or where the request's model knows it and has less. The error of a model for whole
        frames is of other frames, so it does not count here: see `_closer`.
        """
        models = self.callbacks.backend.models
        if request.clip and request.fit == "auto" and models_of_whole_frames(models) and not is_square(request.clip):
            return None  # those tried here see squares
        own = yield from self._check(request)
        errors: dict[str, float] = {}
        if own is not None and own.passes(models[request.model].card) and not models[request.model].whole_frames:
            errors[request.model] = own.error
        for name, model in models.items():
            if name == request.model or model.whole_frames or (usual_figure(model.card, "seconds") or 0) > MAX_SECONDS:
                continue
            check = yield from self._check(_other(request, name))
            if check is not None and check.passes(model.card) and not check.coloured:
                errors[name] = check.error
        best = min(errors, key=errors.__getitem__, default=None)
        return None if best == request.model else best

    def _closer(self, request: Request, name: str, other: str) -> Generator[Any, None, bool]:
        """Whether a model beats a still picture by more than another does. Their frames differ: whole, or squares."""
        one = yield from self._check(_other(request, name))
        two = yield from self._check(_other(request, other))
        return one is not None and two is not None and one.ratio < two.ratio


def subject(values: Sequence[Any]) -> list[Any]:
    """What a verdict is of."""
    named = dict(zip(ARGUMENTS, values, strict=True))
    return [path_of(named["clip"]), *(named[name] for name in SUBJECT[1:])]


def _other(request: Request, model: str) -> Request:
    """The same clip for another model."""
    return replace(request, model=model, labels=(), action=(), between=False)


def _use(model: str) -> str:
    return f'<button type="button" data-event="model" data-model="{escape(model)}">Use {escape(model)}</button>'


def _text(sentence: str, doubt: str = "") -> str:
    """doubt: why the picture is not to be trusted, which Play says too."""
    state = f' bad" data-doubt="{escape(doubt)}' if doubt else ""
    return f'<div class="verdict{state}" role="status">{sentence}</div>'


def _name(model: str) -> str:
    return f"<b>{escape(model)}</b>"


def _praise(model: str) -> str:
    return f"On the last {HELD_BACK} frames of this clip, {_name(model)} is closer than a still picture."


def _reason(model: str, check: SelfCheck, card: Any) -> str:
    usual = usual_figure(card, "error")
    if check.ratio > WORSE or not usual:
        why = "a still picture is as good a guess"
    else:
        why = f"its error is {check.error / usual:.0f} times that on clips that it knows"
    return f"{_name(model)} does not know such clips: on the last {HELD_BACK} frames of this one, {why}."
