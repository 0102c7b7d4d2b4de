"""Bounds the app's temporary folder: old files go, the quota holds before each write, and some of the disk stays free.

Gradio's own cleanup misses aborted uploads, empty folders and everything from before a crash.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stt.request import RequestError


def own_folder() -> Path:
    """The app's folder under the system's temporary one (TMPDIR), readable by this user only."""
    folder = Path(tempfile.gettempdir()) / f"stt-app-{os.getuid() if hasattr(os, 'getuid') else 0}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)  # fails when somebody else made it
    except OSError:
        return Path(tempfile.mkdtemp(prefix="stt-app-"))
    return folder


def release_memory() -> None:
    """Gives memory back that the process has freed but holds for later; only glibc can.

    Each thread's arena keeps its largest moment otherwise, and a server's threads have theirs at different times.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@dataclass
class Cleanup:
    folder: Path
    max_age: float = 3600.0  # seconds
    quota: int = 2 * 10**9  # bytes
    reserve: int = 200 * 10**6  # bytes of the disk that stay free
    pause: float = 60.0  # seconds between two sweeps
    permanent: Path | None = None  # a folder inside `folder` whose files stay: their number is bounded
    owners: dict[Path, str] = field(default_factory=dict)  # of folders: whose files lie in them
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sweep(self) -> int:
        """Deletes files that are too old or above the quota; returns their number."""
        now, removed = time.time(), 0
        for age, _, path in self._files():
            if age > self.max_age:
                removed += self._delete(path)
        for folder in sorted(self.folder.rglob("*"), reverse=True):  # inner ones first
            with suppress(OSError):
                if folder.is_dir() and now - folder.stat().st_mtime > self.max_age:
                    folder.rmdir()  # only if it is empty
        self.owners = {folder: owner for folder, owner in list(self.owners.items()) if folder.exists()}
        return removed + self._evict(0)

    def own(self, path: Path, owner: str) -> None:
        """owner: whose file it is, such as a visitor's address."""
        self.owners[path.parent] = owner

    def make_room(self, size: int) -> None:
        """Deletes files until `size` more bytes fit into the quota and the disk; those first of whoever has most.

        Raises RequestError where the disk has no room even then.
        """
        self._evict(size)
        free = shutil.disk_usage(self.folder).free
        if free < size + self.reserve:
            raise RequestError(
                f"The server's disk is full: {max(free - self.reserve, 0) / 1e6:,.0f} MB are free for this app,"
                f" {size / 1e6:,.1f} MB are needed. Try again later."
            )

    def _evict(self, size: int) -> int:
        with self.lock:
            files = sorted(self._files())  # youngest first
            total = sum(file[1] for file in files)
            free = shutil.disk_usage(self.folder).free
            need = total + size - self.quota
            if free < size + self.reserve <= free + total:  # otherwise others filled the disk
                need = max(need, size + self.reserve - free)
            used, removed = Counter[str](), 0
            for _, bytes_, path in files:
                used[self.owners.get(path.parent, "")] += bytes_
            while need > 0 and files:
                owner = used.most_common(1)[0][0]
                k = max(k for k, file in enumerate(files) if self.owners.get(file[2].parent, "") == owner)
                _, bytes_, path = files.pop(k)
                removed, need = removed + self._delete(path), need - bytes_
                used[owner] -= bytes_
                if not any(self.owners.get(file[2].parent, "") == owner for file in files):
                    del used[owner]
            return removed

    def drop_half_uploads(self, *, older_than: float = 0.0) -> None:
        """Deletes what aborted uploads left behind. Call it while none arrives, or with their longest duration."""
        for path in (self.folder / "files").glob("tmp*"):
            with suppress(OSError):
                if path.is_file() and time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()

    def _delete(self, path: Path) -> bool:
        with suppress(OSError):
            path.unlink()
            return True
        return False

    def _files(self) -> list[tuple[float, int, Path]]:
        """(age, bytes, path)."""
        files, now = [], time.time()
        for path in self.folder.rglob("*"):
            if self.permanent is None or not path.is_relative_to(self.permanent):
                with suppress(OSError):
                    if path.is_file() or path.is_symlink():
                        stat = path.lstat()
                        files.append((now - stat.st_mtime, stat.st_size, path))
        return files

    def start(self) -> threading.Event:
        """Sweeps in a background thread until the returned event is set."""
        done = threading.Event()

        def work() -> None:
            while True:
                self.sweep()
                release_memory()
                if done.wait(self.pause):
                    return

        threading.Thread(target=work, name="cleanup", daemon=True).start()
        return done
