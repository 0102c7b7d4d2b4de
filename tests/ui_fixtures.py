"""A running app with tiny random models, and clips to give it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import gradio as gr
import numpy as np

from stt.api import Predictor
from stt.encode import write_mp4
from stt.models.stt import STT, STTConfig
from stt.models.timesformer import TimeSformer
from stt.models.transframer import Transframer
from stt.models.videogpt import VideoGPT, VideoGPTConfig
from stt.prediction import predict
from stt.request import Request
from stt.results import Result
from stt.ui.server import serve
from tests.conftest import TINY, TINY_TIMESFORMER, TINY_TRANSFRAMER, TINY_VIDEOGPT, lively

SECONDS_PER_STEP = 0.25


class Slow(STT):
    """Slow enough for a test to stop it half-way."""

    def step(self, *arguments):
        time.sleep(SECONDS_PER_STEP)
        return super().step(*arguments)


def class_model(labels: int = 2) -> VideoGPT:
    """Imagines ten classes, up to `labels` of them in a clip."""
    config = TINY_VIDEOGPT.to_dict() | {"classes": 10, "labels": labels}
    return lively(VideoGPT(VideoGPTConfig.from_dict(config))).eval()


def mean_model() -> TimeSformer:
    """Has no chance: one future."""
    return lively(TimeSformer(TINY_TIMESFORMER)).eval()


def gap_model() -> Transframer:
    """Fills gaps; its context is three frames."""
    return lively(Transframer(TINY_TRANSFRAMER)).eval()


def action_model(*actions: str) -> STT:
    """Takes actions of these names, by default "push right" and "push up"."""
    config = TINY.to_dict() | {"actions": list(actions) or ["push right", "push up"]}
    return lively(STT(STTConfig.from_dict(config))).eval()


def any_clip_model() -> STT:
    """Untrained: it lets things go on as they went, in frames of any size."""
    config = STTConfig(
        image_size=32, channels=3, regions=2, whole_frames=True, dim=16, depth=1, heads=1, gaussian_grid=(0,),
        context_frames=4,
    )  # fmt: skip
    return STT(config).eval()


@dataclass(frozen=True)
class Served:
    url: str
    folder: Path  # the app's temporary folder
    examples: list[Path]
    app: gr.Blocks

    def result_files(self) -> list[Path]:
        return [path for path in self.folder.glob("stt-app-*/results/**/*") if path.is_file()]


def moving_dot(path: Path, frames: int = 5, width: int = 32, height: int = 32, start: int = 0) -> Path:
    """A white square on its way to the right."""
    path.write_bytes(dot_bytes(frames, width, height, start))
    return path


@cache
def dot_bytes(frames: int, width: int, height: int, start: int) -> bytes:
    video = np.zeros((frames, height, width, 3), np.uint8)
    for t in range(frames):
        x = (start + 3 * t) % (width - 8)
        video[t, 10:18, x : x + 8] = 255
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        write_mp4(file, video, 10)
        return file.read_bytes()


def request_for(clip: Path, **changes) -> Request:
    return Request(clip, **{"model": "tiny", "frames": 3, "seed": 7, "futures": 3, **changes})


def result_of(predictor: Predictor, clip: Path, **changes) -> Result:
    *_, result = predict(request_for(clip, **changes), predictor)
    return result


def ship(models: dict[str, Predictor], examples: list[Path], folder: Path) -> list[Path]:
    """Names the models' weights and worlds, and writes results of the examples, as an app ships them."""
    for name, model in models.items():
        model.weights_hash, model.card = name, {"about": {"world": "Dots", "knows": f"Dots, as {name} sees them."}}
    results = [folder / f"{example.stem}--tiny.npz" for example in examples]
    for example, path in zip(examples, results, strict=True):
        result_of(models["tiny"], example, prompt_frames=5).save(path)
    if "classes" in models:
        results.append(folder / f"{examples[0].stem}--classes.npz")
        result_of(models["classes"], examples[0], model="classes", prompt_frames=4).save(results[-1])
    return results


@contextmanager
def served(
    folder: Path,
    models: dict[str, Predictor] | None = None,
    examples: list[Path] | None = None,
    results: list[Path] | None = None,
) -> Iterator[Served]:
    """Everything that the app writes lands in `folder`. Its own four examples are of the model tiny, the first also of
    classes."""
    if models is None or examples is None or results is None:
        models, examples, results = _own(folder)
    before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
    tempfile.tempdir = str(folder)
    app = serve(models, examples, results, host="127.0.0.1", block=False)
    try:
        yield Served(app.local_url, folder, examples, app)
    finally:
        app.close(verbose=False)
        os.environ.pop("GRADIO_TEMP_DIR")
        if before[0] is not None:
            os.environ["GRADIO_TEMP_DIR"] = before[0]
        tempfile.tempdir = before[1]


def _own(folder: Path) -> tuple[dict[str, Predictor], list[Path], list[Path]]:
    examples = [moving_dot(folder / f"example-{k}.mp4", start=4 * k) for k in range(4)]
    models = {"tiny": lively(STT(TINY)).eval(), "slow": lively(Slow(TINY)).eval()}
    models |= {"classes": class_model(), "gaps": gap_model(), "actions": action_model(), "mean": mean_model()}
    return models, examples, ship(models, examples, folder)
