"""Makes the app's example clips and predictions of them: python -m train.make_examples --out assets/prompts

With `--results assets/results --model assets/models/digits-stt.safetensors` every clip also gets the run that the app
shows at once. `--world` makes the clips of the tabletop or of the robot instead, which need MuJoCo, or cuts real ones
from the videos of --source. `--clips FILE ...` makes no clips but runs of these. The app groups clips by the worlds of
the models whose runs it has.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from stt.api import Predictor, Video
from stt.checkpoint import load, name_of
from stt.encode import write_mp4
from stt.prediction import predict
from stt.prompt import load_clip
from stt.request import Request, usual_frames
from stt.results import Result
from stt.video import read_clip, to_uint8
from train.data.bouncing import DigitState, render, simulate_deterministic, simulate_stochastic
from train.data.strokes import draw_digits
from train.flags import check_output
from train.seeding import generator_for
from train.sim.robot.world import Robot, RobotConfig
from train.sim.tabletop.world import Tabletop, TabletopConfig

FPS = 10
WORLDS = ("digits", "tabletop", "robot", "real")
LONG = 40  # frames of clips that last as long as the predictions, which can be compared with them
MovingDigit = tuple[int, tuple[int, int], tuple[int, int]]  # digit, position (y, x), velocity (y, x) in pixels a frame


@dataclass(frozen=True, kw_only=True)
class Example:
    """Digits with initial positions and velocities, of Stochastic Moving MNIST or of the deterministic one."""

    name: str
    digits: tuple[MovingDigit, ...]
    frames: int
    deterministic: bool = False


EXAMPLES = (  # positions go from 0 to 31, deterministic ones to 36; digits meet a wall beyond that
    Example(name="pair-crossing", digits=((3, (3, 5), (2, 3)), (8, (31, 28), (-3, -2))), frames=30, deterministic=True),
    Example(name="pair-five-and-two", digits=((5, (20, 4), (-2, 1)), (2, (6, 26), (1, -2))), frames=LONG),
    Example(name="pair-four-and-zero", digits=((4, (2, 16), (2, 0)), (0, (20, 2), (0, 2))), frames=LONG),
    Example(name="pair-nine-and-six", digits=((9, (26, 6), (-1, 2)), (6, (2, 28), (2, -1))), frames=12),
    Example(name="pair-seven-and-one", digits=((7, (4, 6), (1, 1)), (1, (28, 22), (-2, 0))), frames=12),
    Example(name="eight-into-the-corner", digits=((8, (4, 4), (2, 2)),), frames=14),
    Example(name="five-after-a-bounce", digits=((5, (22, 10), (-1, -3)),), frames=LONG),
    Example(name="four-falling", digits=((4, (2, 16), (2, 0)),), frames=LONG),
    Example(name="nine-rushing-left", digits=((9, (2, 28), (3, -4)),), frames=LONG),
    Example(name="three-just-before-the-right-wall", digits=((3, (14, 8), (1, 2)),), frames=12),
)

SIMULATED_SEED = 7  # the scores use another one
TABLETOP_EXAMPLES = {  # by name: index of a clip of the tabletop's test split
    "disc-onto-sphere": 0, "cylinder-about-to-fall": 2, "angle-into-the-corner": 4,
    "block-to-the-wall": 6, "turning-a-brick": 12, "green-block-uphill": 17,
}  # fmt: skip
ROBOT_EXAMPLES = {  # by name: index of a clip of the robot's test split, of the same seed
    "towards-the-cyan-box": 0, "yellow-roll-to-the-right": 1, "pink-cube-to-the-left": 2, "three-things": 3,
    "lifted-off": 4, "crowded-tray": 5,
}  # fmt: skip
REAL_EXAMPLES = {  # by name: video, and the second at which the clip begins; assets/prompts/README.md names the authors
    "two-cars-from-above": ("intel-car-detection.mp4", 15.7), "white-car-from-above": ("intel-car-detection.mp4", 5.4),
    "bottle-set-down": ("intel-bottle-detection.mp4", 22.0), "highway": ("udacity-solid-white-right.mp4", 1.2),
}  # fmt: skip
REAL_FRAMES, REAL_SIDE = 24, 384  # of each clip; pixels of its longer side


def clip_of(example: Example) -> Video:
    """The example's clip (1, T, 1, 64, 64), always the same."""
    size, generator = 28 if example.deterministic else 32, generator_for("prompt", example.name)
    labels, positions, velocities = (torch.tensor([part]) for part in zip(*example.digits, strict=True))  # (1, D, ...)
    glyphs = torch.stack([draw_digits(label, generator, size=size) for label in labels.T], dim=1)  # (1, D, h, w)
    if example.deterministic:
        trajectory = simulate_deterministic(DigitState(positions / 36, velocities / 36), example.frames)
    else:
        trajectory = simulate_stochastic(DigitState(positions, velocities), example.frames, generator)
    return render(glyphs, trajectory.positions, overlap="max" if example.deterministic else "add")


def tabletop_clip(index: int) -> Video:
    """A clip (1, 30, 3, 64, 64) of the tabletop."""
    return Tabletop(TabletopConfig(), "test").clip(SIMULATED_SEED, index).video[None]


def robot_clip(index: int) -> Video:
    """A clip (1, 30, 3, 128, 128) of the robot."""
    return Robot(RobotConfig(), "test").clip(SIMULATED_SEED, index).video[None]


def real_clip(source: Path, start: float) -> Video:
    """A clip (1, 24, 3, H, W) of a video from this second on."""
    first = round(start * FPS)
    clip = read_clip(source, size=REAL_SIDE, channels=3, fit="whole", fps=FPS, max_frames=first + REAL_FRAMES)
    return clip.video[None, first:]


def result(clip: Path, frames: int, model: Predictor, name: str) -> Result:
    """The run that the app shows of a clip of so many frames; name: of the model, in the app."""
    start = min(model.config.context_frames, frames)  # so that a longer clip goes on beside its futures
    request = Request(clip=clip, model=name, frames=usual_frames(model), seed=0, prompt_frames=start)
    *_, run = predict(request, model, deadline=math.inf)
    return run


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, default=Path("assets/prompts"), help="folder for the .mp4 files")
    parser.add_argument("--world", choices=WORLDS, default="digits", help="what the clips show [digits]")
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="videos that the real clips are cut from")
    parser.add_argument("--clips", nargs="+", type=Path, metavar="FILE", help="only runs, of these clips")
    parser.add_argument("--results", type=Path, help="folder for their runs, .npz; needs --model")
    parser.add_argument("--model", help="file, run's folder or owner/repo that predicts them; needs --results")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if bool(args.results) != bool(args.model):
        raise SystemExit("make_examples: --results and --model need each other")
    check_output("--out", args.out, folder=True)
    check_output("--results", args.results, folder=True)
    try:
        model = load(args.model) if args.model else None
    except (OSError, ValueError) as error:
        raise SystemExit(f"make_examples: {error}") from error
    if args.world == "real" and not args.source:
        raise SystemExit("make_examples: --world real needs --source")
    files = args.clips or write_clips(args.out, args.world, args.source)
    if model is not None:
        name = name_of(args.model)
        for file in files:
            path, begun = args.results / f"{file.stem}--{name}.npz", time.perf_counter()
            frames = len(load_clip(Request(clip=file, model=name), model).video)
            result(file, frames, model, name).save(path)
            print(f"{path}: {path.stat().st_size:,} bytes, {time.perf_counter() - begun:.1f} s")


def write_clips(folder: Path, world: str, source: Path | None = None) -> list[Path]:
    """Writes all clips of a world; returns their files. source: the folder of the videos of real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = {
        "digits": {example.name: partial(clip_of, example) for example in EXAMPLES},
        "tabletop": {name: partial(tabletop_clip, index) for name, index in TABLETOP_EXAMPLES.items()},
        "robot": {name: partial(robot_clip, index) for name, index in ROBOT_EXAMPLES.items()},
        "real": {name: partial(real_clip, source / file, at) for name, (file, at) in REAL_EXAMPLES.items()}
        if source
        else {},
    }[world]
    for name, clip in clips.items():
        write_mp4(folder / f"{name}.mp4", to_uint8(clip()[0]), FPS)
    return [folder / f"{name}.mp4" for name in clips]


if __name__ == "__main__":
    main()
