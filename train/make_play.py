"""Makes the README's picture of Play, a live session driven by a script of keys: python -m train.make_play

Each step of the script is a key and for how many frames it is held; the picture shows the key beside the frame.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from stt.checkpoint import load
from stt.encode import Pixels, enlarge, write_gif
from stt.live import LiveSession
from stt.model_card import frame_rate
from stt.video import read_clip, to_uint8
from train.flags import check_output

DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, 1), "down": (0, -1), "none": (0, 0)}
MODEL = Path("assets/models/robot-stt.safetensors")
CLIP = Path("assets/prompts/yellow-roll-to-the-right.mp4")
KEYS = ("none:2", "left:8", "up:5", "right:7", "down:5", "left:6", "none:3")
FACTOR, KEY, GAP = 5, 44, 6  # enlargement; side of a key and space between two, pixels
BACKGROUND, CAP, PRESSED, ARROW = (11, 14, 20), (30, 41, 59), (194, 65, 12), (241, 245, 249)
PLACES = {"left": (0, 1), "down": (1, 1), "right": (2, 1), "up": (1, 0)}  # column and row of a key


def script_of(steps: Sequence[str]) -> list[str]:
    """The key of each frame, from texts such as "right:8". Raises ValueError."""
    keys: list[str] = []
    for step in steps:
        key, _, frames = step.partition(":")
        if key not in DIRECTIONS or not frames.isdigit():
            raise ValueError(f"{step} is no step such as right:8; keys are {', '.join(DIRECTIONS)}")
        keys += [key] * int(frames)
    return keys


def beside(frame: Pixels, key: str) -> Pixels:
    """(H, W, 3), enlarged, with the four arrow keys at its right."""
    picture = enlarge(frame[None], FACTOR)[0]
    width = 3 * KEY + 6 * GAP
    panel = np.full((len(picture), width - width % 2, 3), BACKGROUND, np.uint8)
    top = (len(picture) - 2 * KEY - GAP) // 2
    for name, (column, row) in PLACES.items():
        x, y = 2 * GAP + column * (KEY + GAP), top + row * (KEY + GAP)
        cv2.rectangle(panel, (x, y), (x + KEY - 1, y + KEY - 1), PRESSED if name == key else CAP, cv2.FILLED)
        dx, dy = DIRECTIONS[name]
        centre, reach = np.array([x + KEY // 2, y + KEY // 2]), KEY // 4
        ahead, across = reach * np.array([dx, -dy]), reach * np.array([dy, dx])
        triangle = np.stack([centre + ahead, centre - ahead + across, centre - ahead - across])
        cv2.fillPoly(panel, [triangle.astype(np.int32)], ARROW, cv2.LINE_AA)
    return np.concatenate([picture, panel], axis=1)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", type=Path, default=MODEL, help="file of a model that takes actions")
    parser.add_argument("--clip", type=Path, default=CLIP, help="the prompt is the beginning of this clip")
    parser.add_argument("--keys", nargs="+", default=KEYS, metavar="KEY:FRAMES", help=f"[{' '.join(KEYS)}]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("assets/play.gif"))
    return parser


def main() -> None:
    args = parser().parse_args()
    try:
        check_output("--out", args.out)
        keys = script_of(args.keys)
        model = load(args.model, "cpu")
        clip = read_clip(args.clip, size=model.config.image_size, channels=model.config.channels).video
        session = LiveSession(model, clip[: model.config.context_frames], args.seed)
        still = (0.0,) * (len(model.config.actions) - 2)  # the first two axes are those of the arrow keys
        pictures = []
        for key in keys:
            x, y = DIRECTIONS[key]
            pictures.append(beside(to_uint8(session.step((float(x), float(y), *still))[None])[0], key))
    except (OSError, ValueError) as error:
        raise SystemExit(f"make_play: {error}") from error
    write_gif(args.out, np.stack(pictures), frame_rate(model.card) or 10.0)


if __name__ == "__main__":
    main()
