"""One prediction from request to run, as a generator, so that closing it at any frame stops the work."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stt.api import NO_CONDITION, Condition, HasLikelihood, Predictor, Sampling, Surprise
from stt.metrics import blended, frame_mse, frame_ssim, spread, unit
from stt.request import Refused, Request, steerable
from stt.results import Result
from stt.sampler import between, rollout
from stt.side_by_side import Frame
from stt.video import Clip, read_clip, to_uint8

DEADLINE = 180.0  # seconds of computing that one visitor may have
MAX_FPS = 30.0  # faster clips are played slower, or ten frames would be over at once
UNUSUAL = 1.5  # times the surprise that 99 in 100 frames like the training data stay below

IMAGINED = "The futures were imagined without the clip, so they are not compared with it."
LED = "The futures follow the action that was asked for; what really happened had actions of its own."
ONE_FUTURE = "This model knows one future only, the mean of what may follow: where the future is open, it blurs."

Compute = Callable[[Predictor, Tensor, Tensor, Tensor, int, Sampling, Sequence[int]], Iterator[Tensor | Surprise]]


@dataclass(frozen=True)
class Prompt:
    """A clip as one model sees it."""

    clip: Clip
    name: str
    sha256: str
    start: int  # frames of the clip before the future, or before the gap
    video: Tensor  # (P, C, H, W), the last of them: what the model sees
    after: Tensor  # (N - start, C, H, W), the clip's own continuation
    ending: Tensor  # (E, C, H, W), what the model sees of the clip after a gap; none where there is no gap
    fps: float

    @property
    def pixels(self) -> Frame:
        return to_uint8(self.video)


@dataclass
class Progress:
    """A prediction under way; `frames` and the clocks go on in place."""

    request: Request
    model: Predictor
    prompt: Prompt
    frames: list[Tensor] = field(default_factory=list)  # (F, C, H, W) each
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None  # seconds until the first frame was there, from the very start
    computing: float = 0.0  # seconds of the model alone
    surprise: Surprise | None = None  # (S,) and (S, h, w) of the clip, once the futures are there

    @property
    def names(self) -> list[str]:
        return future_names(self.request, self.model)

    def text(self) -> str:
        done, total = len(self.frames), self.request.frames
        each = self.computing / max(done, 1)
        if done == 0:
            return "Reading the clip …"
        if done == total:
            return "Comparing the futures …"
        return f"frame {done} of {total}, {1000 * each:.0f} ms each, about {left(each * (total - done))} left"


def stochastic(model: Predictor) -> bool:
    """Whether seeds matter: no model draws without a temperature."""
    return "temperature" in model.knobs


def future_names(request: Request, model: Predictor) -> list[str]:
    """What the futures are called wherever they are seen."""
    return [f"seed {seed}" for seed in request.seeds] if stochastic(model) else ["mean future"]


def imagined(request: Request, model: Predictor) -> bool:
    """Whether the futures come from nothing and do not continue the clip."""
    return bool(request.condition(model).labels)


def acted(request: Request, model: Predictor) -> dict[str, float]:
    """What is done at every new frame, by the model's words for it; {} leaves it to the model."""
    return dict(zip(steerable(model), request.action, strict=False))


def left(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else "a second"


def read(request: Request, model: Predictor) -> Clip:
    """Raises stt.video.VideoError when the file is no usable video."""
    c = model.config
    return read_clip(request.clip, size=c.image_size, channels=c.channels, stride=request.stride, fit=request.fit)


def latest(request: Request, frames: int) -> int:
    """Where the future, or the gap, may start at the latest in a clip of so many frames; below 1 it does not fit."""
    return frames - request.frames - 1 if request.between else frames


def fitted(request: Request, model: Predictor, frames: int) -> Request:
    """The request with start and gap moved to where they lie in a clip of so many frames, as far as they can."""
    if request.between:
        request = replace(request, frames=max(min(request.frames, frames - 2), 1))
    start = min(request.prompt_frames or model.config.context_frames, latest(request, frames))
    return replace(request, prompt_frames=max(start, 1))


def prompt_of(clip: Clip, request: Request, model: Predictor) -> Prompt:
    """Left open, the future starts after the clip's end, and a gap where the model can look back furthest.

    Raises Refused when the clip is too short for the request.
    """
    c, frames, last = model.config, len(clip.video), latest(request, len(clip.video))
    if last < 1:
        raise Refused(
            f"A gap of {request.frames} needs a clip of at least {request.frames + 2} frames, one before it and one"
            f" after, but this one has {frames}."
        )
    first = request.prompt_frames or (min(c.context_frames, last) if request.between else last)
    if first > last:
        raise Refused(
            f"The gap starts after {first} frames and {request.frames} are missing, but the clip has {frames};"
            f" start after at most {last}."
            if request.between
            else f"Frames used as prompt is {first}, but the clip has {frames}; choose at most {frames}."
        )
    after = clip.video[first:]
    return Prompt(
        clip=clip,
        name=request.clip.name,
        sha256=sha256_of(request.clip),
        start=first,
        video=clip.video[:first][-c.context_frames :],
        after=after,
        ending=after[request.frames :][: c.context_frames * request.between],
        fps=request.fps or min(max(clip.fps, 1.0), MAX_FPS),
    )


def read_prompt(request: Request, model: Predictor) -> Prompt:
    return prompt_of(read(request, model), request, model)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compute(
    model: Predictor,
    video: Tensor,
    truth: Tensor,
    ending: Tensor,
    frames: int,
    sampling: Sampling,
    seeds: Sequence[int],
    condition: Condition = NO_CONDITION,
) -> Iterator[Tensor | Surprise]:
    """All that needs the model's device: every frame (F, C, H, W) of the futures, then how surprising the clip is.

    video, truth, ending: (P, C, H, W), (T', C, H, W) and (E, C, H, W), the prompt, what really followed, and what came
    after the gap if there is one to fill. Everything comes on the CPU.
    """
    gap = between(model, video, ending, frames, sampling, seeds) if len(ending) else None
    for frame in gap or rollout(model, video, frames, sampling, seeds, condition):
        yield frame.float().cpu()
    clip = torch.cat([video, truth, ending])[None]
    if clip.shape[1] > 1 and isinstance(model, HasLikelihood):
        score = model.surprise(clip.to(next(model.parameters()).device))
        yield Surprise(score.bits[0].float().cpu(), score.where[0].float().cpu())


def predict(
    request: Request, model: Predictor, compute: Compute = compute, deadline: float = DEADLINE
) -> Iterator[Progress | Result]:
    """Yields the progress before the first frame and after every one of them, then the run.

    deadline: seconds of computing; what takes longer is Refused.
    """
    began = time.perf_counter()
    if not stochastic(model):
        request = replace(request, futures=1)
    sampling, condition = request.sampling(model), request.condition(model)
    progress = Progress(request, model, read_prompt(request, model), began=began)
    yield progress
    prompt, since = progress.prompt, time.perf_counter()
    truth = prompt.after[: request.frames]
    what = prompt.video, truth, prompt.ending, request.frames, sampling, request.seeds, condition
    for event in compute(model, *what):
        if isinstance(event, Surprise):
            progress.surprise = event
            continue
        progress.frames.append(event)
        progress.computing += time.perf_counter() - since  # not what the viewer spends on watching
        progress.first = progress.first or time.perf_counter() - began
        if progress.computing > deadline and len(progress.frames) < request.frames:
            raise Refused(
                f"This took longer than {deadline:.0f} seconds: {len(progress.frames)} of {request.frames} frames"
                " were done; choose fewer frames or futures."
            )
        yield progress
        since = time.perf_counter()
    yield conclude(progress)


def conclude(progress: Progress) -> Result:
    """The run of what has been predicted so far, at least one frame."""
    prompt, futures = progress.prompt, torch.stack(progress.frames, dim=1)  # (F, T, C, H, W)
    truth = prompt.after[: futures.shape[1]]
    report = _report(progress, futures, truth)
    surprise = np.zeros((0, 1, 1), np.float32)
    if progress.surprise is not None:
        surprise = progress.surprise.where.numpy()
        report["surprise"] = told = _surprise(progress.surprise.bits.tolist(), progress.model, prompt)
        if told["unusual_frames"] and not report["imagined"]:
            report["notes"].insert(0, unlike(told["unusual_frames"], len(surprise)))
    report["total_seconds"] = round(time.perf_counter() - progress.began, 2)
    shown = [to_uint8(future) for future in futures]
    ending = prompt.ending if len(progress.frames) == progress.request.frames else prompt.ending[:0]  # nothing joins it
    return Result(report, prompt.pixels, np.stack(shown), to_uint8(truth), surprise, to_uint8(ending))


def _report(progress: Progress, futures: Tensor, truth: Tensor) -> dict[str, Any]:
    request, model, prompt = progress.request, progress.model, progress.prompt
    comparable = len(truth) and not imagined(request, model)
    return {
        "settings": request.settings() | {"prompt_frames": prompt.start},
        "family": model.family,
        "weights": model.weights,
        "clip": {"name": prompt.name, "sha256": prompt.sha256},
        "clip_frames": len(prompt.clip.video),
        "used_frames": len(prompt.video),
        "predicted_frames": futures.shape[1],
        "between": request.between,
        "ending_frames": len(prompt.ending),
        "seeds": request.seeds,
        "names": future_names(request, model),
        "stochastic": stochastic(model),
        "imagined": imagined(request, model),
        "action": acted(request, model),
        "fps": round(prompt.fps, 3),
        "first_frame_seconds": round(progress.first or 0.0, 2),
        "ms_per_frame": round(1000 * progress.computing / futures.shape[1], 1),
        "spread": _rounded(spread(futures).square().mean(dim=(-2, -1)).sqrt()),
        "scores": scores(futures, truth, baselines(request, prompt)) if comparable else None,
        "surprise": None,
        "notes": notes(request, model, prompt),
    }


def baselines(request: Request, prompt: Prompt) -> dict[str, Tensor]:
    """What takes no model, (T, C, H, W) each: the last frame held still, and over a gap its two ends blended."""
    last = prompt.video[-1]
    held = last.expand(request.frames, *last.shape)
    if not request.between:
        return {"copy": held}
    return {"copy": held, "blend": blended(last, prompt.ending[0], request.frames)}


def scores(futures: Tensor, truth: Tensor, others: dict[str, Tensor]) -> dict[str, Any]:
    """Against what really followed, per frame: every future (F, T, C, H, W), and what takes no model.

    truth (T', C, H, W), others (T, C, H, W). error: root-mean-square, in percent of the step from black to white.
    """
    truth, pixels = unit(truth), futures[0, 0].numel()
    predicted = {"futures": unit(futures[:, : len(truth)])}
    predicted |= {name: unit(video[: len(truth)]) for name, video in others.items()}
    return {
        name: {
            "error": _rounded(100 * (frame_mse(video, truth) / pixels).sqrt(), 2),
            "ssim": _rounded(frame_ssim(video, truth.expand_as(video))),
        }
        for name, video in predicted.items()
    }


def _surprise(bits: list[float], model: Predictor, prompt: Prompt) -> dict[str, Any]:
    """bits: of every frame but the first, per dimension. Unusual only beside figures of the model's own data.

    Not the clip's mean but its most surprising frame counts: one impossible move hardly shows in a mean.
    """
    usual = model.card.get("scores", {}).get("surprise", {}).get("frame_p99")
    second = prompt.start - len(prompt.video) + 2  # the first frame that has a score, of the clip's counted from 1
    unusual = [t for t, b in enumerate(bits, second) if usual and b > UNUSUAL * usual]
    return {"bits": [round(b, 5) for b in bits], "usual": usual, "unusual_frames": unusual}


def unlike(frames: list[int], length: int) -> str:
    """One sentence on frames that the model did not expect at all."""
    if len(frames) > max(2, length // 4):
        return "This clip is unlike what the model was trained on, so expect little of its futures."
    which = f"Frame {frames[0]}" if len(frames) == 1 else f"Frames {', '.join(map(str, frames))}"
    return f"{which} of the clip came as a shock: nothing like it was in the training data, so mistrust these futures."


def _rounded(values: Tensor, digits: int = 4) -> list[Any]:
    return [_rounded(v, digits) if v.ndim else round(float(v), digits) for v in values]


def notes(request: Request, model: Predictor, prompt: Prompt) -> list[str]:
    """What happened to the clip, and what else a visitor may wonder about; one sentence each."""
    c, clip, used = model.config, prompt.clip, len(prompt.video)
    from_nothing = imagined(request, model)
    said, apart = [IMAGINED] if from_nothing else [], from_nothing or request.between
    if acted(request, model) and len(prompt.after):
        said.append(LED)
    if clip.truncated:
        said.append("The clip is longer than what the app reads, so only its start was used.")
    if request.between and used + request.frames + len(prompt.ending) > c.context_frames + 1:
        said.append(f"For each frame the model saw the {c.context_frames} nearest on both sides, filled in or given.")
    elif prompt.start > used and not apart:
        said.append(f"The model saw the last {used} of the {prompt.start} frames before the future.")
    elif used == 1 and not apart:
        said.append("From a single frame the model can only guess what moves.")
    if clip.cropped:
        said.append("The clip was cropped to a square around its centre.")
    if clip.padded:
        said.append("Black bars make the clip a square.")
    if tuple(clip.source_size) != (c.image_size, c.image_size):
        said.append(f"It was resized to the {c.image_size} x {c.image_size} pixels that the model works on.")
    if used + request.frames > c.context_frames + 1 and not apart:
        said.append(f"The model looks back {c.context_frames} frames, so later ones no longer see the oldest.")
    if not stochastic(model):
        said.append(ONE_FUTURE)
    elif request.temperature == 0 and request.futures > 1:
        said.append("At temperature 0 every future is the same.")
    if clip.fps > MAX_FPS and not request.fps:
        said.append(f"The clip has {clip.fps:g} frames a second; it is played at {MAX_FPS:g}.")
    return said
