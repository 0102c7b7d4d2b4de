"""Leaving when asked to: the first SIGTERM or SIGINT is noted, the second ends the process at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

ASKED = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """While it is open, `number` is that of the signal which asked to leave, or 0. For the main thread."""

    number = 0

    def __enter__(self) -> Signals:
        self.before = {number: signal.signal(number, self._note) for number in ASKED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for other in ASKED:
            signal.signal(other, signal.SIG_DFL)
        os.write(2, b"\nsaves after this step, then leaves; once more to leave at once\n")  # print may be at work
