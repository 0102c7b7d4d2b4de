"""What the page's buttons do, called without a page: predicting, choosing a clip, opening a link."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from stt.prediction import predict
from stt.request import MAX_FRAMES, NO_CLIP, Refused
from stt.results import NO_RUN, Result
from stt.ui import callbacks
from stt.ui.callbacks import EMPTY, plain_errors
from stt.ui.layout import arranged, axis, carried, dropdown, phrased
from stt.video import read_clip
from tests.conftest import TINY_CONFIGS, built, lively
from tests.simulator_fixtures import ME, SETTINGS, Desk, changed, event_of, values
from tests.test_player import sheet
from tests.ui_fixtures import dreamer, filler, pusher


def test_whatever_goes_wrong_becomes_one_harmless_sentence():
    with pytest.raises(gr.Error) as shown, plain_errors():
        raise Refused("not <b>bold</b>")
    assert shown.value.message == "not &lt;b&gt;bold&lt;/b&gt;"
    with pytest.raises(gr.Error) as shown, plain_errors():
        raise RuntimeError("/secret/path")
    assert shown.value.message == "Something went wrong on our side, please try again."


# ---- predicting ------------------------------------------------------------------------------------------


def test_a_prediction_is_watched_as_it_grows_and_kept_under_the_id_that_was_shown(desk):
    *growing, (shown, seed) = desk.callbacks.watch(ME, False, *values(desk.upload()))
    assert [value["state"] for value, _ in growing] == ["running"] * len(growing) and shown["state"] == "done"
    assert {value["id"] for value, _ in growing} == {shown["id"]}
    assert {used for _, used in growing} == {seed} == {7}
    assert desk.runs.get(shown["id"]).report["settings"] == SETTINGS


def test_a_new_seed_is_drawn_when_asked_for_and_shown(desk):
    seeds = [list(desk.callbacks.watch(ME, True, *values(desk.upload(), frames=1)))[-1] for _ in range(2)]
    for shown, seed in seeds:
        assert shown["names"] == [f"seed {seed}", f"seed {seed + 1}"]
    assert len({7, *(seed for _, seed in seeds)}) == 3


def test_a_stopped_prediction_keeps_what_was_predicted(desk):
    whole = desk.predict(desk.upload(), frames=6)
    events = desk.callbacks.watch(ME, False, *values(desk.upload(), frames=6))
    shown = next(shown for shown, _ in events if len(shown["strips"]) == 1)
    events.close()
    run = desk.runs.get(shown["id"])
    assert run.futures.shape[1] == run.report["predicted_frames"] == 1
    np.testing.assert_array_equal(run.futures, whole.futures[:, :1])
    np.testing.assert_array_equal(run.given, whole.given)
    assert run.report["scores"]["copy"]["error"] == whole.report["scores"]["copy"]["error"][:1]
    assert run.report["settings"] == whole.report["settings"]
    path, _ = desk.runs.file(shown["id"], "future-2.mp4")
    assert read_clip(path, size=16, channels=1).source_frames == 4 + 1


def test_a_prediction_that_fails_keeps_what_it_made(desk, monkeypatch):
    whole = desk.predict(desk.upload(), frames=6)
    real = desk.callbacks.compute

    def broken(*arguments):
        yield from itertools.islice(real(*arguments), 2)
        raise RuntimeError("the machine is on fire")

    desk.callbacks.compute = broken
    shown = []
    with pytest.raises(gr.Error, match="our side"):
        shown.extend(value for value, _ in desk.callbacks.watch(ME, False, *values(desk.upload(), frames=6)))
    kept = desk.runs.get(shown[-1]["id"])
    np.testing.assert_array_equal(kept.futures, whole.futures[:, :2])


def test_of_a_prediction_that_was_stopped_before_its_first_frame_nothing_is_kept(desk):
    events = desk.callbacks.watch(ME, False, *values(desk.upload()))
    shown, _ = next(events)
    events.close()
    with pytest.raises(Refused, match=NO_RUN):
        desk.runs.get(shown["id"])


def test_a_prediction_that_takes_too_long_is_explained_and_what_there_is_is_kept(desk, monkeypatch):
    monkeypatch.setattr(callbacks, "predict", partial(predict, deadline=0.0))
    shown = []
    with pytest.raises(gr.Error, match="1 of 3 frames were done"):
        shown.extend(value for value, _ in desk.callbacks.watch(ME, False, *values(desk.upload())))
    assert desk.runs.get(shown[-1]["id"]).futures.shape[1] == 1


@pytest.mark.parametrize("changes", [{"frames": 41}, {"seed": "x"}, {"prompt_frames": 7}, {"model": None}])
def test_what_cannot_be_served_is_explained(desk, changes):
    with pytest.raises(gr.Error, match=r" not |but the clip has 6"):
        list(desk.callbacks.watch(ME, False, *values(desk.upload(), **changes)))
    with pytest.raises(gr.Error, match=NO_CLIP):
        list(desk.callbacks.watch(ME, False, *values(None)))


# ---- choosing a clip -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("frames", "start", "slides"), [(12, 6, True), (3, 3, True), (1, 1, False)])
def test_a_chosen_clip_is_shown_and_the_future_starts_where_the_model_can_look_back_furthest(
    desk, frames, start, slides
):
    answer = desk.choose(desk.upload(frames=frames), stride=1, frames=4)
    assert (answer.player["state"], answer.player["given"]) == ("ready", start)
    assert answer.player["truth_frames"] == min(frames - start, 4)
    control = answer.controls.pop("prompt_frames")
    assert (control["value"], control["maximum"], control["interactive"]) == (start, max(frames, 2), slides)
    assert answer.controls == {}


def test_without_a_clip_the_player_is_empty(desk):
    answer = desk.choose(None)
    assert answer.player == EMPTY and answer.controls == {}


def test_a_file_that_is_no_video_is_explained_at_once(desk):
    (desk.uploads / "bad.mp4").write_text("no video " * 50)
    with pytest.raises(gr.Error, match="^The file is |^'The file is "):
        desk.choose(desk.uploads / "bad.mp4")


@pytest.mark.parametrize(("wanted", "start"), [(2, 2), (12, 12), (40, 12)])
def test_a_start_that_was_asked_for_is_kept_as_far_as_the_clip_goes(desk, wanted, start):
    answer = desk.choose(desk.upload(), {"prompt_frames": wanted}, stride=1)
    assert answer.controls["prompt_frames"]["value"] == start
    assert answer.player["given"] == min(start, 6)


def test_what_was_wanted_for_one_clip_is_not_wanted_for_the_next(desk):
    first, second = desk.examples
    wanted = desk.choose(first, {"prompt_frames": 2}, stride=1).wanted
    assert desk.choose(first, wanted, stride=1).controls["prompt_frames"]["value"] == 2  # reported twice
    assert desk.choose(second, wanted, stride=1).controls["prompt_frames"]["value"] == 6


def test_a_moved_start_or_another_stride_is_looked_at_again(desk):
    player, start, _ = desk.callbacks.look(ME, *values(desk.upload(), prompt_frames=5))
    assert (player["given"], player["truth_frames"], start["maximum"]) == (5, 1, 6)
    assert desk.callbacks.look(ME, *values(desk.upload(), prompt_frames=11))[1]["value"] == 6
    assert desk.callbacks.look(ME, *values(None))[0] == EMPTY


def test_a_result_that_ships_is_shown_at_once_but_only_for_its_own_prompt_and_weights(tmp_path, models):
    models["other"].weights = "other@2"
    first = Desk(tmp_path / "first", models)
    run = first.predict(first.examples[0], stride=1, fit="crop", prompt_frames=6)
    desk = Desk(
        tmp_path / "second", models, {"example-0": Result.load(first.runs.folder / run.report["id"] / "run.npz")}
    )

    def state(clip=desk.examples[0], **changes) -> str:
        return desk.choose(clip, **{"stride": 1, "fit": "crop", **changes}).player["state"]

    player = desk.choose(desk.examples[0], stride=1, fit="crop", seed=None, futures=8).player
    assert (player["state"], player["precomputed"]) == ("done", True)
    np.testing.assert_array_equal(sheet(player["strips"][0]["src"]), run.futures)
    others = [{"clip": desk.examples[1]}, {"stride": 2}, {"fit": "pad"}, {"model": "other"}]
    assert [state(**changes) for changes in others] == ["ready"] * 4


# ---- links and memory ------------------------------------------------------------------------------------


def opened(desk: Desk, memory: Any = None, **query: str) -> tuple[dict, dict]:
    wanted, *controls = desk.callbacks.opened(memory, SimpleNamespace(query_params=query))
    return wanted, changed(controls)


def test_a_link_says_everything_and_brings_its_clip(desk):
    wanted, controls = opened(desk, None, clip="example-1", **{n: str(v) for n, v in SETTINGS.items()})
    assert controls == SETTINGS | {"clip": str(desk.examples[1]), "fresh": False}
    assert desk.choose(desk.examples[1], wanted, stride=1).controls["prompt_frames"]["value"] == 4


def test_a_link_without_labels_takes_back_what_the_browser_remembers_of_them(desk):
    assert opened(desk, {"labels": [3, 7]})[1] == {"labels": [3, 7]}
    assert opened(desk, {"labels": [3, 7]}, labels="")[1] == {"labels": []}


def test_a_link_wins_over_what_the_browser_remembers(desk):
    _, controls = opened(desk, {"frames": 20, "futures": 3, "fit": "pad"}, frames="5", temperature="0.25")
    assert controls == {"frames": 5, "temperature": 0.25, "futures": 3, "fit": "pad"}


def test_without_a_seed_a_new_one_is_drawn_every_time_as_before(desk):
    assert "fresh" not in opened(desk, {"frames": 20})[1]
    assert opened(desk, None, seed="42")[1] == {"seed": 42, "fresh": False}


@pytest.mark.parametrize("memory", [None, [], "x", 3, {"frames": 10**400, "model": "gone"}, {"frames": {"a": 1}}])
@pytest.mark.parametrize(
    "query",
    [{}, {"frames": "many", "seed": "", "model": "gone", "fps": "1e999"}, {"clip": "../../etc/passwd"}, {"clip": ""},
     {"__theme": "dark", "frames": str(MAX_FRAMES + 1), "fresh": "x"}],
)  # fmt: skip
def test_junk_in_a_link_or_in_memory_changes_nothing(desk, memory, query):
    assert opened(desk, memory, **query) == ({}, {})


def test_nothing_remembered_and_no_request_leave_the_page_as_it_is(desk):
    wanted, *controls = desk.callbacks.opened(None, None)
    assert wanted == {} and changed(controls) == {}


def test_any_example_is_one_of_them(desk):
    assert desk.callbacks.example("tiny", 1)[0] == str(desk.examples[1])
    assert {desk.callbacks.example("tiny")[0] for _ in range(40)} == set(map(str, desk.examples))


def test_an_example_in_colour_brings_the_model_that_came_with_its_result(desk):
    colour = lively(built(TINY_CONFIGS["stt, colour"])).eval()
    colour.weights, desk.models["tiny"].weights, desk.models["other"].weights = "c", "t", "o"
    desk.callbacks.models = desk.models | {"colour": colour}
    for number, weights in ((0, "c"), (1, "t")):
        sha256 = next(key for key, path in desk.callbacks.digests.items() if path == desk.examples[number])
        desk.runs.shipped[weights] = SimpleNamespace(report={"clip": {"sha256": sha256}, "weights": weights})
    assert desk.callbacks.example("tiny", 0)[1] == "colour" and desk.callbacks.example("colour", 1)[1] == "tiny"
    stays = [desk.callbacks.example(*asked)[1] for asked in (("colour", 0), ("tiny", 1), ("other", 1))]
    assert stays == [gr.skip()] * 3


# ---- imagining -------------------------------------------------------------------------------------------


def test_models_say_which_classes_they_can_imagine(desk):
    desk.callbacks.models = {"tiny": desk.models["tiny"], "dreamer": dreamer()}
    known = [(model["name"], model["classes"], model["labels"]) for model in desk.callbacks.list_models()]
    assert known == [("tiny", 0, 0), ("dreamer", 10, 2)]


def test_a_place_offers_the_classes_and_the_first_one_the_clips_future_too():
    first, second = (dropdown(dreamer(), [3], place) for place in range(2))
    assert first["choices"][:3] == [("the clip's future", ""), ("any digit", -1), ("0", 0)]
    assert second["choices"] == first["choices"][1:] and second["choices"][-1] == ("9", 9)
    assert (first["value"], second["value"]) == (3, -1)


@pytest.mark.parametrize(
    ("places", "labels", "shown"),
    [
        (2, [], [True, False]), (2, [3], [True, True]), (2, [-1, 3], [True, True]), (1, [3], [True, False]),
        (0, [3], [False, False]),
    ],
)  # fmt: skip
def test_only_places_that_the_model_can_fill_are_shown_and_the_second_waits_for_the_first(tiny, places, labels, shown):
    model = dreamer(places) if places else tiny
    same, *dropdowns = arranged(model, labels, 2)
    assert [update["visible"] for update in dropdowns] == shown and same == gr.skip()
    assert all(update["value"] in [value for _, value in update["choices"]] for update in dropdowns)


def test_labels_that_another_model_cannot_imagine_are_taken_back():
    assert arranged(dreamer(1), [3, 7], 2)[0] == [3]
    assert arranged(dreamer(2), [12, 7, 8], 2)[0] == [7, 8]


# ---- filling gaps ----------------------------------------------------------------------------------------


@pytest.fixture
def gaps(desk):
    """A desk with a model that fills gaps, of which it is asked for one of three frames in a clip of twelve."""
    desk.callbacks.models = {**desk.models, "filler": filler()}
    return lambda clip=None, **changes: values(
        clip or desk.upload(), **{"model": "filler", "stride": 1, "prompt_frames": 4, "between": True, **changes}
    )


def test_a_gap_is_filled_and_shown_between_the_frames_around_it(desk, gaps):
    *_, (shown, _) = desk.callbacks.watch(ME, False, *gaps())
    assert (shown["given"], shown["frames"], shown["ending_frames"]) == (3, 3, 3)
    assert desk.runs.get(shown["id"]).report["settings"]["between"]


def test_a_model_without_the_control_for_gaps_continues_the_clip(desk, gaps):
    *_, (shown, _) = desk.callbacks.watch(ME, False, *gaps(model="tiny"))
    assert not shown["between"] and not shown["settings"]["between"]
    with pytest.raises(gr.Error, match="tiny only continues clips"):
        list(desk.callbacks.predict(*gaps(model="tiny")))


@pytest.mark.parametrize(
    ("start", "frames", "shown"), [(4, 3, (4, 8, 3)), (11, 3, (8, 8, 3)), (4, 10, (1, 2, 10)), (4, 40, (1, 2, 10))]
)
def test_a_gap_is_moved_and_shortened_until_it_lies_in_the_clip(desk, gaps, start, frames, shown):
    player, control, kept = desk.callbacks.look(ME, *gaps(prompt_frames=start, frames=frames))
    assert (control["value"], control["maximum"], player["frames"]) == shown
    assert kept == (gr.skip() if frames == shown[2] else shown[2])
    assert player["ending_frames"] == min(12 - shown[0] - shown[2], 3) and player["truth_frames"] == shown[2]


def test_a_clip_too_short_for_any_gap_is_explained(desk, gaps):
    with pytest.raises(gr.Error, match="A gap of 1 needs a clip of at least 3 frames"):
        desk.callbacks.look(ME, *gaps(desk.upload(frames=2)))


def test_how_many_frames_are_asked_for_matters_to_the_clip_only_where_they_are_a_gap(desk, gaps):
    assert desk.callbacks.look_at_gap(ME, *gaps())[0]["frames"] == 3
    for other in (gaps(between=False), gaps(model="tiny"), values(None, between=True)):
        assert desk.callbacks.look_at_gap(ME, *other) == (gr.skip(),) * 3


def test_a_chosen_clip_shortens_the_gap_and_a_wanted_one_stays(desk, gaps):
    clip = desk.upload(frames=6)
    answer = changed(desk.callbacks.choose(ME, {}, *gaps(clip, frames=10))[2:])
    assert (answer["frames"], answer["prompt_frames"]["value"]) == (4, 1)
    wanted = {"prompt_frames": 2, "frames": 3, "between": True}
    player, _, *controls = desk.callbacks.choose(ME, wanted, *gaps(clip, frames=10, between=False))
    assert player["between"] and changed(controls)["prompt_frames"]["value"] == 2


def test_no_result_that_ships_stands_for_a_filled_gap(tmp_path, models):
    models["filler"] = filler()
    first = Desk(tmp_path / "first", models)
    asked = {"model": "filler", "stride": 1, "fit": "crop", "prompt_frames": 3}
    run = first.predict(first.examples[0], **asked)
    desk = Desk(tmp_path / "second", models, {"example-0": run})
    states = [desk.choose(desk.examples[0], **asked, between=between).player["state"] for between in (False, True)]
    assert states == ["done", "ready"]


def test_an_extended_future_is_continued_and_has_no_gap(desk, gaps):
    *_, (shown, _) = desk.callbacks.watch(ME, False, *gaps())
    wanted, clip = desk.callbacks.extend(event_of(run=shown["id"], future=1))
    assert wanted == {"prompt_frames": 3 + 3 + 3, "between": False}
    player, *_ = desk.callbacks.choose(ME, wanted, *gaps(clip))
    assert not player["between"] and player["given"] == 3 and player["truth_frames"] == 0


def test_the_control_for_gaps_is_shown_by_models_that_fill_some_and_renames_two_others(tiny):
    def names(model, between):
        control, *others = phrased(model, between)
        return control["visible"], [other["label"] for other in others]

    assert names(filler(), True) == (True, ["Gap after", "Gap length"])
    assert names(filler(), False) == (True, ["Prompt frames", "Frames"])
    assert names(tiny, True) == (False, ["Prompt frames", "Frames"])


def test_a_link_may_ask_for_a_gap_and_the_browser_remembers_it(desk):
    assert opened(desk, {"between": True})[1] == {"between": True}
    assert opened(desk, {"between": True}, between="false")[1] == {"between": False}


# ---- actions ---------------------------------------------------------------------------------------------


@pytest.fixture
def pushes(desk):
    """A desk with a model that takes actions, which is asked for one."""
    desk.callbacks.models = {**desk.models, "pusher": pusher()}
    return lambda **changes: values(desk.upload(), **{"model": "pusher", "action": [0.5, -1.0], **changes})


def test_futures_are_led_by_the_action_that_was_asked_for(desk, pushes):
    *_, (shown, _) = desk.callbacks.watch(ME, False, *pushes())
    settings = desk.runs.get(shown["id"]).report["settings"]
    assert (settings["action"], settings["labels"]) == ([0.5, -1.0], [])  # labels of a control that is not shown
    *_, (shown, _) = desk.callbacks.watch(ME, False, *pushes(action=[]))
    assert desk.runs.get(shown["id"]).report["settings"]["labels"] == [3, 7]


def test_a_model_without_the_control_for_actions_continues_the_clip_by_itself(desk, pushes):
    *_, (shown, _) = desk.callbacks.watch(ME, False, *pushes(model="tiny"))
    assert (shown["action"], shown["settings"]["action"]) == ("", [])
    for changes, sentence in (
        ({"model": "tiny"}, "tiny takes none"),
        ({"action": "1"}, "Action is 1, but pusher takes 2 numbers"),
        ({"labels": [3]}, "ask for one of them"),
        ({"labels": [], "between": True}, "ask for one of them"),
    ):
        with pytest.raises(gr.Error, match=sentence):
            list(desk.callbacks.predict(*pushes(**changes)))


def test_models_say_what_the_numbers_of_an_action_do(desk, pushes):
    known = [(model["name"], model["actions"]) for model in desk.callbacks.list_models()]
    assert known == [("tiny", []), ("other", []), ("pusher", ["push right", "push up"])]


def test_a_slider_is_called_by_the_model_s_word_and_shown_while_it_steers(tiny):
    assert [axis(pusher(), True, place) for place in range(3)] == [
        {"label": "Push right", "visible": True},
        {"label": "Push up", "visible": True},
        {"label": "", "visible": False},
    ]
    assert not any(axis(*shown, 0)["visible"] for shown in ((pusher(), False), (tiny, True)))


@pytest.mark.parametrize(
    ("words", "action", "kept", "switch", "shown"),
    [
        (2, [0.5, -1.0], True, True, [True, True, False]), (2, [], True, True, [False] * 3),
        (0, [0.5, -1.0], True, False, [False] * 3), (3, [0.5, -1.0], False, True, [False] * 3),
        (1, [0.5, -1.0], False, True, [False] * 3), (3, [0.0] * 3, True, True, [True] * 3),
    ],
)  # fmt: skip
def test_an_action_goes_to_the_next_model_unless_that_takes_more_or_fewer_numbers(
    tiny, words, action, kept, switch, shown
):
    model = pusher(*(f"axis {k}" for k in range(words))) if words else tiny
    same, steer, *axes = carried(model, action, 3)
    assert same == (gr.skip() if kept else []) and steer["visible"] == switch
    assert [update["visible"] for update in axes] == shown
    assert all(("value" in update) == (not kept) for update in axes)


def test_a_link_may_ask_for_an_action_and_the_browser_remembers_it(desk):
    assert opened(desk, {"action": [0.5, -1]})[1] == {"action": [0.5, -1.0]}
    assert opened(desk, {"action": [0.5, -1]}, action="")[1] == {"action": []}
    assert opened(desk, {}, action="0.5,-1")[1] == {"action": [0.5, -1.0]}
