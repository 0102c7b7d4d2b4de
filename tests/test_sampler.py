from __future__ import annotations

import math
import warnings

import pytest
import torch

import stt
from stt.api import MAX_SEED, Condition, Sampling
from stt.sampler import SeededNoise, filter_logits, sample_logits
from tests.conftest import clips


def test_noise_of_a_future_depends_on_its_seed_alone():
    together, alone = SeededNoise([1, 2, 3]), SeededNoise([2])
    for _ in range(3):
        assert torch.equal(together.normal(4, 5)[1], alone.normal(4, 5)[0])
        assert torch.equal(together.gumbel(6)[1], alone.gumbel(6)[0])


def test_noise_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    SeededNoise([5]).normal(10)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_has_the_right_distribution():
    noise = SeededNoise([0])
    normal, gumbel = noise.normal(200_000), noise.gumbel(200_000)
    assert abs(float(normal.mean())) < 0.01 and abs(float(normal.std()) - 1) < 0.01
    assert abs(float(gumbel.mean()) - 0.5772) < 0.01 and abs(float(gumbel.std()) - math.pi / 6**0.5) < 0.01


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 1.5, True, "3", None])
def test_a_seed_that_is_no_seed_is_refused_with_the_range(seed):
    with pytest.raises(ValueError, match=f"must be a whole number from 0 to {MAX_SEED}"):
        SeededNoise([seed])


def test_no_seed_at_all_is_refused():
    with pytest.raises(ValueError, match="seeds is empty"):
        SeededNoise([])


def test_sampled_frequencies_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0])
    drawn = sample_logits(logits.expand(100_000, 3), Sampling(temperature=1.5), SeededNoise([0]).gumbel(100_000, 3)[0])
    frequencies = torch.bincount(drawn, minlength=3) / 100_000
    torch.testing.assert_close(frequencies, (logits / 1.5).softmax(-1), atol=0.01, rtol=0)


def test_temperature_changes_the_entropy_and_zero_is_the_argmax():
    logits = torch.randn(8).expand(20_000, 8)
    gumbel = SeededNoise([0]).gumbel(20_000, 8)[0]
    used = [len(sample_logits(logits, Sampling(temperature=t), gumbel).unique()) for t in (0, 0.1, 2)]
    assert used[0] == 1 and used[0] <= used[1] < used[2]


def test_top_k_keeps_the_k_likeliest():
    kept = filter_logits(torch.tensor([0.1, 3.0, 2.0, -1.0]), top_k=2).isfinite()
    assert kept.tolist() == [False, True, True, False]


def test_top_p_keeps_the_smallest_nucleus_and_at_least_one():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert filter_logits(logits, top_p=0.7).isfinite().tolist() == [True, True, False, False]
    assert filter_logits(logits, top_p=1e-6).isfinite().tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1, must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0.0"),
    ],
)
def test_impossible_settings_are_refused_with_the_number(fields, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**fields)


def test_a_rollout_checks_its_arguments_at_the_call_and_names_the_numbers(tiny):
    good, black = clips(tiny)[0], torch.zeros
    for arguments, message in (
        ({"context": black(5, 1, 8, 16)}, r"context frames are \(1, 8, 16\), the model takes \(1, 16, 16\)"),
        ({"context": black(5, 3, 16, 16)}, r"context frames are \(3, 16, 16\)"),
        ({"context": black(0, 1, 16, 16)}, "context has 0 frames"),
        ({"context": black(1, 5, 1, 16, 16)}, "context has 5 axes"),
        ({"context": black(2, 1, 16, 16) + 255}, r"lie in \[-1, 1\], they go from 255 to 255"),
        ({"context": black(2, 1, 16, 16) + torch.nan}, r"finite and lie in \[-1, 1\]: some are NaN"),
        ({"context": black(2, 1, 16, 16).byte()}, r"torch.uint8, must be floats in \[-1, 1\]: .* x / 127.5 - 1"),
        ({"context": black(2, 1, 16, 16).bool().numpy()}, "context is torch.bool, must be floats"),
        ({"context": "clip.mp4"}, "context is a str, must be a tensor or an array of floats"),
        ({"context": None}, "context is a NoneType"),
        ({"frames": 0}, "frames is 0, must be at least 1"),
        ({"frames": 2.5}, "frames is 2.5, must be a whole number"),
        ({"seeds": []}, "seeds is empty"),
        ({"condition": Condition(labels=(3,))}, "labels are given, a model of family stt like this one takes none"),
        ({"condition": Condition(actions=((1.0,),))}, "actions are given"),
    ):
        with pytest.raises(ValueError, match=message):
            stt.rollout(tiny, **{"context": good, "frames": 1} | arguments)  # no frame is asked of it


def test_a_gap_checks_its_arguments_at_the_call(tiny):
    with pytest.raises(ValueError, match="models of family stt only continue clips, they fill no gaps"):
        stt.between(tiny, clips(tiny)[0], clips(tiny)[0], 1)


def test_numpy_prompts_of_any_float_predict_as_tensors_do(predictor):
    clip = clips(predictor)[0]
    for array in (clip.numpy(), clip.double().numpy()):
        assert torch.equal(
            stt.predict(predictor, array, 2, seeds=[0, 1]), stt.predict(predictor, clip, 2, seeds=[0, 1])
        )
    assert stt.predict(predictor, clip.half(), 1).dtype == torch.float32


def test_a_prompt_in_0_1_is_predicted_with_a_warning_and_one_in_range_without(tiny):
    clip, message = clips(tiny)[0], r"go from 0\.\d+ to [01]\.\d+, which looks like \[0, 1\].* scale by 2 \* x - 1"
    for unit in ((clip + 1) / 2, 0.5 + 0.5 * clip.abs()):  # also without dark pixels
        with pytest.warns(UserWarning, match=message):
            stt.rollout(tiny, unit, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for right in (clip, torch.zeros_like(clip), torch.ones_like(clip), -torch.ones_like(clip)):
            stt.rollout(tiny, right, 1)


def test_a_model_of_another_precision_is_refused_with_the_way_out(predictor):
    clip = clips(predictor)[0]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(ValueError, match=f"weights are {dtype}, it predicts in torch.float32: call model.float"):
            stt.predict(predictor.to(dtype), clip, 1)
    assert stt.predict(predictor.float(), clip, 1).isfinite().all()


def test_a_rollout_yields_frame_by_frame(tiny, monkeypatch):
    steps = []
    real = type(tiny).step
    monkeypatch.setattr(type(tiny), "step", lambda self, *args: steps.append(1) or real(self, *args))
    frames = stt.rollout(tiny, clips(tiny)[0], frames=40)
    next(frames), next(frames)
    assert len(steps) == 2


def test_the_prompt_is_encoded_once_and_every_frame_costs_one_forward_of_one_frame(tiny, monkeypatch):
    seen = []
    real = type(tiny.network).forward
    monkeypatch.setattr(
        type(tiny.network),
        "forward",
        lambda self, x, *a, **k: seen.append(tuple(x.shape[:2])) or real(self, x, *a, **k),
    )
    stt.predict(tiny, clips(tiny)[0], 4, seeds=[0, 1, 2])
    assert seen == [(1, 4)] + [(3, 1)] * 4
