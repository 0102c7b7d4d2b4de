"""Video future prediction: load a model, roll it out.

model = stt.load("assets/models/digits-stt.safetensors")
for frames in stt.rollout(model, context, frames=10, sampling=stt.Sampling(temperature=1.0), seeds=[0, 1]):
    ...  # (2, C, H, W): one time step of both futures
"""

import os

# Before torch loads: a thread that waits for another one sleeps. By default it spins, and beside other busy processes a
# prediction with two threads then takes more than ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

from stt.api import Batch, Condition, Sampling  # noqa: E402
from stt.checkpoint import load, save  # noqa: E402
from stt.registry import FAMILIES  # noqa: E402
from stt.sampler import between, predict, rollout  # noqa: E402

__all__ = ["FAMILIES", "Batch", "Condition", "Sampling", "between", "load", "predict", "rollout", "save"]
