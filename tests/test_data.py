from __future__ import annotations

import gzip
import hashlib
import struct
import urllib.error

import numpy as np
import pytest
import torch

import train.data
from train.data.bouncing import (
    TOP_SPEED,
    DigitState,
    deterministic_moves,
    deterministic_start,
    render,
    stochastic_moves,
    stochastic_start,
)
from train.data.digits import MNIST_MD5, digit_bank, mnist
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.data.strokes import STROKES, draw_digits, font
from train.make_examples import PROMPTS, draw
from train.seeding import generator_for

DRAWN_ONLY = MovingMNISTConfig(kind="stochastic", digits=2, frames=8, strokes=1.0)
LAST = 64 - 32 - 1  # the last place of a digit in the stochastic world


def videos(world: MovingMNISTConfig = DRAWN_ONLY, split: str = "train", **kwargs) -> MovingMNIST:
    return MovingMNIST(world, None, split, count_strokes=60, **kwargs)


@pytest.fixture(scope="module")
def long_walk():
    generator = generator_for("walk")
    start = stochastic_start(200, 2, generator)
    return stochastic_moves(start, 60, generator)


@pytest.fixture
def scans(tmp_path):
    """A folder of tiny idx files and their md5 table; the images of train are dark, those of test bright."""
    table = {}
    for name, low, high, seed in (("train", 0, 100, 0), ("t10k", 150, 256, 1)):
        rng = np.random.default_rng(seed)
        images = rng.integers(low, high, (20, 28, 28), dtype=np.uint8)
        labels = np.arange(20, dtype=np.uint8) % 10
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{values.ndim}i", 0, 8, values.ndim, *values.shape)
            data = gzip.compress(header + values.tobytes())
            file = tmp_path / f"{name}-{kind}-ubyte.gz"
            file.write_bytes(data)
            table[file.name] = hashlib.md5(data).hexdigest()
    return tmp_path, table


# stochastic motion


def test_digits_never_leave_the_canvas(long_walk):
    assert long_walk.positions.dtype == torch.int64
    assert long_walk.positions.shape == (200, 60, 2, 2)
    assert long_walk.positions.min() == 0
    assert long_walk.positions.max() == LAST


def test_velocities_are_whole_pixels_up_to_four_and_all_of_them_occur(long_walk):
    assert set(long_walk.states.velocity.unique().tolist()) == set(range(-TOP_SPEED, TOP_SPEED + 1))


def test_a_digit_keeps_its_velocity_until_it_meets_a_wall(long_walk):
    before, velocity = long_walk.states
    inside = ((before >= 0) & (before <= LAST)).all(dim=-1)[:, :-1]  # (B, T, D)
    assert inside.float().mean() > 0.5
    assert torch.equal(velocity[:, 1:][inside], velocity[:, :-1][inside])
    assert torch.equal(long_walk.positions[inside], before[:, :-1][inside])


@pytest.mark.parametrize("axis", [0, 1])
def test_a_wall_sends_the_axis_that_hit_away_and_redraws_the_other(long_walk, axis):
    before, after = long_walk.states.position[:, :-1], long_walk.states.velocity[:, 1:]
    other_hit = (before[..., 1 - axis] < 0) | (before[..., 1 - axis] > LAST)
    low = (before[..., axis] < 0) & ~other_hit
    high = (before[..., axis] > LAST) & ~other_hit
    assert set(after[low][:, axis].tolist()) == {1, 2, 3, 4}
    assert set(after[high][:, axis].tolist()) == {-1, -2, -3, -4}
    assert set(after[low | high][:, 1 - axis].tolist()) == set(range(-4, 5))


def test_in_a_corner_the_x_wall_decides_last():
    start = DigitState(torch.full((2000, 1, 2), -2), torch.full((2000, 1, 2), -3))
    after = stochastic_moves(start, 1, generator_for("corner")).states.at(1).velocity
    assert set(after[..., 1].unique().tolist()) == {1, 2, 3, 4}
    assert set(after[..., 0].unique().tolist()) == set(range(-4, 5))


def test_redrawn_velocities_are_uniform():
    start = DigitState(torch.full((9000, 1, 2), 10), torch.zeros(9000, 1, 2, dtype=torch.int64))
    start.position[..., 1] = -1
    after = stochastic_moves(start, 1, generator_for("uniform")).states.at(1).velocity
    assert (after[..., 1].flatten().bincount(minlength=5)[1:] - 2250).abs().max() < 200
    assert ((after[..., 0] + 4).flatten().bincount(minlength=9) - 1000).abs().max() < 150


def test_stochastic_moves_equal_a_plain_loop_over_one_digit():
    start = DigitState(torch.tensor([[[3, 28]]]), torch.tensor([[[-2, 4]]]))
    moves = stochastic_moves(start, 40, generator_for("loop"))
    drawn = torch.randint(36, (40, 2), generator=generator_for("loop")).tolist()
    (y, x), (v_y, v_x) = (3, 28), (-2, 4)
    for t, (a, b) in enumerate(drawn):
        if y < 0 or y > LAST:
            v_y, v_x = (a % 4 + 1) * (1 if y < 0 else -1), b // 4 - 4
        if x < 0 or x > LAST:
            v_x, v_y = (b % 4 + 1) * (1 if x < 0 else -1), a // 4 - 4
        y, x = min(max(y, 0), LAST), min(max(x, 0), LAST)
        assert moves.positions[0, t, 0].tolist() == [y, x]
        y, x = y + v_y, x + v_x


def test_going_on_from_the_last_state_equals_one_long_run():
    start = stochastic_start(20, 2, generator_for("start"))
    whole = stochastic_moves(start, 30, generator_for("run"))
    generator = generator_for("run")
    first = stochastic_moves(start, 12, generator)
    rest = stochastic_moves(first.states.at(-1), 18, generator)
    assert torch.equal(torch.cat([first.positions, rest.positions], dim=1), whole.positions)


def test_the_count_of_random_numbers_does_not_depend_on_what_happens():
    calm = DigitState(torch.full((3, 2, 2), 10), torch.zeros(3, 2, 2, dtype=torch.int64))
    wild = DigitState(torch.full((3, 2, 2), -1), torch.full((3, 2, 2), -4))
    ends = []
    for state in (calm, wild):
        generator = generator_for("count")
        stochastic_moves(state, 10, generator)
        ends.append(torch.rand(1, generator=generator))
    assert torch.equal(*ends)


# deterministic motion


def test_deterministic_digits_have_constant_speed_and_are_reflected():
    moves = deterministic_moves(deterministic_start(100, 2, generator_for("ball")), 50)
    position, velocity = moves.states
    torch.testing.assert_close(velocity.norm(dim=-1), torch.full(velocity.shape[:-1], 0.1))
    torch.testing.assert_close(velocity.abs(), velocity[:, :1].abs().expand_as(velocity))
    free = (position[:, 1:] > 0) & (position[:, 1:] < 1)
    torch.testing.assert_close(position.diff(dim=1)[free], velocity[:, :-1][free])
    at_low, at_high = position[:, 1:] == 0, position[:, 1:] == 1
    assert at_low.any() and (velocity[:, 1:][at_low] >= 0).all()
    assert at_high.any() and (velocity[:, 1:][at_high] <= 0).all()
    assert moves.positions.min() >= 0 and moves.positions.max() <= 64 - 28


def test_the_deterministic_world_has_one_future():
    clips = videos(MovingMNISTConfig(kind="deterministic", digits=2, frames=20, strokes=1.0))
    clip = clips.sample(3, seed=0, index=0)
    futures = clips.futures(clip, at_frame=10, frames=10, count=2, seed=1)
    torch.testing.assert_close(futures, clip.video[:, None, 10:].expand_as(futures))


# drawing


@pytest.mark.parametrize("overlap", ["add", "max"])
def test_render_equals_a_plain_loop(overlap):
    generator = generator_for("render")
    glyphs = torch.rand(2, 3, 5, 7, generator=generator)
    positions = torch.stack(
        [torch.randint(high, (2, 4, 3), generator=generator) for high in (12, 10)], dim=-1
    )  # y fits 16 - 5, x fits 16 - 7
    expected = torch.zeros(2, 4, 1, 16, 16)
    for b in range(2):
        for t in range(4):
            for d in range(3):
                y, x = positions[b, t, d].tolist()
                place = expected[b, t, 0, y : y + 5, x : x + 7]
                place.copy_(place + glyphs[b, d] if overlap == "add" else torch.maximum(place, glyphs[b, d]))
    kept = glyphs.clone()
    torch.testing.assert_close(render(glyphs, positions, 16, overlap), expected.clamp(max=1) * 2 - 1)
    assert torch.equal(glyphs, kept)


def test_an_unknown_overlap_is_refused():
    with pytest.raises(ValueError, match="overlap is 'mean'"):
        render(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 1, 2, dtype=torch.int64), 8, "mean")


def test_drawn_digits_have_the_proportions_of_mnist():
    images = draw_digits(torch.arange(200) % 10, generator_for("ink"), size=28)
    assert images.shape == (200, 28, 28)
    assert images.amin() == 0 and images.amax() == 1
    assert images[:, [0, -1]].max() == 0 and images[:, :, [0, -1]].max() == 0, "a stroke touches the border"
    tall = (images.amax(dim=2) > 0.5).sum(dim=1).float()
    assert 16 < tall.mean() < 24 and tall.min() > 12
    assert 0.08 < images.mean() < 0.16  # MNIST: 0.13


def test_drawn_digits_of_all_classes_are_distinct():
    """A nearest-neighbour classifier recognizes drawn digits that it has not seen."""
    labels = torch.arange(1100) % 10
    images = draw_digits(labels, generator_for("distinct"), size=28).flatten(1)
    known, asked = images[:1000], images[1000:]
    found = labels[torch.cdist(asked, known).argmin(dim=1)]
    assert (found == labels[1000:]).float().mean() > 0.93


def test_no_two_drawn_digits_are_alike_and_all_variants_occur():
    images = draw_digits(torch.full((40,), 4), generator_for("hands"))
    assert len(images.flatten(1).unique(dim=0)) == 40
    assert font().count.tolist() == [len(STROKES[digit]) for digit in range(10)]


def test_how_digits_are_chunked_changes_nothing():
    labels = torch.arange(30) % 10
    images = [draw_digits(labels, generator_for("chunks"), chunk=chunk) for chunk in (4, 30)]
    torch.testing.assert_close(*images)


def test_labels_that_are_no_digits_are_refused():
    with pytest.raises(ValueError, match=r"labels are \[3, 10\]"):
        draw_digits(torch.tensor([3, 10]), generator_for("x"))


# MNIST files


def test_mnist_is_read_from_a_folder(scans):
    folder, table = scans
    images, labels = mnist(folder, "train", table)
    assert images.shape == (20, 28, 28) and images.dtype == torch.uint8 and images.max() < 100
    assert labels.tolist() == [i % 10 for i in range(20)]


def test_a_wrong_checksum_is_one_clear_sentence(scans):
    folder, table = scans
    damaged = folder / "train-labels-idx1-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"train-labels.*has md5 \w+, expected \w+; fetch it again") as error:
        mnist(folder, "train", table)
    assert "\n" not in str(error.value)


def test_a_missing_file_says_where_it_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*train-images.*is missing; put the four"):
        mnist(tmp_path, "train")


def test_a_file_that_is_not_idx_is_refused(scans):
    folder, table = scans
    file = folder / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(b"not an idx file"))
    wrong = table | {file.name: hashlib.md5(file.read_bytes()).hexdigest()}
    with pytest.raises(ValueError, match=r"t10k-images.* is not an idx file"):
        mnist(folder, "test", wrong)


def test_a_download_lands_in_the_cache_and_is_used_from_there(scans, tmp_path, monkeypatch):
    folder, table = scans
    asked = []

    def fetch(url, timeout):
        asked.append(url)
        return (folder / url.rpartition("/")[2]).open("rb")

    monkeypatch.setenv("STT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train.data.digits.urllib.request, "urlopen", fetch)
    first, second = mnist(None, "test", table), mnist(None, "test", table)
    assert torch.equal(first.images, second.images)
    assert len(asked) == 2
    cached = sorted(path.name for path in (tmp_path / "cache/mnist").iterdir())
    assert cached == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def test_a_damaged_download_never_stays_in_the_cache(scans, tmp_path, monkeypatch):
    folder, _ = scans
    monkeypatch.setenv("STT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        train.data.digits.urllib.request,
        "urlopen",
        lambda url, timeout: (folder / url.rpartition("/")[2]).open("rb"),
    )
    with pytest.raises(ValueError, match=r"has md5"):
        mnist(None, "test", MNIST_MD5)
    assert not list((tmp_path / "cache/mnist").iterdir())


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    def offline(url, timeout):
        raise urllib.error.URLError("no route")

    monkeypatch.setenv("STT_CACHE", str(tmp_path))
    monkeypatch.setattr(train.data.digits.urllib.request, "urlopen", offline)
    with pytest.raises(ConnectionError, match=r"put the file into .*or train on drawn digits alone"):
        mnist(None, "train")


# banks and clips


def test_a_bank_mixes_scanned_and_drawn_digits(scans):
    folder, table = scans
    bank = digit_bank(folder, "train", strokes=0.25, size=32, count_strokes=30, md5=table)
    assert bank.images.shape == (50, 32, 32) and bank.images.dtype == torch.uint8
    assert bank.labels.shape == (50,) and bank.scanned == 20
    ids = bank.choose(2000, 2, generator_for("choose"))
    assert ids.min() == 0 and ids.max() == 49
    assert abs((ids >= 20).float().mean() - 0.25) < 0.03
    pictures = bank.pictures(ids[:4])
    assert pictures.shape == (4, 2, 32, 32) and pictures.min() >= 0 and pictures.max() <= 1


def test_a_bank_of_scans_alone_draws_nothing(scans):
    folder, table = scans
    bank = digit_bank(folder, "test", strokes=0.0, md5=table)
    assert len(bank.labels) == bank.scanned == 20
    assert bank.choose(100, 1, generator_for("choose")).max() < 20


def test_train_and_test_share_no_digit(scans):
    folder, table = scans
    banks = [digit_bank(folder, split, count_strokes=40, md5=table) for split in ("train", "test")]
    train_digits, test_digits = ({image.numpy().tobytes() for image in bank.images} for bank in banks)
    assert len(train_digits) == len(test_digits) == 60
    assert not train_digits & test_digits
    assert banks[0].images[:20].max() < 100 <= banks[1].images[:20].min()


@pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
@pytest.mark.parametrize("digits", [1, 2])
def test_a_batch_is_a_video(kind, digits):
    batch = videos(MovingMNISTConfig(kind=kind, digits=digits, frames=6, strokes=1.0)).batch(3, seed=0, index=0)
    assert batch.shape == (3, 6, 1, 64, 64) and batch.dtype == torch.float32
    assert batch.min() == -1 and 0.9 < batch.max() <= 1


def test_a_smaller_world_has_smaller_digits():
    batch = videos(MovingMNISTConfig(image_size=32, digits=1, frames=4, strokes=1.0)).batch(2, seed=0, index=0)
    assert batch.shape == (2, 4, 1, 32, 32)


def test_clips_depend_on_seed_and_index_alone():
    first, second = videos(), videos()
    wanted = first.batch(4, seed=3, index=7)
    second.batch(4, seed=3, index=6)
    torch.manual_seed(123)
    assert torch.equal(second.batch(4, seed=3, index=7), wanted)
    assert not torch.equal(second.batch(4, seed=3, index=8), wanted)
    assert not torch.equal(second.batch(4, seed=4, index=7), wanted)
    assert not torch.equal(videos(split="test").batch(4, seed=3, index=7), wanted)


def test_making_clips_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    videos().batch(2, seed=0, index=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_longer_clip_begins_like_a_shorter_one():
    short, long = (
        videos(MovingMNISTConfig(digits=1, frames=n, strokes=1.0)).batch(4, seed=0, index=0) for n in (5, 12)
    )
    assert torch.equal(long[:, :5], short)


def test_a_sample_tells_what_its_clip_shows():
    clips = videos()
    clip = clips.sample(5, seed=1, index=2)
    assert torch.equal(clip.video, clips.batch(5, seed=1, index=2))
    assert torch.equal(clip.labels, clips.bank.labels[clip.glyphs])
    assert clip.states.position.shape == (5, 9, 2, 2)
    places = clip.states.position[:, :8].clamp(0, LAST)
    assert torch.equal(render(clips.bank.pictures(clip.glyphs), places), clip.video)


def test_a_segmentation_names_the_digit_of_every_pixel_of_ink(scans):
    videos = MovingMNIST(MovingMNISTConfig(digits=1, frames=3, strokes=1.0), None, "test", count_strokes=40)
    clip = videos.sample(4, seed=0, index=0)
    levels = (videos.segmentation(clip) + 1) / 2
    for video, level, label in zip(clip.video, levels, clip.labels, strict=True):
        assert torch.equal(level > 0, video > 0)
        torch.testing.assert_close(level[level > 0].unique(), (label + 1) / 10)


def test_where_digits_overlap_the_higher_one_is_segmented():
    videos = MovingMNIST(MovingMNISTConfig(digits=2, frames=6, strokes=1.0), None, "test", count_strokes=40)
    clip = videos.sample(6, seed=0, index=0)
    named = ((videos.segmentation(clip) + 1) * 5 - 1).round().long()  # -1 for none
    for label, level in zip(clip.labels, named, strict=True):
        assert set(level.unique().tolist()) <= {-1, *label.tolist()} and label.max() in level


def test_true_futures_go_on_legally_and_differ_only_after_a_wall():
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


def test_a_velocity_drawn_in_the_last_prompt_frame_is_not_known_to_the_futures():
    clips = videos(MovingMNISTConfig(digits=1, frames=12, strokes=1.0))
    clip = clips.sample(64, seed=0, index=0)
    hits = ((clip.states.position[:, 5] < 0) | (clip.states.position[:, 5] > LAST)).any(dim=(1, 2))
    futures = clips.futures(clip, at_frame=6, frames=1, count=16, seed=0)[hits]
    assert len(futures) > 0
    for of_one_clip in futures:
        assert len(of_one_clip.flatten(1).unique(dim=0)) > 4


def test_futures_of_a_single_frame_are_refused():
    clips = videos()
    with pytest.raises(ValueError, match="one frame shows no velocity"):
        clips.futures(clips.sample(1, seed=0, index=0), at_frame=1, frames=2, count=1, seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "chaotic"}, "kind is 'chaotic'"),
        ({"digits": 0}, "digits is 0"),
        ({"strokes": 1.5}, "strokes is 1.5"),
        ({"image_size": 3}, "image_size is 3"),
    ],
)
def test_a_world_checks_its_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        MovingMNISTConfig(**fields)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
def test_every_device_shows_the_same_clips(kind):
    world = MovingMNISTConfig(kind=kind, digits=2, frames=6, strokes=1.0)
    batches = [videos(world, device=device).batch(4, seed=0, index=0) for device in ("cpu", "cuda")]
    assert batches[1].is_cuda
    torch.testing.assert_close(batches[0], batches[1].cpu())


# example clips


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_an_example_clip_shows_one_digit_that_moves(prompt):
    clip = draw(prompt)
    assert clip.shape == (1, prompt.frames, 1, 64, 64)
    assert 10 <= prompt.frames <= 40
    assert (clip[:, 1:] != clip[:, :-1]).flatten(2).any(dim=2).all()
    assert torch.equal(clip, draw(prompt))


def test_half_of_the_example_clips_show_two_digits_and_come_first():
    assert [len(prompt.movers) for prompt in PROMPTS] == 5 * [2] + 5 * [1]


def test_a_mixed_world_has_batches_of_two_digits_and_one_with_chance_and_without():
    mixed = MovingMNIST(MovingMNISTConfig(kind="mixed", frames=3, strokes=1.0), None, "train", count_strokes=40)
    kinds = {(part.world.kind, part.world.digits) for part in mixed.mixture}
    assert kinds == {("stochastic", 2), ("deterministic", 2), ("stochastic", 1)}
    for index, part in enumerate(mixed.mixture):
        assert torch.equal(mixed.batch(2, 0, index), part.batch(2, 0, index))
    assert len({part.batch(2, 0, 9).shape for part in mixed.mixture}) == 1
