"""Middleware that limits the size and the duration of requests, closes routes, and answers errors with a sentence.

Gradio limits uploaded files, but not the other fields of a form nor JSON bodies, and opens some routes that this app
does not need.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gradio.route_utils import FnIndexInferError

from stt.video import LIMITS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPLOAD_BYTES = 26_000_000  # a clip of 25 MB and its multipart headers
BODY_BYTES = 1_000_000
BODY_SECONDS = 60.0  # for a whole body to arrive
FILES = 8  # parts of a form
CALLS = ("queue/", "call/", "run/", "api/")  # whose clients read JSON
CLOSED = (
    "process_recording",  # would run ffmpeg on anybody's upload, outside of the queue
    "component_server",
    "monitoring",
    "proxy=",
    "file=http",  # an open proxy to other sites
    "file/",  # the same by another name
    "vibe-",
    "deep_link",
    "custom_component",  # writes what it is called with to the log
    "dev/",  # an endless stream
    "stream/",
    "upload_progress",  # keeps every name that it is called with
)


def too_large(limit: int) -> str:
    if limit == UPLOAD_BYTES:
        return f"The limit of a file is {LIMITS.file_bytes / 1e6:g} MB."
    return f"The request is larger than {limit / 1e6:g} MB."


class BadBody(Exception):
    """A body that is not taken: status and sentence."""


class RequestLimits:
    """ASGI middleware: 404 for closed routes, 413 and 408 for bodies over the limits."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        route = route_of(scope)
        if route.startswith(CLOSED):
            return await answer(send, 404, "Not found.")
        limit = UPLOAD_BYTES if route.startswith("upload") else BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared[:20]) > limit:
            return await answer(send, 413, too_large(limit))
        if route.startswith("upload"):
            scope = {**scope, "query_string": b""}  # whose upload_id Gradio would keep
        await self._bounded(scope, receive, send, limit)

    async def _bounded(self, scope: Message, receive: Receive, send: Send, limit: int) -> None:
        """Counts the bytes that arrive, since a chunked body declares no length, its parts, and its seconds."""
        received, more, bad, started = 0, True, None, False
        end, separator, tail, parts = time.monotonic() + BODY_SECONDS, separator_of(scope), b"", 0

        async def counting() -> Message:
            nonlocal received, more, bad, tail, parts
            try:
                message = await (asyncio.wait_for(receive(), end - time.monotonic()) if more else receive())
            except TimeoutError:
                bad = 408, f"The request took longer than {BODY_SECONDS:.0f} seconds to arrive."
                raise BadBody from None
            received, more = received + len(message.get("body", b"")), message.get("more_body", False)
            if received > limit:
                bad = 413, too_large(limit)
                raise BadBody
            if separator:
                tail += message.get("body", b"")
                parts, tail = parts + tail.count(separator), tail[1 - len(separator) :]
                if parts > FILES + 1:  # one ends the last part
                    bad = 413, f"Upload at most {FILES} files at once."
                    raise BadBody
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            if bad and not started:
                return  # the app's own answer to a body that it could not read
            started = True
            if message.get("status") == 500 and route_of(scope).startswith("run/"):
                message = {**message, "status": 422}  # Gradio answers each error of a function with 500
            await send(message)

        try:
            await self.app(scope, counting, sending)
        except Exception as error:
            if not bad:
                if started:
                    raise
                bad = sentence_of(error, scope)
        if bad and not started:
            await answer(send, *bad, as_json=route_of(scope).startswith(CALLS))


def route_of(scope: Message) -> str:
    return scope["path"].lower().removeprefix("/").removeprefix("gradio_api/")


def separator_of(scope: Message) -> bytes:
    """What stands between the parts of a form; b"" for other bodies."""
    match = re.search(rb'multipart/.*boundary="?([^";, ]+)', dict(scope["headers"]).get(b"content-type", b""))
    return b"--" + match[1] if match else b""


def sentence_of(error: Exception, scope: Message) -> tuple[int, str]:
    """Status and sentence for an exception of Gradio's own routes."""
    if isinstance(error, FnIndexInferError) or (isinstance(error, KeyError) and "/v2/" in scope["path"]):
        return 404, "There is no endpoint of this name."
    text = " ".join(f"{type(error).__name__}: {error}".split())
    logging.getLogger("stt.ui").error("%.100r failed: %.300r", scope["path"], text)  # without control characters
    if not route_of(scope).startswith(CALLS):
        return 500, "Something went wrong on our side; please try again."
    return 400, "The request cannot be read; /gradio_api/info describes the endpoints and their arguments."


async def answer(send: Send, status: int, text: str, *, as_json: bool = False) -> None:
    body = json.dumps({"detail": text}).encode() if as_json else text.encode()
    kind = b"application/json" if as_json else b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
