"""SIGTERM and SIGINT: the first one asks the run to save and leave, the second one ends the process at once."""

from __future__ import annotations

import os
import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """While it is open, `number` is the signal that asks the run to leave, or 0. Works in the main thread only."""

    number = 0

    def __enter__(self) -> Signals:
        self.previous_handlers = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for other in STOP_SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        # a handler must not call print, which may be at work
        os.write(2, b"\nThe run saves after this step and ends; a second signal ends it at once.\n")
