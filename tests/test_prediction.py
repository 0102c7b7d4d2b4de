"""One prediction: what the model sees of the clip, what is measured, and the notes."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

import stt
from stt.api import Condition, Sampling, Surprise
from stt.models.layered import Layered
from stt.optical_flow import extrapolated, optical_flow
from stt.prediction import Progress, conclude, predict
from stt.prompt import read_prompt
from stt.report import IMAGINED, STEERED, UNUSUAL, notes
from stt.request import RequestError
from stt.results import Result
from stt.ui.player import result_value
from stt.video import read_clip, to_uint8
from tests.conftest import TINY_LAYERED, built, lively
from tests.ui_fixtures import action_model, class_model, gap_model, moving_dot, request_for, result_of
from tests.video_fixtures import PLAIN, lossless, make


@pytest.fixture
def clip(tmp_path):
    return moving_dot(tmp_path / "in.mp4")


@pytest.fixture
def long_clip(tmp_path):
    return moving_dot(tmp_path / "long.mp4", frames=11)


def video_of(clip) -> torch.Tensor:
    return read_clip(clip, size=16, channels=1).video


def assert_near(pixels: np.ndarray, video: torch.Tensor) -> None:
    """Equal up to one level: batches of other sizes round differently."""
    assert np.abs(pixels.astype(int) - to_uint8(video)).max() <= 1


# ---- frame after frame -----------------------------------------------------------------------------------


def test_progress_counts_the_frames_and_ends_with_the_result(tiny, clip):
    *progress, result = predict(request_for(clip), tiny)
    assert [event.names for event in progress] == [["seed 7", "seed 8", "seed 9"]] * 4
    assert isinstance(result, Result) and all(isinstance(event, Progress) for event in progress)
    events = predict(request_for(clip), tiny)
    texts = [(len(event.frames), event.text()) for event, _ in zip(events, range(4), strict=False)]
    assert [done for done, _ in texts] == [0, 1, 2, 3]
    assert texts[0][1].startswith("Reading") and texts[1][1].startswith("predicted 1 of 3, ")
    np.testing.assert_array_equal(result.context, to_uint8(video_of(clip)))


def test_futures_are_those_of_a_rollout_and_each_seed_repeats_its_own(tiny, clip):
    result = result_of(tiny, clip, temperature=0.7)
    expected = stt.predict(tiny, video_of(clip), 3, Sampling(temperature=0.7), seeds=[7, 8, 9])
    np.testing.assert_array_equal(result.futures, [to_uint8(future) for future in expected])
    alone = result_of(tiny, clip, temperature=0.7, seed=9, futures=1).futures[0].astype(int)
    assert np.abs(result.futures[2] - alone).max() <= 1 < np.abs(result.futures[0] - alone).max()


def test_closing_at_any_frame_stops_the_work(tiny, clip, monkeypatch):
    steps, original = [], tiny.step
    monkeypatch.setattr(tiny, "step", lambda *arguments: steps.append(1) or original(*arguments))
    events = predict(request_for(clip, frames=40), tiny)
    for _ in range(4):
        next(events)
    events.close()
    assert len(steps) == 3


def test_a_prediction_that_takes_too_long_is_refused_but_its_last_frame_is_never_too_late(tiny, clip):
    with pytest.raises(RequestError, match="0 seconds: 1 of 3 frames were done; choose fewer frames or futures"):
        list(predict(request_for(clip), tiny, deadline=0.0))
    *_, result = predict(request_for(clip, frames=1), tiny, deadline=0.0)
    assert result.futures.shape[1] == 1


# ---- which frames ----------------------------------------------------------------------------------------


def test_the_future_starts_after_the_prompt_frames_and_the_truth_is_what_follows(tiny, long_clip):
    video = video_of(long_clip)
    frames = to_uint8(video)
    for start, used in ((1, 1), (6, 6), (9, 9), (11, 11), (0, 11)):  # 0: after the last frame
        result = result_of(tiny, long_clip, prompt_frames=start)
        np.testing.assert_array_equal(result.context, frames[max(used - 6, 0) : used])  # the model looks back on six
        np.testing.assert_array_equal(result.truth, frames[used : used + 3])
        assert_near(result.futures[1], stt.predict(tiny, video[:used], 3, seeds=[8])[0])
        report = result.report
        assert (report["settings"]["prompt_frames"], report["used_frames"]) == (used, min(used, 6))
        assert report["clip_frames"] == 11


def test_prompts_and_gaps_beyond_the_clip_are_refused_with_the_numbers(tiny, long_clip):
    for model, changes, sentence in (
        (tiny, {"prompt_frames": 12}, "Prompt frames is 12, but the clip has 11; choose at most 11"),
        (tiny, {"prompt_frames": 7, "stride": 2}, "Prompt frames is 7, but the clip has 6; choose at most 6"),
        (gap_model(), {"frames": 10}, "A gap of 10 needs a clip of at least 12 frames, .* but this one has 11."),
        (gap_model(), {"prompt_frames": 8}, "starts after 8 frames and has 3, but the clip has 11; .* at most 7."),
        (gap_model(), {"stride": 4, "frames": 2}, "at least 4 frames, one before it and one after, but .* has 3"),
    ):
        with pytest.raises(RequestError, match=sentence):
            result_of(model, long_clip, between=model is not tiny, **changes)


def test_a_stride_gives_the_model_every_nth_frame_of_the_file(tiny, tmp_path):
    levels = np.arange(0, 250, 25, dtype=np.uint8)
    flat = np.broadcast_to(levels[:, None, None, None], (10, 16, 16, 3)).copy()
    result = result_of(tiny, lossless(tmp_path / "levels.mp4", flat), stride=3, prompt_frames=2)
    assert np.abs(result.context[:, 8, 8, 0].astype(int) - [0, 75]).max() <= 2
    assert np.abs(result.truth[:, 8, 8, 0].astype(int) - [150, 225]).max() <= 2
    assert result.report["clip_frames"] == 4
    assert result.fps == pytest.approx(10 / 3, abs=1e-3)


def test_videos_have_the_frame_rate_of_the_clip_or_of_the_request(tiny, tmp_path):
    for clip_fps, fps, expected in ((10, 0, 10), (60, 0, 30), (60, 48, 48), (10, 2.5, 2.5)):
        file = lossless(tmp_path / "clip.mp4", np.zeros((6, 16, 16, 3), np.uint8), fps=clip_fps)
        result = result_of(tiny, file, fps=fps, frames=1)
        assert result.fps == result.report["fps"] == expected
        slower = f"The clip has {clip_fps} frames per second; it plays at 30." in result.report["notes"]
        assert slower == (clip_fps > 30 and not fps)


# ---- what is measured ------------------------------------------------------------------------------------


def test_the_report_holds_what_makes_a_result_reproducible(tiny, clip):
    tiny.weights_hash = "tiny@1"
    report = result_of(tiny, clip).report
    assert report["settings"] == request_for(clip).settings() | {"prompt_frames": 5}
    assert (report["seeds"], report["family"], report["weights"]) == ([7, 8, 9], "stt", "tiny@1")
    assert report["clip"] == {"name": "in.mp4", "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}
    assert report["ms_per_frame"] > 0 and report["total_seconds"] >= report["first_frame_seconds"] > 0


def test_scores_are_those_of_a_plain_calculation(tiny, long_clip):
    """On frames of 8 bits, so up to half a level off."""
    result = result_of(tiny, long_clip, prompt_frames=9)
    scores, truth = result.report["scores"], result.truth[..., 0] / 255
    assert len(truth) == 2  # of three predicted frames

    def error(video: np.ndarray) -> list[float]:
        return [100 * np.sqrt(np.mean((frame - true) ** 2)) for frame, true in zip(video, truth, strict=True)]

    copy = np.repeat(result.context[-1:, ..., 0] / 255, 2, axis=0)
    np.testing.assert_allclose(scores["copy"]["error"], error(copy), atol=0.01)
    for k, future in enumerate(result.futures[:, :2, ..., 0] / 255):
        np.testing.assert_allclose(scores["futures"]["error"][k], error(future), atol=0.2)
        np.testing.assert_allclose(scores["futures"]["ssim"][k], list(map(ssim, future, truth)), atol=0.01)
    np.testing.assert_allclose(scores["copy"]["ssim"], list(map(ssim, copy, truth)), atol=1e-3)
    last, before = (torch.from_numpy(result.context[k, ..., 0] / 127.5 - 1).float()[None, None] for k in (-1, -2))
    flow = extrapolated(last, optical_flow(last, before), 2)[:, 0].numpy() / 2 + 0.5
    np.testing.assert_allclose(scores["flow"]["error"], error(flow), atol=0.2)


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    blur = lambda x: cv2.GaussianBlur(x, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT_101)  # noqa: E731
    ma, mb = blur(a), blur(b)
    va, vb, vab = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    return float(np.mean((2 * ma * mb + 1e-4) * (2 * vab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))))


def test_a_perfect_prediction_has_no_error(tiny, tmp_path):
    still = lossless(tmp_path / "still.mp4", np.full((8, 16, 16, 3), 60, np.uint8))

    def oracle(model, job):
        yield from (frame.expand(len(job.seeds), -1, -1, -1) for frame in job.truth)

    *_, result = predict(request_for(still, prompt_frames=5), tiny, oracle)
    scores = result.report["scores"]
    assert scores["futures"]["error"] == [[0.0] * 3] * 3 and scores["copy"]["error"] == [0.0] * 3
    np.testing.assert_allclose(scores["futures"]["ssim"], 1, atol=2e-4)


def test_the_spread_of_each_frame_is_the_deviation_over_futures(tiny, clip):
    result = result_of(tiny, clip)
    deviation = (result.futures[..., 0] / 255).std(axis=0)  # (T, H, W)
    expected = np.sqrt((deviation**2).mean(axis=(1, 2)))
    assert expected.min() > 0.01
    np.testing.assert_allclose(result.report["spread"], expected, atol=2e-3)
    assert result_of(tiny, clip, futures=1).report["spread"] == [0, 0, 0]
    assert max(result_of(tiny, clip, temperature=0).report["spread"]) < 1e-3


def test_the_surprise_covers_the_context_and_what_followed(tiny, long_clip):
    result = result_of(tiny, long_clip, prompt_frames=8)
    surprise = tiny.surprise(video_of(long_clip)[None, 2:11])  # six frames before the future, three after its start
    np.testing.assert_allclose(result.report["surprise"]["bits"], surprise.bits[0], atol=1e-4)
    np.testing.assert_allclose(result.surprise, surprise.per_cell[0], atol=1e-4)
    assert len(result.surprise) == len(result.context) + len(result.truth) - 1


def test_scores_need_a_truth_and_surprise_needs_a_likelihood_and_two_frames(tiny, clip, tmp_path):
    report = result_of(tiny, clip).report
    assert report["scores"] is None and len(report["surprise"]["bits"]) == 4
    result = result_of(lively(built(TINY_LAYERED)).eval(), clip, prompt_frames=3)
    assert result.report["surprise"] is None and result.surprise.size == 0
    assert result.report["scores"] is not None
    assert result_of(tiny, moving_dot(tmp_path / "one.mp4", frames=1)).report["surprise"] is None


def surprised(model, clip, monkeypatch, bits, usual: float | None = 1.0, **changes) -> dict:
    """The report of a model with these surprises, from the second frame on."""
    model.card = {} if usual is None else {"scores": {"surprise": {"frame_p99": usual}}}
    bits = torch.tensor([bits])
    monkeypatch.setattr(model, "surprise", lambda video: Surprise(bits, bits[..., None, None]))
    return result_of(model, clip, **changes).report


def test_a_frame_is_unusual_above_a_multiple_of_the_training_datas_surprise(tiny, clip, monkeypatch):
    for usual in (1.0, 0.06):
        limit = float(torch.tensor(UNUSUAL * usual))
        below, above = limit * (1 - 1e-6), limit * (1 + 1e-6)
        report = surprised(tiny, clip, monkeypatch, [below, above, 0.0, 0.0], usual)
        assert report["surprise"]["unusual_frames"] == [3] and report["surprise"]["usual"] == usual
        assert report["notes"][0].startswith("Frame 3 is unlike anything in the training data")
        report = surprised(tiny, clip, monkeypatch, [below] * 4, usual)
        assert report["surprise"]["unusual_frames"] == []
        assert not any("unlike" in note for note in report["notes"])
    report = surprised(tiny, clip, monkeypatch, [9.0] * 4, usual=None)
    assert report["surprise"] == {"bits": [9.0] * 4, "usual": None, "unusual_frames": []}


def test_the_first_score_is_not_judged_as_before_it_the_model_sees_no_motion(tiny, clip, monkeypatch):
    assert surprised(tiny, clip, monkeypatch, [9.0, 0.0, 0.0, 0.0])["surprise"]["unusual_frames"] == []


def test_frames_are_judged_by_the_largest_surprise_of_held_out_clips_where_the_card_has_it(tiny, clip, monkeypatch):
    tiny_card = {"scores": {"surprise": {"frame_p99": 1.0, "largest_p99": 3.0}}}
    monkeypatch.setattr(tiny, "card", tiny_card)
    bits = torch.tensor([[0.0, 2.9 * UNUSUAL, 3.1 * UNUSUAL, 0.0]])
    monkeypatch.setattr(tiny, "surprise", lambda video: Surprise(bits, bits[..., None, None]))
    report = result_of(tiny, clip).report["surprise"]
    assert (report["usual"], report["unusual_frames"]) == (3.0, [4])


def test_unusual_frames_are_numbered_in_the_clip_and_many_make_an_unusual_clip(tiny, clip, long_clip, monkeypatch):
    report = surprised(tiny, long_clip, monkeypatch, [0.0, 9.0, *[0.0] * 5], prompt_frames=8)
    assert report["used_frames"] == 6 and report["surprise"]["unusual_frames"] == [5]  # of 3 ... 8, the third
    for bits, start in (([0, 9, 0, 9], "Frames 3, 5 are unlike"), ([0, 9, 9, 9], "This clip is unlike")):
        notes = surprised(tiny, clip, monkeypatch, [float(bit) for bit in bits])["notes"]
        assert notes[0].startswith(start)


# ---- imagined futures ------------------------------------------------------------------------------------


def test_imagined_futures_do_not_depend_on_the_clip(long_clip, tmp_path):
    model, other = class_model(), moving_dot(tmp_path / "other.mp4", start=9)
    futures = [result_of(model, clip, labels=(3,)).futures for clip in (long_clip, other)]
    np.testing.assert_array_equal(*futures)
    expected = stt.predict(model, torch.zeros(1, 1, 16, 16), 3, seeds=[7, 8, 9], condition=Condition(labels=(3,)))
    np.testing.assert_array_equal(futures[0], [to_uint8(future) for future in expected])
    for labels in ((), (7,)):
        assert (result_of(model, long_clip, labels=labels).futures != futures[0]).any()


def test_imagined_futures_are_not_scored_and_their_notes_leave_out_the_clip(long_clip, monkeypatch):
    model = class_model()
    continued, imagined = (result_of(model, long_clip, prompt_frames=5, labels=labels) for labels in ((), (3, 7)))
    assert not continued.report["imagined"] and continued.report["scores"]
    assert imagined.report["imagined"] and imagined.report["scores"] is None
    assert imagined.report["surprise"] == continued.report["surprise"]
    np.testing.assert_array_equal(imagined.truth, continued.truth)
    assert IMAGINED not in continued.report["notes"]
    for start in (1, 11):
        assert result_of(model, long_clip, prompt_frames=start, labels=(-1,)).report["notes"] == [IMAGINED]
    report = surprised(model, long_clip, monkeypatch, [9.0] * 3, prompt_frames=4, frames=1, labels=(-1,))
    assert report["surprise"]["unusual_frames"] and report["notes"][0] == IMAGINED


def test_labels_are_ignored_without_classes_and_unknown_ones_are_refused_before_any_work(tiny, long_clip, tmp_path):
    with_labels, plain = (result_of(tiny, long_clip, prompt_frames=5, labels=labels) for labels in ((3,), ()))
    np.testing.assert_array_equal(with_labels.futures, plain.futures)
    assert with_labels.report["scores"] == plain.report["scores"] and not with_labels.report["imagined"]
    with pytest.raises(RequestError, match="takes up to 1 of 0 to 9"):
        next(predict(request_for(tmp_path / "gone.mp4", labels=(10,)), class_model(labels=1)))


# ---- gaps ------------------------------------------------------------------------------------------------


def test_a_gap_is_filled_from_the_clip_on_both_sides(long_clip):
    model, video = gap_model(), video_of(long_clip)
    result, frames = result_of(model, long_clip, prompt_frames=4, between=True), to_uint8(video)
    for t, futures in enumerate(stt.between(model, video[:4], video[7:], 3, seeds=[7, 8, 9])):
        np.testing.assert_array_equal(result.futures[:, t], to_uint8(futures))
    for part, expected in ((result.context, frames[1:4]), (result.truth, frames[4:7]), (result.ending, frames[7:10])):
        np.testing.assert_array_equal(part, expected)  # the model sees three frames on each side
    report = result.report
    assert report["between"] and report["settings"]["between"] and report["names"] == ["seed 7", "seed 8", "seed 9"]
    assert (report["used_frames"], report["ending_frames"], report["predicted_frames"]) == (3, 3, 3)
    assert len(result.surprise) == 3 + 3 + 3 - 1


def test_a_gap_without_prompt_frames_lies_in_the_clip(long_clip):
    for frames, start in ((3, 3), (7, 3), (8, 2), (9, 1)):
        prompt = read_prompt(request_for(long_clip, frames=frames, between=True), gap_model())
        assert prompt.start == start
        assert len(prompt.ending) == min(11 - start - frames, 3) and len(prompt.continuation) == 11 - start


def test_a_filled_gap_is_scored_beside_its_ends_blended(long_clip):
    result = result_of(gap_model(), long_clip, prompt_frames=4, between=True)
    scores, truth = result.report["scores"], result.truth[..., 0] / 255
    first, last = result.context[-1, ..., 0] / 255, result.ending[0, ..., 0] / 255
    for name, shares in (("copy", (0, 0, 0)), ("blend", (0.25, 0.5, 0.75))):
        errors = [
            100 * np.sqrt(np.mean((first + s * (last - first) - t) ** 2)) for s, t in zip(shares, truth, strict=True)
        ]
        np.testing.assert_allclose(scores[name]["error"], errors, atol=0.02)
    assert len(scores["futures"]["error"][0]) == len(scores["blend"]["ssim"]) == 3
    assert "blend" not in result_of(gap_model(), long_clip, prompt_frames=4).report["scores"]


def test_a_gap_cut_short_has_no_ending(long_clip):
    progress = next(event for event in predict(request_for(long_clip, between=True), gap_model()) if event.frames)
    result = conclude(progress)
    assert result.futures.shape[1] == len(result.truth) == 1 and len(result.ending) == 0
    assert result.report["ending_frames"] == 3 and len(result.report["scores"]["blend"]["error"]) == 1
    assert len(result.single(0)) == 3 + 1


# ---- actions ---------------------------------------------------------------------------------------------


def test_an_action_leads_the_futures(clip):
    model = action_model()
    result = result_of(model, clip, action=(0.5, -1.0))
    expected = stt.predict(model, video_of(clip), 3, seeds=[7, 8, 9], condition=Condition(actions=((0.5, -1.0),)))
    np.testing.assert_array_equal(result.futures, [to_uint8(future) for future in expected])
    for action in ((), (0.0, -1.0)):
        assert not np.array_equal(result.futures, result_of(model, clip, action=action).futures)
    assert result.report["action"] == {"push right": 0.5, "push up": -1.0}
    assert result.report["settings"]["action"] == [0.5, -1.0]


# ---- notes -----------------------------------------------------------------------------------------------


def test_notes_say_what_happened_to_the_clip_and_what_limits_the_futures(tiny, tmp_path):
    wide = moving_dot(tmp_path / "wide.mp4", frames=9, width=64)
    for model, changes, present, absent in (
        (tiny, {"temperature": 0.0}, ["cropped", "temperature 0"], ["16 x 16", "no longer see"]),
        (tiny, {"fit": "pad"}, [], ["cropped"]),
        (tiny, {"prompt_frames": 1}, ["single frame"], []),
        (action_model(), {"prompt_frames": 5, "action": (1.0, 0.0)}, [STEERED], []),
        (action_model(), {"prompt_frames": 9, "action": (1.0, 0.0)}, [], [STEERED]),
        (action_model(), {"prompt_frames": 5}, [], [STEERED]),
    ):
        request = request_for(wide, **changes)
        text = " ".join(notes(request, model, read_prompt(request, model)))
        assert all(part in text for part in present) and not any(part in text for part in absent), (changes, text)


def test_where_nothing_is_left_to_chance_one_future_is_computed_and_a_note_says_so(tiny, tmp_path):
    clip, sprites = (
        moving_dot(tmp_path / "in.mp4", frames=5),
        lively(Layered(replace(TINY_LAYERED, actions=("push right", "push up")))).eval(),
    )
    for model, changes, futures, said in (
        (sprites, {"action": (1.0, 0.0)}, 1, "Your action leaves nothing to chance here"),
        (sprites, {}, 3, None),
        (action_model(), {"action": (1.0, 0.0)}, 3, None),  # its Gaussian layers are drawn all the same
        (tiny, {"temperature": 0.0}, 1, "At temperature 0 nothing is left to chance"),
    ):
        result = result_of(model, clip, futures=3, **changes)
        text = " ".join(result.report["notes"])
        assert len(result.futures) == len(result.report["names"]) == futures, changes
        assert (said in text) if said else ("chance" not in text)


def test_a_model_without_chance_has_one_future_without_a_seed_in_its_name(tiny, tmp_path):
    tiny.knobs = frozenset()
    file = lossless(tmp_path / "fits.mp4", np.zeros((4, 16, 16, 3), np.uint8))
    result = result_of(tiny, file, futures=3)
    assert len(result.futures) == len(result.report["seeds"]) == result.report["settings"]["futures"] == 1
    assert result.report["notes"] == []  # nothing happened to the clip
    assert result.layout.names == ("only future",)
    assert result.title("future-1.mp4") == "tiny-only-future.mp4"
    assert result.title("side-by-side.gif") == "tiny-only-future-side-by-side.gif"
    value = result_value(replace(result, report=result.report | {"id": "some-id"}))
    assert (value["names"], value["detail"], value["facts"][0]) == (["only future"], "", "tiny")


def test_a_clip_is_used_at_the_rate_that_the_model_learned_at(tiny, tmp_path):
    clip = lossless(tmp_path / "fast.mp4", np.zeros((31, 16, 16, 3), np.uint8), fps=30)
    for card, stride, rate, frames, present, absent in (
        ({"world": {"fps": 10.0}}, 0, 10, 11, ["30 frames per second; the frames nearest"], []),
        ({"world": {"kind": "tabletop"}}, 0, 10, 11, [], ["learned"]),
        ({"world": {"fps": 30}}, 0, 30, 31, [], ["per second"]),
        ({"world": {"fps": 10}}, 3, 10, 11, [], ["per second"]),
        (
            {"world": {"fps": 10}},
            1,
            30,
            31,
            ["At stride 1 the clip has 30 frames per second; the model learned at 10."],
            [],
        ),
        ({"world": {"fps": 60}}, 0, 60, 61, ["frames are repeated to make 60"], []),
        ({"world": {"kind": "mixed"}}, 0, 30, 31, [], ["per second"]),
    ):
        tiny.card = card
        report = result_of(tiny, clip, stride=stride, futures=1, frames=1).report
        assert (report["clip_fps"], report["clip_frames"]) == (rate, pytest.approx(frames, abs=1)), (card, stride)
        text = " ".join(report["notes"])
        assert all(part in text for part in present) and not any(part in text for part in absent), (card, stride, text)


def test_the_notes_tell_what_could_not_be_read_of_a_file(tiny, tmp_path):
    path = make(tmp_path / "half.mp4", f"{PLAIN} -movflags +faststart", "testsrc2=s=96x96:r=25:d=4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    notes = " ".join(result_of(tiny, path, futures=1).report["notes"])
    assert re.search(r"\d\d of 100 frames could be read; the file is cut short or damaged\.", notes)
