"""The page's layout: which control stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from stt.api import MAX_SEED, Interpolates, Predictor
from stt.request import DEFAULTS, action_axes, is_stochastic, label_space
from stt.results import Result
from stt.ui.backend import ARGUMENTS
from stt.ui.clip_box import clip_box
from stt.ui.controls import action_slider, fit_info, label_dropdown, steer_info
from stt.ui.examples import Example, gallery, knows_text, model_choices, rivals
from stt.ui.live_stage import live_stage
from stt.ui.menu import model_menu
from stt.ui.player import player
from stt.ui.request import PAGE
from stt.ui.start import start_marker

TITLE = "What happens next?"
WELCOME = (
    f"<header><h1>{TITLE}</h1><p>A model watches a short clip and imagines how it goes on, several times.</p></header>"
)
Controls = dict[str, Any]  # components, whose events gradio adds at run time
CLICKS = """// events: "hold" and, in its turn, "example"; "model"
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-event]");
  if (!button) return;
  const act = () => trigger(button.dataset.event, { ...button.dataset });
  if (button.dataset.event !== "example") return act();
  trigger("hold");
  window.sttTurns.take(act, true);
  window.dispatchEvent(new CustomEvent("stt-example"));
});"""
# a verdict that a prediction has cut short
AGAIN = """
for (const name of ["stt-done", "stt-end"]) window.addEventListener(name, () => {
  if (!element.innerText.trim() || element.innerText.includes("…")) trigger("input");
});"""
# what the page's model knows, at once
KNOWS = """
const show = () => {
  for (const text of element.querySelectorAll(".knows")) text.hidden = text.dataset.of !== props.value;
  window.dispatchEvent(new CustomEvent("stt-model", { detail: props.value }));
};
watch("value", show);
show();"""
CLOSE = "element.addEventListener('click', (event) => event.target.closest('button') && element.replaceChildren());"


@dataclass(frozen=True)
class Page:
    notice: gr.HTML  # what the page could not take from its address
    controls: Controls  # by the names of the endpoint's arguments
    menu: gr.HTML  # of models; the choice is the control "model"
    knows: gr.HTML  # what the model knows; its value is the model's name
    verdict: gr.HTML  # whether it knows such clips as the one on the page
    answer: gr.HTML  # the latest verdict, perhaps of an earlier clip or model
    new_seed: gr.Checkbox
    start: gr.HTML
    labels: list[gr.Dropdown]  # one per place; together they are the control "labels"
    steer: gr.Checkbox
    axes: list[gr.Slider]  # one per number of an action; together they are the control "action"
    predict: gr.Button
    stop: gr.Button
    play: gr.Button
    player: gr.HTML
    examples: gr.HTML
    gap: gr.JSON  # the length that the visitor has given a gap, and when
    pending: gr.State  # settings that wait for the clip that they belong to
    memory: gr.BrowserState

    @property
    def settings(self) -> list[Any]:
        """In the order of the endpoint's arguments."""
        return [self.controls[name] for name in ARGUMENTS]


def lay_out(models: Mapping[str, Predictor], examples: Sequence[Example], first: Result | None) -> Page:
    """Builds the page inside a `gr.Blocks`. first: what the page opens with."""
    name, default = next(iter(models.items()))
    random = is_stochastic(default)
    choices = model_choices(models, examples)
    gr.HTML(WELCOME)
    notice = gr.HTML("", js_on_load=CLOSE, apply_default_css=False, elem_id="notice")
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=0, min_width=320, elem_id="controls"):
            clip = clip_box()
            with gr.Row(elem_id="go"):  # what a visitor can start
                predict = gr.Button(
                    "Predict", variant="primary", interactive=False, elem_id="predict", scale=4, min_width=80
                )  # until the page has opened
                stop = gr.Button("Stop", interactive=False, elem_id="stop", scale=3, min_width=60)
                play = gr.Button("Play live", elem_id="play", scale=4, min_width=60)
            with gr.Column(elem_id="model"):
                menu = model_menu(choices, name)
                texts = "".join(knows_text(one, models, examples) for one in models)
                knows = _clickable(name, "knows", KNOWS, html_template=texts)
            with gr.Row(elem_id="amount"):
                futures = _slider("futures", 1, PAGE.futures, 1, "Futures", visible=random, elem_id="future-count")
                frames = _slider("frames", 1, PAGE.frames, 1, "Frames")
            verdict = _clickable("", "verdict", AGAIN)  # below what it must not move
            gallery_ = gallery(models, examples)  # above what opens, so that they stay in place
            with gr.Accordion("Advanced", open=False, elem_id="advanced"):
                start = start_marker()
                labels = _labels(models)
                steer, axes = _action(models)
                between = gr.Checkbox(
                    False, label="Fill a gap", info="Predict frames inside the clip", elem_id="between",
                    visible=isinstance(default, Interpolates),
                )  # fmt: skip
                with gr.Row(elem_id="chance"):
                    seed = gr.Number(
                        None, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, visible=random, min_width=100,
                        elem_id="seed", placeholder="random",
                    )  # fmt: skip
                    new_seed = gr.Checkbox(True, label="⚂ New each time", elem_id="dice", visible=random, min_width=100)
                temperature = _slider("temperature", 0, PAGE.temperature, 0.05, "Temperature", visible=random)
                controls = _rare(default)
        with gr.Column(scale=1, min_width=320, elem_id="futures"):
            stage = player(first, {name: len(rivals(name, models, examples)) for name in models})
    live_stage()
    model = gr.Dropdown(choices, value=name, label="Name of the model", visible="hidden")
    controls |= {
        "clip": clip, "model": model, "futures": futures, "frames": frames, "between": between, "seed": seed,
        "temperature": temperature, "labels": gr.JSON([], visible="hidden", elem_id="labels"),
        "prompt_frames": gr.Number(DEFAULTS["prompt_frames"], visible="hidden", elem_id="prompt-frames"),
        "action": gr.JSON([], visible="hidden", elem_id="action"),
    }  # fmt: skip
    return Page(
        notice=notice, controls=controls, menu=menu, knows=knows, verdict=verdict,
        answer=gr.HTML(None, html_template="", visible="hidden"), new_seed=new_seed, start=start, labels=labels,
        steer=steer, axes=axes, predict=predict, stop=stop, play=play, player=stage, examples=gallery_,
        gap=gr.JSON(None, visible="hidden"), pending=gr.State({}),
        memory=gr.BrowserState({}, storage_key="stt-settings", secret="stt"),
    )  # fmt: skip


def _clickable(value: str, name: str, script: str = "", **more: Any) -> gr.HTML:
    """Text whose buttons are events: <button data-event="NAME">."""
    return gr.HTML(value, js_on_load=CLICKS + script, apply_default_css=False, elem_id=name, **more)


def _slider(name: str, low: float, high: float, step: float, label: str, **more: Any) -> gr.Slider:
    """At the default of the setting called `name`; on one line unless it stands in a row."""
    return gr.Slider(
        low, high, DEFAULTS[name], step=step, label=label, buttons=[], min_width=120, elem_classes="line", **more
    )  # fmt: skip


def _labels(models: Mapping[str, Predictor]) -> list[gr.Dropdown]:
    default = next(iter(models.values()))
    with gr.Row(elem_id="imagine"):
        return [
            gr.Dropdown(
                label="and" if place else "Imagine",
                filterable=False,
                min_width=80,
                **label_dropdown(default, [], place),
            )
            for place in range(max(label_space(model)[1] for model in models.values()))
        ]


def _action(models: Mapping[str, Predictor]) -> tuple[gr.Checkbox, list[gr.Slider]]:
    default = next(iter(models.values()))
    with gr.Column(elem_id="steering"):
        steer = gr.Checkbox(
            False, label="Steer", info=steer_info(default), visible=bool(action_axes(default)), elem_id="steer",
        )  # fmt: skip
        axes = [
            gr.Slider(
                -1, 1, 0, step=0.1, buttons=[], elem_classes=["line", "axis"], **action_slider(default, False, place)
            )
            for place in range(max(len(action_axes(model)) for model in models.values()))
        ]
    return steer, axes


def _rare(model: Predictor) -> Controls:
    top_k = _slider("top_k", 0, PAGE.top_k, 1, "Top-k (0: all)", visible="top_k" in model.knobs)
    top_p = _slider("top_p", 0.01, 1, 0.01, "Top-p (1: all)", visible="top_p" in model.knobs)
    stride = _slider("stride", 0, PAGE.stride, 1, "Stride (0: auto)")
    fps = _slider("fps", 0, PAGE.fps, 1, "Frames/s (0: auto)")
    fit = gr.Radio(
        [("Automatic", "auto"), ("Cut to a square", "crop"), ("Square with black bars", "pad")],
        value=DEFAULTS["fit"], label="Clips that are not square", info=fit_info(model),
    )  # fmt: skip
    return {"top_k": top_k, "top_p": top_p, "stride": stride, "fps": fps, "fit": fit}
