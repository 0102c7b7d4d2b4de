"""What is shown: the values that travel to the player, and the picture that becomes a video."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from stt.prediction import Progress, predict, read_prompt
from stt.request import Request
from stt.results import Result
from stt.side_by_side import GUESSED, KNOWN, SideBySide
from stt.ui.player import heat, shown_progress, shown_prompt, shown_run, spread_map, strip
from tests.ui_fixtures import asked, dreamer, filler, moving_dot, pusher, run_of


def sheet(source: str, size: int = 16) -> np.ndarray:
    """The frames (F, T, H, W, 3) of a strip."""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))
    rows, columns = (side // size for side in picture.shape[:2])
    return picture.reshape(rows, size, columns, size, 3).swapaxes(1, 2)


@pytest.fixture
def clip(tmp_path):
    return moving_dot(tmp_path / "in.mp4", frames=7)


def kept(run: Result, name: str = "some-id") -> Result:
    run.report["id"] = name
    return run


# ---- for the player --------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [1, 3])
def test_frames_survive_the_journey_in_a_strip(colours):
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, colours), dtype=np.uint8).repeat(3 // colours, -1)
    np.testing.assert_array_equal(sheet(strip(frames)), frames)
    assert strip(frames[:, :0]) == ""


def test_a_growing_prediction_sends_every_frame_once_and_ends_in_its_run(tiny, clip):
    shown, texts, run = None, [], None
    for event in predict(asked(clip, prompt_frames=5), tiny):
        if isinstance(event, Result):
            run = kept(event)
            break
        before, shown = shown, shown_progress(shown, event, "some-id")
        texts.append(shown["status"])
        assert shown["strips"][: len(before["strips"]) if before else 0] == (before["strips"] if before else [])
    assert [part["frames"] for part in shown["strips"]] == [1, 1, 1]
    assert len(set(texts)) == 4
    done = shown_run(run, shown)
    assert done["strips"] == shown["strips"]
    np.testing.assert_array_equal(np.concatenate([sheet(p["src"]) for p in done["strips"]], axis=1), run.futures)
    same = ("id", "fps", "size", "given", "frames", "names", "prompt", "truth", "truth_frames")
    assert {name: done[name] for name in same} == {name: shown[name] for name in same}


def test_frames_that_nobody_looked_at_travel_together(tiny, clip):
    prompt = read_prompt(asked(clip), tiny)
    progress = Progress(asked(clip), tiny, prompt)
    first = shown_progress(None, progress, "some-id")
    progress.frames += [prompt.video[:3], prompt.video[3:6]]  # two frames of three futures
    assert [part["frames"] for part in shown_progress(first, progress, "some-id")["strips"]] == [2]


def test_a_shown_run_is_plain_json_that_holds_all_of_it(tiny, clip):
    run = kept(run_of(tiny, clip, prompt_frames=5))
    shown = json.loads(json.dumps(shown_run(run), allow_nan=False))
    assert (shown["state"], shown["id"], shown["precomputed"]) == ("done", "some-id", False)
    assert shown["names"] == ["seed 7", "seed 8", "seed 9"]
    assert (shown["given"], shown["frames"], shown["truth_frames"], shown["fps"]) == (5, 3, 2, 10)
    np.testing.assert_array_equal(sheet(shown["prompt"])[0], run.given)
    np.testing.assert_array_equal(sheet(shown["truth"])[0], run.truth)
    np.testing.assert_array_equal(sheet(shown["strips"][0]["src"]), run.futures)
    assert sheet(shown["spread"]).shape[1] == 3
    assert sheet(shown["surprise"], run.surprise.shape[1]).shape[1] == 7  # every frame of the prompt and the truth
    assert shown["report"]["scores"] == run.report["scores"]
    assert shown["facts"][:2] == ["tiny at temperature 1", "5 frames of the clip, then 3 predicted"]
    assert shown["facts"][2].startswith("first frame after ") and "3 futures × 3 frames" in shown["facts"][2]
    assert shown["settings"] == run.report["settings"]


def test_of_a_result_that_ships_no_time_is_claimed(tiny, clip):
    shown = shown_run(kept(run_of(tiny, clip)), precomputed=True)
    assert shown["precomputed"] and shown["status"] == "Computed beforehand"
    assert shown["facts"][2] == "computed beforehand"


def test_imagined_futures_say_so_and_what_they_are_of(clip):
    request = asked(clip, prompt_frames=5, labels=(3, -1), temperature=0.5)
    progress, *_, run = predict(request, dreamer())
    growing, done = shown_progress(None, progress, "some-id"), shown_run(kept(run))
    for shown in (growing, done):
        assert shown["imagined"] and shown["detail"] == "3 and any · temp 0.5"
    assert done["facts"][1] == "3 frames of 3 and any, imagined from nothing"
    assert done["report"]["scores"] is None and done["truth_frames"] == 2
    assert not shown_run(kept(run_of(dreamer(), clip)))["imagined"]


def test_a_filled_gap_is_shown_between_the_frames_around_it(clip):
    request = asked(clip, prompt_frames=2, between=True)
    progress, *_, run = predict(request, filler())
    growing, done = shown_progress(None, progress, "some-id"), shown_run(kept(run))
    for shown in (growing, done):
        assert shown["between"] and (shown["given"], shown["frames"], shown["ending_frames"]) == (2, 3, 2)
        np.testing.assert_array_equal(sheet(shown["ending"])[0], run.ending)
    assert done["key"] == growing["key"] and done["truth_frames"] == 3
    assert done["facts"][1] == "2 frames before, 2 after, 3 filled in"
    assert "blend" in done["report"]["scores"]
    continued = shown_run(kept(run_of(filler(), clip, prompt_frames=2)))
    assert (continued["between"], continued["ending"], continued["ending_frames"]) == (False, "", 0)
    assert (
        len(
            {
                shown["key"]
                for shown in (
                    done,
                    continued,
                    shown_run(kept(run_of(filler(), clip, prompt_frames=2, frames=4, between=True))),
                )
            }
        )
        == 3
    )


def test_futures_under_an_action_say_it_in_the_model_s_words(clip):
    progress, *_, run = predict(asked(clip, prompt_frames=5, action=(0.5, -1.0)), pusher())
    growing, done = shown_progress(None, progress, "some-id"), shown_run(kept(run))
    for shown in (growing, done):
        assert (shown["action"], shown["detail"]) == ("push right 0.5, push up -1", "temp 1")
    assert done["facts"][1] == "5 frames of the clip, then 3 predicted under push right 0.5, push up -1"
    free = shown_run(kept(run_of(pusher(), clip, prompt_frames=5)))
    assert free["action"] == "" and free["facts"][1] == "5 frames of the clip, then 3 predicted"
    assert free["key"] == done["key"] == growing["key"]


def test_one_future_has_no_spread_and_a_single_frame_no_surprise(tiny, tmp_path):
    shown = shown_run(kept(run_of(tiny, moving_dot(tmp_path / "one.mp4", frames=1), futures=1)))
    assert (shown["spread"], shown["surprise"], shown["truth"]) == ("", "", "")
    assert "1 future ×" in shown["facts"][2]


def test_results_of_one_prompt_are_recognised_whatever_else_differs(tiny, clip, tmp_path):
    def key(file=clip, **changes) -> str:
        request = asked(file, prompt_frames=4, **changes)
        return shown_prompt(read_prompt(request, tiny), request)["key"]

    assert key() == key(futures=5, temperature=0.0) == shown_run(kept(run_of(tiny, clip, prompt_frames=4)))["key"]
    others = [key(stride=2, file=moving_dot(tmp_path / "b.mp4", frames=9)), key(fit="pad"), key(model="other")]
    assert len({key(), *others}) == 4


def test_a_chosen_clip_is_shown_as_the_model_will_see_it(tiny, clip):
    request = Request(clip, "tiny", frames=1, prompt_frames=5, futures=2)
    shown = shown_prompt(read_prompt(request, tiny), request)
    assert (shown["state"], shown["given"], shown["truth_frames"], shown["names"]) == ("ready", 5, 1, ["?", "?"])
    assert sheet(shown["prompt"]).shape == (1, 5, 16, 16, 3)


def test_the_map_of_differences_is_white_where_half_of_the_futures_are_black_and_half_white():
    futures = np.zeros((4, 2, 8, 8, 3), np.uint8)
    futures[:2, 1, 3, 5] = 255
    expected = np.zeros((2, 8, 8, 3), np.uint8)
    expected[1, 3, 5] = 255
    np.testing.assert_array_equal(spread_map(futures), expected)


@pytest.mark.parametrize("frames", [1, 5])
def test_the_map_of_surprise_is_white_at_the_shock_and_knows_nothing_of_the_first_frame(frames):
    surprise = np.full((frames, 8, 8), 0.1, np.float32)
    surprise[-1, 2, 6] = 4
    shown = heat(surprise)
    assert shown.shape == (frames + 1, 8, 8, 3) and shown.dtype == np.uint8
    assert shown[0].max() == 0
    assert np.argwhere(shown[..., 0] > 60).tolist() == [[frames, 2, 6]]
    assert (shown[-1, 2, 6] == 255).all()
    assert heat(np.zeros((3, 4, 4), np.float32)).max() == 0


# ---- for the videos --------------------------------------------------------------------------------------


def board_of(size: int, futures: int) -> SideBySide:
    return SideBySide(size, tuple(f"seed {k}" for k in range(futures)), 5, 10)


@pytest.mark.parametrize("futures", range(1, 9))
@pytest.mark.parametrize("size", [16, 64, 128])
def test_a_board_has_a_handy_size_and_its_panels_stand_apart(size, futures):
    board = board_of(size, futures)
    height, width = board.shape
    assert height % 2 == width % 2 == 0
    assert width <= 842
    assert height <= 486 or board.factor == 1
    taken = np.zeros(board.shape, int)
    for panel in range(futures + 1):
        y, x = board.corner(panel)
        taken[y : y + board.cell, x : x + board.cell] += 1
    assert taken.max() == 1
    assert taken.sum() == (futures + 1) * board.cell**2


def test_pixels_are_enlarged_by_whole_factors_and_nothing_covers_them():
    board = board_of(16, 2)
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    picture = board.draw(frames[0], frames[1:], moment=6)
    for panel in range(3):
        y, x = (corner + 3 for corner in board.corner(panel))
        shown = picture[y : y + 16 * board.factor : board.factor, x : x + 16 * board.factor : board.factor]
        np.testing.assert_array_equal(shown, frames[panel])


def test_the_frame_of_a_future_changes_colour_when_the_prediction_starts():
    board = board_of(16, 1)
    black = np.zeros((16, 16, 3), np.uint8)
    y, x = board.corner(1)
    assert tuple(board.draw(black, [black], moment=5)[y, x]) == KNOWN
    assert tuple(board.draw(black, [black], moment=6)[y, x]) == GUESSED
    assert tuple(board.draw(black, [black], moment=6)[board.corner(0)]) == KNOWN
