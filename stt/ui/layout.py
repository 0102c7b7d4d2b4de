"""The page: what stands where, and which button calls what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from stt.api import MAX_SEED, Interpolates, Predictor
from stt.request import (
    MAX_FPS,
    MAX_FRAMES,
    MAX_FUTURES,
    MAX_STRIDE,
    MAX_TEMPERATURE,
    MAX_TOP_K,
    imaginable,
    random_seed,
    steerable,
)
from stt.ui.callbacks import ARGUMENTS, Callbacks, sentence
from stt.ui.player import player

TITLE = "What happens next?"
WELCOME = f"""
<header><h1>{TITLE}</h1>
<p>Pick a short clip. A model watches it and continues it several times: one future per seed.</p></header>
"""
PRESETS = {"Steady": 0.5, "Varied": 1.0, "Wild": 1.5}  # temperatures
REMEMBERED = tuple(name for name in ARGUMENTS if name not in ("clip", "seed", "prompt_frames"))
# what the browser keeps, and what stands in the address
KEEP = """(...values) => {
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
# what the dropdowns say, as labels; of the others "any digit" adds nothing
IMAGINE = "(first, ...others) => [first === '' ? [] : [first, ...others.filter((label) => label >= 0)]]"
# sliders become an action, as many as the model has axes, and an action sliders
STEER = """(model, steered, ...axes) => [steered ? axes.slice(0, AXES[model]) : []]"""
STEERED = "(action, ...axes) => [action.length > 0, ...axes.map((_, k) => action[k] ?? {__type__: 'update'})]"
ASKED, ENDED = (f"() => {{ window.dispatchEvent(new Event('stt-{what}')); return []; }}" for what in ("asked", "ended"))


@dataclass(frozen=True)
class Page:
    controls: dict[str, gr.components.Component]  # by the names of the endpoint's arguments
    fresh: gr.Checkbox
    dice: gr.Button
    presets: gr.Radio
    places: list[gr.Dropdown]  # one per class of what is imagined; together they are the control "labels"
    steer: gr.Checkbox
    axes: list[gr.Slider]  # one per number of an action; together they are the control "action"
    predict: gr.Button
    stop: gr.Button
    surprise_me: gr.Button
    player: gr.HTML
    examples: gr.Dataset
    wanted: gr.State  # settings that wait for the clip that they belong to
    memory: gr.BrowserState

    @property
    def settings(self) -> list[gr.components.Component]:
        """In the order of the endpoint's arguments."""
        return [self.controls[name] for name in ARGUMENTS]

    def __getattr__(self, name: str) -> gr.components.Component:
        return self.controls[name]


def build(callbacks: Callbacks, examples: Sequence[Path]) -> gr.Blocks:
    with gr.Blocks(title=TITLE, fill_width=True, delete_cache=(600, 3600), analytics_enabled=False) as app:
        gr.HTML(WELCOME)
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=0, min_width=368, elem_id="controls"):
                with gr.Row(elem_id="source"):
                    clip = _clip()
                    with gr.Column(min_width=150, elem_id="choice"):
                        strip = _examples(examples)
                        chance = gr.Button("Any example", size="sm", elem_id="any", visible=bool(examples))
                controls, others = _settings(callbacks)
                with gr.Row(elem_id="go"):
                    predict = gr.Button("Predict", variant="primary", elem_id="predict", scale=2)
                    stop = gr.Button("Stop", interactive=False, elem_id="stop", scale=1)
                controls |= _advanced(next(iter(callbacks.models.values())))
            with gr.Column(scale=1, min_width=320, elem_id="futures"):
                stage = player()
        page = Page(
            controls={"clip": clip, **controls}, **others, predict=predict, stop=stop, surprise_me=chance,
            player=stage, examples=strip, wanted=gr.State({}),
            memory=gr.BrowserState({}, storage_key="stt-settings", secret="stt"),
        )  # fmt: skip
        _wire(app, page, callbacks)
        _serve_clients(page, callbacks)
    return app


def _clip() -> gr.Video:
    clip = gr.Video(
        label="Clip", sources=["upload"], height=196, autoplay=True, loop=True, buttons=[], elem_id="clip",
        elem_classes="pixels", min_width=150, scale=1,
    )  # fmt: skip
    move = clip.async_move_resource_to_block_cache

    async def move_files_only(path: str | Path | None) -> str | None:
        """Clients may name a web address instead of a file; Gradio would fetch whatever it holds, of any size."""
        if "://" in str(path):
            raise sentence("The clip must be an uploaded file, not a link.")
        return await move(path)

    clip.async_move_resource_to_block_cache = move_files_only
    return clip


def _examples(examples: Sequence[Path]) -> gr.Dataset:
    return gr.Dataset(
        components=[gr.Video(visible=False)], samples=[[str(path)] for path in examples], type="index",
        label="or an example", samples_per_page=16, elem_id="examples", visible=bool(examples), min_width=150,
    )  # fmt: skip


def _settings(callbacks: Callbacks) -> tuple[dict[str, gr.components.Component], dict[str, gr.components.Component]]:
    names, models = list(callbacks.models), list(callbacks.models.values())
    knobs = models[0].knobs
    slider = {"buttons": []}
    with gr.Row():
        futures = gr.Slider(
            1, MAX_FUTURES, 4, step=1, label="Futures", info="One per seed", visible="temperature" in knobs, **slider
        )  # fmt: skip
        frames = gr.Slider(1, MAX_FRAMES, 10, step=1, label="Frames", info="How far ahead", **slider)
    with gr.Row():
        prompt_frames = gr.Slider(
            1, 20, 1, step=1, label="Prompt frames", info="Future starts here", interactive=False, **slider
        )  # fmt: skip
        temperature = gr.Slider(
            0, MAX_TEMPERATURE, 1.0, step=0.05, label="Temperature", info="Higher: less alike",
            visible="temperature" in knobs, **slider,
        )  # fmt: skip
    with gr.Row():
        presets = gr.Radio(
            list(PRESETS), value="Varied", label="Mood", info="A temperature by name", elem_id="presets",
            visible="temperature" in knobs,
        )  # fmt: skip
        model = gr.Dropdown(names, value=names[0], label="Model", info="Who predicts", filterable=False)
    between = gr.Checkbox(
        False, label="In between", info="Fill a gap in the clip", elem_id="between",
        visible=isinstance(models[0], Interpolates),
    )  # fmt: skip
    with gr.Row(elem_id="imagine"):
        places = [
            gr.Dropdown(
                label="and" if place else "Imagine", info=None if place else "Digits: from nothing", filterable=False,
                **dropdown(models[0], [], place),
            )
            for place in range(max(imaginable(model)[1] for model in models))
        ]  # fmt: skip
    with gr.Column(elem_id="steering"):
        steer = gr.Checkbox(
            False, label="Steer", info="Else the model imagines what is done", visible=bool(steerable(models[0])),
            elem_id="steer",
        )  # fmt: skip
        axes = [
            gr.Slider(-1, 1, 0, step=0.1, elem_classes="axis", **slider, **axis(models[0], False, place))
            for place in range(max(len(steerable(model)) for model in models))
        ]
    with gr.Row(elem_id="seeds"):
        seed = gr.Number(None, label="Seed", info="Same seed, same future", precision=0, minimum=0, maximum=MAX_SEED)
        with gr.Column(min_width=100, elem_id="luck"):
            fresh = gr.Checkbox(True, label="New every time", container=False)
            dice = gr.Button("Roll the dice", size="sm", elem_id="dice")
    controls = {
        "futures": futures, "frames": frames, "prompt_frames": prompt_frames, "model": model,
        "temperature": temperature, "seed": seed, "labels": gr.JSON([], visible="hidden", elem_id="labels"),
        "between": between, "action": gr.JSON([], visible="hidden", elem_id="action"),
    }  # fmt: skip
    others = {"presets": presets, "dice": dice, "fresh": fresh, "places": places, "steer": steer, "axes": axes}
    return controls, others


def _advanced(model: Predictor) -> dict[str, gr.components.Component]:
    slider, knobs = {"buttons": []}, model.knobs
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        with gr.Row():
            top_k = gr.Slider(
                0, MAX_TOP_K, 0, step=1, label="Top-k", info="Only the k likeliest codes; 0: all",
                visible="top_k" in knobs, **slider,
            )  # fmt: skip
            top_p = gr.Slider(
                0.01, 1, 1, step=0.01, label="Top-p", info="Only the likeliest codes of this total",
                visible="top_p" in knobs, **slider,
            )  # fmt: skip
        with gr.Row():
            stride = gr.Slider(1, MAX_STRIDE, 1, step=1, label="Stride", info=stride_info(model), **slider)
            fps = gr.Slider(
                0, MAX_FPS, 0, step=1, label="Frames a second", info="When played; 0: the clip's own", **slider
            )
        fit = gr.Radio(
            [("Cut to a square", "crop"), ("Whole picture, black bars", "pad")], value="crop",
            label="Clips that are not square", info="How they become it: the model sees squares",
        )  # fmt: skip
    return {"top_k": top_k, "top_p": top_p, "stride": stride, "fps": fps, "fit": fit}


def _wire(app: gr.Blocks, page: Page, callbacks: Callbacks) -> None:
    private = {"api_visibility": "private", "show_progress": "hidden"}
    quick = private | {"queue": False}
    look = private | {"preprocess": False, "concurrency_id": "look", "concurrency_limit": 2}
    settings = [*page.settings, page.fresh]

    # the clip
    shown = [page.clip, page.model]
    page.examples.click(
        lambda number, name: callbacks.example(name, number), [page.examples, page.model], shown, **quick
    )
    page.surprise_me.click(callbacks.example, page.model, shown, **quick)
    page.player.dropped(callbacks.dropped, None, page.clip, **quick)
    chosen = page.clip.change(
        callbacks.choose, [page.wanted, *page.settings], [page.player, page.wanted, *settings], **look
    )  # fmt: skip
    looked = gr.on(
        [page.prompt_frames.input, page.stride.input, page.fit.input, page.between.input, page.model.change],
        callbacks.look, page.settings,
        [page.player, page.prompt_frames, page.frames], trigger_mode="always_last", **look,
    )  # fmt: skip
    resized = page.frames.input(
        callbacks.look_at_gap, page.settings, [page.player, page.prompt_frames, page.frames],
        trigger_mode="always_last", **look,
    )  # fmt: skip

    # settings
    page.model.change(lambda name: knobs(callbacks.models[name]), page.model, knob_controls(page), **quick)
    gr.on(
        [page.model.change, page.labels.change],
        lambda name, labels: arranged(callbacks.models[name], labels, len(page.places)), [page.model, page.labels],
        [page.labels, *page.places], **quick,
    )  # fmt: skip
    gr.on(
        [page.model.change, page.between.change],
        lambda name, between: phrased(callbacks.models[name], between), [page.model, page.between],
        [page.between, page.prompt_frames, page.frames], **quick,
    )  # fmt: skip
    for place in page.places:
        place.input(None, page.places, page.labels, js=IMAGINE, **private)
    page.model.change(
        lambda name, action: carried(callbacks.models[name], action, len(page.axes)), [page.model, page.action],
        [page.action, page.steer, *page.axes], **quick,
    )  # fmt: skip
    page.steer.change(
        lambda name, steered: [gr.update(**axis(callbacks.models[name], steered, k)) for k in range(len(page.axes))],
        [page.model, page.steer], page.axes, **quick,
    )  # fmt: skip
    counts = {name: len(steerable(model)) for name, model in callbacks.models.items()}
    gr.on(
        [control.input for control in (page.steer, *page.axes)], None, [page.model, page.steer, *page.axes],
        page.action, js=STEER.replace("AXES", json.dumps(counts)), **private,
    )  # fmt: skip
    page.action.change(None, [page.action, *page.axes], [page.steer, *page.axes], js=STEERED, **private)
    page.presets.input(PRESETS.get, page.presets, page.temperature, **quick)
    page.temperature.change(preset_of, page.temperature, page.presets, **quick)
    page.dice.click(lambda: (random_seed(), False), None, [page.seed, page.fresh], **quick)
    page.seed.input(lambda: False, None, page.fresh, **quick)
    gr.on(
        [control.change for control in settings[1:]], None, settings[1:], page.memory,
        js=KEEP.replace("NAMES", str(list(ARGUMENTS[1:]))), **private,
    )  # fmt: skip

    # results
    page.player.extend(callbacks.extend, None, [page.wanted, page.clip], **quick)
    page.player.extend(lambda: ([], False), None, [page.labels, page.between], **quick)  # which continues it
    page.player.restore(callbacks.restore, None, [page.wanted, *settings], **quick)

    # predicting
    buttons = [page.predict, page.stop]
    started = page.predict.click(
        lambda: _buttons(running=True), None, buttons, js=ASKED, cancels=[chosen, looked, resized], **quick
    )  # fmt: skip
    run = started.then(
        callbacks.watch, [page.fresh, *page.settings], [page.player, page.seed], preprocess=False,
        concurrency_id="gpu", concurrency_limit=1, api_visibility="private", show_progress="minimal",
        show_progress_on=page.player,
    )  # fmt: skip
    run.success(lambda: _buttons(running=False), None, buttons, **quick)
    run.failure(lambda: _buttons(running=False), None, buttons, js=ENDED, **quick)
    page.stop.click(None, cancels=[run])  # which counts as a failure of `run`
    app.load(callbacks.opened, page.memory, [page.wanted, *settings], **quick)


def _serve_clients(page: Page, callbacks: Callbacks) -> None:
    """Endpoints for programs; what they return has no place on the page."""
    together = gr.Video(visible=False, label="Clip and futures")
    alone = gr.Gallery(visible=False, label="Each future by itself")
    report = gr.JSON(visible=False, label="Report")
    start = gr.Number(0, visible=False, label="Prompt frames")  # the page's begins at 1, which would be the default
    labels = gr.Textbox("", visible=False, label="Labels")  # easier to describe than JSON
    action = gr.Textbox("", visible=False, label="Action")
    instead = {"prompt_frames": start, "labels": labels, "action": action}
    settings = [instead.get(name, page.controls[name]) for name in ARGUMENTS]
    gr.Button(visible=False).click(
        callbacks.predict, settings, [together, alone, page.seed, report], preprocess=False, api_name="predict",
        concurrency_id="gpu", concurrency_limit=1,
    )  # fmt: skip
    gr.api(callbacks.list_models, api_name="models", queue=False)


def knob_controls(page: Page) -> list[gr.components.Component]:
    return [page.futures, page.temperature, page.presets, page.top_k, page.top_p, page.stride]


def knobs(model: Predictor) -> list[Any]:
    """Which of `knob_controls` the model honours, where one that draws nothing has one future; what it learned at."""
    names = ("temperature", "temperature", "temperature", "top_k", "top_p")
    return [*(gr.update(visible=name in model.knobs) for name in names), gr.update(info=stride_info(model))]


def stride_info(model: Predictor) -> str:
    """What the control for the stride says of a model, which may have learned from every n-th frame of its clips."""
    learned = model.card.get("world", {}).get("stride", 1)
    return "Every n-th frame: faster motion" + (f"; this model learned at {learned}" if learned > 1 else "")


def arranged(model: Predictor, labels: list[int], places: int) -> list[Any]:
    """Labels, without those that the model cannot imagine, and as many dropdowns that show them."""
    classes, most = imaginable(model)
    known = [label for label in labels if label < classes][:most] if classes else labels
    dropdowns = [gr.update(**dropdown(model, known, place)) for place in range(places)]
    return [gr.skip() if known == labels else known, *dropdowns]


def dropdown(model: Predictor, labels: list[int], place: int) -> dict[str, Any]:
    """What one place for a label offers and shows; the places after the first wait until something is imagined."""
    classes, most = imaginable(model)
    digits = [("any digit", -1), *((str(label), label) for label in range(classes))]
    return {
        "choices": digits if place else [("the clip's future", ""), *digits],
        "value": labels[place] if place < min(len(labels), most) else -1 if place else "",
        "visible": place < most and (place == 0 or bool(labels)),
    }


def carried(model: Predictor, action: list[float], places: int) -> list[Any]:
    """The action, free again if another model's has more or fewer numbers, its switch, and as many sliders."""
    count = len(steerable(model))
    fits = not count or len(action) in (0, count)
    axes = [axis(model, bool(action) and fits, place) | ({} if fits else {"value": 0}) for place in range(places)]
    return [gr.skip() if fits else [], gr.update(visible=count > 0), *(gr.update(**changes) for changes in axes)]


def axis(model: Predictor, steered: bool, place: int) -> dict[str, Any]:
    """What one slider of an action is called, and whether it is shown."""
    words = steerable(model)
    word = words[place] if place < len(words) else ""
    return {"label": word[:1].upper() + word[1:], "visible": steered and bool(word)}


def phrased(model: Predictor, between: bool) -> list[Any]:
    """The control for gaps, where the model fills some, and what the start and the frames are then called."""
    start, frames = ("Prompt frames", "Future starts here"), ("Frames", "How far ahead")
    if between and isinstance(model, Interpolates):
        start, frames = ("Gap after", "So many frames"), ("Gap length", "Frames missing")
    named = [gr.update(label=label, info=info) for label, info in (start, frames)]
    return [gr.update(visible=isinstance(model, Interpolates)), *named]


def preset_of(temperature: float) -> str | None:
    return next((name for name, value in PRESETS.items() if abs(value - temperature) < 1e-6), None)


def _buttons(*, running: bool) -> tuple[Any, Any]:
    """Predict and Stop: one of them can be pressed."""
    return gr.update(interactive=not running), gr.update(interactive=running)
