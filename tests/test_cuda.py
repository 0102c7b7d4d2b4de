"""The same promises on a CUDA device; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

import stt
from stt.api import Sampling
from tests.conftest import TINY_CONFIGS, batch_of, built, clips, lively
from tests.tabletop_fixtures import FakeTabletop, colour_model
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluation import manipulation, moving_mnist
from train.evaluation.manipulation import SimulatedFuturesCache
from train.evaluation.moving_mnist import held_out
from train.evaluation.simulated_futures import simulated_futures
from train.evaluation.tabletop import PUSHER, straight_line
from train.processes import make_accelerator
from train.schedule import TrainerConfig
from train.trainer import Trainer

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


def run_of(model, out, **settings):
    config = TrainerConfig(**{"steps": 8, "batch": 2, "log_every": 4} | settings)
    return Trainer(model, config, out, make_accelerator("cuda"), {})


def batches(model):
    return lambda size, number: batch_of(model, clips(model, size, seed=number))


@pytest.mark.parametrize("name", ["layered", "stt", "timesformer", "transframer", "videogpt"])
def test_a_training_step_runs_in_bf16(name, tmp_path):
    model = lively(built(TINY_CONFIGS[name]))
    run = run_of(model, tmp_path, precision="bf16", muon=True)
    run.model.train()
    with run.prefetcher(batches(model)) as batches_ahead:
        run.train_step(batches_ahead)
    assert run.mean_losses()["loss"] > float("-inf")
    assert torch.get_float32_matmul_precision() == "high"


def test_training_steps_do_not_wait_for_the_device(tmp_path):
    model = lively(built(TINY_CONFIGS["timesformer"]))
    run = run_of(model, tmp_path, muon=True)
    run.model.train()
    with run.prefetcher(batches(model)) as batches_ahead:
        run.train_step(batches_ahead)  # creates the optimizer's state
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                run.train_step(batches_ahead)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert run.step == 4 and run.mean_losses()["loss"] > 0


def test_a_loss_that_is_not_finite_leaves_the_weights_and_stops_at_the_log(tmp_path):
    model = lively(built(TINY_CONFIGS["timesformer"]))
    run = run_of(model, tmp_path, muon=True)
    loss_of = model.loss
    model.loss = lambda batch: loss_of(batch)._replace(total=loss_of(batch).total + float("inf"))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(SystemExit, match="loss is inf .* at step 0: stopped before the update"):
        run.fit(batches(model))
    assert run.step == 4
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_compiled_run_learns_and_is_saved(tmp_path):
    model = built(TINY_CONFIGS["timesformer"])
    run_of(model, tmp_path, compile=True).fit(batches(model))
    assert stt.load(tmp_path).config == model.config


def test_the_protocols_of_moving_mnist_give_the_same_figures_on_both_devices(tiny):
    config, rows = MovingMNISTConfig(image_size=16, digits=1, frames=5, strokes=1.0), []
    for device in ("cpu", "cuda"):
        videos = MovingMNIST(config, None, "test", device, count_strokes=40)
        clips = held_out(videos, 2)
        prompts = moving_mnist.prompts_of(videos, clips, None)
        scores = simulated_futures(tiny.to(device), prompts, Sampling(), count=4, horizon=4)["per_horizon"]
        mean = moving_mnist.moving_mnist(tiny, torch.cat([clip.video for clip in clips]), context=2)["mean"]
        rows.append([scores["energy model"][-1], scores["sharpness model"][-1], mean["mse"] / 100])
    assert rows[0] == pytest.approx(rows[1], rel=0.02)


def test_the_protocols_of_the_tabletop_give_the_same_figures_on_both_devices(tmp_path):
    world, model = SimulatedFuturesCache(FakeTabletop(), tmp_path), colour_model(actions=("push right", "push up"))
    rows = []
    for device in ("cpu", "cuda"):
        clips, on_device = manipulation.held_out(world, 2, device), model.to(device)
        prompts, others = manipulation.prompts_of(world, clips), [straight_line(k, 4) for k in range(2)]
        scored = [
            simulated_futures(on_device, prompts, Sampling(), 4, 4),
            manipulation.position_distribution(on_device, prompts, Sampling(), PUSHER, 4, 4),
            manipulation.action_following(on_device, world, clips, Sampling(), PUSHER, others, horizon=4),
        ]
        first = {name: values[0] for figures in scored for name, values in figures["per_horizon"].items()}
        floors = {name: v for name, v in first.items() if name.split()[-1] in ("truth", "copy", "tracker")}
        rows.append({name: v for name, v in floors.items() if v is not None})
    assert rows[0] == pytest.approx(rows[1], rel=0.02, abs=0.02)
