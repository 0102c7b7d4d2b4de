"""Which event of the page calls what."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from stt.request import action_axes, random_seed
from stt.ui.backend import ARGUMENTS
from stt.ui.blocks import PageBlocks
from stt.ui.callbacks import Callbacks
from stt.ui.clip_box import refuse_links
from stt.ui.controls import (
    PRESETS,
    action_slider,
    action_updates,
    gap_updates,
    label_updates,
    preset_of,
    sampling_updates,
)
from stt.ui.endpoints import Endpoints
from stt.ui.layout import TITLE, Page, lay_out
from stt.ui.live_stage import wire_play

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
QUICK: dict[str, Any] = PRIVATE | {"queue": False}
PREVIEW: dict[str, Any] = PRIVATE | {"preprocess": False, "concurrency_id": "preview", "concurrency_limit": 2}
GPU: dict[str, Any] = {"concurrency_id": "gpu", "concurrency_limit": 1}

# settings into the address and the browser's memory
SAVE = """(...values) => {
  const names = NAMES, settings = Object.fromEntries(names.map((name, i) => [name, values[i]]));
  const address = new URL(location.href);
  for (const [name, value] of Object.entries(settings)) {
    if (value === null || value === "" || (name === "seed" && values.at(-1))) address.searchParams.delete(name);
    else address.searchParams.set(name, value);
  }
  history.replaceState(history.state, "", address);
  for (const name of ["seed", "prompt_frames"]) delete settings[name];
  return settings;
}"""
# dropdowns -> labels; "any digit" in the places after the first adds nothing
LABELS = "(first, ...others) => [first === '' ? [] : [first, ...others.filter((label) => label >= 0)]]"
# sliders -> action, as many as the model has axes; and action -> sliders
ACTION = """(model, steered, ...axes) => [steered ? axes.slice(0, AXES[model]) : []]"""
SLIDERS = "(action, ...axes) => [action.length > 0, ...axes.map((_, k) => action[k] ?? {__type__: 'update'})]"
STARTED, ENDED = (f"() => {{ window.dispatchEvent(new Event('stt-{what}')); return []; }}" for what in ("start", "end"))


def build(callbacks: Callbacks) -> PageBlocks:
    backend = callbacks.backend
    with PageBlocks(title=TITLE, fill_width=True, delete_cache=(600, 3600), analytics_enabled=False) as app:
        page = lay_out(backend.models, backend.examples)
        previews = _wire_clip(page, callbacks)
        _wire_settings(page, callbacks)
        _wire_results(page, callbacks)
        _wire_prediction(page, callbacks, previews)
        wire_play(page.play, page.settings, page.new_seed)
        app.load(callbacks.open_page, page.memory, [page.pending, *page.settings, page.new_seed], **QUICK)
        _serve_clients(page, Endpoints(backend))
    return app


def _wire_clip(page: Page, callbacks: Callbacks) -> list[Any]:
    """Returns the events that preview a clip, which a prediction cancels."""
    control, models = page.controls, callbacks.backend.models
    outputs = [control["clip"], control["model"]]
    page.examples.click(
        lambda number, name: callbacks.example(name, number), [page.examples, control["model"]], outputs, **QUICK
    )
    page.random_example.click(callbacks.example, control["model"], outputs, **QUICK)
    control["clip"].unplayable(callbacks.preview_unplayable, control["clip"], control["clip"], **PREVIEW)
    changed = control["clip"].new_clip(
        callbacks.change_clip, [page.pending, *page.settings],
        [page.player, page.pending, *page.settings, page.new_seed], **PREVIEW,
    )  # fmt: skip
    preview_outputs = [page.player, control["prompt_frames"], control["frames"]]
    inputs = [control[name].input for name in ("prompt_frames", "stride", "fit", "between")]
    preview = gr.on(
        [*inputs, control["model"].change], callbacks.preview, page.settings, preview_outputs,
        trigger_mode="always_last", **PREVIEW,
    )  # fmt: skip
    preview_gap = control["frames"].input(
        callbacks.preview_gap, page.settings, preview_outputs, trigger_mode="always_last", **PREVIEW
    )
    gr.on(
        [control["model"].change, control["between"].change],
        lambda name, between: gap_updates(models[name], between), [control["model"], control["between"]],
        [control["between"], control["prompt_frames"], control["frames"]], **QUICK,
    )  # fmt: skip
    return [changed, preview, preview_gap]


def _wire_settings(page: Page, callbacks: Callbacks) -> None:
    control, models = page.controls, callbacks.backend.models
    model = control["model"]
    sampling = [control[name] for name in ("futures", "temperature")]
    sampling += [page.presets, *(control[name] for name in ("top_k", "top_p", "stride"))]
    model.change(lambda name: sampling_updates(models[name]), model, sampling, **QUICK)
    page.presets.input(PRESETS.get, page.presets, control["temperature"], **QUICK)
    control["temperature"].change(preset_of, control["temperature"], page.presets, **QUICK)
    page.dice.click(lambda: (random_seed(), False), None, [control["seed"], page.new_seed], **QUICK)
    control["seed"].input(lambda: False, None, page.new_seed, **QUICK)

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

    saved = [*page.settings[1:], page.new_seed]
    gr.on(
        [component.change for component in saved], None, saved, page.memory,
        js=SAVE.replace("NAMES", str(list(ARGUMENTS[1:]))), **PRIVATE,
    )  # fmt: skip


def _wire_results(page: Page, callbacks: Callbacks) -> None:
    control = page.controls
    page.player.extend(callbacks.extend, None, [page.pending, control["clip"]], **PREVIEW)  # an encoder runs
    # an extended future is continued, whatever made it
    page.player.extend(lambda: ([], False), None, [control["labels"], control["between"]], **QUICK)
    page.player.restore(callbacks.restore, None, [page.pending, *page.settings, page.new_seed], **QUICK)


def _wire_prediction(page: Page, callbacks: Callbacks, previews: list[Any]) -> None:
    buttons = [page.predict, page.stop]
    started = page.predict.click(
        lambda: _buttons(running=True), None, buttons, js=STARTED, cancels=previews, **QUICK
    )  # fmt: skip
    run = started.then(
        callbacks.run_prediction, [page.new_seed, *page.settings], [page.player, page.controls["seed"]],
        preprocess=False, api_visibility="private", show_progress="minimal", show_progress_on=page.player, **GPU,
    )  # fmt: skip
    run.success(lambda: _buttons(running=False), None, buttons, **QUICK)
    run.failure(lambda: _buttons(running=False), None, buttons, js=ENDED, **QUICK)
    page.stop.click(None, cancels=[run])  # which counts as a failure of `run`


def _buttons(*, running: bool) -> tuple[Any, Any]:
    """Predict and Stop: one of them can be pressed."""
    return gr.update(interactive=not running), gr.update(interactive=running)


def _serve_clients(page: Page, endpoints: Endpoints) -> None:
    """Endpoints for programs; their outputs have no place on the page."""
    together = gr.Video(visible=False, label="Clip and futures")
    single = gr.Gallery(visible=False, label="Each future by itself")
    report = gr.JSON(visible=False, label="Report")
    clip = refuse_links(gr.Video(visible=False, label="Clip", sources=["upload"]))
    start = gr.Number(0, visible=False, label="Prompt frames")  # the page's begins at 1, which would be the default
    labels = gr.Textbox("", visible=False, label="Labels")  # easier to describe than JSON
    action = gr.Textbox("", visible=False, label="Action")
    settings = page.controls | {"clip": clip, "prompt_frames": start, "labels": labels, "action": action}
    gr.Button(visible=False).click(
        endpoints.predict, [settings[name] for name in ARGUMENTS],
        [together, single, page.controls["seed"], report], preprocess=False, api_name="predict", **GPU,
    )  # fmt: skip
    gr.api(endpoints.list_models, api_name="models", queue=False)
