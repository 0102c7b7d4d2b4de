"""The page's callbacks without a page: predicting, choosing a clip, results that come back, links."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from stt.prediction import predict
from stt.request import RequestError
from stt.results import NO_RESULT
from stt.ui import backend
from stt.ui.clip_box import ACCEPT
from stt.ui.endpoints import Endpoints
from stt.ui.errors import plain_errors
from stt.ui.player import EMPTY
from stt.ui.request import NO_CLIP, PAGE
from stt.video import probe, read_clip
from tests.conftest import TINY_CONFIGS, built, lively
from tests.page_fixtures import ME, SETTINGS, FakePage, changes_of, event_of, sheet, values
from tests.ui_fixtures import action_model, class_model, gap_model, moving_dot
from tests.video_fixtures import make

GAP = {"model": "gaps", "stride": 1, "prompt_frames": 4, "between": True}


@pytest.fixture
def models(models):
    return models | {"classes": class_model(), "gaps": gap_model(), "actions": action_model()}


def last(events) -> Any:
    *_, (value, _) = events
    return value


def test_every_error_becomes_one_harmless_sentence():
    for error, sentence in (
        (RequestError("not <b>bold</b>"), "not &lt;b&gt;bold&lt;/b&gt;"),
        (RuntimeError("/secret/path"), "Something went wrong on our side; please try again."),
    ):
        with pytest.raises(gr.Error) as shown, plain_errors():
            raise error
        assert shown.value.message == sentence


# ---- predicting ------------------------------------------------------------------------------------------


def test_a_prediction_grows_and_is_stored_under_the_id_that_the_page_has(page):
    *growing, (value, seed) = page.watch(page.upload())
    assert [value["state"] for value, _ in growing] == ["running"] * len(growing) and value["state"] == "done"
    assert {value["id"] for value, _ in growing} == {value["id"]}
    assert {one for _, one in growing} == {seed} == {7}
    assert page.results.get(value["id"]).report["settings"] == SETTINGS
    for _ in range(2):
        *_, (value, new) = page.watch(page.upload(), new_seed=True, frames=1)
        assert value["names"] == [f"seed {new}", f"seed {new + 1}"] and new != 7


def test_a_prediction_that_stops_or_fails_keeps_its_frames(page, monkeypatch):
    whole = page.predict(page.upload(), frames=6)
    events = page.watch(page.upload(), frames=6)
    value = next(value for value, _ in events if len(value["strips"]) == 1)
    events.close()
    compute = page.backend.compute

    def broken(model, job):
        yield from itertools.islice(compute(model, job), 2)
        raise RuntimeError("the machine is on fire")

    results = {1: page.results.get(value["id"])}
    for frames, computing, slow, sentence in ((2, broken, {}, "our side"), (1, compute, {"deadline": 0.0}, "1 of 6")):
        page.backend.compute = computing
        monkeypatch.setattr(backend, "predict", partial(predict, **slow))
        shown = []
        with pytest.raises(gr.Error, match=sentence):
            shown.extend(value for value, _ in page.watch(page.upload(), frames=6))
        results[frames] = page.results.get(shown[-1]["id"])
    for frames, result in results.items():
        np.testing.assert_array_equal(result.futures, whole.futures[:, :frames])
        np.testing.assert_array_equal(result.context, whole.context)
        assert result.report["predicted_frames"] == frames
        assert result.report["scores"]["copy"]["error"] == whole.report["scores"]["copy"]["error"][:frames]
        path, _ = page.results.video(result.report["id"], "future-2.mp4")
        assert read_clip(path, size=16, channels=1).source_frames == 4 + frames


def test_a_prediction_that_stops_before_its_first_frame_leaves_nothing(page):
    events = page.watch(page.upload())
    value, _ = next(events)
    events.close()
    with pytest.raises(RequestError, match=NO_RESULT):
        page.results.get(value["id"])


def test_impossible_requests_are_explained(page):
    for changes in ({"frames": 41}, {"seed": "x"}, {"prompt_frames": 7}, {"model": None}):
        with pytest.raises(gr.Error, match=r" not |but the clip has 6"):
            list(page.watch(page.upload(), **changes))
    with pytest.raises(gr.Error, match=NO_CLIP):
        list(page.watch(None))


# ---- choosing a clip -------------------------------------------------------------------------------------


def test_a_new_clip_is_shown_and_the_future_starts_after_a_full_context(page):
    for frames, start, movable in ((12, 6, True), (3, 3, True), (1, 1, False)):
        answer = page.choose(page.upload(frames=frames), stride=1, frames=4)
        assert (answer.player["state"], answer.player["context_frames"]) == ("ready", start)
        assert answer.player["truth_frames"] == min(frames - start, 4)
        control = answer.controls.pop("prompt_frames")
        assert (control["value"], control["maximum"], control["interactive"]) == (start, max(frames, 2), movable)
        assert answer.controls == {}
    answer = page.choose(None)
    assert answer.player == EMPTY and answer.controls == {}
    (page.uploads / "bad.mp4").write_text("no video " * 50)
    with pytest.raises(gr.Error, match="^'?The file is "):
        page.choose(page.uploads / "bad.mp4")


def test_a_pending_start_holds_for_its_own_clip_as_far_as_the_clip_goes(page):
    for start, expected in ((2, 2), (12, 12), (40, 12)):
        answer = page.choose(page.upload(), {"prompt_frames": start}, stride=1)
        assert answer.controls["prompt_frames"]["value"] == expected
        assert answer.player["context_frames"] == min(expected, 6)
    first, second = page.examples
    pending = page.choose(first, {"prompt_frames": 2}, stride=1).pending
    assert page.choose(first, pending, stride=1).controls["prompt_frames"]["value"] == 2  # reported twice
    assert page.choose(second, pending, stride=1).controls["prompt_frames"]["value"] == 6


def test_another_start_updates_the_preview(page):
    player, start, _ = page.callbacks.preview(ME, *values(page.upload(), prompt_frames=5))
    assert (player["context_frames"], player["truth_frames"], start["maximum"]) == (5, 1, 6)
    assert page.callbacks.preview(ME, *values(page.upload(), prompt_frames=11))[1]["value"] == 6
    assert page.callbacks.preview(ME, *values(None))[0] == EMPTY


def test_a_shipped_result_shows_for_its_own_prompt_and_weights_only(tmp_path, models):
    models["other"].weights_hash = "other@2"
    first = FakePage(tmp_path / "first", models)
    plain = {"stride": 1, "fit": "crop"}
    shipped = {
        "0": first.predict(first.examples[0], **plain, prompt_frames=6),
        "1": first.predict(first.examples[0], **plain, model="gaps", prompt_frames=3),
    }
    page = FakePage(tmp_path / "second", models, shipped)
    player = page.choose(page.examples[0], **plain, seed=None, futures=8).player
    assert (player["state"], player["precomputed"]) == ("done", True)
    np.testing.assert_array_equal(sheet(player["strips"][0]["src"]), shipped["0"].futures)
    for changes, state in (
        ({"clip": page.examples[1]}, "ready"), ({"stride": 2}, "ready"), ({"fit": "pad"}, "ready"),
        ({"model": "other"}, "ready"), ({"model": "gaps", "prompt_frames": 3}, "done"),
        ({"model": "gaps", "prompt_frames": 3, "between": True}, "ready"),
    ):  # fmt: skip
        settings = {"clip": page.examples[0], **plain, **changes}
        assert page.choose(settings.pop("clip"), **settings).player["state"] == state, changes


def test_an_example_brings_the_model_of_its_result_if_the_channels_differ(page):
    colour = lively(built(TINY_CONFIGS["stt, colour"])).eval()
    colour.weights_hash, page.models["tiny"].weights_hash, page.models["other"].weights_hash = "c", "t", "o"
    page.backend.models = page.models | {"colour": colour}
    for number, weights in ((0, "c"), (1, "t")):
        report = page.predict(page.examples[number], frames=1).report
        page.results.shipped[weights] = SimpleNamespace(report=report | {"weights": weights})
    example = page.callbacks.example
    assert example("tiny", 1)[0] == str(page.examples[1])
    assert {example("tiny")[0] for _ in range(40)} == set(map(str, page.examples))
    assert example("tiny", 0)[1] == "colour" and example("colour", 1)[1] == "tiny"
    assert [example(*one)[1] for one in (("colour", 0), ("tiny", 1), ("other", 1))] == [gr.skip()] * 3


def test_a_clip_that_the_browser_cannot_play_gets_a_preview_of_its_frames(page, tmp_path):
    clip = make(page.uploads / "CLIP.AVI", "-c:v mpeg4 -vtag XVID -f avi", "testsrc2=s=64x48:r=20:d=1")
    value = page.callbacks.preview_unplayable(str(clip))
    assert value["path"] == str(clip) and Path(value["preview"]).is_relative_to(page.uploads)
    assert (probe(value["preview"]).codec, probe(value["preview"]).width) == ("h264", 192)
    assert read_clip(value["preview"], size=16, channels=3).source_frames == 10
    assert page.choose(value, stride=1).player["state"] == "ready"
    clip.write_text("no video")
    assert page.callbacks.preview_unplayable(str(clip))["preview"] == ""  # `change_clip` says what is wrong with it
    for path in (str(moving_dot(tmp_path / "outside.mp4")), "/etc/passwd", None, 3, ["a"]):
        with pytest.raises(gr.Error):
            page.callbacks.preview_unplayable(path)


def test_the_file_dialog_offers_every_kind_of_upload_by_the_ending_of_its_name():
    for ending in ("mov", "avi", "mkv", "gif", "ts", "mts", "m2ts", "3gp", "webm", "ogv", "h264", "mp4"):
        assert f".{ending}" in ACCEPT.split(",")


# ---- links and memory ------------------------------------------------------------------------------------


def opened(page: FakePage, memory: Any = None, **query: str) -> tuple[dict, dict]:
    pending, *controls = page.callbacks.open_page(memory, SimpleNamespace(query_params=query))
    return pending, changes_of(controls)


def test_a_link_carries_all_settings_and_its_clip(page):
    pending, controls = opened(page, None, clip="example-1", **{n: str(v) for n, v in SETTINGS.items()})
    assert controls == SETTINGS | {"clip": str(page.examples[1]), "new_seed": False}
    assert page.choose(page.examples[1], pending, stride=1).controls["prompt_frames"]["value"] == 4


def test_a_link_wins_over_the_browsers_memory(page):
    remembered = {"frames": 20, "futures": 3, "fit": "pad", "labels": [3, 7], "between": True, "action": [0.5, -1]}
    known = remembered | {"action": [0.5, -1.0]}
    for query, changes in (
        ({}, {}),
        ({"frames": "5", "temperature": "0.25"}, {"frames": 5, "temperature": 0.25}),
        ({"labels": "", "action": "", "between": "false"}, {"labels": [], "action": [], "between": False}),
        ({"seed": "42", "action": "1,0"}, {"seed": 42, "new_seed": False, "action": [1.0, 0.0]}),
    ):
        assert opened(page, remembered, **query)[1] == known | changes


def test_junk_in_a_link_or_in_memory_changes_nothing(page):
    memories = [None, [], "x", 3, {"frames": 10**400, "model": "gone"}, {"frames": {"a": 1}}]
    queries = [
        {}, {"frames": "many", "seed": "", "model": "gone", "fps": "1e999"}, {"clip": "../../etc/passwd"}, {"clip": ""},
        {"__theme": "dark", "frames": str(PAGE.frames + 1), "new_seed": "x"},
    ]  # fmt: skip
    for memory, query in itertools.product(memories, queries):
        assert opened(page, memory, **query) == ({}, {}), (memory, query)
    pending, *controls = page.callbacks.open_page(None, None)
    assert pending == {} and changes_of(controls) == {}


# ---- gaps and actions ------------------------------------------------------------------------------------


def test_settings_whose_controls_the_model_hides_do_not_count_on_the_page(page):
    for changes, context, expected in (
        (GAP, 3, {"between": True}),
        (GAP | {"model": "tiny"}, 4, {"between": False}),
        ({"model": "actions", "action": [0.5, -1.0]}, 4, {"action": [0.5, -1.0], "labels": []}),
        ({"model": "actions"}, 4, {"action": [], "labels": [3, 7]}),
        ({"action": [0.5, -1.0]}, 4, {"action": []}),
    ):
        value = last(page.watch(page.upload(), **changes))
        assert value["context_frames"] == context and value["settings"].items() >= expected.items(), changes
    endpoints = Endpoints(page.backend)
    for changes, sentence in (  # a program is told
        (GAP | {"model": "tiny"}, "tiny only continues clips"),
        ({"action": [0.5, -1.0]}, "tiny takes no action"),
        ({"model": "actions", "action": "1"}, "Action is 1, but actions takes 2 numbers"),
        ({"model": "actions", "action": [0.5, -1.0]}, "cannot be combined"),
    ):
        with pytest.raises(gr.Error, match=sentence):
            list(endpoints.predict(*values(page.upload(), **changes)))


def test_a_gap_moves_and_shrinks_until_it_lies_in_the_clip(page):
    preview = page.callbacks.preview
    for start, frames, shown in (
        (4, 3, (4, 8, 3)), (11, 3, (8, 8, 3)), (4, 10, (1, 2, 10)), (4, 40, (1, 2, 10)),
    ):  # fmt: skip
        changes = GAP | {"prompt_frames": start, "frames": frames}
        player, control, kept = preview(ME, *values(page.upload(), **changes))
        assert (control["value"], control["maximum"], player["frames"]) == shown
        assert kept == (gr.skip() if frames == shown[2] else shown[2])
        assert player["ending_frames"] == min(12 - shown[0] - shown[2], 3) and player["truth_frames"] == shown[2]
    answer = page.choose(page.upload(frames=6), **GAP | {"frames": 10})
    assert (answer.controls["frames"], answer.controls["prompt_frames"]["value"]) == (4, 1)
    pending = {"prompt_frames": 2, "frames": 3, "between": True}
    answer = page.choose(page.upload(frames=6), pending, **GAP | {"frames": 10, "between": False})
    assert answer.player["between"] and answer.controls["prompt_frames"]["value"] == 2
    with pytest.raises(gr.Error, match="A gap of 1 needs a clip of at least 3 frames"):
        preview(ME, *values(page.upload(frames=2), **GAP))


def test_the_number_of_frames_changes_the_preview_of_a_gap_only(page):
    clip = page.upload()
    assert page.callbacks.preview_gap(ME, *values(clip, **GAP))[0]["frames"] == 3
    for one, changes in ((clip, {"between": False}), (clip, {"model": "tiny"}), (None, {})):
        assert page.callbacks.preview_gap(ME, *values(one, **GAP | changes)) == (gr.skip(),) * 3


def test_an_extended_future_has_the_time_of_the_clip_however_fast_it_played(page):
    page.models["tiny"].card = {"world": {"fps": 5}}
    value = last(page.watch(page.upload(), stride=0, fps=25, prompt_frames=3))
    _, clip = page.callbacks.extend(event_of(result=value["id"], future=0))
    assert value["fps"] == 25 and probe(clip).fps == 5
    assert page.choose(Path(clip), {"prompt_frames": 6}, stride=0).player["context_frames"] == 6


def test_an_extended_gap_is_continued(page):
    value = last(page.watch(page.upload(), **GAP))
    pending, clip = page.callbacks.extend(event_of(result=value["id"], future=1))
    assert pending == {"prompt_frames": 3 + 3 + 3, "between": False}
    player = page.choose(Path(clip), pending, **GAP).player
    assert not player["between"] and player["context_frames"] == 3 and player["truth_frames"] == 0
