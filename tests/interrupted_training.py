"""Trains a tiny model that is killed, asked to leave or given an infinite loss, for tests of what a run survives."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch

from stt.api import Batch, Loss
from stt.models.stt import STT
from tests.conftest import TINY, clips
from train.checkpoint import list_checkpoints, read
from train.processes import make_accelerator, run_as_process
from train.schedule import TrainerConfig
from train.trainer import Trainer

MISHAPS = ("kill", "term", "inf")


class QuickRun(Trainer):
    def measure_flops(self, batches: Any) -> None:
        """Leaves out what takes longer than a tiny model's training."""
        self.flops_per_clip = self.peak_flops = 1.0


def train(
    out: Path,
    steps: int,
    resume: bool = False,
    mishap: str = "",
    at: int = 0,
    rank: int = 0,
    run_class: type[Trainer] = QuickRun,
    slow: float = 0.0,
    **more: Any,
) -> Trainer:
    """Trains a predictor to the end, unless the process of this rank has its mishap in step `at`.

    A checkpoint after every step. A clip depends on its number in the run alone: one batch of two clips has those of
    two batches of one. slow: seconds that a batch takes to be read.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = STT(TINY)
    settings = {"steps": steps, "batch": 1, "log_every": 1, "save_every": 1e-9, "muon": True, "precision": "no"}
    run = run_class(model, TrainerConfig(**settings | more), out, make_accelerator("cpu"), {})
    if resume:
        run.resume()
    loss_of = model.loss

    def loss(batch: Batch) -> Loss:
        here = run.step == at and run.accelerator.process_index == rank
        for name, number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM)):
            if here and mishap == name:
                os.kill(os.getpid(), number)
        total, parts, _ = loss_of(batch)
        return Loss(total + math.inf if here and mishap == "inf" else total, parts)  # the gradient stays finite

    def batches(size: int, number: int) -> Batch:
        time.sleep(slow)
        return Batch(torch.cat([clips(model, 1, seed=number * size + k) for k in range(size)]))

    model.loss = loss
    run.fit(batches)
    return run


def equal(one: Any, two: Any) -> bool:
    """Bit-equal, for nested dicts and lists of tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[name], two[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two


def final(out: Path) -> dict[str, Any]:
    """The newest checkpoint, without the time that it took."""
    return read(list_checkpoints(out)[-1]) | {"elapsed": 0.0}


def forked(out: Path, steps: int, slow: float = 0.0) -> int:
    """A process that begins or resumes the run in `out`; a fork, so that it need not import all over again."""
    if pid := os.fork():
        return pid
    try:
        train(out, steps, resume=True, slow=slow)
        os._exit(0)
    finally:
        os._exit(1)


def survived(folder: Path, steps: int, runs: int, kills: int, seed: int, slow: float = 0.0) -> dict[str, int]:
    """How many runs, each killed so often at random moments and resumed, end as one that is left alone."""
    begin = time.monotonic()
    assert os.waitpid(forked(folder / "whole", steps, slow), 0)[1] == 0
    whole, seconds = final(folder / "whole"), time.monotonic() - begin
    chance = random.Random(seed)
    count = {"runs": runs, "equal": 0, "kills": 0, "in a save": 0}
    for _ in range(runs):
        out, left = folder / "killed", kills
        shutil.rmtree(out, ignore_errors=True)
        while left:
            pid = forked(out, steps, slow)
            time.sleep(chance.uniform(0, 0.95 * seconds / kills))
            os.kill(pid, signal.SIGKILL)
            if os.WIFSIGNALED(os.waitpid(pid, 0)[1]):
                left -= 1
            else:  # it was over already
                shutil.rmtree(out)
                left = kills
                continue
            count["in a save"] += any(out.glob("*.tmp"))
        count["kills"] += kills
        assert os.waitpid(forked(out, steps, slow), 0)[1] == 0
        log = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
        count["equal"] += equal(final(out), whole) and log == list(range(1, steps + 1))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--mishap", choices=MISHAPS, default="")
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--runs", type=int, help="runs to kill, instead of one to train")
    parser.add_argument("--kills", type=int, default=1, help="of each run")
    parser.add_argument("--slow", type=float, default=0.0, help="seconds that a batch takes to be read")
    args = vars(parser.parse_args())
    runs, kills = args.pop("runs"), args.pop("kills")
    if runs:
        print(json.dumps(survived(args["out"], args["steps"], runs, kills, seed=0, slow=args["slow"])))
    else:
        train(**args)


if __name__ == "__main__":
    run_as_process(main)
