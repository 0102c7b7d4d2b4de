from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import stt
from stt.api import Batch, Loss
from stt.checkpoint import load_any, read_header
from stt.models.stt import STT, STTConfig
from stt.models.videogpt import VideoGPT
from stt.tokenizer import FrameVQ
from tests.conftest import (
    TINY,
    TINY_CONFIGS,
    TINY_LAYERED,
    TINY_TIMESFORMER,
    TINY_TOKENIZER,
    TINY_VIDEOGPT,
    built,
    clips,
)
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.gan import VGG16, AdversarialTokenizer, PerceptualDistance
from train.optim import MuonAdamW, orthogonalised
from train.predictor import batches_of, future_sheet, held_out_score, network, only
from train.presets import PRESETS
from train.publish import portable, with_decoder
from train.throughput import flops_per_clip, peak_flops
from train.trainer import LossModule, Trainer, TrainerConfig, accelerator_for, fit, start_from

ROOT = Path(__file__).parent.parent


def batches(model):
    return lambda size, index: Batch(clips(model, size, seed=index))


def trained(out, steps, resume=False, total=6, muon=False):
    torch.manual_seed(0)
    model = STT(TINY)
    run = Trainer(
        model, TrainerConfig(steps=total, batch=2, log_every=1, muon=muon), out, accelerator_for("no", "cpu"), {}
    )
    if resume:
        run.resume()
    run.raw.train()
    while run.step < steps:
        run.train_step(batches(model))
    run.save()
    return run


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_run_ends_bit_equal_to_one_that_never_stopped(tmp_path, muon):
    whole = trained(tmp_path / "whole", 6, muon=muon)
    trained(tmp_path / "parts", 3, muon=muon)
    parts = trained(tmp_path / "parts", 6, resume=True, muon=muon)
    for name, tensor in whole.raw.state_dict().items():
        assert torch.equal(tensor, parts.raw.state_dict()[name]), name
    for name, tensor in whole.average.state_dict().items():
        assert torch.equal(tensor, parts.average.state_dict()[name]), name


def test_a_run_that_goes_on_with_larger_batches_counts_its_clips(tmp_path):
    assert trained(tmp_path, 3).clips == 6
    larger = TrainerConfig(steps=6, batch=3)
    run = Trainer(STT(TINY), larger, tmp_path, accelerator_for("no", "cpu"), {})
    run.resume()
    run.train_step(batches(run.raw))
    assert (run.step, run.clips) == (4, 9)


def test_a_run_leaves_a_runnable_model_a_log_and_a_picture(tmp_path):
    model = STT(TINY)
    run = Trainer(
        model, TrainerConfig(steps=3, batch=2, log_every=1), tmp_path, accelerator_for("no", "cpu"), {"preset": "x"}
    )
    fit(run, batches(model), lambda m: torch.zeros(4, 4, 3).byte().numpy())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[-1]["clips"] == 6 and rows[0]["loss"] > 0
    for row in rows:
        assert 0 < row["of_peak"] < 1 and row["tflops"] > 0 and row["clips_per_s"] > 0
    assert stt.load(tmp_path).config == TINY
    assert list((tmp_path / "sheets").glob("*.png")) and not list(tmp_path.rglob("*.tmp"))


def test_a_run_is_scored_now_and_then_and_at_its_end(tmp_path):
    config = TrainerConfig(steps=3, batch=1, score_every=1e-9, log_every=10)
    run = Trainer(STT(TINY), config, tmp_path, accelerator_for("no", "cpu"), {})
    fit(run, batches(run.raw), score=lambda model: {"held_out_mse": float(not model.training)})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 3] and all(row["held_out_mse"] == 1 for row in rows)


def test_a_step_that_is_not_finite_stops_before_the_update(tmp_path):
    model = STT(TINY)
    run = Trainer(model, TrainerConfig(steps=3, batch=2), tmp_path, accelerator_for("no", "cpu"), {})
    with torch.no_grad():
        model.head.bias[0] = torch.nan
    before = model.head.weight.clone()
    with pytest.raises(FloatingPointError, match="step 0: stopped before the update"):
        run.train_step(batches(model))
    assert torch.equal(before, model.head.weight)


def test_the_schedule_warms_up_and_ends_low():
    config = TrainerConfig(steps=100, lr=1.0, warmup=0.1, final_lr=0.02)
    rates = [config.rate(config.progress(step, 0)) for step in range(101)]
    assert rates[0] < 0.05 and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0.02)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_a_schedule_needs_either_minutes_or_steps():
    for fields in ({}, {"minutes": 1.0, "steps": 2}):
        with pytest.raises(ValueError, match="set either minutes"):
            TrainerConfig(**fields)


def test_the_average_soon_forgets_the_first_weights(tmp_path):
    run = trained(tmp_path, 6)
    start = STT(TINY)
    torch.manual_seed(0)
    start = STT(TINY)
    moved = (run.raw.head.weight - start.head.weight).norm()
    lag = (run.raw.head.weight - run.average.module.head.weight).norm()
    assert 0 < lag < moved


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_model_that_survives_its_own_json(name):
    preset = PRESETS[name]
    assert type(preset.model).from_dict(json.loads(json.dumps(preset.model.to_dict()))) == preset.model


@pytest.mark.parametrize("family", ["stt", "videogpt"])
def test_the_vqgan_stage_waits_for_its_start_then_pushes_the_decoder(family):
    torch.manual_seed(0)
    model = built(TINY_CONFIGS[family])
    stage = AdversarialTokenizer(model.tokenizer.requires_grad_(True), weight=0.5, start=1).train()
    video = clips(model, 2, 2)
    waiting = stage.loss(Batch(video))
    assert float(waiting.parts["adaptive_weight"]) == 0
    torch.testing.assert_close(waiting.total.detach(), waiting.parts["mse"] + waiting.parts["commitment"])
    pushing = stage.loss(Batch(video))
    assert float(pushing.parts["adaptive_weight"]) > 0 and float(pushing.parts["discriminator"]) > 0


def test_the_adversarial_gradient_is_weighted_by_the_reconstructions(tiny):
    stage = AdversarialTokenizer(tiny.tokenizer.requires_grad_(True), weight=0.5)
    video = clips(tiny, 2, 2)
    last = [m for m in tiny.tokenizer.decoder if isinstance(m, torch.nn.Conv2d)][-1].weight
    decoded = tiny.tokenizer.decode(tiny.tokenizer.encode(video).latents)
    mse = torch.nn.functional.mse_loss(decoded, video)
    deceived = -stage.discriminator(decoded.flatten(0, 1)).mean()
    weight = stage._adaptive_weight(mse, deceived)
    parts = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (mse, weight * deceived)]
    torch.testing.assert_close(parts[1], 0.5 * parts[0], rtol=1e-3, atol=0)


def test_a_discriminator_learns_from_the_hinge_alone_and_the_decoder_only_stage_keeps_the_codes(tiny):
    torch.manual_seed(0)
    stage = AdversarialTokenizer(tiny.tokenizer, weight=0.5, decoder_only=True).train()
    stage.loss(Batch(clips(tiny, 2, 2))).total.backward()
    moved = {name for name, p in stage.named_parameters() if p.grad is not None and p.grad.any()}
    assert not any(name.startswith(("tokenizer.encoder", "tokenizer.quantizer")) for name in moved)
    decoder = {f"tokenizer.decoder.{name}" for name, _ in tiny.tokenizer.decoder.named_parameters()}
    names = [f"discriminator.{name}" for name, _ in stage.discriminator.named_parameters()]
    assert decoder | set(names[:-1]) <= moved  # the last bias begins in balance: as many real as fake patches
    alone = {n: p.grad.clone() for n, p in stage.discriminator.named_parameters()}
    stage.zero_grad()
    video = clips(tiny, 2, 2)
    real, fake = video.flatten(0, 1), tiny.tokenizer.decode(tiny.tokenizer.encode(video).latents).flatten(0, 1)
    stage._hinge(real, fake.detach()).backward()
    for name, p in stage.discriminator.named_parameters():
        torch.testing.assert_close(p.grad, alone[name])


@pytest.fixture
def vgg(tmp_path):
    """Random weights by torchvision's names."""
    tensors, channels = {"classifier.0.weight": torch.zeros(1)}, 3
    for number, width in VGG16.items():
        tensors[f"features.{number}.weight"] = torch.randn(width, channels, 3, 3) / (3 * channels**0.5)
        tensors[f"features.{number}.bias"] = torch.zeros(width)
        channels = width
    torch.save(tensors, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def test_the_perceptual_distance_is_that_of_vgg16s_features_and_joins_the_reconstruction(vgg, tiny):
    distance = PerceptualDistance(vgg)
    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    assert float(distance(a, a)) == 0 < float(distance(a, b)) == pytest.approx(float(distance(b, a)))
    gray = a[:, :1]
    torch.testing.assert_close(distance(gray, b), distance(gray.expand(-1, 3, -1, -1), b))
    assert [len(stage) // 2 for stage in distance.stages] == [2, 2, 3, 3, 3]
    stage = AdversarialTokenizer(
        tiny.tokenizer.requires_grad_(True), 0.5, 1, perceptual=distance, perceptual_weight=0.3
    ).train()
    loss = stage.loss(Batch(clips(tiny, 1, 2)))
    assert float(loss.parts["perceptual"]) > 0
    wanted = loss.parts["mse"] + loss.parts["commitment"] + 0.3 * loss.parts["perceptual"]
    torch.testing.assert_close(loss.total.detach(), wanted)
    torch.save({"features.0.weight": torch.zeros(1)}, vgg)
    with pytest.raises(ValueError, match=r"vgg16.pth lacks features.0.bias and 24 more of torchvision's vgg16"):
        PerceptualDistance(vgg)


def test_a_vqgan_run_saves_a_plain_tokenizer(tmp_path, tiny):
    stage = AdversarialTokenizer(tiny.tokenizer, weight=0.5, decoder_only=True)
    acc = accelerator_for("no", "cpu")
    run = Trainer(stage, TrainerConfig(steps=2, batch=2), tmp_path, acc, {}, keep=lambda trained: trained.tokenizer)
    fit(run, batches(tiny), lambda m: m.decode(m.encode(clips(tiny)).latents)[0, 0, 0].byte().numpy())
    assert load_any(tmp_path).config == tiny.tokenizer.config


@pytest.mark.slow
def test_a_compiled_tokenizer_learns_as_a_plain_one_does(tiny):
    """Of FSQ's codes the loss is the reconstruction's, which the log shows too: one tensor that is asked for twice."""
    module, video = LossModule(tiny.tokenizer.requires_grad_(True).eval()), clips(tiny, 2, 4)
    plain, compiled = (
        torch.autograd.grad(call(video).total, list(tiny.tokenizer.parameters()))
        for call in (module, torch.compile(module))
    )
    torch.testing.assert_close(compiled, plain)


def test_a_published_model_takes_a_decoder_only_from_a_tokenizer_with_the_same_codes(tmp_path, tiny):
    sharper, other = copy.deepcopy(tiny.tokenizer), copy.deepcopy(tiny.tokenizer)
    with torch.no_grad():
        sharper.decoder[-1].bias += 1
        other.encoder[0].bias += 1
    for name, made in (("sharper", sharper), ("other", other)):
        stt.save(made, tmp_path / name / "model.safetensors")
    taken = with_decoder(tiny, str(tmp_path / "sharper"))
    assert torch.equal(taken.tokenizer.decoder[-1].bias, sharper.decoder[-1].bias)
    assert torch.equal(taken.head.weight, tiny.head.weight)
    with pytest.raises(SystemExit, match=r"other codes .* 'encoder\.0\.bias'"):
        with_decoder(tiny, str(tmp_path / "other"))


def test_a_published_card_names_no_folder_of_the_machine():
    card = {
        "command": "python -m x --sheet-every 9 --out /home/me/runs/a --save-every=3",
        "tokenizer": {"command": "y ../data/b --mnist=/home/me/c", "steps": 3, "scores": {"truth": {}}},
        "scores": {"truth": {"energy": 0.1}},
    }
    assert portable(card) == {
        "command": "python -m x --out a",
        "tokenizer": {"command": "y b --mnist=c", "steps": 3},
        "scores": {"truth": {"energy": 0.1}},
    }


def test_a_published_card_names_a_tokenizer_once_for_all_the_runs_that_kept_it():
    new, old = {"command": "t --out new"}, {"command": "t --out old"}
    first = {"command": "p --out c", "tokenizer": old, "start_from": {"command": "p --out d", "tokenizer": old}}
    card = {"tokenizer": new, "start_from": {"command": "p --out b", "tokenizer": new, "start_from": first}}
    told = portable(card)
    assert told == {
        "tokenizer": new,
        "start_from": {
            "command": "p --out b",
            "start_from": {"command": "p --out c", "tokenizer": old, "start_from": {"command": "p --out d"}},
        },
    }
    assert portable(told) == told


def test_a_published_card_names_the_decoder_that_it_has_and_none_before():
    last, first = ({"command": f"t --out {name}"} for name in ("last", "first"))
    begun = {"command": "p --out a", "decoder": first}
    card = {"command": "p --out c", "start_from": {"command": "p --out b", "decoder": last, "start_from": begun}}
    kept = {"command": "p --out b", "decoder": last, "start_from": {"command": "p --out a"}}
    assert portable(card) == {"command": "p --out c", "start_from": kept}
    assert portable(card | {"decoder": first})["start_from"].keys() == {"command", "start_from"}


def test_a_run_may_start_from_a_model_that_lacks_a_part_but_not_from_another_network(tiny, capsys):
    acting = STT(replace(TINY, actions=("push",)))
    start_from(acting, tiny)
    fresh = capsys.readouterr().out.splitlines()
    assert fresh and all(line.startswith("act.") and line.endswith(" begins anew") for line in fresh)
    with pytest.raises(SystemExit, match=r"'act\.\S+', which this preset lacks"):
        start_from(STT(TINY), acting)


# ---- families ----------------------------------------------------------------------------------------


def test_some_parts_alone_may_be_trained():
    for parts in (["dynamics"], ["policy", "segmenter"], ["policy.crop", "compositor"]):
        model = built(TINY_LAYERED)
        only(model, *parts)
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        assert trained == {name for name, _ in model.named_parameters() if name.startswith(tuple(parts))}
    with pytest.raises(SystemExit, match="--only wings: the model's parts are segmenter, policy, .*, compositor$"):
        only(built(TINY_LAYERED), "policy", "wings")
    with pytest.raises(SystemExit, match="--only tokenizer: the model's parts are embed, "):  # frozen as it is
        only(STT(TINY), "embed", "tokenizer")


def test_only_a_family_with_a_tokenizer_takes_one(tmp_path, tiny):
    stt.save(tiny.tokenizer, tmp_path / "model.safetensors")
    preset = replace(PRESETS["video_stt"], model=STTConfig.from_dict(TINY.to_dict()))
    model = network(preset, str(tmp_path))
    assert isinstance(model, STT) and torch.equal(model.tokenizer.decoder[-1].bias, tiny.tokenizer.decoder[-1].bias)
    preset = replace(preset, model=TINY_TIMESFORMER)
    assert network(preset, None).config == TINY_TIMESFORMER
    with pytest.raises(SystemExit, match="timesformer does not learn from actions here"):
        network(replace(preset, model=replace(TINY_TIMESFORMER, actions=("steer",))), None)
    with pytest.raises(SystemExit, match="it has no tokenizer, leave out --tokenizer"):
        network(preset, str(tmp_path))


@pytest.mark.parametrize("frames", [8, 9])
@pytest.mark.parametrize("name", ["stt", "timesformer", "videogpt"])
def test_a_sheet_shows_one_future_of_a_model_that_draws_nothing_and_three_of_others(name, frames):
    videos = MovingMNIST(
        MovingMNISTConfig(image_size=16, digits=1, frames=frames, strokes=1), None, "test", count_strokes=20
    )
    picture = future_sheet(videos, clips=2)(built(TINY_CONFIGS[name]).eval())
    rows = {"stt": 5, "videogpt": 5, "timesformer": 2}[name]  # truth, a tokenizer's reconstruction, futures
    assert picture.shape == (2 * rows * 18, frames * 18, 3)


def test_models_with_classes_are_told_what_clips_show():
    videos = MovingMNIST(
        MovingMNISTConfig(image_size=16, digits=2, frames=7, strokes=1), None, "train", count_strokes=20
    )
    preset = replace(PRESETS["digits_videogpt"], model=replace(TINY_VIDEOGPT, classes=10, labels=2))
    batch = batches_of(videos, preset)(3, 5)
    video, labels = batch.video, batch.labels
    assert torch.equal(video, videos.batch(3, preset.loop.seed, 5))
    assert torch.equal(labels, videos.sample(3, preset.loop.seed, 5).labels) and labels.shape == (3, 2)
    assert VideoGPT(preset.model).loss(Batch(video, labels=labels)).total.isfinite()
    assert batches_of(videos, replace(preset, model=TINY))(3, 5).labels is None


def test_moving_mnist_scores_a_run_and_a_world_of_chance_does_not():
    world = MovingMNISTConfig(kind="deterministic", image_size=16, digits=1, frames=14, strokes=1)
    score = held_out_score(MovingMNIST(world, None, "test", count_strokes=20), clips=3)
    figures = score(built(TINY_TIMESFORMER).eval())
    assert set(figures) == {"held_out_mse", "held_out_ssim"} and figures["held_out_mse"] > 0
    for other in (replace(world, kind="stochastic"), replace(world, frames=10)):
        assert held_out_score(MovingMNIST(other, None, "test", count_strokes=20)) is None


# ---- throughput --------------------------------------------------------------------------------------


class Counted(torch.nn.Module):
    """A frozen layer, then one that trains; 2 clips of one frame of 4x4."""

    def __init__(self, layer):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 8, 1).requires_grad_(False), layer

    def loss(self, batch):
        with torch.no_grad():
            h = self.first(batch.video[:, 0])
        return Loss(self.second(h).square().mean(), {})


@pytest.mark.parametrize(("groups", "expected"), [(1, 8), (8, 1)])
def test_operations_are_those_of_the_forward_pass_and_of_every_gradient_that_is_needed(groups, expected):
    model = Counted(torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups))
    frozen, layer = 2 * 8 * 16, 2 * 8 * 16 * 9 * expected
    assert flops_per_clip(model, Batch(torch.rand(2, 1, 1, 4, 4))) == frozen + 2 * layer  # no gradient of the frames


@pytest.mark.parametrize("config", [TINY, TINY_TIMESFORMER, TINY_TOKENIZER], ids=lambda c: type(c).__name__)
def test_counting_operations_changes_nothing(config):
    model = FrameVQ(config) if config is TINY_TOKENIZER else built(config)
    video = clips(model)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert flops_per_clip(model, Batch(video)) == pytest.approx(flops_per_clip(model, Batch(video[:1])), rel=1e-6)
    assert torch.equal(torch.get_rng_state(), state) and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_transformers_operations_are_about_six_for_every_weight_and_token():
    config = replace(TINY_TIMESFORMER, dim=128, depth=4, short_context=0.0)
    model = built(config)
    tokens = 10 * config.grid**2
    matrices = sum(p.numel() for p in model.units.parameters() if p.ndim == 2)
    assert flops_per_clip(model, Batch(clips(model, 1, 10))) == pytest.approx(6 * matrices * tokens, rel=0.15)


def test_a_peak_is_measured_here():
    assert peak_flops(torch.device("cpu"), "no", seconds=0.05) > 1e8


def test_orthogonalising_moves_every_singular_value_near_one():
    for shape in ((16, 48), (48, 16), (16, 16)):
        torch.manual_seed(0)
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.3


def test_muon_takes_the_matrices_and_leaves_the_rest_to_adamw():
    torch.manual_seed(0)
    net, twin = (torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)) for _ in range(2))
    twin.load_state_dict(net.state_dict())
    rest = [p for p in net.parameters() if p.ndim == 1]
    matrices = [p for p in net.parameters() if p.ndim == 2]
    muon = MuonAdamW([{"params": matrices, "matrix": True}, {"params": rest}], lr=0.1, weight_decay=0.0)
    adamw = torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.0)
    before = net[0].weight.detach().clone()
    for model, optimizer in ((net, muon), (twin, adamw)):
        model(torch.ones(2, 8)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(net[0].bias, twin[0].bias)
    assert not torch.allclose(net[0].weight, twin[0].weight)
    step = (net[0].weight.detach() - before).square().mean().sqrt()
    assert 0.001 < step < 0.1 * 0.4  # of one rank: an update of singular value 1, at lr * 0.2 * sqrt(16)
    assert net[0].weight.grad is not None


def test_muon_turns_a_convolutions_kernel_as_the_matrix_of_its_outputs_by_what_they_read():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3, bias=False)
    flat = torch.nn.Parameter(conv.weight.detach().flatten(1).clone())
    conv.weight.grad = torch.randn(conv.weight.shape)
    flat.grad = conv.weight.grad.flatten(1)
    for weight in (conv.weight, flat):
        MuonAdamW([{"params": [weight], "matrix": True}], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(conv.weight.flatten(1), flat)


@pytest.mark.slow
def test_the_commands_of_the_readme_train_a_tokenizer_and_a_predictor_and_score_them(tmp_path):
    def run(*words):
        subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, check=True, timeout=300)

    small = ["--strokes", 1, "--frames", 6, "--batch", 2, "--steps", 3, "--device", "cpu"]
    run("train.predictor", "--preset", "one_digit_videogpt", *small, "--out", tmp_path / "both")
    assert load_any(tmp_path / "both").config.tokenizer == load_any(tmp_path / "both" / "tokenizer").config
    run("train.tokenizer", "--preset", "one_digit_video_tokenizer", *small, "--out", tmp_path / "tok")
    tok = ["--tokenizer", tmp_path / "tok"]
    run("train.predictor", "--preset", "one_digit_videogpt", *small, *tok, "--out", tmp_path / "gpt")
    run("train.predictor", "--preset", "cpu_digits_stt", *small, "--out", tmp_path / "stt")
    run("train.predictor", "--preset", "cpu_digits_stt", *small, "--out", tmp_path / "stt", "--resume")
    two = ["torch.distributed.run", "--nproc-per-node", 2, "-m"]  # a run of one process goes on with two
    more = [*small[:-4], "--steps", 5, *small[-2:]]
    run(*two, "train.predictor", "--preset", "cpu_digits_stt", *more, "--out", tmp_path / "stt", "--resume")
    assert read_header(tmp_path / "stt" / "model.safetensors")["card"]["clips"] == 3 * 2 + 2 * 4
    scores = tmp_path / "scores.json"
    counts = ["--clips", 2, "--futures", 2, "--prompts", 1, "--sets", 4, "--moving-clips", 2, "--strokes", 1]
    run("train.evaluate", "--model", tmp_path / "stt", "--json", scores, "--sheet", tmp_path / "sheet.png", *counts)
    assert json.loads(scores.read_text())["settings"]["clips"] == 2 and (tmp_path / "sheet.png").exists()
    assert isinstance(load_any(tmp_path / "stt"), STT)
