"""Signals, ports that are taken, and connections that nobody uses."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import httpx

from tests.attack.application import (
    FIRST_PORT,
    ROOT,
    Application,
    answer,
    application,
    arguments,
    example,
    post,
    visitor,
)
from tests.attack.outcome import Outcome


def signals(model: str = "robot-stt", numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)) -> Outcome:
    """The app ends with 0 within 10 seconds while a prediction runs."""
    outcome, took = Outcome(), []
    for number in numbers:
        with application() as app:
            end_while_running(app, model, number, outcome, took)
    outcome.figure = f"{max(took):.1f} s at most"
    return outcome


def end_while_running(app: Application, model: str, number: int, outcome: Outcome, took: list[float]) -> None:
    values, texts = arguments(example(app.url), model=model, frames=40, futures=8), []

    def ask() -> None:
        with visitor() as client, suppress(httpx.HTTPError):
            event = post(client, app.url, values).json()["event_id"]
            with client.stream("GET", f"{app.url}gradio_api/call/predict/{event}") as answers:
                texts.extend(answers.iter_lines())

    thread = threading.Thread(target=ask)
    thread.start()
    end = time.monotonic() + 60
    while not any("predicted" in line for line in texts) and time.monotonic() < end:
        time.sleep(0.1)
    since, name = time.monotonic(), signal.Signals(number).name
    code = app.stop(number)
    took.append(time.monotonic() - since)
    thread.join(10)
    outcome.check(code == 0 and took[-1] < 12, f"{name}: exit code {code} after {took[-1]:.1f} s")
    odd = [word for word in ("Traceback", "terminate called") if word in app.text()]
    outcome.check(not odd, f"{name}: {odd} in the log")


def second_signal(app: Application) -> Outcome:
    """Ends the process at once, whatever the first one waits for."""
    outcome = Outcome()
    app.process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    code = app.stop(signal.SIGTERM, seconds=3)
    outcome.check(code in (-signal.SIGTERM, 0), f"exit code {code}")
    return outcome


def connections(app: Application, count: int = 300, seconds: float = 8.0) -> Outcome:
    """So many connections that send nothing, or half a request, and a visitor beside them."""
    outcome, idle, waits = Outcome(), [], []
    port = int(app.url.rstrip("/").rpartition(":")[2])
    try:
        for k in range(count):
            one = socket.create_connection(("127.0.0.1", port), timeout=5)
            if k % 2:
                one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            idle.append(one)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            since = time.monotonic()
            with suppress(httpx.HTTPError), httpx.Client(timeout=10) as client:
                if client.get(f"{app.url}gradio_api/info").status_code == 200:
                    waits.append(time.monotonic() - since)
            time.sleep(0.2)
    finally:
        for one in idle:
            one.close()
    outcome.check(len(waits) > 2 and min(waits) < 5, f"a visitor was answered {len(waits)} times")
    status, text = 0, ""
    with suppress(httpx.HTTPError), visitor() as client:
        status, text = answer(client, app.url, arguments(example(app.url), model=app.model, frames=1, futures=1))
    outcome.check("complete" in text, f"a prediction afterwards: {status} {text[:100]}")
    first = f"{waits[0]:.1f} s for the first answer" if waits else "no answer"
    outcome.figure = f"{count} connections, {first}, {app.descriptors()} descriptors afterwards"
    return outcome


def one_address(app: Application, count: int = 1100) -> Outcome:
    """So many requests of one address whose bodies never end, and a visitor of another one."""
    outcome, slow, waits = Outcome(), [], []
    port = int(app.url.rstrip("/").rpartition(":")[2])
    head = b"POST /gradio_api/call/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
    try:
        for _ in range(count):
            with suppress(OSError):
                slow.append(socket.create_connection(("127.0.0.1", port), timeout=5))
                slow[-1].sendall(head)
        for _ in range(5):
            since, status = time.monotonic(), 0
            with suppress(httpx.HTTPError), visitor("127.0.4.1") as client:
                status = client.get(f"{app.url}gradio_api/info").status_code
            waits.append(time.monotonic() - since)
            outcome.check(status == 200, f"a visitor of another address got {status}")
    finally:
        for one in slow:
            one.close()
    outcome.figure = f"{count} requests without an end, {max(waits):.1f} s for another address at most"
    return outcome


def mistakes(every: int = 1) -> Outcome:
    """Options that cannot work end with one sentence, before the work."""
    outcome = Outcome()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", FIRST_PORT + 9))
        taken.listen()
        preset = ["train.tokenizer", "--preset", "moving_mnist_one_digit/video_vq/cpu", "--out"]
        for words in (
            ["app", "--port", str(FIRST_PORT + 9)], ["app", "--port", "99999"], ["app", "--device", "cuda:77"],
            ["app", "--models", "/nowhere"], ["app", "--max-seconds", "nan"],
            [*preset, "/dev/null/x"], [*preset, "/dev/null"], [*preset, "/proc/x"], [*preset, ""], [*preset, "a" * 300],
            [*preset, "/tmp/stt-attack", "--steps", "-1"], [*preset, "/tmp/stt-attack", "--batch", "0"],
            [*preset, "/tmp/stt-attack", "--lr", "nan"], [*preset, "/tmp/stt-attack", "--minutes", "-3"],
            [*preset, "/tmp/stt-attack", "--device", "cuda:77"],
        )[::every]:  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
            )
            lines = [line for line in done.stderr.strip().splitlines() if not line.startswith(("usage:", " "))]
            fine = done.returncode not in (0, -6) and "Traceback" not in done.stderr and len(lines) <= 4
            outcome.check(fine, f"{' '.join(words)}: {done.returncode} {lines[-1:]}")
    return outcome
