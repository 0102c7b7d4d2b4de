"""Video future prediction: load a model, roll it out.

model = stt.load("assets/models/digits-stt.safetensors")
for frames in stt.rollout(model, context, frames=10, sampling=stt.Sampling(temperature=1.0), seeds=[0, 1]):
    ...  # (2, C, H, W): one time step of both futures
"""

from stt.api import Batch, Condition, Sampling
from stt.checkpoint import load, save
from stt.registry import FAMILIES
from stt.sampler import between, predict, rollout

__all__ = ["FAMILIES", "Batch", "Condition", "Sampling", "between", "load", "predict", "rollout", "save"]
