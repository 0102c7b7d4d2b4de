"""Which visitors are there: their open event streams. Without one, a session's state is soon dropped.

Gradio keeps the state of 10,000 sessions, about 100 kB each; every call of a program may be a session of its own.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from typing import Any
from urllib.parse import parse_qs

import gradio as gr

from stt.ui.connections import MOST
from stt.ui.limits import Message, Receive, Send, answer, route_of

SPARE = 16  # sessions that keep their state though nobody listens: visitors who reconnect
STREAM = re.compile(r"(?:heartbeat/|call/v2/[^/]+/|call/[^/]+/)([^/]+)$|queue/data$")
PER_ADDRESS = 64  # open streams, of which those of Play are some


class Streams:
    """Open streams by session, or by event for calls without a session, and by address."""

    def __init__(self, connections: int = MOST) -> None:
        """connections: the most that the server has."""
        self.most = max(connections // 4, PER_ADDRESS)  # requests of one address under way, each on its connection
        self.by_name: Counter[str] = Counter()
        self.by_address: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()  # by address
        self.blocks: gr.Blocks | None = None  # whose sessions are dropped

    def open(self, name: str | None, address: str) -> None:
        """name: None for a socket, on which no session waits for answers."""
        self.by_address[address] += 1
        if name is not None:
            self.by_name[name] += 1

    def close(self, name: str | None, address: str) -> None:
        subtract(self.by_address, address)
        if name is not None:
            subtract(self.by_name, name)

    def exists(self, name: str) -> bool:
        """Whether a session or an event may be listened to. An open page's heartbeat creates its session."""
        if self.blocks is None:
            return True
        queue = self.blocks._queue
        events = queue.event_ids_to_events.keys() | set().union(*queue.pending_event_ids_session.values())
        return name in events or name in queue.pending_messages_per_session

    def drop_sessions(self) -> None:
        """Drops the state of the oldest sessions that neither listen nor wait, all but `SPARE` of them."""
        if self.blocks is None or not hasattr(self.blocks, "state_holder"):
            return
        queue, holder = self.blocks._queue, self.blocks.state_holder
        busy = {event.session_hash for event in queue.event_ids_to_events.values()} | self.by_name.keys()
        for sessions in (holder.session_data, queue.pending_messages_per_session, queue.pending_event_ids_session):
            idle = [name for name in list(sessions) if name not in busy]
            for name in idle[: max(len(idle) - SPARE, 0)]:
                sessions.pop(name, None)
        for name in holder.time_last_used.keys() - holder.session_data.keys():
            holder.time_last_used.pop(name, None)


def subtract(counter: Counter[Any], key: Any) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


class StreamCount:
    """ASGI middleware: counts requests and streams, and turns an address away that has too many of them."""

    def __init__(self, app: Any, streams: Streams) -> None:
        self.app = app
        self.streams = streams

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        address, streams = network_of((scope.get("client") or ("", 0))[0]), self.streams
        own = route_of(scope) == "startup-events"  # which the app asks of itself, and fails to start without
        if streams.requests[address] >= streams.most and not own:
            return await self._refuse(scope, send, f"This address has {streams.most} requests under way already.")
        streams.requests[address] += 1
        try:
            await self._count_stream(scope, receive, send, address)
        finally:
            subtract(streams.requests, address)

    async def _refuse(self, scope: Message, send: Send, sentence: str) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1013})
        await answer(send, 429, sentence)

    async def _count_stream(self, scope: Message, receive: Receive, send: Send, address: str) -> None:
        socket = scope["type"] == "websocket"
        name = None if socket else stream_name(scope)
        if (socket or name) and self.streams.by_address[address] >= PER_ADDRESS:
            sentence = f"This address has {PER_ADDRESS} open streams; close one of them first."
            return await self._refuse(scope, send, sentence)
        if name and not route_of(scope).startswith("heartbeat") and not self.streams.exists(name):
            return await answer(send, 404, "There is no such request, or its answer was read already.", as_json=True)
        if socket or name:
            self.streams.open(name, address)
        try:
            await self.app(scope, receive, send)
        finally:
            if socket or name:
                self.streams.close(name, address)
            if name or scope.get("method") == "POST":
                self.streams.drop_sessions()


def network_of(host: str) -> str:
    """A client's address; of IPv6 the network, which is one household's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else host


def stream_name(scope: Message) -> str | None:
    """The session or event that a request listens to."""
    path = scope["path"].removeprefix("/").removeprefix("gradio_api/")  # the case of an id matters
    match = STREAM.fullmatch(path) if scope["method"] == "GET" else None
    if match is None:
        return None
    return match[1] or parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
