"""Many calls, each by a new client: the app's memory, descriptors and files stay as they are."""

from __future__ import annotations

from tests.attack.application import Application, answer, arguments, example, visitor
from tests.attack.outcome import Outcome

GROWTH = 60.0  # MB
WARM_UP = 30  # calls after which memory is measured first


def predictions(app: Application, calls: int = 1000, model: str = "digits-stt", growth: float = GROWTH) -> Outcome:
    """Predictions of programs without a session, and as many calls of the list of models."""
    outcome, clip = Outcome(), example(app.url)
    small = arguments(clip, model=model, frames=1, futures=1)
    failed, before, handles = 0, 0.0, 0
    for k in range(WARM_UP + calls):
        if k == WARM_UP:
            before, handles = app.resident(), app.descriptors()
        with visitor() as client:
            # a session of its own, as each program and each page has one
            status, text = answer(client, app.url, small, session_hash=f"session-{k}")
            failed += "event: complete" not in text
            body = {"data": [], "session_hash": f"models-{k}", "fn_index": None}
            failed += client.post(f"{app.url}gradio_api/run/models", json=body).status_code != 200
    grown, opened = app.resident() - before, app.descriptors() - handles
    outcome.check(not failed, f"{failed} calls failed")
    outcome.check(grown <= growth, f"memory grew by {grown:.0f} MB")
    outcome.check(opened <= 10, f"{opened} descriptors stayed open")
    outcome.figure = f"{calls} predictions and {calls} lists: {grown:+.1f} MB ({1000 * grown / calls:.0f} kB each)"
    return outcome
