"""Protocols of Moving MNIST, and those of any data set on it: the truth scores as it must, and so does a copy."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

import stt
from stt.api import Condition, Sampling
from stt.metrics import frame_mse, frame_ssim_openstl, unit
from stt.models.stt import STT, STTConfig
from stt.models.videogpt import VideoGPT, VideoGPTConfig
from stt.sampler import predict
from tests.conftest import (
    TINY,
    TINY_CONFIGS,
    TINY_TIMESFORMER,
    TINY_TOKENIZER,
    TINY_VIDEO_TOKENIZER,
    TINY_VIDEOGPT,
    built,
    lively,
)
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.evaluate import CLASSIFIER, evaluation_of, main, parser
from train.evaluation.digit_classifier import (
    DigitClassifier,
    classified_exactly,
    digit_counts,
    load_digit_classifier,
)
from train.evaluation.frechet import embed_clips, frechet, fvd_measure
from train.evaluation.metrics import clip_distance, clip_statistics
from train.evaluation.moving_mnist import (
    class_conditional,
    held_out,
    label_sets,
    motion_likelihood,
    moving_mnist,
    official_clips,
    official_file,
)
from train.evaluation.protocols import (
    best_of,
    compare,
    predict_batch,
    reconstruction,
    spread_by_temperature,
    surprise,
)


def at_real_size(cls, config, tokenizer, **changes):
    """The tiny model on frames of 64 pixels, which the classifier reads."""
    tokenizer = tokenizer.to_dict() | {"image_size": 64, "patch": 8}
    changed = config.to_dict() | {"image_size": 64, "tokenizer": tokenizer} | changes
    return lively(cls(type(config).from_dict(changed))).eval()


@pytest.fixture(scope="module")
def small():
    """Held-out clips of the tiny models' size."""
    config = MovingMNISTConfig(image_size=16, digits=1, frames=5, strokes=1.0)
    return torch.cat([clip.video for clip in held_out(MovingMNIST(config, None, "test", count_strokes=40), 5)])


@pytest.fixture(scope="module")
def videos():
    return MovingMNIST(MovingMNISTConfig(digits=1, frames=9, strokes=1.0), None, "test", count_strokes=60)


@pytest.fixture(scope="module")
def clips(videos):
    return videos.batch(48, 1, 0).video


@pytest.fixture(scope="module")
def classifier():
    return load_digit_classifier(CLASSIFIER)


@pytest.fixture(scope="module")
def labelled():
    """Models that generate one digit or two."""
    return [at_real_size(VideoGPT, TINY_VIDEOGPT, TINY_VIDEO_TOKENIZER, classes=10, labels=n) for n in (1, 2)]


# ---- protocols of any data set -----------------------------------------------------------------------


def test_prompts_continued_as_a_batch_get_the_futures_of_their_seeds():
    for config in (TINY, TINY_VIDEOGPT):
        model, prompts = lively(built(config)).eval(), torch.rand(3, 4, 1, 16, 16) * 2 - 1
        together = predict_batch(model, prompts, 5, Sampling(), [4, 9, 2])
        for prompt, seed, future in zip(prompts, (4, 9, 2), together, strict=True):
            torch.testing.assert_close(predict(model, prompt, 5, seeds=[seed])[0], future, atol=1e-4, rtol=0)


def test_best_of_n_is_the_same_twice_and_at_least_as_good_as_the_mean(tiny, small):
    first, second = (best_of(tiny, small[:3], Sampling(), count=3, context=2) for _ in range(2))
    rows = first["per_horizon"]
    assert rows == second["per_horizon"] and {len(values) for values in rows.values()} == {3}
    assert {name.partition(" ")[2] for name in rows} == {"best", "mean", "guess", "copy", "flow", "model"}
    assert first["mean"]["psnr copy"] == pytest.approx(sum(rows["psnr copy"]) / 3, abs=1e-3)
    scores = compare({"model": torch.rand(4, 3, 1, 16, 16)}, torch.rand(3, 1, 16, 16))
    assert scores["psnr best"].mean() >= scores["psnr mean"].mean()
    assert scores["mse best"].mean() <= scores["mse mean"].mean()


def test_spread_grows_with_temperature_from_zero(tiny, small):
    spreads = spread_by_temperature(tiny, small[:2], context=2)
    assert spreads["0.0"] == 0 < spreads["1.0"]


def test_surprise_starts_at_the_third_frame_and_orders_its_quantiles(tiny, small):
    figures, bits = surprise(tiny, small, batch=2), tiny.surprise(small).bits[:, 1:]
    assert figures["bits_per_dim"] == pytest.approx(float(bits.mean()), abs=1e-4)
    assert figures["clip_max"] == pytest.approx(float(bits.mean(dim=1).max()), abs=1e-4)
    assert figures["clip_median"] <= figures["clip_p99"] <= figures["clip_max"] <= float(bits.max()) + 1e-4
    assert figures["frame_p99"] == pytest.approx(float(bits.quantile(0.99)), abs=1e-4)
    assert figures["largest_p99"] == pytest.approx(float(bits.amax(dim=1).quantile(0.99)), abs=1e-4)


def test_a_reconstruction_is_scored_with_its_second_pass(tiny, small):
    figures = reconstruction(tiny.tokenizer, small[:1])
    assert 0 < figures["codes in use"] <= 1 and {"psnr", "psnr of the second pass", "sharpness"} <= set(figures)


# ---- deterministic Moving MNIST ----------------------------------------------------------------------


def test_moving_mnist_is_the_same_however_clips_are_batched(tiny, small):
    together, apart = (moving_mnist(tiny, small, context=2, batch=size)["mean"] for size in (20, 2))
    assert together == pytest.approx(apart, abs=1e-3)
    copied = frame_mse(unit(small[:, 1:2]), unit(small[:, 2:])).mean()
    assert together["mse copy"] == pytest.approx(float(copied), abs=1e-3)


def test_fewer_held_out_clips_are_the_beginning_of_more(videos):
    three, five = held_out(videos, 3), held_out(videos, 5)
    assert all(torch.equal(a.video, b.video) for a, b in zip(three, five, strict=False))
    assert not torch.equal(five[0].video, five[1].video)


def test_the_official_file_is_read_as_clips_and_another_one_is_refused(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (20, 7, 64, 64), dtype=np.uint8)
    right = tmp_path / "mnist_test_seq.npy"
    np.save(right, stored)
    clips = official_clips(official_file(right), 4)
    assert clips.shape == (4, 20, 1, 64, 64)
    assert torch.equal(((clips[3, 5, 0] + 1) * 127.5).round().byte(), torch.from_numpy(stored[5, 3]))
    for name, array in {
        "short": stored[:10], "clips first": stored.swapaxes(0, 1), "floats": stored / 255, "binary": stored // 128,
        "no clips": stored[:, :0],
    }.items():  # fmt: skip
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "archive.npz", stored)
    (tmp_path / "cut.npy").write_bytes(right.read_bytes()[:-100])
    (tmp_path / "header cut.npy").write_bytes(right.read_bytes()[:50])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    for name, message in (
        ("short.npy", r"holds uint8 \(10, 7, 64, 64\)"),
        ("clips first.npy", r"holds uint8 \(7, 20, 64, 64\)"),
        ("floats.npy", r"holds float64 \(20, 7"),
        ("binary.npy", "holds values 0 to 1"),
        ("no clips.npy", "holds no clips"),
        ("archive.npz", "is an archive"),
        ("cut.npy", "cannot be read, or is cut off"),
        ("header cut.npy", "cannot be read, or is cut off"),
        ("objects.npy", "cannot be read"),
        ("text.npy", "cannot be read"),
        ("none.npy", "there is no such file"),
    ):
        with pytest.raises(SystemExit, match=f"--official {name}:? ?.*{message}.*time first") as caught:
            evaluated(at_real_size(STT, TINY, TINY_TOKENIZER), "--official", str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_moving_mnist_states_both_ssim_and_names_them(tiny, small):
    figures = moving_mnist(tiny, small, context=2)["mean"]
    assert {"ssim", "ssim copy", "ssim (OpenSTL)", "ssim (OpenSTL) copy"} <= set(figures)
    expected = frame_ssim_openstl(unit(small[:, 1:2]).expand_as(small[:, 2:]), unit(small[:, 2:])).mean()
    assert figures["ssim (OpenSTL) copy"] == pytest.approx(float(expected), abs=1e-4)


# ---- sets of clips -----------------------------------------------------------------------------------


def test_a_set_of_true_futures_scores_as_the_floor_and_a_set_of_copies_does_not(clips, classifier, monkeypatch):
    """In the place of the model stands the truth."""
    some, others = clips.split(24)
    used = []

    def truth(model, prompts, frames, sampling, seeds):
        assert torch.equal(prompts, some[list(seeds), :5])
        used.extend(seeds)
        return some[list(seeds), 5 : 5 + frames]

    monkeypatch.setattr("train.evaluation.frechet.predict_batch", truth)
    figures = frechet(None, some, others, classifier, Sampling())
    assert used == list(range(24)) and "fvd" not in figures
    distances, rows = figures["frechet distance (classifier features)"], figures["per_horizon"]
    assert distances["model"] == distances["truth"] < 0.5 * distances["copy"]
    assert rows["classifier score model"] == rows["classifier score truth"] and len(rows["classifier score copy"]) == 4
    assert all(1 <= value <= 11 for values in rows.values() for value in values)


def test_features_of_clips_tell_still_shuffled_and_few_clips_from_true_ones(clips, classifier):
    some, others = clips.split(24)
    order = torch.tensor([3, 7, 0, 5, 1, 8, 4, 2, 6])
    strange = {"still": some[:, :1].expand_as(some), "shuffled": some[:, order], "few": some[torch.arange(24) % 3]}
    with torch.inference_mode():
        true, reference = (clip_statistics(embed_clips(classifier, unit(part))) for part in (some, others))
        features = {name: clip_statistics(embed_clips(classifier, unit(video))) for name, video in strange.items()}
    distances = {name: clip_distance(part, reference) for name, part in features.items()}
    floor = clip_distance(true, reference)
    assert clip_distance(reference, reference) < 1e-4 < floor
    assert min(distances.values()) > 1.3 * floor, (distances, floor)


@pytest.fixture
def package(monkeypatch):
    """A stand-in for the package cd-fvd that records its calls."""
    calls = []

    class Measure:
        def __init__(self, model, n_real, n_fake, ckpt_path, device):
            self.made = {"model": model, "n": (n_real, n_fake), "weights": ckpt_path, "device": device}

        def compute_fvd(self, real_videos, fake_videos):
            calls.append(self.made | {"real": real_videos, "fake": fake_videos})
            return np.float64(12.345)

    package, module = ModuleType("cdfvd"), ModuleType("cdfvd.fvd")
    module.cdfvd, package.fvd = Measure, module
    monkeypatch.setitem(sys.modules, "cdfvd", package)
    monkeypatch.setitem(sys.modules, "cdfvd.fvd", module)
    return calls


def test_fvd_gets_bytes_in_colour_and_says_what_is_missing(package, tmp_path, monkeypatch):
    weights = tmp_path / "i3d.pt"
    with pytest.raises(ValueError, match=r"i3d.pt is missing; --fvd takes the I3D weights"):
        fvd_measure(weights, "cpu")
    weights.touch()
    true, made = torch.zeros(3, 10, 1, 8, 8), torch.ones(2, 10, 1, 8, 8)
    assert fvd_measure(weights, "cpu")(true, made) == pytest.approx(12.345)
    (call,) = package
    assert (call["model"], call["n"], call["device"]) == ("i3d", ("full", "full"), "cpu")
    assert call["weights"] == str(weights)
    assert call["real"].shape == (3, 10, 8, 8, 3) and call["fake"].shape == (2, 10, 8, 8, 3)
    assert call["real"].dtype == np.uint8 and (call["real"] == 0).all() and (call["fake"] == 255).all()
    for name in ("cdfvd", "cdfvd.fvd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match="--fvd needs the package cd-fvd: pip install cd-fvd"):
        fvd_measure(weights, "cpu")


# ---- classes -----------------------------------------------------------------------------------------


def test_every_digit_is_a_label_set_or_some_draws_of_several():
    assert label_sets(10, 1, 3) == [(k,) for k in range(10)]
    pairs = label_sets(10, 2, 30)
    assert pairs == label_sets(10, 2, 30) and label_sets(10, 2, 5) == pairs[:5]
    assert {len(pair) for pair in pairs} == {2} and {k for pair in pairs for k in pair} == set(range(10))


def test_a_model_that_shows_its_labels_scores_one_and_one_that_ignores_them_a_tenth(
    videos, classifier, labelled, monkeypatch
):
    real = held_out(videos, 60)
    by_label = {
        int(clip.labels): clip.video for clip in real if classified_exactly(classifier, clip.video, clip.labels).all()
    }

    def faithful(model, context, frames, sampling, seeds, condition):
        assert context.shape == (1, 1, 64, 64) and context.eq(-1).all()
        used.extend(seeds)
        return by_label[condition.labels[0]][:, :frames].expand(len(seeds), -1, -1, -1, -1)

    for predictor, rate in ((faithful, 1), (lambda *args: faithful(*args[:5], Condition(labels=(3,))), 0.1)):
        used: list[int] = []
        monkeypatch.setattr("train.evaluation.moving_mnist.predict", predictor)
        figures = class_conditional(labelled[0], real[:8], classifier, Sampling(), count=2, horizon=3)
        assert figures["per_horizon"]["digits model"] == pytest.approx([rate] * 3)
        assert used == list(range(20)) and 0.8 < figures["mean"]["digits truth"] <= 1


def test_two_labels_are_held_against_both_digits(labelled, monkeypatch):
    """The classifier of this test reads a frame's brightness as its digits."""
    used = []

    def remembering(model, context, frames, sampling, seeds, condition):
        used.append(condition.labels)
        return torch.full((len(seeds), frames, 1, 64, 64), float(len(used)) / 50 - 1)

    def classify(frames):
        labels = torch.tensor([used[int(k) - 1] for k in (frames[:, 0, 0, 0, 0] * 100).round()])
        return digit_counts(labels.flip(-1))[:, None].expand(-1, frames.shape[1], -1)

    monkeypatch.setattr("train.evaluation.moving_mnist.predict", remembering)
    figures = class_conditional(labelled[1], [], SimpleNamespace(classify=classify), Sampling(), 2, 5)
    assert figures["mean"]["digits model"] == 1 and used == label_sets(10, 2, 5)


def test_a_model_of_other_classes_or_of_none_is_refused():
    three = VideoGPT(VideoGPTConfig.from_dict(TINY_VIDEOGPT.to_dict() | {"classes": 3}))
    for model, classes in ((STT(TINY), 0), (three, 3)):
        with pytest.raises(ValueError, match=f"knows {classes} classes, the classifier reads 10 digits"):
            class_conditional(model, [], DigitClassifier(), Sampling())


# ---- motion ------------------------------------------------------------------------------------------


def test_motion_likelihood_states_the_simulators_floor_and_the_uniform_distribution_beside_the_model():
    model = STT(STTConfig(layers=2, segmenter_width=16, dim=32, depth=1, heads=2, gaussian_grid=(0,))).eval()
    videos = MovingMNIST(MovingMNISTConfig(frames=8, strokes=1), None, "test", count_strokes=20)
    figures = motion_likelihood({"model": model}, held_out(videos, 6))["nats a layer and frame"]
    assert figures["uniform"]["turns"] == pytest.approx(math.log(81), abs=1e-3)
    assert figures["oracle"]["on"] == 0 < figures["oracle"]["turns"] < math.log(81)
    assert figures["model"]["all"] > figures["oracle"]["all"]


# ---- the command -------------------------------------------------------------------------------------


@pytest.fixture
def few_synthetic_digits(monkeypatch):
    monkeypatch.setitem(sys.modules["train.data.digits"].SYNTHETIC, "test", 40)


def evaluated(model, *words: str) -> dict:
    words = ["--model", "m", "--strokes", "1", "--digits", "1", "--clips", "3", "--device", "cpu", *words]
    args = parser().parse_args(words)
    return evaluation_of(model, args).run(args.only)


@pytest.mark.usefixtures("few_synthetic_digits")
def test_a_model_gets_the_protocols_that_suit_it_and_fvd_on_demand(labelled, package, tmp_path):
    (tmp_path / "i3d.pt").touch()
    words = ["--only", "frechet", "class_conditional", "--per-label", "1", "--fvd", str(tmp_path / "i3d.pt")]
    scores = evaluated(labelled[0], *words)
    assert list(scores) == ["frechet", "class_conditional"]
    assert len(scores["class_conditional"]["per_horizon"]["digits model"]) == 10
    assert scores["frechet"]["fvd"] == {"model": 12.35, "truth": 12.35, "copy": 12.35} and len(package) == 3
    assert "fvd: package cd-fvd" in scores["frechet"]["protocol"]
    sparse = at_real_size(STT, TINY, TINY_TOKENIZER)
    timesformer = type(TINY_TIMESFORMER).from_dict(TINY_TIMESFORMER.to_dict() | {"image_size": 64})
    some = ["--only", "class_conditional", "surprise", "interpolation", "segmentation", "action_following"]
    assert list(evaluated(sparse, *some)) == ["surprise"] and evaluated(built(timesformer).eval(), *some) == {}
    words = ["--model", "m", "--device", "cpu"]
    config = TINY_CONFIGS["transframer, maps"].to_dict()
    config |= {"image_size": 64, "dct": config["dct"] | {"image_size": 64}}
    transframer = built(type(TINY_CONFIGS["transframer, maps"]).from_dict(config)).eval()
    table = evaluation_of(transframer, parser().parse_args([*words, "--strokes", "1"])).protocols()
    assert {"interpolation", "segmentation"} <= set(table)


def test_what_is_missing_is_said_at_once(tmp_path):
    for words, message in (
        (["--classifier", str(tmp_path / "none.safetensors")], "none.safetensors is missing; frechet and class_cond"),
        (["--fvd", str(tmp_path / "none.pt")], "cd-fvd"),
        (["--strokes", "0", "--mnist", str(tmp_path)], "images-idx3-ubyte.gz is missing"),
        (["--strokes", "2"], "strokes is 2.0"),
    ):
        with pytest.raises(SystemExit, match=f"evaluate on moving_mnist: .*{message}"):
            evaluated(at_real_size(STT, TINY, TINY_TOKENIZER), *words)
    with pytest.raises(SystemExit, match="takes gray frames of 16 x 16, Moving MNIST has gray 64 x 64"):
        evaluated(STT(TINY))


def test_mistakes_end_in_one_sentence_before_the_model_is_read(tmp_path, tiny, capsys):
    (tmp_path / "file").touch()
    stt.save(tiny, tmp_path / "m.safetensors")
    stt.save(tiny.tokenizer, tmp_path / "tokenizer.safetensors")
    for words, message in (
        (["--json", tmp_path / "none" / "x.json"], "--json .*x.json cannot be written: No such file or directory"),
        (["--markdown", tmp_path / "file" / "x.md"], "--markdown .*x.md cannot be written: Not a directory"),
        (["--json", tmp_path], "--json .* is a folder"),
        (["--sheet", tmp_path / "x.docx"], "--sheet .*x.docx: its name must end in .png"),
        (["--sheet", tmp_path / "none" / "x.png"], "--sheet .* cannot be written"),
        (["--simulated", tmp_path / "file"], "--simulated .* is a file, not a folder"),
        (["--device", "abacus"], "This machine has no device abacus; cpu is one"),
        (["--device", "cuda:77"], "This machine has no device cuda:77; cpu is one"),
        (["--model", tmp_path / "none"], "no model at .*none"),
        (["--model", tmp_path / "file"], "file is not a readable safetensors file"),
        (["--model", tmp_path / "tokenizer.safetensors"], ".* holds a FrameVQ, which predicts nothing by itself"),
    ):
        with pytest.raises(SystemExit, match=f"^evaluate: {message}") as caught:
            main([str(word) for word in ["--model", tmp_path / "m.safetensors", "--device", "cpu", *words]])
        assert "\n" not in str(caught.value), words
    for words in ("--clips 0", "--futures -1", "--horizon 1.5", "--temperature nan", "--temperature -1", "--sets x"):
        with pytest.raises(SystemExit):
            main(["--model", "m", *words.split()])
        assert "is no " in capsys.readouterr().err.splitlines()[-1], words


@pytest.mark.usefixtures("few_synthetic_digits")
def test_protocols_that_do_not_suit_are_named(tmp_path, capsys):
    stt.save(at_real_size(STT, TINY, TINY_TOKENIZER), tmp_path / "m.safetensors")
    words = ["--strokes", "1", "--device", "cpu", "--only", "class_conditional", "steering"]
    main(["--model", str(tmp_path / "m.safetensors"), *words])
    assert "passes over class_conditional, steering" in capsys.readouterr().err
