"""Makes a run into a file to ship: python -m train.publish --model runs/stt --out assets/models/NAME.safetensors"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stt.checkpoint import build, family_of, find, load_any, read_header, save
from train.evaluate import PROTOCOLS
from train.presets import overridden, without_folders

LARGEST = 16 * 2**20  # bytes of a shipped file


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", required=True, help="run folder or file")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--hardware", help="what it was trained on, for the card")
    parser.add_argument("--scores", type=Path, help="JSON of train.evaluate, which go into the card")
    parser.add_argument("--decoder", help="tokenizer whose decoder to take: one trained with --decoder-only")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="e.g. steps=4")
    return parser


def portable(card: dict[str, Any]) -> dict[str, Any]:
    """A card whose commands, nested ones too, name no folders of the machine that they ran on."""
    clean = {name: portable(value) if isinstance(value, dict) else value for name, value in card.items()}
    if "command" in clean:
        clean["command"] = without_folders(shlex.split(clean["command"]))
    return clean


def decoder_of(source: str, tokenizer: nn.Module) -> dict[str, Tensor]:
    """Weights of another tokenizer, after a check that its codes mean the same: only the decoder may differ."""
    weights, mine = load_any(source).state_dict(), tokenizer.state_dict()
    differing = [n for n, t in weights.items() if not n.startswith("decoder.") and not torch.equal(t, mine[n])]
    if differing:
        raise SystemExit(f"{source} has other codes than the model's tokenizer, first at {differing[0]!r}")
    return weights


def main() -> None:
    args = parser().parse_args()
    card = read_header(find(args.model))["card"]
    if args.hardware:
        card["hardware"] = args.hardware
    if args.scores:
        scores = json.loads(args.scores.read_text())
        card["scores"] = {name: scores[name] for name in PROTOCOLS if name in scores}
    model = load_any(args.model)
    shipped = build(family_of(model), overridden(model.config, args.set))
    shipped.load_state_dict(model.state_dict())
    if args.decoder:
        shipped.tokenizer.load_state_dict(decoder_of(args.decoder, shipped.tokenizer))
        card["decoder"] = read_header(find(args.decoder))["card"]
    card = portable(card)
    save(shipped, args.out, half=True, card=card)
    size = args.out.stat().st_size
    print(f"{args.out}: {size / 2**20:.1f} MiB, card {json.dumps(card)}")
    if size > LARGEST:
        raise SystemExit(f"{args.out} has {size} bytes, shipped files have at most {LARGEST}")


if __name__ == "__main__":
    main()
