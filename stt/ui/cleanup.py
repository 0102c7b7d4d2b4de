"""Keeps the app's temporary folder small.

Gradio's own cleaning forgets aborted uploads, empty folders and everything from before a crash.
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
    keep: float = 3600.0  # seconds that a file stays
    quota: int = 2 * 10**9  # bytes; above it the oldest go first
    pause: float = 60.0  # seconds between two sweeps

    def sweep(self) -> int:
        """Removes what is too old or too much; returns the number of files removed."""
        now, removed, kept = time.time(), 0, 0
        for age, size, path in sorted(self._files(now)):  # youngest first
            kept += size
            if age > self.keep or kept > self.quota:
                with suppress(OSError):
                    path.unlink()
                    removed += 1
        for folder in sorted(self.folder.rglob("*"), reverse=True):  # inner ones first
            with suppress(OSError):
                if folder.is_dir() and now - folder.stat().st_mtime > self.keep:
                    folder.rmdir()  # only if it is empty
        return removed

    def _files(self, now: float) -> list[tuple[float, int, Path]]:
        found = []
        for path in self.folder.rglob("*"):
            with suppress(OSError):
                if path.is_file() or path.is_symlink():
                    stat = path.lstat()
                    found.append((now - stat.st_mtime, stat.st_size, path))
        return found

    def start(self) -> threading.Event:
        """Sweeps now and then, in the background, until the returned event is set."""
        done = threading.Event()

        def work() -> None:
            while True:
                self.sweep()
                if done.wait(self.pause):
                    return

        threading.Thread(target=work, name="janitor", daemon=True).start()
        return done
