"""Moving MNIST: digits move and bounce as in the papers, and a seed tells a clip."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from train.data.bouncing import (
    TOP_SPEED,
    DigitState,
    deterministic_start,
    render,
    simulate_deterministic,
    simulate_stochastic,
    stochastic_start,
    transition_nll,
)
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.make_examples import EXAMPLES, clip_of
from train.seeding import generator_for

SYNTHETIC = MovingMNISTConfig(kind="stochastic", digits=2, frames=8, strokes=1.0)
LAST = 64 - 32 - 1  # the last position of a digit in the stochastic kind


def videos(config: MovingMNISTConfig = SYNTHETIC, split: str = "train", **options) -> MovingMNIST:
    return MovingMNIST(config, None, split, count_strokes=60, **options)


@pytest.fixture(scope="module")
def trajectory():
    generator = generator_for("walk")
    return simulate_stochastic(stochastic_start(200, 2, generator), 60, generator)


# ---- stochastic motion -------------------------------------------------------------------------------


def test_digits_never_leave_the_canvas_and_have_all_velocities_of_up_to_four_pixels(trajectory):
    assert trajectory.positions.dtype == torch.int64 and trajectory.positions.shape == (200, 60, 2, 2)
    assert trajectory.positions.min() == 0 and trajectory.positions.max() == LAST
    assert set(trajectory.states.velocity.unique().tolist()) == set(range(-TOP_SPEED, TOP_SPEED + 1))


def test_a_digit_keeps_its_velocity_until_it_meets_a_wall(trajectory):
    before, velocity = trajectory.states
    inside = ((before >= 0) & (before <= LAST)).all(dim=-1)[:, :-1]  # (B, T, D)
    assert inside.float().mean() > 0.5
    assert torch.equal(velocity[:, 1:][inside], velocity[:, :-1][inside])
    assert torch.equal(trajectory.positions[inside], before[:, :-1][inside])


def test_a_wall_sends_the_axis_that_hit_away_and_draws_the_other_anew(trajectory):
    before, after = trajectory.states.position[:, :-1], trajectory.states.velocity[:, 1:]
    for axis in (0, 1):
        other_hit = (before[..., 1 - axis] < 0) | (before[..., 1 - axis] > LAST)
        low, high = (before[..., axis] < 0) & ~other_hit, (before[..., axis] > LAST) & ~other_hit
        assert set(after[low][:, axis].tolist()) == {1, 2, 3, 4}, axis
        assert set(after[high][:, axis].tolist()) == {-1, -2, -3, -4}, axis
        assert set(after[low | high][:, 1 - axis].tolist()) == set(range(-4, 5)), axis


def test_new_velocities_are_uniform_and_cost_log_36_nats():
    start = DigitState(torch.full((9000, 1, 2), 10), torch.zeros(9000, 1, 2, dtype=torch.int64))
    start.position[..., 1] = -1
    trajectory = simulate_stochastic(start, 2, generator_for("uniform"))
    after = trajectory.states.at(1).velocity
    assert (after[..., 1].flatten().bincount(minlength=5)[1:] - 2250).abs().max() < 200
    assert ((after[..., 0] + 4).flatten().bincount(minlength=9) - 1000).abs().max() < 150
    nll = transition_nll(trajectory)
    torch.testing.assert_close(nll, torch.full_like(nll, math.log(36)))
    inside = start._replace(position=start.position.abs())
    assert transition_nll(simulate_stochastic(inside, 2, generator_for("x"))).eq(0).all()


def test_stochastic_motion_equals_a_plain_loop_over_one_digit_in_whose_corners_x_decides():
    start = DigitState(torch.tensor([[[-2, 33]]]), torch.tensor([[[-2, 4]]]))  # in a corner
    trajectory = simulate_stochastic(start, 40, generator_for("loop"))
    (y, x), (v_y, v_x) = (-2, 33), (-2, 4)
    for t, (a, b) in enumerate(torch.randint(36, (40, 2), generator=generator_for("loop")).tolist()):
        if y < 0 or y > LAST:
            v_y, v_x = (a % 4 + 1) * (1 if y < 0 else -1), b // 4 - 4
        if x < 0 or x > LAST:
            v_x, v_y = (b % 4 + 1) * (1 if x < 0 else -1), a // 4 - 4
        y, x = min(max(y, 0), LAST), min(max(x, 0), LAST)
        assert trajectory.positions[0, t, 0].tolist() == [y, x]
        y, x = y + v_y, x + v_x


def test_a_run_can_be_continued_and_always_takes_as_many_random_numbers():
    start = stochastic_start(20, 2, generator_for("start"))
    whole = simulate_stochastic(start, 30, generator_for("run"))
    generator = generator_for("run")
    first = simulate_stochastic(start, 12, generator)
    rest = simulate_stochastic(first.states.at(-1), 18, generator)
    assert torch.equal(torch.cat([first.positions, rest.positions], dim=1), whole.positions)
    still, ends = torch.zeros(20, 2, 2, dtype=torch.int64), []
    for state in (start, DigitState(still + 10, still), DigitState(still - 1, still - 4)):
        generator = generator_for("count")
        simulate_stochastic(state, 10, generator)
        ends.append(float(torch.rand(1, generator=generator)))
    assert len(set(ends)) == 1


# ---- deterministic motion ----------------------------------------------------------------------------


def test_deterministic_digits_have_constant_speed_and_are_reflected():
    trajectory = simulate_deterministic(deterministic_start(100, 2, generator_for("ball")), 50)
    position, velocity = trajectory.states
    torch.testing.assert_close(velocity.norm(dim=-1), torch.full(velocity.shape[:-1], 0.1))
    torch.testing.assert_close(velocity.abs(), velocity[:, :1].abs().expand_as(velocity))
    free = (position[:, 1:] > 0) & (position[:, 1:] < 1)
    torch.testing.assert_close(position.diff(dim=1)[free], velocity[:, :-1][free])
    at_low, at_high = position[:, 1:] == 0, position[:, 1:] == 1
    assert at_low.any() and (velocity[:, 1:][at_low] >= 0).all()
    assert at_high.any() and (velocity[:, 1:][at_high] <= 0).all()
    assert trajectory.positions.min() >= 0 and trajectory.positions.max() <= 64 - 28


def test_deterministic_clips_have_one_future():
    clips = videos(MovingMNISTConfig(kind="deterministic", digits=2, frames=20, strokes=1.0))
    clip = clips.sample(3, seed=0, index=0)
    futures = clips.futures(clip, at_frame=10, frames=10, count=2, seed=1)
    torch.testing.assert_close(futures, clip.video[:, None, 10:].expand_as(futures))


# ---- rendering ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", ["add", "max"])
def test_rendering_equals_a_plain_loop_and_leaves_the_glyphs_alone(overlap):
    generator = generator_for("render")
    glyphs = torch.rand(2, 3, 5, 7, generator=generator)
    y, x = (torch.randint(high, (2, 4, 3), generator=generator) for high in (12, 10))  # within 16 - 5 and 16 - 7
    expected = torch.zeros(2, 4, 1, 16, 16)
    for b in range(2):
        for t in range(4):
            for d in range(3):
                patch = expected[b, t, 0, y[b, t, d] : y[b, t, d] + 5, x[b, t, d] : x[b, t, d] + 7]
                patch.copy_(patch + glyphs[b, d] if overlap == "add" else torch.maximum(patch, glyphs[b, d]))
    before = glyphs.clone()
    frames = render(glyphs, torch.stack([y, x], dim=-1), 16, overlap)
    torch.testing.assert_close(frames, expected.clamp(max=1) * 2 - 1)
    assert torch.equal(glyphs, before)


# ---- clips -------------------------------------------------------------------------------------------


def test_a_batch_is_a_video_of_the_configs_size_with_labels():
    for kind in ("stochastic", "deterministic"):
        for digits, size in ((1, 64), (2, 64), (1, 32)):
            config = MovingMNISTConfig(kind=kind, image_size=size, digits=digits, frames=6, strokes=1.0)
            batch = videos(config).batch(3, seed=0, index=0)
            assert batch.video.shape == (3, 6, 1, size, size) and batch.video.dtype == torch.float32
            assert batch.video.min() == -1 and 0.9 < batch.video.max() <= 1
            assert batch.labels.shape == (3, digits) and batch.maps is None


def test_clips_depend_on_split_seed_and_index_alone_and_leave_the_global_generator_alone():
    first, second = videos(), videos()
    expected = first.batch(4, seed=3, index=7).video
    second.batch(4, seed=3, index=6)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert torch.equal(second.batch(4, seed=3, index=7).video, expected)
    assert torch.equal(torch.get_rng_state(), before)
    for others in (second.batch(4, 3, 8), second.batch(4, 4, 7), videos(split="test").batch(4, 3, 7)):
        assert not torch.equal(others.video, expected)


def test_a_longer_clip_begins_like_a_shorter_one():
    short, long = (videos(MovingMNISTConfig(digits=1, frames=n, strokes=1.0)).batch(4, 0, 0).video for n in (5, 12))
    assert torch.equal(long[:, :5], short)


def test_a_sample_is_the_batch_with_its_ground_truth():
    clips = videos()
    clip, batch = clips.sample(5, seed=1, index=2), clips.batch(5, seed=1, index=2)
    assert torch.equal(clip.video, batch.video) and torch.equal(clip.labels, batch.labels)
    assert torch.equal(clip.labels, clips.bank.labels[clip.glyphs])
    assert clip.states.position.shape == (5, 9, 2, 2)
    assert torch.equal(clip.positions, clip.states.position[:, :8].clamp(0, LAST))
    assert torch.equal(render(clips.bank.pictures(clip.glyphs), clip.positions), clip.video)


def test_a_segmentation_names_the_digit_of_every_pixel_of_ink_and_the_higher_one_in_front():
    clips = videos(MovingMNISTConfig(digits=1, frames=3, strokes=1.0), maps=("digits",))
    batch = clips.batch(4, seed=0, index=0)
    for video, level, label in zip(batch.video, (batch.maps[:, 0] + 1) / 2, batch.labels, strict=True):
        assert torch.equal(level > 0, video > 0)
        torch.testing.assert_close(level[level > 0].unique(), (label + 1) / 10)
    clips = videos(MovingMNISTConfig(digits=2, frames=6, strokes=1.0))
    clip = clips.sample(6, seed=0, index=0)
    for label, level in zip(clip.labels, ((clips.segmentation(clip) + 1) * 5 - 1).round().long(), strict=True):
        assert set(level.unique().tolist()) <= {-1, *label.tolist()} and label.max() in level  # -1 is the background
    with pytest.raises(ValueError, match="maps are digits, depth; Moving MNIST has none but digits"):
        videos(maps=("digits", "depth"))


def test_mixed_clips_are_batches_of_two_digits_and_one_with_chance_and_without():
    mixed = videos(MovingMNISTConfig(kind="mixed", frames=3, strokes=1.0))
    kinds = {(part.config.kind, part.config.digits) for part in mixed.mixture}
    assert kinds == {("stochastic", 2), ("deterministic", 2), ("stochastic", 1)}
    for index, part in enumerate(mixed.mixture):
        assert torch.equal(mixed.batch(2, 0, index).video, part.batch(2, 0, index).video)


def test_every_so_many_batches_one_has_a_digit_less():
    config = replace(SYNTHETIC, fewer_every=3)
    labels = [videos(config).batch(2, seed=0, index=index).labels for index in range(6)]
    assert [label.shape[1] for label in labels] == [2, 2, 1, 2, 2, 1]
    for wrong in ({"digits": 1}, {"kind": "mixed"}):
        with pytest.raises(ValueError, match="fewer_every is 3 for kind"):
            replace(config, **wrong)


def test_wrong_arguments_are_refused():
    for fields, message in (
        ({"kind": "chaotic"}, "kind is 'chaotic'"),
        ({"digits": 0}, "digits is 0"),
        ({"strokes": 1.5}, "strokes is 1.5"),
        ({"image_size": 3}, "image_size is 3"),
    ):
        with pytest.raises(ValueError, match=message):
            MovingMNISTConfig(**fields)
    with pytest.raises(ValueError, match="overlap is 'mean'"):
        render(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 2, dtype=torch.int64), 8, "mean")
    with pytest.raises(ValueError, match="one frame shows no velocity"):
        videos().futures(videos().sample(1, 0, 0), at_frame=1, frames=2, count=1, seed=0)


# ---- simulated futures -------------------------------------------------------------------------------


def test_simulated_futures_follow_the_clip_until_a_wall_and_then_differ():
    clips = videos(MovingMNISTConfig(digits=1, frames=10, strokes=1.0))
    clip = clips.sample(40, seed=0, index=0)
    futures = clips.futures(clip, at_frame=4, frames=6, count=3, seed=0)
    assert futures.shape == (40, 3, 6, 1, 64, 64)
    hit = (clip.states.position < 0) | (clip.states.position > LAST)
    free = ~hit[:, 3:10].any(dim=(1, 2, 3))  # no wall from the prompt's last frame on
    assert 2 < free.sum() < 38
    assert torch.equal(futures[free], clip.video[free][:, None, 4:].expand(-1, 3, -1, -1, -1, -1))
    differ = (futures[:, 0] != futures[:, 1]).flatten(1).any(dim=1)
    assert differ[hit[:, 4:9].any(dim=(1, 2, 3))].float().mean() > 0.8
    assert torch.equal(futures, clips.futures(clip, at_frame=4, frames=6, count=3, seed=0))
    assert not torch.equal(futures, clips.futures(clip, at_frame=4, frames=6, count=3, seed=1))


def test_a_velocity_drawn_in_the_last_prompt_frame_has_no_part_in_simulated_futures():
    clips = videos(MovingMNISTConfig(digits=1, frames=12, strokes=1.0))
    clip = clips.sample(64, seed=0, index=0)
    hits = ((clip.states.position[:, 5] < 0) | (clip.states.position[:, 5] > LAST)).any(dim=(1, 2))
    futures = clips.futures(clip, at_frame=6, frames=1, count=16, seed=0)[hits]
    assert len(futures) > 0
    for of_one_clip in futures:
        assert len(of_one_clip.flatten(1).unique(dim=0)) > 4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_device_shows_the_same_clips():
    for kind in ("stochastic", "deterministic"):
        config = MovingMNISTConfig(kind=kind, digits=2, frames=6, strokes=1.0)
        on_cpu, on_cuda = (videos(config, device=device).batch(4, 0, 0) for device in ("cpu", "cuda"))
        assert on_cuda.video.is_cuda and on_cuda.labels.is_cuda
        torch.testing.assert_close(on_cpu.video, on_cuda.video.cpu())


# ---- the app's examples ------------------------------------------------------------------------------


def test_example_clips_show_digits_that_move_all_the_time_and_are_always_the_same():
    assert [len(example.digits) for example in EXAMPLES] == 5 * [2] + 5 * [1]
    for example in EXAMPLES:
        clip = clip_of(example)
        assert clip.shape == (1, example.frames, 1, 64, 64) and 10 <= example.frames <= 40, example.name
        assert (clip[:, 1:] != clip[:, :-1]).flatten(2).any(dim=2).all(), example.name
        assert torch.equal(clip, clip_of(example)), example.name
