"""Scores a predictor on held-out clips: python -m train.evaluate --model runs/stt --mnist DIR --json scores.json

On the tabletop: python -m train.evaluate --world tabletop --model runs/stt --json scores.json
On your own videos: python -m train.evaluate --model runs/my_stt --data FOLDER --json scores.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from einops import rearrange

import stt
from stt.api import NO_CONDITION, Condition, Interpolates, Predictor, Sampling, Tokenizer, Video
from stt.checkpoint import find, read_header
from stt.models.stt import STT
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.data.video_folder import VideoFolderBatch, VideoFolderConfig
from train.evaluation.digit_classifier import load_digit_classifier
from train.evaluation.interpolation import interpolation, segmentation
from train.evaluation.protocols import (
    CONTEXT,
    HORIZON,
    SEED,
    Figures,
    asked_classes,
    best_of,
    frechet,
    held_out,
    motion,
    moving_mnist,
    official_clips,
    reconstruction,
    spreads,
    steered,
    surprise,
)
from train.evaluation.simulated_futures import against_truth, controls_of, digit_prompts
from train.evaluation.tabletop import Remembered, evaluate_tabletop, held_out_clips, tabletop_of
from train.evaluation.videos import evaluate_videos, held_out_videos, turned
from train.sheets import rows_of_frames
from train.sim.tabletop.environment import load_mujoco

PROTOCOLS = (
    "tokenizer", "moving_mnist", "best_of", "truth", "motion", "spread", "frechet", "classes", "surprise",
    "interpolation", "segmentation", "moves", "obedience", "turns",
)  # fmt: skip
CLASSIFIER = Path(__file__).parent.parent / "assets" / "digit_classifier.safetensors"
Draws = Sequence[tuple[Condition, Sequence[int]]]  # what is asked for, and the seeds drawn with it
SHOWN = (1, 2, 3, 5, 10, 15, 20)  # horizons of the tables


def evaluate(model: Predictor, args: argparse.Namespace, digits: int) -> Figures:
    """Every chosen protocol's figures, each with the manifest that it was measured by."""
    stochastic = MovingMNISTConfig(kind="stochastic", digits=digits, strokes=args.strokes, frames=15)
    deterministic = MovingMNISTConfig(kind="deterministic", digits=digits, strokes=args.strokes, frames=20)
    videos = MovingMNIST(stochastic, args.mnist, "test", args.device)
    sampling = Sampling(temperature=args.temperature)
    source = f"held-out seed {SEED}, {digits} digit{'s' * (digits > 1)}, {args.strokes:.0%} drawn, the rest MNIST test"
    drawn = f"temperature {args.temperature}"
    clips = [clip.video[0] for clip in held_out(videos, args.clips)] if {"best_of", "spread"} & set(args.only) else []
    classifier = load_digit_classifier(args.classifier, args.device) if args.classifier.is_file() else None
    if classifier is None and {"frechet", "classes"} & set(args.only):
        raise SystemExit(
            f"evaluate: {args.classifier} is missing; frechet and classes need it (train.classifier makes one)"
        )
    fvd = fvd_measure(args.fvd, args.device) if args.fvd else None
    scores: Figures = {}

    def put(name: str, title: str, figures: Figures) -> None:
        scores[name] = {"protocol": title} | figures

    if "tokenizer" in args.only and isinstance(getattr(model, "tokenizer", None), Tokenizer):
        frames = torch.cat([clip.video for clip in held_out(videos, 64)])
        put("tokenizer", f"64 clips of 15 frames, {source}", reconstruction(model.tokenizer, frames))
    if "moving_mnist" in args.only:
        if args.official:
            some, where = official_clips(args.official, args.moving_clips).to(args.device), args.official.name
        else:
            fixed = MovingMNIST(deterministic, args.mnist, "test", args.device)
            some = torch.cat([clip.video for clip in held_out(fixed, args.moving_clips)])
            where = f"made here, {source}"
        title = f"Moving MNIST 10 -> 10, {len(some)} clips {where}; temperature 0; MSE summed over a frame"
        put("moving_mnist", title, moving_mnist(model, some))
    if "best_of" in args.only:
        title = f"Stochastic Moving MNIST 5 -> 10, {len(clips)} prompts, {source}; {args.futures} futures, "
        figures = best_of(model, clips, sampling, args.futures)
        put("best_of", f"{title}seeds 0 to {args.futures - 1}, {drawn}", figures)
    if "truth" in args.only:
        title = f"5 -> 20, {args.prompts} prompts, {source}; {args.sets} model futures, seeds 0 to {args.sets - 1}, "
        title += f"{drawn}, against {args.sets} true ones; `truth`: another {args.sets} true ones, the floor; "
        title += "all prompts count unless a figure says otherwise"
        prompts = digit_prompts(videos, held_out(videos, args.prompts), classifier)
        put(
            "truth",
            title,
            against_truth(model, prompts, sampling, args.sets, controls=controls_of(model) if args.controls else {}),
        )
    if "motion" in args.only and isinstance(model, STT) and model.config.layers:
        longer = MovingMNIST(replace(stochastic, frames=20), args.mnist, "test", args.device)
        title = f"{args.clips} clips of 20 frames, {source}; nats of each layer's displacement from the third frame on"
        put("motion", title, motion({"model": model} | controls_of(model), held_out(longer, args.clips)))
    if "spread" in args.only:
        some = clips[:32]
        title = f"5 -> 10, {len(some)} prompts, {source}; 8 futures; standard deviation over futures"
        put("spread", title, {"by_temperature": spreads(model, some)})
    if "frechet" in args.only:
        some = torch.cat([clip.video for clip in held_out(videos, 2 * args.clips)])
        title = f"5 -> 10, {args.clips} prompts, {source}; seed k for prompt k, {drawn}; predicted frames against "
        title += f"{args.clips} other true clips'; `truth`: the prompts' own true futures against those, the floor"
        title += "; fvd: package cd-fvd, I3D" * bool(fvd)
        some, others = some.split(args.clips)
        put("frechet", title, frechet(model, some, others, classifier, sampling, fvd))
    if "classes" in args.only and "labels" in model.knobs and model.config.classes == 10:
        each = model.config.labels
        real = MovingMNIST(replace(stochastic, digits=each), args.mnist, "test", args.device)
        figures = asked_classes(model, held_out(real, args.clips), classifier, sampling, args.per_label)
        asked = "each digit" if each == 1 else f"40 random draws of {each} digits"
        title = f"imagined from nothing, {args.per_label} clips of {asked}, seeds 0, 1, ..., {drawn}; whether the "
        title += f"classifier names what was asked; `truth`: on {args.clips} real clips of as many digits, the ceiling"
        put("classes", title, figures)
    if "surprise" in args.only:
        longer = MovingMNIST(replace(stochastic, frames=20), args.mnist, "test", args.device)
        figures = surprise(model, torch.cat([clip.video for clip in held_out(longer, args.clips)]))
        title = f"{args.clips} clips of 20 frames, {source}; frames 3 to 20; bits per pixel and channel"
        if figures:
            put("surprise", title, figures)
    if "interpolation" in args.only and isinstance(model, Interpolates):
        title = f"6 frames between 4 and 4, {args.prompts} clips, {source}; {args.futures} futures, "
        title += f"seeds 0 to {args.futures - 1}, {drawn}; `blend` of the two ends, `flow`: Farneback's between them"
        figures = interpolation(model, held_out(videos, args.prompts), classifier, sampling, args.futures)
        put("interpolation", title, figures)
    if "segmentation" in args.only and "digits" in getattr(model.config, "maps", ()):
        title = f"4 frames of {args.clips} clips, {source}; seed k for clip k, {drawn}; `codec`: the ceiling"
        put("segmentation", title, segmentation(model, videos, held_out(videos, args.clips), sampling))
    return scores


def fvd_measure(weights: Path, device: str) -> Callable[[Video, Video], float]:
    """FVD (arXiv 1812.01717) of true and made frames (N, T >= 9, C, H, W) on [0, 1], by the package cd-fvd.

    weights: of the library's I3D network (i3d_pretrained_400.pt). Raises SystemExit where either is missing.
    """
    try:
        from cdfvd.fvd import cdfvd
    except ImportError as error:
        raise SystemExit("evaluate: --fvd needs the package cd-fvd: pip install cd-fvd") from error
    if not weights.is_file():  # the library would download it to there
        raise SystemExit(f"evaluate: {weights} is missing; --fvd takes the I3D weights of the package cd-fvd")

    def measure(true: Video, made: Video) -> float:
        # anew for each pair, for it adds to the sets that it has seen
        library = cdfvd("i3d", n_real="full", n_fake="full", ckpt_path=str(weights), device=device)
        colour = (frames.expand(-1, -1, 3, -1, -1) for frames in (true, made))
        pixels = (rearrange(frames, "n t c h w -> n t h w c").mul(255).round().byte() for frames in colour)
        return float(library.compute_fvd(*(frames.cpu().numpy() for frames in pixels)))

    return measure


def table(figures: Figures) -> list[str]:
    """Figures per horizon as lines of a Markdown table, with their mean where there is one."""
    rows, means = figures["per_horizon"], figures.get("mean", {})
    horizon = len(next(iter(rows.values())))
    shown = [t for t in SHOWN if t <= horizon]
    heads = [f"frame {t}" for t in shown] + ["mean"] * bool(means)
    lines = ["| figure | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name, values in rows.items():
        cells = [values[t - 1] for t in shown] + [means.get(name)] * bool(means)
        lines.append(f"| {name} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |")
    return lines


def row(title: str, figures: Figures) -> list[str]:
    """Figures of no horizon as a Markdown table of one row."""
    cells = [("figure", "---", title), *((name.replace("_", " "), "---", str(v)) for name, v in figures.items())]
    return ["| " + " | ".join(line) + " |" for line in zip(*cells, strict=True)]


def markdown(scores: dict[str, Any]) -> str:
    lines = [f"# {scores['model']}"]
    for name in PROTOCOLS:
        if (figures := scores.get(name)) is None:
            continue
        lines += ["", f"## {name}", "", figures["protocol"], ""]
        if "per_horizon" in figures:
            lines += table(figures)
        rest = {k: v for k, v in figures.items() if k not in ("protocol", "per_horizon", "mean")}
        nested = [k for k, v in rest.items() if isinstance(v, dict)]
        for title in nested:
            lines += ["", *row(title.replace("_", " "), rest.pop(title))]
        if name == "surprise":
            lines += row("surprise, bits per dimension", rest)
            continue
        lines += [""] * bool(rest) + [f"- {k}: {v}" for k, v in rest.items()]
    return "\n".join(lines)


def sheet(
    model: Predictor,
    clips: list[Video],
    draws: Draws,
    temperature: float,
    context: int = 5,
    horizon: int = 20,
    every: int = 1,
) -> np.ndarray:
    """The first clips of the held-out set, not chosen: each truth, then futures of it; every so many frames."""
    rows = []
    for clip in clips:
        rows.append(clip[: context + horizon])
        for condition, seeds in draws:
            sampling = Sampling(temperature=temperature)
            futures = stt.predict(model, clip[:context], horizon, sampling, seeds, condition)
            rows += [torch.cat([clip[:context], future]) for future in futures]
    return rows_of_frames([row[::every] for row in rows])


def tabletop_sheet(model: Predictor, tabletop: Remembered, args: argparse.Namespace) -> np.ndarray:
    """Truth, three futures, and one told right and one left where the model takes actions; 4 clips, doubled."""
    draws = [(NO_CONDITION, [0, 1, 2])]
    if "actions" in model.knobs:
        draws += [(Condition(actions=(action,)), [0]) for action in ((1.0, 0.0), (-1.0, 0.0))]
    clips = [clip.video for clip in held_out_clips(tabletop, 4, args.device)]
    picture = sheet(model, clips, draws, args.temperature, CONTEXT, HORIZON, every=2)
    return picture.repeat(2, axis=0).repeat(2, axis=1)


def videos_sheet(model: Predictor, clips: VideoFolderBatch, args: argparse.Namespace) -> np.ndarray:
    """Truth, three futures, and one with each turn told where the model takes actions; up to 4 clips, doubled."""
    parts = []
    for k, clip in enumerate(clips.video[:4]):
        draws = [(NO_CONDITION, [0, 1, 2])]
        if clips.actions is not None:
            told = turned(clips.actions[k, CONTEXT - 1 : -1])
            draws += [(steered(actions), [0]) for actions in told.values()]
        parts.append(sheet(model, [clip], draws, args.temperature, CONTEXT, len(clip) - CONTEXT, every=2))
    return np.concatenate(parts).repeat(2, axis=0).repeat(2, axis=1)


def on_folder(
    model: Predictor, args: argparse.Namespace, world: VideoFolderConfig
) -> tuple[Figures, np.ndarray | None]:
    """Figures, and a sheet if one is wanted."""
    if not args.data:
        raise SystemExit("evaluate: a folder of videos is needed: give it by --data")
    try:
        clips = held_out_videos(model, world, args)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"evaluate, {CONTEXT} frames -> --horizon {args.horizon}: {error}") from error
    figures = evaluate_videos(model, clips, world, args)
    return figures, videos_sheet(model, clips, args) if args.sheet else None


def on_tabletop(model: Predictor, args: argparse.Namespace) -> tuple[Figures, np.ndarray | None]:
    """Figures, and a sheet if one is wanted."""
    if not args.simulated:
        try:
            load_mujoco()
        except RuntimeError as error:
            raise SystemExit(f"evaluate: {error}") from error
    with TemporaryDirectory() as temporary:
        tabletop = tabletop_of(model.config.image_size, args.simulated or Path(temporary))
        figures = evaluate_tabletop(model, tabletop, args)
        return figures, tabletop_sheet(model, tabletop, args) if args.sheet else None


def on_digits(model: Predictor, args: argparse.Namespace, digits: int) -> tuple[Figures, np.ndarray | None]:
    """Figures, and a sheet of 10 clips if one is wanted: truth and futures of seeds 0, 1, 2."""
    figures = evaluate(model, args, digits)
    if not args.sheet:
        return figures, None
    frames = args.context + args.horizon
    world = MovingMNISTConfig(kind="stochastic", digits=digits, strokes=args.strokes, frames=frames)
    clips = [clip.video[0] for clip in held_out(MovingMNIST(world, args.mnist, "test", args.device), 10)]
    draws = [(NO_CONDITION, [0, 1, 2])]
    return figures, sheet(model, clips, draws, args.temperature, args.context, args.horizon)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", required=True, help="file, run folder or owner/repo")
    parser.add_argument("--world", choices=["digits", "tabletop", "folder"], help="default: as trained")
    parser.add_argument("--data", type=Path, help="folder of your own videos, which are then the world")
    parser.add_argument("--context", type=int, default=CONTEXT, help="frames given on the sheet of digits")
    parser.add_argument("--horizon", type=int, default=HORIZON, help="frames ahead there, and on your own videos")
    parser.add_argument("--mnist", type=Path, help="folder of the MNIST .gz files; downloaded when not given")
    parser.add_argument("--only", nargs="*", choices=PROTOCOLS, default=PROTOCOLS, help="protocols to run, or none")
    parser.add_argument("--digits", type=int, choices=(1, 2), help="digits per clip; default: as trained, or 2")
    parser.add_argument("--strokes", type=float, default=0.0, help="share of drawn digits; 1 needs no MNIST")
    parser.add_argument("--clips", type=int, default=256, help="of most protocols; the first 32 serve spread")
    parser.add_argument("--futures", type=int, default=20, help="N of best-of-N")
    parser.add_argument("--prompts", type=int, default=64, help="prompts of truth, moves, obedience, turns")
    parser.add_argument("--sets", type=int, default=16, help="true and model futures per prompt of truth")
    parser.add_argument("--controls", action="store_true", help="beside an STT: without features, and untrained")
    parser.add_argument("--simulated", type=Path, help="folder that keeps the tabletop's true clips and futures")
    parser.add_argument("--per-label", type=int, default=16, help="clips imagined of each label of classes")
    parser.add_argument("--fvd", type=Path, metavar="WEIGHTS", help="frechet gives FVD too: I3D weights of cd-fvd")
    parser.add_argument("--moving-clips", type=int, default=1000, help="clips of moving_mnist; the field's are 10000")
    parser.add_argument("--official", type=Path, help="mnist_test_seq.npy in the place of clips made here")
    parser.add_argument("--classifier", type=Path, default=CLASSIFIER, help="weights of train.classifier")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the scores")
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet of the first clips (PNG)")
    return parser


def main() -> None:
    args = parser().parse_args()
    card = read_header(find(args.model))["card"]
    trained = card.get("world", {})
    model = stt.load(args.model, args.device)
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
    kind = args.world or ("folder" if args.data else trained.get("kind"))
    if kind == "tabletop":
        figures, picture = on_tabletop(model, args)
    elif kind == "folder":
        world = VideoFolderConfig(**trained) if trained.get("kind") == "folder" else VideoFolderConfig()
        figures, picture = on_folder(model, args, world)
    else:
        figures, picture = on_digits(model, args, args.digits or trained.get("digits", 2))
    scores = {"model": str(args.model), "settings": settings, "card": card} | figures
    text = markdown(scores)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(scores, indent=1))
    if args.markdown:
        args.markdown.write_text(text + "\n")
    if picture is not None:
        iio.imwrite(args.sheet, picture)


if __name__ == "__main__":
    main()
