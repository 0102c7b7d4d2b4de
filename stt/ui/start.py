"""The start of the future: a marker on the clip's own timeline. The browser's side is start.js."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from stt.encode import shrink
from stt.prompt import Prompt, latest_start
from stt.request import Request
from stt.ui.player import strip
from stt.video import to_uint8

PICTURES = 10  # in the timeline, of square frames
PICTURE_SIDE = 96  # pixels
TEMPLATE = """<div class="start"><p><b>Start of the future</b> <output></output></p>
<div class="film"><img alt=""><span class="after"></span>
<input type="range" aria-label="Start of the future"></div></div>"""


def start_marker() -> gr.HTML:
    """Event: move, with "start", the number of frames before the future; 0 for all of them."""
    script = Path(__file__).with_suffix(".js").read_text()
    return gr.HTML(
        None, html_template=TEMPLATE, js_on_load=script, apply_default_css=False, elem_id="start", visible="hidden"
    )


def start_value(prompt: Prompt, request: Request) -> dict[str, Any]:
    frames = prompt.clip.video
    height, width = frames.shape[-2:]
    count = min(max(round(PICTURES * height / width), 2), 3 * PICTURES, len(frames))
    at = np.linspace(0, len(frames) - 1, count).round()
    pictures = shrink(to_uint8(frames[at.astype(int)]), PICTURE_SIDE)
    last = latest_start(request, len(frames))
    return gr.update(
        value={
            "strip": strip(pictures[None]), "count": len(frames), "start": prompt.start,
            "last": last, "gap": request.frames if request.between else 0,
        },
        visible=True if last > 1 else "hidden",
    )  # fmt: skip
