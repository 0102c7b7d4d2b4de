"""The example clips: which model each shows, grouped by the world that the model knows.

Nothing lists them. A clip is an example of the models whose result of it ships with the app, and a model's card names
its world.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from stt.api import Predictor
from stt.encode import shrink
from stt.model_card import about, frame_rate
from stt.prompt import file_hash
from stt.results import ShippedResult
from stt.ui.player import strip

PICTURE_SIDE = 128  # pixels
EXPERIMENTAL = "Experimental"  # the group of models without an example


@dataclass(frozen=True)
class Example:
    clip: Path
    results: dict[str, str]  # name of a model -> id of its result of this clip, the model shown first
    world: str
    picture: str  # a data URI

    @property
    def model(self) -> str:
        return next(iter(self.results))

    @property
    def caption(self) -> str:
        words = self.clip.stem.replace("-", " ")
        return words[:1].upper() + words[1:]


def find_examples(
    clips: Sequence[Path], models: Mapping[str, Predictor], results: Mapping[str, ShippedResult]
) -> list[Example]:
    """The clips that a model knows, in the order of the models."""
    names = {model.weights_hash: name for name, model in models.items()}
    examples = []
    for clip in clips:
        sha256 = file_hash(clip)
        ids = {
            names[result.report["weights"]]: key
            for key, result in results.items()
            if result.report["clip"]["sha256"] == sha256 and result.report["weights"] in names
        }
        if ids:
            ordered = {name: ids[name] for name in models if name in ids}
            model = next(iter(ordered))
            frame = shrink(results[ordered[model]].last_frame[None], PICTURE_SIDE)
            world = about(models[model].card).world or model
            examples.append(Example(clip, ordered, world, strip(frame[None])))
    best = {name: about(model.card).example for name, model in models.items()}
    return sorted(examples, key=lambda one: (list(models).index(one.model), one.clip.stem != best[one.model]))


def world_of(name: str, models: Mapping[str, Predictor], examples: Sequence[Example]) -> str:
    """The group in which the page lists a model."""
    shown = any(name in example.results for example in examples)
    return (about(models[name].card).world or name) if shown else EXPERIMENTAL


def rivals(name: str, models: Mapping[str, Predictor], examples: Sequence[Example]) -> list[str]:
    """All models that know its world, this one first: those of the world, then those that take any clip as fast."""
    worlds = {other: world_of(other, models, examples) for other in models}
    if worlds[name] == EXPERIMENTAL:
        return [name]
    others = [other for other in models if other != name and worlds[other] == worlds[name]]
    rates = {frame_rate(models[name].card), None}
    others += [
        other
        for other, model in models.items()
        if other not in [name, *others] and model.whole_frames and frame_rate(model.card) in rates
    ]
    return [name, *others]


# ---- on the page -----------------------------------------------------------------------------------------

SCRIPT = Path(__file__).with_name("examples.js").read_text()


def gallery(models: Mapping[str, Predictor], examples: Sequence[Example]) -> gr.HTML:
    """A tab for every world. Events: hold and choose, with the number of an example; model, with a name."""
    groups: dict[str, list[str]] = {}
    for number, one in enumerate(examples):
        groups.setdefault(one.world, []).append(
            f'<button type="button" class="example" data-number="{number}" data-clip="{escape(one.clip.stem)}" '
            f'data-models="{escape(json.dumps(list(one.results)))}" '
            f'title="{escape(one.caption)}, for {escape(one.model)}"><img src="{one.picture}" alt="">'
            f"<span>{escape(one.caption)}</span></button>"
        )
    for name, model in models.items():
        if world_of(name, models, examples) == EXPERIMENTAL:
            groups.setdefault(EXPERIMENTAL, []).append(
                f'<button type="button" class="model" data-model="{escape(name)}" '
                f'data-models="{escape(json.dumps([name]))}"><b>{escape(name)}</b> '
                f"{escape(about(model.card).knows)} <u>Use it</u></button>"
            )
    if not examples:
        groups = {}
    tabs = "".join(
        f'<button type="button" role="tab" id="tab-{k}" aria-controls="group-{k}">{escape(world)}</button>'
        for k, world in enumerate(groups)
    )
    panels = "".join(
        f'<div role="tabpanel" id="group-{k}" aria-labelledby="tab-{k}" class="group">{"".join(items)}</div>'
        for k, items in enumerate(groups.values())
    )
    html = f'<div class="tabs" role="tablist" aria-label="Examples">{tabs}</div>{panels}'
    return gr.HTML(html, js_on_load=SCRIPT, apply_default_css=False, elem_id="examples", visible=bool(groups))


def best_example(name: str, models: Mapping[str, Predictor], examples: Sequence[Example]) -> int | None:
    """The number of the example that shows a model best, if one shows it."""
    own = [number for number, one in enumerate(examples) if name in one.results]
    best = about(models[name].card).example
    return min(own, key=lambda number: examples[number].clip.stem != best, default=None)


def knows_text(name: str, models: Mapping[str, Predictor], examples: Sequence[Example]) -> str:
    """What a model knows, as HTML: a picture, a sentence, and its first example."""
    text, number = escape(about(models[name].card).knows), best_example(name, models, examples)
    start = f'<p class="knows" data-of="{escape(name)}" hidden>'
    if number is None:
        return f"{start}<span>{text} <em>Experimental: no example shows it well.</em></span></p>"
    return (
        f'{start}<img src="{examples[number].picture}" alt=""><span>{text} '
        f'<button type="button" data-event="example" data-number="{number}" data-model="{escape(name)}">'
        "Show an example</button></span></p>"
    )


def model_choices(models: Mapping[str, Predictor], examples: Sequence[Example]) -> list[tuple[str, str]]:
    """(label, name) of each model, grouped by world."""
    worlds = {name: world_of(name, models, examples) for name in models}
    order = [*dict.fromkeys(worlds.values())]
    order.sort(key=EXPERIMENTAL.__eq__)
    return [(f"{world} · {name}", name) for world in order for name in models if worlds[name] == world]


def describe(name: str, models: Mapping[str, Predictor], examples: Sequence[Example]) -> dict[str, Any]:
    """The same for programs."""
    own = [one.clip.stem for one in examples if name in one.results]
    return {
        "world": world_of(name, models, examples), "knows": about(models[name].card).knows, "examples": own,
    }  # fmt: skip
