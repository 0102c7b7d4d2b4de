"""Values of flags, checked before the work."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from stt.checkpoint import check_writable


def count(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 1 or more")
    return value


def whole(text: str) -> int:
    """A whole number of 0 or more, for argparse."""
    return 0 if text == "0" else count(text)


def number(text: str) -> float:
    """A finite number of 0 or more, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of 0 or more")
    return value


def place(text: str) -> Path:
    """A path for argparse, which takes an empty text for the present folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def check_output(
    flag: str, path: Path | None, *, folder: bool = False, parents: bool = False, endings: tuple[str, ...] = ()
) -> None:
    """SystemExit, before the work, where a flag names what cannot be written, or a file of another ending.

    parents: a file whose folder may be missing.
    """
    if path is None:
        return
    if endings and path.suffix.lower() not in endings:
        raise SystemExit(f"{flag} {path}: its name must end in {', '.join(endings)}")
    try:
        if parents:
            check_writable(path.parent, folder=True)
        if not parents or path.parent.exists():
            check_writable(path, folder=folder)
    except ValueError as error:
        raise SystemExit(f"{flag} {error}") from error
