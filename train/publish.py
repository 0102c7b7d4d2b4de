"""Makes a run into a file to ship, here or on the Hub: python -m train.publish --model runs/stt --repo owner/name"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stt.checkpoint import FILE_NAME, build, family_of, find, load_any, push_to_hub, read_header, save
from stt.model_card import facts, story
from train.cli import overridden, without_folders
from train.evaluate import PROTOCOLS

LARGEST = 16 * 2**20  # bytes of a file in assets


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", help="run folder or file")
    parser.add_argument("--out", type=Path, help="file to write; --out, --repo or both")
    parser.add_argument("--repo", help="owner/name on the Hub to upload weights and card to; prints the pinned source")
    parser.add_argument("--private", action="store_true", help="upload to a private repository only")
    parser.add_argument("--hardware", help="what it was trained on, for the card")
    parser.add_argument("--scores", type=Path, help="JSON of train.evaluate, which go into the card")
    parser.add_argument("--decoder", help="tokenizer whose decoder to take: one trained with --decoder-only")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="e.g. context_frames=12")
    parser.add_argument("--cards", type=Path, metavar="FOLDER", help="fill its README.md with its models' tables")
    return parser


def with_tables(folder: Path) -> str:
    """The folder's README.md, with the tables of NAME.safetensors after each line `<!-- tables of NAME -->`."""

    def tables(mark: re.Match[str]) -> str:
        model = load_any(folder / f"{mark[1]}.safetensors")
        lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts(model).items()), ""]
        lines += [re.sub("^## ", "### ", line) for line in story(model.card)]
        return "\n".join([f"<!-- tables of {mark[1]} -->", *lines, "<!-- end -->"])

    return re.sub(r"<!-- tables of (\S+) -->.*?<!-- end -->", tables, (folder / "README.md").read_text(), flags=re.S)


def portable(card: dict[str, Any], around: dict[str, Any] | None = None) -> dict[str, Any]:
    """A card whose commands, nested ones too, name no folders of their machine, and that holds its own scores alone.

    A nested card names a tokenizer, a world or a preset where it is another than that of the card around it, and no
    decoder that a later one took the place of.
    """
    mine = {name: card.get(name, (around or {}).get(name)) for name in ("tokenizer", "world", "preset", "decoder")}

    def nested(value: Any) -> Any:
        if not isinstance(value, dict) or "command" not in value:
            return value
        told = {"scores": value.get("scores")} | mine
        if mine["decoder"]:
            told["decoder"] = value.get("decoder")
        return portable({name: part for name, part in value.items() if name not in told or part != told[name]}, mine)

    clean = {name: nested(value) for name, value in card.items()}
    if "command" in clean:
        told = without_folders(shlex.split(clean["command"]))
        clean["command"] = re.sub(r" --(sheet|score|save)-every[ =]\S+", "", told)  # which changed nothing of it
    return clean


def unlike(tokenizer: nn.Module, other: nn.Module) -> str | None:
    """The first weight, but for decoders', that two tokenizers do not share in half precision, as they ship."""
    mine, theirs = (
        {name: tensor.half() for name, tensor in of.state_dict().items() if not name.startswith("decoder.")}
        for of in (tokenizer, other)
    )
    shared = [name for name in mine if name in theirs and mine[name].shape == theirs[name].shape]
    return next((name for name in mine if name not in shared or not torch.equal(mine[name], theirs[name])), None)


def shorter(figures: Any) -> Any:
    """Figures with four significant digits, which is what a card shows."""
    if isinstance(figures, dict):
        return {name: shorter(part) for name, part in figures.items()}
    if isinstance(figures, list):
        return [shorter(part) for part in figures]
    return float(f"{figures:.4g}") if isinstance(figures, float) else figures


def with_decoder(model: nn.Module, source: str) -> nn.Module:
    """The model around another tokenizer, after a check that its codes mean the same: only the decoder may differ."""
    other = load_any(source)
    if getattr(model, "tokenizer", None) is None:
        raise SystemExit(f"--decoder {source}: the model has no tokenizer whose decoder it could take the place of")
    if strange := unlike(other, model.tokenizer):
        raise SystemExit(f"{source} has other codes than the model's tokenizer, first at {strange!r}")
    changed = build(family_of(model), replace(model.config, tokenizer=other.config))
    weights = {f"tokenizer.{name}": tensor for name, tensor in other.state_dict().items()}
    rest = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("tokenizer.")}
    changed.load_state_dict(rest | weights)
    return changed


def shipped(args: argparse.Namespace) -> tuple[nn.Module, dict[str, Any]]:
    """The model as it goes out, with its card."""
    card = read_header(find(args.model))["card"]
    if args.hardware:
        card["hardware"] = args.hardware
    if args.scores:
        scores = json.loads(args.scores.read_text())
        card["scores"] = {name: shorter(scores[name]) for name in PROTOCOLS if name in scores}
    trained = load_any(args.model)
    model = build(family_of(trained), overridden(trained.config, args.set))
    model.load_state_dict(trained.state_dict())
    if args.decoder:
        model = with_decoder(model, args.decoder)
        card["decoder"] = read_header(find(args.decoder))["card"]
    return model, portable(card)


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if args.cards:
        (args.cards / "README.md").write_text(with_tables(args.cards))
        return
    if not (args.model and (args.out or args.repo)):
        raise SystemExit("publish: give --model RUN and --out FILE, --repo owner/name or both")
    model, card = shipped(args)
    with tempfile.TemporaryDirectory() as folder:
        path = args.out or Path(folder) / FILE_NAME
        save(model, path, half=True, card=card)
        size = path.stat().st_size
        print(f"{args.out or args.repo}: {size / 2**20:.1f} MiB, card {json.dumps(card)}")
        if args.out and size > LARGEST:
            raise SystemExit(f"{args.out} has {size} bytes, shipped files have at most {LARGEST}")
        if args.repo:
            try:
                print(push_to_hub(path, args.repo, private=args.private))
            except ValueError as error:
                raise SystemExit(f"publish: {error}") from error


if __name__ == "__main__":
    main()
