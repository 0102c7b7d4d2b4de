"""An app in a process of its own, and raw requests to it. Everything stays on 127.0.0.1."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(os.environ.get("STT_ATTACKED", Path(__file__).parents[2]))  # another tree, to compare with
EXAMPLE = Path(__file__).parents[2] / "assets" / "prompts" / "four-falling.mp4"
FIRST_PORT = int(os.environ.get("STT_ATTACK_PORT", 7880))


@dataclass
class Application:
    process: subprocess.Popen[bytes]
    url: str
    home: Path  # TMPDIR of the process
    log: Path
    model: str = "digits-stt"  # that predictions may use

    @property
    def folder(self) -> Path:
        return next(self.home.glob("stt-app-*"))

    def resident(self) -> float:
        """MB."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def descriptors(self) -> int:
        return psutil.Process(self.process.pid).num_fds()

    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def text(self) -> str:
        """What it wrote to stdout and stderr."""
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20.0) -> int | None:
        """The exit code, None if it had to be killed."""
        self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        self.process.kill()
        self.process.wait()
        return None


@contextmanager
def small_disk(size: str = "300m") -> Iterator[Path | None]:
    """A folder on a disk of its own, None where this system mounts none for us."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True)
        try:
            yield None if done.returncode else Path(folder)
        finally:
            if not done.returncode:
                subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def application(
    *options: Any, limits: str = "", port: int = FIRST_PORT, disk: Path | None = None, **variables: str
) -> Iterator[Application]:
    """limits: shell commands, such as a ulimit, before the app starts. disk: where its files go."""
    with tempfile.TemporaryDirectory(dir=disk) as home:
        log = Path(home) / "log.txt"
        command = [sys.executable, "-u", "app.py", "--port", str(port), *map(str, options)]
        environment = {k: v for k, v in os.environ.items() if k not in ("GRADIO_TEMP_DIR", "FORWARDED_ALLOW_IPS")}
        environment |= {"TMPDIR": home, "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1"} | variables
        with open(log, "wb") as out:
            process = subprocess.Popen(
                ["/bin/sh", "-c", f'{limits or ":"} && exec "$@"', "sh", *command],
                cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        app = Application(process, f"http://127.0.0.1:{port}/", Path(home), log)
        try:
            end = time.monotonic() + 900  # of a busy machine
            while "To create a public link" not in app.text():  # its last line
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the app did not start:\n{app.text()}")
                time.sleep(0.1)
            yield app
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def example(url: str) -> dict[str, Any]:
    """An uploaded example as an argument of the endpoint."""
    clip = EXAMPLE.read_bytes()
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": (EXAMPLE.name, clip, "video/mp4")})
    return file_data(answer.json()[0])


def file_data(path: Any) -> dict[str, Any]:
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def arguments(clip: Any, **changes: Any) -> list[Any]:
    """All arguments of /predict, in their order."""
    values = {
        "clip": clip, "model": "digits-stt", "frames": 10, "temperature": 1.0, "seed": 1, "futures": 4,
        "prompt_frames": 0, "top_k": 0, "top_p": 1.0, "stride": 0, "fit": "crop", "fps": 0, "labels": "",
        "between": False, "action": "",
    }  # fmt: skip
    return list((values | changes).values())


@contextmanager
def visitor(address: str = "127.0.0.1", forwarded: str = "", **options: Any) -> Iterator[httpx.Client]:
    """A client with an address of its own on the loopback, or behind a proxy."""
    headers = {"x-forwarded-for": forwarded} if forwarded else {}
    with httpx.Client(
        transport=httpx.HTTPTransport(local_address=address), timeout=120, headers=headers, **options
    ) as client:
        yield client


def post(client: httpx.Client, url: str, values: Any, name: str = "predict", **more: Any) -> httpx.Response:
    body = json.dumps({"data": values} | more) if not isinstance(values, bytes) else values
    headers = {"content-type": "application/json"}
    return client.post(f"{url}gradio_api/call/{name}", content=body, headers=headers)


def answer(client: httpx.Client, url: str, values: Any, name: str = "predict", **more: Any) -> tuple[int, str]:
    """(HTTP status, last event) of a request whose answer is read; the status's text if it was turned away."""
    response = post(client, url, values, name, **more)
    if response.status_code != 200:
        return response.status_code, response.text
    event = response.json()["event_id"]
    text = client.get(f"{url}gradio_api/call/{name}/{event}").text
    return 200, re.split(r"\n\n(?=event)", text.strip())[-1]
