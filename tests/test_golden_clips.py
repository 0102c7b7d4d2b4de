"""The same seeds give the same clips as ever: held-out clips stay comparable with published scores."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.tabletop_fixtures import why_not
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.sim.tabletop.world import Tabletop, TabletopConfig

MOVING_MNIST = {  # kind: digests of positions and labels, mean gray level
    "stochastic": ("1e6dd3bb2d921e1d", -0.876944),
    "deterministic": ("439637a4d91173f6", -0.903486),
    "mixed": ("15a16017e315a372", -0.947881),
}
TABLETOP = {
    "test": "48aaab14d78151ab",
    "straight_line": "78247e849c34ada6",
}  # digests of poses in millimetres and actions


def digest(*arrays: np.ndarray) -> str:
    return hashlib.blake2b(b"".join(a.tobytes() for a in arrays), digest_size=8).hexdigest()


@pytest.mark.parametrize("kind", MOVING_MNIST)
def test_moving_mnist_gives_its_golden_clips(kind):
    config = MovingMNISTConfig(kind=kind, digits=2, frames=12, strokes=1.0)
    clip = MovingMNIST(config, None, "train", count_strokes=40).sample(3, seed=5, index=7)
    expected, level = MOVING_MNIST[kind]
    assert digest(clip.positions.numpy(), clip.labels.numpy()) == expected
    assert float(clip.video.mean()) == pytest.approx(level, abs=1e-5)


@pytest.mark.parametrize("split", TABLETOP)
def test_the_tabletop_gives_its_golden_clips(split):
    if reason := why_not():
        pytest.skip(reason)
    clip = Tabletop(TabletopConfig(frames=12, oversampling=1, shadows=0), split).clip(seed=0, index=1)
    numbers = (clip.poses * 1000).round().int(), (clip.actions * 100).round().int(), clip.shapes, clip.colours
    assert digest(*(part.numpy() for part in numbers)) == TABLETOP[split]
