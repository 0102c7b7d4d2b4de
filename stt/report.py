"""The report of a prediction: settings, measures and notes, as JSON."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from stt.api import Predictor
from stt.metrics import blended, frame_mse, frame_ssim, spread, unit
from stt.model_card import frame_rate
from stt.optical_flow import extrapolated, optical_flow
from stt.prompt import MAX_FPS, Prompt
from stt.request import Request, action_axes, is_stochastic

UNUSUAL = 1.5  # times the largest surprise in 99 of 100 held-out clips

SSIM_SIDE = 128  # pixels
IMAGINED = "The model imagined these futures without the clip, so they are not compared with it."
STEERED = "The futures follow the chosen action; the real clip followed other actions."


def report(
    request: Request, model: Predictor, prompt: Prompt, futures: Tensor, surprise: Tensor | None
) -> dict[str, Any]:
    """futures (F, T, C, H, W); surprise (S,) bits of the clip's frames from the second on, or None."""
    truth = prompt.continuation[: futures.shape[1]]
    imagined = is_imagined(request, model)
    comparable = len(truth) and not imagined
    measured = None if surprise is None else surprise_report(surprise.tolist(), model, prompt)
    remarks = notes(request, model, prompt)
    if measured and measured["unusual_frames"] and not imagined:
        remarks.insert(0, unusual_note(measured["unusual_frames"], len(measured["bits"])))
    return {
        "settings": request.settings() | {"prompt_frames": prompt.start},
        "family": model.family,
        "weights": model.weights_hash,
        "clip": {"name": prompt.name, "sha256": prompt.sha256},
        "clip_frames": len(prompt.clip.video),
        "used_frames": len(prompt.context),
        "predicted_frames": futures.shape[1],
        "between": request.between,
        "ending_frames": len(prompt.ending),
        "seeds": request.seeds,
        "names": future_names(request, model),
        "stochastic": is_stochastic(model),
        "imagined": imagined,
        "action": named_action(request, model),
        "fps": round(prompt.fps, 3),
        "clip_fps": round(prompt.clip.fps, 3),
        "spread": _rounded(spread(unit(futures)).square().mean(dim=(-2, -1)).sqrt()),
        "scores": scores(futures, truth, baselines(request, prompt)) if comparable else None,
        "surprise": measured,
        "notes": remarks,
        "details": list(prompt.clip.details),
    }


def future_names(request: Request, model: Predictor) -> list[str]:
    """A name for each future."""
    return [f"seed {seed}" for seed in request.seeds] if is_stochastic(model) else ["only future"]


def is_imagined(request: Request, model: Predictor) -> bool:
    """Whether the futures are imagined from labels and do not continue the clip."""
    return bool(request.condition(model).labels)


def named_action(request: Request, model: Predictor) -> dict[str, float]:
    """The action of every new frame by axis; {} if the model chooses."""
    return dict(zip(action_axes(model), request.action, strict=False))


# ---- measures --------------------------------------------------------------------------------------------


def baselines(request: Request, prompt: Prompt) -> dict[str, Tensor]:
    """Predictions without a model, (T, C, H, W) each: the last frame repeated and, where there are two frames to see
    it, its motion carried on; or a gap's two ends blended."""
    last, frames = prompt.context[-1:], request.frames
    copy = {"copy": last.expand(frames, -1, -1, -1)}
    if request.between:
        return copy | {"blend": blended(last[0], prompt.ending[0], frames)}
    if len(prompt.context) == 1:
        return copy
    return copy | {"flow": extrapolated(last, optical_flow(last, prompt.context[-2:-1]), frames)}


def scores(futures: Tensor, truth: Tensor, baselines: dict[str, Tensor]) -> dict[str, Any]:
    """Error and SSIM per frame against what really followed, of every future (F, T, C, H, W) and every baseline.

    truth (T', C, H, W), baselines (T, C, H, W). error: root-mean-square, in percent of the step from black to white.
    SSIM is of frames with at most SSIM_SIDE pixels a side, for which larger ones shrink.
    """
    truth, pixels = unit(truth), futures[0, 0].numel()
    small = _shrunk(truth)
    videos = {"futures": futures[:, : len(truth)]} | {name: video[: len(truth)] for name, video in baselines.items()}
    return {
        name: {
            "error": _rounded(100 * (frame_mse(unit(video), truth) / pixels).sqrt(), 2),
            "ssim": _rounded(frame_ssim(s := _shrunk(unit(video)), small.expand_as(s))),
        }
        for name, video in videos.items()
    }


def _shrunk(video: Tensor) -> Tensor:
    """Area averages of large frames (..., C, H, W)."""
    scale = SSIM_SIDE / max(video.shape[-2:])
    if scale >= 1:
        return video
    size = tuple(max(round(side * scale), 6) for side in video.shape[-2:])  # SSIM needs 6 pixels
    return F.interpolate(video.flatten(0, -4), size=size, mode="area").unflatten(0, video.shape[:-3])


def surprise_report(bits: list[float], model: Predictor, prompt: Prompt) -> dict[str, Any]:
    """bits per dimension of every frame but the first, and which frames are unusual for the model's training data.

    Frames count one by one: a single impossible motion hardly changes the clip's mean. The first of these frames is
    not judged: before it the model sees no motion, and the figures of its card leave it out, too.
    """
    figures = model.card.get("scores", {}).get("surprise", {})
    usual = figures.get("largest_p99", figures.get("frame_p99"))  # older cards have the latter alone
    first = prompt.start - len(prompt.context) + 3  # number in the clip, from 1, of the first frame that is judged
    unusual = [t for t, b in enumerate(bits[1:], first) if usual and b > UNUSUAL * usual]
    return {"bits": [round(b, 5) for b in bits], "usual": usual, "unusual_frames": unusual}


def _rounded(values: Tensor, digits: int = 4) -> list[Any]:
    return [_rounded(v, digits) if v.ndim else round(float(v), digits) for v in values]


# ---- notes -----------------------------------------------------------------------------------------------


def unusual_note(frames: list[int], length: int) -> str:
    if len(frames) > max(2, length // 4):
        return "This clip is unlike the model's training data, so expect little of its futures."
    which = f"Frame {frames[0]} is" if len(frames) == 1 else f"Frames {', '.join(map(str, frames))} are"
    return f"{which} unlike anything in the training data, so do not trust these futures."


def notes(request: Request, model: Predictor, prompt: Prompt) -> list[str]:
    """One sentence for each thing out of the ordinary that happened to the clip or that explains the futures."""
    clip, used = prompt.clip, len(prompt.context)
    continued = not (is_imagined(request, model) or request.between)
    rate = frame_rate(model.card) or 0.0
    steered = bool(named_action(request, model))
    conditions = {
        IMAGINED: is_imagined(request, model) and request.clip is not None,
        STEERED: steered and len(prompt.continuation) > 0,
        "The clip is too long; only its start was used.": clip.truncated,
        **dict.fromkeys(clip.notes, True),
        f"At stride {request.stride} the clip has {clip.fps:.4g} frames per second; the model learned at {rate:g}.": (
            rate > 0 and request.stride > 0 and not math.isclose(clip.fps, rate, rel_tol=0.02)
        ),
        "From a single frame the model can only guess what moves.": continued and prompt.start == used == 1,
        "The clip was cropped to a square around its centre.": clip.cropped,
        "At temperature 0 nothing is left to chance, so there is one future.": is_stochastic(model)
        and request.temperature == 0,
        "Your action leaves nothing to chance here, so there is one future.": steered
        and model.random_actions_only
        and request.temperature > 0,
        f"The clip has {clip.fps:.4g} frames per second; it plays at {MAX_FPS:g}.": clip.fps > MAX_FPS
        and not request.fps,
    }
    return [note for note, holds in conditions.items() if holds]
