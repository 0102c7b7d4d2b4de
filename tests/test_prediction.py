"""One prediction: which frames the model sees, what is measured, what is said of the clip."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import stt
from stt.api import Condition, Sampling, Surprise
from stt.prediction import IMAGINED, LED, ONE_FUTURE, UNUSUAL, Progress, conclude, notes, predict, read_prompt
from stt.request import Refused
from stt.results import Result
from stt.ui.player import shown_run
from stt.video import read_clip
from tests.conftest import TINY_LAYERED, built, lively
from tests.ui_fixtures import asked, dreamer, filler, moving_dot, pusher, run_of
from tests.video_fixtures import lossless


@pytest.fixture
def clip(tmp_path):
    return moving_dot(tmp_path / "in.mp4")


@pytest.fixture
def long_clip(tmp_path):
    return moving_dot(tmp_path / "long.mp4", frames=11)


def seen_by(tiny, clip) -> np.ndarray:
    """The frames of a clip as the model sees them (T, H, W, 3) uint8."""
    return stt.video.to_uint8(read_clip(clip, size=16, channels=1).video)


# ---- frame after frame -----------------------------------------------------------------------------------


def test_a_prediction_shows_every_frame_and_ends_with_its_run(tiny, clip):
    seen = [(len(e.frames), e.text()) if isinstance(e, Progress) else e for e in predict(asked(clip), tiny)]
    *progress, run = seen
    assert [done for done, _ in progress] == [0, 1, 2, 3]
    assert progress[1][1].startswith("frame 1 of 3, ")
    assert run.futures.shape == (3, 3, 16, 16, 3) and run.futures.dtype == np.uint8
    np.testing.assert_array_equal(run.given, seen_by(tiny, clip))


def test_futures_are_those_of_a_rollout_with_the_same_seeds_and_settings(tiny, clip):
    run = run_of(tiny, clip, temperature=0.7)
    video = read_clip(clip, size=16, channels=1).video
    expected = stt.predict(tiny, video, 3, Sampling(temperature=0.7), seeds=[7, 8, 9])
    for future, other in zip(run.futures, expected, strict=True):
        np.testing.assert_array_equal(future, stt.video.to_uint8(other))


def test_the_seed_under_a_future_gives_it_again_alone(tiny, clip):
    together, alone = run_of(tiny, clip).futures, run_of(tiny, clip, seed=9, futures=1).futures
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 1
    assert np.abs(together[0].astype(int) - alone[0]).max() > 1


def test_closing_at_any_frame_stops_the_work(tiny, clip, monkeypatch):
    steps = []
    original = tiny.step
    monkeypatch.setattr(tiny, "step", lambda *arguments: steps.append(1) or original(*arguments))
    events = predict(asked(clip, frames=40), tiny)
    for _ in range(4):
        next(events)
    events.close()
    assert len(steps) == 3


def test_who_computes_for_too_long_is_told_how_far_it_came(tiny, clip):
    with pytest.raises(Refused, match="0 seconds: 1 of 3 frames were done; choose fewer frames or futures"):
        list(predict(asked(clip), tiny, deadline=0.0))
    *_, run = predict(asked(clip, frames=1), tiny, deadline=0.0)
    assert run.futures.shape[1] == 1  # the last frame is never too late


# ---- which frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1, 4, 6, 9, 11])
def test_the_future_starts_where_it_is_asked_to_and_the_truth_is_what_follows(tiny, long_clip, start):
    run, frames = run_of(tiny, long_clip, prompt_frames=start), seen_by(tiny, long_clip)
    np.testing.assert_array_equal(run.given, frames[max(start - 6, 0) : start])  # it looks back on six
    np.testing.assert_array_equal(run.truth, frames[start : start + 3])
    alone = stt.predict(tiny, read_clip(long_clip, size=16, channels=1).video[:start], 3, seeds=[8])
    assert np.abs(run.futures[1].astype(int) - stt.video.to_uint8(alone[0])).max() <= 1
    assert run.report["settings"]["prompt_frames"] == start
    assert run.report["used_frames"] == min(start, 6) and run.report["clip_frames"] == 11


def test_left_open_the_future_starts_after_the_last_frame(tiny, long_clip):
    run = run_of(tiny, long_clip)
    np.testing.assert_array_equal(run.given, seen_by(tiny, long_clip)[-6:])
    assert len(run.truth) == 0
    assert run.report["settings"]["prompt_frames"] == 11


@pytest.mark.parametrize(("changes", "frames"), [({"prompt_frames": 12}, 11), ({"prompt_frames": 7, "stride": 2}, 6)])
def test_a_start_behind_the_clips_end_is_refused_with_both_numbers(tiny, long_clip, changes, frames):
    sentence = f"Frames used as prompt is {changes['prompt_frames']}, but the clip has {frames}; choose at most"
    with pytest.raises(Refused, match=sentence):
        run_of(tiny, long_clip, **changes)


def test_a_stride_gives_the_model_every_nth_frame_of_the_file(tiny, tmp_path):
    levels = np.arange(0, 250, 25, dtype=np.uint8)
    flat = np.broadcast_to(levels[:, None, None, None], (10, 16, 16, 3)).copy()
    run = run_of(tiny, lossless(tmp_path / "levels.mp4", flat), stride=3, prompt_frames=2)
    assert np.abs(run.given[:, 8, 8, 0].astype(int) - [0, 75]).max() <= 2
    assert np.abs(run.truth[:, 8, 8, 0].astype(int) - [150, 225]).max() <= 2
    assert run.report["clip_frames"] == 4
    assert run.fps == pytest.approx(10 / 3, abs=1e-3)


def test_a_padded_clip_shows_all_of_it_between_black_bars_and_a_cropped_one_its_middle(tiny, tmp_path):
    wide = np.full((4, 32, 64, 3), 200, np.uint8)
    wide[:, :, :16] = 100  # which cropping cuts off
    file = lossless(tmp_path / "wide.mp4", wide)
    cropped, padded = (run_of(tiny, file, fit=fit).given[..., 0].astype(int) for fit in ("crop", "pad"))
    assert np.abs(cropped - 200).max() <= 2
    assert padded[:, :4].max() == padded[:, 12:].max() == 0
    assert np.abs(padded[:, 5:11, :3] - 100).max() <= 3
    assert np.abs(padded[:, 5:11, 5:] - 200).max() <= 3


@pytest.mark.parametrize(("of_clip", "wanted", "made"), [(10, 0, 10), (60, 0, 30), (60, 48, 48), (10, 2.5, 2.5)])
def test_videos_have_the_clips_pace_or_the_one_asked_for(tiny, tmp_path, of_clip, wanted, made):
    file = lossless(tmp_path / "clip.mp4", np.zeros((6, 16, 16, 3), np.uint8), fps=of_clip)
    run = run_of(tiny, file, fps=wanted)
    assert run.fps == run.report["fps"] == made
    played_slower = f"The clip has {of_clip} frames a second; it is played at 30." in run.report["notes"]
    assert played_slower == (of_clip > 30 and not wanted)


# ---- what is measured ------------------------------------------------------------------------------------


def test_the_report_holds_what_makes_a_result_reproducible(tiny, clip):
    tiny.weights = "tiny@1"
    report = run_of(tiny, clip).report
    assert report["settings"] == asked(clip).settings() | {"prompt_frames": 5}
    assert report["seeds"] == [7, 8, 9]
    assert (report["family"], report["weights"]) == ("stt", "tiny@1")
    assert report["clip"] == {"name": "in.mp4", "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}
    assert report["ms_per_frame"] > 0 and report["total_seconds"] >= report["first_frame_seconds"] > 0


def test_scores_are_those_of_a_plain_calculation(tiny, long_clip):
    """On frames of 8 bits, so up to half a level off."""
    run = run_of(tiny, long_clip, prompt_frames=9)
    scores, truth = run.report["scores"], run.truth[..., 0] / 255
    assert len(truth) == 2  # of three that were predicted

    def error(video: np.ndarray) -> list[float]:
        return [100 * np.sqrt(np.mean((frame - true) ** 2)) for frame, true in zip(video, truth, strict=True)]

    held = np.repeat(run.given[-1:, ..., 0] / 255, 2, axis=0)
    np.testing.assert_allclose(scores["copy"]["error"], error(held), atol=0.01)
    for k, future in enumerate(run.futures[:, :2, ..., 0] / 255):
        np.testing.assert_allclose(scores["futures"]["error"][k], error(future), atol=0.2)
        np.testing.assert_allclose(scores["futures"]["ssim"][k], list(map(ssim, future, truth)), atol=0.01)
    np.testing.assert_allclose(scores["copy"]["ssim"], list(map(ssim, held, truth)), atol=1e-3)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    blur = lambda x: cv2.GaussianBlur(x, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT_101)  # noqa: E731
    ma, mb = blur(a), blur(b)
    va, vb, vab = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    return float(np.mean((2 * ma * mb + 1e-4) * (2 * vab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))))


def test_a_perfect_prediction_has_no_error_and_copying_a_still_clip_is_one(tiny, tmp_path):
    still = lossless(tmp_path / "still.mp4", np.full((8, 16, 16, 3), 60, np.uint8))

    def copying(model, video, truth, ending, frames, sampling, seeds, condition):
        yield from (frame.expand(len(seeds), -1, -1, -1) for frame in truth)

    *_, run = predict(asked(still, prompt_frames=5), tiny, copying)
    scores = run.report["scores"]
    assert scores["futures"]["error"] == [[0.0] * 3] * 3
    np.testing.assert_allclose(scores["futures"]["ssim"], 1, atol=2e-4)
    assert scores["copy"]["error"] == [0.0] * 3


def test_the_spread_of_each_frame_is_the_deviation_over_futures(tiny, clip):
    run = run_of(tiny, clip)
    deviation = (run.futures[..., 0] / 255).std(axis=0)  # (T, H, W)
    expected = np.sqrt((deviation**2).mean(axis=(1, 2)))
    assert expected.min() > 0.01
    np.testing.assert_allclose(run.report["spread"], expected, atol=2e-3)
    assert run_of(tiny, clip, futures=1).report["spread"] == [0, 0, 0]
    assert max(run_of(tiny, clip, temperature=0).report["spread"]) < 1e-3


def test_the_surprise_is_the_models_of_the_prompt_and_what_followed(tiny, long_clip):
    run = run_of(tiny, long_clip, prompt_frames=8)
    video = read_clip(long_clip, size=16, channels=1).video[2:11]  # six before the future, three after its start
    surprise = tiny.surprise(video[None])
    np.testing.assert_allclose(run.report["surprise"]["bits"], surprise.bits[0], atol=1e-4)
    np.testing.assert_allclose(run.surprise, surprise.where[0], atol=1e-4)
    assert len(run.surprise) == len(run.given) + len(run.truth) - 1


def test_without_a_truth_there_are_no_scores_and_without_a_likelihood_no_surprise(tiny, clip, tmp_path):
    run = run_of(tiny, clip)
    assert run.report["scores"] is None
    assert len(run.report["surprise"]["bits"]) == 4
    layered = lively(built(TINY_LAYERED)).eval()
    run = run_of(layered, clip, prompt_frames=3)
    assert run.report["surprise"] is None and run.surprise.size == 0
    assert run.report["scores"] is not None
    one_frame = moving_dot(tmp_path / "one.mp4", frames=1)
    assert run_of(tiny, one_frame).report["surprise"] is None


def shocked(model, clip, monkeypatch, bits, usual=1.0, **changes) -> Result:
    """A run of a model that finds frames so surprising, counted from the second."""
    card = {} if usual is None else {"scores": {"surprise": {"frame_p99": usual}}}
    model.card = card
    bits = torch.tensor([bits])
    monkeypatch.setattr(model, "surprise", lambda video: Surprise(bits, bits[..., None, None]))
    return run_of(model, clip, **changes)


@pytest.mark.parametrize("usual", [1.0, 0.06])
def test_a_frame_is_unusual_exactly_above_a_multiple_of_what_is_usual_for_the_model(tiny, clip, monkeypatch, usual):
    limit = float(torch.tensor(UNUSUAL * usual))
    just = [limit * (1 - 1e-6), limit * (1 + 1e-6), 0.0, 0.0]
    run = shocked(tiny, clip, monkeypatch, just, usual)
    assert run.report["surprise"]["unusual_frames"] == [3]
    assert run.report["surprise"]["usual"] == usual
    assert run.report["notes"][0].startswith("Frame 3 of the clip came as a shock: ")
    run = shocked(tiny, clip, monkeypatch, [limit * (1 - 1e-6)] * 4, usual)
    assert run.report["surprise"]["unusual_frames"] == []
    assert not any("shock" in note or "unlike" in note for note in run.report["notes"])


def test_unusual_frames_are_counted_in_the_clip_not_in_what_the_model_saw_of_it(tiny, long_clip, monkeypatch):
    run = shocked(tiny, long_clip, monkeypatch, [0.0, 9.0, *[0.0] * 5], prompt_frames=8)
    assert len(run.given) == 6
    assert run.report["surprise"]["unusual_frames"] == [5]  # of 3 ... 8, the third


def test_several_unusual_frames_are_listed_and_many_make_an_unusual_clip(tiny, clip, monkeypatch):
    def first_note(bits):
        return shocked(tiny, clip, monkeypatch, bits).report["notes"][0]

    assert first_note([0.0, 9.0, 0.0, 9.0]).startswith("Frames 3, 5 of the clip came as a shock: ")
    assert first_note([0.0, 9.0, 9.0, 9.0]).startswith("This clip is unlike what the model was trained on")


def test_a_model_that_knows_nothing_of_its_data_calls_no_clip_unusual(tiny, clip, monkeypatch):
    report = shocked(tiny, clip, monkeypatch, [9.0] * 4, usual=None).report
    assert report["surprise"] == {"bits": [9.0] * 4, "usual": None, "unusual_frames": []}


# ---- what is imagined ------------------------------------------------------------------------------------


def test_what_is_imagined_owes_nothing_to_the_clip(long_clip, tmp_path):
    model, other = dreamer(), moving_dot(tmp_path / "other.mp4", start=9)
    futures = [run_of(model, clip, labels=(3,)).futures for clip in (long_clip, other)]
    np.testing.assert_array_equal(*futures)
    expected = stt.predict(model, torch.zeros(1, 1, 16, 16), 3, seeds=[7, 8, 9], condition=Condition(labels=(3,)))
    np.testing.assert_array_equal(futures[0], [stt.video.to_uint8(future) for future in expected])
    continued, seven = (run_of(model, long_clip, labels=labels).futures for labels in ((), (7,)))
    assert (continued != futures[0]).any() and (seven != futures[0]).any()


def test_what_is_imagined_is_not_scored_but_the_clip_still_surprises(long_clip):
    model = dreamer()
    continued, imagined = (run_of(model, long_clip, prompt_frames=5, labels=labels) for labels in ((), (3, 7)))
    assert not continued.report["imagined"] and continued.report["scores"]
    assert imagined.report["imagined"] and imagined.report["scores"] is None
    assert imagined.report["surprise"] == continued.report["surprise"]
    np.testing.assert_array_equal(imagined.truth, continued.truth)  # the clip goes on, beside them
    assert IMAGINED in imagined.report["notes"] and IMAGINED not in continued.report["notes"]


def test_notes_on_what_the_model_saw_of_the_clip_are_left_out_where_it_saw_nothing(long_clip, monkeypatch):
    model = dreamer()
    of_the_clip = "It was resized to the 16 x 16 pixels that the model works on."
    for start in (1, 11):
        run = run_of(model, long_clip, prompt_frames=start, labels=(-1,))
        assert run.report["notes"] == [IMAGINED, of_the_clip]
    run = shocked(model, long_clip, monkeypatch, [9.0] * 3, prompt_frames=4, frames=1, labels=(-1,))
    assert run.report["surprise"]["unusual_frames"]
    assert run.report["notes"][0] == IMAGINED  # no advice on futures of the clip


def test_labels_mean_nothing_to_a_model_that_only_continues_clips(tiny, long_clip):
    asked_for, plain = (run_of(tiny, long_clip, prompt_frames=5, labels=labels) for labels in ((3,), ()))
    np.testing.assert_array_equal(asked_for.futures, plain.futures)
    assert asked_for.report["scores"] == plain.report["scores"] and not asked_for.report["imagined"]


def test_an_unknown_label_is_refused_before_anything_is_read_or_computed(tmp_path):
    with pytest.raises(Refused, match="takes up to 1 of 0 to 9"):
        next(predict(asked(tmp_path / "gone.mp4", labels=(10,)), dreamer(labels=1)))


# ---- what is filled in ------------------------------------------------------------------------------------


def test_frames_in_between_are_those_of_the_sampler_with_the_clip_on_both_sides(long_clip):
    model = filler()
    video = read_clip(long_clip, size=16, channels=1).video
    run, frames = run_of(model, long_clip, prompt_frames=4, between=True), seen_by(model, long_clip)
    expected = stt.between(model, video[:4], video[7:], 3, seeds=[7, 8, 9])
    for t, futures in enumerate(expected):
        np.testing.assert_array_equal(run.futures[:, t], stt.video.to_uint8(futures))
    np.testing.assert_array_equal(run.given, frames[1:4])  # it sees three
    np.testing.assert_array_equal(run.truth, frames[4:7])
    np.testing.assert_array_equal(run.ending, frames[7:10])
    report = run.report
    assert report["between"] and report["settings"]["between"] and report["names"] == ["seed 7", "seed 8", "seed 9"]
    assert (report["used_frames"], report["ending_frames"], report["predicted_frames"]) == (3, 3, 3)
    assert len(run.surprise) == 3 + 3 + 3 - 1


@pytest.mark.parametrize(("frames", "start"), [(3, 3), (7, 3), (8, 2), (9, 1)])
def test_left_open_a_gap_lies_in_the_clip(long_clip, frames, start):
    request = asked(long_clip, frames=frames, between=True)
    prompt = read_prompt(request, filler())
    assert prompt.start == start
    assert len(prompt.ending) == min(11 - start - frames, 3) and len(prompt.after) == 11 - start


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frames": 10}, "A gap of 10 needs a clip of at least 12 frames, .* but this one has 11."),
        ({"prompt_frames": 8}, "starts after 8 frames and 3 are missing, but the clip has 11; start after at most 7."),
        ({"stride": 4, "frames": 2}, "at least 4 frames, one before it and one after, but this one has 3"),
    ],
)
def test_a_gap_that_does_not_lie_in_the_clip_is_refused_with_the_numbers(long_clip, changes, sentence):
    with pytest.raises(Refused, match=sentence):
        run_of(filler(), long_clip, **{"between": True, **changes})


def test_a_filled_gap_is_scored_beside_its_ends_blended(long_clip):
    run = run_of(filler(), long_clip, prompt_frames=4, between=True)
    scores, truth = run.report["scores"], run.truth[..., 0] / 255
    first, last = run.given[-1, ..., 0] / 255, run.ending[0, ..., 0] / 255
    for name, shares in (("copy", (0, 0, 0)), ("blend", (0.25, 0.5, 0.75))):
        errors = [
            100 * np.sqrt(np.mean((first + s * (last - first) - t) ** 2)) for s, t in zip(shares, truth, strict=True)
        ]
        np.testing.assert_allclose(scores[name]["error"], errors, atol=0.02)
    assert len(scores["futures"]["error"][0]) == len(scores["blend"]["ssim"]) == 3
    assert "blend" not in run_of(filler(), long_clip, prompt_frames=4).report["scores"]


def test_a_gap_that_was_not_filled_to_its_end_does_not_join(long_clip):
    events = predict(asked(long_clip, between=True), filler())
    progress = next(event for event in events if event.frames)
    run = conclude(progress)
    assert run.futures.shape[1] == len(run.truth) == 1 and len(run.ending) == 0
    assert run.report["ending_frames"] == 3 and len(run.report["scores"]["blend"]["error"]) == 1
    assert len(run.alone(0)) == 3 + 1


def test_of_a_gap_is_said_what_is_seen_around_it(long_clip, tmp_path):
    said = run_of(filler(), long_clip, prompt_frames=5, between=True).report["notes"]
    assert said[0] == "For each frame the model saw the 3 nearest on both sides, filled in or given."
    assert not any("before the future" in note or "looks back" in note for note in said)
    short = moving_dot(tmp_path / "short.mp4", frames=3)
    assert "frame" not in " ".join(run_of(filler(), short, frames=1, between=True).report["notes"])


# ---- what is done ----------------------------------------------------------------------------------------


def test_futures_under_an_action_are_those_of_a_rollout_with_it_and_others_than_free_ones(clip):
    model = pusher()
    video = read_clip(clip, size=16, channels=1).video
    run = run_of(model, clip, action=(0.5, -1.0))
    expected = stt.predict(model, video, 3, seeds=[7, 8, 9], condition=Condition(actions=((0.5, -1.0),)))
    for future, other in zip(run.futures, expected, strict=True):
        np.testing.assert_array_equal(future, stt.video.to_uint8(other))
    assert not any(np.array_equal(run.futures, run_of(model, clip, action=a).futures) for a in ((), (0.0, -1.0)))
    assert run.report["action"] == {"push right": 0.5, "push up": -1.0}
    assert run.report["settings"]["action"] == [0.5, -1.0]


def test_an_action_is_told_apart_from_those_of_what_really_followed(long_clip):
    told = [
        LED in run_of(pusher(), long_clip, prompt_frames=start, action=action).report["notes"]
        for start, action in ((5, (1.0, 0.0)), (11, (1.0, 0.0)), (5, ()))
    ]
    assert told == [True, False, False]


# ---- what is said ----------------------------------------------------------------------------------------


def test_the_report_says_what_happened_to_the_clip(tiny, tmp_path):
    wide = moving_dot(tmp_path / "wide.mp4", frames=9, width=64)

    def said(**changes) -> str:
        request = asked(wide, **changes)
        return " ".join(notes(request, tiny, read_prompt(request, tiny)))

    everything = said(temperature=0.0)
    for part in (
        "last 6 of the 9 frames",
        "cropped",
        "16 x 16",
        "no longer see the oldest",
        "every future is the same",
    ):
        assert part in everything
    assert "Black bars" in said(fit="pad") and "cropped" not in said(fit="pad")
    assert "single frame" in said(prompt_frames=1)
    assert "last 6 of the 8 frames" in said(prompt_frames=8)
    assert "no longer see" not in said(prompt_frames=4)
    assert "every future is the same" not in said(temperature=0.0, futures=1)


def test_of_a_clip_that_fits_nothing_is_said(tiny, tmp_path):
    file = lossless(tmp_path / "fits.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    request = asked(file)
    assert notes(request, tiny, read_prompt(request, tiny)) == []
    tiny.knobs = frozenset()
    assert notes(request, tiny, read_prompt(request, tiny)) == [ONE_FUTURE]


def test_a_model_without_chance_has_one_future_that_no_seed_or_temperature_names(tiny, tmp_path):
    tiny.knobs = frozenset()
    run = run_of(tiny, moving_dot(tmp_path / "in.mp4"), futures=3)
    assert len(run.futures) == len(run.report["seeds"]) == run.report["settings"]["futures"] == 1
    assert run.board.names == ("mean future",)
    assert run.title("future-1.mp4") == "tiny-mean-future.mp4"
    assert run.title("side-by-side.gif") == "tiny-mean-future-side-by-side.gif"
    shown = shown_run(replace(run, report=run.report | {"id": "some-id"}))
    assert (shown["names"], shown["detail"], shown["facts"][0]) == (["mean future"], "tiny", "tiny")
