"""The page's requests: its limits, which clips it may open, and settings from links and the browser's memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from stt.request import NO_CLIP, PARSERS, Bounds, Request, RequestError, parse_setting, show, to_json
from stt.video import LIMITS

PAGE = Bounds(
    frames=40, futures=8, temperature=2.0, prompt_frames=LIMITS.frames, top_k=1024, stride=8, fps=60.0,
    labels=4, label=999, axes=8,
)  # fmt: skip


def page_request(
    clip: Any, model: Any, *, models: Collection[str], folders: Sequence[Path], **settings: Any
) -> Request:
    """Raises RequestError unless the page can serve every value.

    clip: a path in one of `folders`, or a dict with "path". seed: None or "" draws one. Missing settings have their
    defaults.
    """
    model = _check_model(model, models)
    values = {name: parse_setting(name, value, PAGE) for name, value in {"seed": None, **settings}.items()}
    nothing = not clip and values.get("labels")  # they are imagined without a clip
    return Request(clip=None if nothing else check_clip(clip, folders), model=model, **values)


def usable_settings(values: Any, models: Collection[str], faults: list[str] | None = None) -> dict[str, Any]:
    """The settings of an earlier result, a link or the browser's memory that the page can serve; never raises.

    values: a dict of JSON values, or of a link's texts. faults: gets a sentence for each value that it cannot serve.
    """
    usable: dict[str, Any] = {}
    faults = [] if faults is None else faults
    for name in {"model", *PARSERS} & (values.keys() if isinstance(values, dict) else set()):
        value = values[name]
        try:
            if name == "model":
                usable[name] = _check_model(value, models)
            elif name != "seed" or value not in (None, ""):
                number = isinstance(value, str) and name not in ("fit", "labels", "action", "between")
                usable[name] = to_json(parse_setting(name, _number(value) if number else value, PAGE))
        except RequestError as error:
            faults.append(str(error))
    return usable


def _number(text: str) -> float | str:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def check_clip(clip: Any, folders: Sequence[Path]) -> Path:
    """Raises RequestError unless the clip is a file in one of the folders."""
    if isinstance(clip, dict):
        clip = clip.get("path")
    if clip is None or clip == "":
        raise RequestError(NO_CLIP)
    if not isinstance(clip, str) or "\0" in clip or len(clip) > 4096:
        raise RequestError("The clip must be an uploaded video file.")
    try:
        path = Path(clip).resolve()
        inside, exists = any(path.is_relative_to(folder.resolve()) for folder in folders), path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        inside = exists = False
    if not inside:
        raise RequestError("The clip must be an example or a file that you uploaded.")
    if not exists:
        raise RequestError("The clip is no longer here; upload it again.")
    return path


def _check_model(model: Any, models: Collection[str]) -> str:
    if not isinstance(model, str) or model not in models:
        raise RequestError(f"Model must be one of {', '.join(sorted(models))}, not {show(model)}.")
    return model
