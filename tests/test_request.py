"""What a visitor may ask for: limits, refusals, what is remembered, and what reaches the model."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import pytest

from stt.api import MAX_SEED, Condition, Sampling
from stt.request import CHECKS, NO_CLIP, Refused, check, remembered
from tests.ui_fixtures import dreamer, filler, pusher

GOOD = {"model": "tiny", "frames": 10, "temperature": 1.0, "seed": 7, "futures": 4}
WHOLE = {  # name: what a refusal calls it, lowest, highest
    "frames": ("Frames", 1, 40),
    "futures": ("Futures", 1, 8),
    "prompt_frames": ("Frames used as prompt", 0, 600),
    "top_k": ("Top-k", 0, 1024),
    "stride": ("Stride", 1, 8),
}
REAL = {"temperature": ("Temperature", 0, 2), "top_p": ("Top-p", 0.01, 1), "fps": ("Frames a second", 1, 60)}
NO_NUMBERS = [None, True, False, "3", "", math.nan, math.inf, -math.inf, 1e308, [], {}, 10**30, 10**400, -(10**400)]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "clip.mp4").touch()
    return tmp_path / "clip.mp4"


def checked(file, **changes):
    values = {"clip": str(file), **GOOD, **changes}
    return check(**values, models=["tiny", "other"], folders=[file.parent])


# ---- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, (_, *limits) in (WHOLE | REAL).items() for v in limits])
def test_both_limits_of_a_setting_are_taken(file, name, value):
    assert getattr(checked(file, **{name: value}), name) == value
    if name in WHOLE:
        taken = getattr(checked(file, **{name: float(value)}), name)
        assert taken == value and isinstance(taken, int)


@pytest.mark.parametrize(
    "changes", [{"seed": 0}, {"seed": MAX_SEED}, {"model": "other"}, {"fit": "pad"}, {"fps": 0}, {"between": True}]
)
def test_other_values_that_can_be_served_are_taken(file, changes):
    request = checked(file, **changes)
    assert all(getattr(request, name) == value for name, value in changes.items())


@pytest.mark.parametrize("name", WHOLE)
def test_one_past_a_limit_is_refused_with_the_range_and_the_value(file, name):
    called, low, high = WHOLE[name]
    for value in (low - 1, high + 1):
        with pytest.raises(Refused) as refusal:
            checked(file, **{name: value})
        assert str(refusal.value) == f"{called} must be a whole number from {low} to {high}, not {value}."


@pytest.mark.parametrize("name", REAL)
def test_a_little_past_a_limit_is_refused_with_the_range(file, name):
    called, low, high = REAL[name]
    for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf)):
        with pytest.raises(Refused, match=f"^{called} must be a number from {low:g} to {high:g}, not "):
            checked(file, **{name: value})


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.7], ids=lambda v: str(v)[:9])
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_whole_number_is_refused_in_a_short_sentence(file, name, value):
    called, low, high = WHOLE[name]
    with pytest.raises(Refused, match=f"^{called} must be a whole number from {low} to {high}, not .*\\.$") as refusal:
        checked(file, **{name: value})
    assert len(str(refusal.value)) < 120


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda v: str(v)[:9])
@pytest.mark.parametrize("name", REAL)
def test_what_is_no_number_in_range_is_refused(file, name, value):
    with pytest.raises(Refused, match=f"^{REAL[name][0]} must be a number from .* not .*\\.$"):
        checked(file, **{name: value})


@pytest.mark.parametrize("value", [0.0004, 0.999, -1])
def test_a_video_shows_a_frame_a_second_at_least(file, value):
    """Slower ones play for minutes, and below a thousandth of a frame no file can be written."""
    with pytest.raises(Refused, match="^Frames a second must be a number from 1 to 60, not "):
        checked(file, fps=value)


@pytest.mark.parametrize(
    "value", [-1, MAX_SEED + 1, 1.5, "7", True, math.nan, [], {}, 10**400], ids=lambda v: str(v)[:9]
)
def test_a_seed_out_of_range_is_refused(file, value):
    with pytest.raises(Refused, match=f"^Seed must be a whole number from 0 to {MAX_SEED}, not "):
        checked(file, seed=value)


@pytest.mark.parametrize("value", [None, ""])
def test_no_seed_draws_one(file, value):
    seeds = {checked(file, seed=value).seed for _ in range(5)}
    assert len(seeds) > 1
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


def test_seeds_count_up_and_wrap_around(file):
    assert checked(file, seed=MAX_SEED - 1, futures=3).seeds == [MAX_SEED - 1, MAX_SEED, 0]


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("3", (3,)), ("3, 7", (3, 7)), ("3,7", (3, 7)), (" 3 7 ", (3, 7)), ("[3, 7]", (3, 7)), ("any", (-1,)),
        ("any, 4", (-1, 4)), ("", ()), (None, ()), ("[]", ()), ([], ()), ([3, 3], (3, 3)), ((999, -1), (999, -1)),
        (3, (3,)), ([3.0], (3,)), ([0, 1, 2, 3], (0, 1, 2, 3)),
    ],
    ids=str,
)  # fmt: skip
def test_labels_come_as_lists_numbers_or_texts(file, value, labels):
    assert checked(file, labels=value).labels == labels


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([1000], "1000"), ([-2], "-2"), ([0, 1, 2, 3, 4], "0, 1, 2, 3, 4"), ("0 1 2 3 4", '"0 1 2 3 4"'),
        ([3, "7"], '3, "7"'), ([1.5], "1.5"), ([True], "True"), (True, "True"), (-2, "-2"), ("seven", '"seven"'),
        ("3.5", '"3.5"'), ({}, "a dict"), ([[3]], "a list"), ([None], "empty"), (math.nan, "nan"),
        ([10**400], "a number that large"),
        ("9" * 9000, '"' + "9" * 37 + '..."'),
    ],
    ids=lambda v: str(v)[:9] if not isinstance(v, list) else "",
)  # fmt: skip
def test_labels_that_nobody_has_are_refused_in_a_short_sentence(file, value, shown):
    with pytest.raises(Refused) as refusal:
        checked(file, labels=value)
    assert str(refusal.value) == f"Labels must be up to 4 whole numbers from -1 (any) to 999, not {shown}."


@pytest.mark.parametrize("value", [None, "nope", 3, ["tiny"], {}, "x" * 10_000], ids=lambda v: str(v)[:9])
def test_an_unknown_model_is_refused_with_the_known_ones(file, value):
    with pytest.raises(Refused, match="^Model must be one of other, tiny, not ") as refusal:
        checked(file, model=value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("value", [None, "", "stretch", 1, True, [], {}, "x" * 10_000], ids=lambda v: str(v)[:9])
def test_an_unknown_fit_is_refused_with_the_known_ones(file, value):
    with pytest.raises(Refused, match="^Fit must be one of crop, pad, not ") as refusal:
        checked(file, fit=value)
    assert len(str(refusal.value)) < 100


@pytest.mark.parametrize("value", [None, "", "yes", 1, 0, [], {}, "x" * 10_000], ids=lambda v: str(v)[:9])
def test_in_between_is_true_or_false(file, value):
    with pytest.raises(Refused, match="^In between must be true or false, not ") as refusal:
        checked(file, between=value)
    assert len(str(refusal.value)) < 100


@pytest.mark.parametrize(
    ("value", "action"),
    [
        ("0.5,-1", (0.5, -1.0)), ("0.5, -1", (0.5, -1.0)), (" .5 -1. ", (0.5, -1.0)), ("[0.5, -1.0]", (0.5, -1.0)),
        ("+1", (1.0,)), ("free", ()), ("", ()), (None, ()), ("[]", ()), ([], ()), ([1, -1], (1.0, -1.0)),
        ((0.25,), (0.25,)), (0.5, (0.5,)), (0, (0.0,)), ([-0.0], (0.0,)), ([0] * 8, (0.0,) * 8),
    ],
    ids=str,
)  # fmt: skip
def test_an_action_comes_as_a_list_a_number_or_a_text(file, value, action):
    taken = checked(file, action=value).action
    assert taken == action and str(taken) == str(action)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([1.01], "1.01"), ([0.5, -2], "0.5, -2"), ([0] * 9, ", ".join("0" * 9)), ("0.5,-1.5", '"0.5,-1.5"'),
        ("left", '"left"'), ("free,1", '"free,1"'), ("1e-3", '"1e-3"'), ("nan", '"nan"'), (["1"], '"1"'),
        ([True], "True"), (False, "False"), ({}, "a dict"), ([[0]], "a list"), ([None], "empty"), (math.nan, "nan"),
        ([10**400], "a number that large"), ("9" * 9000, '"' + "9" * 37 + '..."'),
    ],
    ids=lambda v: str(v)[:9] if not isinstance(v, list) else "",
)  # fmt: skip
def test_an_action_that_cannot_be_is_refused_in_a_short_sentence(file, value, shown):
    with pytest.raises(Refused) as refusal:
        checked(file, action=value)
    assert str(refusal.value) == f"Action must be up to 8 numbers from -1 to 1, or free, not {shown}."


# ---- clips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", {}, {"path": None}])
def test_no_clip_asks_for_one(file, value):
    with pytest.raises(Refused, match=NO_CLIP):
        checked(file, clip=value)


@pytest.mark.parametrize(
    "value", ["/etc/passwd", "../secret.mp4", 3, ["a"], "a\0b", "x" * 300, "\ud800", {"path": "/etc/passwd"}]
)
def test_only_uploads_and_examples_are_opened(file, value):
    with pytest.raises(Refused, match="^The clip must be "):
        checked(file, clip=value)


def test_a_link_out_of_the_folder_is_refused(file, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/link.mp4").symlink_to(file)
    with pytest.raises(Refused, match="^The clip must be "):
        checked(tmp_path / "inner/link.mp4")


def test_a_folder_or_a_lost_file_is_no_clip(file):
    for path in (file.parent, file.parent / "gone.mp4"):
        with pytest.raises(Refused, match="no longer here"):
            checked(file, clip=str(path))


# ---- what is remembered ----------------------------------------------------------------------------------

SETTINGS = {
    "model": "tiny", "frames": 7, "temperature": 0.3, "seed": 42, "futures": 2, "prompt_frames": 3, "top_k": 9,
    "top_p": 0.9, "stride": 2, "fit": "pad", "fps": 12.5, "labels": [3, -1],
    "between": True, "action": [0.5, -1.0],
}  # fmt: skip


def test_settings_are_all_that_is_needed_to_ask_for_the_same_again(file):
    request = checked(file, **SETTINGS)
    assert request.settings() == json.loads(json.dumps(request.settings())) == SETTINGS
    assert checked(file, **request.settings()) == request and isinstance(hash(request), int)
    assert remembered(request.settings(), ["tiny"]) == SETTINGS


def test_a_link_s_texts_are_understood_as_the_numbers_that_they_stand_for():
    texts = {name: str(value) for name, value in SETTINGS.items()}
    assert remembered(texts | {"clip": "two-rising", "__theme": "dark", "steps": "4"}, ["tiny"]) == SETTINGS
    assert remembered({"labels": "3,-1"}, ["tiny"]) == {"labels": [3, -1]}  # as a browser writes a list
    assert remembered({"labels": ""}, ["tiny"]) == {"labels": []}
    assert remembered({"between": "true"}, ["tiny"]) == {"between": True}
    assert remembered({"action": "0.5,-1"}, ["tiny"]) == {"action": [0.5, -1.0]}
    assert remembered({"action": ""}, ["tiny"]) == {"action": []}


def test_what_cannot_be_served_is_forgotten_and_the_rest_is_kept():
    values = {"frames": 41, "futures": 8, "model": "elsewhere", "temperature": "warm", "fps": 24, "other": 1}
    assert remembered(values, ["tiny"]) == {"futures": 8, "fps": 24}


HOSTILE = [
    None, [], [1], "text", 3, True, {}, {"a": 1}, {1: 2, None: 3}, {"seed": None}, {"seed": ""}, {"frames": 10**400},
    {"frames": "9" * 5000}, {"frames": "inf"}, {"frames": "nan"}, {"frames": "1e999"}, {"frames": [3]}, {"frames": {}},
    {"frames": True}, {"top_p": "0"}, {"fps": "0.5"}, {"fit": []}, {"fit": {"crop": 1}}, {"fit": "CROP"},
    {"labels": [10**400]}, {"labels": "9" * 5000}, {"labels": [[3]]}, {"labels": {"a": 1}}, {"labels": [math.nan]},
    {"action": [10**400]}, {"action": "9" * 5000}, {"action": [[1]]}, {"action": {"a": 1}}, {"action": [math.nan]},
    {"between": 1}, {"between": "1"}, {"between": None}, {"between": [True]},
    {"model": ["tiny"]}, {"model": {}}, {"model": ""}, {"stride": "0x2"}, {"prompt_frames": -1}, {"top_k": "\ud800"},
]  # fmt: skip


@pytest.mark.parametrize("values", HOSTILE, ids=lambda v: str(ascii(v))[:24])
def test_nothing_is_remembered_of_what_makes_no_sense(values):
    assert remembered(values, ["tiny"]) == {}


def test_no_json_whatsoever_raises_and_what_is_kept_can_be_served(file):
    draw = random.Random(0)
    odd = [None, True, -1, 0, 1, 2, 0.5, 8, 40, 10**12, 10**400, 1e300, math.nan, "", "1", "pad", "tiny", "x", [], {}]
    for _ in range(2000):
        values = {name: draw.choice(odd) for name in draw.sample([*CHECKS, "model", "clip"], 5)}
        kept = remembered(values, ["tiny"])
        request = checked(file, **kept)
        assert all(request.settings()[name] == value for name, value in kept.items())


# ---- what reaches the model ------------------------------------------------------------------------------


def test_only_what_the_model_honours_differs_from_the_defaults(file, predictor):
    asked = {"temperature": 0.3, "top_k": 9, "top_p": 0.5}
    request, config = checked(file, labels=(1,), **asked), SimpleNamespace(classes=2, labels=1)
    assert request.sampling(predictor) == Sampling(**{name: asked[name] for name in predictor.knobs & asked.keys()})
    model = SimpleNamespace(knobs=frozenset({*asked, "labels"}), config=config)
    assert request.sampling(model) == Sampling(**asked) and request.condition(model) == Condition(labels=(1,))
    model = SimpleNamespace(knobs=frozenset())
    assert request.sampling(model) == Sampling() and request.condition(model) == Condition()


@pytest.mark.parametrize(
    ("labels", "shown"), [((10,), "10"), ((3, 12), "3, 12"), ((1, 2, 3), "1, 2, 3"), ((-1, -1, -1), "-1, -1, -1")]
)
def test_labels_that_the_model_does_not_know_are_refused_with_those_that_it_does(file, labels, shown):
    model = dreamer(labels=2)
    sentence = f"Labels are {shown}, but tiny takes up to 2 of 0 to 9, or -1 for any."
    with pytest.raises(Refused) as refusal:
        checked(file, labels=labels).sampling(model)
    assert str(refusal.value) == sentence


@pytest.mark.parametrize("labels", [(), (0,), (9, 9), (-1,), (-1, 3)])
def test_labels_that_the_model_knows_reach_it(file, labels):
    request, model = checked(file, labels=labels), dreamer(labels=2)
    assert request.sampling(model) == Sampling() and request.condition(model).labels == labels


# ---- gaps ------------------------------------------------------------------------------------------------


def test_a_gap_is_refused_by_name_for_a_model_that_only_continues_clips(file, tiny):
    with pytest.raises(Refused, match="^tiny only continues clips and fills no gaps; leave out in between.$"):
        checked(file, between=True).sampling(tiny)
    assert checked(file, between=True, labels=[3]).condition(filler()) == Condition()  # it knows no labels


def test_a_model_that_could_imagine_and_fill_gaps_is_asked_for_one_of_them(file, monkeypatch):
    model = dreamer()
    monkeypatch.setattr(type(model), "frame", lambda *_: None, raising=False)
    with pytest.raises(Refused, match="ask for one of them"):
        checked(file, between=True, labels=[3]).sampling(model)
    for changes in ({"labels": [3]}, {"between": True}):
        checked(file, **changes).sampling(model)


# ---- actions ---------------------------------------------------------------------------------------------


def test_an_action_reaches_a_model_that_takes_it_and_none_leaves_it_free(file):
    assert checked(file, action=[0.5, -1]).condition(pusher()) == Condition(actions=((0.5, -1.0),))
    assert checked(file, action="free").condition(pusher()) == Condition()


def test_an_action_is_refused_with_its_numbers_and_those_that_the_model_takes(file, tiny):
    def refusal(model, **changes):
        with pytest.raises(Refused) as refused:
            checked(file, **changes).sampling(model)
        return str(refused.value)

    two = "tiny takes 2 numbers (push right, push up)."
    assert refusal(pusher(), action=[0.5]) == f"Action is 0.5, but {two}"
    assert refusal(pusher(), action=[0.5, -1, 0]) == f"Action is 0.5, -1, 0, but {two}"
    assert refusal(pusher("open"), action=[0, 1]) == "Action is 0, 1, but tiny takes 1 number (open)."
    assert refusal(tiny, action=[0.5, -1]) == "Action is 0.5, -1, but tiny takes none; leave it out."


def test_an_action_goes_neither_with_labels_nor_with_a_gap(file, monkeypatch):
    model = pusher()
    monkeypatch.setattr(type(model), "frame", lambda *_: None, raising=False)
    for changes in ({"labels": [3]}, {"between": True}):
        with pytest.raises(Refused, match="^An action leads on from the clip and .*; ask for one of them.$"):
            checked(file, action=[0.5, -1], **changes).sampling(model)
        checked(file, **changes).sampling(model)
