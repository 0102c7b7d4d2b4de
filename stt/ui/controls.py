"""How the controls follow the model: which are visible, what they are called, which values survive a change."""

from __future__ import annotations

from typing import Any

import gradio as gr

from stt.api import WHOLE_SIZE, Interpolates, Predictor
from stt.request import action_axes, has_chance, is_stochastic, label_space

CONTINUE = ("continue the clip", "")  # the first choice for labels
ANY = ("any digit", -1)


def sampling_updates(model: Predictor) -> list[Any]:
    """Of seed, new seed, temperature, top-k and top-p."""
    random = gr.update(visible=is_stochastic(model))
    filters = [gr.update(visible=name in model.knobs) for name in ("top_k", "top_p")]
    return [random, random, random, *filters]


def futures_update(model: Predictor, action: list[float], temperature: float) -> Any:
    """Of the number of futures, which is 1 where nothing is left to chance."""
    steered = action if action_axes(model) else []
    return gr.update(visible=has_chance(model, steered, temperature))


# ---- labels ----------------------------------------------------------------------------------------------


def label_updates(model: Predictor, labels: list[int], places: int) -> list[Any]:
    """Of the labels, without those that the model lacks, and of one dropdown per place."""
    classes, most = label_space(model)
    possible = [label for label in labels if label < classes][:most] if classes else labels
    dropdowns = [gr.update(**label_dropdown(model, possible, place)) for place in range(places)]
    return [gr.skip() if possible == labels else possible, *dropdowns]


def label_dropdown(model: Predictor, labels: list[int], place: int) -> dict[str, Any]:
    """The places after the first are visible once the first has a label."""
    classes, most = label_space(model)
    digits = [ANY, *((str(label), label) for label in range(classes))]
    return {
        "choices": digits if place else [CONTINUE, *digits],
        "value": labels[place] if place < min(len(labels), most) else -1 if place else "",
        "visible": place < most and (place == 0 or bool(labels)),
    }


# ---- actions ---------------------------------------------------------------------------------------------


def action_updates(model: Predictor, action: list[float], places: int) -> list[Any]:
    """Of the action, which is cleared if its length does not fit, its checkbox, and one slider per place."""
    count = len(action_axes(model))
    fits = not count or len(action) in (0, count)
    sliders = [
        action_slider(model, bool(action) and fits, place) | ({} if fits else {"value": 0}) for place in range(places)
    ]
    steer = gr.update(visible=count > 0, info=steer_info(model))
    return [gr.skip() if fits else [], steer, *(gr.update(**slider) for slider in sliders)]


def steer_info(model: Predictor) -> str:
    text = "What the robot or the pusher does: 1 is full speed in the direction named, −1 in the opposite one"
    return text + "; then nothing is left to chance, so there is one future" * model.random_actions_only


def action_slider(model: Predictor, steered: bool, place: int) -> dict[str, Any]:
    axes = action_axes(model)
    name = axes[place] if place < len(axes) else ""
    return {"label": name[:1].upper() + name[1:], "visible": steered and bool(name)}


# ---- frames --------------------------------------------------------------------------------------------


def fit_info(model: Predictor) -> str:
    """What the choice "auto" does with a clip."""
    if model.whole_frames:
        return f"This model takes whole frames, up to {WHOLE_SIZE} pixels: automatic keeps the clip's shape."
    return "This model takes squares: automatic cuts out the centre."


# ---- gaps ------------------------------------------------------------------------------------------------


def gap_updates(model: Predictor, between: bool) -> list[Any]:
    """Of the checkbox for gaps and of frames."""
    gap = between and isinstance(model, Interpolates)
    return [gr.update(visible=isinstance(model, Interpolates)), gr.update(label="Gap length" if gap else "Frames")]
