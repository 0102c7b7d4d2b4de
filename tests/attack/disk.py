"""A disk without room, uploads that break off, and a visitor who fills the quota."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import httpx

from tests.attack.application import Application, answer, arguments, example, file_data, visitor
from tests.attack.outcome import Outcome


def upload(client: httpx.Client, url: str, content: bytes, name: str = "clip.mp4") -> httpx.Response:
    return client.post(f"{url}gradio_api/upload", files={"files": (name, content)})


def broken_uploads(app: Application, count: int = 20) -> Outcome:
    """Uploads that break off leave nothing behind."""
    outcome, port = Outcome(), int(app.url.rstrip("/").rpartition(":")[2])
    before = len(app.files())
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as one, suppress(OSError):
            one.sendall(
                b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\nContent-Type:"
                b' multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="files";'
                b' filename="a.mp4"\r\n\r\n' + b"x" * 500_000
            )
            time.sleep(0.1)
    left, end = count, time.monotonic() + 10
    while left and time.monotonic() < end:
        time.sleep(0.3)
        left = len(app.files()) - before
    outcome.tried = count
    outcome.failures = [f"{left} files stayed"] * max(left, 0)
    return outcome


def many_files(app: Application, forms: int = 10, files: int = 900) -> Outcome:
    """Forms of many small files, which each later write would have to look at, and streams that name uploads."""
    outcome, before = Outcome(), len(app.files())
    with visitor("127.0.5.1") as greedy, visitor("127.0.5.2") as polite:
        for k in range(forms):
            parts = [("files", (f"{n}.mp4", f"{k} {n}".encode())) for n in range(files)]
            response = greedy.post(f"{app.url}gradio_api/upload", files=parts)
            outcome.check(response.status_code == 413, f"form {k}: {response.status_code}")
        response = greedy.get(f"{app.url}gradio_api/upload_progress?upload_id={'x' * 5000}")
        outcome.check(response.status_code == 404, f"the progress of an upload: {response.status_code}")
        since = time.monotonic()
        response = upload(polite, app.url, b"mine")
        took = time.monotonic() - since
        outcome.check(response.status_code == 200 and took < 5, f"an upload: {response.status_code}, {took:.1f} s")
    time.sleep(0.5)
    left = len(app.files()) - before - 1
    outcome.check(left <= 0, f"{left} files stayed")
    outcome.figure = f"{forms} forms of {files} files; then an upload takes {took:.2f} s"
    return outcome


def full_disk(app: Application) -> Outcome:
    """Of an app whose disk has no room: each answer names it. With room again it works, without a restart."""
    outcome = Outcome()
    filler = app.home / "filler"
    clip, content = example(app.url), b"0" * 3_000_000
    with visitor() as client:
        small = arguments(clip, model=app.model, frames=1, futures=1)
        outcome.check("complete" in answer(client, app.url, small)[1], "it does not work with room")
        with suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"0" * 1_000_000)
        response = upload(client, app.url, content)
        outcome.check("full" in response.text, f"an upload: {response.status_code} {response.text[:100]!r}")
        status, text = answer(client, app.url, small)
        outcome.check("full" in text, f"a prediction: {status} {text[-200:]!r}")
        filler.unlink()
        response = upload(client, app.url, content)
        outcome.check(
            response.status_code == 200, f"an upload afterwards: {response.status_code} {response.text[:100]!r}"
        )
        outcome.check("complete" in answer(client, app.url, small)[1], "a prediction afterwards fails")
        outcome.check("Traceback" not in app.text(), "a traceback is in the log")
    return outcome


def flood(app: Application, limit: float, clips: int = 16, size: int = 8_000_000) -> Outcome:
    """One visitor's flood costs that visitor's files, and never more than the quota (bytes)."""
    outcome, most = Outcome(), 0
    with visitor("127.0.3.1") as polite, visitor("127.0.3.2") as greedy:
        own = upload(polite, app.url, b"mine" * 100_000).json()[0]
        for k in range(clips):
            response = upload(greedy, app.url, bytes([k]) * size)
            outcome.check(response.status_code == 200, f"upload {k}: {response.status_code} {response.text[:80]}")
            most = max(most, sum(path.stat().st_size for path in app.files()))
        status, text = answer(polite, app.url, arguments(file_data(own), model=app.model, frames=1))
        outcome.check("no longer here" not in text, "the other visitor's file is gone")
    outcome.check(most <= limit, f"{most / 1e6:.0f} MB at most")
    outcome.figure = f"{most / 1e6:.0f} MB at most of {limit / 1e6:.0f}"
    return outcome
