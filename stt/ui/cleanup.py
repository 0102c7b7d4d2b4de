"""Deletes old files of the app's temporary folder.

Gradio's own cleanup misses aborted uploads, empty folders and everything from before a crash.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


def own_folder() -> Path:
    """The app's folder under the system's temporary one (TMPDIR), readable by this user only."""
    folder = Path(tempfile.gettempdir()) / f"stt-app-{os.getuid() if hasattr(os, 'getuid') else 0}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)  # fails when somebody else made it
    except OSError:
        return Path(tempfile.mkdtemp(prefix="stt-app-"))
    return folder


@dataclass(frozen=True)
class Cleanup:
    folder: Path
    max_age: float = 3600.0  # seconds
    quota: int = 2 * 10**9  # bytes; above it the oldest files are deleted
    pause: float = 60.0  # seconds between two sweeps

    def sweep(self) -> int:
        """Deletes files that are too old or above the quota; returns their number."""
        now, removed, total = time.time(), 0, 0
        for age, size, path in sorted(self._files(now)):  # youngest first
            total += size
            if age > self.max_age or total > self.quota:
                with suppress(OSError):
                    path.unlink()
                    removed += 1
        for folder in sorted(self.folder.rglob("*"), reverse=True):  # inner ones first
            with suppress(OSError):
                if folder.is_dir() and now - folder.stat().st_mtime > self.max_age:
                    folder.rmdir()  # only if it is empty
        return removed

    def _files(self, now: float) -> list[tuple[float, int, Path]]:
        files = []
        for path in self.folder.rglob("*"):
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
                if done.wait(self.pause):
                    return

        threading.Thread(target=work, name="cleanup", daemon=True).start()
        return done
