"""The Gradio app, and the only place that imports gradio."""

import inspect
from typing import Any

_getfile = inspect.getfile


def _no_file_of_gradio(item: Any) -> str:
    if getattr(item, "__module__", "").startswith("gradio."):
        raise OSError
    return _getfile(item)


# Whenever it is imported, Gradio writes type stubs of its components, which is half of its import. It writes none for
# a component without a file.
inspect.getfile = _no_file_of_gradio  # type: ignore[assignment]
try:
    import gradio  # noqa: F401
finally:
    inspect.getfile = _getfile
