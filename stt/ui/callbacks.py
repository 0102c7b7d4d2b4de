"""The page's callbacks: what happens when a visitor chooses a clip, predicts, or uses a result."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from stt.api import Interpolates
from stt.encode import write_mp4
from stt.prediction import conclude
from stt.prompt import fit_to_clip, latest_start, load_clip, split_clip
from stt.request import Request, RequestError, action_axes, is_stochastic
from stt.results import NEW_SETTINGS, Result, new_id
from stt.ui.backend import ARGUMENTS, Backend
from stt.ui.clip_box import write_preview
from stt.ui.errors import plain_errors
from stt.ui.player import EMPTY, progress_value, prompt_value, result_value
from stt.ui.request import check_clip, usable_settings
from stt.video import read_metadata

PREVIEW_PAUSE = 0.1  # seconds between two pictures of a running prediction


class Callbacks:
    """`values` are those of the page's controls, one per name in ARGUMENTS."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    # ---- predicting ----------------------------------------------------------------------------------

    def run_prediction(self, visitor: gr.Request, new_seed: bool, *values: Any) -> Iterator[tuple[Any, Any]]:
        """(player, seed) again and again."""
        backend = self.backend
        with plain_errors():
            request = self._request(*changed(values, seed=None) if new_seed else values)
            name, last, value, progress = new_id(), 0.0, None, None
            try:
                for event in backend.predict(request):
                    if isinstance(event, Result):
                        progress = None
                        yield result_value(backend.results.put(event, name), value), request.seed
                        return
                    if progress is None:
                        backend.clips.add(request.clip, visitor.session_hash, event.prompt.sha256, name)
                    progress, done = event, len(event.frames)
                    if done <= 1 or done == request.frames or time.monotonic() - last > PREVIEW_PAUSE:
                        last = time.monotonic()
                        value = progress_value(value, event, name)
                        yield value, request.seed
            finally:
                if progress is not None and progress.frames:  # stopped or failed: save the frames so far
                    backend.results.put(conclude(progress), name)

    # ---- the clip ------------------------------------------------------------------------------------

    def change_clip(self, visitor: gr.Request, pending: dict[str, Any], *values: Any) -> tuple[Any, ...]:
        """A new clip: (player, pending, clip, *settings, new_seed). A video that this app made brings its settings.

        pending: settings of a link, a result or the history for the clip that is coming. Its "clip" names the clip
        that they were for, since Gradio may report one change twice.
        """
        if values[0] is None:
            return EMPTY, {} if "clip" in pending else pending, *updates({})
        with plain_errors():
            request = self.backend.request(*changed(values, seed=0, prompt_frames=0))
            if pending.get("clip", str(request.clip)) != str(request.clip):
                pending = {}
            metadata = None if pending else self._own_metadata(request.clip)
            if metadata:
                pending = usable_settings(metadata, self.backend.models)
                clip = self._original_clip(visitor, metadata)
                if clip is None and not metadata.get("alone"):
                    gr.Warning("The settings are back. A side-by-side video is no prompt: choose the clip again.")
                    return EMPTY, pending, *updates(pending, clip=None)
                if clip is not None:
                    gr.Info("The settings and the clip of this result are back. Predict repeats it.")
                    return gr.skip(), pending, *updates(pending, clip=str(clip))
                gr.Info("The settings of this result are back. Its clip is gone, so its own frames are the prompt.")
                context = metadata.get("context", metadata.get("given"))  # "given" in older files
                pending = usable_settings(metadata | {"prompt_frames": context, "stride": 1}, self.backend.models)
            player, start, frames = self.preview(visitor, *changed(values, **{"prompt_frames": 0, **pending}))
        settings = updates(pending if metadata else {})
        settings[ARGUMENTS.index("prompt_frames")] = start
        if frames != gr.skip():
            settings[ARGUMENTS.index("frames")] = frames
        return player, {**pending, "clip": str(request.clip)}, *settings

    def preview(self, visitor: gr.Request, *values: Any) -> tuple[Any, Any, Any]:
        """The clip as the model will see it, and what the clip allows: (player, prompt frames, frames)."""
        if values[0] is None:
            return EMPTY, gr.skip(), gr.skip()
        with plain_errors():
            original = self._request(*changed(values, seed=0))
            model = self.backend.models[original.model]
            clip = load_clip(original, model)
            request = fit_to_clip(original, model, len(clip.video))
            if not is_stochastic(model):
                request = replace(request, futures=1)
            prompt, last = split_clip(clip, request, model), latest_start(request, len(clip.video))
            start = gr.update(value=prompt.start, maximum=max(last, 2), interactive=last > 1)
            self.backend.clips.add(request.clip, visitor.session_hash, prompt.sha256)
            result = self.backend.shipped_result(request, prompt)
        player = prompt_value(prompt, request) if result is None else result_value(result, precomputed=True)
        return player, start, gr.skip() if request.frames == original.frames else request.frames

    def preview_gap(self, visitor: gr.Request, *values: Any) -> tuple[Any, Any, Any]:
        """`preview` after a change of the number of frames, which matters to gaps only."""
        with plain_errors():
            if values[0] is None or not self._request(*changed(values, seed=0)).between:
                return gr.skip(), gr.skip(), gr.skip()
        return self.preview(visitor, *values)

    def preview_unplayable(self, clip: Any) -> Any:
        """The clip with a preview of its decoded frames; "" where it cannot be decoded, and `change_clip` says why."""
        with plain_errors():
            path = check_clip(clip, self.backend.folders)
        try:
            return {"path": str(path), "preview": str(write_preview(path, self.backend.uploads))}
        except ValueError:
            return {"path": str(path), "preview": ""}

    def example(self, model: str, number: int | None = None) -> tuple[str, Any]:
        """An example, by default a random one, and its model.

        The model stays unless the example's shipped result is by a model with another number of channels.
        """
        backend = self.backend
        clip = secrets.choice(backend.examples) if number is None else backend.examples[number]
        reports = [result.report for result in backend.results.shipped.values()]
        weights = {r["weights"] for r in reports if backend.clips.of_content(None, r["clip"]["sha256"]) == clip}
        fitting = [name for name, other in backend.models.items() if other.weights_hash in weights]
        channels = {backend.models[name].config.channels for name in fitting}
        stays = not fitting or backend.models[model].config.channels in channels
        return str(clip), gr.skip() if stays else fitting[0]

    # ---- results and links ---------------------------------------------------------------------------

    def restore(self, event: gr.EventData) -> tuple[Any, ...]:
        """The settings of an earlier result, which the page itself shows: (pending, clip, *settings, new_seed)."""
        with plain_errors():
            result = self.backend.results.get(data_of(event).get("result"))
            settings = usable_settings(result.report["settings"], self.backend.models)
            clip = self.backend.clips.of_result(result.report["id"])
        if clip is None:
            return {}, *updates(settings)
        return settings, *updates(settings, clip=str(clip))

    def extend(self, event: gr.EventData) -> tuple[dict[str, Any], str]:
        """A future as the next prompt: (pending, clip)."""
        with plain_errors():
            data = data_of(event)
            result, future = self.backend.results.get(data.get("result")), data.get("future")
            if not isinstance(future, int) or not 0 <= future < len(result.futures):
                raise RequestError("There is no such future.")
            video = result.single(future)
            folder = Path(tempfile.mkdtemp(dir=self.backend.uploads))
            path = folder / f"{result.report['names'][future].replace(' ', '-')}-extended.mp4"
            write_mp4(path, video, result.report.get("clip_fps", result.fps))  # not how fast it played
        return {"prompt_frames": len(video), "between": False}, str(path)

    def open_page(self, memory: Any, request: gr.Request) -> tuple[Any, ...]:
        """Settings of the link, else those in the browser's memory: (pending, clip, *settings, new_seed)."""
        query = dict(request.query_params) if request else {}
        models = self.backend.models
        settings = usable_settings(memory, models) | usable_settings(query, models)
        clip = next((str(path) for path in self.backend.examples if path.stem == query.get("clip")), None)
        return (settings if clip else {}), *updates(settings, **({"clip": clip} if clip else {}))

    # ---- helpers -------------------------------------------------------------------------------------

    def _request(self, *values: Any) -> Request:
        """The page's request, without settings whose controls the model hides."""
        request = self.backend.request(*values)
        model = self.backend.models[request.model]
        action = request.action if action_axes(model) else ()
        labels = () if action else request.labels
        return replace(
            request, between=request.between and isinstance(model, Interpolates), action=action, labels=labels
        )

    def _own_metadata(self, clip: Path) -> dict[str, Any] | None:
        """The metadata of a video that this app made."""
        metadata = None if clip in self.backend.examples else read_metadata(clip)
        return {**NEW_SETTINGS, **metadata} if metadata and metadata.get("app") == "stt" else None

    def _original_clip(self, visitor: gr.Request, metadata: Mapping[str, Any]) -> Path | None:
        clip = metadata.get("clip")
        sha256 = clip.get("sha256") if isinstance(clip, dict) else None
        return self.backend.clips.of_content(visitor.session_hash, str(sha256))


def data_of(event: gr.EventData) -> dict[str, Any]:
    return event._data if isinstance(event._data, dict) else {}


def changed(values: Sequence[Any], **changes: Any) -> list[Any]:
    return [changes.get(name, value) for name, value in zip(ARGUMENTS, values, strict=True)]


def updates(settings: Mapping[str, Any], **more: Any) -> list[Any]:
    """New values of the controls in their order, then of "new seed every time", which a given seed turns off."""
    settings = {**settings, **more}
    return [settings.get(name, gr.skip()) for name in ARGUMENTS] + [False if "seed" in settings else gr.skip()]
