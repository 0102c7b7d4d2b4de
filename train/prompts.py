"""Draws the app's example clips: python -m train.prompts --out assets/prompts"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from stt.api import Video
from stt.encode import write_mp4
from stt.video import to_uint8
from train.data import generator_for
from train.worlds import BounceState, draw_digits, render, stochastic_moves

FPS = 10
Mover = tuple[int, tuple[int, int], tuple[int, int]]  # digit, place (y, x), velocity (y, x) in pixels a frame


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One digit of the stochastic world and how it sets off; a companion joins it on request."""

    name: str
    mover: Mover
    frames: int
    companion: Mover | None = None


PROMPTS = (  # places reach from 0 to 31; a wall is met when a place would leave that range
    Prompt(name="seven-drifting", mover=(7, (4, 6), (1, 1)), frames=12, companion=(1, (28, 22), (-2, 0))),
    Prompt(name="three-just-before-the-right-wall", mover=(3, (14, 8), (1, 2)), frames=12),
    Prompt(name="four-falling", mover=(4, (2, 16), (2, 0)), frames=14, companion=(0, (20, 2), (0, 2))),
    Prompt(name="eight-into-the-corner", mover=(8, (4, 4), (2, 2)), frames=14),
    Prompt(name="two-rising", mover=(2, (30, 10), (-2, 1)), frames=12),
    Prompt(name="five-after-a-bounce", mover=(5, (22, 10), (-1, -3)), frames=14),
    Prompt(name="six-creeping", mover=(6, (10, 4), (0, 1)), frames=10),
    Prompt(name="nine-rushing-left", mover=(9, (2, 28), (3, -4)), frames=10),
)


def draw(prompt: Prompt, pair: bool = False) -> Video:
    """The prompt's clip (1, T, 1, 64, 64); always the same one."""
    movers = [prompt.mover, *([prompt.companion] if pair and prompt.companion else [])]
    generator = generator_for("prompt", prompt.name)
    labels, places, velocities = (torch.tensor([part]) for part in zip(*movers, strict=True))  # (1, D, ...)
    glyphs = torch.stack([draw_digits(label, generator, size=32) for label in labels.T], dim=1)  # (1, D, 32, 32)
    moves = stochastic_moves(BounceState(places, velocities), prompt.frames, generator)
    return render(glyphs, moves.positions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, default=Path("assets/prompts"), help="folder for the .mp4 files")
    parser.add_argument("--pairs", action="store_true", help="two of the clips show two digits")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for prompt in PROMPTS:
        write_mp4(args.out / f"{prompt.name}.mp4", to_uint8(draw(prompt, args.pairs)[0]), FPS)


if __name__ == "__main__":
    main()
