"""Scores a predictor on held-out clips: python -m train.evaluate --model runs/stt --mnist DIR --json scores.json

On the tabletop or the robot: python -m train.evaluate --world robot --model runs/stt --json scores.json
On your own videos: python -m train.evaluate --model runs/my_stt --data FOLDER --json scores.json
On any clips: python -m train.evaluate --world clips --model runs/my_stt --data FOLDER --json scores.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import imageio.v3 as iio
import torch
from safetensors import SafetensorError

import stt
from stt.api import Predictor
from stt.checkpoint import write_whole
from stt.model_card import provenance
from train.data.arrays import add_array_flags
from train.evaluation.clips import ClipsEvaluation
from train.evaluation.moving_mnist import MovingMNISTEvaluation
from train.evaluation.nowcast import NowcastEvaluation
from train.evaluation.protocols import CONTEXT, HORIZON, INSTALLED, PROTOCOLS, Evaluation
from train.evaluation.robot import RobotEvaluation
from train.evaluation.tabletop import TabletopEvaluation
from train.evaluation.videos import VideosEvaluation
from train.flags import check_output, count, number

CLASSIFIER = Path(__file__).parent.parent / "assets" / "digit_classifier.safetensors"
PICTURES = (".png", ".jpg", ".webp")
EVALUATIONS = {
    "moving_mnist": MovingMNISTEvaluation,
    "tabletop": TabletopEvaluation,
    "robot": RobotEvaluation,
    "videos": VideosEvaluation,
    "clips": ClipsEvaluation,
    "radar": NowcastEvaluation,
}
BASELINES_ALONE = ("clips", "radar")  # what can be scored without a model
KINDS = {
    "tabletop": "tabletop",
    "robot": "robot",
    "folder": "videos",
    "scenes": "clips",
    "radar": "radar",
}  # of a card's world; others are Moving MNIST's


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", help="file, run folder or owner/repo; without it, the baselines of clips or radar")
    parser.add_argument("--world", choices=EVALUATIONS, help="data set; by default the one that it was trained on")
    parser.add_argument("--only", nargs="*", choices=PROTOCOLS, default=PROTOCOLS, help="protocols to run, or none")
    parser.add_argument("--temperature", type=number, default=1.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the scores")
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet of the first clips (PNG)")
    parser.add_argument("--clips", type=count, default=256, help="clips of most protocols; spread takes the first 32")
    parser.add_argument("--futures", type=count, default=20, help="N of best-of-N")
    parser.add_argument("--prompts", type=count, default=64, help="prompts of protocols that compare sets of futures")
    parser.add_argument("--sets", type=count, default=16, help="simulated and predicted futures per prompt")
    parser.add_argument("--controls", action="store_true", help="score ablations of an STT beside it")
    parser.add_argument(
        "--st-lpips",
        nargs="?",
        const=INSTALLED,
        metavar="WEIGHTS",
        help="add the perceptual distance ST-LPIPS to best_of and tokenizer, and a Frechet distance over its features, "
        "which take 7 ms a frame; by the file alex_shift_tolerant.pth, or by that of the package stlpips-pytorch",
    )
    own = parser.add_argument_group("your own videos")
    own.add_argument("--data", type=Path, help="folder of videos, or a set of the world, which is then the data set")
    add_array_flags(own)
    own.add_argument("--horizon", type=count, default=HORIZON, help="frames ahead, also on the sheet of Moving MNIST")
    clips = parser.add_argument_group("clips")
    clips.add_argument("--windows", type=count, default=8, help="parts of each clip, evenly spaced")
    clips.add_argument("--fps", type=number, default=0.0, help="frames a second; default: the model's, or the clip's")
    clips.add_argument("--size", type=count, help="longer side of frames; default: the model's, or 128")
    simulator = parser.add_argument_group("tabletop, robot")
    simulator.add_argument("--simulated", type=Path, help="folder that stores simulated clips and futures")
    digits = parser.add_argument_group("Moving MNIST")
    digits.add_argument("--mnist", type=Path, help="folder of the MNIST .gz files; downloaded by default")
    digits.add_argument("--digits", type=int, choices=(1, 2), help="digits per clip; default: as trained, or 2")
    digits.add_argument("--strokes", type=number, default=0.0, help="share of synthetic digits; 1 needs no MNIST")
    digits.add_argument(
        "--context", type=count, default=CONTEXT, help="frames of the prompt: of clips, and on the sheet"
    )
    digits.add_argument(
        "--moving-clips", type=count, default=1000, help="clips of moving_mnist; the official number is 10000"
    )
    digits.add_argument("--official", type=Path, help="mnist_test_seq.npy instead of clips made here")
    digits.add_argument("--classifier", type=Path, default=CLASSIFIER, help="weights of train.digit_classifier")
    digits.add_argument("--per-label", type=count, default=16, help="clips generated from each label")
    digits.add_argument("--fvd", type=Path, metavar="WEIGHTS", help="I3D weights of cd-fvd: frechet gives FVD too")
    return parser


def evaluation_of(model: Predictor | None, args: argparse.Namespace) -> Evaluation:
    """The evaluation on --world, on --data, or on what the model was trained on. SystemExit where that fails."""
    world = model.card.get("world", {}) if model else {}
    name = args.world or ("videos" if args.data else KINDS.get(world.get("kind"), "moving_mnist"))
    try:
        return EVALUATIONS[name](model, args, world)
    except SafetensorError as error:
        raise SystemExit(f"evaluate on {name}: {args.classifier}: {error}") from error
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"evaluate on {name}: {error}") from error


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    if not args.model and args.world not in BASELINES_ALONE:
        raise SystemExit(f"evaluate: --model is missing; without it, --world is {' or '.join(BASELINES_ALONE)}")
    for name, endings in (("json", ()), ("markdown", ()), ("sheet", PICTURES)):
        check_output(f"evaluate: --{name}", getattr(args, name), endings=endings)
    check_output("evaluate: --simulated", args.simulated, folder=True)
    try:
        model = stt.load(args.model, args.device) if args.model else None
    except (OSError, ValueError) as error:
        raise SystemExit(f"evaluate: {error}") from error
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
    with TemporaryDirectory() as folder:
        args.simulated = args.simulated or Path(folder)
        evaluation = evaluation_of(model, args)
        if unsuitable := [
            name for name in args.only if args.only is not PROTOCOLS and name not in evaluation.protocols()
        ]:
            print(f"evaluate: passes over {', '.join(unsuitable)}: not for this model and data", file=sys.stderr)
        scores = evaluation.run(args.only)
        picture = evaluation.sheet() if args.sheet else None
    card = dict(model.card) if model else {}
    text = "\n".join([f"# {args.model or 'baselines'}", "", *provenance(card | {"scores": scores})])
    print(text)
    if args.json:
        data = json.dumps({"model": args.model, "settings": settings, "card": card} | scores, indent=1).encode()
        write_whole(args.json, lambda file: file.write(data))
    if args.markdown:
        args.markdown.write_text(text + "\n")
    if picture is not None:
        iio.imwrite(args.sheet, picture)


if __name__ == "__main__":
    main()
