"""Results that come back: as a dropped file, out of the history, or as the next prompt."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from stt.encode import write_mp4
from stt.request import check
from stt.results import NO_RUN, Result
from stt.ui.callbacks import EMPTY
from stt.video import read_clip, to_uint8
from tests.simulator_fixtures import ANOTHER, OTHERS, SETTINGS, Desk, changed, event_of
from tests.test_player import sheet
from tests.ui_fixtures import filler, moving_dot

# ---- results that come back ------------------------------------------------------------------------------


def dropped(desk: Desk, name: str, run: Result, desk_of_run: Desk | None = None) -> Path:
    """A result's file as an upload."""
    made, _ = (desk_of_run or desk).runs.file(run.report["id"], name)
    target = desk.uploads / f"dropped-{name}"
    target.write_bytes(made.read_bytes())
    return target


@pytest.mark.parametrize(
    ("name", "changes"), [("future-2.mp4", {"seed": 8, "futures": 1}), ("side-by-side.mp4", {})], ids=str
)
def test_a_dropped_result_brings_back_its_settings_and_its_clip_and_can_be_made_again(desk, said, name, changes):
    clip = desk.upload()
    run = desk.predict(clip)
    answer = desk.choose(dropped(desk, name, run), **OTHERS)
    assert answer.player == gr.skip()
    assert answer.controls == SETTINGS | changes | {"clip": str(clip), "fresh": False}
    assert len(said) == 1 and "are back" in said[0]
    controls = {n: v for n, v in answer.controls.items() if n not in ("clip", "fresh")}
    again = desk.choose(clip, answer.wanted, **controls)
    assert again.controls["prompt_frames"]["value"] == 4
    np.testing.assert_array_equal(sheet(again.player["prompt"])[0], run.given)
    repeated = desk.predict(clip, **controls).futures
    expected = run.futures[1:] if changes else run.futures
    assert np.abs(repeated.astype(int) - expected).max() <= 1


def test_a_dropped_future_without_its_clip_goes_on_with_its_own_frames(tmp_path, desk, models, said):
    """Settings were made for the clip; its frames in the video are those that the model saw, one by one."""
    elsewhere = Desk(tmp_path / "elsewhere", models)
    run = elsewhere.predict(elsewhere.upload(frames=24), prompt_frames=9)
    assert len(run.given) == 6
    answer = desk.choose(dropped(desk, "future-1.mp4", run, elsewhere), **OTHERS)
    assert said and "its own frames" in said[0]
    assert answer.player["state"] == "ready"
    shown = sheet(answer.player["prompt"])[0]
    assert shown.shape == run.given.shape
    assert np.abs(shown.astype(int) - run.given).max() <= 4
    start = answer.controls.pop("prompt_frames")
    assert (start["value"], start["maximum"]) == (6, 6 + 3)
    assert answer.controls == {n: v for n, v in SETTINGS.items() if n != "prompt_frames"} | {
        "futures": 1, "stride": 1, "fresh": False
    }  # fmt: skip


def test_a_dropped_filled_gap_without_its_clip_lies_between_its_own_frames(tmp_path, desk, models, said):
    models["filler"] = filler()
    elsewhere = Desk(tmp_path / "elsewhere", models)
    run = elsewhere.predict(elsewhere.upload(), model="filler", stride=1, between=True)
    answer = desk.choose(dropped(desk, "future-1.mp4", run, elsewhere), **OTHERS)
    player = answer.player
    assert (player["given"], player["frames"], player["ending_frames"]) == (3, 3, 3)
    assert answer.controls["between"] is True and answer.controls["prompt_frames"]["value"] == 3
    assert np.abs(sheet(player["ending"])[0].astype(int) - run.ending).max() <= 4


def test_a_dropped_side_by_side_video_without_its_clip_asks_for_it(tmp_path, desk, models, said):
    elsewhere = Desk(tmp_path / "elsewhere", models)
    run = elsewhere.predict(elsewhere.upload())
    answer = desk.choose(dropped(desk, "side-by-side.mp4", run, elsewhere), **OTHERS)
    assert said and "choose the clip again" in said[0]
    assert answer.player == EMPTY
    assert answer.controls == SETTINGS | {"clip": None, "fresh": False}
    cleared = desk.choose(None, answer.wanted)  # which the page reports next
    again = desk.choose(desk.upload(), cleared.wanted, **SETTINGS)
    assert again.controls["prompt_frames"]["value"] == SETTINGS["prompt_frames"]


def test_a_result_that_travels_does_not_bring_its_clip_to_another_visitor(desk, said):
    run, example = desk.predict(desk.upload()), desk.predict(desk.examples[0])
    answer = desk.choose(dropped(desk, "future-1.mp4", run), visitor=ANOTHER, **OTHERS)
    assert "clip" not in answer.controls and "its own frames" in said[0]
    answer = desk.choose(dropped(desk, "future-1.mp4", example), visitor=ANOTHER, **OTHERS)
    assert answer.controls["clip"] == str(desk.examples[0])


def test_a_clip_that_the_janitor_took_counts_as_lost(desk, said):
    clip = desk.upload()
    run = desk.predict(clip)
    clip.unlink()
    assert desk.choose(dropped(desk, "future-1.mp4", run)).player["state"] == "ready"
    assert "its own frames" in said[0]


ODD_VALUES = {
    "unknown": {"model": "nobody/knows@it", "family": "x", "weights": []},
    "wrong types": {n: [v] for n, v in SETTINGS.items()},
    "texts": {n: f"{v}!" for n, v in SETTINGS.items()},
    "huge": dict.fromkeys(SETTINGS, 10**400) | {"given": 10**400},
    "tiny": dict.fromkeys(SETTINGS, -(10**400)) | {"given": -1},
    "no numbers": {n: float("nan") for n in SETTINGS} | {"given": float("inf")},
    "nothing": dict.fromkeys(SETTINGS) | {"given": None, "clip": None},
    "odd clip": {"clip": {"sha256": ["a"], "name": {"x": 1}}},
    "path as clip": {"clip": "/etc/passwd"},
    "path as hash": {"clip": {"sha256": "../../etc/passwd"}},
    "deep": {"frames": [[[[[[[[{}]]]]]]]], "clip": [[[]]]},
    "controls": {"fresh": True, "wanted": 3, "precomputed": True, "state": "done", "alone": "yes"},
}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("odd", ODD_VALUES)
def test_a_video_that_lies_about_its_making_does_no_harm(desk, said, odd, alone):
    clip = desk.uploads / "lies.mp4"
    told = {"app": "stt", "alone": alone, "given": 2, "clip": {"sha256": "0" * 64}} | SETTINGS | ODD_VALUES[odd]
    write_mp4(clip, np.zeros((5, 32, 32, 3), np.uint8), 10, told)
    answer = desk.choose(clip, **OTHERS)
    controls = OTHERS | {n: v for n, v in answer.controls.items() if n not in ("clip", "fresh", "prompt_frames")}
    assert answer.controls.get("clip", clip) in (clip, None)
    assert isinstance(controls["model"], str) and controls["model"] in desk.models
    check(str(clip), models=desk.models, folders=[desk.uploads], **controls)  # every setting can be served
    if alone:
        assert answer.controls["prompt_frames"]["value"] in range(1, 6)
        assert answer.player["state"] == "ready"


@pytest.mark.parametrize("told", [{}, {"app": "other", "frames": 3}, {"app": ["stt"]}, {"frames": 3, "alone": True}])
def test_what_other_programs_say_of_their_videos_changes_nothing(desk, said, told):
    write_mp4(desk.uploads / "other.mp4", np.zeros((5, 32, 32, 3), np.uint8), 10, told)
    answer = desk.choose(desk.uploads / "other.mp4", **OTHERS)
    assert said == [] and set(answer.controls) == {"prompt_frames"}


def test_a_dropped_file_becomes_the_clip_if_it_was_uploaded(desk, tmp_path):
    clip = desk.upload()
    assert desk.callbacks.dropped(event_of(path=str(clip))) == str(clip)
    outside = moving_dot(tmp_path / "outside.mp4")
    for path in (str(outside), "/etc/passwd", None, 3, ["a"]):
        with pytest.raises(gr.Error):
            desk.callbacks.dropped(event_of(path=path))


def test_an_earlier_result_brings_back_its_settings_and_its_clip(desk):
    clip = desk.upload()
    run = desk.predict(clip)
    wanted, *controls = desk.callbacks.restore(event_of(run=run.report["id"]))
    assert changed(controls) == SETTINGS | {"clip": str(clip), "fresh": False}
    assert wanted["prompt_frames"] == 4
    clip.unlink()
    wanted, *controls = desk.callbacks.restore(event_of(run=run.report["id"]))
    assert wanted == {} and changed(controls) == SETTINGS | {"fresh": False}


@pytest.mark.parametrize("name", [None, "nobody-knows-it", "../../x", 3, [], {}])
def test_a_result_that_nobody_kept_cannot_come_back_or_go_on(desk, name):
    for ask in (desk.callbacks.restore, desk.callbacks.extend):
        with pytest.raises(gr.Error, match=NO_RUN):
            ask(event_of(run=name, future=0))


# ---- going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("future", [0, 1])
def test_a_future_becomes_a_clip_of_all_its_frames_and_goes_on_from_its_end(desk, future):
    run = desk.predict(desk.upload())
    wanted, clip = desk.callbacks.extend(event_of(run=run.report["id"], future=future))
    assert Path(clip).is_relative_to(desk.uploads) and f"seed-{7 + future}" in Path(clip).name
    shown = to_uint8(read_clip(clip, size=16, channels=1).video)
    expected = np.concatenate([run.given, run.futures[future]])
    assert shown.shape == expected.shape == (4 + 3, 16, 16, 3)
    assert np.abs(shown.astype(int) - expected).max() <= 4
    answer = desk.choose(Path(clip), wanted, stride=1)
    assert answer.controls["prompt_frames"]["value"] == 4 + 3
    assert set(answer.controls) == {"prompt_frames"}
    longer = desk.predict(Path(clip), stride=1, prompt_frames=7)
    assert np.abs(longer.given.astype(int) - expected[-6:]).max() <= 4


def test_two_extensions_of_one_future_are_two_files(desk):
    run = desk.predict(desk.upload())
    paths = {desk.callbacks.extend(event_of(run=run.report["id"], future=0))[1] for _ in range(2)}
    assert len(paths) == 2


@pytest.mark.parametrize("future", [-1, 2, None, "0", 0.0, [], 10**400], ids=lambda v: str(v)[:6])
def test_a_future_that_a_result_does_not_have_cannot_go_on(desk, future):
    run = desk.predict(desk.upload(), frames=1)
    with pytest.raises(gr.Error, match="There is no such future"):
        desk.callbacks.extend(event_of(run=run.report["id"], future=future))
