"""Middleware around uploads: there is room before one is taken, and nothing is left of one that breaks off."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyio.to_thread import run_sync

from stt.request import RequestError
from stt.ui.cleanup import Cleanup
from stt.ui.limits import BODY_SECONDS, UPLOAD_BYTES, Message, Receive, Send, answer, route_of


class UploadRoom:
    """ASGI middleware: 507 where the disk has no room."""

    def __init__(self, app: Any, cleanup: Cleanup) -> None:
        self.app = app
        self.cleanup = cleanup
        self.arriving: list[int] = []  # bytes of each upload that is under way

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not route_of(scope).startswith("upload"):
            return await self.app(scope, receive, send)
        declared = dict(scope["headers"]).get(b"content-length", b"")
        size = int(declared[:20]) if declared.isdigit() else UPLOAD_BYTES
        try:
            await run_sync(self.cleanup.make_room, sum(self.arriving) + size)
        except RequestError as error:
            return await answer(send, 507, str(error))
        self.arriving.append(size)
        body = b""

        async def sending(message: Message) -> None:
            nonlocal body
            body += message.get("body", b"")[:100_000]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            self.arriving.remove(size)
            for path in paths_of(body):
                self.cleanup.own(path, (scope.get("client") or ("", 0))[0])
            # later: the error of a broken upload holds its file open, at times for a second
            for delay in (0.1, 2.0):
                asyncio.get_running_loop().call_later(delay, self._drop_leftovers)

    def _drop_leftovers(self) -> None:
        self.cleanup.drop_half_uploads(older_than=2 * BODY_SECONDS if self.arriving else 0.0)


def paths_of(body: bytes) -> list[Path]:
    """The uploaded files that an answer lists."""
    with suppress(ValueError):
        paths = json.loads(body)
        if isinstance(paths, list):
            return [Path(path) for path in paths if isinstance(path, str)]
    return []
