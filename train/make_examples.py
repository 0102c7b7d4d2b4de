"""Draws the app's example clips, and predicts them beforehand: python -m train.make_examples --out assets/prompts

With `--results assets/results --model assets/models/digits-stt.safetensors` every clip also gets the run that the app
shows at once: what its own settings would give, so it stands for the very clip, weights and settings. `--tabletop`
draws the clips of the tabletop instead, which needs MuJoCo.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from stt.api import Predictor, Video
from stt.checkpoint import load, name_of
from stt.encode import write_mp4
from stt.prediction import predict
from stt.request import Request
from stt.results import Result
from stt.video import to_uint8
from train.data.bouncing import DigitState, deterministic_moves, render, stochastic_moves
from train.data.strokes import draw_digits
from train.seeding import generator_for

FPS = 10
LONG = 40  # frames of clips that go on for as long as the results' futures, which can be compared with them
Mover = tuple[int, tuple[int, int], tuple[int, int]]  # digit, place (y, x), velocity (y, x) in pixels a frame


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Digits and how they set off in the stochastic world or, `settled`, in Moving MNIST, where nothing is chance."""

    name: str
    movers: tuple[Mover, ...]
    frames: int
    settled: bool = False


PROMPTS = (  # places reach from 0 to 31, of the settled world to 36; a wall is met when a place would leave that range
    Prompt(name="pair-crossing", movers=((3, (3, 5), (2, 3)), (8, (31, 28), (-3, -2))), frames=30, settled=True),
    Prompt(name="pair-five-and-two", movers=((5, (20, 4), (-2, 1)), (2, (6, 26), (1, -2))), frames=LONG),
    Prompt(name="pair-four-and-zero", movers=((4, (2, 16), (2, 0)), (0, (20, 2), (0, 2))), frames=LONG),
    Prompt(name="pair-nine-and-six", movers=((9, (26, 6), (-1, 2)), (6, (2, 28), (2, -1))), frames=12),
    Prompt(name="pair-seven-and-one", movers=((7, (4, 6), (1, 1)), (1, (28, 22), (-2, 0))), frames=12),
    Prompt(name="eight-into-the-corner", movers=((8, (4, 4), (2, 2)),), frames=14),
    Prompt(name="five-after-a-bounce", movers=((5, (22, 10), (-1, -3)),), frames=LONG),
    Prompt(name="four-falling", movers=((4, (2, 16), (2, 0)),), frames=LONG),
    Prompt(name="nine-rushing-left", movers=((9, (2, 28), (3, -4)),), frames=LONG),
    Prompt(name="three-just-before-the-right-wall", movers=((3, (14, 8), (1, 2)),), frames=12),
)

# clips of the tabletop's test split, by their index; seed 7, none of which the scores use
TABLETOP_SEED = 7
TRAYS = {
    "tray-disc-onto-sphere": 0, "tray-cylinder-about-to-fall": 2, "tray-angle-into-the-corner": 4,
    "tray-block-to-the-wall": 6, "tray-turning-a-brick": 12, "tray-green-block-uphill": 17,
}  # fmt: skip


def draw(prompt: Prompt) -> Video:
    """The prompt's clip (1, T, 1, 64, 64); always the same one."""
    size, generator = 28 if prompt.settled else 32, generator_for("prompt", prompt.name)
    labels, places, velocities = (torch.tensor([part]) for part in zip(*prompt.movers, strict=True))  # (1, D, ...)
    glyphs = torch.stack([draw_digits(label, generator, size=size) for label in labels.T], dim=1)  # (1, D, h, w)
    if prompt.settled:
        moves = deterministic_moves(DigitState(places / 36, velocities / 36), prompt.frames)
    else:
        moves = stochastic_moves(DigitState(places, velocities), prompt.frames, generator)
    return render(glyphs, moves.positions, overlap="max" if prompt.settled else "add")


def draw_tray(index: int) -> Video:
    """A clip (1, 30, 3, 64, 64) of the tabletop."""
    from train.sim.tabletop.world import Tabletop, TabletopConfig

    return Tabletop(TabletopConfig(), "test").clip(TABLETOP_SEED, index).video[None]


def result(clip: Path, frames: int, model: Predictor, name: str) -> Result:
    """The run that the app shows of a clip of so many frames; name: of the model, in the app."""
    start = min(model.config.context_frames, frames)  # where the app begins by itself
    request = Request(clip=clip, model=name, frames=20, futures=4, seed=0, prompt_frames=start)
    *_, run = predict(request, model)
    return run


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, default=Path("assets/prompts"), help="folder for the .mp4 files")
    parser.add_argument("--tabletop", action="store_true", help="the clips of the tabletop in the digits' place")
    parser.add_argument("--results", type=Path, help="folder for their runs, .npz; needs --model")
    parser.add_argument("--model", help="file, run's folder or owner/repo that predicts them; needs --results")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if bool(args.results) != bool(args.model):
        raise SystemExit("prompts: --results and --model need each other")
    model = load(args.model) if args.model else None
    args.out.mkdir(parents=True, exist_ok=True)
    drawn = {prompt.name: partial(draw, prompt) for prompt in PROMPTS}
    if args.tabletop:
        drawn = {name: partial(draw_tray, index) for name, index in TRAYS.items()}
    for name, clip in drawn.items():
        file, began, video = args.out / f"{name}.mp4", time.perf_counter(), clip()[0]
        write_mp4(file, to_uint8(video), FPS)
        if model is not None:
            path = args.results / f"{name}.npz"
            result(file, len(video), model, name_of(args.model)).save(path)
            print(f"{path}: {path.stat().st_size:,} bytes, {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()
