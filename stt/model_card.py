"""The README that stands beside a model on the Hub: what it is, how it was made, how well it does, how to use it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from stt.api import Predictor, Sampling

SHOWN = (1, 5, 10, 20)  # frames ahead that the score tables show
PREDICTORS = (  # last words of a figure's name: what was scored
    r"model|best|mean|guess|copy|truth|flow|blend|untrained|zero features|free|told(?: [+-]1)?|tracker|straight \w+"
)

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
        rows = figures.get("per_horizon", {})
        lines += _table(rows) if rows else []
        rest = {k: v for k, v in figures.items() if k not in ("protocol", "per_horizon", "mean")}
        lines += [""] * bool(rows and rest) + [f"- {k}: {_words(v)}" for k, v in rest.items()]
    return [*lines, ""]


def _table(rows: Mapping[str, list[float | None]]) -> list[str]:
    """Figures per frame ahead, such as "psnr copy": a line for each measure, a column for each predictor."""
    cells: dict[str, dict[str, str]] = {}
    shown = [t for t in SHOWN if t <= max(map(len, rows.values()))]
    for name, values in rows.items():
        found = re.fullmatch(rf"(.+) ({PREDICTORS})", name)
        measure, predictor = found.groups() if found else (name, "model")
        cells.setdefault(measure, {})[predictor] = " / ".join(_cell(values[t - 1 : t]) for t in shown)
    columns = list(dict.fromkeys(predictor for line in cells.values() for predictor in line))
    lines = [f"| frame {' / '.join(map(str, shown))} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    return lines + [f"| {m} | {' | '.join(line.get(c, '') for c in columns)} |" for m, line in cells.items()]


def _words(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{k} ({_words(v)})" if isinstance(v, dict) else f"{k} {v}" for k, v in value.items())


def _cell(value: list[float | None]) -> str:
    """One figure to show, or a dash where it was not measured."""
    return "–" if not value or value[0] is None else f"{value[0]:.3g}"
