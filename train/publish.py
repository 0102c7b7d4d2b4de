"""Makes a run into a file to ship, here or on the Hub: python -m train.publish --model runs/stt --repo owner/name"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from stt.api import Predictor
from stt.checkpoint import (
    FILE_NAME,
    build,
    check_writable,
    family_of,
    find,
    load_any,
    one_line,
    push_to_hub,
    read_header,
    save,
    with_card,
    write_whole,
)
from stt.model_card import facts, provenance
from stt.request import Request
from stt.self_check import self_check
from train.cli import with_overrides, without_folders
from train.data.splits import hashed
from train.evaluation.protocols import PROTOCOLS
from train.flags import number

HASHED = re.compile(r"[0-9a-f]{12}(#\d+)?")  # of a card that was published before
MAX_BYTES = 16 * 2**20  # of a file in assets


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.publish", description="Writes a run's model in half precision, with its card, to ship it."
    )
    parser.add_argument("--model", help="run folder or file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write; give --out, --repo or both")
    parser.add_argument("--repo", help="owner/name on the Hub to upload weights and card to; prints the pinned source")
    parser.add_argument("--private", action="store_true", help="upload to a private repository only")
    parser.add_argument("--hardware", help="hardware that it was trained on, for the card")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="JSON of train.evaluate, for the card; others stay")
    parser.add_argument("--world", help="what the app calls the kind of clips that it knows, such as Tabletop")
    parser.add_argument("--knows", metavar="SENTENCE", help="what it predicts well, for whoever chooses a model")
    parser.add_argument("--example", metavar="NAME", help="its clip of assets/prompts that shows it best")
    parser.add_argument("--fps", type=number, help="frames a second at which clips suit it, where its card has none")
    parser.add_argument(
        "--check", nargs="+", type=Path, metavar="CLIP", help="clips that it knows: the app compares others with them"
    )
    parser.add_argument("--decoder", metavar="MODEL", help="take the decoder of this tokenizer, trained --decoder-only")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="set a field of the network")
    parser.add_argument("--cards", type=Path, metavar="FOLDER", help="only fill its README.md with its models' tables")
    return parser


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    if args.cards:
        text = with_tables(args.cards).encode()
        return write_whole(args.cards / "README.md", lambda file: file.write(text))
    if not args.model:
        raise SystemExit("publish: give --model RUN, or --cards FOLDER")
    if not (args.out or args.repo):
        raise SystemExit("publish: give --out FILE, --repo owner/name or both")
    try:
        if args.out:
            check_writable(args.out.parent, folder=True)
            if args.out.is_dir():
                raise ValueError(f"{args.out} is a folder")
        model, card = model_to_ship(args)
    except (OSError, ValueError) as error:
        raise SystemExit(f"publish: {error}") from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        if in_half_precision(args):
            path.write_bytes(with_card(find(args.model), card))
        else:
            save(model, path, half=True, card=card)
        check_saved(model, path)
        size = path.stat().st_size
        parts = ", ".join(f"{name} ({len(part)})" if isinstance(part, dict) else name for name, part in card.items())
        print(f"{args.out or args.repo}: {size / 2**20:.1f} MiB; its card holds {parts}")
        if args.out and size > MAX_BYTES:
            raise SystemExit(f"{args.out} would have {size} bytes, shipped files have at most {MAX_BYTES}")
        if args.out:
            write_whole(args.out, lambda file: file.write(path.read_bytes()))
            print(f"saved to {args.out}; now run python app.py --models {args.out}")
        if args.repo:
            try:
                print(push_to_hub(path, args.repo, private=args.private))
            except ValueError as error:
                raise SystemExit(f"publish: {error}") from error


def with_tables(folder: Path) -> str:
    """The folder's README.md, with the tables of NAME.safetensors after each line `<!-- tables of NAME -->`."""

    def tables(mark: re.Match[str]) -> str:
        model = load_any(folder / f"{mark[1]}.safetensors")
        lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts(model).items()), ""]
        lines += [re.sub("^## ", "### ", line) for line in provenance(model.card)]
        return "\n".join([f"<!-- tables of {mark[1]} -->", *lines, "<!-- end -->"])

    return re.sub(r"<!-- tables of (\S+) -->.*?<!-- end -->", tables, (folder / "README.md").read_text(), flags=re.S)


def model_to_ship(args: argparse.Namespace) -> tuple[nn.Module, dict[str, Any]]:
    """The model with --set and --decoder applied, and its card."""
    card = read_header(find(args.model))["card"]
    if args.hardware:
        card["hardware"] = args.hardware
    if args.scores:
        scores = read_scores(args.scores)
        old = {} if changes_network(args) else card.get("scores") or {}
        card["scores"] = old | {name: four_digits(scores[name]) for name in PROTOCOLS if name in scores}
    if args.fps:
        card["fps"] = args.fps
    if about := {name: getattr(args, name) for name in ("world", "knows", "example") if getattr(args, name)}:
        card["about"] = {**card.get("about", {}), **about}
    trained = load_any(args.model)
    model = build(family_of(trained), with_overrides(trained.config, args.set))
    try:
        model.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise ValueError(f"--set {' '.join(args.set)}: the weights do not fit: {one_line(error)}") from error
    if args.decoder:
        model = with_decoder(model, args.decoder)
        card["decoder"] = read_header(find(args.decoder))["card"]
    if args.check:
        card["self_check"] = usual_check(model.eval(), args.check)
    return model, portable_card(card)


def usual_check(model: nn.Module, clips: list[Path]) -> dict[str, float]:
    """The largest error of a predictor on the last frames of clips that it knows, and the CPU seconds of a check."""
    errors, begun = [], time.process_time()
    for clip in clips:
        *_, check = self_check(Request(clip, "", frames=1), model)
        errors.append(check.error)
    return {"error": round(max(errors), 4), "seconds": round((time.process_time() - begun) / len(clips), 2)}


def changes_network(args: argparse.Namespace) -> bool:
    """Whether the file is to hold another network than --model, of which older scores say nothing."""
    return bool(args.set or args.decoder)


def in_half_precision(args: argparse.Namespace) -> bool:
    """Whether --model is as it is shipped, so that only its card changes."""
    if changes_network(args):
        return False
    with safe_open(find(args.model), framework="pt") as file:
        return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118


def read_scores(path: Path) -> dict[str, Any]:
    """The JSON of train.evaluate. Raises ValueError for another file."""
    try:
        scores = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--scores {path}: {one_line(error)}") from error
    if not (isinstance(scores, dict) and any(isinstance(scores.get(name), dict) for name in PROTOCOLS)):
        raise ValueError(f"--scores {path} holds no scores of train.evaluate")
    return scores


def check_saved(model: nn.Module, path: Path) -> None:
    """Loads a file. SystemExit unless it holds the model, but for the rounding to half precision."""
    try:
        loaded = load_any(path)
    except ValueError as error:
        raise SystemExit(f"publish: the saved file cannot be loaded: {error}") from error
    if loaded.config != model.config:
        raise SystemExit(f"publish: the saved file has another config: {loaded.config}, not {model.config}")
    tensors = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.allclose(tensors[name].double(), tensor.double(), rtol=2**-10, atol=2**-24):
            raise SystemExit(f"publish: the saved file holds other values, first in {name!r}")


def with_decoder(model: nn.Module, source: str) -> nn.Module:
    """The model with the decoder of another tokenizer, whose encoder and codebook must be the same."""
    other = load_any(source)
    if not isinstance(model, Predictor) or model.frozen_tokenizer is None:
        raise SystemExit(f"--decoder {source}: the model has no tokenizer, so it has no decoder")
    if name := first_difference(other, model.tokenizer):
        raise SystemExit(f"--decoder {source}: its codes are not those of the model's tokenizer, first at {name!r}")
    changed = build(family_of(model), replace(model.config, tokenizer=other.config))
    prefix = next(name for name, module in model.named_modules() if module is model.tokenizer) + "."
    tokenizer = {prefix + name: tensor for name, tensor in other.state_dict().items()}
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(prefix)}
    changed.load_state_dict(rest | tokenizer)
    return changed


def first_difference(tokenizer: nn.Module, other: nn.Module) -> str | None:
    """The first weight outside the decoder that differs between two tokenizers in half precision, as they ship."""
    mine, theirs = (
        {name: tensor.half() for name, tensor in t.state_dict().items() if not name.startswith("decoder.")}
        for t in (tokenizer, other)
    )
    same = {name for name in mine if name in theirs and torch.equal(mine[name], theirs[name])}
    return next((name for name in mine if name not in same), None)


def portable_card(card: dict[str, Any], outer: dict[str, Any] | None = None) -> dict[str, Any]:
    """A card without folders of the machine in its commands, names of files, and scores of the models it builds on.

    A nested card names its tokenizer, data, files and preset only where the card around it has others, and no decoder
    that was replaced later.
    """
    mine = {
        name: card.get(name, (outer or {}).get(name)) for name in ("tokenizer", "world", "files", "preset", "decoder")
    }

    def nested(value: Any) -> Any:
        if not isinstance(value, dict) or "command" not in value:
            return value
        repeated = {"scores": value.get("scores")} | mine
        if mine["decoder"]:
            repeated["decoder"] = value.get("decoder")
        new = {name: part for name, part in value.items() if name not in repeated or part != repeated[name]}
        return portable_card(new, mine)

    clean = {name: nested(value) for name, value in card.items()}
    if files := clean.get("files"):  # names are private; hashes still tell which files were trained on
        clean["files"] = {
            name: [n if HASHED.fullmatch(n) else hashed(n) for n in part] if isinstance(part, list) else part
            for name, part in files.items()
        }
    if "command" in clean:
        command = without_folders(shlex.split(clean["command"]))
        clean["command"] = re.sub(
            r" --(sheet|score|save|log)-every[ =]\S+", "", command
        )  # they do not change the model
    return clean


def four_digits(figures: Any) -> Any:
    """Figures in nested dicts and lists with four significant digits, which is what a card shows."""
    if isinstance(figures, dict):
        return {name: four_digits(part) for name, part in figures.items()}
    if isinstance(figures, list):
        return [four_digits(part) for part in figures]
    return float(f"{figures:.4g}") if isinstance(figures, float) else figures


if __name__ == "__main__":
    main()
