"""Errors as the page and the clients see them: one sentence each."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
import torch

from stt.request import RequestError
from stt.video import VideoError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns every exception into one sentence for the visitor; unexpected ones go to the log."""
    try:
        yield
    except gr.Error:
        raise
    except (RequestError, VideoError) as error:
        raise user_error(str(error)) from None
    except torch.OutOfMemoryError:
        raise user_error("The machine is out of memory; choose fewer futures or frames.") from None
    except Exception:
        logging.getLogger("stt.ui").exception("a prediction failed")
        raise user_error("Something went wrong on our side; please try again.") from None


def user_error(text: str) -> gr.Error:
    return gr.Error(html.escape(text, quote=False), title="That did not work", print_exception=False)
