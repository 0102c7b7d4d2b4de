"""Scores as Markdown tables."""

from __future__ import annotations

from typing import Any

from train.evaluation.protocols import PROTOCOLS, Figures

HORIZONS = (1, 2, 3, 5, 10, 15, 20)  # columns of the tables


def horizon_table(figures: Figures) -> list[str]:
    """Figures per horizon as lines of a Markdown table, with their mean where there is one."""
    rows, means = figures["per_horizon"], figures.get("mean", {})
    columns = [t for t in HORIZONS if t <= len(next(iter(rows.values())))]
    heads = [f"frame {t}" for t in columns] + ["mean"] * bool(means)
    lines = ["| figure | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for name, values in rows.items():
        cells = [values[t - 1] for t in columns] + [means.get(name)] * bool(means)
        lines.append(f"| {name} | " + " | ".join("" if c is None else f"{c:.3f}" for c in cells) + " |")
    return lines


def row_table(title: str, figures: Figures) -> list[str]:
    """Figures without horizons as a Markdown table of one row."""
    cells = [("figure", "---", title), *((name.replace("_", " "), "---", str(v)) for name, v in figures.items())]
    return ["| " + " | ".join(line) + " |" for line in zip(*cells, strict=True)]


def markdown(scores: dict[str, Any]) -> str:
    lines = [f"# {scores['model']}"]
    for name in PROTOCOLS:
        if (figures := scores.get(name)) is None:
            continue
        lines += ["", f"## {name}", "", figures["protocol"], ""]
        if "per_horizon" in figures:
            lines += horizon_table(figures)
        rest = {k: v for k, v in figures.items() if k not in ("protocol", "per_horizon", "mean")}
        for title in [k for k, v in rest.items() if isinstance(v, dict)]:
            lines += ["", *row_table(title.replace("_", " "), rest.pop(title))]
        if name == "surprise":
            lines += row_table("surprise, bits per dimension", rest)
            continue
        lines += [""] * bool(rest) + [f"- {k}: {v}" for k, v in rest.items()]
    return "\n".join(lines)
