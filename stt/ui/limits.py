"""Middleware that limits the size of requests and closes routes.

Gradio limits uploaded files, but not the other fields of a form nor JSON bodies, and opens some routes that this app
does not need.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from stt.video import LIMITS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPLOAD_BYTES = 26_000_000  # a clip of 25 MB and its multipart headers
BODY_BYTES = 1_000_000
CLOSED = (
    "process_recording",  # would run ffmpeg on anybody's upload, outside of the queue
    "component_server",
    "monitoring",
    "proxy=",
    "file=http",  # an open proxy to other sites
    "vibe-",
    "deep_link",
)


def too_large(limit: int) -> str:
    if limit == UPLOAD_BYTES:
        return f"The limit of a file is {LIMITS.file_bytes / 1e6:g} MB."
    return f"The request is larger than {limit / 1e6:g} MB."


class TooLarge(Exception):
    pass


class RequestLimits:
    """ASGI middleware: 404 for closed routes, 413 for bodies over the limit."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        route = scope["path"].lower().removeprefix("/").removeprefix("gradio_api/")
        if route.startswith(CLOSED):
            return await answer(send, 404, "Not found.")
        limit = UPLOAD_BYTES if route.startswith("upload") else BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            return await answer(send, 413, too_large(limit))
        await self._count(scope, receive, send, limit)

    async def _count(self, scope: Message, receive: Receive, send: Send, limit: int) -> None:
        """Counts the bytes that arrive: a chunked body declares no length."""
        received, over, started = 0, False, False

        async def counting() -> Message:
            nonlocal received, over
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                over = True
                raise TooLarge
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            if over and not started:
                return  # the app's own answer to a body that it could not read
            started = True
            await send(message)

        try:
            await self.app(scope, counting, sending)
        except Exception:
            if not over:
                raise
        if over and not started:
            await answer(send, 413, too_large(limit))


async def answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
