"""What a visitor asks for, checked before anything runs; every refusal is one plain sentence."""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stt.api import MAX_SEED

MAX_FRAMES = 40
MAX_FUTURES = 8
MAX_TEMPERATURE = 2.0
NO_CLIP = "Choose an example or upload a clip first."


class Refused(ValueError):
    """The message is one sentence for the visitor: no path, no type name, no traceback."""


@dataclass(frozen=True)
class Request:
    clip: Path
    model: str
    frames: int
    temperature: float
    seed: int
    futures: int

    @property
    def seeds(self) -> list[int]:
        """One per future; seed k with one future gives future k again."""
        return [(self.seed + k) % (MAX_SEED + 1) for k in range(self.futures)]


def random_seed() -> int:
    return secrets.randbelow(MAX_SEED + 1)


def check(
    clip: Any,
    model: Any,
    frames: Any,
    temperature: Any,
    seed: Any,
    futures: Any,
    *,
    models: Collection[str],
    folders: Sequence[Path],
) -> Request:
    """Raises Refused unless every value is one that the app can serve.

    clip: a path or a dict with "path", in one of `folders`. seed: None or "" draws one.
    """
    if not isinstance(model, str) or model not in models:
        raise Refused(f"Model must be one of {', '.join(sorted(models))}, not {_show(model)}.")
    return Request(
        clip=_clip(clip, folders),
        model=model,
        frames=_whole("Frames", frames, 1, MAX_FRAMES),
        temperature=_temperature(temperature),
        seed=random_seed() if seed is None or seed == "" else _whole("Seed", seed, 0, MAX_SEED),
        futures=_whole("Futures", futures, 1, MAX_FUTURES),
    )


def _clip(clip: Any, folders: Sequence[Path]) -> Path:
    if isinstance(clip, dict):
        clip = clip.get("path")
    if clip is None or clip == "":
        raise Refused(NO_CLIP)
    if not isinstance(clip, str) or "\0" in clip or len(clip) > 4096:
        raise Refused("The clip must be an uploaded video file.")
    path = Path(clip).resolve()
    if not any(path.is_relative_to(folder.resolve()) for folder in folders):
        raise Refused("The clip must be an example or a file that you uploaded.")
    if not path.is_file():
        raise Refused("The clip is no longer here, upload it again.")
    return path


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = _number(value)
    if number is None or not math.isfinite(number) or number != int(number) or not low <= number <= high:
        raise Refused(f"{name} must be a whole number from {low} to {high}, not {_show(value)}.")
    return int(number)


def _temperature(value: Any) -> float:
    number = _number(value)
    if number is None or not 0 <= number <= MAX_TEMPERATURE:  # also refuses NaN
        raise Refused(f"Temperature must be a number from 0 to {MAX_TEMPERATURE:g}, not {_show(value)}.")
    return float(number)


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


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
