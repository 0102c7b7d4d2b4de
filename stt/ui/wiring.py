"""Which event of the page calls what."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from stt.request import DEFAULTS, action_axes
from stt.ui.backend import ARGUMENTS
from stt.ui.blocks import PageBlocks
from stt.ui.callbacks import Callbacks
from stt.ui.clip_box import refuse_links
from stt.ui.controls import (
    action_slider,
    action_updates,
    fit_info,
    futures_update,
    gap_updates,
    label_updates,
    sampling_updates,
)
from stt.ui.endpoints import Endpoints
from stt.ui.layout import TITLE, Page, lay_out
from stt.ui.live_stage import wire_play
from stt.ui.running import Runs
from stt.ui.scripts import (
    ACTION,
    BEGIN,
    CHANGE,
    COUNT,
    DONE,
    ENDED,
    FOLLOW,
    FREE,
    GAP,
    HOLD,
    LABELS,
    OPENED,
    RELEASE,
    SAVE,
    SLIDERS,
    STARTED,
    STOPS,
    TYPE,
    TYPED,
    VERDICT,
)
from stt.ui.verdict import SUBJECT, Verdicts

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
QUICK: dict[str, Any] = PRIVATE | {"queue": False}
PREVIEW: dict[str, Any] = PRIVATE | {"preprocess": False, "concurrency_id": "preview", "concurrency_limit": 2}
GPU: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}


def build(callbacks: Callbacks) -> PageBlocks:
    backend = callbacks.backend
    with PageBlocks(title=TITLE, fill_width=True, delete_cache=(600, 3600), analytics_enabled=False) as app:
        first = next((backend.result_of(one.clip, one.model) for one in backend.gallery), None)
        page = lay_out(backend.models, backend.gallery, first)
        _serve_clients(page, Endpoints(backend))  # first: the page's functions take their names otherwise
        previews = _wire_clip(page, callbacks)
        _wire_settings(page, callbacks)
        _wire_results(page, callbacks)
        checks = _wire_verdict(page, Verdicts(callbacks))
        _wire_prediction(page, Runs(callbacks), [*previews, *checks])
        wire_play(page.play, page.settings, page.new_seed)
        opened = app.load(callbacks.open_page, page.memory, [page.notice, page.pending, *_stage(page)], **QUICK)
        opened.then(None, None, page.predict, js=OPENED, **PRIVATE)
    return app


def _stage(page: Page) -> list[Any]:
    """What a new clip, model or result changes."""
    return [page.player, page.start, *page.settings, page.new_seed]


def _wire_clip(page: Page, callbacks: Callbacks) -> list[Any]:
    """Returns the events that preview a clip, which a prediction cancels."""
    control, models = page.controls, callbacks.backend.models
    clip, model, stage = control["clip"], control["model"], _stage(page)
    for event in (page.examples.hold, page.knows.hold, clip.hold):
        event(None, None, page.predict, js=HOLD, **PRIVATE)
    clip.release(None, None, page.predict, js=FREE, **PRIVATE)
    for event in (page.examples.choose, page.knows.example):
        chosen = event(callbacks.example, None, [page.pending, *stage], trigger_mode="multiple", **QUICK)
        _end_turn(page, chosen)  # one after another already
    for name in TYPED:
        control[name].input(None, control[name], None, js=TYPE.replace("NAME", name), **PRIVATE)
    shows: dict[str, Any] = {"inputs": page.settings, "outputs": stage, "js": BEGIN, **PREVIEW}
    changes = shows | {"js": CHANGE}
    for event in (page.examples.model, page.verdict.model):
        _end_turn(page, event(_model_of, None, model, **QUICK).then(callbacks.change_model, **changes))
    clip.unplayable(callbacks.preview_unplayable, clip, clip, **PREVIEW)
    latest: dict[str, Any] = {"trigger_mode": "always_last"}
    changed = clip.new_clip(
        callbacks.change_clip, [page.pending, *page.settings], [page.pending, *stage], **latest, **PREVIEW
    )
    moved = page.start.move(_start_of, None, control["prompt_frames"], **QUICK)
    inputs = [control[name].input for name in ("stride", "fit", "between")]
    lengths = [control["between"], control["frames"]]
    control["frames"].input(None, lengths, page.gap, js=GAP, **PRIVATE)
    previews = [
        changed,
        gr.on(inputs, callbacks.preview, **shows, **latest),
        moved.then(callbacks.preview, **shows),
        page.menu.choose(None, page.menu, model, js="(name) => name", **PRIVATE).then(
            callbacks.change_model, **changes, **latest
        ),
        page.gap.change(callbacks.preview_gap, **shows, **latest),
    ]
    for preview in previews:
        _end_turn(page, preview)
    gr.on(
        [model.change, control["between"].change],
        lambda name, between: gap_updates(models[name], between), [model, control["between"]],
        [control["between"], control["frames"]], **QUICK,
    )  # fmt: skip
    model.change(None, model, [page.menu, page.knows], js="(name) => [name, name]", **PRIVATE)
    model.change(lambda name: gr.update(info=fit_info(models[name])), model, control["fit"], **QUICK)
    return previews


def _end_turn(page: Page, event: Any) -> None:
    """Lets the visitor's next act begin."""
    kept = [page.predict, *(page.controls[name] for name in TYPED)]
    for outcome in (event.success, event.failure):
        outcome(None, page.controls["between"], kept, js=RELEASE, **PRIVATE)


def _wire_verdict(page: Page, verdicts: Verdicts) -> list[Any]:
    """Returns the checks, which a prediction cancels; after it they begin again."""
    control = page.controls
    new, changes = control["clip"].new_clip, [control[name].change for name in SUBJECT[1:]]
    subject = [page.answer, *(control[name] for name in SUBJECT)]
    several: dict[str, Any] = {"trigger_mode": "multiple", "preprocess": False}
    for event in (page.answer.change, new, *changes):
        event(None, subject, page.verdict, js=VERDICT, **several, **PRIVATE)
    for event in (new, *changes):
        event(verdicts.choose, page.settings, None, **several, **QUICK)
    options: dict[str, Any] = PRIVATE | {"concurrency_id": "check", "concurrency_limit": 1, "preprocess": False}
    options |= {"inputs": page.settings, "outputs": page.answer, "trigger_mode": "always_last"}
    checked = new(verdicts.check_new, **options)
    free = checked.then(None, None, None, js="() => window.sttTurns.free()", **PRIVATE)
    _end_turn(page, free.then(verdicts.follow, page.settings, _stage(page), js=FOLLOW, **QUICK))  # mostly nothing
    page.verdict.input(verdicts.check, **options | {"trigger_mode": "multiple"})  # a late cancel must not end this one
    return [checked, gr.on(changes, verdicts.check, **options)]


def _model_of(event: gr.EventData) -> Any:
    return event._data["model"]


def _start_of(event: gr.EventData) -> Any:
    return event._data["start"]


def _wire_settings(page: Page, callbacks: Callbacks) -> None:
    control, models = page.controls, callbacks.backend.models
    model = control["model"]
    sampling = [control["seed"], page.new_seed, *(control[name] for name in ("temperature", "top_k", "top_p"))]
    model.change(lambda name: sampling_updates(models[name]), model, sampling, **QUICK)
    chance = [model, control["action"], control["temperature"]]
    visible = gr.on(
        [setting.change for setting in chance],
        lambda name, *values: futures_update(models[name], *values), chance, control["futures"], **QUICK,
    )  # fmt: skip
    for event in (visible.then, control["futures"].change):
        event(None, control["futures"], None, js=COUNT, **PRIVATE)
    control["seed"].input(lambda: False, None, page.new_seed, **QUICK)

    if page.labels:  # a list for one output alone would become its value
        gr.on(
            [model.change, control["labels"].change],
            lambda name, labels: label_updates(models[name], labels, len(page.labels)), [model, control["labels"]],
            [control["labels"], *page.labels], **QUICK,
        )  # fmt: skip
    for dropdown in page.labels:
        dropdown.input(None, page.labels, control["labels"], js=LABELS, **PRIVATE)

    model.change(
        lambda name, action: action_updates(models[name], action, len(page.axes)), [model, control["action"]],
        [control["action"], page.steer, *page.axes], **QUICK,
    )  # fmt: skip
    page.steer.change(
        lambda name, steered: [gr.update(**action_slider(models[name], steered, k)) for k in range(len(page.axes))],
        [model, page.steer], page.axes, **QUICK,
    )  # fmt: skip
    counts = {name: len(action_axes(one)) for name, one in models.items()}
    gr.on(
        [page.steer.input, *(slider.input for slider in page.axes)], None, [model, page.steer, *page.axes],
        control["action"], js=ACTION.replace("AXES", json.dumps(counts)), **PRIVATE,
    )  # fmt: skip
    control["action"].change(None, [control["action"], *page.axes], [page.steer, *page.axes], js=SLIDERS, **PRIVATE)

    saved = [*page.settings, page.new_seed]
    script = SAVE.replace("NAMES", str(list(ARGUMENTS))).replace("DEFAULTS", json.dumps(DEFAULTS))
    script = script.replace("EXAMPLES", json.dumps({str(path): path.stem for path in callbacks.backend.examples}))
    gr.on([component.change for component in saved[1:]], None, saved, page.memory, js=script, **PRIVATE)
    control["clip"].new_clip(None, saved, page.memory, js=script, **PRIVATE)


def _wire_results(page: Page, callbacks: Callbacks) -> None:
    control = page.controls
    extended = page.player.extend(callbacks.extend, None, [page.pending, control["clip"]], **PREVIEW)  # an encoder runs
    _end_turn(page, extended)
    # an extended future is continued, whatever made it
    page.player.extend(lambda: ([], False), None, [control["labels"], control["between"]], **QUICK)
    restored = page.player.restore(callbacks.restore, None, [page.pending, *page.settings, page.new_seed], **QUICK)
    _end_turn(page, restored)


def _wire_prediction(page: Page, runs: Runs, previews: list[Any]) -> None:
    seed = page.controls["seed"]
    started = [
        _wire_run(page, page.predict.click, runs.predict, [page.new_seed, *page.settings], seed, previews),
        _wire_run(page, page.player.compare, runs.compare, page.settings, seed, previews),
    ]
    page.stop.click(None, None, None, js=STOPS, **PRIVATE)
    page.stop.click(None, cancels=started)  # which counts as a failure of the run


def _wire_run(page: Page, event: Any, run: Any, inputs: list[Any], seed: Any, previews: list[Any]) -> Any:
    buttons = [page.predict, page.stop]
    started = event(lambda: _buttons(running=True), None, buttons, js=STARTED, cancels=previews, **QUICK)
    running = started.then(
        run, inputs, [page.player, seed], preprocess=False, api_visibility="private", show_progress="minimal",
        show_progress_on=page.player, **GPU,
    )  # fmt: skip
    running.success(lambda: _buttons(running=False), None, buttons, js=DONE, **QUICK)
    running.failure(lambda: _buttons(running=False), None, buttons, js=ENDED, **QUICK)
    return running


def _buttons(*, running: bool) -> tuple[Any, Any]:
    """Predict and Stop: one of them can be pressed."""
    return gr.update(interactive=not running), gr.update(interactive=running)


def _serve_clients(page: Page, endpoints: Endpoints) -> None:
    """Endpoints for programs; their outputs have no place on the page."""
    together = gr.Video(visible=False, label="Clip and futures")
    single = gr.Gallery(visible=False, label="Each future by itself")
    report = gr.JSON(visible=False, label="Report")
    clip = refuse_links(gr.Video(visible=False, label="Clip", sources=["upload"]))
    labels = gr.Textbox("", visible=False, label="Labels")  # easier to describe than JSON
    action = gr.Textbox("", visible=False, label="Action")
    settings = page.controls | {"clip": clip, "labels": labels, "action": action}
    gr.Button(visible=False).click(
        endpoints.predict, [settings[name] for name in ARGUMENTS],
        [together, single, page.controls["seed"], report], preprocess=False, api_name="predict", **GPU,
    )  # fmt: skip
    gr.api(endpoints.list_models, api_name="models", queue=False)
