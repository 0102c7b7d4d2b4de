"""The model card, README.md of a model on the Hub: what the model is, how to use it, how it was trained, its scores."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from stt.api import WHOLE_SIZE, Predictor, Sampling
from stt.migrations import migrated_scores

SHIPPED_RATES = {"tabletop": 10.0, "robot": 10.0}  # Hz, of cards from before they held a rate
HORIZONS = (1, 5, 10, 20)  # frames ahead, the columns of the score tables
HORIZONS_OF = {"clips": (1, 3, 5, 10), "nowcasts": (1, 3, 6, 12)}  # of protocols with other columns
PREDICTORS = (  # last words of a figure's name: what was scored
    r"model|best|mean|guess|copy|truth|flow|farneback|dis|blend|tracker|untrained|zero features|unconditional|"
    r"conditioned|[+-]1|advection|steps|straight \w+"
)

LABELS = {"ssim": "ssim (Gaussian window)"}  # SSIM has several definitions, whose figures do not compare

TEMPLATE = """---
library_name: stt
pipeline_tag: image-to-video
license: mit
tags:
  - video-prediction
---

# {name}

Continues a short clip, or a single frame{futures}.{knows}

| | |
|---|---|
{facts}

## Install

The model needs the package `stt` of the project that trained it (not the package of that name in a public registry)
and Python 3.11 or newer. In a copy of the project:

```bash
pip install .
```

## Use

```python
import stt
from stt.video import read_clip

model = stt.load("{repo}@REVISION")  # a commit of this repository; without "@REVISION" the newest
clip = read_clip("clip.mp4", size={size}, channels={channels}{rate}).video  # (T, C, H, W) in [-1, 1]
sampling = stt.Sampling({sampling})  # the defaults
for frames in stt.rollout(model, clip, frames=10, sampling=sampling, seeds=[0, 1, 2, 3]):
    ...  # (4, C, H, W): one time step of all four futures
```

{knobs} The same clip, settings and seed give the same future.

## Intended use and limits

For research on video prediction and for demonstrations. The model knows clips like its training data. It does not tell
what really happens next. Details change and errors grow with every frame ahead, most of all on other kinds of clips
and beyond the length of the training clips.
"""


def model_card(header: dict[str, Any], model: Predictor, repo: str) -> str:
    """Markdown with front matter. header: of the model's file, from `read_header`; repo: "owner/name"."""
    knobs, rate = sorted(model.knobs), frame_rate(header["card"])
    text = TEMPLATE.format(
        repo=repo,
        name=repo.partition("/")[2],
        futures=", into several possible futures, one per seed" if knobs else "",
        knows=f"\n\n{known}" if (known := about(header["card"]).knows) != About.knows else "",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts(model).items()),
        size=f'{WHOLE_SIZE}, fit="whole"' if model.whole_frames else model.config.image_size,
        channels=model.config.channels,
        rate=f", fps={rate:g}" if rate else "",
        sampling=", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(Sampling) if f.name in model.knobs),
        knobs=f"Settings that change the result: {', '.join(f'`{name}`' for name in knobs) or 'none'}.",
    )
    return "\n".join([text, *provenance(header["card"])])


def frame_rate(card: Mapping[str, Any]) -> float | None:
    """Frames per second of the clips that a model learned from; None where they have no rate, as Moving MNIST."""
    world = card.get("world")
    world = world if isinstance(world, dict) else {}
    rate = world.get("fps") or card.get("fps")
    if isinstance(rate, int | float) and math.isfinite(rate) and rate > 0:
        return min(max(float(rate), 0.1), 1000.0)
    words = {world.get("kind"), *re.split(r"[/_]", str(card.get("preset", "")))}
    return next((rate for name, rate in SHIPPED_RATES.items() if name in words), None)


class About(NamedTuple):
    """What a model knows, for people who choose one. A card holds it as its part "about"."""

    world: str = ""  # the heading of its example clips; "" where nobody wrote it down
    knows: str = "Its file does not say what it knows."  # one sentence
    example: str = ""  # name of the clip that stands for it, the first of its examples


def about(card: Mapping[str, Any]) -> About:
    part = card.get("about")
    texts = {name: part[name] for name in About._fields if part.get(name)} if isinstance(part, dict) else {}
    return About(**{name: str(text)[:200] for name, text in texts.items()})


def facts(model: Predictor) -> dict[str, str]:
    """Family, size and weights, as plain text."""
    c = model.config
    shape = f"{c.image_size} x {c.image_size}"
    if model.whole_frames:
        shape = f"of any shape, up to {WHOLE_SIZE} pixels on the longer side"
    return {
        "family": model.family,
        "parameters": _parameters(model),
        "frames": f"{shape}, {'gray' if c.channels == 1 else 'colour'}",
        "context": f"up to {c.context_frames} frames",
        "weights": model.weights_hash,
    }


def provenance(card: Mapping[str, Any]) -> list[str]:
    """How a model was trained and its scores, as lines of Markdown."""
    return [*_training(card), *_scores(card.get("scores") or {})]


def _parameters(model: Predictor) -> str:
    def count(module: nn.Module) -> str:
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}M"

    tokenizer = model.frozen_tokenizer
    return count(model) + (f", of which tokenizer {count(tokenizer)}" if tokenizer is not None else "")


def _runs(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The training runs behind a model, each once and after the runs that it builds on."""
    runs = [run for value in card.values() if isinstance(value, dict) for run in _runs(value)] + [card]
    return list({run["command"]: run for run in runs if "command" in run}.values())


def _training(card: Mapping[str, Any]) -> list[str]:
    lines = ["## Training", ""]
    if world := card.get("world"):
        lines += [f"Data: {_join(world)}.", ""]
    if hardware := card.get("hardware"):
        lines += [f"Hardware: {hardware}.", ""]
    if converted := card.get("converted"):
        lines += [f"Converted {converted}", ""]
    for i, run in enumerate(_runs(card), 1):
        amounts = [f"{run[name]:,} {name}" for name in ("minutes", "steps", "clips") if name in run]
        lines += [f"{i}. `{run['command']}`" + f" ({', '.join(amounts)})" * bool(amounts)]
    return lines if len(lines) > 2 else [*lines, "The file does not say how it was made."]


def _scores(scores: dict[str, Any]) -> list[str]:
    """For each protocol a table of its figures per frame ahead, then its other figures as a list."""
    lines = ["", "## Scores"] if scores else []
    for name, figures in migrated_scores(scores).items():
        lines += ["", f"**{name}**: {figures.get('protocol', '')}", ""]
        rows = figures.get("per_horizon", {})
        lines += _table(rows, HORIZONS_OF.get(name.partition(":")[0], HORIZONS)) if rows else []
        rest = {k: v for k, v in figures.items() if k not in ("protocol", "per_horizon", "mean")}
        lines += [""] * bool(rows and rest) + [f"- {LABELS.get(k, k)}: {_join(v)}" for k, v in rest.items()]
    return [*lines, ""]


def _table(rows: Mapping[str, list[float | None]], horizons: tuple[int, ...]) -> list[str]:
    """Figures per frame ahead, such as "psnr copy": a line for each measure, a column for each predictor."""
    cells: dict[str, dict[str, str]] = {}
    frames = [t for t in horizons if t <= max(map(len, rows.values()))]
    for name, values in rows.items():
        match = re.fullmatch(rf"(.+) ({PREDICTORS})", name)
        measure, predictor = match.groups() if match else (name, "model")
        cells.setdefault(measure, {})[predictor] = " / ".join(_cell(values[t - 1 : t]) for t in frames)
    columns = list(dict.fromkeys(predictor for line in cells.values() for predictor in line))
    lines = [f"| frame {' / '.join(map(str, frames))} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return lines + [
        f"| {LABELS.get(m, m)} | {' | '.join(line.get(c, '') for c in columns)} |" for m, line in cells.items()
    ]


def _join(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{k} ({_join(v)})" if isinstance(v, dict) else f"{k} {v}" for k, v in value.items())


def _cell(value: list[float | None]) -> str:
    """One figure to show, or a dash where it was not measured."""
    return "–" if not value or value[0] is None else f"{value[0]:.3g}"
