"""A queue that is fair to clients: each has few places, whoever computed least goes first, and nobody waits for the
requests of clients that are gone.

A client is a session; calls without a session are those of their address. Behind a proxy that `--trusted-proxy` names,
an address counts as one client, too.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from functools import partial
from typing import Any

import fastapi
from fastapi import HTTPException
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage

from stt.ui.errors import TITLE
from stt.ui.streams import Streams, network_of

PLACES = 3  # predictions of one client: 1 that runs and 2 that wait; as many previews for each that may run at once
SETTLING = 1.0  # seconds that a client may take between asking and listening before others get its place
ABANDONED = 30.0  # seconds after which a request that nobody listens to is dropped
ANOTHER = 5.0  # seconds of computing that each further request of an address counts as
HALF_LIFE = 60.0  # seconds in which computing that was used counts half


class Usage:
    """Recent seconds of computing that others waited for, by name; older ones count less."""

    def __init__(self) -> None:
        self._seconds: dict[str, tuple[float, float]] = {}

    def at(self, now: float, name: str) -> float:
        seconds, when = self._seconds.get(name, (0.0, 0.0))
        return seconds * 0.5 ** ((now - when) / HALF_LIFE)

    def add(self, name: str, seconds: float) -> None:
        now = time.monotonic()
        self._seconds[name] = self.at(now, name) + seconds, now
        self._seconds = {n: s for n, s in self._seconds.items() if now - s[1] < 10 * HALF_LIFE}


class FairQueue(Queue):
    def __init__(self, streams: Streams, *, by_address: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.streams = streams
        self.by_address = by_address
        self.closed = ""  # why no request is taken
        self.usage = Usage()
        self.ANALYTICS_MAX_EVENTS = 1  # nobody reads them

    def compute_analytics_summary(self, records: Any) -> Any:
        return self.cached_event_analytics_summary

    # ---- asking ------------------------------------------------------------------------------------------

    async def push(self, body: Any, request: fastapi.Request, username: str | None) -> Any:
        """Raises HTTPException with a sentence for a client that has no place left, and where all places are taken."""
        fn = self.blocks.fns.get(body.fn_index)
        if fn is None:
            raise HTTPException(404, "There is no such function.")
        if self.closed:
            raise HTTPException(503, self.closed)
        address = address_of(request)
        client = body.session_hash or address
        places = PLACES * (fn.concurrency_limit if isinstance(fn.concurrency_limit, int) else 1)
        for name, kind in ((client, 0), (address, 1))[: 1 + self.by_address]:
            if not await self._has_place(name, kind, fn.concurrency_id, places):
                raise HTTPException(429, f"You have {places} requests here already; wait until one of them is done.")
        if self.max_size is not None and len(self) >= self.max_size and not self._displace(address, client):
            raise HTTPException(503, f"The app is busy: {len(self)} requests are waiting. Try again in a minute.")
        return await super().push(body=body, request=request, username=username)

    async def _has_place(self, name: str, kind: int, concurrency_id: str, places: int) -> bool:
        """Whether a client (kind 0) or address (1) has a place, perhaps of its own request that nobody listens to."""
        for seconds in (SETTLING, 0):
            own = [e for e in self.events() if e.concurrency_id == concurrency_id and names_of(e)[kind] == name]
            if len(own) < places:
                return True
            silent = [e for e in self._waiting() if e in own and not self._settled(e)]
            if silent:
                self._drop(silent[0], "Nobody listened for the answer of this request.")
                return True
            await asyncio.sleep(seconds)
        return False

    def _displace(self, address: str, name: str) -> bool:
        """Makes room in a full queue at the cost of whoever has more requests in it."""
        waiting = self._waiting()
        silent = [event for event in waiting if not self._settled(event)]
        if silent:
            self._drop(silent[0], "Nobody listened for the answer of this request.")
            return True
        for mine, key in ((address, lambda e: address_of(e.request)), (name, lambda e: names_of(e)[0])):
            counts = Counter(map(key, waiting))
            most, count = counts.most_common(1)[0]
            if count > counts[mine] + 1:
                last = [event for event in waiting if key(event) == most][-1]
                self._drop(last, "The app is busy and others have fewer requests here; try again in a minute.")
                return True
        return False

    # ---- choosing ----------------------------------------------------------------------------------------

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The next request: its client listens, has none that runs, and computed least of late."""
        now = time.monotonic()  # once: usage shrinks with time, and requests of one client stay in order
        for event in self._waiting():
            if not self._listens(event) and now - event.enqueue_time > ABANDONED:
                self._drop(event, f"Nobody listened for the answer of this request for {ABANDONED:.0f} seconds.")
        running = {(names_of(e)[0], e.concurrency_id) for e in self.running()}
        queues = list(self.event_queue_per_concurrency_id.values())
        random.shuffle(queues)
        for queue in queues:
            if queue.current_concurrency >= (math.inf if queue.concurrency_limit is None else queue.concurrency_limit):
                continue
            ready = [e for e in queue.queue if self._listens(e) and (names_of(e)[0], e.concurrency_id) not in running]
            if ready:
                event = min(ready, key=partial(self._rank, now))
                queue.queue.remove(event)
                return [event], False, queue.concurrency_id
        return None

    def _rank(self, now: float, event: Event) -> tuple[float, ...]:
        client, address = names_of(event)
        others = sum(names_of(other)[1] == address for other in self.events()) - 1
        return self.usage.at(now, address) + ANOTHER * others, self.usage.at(now, client), event.enqueue_time

    async def process_events(self, events: list[Event], *arguments: Any, **options: Any) -> None:
        began, contended = time.monotonic(), self._keeps_waiting(events[0])
        try:
            await super().process_events(events, *arguments, **options)
        finally:
            if contended or self._keeps_waiting(events[0]):  # what nobody waited for costs nobody
                for name in set(names_of(events[0])):
                    self.usage.add(name, time.monotonic() - began)

    # ---- helpers -----------------------------------------------------------------------------------------

    def _keeps_waiting(self, event: Event) -> bool:
        """Whether a request of another client waits."""
        return any(names_of(other)[0] != names_of(event)[0] for other in self._waiting())

    def _waiting(self) -> list[Event]:
        return [event for queue in self.event_queue_per_concurrency_id.values() for event in queue.queue]

    def running(self) -> list[Event]:
        return [event for job in self.active_jobs if job for event in job]

    def events(self) -> list[Event]:
        return self.running() + self._waiting()

    def _listens(self, event: Event) -> bool:
        return event.session_hash in self.streams.by_name or event._id in self.streams.by_name

    def drop_waiting(self, sentence: str) -> None:
        for event in self._waiting():
            self._drop(event, sentence)

    def _settled(self, event: Event) -> bool:
        """Whether its client listens, or may be about to."""
        return self._listens(event) or time.monotonic() - event.enqueue_time < SETTLING

    def _drop(self, event: Event, sentence: str) -> None:
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        output = {"error": sentence, "title": TITLE, "visible": True}
        self.send_message(event, ProcessCompletedMessage(output=output, success=False, title=TITLE))


def names_of(event: Event) -> tuple[str, str]:
    """(client, address): Gradio takes an event's id for the session of a call without one."""
    address = address_of(event.request)
    return (address if event.session_hash == event._id else event.session_hash), address


def address_of(request: fastapi.Request) -> str:
    return network_of(request.client.host if request.client else "")
