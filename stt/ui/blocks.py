"""The page as Gradio's Blocks, with a fair queue, and with a sentence for every error."""

from __future__ import annotations

import logging
from typing import Any

import gradio as gr
from gradio.exceptions import InvalidPathError

from stt.checkpoint import one_line
from stt.ui.errors import user_error
from stt.ui.fair_queue import FairQueue
from stt.ui.streams import Streams

NOT_UPLOADED = "The clip must be an example or a file that you uploaded."


class PageBlocks(gr.Blocks):
    def fair_queue(self, streams: Streams, max_size: int, *, by_address: bool = False) -> None:
        """max_size: requests that wait. Requests that skip the queue are refused."""
        self.api_open = False  # by hand: `queue` would build all routes once more, 0.3 s of the start
        options = {"live_updates": True, "update_intervals": 1, "concurrency_count": self.max_threads}
        self._queue = FairQueue(streams, by_address=by_address, max_size=max_size, blocks=self, **options)
        streams.blocks = self

    async def process_api(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """Runs a function of the page. What it does not expect is one line in the log, and a sentence to the client."""
        fn = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        name = fn.api_name or fn.name
        try:
            if options.get("iterator") is None and len(inputs) != len(fn.inputs):
                raise user_error(f"{name} takes {len(fn.inputs)} arguments, not {len(inputs)}.")
            return await super().process_api(block_fn, inputs, *arguments, **options)
        except gr.Error as error:
            error.print_exception = False
            raise
        except InvalidPathError:
            raise user_error(NOT_UPLOADED) from None
        except Exception as error:
            logging.getLogger("stt.ui").error("%s failed: %s", name, one_line(error))
            uploads = any(isinstance(block, gr.Video) for block in fn.inputs) and not options.get("iterator")
            raise user_error(NOT_UPLOADED if uploads else f"{name} cannot work with these arguments.") from None
