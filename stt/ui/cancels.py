"""Stop pressed within milliseconds of Predict: Gradio's page then cancels without the id of its request."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, cast

from stt.ui.fair_queue import FairQueue
from stt.ui.limits import Message, Receive, Send, answer, route_of
from stt.ui.streams import Streams

PATIENCE = 10.0  # seconds in which the request arrives; a busy machine needs some
PAUSE = 0.02  # seconds between two looks


class EarlyCancels:
    """ASGI middleware: completes /cancel with the id of the session's request to that function, and waits for it.

    The page's /reset, which follows and does nothing, needs no id.
    """

    def __init__(self, app: Any, streams: Streams) -> None:
        self.app = app
        self.streams = streams

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or route_of(scope) not in ("cancel", "reset"):
            return await self.app(scope, receive, send)
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            call = None
        if isinstance(call, dict) and not call.get("event_id"):
            cancels = route_of(scope) == "cancel"
            call["event_id"] = cancels and await self._wait_for(call.get("session_hash"), call.get("fn_index"))
            if not call["event_id"]:
                return await answer(send, 200, "There is nothing to stop.", as_json=True)
            body = json.dumps(call).encode()
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _wait_for(self, session: Any, function: Any) -> str | None:
        """The id of a session's request to a function, None if none comes."""
        end = time.monotonic() + PATIENCE
        while self.streams.blocks is not None and time.monotonic() < end:
            queue = cast(FairQueue, self.streams.blocks._queue)
            for event in queue.events():
                if event.session_hash == session and event.fn._id == function:
                    return event._id
            await asyncio.sleep(PAUSE)
        return None
