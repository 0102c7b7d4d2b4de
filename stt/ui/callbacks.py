"""What the buttons do. Holds models and folders, never anything of a visitor."""

from __future__ import annotations

import base64
import html
import io
import logging
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image

from stt.api import Predictor
from stt.ui.board import Frame
from stt.ui.prediction import Moment, Outcome, first_look, predict, read_prompt
from stt.ui.request import MAX_FUTURES, Refused, Request, check
from stt.video import VideoError

PREVIEW_PAUSE = 0.1  # seconds between two pictures of a running prediction
PROGRESS_PAUSE = 0.5  # seconds between two progress messages to a client

EMPTY_STAGE = """
<div class="stage empty"><p><b>Choose a clip, then press Predict.</b></p>
<p>Its futures will grow here, one frame after the other.</p></div>
"""


class Callbacks:
    def __init__(self, models: Mapping[str, Predictor], folders: list[Path], runs: Path) -> None:
        self.models = models
        self.folders = folders  # where clips may lie: uploads and examples
        self.runs = runs  # where a run's own folder lies while it runs

    def check(self, *values: Any) -> Request:
        return check(*values, models=self.models, folders=self.folders)

    def run(self, request: Request) -> Iterator[Moment | Outcome]:
        """The run's folder lasts until the caller has taken the outcome; then, or on Stop, it is gone."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="run-", dir=self.runs) as folder:
            yield from predict(request, self.models[request.model], Path(folder))

    # ---- for clients ---------------------------------------------------------------------------------

    def predict(
        self,
        clip: Any,
        model: Any,
        frames: Any,
        temperature: Any,
        seed: Any,
        futures: Any,
    ) -> Iterator[tuple[Any, ...]]:
        """Continues a clip. seed: null draws one; it comes back with the result.

        Returns the clip and its futures in one video, one video per future, the first future's seed (future k
        has seed + k) and a report. Values that cannot be served are answered with one sentence.
        """
        with plain_errors():
            request = self.check(clip, model, frames, temperature, seed, futures)
            last = -math.inf  # the first message comes at once: only then can Gradio cancel the run
            for event in self.run(request):
                if isinstance(event, Outcome):
                    yield event.side_by_side, event.futures, request.seed, event.report
                elif time.monotonic() - last > PROGRESS_PAUSE:
                    last = time.monotonic()
                    progress = {"predicted": event.predicted, "frames": request.frames}
                    yield gr.skip(), gr.skip(), gr.skip(), progress

    # ---- for the page: (stage, result, gallery, seed, report) -----------------------------------------

    def watch(self, *values: Any) -> Iterator[tuple[Any, ...]]:
        """values: those of `predict`, then whether to draw a new seed."""
        *values, fresh = values
        values[4] = None if fresh else values[4]
        with plain_errors():
            request = self.check(*values)
            last = 0.0
            for event in self.run(request):
                if isinstance(event, Outcome):
                    result = gr.update(value=str(event.side_by_side), visible=True)
                    gallery = gr.update(value=event.futures, columns=max(6, request.futures), visible=True)
                    yield gr.update(visible=False), result, gallery, request.seed, report_html(event.report)
                elif event.predicted == 0:
                    hidden = gr.update(value=None, visible=False)
                    yield self._stage(event, "Reading the clip ..."), hidden, hidden, request.seed, ""
                elif time.monotonic() - last > PREVIEW_PAUSE or event.predicted == request.frames:
                    last = time.monotonic()
                    text = "Saving the videos ..." if event.predicted == request.frames else ""
                    yield self._stage(event, text), gr.skip(), gr.skip(), gr.skip(), gr.skip()

    def look(self, clip: Any, model: Any, frames: Any, futures: Any) -> tuple[Any, ...]:
        """A newly chosen clip, as the model will see it; tells at once when it cannot be used."""
        hidden = gr.update(value=None, visible=False)
        if clip is None:
            return gr.update(value=EMPTY_STAGE, visible=True), hidden, hidden, gr.skip(), ""
        with plain_errors():
            request = self.check(clip, model, frames, 1.0, 0, futures)
            prompt = read_prompt(request.clip, self.models[request.model])
            moment = first_look(prompt, min(request.futures, MAX_FUTURES), request.frames)
        return self._stage(moment, "Press Predict"), hidden, hidden, gr.skip(), ""

    def _stage(self, moment: Moment, text: str = "") -> Any:
        words = f"The clip and its futures, {moment.predicted} of {moment.board.frames} frames predicted"
        picture = f'<img alt="{words}" src="{data_uri(moment.picture())}">'
        return gr.update(value=f'<div class="stage">{picture}<p role="status">{text}</p></div>', visible=True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Whatever goes wrong reaches the visitor as one sentence; the rest goes to the log."""
    try:
        yield
    except (Refused, VideoError) as error:
        raise sentence(str(error)) from None
    except torch.OutOfMemoryError:
        raise sentence("The machine is out of memory, choose fewer futures or frames.") from None
    except Exception:
        logging.getLogger("stt.ui").exception("a prediction failed")
        raise sentence("Something went wrong on our side, please try again.") from None


def sentence(text: str) -> gr.Error:
    return gr.Error(html.escape(text, quote=False), title="That did not work", print_exception=False)


def data_uri(picture: Frame) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def report_html(report: dict[str, Any]) -> str:
    """The report as one line of facts and one of notes."""
    seeds = report["seeds"]
    facts = [
        f"<b>{html.escape(report['model'])}</b>",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}",
        f"{report['used_frames']} frames of the clip, then {report['frames']} predicted",
        f"temperature {report['temperature']:g}",
        f"{report['ms_per_frame']:.0f} ms a frame",
    ]
    notes = " ".join(html.escape(note) for note in report["notes"])
    return f'<p class="facts">{" &middot; ".join(facts)}</p><p class="notes">{notes}</p>'
