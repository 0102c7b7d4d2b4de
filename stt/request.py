"""What a prediction is asked for: settings, their limits, and what the model must support.

Every error is one plain sentence for the person who asks.
"""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stt.api import MAX_SEED, Condition, Interpolates, Predictor, Sampling

FITS = ("auto", "crop", "pad")  # auto: the whole picture for models that take it, else crop
NO_CLIP = "Choose an example or upload a clip first."
DECIMAL = r"[-+]?(\d+\.?\d*|\.\d+)"


def to_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class RequestError(ValueError):
    """The message is one sentence: no path, no type name, no traceback."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """The largest values that a request may have. The library and the command line set none."""

    frames: float = math.inf
    futures: float = math.inf
    temperature: float = math.inf
    prompt_frames: float = math.inf
    top_k: float = math.inf
    stride: float = math.inf
    fps: float = math.inf
    labels: float = math.inf  # how many
    label: float = math.inf  # the highest class
    axes: float = math.inf  # numbers of an action


UNBOUNDED = Bounds()


@dataclass(frozen=True)
class Request:
    """Its defaults are those of the page, the API and the command line."""

    clip: Path | None  # None: imagine the labels
    model: str
    frames: int = 20
    temperature: float = 1.0
    seed: int = 0
    futures: int = 4
    prompt_frames: int = 0  # the future starts after this frame of the clip; 0: after the last one
    top_k: int = 0
    top_p: float = 1.0
    stride: int = 0  # every n-th frame of the file; 0: frames at the rate that the model learned at
    fit: str = "auto"
    fps: float = 0.0  # frame rate of the output; 0: the clip's own
    labels: tuple[int, ...] = ()  # classes to imagine without the clip, -1 for any; none: continue the clip
    between: bool = False  # fill a gap in the clip: `frames` frames after the prompt frames
    action: tuple[float, ...] = ()  # applied at every new frame; none: the model chooses

    @property
    def seeds(self) -> list[int]:
        """One seed per future. Future k alone has seed + k."""
        return [(self.seed + k) % (MAX_SEED + 1) for k in range(self.futures)]

    @property
    def actions(self) -> tuple[tuple[float, ...], ...]:
        """The rows of a `Condition`, whose last row repeats."""
        return (self.action,) if self.action else ()

    def sampling(self, model: Predictor) -> Sampling:
        """The settings that the model uses; the others keep their defaults."""
        return Sampling(**self._used(Sampling, model))

    def condition(self, model: Predictor) -> Condition:
        """The labels and the action, if the model uses them. Raises RequestError for what it cannot honour."""
        self.check_support(model)
        return Condition(**self._used(Condition, model))

    def _used(self, cls: type[Sampling | Condition], model: Predictor) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(cls) if field.name in model.knobs}

    def check_support(self, model: Predictor) -> None:
        """Raises RequestError for labels, an action or a gap that the model cannot handle."""
        classes, places = label_space(model)
        axes = action_axes(model)
        if self.clip is None and not (self.labels and classes):
            raise RequestError(NO_CLIP)
        if self.action and len(self.action) != len(axes):
            numbers, names = ", ".join(f"{number:g}" for number in self.action), ", ".join(axes)
            takes = f"{len(axes)} number{'s' * (len(axes) > 1)} ({names})" if axes else "no action"
            raise RequestError(f"Action is {numbers}, but {self.model} takes {takes}.")
        if self.action and (self.labels or self.between):
            other = "a gap" if self.between else "labels"
            raise RequestError(f"An action and {other} cannot be combined; choose one of them.")
        if self.between and not isinstance(model, Interpolates):
            raise RequestError(f"{self.model} only continues clips; it cannot fill a gap.")
        if self.between and classes and self.labels:
            raise RequestError("Labels and a gap cannot be combined; choose one of them.")
        if classes and (len(self.labels) > places or max(self.labels, default=-1) >= classes):
            labels = ", ".join(map(str, self.labels))
            raise RequestError(
                f"Labels are {labels}, but {self.model} takes up to {places} of 0 to {classes - 1}, or -1 for any."
            )

    def settings(self) -> dict[str, Any]:
        """All but the clip, as JSON: enough to repeat the request."""
        return {name: to_json(value) for name, value in dataclasses.asdict(self).items() if name != "clip"}


DEFAULTS: dict[str, Any] = {
    field.name: to_json(field.default) for field in dataclasses.fields(Request) if field.name not in ("clip", "model")
} | {"seed": None}  # drawn
ANY_CLIP_FRAMES = 10  # beyond a second, a model for any clip is a guess


# ---- what a model supports -------------------------------------------------------------------------------


def usual_frames(model: Predictor) -> int:
    """How many frames to predict where nobody says."""
    return ANY_CLIP_FRAMES if model.whole_frames else Request.frames


def label_space(model: Predictor) -> tuple[int, int]:
    """(number of classes that the model can imagine, most labels of one clip); (0, 0) for other models."""
    if "labels" not in model.knobs:
        return 0, 0
    config: Any = model.config  # of a family with these fields
    return config.classes, config.labels


def action_axes(model: Predictor) -> tuple[str, ...]:
    """A name for each number of an action; () for a model without actions."""
    return model.config.actions if "actions" in model.knobs else ()


def is_stochastic(model: Predictor) -> bool:
    """Whether the seed changes the result."""
    return "temperature" in model.knobs


def has_chance(model: Predictor, action: Sequence[float], temperature: float) -> bool:
    """Whether the seed changes the result under these settings; without, there is one future to compute."""
    return is_stochastic(model) and temperature > 0 and not (bool(action) and model.random_actions_only)


def describe_action(action: Mapping[str, float]) -> str:
    """Axis names and values as text: "push right 0.5, push up -1"."""
    return ", ".join(f"{name} {number:g}" for name, number in action.items())


def describe_labels(labels: Sequence[int]) -> str:
    """Labels as text: "3 and 7", "any"."""
    return " and ".join("any" if label < 0 else str(label) for label in labels)


# ---- settings from JSON and text -------------------------------------------------------------------------


def random_seed() -> int:
    """At most six digits, which people can read and type."""
    return secrets.randbelow(1_000_000)


def parse_setting(name: str, value: Any, bounds: Bounds = UNBOUNDED) -> Any:
    """The checked value of one field of a Request, from JSON or text. Raises RequestError.

    seed: None or "" draws one. labels, action: a list, a number, or a text such as "3, 7", "any" or "free".
    """
    return PARSERS[name](value, bounds)


def show(value: Any) -> str:
    """A short, harmless rendering: an input may be long, or markup."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, str):
        value = "".join(c if c.isprintable() else repr(c)[1:-1] for c in value[:41])
        return f'"{value if len(value) <= 40 else value[:37] + "..."}"'
    if isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number that large"
    return f"a {type(value).__name__}"


def _range(low: float, high: float) -> str:
    return f"from {low:g} to {high:.10g}" if math.isfinite(high) else f"of at least {low:g}"


def _whole(name: str, value: Any, low: int, high: float) -> int:
    number = _number(value)
    if number is None or not low <= number <= high or number != int(number):  # in this order: NaN has no int
        raise RequestError(f"{name} must be a whole number {_range(low, high)}, not {show(value)}.")
    return int(number)


def _real(name: str, value: Any, low: float, high: float) -> float:
    number = _number(value)
    if number is None or not low <= number <= high:
        raise RequestError(f"{name} must be a number {_range(low, high)}, not {show(value)}.")
    return float(number)


def _number(value: Any) -> int | float | None:
    """The number, if it is a finite one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None


def _seed(value: Any) -> int:
    return random_seed() if value is None or value == "" else _whole("Seed", value, 0, MAX_SEED)


def _top_p(value: Any) -> float:
    number = _number(value)
    if number is None or not 0 < number <= 1:
        raise RequestError(f"Top-p must be a number above 0 and at most 1, not {show(value)}.")
    return float(number)


def _fit(value: Any) -> str:
    if value not in FITS:
        raise RequestError(f"Fit must be one of {', '.join(FITS)}, not {show(value)}.")
    return value


def _between(value: Any) -> bool:
    """A link holds it as text."""
    switch = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise RequestError(f"Between must be true or false, not {show(value)}.")
    return switch


def _labels(value: Any, bounds: Bounds) -> tuple[int, ...]:
    labels = _items(
        value, lambda word: -1 if word == "any" else int(word) if re.fullmatch(r"-?\d{1,4}", word) else word
    )
    valid = all(_number(label) is not None and -1 <= label <= bounds.label and label == int(label) for label in labels)
    if len(labels) > bounds.labels or not valid:
        most = f"up to {bounds.labels:g} " if math.isfinite(bounds.labels) else ""
        top = f"to {bounds.label:g}" if math.isfinite(bounds.label) else "up"
        raise RequestError(f"Labels must be {most}whole numbers from -1 (any) {top}, not {_show_items(value, labels)}.")
    return tuple(map(int, labels))


def _action(value: Any, bounds: Bounds) -> tuple[float, ...]:
    axes = _items(value, lambda word: float(word) if re.fullmatch(DECIMAL, word) else word)
    axes = [] if axes == ["free"] and isinstance(value, str) else axes
    if len(axes) > bounds.axes or not all(_number(axis) is not None and -1 <= axis <= 1 for axis in axes):
        most = f"up to {bounds.axes:g} " if math.isfinite(bounds.axes) else ""
        raise RequestError(f"Action must be {most}numbers from -1 to 1, or free, not {_show_items(value, axes)}.")
    return tuple(axis + 0.0 for axis in axes)  # -0.0 becomes 0.0


def _items(value: Any, parse: Callable[[str], Any]) -> list[Any]:
    """The items of a list, a single value, or a text with commas or blanks; None has none."""
    if isinstance(value, str):
        return [parse(word) for word in re.findall(r"[^\s,]+", value.strip("[] "))]
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def _show_items(value: Any, items: Sequence[Any]) -> str:
    return ", ".join(map(show, items[:9])) if isinstance(value, list | tuple) else show(value)


PARSERS: dict[str, Callable[[Any, Bounds], Any]] = {
    "frames": lambda value, bounds: _whole("Frames", value, 1, bounds.frames),
    "temperature": lambda value, bounds: _real("Temperature", value, 0, bounds.temperature),
    "seed": lambda value, bounds: _seed(value),
    "futures": lambda value, bounds: _whole("Futures", value, 1, bounds.futures),
    "prompt_frames": lambda value, bounds: _whole("Prompt frames", value, 0, bounds.prompt_frames),
    "top_k": lambda value, bounds: _whole("Top-k", value, 0, bounds.top_k),
    "top_p": lambda value, bounds: _top_p(value),
    "stride": lambda value, bounds: _whole("Stride", value, 0, bounds.stride),
    "fit": lambda value, bounds: _fit(value),
    "fps": lambda value, bounds: _real("Frames per second", value, 0 if value == 0 else 1, bounds.fps),
    "labels": _labels,
    "between": lambda value, bounds: _between(value),
    "action": _action,
}
