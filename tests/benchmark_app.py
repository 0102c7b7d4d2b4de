"""How fast the app is for its visitors: python -m tests.benchmark_app

Starts this copy's app on 127.0.0.1, predicts, uploads, plays, and lets many visitors come at once. Beside seconds stand
processor seconds of the server, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from websockets.sync.client import connect

from stt.ui.live import HEADER
from tests.attack.application import EXAMPLE, ROOT, Application, answer, application, arguments, file_data, visitor
from tests.attack.disk import upload
from tests.video_fixtures import make

MODELS = sorted(path.stem for path in (ROOT / "assets/models").glob("*.safetensors"))
PLAYED = ("robot-stt", "tabletop-layered")
DEFAULT = "robot-stt"
PHONE = "-c:v libx264 -preset veryfast -b:v 15M -pix_fmt yuv420p"


def processor_seconds(app: Application) -> float:
    """Of the server and of the decoders and encoders that it waited for."""
    return sum(psutil.Process(app.process.pid).cpu_times()[:4])


def row(name: str, seconds: float, computing: float | None = None, note: str = "") -> None:
    cpu = "" if computing is None else f"{computing:.2f}"
    print(f"{name:44}{seconds:>9.2f}{cpu:>9}  {note}", flush=True)


class Busy(RuntimeError):
    """The app's queue is full."""


class Visitor:
    """Uploads and predicts as a program does."""

    def __init__(self, app: Application, address: str = "127.0.0.1") -> None:
        self.app, self.address = app, address

    def upload(self, path: Path) -> dict[str, Any]:
        with visitor(self.address) as client:
            return file_data(upload(client, self.app.url, path.read_bytes()).json()[0])

    def predict(self, clip: Any, model: str, **settings: Any) -> dict[str, Any]:
        """The report of a prediction, with the seconds of the visitor and the server's processor seconds."""
        since, used = time.monotonic(), processor_seconds(self.app)
        with visitor(self.address) as client:
            status, text = answer(client, self.app.url, arguments(clip, model=model, **settings))
        if status == 503:
            raise Busy(text)
        if "event: complete" not in text:
            raise RuntimeError(f"{model}: {text[-300:]}")
        report = json.loads(text.partition("data: ")[2])[3]
        return report | {"seconds": time.monotonic() - since, "cpu": processor_seconds(self.app) - used}


def median_of(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def starts(count: int, **options: Any) -> None:
    """From the command to an answered page, and the first prediction of an app that has computed nothing yet."""
    begun, used, first = [], [], []
    for _ in range(count):
        since = time.monotonic()
        with application(**options) as app:
            httpx.get(app.url, timeout=60)
            begun.append(time.monotonic() - since)
            used.append(processor_seconds(app))
            one = Visitor(app)
            first.append(one.predict(one.upload(EXAMPLE), DEFAULT))
    row("start of the app, to an answered page", statistics.median(begun), statistics.median(used))
    row("first frame after the start, robot-stt", median_of(first, "first_frame_seconds"))
    row("whole first prediction, with its videos", median_of(first, "seconds"), median_of(first, "cpu"))


def predictions(app: Application, repeats: int) -> None:
    """4 futures of 10 frames: until the last frame, and until their five videos have come."""
    one = Visitor(app)
    clip = one.upload(EXAMPLE)
    for model in MODELS:
        one.predict(clip, model)
        runs = [one.predict(clip, model, seed=k) for k in range(repeats)]
        with_videos = f"with five videos {median_of(runs, 'seconds'):.2f} s"
        row(f"4 futures of 10 frames, {model}", median_of(runs, "total_seconds"), median_of(runs, "cpu"), with_videos)
    print(f"memory with all models used: {app.resident():.0f} MB", flush=True)


def large_upload(app: Application, repeats: int) -> None:
    one, runs, sent = Visitor(app), [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phone.mp4"
        make(path, PHONE, "testsrc2=s=1920x1080:r=30:d=10")
        for k in range(repeats):
            since = time.monotonic()
            clip = one.upload(path)
            sent.append(time.monotonic() - since)
            runs.append(one.predict(clip, DEFAULT, frames=1, futures=1, seed=k))
        megabytes = path.stat().st_size / 1e6
    seconds = statistics.median(sent) + median_of(runs, "first_frame_seconds")
    note = f"{megabytes:.0f} MB in {statistics.median(sent):.2f} s, then read"
    row("10 s of 1080p, upload to first frame", seconds, median_of(runs, "cpu"), note)


def live(app: Application, model: str, frames: int = 60) -> None:
    """Frames a second that Play could show, and those that came: the model's rate is the most."""
    times, since = [], 0.0
    with connect(app.url.replace("http", "ws") + "live") as socket:
        socket.send(json.dumps({"start": {"model": model, "seed": 7, "temperature": 1.0}}))
        while len(times) < frames:
            if isinstance(message := socket.recv(timeout=60), bytes):
                since = since or time.monotonic()
                times.append(HEADER.unpack(message[: HEADER.size])[3])
                socket.send(json.dumps({"ack": len(times)}))
    rate, milliseconds = (frames - 1) / (time.monotonic() - since), statistics.median(times[1:])
    print(f"live, {model}: {1000 / milliseconds:.0f} frames/s computed, {rate:.1f} came", flush=True)


def load(app: Application, visitors: int, seconds: float, model: str = "digits-stt") -> None:
    """So many visitors, each with an address of its own, who ask again as soon as they have an answer.

    Whoever finds the queue full tries again after a second, and the wait goes on.
    """
    waits: list[float] = []
    refused: list[int] = []
    end = time.monotonic() + seconds

    def come(number: int) -> None:
        one = Visitor(app, f"127.0.3.{number + 1}")
        clip = one.upload(EXAMPLE)
        since = time.monotonic()
        while time.monotonic() < end:
            try:
                one.predict(clip, model, seed=number)
            except Busy:
                refused.append(number)
                time.sleep(1)
                continue
            waits.append(time.monotonic() - since)
            since = time.monotonic()

    since = time.monotonic()
    in_threads(visitors, come)
    took, waits = time.monotonic() - since, sorted(waits)
    late = waits[int(0.95 * (len(waits) - 1))]
    print(
        f"{visitors} visitors, 4 futures of 10 frames of {model} each: {len(waits) / took:.2f} requests/s, median"
        f" {statistics.median(waits):.1f} s, 95th percentile {late:.1f} s; {len(refused)} found the queue full;"
        f" {app.resident():.0f} MB",
        flush=True,
    )


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Raises RuntimeError unless all of them come to their end."""
    done: list[int] = []
    threads = [threading.Thread(target=lambda k=k: (work(k), done.append(k))) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(done) < count:
        raise RuntimeError(f"{count - len(done)} of {count} visitors failed: messages stand above")


@contextmanager
def busy_neighbours(count: int) -> Iterator[None]:
    """Programs that compute without a pause."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def neighbour(app: Application, repeats: int, count: int) -> None:
    """The same predictions alone and beside busy programs, in turn; ratios of medians."""
    one = Visitor(app)
    clip = one.upload(EXAMPLE)
    for model in ("digits-stt", "robot-stt"):
        alone, beside = [], []
        one.predict(clip, model)
        for k in range(repeats):
            alone.append(one.predict(clip, model, seed=k))
            with busy_neighbours(count):
                beside.append(one.predict(clip, model, seed=k))
        ratio = median_of(beside, "total_seconds") / median_of(alone, "total_seconds")
        print(f"beside {count} busy programs, {model}: {ratio:.2f} times the seconds alone", flush=True)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m tests.benchmark_app", description="Times the app for its visitors.")
    p.add_argument("--repeats", type=int, default=5, help="runs of each row, whose median is printed (default: 5)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="of the server")
    p.add_argument("--visitors", type=int, default=20, help="at once (default: 20)")
    p.add_argument("--seconds", type=float, default=60, help="for which they come (default: 60)")
    p.add_argument("--busy", type=int, default=1, help="programs that compute beside the server (default: 1)")
    return p


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    options: dict[str, Any] = {"OMP_NUM_THREADS": str(args.threads)}
    print(f"threads {args.threads} of {os.cpu_count()}, load before {os.getloadavg()[0]:.1f}")
    print(f"{'':44}{'seconds':>9}{'of CPU':>9}")
    starts(args.repeats, **options)
    with application(**options) as app:
        predictions(app, args.repeats)
        large_upload(app, args.repeats)
        for model in PLAYED:
            live(app, model)
        neighbour(app, args.repeats, args.busy)
        load(app, args.visitors, args.seconds)
    print(f"load after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
