"""Runs a request. A generator yields the progress frame by frame, then the result; closing it stops the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stt.api import Condition, HasLikelihood, Predictor, Sampling, Surprise
from stt.prompt import Prompt, read_prompt
from stt.report import future_names, report
from stt.request import Request, RequestError, action_axes, has_chance
from stt.results import Result
from stt.sampler import between, rollout
from stt.video import LIMITS, Limits, to_uint8

DEADLINE = 180.0  # seconds of computing for one request


class Job(NamedTuple):
    """All that the model's device needs to know of a request; tensors are on the CPU."""

    context: Tensor  # (P, C, H, W)
    truth: Tensor  # (T', C, H, W) what really followed
    ending: Tensor  # (E, C, H, W) the clip after a gap; empty without a gap
    frames: int
    sampling: Sampling
    condition: Condition
    seeds: tuple[int, ...]


Compute = Callable[[Predictor, Job], Iterator[Tensor | Surprise]]


@dataclass
class Progress:
    """A running prediction; `frames` and the clocks grow in place."""

    request: Request
    model: Predictor
    prompt: Prompt
    frames: list[Tensor] = field(default_factory=list)  # (F, C, H, W) each
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None  # seconds from the start to the first frame
    computing: float = 0.0  # seconds of the model alone
    surprise: Surprise | None = None  # (S,) and (S, h, w) of the clip, after the last frame

    @property
    def names(self) -> list[str]:
        return future_names(self.request, self.model)

    def text(self) -> str:
        done, total = len(self.frames), self.request.frames
        if done == 0:
            return "Reading the clip …"
        if done == total:
            return "Comparing the futures …"
        each = self.computing / done
        seconds = each * (total - done)
        left = f"{seconds:.0f} s" if seconds >= 1 else "a second"
        return f"predicted {done} of {total}, {1000 * each:.0f} ms each, about {left} left"


def compute(model: Predictor, job: Job) -> Iterator[Tensor | Surprise]:
    """Each frame (F, C, H, W) of the futures, then the clip's surprise if the model has a likelihood; on the CPU."""
    if len(job.ending):
        frames = between(model, job.context, job.ending, job.frames, job.sampling, job.seeds)
    else:
        frames = rollout(model, job.context, job.frames, job.sampling, job.seeds, job.condition)
    for frame in frames:
        yield frame.float().cpu()
    clip = torch.cat([job.context, job.truth, job.ending])[None]
    if clip.shape[1] > 1 and isinstance(model, HasLikelihood):
        surprise = model.surprise(clip.to(next(model.parameters()).device))
        yield Surprise(surprise.bits[0].float().cpu(), surprise.per_cell[0].float().cpu())


def predict(
    request: Request,
    model: Predictor,
    compute: Compute = compute,
    deadline: float = DEADLINE,
    limits: Limits = LIMITS,
) -> Iterator[Progress | Result]:
    """Yields the progress before the first frame and after each one, then the result.

    deadline: seconds of computing; raises RequestError beyond it. limits: on the clip.
    """
    began = time.perf_counter()
    if not has_chance(model, request.action if action_axes(model) else (), request.temperature):
        request = replace(request, futures=1)
    sampling, condition = request.sampling(model), request.condition(model)
    progress = Progress(request, model, prompt := read_prompt(request, model, limits), began=began)
    yield progress
    truth, since = prompt.continuation[: request.frames], time.perf_counter()
    job = Job(prompt.context, truth, prompt.ending, request.frames, sampling, condition, tuple(request.seeds))
    for event in compute(model, job):
        if isinstance(event, Surprise):
            progress.surprise = event
            continue
        progress.frames.append(event)
        progress.computing += time.perf_counter() - since  # without the time that the caller takes between frames
        progress.first = progress.first or time.perf_counter() - began
        if progress.computing > deadline and len(progress.frames) < request.frames:
            raise RequestError(
                f"This took longer than {deadline:.0f} seconds: {len(progress.frames)} of {request.frames} frames"
                " were done; choose fewer frames or futures."
            )
        yield progress
        since = time.perf_counter()
    yield conclude(progress)


def conclude(progress: Progress) -> Result:
    """The result of the frames so far, at least one."""
    prompt, futures = progress.prompt, torch.stack(progress.frames, dim=1)  # (F, T, C, H, W)
    truth = prompt.continuation[: futures.shape[1]]
    complete = len(progress.frames) == progress.request.frames
    surprise = progress.surprise
    text = report(progress.request, progress.model, prompt, futures, None if surprise is None else surprise.bits)
    text |= {
        "first_frame_seconds": round(progress.first or 0.0, 2),
        "ms_per_frame": round(1000 * progress.computing / futures.shape[1], 1),
        "total_seconds": round(time.perf_counter() - progress.began, 2),
    }
    return Result(
        report=text,
        context=prompt.pixels,
        futures=np.stack([to_uint8(future) for future in futures]),
        truth=to_uint8(truth),
        surprise=np.zeros((0, 1, 1), np.float32) if surprise is None else surprise.per_cell.numpy(),
        ending=to_uint8(prompt.ending if complete else prompt.ending[:0]),  # a gap cut short does not reach it
    )
