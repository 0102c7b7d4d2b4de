"""The app: `python app.py [--models SOURCE ...]`. A Hugging Face Space runs this file."""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Watch a clip's possible futures in the browser.")
    models = [source.strip() for source in os.environ.get("STT_MODELS", "").split(",") if source.strip()]
    parser.add_argument(
        "--models", nargs="+", default=models, metavar="SOURCE",
        help="model files, folders of them, or owner/repo@revision on the Hub; the first one opens (default: "
        "STT_MODELS, separated by commas, or assets/models)",
    )  # fmt: skip
    parser.add_argument("--host", help="address to listen on (default: this machine only; 0.0.0.0: all networks)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--compile", action="store_true", help="compile the sampling loop; pays on a GPU")
    parser.add_argument("--share", action="store_true", help="also open a temporary public address")
    parser.add_argument(
        "--max-seconds", type=float, default=180, metavar="N",
        help="of computing, for one request; on a shared host choose fewer (default: 180)",
    )  # fmt: skip
    parser.add_argument(
        "--trusted-proxy", nargs="+", default=[], metavar="ADDRESS",
        help="addresses of proxies whose X-Forwarded-For names the visitor; then limits count by that address, too",
    )  # fmt: skip
    return parser.parse_args(arguments)


def check_address(host: str | None, port: int | None) -> None:
    """SystemExit where the app could not listen; without a port Gradio looks for a free one."""
    if port is None and host is None:
        return
    host = host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    if port is not None and not 0 <= port < 2**16:
        raise SystemExit(f"app: port is {port}, must be 0 to 65535")
    try:
        with socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise SystemExit(f"app: cannot listen at {host}, port {port or 'any'}: {error.strerror}") from error


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if not options.max_seconds > 0:
        raise SystemExit(f"app: max-seconds is {options.max_seconds:g}, must be above 0")
    check_address(options.host, options.port)
    gc.disable()  # until all is imported and loaded: nothing of it is garbage, and the search takes half a second
    with suppress(ImportError):
        import spaces  # noqa: F401  # on a ZeroGPU Space, before anything touches CUDA
    import torch

    from stt.checkpoint import usable_device
    from stt.default_model import default_model
    from stt.hub import is_pinned
    from stt.ui.cleanup import return_memory
    from stt.ui.server import load_models, serve

    return_memory()  # before threads start
    for source in options.models:
        if not is_pinned(source):
            print(f"app: {source} is not pinned: add @ and a commit's 40 digits to keep its weights", file=sys.stderr)
    try:
        device = usable_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        sources = options.models or [str(default_model()), str(HERE / "assets/models")]
        models = load_models(sources, device, compile=options.compile)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"app: {error}")
    finally:
        gc.enable()
    examples = sorted((HERE / "assets/prompts").glob("*.mp4"))
    results = sorted((HERE / "assets/results").glob("*.npz"))
    try:
        serve(
            models, examples, results, host=options.host, port=options.port, share=options.share,
            trusted_proxy=options.trusted_proxy, max_seconds=options.max_seconds,
        )  # fmt: skip
    except OSError as error:  # no port, or no temporary folder
        sys.exit(f"app: {error}")


if __name__ == "__main__":
    main()
