"""Many calls, each by a new client: the app's memory, descriptors and files stay as they are."""

from __future__ import annotations

from tests.attack.application import Application, answer, arguments, example, visitor
from tests.attack.outcome import Outcome

GROWTH = 60.0  # MB
LISTS = 10  # calls of the list of models, for each prediction


def predictions(
    app: Application, calls: int = 1000, model: str = "digits-stt", growth: float = GROWTH, warm_up: int = 30
) -> Outcome:
    """Predictions, and lists of models, each in a session of its own, as programs and pages have.

    warm_up: predictions after which memory is measured first.
    """
    outcome, clip = Outcome(), example(app.url)
    small = arguments(clip, model=model, frames=1, futures=1)
    failed, before, handles = 0, 0.0, 0
    for k in range(warm_up + calls):
        if k == warm_up:
            before, handles = app.resident(), app.descriptors()
        with visitor() as client:
            status, text = answer(client, app.url, small, session_hash=f"session-{k}")
            failed += "event: complete" not in text
            for n in range(LISTS):
                body = {"data": [], "session_hash": f"models-{k}-{n}"}
                failed += client.post(f"{app.url}gradio_api/run/models", json=body).status_code != 200
    grown, opened = app.resident() - before, app.descriptors() - handles
    outcome.check(not failed, f"{failed} calls failed")
    outcome.check(grown <= growth, f"memory grew by {grown:.0f} MB")
    outcome.check(opened <= 10, f"{opened} descriptors stayed open")
    outcome.figure = f"{calls} predictions, {LISTS * calls} lists: {grown:+.1f} MB"
    return outcome
