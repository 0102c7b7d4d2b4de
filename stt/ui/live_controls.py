"""What a live visitor's messages say, between the event loop and the thread that predicts; and the line of visitors."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stt.api import MAX_SEED
from stt.request import RequestError

WINDOW = 3  # frames that may be on their way
IDLE_SECONDS = 30.0
SESSION_SECONDS = 900.0
MAX_WAITING = 16  # visitors
PER_ADDRESS = 2  # of them
IDLE = "Nobody touched the controls for half a minute, so the session ended to make room for others."
OVER = "A session lasts fifteen minutes at most; start another one."
FULL = "Too many visitors are waiting to play; come back later."

YOURS = "You play already; close the other tab."
UNREAD = "Your browser does not keep up with the frames, so the session ended."


class Ended(Exception):
    """The session ends; the message is one sentence."""


class Controls:
    """The latest action, and commands in order. `take` runs in the event loop, the rest in the session's thread."""

    def __init__(self) -> None:
        self.started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.changed = threading.Condition()
        self.action: Any = []
        self.count = 0  # of the action
        self.paused = self.stopped = False
        self.commands: deque[tuple[str, Any]] = deque(maxlen=8)
        self.sent = self.drawn = 0  # frames
        self.began = self.touched = time.monotonic()

    def take(self, message: dict[str, Any]) -> None:
        """Obeys a message of the browser; ignores what it does not know."""
        with self.changed:
            if "start" in message and not self.started.done():
                self.started.set_result(message["start"])
            if "action" in message:
                self.action, self.count = message["action"], whole(message.get("count"), 2**32 - 1)
            if "ack" in message:
                self.drawn = max(self.drawn, whole(message["ack"], self.sent))
            else:
                self.touched = time.monotonic()
            if "pause" in message:
                self.paused = message["pause"] is True
            if "fork" in message:
                seed = message.get("seed")
                seed = None if seed is None else whole(seed, MAX_SEED)
                self.commands.append(("fork", (whole(message["fork"], 2**31), seed)))
            self.commands.extend((name, None) for name in ("swap", "save", "restart") if message.get(name) is True)
            self.changed.notify_all()

    def begin(self) -> None:
        """The session starts, perhaps after a wait in the queue."""
        self.began = self.touched = time.monotonic()

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def wait(self, due: float) -> None:
        """Returns when the next frame is due and may be sent, or when there is a command. Raises Ended."""
        with self.changed:
            while not (self.stopped or self.commands):
                now = time.monotonic()
                if now - self.began > SESSION_SECONDS:
                    raise Ended(OVER)
                if now - self.touched > IDLE_SECONDS:
                    if not self.held() or self.sent - self.drawn > WINDOW:
                        raise Ended(IDLE)
                    self.touched = now
                may_send = not self.paused and self.sent - self.drawn < WINDOW
                if may_send and now >= due:
                    return
                self.changed.wait(min(due - now, 1.0) if may_send else 1.0)

    def held(self) -> bool:
        """Whether a key is held: the action says so as long as it lasts."""
        return not self.paused and isinstance(self.action, list) and any(self.action)

    def command(self) -> tuple[str, Any] | None:
        with self.changed:
            return self.commands.popleft() if self.commands else None

    def latest(self) -> tuple[Any, int]:
        with self.changed:
            return self.action, self.count


@dataclass(frozen=True, eq=False)
class Ticket:
    address: str | None


class Line:
    """Visitors in the order in which they play; the first `places` of them do. For one event loop.

    Addresses take turns in it. by_address: each has PER_ADDRESS places at most.
    """

    def __init__(self, places: int, by_address: bool = False) -> None:
        self.places = places
        self.by_address = by_address
        self.tickets: list[Ticket] = []
        self.changes: set[asyncio.Future[None]] = set()

    @property
    def playing(self) -> int:
        return min(len(self.tickets), self.places)

    def enter(self, address: str | None = None) -> Ticket:
        """Raises RequestError when too many wait, or when too many come from this address."""
        addresses = [ticket.address for ticket in self.tickets]
        own = addresses.count(address)
        if self.by_address and own >= PER_ADDRESS:
            raise RequestError(YOURS)
        if len(self.tickets) >= self.places + MAX_WAITING:
            last = self.tickets[-1]  # of those who have most
            if MAX_WAITING < 1 or addresses.count(last.address) <= own + 1:
                raise RequestError(FULL)
            self.leave(last)
        rounds = [addresses[:k].count(other) for k, other in enumerate(addresses)]
        behind = (k for k in range(self.places, len(self.tickets)) if rounds[k] > own)
        self.tickets.insert(next(behind, len(self.tickets)), ticket := Ticket(address))
        return ticket

    def ahead(self, ticket: Ticket) -> int:
        """The place in the queue, from 1; 0 for who plays. Raises RequestError for who had to give way."""
        if ticket not in self.tickets:
            raise RequestError(FULL)
        return max(self.tickets.index(ticket) + 1 - self.places, 0)

    def leave(self, ticket: Ticket) -> None:
        if ticket in self.tickets:
            self.tickets.remove(ticket)
        for change in self.changes:
            if not change.done():
                change.set_result(None)

    async def change(self) -> None:
        """Returns when somebody leaves."""
        self.changes.add(change := asyncio.get_running_loop().create_future())
        try:
            await change
        finally:
            self.changes.discard(change)


def whole(value: Any, high: int) -> int:
    """The number, if it is a whole one from 0 to `high`, else 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high else 0


# ---- keys ------------------------------------------------------------------------------------------------

DIRECTIONS = {  # words in the names of actions -> where their positive end points on a stick
    "horizontal": {"right": 1, "left": -1, "steering": 1, "steer": 1, "turn": 1, "x": 1},
    "vertical": {
        "forward": 1, "throttle": 1, "gas": 1, "speed": 1, "backward": -1, "back": -1, "up": 1, "down": -1, "y": 1,
    },
}  # fmt: skip


def axis_controls(actions: Sequence[str]) -> list[dict[str, Any]]:
    """For each number of an action: its name, its control, and the sign of the control's positive end.

    Controls are "horizontal" and "vertical", the two directions of a stick, and "extra", a pair of buttons. What the
    name says decides, where two names say the same, the word that stands first in DIRECTIONS; then the order.
    """
    controls: dict[int, tuple[str, int]] = {}
    for control, words in DIRECTIONS.items():
        matches = [
            (rank, k) for k, name in enumerate(actions) for rank, word in enumerate(words)
            if word in re.findall(r"[a-z]+", name.lower()) and k not in controls
        ]  # fmt: skip
        if matches:
            rank, k = min(matches)
            controls[k] = control, list(words.values())[rank]
    free = [control for control in DIRECTIONS if control not in {control for control, _ in controls.values()}]
    for k in range(len(actions)):
        if k not in controls:
            controls[k] = (free.pop(0) if free else "extra"), 1
    return [{"name": name, "control": controls[k][0], "sign": controls[k][1]} for k, name in enumerate(actions)]
