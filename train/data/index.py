"""The index of a folder of videos: each file is decoded once, cut into shots, split into train and test, labelled.

Index and frames lie in the folder itself (.stt-index.json and .stt-frames), or, where it is read-only, in $STT_CACHE.
Beside them lie the split (.stt-split.json) and what was understood of the folder (.stt-account.json).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from stt.checkpoint import write_whole
from stt.ffmpeg import VIDEO_ENDINGS
from train.data.account import Account, count_sizes, lines_of, printable, some
from train.data.arrays import ArrayOptions, extremes, open_array, write_frames
from train.data.readers import READ_ERRORS, ReadOptions, detect_cuts, read
from train.data.sources import ARRAYS, PACK, PICTURES, Source, list_sources, repeated
from train.data.splits import (
    RECORD,
    file_of,
    read_record,
    split_by_folders,
    split_by_name,
    write_record,
)

INDEX, FRAMES, ACCOUNT = ".stt-index.json", ".stt-frames", ".stt-account.json"
READER = 3  # entries of older readers are decoded anew
ENTRY = {
    "state": list, "frames": int, "fps": (int, float), "size": list, "parts": list, "cuts": list, "actions": int,
    "notes": list, "options": list,
}  # fmt: skip
MAX_WORKERS = 8  # decoders at once
MAX_UNREADABLE = 0.05  # share of files that may be skipped, rounded up to whole files

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
    fps: float = 0.0  # 0 where the file does not say


class IndexedFolder(NamedTuple):
    """All shots of a folder, the names of its classes, and what was understood of it."""

    videos: list[IndexedVideo]
    classes: tuple[str, ...]
    account: Account
    account_file: Path


def index_videos(folder: Path, options: ReadOptions, cache: Path | None = None) -> IndexedFolder:
    """Reads a folder, or the files of a list; decodes what is new.

    Sub-folders may say the split (see train.data.splits). Else files are held out by the hash of their names; where a
    file has several segments or clips, each of them by itself. Classes are the sub-folders if all files lie in one.
    Raises ValueError where there is nothing to read and where more than 5 % of the files (rounded up) cannot be read.
    """
    sources, skipped = list_sources(folder)
    by_folder = split_by_folders(sources)
    sources = {name: sources[name] for name in by_folder.inner}
    if not sources:
        suffixes = ", ".join(suffix[1:] for suffix in (*VIDEO_ENDINGS, *ARRAYS))
        pictures = ", ".join(suffix[1:] for suffix in PICTURES)
        raise ValueError(
            f"{folder} holds no file that can be read: {suffixes}, {PACK}, or folders of frames ({pictures})"
            + lines_of(skipped | by_folder.skipped)
        )
    classes, no_classes = classes_of(by_folder.inner)
    entries, errors, place, notes = update_index(folder, sources, options, cache)
    check_readable(folder, len(sources), entries, errors)
    frames, videos = place / FRAMES / options.variant, []
    for name, entry in entries.items():
        label = classes.index(by_folder.inner[name][0]) if classes else -1
        videos += shots_of(name, entry, by_folder.of.get(name, ""), label, frames_file(frames, name))
    how, repeats = by_folder.how, repeated({name: sources[name].path for name in entries})
    if not how:
        videos, how = split_and_record(folder, videos)
    account = Account(
        folder=str(folder), files=len(entries), frames=sum(entry["frames"] for entry in entries.values()),
        sizes=count_sizes([tuple(entry["size"]) for entry in entries.values()]),
        fps={name: entry["fps"] for name, entry in entries.items()}, split=how,
        classes=list(classes), no_classes=no_classes,
        actions=action_summary(videos), passed_over=skipped | by_folder.skipped | errors,
        notes=notes | {name: texts for name in entries if (texts := [*entries[name]["notes"], *repeats.get(name, ())])},
    )  # fmt: skip
    return IndexedFolder(videos, classes, account, place / ACCOUNT)


def classes_of(inner: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], str]:
    """Names of the sub-folders if all sources lie in one of several, or none and why."""
    loose = [name for name, parts in inner.items() if len(parts) < 2]  # the folder's own frames have no part
    folders = sorted({parts[0] for parts in inner.values() if len(parts) > 1})
    if not loose and len(folders) > 1:
        return tuple(folders), ""
    if folders and loose:
        first = printable(loose[0])
        beside = f"{first} lies" if len(loose) == 1 else f"{first} and {len(loose) - 1} more lie"
        return (), f"{beside} beside {some([f'{name}/' for name in folders])}"
    return (), f"all files lie in {printable(folders[0])}/" if folders else ""


def shots_of(name: str, entry: Entry, split: str, label: int, pixels: Path) -> list[IndexedVideo]:
    """A file's segments, cut into shots."""
    segments, shots = entry["parts"], []
    actions = actions_file(pixels) if entry["actions"] else None
    for k, (begin, end) in enumerate(zip(segments, [*segments[1:], entry["frames"]], strict=True)):
        segment = f"{name}#{k}" if len(segments) > 1 else name
        borders = [begin, *(cut for cut in entry["cuts"] if begin < cut < end), end]
        for first, last in zip(borders, borders[1:], strict=False):
            shots.append(IndexedVideo(segment, split, label, pixels, actions, first, last, entry["fps"]))
    return shots


def split_and_record(folder: Path, videos: list[IndexedVideo]) -> tuple[list[IndexedVideo], str]:
    """Splits by name, as recorded before, and records what is new. Returns the videos, and how it was done."""
    usual = median([v.fps for v in videos if v.fps] or [1.0])
    lengths: dict[str, float] = {}  # seconds; frames where no file has a rate
    for v in videos:
        lengths[v.name] = lengths.get(v.name, 0) + (v.last - v.first) / (v.fps or usual)
    place = index_folder(folder, None)
    record = {}  # a folder may have been writable before, or not
    for other in sorted((inside(folder), outside(folder, None)), key=lambda other: other == place):
        record |= read_record(other)
    try:
        split = split_by_name(lengths, record, place / RECORD)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if len(set(split.values())) > 1 and split.keys() - record.keys():
        write_record(place, record | split)
    new = len({file_of(name) for name in split.keys() - record.keys()}) if record else 0
    grown = f", {new} new" if new else ""
    return [v._replace(split=split[v.name]) for v in videos], f"by name, kept in {RECORD}{grown}"


def action_summary(videos: list[IndexedVideo]) -> str:
    """How many numbers a frame's action has and how far they go, or what lacks them."""
    having = {file_of(v.name): v.actions for v in videos if v.actions}
    lacking = sorted({file_of(v.name) for v in videos} - having.keys())
    if not having or lacking:
        lack = (
            f"{len(lacking)} file{'s lack' if len(lacking) > 1 else ' lacks'} them, such as {lacking[0]}"
            if lacking
            else ""
        )
        return f"none: {lack}" if having else "none"
    ranges = [extremes(open_array(path)) for path in having.values()]
    low, high = np.min([low for low, _ in ranges]), np.max([high for _, high in ranges])
    number = open_array(next(iter(having.values()))).shape[-1]
    text = f"{number} number{'s' * (number > 1)} a frame, from {low:g} to {high:g}"
    return text if low >= -1 and high <= 1 else f"{text}; a model takes -1 to 1"


def check_readable(folder: Path, files: int, entries: dict[str, Entry], errors: dict[str, str]) -> None:
    """ValueError where too many files cannot be read; it names them."""
    if len(errors) > math.ceil(MAX_UNREADABLE * files) or not entries:
        raise ValueError(
            f"{folder}: {len(errors)} of {files} files cannot be read, at most 5 % may be skipped:{lines_of(errors)}"
        )


# ---- the index file and the decoded frames -----------------------------------------------------------


class IndexUpdate(NamedTuple):
    entries: dict[str, Entry]  # by name
    errors: dict[str, str]  # of unreadable files, by name
    place: Path  # of index and frames
    notes: dict[str, list[str]]


def update_index(folder: Path, sources: Mapping[str, Source], options: ReadOptions, cache: Path | None) -> IndexUpdate:
    """Decodes new and changed files."""
    place, variant = index_folder(folder, cache), options.variant
    path, frames = place / INDEX, place / FRAMES / variant
    index, notes = read_index(path)
    old: dict[str, Entry] = index.get(variant, {})
    errors: dict[str, str] = {}
    entries = {
        name: old[name] for name, source in sources.items()
        if is_current(old.get(name, {}), source, options.arrays)
        and is_stored(frames_file(frames, name), old[name], options)
    }  # fmt: skip
    new = [name for name in sources if name not in entries]
    if not new and entries == old:
        return IndexUpdate(entries, errors, place, notes)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(cores, MAX_WORKERS))  # a video is decoded in a process of its own
    try:
        jobs = [pool.submit(decode, sources[name], frames_file(frames, name), options) for name in new]
        for name, job in zip(new, tqdm(jobs, desc="decoding", unit="file"), strict=True):
            try:
                entries[name] = job.result()
            except READ_ERRORS as error:
                errors[name] = str(error)
    finally:  # an interrupted run keeps what it has done
        pool.shutdown(cancel_futures=True)
        text = json.dumps(index | {variant: entries})
        write_whole(path, lambda file: file.write(text.encode()))
    return IndexUpdate({name: entries[name] for name in sources if name in entries}, errors, place, notes)


def read_index(path: Path) -> tuple[dict[str, dict[str, Entry]], dict[str, list[str]]]:
    """The index file, empty where there is none or where it is damaged, which a note says."""
    try:
        index = json.loads(path.read_text()) if path.exists() else {}
        if all(well_formed(entry) for entries in index.values() for entry in entries.values()):
            return index, {}
    except (ValueError, AttributeError):
        pass
    return {}, {INDEX: ["was damaged: all files were decoded again"]}


def well_formed(entry: Any) -> bool:
    """Whether an entry has all its values, or is of another reader and not used."""
    return entry.get("reader") != READER or all(isinstance(entry.get(name), kind) for name, kind in ENTRY.items())


def is_stored(frames: Path, entry: Entry, options: ReadOptions) -> bool:
    """Whether the decoded frames are there and whole."""
    size = 128 + entry["frames"] * options.size**2 * options.channels  # a header of .npy has 128 bytes
    return frames.exists() and frames.stat().st_size >= size and (not entry["actions"] or actions_file(frames).exists())


def decode(source: Source, out: Path, options: ReadOptions) -> Entry:
    """Writes a file's frames to `out` (.npy) and its actions beside them; returns its entry of the index."""
    state = fingerprint(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    video = read(source, options, out.parent)
    if video.actions is not None:
        np.save(actions_file(out), np.asarray(video.actions, np.float32))
    write_frames(out, (video.count, options.size, options.size, options.channels), video.frames)
    cuts = detect_cuts(open_array(out), video.segments)
    return {
        "reader": READER, "state": state, "frames": video.count, "fps": round(video.fps, 3), "size": list(video.size),
        "parts": video.segments, "cuts": cuts, "actions": 0 if video.actions is None else video.actions.shape[-1],
        "notes": list(video.notes), "options": stated(source, options.arrays),
    }  # fmt: skip


def is_current(entry: Entry, source: Source, options: ArrayOptions) -> bool:
    """Whether a file was decoded as it is, and by these options where some are stated."""
    asked = stated(source, options)
    same = entry.get("reader") == READER and entry["state"] == fingerprint(source)
    return same and (not any(asked) or asked == entry["options"])


def stated(source: Source, options: ArrayOptions) -> list[Any]:
    """The options that matter for a file, as JSON; empty for videos."""
    if not source.pictures and source.path.suffix.lower() not in ARRAYS:
        return []
    return [options.layout, *(list(r) if r else None for r in (options.float_range, options.int_range))]


def index_folder(folder: Path, cache: Path | None) -> Path:
    """Where index and frames lie: the folder, or one named after it in `cache`, $STT_CACHE or ~/.cache/stt.

    Those of a list lie in a hidden folder beside it.
    """
    home = folder if folder.is_dir() else folder.parent
    writable = os.access(home, os.W_OK) and home.stat().st_mode & 0o222
    return inside(folder) if cache is None and writable else outside(folder, cache)


def inside(folder: Path) -> Path:
    return folder if folder.is_dir() else folder.with_name(f".stt-{folder.name}")


def outside(folder: Path, cache: Path | None) -> Path:
    root = cache or Path(os.environ.get("STT_CACHE") or Path.home() / ".cache" / "stt") / "folders"
    digest = hashlib.blake2b(str(folder.resolve()).encode(), digest_size=4).hexdigest()
    return Path(root) / f"{folder.resolve().name}-{digest}"


def fingerprint(source: Source) -> list[int]:
    """Number, sizes and newest time of a source's files, and a hash of their names."""
    files = [path for path in source.files() if path.exists()]
    sizes = [path.stat() for path in files]
    names = hashlib.blake2b("\n".join(path.name for path in files).encode(), digest_size=6).hexdigest()
    return [len(files), sum(s.st_size for s in sizes), max((s.st_mtime_ns for s in sizes), default=0), int(names, 16)]


def frames_file(frames: Path, name: str) -> Path:
    return frames / f"{hashlib.blake2b(name.encode(), digest_size=8).hexdigest()}.npy"


def actions_file(pixels: Path) -> Path:
    return pixels.with_suffix(".actions.npy")
