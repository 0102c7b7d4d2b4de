"""The page's callbacks without a page: predicting, choosing a clip, results that come back, links."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from stt.request import NO_CLIP, RequestError
from stt.results import NO_RESULT
from stt.ui.cleanup import Cleanup
from stt.ui.clip_box import ACCEPT
from stt.ui.costs import Costs
from stt.ui.endpoints import Endpoints
from stt.ui.errors import plain_errors
from stt.ui.examples import best_example, find_examples, gallery, rivals
from stt.ui.player import EMPTY
from stt.video import probe, read_clip
from tests.page_fixtures import ME, SETTINGS, FakePage, changes_of, event_of, sheet, values
from tests.ui_fixtures import action_model, any_clip_model, class_model, gap_model, moving_dot
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


def test_a_prediction_that_stops_or_fails_keeps_its_frames(page):
    whole = page.predict(page.upload(), frames=6)
    events = page.watch(page.upload(), frames=6)
    value = next(value for value, _ in events if len(value["strips"]) == 1)
    events.close()
    compute = page.backend.compute

    def broken(model, job):
        yield from itertools.islice(compute(model, job), 2)
        raise RuntimeError("the machine is on fire")

    results = {1: page.results.get(value["id"])}
    for frames, computing, seconds, sentence in ((2, broken, 180.0, "our side"), (1, compute, 0.0, "1 of 6")):
        page.backend.compute, page.backend.costs = computing, Costs(seconds)
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


def test_a_clip_in_use_outlasts_files_that_came_after_it(page):
    clip, cleanup = page.upload(), Cleanup(page.uploads, reserve=0, most=2)
    for _ in range(3):
        other = moving_dot(page.uploads / "other.mp4")
        os.utime(clip, (1, 1))
        page.predict(clip)
        os.utime(other, (2, 2))
        cleanup.make_room(0)
        assert clip.is_file() and not other.exists()


def test_impossible_requests_are_explained(page):
    for changes in ({"frames": 41}, {"seed": "x"}, {"prompt_frames": 7}, {"model": None}):
        with pytest.raises(gr.Error, match=r" not |but the clip has 6"):
            list(page.watch(page.upload(), **changes))
    with pytest.raises(gr.Error, match=NO_CLIP):
        list(page.watch(None))


# ---- choosing a clip -------------------------------------------------------------------------------------


def test_a_new_clip_is_shown_and_the_future_starts_at_its_end(page):
    for frames, used, movable in ((12, 6, True), (3, 3, True), (1, 1, "hidden")):
        answer = page.choose(page.upload(frames=frames), stride=1, frames=4)
        assert (answer.player["state"], answer.player["context_frames"]) == ("ready", used)
        assert answer.player["truth_frames"] == 0 and answer.start["visible"] == movable
        marker = answer.start["value"]
        assert (marker["start"], marker["count"], marker["last"], marker["gap"]) == (frames, frames, frames, 0)
        assert answer.controls == {"prompt_frames": 0, "frames": 4}
    answer = page.choose(None)
    assert answer.player == EMPTY and answer.controls == {}
    (page.uploads / "bad.mp4").write_text("no video " * 50)
    with pytest.raises(gr.Error, match="^'?The file is "):
        page.choose(page.uploads / "bad.mp4")


def test_a_file_that_is_no_video_leaves_the_last_clip_in_place(page, notices):
    good, bad = page.upload(), page.uploads / "bad.mp4"
    bad.write_text("no video " * 50)
    pending = page.choose(good).pending
    answer = page.choose(bad, pending)
    assert answer.controls == {"clip": str(good)} and answer.player == gr.skip()
    again = page.choose(good, answer.pending)  # the page reports the last clip anew; its futures stay
    assert again.controls == {} and again.player == gr.skip() and again.start == gr.skip()
    assert len(notices) == 1 and notices[0].startswith("The file is ")
    assert page.choose(bad, again.pending).controls == {"clip": str(good)}


def test_a_pending_start_holds_for_its_own_clip_as_far_as_the_clip_goes(page):
    for start, expected, shown in ((2, 2, 2), (12, 0, 6), (40, 0, 6)):  # 0: the clip's end
        answer = page.choose(page.upload(), {"prompt_frames": start}, stride=1)
        assert answer.controls["prompt_frames"] == expected
        assert answer.player["context_frames"] == shown
    first, second = page.examples
    pending = page.choose(first, {"prompt_frames": 2}, stride=1).pending
    assert pending == {"clip": str(first), "shown": True}
    assert page.choose(second, {"prompt_frames": 2, "clip": str(first)}, stride=1).controls["prompt_frames"] == 0


def test_another_start_updates_the_preview(page):
    player, start, *_ = page.callbacks.preview(ME, *values(page.upload(), prompt_frames=5))
    assert (player["context_frames"], player["truth_frames"], start["value"]["last"]) == (5, 1, 6)
    assert page.callbacks.preview(ME, *values(page.upload(), prompt_frames=11))[1]["value"]["start"] == 6
    assert page.callbacks.preview(ME, *values(None))[0] == EMPTY


def test_a_start_at_the_clips_end_stays_there_at_another_rate_and_one_that_must_move_says_so(page, notices):
    clip = page.upload(frames=12)

    def starts(**settings):
        player, start, *controls = page.callbacks.preview(ME, *values(clip, **settings))
        return start["value"]["start"], changes_of(controls)["prompt_frames"]

    assert starts(stride=1, prompt_frames=0) == (12, 0) and starts(stride=2, prompt_frames=0) == (6, 0)
    assert starts(stride=1, prompt_frames=5) == (5, 5) and not notices
    assert starts(stride=4, prompt_frames=5) == (3, 0)
    assert notices == ["The future starts after frame 3 now, not after 5."]


SHIPPED = {"model": "tiny", "frames": 3, "futures": 3, "seed": 7, "temperature": 1.0, "prompt_frames": 5}
PLAIN = SHIPPED | {"stride": 0, "fit": "auto", "labels": [], "top_k": 0, "top_p": 1.0, "fps": 0}


def test_a_shipped_result_shows_for_its_own_settings_only_and_the_controls_say_what_it_shows(page):
    first = page.examples[0]
    for changes, exact, state in (
        ({}, {}, "done"), ({"frames": 9, "seed": 1}, {}, "done"), ({"seed": 1}, {"seed": 1}, "ready"),
        ({"frames": 4}, {"frames": 4}, "ready"), ({"stride": 2}, {}, "ready"), ({"fit": "pad"}, {}, "ready"),
        ({"model": "other"}, {}, "ready"), ({"clip": page.upload()}, {}, "ready"), ({"prompt_frames": 4}, {}, "ready"),
    ):  # fmt: skip
        settings = {"clip": first, **PLAIN, **changes}
        pending = {name: settings[name] for name in ("prompt_frames", *exact)}
        answer = page.choose(settings.pop("clip"), pending, **settings)
        assert answer.player["state"] == state, changes
        if state == "done":
            assert answer.controls == {name: SHIPPED[name] for name in SHIPPED if name != "model"}


def test_an_example_brings_its_model_its_settings_and_its_result(page):
    assert [one.caption for one in page.backend.gallery] == ["Example 0", "Example 1"]
    for number, model, expected in ((0, None, "tiny"), (1, "nobody", "tiny"), (0, "classes", "classes")):
        event = event_of(number=number, model=model)
        pending, player, start, *controls = page.callbacks.example(ME, event)
        changes = changes_of(controls)
        assert (player["state"], player["model"], player["id"]) == ("done", expected, f"example-{number}--{expected}")
        assert (changes["clip"], changes["model"]) == (str(page.examples[number]), expected)
        assert pending["clip"] == changes["clip"] and start["value"]["start"] == changes["prompt_frames"]
    for number in (-1, 2):
        with pytest.raises(gr.Error, match="no such example"):
            page.callbacks.example(ME, event_of(number=number))


def test_a_model_chosen_by_hand_brings_its_own_result_of_the_example(page):
    for model, state in (("classes", "done"), ("tiny", "done"), ("other", "ready")):
        player, *_ = page.callbacks.change_model(ME, *values(page.examples[0], **PLAIN | {"model": model}))
        assert (player["state"], player["model"]) == (state, model)


def test_a_model_for_any_clip_gives_ten_frames_where_the_visitor_chose_none(page):
    page.backend.models["any"] = any_clip_model()
    for before, after in ((20, 10), (9, 9)):
        changes = PLAIN | {"model": "any", "frames": before, "prompt_frames": 6}
        _, _, *controls = page.callbacks.change_model(ME, *values(page.upload(), **changes))
        assert changes_of(controls)["frames"] == after
        wide = page.choose(
            page.upload(width=64), **PLAIN | {"frames": before, "fit": "auto"}
        )  # which brings that model
        assert (wide.controls["model"], wide.controls["frames"]) == ("any", after)


def test_an_example_that_is_shown_leaves_what_the_visitor_changes_while_its_clip_arrives(page):
    pending, player, _, *controls = page.callbacks.example(ME, event_of(number=1))
    clip = Path(changes_of(controls)["clip"])
    assert player["state"] == "done"
    answer = page.choose(clip, pending=pending, **PLAIN | {"frames": 9, "futures": 1})
    assert answer.player == gr.skip() and answer.controls == {}
    assert page.choose(page.upload(), pending=answer.pending, **PLAIN).player["state"] == "ready"


def test_a_result_without_chance_leaves_the_number_of_futures_to_the_next_model(page, monkeypatch):
    result = page.results.get("example-0--tiny")
    result.report["stochastic"] = False
    monkeypatch.setattr(page.backend, "shipped_result", lambda *_: result)
    answer = page.choose(page.examples[0], **PLAIN | {"futures": 4})
    assert answer.player["state"] == "done" and not {"futures", "seed", "temperature"} & answer.controls.keys()


def test_with_own_weights_only_examples_that_they_know_are_shown(page):
    models = {"mine": page.models["other"]}
    assert find_examples(page.examples, models, page.results.shipped) == []
    assert gallery(models, []).visible is False


def test_all_models_of_a_world_are_compared_with_one_prompt_and_one_seed(page):
    *_, (value, seed) = page.runs.compare(ME, *values(page.examples[0], **PLAIN | {"seed": 5}))
    assert seed == 5 and (value["model"], value["names"], value["place"]) == ("tiny", ["seed 5"], 0)  # as the page says
    (other,) = value["beside"]
    first, second = page.results.get(value["id"]), page.results.get(other)
    assert second.report["settings"]["model"] == "classes" and first.report["seeds"] == second.report["seeds"] == [5]
    assert first.report["clip"] == second.report["clip"] and first.futures.shape == second.futures.shape
    assert rivals("other", page.models, page.backend.gallery) == ["other"]  # no example shows it


def test_a_model_for_any_clip_is_compared_with_those_whose_frames_are_as_fast(page):
    page.models["motion"] = motion = any_clip_model()
    motion.card = {"fps": 10}
    assert "motion" not in rivals("tiny", page.models, page.backend.gallery)  # of clips at any rate
    page.models["tiny"].card = page.models["tiny"].card | {"fps": 10}
    assert rivals("tiny", page.models, page.backend.gallery) == ["tiny", "classes", "motion"]
    *_, (value, _) = page.runs.compare(ME, *values(page.examples[0], **PLAIN))
    assert value["model"] == "tiny" and len(value["beside"]) == 2


def test_an_upload_that_is_not_square_is_shown_at_once_as_the_model_for_any_clip_will_see_it(page):
    page.models["motion"] = any_clip_model()
    settings = PLAIN | {"fit": "auto"}
    answer = page.choose(page.upload(), **settings)  # 48 by 32
    assert answer.controls["model"] == "motion" and answer.player["model"] == "motion"
    assert answer.player["size"] == [48, 32]
    again = page.choose(page.upload(), pending=answer.pending, **settings)  # Gradio may report one change twice
    assert not again.controls and again.pending == answer.pending
    square = moving_dot(page.uploads / "square.mp4", frames=12)
    for clip, changes in (
        (square, {}), (page.examples[0], {}), (page.upload(), {"fit": "crop"}), (page.upload(), {"model": "motion"}),
    ):  # fmt: skip
        assert page.choose(clip, **settings | changes).controls.get("model") is None, (clip, changes)
    kept = page.choose(page.upload(), pending={"model": "tiny"}, **settings)  # of a link or of the last visit
    assert kept.player["model"] == "tiny"


def test_labels_are_imagined_without_a_clip_and_only_by_a_model_that_knows_them(page):
    value = last(page.watch(None, model="classes"))
    assert value["imagined"] and value["clip"] == "" and value["settings"]["labels"] == [3, 7]
    with pytest.raises(gr.Error, match=NO_CLIP):
        list(page.watch(None, model="tiny"))
    *_, (_, videos, _, report) = Endpoints(page.backend).predict(None, "classes", labels="3", frames=2, futures=2)
    assert len(videos) == 2 and report["notes"] == []


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


def opened(page: FakePage, memory: Any = None, **query: str) -> tuple[dict, Any, dict]:
    visitor = SimpleNamespace(query_params=query, session_hash="me")
    _, pending, player, _, *controls = page.callbacks.open_page(memory, visitor)
    return pending, player, changes_of(controls)


def test_the_page_opens_with_the_first_example_and_its_futures(page):
    for memory in (None, {}, [], {"clip": "/etc/passwd"}, {"frames": 9}):
        pending, player, controls = opened(page, memory)
        assert player["state"] == "done" and player["precomputed"], memory
        assert controls["clip"] == pending["clip"] == str(page.examples[0]) and controls["frames"] == 3
        assert "new_seed" not in controls


def test_a_link_that_names_a_model_opens_its_example(page):
    backend = page.callbacks.backend
    for name in {name for example in backend.gallery for name in example.results}:
        pending, player, controls = opened(page, {"clip": str(page.upload()), "model": "another"}, model=name)
        shown = backend.gallery[best_example(name, backend.models, backend.gallery)]
        assert controls["model"] == name and name in shown.results and player["precomputed"]
        assert controls["clip"] == pending["clip"] == str(shown.clip)


def test_a_link_carries_all_settings_and_its_clip(page):
    pending, player, controls = opened(page, None, clip="example-1", **{n: str(v) for n, v in SETTINGS.items()})
    assert controls == SETTINGS | {"clip": str(page.examples[1]), "new_seed": False} and player == gr.skip()
    answer = page.choose(page.examples[1], pending, **{**SETTINGS, "stride": 1})
    assert answer.controls["prompt_frames"] == 4 and answer.player["state"] == "ready"  # other seeds than the shipped


def test_a_link_to_a_result_opens_that_result(page):
    result = page.predict(page.upload())
    _, player, controls = opened(page, None, result=result.report["id"], seed="1", frames="9")
    np.testing.assert_array_equal(sheet(player["strips"][0]["src"]), result.futures)
    assert controls == SETTINGS | {"new_seed": False}
    for name, said in (
        (result.report["id"], "stays with its visitor"),
        ("not-here-any-more", "no longer here; results are kept for an hour"),
    ):
        visitor = SimpleNamespace(query_params={"result": name, "clip": "mine"}, session_hash="other")
        notice = page.callbacks.open_page(None, visitor)[0]
        assert said in notice


def test_a_reload_keeps_the_clip_and_a_link_wins_over_the_browsers_memory(page):
    clip = str(page.upload())
    remembered = {"clip": clip, "frames": 20, "futures": 3, "fit": "pad", "labels": [3, 7], "action": [0.5, -1]}
    known = remembered | {"action": [0.5, -1.0]}
    for query, changes in (
        ({}, {}),
        ({"frames": "5", "temperature": "0.25"}, {"frames": 5, "temperature": 0.25}),
        ({"seed": "42", "action": "1,0"}, {"seed": 42, "new_seed": False, "action": [1.0, 0.0]}),
        ({"clip": "example-1"}, {"clip": str(page.examples[1])}),
    ):
        assert opened(page, remembered, **query)[2] == known | changes
    assert opened(page, remembered | {"model": "tiny"}, model="tiny")[2]["clip"] == clip  # an upload has no link


def test_bad_values_of_an_address_are_named_and_left_out(page):
    for query, named in (
        ({"frames": "many"}, ["Frames must be a whole number from 1 to 40"]),
        ({"frames": "41", "model": "gone", "fps": "1e999"}, ["Frames must", "Model must", "Frames per second must"]),
        ({"clip": "../../etc/passwd"}, ["The clip of this link is not here"]), ({"__theme": "dark", "seed": ""}, []),
    ):  # fmt: skip
        controls = opened(page, None, **query)[2]
        assert controls["frames"] == 3 and controls["model"] == "tiny", query
        notice = page.callbacks.open_page(None, SimpleNamespace(query_params=query, session_hash="me"))[0]
        assert all(one in notice for one in named) and bool(notice) == bool(named), (query, notice)
    for memory in ([], "x", 3, {"frames": 10**400, "model": "gone"}, {"frames": {"a": 1}}):
        assert opened(page, memory)[2]["frames"] == 3


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
        (4, 3, (4, 8, 3)), (11, 3, (8, 8, 3)), (4, 10, (1, 1, 10)), (4, 40, (1, 1, 10)),
    ):  # fmt: skip
        changes = GAP | {"prompt_frames": start, "frames": frames}
        player, marker, *controls = preview(ME, *values(page.upload(), **changes))
        assert (marker["value"]["start"], marker["value"]["last"], player["frames"]) == shown
        assert changes_of(controls) == {"prompt_frames": shown[0], "frames": shown[2]}
        assert player["ending_frames"] == min(12 - shown[0] - shown[2], 3) and player["truth_frames"] == shown[2]
    answer = page.choose(page.upload(frames=6), **GAP | {"frames": 10})
    assert (answer.controls["frames"], answer.controls["prompt_frames"]) == (4, 1)
    pending = {"prompt_frames": 2, "frames": 3, "between": True}
    answer = page.choose(page.upload(frames=6), pending, **GAP | {"frames": 10, "between": False})
    assert answer.player["between"] and answer.controls["prompt_frames"] == 2
    with pytest.raises(gr.Error, match="A gap of 1 needs a clip of at least 3 frames"):
        preview(ME, *values(page.upload(frames=2), **GAP))


def test_the_number_of_frames_changes_the_preview_of_a_gap_only(page):
    clip = page.upload()
    assert page.callbacks.preview_gap(ME, *values(clip, **GAP))[0]["frames"] == 3
    for one, changes in ((clip, {"between": False}), (clip, {"model": "tiny"}), (None, {})):
        player, start, *controls = page.callbacks.preview_gap(ME, *values(one, **GAP | changes))
        assert (player, start, changes_of(controls)) == (gr.skip(), gr.skip(), {})


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
