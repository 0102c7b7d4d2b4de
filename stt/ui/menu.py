"""The menu of models: the browser's own, which opens only when it is asked to and on a phone is the phone's."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import gradio as gr


def model_menu(choices: Sequence[tuple[str, str]], value: str) -> gr.HTML:
    """Its value is a model's name. Event: choose. choices: (label, name)."""
    options = "".join(f'<option value="{escape(name)}">{escape(label)}</option>' for label, name in choices)
    template = f'<label class="menu"><b>Model</b><select aria-label="Model">{options}</select></label>'
    return gr.HTML(
        value, html_template=template, js_on_load=Path(__file__).with_suffix(".js").read_text(),
        apply_default_css=False, elem_id="menu", container=True,
    )  # fmt: skip
