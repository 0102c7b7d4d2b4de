"""Open connections: those without a request are closed after a while, and their number is bounded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

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
    """Runs for ever. server: gives the uvicorn server, or None before it runs. most: connections."""
    while (running := server()) is None:
        await asyncio.sleep(PAUSE / 20)
    running.config.http_protocol_class = bounded(running.config.http_protocol_class, most * 3 // 4)
    running.config.limit_concurrency = most  # beyond it uvicorn answers 503
    for earlier in running.server_state.connections:
        earlier.arrived = time.monotonic()
    while True:
        await asyncio.sleep(PAUSE)
        for connection in running.server_state.connections:
            if is_idle(connection) and connection.cycle is None and time.monotonic() - connection.arrived > IDLE:
                connection.transport.close()


class Bounded:
    """A connection that makes room for itself: too many cost whoever has most of them his oldest idle one.

    At once: before the next look at all connections, a burst of one address would take the places of the others.
    """

    most: int
    connections: set[Any]

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self.arrived = time.monotonic()
        if len(self.connections) > self.most:
            there = [one for one in self.connections if hasattr(one, "cycle") and not one.transport.is_closing()]
            if len(there) > self.most:
                [(greedy, _)] = Counter(map(host_of, there)).most_common(1)
                min((one for one in there if host_of(one) == greedy), key=worth).transport.close()


def bounded(protocol: type, most: int) -> type:
    """uvicorn's class of connections, of which there are at most so many."""
    return type("Connection", (Bounded, protocol), {"most": most})


def is_idle(connection: Any) -> bool:
    """Whether no request is under way. A WebSocket never is idle."""
    return hasattr(connection, "cycle") and (connection.cycle is None or connection.cycle.response_complete)


def worth(connection: Any) -> tuple[bool, float]:
    """Of idle connections the oldest is worth least, then of those with a request the youngest."""
    return not is_idle(connection), connection.arrived if is_idle(connection) else -connection.arrived


def host_of(connection: Any) -> str:
    return connection.client[0] if connection.client else ""
