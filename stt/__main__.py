"""The command line: python -m stt predict clip.mp4 --frames 20 --futures 4 --seed 7 --out future.mp4"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import torch

from stt.api import MAX_SEED, Predictor
from stt.checkpoint import check_writable, find, load, name_of, write_whole
from stt.default_model import default_model
from stt.model_card import about, facts, frame_rate, provenance
from stt.prediction import predict
from stt.request import DEFAULTS, Request, RequestError, action_axes, parse_setting
from stt.results import Result
from stt.video import OWN_FILES, VideoError

MODEL = "a .safetensors file, a run's folder, or owner/repo@revision on the Hub"
SETTINGS = {  # the flags that are fields of a Request
    "frames": "number of frames to predict",
    "futures": "number of futures",
    "seed": f"seed of the first future, 0 to {MAX_SEED}; future k has seed + k (default: random)",
    "temperature": "0 or more: higher is more varied, 0 ignores the seed",
    "prompt_frames": "the future starts after this frame of the clip; 0: after the last one",
    "top_k": "sample from the k likeliest codes only; 0: all",
    "top_p": "sample from the likeliest codes up to this total probability",
    "stride": "use every n-th frame of the clip; 0: frames at the rate that the model learned at",
    "fit": "auto, crop or pad: how a clip becomes the model's frames; auto keeps the aspect where the model can",
    "labels": "digits to imagine without the clip, such as 3, or 3,7, or any; for models with classes",
    "action": "action at every new frame, numbers from -1 to 1 such as 0.5,-1, or free: the model chooses; for models "
    "with actions",
    "fps": "frames per second of the output; 0: the clip's own",
}
METAVARS = {"fit": "FIT", "labels": "LABELS", "action": "NUMBERS"}  # flags whose value is no number


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} ({self.prog} --help)")


def number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def join_action(words: Sequence[str]) -> list[str]:
    """Makes `--action -1,0.5` one word: argparse takes a value that begins with a minus for a flag."""
    for k, (flag, value) in enumerate(pairwise(words)):
        if flag == "--action" and re.match(r"-[\d.]", value):
            return [*words[:k], f"{flag}={value}", *words[k + 2 :]]
    return list(words)


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m stt", description="Continue a clip into several possible futures.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    predict = commands.add_parser("predict", help="continue a clip", description="Continue a clip, as the app does.")
    predict.add_argument("clip", type=Path, nargs="?", help="video file; none: imagine --labels")
    predict.add_argument("--model", help=f"{MODEL} (default: the model of the app)")
    for name, text in SETTINGS.items():
        default = None if name in ("labels", "action") else DEFAULTS[name]
        predict.add_argument(
            f"--{name.replace('_', '-')}", type=str if name in METAVARS else number, default=default,
            metavar=METAVARS.get(name, "N"), help=text + f" (default: {default})" * (default is not None),
        )  # fmt: skip
    predict.add_argument(
        "--between", action="store_true", help="fill a gap in the clip: --frames frames after the prompt frames; for "
        "models that interpolate",
    )  # fmt: skip
    predict.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    predict.add_argument("--compile", action="store_true", help="compile the sampling loop; pays on a GPU")
    predict.add_argument(
        "--out", type=Path, metavar="FILE", help=".mp4 or .gif; one future: the clip, then that future; several: the "
        "clip beside all of them (default: CLIP-future.mp4 in this folder)",
    )  # fmt: skip
    predict.add_argument("--each", action="store_true", help="also write each future to OUT-seed-N.mp4")
    predict.add_argument("--report", metavar="FILE", help="also write settings and measures as .json; - prints them")
    info = commands.add_parser("info", help="describe a model", description="Describe a model.")
    info.add_argument("model", help=MODEL)
    return parser


def predict_clip(args: argparse.Namespace) -> None:
    source = args.model or str(default_model())
    settings = {name: parse_setting(name, getattr(args, name)) for name in (*SETTINGS, "between")}
    request = Request(clip=args.clip, model=name_of(source), **settings)
    videos = outputs(request, args.out or Path(f"{args.clip.stem if args.clip else 'imagined'}-future.mp4"), args.each)
    report = Path(args.report) if args.report not in (None, "-") else None
    if report and report.suffix.lower() != ".json":
        raise RequestError(f"{report}: a report's name ends in .json.")
    for path in [*videos, *([report] if report else [])]:
        check_writable(path)
        if path.exists() and request.clip and request.clip.exists() and path.samefile(request.clip):
            raise RequestError(f"{path} is the clip itself; choose another name.")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    result = run(request, load(source, device, compile=args.compile))
    videos = {path: name for path, name in videos.items() if name in result.names}  # a model may have one future only
    for path, name in videos.items():
        result.write(name, path)
    text = json.dumps(result.report, indent=2)
    if report:
        write_whole(report, lambda file: file.write(f"{text}\n".encode()))
    elif args.report:
        print(text)
    written = ", ".join(map(str, [*videos, *([report] if report else [])]))
    lines = [f"wrote {written}", ", ".join(result.report["names"]), *result.report["notes"]]
    print(*lines, sep="\n", file=sys.stderr if args.report == "-" else sys.stdout)


def outputs(request: Request, out: Path, each: bool) -> dict[Path, str]:
    """Path of every video -> its name in a Result."""
    ending = out.suffix.lower()
    if ending not in (".mp4", ".gif"):
        raise RequestError(f"{out}: a video's name ends in .mp4 or .gif.")
    videos = {out: f"{'future-1' if request.futures == 1 else 'side-by-side'}{ending}"}
    if each:
        for k, seed in enumerate(request.seeds, 1):
            videos[out.with_stem(f"{out.stem}-seed-{seed}")] = f"future-{k}{ending}"
    return videos


def run(request: Request, model: Predictor) -> Result:
    """Predicts; the progress is one line on stderr, which disappears at the end."""
    line = ""
    try:
        for event in predict(request, model, deadline=math.inf, limits=OWN_FILES):
            if isinstance(event, Result):
                return event
            text = event.text()
            print("\r" + text.ljust(len(line)), end="", file=sys.stderr, flush=True)
            line = text
        raise RuntimeError("a prediction ended without a result")
    except VideoError as error:
        raise RequestError(f"{request.clip}: {error}") from None
    except torch.OutOfMemoryError:
        raise RequestError("The machine is out of memory; choose fewer futures or frames.") from None
    finally:
        if line:
            print("\r" + " " * len(line), end="\r", file=sys.stderr, flush=True)


def describe(args: argparse.Namespace) -> None:
    model = load(args.model)
    rate = frame_rate(model.card)
    known = about(model.card)
    rows = (
        {"knows": f"{known.world}: {known.knows}" if known.world else known.knows}
        | facts(model)
        | {
            "frame rate": f"{rate:g} per second" if rate else "any",
            "settings": ", ".join(sorted(model.knobs)) or "none",
            **({"actions": ", ".join(action_axes(model))} if action_axes(model) else {}),
            "file": f"{find(args.model).stat().st_size / 2**20:.1f} MiB",
        }
    )
    width = max(map(len, rows))
    print(name_of(args.model), "", *(f"{name:{width}}  {value}" for name, value in rows.items()), "", sep="\n")
    print(*provenance(model.card), sep="\n")


def main(arguments: list[str] | None = None) -> int:
    try:
        args = parser().parse_args(join_action(sys.argv[1:] if arguments is None else arguments))
        if args.command is None:
            parser().print_help()
        else:
            {"predict": predict_clip, "info": describe}[args.command](args)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:  # RequestError, VideoError and CheckpointError are ValueErrors
        print(f"stt: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
