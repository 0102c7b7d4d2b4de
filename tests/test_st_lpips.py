"""ST-LPIPS: the distance, the measure of an evaluation, the Frechet distance over its features."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from stt.api import Batch
from stt.checkpoint import build, load_any
from stt.models.stt import STT, STTConfig
from tests.conftest import TINY_CONFIGS, TINY_FLOWS
from tests.st_lpips_fixtures import random_weights
from tests.tabletop_fixtures import FakeTabletop, colour_model
from train.evaluate import evaluation_of, parser
from train.evaluation import st_lpips
from train.evaluation.metrics import clip_distance
from train.evaluation.st_lpips import STLPIPS, installed_weights
from train.perceptual import PerceptualPredictor
from train.processes import make_accelerator
from train.schedule import TrainerConfig
from train.trainer import Trainer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def net(weights):
    return STLPIPS(weights)


def moving_pictures(clips: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Clips (N, T, 3, 32, 32) on [0, 1]: smooth noise that moves to the right."""
    noise = torch.rand(clips, 3, 8, 8 + frames, generator=torch.Generator().manual_seed(seed))
    wide = F.interpolate(noise, scale_factor=4, mode="bilinear")
    return torch.stack([wide[..., t : t + 32] for t in range(frames)], dim=1)


# ---- the distance ------------------------------------------------------------------------------------


def test_equal_frames_are_at_distance_zero_others_apart_and_gray_counts_as_colour(net):
    a, b = (2 * moving_pictures(2, 1, seed)[:, 0] - 1 for seed in (0, 1))
    assert net(a, a).tolist() == [0, 0] and net(a, b).min() > 0
    torch.testing.assert_close(net(a, b), net(b, a))
    gray = a[:, :1], b[:, :1]
    torch.testing.assert_close(net(*gray), net(*(x.expand(-1, 3, -1, -1) for x in gray)))


def test_a_measure_of_frames_is_the_same_for_one_true_clip_and_for_its_copies(net):
    futures, true = moving_pictures(3, 4), moving_pictures(1, 4, seed=1)[0]
    values = net.frame_distance(futures, true)
    assert values.shape == (3, 4)
    torch.testing.assert_close(values, net.frame_distance(futures, true.expand_as(futures)))
    torch.testing.assert_close(values[1, 2:3], net(2 * futures[1, 2:3] - 1, 2 * true[2:3] - 1))


def test_the_weights_are_found_in_the_package_or_an_error_says_how_to_get_them(weights, monkeypatch, tmp_path):
    monkeypatch.setattr(st_lpips, "PACKAGE", "no-such-package")
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps no-such-package==0\.0\.2"):
        STLPIPS()
    state = torch.load(weights, weights_only=True)
    del state["net.slice1.0.bias"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*convs\.0\.bias"):
        STLPIPS(tmp_path / "other.pth")


def test_the_true_weights_tolerate_a_shift_and_not_a_blur():
    try:
        net = STLPIPS(installed_weights())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    y, x = torch.meshgrid(torch.arange(66.0), torch.arange(66.0), indexing="ij")
    picture = 0.8 * torch.stack([(x / 5).sin(), (y / 4).cos(), ((x + y) / 3).sin()]).sign()[None]
    a, shifted, blurred = picture[..., 1:65, 1:65], picture[..., 1:65, 2:66], F.avg_pool2d(picture, 3, 1)
    assert float(net(a, shifted)) == pytest.approx(0.00509, abs=1e-4)  # at 14.4 dB of PSNR
    assert float(net(a, blurred)) == pytest.approx(0.13157, abs=1e-3)  # at 19.1 dB


# ---- sets of clips -----------------------------------------------------------------------------------


def test_the_distance_of_sets_tells_still_and_shuffled_clips_from_moving_ones(net):
    some, others = (net.clip_statistics(moving_pictures(24, 5, seed)) for seed in (0, 1))
    floor = clip_distance(some, others)
    clips = moving_pictures(24, 5)
    for strange in (clips[:, :1].expand_as(clips), clips[:, [2, 4, 0, 3, 1]], 0.5 * clips):
        assert clip_distance(net.clip_statistics(strange), others) > 1.3 * floor > 0


# ---- the command -------------------------------------------------------------------------------------


def test_the_flag_adds_the_measure_and_the_frechet_distance_beside_a_floor(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("train.evaluation.tabletop.Tabletop", FakeTabletop)
    (tmp_path / "x.pt").touch()  # so that MuJoCo is not looked for
    words = f"--model m --world tabletop --device cpu --simulated {tmp_path} --clips 4 --futures 2".split()
    model = colour_model()
    assert "frechet" not in evaluation_of(model, parser().parse_args(words)).protocols()
    evaluation = evaluation_of(model, parser().parse_args([*words, "--st-lpips", str(weights)]))
    scores = evaluation.run(["frechet"])
    evaluation.args.clips = 1
    scores |= evaluation.run(["best_of", "tokenizer"])
    rows = scores["best_of"]["per_horizon"]
    assert len(rows["st_lpips best"]) == 20 and rows["st_lpips best"][-1] <= rows["st_lpips mean"][-1]
    assert rows["st_lpips copy"][0] < rows["st_lpips copy"][-1] and scores["tokenizer"]["st_lpips"] > 0
    distances = scores["frechet"]["Frechet (ST-LPIPS features)"]
    assert set(distances) == {"model", "truth", "copy"} and distances["truth"] < distances["model"]
    monkeypatch.setattr(st_lpips, "PACKAGE", "no-such-package")
    with pytest.raises(SystemExit, match="evaluate on tabletop: the weights of ST-LPIPS are missing: pip install"):
        evaluation_of(model, parser().parse_args([*words, "--st-lpips"]))


# ---- as a loss ---------------------------------------------------------------------------------------


def test_a_predictor_learns_from_the_distance_of_its_frames_and_is_saved_alone(net, tmp_path):
    config = STTConfig.from_dict(TINY_FLOWS.to_dict() | {"image_size": 32})
    model, batch = STT(config), Batch(2 * moving_pictures(2, 4) - 1, torch.zeros(2, 4, 1))
    stage = PerceptualPredictor(model, net, 0.5)
    stage.begin_step(3)
    torch.manual_seed(0)
    loss = stage.loss(batch)
    torch.manual_seed(0)
    own = model.loss(batch)
    torch.testing.assert_close(loss.total, own.total + 0.5 * loss.parts["perceptual"])
    assert loss.parts["perceptual"] > 0 and own.frames.predicted.shape == own.frames.true.shape == (2, 3, 3, 32, 32)
    trainer = Trainer(
        stage, TrainerConfig(steps=1, batch=2, precision="no"), tmp_path, make_accelerator("cpu"), {},
        runnable=lambda stage: stage.predictor, clipped=[model],
    )  # fmt: skip
    trainer.fit(lambda size, number: batch)
    assert load_any(tmp_path).config == config
    timesformer = build("timesformer", TINY_CONFIGS["timesformer"])
    with pytest.raises(ValueError, match="a timesformer returns none"):
        PerceptualPredictor(timesformer, net, 0.5).loss(Batch(torch.rand(1, 5, 1, 16, 16)))
