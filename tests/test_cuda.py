"""The same promises on a CUDA device; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

import stt
from stt.api import Sampling
from tests.conftest import TINY_CONFIGS, built, clips, lesson, lively
from tests.test_tabletop_evaluation import Drawn, colour_model
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluation.moving_mnist import held_out, moving_mnist
from train.evaluation.simulated_futures import against_truth, digit_prompts
from train.evaluation.tabletop import Remembered, held_out_clips, moves, obedience, tabletop_prompts
from train.trainer import Trainer, TrainerConfig, accelerator_for

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(params=["stt", "timesformer", "videogpt"])
def model(request):
    return lively(built(TINY_CONFIGS[request.param])).eval()


def test_the_same_seed_gives_the_same_future_on_both_devices_within_40_db(model):
    context = clips(model)[0]
    on_cpu = stt.predict(model, context, 3, seeds=[0, 1])
    on_cuda = stt.predict(model.cuda(), context, 3, seeds=[0, 1]).cpu()
    assert float((on_cpu - on_cuda).square().mean()) < 4e-4  # of a range of 2: 40 dB


def test_temperature_zero_and_future_k_hold_on_cuda(model):
    model.cuda()
    context = clips(model)[0]
    still = stt.predict(model, context, 3, Sampling(temperature=0), seeds=[0, 9])
    torch.testing.assert_close(still[0], still[-1], atol=1e-3, rtol=1e-3)
    together = stt.predict(model, context, 3, seeds=[3, 11])
    torch.testing.assert_close(together[-1], stt.predict(model, context, 3, seeds=[11])[0], atol=1e-3, rtol=1e-3)


def test_the_compiled_step_from_code_to_code_draws_the_same_codes():
    model = lively(built(TINY_CONFIGS["videogpt"])).eval().cuda()
    context = clips(model)[0]
    plain = stt.predict(model, context, 4, seeds=[0, 1])
    model.compile_step()
    torch.testing.assert_close(stt.predict(model, context, 4, seeds=[0, 1]), plain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["layered", "stt", "timesformer", "videogpt"])
def test_a_training_step_runs_in_bf16(name, tmp_path):
    model = lively(built(TINY_CONFIGS[name]))
    run = Trainer(model, TrainerConfig(steps=2, batch=2), tmp_path, accelerator_for("bf16", "cuda"), {})
    run.raw.train()

    def batches(size, index):
        return lesson(model, clips(model, size, seed=index)).to("cuda")

    loss = run.train_step(batches)
    assert loss.total.isfinite()


def test_the_yardstick_gives_the_same_figures_on_both_devices(tiny):
    world = MovingMNISTConfig(image_size=16, digits=1, frames=5, strokes=1.0)
    rows = []
    for device in ("cpu", "cuda"):
        videos = MovingMNIST(world, None, "test", device, count_strokes=40)
        clips = held_out(videos, 2)
        prompts = digit_prompts(videos, clips, None)
        scores = against_truth(tiny.to(device), prompts, Sampling(), count=4, horizon=4)["per_horizon"]
        moving = moving_mnist(tiny, torch.cat([clip.video for clip in clips]), context=2)["mean"]
        rows.append([scores["energy model"][-1], scores["sharpness model"][-1], moving["mse"] / 100])
    assert rows[0] == pytest.approx(rows[1], rel=0.02)


def test_the_tabletops_yardstick_gives_the_same_figures_on_both_devices(tmp_path):
    world, model, rows = Remembered(Drawn(), tmp_path), colour_model(actions=("push right", "push up")), []
    for device in ("cpu", "cuda"):
        held = held_out_clips(world, 2, device)
        prompts, on_it = tabletop_prompts(world, held), model.to(device)
        figures = against_truth(on_it, prompts, Sampling(), 4, 4), moves(on_it, prompts, Sampling(), 4, 4)
        figures += (obedience(on_it, world, held, Sampling(), horizon=4),)
        found = {name: values[0] for part in figures for name, values in part["per_horizon"].items()}
        rows.append({name: v for name, v in found.items() if name.split()[-1] in ("truth", "copy", "tracker")})
    assert rows[0] == pytest.approx(rows[1], rel=0.02, abs=0.02)
