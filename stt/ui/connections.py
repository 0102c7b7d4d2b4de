"""Open connections: those without a request are closed after a while, and their number is bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

PAUSE = 0.25  # seconds between two looks
IDLE = 10.0  # seconds that a connection may take to send its first request; uvicorn itself closes idle ones after that
SPARE = 96  # descriptors for files, pipes and whatever else is no connection
MOST = 1000


def most_connections() -> int:
    """How many connections this process can serve. It first takes as many descriptors as the system allows."""
    with suppress(ImportError, OSError, ValueError):  # no such limits on Windows
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return MOST if hard == resource.RLIM_INFINITY else min(MOST, max(hard - SPARE, hard // 2))
    return MOST


async def close_idle(server: Callable[[], Any], most: int) -> None:
    """Runs for ever. server: gives the uvicorn server, or None before it runs. most: connections, half of them idle."""
    since: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
    while True:
        await asyncio.sleep(PAUSE)
        if (running := server()) is None:
            continue
        running.config.limit_concurrency = most  # beyond it uvicorn answers 503
        now = time.monotonic()
        idle = [connection for connection in running.server_state.connections if is_idle(connection)]
        idle.sort(key=lambda connection: since.setdefault(connection, now))
        surplus = len(idle) - most // 2
        for k, connection in enumerate(idle):
            never = connection.cycle is None
            if connection.transport is not None and (k < surplus or (never and now - since[connection] > IDLE)):
                connection.transport.close()


def is_idle(connection: Any) -> bool:
    """Whether no request is under way. A WebSocket never is idle."""
    return hasattr(connection, "cycle") and (connection.cycle is None or connection.cycle.response_complete)
