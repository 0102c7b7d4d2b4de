"""Loads models, builds the page and serves it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import gradio as gr
import torch
from gradio.context import LocalContext
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute

from stt.api import Predictor
from stt.checkpoint import load, name_of
from stt.prediction import DEADLINE
from stt.results import ResultStore, ShippedResult
from stt.ui.backend import Backend
from stt.ui.callbacks import Callbacks
from stt.ui.cancels import EarlyCancels
from stt.ui.cleanup import Cleanup, own_folder
from stt.ui.connections import close_idle, most_connections
from stt.ui.downloads import Downloads
from stt.ui.limits import RequestLimits
from stt.ui.live import Live
from stt.ui.shutdown import stop, wait_for_signal
from stt.ui.streams import StreamCount, Streams
from stt.ui.theme import theme
from stt.ui.uploads import UploadRoom
from stt.ui.wiring import build
from stt.ui.zero_gpu import zero_gpu_compute
from stt.video import LIMITS, decoder_sandbox

MAIN = "stt"  # family
QUEUE_SIZE = 16  # requests; beyond it visitors are asked to come back later


def load_models(sources: Sequence[str], device: torch.device | str, *, compile: bool = False) -> dict[str, Predictor]:
    """Models by name, from files, folders of files, runs' folders and Hub repositories.

    Repeated files load once. Of a folder the STTs come first: an example is shown by the first that knows it. A source
    without a predictor is reported and left out. Raises ValueError when no model is left.
    """
    models: dict[str, Predictor] = {}
    seen: set[str] = set()
    for source in sources:
        files = [source]
        if os.path.isdir(source):  # "a" before "a-b": the first is the default
            files = [str(path) for path in sorted(Path(source).glob("*.safetensors"), key=lambda path: path.stem)]
        loaded: dict[str, Predictor] = {}
        for one in files:
            if one in seen:
                continue
            seen.add(one)
            try:
                name = name_of(one)
                loaded[one if name in models | loaded else name] = load(one, device, compile=compile)
            except (OSError, ValueError) as error:
                print(f"left out {one}: {error}", file=sys.stderr)
        models |= sorted(loaded.items(), key=lambda item: item[1].family != MAIN)
    if not models:
        raise ValueError(f"no model found in: {', '.join(sources)}")
    return models


def load_results(files: Sequence[Path]) -> dict[str, ShippedResult]:
    """Results that ship with the app, by the names of their files; an unreadable one is reported and left out."""
    results = {}
    for path in files:
        try:
            results[path.stem] = ShippedResult.read(path)
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            print(f"left out {path.name}: {error}", file=sys.stderr)
    return results


def serve(
    models: dict[str, Predictor],
    examples: Sequence[Path],
    results: Sequence[Path] = (),
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    block: bool = True,
    trusted_proxy: Sequence[str] = (),
    max_seconds: float = DEADLINE,
) -> gr.Blocks:
    """Serves until a signal, or returns the running app if `block` is False (then call its `close`).

    examples: clips. results: files of their results, computed in advance. trusted_proxy: addresses of proxies whose
    X-Forwarded-For header names the client. max_seconds: of computing, for one request.
    """
    os.environ["FORWARDED_ALLOW_IPS"] = ",".join(trusted_proxy)  # uvicorn reads it while the server starts
    home = own_folder()
    files = home / "files"
    files.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(files)  # Gradio reads it while the page is built
    examples = [path.resolve() for path in examples]
    gr.set_static_paths(examples)
    hosting = Hosting(Cleanup(home, permanent=home / "results" / "shipped"), most_connections())
    store = ResultStore(home / "results", load_results(results), hosting.make_room)
    shutil.rmtree(store.permanent, ignore_errors=True)  # of other results, perhaps
    backend = Backend(models, store, files, examples, zero_gpu_compute(models), max_seconds)
    live = Live(backend, by_address=bool(trusted_proxy))
    backend.compute = live.compute_beside(backend.compute)
    hosting.streams.blocks = app = build(Callbacks(backend))
    app.fair_queue(hosting.streams, QUEUE_SIZE, by_address=bool(trusted_proxy))
    if why := decoder_sandbox():
        print(f"uploads are decoded without a sandbox of the kernel: {why}", file=sys.stderr)
    done = hosting.cleanup.start()
    try:
        app.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=True, **_options(store, hosting, live)
        )
        hosting.server = app.server
        if block:
            wait_for_signal()
            stop(app, hosting.loop)
    finally:
        if block:
            done.set()
    return app


class Hosting:
    """What the app shares with the server around it."""

    def __init__(self, cleanup: Cleanup, connections: int) -> None:
        self.streams = Streams(connections)
        self.cleanup = cleanup
        self.connections = connections
        self.loop: asyncio.AbstractEventLoop | None = None
        self.server: Any = None  # once the app has started: its own requests, before, must not meet the limits

    def make_room(self, path: Path, size: int) -> None:
        """For a file of the visitor whose request runs."""
        request = LocalContext.request.get(None)
        if client := getattr(request, "client", None):
            self.cleanup.own(path, client.host)
        self.cleanup.make_room(size)

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        self.loop = asyncio.get_running_loop()
        task = asyncio.create_task(close_idle(lambda: self.server, self.connections))
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _options(store: ResultStore, hosting: Hosting, live: Live) -> dict[str, Any]:
    return {
        "theme": theme(),
        "css_paths": [Path(__file__).with_name(name) for name in ("style.css", "live.css")],
        "footer_links": ["api", "settings"],
        "run_history": False,  # the page has its own
        "i18n": gr.I18n(en={"common.complete": "The prediction is complete."}),  # for screen readers; Gradio lacks it
        "max_file_size": LIMITS.file_bytes,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": None,  # GRADIO_MCP_SERVER decides
        "_frontend": False,  # else Gradio gives up where the page takes more than 3 seconds, on a busy machine
        "app_kwargs": {
            "middleware": [
                Middleware(StreamCount, streams=hosting.streams),
                Middleware(RequestLimits),
                Middleware(UploadRoom, cleanup=hosting.cleanup),
                Middleware(EarlyCancels, streams=hosting.streams),
            ],
            "routes": [*Downloads(store).routes(), WebSocketRoute("/live", live.serve)],
            "lifespan": hosting.lifespan,
        },
    }
