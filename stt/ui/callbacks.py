"""What the buttons do. Holds models and folders, never anything of a visitor."""

from __future__ import annotations

import html
import logging
import math
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from stt.api import Interpolates, Predictor
from stt.encode import write_mp4
from stt.prediction import (
    Compute,
    Progress,
    Prompt,
    compute,
    conclude,
    fitted,
    latest,
    predict,
    prompt_of,
    read,
    sha256_of,
    stochastic,
)
from stt.request import Refused, Request, check, imaginable, remembered, steerable
from stt.results import Result, Results, new_name
from stt.ui.player import shown_progress, shown_prompt, shown_run
from stt.video import VideoError, read_metadata

PREVIEW_PAUSE = 0.1  # seconds between two pictures of a running prediction
MOST_SEEN = 10_000  # clips whose whereabouts are remembered
PROGRESS_PAUSE = 0.5  # seconds between two progress messages to a client
ARGUMENTS = (
    "clip", "model", "frames", "temperature", "seed", "futures", "prompt_frames", "top_k", "top_p", "stride", "fit",
    "fps", "labels", "between", "action",
)  # fmt: skip  # in the order of the endpoint and of the page's controls


class Callbacks:
    def __init__(
        self,
        models: Mapping[str, Predictor],
        folders: Sequence[Path],
        runs: Results,
        examples: Sequence[Path] = (),
        uploads: Path | None = None,
        compute: Compute = compute,
    ) -> None:
        self.models = models
        self.folders = list(folders)  # where clips may lie: uploads and examples
        self.runs = runs
        self.examples = list(examples)
        self.uploads = uploads  # where clips of our own making go
        self.digests = {sha256_of(path): path for path in self.examples}
        self.compute = compute
        self.seen: dict[tuple[str, str], Path] = {}  # clips by session and content, or by run: prompts found again

    def check(self, *values: Any) -> Request:
        return check(**dict(zip(ARGUMENTS, values, strict=True)), models=self.models, folders=self.folders)

    def predict_run(self, request: Request) -> Iterator[Progress | Result]:
        yield from predict(request, self.models[request.model], self.compute)

    # ---- for clients ---------------------------------------------------------------------------------

    def predict(
        self,
        clip: Any,
        model: Any,
        frames: Any = 10,
        temperature: Any = 1.0,
        seed: Any = None,
        futures: Any = 4,
        prompt_frames: Any = 0,
        top_k: Any = 0,
        top_p: Any = 1.0,
        stride: Any = 1,
        fit: Any = "crop",
        fps: Any = 0,
        labels: Any = "",
        between: Any = False,
        action: Any = "",
    ) -> Iterator[tuple[Any, ...]]:
        """Continues a clip.

        clip: a video file. model: a name that /models lists. frames: to predict, 1 to 40. temperature: 0 to 2, 0 is
        deterministic. seed: 0 to 2147483647 of the first future, future k has seed + k; null draws one, and it comes
        back. futures: 1 to 8. prompt_frames: where in the clip the future starts; 0 is after its end. top_k, top_p:
        draw from the likeliest codes only, where the model honours it; 0 and 1 keep all. stride: keep every n-th frame
        of the file. fit: "crop" to a square or "pad" with black. fps: of the videos; 0 is the clip's. labels: classes
        to imagine from nothing, without the clip, such as "3", "3, 7" or "any", where the model knows some; none
        continues the clip. between: true fills a gap in the clip, where the model interpolates: it begins
        after prompt_frames, and frames are missing. action: what is done at every new frame, as many numbers from -1 to
        1 as /models lists actions of the model, such as "0.5, -1"; "free" or none leaves it to the model.

        Returns clip and futures in one video, one video per future (the clip, then that future), the first future's
        seed and a report. Values that cannot be served are answered with one sentence.
        """
        with plain_errors():
            request = self.check(
                clip, model, frames, temperature, seed, futures, prompt_frames, top_k, top_p, stride, fit, fps, labels,
                between, action,
            )  # fmt: skip
            last = -math.inf  # the first message comes at once: only then can Gradio cancel the run
            for event in self.predict_run(request):
                if isinstance(event, Result):
                    run = self.runs.put(event)
                    together, *alone = self.files(run)
                    yield together, list(zip(alone, run.report["names"], strict=True)), request.seed, run.report
                elif time.monotonic() - last > PROGRESS_PAUSE:
                    last = time.monotonic()
                    progress = {"predicted": len(event.frames), "frames": request.frames}
                    yield gr.skip(), gr.skip(), gr.skip(), progress

    def files(self, run: Result) -> list[str]:
        """A run's videos, side by side first."""
        name, futures = run.report["id"], len(run.futures)
        videos = ["side-by-side.mp4", *(f"future-{k}.mp4" for k in range(1, futures + 1))]
        return [str(path) for path, _ in (self.runs.file(name, video) for video in videos)]

    def list_models(self) -> list[dict[str, Any]]:
        """The models that can be asked, the preset one first, with the settings that change their futures.

        classes and labels: how many classes a model can imagine, and how many of them in one clip. interpolates:
        whether it can fill the gap between two clips. actions: what each number of an action does, in words.
        """
        return [
            {
                "name": name,
                "family": model.family,
                "knobs": sorted(model.knobs),
                "image_size": model.config.image_size,
                "channels": model.config.channels,
                "context_frames": model.config.context_frames,
                **dict(zip(("classes", "labels"), imaginable(model), strict=True)),
                "interpolates": isinstance(model, Interpolates),
                "actions": list(steerable(model)),
                "weights": model.weights,
            }
            for name, model in self.models.items()
        ]

    # ---- for the page --------------------------------------------------------------------------------

    def watch(self, visitor: gr.Request, fresh: bool, *values: Any) -> Iterator[tuple[Any, Any]]:
        """(player, seed) again and again. fresh: draw a new seed."""
        with plain_errors():
            request = self._asked(*replaced(values, seed=None) if fresh else values)
            name, last, shown, progress = new_name(), 0.0, None, None
            try:
                for event in self.predict_run(request):
                    if isinstance(event, Result):
                        run, progress = self.runs.put(event, name), None
                        yield shown_run(run, shown), request.seed
                        return
                    if progress is None:
                        self._remember((visitor.session_hash, event.prompt.sha256), request.clip)
                        self._remember(("", name), request.clip)
                    progress, done = event, len(event.frames)
                    if done <= 1 or done == request.frames or time.monotonic() - last > PREVIEW_PAUSE:
                        last = time.monotonic()
                        shown = shown_progress(shown, event, name)
                        yield shown, request.seed
            finally:
                if progress is not None and progress.frames:  # stopped, or failed: what was predicted is not lost
                    self.runs.put(conclude(progress), name)

    def choose(self, visitor: gr.Request, wanted: dict[str, Any], *values: Any) -> tuple[Any, ...]:
        """A newly chosen clip: (player, wanted, clip, *settings, fresh). A video that the app made is opened again.

        wanted: settings that a link, a result or the history asked for, for the clip that is chosen now; "clip" in it
        names the clip that they were for, since Gradio may report one choice twice.
        """
        if values[0] is None:
            return EMPTY, {} if "clip" in wanted else wanted, *self._settings({})
        with plain_errors():
            request = self.check(*replaced(values, seed=0, prompt_frames=0))
            if wanted.get("clip", str(request.clip)) != str(request.clip):
                wanted = {}
            told = None if wanted else self._told(request.clip)
            if told:
                wanted = remembered(told, self.models)
                origin = self._origin(visitor, told.get("clip"))
                if origin is None and not told.get("alone"):
                    gr.Warning("Its settings are back. Side by side, no clip can be continued: choose the clip again.")
                    return EMPTY, wanted, *self._settings(wanted, clip=None)
                if origin is not None:
                    gr.Info("The settings and the clip of this result are back; Predict gives it again.")
                    return gr.skip(), wanted, *self._settings(wanted, clip=str(origin))
                gr.Info("The settings of this result are back; its own frames stand in for its clip.")
                wanted = remembered(told | {"prompt_frames": told.get("given"), "stride": 1}, self.models)
            player, start, frames = self.look(visitor, *replaced(values, **{"prompt_frames": 0, **wanted}))
        settings = self._settings(wanted if told else {})
        settings[ARGUMENTS.index("prompt_frames")] = start
        if frames != gr.skip():
            settings[ARGUMENTS.index("frames")] = frames
        return player, {**wanted, "clip": str(request.clip)}, *settings

    def look(self, visitor: gr.Request, *values: Any) -> tuple[Any, Any, Any]:
        """The clip as the model will see it, and what of it can be asked for: (player, prompt frames, frames)."""
        if values[0] is None:
            return EMPTY, gr.skip(), gr.skip()
        with plain_errors():
            asked = self._asked(*replaced(values, seed=0))
            model = self.models[asked.model]
            clip = read(asked, model)
            request = fitted(asked, model, len(clip.video))
            if not stochastic(model):
                request = replace(request, futures=1)
            prompt, last = prompt_of(clip, request, model), latest(request, len(clip.video))
            start = gr.update(value=prompt.start, maximum=max(last, 2), interactive=last > 1)
            self._remember((visitor.session_hash, prompt.sha256), request.clip)
            run = self._shipped(request, prompt)
        player = shown_prompt(prompt, request) if run is None else shown_run(run, precomputed=True)
        return player, start, gr.skip() if request.frames == asked.frames else request.frames

    def look_at_gap(self, visitor: gr.Request, *values: Any) -> tuple[Any, Any, Any]:
        """`look`, where the number of frames matters to it."""
        with plain_errors():
            if values[0] is None or not self._asked(*replaced(values, seed=0)).between:
                return gr.skip(), gr.skip(), gr.skip()
        return self.look(visitor, *values)

    def restore(self, event: gr.EventData) -> tuple[Any, ...]:
        """The settings of a result of this visit, which the page shows by itself: (wanted, clip, *settings, fresh)."""
        with plain_errors():
            name = event._data.get("run")
            wanted = remembered(self.runs.get(name).report["settings"], self.models)
            clip = self.seen.get(("", name))
        if clip is None or not clip.is_file():
            return {}, *self._settings(wanted)
        return wanted, *self._settings(wanted, clip=str(clip))

    def extend(self, event: gr.EventData) -> tuple[dict[str, Any], str]:
        """A future as the next prompt: (wanted, clip)."""
        with plain_errors():
            run, future = self.runs.get(event._data.get("run")), event._data.get("future")
            if not isinstance(future, int) or not 0 <= future < len(run.futures):
                raise Refused("There is no such future.")
            video = run.alone(future)
            folder = Path(tempfile.mkdtemp(dir=self.uploads))
            path = folder / f"{run.report['names'][future].replace(' ', '-')}-extended.mp4"
            write_mp4(path, video, run.fps)
        return {"prompt_frames": len(video), "between": False}, str(path)

    def dropped(self, event: gr.EventData) -> str:
        with plain_errors():
            return str(
                check(event._data.get("path"), next(iter(self.models)), models=self.models, folders=self.folders).clip
            )

    def opened(self, memory: Any, request: gr.Request) -> tuple[Any, ...]:
        """What a link asks for, or what the browser remembers: (wanted, clip, *settings, fresh)."""
        asked = dict(request.query_params) if request else {}
        settings = remembered(memory, self.models) | remembered(asked, self.models)
        clip = next((str(path) for path in self.examples if path.stem == asked.get("clip")), None)
        return (settings if clip else {}), *self._settings(settings, **({"clip": clip} if clip else {}))

    def example(self, name: str, number: int | None = None) -> tuple[str, Any]:
        """Of the examples this one or any, and the model that shows it.

        The one chosen, unless a result came along by one that sees colour where this does not, or the reverse.
        """
        clip = secrets.choice(self.examples) if number is None else self.examples[number]
        made = {run.report["weights"] for run in self.runs.shipped.values() if self.digests.get(_sha256(run)) == clip}
        knowing = [other for other, model in self.models.items() if model.weights in made]
        channels = {self.models[other].config.channels for other in knowing}
        return str(clip), gr.skip() if not knowing or self.models[name].config.channels in channels else knowing[0]

    def _asked(self, *values: Any) -> Request:
        """What the page asks for, where the controls for gaps and actions count only if the model shows them."""
        request = self.check(*values)
        model = self.models[request.model]
        action = request.action if steerable(model) else ()
        labels = () if action else request.labels  # of a control that such a model hides
        between = request.between and isinstance(model, Interpolates)
        return replace(request, between=between, action=action, labels=labels)

    def _shipped(self, request: Request, prompt: Prompt) -> Result | None:
        """A result that came with the app, of this very prompt and these weights; none fills a gap."""
        names = ("stride", "fit", "between")
        prompted = {"prompt_frames": prompt.start, **{name: getattr(request, name) for name in names}}.items()
        ours = prompt.sha256, self.models[request.model].weights
        for run in self.runs.shipped.values():
            made = _sha256(run), run.report["weights"]
            if made == ours and prompted <= run.report["settings"].items():
                return run
        return None

    def _settings(self, settings: Mapping[str, Any], **more: Any) -> list[Any]:
        """Updates of the controls in their order, then of "new seed every time", which ends when a seed is given."""
        settings = {**settings, **more}
        return [settings.get(name, gr.skip()) for name in ARGUMENTS] + [False if "seed" in settings else gr.skip()]

    def _told(self, clip: Path) -> dict[str, Any] | None:
        """What a video says of its making, if this app made it."""
        told = None if clip in self.examples else read_metadata(clip)
        return {"between": False, "action": [], **told} if told and told.get("app") == "stt" else None

    def _remember(self, key: tuple[str, str], clip: Path) -> None:
        self.seen[key] = clip
        while len(self.seen) > MOST_SEEN:
            del self.seen[next(iter(self.seen))]

    def _origin(self, visitor: gr.Request, clip: Any) -> Path | None:
        """The file of a clip that this visitor used before, or an example, if it is still here.

        Only that: a result that travels must not bring somebody else's upload to whoever opens it.
        """
        sha256 = clip.get("sha256") if isinstance(clip, dict) else None
        known = (self.seen.get((visitor.session_hash, str(sha256))), self.digests.get(str(sha256)))
        return next((path for path in known if path is not None and path.is_file()), None)


EMPTY = {"state": "empty"}


def _sha256(run: Result) -> str:
    return run.report["clip"]["sha256"]


def replaced(values: Sequence[Any], **changes: Any) -> list[Any]:
    return [changes.get(name, value) for name, value in zip(ARGUMENTS, values, strict=True)]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Whatever goes wrong reaches the visitor as one sentence; the rest goes to the log."""
    try:
        yield
    except gr.Error:
        raise
    except (Refused, VideoError) as error:
        raise sentence(str(error)) from None
    except torch.OutOfMemoryError:
        raise sentence("The machine is out of memory, choose fewer futures or frames.") from None
    except Exception:
        logging.getLogger("stt.ui").exception("a prediction failed")
        raise sentence("Something went wrong on our side, please try again.") from None


def sentence(text: str) -> gr.Error:
    return gr.Error(html.escape(text, quote=False), title="That did not work", print_exception=False)
