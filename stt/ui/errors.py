"""Errors as the page and the clients see them: one sentence each."""

from __future__ import annotations

import errno
import html
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
import torch

from stt.request import RequestError
from stt.video import VideoError

TITLE = "That did not work"
OUR_SIDE = "Something went wrong on our side; please try again."
FULL = "The server's disk is full; try again later."


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
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            log()
            raise user_error(OUR_SIDE) from None
        raise user_error(FULL) from None
    except Exception:
        log()
        raise user_error(OUR_SIDE) from None


def log() -> None:
    logging.getLogger("stt.ui").exception("a prediction failed")


def warn(text: str, title: str = TITLE) -> None:
    gr.Warning(html.escape(text, quote=False), title=title)  # the page takes it for HTML


def user_error(text: str) -> gr.Error:
    return gr.Error(html.escape(text, quote=False), title=TITLE, print_exception=False)
