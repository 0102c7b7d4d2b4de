"""Many calls, each by a new client: the app's memory, descriptors and files stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from tests.attack.application import Application, answer, arguments, example, visitor
from tests.attack.outcome import Outcome

GROWTH = 60.0  # MB
LISTS = 10  # calls of the list of models, for each prediction


def predictions(
    app: Application,
    calls: int = 1000,
    model: str = "digits-stt",
    growth: float = GROWTH,
    warm_up: int = 30,
    windows: int = 1,
) -> Outcome:
    """Predictions, and lists of models, each in a session of its own, as programs and pages have.

    warm_up: predictions after which memory is measured first. windows: parts of equal length that are measured.
    """
    outcome, clip = Outcome(), example(app.url)
    small = arguments(clip, model=model, frames=1, futures=1)
    failed: list[str] = []
    sizes, handles = [], 0
    for k in range(warm_up + calls):
        if k >= warm_up and (k - warm_up) % (calls // windows) == 0:
            sizes.append(app.resident())
            handles = handles or app.descriptors()
        with visitor() as client:
            status, text = answer(client, app.url, small, session_hash=f"session-{k}")
            if "event: complete" not in text:
                failed.append(f"prediction {k}: {status} {text[-200:]!r}")
            for n in range(LISTS):
                body = {"data": [], "session_hash": f"models-{k}-{n}"}
                response = client.post(f"{app.url}gradio_api/run/models", json=body)
                if response.status_code != 200:
                    failed.append(f"list {k}: {response.status_code} {response.text[:200]!r}")
    sizes.append(app.resident())
    grown, opened = lasting_growth(sizes), app.descriptors() - handles
    outcome.check(not failed, f"{len(failed)} calls failed, first {failed[:1]}")
    outcome.check(grown <= growth, f"memory grew by {grown:.1f} MB: {', '.join(f'{size:.1f}' for size in sizes)}")
    outcome.check(opened <= 10, f"{opened} descriptors stayed open")
    outcome.figure = f"{calls} predictions, {LISTS * calls} lists: {grown:+.1f} MB"
    return outcome


def lasting_growth(sizes: Sequence[float]) -> float:
    """From the median of the steps between sizes: a new thread's memory is one step, a leak is in all of them."""
    steps = [after - before for before, after in pairwise(sizes)]
    return len(steps) * median(steps)
