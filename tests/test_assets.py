"""The clips and results that come with the app belong together, and to the weights beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import stt
from stt.checkpoint import name_of, weights_hash
from stt.ui.runs import Run
from stt.video import read_clip
from train.prompts import PAIR, PROMPTS, draw, draw_pair, result

ASSETS = Path(__file__).parent.parent / "assets"
MODELS = {weights_hash(path): path for path in (ASSETS / "models").glob("*.safetensors")}


def files(prompt) -> tuple[Path, Run]:
    return ASSETS / f"prompts/{prompt.name}.mp4", Run.load(ASSETS / f"results/{prompt.name}.npz")


def test_every_clip_of_one_digit_has_its_result_and_together_they_are_small():
    clips, results = sorted((ASSETS / "prompts").iterdir()), sorted((ASSETS / "results").iterdir())
    names = sorted(prompt.name for prompt in PROMPTS)
    assert [path.name for path in clips] == sorted(f"{name}.mp4" for name in [*names, PAIR.name])
    assert [path.name for path in results] == [f"{name}.npz" for name in names]
    assert sum(path.stat().st_size for path in results) < 1_500_000


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_a_clip_is_the_one_that_is_drawn(prompt):
    shown = read_clip(files(prompt)[0], size=64, channels=1).video
    assert shown.shape == (prompt.frames, 1, 64, 64)
    assert (shown - draw(prompt)[0]).abs().mean() < 0.01


def test_the_clip_of_two_digits_is_the_one_that_is_drawn():
    shown = read_clip(ASSETS / f"prompts/{PAIR.name}.mp4", size=64, channels=1).video
    assert shown.shape == (PAIR.frames, 1, 64, 64)
    assert (shown - draw_pair()[0]).abs().mean() < 0.01


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_a_result_belongs_to_its_clip_and_to_weights_that_ship(prompt):
    clip, run = files(prompt)
    assert run.report["clip"] == {"name": clip.name, "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}
    path = MODELS[run.report["weights"]]
    assert run.report["settings"]["model"] == name_of(path)
    assert run.report["settings"]["prompt_frames"] == min(prompt.frames, 20) == len(run.given)
    assert run.futures.shape == (4, 20, 64, 64, 3)
    assert len(run.truth) == prompt.frames - len(run.given)


def test_a_result_is_what_the_app_would_compute():
    prompt = min(PROMPTS, key=lambda prompt: prompt.frames)
    clip, run = files(prompt)
    path = MODELS[run.report["weights"]]
    again = result(clip, prompt.frames, stt.load(path), name_of(path))
    assert again.report["settings"] == run.report["settings"]
    assert again.report.keys() == run.report.keys()
    assert np.array_equal(again.given, run.given)
    apart = np.abs(again.futures.astype(int) - run.futures)
    assert (apart <= 1).mean() >= 0.999
