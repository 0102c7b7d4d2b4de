"""The JSON values that the player shows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from stt.prediction import Progress, predict
from stt.prompt import read_prompt
from stt.results import Result
from stt.ui.player import progress_value, prompt_value, result_value, spread_map, strip, surprise_map
from tests.page_fixtures import sheet
from tests.ui_fixtures import action_model, class_model, gap_model, moving_dot, request_for, result_of


@pytest.fixture
def clip(tmp_path):
    return moving_dot(tmp_path / "in.mp4", frames=7)


def named(result: Result) -> Result:
    return replace(result, report=result.report | {"id": "some-id"})


def value_of(model, clip, **changes) -> dict:
    return result_value(named(result_of(model, clip, **changes)))


def first_and_last(request, model) -> tuple[dict, dict]:
    """The first value of a prediction and the value of its result."""
    progress, *_, result = predict(request, model)
    return progress_value(None, progress, "some-id"), result_value(named(result))


def test_frames_survive_in_a_strip():
    for channels in (1, 3):
        frames = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, channels), dtype=np.uint8)
        frames = frames.repeat(3 // channels, -1)
        np.testing.assert_array_equal(sheet(strip(frames)), frames)
        assert strip(frames[:, :0]) == ""


def test_a_growing_prediction_sends_every_frame_once_and_ends_in_its_result(tiny, clip):
    value, texts, result = None, [], None
    for event in predict(request_for(clip, prompt_frames=5), tiny):
        if isinstance(event, Result):
            result = named(event)
            break
        before, value = value, progress_value(value, event, "some-id")
        texts.append(value["status"])
        assert value["strips"][: len(before["strips"]) if before else 0] == (before["strips"] if before else [])
    assert [part["frames"] for part in value["strips"]] == [1, 1, 1]
    assert len(set(texts)) == 4
    done = result_value(result, value)
    np.testing.assert_array_equal(np.concatenate([sheet(p["src"]) for p in done["strips"]], axis=1), result.futures)
    same = (
        "id",
        "fps",
        "size",
        "cell",
        "frames",
        "names",
        "context",
        "context_frames",
        "truth",
        "truth_frames",
        "strips",
    )
    assert {name: done[name] for name in same} == {name: value[name] for name in same}


def test_frames_that_came_between_two_values_travel_together(tiny, clip):
    prompt = read_prompt(request_for(clip), tiny)
    progress = Progress(request_for(clip), tiny, prompt)
    first = progress_value(None, progress, "some-id")
    progress.frames += [prompt.context[:3], prompt.context[3:6]]  # two frames of three futures
    assert [part["frames"] for part in progress_value(first, progress, "some-id")["strips"]] == [2]


def test_a_result_is_plain_json_that_holds_all_of_it(tiny, clip):
    result = named(result_of(tiny, clip, prompt_frames=5))
    value = json.loads(json.dumps(result_value(result), allow_nan=False))
    assert (value["state"], value["id"], value["precomputed"]) == ("done", "some-id", False)
    assert value["names"] == ["seed 7", "seed 8", "seed 9"]
    assert (value["context_frames"], value["frames"], value["truth_frames"], value["fps"]) == (5, 3, 2, 10)
    np.testing.assert_array_equal(sheet(value["context"])[0], result.context)
    np.testing.assert_array_equal(sheet(value["truth"])[0], result.truth)
    np.testing.assert_array_equal(sheet(value["strips"][0]["src"]), result.futures)
    assert sheet(value["spread"]).shape[1] == 3
    assert sheet(value["surprise"], result.surprise.shape[1]).shape[1] == 7  # every frame of context and truth
    assert value["report"]["scores"] == result.report["scores"] and value["settings"] == result.report["settings"]
    assert value["facts"][:2] == ["tiny", "clip frames 1 to 5 of 7, then 3 predicted"]
    assert value["facts"][2].startswith("3 futures in ") and (value["model"], value["clip"]) == ("tiny", "in")
    value = result_value(result, precomputed=True)
    assert value["precomputed"]
    assert value["facts"][2] == "computed in advance"  # no time is claimed


def test_imagined_futures_say_which_labels(clip):
    request = request_for(clip, prompt_frames=5, labels=(3, -1), temperature=0.5)
    first, done = first_and_last(request, class_model())
    for value in (first, done):
        assert value["imagined"] and value["detail"] == "3 and any · temperature 0.5"
    assert done["facts"][1] == "3 frames that show 3 and any, imagined without the clip"
    assert done["report"]["scores"] is None and done["truth_frames"] == 2
    assert not value_of(class_model(), clip)["imagined"]


def test_a_filled_gap_stands_between_the_frames_around_it(clip):
    model, gap = gap_model(), {"prompt_frames": 2, "between": True}
    first, done = first_and_last(request_for(clip, **gap), model)
    for value in (first, done):
        assert value["between"] and (value["context_frames"], value["frames"], value["ending_frames"]) == (2, 3, 2)
        assert sheet(value["ending"]).shape[1] == 2
    assert done["key"] == first["key"] and done["truth_frames"] == 3
    assert done["facts"][1] == "clip frames 1 to 2 and 6 to 7 of 7, 3 between them filled in"
    assert "blend" in done["report"]["scores"]
    continued, longer = value_of(model, clip, prompt_frames=2), value_of(model, clip, **gap, frames=4)
    assert (continued["between"], continued["ending"], continued["ending_frames"]) == (False, "", 0)
    assert len({done["key"], continued["key"], longer["key"]}) == 3


def test_futures_with_an_action_name_it(clip):
    first, done = first_and_last(request_for(clip, prompt_frames=5, action=(0.5, -1.0)), action_model())
    for value in (first, done):
        assert (value["action"], value["detail"]) == ("push right 0.5, push up -1", "")
    assert done["facts"][1] == "clip frames 1 to 5 of 7, then 3 predicted with push right 0.5, push up -1"
    free = value_of(action_model(), clip, prompt_frames=5)
    assert free["action"] == "" and free["facts"][1] == "clip frames 1 to 5 of 7, then 3 predicted"
    assert free["key"] == done["key"] == first["key"]


def test_one_future_has_no_spread_and_a_single_frame_no_surprise(tiny, tmp_path):
    value = value_of(tiny, moving_dot(tmp_path / "one.mp4", frames=1), futures=1)
    assert (value["spread"], value["surprise"], value["truth"]) == ("", "", "")
    assert value["facts"][2].startswith("1 future in ")


def test_results_of_one_prompt_have_one_key(tiny, clip, tmp_path):
    def key(file=clip, **changes) -> str:
        request = request_for(file, prompt_frames=4, **changes)
        return prompt_value(read_prompt(request, tiny), request)["key"]

    assert key() == key(futures=5, temperature=0.0) == value_of(tiny, clip, prompt_frames=4)["key"]
    others = [key(stride=2, file=moving_dot(tmp_path / "b.mp4", frames=9)), key(fit="pad"), key(model="other")]
    assert len({key(), *others}) == 4


def test_a_clip_is_shown_as_the_model_will_see_it(tiny, clip):
    request = request_for(clip, frames=1, prompt_frames=5, futures=2)
    value = prompt_value(read_prompt(request, tiny), request)
    assert (value["state"], value["context_frames"], value["truth_frames"]) == ("ready", 5, 1)
    assert value["names"] == ["future 1", "future 2"] and sheet(value["context"]).shape == (1, 5, 16, 16, 3)


def test_the_spread_map_is_white_where_half_of_the_futures_are_black_and_half_white():
    futures = np.zeros((4, 2, 8, 8, 3), np.uint8)
    futures[:2, 1, 3, 5] = 255
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    expected[1, 3, 5] = 255
    np.testing.assert_array_equal(spread_map(futures), expected)


def test_the_surprise_map_is_white_at_the_surprise_and_black_for_the_first_frame():
    for frames in (1, 5):
        surprise = np.full((frames, 8, 8), 0.1, np.float32)
        surprise[-1, 2, 6] = 4
        picture = surprise_map(surprise)
        assert picture.shape == (frames + 1, 8, 8, 3) and picture.dtype == np.uint8
        assert picture[0].max() == 0
        assert np.argwhere(picture[..., 0] > 60).tolist() == [[frames, 2, 6]]
        assert (picture[-1, 2, 6] == 255).all()
    assert surprise_map(np.zeros((3, 4, 4), np.float32)).max() == 0
