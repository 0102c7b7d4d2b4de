"""The index of a folder of videos: each file is decoded once, cut into shots, split into train and test, labelled.

Index and frames lie in the folder itself (.stt-index.json and .stt-frames), or, where it is read-only, in $STT_CACHE.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from stt.checkpoint import write_whole
from train.data.arrays import write_frames
from train.data.readers import ARRAYS, PACK, PACK_INDEX, READ_ERRORS, VIDEOS, detect_cuts, read

INDEX, FRAMES = ".stt-index.json", ".stt-frames"
MAX_WORKERS = 8  # decoders at once
MAX_UNREADABLE = 0.05  # share of files that may be skipped, rounded up to whole files
TEST_SHARE = 0.08  # least share of the frames that a split by file holds out; whole files make it about a tenth

Entry = dict[str, Any]  # what the index file says of a video


class IndexedVideo(NamedTuple):
    """Frames of a file that follow one another without a cut."""

    name: str  # of its file in the folder, with the number of its segment where a file has several
    split: str
    label: int  # -1 for none
    pixels: Path  # .npy, (F, size, size, channels) uint8
    actions: Path | None  # .npy, (F, A) float32
    first: int
    last: int  # the frame after its own


def index_videos(
    folder: Path, size: int, channels: int, fit: str, cache: Path | None = None
) -> tuple[list[IndexedVideo], tuple[str, ...]]:
    """All shots of a folder's videos and the names of its classes; decodes what is new.

    Sub-folders train/ and test/ say the split. Else files are held out by the hash of their names; where a file has
    several segments or clips, each of them by itself. Classes are the sub-folders if all files lie in one.
    Raises ValueError where there is nothing to read, where more than 5 % of the files (rounded up) cannot be read, and
    where a split would be empty.
    """
    names = list_files(folder)
    inner = {name: Path(name).parts for name in names}
    splits = {"train", "test"} & {parts[0] for parts in inner.values() if len(parts) > 1}
    if len(splits) == 1:
        raise ValueError(f"{folder} has files in {splits.pop()}/ alone: it needs both train/ and test/, or neither")
    if splits:
        inner = {name: parts[1:] for name, parts in inner.items() if parts[0] in splits and len(parts) > 1}
    if not inner:
        suffixes = ", ".join(suffix[1:] for suffix in VIDEOS + ARRAYS)
        raise ValueError(f"{folder} holds no file that can be read: {suffixes} or {PACK}")
    in_classes = all(len(parts) > 1 for parts in inner.values())
    classes = tuple(sorted({parts[0] for parts in inner.values()})) if in_classes else ()
    entries, errors, frames = update_index(folder, list(inner), size, channels, fit, cache)
    check_readable(folder, len(inner), entries, errors)
    videos = []
    for name, entry in entries.items():
        split = name.split("/")[0] if splits else ""
        label = classes.index(inner[name][0]) if classes else -1
        videos += shots_of(name, entry, split, label, frames_file(frames, name))
    videos = videos if splits else split_by_name(videos)
    if len(splits := {v.split for v in videos}) < 2:
        raise ValueError(f"{folder} has a {splits.pop()} split alone, of {videos[0].name}: another video is needed")
    return videos, classes


def list_files(folder: Path) -> list[str]:
    """Names of the files that can be read, relative to the folder, sorted; without hidden ones."""
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        readable = path.name == PACK or path.suffix.lower() in VIDEOS + ARRAYS
        of_pack = path.name == PACK_INDEX and path.with_name(PACK).exists()
        if readable and not of_pack and path.is_file() and not any(part.startswith(".") for part in name.parts):
            names.append(name.as_posix())
    return sorted(names)


def shots_of(name: str, entry: Entry, split: str, label: int, pixels: Path) -> list[IndexedVideo]:
    """A file's segments, cut into shots."""
    segments, shots = entry["parts"], []
    actions = actions_file(pixels) if entry["actions"] else None
    for k, (begin, end) in enumerate(zip(segments, [*segments[1:], entry["frames"]], strict=True)):
        segment = f"{name}#{k}" if len(segments) > 1 else name
        borders = [begin, *(cut for cut in entry["cuts"] if begin < cut < end), end]
        for first, last in zip(borders, borders[1:], strict=False):
            shots.append(IndexedVideo(segment, split, label, pixels, actions, first, last))
    return shots


def split_by_name(videos: list[IndexedVideo]) -> list[IndexedVideo]:
    """Holds out the names that hash lowest until they have 8 % of all frames, but never all names."""
    lengths: dict[str, int] = {}
    for v in videos:
        lengths[v.name] = lengths.get(v.name, 0) + v.last - v.first
    order = sorted(lengths, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    test, frames = set(), 0
    for name in order[:-1]:
        if frames < TEST_SHARE * sum(lengths.values()):
            test.add(name)
            frames += lengths[name]
    return [v._replace(split="test" if v.name in test else "train") for v in videos]


def check_readable(folder: Path, files: int, entries: dict[str, Entry], errors: dict[str, str]) -> None:
    """Names the files that cannot be read; ValueError where they are too many."""
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in sorted(errors.items()))
    if len(errors) > math.ceil(MAX_UNREADABLE * files) or not entries:
        raise ValueError(
            f"{folder}: {len(errors)} of {files} files cannot be read, at most 5 % may be skipped:{reasons}"
        )
    if errors:
        warn_once(f"{folder}: skipped {len(errors)} of {files} files, which cannot be read:{reasons}")


@cache
def warn_once(text: str) -> None:
    print(text, file=sys.stderr)


# ---- the index file and the decoded frames -----------------------------------------------------------


def update_index(
    folder: Path, names: list[str], size: int, channels: int, fit: str, cache: Path | None
) -> tuple[dict[str, Entry], dict[str, str], Path]:
    """Decodes new and changed files. Returns entries by name, errors of unreadable files, and the frames' folder."""
    place, variant = index_folder(folder, cache), f"{size}x{size}x{channels}-{fit}"
    path, frames = place / INDEX, place / FRAMES / variant
    index = json.loads(path.read_text()) if path.exists() else {}
    old: dict[str, Entry] = index.get(variant, {})
    errors: dict[str, str] = {}
    entries = {
        name: old[name] for name in names
        if name in old and old[name]["state"] == fingerprint(folder / name) and frames_file(frames, name).exists()
    }  # fmt: skip
    new = [name for name in names if name not in entries]
    if not new and entries == old:
        return entries, errors, frames
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(cores, MAX_WORKERS))  # a video is decoded in a process of its own
    try:
        jobs = [pool.submit(decode, folder / name, frames_file(frames, name), size, channels, fit) for name in new]
        for name, job in zip(new, tqdm(jobs, desc="decoding", unit="file"), strict=True):
            try:
                entries[name] = job.result()
            except READ_ERRORS as error:
                errors[name] = str(error)
    finally:  # an interrupted run keeps what it has done
        pool.shutdown(cancel_futures=True)
        text = json.dumps(index | {variant: entries})
        write_whole(path, lambda file: file.write(text.encode()))
    return {name: entries[name] for name in names if name in entries}, errors, frames


def decode(path: Path, out: Path, size: int, channels: int, fit: str) -> Entry:
    """Writes a file's frames to `out` (.npy) and its actions beside them; returns its entry of the index."""
    state = fingerprint(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    video = read(path, size, channels, fit, out.parent)
    if video.actions is not None:
        np.save(actions_file(out), np.asarray(video.actions, np.float32))
    write_frames(out, (video.count, size, size, channels), video.frames)
    cuts = detect_cuts(np.load(out, mmap_mode="r"), video.segments)
    return {
        "state": state, "frames": video.count, "fps": round(video.fps, 3), "size": list(video.size),
        "parts": video.segments, "cuts": cuts, "actions": 0 if video.actions is None else video.actions.shape[-1],
    }  # fmt: skip


def index_folder(folder: Path, cache: Path | None) -> Path:
    """Where index and frames lie: the folder, or one named after it in `cache`, $STT_CACHE or ~/.cache/stt."""
    if cache is None and os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222:
        return folder
    root = cache or Path(os.environ.get("STT_CACHE") or Path.home() / ".cache" / "stt") / "folders"
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
    return Path(root) / f"{folder.resolve().name}-{digest}"


def fingerprint(path: Path) -> list[int]:
    """Size and time of a file, and of its index where it is a pack."""
    paths = [path, path.with_name(PACK_INDEX)] if path.name == PACK else [path]
    return [number for p in paths if p.exists() for number in (p.stat().st_size, p.stat().st_mtime_ns)]


def frames_file(frames: Path, name: str) -> Path:
    return frames / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.npy"


def actions_file(pixels: Path) -> Path:
    return pixels.with_suffix(".actions.npy")
