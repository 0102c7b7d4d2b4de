"""Bounds the app's temporary folder: old files go, the quota holds before each write, and some of the disk stays free.

Gradio's own cleanup misses aborted uploads, empty folders and everything from before a crash.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stt.request import RequestError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def own_folder() -> Path:
    """The app's folder under the system's temporary one (TMPDIR), readable by this user only."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"stt-app-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == user:  # no link of somebody else to other files
            folder.chmod(0o700)
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="stt-app-"))


def return_memory() -> None:
    """Memory that any thread frees at the end of its arena goes back to the system; only glibc can.

    By itself glibc raises this threshold up to 64 MB, of each thread's arena, and malloc_trim leaves these ends alone.
    """
    _call_glibc("mallopt", M_TRIM_THRESHOLD, 4 * 2**20)
    _call_glibc("mallopt", M_MMAP_THRESHOLD, 32 * 2**20)


def release_memory() -> None:
    """Gives memory back that the process has freed but holds for later; only glibc can."""
    _call_glibc("malloc_trim", 0)


def _call_glibc(name: str, *arguments: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        getattr(ctypes.CDLL(None), name)(*arguments)


@dataclass
class Cleanup:
    folder: Path
    max_age: float = 3600.0  # seconds
    quota: int = 2 * 10**9  # bytes
    most: int = 5000  # files: each write looks at all of them
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
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # the system's own cleanup may have taken it
        (self.folder / "files").mkdir(exist_ok=True)
        with self.lock:
            files = sorted(self._files())  # youngest first
            total, removed = sum(bytes_ for _, bytes_, _ in files), 0
            free = shutil.disk_usage(self.folder).free
            need, surplus = total + size - self.quota, len(files) - self.most
            if free < size + self.reserve <= free + total:  # otherwise others filled the disk
                need = max(need, size + self.reserve - free)
            own: defaultdict[str, list[tuple[int, Path]]] = defaultdict(list)
            used = Counter[str]()
            for _, bytes_, path in files:
                owner = self.owners.get(path.parent, "")
                own[owner].append((bytes_, path))
                used[owner] += bytes_
            while own and (need > 0 or surplus > 0):
                owner = max(own, key=used.__getitem__ if need > 0 else lambda owner: len(own[owner]))
                bytes_, path = own[owner].pop()
                removed, need, surplus = removed + self._delete(path), need - bytes_, surplus - 1
                used[owner] -= bytes_
                if not own[owner]:
                    del own[owner]
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
            if path.parent not in (self.folder, self.folder / "files"):
                with suppress(OSError):
                    path.parent.rmdir()  # only if it is empty
            return True
        return False

    def _files(self) -> list[tuple[float, int, Path]]:
        """(age, bytes, path)."""
        files, now = [], time.time()
        for folder, folders, names in os.walk(self.folder):
            if self.permanent is not None and Path(folder) == self.permanent:
                folders.clear()
                continue
            for path in (Path(folder, name) for name in names):
                with suppress(OSError):
                    status = path.lstat()
                    files.append((now - status.st_mtime, status.st_size, path))
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
