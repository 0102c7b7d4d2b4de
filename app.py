"""The app: `python app.py [--models SOURCE ...]`. A Hugging Face Space runs this file as it is."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHIPPED = [str(HERE / "assets/models/digits-stt.safetensors"), str(HERE / "assets/models")]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Watch a clip's possible futures in the browser.")
    models = [source.strip() for source in os.environ.get("STT_MODELS", "").split(",") if source.strip()]
    parser.add_argument(
        "--models", nargs="+", default=models or SHIPPED, metavar="SOURCE",
        help="model files, folders of them, or owner/repo@revision on the Hub, the one to open with first (default: "
        "STT_MODELS, which separates them by commas, or assets/models)",
    )  # fmt: skip
    parser.add_argument("--host", help="address to listen on (default: this machine; 0.0.0.0: everywhere)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--compile", action="store_true", help="compile what draws codes one by one; pays on a GPU")
    parser.add_argument("--share", action="store_true", help="also open a temporary public address")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    with suppress(ImportError):
        import spaces  # noqa: F401  # on a ZeroGPU Space, and there before anything knows of CUDA
    import torch

    from stt.hub import is_pinned
    from stt.ui.server import load_models, serve

    for source in options.models:
        if not is_pinned(source):
            print(f"app: {source} is not pinned: add @ and a commit's 40 digits to keep its weights", file=sys.stderr)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        models = load_models(options.models, device, compile=options.compile)
    except ValueError as error:
        sys.exit(f"app: {error}")
    clips = (HERE / "assets/prompts").glob("*.mp4")
    order = ("pair", "tray")  # what shows most first, then the rest
    examples = sorted(clips, key=lambda path: (order.index(path.stem[:4]) if path.stem[:4] in order else 2, path.stem))
    results = sorted((HERE / "assets/results").glob("*.npz"))
    serve(models, examples, results, host=options.host, port=options.port, share=options.share)


if __name__ == "__main__":
    main()
