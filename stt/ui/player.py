"""The player: clip and futures in step on canvases, with a timeline, overlays, curves and the results of this visit.

The browser's side is player*.js. Its value is one JSON object, made by `prompt_value`, `progress_value` or
`result_value`; a strip is a picture of frames, futures below each other and time to the right: PNG for small frames,
JPEG for large ones, each in a cell of whole JPEG blocks, so that no frame colours its neighbour.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import torch
from numpy.typing import NDArray

from stt.encode import JPEG_BLOCK, Pixels, is_lossless, jpeg, png
from stt.metrics import spread
from stt.prediction import Progress
from stt.prompt import Prompt
from stt.report import is_imagined, named_action
from stt.request import Request, describe_action, describe_labels, is_stochastic
from stt.results import Result
from stt.video import to_uint8

SCRIPTS = ("player_drawing.js", "player_charts.js", "player_visit.js", "player.js")
EMPTY = {"state": "empty"}
STRIP_WIDTH = 16_384  # pixels: phones draw no larger pictures
JPEG_QUALITY = 90


def player(first: Result | None, rivals: dict[str, int]) -> gr.HTML:
    """Shows one result at a time; events: extend, restore, compare.

    first: what the page opens with. rivals: how many models a comparison has.
    """
    script = "\n".join(Path(__file__).with_name(name).read_text() for name in SCRIPTS)
    value = result_value(first, precomputed=True) if first else EMPTY
    return gr.HTML(
        value, html_template='<div class="player"></div>', apply_default_css=False, js_on_load=script,
        elem_id="player", rivals=rivals,
    )  # fmt: skip


def prompt_value(prompt: Prompt, request: Request) -> dict[str, Any]:
    """A clip before the prediction."""
    return {
        "state": "ready",
        "key": _key(request.settings() | {"prompt_frames": prompt.start}, prompt.sha256),
        "fps": round(prompt.fps, 3),
        **sizes(prompt.pixels),
        "frames": request.frames,
        "names": [f"future {k}" for k in range(1, 1 + request.futures)],
        "model": request.model,
        "clip": Path(prompt.name).stem,
        "context": strip(prompt.pixels[None]),
        "context_frames": len(prompt.pixels),
        "first": prompt.start - len(prompt.context),
        "clip_frames": len(prompt.clip.video),
        "truth": strip(to_uint8(prompt.continuation[: request.frames])[None]),
        "truth_frames": min(len(prompt.continuation), request.frames),
        "between": request.between,
        "ending": strip(to_uint8(prompt.ending)[None]),
        "ending_frames": len(prompt.ending),
        "strips": [],
        "notes": list(prompt.clip.notes),
        "details": list(prompt.clip.details),
        "status": "",
    }


def progress_value(before: dict[str, Any] | None, progress: Progress, name: str) -> dict[str, Any]:
    """The frames so far. before: the last value, whose strips are not encoded again. name: the result's id."""
    request, model = progress.request, progress.model
    imagined = is_imagined(request, model)
    base = before or prompt_value(progress.prompt, request) | {
        "state": "running",
        "id": name,
        "names": progress.names,
        "detail": _detail(request.settings(), is_stochastic(model), imagined),
        "action": describe_action(named_action(request, model)),
        "imagined": imagined,
        "settings": request.settings(),
    }
    pictures = base["strips"]
    new = progress.frames[sum(part["frames"] for part in pictures) :]
    if new:
        futures = np.stack([to_uint8(frame) for frame in new], axis=1)  # (F, t, H, W, 3)
        pictures = [*pictures, *strips(futures)]
    return base | {"strips": pictures, "status": progress.text()}


def result_value(result: Result, before: dict[str, Any] | None = None, precomputed: bool = False) -> dict[str, Any]:
    """A whole result. before: the last value of its own progress."""
    report, frames = result.report, result.futures.shape[1]
    return {
        "state": "done",
        "id": report["id"],
        "key": _key(report["settings"], report["clip"]["sha256"]),
        "fps": result.fps,
        **sizes(result.context),
        "frames": frames,
        "names": report["names"],
        "model": report["settings"]["model"],
        "clip": Path(report["clip"]["name"]).stem,
        "detail": _detail(report["settings"], report["stochastic"], report["imagined"]),
        "action": describe_action(report["action"]),
        "imagined": report["imagined"],
        "settings": report["settings"],
        "context": strip(result.context[None]),
        "context_frames": len(result.context),
        "first": max(report["settings"]["prompt_frames"] - len(result.context), 0),
        "clip_frames": report["clip_frames"],
        "truth": strip(result.truth[None]),
        "truth_frames": len(result.truth),
        "between": report["between"],
        "ending": strip(result.ending[None]),
        "ending_frames": len(result.ending),
        "strips": before["strips"] if before else strips(result.futures),
        "spread": strip(spread_map(result.futures)[None]) if len(result.futures) > 1 else "",
        "surprise": strip(surprise_map(result.surprise)[None]) if len(result.surprise) else "",
        "report": {name: report[name] for name in ("spread", "scores", "surprise", "notes", "clip", "weights")},
        "details": report["details"],
        "facts": facts(report, precomputed),
        "status": "",
        "precomputed": precomputed,
    }


def _key(settings: dict[str, Any], sha256: str) -> str:
    """Equal for results of the same prompt by the same model."""
    gap = ("between", "frames") if settings["between"] else ()
    return " ".join(str(settings[name]) for name in ("model", "prompt_frames", "stride", "fit", *gap)) + " " + sha256


def _detail(settings: dict[str, Any], stochastic: bool, imagined: bool) -> str:
    """What a future's name leaves out: labels, and a temperature that is not the default."""
    hot = f"temperature {settings['temperature']:g}" if stochastic and settings["temperature"] != 1 else ""
    return " · ".join(filter(None, [describe_labels(settings["labels"]) if imagined else "", hot]))


def facts(report: dict[str, Any], precomputed: bool) -> list[str]:
    """The line below the player: model, frames, time."""
    settings, frames, count = report["settings"], report["predicted_frames"], len(report["names"])
    start, total = settings["prompt_frames"], report["clip_frames"]
    used = f"clip frames {max(start - report['used_frames'], 0) + 1} to {start}"
    if report["imagined"]:
        what = f"{frames} frames that show {describe_labels(settings['labels'])}, imagined without the clip"
    elif report["between"]:
        after, ending = start + frames, report["ending_frames"]
        what = f"{used} and {after + 1} to {after + ending} of {total}, {frames} between them filled in"
    else:
        what = f"{used} of {total}, then {frames} predicted"
        what += f" with {describe_action(report['action'])}" if report["action"] else ""
    time = f"{count} future{'s' * (count > 1)} in {report['total_seconds']:.1f} s"
    return [
        settings["model"],
        what,
        "computed in advance" if precomputed else "played live" if report.get("live") else time,
    ]


# ---- pictures --------------------------------------------------------------------------------------------


def spread_map(futures: Pixels) -> Pixels:
    """(F, T, H, W, 3) -> (T, H, W, 3): white where half of the futures are black and half are white."""
    deviation = 2 * spread(torch.from_numpy(futures).movedim(-1, 2) / 255).numpy()  # 0 ... 1
    return _gray(deviation)


def surprise_map(surprise: NDArray[np.float32]) -> Pixels:
    """(S, h, w) bits -> (S + 1, h, w, 3): white at the greatest surprise, black in nine of ten places.

    The first frame has no surprise. A clip without any stays dark: white is at least three times its black.
    """
    usual = float(np.quantile(surprise[1:] if len(surprise) > 1 else surprise, 0.9))
    scale = max(float(surprise.max()) - usual, 2 * usual, 1e-9)
    return _gray(np.concatenate([np.zeros_like(surprise[:1]), ((surprise - usual) / scale).clip(0, 1)]))


def _gray(values: NDArray[np.floating]) -> Pixels:
    """(..., H, W) in 0 ... 1 -> (..., H, W, 3)."""
    return np.repeat((255 * values).round().astype(np.uint8)[..., None], 3, axis=-1)


def sizes(frames: Pixels) -> dict[str, list[int]]:
    """Of frames (..., H, W, 3) and of their cells in a strip: width and height."""
    size = [frames.shape[-2], frames.shape[-3]]
    block = 1 if is_lossless(frames) else JPEG_BLOCK
    return {"size": size, "cell": [-(-side // block) * block for side in size]}


def strips(futures: Pixels) -> list[dict[str, Any]]:
    """(F, T, H, W, 3) -> pictures of as many frames as STRIP_WIDTH holds."""
    count = max(STRIP_WIDTH // sizes(futures)["cell"][0], 1)
    parts = [futures[:, t : t + count] for t in range(0, futures.shape[1], count)]
    return [{"frames": part.shape[1], "src": strip(part)} for part in parts]


def strip(frames: Pixels) -> str:
    """(F, T, H, W, 3) -> one picture as a data URI; "" for no frames. Beyond STRIP_WIDTH, a row goes on in the next."""
    if not frames.size:
        return ""
    width, height = sizes(frames)["cell"]
    bars = [(0, height - frames.shape[2]), (0, width - frames.shape[3])]
    if any(map(any, bars)):
        frames = np.pad(frames, [(0, 0), (0, 0), *bars, (0, 0)], mode="edge")
    most = max(STRIP_WIDTH // width, 1)
    if frames.shape[1] > most:
        missing = -frames.shape[1] % most
        frames = np.concatenate([frames, np.zeros_like(frames[:, :missing])], axis=1)
        frames = frames.reshape(-1, most, *frames.shape[2:])
    rows, columns = frames.shape[:2]
    sheet = frames.swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    kind, file = ("png", png(sheet)) if is_lossless(frames) else ("jpeg", jpeg(sheet, JPEG_QUALITY))
    return f"data:image/{kind};base64," + base64.b64encode(file).decode()
