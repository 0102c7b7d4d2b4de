"""What a request will cost, by what earlier ones cost on this machine, and the limit for a single one."""

from __future__ import annotations

from collections import defaultdict

from stt.prediction import DEADLINE
from stt.request import Request, RequestError

KEPT = 0.7  # share of the earlier measurement in a new one


class Costs:
    """Seconds of computing by model. limit: the most for one request."""

    def __init__(self, limit: float = DEADLINE) -> None:
        self.limit = limit
        self._seconds: defaultdict[str, dict[int, float]] = defaultdict(dict)  # by model and futures, of one frame

    def add(self, request: Request, futures: int, frames: int, seconds: float) -> None:
        """What the first `frames` frames of so many futures took."""
        if frames:
            measured, known = seconds / frames, self._seconds[request.model]
            known[futures] = measured * (1 - KEPT) + known.get(futures, measured) * KEPT

    def of_frame(self, request: Request) -> float | None:
        """Seconds of one frame of all futures, at most; None before the model's first prediction."""
        known = self._seconds[request.model].items()
        return min((cost * max(request.futures / futures, 1) for futures, cost in known), default=None)

    def check(self, request: Request) -> None:
        """Raises RequestError for a request above the limit."""
        cost = self.of_frame(request)
        if cost is None or (seconds := cost * request.frames) <= self.limit:
            return
        fewer = int(self.limit / cost)
        advice = f"choose at most {fewer} frames, or fewer futures" if fewer else "choose fewer futures"
        raise RequestError(
            f"{request.frames} frames of {request.futures} futures take about {seconds:.0f} s here, at"
            f" {1000 * cost / request.futures:.0f} ms each; the limit is {self.limit:.0f} s: {advice}."
        )
