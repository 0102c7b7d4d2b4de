"""Checkpoints to resume a run from: the last two, each whole, synced and with a SHA-256 file beside it."""

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

NUM_CHECKPOINTS = 2
DISK_FULL_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # full disk, quota, limit on the size of a file


class DiskFull(Exception):
    """A file cannot be written for lack of space; the message names it."""


@contextmanager
def disk_full_check(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns the errors of a full disk into DiskFull. needed: bytes, 0 if not known."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and getattr(cause, "errno", None) not in DISK_FULL_ERRORS:
            cause = cause.__context__  # torch raises an error of its own over that of the file
        if cause is None:
            raise
        need = f"about {needed:,} bytes are needed, " if needed else ""
        free = shutil.disk_usage(path.parent).free
        raise DiskFull(f"no space for {path}: {need}{free:,} bytes are free on its disk") from error


def list_checkpoints(folder: Path) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob("checkpoint-*.pt"))


def digest_path(path: Path) -> Path:
    """The file beside a checkpoint that `sha256sum --check` reads."""
    return path.with_name(f"{path.name}.sha256")


class HashingFile:
    """Passes what is written on to a file and computes its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def num_bytes(state: Any) -> int:
    """Bytes of the tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.nbytes
    items = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return sum(num_bytes(item) for item in items)


def write(folder: Path, state: dict[str, Any]) -> None:
    """Adds the checkpoint of step state["step"], then deletes all but the last two up to it, and unfinished files.

    Raises DiskFull.
    """
    path = folder / f"checkpoint-{state['step']:08d}.pt"

    def save(file: BinaryIO) -> None:
        hashing = HashingFile(file)
        torch.save(state, hashing)
        line = f"{hashing.sha256.hexdigest()}  {path.name}\n"
        write_whole(digest_path(path), lambda digest: digest.write(line.encode()))  # before the checkpoint appears

    with disk_full_check(path, num_bytes(state)):
        write_whole(path, save)
    newest = [p for p in list_checkpoints(folder) if p <= path][-NUM_CHECKPOINTS:]
    names = {name for p in newest for name in (p.name, digest_path(p).name)}
    for p in [*folder.glob("checkpoint-*"), *folder.glob("*.tmp")]:
        if p.name not in names:
            p.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The state in one checkpoint. ValueError if its SHA-256 does not match, OSError if it cannot be read."""
    if not digest_path(path).is_file():
        raise ValueError(f"{digest_path(path).name} is missing")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest_path(path).read_text().split()[:1] != [digest]:
            raise ValueError("its SHA-256 does not match: the file was cut off or changed")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def read_newest(folder: Path) -> dict[str, Any] | None:
    """The state to resume from, None where nothing is saved yet. Prints on stderr why a checkpoint is skipped.

    SystemExit if there are checkpoints or a model, but no valid checkpoint.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return read(path)
        except (OSError, ValueError) as error:
            print(f"skips {path}: {error}", file=sys.stderr)
    if list_checkpoints(folder) or (folder / FILE_NAME).exists():
        raise SystemExit(f"{folder} holds no valid checkpoint to resume from")
    return None
