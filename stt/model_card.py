"""The README that stands beside a model on the Hub: what it is, how it was made, how well it does, how to use it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from stt.api import Predictor, Sampling

SHOWN = (1, 5, 10, 20)  # frames ahead that the score tables show

TEMPLATE = """---
library_name: stt
pipeline_tag: image-to-video
license: mit
tags:
  - video-prediction
---

# {name}

Continues a short clip, or a single frame{futures}. It needs the package `stt` of the project that made it.

| | |
|---|---|
{facts}

## Use

```python
import stt

model = stt.load("{repo}@REVISION")  # a commit of this repository; without "@REVISION" the newest
sampling = stt.Sampling({sampling})  # the defaults, where 0 leaves it to the model
for frames in stt.rollout(model, context, frames=10, sampling=sampling, seeds=[0, 1, 2, 3]):
    ...  # context (T, C, H, W) in [-1, 1]; frames (4, C, H, W): one time step of all four futures
```

{knobs} The same clip, settings and seed give the same future.

## Intended use and limits

For research on video prediction and for demonstrations. It knows clips of the kind that it was trained on and is no
guide to what really happens next. Details change and errors grow with every frame ahead, most of all on other
footage and past the length of its training clips.
"""


def model_card(header: dict[str, Any], model: Predictor, repo: str) -> str:
    """Markdown with front matter. header: of the model's file, as `read_header` gives it; repo: "owner/name"."""
    knobs = sorted(model.knobs)
    text = TEMPLATE.format(
        repo=repo,
        name=repo.partition("/")[2],
        futures=", into several possible futures, each from its own seed" if knobs else "",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts(model).items()),
        sampling=", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(Sampling) if f.name in model.knobs),
        knobs=f"Settings that change the result: {', '.join(f'`{name}`' for name in knobs) or 'none'}.",
    )
    return "\n".join([text, *story(header["card"])])


def facts(model: Predictor) -> dict[str, str]:
    """What kind of model it is; values are plain text."""
    c = model.config
    return {
        "family": model.family,
        "parameters": _parameters(model),
        "frames": f"{c.image_size} x {c.image_size}, {'gray' if c.channels == 1 else 'colour'}",
        "past frames that it sees": f"up to {c.context_frames}",
        "weights": model.weights,
    }


def story(card: Mapping[str, Any]) -> list[str]:
    """How a model was made and scored, as lines of Markdown."""
    return [*_training(card), *_scores(card.get("scores") or {})]


def _parameters(model: Predictor) -> str:
    def count(module) -> str:
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}M"

    tokenizer = getattr(model, "tokenizer", None)
    return count(model) + (f", of which tokenizer {count(tokenizer)}" if tokenizer is not None else "")


def _runs(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs behind a model, each once and after those that it builds on."""
    runs = [run for value in card.values() if isinstance(value, dict) for run in _runs(value)] + [card]
    return list({run["command"]: run for run in runs if "command" in run}.values())


def _training(card: Mapping[str, Any]) -> list[str]:
    lines = ["## Training", ""]
    if world := card.get("world"):
        lines += [f"World: {_words(world)}.", ""]
    if hardware := card.get("hardware"):
        lines += [f"Hardware: {hardware}.", ""]
    if converted := card.get("converted"):
        lines += [f"Converted {converted}", ""]
    for i, run in enumerate(_runs(card), 1):
        amounts = [f"{run[name]:,} {name}" for name in ("minutes", "steps", "clips") if name in run]
        lines += [f"{i}. `{run['command']}`" + f" ({', '.join(amounts)})" * bool(amounts)]
    return lines if len(lines) > 2 else [*lines, "The file does not say how it was made."]


def _scores(scores: dict[str, Any]) -> list[str]:
    """Each protocol with its figures per frame ahead as a table, the rest as lines."""
    lines = ["", "## Scores"] if scores else []
    for name, figures in scores.items():
        lines += ["", f"**{name}**: {figures.get('protocol', '')}", ""]
        if rows := figures.get("per_horizon"):
            shown = [t for t in SHOWN if t <= max(map(len, rows.values()))]
            lines += [f"| frame | {' | '.join(map(str, shown))} |", "|---|" + "---|" * len(shown)]
            for figure, values in rows.items():
                lines += [f"| {figure} | {' | '.join(_cell(values[t - 1 : t]) for t in shown)} |"]
        rest = {k: v for k, v in figures.items() if k not in ("protocol", "per_horizon", "mean")}
        lines += [""] * bool(rows) + [f"- {k}: {_words(v)}" for k, v in rest.items()]
    return [*lines, ""]


def _words(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _cell(value: list[float | None]) -> str:
    """One figure to show, or none where it was not measured."""
    return "" if not value or value[0] is None else f"{value[0]:.4g}"
