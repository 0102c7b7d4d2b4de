"""What a run was begun with: flags kept in its folder, so that --resume needs no other."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from stt.checkpoint import write_whole
from train.snapshot import checkpoints

FILE = "run.json"
SOURCES = ("tokenizer", "start_from", "predictor")  # flags whose text may be a path


def parsed(parser: argparse.ArgumentParser, module: str, words: list[str] | None = None) -> argparse.Namespace:
    """The flags in `words` (default: the command line's); with --resume also those that the run has, behind them.

    `command` is what the run came about by, as words. Raises SystemExit where flags are missing or --out is the folder
    of another run.
    """
    words = sys.argv[1:] if words is None else words
    args = parser.parse_args(words)
    path = args.out / FILE
    command = ["python", "-m", module, *words]
    if args.resume and path.is_file():
        kept = json.loads(path.read_text())
        if kept["command"][2] != module:
            raise SystemExit(f"{args.out} is a run of {kept['command'][2]}, not of {module}")
        flags = kept["flags"]
        for name, other in (("steps", "minutes"), ("minutes", "steps")):
            if getattr(args, name) is not None:
                flags.pop(other, None)
        parser.set_defaults(**flags)
        args = parser.parse_args(words)
        more = beside_resume(words)
        known = more == beside_resume(kept["command"][3:])  # the same command once more, as launchers give it
        command = kept["command"] + ([] if known else more)
    elif not args.resume and (old := checkpoints(args.out)):
        raise SystemExit(f"{args.out} holds a run ({old[-1].name}): --resume continues it, else give another --out")
    if not args.preset:
        known = f"; {path} is not there to tell it" if args.resume else ""
        parser.error(f"the following arguments are required: --preset{known}")
    args.command = command
    return args


def beside_resume(words: list[str]) -> list[str]:
    """The flags that are not --resume and --out."""
    resume = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    resume.add_argument("--resume", action="store_true")
    resume.add_argument("--out")
    return resume.parse_known_args(words)[1]


def keep(args: argparse.Namespace, resumed: bool = False) -> None:
    """Writes the flags to the run's folder, paths in full; with --resume only once the run has been resumed by them."""
    path = args.out / FILE
    if int(os.environ.get("RANK", 0)) or (args.resume and path.is_file() and not resumed):
        return  # the first process writes
    flags = {name: value for name, value in vars(args).items() if name not in ("out", "resume", "command")}
    for name, value in flags.items():
        if isinstance(value, Path) or (name in SOURCES and value and Path(value).exists()):
            flags[name] = str(Path(value).absolute())
    text = json.dumps({"command": args.command, "flags": flags}, indent=1)
    write_whole(path, lambda file: file.write(text.encode()))
