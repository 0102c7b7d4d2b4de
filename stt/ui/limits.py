"""Limits on what a request may be, in front of everything else.

Gradio bounds uploaded files, but not the other fields of a form nor JSON bodies, and keeps some routes open
that this app has no use for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UPLOAD_BYTES = 26_000_000  # the 25 MB of a clip, and its envelope
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


class TooLarge(Exception):
    pass


class Guard:
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
            return await answer(send, 413, f"The request is larger than {limit / 1e6:.0f} MB.")
        await self._counted(scope, receive, send, limit)

    async def _counted(self, scope: Message, receive: Receive, send: Send, limit: int) -> None:
        """Counts what really arrives: a chunked body declares no length."""
        seen, over, started = 0, False, False

        async def counting() -> Message:
            nonlocal seen, over
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                over = True
                raise TooLarge
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            if over and not started:
                return  # the app's own words on a body that it could not finish reading
            started = True
            await send(message)

        try:
            await self.app(scope, counting, sending)
        except Exception:
            if not over:
                raise
        if over and not started:
            await answer(send, 413, f"The request is larger than {limit / 1e6:.0f} MB.")


async def answer(send: Send, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
