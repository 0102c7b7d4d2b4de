"""The stage of a live session, over the whole window. The browser's side is live*.js, the server's `stt.ui.live`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from stt.ui.backend import ARGUMENTS

SCRIPTS = ("live_input.js", "live.js")
# the page's settings to live.js; a new seed is drawn by the server
PLAY = """(...values) => {
  const names = NAMES, settings = Object.fromEntries(names.map((name, i) => [name, values[i]]));
  if (values.at(-1)) settings.seed = null;
  window.dispatchEvent(new CustomEvent("stt-play", { detail: settings }));
  return [];
}"""


def live_stage() -> gr.HTML:
    script = "\n".join(Path(__file__).with_name(name).read_text() for name in SCRIPTS)
    return gr.HTML(
        "", html_template='<dialog class="live" aria-label="Play" tabindex="-1"></dialog>', apply_default_css=False,
        js_on_load=script, elem_id="live",
    )  # fmt: skip


def wire_play(button: gr.Button, settings: list[Any], new_seed: gr.Checkbox) -> None:
    """settings: in the order of ARGUMENTS."""
    script = PLAY.replace("NAMES", json.dumps(ARGUMENTS))
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    free = button.click(None, None, None, js="() => window.sttTurns.free()", **private)  # a clip may be on its way
    free.then(None, [*settings, new_seed], None, js=script, **private)
