"""Weights of ST-LPIPS's shapes."""

from __future__ import annotations

from pathlib import Path

import torch

CONVOLUTIONS = {
    "net.slice1.0": (64, 3, 11, 11), "net.slice2.5": (192, 64, 5, 5), "net.slice3.9": (384, 192, 3, 3),
    "net.slice4.11": (256, 384, 3, 3), "net.slice5.13": (256, 256, 3, 3),
}  # fmt: skip
FILTERS = {"net.slice1.1": 64, "net.slice2.4": 64, "net.slice3.8": 192}


def random_weights(folder: Path) -> Path:
    """A file as the package stlpips-pytorch has it."""
    generator = torch.Generator().manual_seed(0)
    state = {"scaling_layer.shift": torch.zeros(1, 3, 1, 1), "scaling_layer.scale": torch.ones(1, 3, 1, 1)}
    for k, (name, shape) in enumerate(CONVOLUTIONS.items()):
        fan_in = shape[1] * shape[2] * shape[3]
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        state[f"{name}.bias"] = torch.zeros(shape[0])
        state[f"lin{k}.model.1.weight"] = torch.rand(1, shape[0], 1, 1, generator=generator) / shape[0]
    blur = torch.tensor([1.0, 2, 1])
    for name, channels in FILTERS.items():
        state[f"{name}.filt"] = (blur[:, None] * blur / 16).expand(channels, 1, 3, 3).clone()
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"
