"""What a run can be resumed from: its last two checkpoints, each whole, synced and with a SHA-256 beside it."""

from __future__ import annotations

import errno
import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from stt.checkpoint import FILE_NAME, write_whole

KEPT = 2  # checkpoints
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of the disk, of a quota, of a limit on files


class DiskFull(Exception):
    """A file could not be written for want of room; the message names it."""


@contextmanager
def room_for(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns what a full disk raises into DiskFull. needed: bytes, where known."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and getattr(cause, "errno", None) not in FULL:
            cause = cause.__context__  # torch raises its own error over that of the file
        if cause is None:
            raise
        need = f"about {needed:,} bytes are needed, " if needed else ""
        free = shutil.disk_usage(path.parent).free
        raise DiskFull(f"no room for {path}: {need}{free:,} bytes are free on its disk") from error


def checkpoints(folder: Path) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def digest_of(path: Path) -> Path:
    """The file beside a checkpoint that `sha256sum --check` reads."""
    return path.with_name(f"{path.name}.sha256")


class Hashed:
    """A file that is only written to, and what has been written as a SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def size_of(state: Any) -> int:
    """Bytes of the tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.nbytes
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(size_of(item) for item in items)


def write(folder: Path, state: dict[str, Any]) -> None:
    """Adds the checkpoint of state["step"]; drops all but the last two up to it, and what was left half written.

    Raises DiskFull.
    """
    path = folder / f"checkpoint-{state['step']:08d}.pt"

    def save(file: BinaryIO) -> None:
        hashed = Hashed(file)
        torch.save(state, hashed)
        line = f"{hashed.sha256.hexdigest()}  {path.name}\n"
        write_whole(digest_of(path), lambda beside: beside.write(line.encode()))  # there before the checkpoint is

    with room_for(path, size_of(state)):
        write_whole(path, save)
    kept = [known for known in checkpoints(folder) if known <= path][-KEPT:]
    names = {name for known in kept for name in (known.name, digest_of(known).name)}
    for found in [*folder.glob("checkpoint-*"), *folder.glob("*.tmp")]:
        if found.name not in names:
            found.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The state in one checkpoint. Raises ValueError when it is not what was written, OSError when unreadable."""
    if not digest_of(path).is_file():
        raise ValueError(f"{digest_of(path).name} is missing")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if digest_of(path).read_text().split()[:1] != [found]:
            raise ValueError("its SHA-256 is another: the file was cut off or changed")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def newest(folder: Path) -> dict[str, Any] | None:
    """The state to resume from, None where nothing was saved yet; says on stderr what it leaves out, and why.

    Raises SystemExit when there are checkpoints or a model, but no checkpoint is valid.
    """
    for path in reversed(checkpoints(folder)):
        try:
            return read(path)
        except (OSError, ValueError) as error:
            print(f"{path} is left out: {error}", file=sys.stderr)
    if checkpoints(folder) or (folder / FILE_NAME).exists():
        raise SystemExit(f"{folder} holds no valid checkpoint to resume from")
    return None
