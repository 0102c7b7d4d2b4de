"""Play: a WebSocket, /live, on which a visitor's actions go in and the frames that they lead to come out.

The browser sends JSON, one object a message:
    {"start": {...}}                    once: the settings of the page, as `stt.ui.request` takes them
    {"action": [...], "count": n}       the action from now on, [] lets the model choose; n is echoed with its frames
    {"ack": n}                          frames that were drawn; more than WINDOW are never on their way
    {"pause": true}, {"awake": true}    the second only says that somebody is there
    {"fork": n, "seed": s}              go on from frame n in another branch, with its own chance unless s is null
    {"swap": true}, {"save": true}      the other branch; the frames so far as a result
    {"restart": true}                   forget all branches and begin with the clip again
It receives JSON, {"wait": place}, {"ready": {...}}, {"branch": {...}}, {"saved": {...}}, {"end": sentence}, and frames:
HEADER, then RGB bytes or, where "ready" says so, a JPEG file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from gradio.context import LocalContext
from starlette.websockets import WebSocket, WebSocketDisconnect

from stt.api import Predictor, Surprise
from stt.encode import Pixels, is_lossless, jpeg
from stt.live import LiveSession, live_result
from stt.model_card import frame_rate
from stt.prediction import Compute, Job
from stt.prompt import Prompt, read_prompt
from stt.request import Request, RequestError, action_axes, is_stochastic, parse_setting
from stt.results import new_id
from stt.ui.backend import ARGUMENTS, Backend
from stt.ui.live_controls import UNREAD, Controls, Ended, Line, axis_controls
from stt.ui.player import JPEG_QUALITY
from stt.ui.request import PAGE
from stt.ui.streams import network_of
from stt.video import VideoError

PLAY_SIZE = 256  # pixels of the longer side, for models that take whole frames
MAX_RATE = 15.0  # frames per second
DEFAULT_RATE = 10.0  # of models without a rate of their own
MESSAGE_CHARS = 8192
UNREAD_MESSAGES = 50
START_SECONDS = 10.0  # from the connection to its settings
# branch, number of the frame (0: the prompt's last), count of its action, milliseconds of its step
HEADER = struct.Struct("<IIIf")
NO_MACHINE = "Play needs a machine of its own; this Space borrows its GPU for single predictions."
NO_SETTINGS = "No settings came."
BROKEN = "Something went wrong on our side; please try again."


class Live:
    """The places of live visitors: one per core, each served by a thread of its own.

    by_address: an address has PER_ADDRESS places at most, in the queue or playing.
    """

    def __init__(self, backend: Backend, cores: int | None = None, by_address: bool = False) -> None:
        self.backend = backend
        self.cores = cores or torch.get_num_threads()
        self.line = Line(self.cores, by_address)
        self.threads = ThreadPoolExecutor(self.cores, thread_name_prefix="live")

    def compute_beside(self, compute: Compute) -> Compute:
        """`compute` on the cores that live visitors leave, at least one."""

        def beside(model: Predictor, job: Job) -> Iterator[torch.Tensor | Surprise]:
            events = compute(model, job)
            while True:
                torch.set_num_threads(max(self.cores - self.line.playing, 1))  # holds in the calling thread
                try:
                    event = next(events)
                except StopIteration:
                    return
                yield event

        return beside

    async def serve(self, socket: WebSocket) -> None:
        if not same_origin(socket):
            return await socket.close(1008)
        await socket.accept()
        controls, out = Controls(), Outbox(asyncio.get_running_loop())
        reader = asyncio.create_task(self._read(socket, controls))
        player = asyncio.create_task(self._play(controls, out, socket))
        writer = asyncio.create_task(self._write(socket, out))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            controls.stop()
            for task in (reader, player, writer):
                task.cancel()
            await asyncio.wait({reader, player, writer})

    async def _read(self, socket: WebSocket, controls: Controls) -> None:
        """Returns when the visitor is gone, or sends what this page never sends."""
        try:
            while True:
                text = await socket.receive_text()
                message = json.loads(text) if len(text) <= MESSAGE_CHARS else None
                if not isinstance(message, dict):
                    return await socket.close(1009 if len(text) > MESSAGE_CHARS else 1003)
                controls.take(message)
        except (ValueError, RecursionError, KeyError):  # no JSON, or bytes
            await socket.close(1003)
        except (WebSocketDisconnect, RuntimeError):
            return

    async def _write(self, socket: WebSocket, out: Outbox) -> None:
        """Sends until a message that ends the session."""
        try:
            while True:
                message = await out.queue.get()
                if isinstance(message, bytes):
                    await socket.send_bytes(message)
                    continue
                await socket.send_text(json.dumps(message))
                if "end" in message:
                    return await socket.close()
        except (WebSocketDisconnect, RuntimeError):
            return

    async def _play(self, controls: Controls, out: Outbox, socket: WebSocket) -> None:
        try:
            if os.environ.get("SPACES_ZERO_GPU"):
                raise RequestError(NO_MACHINE)
            settings = await asyncio.wait_for(controls.started, START_SECONDS)
            ticket = self.line.enter(network_of(socket.client.host) if socket.client else None)
        except (RequestError, TimeoutError) as error:
            return out.put({"end": str(error) or NO_SETTINGS})
        try:
            while ahead := self.line.ahead(ticket):
                out.put({"wait": ahead})
                await self.line.change()
            work = asyncio.get_running_loop().run_in_executor(self.threads, self._run, settings, controls, out, socket)
        except RequestError as error:
            return out.put({"end": str(error)})
        except BaseException:
            self.line.leave(ticket)
            raise
        work.add_done_callback(lambda _: self.line.leave(ticket))  # the thread is free then, not before
        await asyncio.shield(work)

    def _run(self, settings: Any, controls: Controls, out: Outbox, socket: WebSocket) -> None:
        """A whole session, in its thread."""
        LocalContext.request.set(cast(Any, socket))  # whose results it saves
        torch.set_num_threads(1)  # a second one would wait for the cores of others most of the time
        try:
            Visit(self.backend, settings, controls, out.send).run()
        except Ended as error:
            out.put_from_thread({"end": str(error)})
        except (RequestError, VideoError) as error:
            out.put_from_thread({"end": str(error)})
        except Exception:
            logging.getLogger("stt.ui").exception("a live session failed")
            out.put_from_thread({"end": BROKEN})


class Outbox:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.queue: asyncio.Queue[bytes | dict[str, Any]] = asyncio.Queue()
        self.put = self.queue.put_nowait

    def send(self, message: bytes | dict[str, Any]) -> None:
        """Raises Ended where nobody reads."""
        if self.queue.qsize() > UNREAD_MESSAGES:
            raise Ended(UNREAD)
        self.put_from_thread(message)

    def put_from_thread(self, message: bytes | dict[str, Any]) -> None:
        with suppress(RuntimeError):  # the server has closed
            self.loop.call_soon_threadsafe(self.put, message)


class Visit:
    """One visitor's session: predicts at the model's frame rate and obeys the controls."""

    def __init__(
        self, backend: Backend, settings: Any, controls: Controls, send: Callable[[bytes | dict[str, Any]], None]
    ) -> None:
        self.backend, self.controls, self.send = backend, controls, send
        self.request = live_request(backend, settings)
        self.model = backend.models[self.request.model]
        self.prompt: Prompt = read_prompt(self.request, self.model, whole_size=PLAY_SIZE)
        self.rate = min(frame_rate(self.model.card) or DEFAULT_RATE, MAX_RATE)
        self.session = self._begin()
        self.branch, self.branches = 0, 1  # number of the present branch, how many there were
        self.other = 0
        self.computing = 0.0  # seconds
        self.saved: tuple[tuple[int, int], dict[str, Any]] | None = None  # (branch, length), message

    def _begin(self) -> LiveSession:
        return LiveSession(self.model, self.prompt.context, self.request.seed, self.request.sampling(self.model))

    def run(self) -> None:
        """Returns when the visitor is gone. Raises Ended for other ends."""
        axes = action_axes(self.model)
        ready = {
            "model": self.request.model, "clip": self.prompt.name,
            "size": list(self.prompt.context.shape[:1:-1]), "jpeg": not is_lossless(self.prompt.pixels),
            "fps": self.rate, "axes": axis_controls(axes), "chance": is_stochastic(self.model),
            "seed": self.request.seed, "frames": self.session.max_frames,
        }  # fmt: skip
        self.controls.begin()
        self.send({"ready": ready})
        self._send_frame(0, self.prompt.pixels[-1], 0, 0.0)
        due = time.monotonic()
        while True:
            try:
                self.controls.wait(due)
            except Ended:  # what was played is not lost
                self._save()
                raise
            if self.controls.stopped:
                return
            if (command := self.controls.command()) is not None:
                self._obey(command)
                due = time.monotonic()
            elif time.monotonic() >= due:
                self._step()
                due = max(due + 1 / self.rate, time.monotonic() - 1 / self.rate)

    def _step(self) -> None:
        action, count = self.controls.latest()
        axes = len(action_axes(self.model))
        try:
            action = parse_setting("action", action, PAGE)
        except RequestError as error:
            raise Ended(str(error)) from None
        if action and len(action) != axes:
            raise Ended(f"Action has {len(action)} numbers, but {self.request.model} takes {axes}.")
        began = time.perf_counter()
        self.session.step(action)
        seconds = time.perf_counter() - began
        self.computing += seconds
        branch = self.session.branch
        self._send_frame(branch.length, branch.pixels[-1], count, 1000 * seconds)

    def _send_frame(self, number: int, pixels: Pixels, count: int, ms: float) -> None:
        self.controls.sent += 1
        picture = pixels.tobytes() if is_lossless(pixels) else jpeg(pixels, JPEG_QUALITY)
        self.send(HEADER.pack(self.branch, number, count, ms) + picture)

    def _obey(self, command: tuple[str, Any]) -> None:
        name, value = command
        if name == "save":
            return self._save()
        if name == "restart":
            return self._restart()
        at = self.session.branch.length
        if name == "fork":
            length, seed = value
            at = self.session.fork(length, seed)
            self.other, self.branch, self.branches = self.branch, self.branches, self.branches + 1
        elif self.session.other is not None:
            self.session.swap()
            self.other, self.branch = self.branch, self.other
            at = self.session.branch.length
        branch = self.session.branch
        self.send(
            {"branch": {"id": self.branch, "at": at, "earliest": branch.earliest, "seed": branch.seed}}
        )  # fmt: skip

    def _restart(self) -> None:
        self.session = self._begin()
        self.branch, self.branches = self.branches, self.branches + 1
        change = {"id": self.branch, "at": 0, "earliest": 0, "seed": self.request.seed, "fresh": True}
        self.send({"branch": change})
        self._send_frame(0, self.prompt.pixels[-1], 0, 0.0)

    def _save(self) -> None:
        branch, name = self.session.branch, new_id()
        if not branch.pixels:
            return
        version = self.branch, branch.length
        if self.saved and self.saved[0] == version:
            return self.send(self.saved[1])
        result = live_result(branch, self.model, self.request, self.prompt, self.computing)
        self.backend.results.put(result, name)
        self.backend.clips.add(self.request.clip, name, self.prompt.sha256, name)
        self.saved = version, {"saved": {"id": name, "frames": result.futures.shape[1]}}
        self.send(self.saved[1])


def live_request(backend: Backend, settings: Any) -> Request:
    """A request from the page's settings; without a clip, with an example for the model. Raises RequestError."""
    if not isinstance(settings, dict) or len(settings) > len(ARGUMENTS):
        raise RequestError("The settings must be an object.")
    settings = {name: value for name, value in settings.items() if name in ARGUMENTS}
    values = {"clip": None, "model": next(iter(backend.models)), "seed": None, **settings}
    values |= {"labels": [], "between": False, "action": [], "futures": 1, "frames": 1, "fps": 0}
    if not values["clip"]:
        values |= {"clip": example_for(backend, values["model"]), "prompt_frames": 0}
    return backend.named_request(**values)


def example_for(backend: Backend, model: Any) -> str | None:
    """An example that the model predicted for the app in advance, else any; None if there is none."""
    if not isinstance(model, str) or model not in backend.models:
        return None
    predictor = backend.models[model]
    reports = [result.report for result in backend.results.shipped.values()]
    own = [
        backend.clips.of_content(None, r["clip"]["sha256"]) for r in reports if r["weights"] == predictor.weights_hash
    ]
    fitting = [str(path) for path in own if path is not None]
    return next(iter(fitting or map(str, backend.examples)), None)


def same_origin(socket: WebSocket) -> bool:
    """Whether a page of this server opened the socket, or a program that names no origin."""
    origin = socket.headers.get("origin")
    hosts = {socket.headers.get("host"), socket.headers.get("x-forwarded-host")}
    return origin is None or urlsplit(origin).netloc in hosts
