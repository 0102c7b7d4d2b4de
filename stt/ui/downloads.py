"""Routes of results and of their videos. Videos are made on demand, one at a time, and few requests may wait for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from stt.request import RequestError
from stt.results import ResultStore
from stt.ui.errors import FULL
from stt.ui.player import result_value
from stt.ui.streams import network_of, subtract

WAITING = 16  # requests, half of them of one address
BUSY = "Many videos are being made; try again in a minute."


class Downloads:
    def __init__(self, store: ResultStore) -> None:
        self.store = store
        self.limiters: dict[str, CapacityLimiter] = {}  # each is made in the event loop
        self.asking: Counter[tuple[str, str]] = Counter()  # requests by what they want and address

    def routes(self) -> list[Route]:
        """A result for the player, /runs/ID.json, and its videos, /runs/ID/NAME."""
        return [Route("/runs/{result}.json", self.result), Route("/runs/{result}/{file}", self.video)]

    async def result(self, request: Request) -> Response:
        name = request.path_params["result"]

        def value() -> Response:
            return JSONResponse(result_value(self.store.get(name), precomputed=name in self.store.shipped))

        return await self._one_by_one("results", request, value)

    async def video(self, request: Request) -> Response:
        def file() -> Response:
            path, title = self.store.video(request.path_params["result"], request.path_params["file"])
            return FileResponse(path, filename=title)

        return await self._one_by_one("videos", request, file)

    async def _one_by_one(self, kind: str, request: Request, make: Callable[[], Response]) -> Response:
        limiter: Any = self.limiters.setdefault(kind, CapacityLimiter(1))
        client = kind, network_of(request.client.host if request.client else "")
        if limiter.statistics().tasks_waiting >= WAITING or self.asking[client] > WAITING // 2:
            return PlainTextResponse(BUSY, 503, {"retry-after": "60"})
        self.asking[client] += 1
        try:
            return await self._answer(limiter, request, make)
        finally:
            subtract(self.asking, client)

    async def _answer(self, limiter: CapacityLimiter, request: Request, make: Callable[[], Response]) -> Response:
        async with limiter:
            if await request.is_disconnected():
                return Response(status_code=499)  # nobody reads it
            try:
                return await run_sync(make)
            except RequestError as error:
                return PlainTextResponse(str(error), 507 if "disk" in str(error) else 404)
            except OSError:  # an encoder that cannot write
                return PlainTextResponse(FULL, 507)
