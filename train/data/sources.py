"""What lies in a folder: videos, arrays, packs and folders of frames by name, and what is passed over and why."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from stt.ffmpeg import VIDEO_ENDINGS

ARRAYS = (".npy", ".npz")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
LISTS = (".txt", ".lst")
PACKED = ("frames.npy", "actions.npy", "index.json", "account.json")  # what train.pack_videos writes
PACK, PACK_INDEX = "frames.mjpegpack", "index.npz"
MAX_LIST_BYTES = 2**26
ENDS = 2**16  # bytes
UNKNOWN = "of a kind that is not read"


class Source(NamedTuple):
    """One video, array, pack, or clip of pictures."""

    path: Path  # of the file, the folder of pictures, or their list
    pictures: tuple[Path, ...] = ()  # in order

    def files(self) -> list[Path]:
        """All files that its frames come from."""
        beside = [self.path.with_name(PACK_INDEX)] if self.path.name == PACK else []
        return [*self.pictures] if self.pictures else [self.path, *beside]


def list_sources(folder: Path) -> tuple[dict[str, Source], dict[str, str]]:
    """Sources by name, relative to the folder, sorted; and reasons by the names of files that are passed over.

    folder: or a text file with the path of a source a line. Links are followed. Hidden files do not count. Raises
    ValueError for another file, FileNotFoundError where there is neither.
    """
    if not folder.exists():
        raise FileNotFoundError(f"{folder} is not a folder")
    if folder.is_file():
        if folder.suffix.lower() not in LISTS:
            raise ValueError(f"{folder} is a file: give its folder, or a .txt list of files")
        return listed_sources(folder)
    sources: dict[str, Source] = {}
    skipped: dict[str, str] = {}
    listed: set[str] = set()  # pictures of a list, which are no folder of frames as well
    pictures: dict[Path, list[Path]] = {}
    videos: set[Path] = set()  # folders with other sources
    for path in walk(folder, skipped):
        name, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
        if (readable := os.fsencode(name).decode(errors="backslashreplace")) != name:
            skipped[readable] = "its name is no UTF-8 text: rename it"
        elif not path.exists():
            skipped[name] = "a link that leads nowhere"
        elif not path.is_file():
            skipped[name] = "no regular file"
        elif path.name in PACKED and path.with_name("index.json").exists() and path.with_name("frames.npy").exists():
            skipped[name] = "part of a packed set"
        elif path.name == PACK_INDEX and path.with_name(PACK).exists():
            continue
        elif path.name == PACK or suffix in (*VIDEO_ENDINGS, *ARRAYS):
            sources[name] = Source(path)
            videos.add(path.parent)
        elif suffix in PICTURES:
            pictures.setdefault(path.parent, []).append(path)
        elif suffix in LISTS and len(frames := listed_pictures(path)) > 1:
            sources[name] = Source(path, frames)
            listed |= set(map(os.path.realpath, frames))
        else:
            skipped[name] = UNKNOWN
    for parent, paths in pictures.items():
        frames = [path for path in paths if not listed or os.path.realpath(path) not in listed]
        if len(frames) > 1 and parent not in videos:
            sources[parent.relative_to(folder).as_posix()] = Source(parent, tuple(sorted(frames, key=natural_order)))
        else:
            reason = "pictures beside videos: frames need a folder of their own" if len(frames) > 1 else "one picture"
            skipped |= {path.relative_to(folder).as_posix(): reason for path in frames}
    sources = without_links_to(sources, skipped)
    return sources, dict(sorted(skipped.items()))


def without_links_to(sources: dict[str, Source], skipped: dict[str, str]) -> dict[str, Source]:
    """Sources by name, sorted, each file once however many links lead to it; others are noted in `skipped`."""
    first: dict[str, str] = {}
    for name in sorted(sources, key=lambda name: (sources[name].path.is_symlink(), name)):
        if (other := first.setdefault(os.path.realpath(sources[name].path), name)) != name:
            skipped[name] = f"the same file as {other}"
    return {name: source for name, source in sorted(sources.items()) if name not in skipped}


def repeated(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """A note for each file that looks like a copy of another: as long, with the same beginning and end."""
    lengths = {name: path.stat().st_size for name, path in files.items() if path.is_file()}
    shared = {length for length, count in Counter(lengths.values()).items() if count > 1}
    first: dict[bytes, str] = {}
    notes = {}
    for name in sorted(name for name, length in lengths.items() if length in shared):
        with open(files[name], "rb") as file:
            digest = hashlib.blake2b(lengths[name].to_bytes(8) + file.read(ENDS))
            file.seek(max(0, lengths[name] - ENDS))
            digest.update(file.read(ENDS))
        if (other := first.setdefault(digest.digest(), name)) != name:
            notes[name] = [f"the same content as {other}"]
    return notes


def walk(folder: Path, skipped: dict[str, str]) -> Iterator[Path]:
    """All files that are not hidden. Links to folders are followed, each folder once; others are noted in `skipped`."""
    visited = {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        parent = Path(root)
        for name in sorted(folders):
            if name.startswith("."):
                folders.remove(name)
            elif (real := os.path.realpath(parent / name)) in visited:
                folders.remove(name)
                skipped[(parent / name).relative_to(folder).as_posix()] = "a link to a folder that is read already"
            else:
                visited.add(real)
        folders.sort()
        yield from (parent / name for name in sorted(files) if not name.startswith("."))


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """A key that sorts frame2.png before frame10.png."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name.lower()) if part]


def list_lines(path: Path) -> list[str]:
    """The lines of a list without comments; also of ffmpeg's `file 'NAME'` kind."""
    if path.stat().st_size > MAX_LIST_BYTES:
        return []
    lines = (line.strip() for line in path.read_text("utf-8-sig", errors="replace").splitlines())
    lines = [line for line in lines if line and not line.startswith("#")]
    return [match[1] if (match := re.fullmatch(r"file\s+'?(.*?)'?", line)) else line for line in lines]


def listed_pictures(path: Path) -> tuple[Path, ...]:
    """The pictures that a list names, in its order; () where some line names none."""
    frames = [path.parent / line for line in list_lines(path)]
    return tuple(frames) if all(f.suffix.lower() in PICTURES and f.is_file() for f in frames) else ()


def listed_sources(path: Path) -> tuple[dict[str, Source], dict[str, str]]:
    """Sources that a list names: files, or folders of frames; a class number behind a name is left out."""
    if frames := listed_pictures(path):
        return {path.name: Source(path, frames)}, {}
    targets = []
    for line in list_lines(path):
        choices = [Path(os.path.abspath(path.parent / name)) for name in (line, re.sub(r"[\s,]+\d+$", "", line))]
        targets.append(next((target for target in choices if target.exists()), choices[1]))
    sources, skipped = {}, {}
    for target in targets:
        name = Path(os.path.relpath(target, path.parent)).as_posix()  # the same when the list grows
        source = list_sources(target)[0].get(".") if target.is_dir() else Source(target)
        if not target.exists():
            skipped[name] = "is not there"
        elif source is None:
            skipped[name] = "a folder without frames"
        elif target.is_dir() or target.name == PACK or target.suffix.lower() in (*VIDEO_ENDINGS, *ARRAYS):
            sources[name] = source
        else:
            skipped[name] = UNKNOWN
    return without_links_to(sources, skipped), skipped
