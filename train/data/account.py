"""What was understood of a folder of videos, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any

from stt.checkpoint import write_whole

REPORTED: set[str] = set()  # folders whose account was printed
MAX_NAMES, MAX_LINES = 6, 24  # of a list in the text; the JSON has all


@dataclass(frozen=True, kw_only=True)
class Account:
    """files: how many can be read. sizes: how many have each "WIDTHxHEIGHT". fps: rates by file, 0 for none."""

    folder: str
    files: int
    frames: int
    sizes: dict[str, int]
    fps: dict[str, float]
    split: str  # how it was made
    classes: list[str]
    split_files: dict[str, int] = field(default_factory=dict)  # by split
    no_classes: str = ""  # why there are none
    actions: str = "none"
    passed_over: dict[str, str] = field(default_factory=dict)  # reasons by name
    too_short: dict[str, str] = field(default_factory=dict)  # for a clip, by name
    notes: dict[str, list[str]] = field(default_factory=dict)  # by name
    clips: dict[str, Any] = field(default_factory=dict)  # frames, fps, stride, and how many by split
    slower: list[str] = field(default_factory=list)  # files of a lower rate than the clips
    resampled: list[str] = field(default_factory=list)  # files whose rate is another than the clips'

    @property
    def rates(self) -> list[float]:
        return sorted(rate for rate in self.fps.values() if rate > 0)

    def to_json(self) -> dict[str, Any]:
        rates = self.rates
        summary = {"min": rates[0], "median": median_low(rates), "max": rates[-1]} if rates else {}
        return dataclasses.asdict(self) | {"rates": summary | {"unknown": len(self.fps) - len(rates)}}

    def publish(self, path: Path) -> None:
        """Writes it as JSON, and prints it unless this process has printed one of the same folder."""
        if first_time(self.folder):
            print(self.text(), file=sys.stderr)  # so that a command's figures stay alone on stdout
        text = json.dumps(self.to_json(), indent=1)
        write_whole(path, lambda file: file.write(text.encode()))

    def text(self) -> str:
        """A line for each thing, then a line for each reason and note."""
        rows = {
            "files": f"{self.files} read"
            + f", {len(self.too_short)} of them too short" * bool(self.too_short)
            + f"; {len(self.passed_over)} passed over" * bool(self.passed_over),
            "frames": f"{self.frames:,} of {self._sizes()}",
            "rates": self._rates(),
            "clips": self._clips(),
            "split": self.split
            + "; {train} to train on, {test} held out".format_map({"train": 0, "test": 0} | self.split_files),
            "classes": ", ".join(map(printable, self.classes)) or f"none{self.no_classes and ': ' + self.no_classes}",
            "actions": self.actions,
        }
        lines = [printable(self.folder), *(f"  {name:8} {value}" for name, value in rows.items() if value)]
        for title, reasons in (("passed over", self.passed_over), ("too short", self.too_short)):
            lines += self._grouped(title, {name: [reason] for name, reason in reasons.items()})
        slower = {name: ["slower than the clips: frames repeat"] for name in self.slower}
        notes = {name: self.notes.get(name, []) + slower.get(name, []) for name in [*self.notes, *self.slower]}
        return "\n".join(lines + self._grouped("notes", notes))

    def _sizes(self) -> str:
        sizes = sorted(self.sizes, key=lambda size: [int(side) for side in size.split("x")])
        return sizes[0] if len(sizes) == 1 else f"{len(sizes)} sizes, {sizes[0]} to {sizes[-1]}"

    def _rates(self) -> str:
        rates, unknown = self.rates, len(self.fps) - len(self.rates)
        text = f"{rates[0]:g} to {rates[-1]:g} frames a second, median {median_low(rates):g}" if rates else ""
        return text + (f"{'; ' if text else ''}{unknown} file{'s' * (unknown > 1)} without a rate" if unknown else "")

    def _clips(self) -> str:
        c = self.clips
        if not c:
            return ""
        text = f"{c['train']:,} to train on and {c['test']:,} held out, of {c['frames']} frames"
        text += f" at {c['fps']:g} frames a second" if c["fps"] else ""
        if self.resampled:
            text += f"; {len(self.resampled)} of {len(self.fps)} files have other rates and are resampled"
        if c["stride"] > 1 and len(self.rates) < len(self.fps):
            text += f"; one of {c['stride']} frames of files without a rate"
        return text

    def _grouped(self, title: str, reasons: dict[str, list[str]]) -> list[str]:
        names: dict[str, list[str]] = {}
        for name, texts in reasons.items():
            for text in texts:
                names.setdefault(text, []).append(name)
        lines = [f"    {some(group)}: {text}" for text, group in names.items()]
        lines = lines[:MAX_LINES] + [f"    and {len(lines) - MAX_LINES} lines more"] * (len(lines) > MAX_LINES)
        return [f"  {title}", *lines] if lines else []


def some(names: list[str]) -> str:
    """A few names, and how many there are more."""
    more = len(names) - MAX_NAMES
    return ", ".join(map(printable, names[:MAX_NAMES])) + (f" and {more} more" if more > 0 else "")


def lines_of(reasons: dict[str, str]) -> str:
    """Reasons by name for the end of a message: a line for each of the first ones."""
    lines = [f"\n  {printable(name)}: {reason}" for name, reason in sorted(reasons.items())]
    return "".join(lines[:MAX_LINES]) + f"\n  and {len(lines) - MAX_LINES} more" * (len(lines) > MAX_LINES)


def printable(name: str) -> str:
    """A source's name on one line: it may hold any character."""
    if name == ".":
        return "its own frames"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def count_sizes(sizes: list[tuple[int, int]]) -> dict[str, int]:
    return {f"{width}x{height}": count for (width, height), count in sorted(Counter(sizes).items())}


def first_time(folder: str) -> bool:
    new = folder not in REPORTED
    REPORTED.add(folder)
    return new


def from_json(values: dict[str, Any]) -> Account:
    names = {f.name for f in dataclasses.fields(Account)}
    return Account(**{name: value for name, value in values.items() if name in names})
