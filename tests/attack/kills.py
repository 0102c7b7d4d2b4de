"""Training runs that are killed at random moments end bit-equal to one that is left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.attack.application import ROOT
from tests.attack.outcome import Outcome
from tests.interrupted_training import equal, final

MODULE = "tests.interrupted_training"
TWO = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def one_process(runs: int = 20, kills: int = 1, steps: int = 20, slow: float = 0.0) -> Outcome:
    """slow: seconds that a batch takes to be read."""
    with tempfile.TemporaryDirectory() as folder:
        words = [folder, "--steps", steps, "--runs", runs, "--kills", kills, "--slow", slow]
        done = subprocess.run(
            [sys.executable, "-m", MODULE, *map(str, words)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
        )
    if done.returncode:
        return Outcome(runs, [done.stderr[-300:]] * runs)
    count = json.loads(done.stdout.splitlines()[-1])
    return Outcome(
        runs, ["not bit-equal"] * (runs - count["equal"]), f"{count['kills']} kills, {count['in a save']} in a save"
    )


def two_processes(runs: int = 5, steps: int = 8, slow: float = 0.5, seed: int = 0) -> Outcome:
    """Both are killed at once, at a random moment, and the run resumes."""
    outcome, chance, at = Outcome(), random.Random(seed), []

    def start(out: Path) -> subprocess.Popen[bytes]:
        words = [*TWO, MODULE, str(out), "--steps", str(steps), "--slow", str(slow), "--resume"]
        return subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL
        )

    with tempfile.TemporaryDirectory() as folder:
        whole, out = Path(folder) / "whole", Path(folder) / "killed"
        if start(whole).wait(300):
            return Outcome(runs, ["two processes do not train"] * runs)
        for run in range(runs):
            shutil.rmtree(out, ignore_errors=True)
            process = start(out)
            wanted = chance.randrange(1, steps)
            while process.poll() is None and len(steps_of(out)) < wanted:
                time.sleep(0.05)
            time.sleep(chance.uniform(0, slow))
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            at.append(len(steps_of(out)))
            code = start(out).wait(300)
            fine = code == 0 and equal(final(out), final(whole)) and steps_of(out) == list(range(1, steps + 1))
            outcome.check(fine, f"run {run}: exit code {code}, killed after step {at[-1]}")
    outcome.figure = f"killed after steps {', '.join(map(str, at))} of {steps}"
    return outcome


def steps_of(out: Path) -> list[int]:
    log = out / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]
