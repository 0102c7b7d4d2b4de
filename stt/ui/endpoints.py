"""The endpoints for programs: /predict and /models."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from stt.api import WHOLE_SIZE, Interpolates
from stt.model_card import frame_rate
from stt.request import DEFAULTS, action_axes, label_space
from stt.results import Result
from stt.ui.backend import Backend
from stt.ui.errors import plain_errors
from stt.ui.examples import describe

PROGRESS_PAUSE = 0.5  # seconds between two progress messages


class Endpoints:
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def predict(
        self,
        clip: Any = None,
        model: Any = None,
        frames: Any = DEFAULTS["frames"],
        temperature: Any = DEFAULTS["temperature"],
        seed: Any = DEFAULTS["seed"],
        futures: Any = DEFAULTS["futures"],
        prompt_frames: Any = DEFAULTS["prompt_frames"],
        top_k: Any = DEFAULTS["top_k"],
        top_p: Any = DEFAULTS["top_p"],
        stride: Any = DEFAULTS["stride"],
        fit: Any = DEFAULTS["fit"],
        fps: Any = DEFAULTS["fps"],
        labels: Any = "",
        between: Any = DEFAULTS["between"],
        action: Any = "",
    ) -> Iterator[tuple[Any, ...]]:
        """Continues a clip.

        clip: a video file; null imagines labels. model: a name from /models; null: the first. frames: number of frames
        to predict, 1 to 40. temperature: 0 to 2; 0 is deterministic. seed: 0 to 2147483647, of the first future; future
        k has seed + k; null draws one. futures: 1 to 8. prompt_frames: the future starts after this frame of the clip;
        0: after the last one. top_k, top_p: sample from the likeliest codes only; 0 and 1 keep all. stride: use every
        n-th frame of the file; 0: take frames by time, at the rate that the model learned at. fit: "auto", "crop" to
        a square or "pad" with black. fps: of the returned videos; 0: the clip's own. labels: classes to imagine without
        the clip, such as "3", "3, 7" or "any"; for models with classes. between: true fills a gap of `frames` frames
        after prompt_frames; for models that interpolate. action: one number from -1 to 1 for each of the model's
        actions in /models, such as "0.5, -1"; "free" or none: the model chooses.

        Returns the clip beside all futures as one video, one video per future (the clip, then that future), the first
        future's seed, and a report. An error is one sentence.
        """
        with plain_errors():
            request = self.backend.request(
                clip, model or next(iter(self.backend.models)), frames, temperature, seed, futures, prompt_frames,
                top_k, top_p, stride, fit, fps, labels, between, action,
            )  # fmt: skip
            last = -math.inf  # the first message comes at once: only then can Gradio cancel the run
            for event in self.backend.predict(request):
                if isinstance(event, Result):
                    result = self.backend.results.put(event)
                    together, *single = self._videos(result)
                    yield together, list(zip(single, result.report["names"], strict=True)), request.seed, result.report
                elif time.monotonic() - last > PROGRESS_PAUSE:
                    last = time.monotonic()
                    progress = {"predicted": len(event.frames), "frames": request.frames}
                    yield gr.skip(), gr.skip(), gr.skip(), progress

    def _videos(self, result: Result) -> list[str]:
        """Paths of its mp4 files, the side-by-side video first."""
        names = [name for name in result.names if name.endswith(".mp4")]
        return [str(self.backend.results.video(result.report["id"], name)[0]) for name in names]

    def list_models(self) -> list[dict[str, Any]]:
        """The models, the default one first.

        world, knows, examples: what it predicts well, and example clips of that. knobs: the settings that change its
        futures. image_size: pixels a side of its square frames; with whole_frames, the most of the longer side of
        frames of any shape. classes and labels: how many classes a model can imagine, and how many of them in one clip.
        interpolates: whether it can fill a gap. actions: a name for each number of an action. fps: frames per second
        that it learned at, or null.
        """
        return [
            {
                "name": name,
                **describe(name, self.backend.models, self.backend.gallery),
                "family": model.family,
                "knobs": sorted(model.knobs),
                "image_size": WHOLE_SIZE if model.whole_frames else model.config.image_size,
                "whole_frames": model.whole_frames,
                "channels": model.config.channels,
                "context_frames": model.config.context_frames,
                **dict(zip(("classes", "labels"), label_space(model), strict=True)),
                "interpolates": isinstance(model, Interpolates),
                "actions": list(action_axes(model)),
                "fps": frame_rate(model.card),
                "weights": model.weights_hash,
            }
            for name, model in self.backend.models.items()
        ]
