"""A folder of your own videos as recordings: each file decoded once, indexed, split into train and test, labelled.

Index and frames lie in the folder itself (.stt-index.json and .stt-frames), or, where it is read-only, in $STT_CACHE.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache as once
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from stt.checkpoint import write_whole
from train.data.arrays import write_frames
from train.data.readers import ARRAYS, BROKEN, PACK, PACK_INDEX, VIDEOS, cuts, read

INDEX, FRAMES = ".stt-index.json", ".stt-frames"
MOST_WORKERS = 8  # decoders at once
UNREADABLE = 0.05  # share of files that may be skipped, rounded up to whole files
HELD_OUT = 0.08  # least share of the frames that a split by file holds out; whole files make it about a tenth

Entry = dict[str, Any]  # what the index keeps of a file


class Recording(NamedTuple):
    """Frames that follow one another without a break."""

    name: str  # of its file in the folder, with the number of its part where a file has several
    split: str
    label: int  # -1 for none
    pixels: Path  # .npy, (F, size, size, channels) uint8
    actions: Path | None  # .npy, (F, A) float32
    first: int
    last: int  # the frame after its own


# ---- the index ---------------------------------------------------------------------------------------


def listed(folder: Path) -> list[str]:
    """Names of the files that can be read, relative to the folder, sorted; hidden ones are left out."""
    found = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        known = path.name == PACK or path.suffix.lower() in VIDEOS + ARRAYS
        of_pack = path.name == PACK_INDEX and path.with_name(PACK).exists()
        if known and not of_pack and path.is_file() and not any(part.startswith(".") for part in name.parts):
            found.append(name.as_posix())
    return sorted(found)


def place_of(folder: Path, cache: Path | None) -> Path:
    """Where index and frames lie: the folder, or one named after it in `cache`, $STT_CACHE or ~/.cache/stt."""
    if cache is None and os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222:
        return folder
    root = cache or Path(os.environ.get("STT_CACHE") or Path.home() / ".cache" / "stt") / "folders"
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
    return Path(root) / f"{folder.resolve().name}-{digest}"


def state_of(path: Path) -> list[int]:
    """Size and time of a file, and of its index where it is a pack."""
    paths = [path, path.with_name(PACK_INDEX)] if path.name == PACK else [path]
    return [number for p in paths if p.exists() for number in (p.stat().st_size, p.stat().st_mtime_ns)]


def decode(path: Path, out: Path, size: int, channels: int, fit: str) -> Entry:
    """Writes a file's frames to `out` (.npy), its actions beside them; returns what the index keeps of it."""
    state = state_of(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    source = read(path, size, channels, fit, out.parent)
    if source.actions is not None:
        np.save(actions_of(out), np.asarray(source.actions, np.float32))
    write_frames(out, (source.count, size, size, channels), source.frames)
    found = cuts(np.load(out, mmap_mode="r"), source.parts)
    return {
        "state": state, "frames": source.count, "fps": round(source.fps, 3), "size": list(source.size),
        "parts": source.parts, "cuts": found,
        "actions": 0 if source.actions is None else source.actions.shape[-1],
    }  # fmt: skip


def indexed(
    folder: Path, names: list[str], size: int, channels: int, fit: str, cache: Path | None
) -> tuple[dict[str, Entry], dict[str, str], Path]:
    """What is known of files, of new and changed ones by decoding them, why others cannot be read, where frames lie."""
    place, variant = place_of(folder, cache), f"{size}x{size}x{channels}-{fit}"
    path, frames = place / INDEX, place / FRAMES / variant
    index = json.loads(path.read_text()) if path.exists() else {}
    known: dict[str, Entry] = index.get(variant, {})
    errors: dict[str, str] = {}
    entries = {
        name: known[name] for name in names
        if name in known and known[name]["state"] == state_of(folder / name) and frames_of(frames, name).exists()
    }  # fmt: skip
    new = [name for name in names if name not in entries]
    if not new and entries == known:
        return entries, errors, frames
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(cores, MOST_WORKERS))  # a video is decoded in a process of its own
    try:
        jobs = [pool.submit(decode, folder / name, frames_of(frames, name), size, channels, fit) for name in new]
        for name, job in zip(new, tqdm(jobs, desc="decoding", unit="file"), strict=True):
            try:
                entries[name] = job.result()
            except BROKEN as error:
                errors[name] = str(error)
    finally:  # what an interrupted run has done is kept
        pool.shutdown(cancel_futures=True)
        write_whole(path, lambda file: file.write(json.dumps(index | {variant: entries}).encode()))
    return {name: entries[name] for name in names if name in entries}, errors, frames


def frames_of(frames: Path, name: str) -> Path:
    return frames / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.npy"


def actions_of(pixels: Path) -> Path:
    return pixels.with_suffix(".actions.npy")


# ---- recordings --------------------------------------------------------------------------------------


def recordings(
    folder: Path, size: int, channels: int, fit: str, cache: Path | None = None
) -> tuple[list[Recording], tuple[str, ...]]:
    """All recordings of a folder and the names of its classes, decoding what is new.

    The split is told by sub-folders train/ and test/. Else files are drawn by their names for the test split, segments
    and clips one by one where a file has several. Classes are the sub-folders that all files lie in.
    Raises ValueError where there is nothing to read, where more than 5 % of the files (rounded up) cannot be read, and
    where a split would be empty.
    """
    names = listed(folder)
    inner = {name: Path(name).parts for name in names}
    told = {"train", "test"} & {parts[0] for parts in inner.values() if len(parts) > 1}
    if len(told) == 1:
        raise ValueError(f"{folder} has files in {told.pop()}/ alone: it needs both train/ and test/, or neither")
    if told:
        inner = {name: parts[1:] for name, parts in inner.items() if parts[0] in told and len(parts) > 1}
        names = list(inner)
    if not names:
        kinds = ", ".join(kind[1:] for kind in VIDEOS + ARRAYS)
        raise ValueError(f"{folder} holds no file that can be read: {kinds} or {PACK}")
    in_classes = all(len(parts) > 1 for parts in inner.values())
    classes = tuple(sorted({parts[0] for parts in inner.values()})) if in_classes else ()
    entries, errors, frames = indexed(folder, names, size, channels, fit, cache)
    report(folder, len(names), entries, errors)
    found = []
    for name, entry in entries.items():
        parts = entry["parts"]
        ends = [*parts[1:], entry["frames"]]
        pixels, label = frames_of(frames, name), classes.index(inner[name][0]) if classes else -1
        actions = actions_of(pixels) if entry["actions"] else None
        for k, (begin, end) in enumerate(zip(parts, ends, strict=True)):
            unit = f"{name}#{k}" if len(parts) > 1 else name
            borders = [begin, *(cut for cut in entry["cuts"] if begin < cut < end), end]
            split = name.split("/")[0] if told else ""
            for first, last in zip(borders, borders[1:], strict=False):
                found.append(Recording(unit, split, label, pixels, actions, first, last))
    found = found if told else divided(found)
    if len(splits := {r.split for r in found}) < 2:
        raise ValueError(f"{folder} has a {splits.pop()} split alone, of {found[0].name}: another recording is needed")
    return found, classes


def report(folder: Path, files: int, entries: dict[str, Entry], errors: dict[str, str]) -> None:
    """Names what cannot be read; ValueError where that is too much."""
    why = "".join(f"\n  {name}: {reason}" for name, reason in sorted(errors.items()))
    if len(errors) > math.ceil(UNREADABLE * files) or not entries:
        raise ValueError(f"{folder}: {len(errors)} of {files} files cannot be read, at most 5 % may be skipped:{why}")
    if errors:
        say(f"{folder}: skipped {len(errors)} of {files} files, which cannot be read:{why}")


@once
def say(text: str) -> None:
    """Tells on stderr what need not be told twice."""
    print(text, file=sys.stderr)


def divided(found: list[Recording]) -> list[Recording]:
    """Splits by name: those whose names hash lowest are held out until they have 8 % of all frames, but never all."""
    lengths: dict[str, int] = {}
    for r in found:
        lengths[r.name] = lengths.get(r.name, 0) + r.last - r.first
    order = sorted(lengths, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    test, held, wanted = set(), 0, HELD_OUT * sum(lengths.values())
    for name in order[:-1]:
        if held < wanted:
            test.add(name)
            held += lengths[name]
    return [r._replace(split="test" if r.name in test else "train") for r in found]
