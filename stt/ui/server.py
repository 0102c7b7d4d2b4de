"""Loads models, builds the page and serves it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import gradio as gr
import torch
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from stt.api import Predictor
from stt.checkpoint import load, name_of
from stt.request import RequestError
from stt.results import Result, ResultStore
from stt.ui.backend import Backend
from stt.ui.callbacks import Callbacks
from stt.ui.cleanup import Cleanup, own_folder
from stt.ui.limits import RequestLimits
from stt.ui.live import Live
from stt.ui.player import result_value
from stt.ui.theme import theme
from stt.ui.wiring import build
from stt.ui.zero_gpu import zero_gpu_compute
from stt.video import LIMITS

QUEUE_SIZE = 16  # requests; beyond it visitors are asked to come back later


def load_models(sources: Sequence[str], device: torch.device | str, *, compile: bool = False) -> dict[str, Predictor]:
    """Models by name, from files, folders of files, runs' folders and Hub repositories.

    Repeated files load once. A source without a predictor is reported and left out. Raises ValueError when no model is
    left.
    """
    models: dict[str, Predictor] = {}
    loaded: set[str] = set()
    for source in sources:
        folder = Path(source)
        files = sorted(
            folder.glob("*.safetensors"), key=lambda path: path.stem
        )  # "a" before "a-b": the first is the default
        for one in map(str, files) if folder.is_dir() else [source]:
            if one in loaded:
                continue
            loaded.add(one)
            try:
                name = name_of(one)
                models[one if name in models else name] = load(one, device, compile=compile)
            except (OSError, ValueError) as error:
                print(f"left out {one}: {error}", file=sys.stderr)
    if not models:
        raise ValueError(f"no model found in: {', '.join(sources)}")
    return models


def load_results(files: Sequence[Path]) -> dict[str, Result]:
    """Results that ship with the app, by the names of their files; an unreadable one is reported and left out."""
    results = {}
    for path in files:
        try:
            result = Result.load(path)
            results[path.stem] = replace(result, report=result.report | {"id": path.stem})
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
) -> gr.Blocks:
    """Serves until interrupted, or returns the running app if `block` is False (then call its `close`).

    examples: clips. results: files of their results, computed in advance.
    """
    home = own_folder()
    files = home / "files"
    files.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(files)  # Gradio reads it while the page is built
    examples = [path.resolve() for path in examples]
    gr.set_static_paths(examples)
    store = ResultStore(home / "results", load_results(results))
    backend = Backend(models, store, files, examples, zero_gpu_compute(models))
    live = Live(backend)
    backend.compute = live.compute_beside(backend.compute)
    app = build(Callbacks(backend))
    app.queue(max_size=QUEUE_SIZE)
    done = Cleanup(home).start()
    try:
        app.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=not block, **_options(store, live)
        )
    finally:
        if block:
            done.set()
    return app


def routes(store: ResultStore, live: Live) -> list[BaseRoute]:
    """A result for the player, /runs/ID.json, its videos, /runs/ID/NAME, written on demand, and the socket /live."""

    def result(request: Request) -> Response:
        try:
            name = request.path_params["result"]
            return JSONResponse(result_value(store.get(name), precomputed=name in store.shipped))
        except RequestError as error:
            return PlainTextResponse(str(error), 404)

    def video(request: Request) -> Response:
        try:
            path, title = store.video(request.path_params["result"], request.path_params["file"])
        except RequestError as error:
            return PlainTextResponse(str(error), 404)
        return FileResponse(path, filename=title)

    return [
        Route("/runs/{result}.json", result),
        Route("/runs/{result}/{file}", video),
        WebSocketRoute("/live", live.serve),
    ]


def _options(store: ResultStore, live: Live) -> dict[str, Any]:
    return {
        "theme": theme(),
        "css_paths": [Path(__file__).with_name(name) for name in ("style.css", "live.css")],
        "footer_links": ["api", "settings"],
        "run_history": False,  # the page has its own
        "max_file_size": LIMITS.file_bytes,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": None,  # GRADIO_MCP_SERVER decides
        "app_kwargs": {"middleware": [Middleware(RequestLimits)], "routes": routes(store, live)},
    }
