"""The page: what stands where, and which button calls what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from stt.api import MAX_SEED
from stt.ui.callbacks import EMPTY_STAGE, Callbacks, sentence
from stt.ui.request import MAX_FRAMES, MAX_FUTURES, MAX_TEMPERATURE

TITLE = "What happens next?"
WELCOME = f"""
<header><h1>{TITLE}</h1>
<p>Pick a short clip. A model watches it and continues it several times: one future per seed.</p></header>
"""


@dataclass(frozen=True)
class Page:
    clip: gr.Video
    model: gr.Dropdown
    frames: gr.Slider
    temperature: gr.Slider
    seed: gr.Number
    fresh: gr.Checkbox
    futures: gr.Slider
    predict: gr.Button
    stop: gr.Button
    stage: gr.HTML
    result: gr.Video
    gallery: gr.Gallery
    report: gr.HTML
    details: gr.JSON  # the report as clients get it
    examples: gr.Dataset

    @property
    def settings(self) -> list[gr.components.Component]:
        """In the order of the endpoint's arguments."""
        return [self.clip, self.model, self.frames, self.temperature, self.seed, self.futures]

    @property
    def shown(self) -> list[gr.components.Component]:
        return [self.stage, self.result, self.gallery, self.seed, self.report]


def build(callbacks: Callbacks, examples: Sequence[Path]) -> gr.Blocks:
    with gr.Blocks(title=TITLE, fill_width=True, delete_cache=(600, 3600), analytics_enabled=False) as app:
        gr.HTML(WELCOME)
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=0, min_width=368, elem_id="controls"):
                with gr.Row(elem_id="source"):
                    clip, strip = _clip(examples)
                settings = _settings(callbacks)
                with gr.Row(elem_id="go"):
                    predict = gr.Button("Predict", variant="primary", elem_id="predict", scale=2)
                    stop = gr.Button("Stop", interactive=False, elem_id="stop", scale=1)
            with gr.Column(scale=1, min_width=320, elem_id="futures"):
                shown = _results()
        details = gr.JSON(visible=False, label="report")
        page = Page(
            clip=clip, examples=strip, predict=predict, stop=stop, details=details, **settings, **shown
        )  # fmt: skip
        _wire(page, callbacks, examples)
    return app


def _clip(examples: Sequence[Path]) -> tuple[gr.Video, gr.Dataset]:
    clip = gr.Video(
        label="Clip", sources=["upload"], height=196, autoplay=True, loop=True, buttons=[], elem_id="clip",
        elem_classes="pixels", min_width=150, scale=1,
    )  # fmt: skip
    strip = gr.Dataset(
        components=[gr.Video(visible=False)], samples=[[str(path)] for path in examples], type="index",
        label="or an example", samples_per_page=9, elem_id="examples", visible=bool(examples), min_width=150,
        scale=1,
    )  # fmt: skip
    _refuse_links(clip)
    return clip, strip


def _refuse_links(clip: gr.Video) -> None:
    """Clients may name a web address instead of a file; Gradio would fetch whatever it holds, of any size."""
    move = clip.async_move_resource_to_block_cache

    async def move_files_only(path: str | Path | None) -> str | None:
        if "://" in str(path):
            raise sentence("The clip must be an uploaded file, not a link.")
        return await move(path)

    clip.async_move_resource_to_block_cache = move_files_only


def _settings(callbacks: Callbacks) -> dict[str, gr.components.Component]:
    names = list(callbacks.models)
    with gr.Row():
        futures = gr.Slider(1, MAX_FUTURES, 4, step=1, label="Futures", info="One per seed", buttons=[])
        frames = gr.Slider(1, MAX_FRAMES, 10, step=1, label="Frames", info="To predict", buttons=[])
    with gr.Row():
        temperature = gr.Slider(
            0, MAX_TEMPERATURE, 1.0, step=0.05, label="Temperature", info="Higher is wilder", buttons=[]
        )
        model = gr.Dropdown(names, value=names[0], label="Model", info="Who predicts", filterable=False)
    with gr.Row(elem_id="seeds"):
        seed = gr.Number(None, label="Seed", info="Same seed, same future", precision=0, minimum=0, maximum=MAX_SEED)
        fresh = gr.Checkbox(True, label="New seed every time", info="Untick to repeat one")
    return {
        "futures": futures, "frames": frames, "temperature": temperature, "model": model, "seed": seed,
        "fresh": fresh,
    }  # fmt: skip


def _results() -> dict[str, gr.components.Component]:
    stage = gr.HTML(EMPTY_STAGE, elem_id="stage")
    result = gr.Video(
        label="Clip and futures", show_label=False, interactive=False, autoplay=True, loop=True,
        visible=False, buttons=["download"], elem_id="result", elem_classes="pixels",
    )  # fmt: skip
    report = gr.HTML("", elem_id="report")
    gallery = gr.Gallery(
        label="Each future by itself", show_label=False, interactive=False, visible=False,
        height=150, object_fit="contain", fit_columns=False, buttons=["download"], elem_id="gallery",
        elem_classes="pixels",
    )  # fmt: skip
    return {"stage": stage, "result": result, "report": report, "gallery": gallery}


def _wire(page: Page, callbacks: Callbacks, examples: Sequence[Path]) -> None:
    private = {"api_visibility": "private", "show_progress": "hidden"}
    page.examples.click(lambda k: str(examples[k]), page.examples, page.clip, queue=False, **private)
    look = gr.on(
        [page.clip.change, page.model.change], callbacks.look,
        [page.clip, page.model, page.frames, page.futures], page.shown, preprocess=False,
        concurrency_id="look", concurrency_limit=2, **private,
    )  # fmt: skip

    buttons = [page.predict, page.stop]
    started = page.predict.click(
        lambda: (*_buttons(running=True), "<p>Waiting for the model ...</p>"), None, [*buttons, page.report],
        queue=False, cancels=[look], **private,
    )  # fmt: skip
    run = started.then(
        callbacks.watch, [*page.settings, page.fresh], page.shown, preprocess=False, concurrency_id="gpu",
        concurrency_limit=1, **private,
    )  # fmt: skip
    run.success(lambda: _buttons(running=False), None, buttons, queue=False, **private)
    emptied = [*buttons, page.report]
    run.failure(lambda: (*_buttons(running=False), ""), None, emptied, queue=False, **private)
    page.stop.click(None, cancels=[run])  # which counts as a failure of `run`

    gr.Button(visible=False).click(
        callbacks.predict, page.settings, [page.result, page.gallery, page.seed, page.details], preprocess=False,
        api_name="predict", concurrency_id="gpu", concurrency_limit=1,
    )  # fmt: skip


def _buttons(*, running: bool) -> tuple[Any, Any]:
    """Predict and Stop: one of them can be pressed."""
    return gr.update(interactive=not running), gr.update(interactive=running)
