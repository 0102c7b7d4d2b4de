"""The page's callbacks: what happens when a visitor chooses a clip or a model, or uses a result."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from stt.api import Interpolates, Predictor
from stt.encode import write_mp4
from stt.prompt import Prompt, fit_to_clip, load_clip, split_clip
from stt.request import Request, RequestError, action_axes, has_chance, usual_frames
from stt.results import NEW_SETTINGS, Result
from stt.ui.backend import ARGUMENTS, Backend, drop_oldest, existing
from stt.ui.clip_box import write_preview
from stt.ui.errors import plain_errors, warn
from stt.ui.examples import best_example
from stt.ui.player import EMPTY, prompt_value, result_value
from stt.ui.request import check_clip, usable_settings
from stt.ui.start import start_value
from stt.video import VideoError, probe, read_metadata

SQUARE = 0.1  # how far sides may differ, as a share of the longer one
SHOWN = ("frames", "futures", "seed", "temperature")  # settings that say what is on the stage


class Switch(NamedTuple):
    """The page has chosen another model for a clip."""

    before: str
    after: str
    by_shape: bool  # because the one before sees only a square; else because it does not know such clips


class Callbacks:
    """`values` are those of the page's controls, one per name in ARGUMENTS."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.switched: dict[str, Switch] = {}  # by clip: what happened to the visitor's choice of a model

    # ---- the clip ------------------------------------------------------------------------------------

    def change_clip(self, visitor: gr.Request, pending: dict[str, Any], *values: Any) -> tuple[Any, ...]:
        """A new clip: (pending, player, start, *settings, new_seed). A video that this app made brings its settings.

        pending: settings of a link, a result or the history for the clip that is coming. Its "clip" names the clip
        that they were for, since Gradio may report one change twice; "shown" says that the page shows it already. A
        file that is no video leaves the last clip and what is shown of it. An upload may bring another model, see
        `model_for`.
        """
        if values[0] is None:
            player = gr.skip() if pending.pop("stay", False) else EMPTY
            return {} if "clip" in pending else pending, player, hidden(), *updates({})
        if pending.get("shown") and pending["clip"] == path_of(values[0]):
            return pending, gr.skip(), gr.skip(), *updates({})  # what the visitor has changed since then stays
        with plain_errors():
            request = self.request(*changed(values, seed=0, prompt_frames=0))
            before = existing(Path(pending["clip"])) if "clip" in pending else None
            if pending.get("clip", str(request.clip)) != str(request.clip):
                pending = {}
            try:
                metadata = None if pending else self._own_metadata(request.clip)
                if metadata:
                    return self._bring_back(visitor, metadata, values)
                settings = pending if pending.keys() - {"clip"} else self._settings_for(request)
                shown = self._show(visitor, changed(values, **{"prompt_frames": 0, **settings}), settings)
                if settings.get("model", request.model) != request.model:
                    shown = (*shown[:2], *updates({**chosen(shown[2:]), **settings}))
            except VideoError as error:
                if before is None:
                    raise
                warn(str(error))
                return {"clip": str(before), "shown": True}, gr.skip(), gr.skip(), *updates({}, clip=str(before))
        return {"clip": str(request.clip), "shown": True}, *shown

    def _settings_for(self, request: Request) -> dict[str, Any]:
        """The model for a new clip and, where it is another one, its usual number of frames unless that was chosen."""
        name = self.model_for(request)
        if name == request.model or request.frames != Request.frames:
            return {"model": name}
        return {"model": name, "frames": usual_frames(self.backend.models[name])}

    def model_for(self, request: Request) -> str:
        """The request's model, or one for whole frames where it would see only a square of an upload."""
        models, own = self.backend.models, models_of_whole_frames(self.backend.models)
        if request.clip is None or request.clip in self.backend.examples or request.labels or request.fit != "auto":
            return request.model
        if models[request.model].whole_frames or not own or is_square(request.clip):
            return request.model
        self.note_switch(request.clip, Switch(request.model, own[0], by_shape=True))
        return own[0]

    def note_switch(self, clip: Path, switch: Switch) -> None:
        self.switched[str(clip)] = switch
        drop_oldest(self.switched)

    def _bring_back(self, visitor: gr.Request, metadata: Mapping[str, Any], values: Sequence[Any]) -> tuple[Any, ...]:
        """The result that a video of this app holds: itself, if it is still here, or else its settings and its clip."""
        settings, result = usable_settings(metadata, self.backend.models), self._stored(metadata)
        clip = self._original_clip(visitor, metadata)
        if result is not None and (clip is not None or not metadata.get("alone")):
            seeds = result.report["seeds"]
            if metadata.get("alone") and len(seeds) > 1 and metadata.get("seed") in seeds:
                result = self.backend.results.put(result.only(seeds.index(metadata["seed"])))
            controls = updates(settings, clip=str(clip) if clip else None)
            return {**settings, "stay": True}, result_value(result), gr.skip(), *controls
        if clip is not None:
            gr.Info("The settings and the clip of this result are back. Predict repeats it.")
            return settings, gr.skip(), gr.skip(), *updates(settings, clip=str(clip))
        if not metadata.get("alone"):
            gr.Warning("The settings are back. A side-by-side video is no prompt: choose the clip again.")
            return settings, EMPTY, hidden(), *updates(settings, clip=None)
        gr.Info("The settings of this result are back. Its clip is gone, so its own frames are the prompt.")
        context = metadata.get("context", metadata.get("given"))  # "given" in older files
        settings = usable_settings({**metadata, "prompt_frames": context, "stride": 1}, self.backend.models)
        player, start, *controls = self._show(visitor, changed(values, **settings), settings)
        controls = [gr.skip() if new == gr.skip() else new for new in controls]
        merged = updates({**settings, **chosen(controls)})
        return {"clip": values[0], "shown": True}, player, start, *merged

    def preview(self, visitor: gr.Request, *values: Any) -> tuple[Any, ...]:
        """The clip as the model will see it: (player, start, *settings, new_seed)."""
        if not values[0]:
            return EMPTY, hidden(), *updates({})
        with plain_errors():
            return self._show(visitor, values, {})

    def change_model(self, visitor: gr.Request, *values: Any) -> tuple[Any, ...]:
        """`preview` for a new model, which brings its own result of an example.

        A model for any clip has fewer frames, where the visitor has not chosen how many.
        """
        result = self.backend.result_of(path_of(values[0]), values[1])
        if result is None:
            model = self.backend.models.get(values[1])
            if model and values[ARGUMENTS.index("frames")] == Request.frames:
                values = tuple(changed(values, frames=usual_frames(model)))
            return self.preview(visitor, *values)
        settings = usable_settings(result.report["settings"], self.backend.models) | {"model": values[1]}
        with plain_errors():
            return self._show(visitor, changed(values, **settings), settings)

    def preview_gap(self, visitor: gr.Request, *values: Any) -> tuple[Any, ...]:
        """`preview` after a change of the number of frames, which matters to gaps only."""
        with plain_errors():
            if not values[0] or not self.request(*changed(values, seed=0)).between:
                return gr.skip(), gr.skip(), *updates({})
        return self.preview(visitor, *values)

    def _show(self, visitor: gr.Request, values: Sequence[Any], exact: Mapping[str, Any]) -> tuple[Any, ...]:
        """(player, start, *settings, new_seed). exact: settings that a result in store must have been made with."""
        original = self.request(*changed(values, seed=0 if values[ARGUMENTS.index("seed")] is None else values[4]))
        model = self.backend.models[original.model]
        clip = load_clip(original, model)
        request = fit_to_clip(original, model, len(clip.video))
        if request.frames != original.frames:
            gr.Info(f"A gap in this clip has {request.frames} frames at most, not {original.frames}.")
        elif original.prompt_frames > request.prompt_frames:
            gr.Info(f"The future starts after frame {request.prompt_frames} now, not after {original.prompt_frames}.")
        if not has_chance(model, request.action, request.temperature):
            request = replace(request, futures=1)
        prompt = split_clip(clip, request, model)
        self.backend.clips.add(request.clip, visitor.session_hash, prompt.sha256)
        exact = {name: value for name, value in exact.items() if name in SHOWN}
        result = self.backend.shipped_result(request, prompt.start, exact)
        return self._stage(prompt, request, result)

    def _stage(self, prompt: Prompt, request: Request, result: Result | None) -> tuple[Any, ...]:
        at_end = prompt.start == len(prompt.clip.video)  # and stays there under another model or stride
        settings = {"prompt_frames": 0 if at_end else prompt.start, "frames": request.frames}
        if result is None:
            return prompt_value(prompt, request), start_value(prompt, request), *updates(settings)
        shown = SHOWN if result.report["stochastic"] else ("frames",)  # else the next model would draw one future
        settings |= {name: result.report["settings"][name] for name in shown}
        controls = updates(settings)
        controls[-1] = gr.skip()  # the next prediction has new seeds, as before
        return result_value(result, precomputed=True), start_value(prompt, request), *controls

    def preview_unplayable(self, clip: Any) -> Any:
        """The clip with a preview of its decoded frames; "" where it cannot be decoded, and `change_clip` says why."""
        with plain_errors():
            path = check_clip(clip, self.backend.folders)
        try:
            return {"path": str(path), "preview": str(write_preview(path, self.backend.uploads))}
        except ValueError:
            return {"path": str(path), "preview": ""}

    def example(self, visitor: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """An example with its model and its result: (pending, player, start, *settings, new_seed)."""
        number, backend = int(event._data.get("number", 0)), self.backend
        with plain_errors():
            if not 0 <= number < len(backend.gallery):
                raise RequestError("There is no such example.")
            return self._open_example(visitor, number, event._data.get("model"))

    def _open_example(self, visitor: gr.Request, number: int, model: Any = None) -> tuple[Any, ...]:
        one = self.backend.gallery[number]
        model = model if model in one.results else one.model
        result = self.backend.results.get(one.results[model])
        settings = usable_settings(result.report["settings"], self.backend.models) | {"model": model}
        values = [str(one.clip), *(settings.get(name) for name in ARGUMENTS[1:])]
        player, start, *_ = self._show(visitor, values, settings)
        controls = updates(settings, clip=str(one.clip))
        controls[-1] = gr.skip()
        return {"clip": str(one.clip), "shown": True}, player, start, *controls

    # ---- results and links ---------------------------------------------------------------------------

    def restore(self, event: gr.EventData) -> tuple[Any, ...]:
        """The settings of an earlier result, which the page itself shows: (pending, clip, *settings, new_seed)."""
        with plain_errors():
            result = self.backend.results.get(data_of(event).get("result"))
            settings = self._settings_of(result)
            clip = self.backend.clips.of_result(result.report["id"])
        if clip is None:
            return {}, *updates(settings)[:-1], gr.skip()  # the next prediction has new seeds, as before
        return settings, *updates(settings, clip=str(clip))[:-1], gr.skip()

    def extend(self, event: gr.EventData) -> tuple[dict[str, Any], str]:
        """A future as the next prompt: (pending, clip)."""
        with plain_errors():
            data = data_of(event)
            result, future = self.backend.results.get(data.get("result")), data.get("future")
            if isinstance(future, bool) or not isinstance(future, int) or not 0 <= future < len(result.futures):
                raise RequestError("There is no such future.")
            video = result.single(future)
            folder = Path(tempfile.mkdtemp(dir=self.backend.uploads))
            path = folder / f"{result.report['names'][future].replace(' ', '-')}-extended.mp4"
            write_mp4(path, video, result.report.get("clip_fps", result.fps))  # not how fast it played
        return {"prompt_frames": len(video), "between": False}, str(path)

    def open_page(self, memory: Any, visitor: gr.Request) -> tuple[Any, ...]:
        """(notice, pending, player, start, *settings, new_seed) of the link, of this browser's last visit, or of an
        example. notice: HTML that names the parts of the link that the page cannot serve."""
        query = dict(visitor.query_params) if visitor else {}
        faults: list[str] = []
        opened = self._open(memory, query, visitor, faults)
        return notice(faults), *opened

    def _open(self, memory: Any, query: dict[str, Any], visitor: gr.Request, faults: list[str]) -> tuple[Any, ...]:
        """(pending, player, start, *settings, new_seed)."""
        backend = self.backend
        linked = usable_settings(query, backend.models, faults)
        remembered = usable_settings(memory, backend.models)
        settings = remembered | linked
        stems = [path.stem for path in backend.examples]
        result = self._stored({"id": query.get("result")})
        if query.get("result") and result is None:
            faults.append("The result of this link is no longer here; results are kept for an hour.")
        if query.get("clip") and query["clip"] not in stems and result is None:
            faults.append("The clip of this link is not here; choose one.")
        if result is not None:  # the link's own frames and seeds
            own = self._settings_of(result)
            example = backend.clips.of_content(None, result.report["clip"]["sha256"])
            prompt = {"clip": str(example)} if example else {}
            if example is None and not result.report["imagined"]:
                faults.append("The clip of this result stays with its visitor: choose one, or continue a future.")
            return own, result_value(result), gr.skip(), *updates(own, **prompt)
        if query.get("clip") in stems:
            clip: Path | None = backend.examples[stems.index(query["clip"])]
        else:
            other = linked.get("labels") or linked.get("model", remembered.get("model")) != remembered.get("model")
            clip = None if other else self._remembered(memory)
        if clip is None and backend.gallery and not linked.get("labels"):
            model = linked.get("model")
            number = best_example(model, backend.models, backend.gallery) if model else 0
            if number is not None and not linked.keys() - {"model"}:
                with plain_errors():
                    return self._open_example(visitor, number, model)
            clip = backend.gallery[number or 0].clip
        if clip is None:
            return {}, EMPTY, hidden(), *updates(settings)
        return settings, gr.skip(), gr.skip(), *updates(settings, clip=str(clip))

    # ---- helpers -------------------------------------------------------------------------------------

    def request(self, *values: Any) -> Request:
        """The request without what the model ignores, whose controls the page hides."""
        request = self.backend.request(*values)
        model = self.backend.models[request.model]
        action = request.action if action_axes(model) else ()
        labels = () if action else request.labels
        return replace(
            request, between=request.between and isinstance(model, Interpolates), action=action, labels=labels
        )

    def _remembered(self, memory: Any) -> Path | None:
        """The clip that this browser had last, while it is here."""
        try:
            return check_clip(memory["clip"], self.backend.folders)
        except (RequestError, KeyError, TypeError):
            return None

    def _settings_of(self, result: Result) -> dict[str, Any]:
        """Of the page, for this result. How many futures there are stays open where chance had no part in it."""
        settings = usable_settings(result.report["settings"], self.backend.models)
        model = self.backend.models.get(settings.get("model", ""))
        if model and not has_chance(model, settings.get("action", []), settings.get("temperature", 1.0)):
            del settings["futures"]
        return settings

    def _stored(self, metadata: Mapping[str, Any]) -> Result | None:
        try:
            return self.backend.results.get(metadata.get("id"))
        except RequestError:
            return None

    def _own_metadata(self, clip: Path | None) -> dict[str, Any] | None:
        """The metadata of a video that this app made."""
        metadata = None if clip is None or clip in self.backend.examples else read_metadata(clip)
        return {**NEW_SETTINGS, **metadata} if metadata and metadata.get("app") == "stt" else None

    def _original_clip(self, visitor: gr.Request, metadata: Mapping[str, Any]) -> Path | None:
        clip = metadata.get("clip")
        sha256 = clip.get("sha256") if isinstance(clip, dict) else None
        return self.backend.clips.of_content(visitor.session_hash, str(sha256))


def is_square(clip: Path) -> bool:
    return math.isclose(probe(clip).aspect, 1, rel_tol=SQUARE)


def models_of_whole_frames(models: Mapping[str, Predictor]) -> list[str]:
    return [name for name, model in models.items() if model.whole_frames]


def data_of(event: gr.EventData) -> dict[str, Any]:
    return event._data if isinstance(event._data, dict) else {}


def notice(faults: Sequence[str]) -> str:
    """HTML; "" without faults."""
    if not faults:
        return ""
    text = " ".join(map(escape, faults))
    close = '<button type="button" aria-label="Close" title="Close">×</button>'
    return f'<p role="alert"><span><b>Part of the address was left out.</b> {text}</span> {close}</p>'


def hidden() -> Any:
    return gr.update(visible="hidden")


def path_of(clip: Any) -> Any:
    return clip.get("path") if isinstance(clip, dict) else clip


def changed(values: Sequence[Any], **changes: Any) -> list[Any]:
    return [changes.get(name, value) for name, value in zip(ARGUMENTS, values, strict=True)]


def chosen(controls: Sequence[Any]) -> dict[str, Any]:
    """The values that are set, by name."""
    return {name: value for name, value in zip(ARGUMENTS, controls, strict=False) if value != gr.skip()}


def updates(settings: Mapping[str, Any], **more: Any) -> list[Any]:
    """New values of the controls in their order, then of "new seed every time", which a given seed turns off."""
    settings = {**settings, **more}
    return [settings.get(name, gr.skip()) for name in ARGUMENTS] + [False if "seed" in settings else gr.skip()]
