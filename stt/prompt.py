"""The clip of a request, divided as the model needs it: context, continuation, and the end after a gap."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from stt.api import WHOLE_SIZE, Predictor
from stt.encode import Pixels
from stt.model_card import frame_rate
from stt.request import Request, RequestError
from stt.video import LIMITS, Clip, Limits, probe, read_clip, to_uint8

MAX_FPS = 30.0  # faster clips play slower: otherwise ten frames are over at once


@dataclass(frozen=True)
class Prompt:
    """A clip as one model sees it."""

    clip: Clip
    name: str
    sha256: str
    start: int  # number of the clip's frames before the future or the gap
    context: Tensor  # (P, C, H, W), the last of these frames: what the model sees
    continuation: Tensor  # (N - start, C, H, W), the rest of the clip
    ending: Tensor  # (E, C, H, W), what the model sees of the clip after the gap; empty without a gap
    fps: float

    @property
    def pixels(self) -> Pixels:
        return to_uint8(self.context)


def load_clip(
    request: Request, model: Predictor, limits: Limits = LIMITS, channels: int = 0, whole_size: int = WHOLE_SIZE
) -> Clip:
    """The clip at the model's frame rate, or at the stride of the request, and at its size.

    A model that takes whole frames gets them at the clip's own aspect, unless the request makes them square.
    Without a clip, where labels are imagined, a black frame stands for it. channels: 0 for the model's. whole_size: the
    most pixels of the longer side for such a model.

    Raises `stt.video.VideoError` for a file that is no usable video.
    """
    if request.clip is None:
        return black_frame(model)
    c, fit = model.config, request.fit
    if fit == "auto":
        fit = "whole" if model.whole_frames else "crop"
    size = whole_size if model.whole_frames else c.image_size
    if model.whole_frames and fit != "whole":
        source = probe(request.clip, limits=limits)
        sides = source.width * source.pixel_aspect, source.height
        side = min(sides) if fit == "crop" else max(sides)
        size = min(size, max(2 * round(side / 2), 2))
    return read_clip(
        request.clip,
        size=size,
        channels=channels or c.channels,
        fit=fit,
        fps=None if request.stride else frame_rate(model.card),
        stride=request.stride or 1,
        limits=limits,
    )


def latest_start(request: Request, frames: int) -> int:
    """The last possible start of the future, or the gap, in a clip of `frames` frames; below 1: too short."""
    return frames - request.frames - 1 if request.between else frames


def fit_to_clip(request: Request, model: Predictor, frames: int) -> Request:
    """The request with its start and its gap moved into a clip of `frames` frames, as far as possible."""
    if request.between:
        request = replace(request, frames=max(min(request.frames, frames - 2), 1))
    last = latest_start(request, frames)
    start = request.prompt_frames or (model.config.context_frames if request.between else last)
    return replace(request, prompt_frames=max(min(start, last), 1))


def split_clip(clip: Clip, request: Request, model: Predictor) -> Prompt:
    """Without `prompt_frames` the future starts after the clip's end, a gap after a full context.

    Raises RequestError when the clip is too short for the request.
    """
    c, frames, last = model.config, len(clip.video), latest_start(request, len(clip.video))
    if last < 1:
        raise RequestError(
            f"A gap of {request.frames} needs a clip of at least {request.frames + 2} frames, one before it and one"
            f" after, but this one has {frames}."
        )
    start = request.prompt_frames or (min(c.context_frames, last) if request.between else last)
    if start > last:
        raise RequestError(
            f"The gap starts after {start} frames and has {request.frames}, but the clip has {frames};"
            f" start after at most {last}."
            if request.between
            else f"Prompt frames is {start}, but the clip has {frames}; choose at most {frames}."
        )
    continuation = clip.video[start:]
    return Prompt(
        clip=clip,
        name=request.clip.name if request.clip else "",
        sha256=file_hash(request.clip) if request.clip else "",
        start=start,
        context=clip.video[:start][-c.context_frames :],
        continuation=continuation,
        ending=continuation[request.frames :][: c.context_frames * request.between],
        fps=request.fps or min(max(clip.fps, 1.0), MAX_FPS),
    )


def read_prompt(request: Request, model: Predictor, limits: Limits = LIMITS, whole_size: int = WHOLE_SIZE) -> Prompt:
    """whole_size: the most pixels of the longer side for a model that takes whole frames."""
    clip = load_clip(request, model, limits, whole_size=whole_size)
    return split_clip(clip, request if request.clip else replace(request, prompt_frames=0), model)


def black_frame(model: Predictor) -> Clip:
    """A clip of one black frame."""
    c, fps = model.config, frame_rate(model.card) or 10.0
    video = -torch.ones(1, c.channels, c.image_size, c.image_size)
    return Clip(video, fps, fps, (c.image_size, c.image_size), 1, truncated=False, cropped=False, padded=False)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
