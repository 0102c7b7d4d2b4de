"""What a visitor asks for, checked before anything runs; every refusal is one plain sentence."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stt.api import MAX_SEED, Condition, Interpolates, Predictor, Sampling

MAX_FRAMES = 40
MAX_FUTURES = 8
MAX_TEMPERATURE = 2.0
MAX_TOP_K = 1024
MAX_STRIDE = 8
MAX_FPS = 60.0
MAX_PROMPT = 600  # frames; as many as are read of a clip
MAX_LABELS, MAX_LABEL = 4, 999  # how many, and the highest
MAX_AXES = 8  # numbers of an action
FITS = ("crop", "pad")
LISTS = ("labels", "action")  # settings that a link gives as several numbers
DECIMAL = r"[-+]?(\d+\.?\d*|\.\d+)"
NO_CLIP = "Choose an example or upload a clip first."


class Refused(ValueError):
    """The message is one sentence for the visitor: no path, no type name, no traceback."""


@dataclass(frozen=True)
class Request:
    clip: Path
    model: str
    frames: int = 10
    temperature: float = 1.0
    seed: int = 0
    futures: int = 4
    prompt_frames: int = 0  # where the future starts; 0 is after the clip's last frame
    top_k: int = 0
    top_p: float = 1.0
    stride: int = 1  # every n-th frame of the file
    fit: str = "crop"
    fps: float = 0.0  # of what is made; 0 is the clip's own
    labels: tuple[int, ...] = ()  # what to imagine without the clip, -1 for any; none continues it
    between: bool = False  # fill a gap in the clip: so many frames from where the future would start
    action: tuple[float, ...] = ()  # what is done at every new frame; none leaves it to the model

    @property
    def seeds(self) -> list[int]:
        """One per future; seed k with one future gives future k again."""
        return [(self.seed + k) % (MAX_SEED + 1) for k in range(self.futures)]

    @property
    def actions(self) -> tuple[tuple[float, ...], ...]:
        """As a Condition has them, whose last one goes on."""
        return (self.action,) if self.action else ()

    def sampling(self, model: Predictor) -> Sampling:
        """Only what the model honours differs from the defaults; raises Refused for what it cannot do."""
        classes, places = imaginable(model)
        words = steerable(model)
        if self.action and len(self.action) != len(words):
            asked, called = ", ".join(f"{number:g}" for number in self.action), ", ".join(words)
            takes = f"{len(words)} number{'s' * (len(words) > 1)} ({called})" if words else "none; leave it out"
            raise Refused(f"Action is {asked}, but {self.model} takes {takes}.")
        if self.action and (self.labels or self.between):
            other = "in between fills a gap in it" if self.between else "labels imagine another from nothing"
            raise Refused(f"An action leads on from the clip and {other}; ask for one of them.")
        if self.between and not isinstance(model, Interpolates):
            raise Refused(f"{self.model} only continues clips and fills no gaps; leave out in between.")
        if self.between and classes and self.labels:
            raise Refused("Labels imagine a clip from nothing and in between fills a gap in one; ask for one of them.")
        if classes and (len(self.labels) > places or max(self.labels, default=-1) >= classes):
            asked = ", ".join(map(str, self.labels))
            raise Refused(
                f"Labels are {asked}, but {self.model} takes up to {places} of 0 to {classes - 1}, or -1 for any."
            )
        return self._of(Sampling, model)

    def condition(self, model: Predictor) -> Condition:
        """What the model takes of labels and actions; of a request that `sampling` lets pass."""
        return self._of(Condition, model)

    def _of(self, cls: type, model: Predictor) -> Any:
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: getattr(self, name) for name in names if name in model.knobs})

    def settings(self) -> dict[str, Any]:
        """All but the clip, as JSON: enough to ask for the same again."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items() if name != "clip"}


def imaginable(model: Predictor) -> tuple[int, int]:
    """(how many classes a model can imagine, how many of them in one clip); (0, 0) if it only continues clips."""
    return (model.config.classes, model.config.labels) if "labels" in model.knobs else (0, 0)


def steerable(model: Predictor) -> tuple[str, ...]:
    """What each number of an action does, in words; () if the model takes no action."""
    return model.config.actions if "actions" in model.knobs else ()


def spoken(action: Mapping[str, float]) -> str:
    """An action in words: "push right 0.5, push up -1"."""
    return ", ".join(f"{word} {number:g}" for word, number in action.items())


def called(labels: Sequence[int]) -> str:
    """Labels in words: "3 and 7", "any"."""
    return " and ".join("any" if label < 0 else str(label) for label in labels)


def random_seed() -> int:
    """Of six digits at most, which people can read and type."""
    return secrets.randbelow(1_000_000)


def check(clip: Any, model: Any, *, models: Collection[str], folders: Sequence[Path], **settings: Any) -> Request:
    """Raises Refused unless every value is one that the app can serve.

    clip: a path or a dict with "path", in one of `folders`. seed: None or "" draws one. What is left out has
    its default.
    """
    model = _model(model, models)
    values = {name: CHECKS[name](value) for name, value in {"seed": None, **settings}.items()}
    return Request(clip=_clip(clip, folders), model=model, **values)


def remembered(values: Any, models: Collection[str]) -> dict[str, Any]:
    """Those settings of an earlier run, a link or a browser's memory that can be served here; never raises.

    values: a dict of JSON values, or of a link's texts.
    """
    kept: dict[str, Any] = {}
    checks = CHECKS | {
        "model": lambda model: _model(model, models),
        "seed": lambda seed: _whole("Seed", seed, 0, MAX_SEED),
    }
    for name in checks.keys() & (values if isinstance(values, dict) else {}):
        value = values[name]
        with suppress(Refused, ValueError):
            number = isinstance(value, str) and name not in ("model", "fit", *LISTS, "between")
            kept[name] = _plain(checks[name](float(value) if number else value))
    return kept


def _model(model: Any, models: Collection[str]) -> str:
    if not isinstance(model, str) or model not in models:
        raise Refused(f"Model must be one of {', '.join(sorted(models))}, not {_show(model)}.")
    return model


def _clip(clip: Any, folders: Sequence[Path]) -> Path:
    if isinstance(clip, dict):
        clip = clip.get("path")
    if clip is None or clip == "":
        raise Refused(NO_CLIP)
    if not isinstance(clip, str) or "\0" in clip or len(clip) > 4096:
        raise Refused("The clip must be an uploaded video file.")
    try:
        path = Path(clip).resolve()
        known, here = any(path.is_relative_to(folder.resolve()) for folder in folders), path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        known = here = False
    if not known:
        raise Refused("The clip must be an example or a file that you uploaded.")
    if not here:
        raise Refused("The clip is no longer here, upload it again.")
    return path


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = _number(value)
    if number is None or not low <= number <= high or number != int(number):  # in this order: NaN is no integer
        raise Refused(f"{name} must be a whole number from {low} to {high}, not {_show(value)}.")
    return int(number)


def _real(name: str, value: Any, low: float, high: float) -> float:
    number = _number(value)
    if number is None or not low <= number <= high:  # also refuses NaN
        raise Refused(f"{name} must be a number from {low:g} to {high:g}, not {_show(value)}.")
    return float(number)


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return list(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    """A short, harmless rendering: what was sent may be long, or markup."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, str):
        return f'"{value if len(value) <= 40 else value[:37] + "..."}"'
    if isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number that large"
    return f"a {type(value).__name__}"


def _seed(value: Any) -> int:
    return random_seed() if value is None or value == "" else _whole("Seed", value, 0, MAX_SEED)


def _fit(value: Any) -> str:
    if value not in FITS:
        raise Refused(f"Fit must be one of {', '.join(FITS)}, not {_show(value)}.")
    return value


def _between(value: Any) -> bool:
    """A link says it in words."""
    switch = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise Refused(f"In between must be true or false, not {_show(value)}.")
    return switch


def _labels(value: Any) -> tuple[int, ...]:
    """Of a list, a number, or a text such as "3, 7" or "any"; nothing is none."""
    labels = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if isinstance(value, str):
        words = re.findall(r"[^\s,]+", value.strip("[] "))
        labels = [-1 if word == "any" else int(word) if re.fullmatch(r"-?\d{1,4}", word) else word for word in words]
    if len(labels) > MAX_LABELS or not all(_is_label(label) for label in labels):
        shown = ", ".join(map(_show, labels[:5])) if isinstance(value, list | tuple) else _show(value)
        raise Refused(f"Labels must be up to {MAX_LABELS} whole numbers from -1 (any) to {MAX_LABEL}, not {shown}.")
    return tuple(map(int, labels))


def _action(value: Any) -> tuple[float, ...]:
    """Of a list, a number, or a text such as "0.5, -1"; "free" and nothing are none."""
    axes = value if isinstance(value, list | tuple) else [] if value is None else [value]
    if isinstance(value, str):
        words = re.findall(r"[^\s,]+", value.strip("[] "))
        axes = [] if words == ["free"] else [float(word) if re.fullmatch(DECIMAL, word) else word for word in words]
    numbers = [_number(axis) for axis in axes]
    if len(axes) > MAX_AXES or not all(number is not None and -1 <= number <= 1 for number in numbers):
        shown = ", ".join(map(_show, axes[: MAX_AXES + 1])) if isinstance(value, list | tuple) else _show(value)
        raise Refused(f"Action must be up to {MAX_AXES} numbers from -1 to 1, or free, not {shown}.")
    return tuple(number + 0.0 for number in numbers)  # -0.0 becomes 0.0


def _is_label(value: Any) -> bool:
    number = _number(value)
    return number is not None and -1 <= number <= MAX_LABEL and number == int(number)


CHECKS: dict[str, Callable[[Any], Any]] = {
    "frames": lambda value: _whole("Frames", value, 1, MAX_FRAMES),
    "temperature": lambda value: _real("Temperature", value, 0, MAX_TEMPERATURE),
    "seed": _seed,
    "futures": lambda value: _whole("Futures", value, 1, MAX_FUTURES),
    "prompt_frames": lambda value: _whole("Frames used as prompt", value, 0, MAX_PROMPT),
    "top_k": lambda value: _whole("Top-k", value, 0, MAX_TOP_K),
    "top_p": lambda value: _real("Top-p", value, 0.01, 1),
    "stride": lambda value: _whole("Stride", value, 1, MAX_STRIDE),
    "fit": _fit,
    "fps": lambda value: _real("Frames a second", value, 0 if value == 0 else 1, MAX_FPS),
    "labels": _labels,
    "between": _between,
    "action": _action,
}
