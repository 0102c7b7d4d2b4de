"""The player: clip and futures in step on canvases, with a timeline, overlays, curves and this visit's results.

The page's side is player.js; what travels there is `shown_progress` or `shown_run`, one JSON value.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image

from stt.metrics import spread
from stt.prediction import Progress, Prompt, acted, imagined, stochastic
from stt.request import Request, called, spoken
from stt.results import Result
from stt.side_by_side import Frame
from stt.video import to_uint8

SCRIPT = Path(__file__).with_name("player.js")


def player() -> gr.HTML:
    """Shows one result at a time; events: extend, restore, dropped."""
    return gr.HTML(
        {"state": "empty"}, html_template='<div class="player"></div>', apply_default_css=False,
        js_on_load=SCRIPT.read_text(), elem_id="player",
    )  # fmt: skip


def shown_prompt(prompt: Prompt, request: Request) -> dict[str, Any]:
    """A chosen clip before anything is predicted."""
    return {
        "state": "ready",
        "key": _key(request.settings() | {"prompt_frames": prompt.start}, prompt.sha256),
        "fps": round(prompt.fps, 3),
        "size": prompt.pixels.shape[1],
        "given": len(prompt.pixels),
        "frames": request.frames,
        "names": ["?"] * request.futures,
        "prompt": strip(prompt.pixels[None]),
        "truth": strip(to_uint8(prompt.after[: request.frames])[None]),
        "truth_frames": min(len(prompt.after), request.frames),
        "between": request.between,
        "ending": strip(to_uint8(prompt.ending)[None]),
        "ending_frames": len(prompt.ending),
        "strips": [],
        "status": "Press Predict",
    }


def shown_progress(before: dict[str, Any] | None, progress: Progress, name: str) -> dict[str, Any]:
    """What has been predicted so far. before: what was shown last, whose strips need not travel again."""
    request, model = progress.request, progress.model
    base = before or shown_prompt(progress.prompt, request) | {
        "state": "running",
        "id": name,
        "names": progress.names,
        "detail": _detail(request.settings(), stochastic(model), imagined(request, model)),
        "action": spoken(acted(request, model)),
        "imagined": imagined(request, model),
        "settings": request.settings(),
    }
    shown = sum(part["frames"] for part in base["strips"])
    new = progress.frames[shown:]
    strips = base["strips"]
    if new:
        futures = np.stack([to_uint8(frame) for frame in new], axis=1)  # (F, t, H, W, 3)
        strips = [*strips, {"frames": len(new), "src": strip(futures)}]
    return base | {"strips": strips, "status": progress.text()}


def shown_run(run: Result, before: dict[str, Any] | None = None, precomputed: bool = False) -> dict[str, Any]:
    """A whole result. before: its own progress, if the page saw it grow."""
    report, frames = run.report, run.futures.shape[1]
    return {
        "state": "done",
        "id": report["id"],
        "key": _key(report["settings"], report["clip"]["sha256"]),
        "fps": run.fps,
        "size": run.given.shape[1],
        "given": len(run.given),
        "frames": frames,
        "names": report["names"],
        "detail": _detail(report["settings"], report["stochastic"], report["imagined"]),
        "action": spoken(report["action"]),
        "imagined": report["imagined"],
        "settings": report["settings"],
        "prompt": strip(run.given[None]),
        "truth": strip(run.truth[None]),
        "truth_frames": len(run.truth),
        "between": report["between"],
        "ending": strip(run.ending[None]),
        "ending_frames": len(run.ending),
        "strips": before["strips"] if before else [{"frames": frames, "src": strip(run.futures)}],
        "spread": strip(spread_map(run.futures)[None]) if len(run.futures) > 1 else "",
        "surprise": strip(heat(run.surprise)[None]) if len(run.surprise) else "",
        "report": {name: report[name] for name in ("spread", "scores", "surprise", "notes", "clip", "weights")},
        "facts": facts(report, precomputed),
        "status": "Computed beforehand" if precomputed else "",
        "precomputed": precomputed,
    }


def _key(settings: dict[str, Any], sha256: str) -> str:
    """Equal for results of the same prompt by the same model."""
    gap = ("between", "frames") if settings["between"] else ()
    return " ".join(str(settings[name]) for name in ("model", "prompt_frames", "stride", "fit", *gap)) + " " + sha256


def _detail(settings: dict[str, Any], stochastic: bool, imagined: bool) -> str:
    """What tells futures of one name apart when they play beside each other."""
    detail = f"temp {settings['temperature']:g}" if stochastic else settings["model"]
    return f"{called(settings['labels'])} · {detail}" if imagined else detail


def facts(report: dict[str, Any], precomputed: bool) -> list[str]:
    settings, frames = report["settings"], report["predicted_frames"]
    futures = f"{settings['futures']} future{'s' * (settings['futures'] > 1)}"
    first, total = report["first_frame_seconds"], report["total_seconds"]
    return [
        settings["model"] + (f" at temperature {settings['temperature']:g}" if report["stochastic"] else ""),
        f"{frames} frames of {called(settings['labels'])}, imagined from nothing" if report["imagined"]
        else f"{report['used_frames']} frames before, {report['ending_frames']} after, {frames} filled in"
        if report["between"]
        else f"{report['used_frames']} frames of the clip, then {frames} predicted"
        + (f" under {spoken(report['action'])}" if report["action"] else ""),
        "computed beforehand" if precomputed
        else f"first frame after {first:.1f} s, {futures} × {frames} frames in {total:.1f} s",
    ]  # fmt: skip


def spread_map(futures: Frame) -> Frame:
    """(F, T, H, W, 3) -> (T, H, W, 3): white where half of the futures are black and half are white."""
    disagreement = 2 * spread(torch.from_numpy(futures).movedim(-1, 2) / 127.5 - 1).numpy()  # 0 ... 1
    return np.repeat((255 * disagreement).round().astype(np.uint8)[..., None], 3, axis=-1)


def heat(surprise: np.ndarray) -> Frame:
    """(S, h, w) bits -> (S + 1, h, w, 3): white where the clip surprises most, black in nine of ten places.

    Of the first frame nothing is known. A clip without any shock stays faint: white is three times its black.
    """
    usual = float(np.quantile(surprise[1:] if len(surprise) > 1 else surprise, 0.9))
    scale = max(float(surprise.max()) - usual, 2 * usual, 1e-9)
    pixels = (255 * ((surprise - usual) / scale).clip(0, 1)).round().astype(np.uint8)
    pixels = np.concatenate([np.zeros_like(pixels[:1]), pixels])
    return np.repeat(pixels[..., None], 3, axis=-1)


def strip(frames: Frame) -> str:
    """(F, T, H, W, 3) -> one picture as a data URI, futures below each other and time to the right; "" for none."""
    if not frames.size:
        return ""
    rows, columns, height, width, _ = frames.shape
    sheet = frames.swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    gray = np.array_equal(sheet[..., 0], sheet[..., 1]) and np.array_equal(sheet[..., 0], sheet[..., 2])
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if gray else sheet).save(file, "PNG", compress_level=4)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
