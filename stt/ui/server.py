"""Loads models, builds the page and serves it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from starlette.middleware import Middleware

from stt.api import Predictor
from stt.checkpoint import FILE_NAME, load
from stt.ui.callbacks import Callbacks
from stt.ui.guard import Guard
from stt.ui.janitor import Janitor, own_folder
from stt.ui.layout import build
from stt.ui.theme import theme
from stt.video import LIMITS

WAITING = 16  # requests in the queue, before visitors are told to come back


def load_models(sources: Sequence[str], device: torch.device | str) -> dict[str, Predictor]:
    """Models by name, from files, folders of them, runs' folders and Hub repositories.

    A source that holds no predictor is reported and left out. Raises ValueError when none is left.
    """
    models: dict[str, Predictor] = {}
    for source in sources:
        folder = Path(source)
        files = sorted(folder.glob("*.safetensors"), key=lambda path: path.stem)  # "a" before "a-b": first is preset
        for one in map(str, files) if folder.is_dir() else [source]:
            try:
                models[_name(one, models)] = load(one, device)
            except (OSError, ValueError) as error:
                print(f"left out {one}: {error}", file=sys.stderr)
    if not models:
        raise ValueError(f"no model found in: {', '.join(sources)}")
    return models


def _name(source: str, taken: dict[str, Predictor]) -> str:
    """digits.safetensors -> digits, runs/a/model.safetensors -> a, owner/repo stays."""
    path = Path(source)
    short = path.parent.name if path.name == FILE_NAME else path.stem
    name = short if path.suffix == ".safetensors" else source
    return source if name in taken else name


def serve(
    models: dict[str, Predictor],
    examples: Sequence[Path],
    *,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    block: bool = True,
) -> gr.Blocks:
    """Serves until interrupted, or returns the running app if `block` is False (then call its `close`)."""
    home = own_folder()
    files = home / "files"
    os.environ["GRADIO_TEMP_DIR"] = str(files)  # Gradio reads it while the page is built
    examples = [path.resolve() for path in examples]
    gr.set_static_paths(examples)
    folders = [files, *{path.parent for path in examples}]
    app = build(Callbacks(models, folders, home / "runs"), examples)
    app.queue(max_size=WAITING)
    done = Janitor(home).start()
    try:
        app.launch(server_name=host, server_port=port, share=share, prevent_thread_lock=not block, **_options())
    finally:
        if block:
            done.set()
    return app


def _options() -> dict[str, Any]:
    return {
        "theme": theme(),
        "css_paths": [Path(__file__).with_name("style.css")],
        "footer_links": ["api", "settings"],
        "run_history": False,
        "max_file_size": LIMITS.file_bytes,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "app_kwargs": {"middleware": [Middleware(Guard)]},
    }
