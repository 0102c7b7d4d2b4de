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
from starlette.routing import Route

from stt.api import Predictor
from stt.checkpoint import load, name_of
from stt.request import Refused
from stt.results import Result, Results
from stt.ui.callbacks import Callbacks
from stt.ui.cleanup import Cleanup, own_folder
from stt.ui.layout import build
from stt.ui.limits import Guard
from stt.ui.player import shown_run
from stt.ui.theme import theme
from stt.ui.zero_gpu import on_lent_gpu
from stt.video import LIMITS

WAITING = 16  # requests in the queue, before visitors are told to come back


def load_models(sources: Sequence[str], device: torch.device | str, *, compile: bool = False) -> dict[str, Predictor]:
    """Models by name, from files, folders of them, runs' folders and Hub repositories.

    A file that comes twice counts once. A source that holds no predictor is reported and left out. Raises ValueError
    when none is left.
    """
    models: dict[str, Predictor] = {}
    seen: set[str] = set()
    for source in sources:
        folder = Path(source)
        files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stem)  # "a" before "a-b": first is preset
        for one in map(str, files) if folder.is_dir() else [source]:
            if one in seen:
                continue
            seen.add(one)
            try:
                name = name_of(one)
                models[one if name in models else name] = load(one, device, compile=compile)
            except (OSError, ValueError) as error:
                print(f"left out {one}: {error}", file=sys.stderr)
    if not models:
        raise ValueError(f"no model found in: {', '.join(sources)}")
    return models


def load_runs(files: Sequence[Path]) -> dict[str, Result]:
    """Results that ship with the app, by the names of their files; one that cannot be read is left out."""
    runs = {}
    for path in files:
        try:
            run = Result.load(path)
            runs[path.stem] = replace(run, report=run.report | {"id": path.stem})
        except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
            print(f"left out {path.name}: {error}", file=sys.stderr)
    return runs


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

    examples: clips. results: runs of them, computed beforehand.
    """
    home = own_folder()
    files = home / "files"
    files.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(files)  # Gradio reads it while the page is built
    examples = [path.resolve() for path in examples]
    gr.set_static_paths(examples)
    folders = [files, *{path.parent for path in examples}]
    runs = Results(home / "runs", load_runs(results))
    app = build(Callbacks(models, folders, runs, examples, files, on_lent_gpu(models)), examples)
    app.queue(max_size=WAITING)
    done = Cleanup(home).start()
    try:
        app.launch(server_name=host, server_port=port, share=share, prevent_thread_lock=not block, **_options(runs))
    finally:
        if block:
            done.set()
    return app


def routes(runs: Results) -> list[Route]:
    """A run for the player, /runs/ID.json, and its videos, /runs/ID/NAME, made when they are asked for."""

    def whole(request: Request) -> Response:
        try:
            name = request.path_params["run"]
            return JSONResponse(shown_run(runs.get(name), precomputed=name in runs.shipped))
        except Refused as refusal:
            return PlainTextResponse(str(refusal), 404)

    def video(request: Request) -> Response:
        try:
            path, title = runs.file(request.path_params["run"], request.path_params["file"])
        except Refused as refusal:
            return PlainTextResponse(str(refusal), 404)
        return FileResponse(path, filename=title)

    return [Route("/runs/{run}.json", whole), Route("/runs/{run}/{file}", video)]


def _options(runs: Results) -> dict[str, Any]:
    return {
        "theme": theme(),
        "css_paths": [Path(__file__).with_name("style.css")],
        "footer_links": ["api", "settings"],
        "run_history": False,  # the page has its own
        "max_file_size": LIMITS.file_bytes,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": None,  # GRADIO_MCP_SERVER decides
        "app_kwargs": {"middleware": [Middleware(Guard)], "routes": routes(runs)},
    }
