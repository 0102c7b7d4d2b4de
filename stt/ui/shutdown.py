"""SIGTERM and SIGINT: the app takes no more requests, lets those that run end, and exits with 0."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from gradio.tunneling import CURRENT_TUNNELS

from stt.ui.fair_queue import FairQueue

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
FINISHING = 3.0  # seconds for running predictions to end by themselves
STOPPING = 4.0  # seconds more for them to stop at their next frame
STOPS = "The app stops; ask again in a minute."


def wait_for_signal() -> None:
    """Returns after the first signal; the second one ends the process at once. Works in the main thread only."""
    came = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        for other in STOP_SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        # a handler must not call print, which may be at work
        os.write(2, b"\nThe app ends its running predictions and stops; a second signal stops it at once.\n")
        came.set()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
    came.wait()


async def drain(queue: FairQueue) -> bool:
    """Ends all requests; whether they ended in time."""
    queue.closed = STOPS
    queue.drop_waiting(STOPS)
    for seconds in (FINISHING, STOPPING):
        for _ in range(round(seconds / 0.05)):
            if not queue.running():
                return True
            await asyncio.sleep(0.05)
        for event in queue.running():
            event.alive = False  # its generator is closed at the next frame
    return False


def stop(app: Any, loop: asyncio.AbstractEventLoop | None) -> None:
    """Ends what runs and closes the server. A computation that does not end ends with the process."""
    done = loop is None
    if loop is not None:
        with suppress(Exception):  # a loop that does not answer in time
            done = asyncio.run_coroutine_threadsafe(drain(app._queue), loop).result(FINISHING + STOPPING + 1)
    if not done:
        leave()
    if app.server is not None:
        app.server.config.timeout_graceful_shutdown = 1  # seconds for open pages
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # each of them would be a traceback
    app.close(verbose=False)
    for tunnel in CURRENT_TUNNELS:  # of a shared address
        tunnel.kill()
    if threading.active_count() > 1:
        leave()


def leave() -> NoReturn:
    """Ends the process: threads of libraries that still compute would abort an ordinary exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
