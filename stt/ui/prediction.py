"""One prediction from request to files, as a generator, so that closing it at any frame stops the work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stt.api import Predictor, Sampling
from stt.sampler import rollout
from stt.ui.board import Board, Frame
from stt.ui.request import Refused, Request
from stt.video import Clip, enlarge, read_clip, to_uint8, write_mp4

DEADLINE = 180.0  # seconds of computing that one visitor may have
SHOWN_SIZE = 256  # pixels per side of a single future's video, at least
ENCODERS = 4  # videos written at the same time
MAX_FPS = 30.0  # faster clips are played slower, or ten frames would be over at once


@dataclass(frozen=True)
class Moment:
    """What there is to see so far."""

    board: Board
    clip: Frame
    futures: tuple[Frame, ...]  # the newest frame of each, none before the first
    predicted: int  # frames of each future so far

    def picture(self) -> Frame:
        return self.board.draw(self.clip, self.futures, self.board.given + self.predicted)


@dataclass(frozen=True)
class Outcome:
    side_by_side: Path
    futures: list[tuple[Path, str]]  # (video, caption)
    report: dict[str, Any]


@dataclass
class Stopwatch:
    """Counts the time between `start` and `stop`, not what the viewer spends on watching."""

    seconds: float = 0.0
    _since: float = field(default=0.0, repr=False)

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._since


@dataclass(frozen=True)
class Prompt:
    """A clip as one model sees it."""

    clip: Clip
    video: Tensor  # (T, C, H, W), the frames that the model uses
    pixels: Frame  # (T, H, W, 3) uint8

    @property
    def fps(self) -> float:
        return min(max(self.clip.fps, 1.0), MAX_FPS)


def read_prompt(path: Path, model: Predictor) -> Prompt:
    """Raises stt.video.VideoError when the file is no usable video."""
    c = model.config
    clip = read_clip(path, size=c.image_size, channels=c.channels)
    video = clip.video[-c.context_frames :]
    return Prompt(clip, video, to_uint8(video))


def first_look(prompt: Prompt, futures: int, frames: int) -> Moment:
    """The board before anything is predicted."""
    board = Board(prompt.pixels.shape[1], tuple("?" for _ in range(futures)), len(prompt.pixels), frames)
    return Moment(board, prompt.pixels[-1], (), 0)


def predict(request: Request, model: Predictor, folder: Path) -> Iterator[Moment | Outcome]:
    """Yields every new frame, then the outcome, whose files lie in `folder`."""
    prompt = read_prompt(request.clip, model)
    names = tuple(f"seed {seed}" for seed in request.seeds)
    board = Board(prompt.pixels.shape[1], names, len(prompt.pixels), request.frames)
    yield Moment(board, prompt.pixels[-1], (), 0)

    frames: list[Frame] = []  # (futures, H, W, 3) each
    watch = Stopwatch()
    watch.start()
    sampling = Sampling(temperature=request.temperature)
    for frame in rollout(model, prompt.video, request.frames, sampling, request.seeds):
        frames.append(to_uint8(frame.float().cpu()))
        watch.stop()
        if watch.seconds > DEADLINE and len(frames) < request.frames:
            raise Refused(
                f"This took longer than {DEADLINE:.0f} seconds: {len(frames)} of {request.frames} frames were"
                " done; choose fewer frames or futures."
            )
        yield Moment(board, prompt.pixels[-1], tuple(frames[-1]), len(frames))
        watch.start()
    yield _outcome(request, model, prompt, board, np.stack(frames), watch.seconds, folder)


def _outcome(
    request: Request,
    model: Predictor,
    prompt: Prompt,
    board: Board,
    frames: Frame,  # (T, futures, H, W, 3)
    seconds: float,
    folder: Path,
) -> Outcome:
    made = {"model": request.model, "temperature": request.temperature, "frames": request.frames}
    known = [board.draw(f, [f] * request.futures, t) for t, f in enumerate(prompt.pixels, 1)]
    guessed = [board.draw(prompt.pixels[-1], f, t) for t, f in enumerate(frames, board.given + 1)]
    side_by_side = folder / "side-by-side.mp4"
    jobs = [(side_by_side, np.stack(known + guessed), prompt.fps, made | {"seeds": request.seeds})]
    futures = []
    factor = -(-SHOWN_SIZE // board.size)
    for k, seed in enumerate(request.seeds):
        path = folder / f"future-{k + 1}-seed-{seed}.mp4"
        jobs.append((path, enlarge(frames[:, k], factor), prompt.fps, made | {"seed": seed}))
        futures.append((path, f"seed {seed}"))
    with ThreadPoolExecutor(ENCODERS) as pool:
        list(pool.map(lambda job: write_mp4(*job), jobs))
    return Outcome(side_by_side, futures, _report(request, model, prompt, seconds))


def _report(request: Request, model: Predictor, prompt: Prompt, seconds: float) -> dict[str, Any]:
    return {
        "model": request.model,
        "family": model.family,
        "seeds": request.seeds,
        "frames": request.frames,
        "futures": request.futures,
        "temperature": request.temperature,
        "clip_frames": prompt.clip.source_frames,
        "used_frames": len(prompt.video),
        "fps": round(prompt.fps, 3),
        "ms_per_frame": round(1000 * seconds / request.frames, 1),
        "notes": notes(request, model, prompt),
    }


def notes(request: Request, model: Predictor, prompt: Prompt) -> list[str]:
    """What happened to the clip, and what else a visitor may wonder about; one sentence each."""
    c, clip, used = model.config, prompt.clip, len(prompt.video)
    said = []
    if clip.truncated:
        said.append("The clip is longer than what the app reads, so only its start was used.")
    if clip.source_frames > used:
        said.append(f"The model saw the last {used} of {clip.source_frames} frames that were read.")
    elif used < c.context_frames:
        said.append(f"The clip has {used} frames; the model can look back on up to {c.context_frames}.")
    if clip.cropped:
        said.append("The clip was cropped to a square around its centre.")
    if tuple(clip.source_size) != (c.image_size, c.image_size):
        said.append(f"It was resized to the {c.image_size} x {c.image_size} pixels that the model works on.")
    if used + request.frames > c.context_frames + 1:
        said.append(f"The model looks back {c.context_frames} frames, so later ones no longer see the oldest.")
    if "temperature" not in model.knobs:
        said.append("This model does not use the temperature.")
    elif request.temperature == 0 and request.futures > 1:
        said.append("At temperature 0 every future is the same.")
    if clip.fps > MAX_FPS:
        said.append(f"The clip has {clip.fps:g} frames a second; it is played at {MAX_FPS:g}.")
    return said
