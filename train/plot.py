"""Plots the curves of runs: python -m train.plot runs/a runs/b --out curves.png"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from train.flags import check_output
from train.logging import LOG_FILE

EPOCH = 10_000  # clips of an epoch in the papers on Moving MNIST
AXES = {"clips": "clips seen", "minutes": "minutes of training"}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train.plot", description="Plots losses and held-out scores of runs over clips and over minutes."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of runs")
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), metavar="FILE", help="picture to write: .png, .svg or .pdf"
    )
    return parser


def read_log(run: Path) -> list[dict[str, Any]]:
    """Rows of log.jsonl, without a last line that was cut off. SystemExit if there is no log."""
    path = run / LOG_FILE if run.is_dir() else run
    if not path.is_file():
        raise SystemExit(f"{run} holds no {LOG_FILE}")
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def series(rows: list[dict[str, Any]], name: str, axis: str) -> tuple[list[float], list[float]]:
    """x and y of the rows that hold this figure."""
    rows = [row for row in rows if name in row and axis in row]
    return [row[axis] for row in rows], [row[name] for row in rows]


def smooth(values: list[float], share: float = 0.05) -> list[float]:
    """Running mean over the last values, at most `share` of all."""
    width = max(1, round(share * len(values)))
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i + 1] - sums[max(0, i + 1 - width)]) / (i + 1 - max(0, i + 1 - width)) for i in range(len(values))]


def curves(logs: dict[str, list[dict[str, Any]]]) -> Any:
    """A matplotlib figure: for each held-out score and the loss a panel over clips and one over minutes."""
    from matplotlib.figure import Figure

    names = {name for rows in logs.values() for row in rows for name in row}
    names = [*sorted(name for name in names if name.startswith("held_out")), "loss"]
    figure = Figure(figsize=(11, 2.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False)
    for row, name in zip(panels, names, strict=True):
        for panel, axis in zip(row, AXES, strict=True):
            for label, rows in logs.items():
                x, y = series(rows, name, axis)
                panel.plot(x, smooth(y) if name == "loss" else y, marker="" if name == "loss" else ".", label=label)
            panel.set(xlabel=AXES[axis], ylabel=name.replace("_", " "))
            panel.grid(alpha=0.3)
            if axis == "clips" and name.startswith("held_out"):
                scale = (lambda clips: clips / EPOCH, lambda epochs: epochs * EPOCH)
                panel.secondary_xaxis("top", functions=scale).set_xlabel(f"epochs of {EPOCH:,} clips")
    if len(logs) > 1:
        panels[0][0].legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    args = parser().parse_args(arguments)
    check_output("--out", args.out, parents=True, endings=(".png", ".svg", ".pdf"))
    logs = {run.name: read_log(run) for run in args.runs}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    curves(logs).savefig(args.out, dpi=100)
    print(args.out)


if __name__ == "__main__":
    main()
