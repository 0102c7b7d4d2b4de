"""Scores a predictor on held-out clips: python -m train.evaluate --model runs/stt --mnist DIR --json scores.json"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import torch
from torch import Tensor
from tqdm import tqdm

import stt
from stt.api import Predictor, Sampling, Video
from stt.checkpoint import find, read_header
from train.data import DigitVideos, World
from train.loop import rows_of_frames
from train.metrics import FRAME_METRICS, HIGHER_IS_BETTER, frame_psnr, perplexity, spread, unit

SEED = 2024  # of the held-out clips; futures use seeds 0 ... N-1
TEMPERATURES = (0.0, 0.5, 1.0, 1.5)


def score_futures(futures: Video, truth: Video) -> dict[str, Tensor]:
    """Futures (N, T, C, H, W) and truth (T, C, H, W) on [0, 1] -> best and mean of N per frame, (T,) each.

    The best future is the one whose mean over the horizon is best, by each metric on its own.
    """
    scores = {}
    for name, metric in FRAME_METRICS.items():
        values = metric(futures, truth.expand_as(futures))  # (N, T)
        means = values.mean(dim=1)
        best = means.argmax() if HIGHER_IS_BETTER[name] else means.argmin()
        scores[f"{name} best"], scores[f"{name} mean"] = values[best], values.mean(dim=0)
    return scores


def evaluate_futures(model: Predictor, clips: Video, context: int, count: int) -> dict[str, Any]:
    """Best and mean of `count` futures per horizon, copying the last frame, and spread per temperature."""
    horizon = clips.shape[1] - context
    seeds = list(range(count))
    rows: dict[str, list[Tensor]] = {}
    spreads: dict[str, list[Tensor]] = {str(t): [] for t in TEMPERATURES}
    seconds = 0.0
    for i, clip in enumerate(tqdm(clips, desc="clips")):
        prompt, truth = clip[:context], unit(clip[context:])
        begun = time.perf_counter()
        futures = unit(stt.predict(model, prompt, horizon, Sampling(), seeds))
        seconds += time.perf_counter() - begun
        scored = score_futures(futures, truth)
        copied = unit(prompt[-1:]).expand(1, *truth.shape)
        scored |= {f"{name.split()[0]} copy": v for name, v in score_futures(copied, truth).items()}
        for name, values in scored.items():
            rows.setdefault(name, []).append(values)
        if i < 32:  # spread needs few clips
            for t in TEMPERATURES:
                drawn = stt.predict(model, prompt, horizon, Sampling(temperature=t), seeds[:8])
                spreads[str(t)].append(spread(unit(drawn)))
    per_frame = {name: torch.stack(values).mean(dim=0).cpu() for name, values in rows.items()}
    return {
        "per_horizon": {name: [round(float(v), 4) for v in values] for name, values in per_frame.items()},
        "mean": {name: round(float(values.mean()), 4) for name, values in per_frame.items()},
        "spread": {t: round(float(torch.stack(v).mean()), 4) for t, v in spreads.items()},
        "seconds_per_frame": round(seconds / (len(clips) * horizon), 4),
    }


def evaluate_tokenizer(model: Predictor, clips: Video) -> dict[str, float]:
    """Reconstruction and code use; several code groups are averaged."""
    codes = model.tokenizer.encode(clips)
    decoded = unit(model.tokenizer.decode(codes.latents))
    again = unit(model.tokenizer.decode(model.tokenizer.encode(decoded * 2 - 1).latents))
    sizes = model.tokenizer.quantizer.sizes
    groups = [perplexity(codes.ids[..., g], size) for g, size in enumerate(sizes)]
    metrics = {name: float(metric(decoded, unit(clips)).mean()) for name, metric in FRAME_METRICS.items()}
    metrics |= {"psnr of the second pass": float(frame_psnr(again, unit(clips)).mean())}
    metrics |= {"codes in use": sum(use for use, _ in groups) / len(groups)}
    metrics |= {"perplexity of a group": sum(p for _, p in groups) / len(groups), "codes of a group": sizes[0]}
    return {name: round(float(value), 4) for name, value in metrics.items()}


def markdown(scores: dict[str, Any]) -> str:
    """Scores as a table over horizons, then the rest as a line each."""
    future = scores["futures"]
    horizon = len(next(iter(future["per_horizon"].values())))
    shown = [t for t in (1, 2, 3, 5, 10, 15, 20) if t <= horizon]
    lines = ["| figure | " + " | ".join(f"frame {t}" for t in shown) + " | mean |", "|---|" + "---|" * (len(shown) + 1)]
    for name, values in future["per_horizon"].items():
        cells = " | ".join(f"{values[t - 1]:.3f}" for t in shown)
        lines.append(f"| {name} | {cells} | {future['mean'][name]:.3f} |")
    lines += ["", f"protocol: {scores['protocol']}", f"tokenizer: {scores['tokenizer']}"]
    lines += [f"spread by temperature: {future['spread']}", f"seconds per frame: {future['seconds_per_frame']}"]
    return "\n".join(lines)


def sheet(model: Predictor, clips: Video, context: int) -> Any:
    """The first clips of the set, not chosen: truth, then four futures."""
    rows = []
    for clip in clips:
        futures = stt.predict(model, clip[:context], clips.shape[1] - context, seeds=[0, 1, 2, 3])
        rows += [clip, *(torch.cat([clip[:context], future]) for future in futures)]
    return rows_of_frames(rows)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--model", required=True, help="file, run folder or owner/repo")
    parser.add_argument("--mnist", type=Path, help="folder of the MNIST .gz files; downloaded when not given")
    parser.add_argument("--strokes", type=float, help="share of drawn digits; default: as trained")
    parser.add_argument("--digits", type=int, help="digits per clip; default: as trained")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--context", type=int, default=5)
    parser.add_argument("--horizon", type=int, default=10)
    parser.add_argument("--futures", type=int, default=20, help="N of best-of-N")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the scores")
    parser.add_argument("--sheet", type=Path, help="where to write a contact sheet of the first 8 clips (PNG)")
    return parser


@torch.inference_mode()
def main() -> None:
    args = parser().parse_args()
    card = read_header(find(args.model))["card"]
    fields = card.get("world", {}) | {"frames": args.context + args.horizon}
    fields |= {name: getattr(args, name) for name in ("strokes", "digits") if getattr(args, name) is not None}
    world = World(**fields)
    model = stt.load(args.model, args.device)
    clips = DigitVideos(world, args.mnist, "test", args.device).batch(args.clips, seed=SEED, index=0)
    protocol = {"world": vars(world), "held_out_seed": SEED} | {
        name: getattr(args, name) for name in ("clips", "context", "horizon", "futures")
    }
    scores = {
        "model": str(args.model), "protocol": protocol, "card": card,
        "tokenizer": evaluate_tokenizer(model, clips[:64]),
        "futures": evaluate_futures(model, clips, args.context, args.futures),
    }  # fmt: skip
    print(markdown(scores))
    if args.json:
        args.json.write_text(json.dumps(scores, indent=1))
    if args.sheet:
        iio.imwrite(args.sheet, sheet(model, clips[:8], args.context))


if __name__ == "__main__":
    main()
