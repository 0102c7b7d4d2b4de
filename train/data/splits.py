"""Which files are trained on and which are held out: by sub-folders, or by names, which a file beside them records."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from stt.checkpoint import write_whole

SPLITS = ("train", "test")
RECORD = ".stt-split.json"
FOLDERS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
    "holdout": "test", "heldout": "test", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation",
}  # fmt: skip
TEST_SHARE = 0.08  # least share of the time that a split by name holds out; whole files make it about a tenth


class FolderSplit(NamedTuple):
    """The split that sub-folders make."""

    of: dict[str, str]  # split by the name of a source; empty where there are no such sub-folders
    inner: dict[str, tuple[str, ...]]  # the rest of each name, whose first part may be a class
    skipped: dict[str, str]  # reasons by the names of sources that are in no split
    how: str


def split_by_folders(names: Iterable[str]) -> FolderSplit:
    """Sub-folders train and test, or train and validation, in any case and under their usual names, are the split.

    They lie at the top or in other folders. Beside train and test, validation is used for neither. Folders that hold
    everything say nothing and are left out of `inner`.
    """
    parts = without_common_folders({name: tuple(p for p in Path(name).parts if p != "..") for name in names})
    level = {name: next((k for k, part in enumerate(p) if role_of(part, k)), -1) for name, p in parts.items()}
    role = {name: role_of(parts[name][k], k) if k >= 0 else "" for name, k in level.items()}
    found = set(role.values()) - {""}
    if not found:
        return FolderSplit({}, parts, {}, "")
    held_out = "test" if "test" in found else "validation"
    of = {name: "train" if role[name] == "train" else "test" for name in parts if role[name] in ("train", held_out)}
    own = {name: f"{parts[name][k]}/" for name, k in level.items() if k >= 0}
    folders = {side: sorted({own[name] for name in of if of[name] == side}) for side in SPLITS}
    words = {"train": "trained on", "test": "held out"}
    text = ", ".join(f"{' and '.join(folders[side])} {words[side]}" for side in SPLITS if folders[side])
    used = " and ".join(folder for side in SPLITS for folder in folders[side])
    skipped = {
        name: f"{own[name]} is used for nothing beside {used}" if role[name] else f"outside {used}"
        for name in parts if name not in of
    }  # fmt: skip
    inner = {name: parts[name][: level[name]] + parts[name][level[name] + 1 :] or parts[name] for name in of}
    return FolderSplit(of, inner, skipped, f"by sub-folders: {text}")


def role_of(folder: str, level: int) -> str:
    """What a folder's name says of its split, "" for nothing; at the top also "train_videos" or "Test Set"."""
    name = folder.lower()
    if level == 0:
        name = re.sub(r"(set|data|videos?|clips?|frames|images|split)$", "", re.sub(r"[\W_]", "", name))
    return FOLDERS.get(name, "")


def without_common_folders(parts: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Parts of names without the first folders that all names share, unless they name a split."""
    tops = {p[:1] for p in parts.values()}
    if len(tops) != 1 or any(len(p) < 2 for p in parts.values()) or role_of(*next(iter(tops)), 0):
        return parts
    return without_common_folders({name: p[1:] for name, p in parts.items()})


def split_by_name(
    lengths: Mapping[str, float], record: Mapping[str, str], record_file: Path = Path(RECORD)
) -> dict[str, str]:
    """A split for every name. What is recorded stays; of the others those are held out whose hash is lowest.

    lengths: by name, of any unit. Holds out until the test split has 8 % of all, but never all names. Raises ValueError
    where all names are recorded for training.
    """
    split = {name: record[name] for name in lengths if record.get(name) in SPLITS}
    new = sorted(lengths.keys() - split, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
    length = sum(lengths[name] for name, side in split.items() if side == "test")
    for k, name in enumerate(new):
        last = k == len(new) - 1 and "train" not in split.values()
        held_out = length < TEST_SHARE * sum(lengths.values()) and not last
        split[name] = "test" if held_out else "train"
        length += lengths[name] * held_out
    if record and set(split.values()) == {"train"} and len(split) > 1:
        raise ValueError(
            f"all {len(split)} of its files were trained on before, none is held out: add others, or delete "
            f"{record_file} to split anew"
        )
    return split


def read_record(folder: Path) -> dict[str, str]:
    """The recorded split of a folder. Raises ValueError for a damaged file, since a new split would mix the two."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text()) if path.is_file() else {}
        if not isinstance(record, dict):
            raise ValueError("it holds no names")
        if other := next((name for name, side in record.items() if side not in SPLITS), None):
            raise ValueError(f"{other} is {record[other]!r}, must be train or test")
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): mend it, or delete it to split anew") from error
    return record


def write_record(folder: Path, record: Mapping[str, str]) -> None:
    text = json.dumps(dict(sorted(record.items())), indent=0)
    write_whole(folder / RECORD, lambda file: file.write(text.encode()))


def by_file(split: Mapping[str, str]) -> dict[str, list[str]]:
    """Sorted names by split. A file whose segments all lie in one split is named once, without their numbers."""
    sides: dict[str, set[str]] = {}
    for name, side in split.items():
        sides.setdefault(file_of(name), set()).add(side)
    names: dict[str, set[str]] = {side: set() for side in SPLITS}
    for name, side in split.items():
        names[side].add(file_of(name) if len(sides[file_of(name)]) == 1 else name)
    return {side: sorted(names[side]) for side in SPLITS}


def hashed(name: str) -> str:
    """What a published card says of a source or segment: the hash of its name, and the segment's number."""
    file = file_of(name)
    return hashlib.blake2b(file.encode(), digest_size=6).hexdigest() + name[len(file) :]


def file_of(name: str) -> str:
    """A source's name, from that of its segment."""
    stem, mark, number = name.rpartition("#")
    return stem if mark and number.isdigit() else name
