"""The page's layout: which control stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from stt.api import MAX_SEED, Interpolates, Predictor
from stt.request import action_axes, is_stochastic, label_space
from stt.ui.backend import ARGUMENTS
from stt.ui.clip_box import clip_box
from stt.ui.controls import PRESETS, action_slider, gap_updates, label_dropdown, stride_info
from stt.ui.live_stage import live_stage
from stt.ui.player import player
from stt.ui.request import PAGE

TITLE = "What happens next?"
WELCOME = f"""
<header><h1>{TITLE}</h1>
<p>Pick a short clip. A model watches it and continues it several times: one future per seed.</p></header>
"""
Controls = dict[str, Any]  # components, whose events gradio adds at run time


@dataclass(frozen=True)
class Page:
    controls: Controls  # by the names of the endpoint's arguments
    new_seed: gr.Checkbox
    dice: gr.Button
    presets: gr.Radio
    labels: list[gr.Dropdown]  # one per place; together they are the control "labels"
    steer: gr.Checkbox
    axes: list[gr.Slider]  # one per number of an action; together they are the control "action"
    predict: gr.Button
    stop: gr.Button
    play: gr.Button
    random_example: gr.Button
    player: gr.HTML
    examples: gr.Dataset
    pending: gr.State  # settings that wait for the clip that they belong to
    memory: gr.BrowserState

    @property
    def settings(self) -> list[Any]:
        """In the order of the endpoint's arguments."""
        return [self.controls[name] for name in ARGUMENTS]


def lay_out(models: Mapping[str, Predictor], examples: Sequence[Path]) -> Page:
    """Builds the page inside a `gr.Blocks`."""
    default = next(iter(models.values()))
    gr.HTML(WELCOME)
    with gr.Row(elem_id="columns"):
        with gr.Column(scale=0, min_width=368, elem_id="controls"):
            with gr.Row(elem_id="source"):
                clip = clip_box()
                with gr.Column(min_width=150, elem_id="choice"):
                    strip = _examples(examples)
                    random_example = gr.Button("Random example", size="sm", elem_id="any", visible=bool(examples))
            controls, presets = _sampling(models)
            between = gr.Checkbox(
                False, label="Fill a gap", info="Predict frames inside the clip", elem_id="between",
                visible=isinstance(default, Interpolates),
            )  # fmt: skip
            labels = _labels(models)
            steer, axes = _action(models)
            seed, new_seed, dice = _seed()
            with gr.Row(elem_id="go"):
                predict = gr.Button("Predict", variant="primary", elem_id="predict", scale=2)
                stop = gr.Button("Stop", interactive=False, elem_id="stop", scale=1)
                play = gr.Button("Play", elem_id="play", scale=1, min_width=60)
            controls |= {
                "clip": clip, "between": between, "seed": seed,
                "labels": gr.JSON([], visible="hidden", elem_id="labels"),
                "action": gr.JSON([], visible="hidden", elem_id="action"),
            }  # fmt: skip
            controls |= _advanced(default)
        with gr.Column(scale=1, min_width=320, elem_id="futures"):
            stage = player()
    live_stage()
    return Page(
        controls=controls, new_seed=new_seed, dice=dice, presets=presets, labels=labels, steer=steer, axes=axes,
        predict=predict, stop=stop, play=play, random_example=random_example, player=stage, examples=strip,
        pending=gr.State({}), memory=gr.BrowserState({}, storage_key="stt-settings", secret="stt"),
    )  # fmt: skip


def _examples(examples: Sequence[Path]) -> gr.Dataset:
    return gr.Dataset(
        components=[gr.Video(visible=False)], samples=[[str(path)] for path in examples], type="index",
        label="or an example", samples_per_page=16, elem_id="examples", visible=bool(examples), min_width=150,
    )  # fmt: skip


def _slider(low: float, high: float, value: float, step: float, label: str, info: str, **more) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, label=label, info=info, buttons=[], **more)


def _sampling(models: Mapping[str, Predictor]) -> tuple[Controls, gr.Radio]:
    names, default = list(models), next(iter(models.values()))
    random = is_stochastic(default)
    _, start, length = gap_updates(default, False)
    with gr.Row():
        futures = _slider(1, PAGE.futures, 4, 1, "Futures", "One per seed", visible=random)
        frames = _slider(1, PAGE.frames, 10, 1, length["label"], length["info"])
    with gr.Row():
        prompt_frames = _slider(1, 20, 1, 1, start["label"], start["info"], interactive=False)
        temperature = _slider(0, PAGE.temperature, 1.0, 0.05, "Temperature", "How varied", visible=random)
    with gr.Row():
        presets = gr.Radio(
            list(PRESETS), value="Medium", label="Variety", info="Sets the temperature", elem_id="presets",
            visible=random,
        )  # fmt: skip
        model = gr.Dropdown(names, value=names[0], label="Model", info="Makes the prediction", filterable=False)
    controls: Controls = {
        "futures": futures, "frames": frames, "prompt_frames": prompt_frames, "temperature": temperature,
        "model": model,
    }  # fmt: skip
    return controls, presets


def _labels(models: Mapping[str, Predictor]) -> list[gr.Dropdown]:
    default = next(iter(models.values()))
    with gr.Row(elem_id="imagine"):
        return [
            gr.Dropdown(
                label="and" if place else "Imagine", info=None if place else "Without the clip", filterable=False,
                **label_dropdown(default, [], place),
            )
            for place in range(max(label_space(model)[1] for model in models.values()))
        ]  # fmt: skip


def _action(models: Mapping[str, Predictor]) -> tuple[gr.Checkbox, list[gr.Slider]]:
    default = next(iter(models.values()))
    with gr.Column(elem_id="steering"):
        steer = gr.Checkbox(
            False, label="Steer", info="Otherwise the model chooses the actions", visible=bool(action_axes(default)),
            elem_id="steer",
        )  # fmt: skip
        axes = [
            gr.Slider(-1, 1, 0, step=0.1, buttons=[], elem_classes="axis", **action_slider(default, False, place))
            for place in range(max(len(action_axes(model)) for model in models.values()))
        ]
    return steer, axes


def _seed() -> tuple[gr.Number, gr.Checkbox, gr.Button]:
    with gr.Row(elem_id="seeds"):
        seed = gr.Number(None, label="Seed", info="Same seed, same future", precision=0, minimum=0, maximum=MAX_SEED)
        with gr.Column(min_width=100, elem_id="luck"):
            new_seed = gr.Checkbox(True, label="New every time", container=False)
            dice = gr.Button("Roll the dice", size="sm", elem_id="dice")
    return seed, new_seed, dice


def _advanced(model: Predictor) -> Controls:
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        with gr.Row():
            top_k = _slider(
                0, PAGE.top_k, 0, 1, "Top-k", "Sample from the k likeliest codes; 0: all",
                visible="top_k" in model.knobs,
            )  # fmt: skip
            top_p = _slider(
                0.01, 1, 1, 0.01, "Top-p", "Sample from codes up to this total probability",
                visible="top_p" in model.knobs,
            )  # fmt: skip
        with gr.Row():
            stride = _slider(0, PAGE.stride, 0, 1, "Stride", stride_info(model))
            fps = _slider(0, PAGE.fps, 0, 1, "Frames per second", "Playback speed; 0: the clip's own")
        fit = gr.Radio(
            [("As the model takes them", "auto"), ("Crop to a square", "crop"), ("Black bars", "pad")], value="auto",
            label="Clips that are not square", info="Most models take squares: they get the centre",
        )  # fmt: skip
    return {"top_k": top_k, "top_p": top_p, "stride": stride, "fps": fps, "fit": fit}
