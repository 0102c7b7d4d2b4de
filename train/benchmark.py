"""Times the stages of predictions and of training steps: python -m train.benchmark

For each model: reading an upload, encoding the prompt, a step, drawing the picture, writing the mp4; then the loss, the
backward pass and the optimizer of a training step. With --against, another checkout does the same in turn, so that
ratios hold on a busy machine where times do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
MODELS, CLIPS = ROOT / "assets/models", ROOT / "assets/prompts"
WORKER = ROOT / "train/stages.py"
STAGES = {
    "decode": "read the clip",
    "prompt": "encode the prompt",
    "step": "step, a frame",
    "step n": "step, last frame",
    "draw": "draw the pictures",
    "mp4": "write the mp4",
    "loss": "training: loss",
    "backward": "training: backward",
    "optimizer": "training: optimizer",
}


@dataclass
class Worker:
    """A process that measures one model in one checkout."""

    checkout: Path
    process: subprocess.Popen[str]
    first: dict[str, Any] = field(default_factory=dict)  # what does not change between rounds
    rounds: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def start(cls, checkout: Path, model: Path, clip: Path, args: argparse.Namespace) -> Worker:
        words = [sys.executable, "-P", str(WORKER), str(model), str(clip), "--futures", str(args.futures)]
        words += ["--frames", str(args.frames), "--device", args.device, "--threads", str(args.threads)]
        words += ["--cpu-time"] if args.cpu_time else []
        environment = os.environ | {"PYTHONPATH": str(checkout)}
        process = subprocess.Popen(
            words, env=environment, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return cls(checkout, process)

    def ask(self) -> dict[str, Any]:
        """One round's answer. RuntimeError if the process has ended."""
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the measurement of {self.checkout} has failed: its message stands above")
        return json.loads(line)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def median(self, stage: str) -> float:
        return statistics.median(row[stage] for row in self.rounds)

    def share(self, stage: str) -> float:
        """Of the operations a second that the device reaches on a product of large matrices."""
        return self.first["flops"].get(stage, 0.0) / self.median(stage) / self.first["peak_flops"]


def measure(model: Path, clip: Path, args: argparse.Namespace) -> list[Worker]:
    """A worker for this checkout, and one for the other if there is one, after all rounds in turn."""
    checkouts = [ROOT, *([args.against] if args.against else [])]
    with ExitStack() as stack:
        workers = []
        for checkout in checkouts:
            workers.append(Worker.start(checkout, model, clip, args))
            stack.callback(workers[-1].stop)
        for worker in workers:
            worker.first = worker.ask()
        for turn in range(args.repeats):
            for worker in workers[:: -1 if turn % 2 else 1]:
                worker.rounds.append(worker.ask())
    return workers


def summary(workers: list[Worker]) -> dict[str, Any]:
    """Figures of one model; ratios are medians of those within a round: the other checkout's time over ours."""
    own, *others = workers
    stages = {}
    for stage in STAGES:
        row = {"seconds": own.median(stage), "of_peak": own.share(stage)}
        if others:
            pairs = zip(others[0].rounds, own.rounds, strict=True)
            row["ratio"] = statistics.median(other[stage] / mine[stage] for other, mine in pairs)
        stages[stage] = row
    growth = statistics.median(row["step n"] / row["step 1"] for row in own.rounds)
    return own.first | {"stages": stages, "last_step_over_first": growth}


def table(name: str, figures: dict[str, Any]) -> str:
    stages = figures["stages"]
    ratio = any("ratio" in row for row in stages.values())
    lines = [f"{name:<24}{'ms':>10}{'of peak':>10}" + f"{'other / this':>14}" * ratio]
    for stage, row in stages.items():
        share = f"{row['of_peak']:.0%}" if row["of_peak"] else "–"
        line = f"  {STAGES[stage]:<22}{1000 * row['seconds']:>10.1f}{share:>10}"
        lines.append(line + (f"{row['ratio']:>14.2f}" if ratio else ""))
    memory, training = (figures[name] - figures["memory_empty"] for name in ("memory", "memory_training"))
    lines.append(
        f"  last step / first {figures['last_step_over_first']:.2f}; memory {figures['memory_empty']:.0f} MB, and "
        f"{memory:.0f} for a prediction, {training:.0f} for a training step"
    )
    return "\n".join(lines)


def clip_of(model: Path) -> Path:
    """A shipped clip from the world that a model knows."""
    names = {"robot": "crowded-tray", "tabletop": "turning-a-brick"}
    path = CLIPS / f"{names.get(model.name.split('-')[0], 'four-falling')}.mp4"
    return path if path.is_file() else min(CLIPS.glob("*.mp4"))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m train.benchmark", description="Times the stages of each model.")
    p.add_argument("--models", nargs="+", type=Path, help="model files (default: all that ship)")
    p.add_argument("--clip", type=Path, help="the prompt (default: one that ships, by the model's name)")
    p.add_argument("--futures", type=int, default=4, help="futures of a prediction (default: 4)")
    p.add_argument("--frames", type=int, default=10, help="frames of each future (default: 10)")
    p.add_argument("--repeats", type=int, default=5, help="timed rounds of each model (default: 5)")
    p.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout, measured in turn")
    p.add_argument("--cpu-time", action="store_true", help="processor time, which other programs disturb less")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return p


def main(words: list[str] | None = None) -> None:
    args = parser().parse_args(words)
    if min(args.futures, args.frames, args.repeats, args.threads) < 1:
        raise SystemExit("benchmark: futures, frames, repeats and threads must be at least 1")
    if args.against and not (args.against / "stt").is_dir():
        raise SystemExit(f"benchmark: {args.against} is no checkout: it has no folder stt")
    args.against = args.against and args.against.resolve()
    models = [path.resolve() for path in args.models or sorted(MODELS.glob("*.safetensors"))]
    if missing := [path for path in [*models, *([args.clip] if args.clip else [])] if not path.is_file()]:
        raise SystemExit(f"benchmark: {missing[0]} is no file")
    chip = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else cpu_name()
    settings = {
        "date": date.today().isoformat(), "device": chip, "threads": args.threads, "torch": torch.__version__,
        "futures": args.futures, "frames": args.frames, "rounds": args.repeats,
        "clock": "processor time" if args.cpu_time else "wall time",
    }  # fmt: skip
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    figures = {}
    for model in models:
        try:
            workers = measure(model, (args.clip or clip_of(model)).resolve(), args)
        except RuntimeError as error:
            raise SystemExit(f"benchmark: {model.name}: {error}") from error
        figures[model.stem] = summary(workers)
        print(f"\n{table(model.stem, figures[model.stem])}", flush=True)
    first = next(iter(figures.values()))
    print(
        f"\npeak: {first['peak_flops'] / 1e9:.0f} GFLOP/s of a product, {first['copy_bytes'] / 1e9:.1f} GB/s of a copy"
    )
    if args.json:
        args.json.write_text(json.dumps(settings | {"models": figures}, indent=1))


if __name__ == "__main__":
    main()
