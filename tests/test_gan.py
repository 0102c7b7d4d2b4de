"""The VQGAN stage of a tokenizer."""

from __future__ import annotations

import pytest
import torch

from stt.api import Batch
from stt.checkpoint import load_any
from stt.tokenizer import FrameVQ, FrameVQConfig
from tests.conftest import TINY_CONFIGS, built, clips
from tests.st_lpips_fixtures import random_weights
from train.evaluation import st_lpips
from train.evaluation.st_lpips import STLPIPS
from train.gan import AdversarialTokenizer
from train.perceptual import perceptual_distance
from train.processes import make_accelerator
from train.schedule import TrainerConfig
from train.tokenizer import main, parser
from train.trainer import Trainer


@pytest.fixture
def tokenizer(tiny):
    return tiny.tokenizer.requires_grad_(True)


def test_the_adversarial_loss_joins_at_its_optimizer_step_however_often_the_loss_is_computed():
    for family in ("stt", "videogpt"):
        model = built(TINY_CONFIGS[family])
        stage = AdversarialTokenizer(model.tokenizer.requires_grad_(True), weight=0.5, start_step=1).train()
        batch = Batch(clips(model, 2, 2))
        for _ in range(3):  # batches of one step
            waiting = stage.loss(batch)
        assert float(waiting.parts["adaptive_weight"]) == 0, family
        torch.testing.assert_close(waiting.total.detach(), waiting.parts["mse"] + waiting.parts["commitment"])
        stage.begin_step(1)
        joined = stage.loss(batch)
        assert float(joined.parts["adaptive_weight"]) > 0 and float(joined.parts["discriminator"]) > 0, family


def test_the_adversarial_gradient_is_weighted_by_that_of_the_reconstruction(tiny, tokenizer):
    stage = AdversarialTokenizer(tokenizer, weight=0.5)
    video = clips(tiny, 2, 2)
    last = [m for m in tokenizer.decoder if isinstance(m, torch.nn.Conv2d)][-1].weight
    decoded = tokenizer.decode(tokenizer.encode(video).latents)
    mse = torch.nn.functional.mse_loss(decoded, video)
    generator = -stage.discriminator(decoded.flatten(0, 1)).mean()
    weight = stage.adaptive_weight(mse, generator)
    parts = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (mse, weight * generator)]
    torch.testing.assert_close(parts[1], 0.5 * parts[0], rtol=1e-3, atol=0)


def test_the_discriminator_learns_from_the_hinge_loss_alone_and_the_decoder_only_stage_leaves_the_codes(tiny):
    stage = AdversarialTokenizer(tiny.tokenizer, weight=0.5, decoder_only=True).train()
    video = clips(tiny, 2, 2)
    stage.loss(Batch(video)).total.backward()
    moved = {name for name, p in stage.named_parameters() if p.grad is not None and p.grad.any()}
    assert not any(name.startswith(("tokenizer.encoder", "tokenizer.quantizer")) for name in moved)
    decoder = {f"tokenizer.decoder.{name}" for name, _ in tiny.tokenizer.decoder.named_parameters()}
    names = [f"discriminator.{name}" for name, _ in stage.discriminator.named_parameters()]
    assert decoder | set(names[:-1]) <= moved  # the last bias begins in balance: as many real as fake patches
    alone = {n: p.grad.clone() for n, p in stage.discriminator.named_parameters()}
    stage.zero_grad()
    real, fake = video.flatten(0, 1), tiny.tokenizer.decode(tiny.tokenizer.encode(video).latents).flatten(0, 1)
    stage.hinge_loss(real, fake.detach()).backward()
    for name, p in stage.discriminator.named_parameters():
        torch.testing.assert_close(p.grad, alone[name])


def test_generator_and_discriminator_are_clipped_each_by_its_own_norm(tmp_path, tiny, tokenizer):
    norms = {}
    for scale in (1.0, 100.0):  # of the discriminator's loss
        stage = AdversarialTokenizer(tokenizer, weight=0.5)
        hinge = stage.hinge_loss
        stage.hinge_loss = lambda real, fake, hinge=hinge, scale=scale: scale * hinge(real, fake)
        config = TrainerConfig(steps=2, batch=2, max_grad_norm=1e-3, precision="no")
        parts = [tokenizer, stage.discriminator]
        run = Trainer(stage, config, tmp_path, make_accelerator("cpu"), {}, clipped=parts)
        run.optimizer.zero_grad = lambda: None
        run.train_step(lambda number: Batch(clips(tiny, 2, 2)))
        gradients = [[p.grad for p in part.parameters() if p.grad is not None] for part in parts]
        norms[scale] = [float(torch.nn.utils.get_total_norm(g)) for g in gradients]
        run.model.zero_grad()
    for scale, values in norms.items():
        assert values == pytest.approx([1e-3, 1e-3], rel=1e-2), scale


def test_a_vqgan_run_saves_a_plain_tokenizer(tmp_path, tiny):
    stage = AdversarialTokenizer(tiny.tokenizer, weight=0.5, decoder_only=True)
    config = TrainerConfig(steps=2, batch=2, precision="no")
    run = Trainer(stage, config, tmp_path, make_accelerator("cpu"), {}, runnable=lambda model: model.tokenizer)
    run.fit(lambda size, number: Batch(clips(tiny, size, seed=number)))
    assert load_any(tmp_path).config == tiny.tokenizer.config


def test_the_perceptual_distance_joins_the_reconstruction_loss_and_is_not_trained(tmp_path):
    tokenizer = FrameVQ(FrameVQConfig(image_size=32, patch=4, widths=(8, 16), levels=(5, 5)))
    perceptual = STLPIPS(random_weights(tmp_path))
    stage = AdversarialTokenizer(tokenizer, start_step=1, perceptual=perceptual, perceptual_weight=0.3).train()
    video = torch.rand(1, 2, 1, 32, 32) * 2 - 1
    total, parts, _ = stage.loss(Batch(video))
    decoded = tokenizer.decode(tokenizer.encode(video).latents)
    distance = perceptual(decoded.flatten(0, 1), video.flatten(0, 1)).mean()
    torch.testing.assert_close(parts["perceptual"], distance.detach())
    torch.testing.assert_close(total.detach(), parts["mse"] + parts["commitment"] + 0.3 * parts["perceptual"])
    last = [m for m in tokenizer.decoder.modules() if isinstance(m, torch.nn.Conv2d)][-1].weight
    assert torch.autograd.grad(distance, last)[0].any()
    assert not any(p.requires_grad for p in perceptual.parameters())
    config = TrainerConfig(steps=1, batch=1, precision="no")
    run = Trainer(stage, config, tmp_path, make_accelerator("cpu"), {}, runnable=lambda model: model.tokenizer)
    run.fit(lambda size, number: Batch(video))
    assert load_any(tmp_path).config == tokenizer.config


def test_a_tokenizer_without_a_decoder_has_no_vqgan_stage(tmp_path):
    words = ["--preset", "moving_mnist/motion_vq/cpu", "--out", str(tmp_path / "run")]
    for flags in (["--gan-weight", "0.3"], ["--decoder-only"]):
        with pytest.raises(SystemExit, match="motion_vq/cpu has no decoder"):
            main(words + flags)


def test_the_perceptual_distance_needs_the_vqgan_stage_and_its_weights(tmp_path, monkeypatch):
    words = ["--preset", "car/frame_vq/cpu", "--out", str(tmp_path / "run"), "--perceptual-weight", "0.3"]
    with pytest.raises(SystemExit, match="--perceptual-weight belongs to the VQGAN stage: add --gan-weight"):
        main(words)
    monkeypatch.setattr(st_lpips, "PACKAGE", "no-such-package")
    with pytest.raises(SystemExit, match="--perceptual-weight: .* missing: pip install --no-deps"):
        perceptual_distance(parser().parse_args(words))
