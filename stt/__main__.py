"""The app without a browser: python -m stt predict clip.mp4 --frames 20 --futures 4 --seed 7 --out future.mp4"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch

from stt.api import MAX_SEED, Predictor
from stt.checkpoint import find, load, name_of, write_whole
from stt.model_card import facts, story
from stt.prediction import Progress, predict
from stt.request import (
    CHECKS,
    MAX_FPS,
    MAX_FRAMES,
    MAX_FUTURES,
    MAX_STRIDE,
    MAX_TEMPERATURE,
    Refused,
    Request,
    steerable,
)
from stt.results import Result
from stt.video import VideoError

SHIPPED = Path(__file__).resolve().parents[1] / "assets/models/digits-stt.safetensors"
MODEL = "a .safetensors file, a run's folder, or owner/repo@revision on the Hub"
SETTINGS = {  # the flags that are a Request's fields
    "frames": f"how many to predict, 1 to {MAX_FRAMES}",
    "futures": f"how many, 1 to {MAX_FUTURES}",
    "seed": f"of the first future, 0 to {MAX_SEED}; future k has seed + k (default: one is drawn)",
    "temperature": f"0 to {MAX_TEMPERATURE:g}, higher is less alike; at 0 chance has no part",
    "prompt_frames": "where in the clip the future starts; 0 is after its last frame",
    "top_k": "draw from the k likeliest codes only; 0 is all",
    "top_p": "draw from the likeliest codes of this total only",
    "stride": f"keep every n-th frame of the clip, 1 to {MAX_STRIDE}",
    "fit": "crop or pad: how a clip becomes a square",
    "labels": "digits to imagine from nothing, without the clip, such as 3, or 3,7, or any, where the model knows them",
    "action": "what is done at every new frame, where the model takes actions: its numbers, -1 to 1, such as 0.5,-1, "
    "or free, which leaves it to the model",
    "fps": f"frames a second of what is written, 1 to {MAX_FPS:g}; 0 is the clip's own",
}
WORDS = {"fit": "HOW", "labels": "WHICH", "action": "NUMBERS"}  # those that are no numbers


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        raise Refused(f"{message} ({self.prog} --help)")


def number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def joined(words: Sequence[str]) -> list[str]:
    """`--action -1,0.5` as one word: argparse would take the list for a flag, as it begins with a minus."""
    for k, (flag, value) in enumerate(pairwise(words)):
        if flag == "--action" and re.match(r"-[\d.]", value):
            return [*words[:k], f"{flag}={value}", *words[k + 2 :]]
    return list(words)


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m stt", description="Continue a clip into several possible futures.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    predict = commands.add_parser("predict", help="continue a clip", description="Continue a clip, as the app does.")
    predict.add_argument("clip", type=Path, help="video file")
    predict.add_argument("--model", help=f"{MODEL} (default: the one in assets)")
    defaults = {field.name: field.default for field in dataclasses.fields(Request)}
    defaults |= dict.fromkeys(("seed", "labels", "action"))
    for name, text in SETTINGS.items():
        default = defaults[name]
        predict.add_argument(
            f"--{name.replace('_', '-')}", type=str if name in WORDS else number, default=default,
            metavar=WORDS.get(name, "N"), help=text + f" (default: {default})" * (default is not None),
        )  # fmt: skip
    predict.add_argument(
        "--between", action="store_true", help="fill a gap in the clip, where the model interpolates: it starts after "
        "the prompt frames, and so many frames are missing",
    )  # fmt: skip
    predict.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    predict.add_argument("--compile", action="store_true", help="compile what draws codes one by one; pays on a GPU")
    predict.add_argument(
        "--out", type=Path, metavar="FILE", help=".mp4 or .gif; one future: the clip and then that future; several: "
        "the clip beside all of them (default: CLIP-future.mp4 in this folder)",
    )  # fmt: skip
    predict.add_argument("--each", action="store_true", help="also write every future by itself, OUT-seed-N.mp4")
    predict.add_argument("--report", metavar="FILE", help="also write settings and measures, .json; - prints them")
    info = commands.add_parser("info", help="describe a model", description="Say what a model is.")
    info.add_argument("model", help=MODEL)
    return parser


def predict_clip(args: argparse.Namespace) -> None:
    source = args.model or str(SHIPPED)
    if not args.model and not SHIPPED.is_file():
        raise Refused(f"No model came with this copy of the package; give one by --model, {MODEL}.")
    settings = {name: CHECKS[name](getattr(args, name)) for name in (*SETTINGS, "between")}
    request = Request(clip=args.clip, model=name_of(source), **settings)
    videos = files(request, args.out or Path(f"{args.clip.stem}-future.mp4"), args.each)
    report = Path(args.report) if args.report not in (None, "-") else None
    if report and report.suffix.lower() != ".json":
        raise Refused(f"{report}: a report's name ends in .json.")
    for path in [*videos, *([report] if report else [])]:
        check_writable(path, request.clip)
    run = watched(request, load(source, device(args.device), compile=args.compile))
    videos = {path: name for path, name in videos.items() if name in run.names}  # of chance-free models only one
    for path, name in videos.items():
        run.write(name, path)
    text = json.dumps(run.report, indent=2)
    if report:
        write_whole(report, lambda file: file.write(f"{text}\n".encode()))
    elif args.report:
        print(text)
    written = ", ".join(map(str, [*videos, *([report] if report else [])]))
    said = [f"wrote {written}", ", ".join(run.report["names"]), *run.report["notes"]]
    print(*said, sep="\n", file=sys.stderr if args.report == "-" else sys.stdout)


def files(request: Request, out: Path, each: bool) -> dict[Path, str]:
    """What to write -> what a run calls it."""
    ending = out.suffix.lower()
    if ending not in (".mp4", ".gif"):
        raise Refused(f"{out}: a video's name ends in .mp4 or .gif.")
    alone = {out.with_stem(f"{out.stem}-seed-{seed}"): f"future-{k}{ending}" for k, seed in enumerate(request.seeds, 1)}
    return {out: f"{'future-1' if request.futures == 1 else 'side-by-side'}{ending}"} | (alone if each else {})


def check_writable(path: Path, clip: Path) -> None:
    """Found out before the work, not after it."""
    if path.is_dir():
        raise Refused(f"{path} is a folder.")
    if path.exists() and clip.exists() and path.samefile(clip):
        raise Refused(f"{path} is the clip itself; choose another name.")
    try:
        tempfile.TemporaryFile(dir=path.absolute().parent).close()
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}.") from None


def device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError):
        raise Refused(f"{name} is no device of this machine; cpu is one.") from None
    return device


def watched(request: Request, model: Predictor) -> Result:
    """A prediction whose progress is one line of stderr, gone when it ends."""
    shown = ""
    try:
        for event in predict(request, model, deadline=math.inf):
            if isinstance(event, Progress):
                text = event.text()
                print("\r" + text.ljust(len(shown)), end="", file=sys.stderr, flush=True)
                shown = text
        return event
    except VideoError as error:
        raise Refused(f"{request.clip}: {error}") from None
    except torch.OutOfMemoryError:
        raise Refused("The machine is out of memory; choose fewer futures or frames.") from None
    finally:
        if shown:
            print("\r" + " " * len(shown), end="\r", file=sys.stderr, flush=True)


def describe(args: argparse.Namespace) -> None:
    model = load(args.model)
    told = facts(model) | {
        "settings that it honours": ", ".join(sorted(model.knobs)) or "none",
        **({"actions": ", ".join(steerable(model))} if steerable(model) else {}),
        "file": f"{find(args.model).stat().st_size / 2**20:.1f} MiB",
    }
    width = max(map(len, told))
    print(name_of(args.model), "", *(f"{name:{width}}  {value}" for name, value in told.items()), "", sep="\n")
    print(*story(model.card), sep="\n")


def main(arguments: list[str] | None = None) -> int:
    try:
        args = parser().parse_args(joined(sys.argv[1:] if arguments is None else arguments))
        if args.command is None:
            parser().print_help()
        else:
            {"predict": predict_clip, "info": describe}[args.command](args)
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:  # Refused, VideoError and CheckpointError are ValueErrors
        print(f"stt: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
