"""Shipped models predict today what they predicted when their golden frames were kept.

`python -m tests.test_golden NAME ...` makes the frames of the named models anew, e.g. of digits-stt. Do so only for
a model whose weights were changed on purpose.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import stt
from stt.video import read_clip

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).with_name("golden.npz")  # by model: (seeds, frames, C, 32, 32) uint8
PROMPTS = {  # by model: the example clip whose first frames it continues
    "digits-motiongpt": "four-falling",
    "digits-stt": "four-falling",
    "digits-timesformer": "pair-crossing",
    "digits-transframer": "four-falling",
    "motion-stt": "turning-a-brick",
    "robot-stt": "crowded-tray",
    "tabletop-layered": "turning-a-brick",
}
GIVEN, FRAMES, SEEDS = 5, 8, (0, 1)
# The same machine gives the same levels. Another one's kernels add up in another order, which moves a pixel by a level
# where it is rounded, and rarely tips a draw between two codes that are equally likely, which changes a patch.
LEVELS, SHARE = 2, 0.99  # of 255, and of all pooled pixels that are to be that near


def futures(name: str) -> np.ndarray:
    """(seeds, frames, C, 32, 32) uint8: what a shipped model predicts, pooled to half its side."""
    model = stt.load(ROOT / f"assets/models/{name}.safetensors")
    c = model.config
    clip = read_clip(ROOT / f"assets/prompts/{PROMPTS[name]}.mp4", size=c.image_size, channels=c.channels).video
    frames = stt.predict(model, clip[:GIVEN], FRAMES, seeds=SEEDS)
    pooled = F.avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])
    return ((pooled + 1) * 127.5).round().to(torch.uint8).numpy()


def test_every_shipped_model_has_golden_frames():
    names = {path.stem for path in (ROOT / "assets/models").glob("*.safetensors")}
    with np.load(GOLDEN) as golden:
        assert set(golden) == set(PROMPTS) == names


@pytest.mark.parametrize("name", PROMPTS)
def test_a_shipped_model_predicts_its_golden_frames(name):
    with np.load(GOLDEN) as golden:
        kept = golden[name]
    found = futures(name)
    assert found.shape == kept.shape
    apart = np.abs(found.astype(int) - kept)
    assert (apart <= LEVELS).mean() >= SHARE, f"{(apart > LEVELS).mean():.1%} differ, by up to {apart.max()} levels"


def remake(names: list[str]) -> None:
    """Writes the golden frames of some models anew, and drops those of models that are no more."""
    if unknown := sorted(set(names) - set(PROMPTS)):
        raise SystemExit(f"no model is called {', '.join(unknown)}; there are {', '.join(PROMPTS)}")
    kept = {}
    if GOLDEN.exists():
        with np.load(GOLDEN) as golden:
            kept = {name: golden[name] for name in golden if name in PROMPTS}
    np.savez_compressed(GOLDEN, **kept | {name: futures(name) for name in names})


if __name__ == "__main__":
    torch.set_num_threads(1)
    remake(sys.argv[1:])
