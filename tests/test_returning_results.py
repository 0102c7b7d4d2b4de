"""Results that come back: as a dropped file, from the history, or as the next prompt."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from unittest.mock import Mock

import gradio as gr
import numpy as np
import pytest

from stt.encode import write_mp4
from stt.results import NO_RESULT, Result
from stt.ui import callbacks
from stt.ui.player import EMPTY
from stt.ui.request import page_request
from stt.video import read_clip, to_uint8
from tests.page_fixtures import ANOTHER, OTHERS, SETTINGS, FakePage, changes_of, event_of, sheet
from tests.ui_fixtures import gap_model, moving_dot

GAP = {"model": "gaps", "stride": 1, "prompt_frames": 4, "between": True}


@pytest.fixture
def models(models):
    return models | {"gaps": gap_model()}


def dropped(page: FakePage, name: str, result: Result, made_on: FakePage | None = None) -> Path:
    """A result's video as an upload."""
    made, _ = (made_on or page).results.video(result.report["id"], name)
    target = page.uploads / f"dropped-{name}"
    target.write_bytes(made.read_bytes())
    return target


def test_a_dropped_result_brings_its_settings_and_its_clip_and_can_be_repeated(page, notices):
    clip = page.upload()
    result = page.predict(clip)
    for name, changes in (("future-2.mp4", {"seed": 8, "futures": 1}), ("side-by-side.mp4", {})):
        answer = page.choose(dropped(page, name, result), **OTHERS)
        own = result.futures[1:] if changes else result.futures  # exactly what was saved, not a new prediction
        np.testing.assert_array_equal(sheet(answer.player["strips"][0]["src"]), own)
        assert answer.controls == SETTINGS | changes | {"clip": str(clip), "new_seed": False}
        controls = {n: v for n, v in answer.controls.items() if n not in ("clip", "new_seed")}
        again = page.choose(clip, answer.pending, **controls)
        assert again.controls["prompt_frames"] == 4
        np.testing.assert_array_equal(sheet(again.player["context"])[0], result.context)
        expected = result.futures[1:] if changes else result.futures
        assert np.abs(page.predict(clip, **controls).futures.astype(int) - expected).max() <= 1


def test_a_dropped_future_without_its_clip_starts_from_its_own_frames(tmp_path, page, models, notices):
    """The settings were made for the clip; the video holds the frames that the model saw, one by one."""
    elsewhere = FakePage(tmp_path / "elsewhere", models)
    result = elsewhere.predict(elsewhere.upload(frames=24), prompt_frames=9)
    answer = page.choose(dropped(page, "future-1.mp4", result, elsewhere), **OTHERS)
    assert answer.player["state"] == "ready" and "its own frames" in notices.pop()
    context = sheet(answer.player["context"])[0]
    assert context.shape == result.context.shape == (6, 16, 16, 3)
    assert np.abs(context.astype(int) - result.context).max() <= 4
    assert answer.controls.pop("prompt_frames") == 6 and answer.start["value"]["count"] == 6 + 3
    expected = {n: v for n, v in SETTINGS.items() if n != "prompt_frames"}
    assert answer.controls == expected | {"futures": 1, "stride": 1, "new_seed": False}

    gap = elsewhere.predict(elsewhere.upload(), **GAP)
    answer = page.choose(dropped(page, "future-1.mp4", gap, elsewhere), **OTHERS)
    player = answer.player
    assert (player["context_frames"], player["frames"], player["ending_frames"]) == (3, 3, 3)
    assert answer.controls["between"] is True and answer.controls["prompt_frames"] == 3
    assert np.abs(sheet(player["ending"])[0].astype(int) - gap.ending).max() <= 4


def test_a_dropped_side_by_side_video_without_its_clip_asks_for_it(tmp_path, page, models, notices):
    elsewhere = FakePage(tmp_path / "elsewhere", models)
    result = elsewhere.predict(elsewhere.upload())
    answer = page.choose(dropped(page, "side-by-side.mp4", result, elsewhere), **OTHERS)
    assert answer.player == EMPTY and "choose the clip again" in notices.pop()
    assert answer.controls == SETTINGS | {"clip": None, "new_seed": False}
    cleared = page.choose(None, answer.pending)  # which the page reports next
    again = page.choose(page.upload(), cleared.pending, **SETTINGS)
    assert again.controls["prompt_frames"] == SETTINGS["prompt_frames"]


def test_a_result_does_not_bring_its_clip_to_another_visitor_or_back_from_deletion(page, notices):
    clip = page.upload()
    result, example = page.predict(clip), page.predict(page.examples[0])
    answer = page.choose(dropped(page, "future-1.mp4", result), visitor=ANOTHER, **OTHERS)
    assert "clip" not in answer.controls and "its own frames" in notices.pop()
    answer = page.choose(dropped(page, "future-1.mp4", example), visitor=ANOTHER, **OTHERS)
    assert answer.controls["clip"] == str(page.examples[0])
    clip.unlink()
    assert page.choose(dropped(page, "future-1.mp4", result)).player["state"] == "ready"
    assert "its own frames" in notices.pop()


def test_false_metadata_does_no_harm(page, notices, monkeypatch):
    odd_values = [
        {"model": "nobody/knows@it", "family": "x", "weights": []},
        {name: [value] for name, value in SETTINGS.items()},
        {name: f"{value}!" for name, value in SETTINGS.items()},
        dict.fromkeys(SETTINGS, 10**400) | {"context": 10**400},
        dict.fromkeys(SETTINGS, -(10**400)) | {"context": -1},
        dict.fromkeys(SETTINGS, float("nan")) | {"context": float("inf")},
        dict.fromkeys(SETTINGS) | {"context": None, "clip": None},
        {"clip": {"sha256": ["a"], "name": {"x": 1}}}, {"clip": "/etc/passwd"},
        {"clip": {"sha256": "../../etc/passwd"}}, {"frames": [[[[[[[[{}]]]]]]]], "clip": [[[]]]},
        {"new_seed": True, "pending": 3, "precomputed": True, "state": "done", "alone": "yes"},
    ]  # fmt: skip
    clip = moving_dot(page.uploads / "false.mp4")
    for odd, alone in itertools.product(odd_values, (True, False)):
        metadata = {"app": "stt", "alone": alone, "context": 2, "clip": {"sha256": "0" * 64}} | SETTINGS | odd
        monkeypatch.setattr(callbacks, "read_metadata", Mock(return_value=json.loads(json.dumps(metadata))))
        answer = page.choose(clip, **OTHERS)
        assert answer.controls.get("clip", clip) in (clip, None)
        controls = OTHERS | {n: v for n, v in answer.controls.items() if n not in ("clip", "new_seed", "prompt_frames")}
        page_request(str(clip), models=page.models, folders=[page.uploads], **controls)  # the page can serve them
        if alone:
            assert answer.controls["prompt_frames"] in range(1, 6) and answer.player["state"] == "ready"


def test_metadata_of_other_programs_changes_nothing(page, notices):
    for metadata in ({}, {"app": "other", "frames": 3}, {"app": ["stt"]}, {"frames": 3, "alone": True}):
        write_mp4(page.uploads / "other.mp4", np.zeros((5, 32, 32, 3), np.uint8), 10, metadata)
        answer = page.choose(page.uploads / "other.mp4", **OTHERS)
        assert notices == [] and set(answer.controls) == {"prompt_frames", "frames"}


def test_an_earlier_result_restores_its_settings_and_its_clip(page):
    clip = page.upload()
    event = event_of(result=page.predict(clip).report["id"])
    pending, *controls = page.callbacks.restore(event)
    assert changes_of(controls) == SETTINGS | {"clip": str(clip)}  # "new each time" stays as it is
    assert pending["prompt_frames"] == 4
    clip.unlink()
    pending, *controls = page.callbacks.restore(event)
    assert pending == {} and changes_of(controls) == SETTINGS


def test_a_future_becomes_the_next_clip_and_goes_on_from_its_end(page):
    result = page.predict(page.upload())
    paths = set()
    for future in (0, 1, 1):
        pending, clip = page.callbacks.extend(event_of(result=result.report["id"], future=future))
        assert Path(clip).is_relative_to(page.uploads) and f"seed-{7 + future}" in Path(clip).name
        expected = np.concatenate([result.context, result.futures[future]])
        frames = to_uint8(read_clip(clip, size=16, channels=1).video).astype(int)
        assert frames.shape == expected.shape == (4 + 3, 16, 16, 3) and np.abs(frames - expected).max() <= 4
        answer = page.choose(Path(clip), pending, stride=1)
        assert answer.controls["prompt_frames"] == 0 and set(answer.controls) == {"prompt_frames", "frames"}
        assert answer.start["value"]["start"] == 4 + 3
        paths.add(clip)
    assert len(paths) == 3
    longer = page.predict(Path(clip), stride=1, prompt_frames=7)
    assert np.abs(longer.context.astype(int) - expected[-6:]).max() <= 4
    for future in (-1, 2, None, "0", 0.0, [], 10**400):
        with pytest.raises(gr.Error, match="There is no such future"):
            page.callbacks.extend(event_of(result=result.report["id"], future=future))
    for name in (None, "nobody-knows-it", "../../x", 3, [], {}):
        for ask in (page.callbacks.restore, page.callbacks.extend):
            with pytest.raises(gr.Error, match=NO_RESULT):
                ask(event_of(result=name, future=0))
