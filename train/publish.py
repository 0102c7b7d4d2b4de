"""Makes a run into a file to ship: python -m train.publish --model runs/stt --out assets/models/NAME.safetensors"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stt.checkpoint import find, load_any, read_header, save
from train.evaluate import PROTOCOLS

LARGEST = 16 * 2**20  # bytes of a shipped file


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", required=True, help="run folder or file")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--hardware", help="what it was trained on, for the card")
    parser.add_argument("--scores", type=Path, help="JSON of train.evaluate, which go into the card")
    return parser


def main() -> None:
    args = parser().parse_args()
    card = read_header(find(args.model))["card"]
    if args.hardware:
        card["hardware"] = args.hardware
    if args.scores:
        scores = json.loads(args.scores.read_text())
        card["scores"] = {name: scores[name] for name in PROTOCOLS if name in scores}
    save(load_any(args.model), args.out, half=True, card=card)
    size = args.out.stat().st_size
    print(f"{args.out}: {size / 2**20:.1f} MiB, card {json.dumps(card)}")
    if size > LARGEST:
        raise SystemExit(f"{args.out} has {size} bytes, shipped files have at most {LARGEST}")


if __name__ == "__main__":
    main()
