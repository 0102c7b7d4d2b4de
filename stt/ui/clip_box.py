"""The clip: a file dialog, a place for dropped files, and a preview. It goes by the endings of names, in any case.

The browser's side is clip_box.js. The value is a path, or {"path", "preview"}, where the preview is an mp4 that the app
made of the decoded frames of a clip that the browser cannot play. No program but the hardened decoder opens a clip.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from stt.encode import write_mp4
from stt.ui.errors import user_error
from stt.video import LIMITS, UPLOAD_ENDINGS, read_clip, to_uint8

ACCEPT = ",".join(("video/*", *UPLOAD_ENDINGS))  # phones know their videos by kind, computers by ending
TEMPLATE = f"""<div class="clip-box">
<video autoplay loop muted playsinline hidden></video>
<label><span><b>Upload a clip</b><br>or drop it here</span>
<input type="file" accept="{ACCEPT}" aria-label="Clip"></label>
<p role="status"></p>
<button type="button" class="clear" aria-label="Remove the clip" title="Remove the clip" hidden>×</button>
</div>"""
PREVIEW_SIDE, PREVIEW_FPS, PREVIEW_FRAMES = 192, 10, 200  # pixels, frames per second, frames


def clip_box() -> gr.HTML:
    """Events: new_clip, also when the clip is removed; unplayable; hold and release, of Predict during an upload."""
    script = Path(__file__).with_suffix(".js").read_text()
    box = gr.HTML(
        None, html_template=TEMPLATE, apply_default_css=False, js_on_load=script, elem_id="clip", container=True,
        min_width=150, limit=LIMITS.file_bytes,
    )  # fmt: skip
    return refuse_links(box)


def refuse_links(component: Any) -> Any:
    """Refuses web addresses, which a client may send instead of a file: Gradio would download them."""
    move = component.async_move_resource_to_block_cache

    async def move_files_only(path: Any) -> Any:
        if "://" in str(path):
            raise user_error("The clip must be an uploaded file, not a link.")
        return await move(path)

    component.async_move_resource_to_block_cache = move_files_only
    return component


def write_preview(clip: Path, folder: Path) -> Path:
    """An mp4 of a clip's decoded frames, in a new folder inside `folder`. Raises `stt.video.VideoError`."""
    decoded = read_clip(
        clip, size=PREVIEW_SIDE, channels=3, fit="pad", fps=PREVIEW_FPS, max_frames=PREVIEW_FRAMES
    )  # fmt: skip
    path = Path(tempfile.mkdtemp(dir=folder)) / "preview.mp4"
    write_mp4(path, to_uint8(decoded.video), decoded.fps)
    return path
