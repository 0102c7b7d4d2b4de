"""Futures as sets: distances between them, and whether they show the classes that were asked for."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from stt.api import Condition, Sampling
from stt.metrics import unit
from stt.models.stt import STT
from stt.models.videogpt import VideoGPT, VideoGPTConfig
from stt.sampler import predict
from tests.conftest import TINY, TINY_TOKENIZER, TINY_VIDEO_TOKENIZER, TINY_VIDEOGPT, lively
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluate import CLASSIFIER, evaluate, fvd_measure, markdown, parser
from train.evaluation.digit_classifier import DigitClassifier, counts, load_digit_classifier
from train.evaluation.metrics import (
    classifier_score,
    clip_features,
    digit_shares,
    frechet_distance,
    gaussian_distance,
    scaled,
)
from train.evaluation.protocols import all_named, asked_classes, asked_labels, continued, embedded, frechet, held_out


def at_real_size(cls, config, tokenizer, **changes):
    """The tiny model on frames of 64 pixels, which the classifier reads."""
    tokenizer = tokenizer.to_dict() | {"image_size": 64, "patch": 8}
    changed = config.to_dict() | {"image_size": 64, "tokenizer": tokenizer} | changes
    return lively(cls(type(config).from_dict(changed))).eval()


@pytest.fixture(scope="module")
def videos():
    """A world of the yardstick's size that needs no file."""
    return MovingMNIST(MovingMNISTConfig(digits=1, frames=9, strokes=1.0), None, "test", count_strokes=60)


@pytest.fixture(scope="module")
def classifier():
    return load_digit_classifier(CLASSIFIER)


@pytest.fixture(scope="module")
def clips(videos):
    return videos.batch(64, 1, 0)


@pytest.fixture
def labelled():
    """Of models that imagine one digit or two."""
    return [at_real_size(VideoGPT, TINY_VIDEOGPT, TINY_VIDEO_TOKENIZER, classes=10, labels=n) for n in (1, 2)]


def features_of(video, classifier):
    with torch.inference_mode():
        return clip_features(embedded(classifier, unit(video)))


# ---- Frechet distance --------------------------------------------------------------------------------


def test_the_distance_of_normals_whose_axes_agree_is_that_of_means_and_deviations():
    a, b = torch.tensor([1.0, 4.0, 0.0]).double(), torch.tensor([9.0, 1.0, 2.0]).double()  # variances
    means = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([3.0, 1.0, 0.0]).double()
    expected = (means[0] - means[1]).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    for r in (torch.eye(3).double(), turn):
        found = gaussian_distance(r @ means[0], r @ a.diag() @ r.T, r @ means[1], r @ b.diag() @ r.T)
        torch.testing.assert_close(found, expected)


def test_the_distance_of_two_by_two_normals_is_that_of_the_closed_form_however_their_axes_lie():
    """The trace of a square root of M is sqrt(tr M + 2 sqrt(det M)) in two dimensions."""
    zero = torch.zeros(2).double()
    for _ in range(20):
        a, b = (x @ x.T for x in torch.randn(2, 2, 2, dtype=torch.float64))
        shared = ((a @ b).trace() + 2 * torch.linalg.det(a @ b).clamp(min=0).sqrt()).sqrt()
        torch.testing.assert_close(gaussian_distance(zero, a, zero, b), a.trace() + b.trace() - 2 * shared)


def test_equal_sets_are_at_distance_zero_even_with_fewer_members_than_dimensions():
    for n, d in ((200, 8), (5, 64)):
        x = torch.randn(n, d) @ torch.randn(d, d) + 100
        assert float(frechet_distance(x, x.flip(0))) == pytest.approx(0, abs=1e-6 * float(x.var(dim=0).sum()))
        assert float(frechet_distance(x, x + 2)) == pytest.approx(4 * d, rel=1e-4)


def test_the_distance_of_samples_nears_that_of_their_distributions_and_is_symmetric():
    mixing = torch.randn(4, 4) / 2
    a, b = torch.randn(40_000, 4), torch.randn(40_000, 4) @ mixing + torch.tensor([1.0, 0, 0, 0])
    mean = torch.tensor([1.0, 0, 0, 0]).double()
    true = gaussian_distance(torch.zeros(4).double(), torch.eye(4).double(), mean, (mixing.T @ mixing).double())
    assert float(frechet_distance(a, b)) == pytest.approx(float(true), rel=0.03)
    assert float(frechet_distance(b, a)) == pytest.approx(float(frechet_distance(a, b)), rel=1e-9)
    with pytest.raises(ValueError, match="40000 and 1, a covariance needs at least 2"):
        frechet_distance(a, b[:1])


def test_a_distance_of_one_is_that_of_the_references_mean_clip_repeated():
    reference = clip_features(torch.randn(50, 6, 40) * torch.rand(40), dims=8)
    mean = reference.mean(dim=0, keepdim=True).expand(50, -1, -1)
    assert float(frechet_distance(scaled(mean, reference), scaled(reference, reference))) == pytest.approx(1)


def test_features_of_clips_tell_still_shuffled_and_few_clips_from_true_ones(clips, classifier):
    some, others = clips.split(32)
    order = torch.tensor([3, 7, 0, 5, 1, 8, 4, 2, 6])
    strange = {"still": some[:, :1].expand_as(some), "shuffled": some[:, order], "few": some[torch.arange(32) % 4]}
    reference = features_of(others, classifier)

    def distance(features):
        return float(frechet_distance(*(scaled(part, reference) for part in (features, reference))))

    floor = distance(features_of(some, classifier))
    assert distance(reference) < 1e-6 < floor
    found = {name: distance(features_of(video, classifier)) for name, video in strange.items()}
    assert min(found.values()) > 1.3 * floor, (found, floor)


def test_features_of_clips_are_the_same_whenever_they_are_asked_for():
    embedded = torch.rand(3, 4, 256)
    first = clip_features(embedded)
    torch.manual_seed(1)
    assert first.shape == (3, 2, 32) and torch.equal(clip_features(embedded), first)


# ---- classifier score -------------------------------------------------------------------------------------


def test_the_judge_score_counts_the_kinds_of_plain_frames():
    plain = torch.eye(11).double()
    assert float(classifier_score(plain[:10])) == pytest.approx(10)
    assert float(classifier_score(plain[:1].expand(9, -1))) == pytest.approx(1)
    assert float(classifier_score(plain[:10].mean(dim=0).expand(9, -1))) == pytest.approx(1)
    assert classifier_score(plain[:, None].expand(-1, 4, -1)).tolist() == pytest.approx([11] * 4)


def test_shares_of_digits_sum_to_one_and_say_when_there_is_none():
    logits = torch.full((3, 10, 3), -20.0)
    logits[..., 0] = 20  # no digit
    logits[0, 7] = torch.tensor([-20.0, 20, -20])  # one 7
    logits[1, [2, 5]] = torch.tensor([-20.0, 20, -20])  # a 2 and a 5
    shares = digit_shares(logits)
    assert shares.sum(dim=-1).tolist() == pytest.approx([1] * 3)
    assert [float(shares[0, 7]), float(shares[1, 2]), float(shares[1, 5])] == pytest.approx([1, 0.5, 0.5])
    assert float(shares[2, 10]) == pytest.approx(1)


def test_the_judges_embedding_is_what_its_names_come_from(classifier):
    frames = torch.rand(3, 1, 64, 64)
    with torch.inference_mode():
        assert classifier.embed(frames).shape == (3, 640)
        assert torch.equal(classifier.named(classifier.embed(frames)), classifier(frames))


# ---- protocols ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["stt", "videogpt"])
def test_prompts_continued_as_a_batch_get_the_futures_of_their_seeds(family):
    model = lively({"stt": STT, "videogpt": VideoGPT}[family]({"stt": TINY, "videogpt": TINY_VIDEOGPT}[family])).eval()
    prompts = torch.rand(3, 4, 1, 16, 16) * 2 - 1
    together = continued(model, prompts, 5, Sampling(), [4, 9, 2])
    for prompt, seed, future in zip(prompts, (4, 9, 2), together, strict=True):
        torch.testing.assert_close(predict(model, prompt, 5, seeds=[seed])[0], future, atol=1e-4, rtol=0)


def test_a_set_of_true_futures_scores_as_the_floor_and_a_set_of_copies_does_not(clips, classifier, monkeypatch):
    """In the place of the model stands the truth."""
    some, others = clips.split(32)
    seen = []

    def truth(model, prompts, frames, sampling, seeds):
        assert torch.equal(prompts, some[list(seeds), :5])
        seen.extend(seeds)
        return some[list(seeds), 5 : 5 + frames]

    monkeypatch.setattr("train.evaluation.protocols.continued", truth)
    figures = frechet(None, some, others, classifier, Sampling())
    assert seen == list(range(32))
    distances = figures["frechet distance (classifier features)"]
    assert distances["model"] == distances["truth"] < 0.5 * distances["copy"]
    rows = figures["per_horizon"]
    assert rows["classifier score model"] == rows["classifier score truth"] and len(rows["classifier score copy"]) == 4
    assert all(1 <= value <= 11 for values in rows.values() for value in values)
    assert "fvd" not in figures


def test_every_digit_is_asked_for_or_some_draws_of_several():
    assert asked_labels(10, 1, 3) == [(k,) for k in range(10)]
    pairs = asked_labels(10, 2, 30)
    assert pairs == asked_labels(10, 2, 30) and asked_labels(10, 2, 5) == pairs[:5]
    assert {len(pair) for pair in pairs} == {2} and {k for pair in pairs for k in pair} == set(range(10))


def test_a_model_that_shows_what_is_asked_scores_one_and_a_stubborn_one_a_tenth(
    videos, classifier, labelled, monkeypatch
):
    real = held_out(videos, 60)
    shown = {int(clip.labels): clip.video for clip in real if all_named(classifier, clip.video, clip.labels).all()}

    def obedient(model, context, frames, sampling, seeds, condition):
        assert context.shape == (1, 1, 64, 64) and context.eq(-1).all()
        used.extend(seeds)
        return shown[condition.labels[0]][:, :frames].expand(len(seeds), -1, -1, -1, -1)

    for predictor, rate in ((obedient, 1), (lambda *asked: obedient(*asked[:5], Condition(labels=(3,))), 0.1)):
        used: list[int] = []
        monkeypatch.setattr("train.evaluation.protocols.predict", predictor)
        figures = asked_classes(labelled[0], real, classifier, Sampling(), count=2, horizon=6)
        assert figures["per_horizon"]["asked digits model"] == pytest.approx([rate] * 6)
        assert used == list(range(20))
        assert 0.8 < figures["mean"]["asked digits truth"] <= 1


def test_two_digits_are_held_against_both_that_were_asked_for(labelled, classifier, monkeypatch):
    """The classifier of this test reads a frame's brightness as its digits."""
    asked = []

    def remembering(model, context, frames, sampling, seeds, condition):
        asked.append(condition.labels)
        return torch.full((len(seeds), frames, 1, 64, 64), float(len(asked)) / 50 - 1)

    def named(frames):
        labels = torch.tensor([asked[int(k) - 1] for k in (frames[:, 0, 0, 0, 0] * 100).round()])
        return counts(labels.flip(-1))[:, None].expand(-1, frames.shape[1], -1)

    monkeypatch.setattr("train.evaluation.protocols.predict", remembering)
    seen = SimpleNamespace(digits=named)
    assert asked_classes(labelled[1], [], seen, Sampling(), 2, 5)["mean"]["asked digits model"] == 1
    assert asked == asked_labels(10, 2, 5)


def test_a_model_of_other_classes_or_of_none_is_refused():
    with pytest.raises(ValueError, match="knows 0 classes, the classifier names 10 digits"):
        asked_classes(STT(TINY), [], DigitClassifier(), Sampling())
    three = VideoGPT(VideoGPTConfig.from_dict(TINY_VIDEOGPT.to_dict() | {"classes": 3}))
    with pytest.raises(ValueError, match="knows 3 classes"):
        asked_classes(three, [], DigitClassifier(), Sampling())


# ---- the command -------------------------------------------------------------------------------------


def asked(*words: str):
    return parser().parse_args(["--model", "m", "--strokes", "1", "--clips", "3", "--device", "cpu", *words])


@pytest.fixture
def few_drawn_digits(monkeypatch):
    monkeypatch.setitem(sys.modules["train.data.digits"].DRAWN, "test", 40)


@pytest.mark.usefixtures("few_drawn_digits")
def test_evaluating_gives_sets_of_every_family_and_classes_of_models_that_know_some(labelled):
    args = asked("--only", "frechet", "classes", "--per-label", "1")
    unlabelled = at_real_size(STT, TINY, TINY_TOKENIZER)
    scores = evaluate(unlabelled, args, digits=1)
    assert list(scores) == ["frechet"]
    scores = evaluate(labelled[0], args, digits=1)
    assert list(scores) == ["frechet", "classes"]
    assert len(scores["classes"]["per_horizon"]["asked digits model"]) == 10
    text = markdown({"model": "m"} | scores)
    distances = scores["frechet"]["frechet distance (classifier features)"]
    assert "| figure | model | truth | copy |" in text and "| classifier score model | " in text
    assert f"| frechet distance (classifier features) | {' | '.join(map(str, distances.values()))} |" in text
    assert "| asked digits truth | " in text and "FVD" not in text and "fvd" not in text


def test_evaluating_sets_without_a_judge_stops_at_once(tmp_path):
    with pytest.raises(SystemExit, match="none.safetensors is missing; frechet and classes need it"):
        evaluate(STT(TINY), asked("--classifier", str(tmp_path / "none.safetensors")), digits=1)


# ---- FVD ---------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "i3d.pt"
    path.touch()
    return path


@pytest.fixture
def library(monkeypatch):
    """A stand-in for the package cd-fvd that remembers what it was given."""
    seen = []

    class Library:
        def __init__(self, model, n_real, n_fake, ckpt_path, device):
            self.made = {"model": model, "n": (n_real, n_fake), "weights": ckpt_path, "device": device}

        def compute_fvd(self, real_videos, fake_videos):
            seen.append(self.made | {"real": real_videos, "fake": fake_videos})
            return np.float64(12.345)

    package, module = ModuleType("cdfvd"), ModuleType("cdfvd.fvd")
    module.cdfvd, package.fvd = Library, module
    monkeypatch.setitem(sys.modules, "cdfvd", package)
    monkeypatch.setitem(sys.modules, "cdfvd.fvd", module)
    return seen


def test_fvd_hands_the_library_bytes_in_colour_with_all_clips_counted(library, weights):
    true, made = torch.zeros(3, 10, 1, 8, 8), torch.ones(2, 10, 1, 8, 8)
    assert fvd_measure(weights, "cpu")(true, made) == pytest.approx(12.345)
    (call,) = library
    assert (call["model"], call["n"], call["device"]) == ("i3d", ("full", "full"), "cpu")
    assert call["weights"] == str(weights)
    assert call["real"].shape == (3, 10, 8, 8, 3) and call["fake"].shape == (2, 10, 8, 8, 3)
    assert call["real"].dtype == np.uint8 and (call["real"] == 0).all() and (call["fake"] == 255).all()


@pytest.mark.usefixtures("few_drawn_digits")
def test_evaluating_with_fvd_gives_it_for_the_model_and_the_floor(library, weights):
    model = at_real_size(STT, TINY, TINY_TOKENIZER)
    scores = evaluate(model, asked("--only", "frechet", "--fvd", str(weights)), digits=1)
    assert scores["frechet"]["fvd"] == {"model": 12.35, "truth": 12.35, "copy": 12.35} and len(library) == 3
    assert "fvd: package cd-fvd" in scores["frechet"]["protocol"]


def test_fvd_without_its_library_or_weights_says_in_a_sentence_what_is_missing(monkeypatch, library, tmp_path):
    with pytest.raises(SystemExit, match=r"none.pt is missing; --fvd takes the I3D weights"):
        fvd_measure(tmp_path / "none.pt", "cpu")
    monkeypatch.setitem(sys.modules, "cdfvd", None)
    monkeypatch.setitem(sys.modules, "cdfvd.fvd", None)
    with pytest.raises(SystemExit, match="--fvd needs the package cd-fvd: pip install cd-fvd"):
        evaluate(STT(TINY), asked("--only", "frechet", "--fvd", str(tmp_path / "i3d.pt")), digits=1)
