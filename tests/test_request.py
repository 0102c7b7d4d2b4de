"""Settings from JSON and text, their limits on the page and without, and what a model must support."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import pytest

from stt.api import MAX_SEED, Condition, Sampling
from stt.request import NO_CLIP, PARSERS, RequestError, parse_setting
from stt.ui.request import PAGE, page_request, usable_settings
from tests.ui_fixtures import action_model, class_model, gap_model

GOOD = {"model": "tiny", "frames": 10, "temperature": 1.0, "seed": 7, "futures": 4}
WHOLE = {  # setting: its name in an error, lowest, highest on the page
    "frames": ("Frames", 1, 40),
    "futures": ("Futures", 1, 8),
    "prompt_frames": ("Prompt frames", 0, 600),
    "top_k": ("Top-k", 0, 1024),
    "stride": ("Stride", 0, 8),
}
REAL = {"temperature": ("Temperature", 0, 2), "fps": ("Frames per second", 1, 60)}
NO_NUMBERS = [None, True, False, "3", "", math.nan, math.inf, -math.inf, 1e308, [], {}, 10**30, 10**400, -(10**400)]
NO_CHOICES = [None, "", "stretch", 1, 0, [], {}, "x" * 10_000]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "clip.mp4").touch()
    return tmp_path / "clip.mp4"


def on_page(file, **changes):
    return page_request(**{"clip": str(file), **GOOD, **changes}, models=["tiny", "other"], folders=[file.parent])


def error_of(function, *arguments, **changes) -> str:
    with pytest.raises(RequestError) as error:
        function(*arguments, **changes)
    assert len(str(error.value)) < 200
    return str(error.value)


# ---- settings --------------------------------------------------------------------------------------------


def test_both_ends_of_every_range_are_accepted(file):
    for name, (_, *ends) in (WHOLE | REAL | {"top_p": ("", 0.001, 1), "seed": ("", 0, MAX_SEED)}).items():
        for value in ends:
            assert getattr(on_page(file, **{name: value}), name) == value, name
            if name in WHOLE:
                taken = getattr(on_page(file, **{name: float(value)}), name)
                assert taken == value and isinstance(taken, int), name
    for name, value in {"model": "other", "fit": "pad", "fps": 0, "between": True}.items():
        assert getattr(on_page(file, **{name: value}), name) == value


def test_values_outside_their_range_are_refused_with_the_range(file):
    for name, (title, low, high) in WHOLE.items():
        for value in (low - 1, high + 1):
            assert error_of(on_page, file, **{name: value}) == (
                f"{title} must be a whole number from {low} to {high}, not {value}."
            )
        for value in (*NO_NUMBERS, 2.7):
            error = error_of(on_page, file, **{name: value})
            assert error.startswith(f"{title} must be a whole number from {low} to {high}, not "), (name, value)
    for name, (title, low, high) in REAL.items():
        for value in (*NO_NUMBERS, math.nextafter(low, -math.inf), math.nextafter(high, math.inf)):
            lowest = 0 if name == "fps" and value is False else low  # 0: the clip's own rate
            error = error_of(on_page, file, **{name: value})
            assert error.startswith(f"{title} must be a number from {lowest:g} to {high:g}, not "), (name, value)
    for value in (*NO_NUMBERS, 0, -1, 1.0001):
        assert error_of(on_page, file, top_p=value).startswith("Top-p must be a number above 0 and at most 1, not ")
    for value in (-1, MAX_SEED + 1, 1.5, "7", True, math.nan, [], {}, 10**400):
        assert error_of(on_page, file, seed=value).startswith(f"Seed must be a whole number from 0 to {MAX_SEED}, not")


def test_the_library_has_no_upper_limits():
    for name, value in {"frames": 10_000, "futures": 99, "temperature": 7.5, "stride": 60, "top_k": 9999}.items():
        assert parse_setting(name, value) == value, name
    assert parse_setting("labels", list(range(9))) == tuple(range(9))
    assert error_of(parse_setting, "frames", 0) == "Frames must be a whole number of at least 1, not 0."
    assert error_of(parse_setting, "temperature", math.inf) == "Temperature must be a number of at least 0, not inf."


def test_without_a_seed_one_is_drawn(file):
    for value in (None, ""):
        seeds = {on_page(file, seed=value).seed for _ in range(5)}
        assert len(seeds) > 1 and all(0 <= seed <= MAX_SEED for seed in seeds)
    assert on_page(file, seed=MAX_SEED - 1, futures=3).seeds == [MAX_SEED - 1, MAX_SEED, 0]


def test_labels_and_actions_come_as_lists_numbers_or_texts():
    labels = [
        ("3", (3,)), ("3, 7", (3, 7)), (" 3 7 ", (3, 7)), ("[3, 7]", (3, 7)), ("any", (-1,)), ("any, 4", (-1, 4)),
        ("", ()), (None, ()), ("[]", ()), ([], ()), ([3, 3], (3, 3)), ((999, -1), (999, -1)), (3, (3,)), ([3.0], (3,)),
    ]  # fmt: skip
    actions = [
        ("0.5,-1", (0.5, -1.0)), (" .5 -1. ", (0.5, -1.0)), ("[0.5, -1.0]", (0.5, -1.0)), ("+1", (1.0,)),
        ("free", ()), ("", ()), (None, ()), ([], ()), ([1, -1], (1.0, -1.0)), (0, (0.0,)), ([-0.0], (0.0,)),
        ([0] * 8, (0.0,) * 8),
    ]  # fmt: skip
    for name, table in (("labels", labels), ("action", actions)):
        for value, parsed in table:
            assert str(parse_setting(name, value, PAGE)) == str(parsed), (name, value)


def test_impossible_labels_and_actions_are_refused_in_a_short_sentence():
    both = [
        ({}, "a dict"), ([[0]], "a list"), ([None], "empty"), (math.nan, "nan"), ([10**400], "a number that large"),
        ("9" * 9000, '"' + "9" * 37 + '..."'), ([True], "True"), (True, "True"), (["1"], '"1"'),
    ]  # fmt: skip
    tables = {
        "Labels must be up to 4 whole numbers from -1 (any) to 999": [
            ([1000], "1000"), ([-2], "-2"), ([0, 1, 2, 3, 4], "0, 1, 2, 3, 4"), ("0 1 2 3 4", '"0 1 2 3 4"'),
            ([1.5], "1.5"), ("seven", '"seven"'), ("3.5", '"3.5"'),
        ],
        "Action must be up to 8 numbers from -1 to 1, or free": [
            ([1.01], "1.01"), ([0.5, -2], "0.5, -2"), ([0] * 9, ", ".join("0" * 9)), ("0.5,-1.5", '"0.5,-1.5"'),
            ("left", '"left"'), ("free,1", '"free,1"'), ("1e-3", '"1e-3"'), ("nan", '"nan"'),
        ],
    }  # fmt: skip
    for sentence, table in tables.items():
        for value, shown in both + table:
            name = sentence.partition(" ")[0].lower()
            assert error_of(parse_setting, name, value, PAGE) == f"{sentence}, not {shown}."


def test_a_choice_outside_its_list_is_refused_with_the_list(file):
    starts = {"fit": "Fit must be one of auto, crop, pad, not ", "between": "Between must be true or false, not "}
    starts["model"] = "Model must be one of other, tiny, not "
    for name, start in starts.items():
        for value in NO_CHOICES:
            assert error_of(on_page, file, **{name: value}).startswith(start), (name, value)


# ---- clips -----------------------------------------------------------------------------------------------


def test_only_uploads_and_examples_are_opened(file, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/link.mp4").symlink_to(file)
    for value in (None, "", {}, {"path": None}):
        assert error_of(on_page, file, clip=value) == NO_CLIP
    for value in ("/etc/passwd", "../secret.mp4", 3, ["a"], "a\0b", "x" * 300, "\ud800", {"path": "/etc/passwd"}):
        assert error_of(on_page, file, clip=value).startswith("The clip must be "), value
    assert error_of(on_page, tmp_path / "inner/link.mp4").startswith("The clip must be ")
    for path in (file.parent, file.parent / "gone.mp4"):
        assert "no longer here" in error_of(on_page, file, clip=str(path))


# ---- settings that come back -----------------------------------------------------------------------------

SETTINGS = {
    "model": "tiny", "frames": 7, "temperature": 0.3, "seed": 42, "futures": 2, "prompt_frames": 3, "top_k": 9,
    "top_p": 0.9, "stride": 2, "fit": "pad", "fps": 12.5, "labels": [3, -1], "between": True, "action": [0.5, -1.0],
}  # fmt: skip


def test_settings_are_enough_to_repeat_a_request(file):
    request = on_page(file, **SETTINGS)
    assert request.settings() == json.loads(json.dumps(request.settings())) == SETTINGS
    assert on_page(file, **request.settings()) == request and isinstance(hash(request), int)
    assert usable_settings(request.settings(), ["tiny"]) == SETTINGS


def test_texts_of_a_link_become_numbers():
    texts = {name: str(value) for name, value in SETTINGS.items()}
    assert usable_settings(texts | {"clip": "two-rising", "__theme": "dark", "steps": "4"}, ["tiny"]) == SETTINGS
    for name, text, value in (
        ("labels", "3,-1", [3, -1]), ("labels", "", []), ("between", "true", True), ("action", "0.5,-1", [0.5, -1.0]),
        ("action", "", []),
    ):  # fmt: skip
        assert usable_settings({name: text}, ["tiny"]) == {name: value}


def test_unusable_settings_are_dropped_and_the_rest_stays():
    mixed = {"frames": 41, "futures": 8, "model": "elsewhere", "temperature": "warm", "fps": 24, "other": 1}
    assert usable_settings(mixed, ["tiny"]) == {"futures": 8, "fps": 24}
    hostile = [
        None, [], [1], "text", 3, {"a": 1}, {1: 2, None: 3}, {"seed": None}, {"seed": ""}, {"frames": 10**400},
        {"frames": "9" * 5000}, {"frames": "inf"}, {"frames": "nan"}, {"frames": "1e999"}, {"frames": [3]},
        {"frames": True}, {"top_p": "0"}, {"fps": "0.5"}, {"fit": []}, {"fit": {"crop": 1}}, {"fit": "CROP"},
        {"labels": [10**400]}, {"labels": "9" * 5000}, {"labels": [[3]]}, {"action": {"a": 1}}, {"action": "9" * 5000},
        {"between": 1}, {"between": None}, {"model": ["tiny"]}, {"model": {}}, {"stride": "0x2"}, {"top_k": "\ud800"},
    ]  # fmt: skip
    for values in hostile:
        assert usable_settings(values, ["tiny"]) == {}, ascii(values)[:80]


def test_usable_settings_of_any_json_make_a_request(file):
    draw = random.Random(0)
    odd = [None, True, -1, 0, 1, 2, 0.5, 8, 40, 10**12, 10**400, 1e300, math.nan, "", "1", "pad", "tiny", "x", [], {}]
    for _ in range(1000):
        values = {name: draw.choice(odd) for name in draw.sample([*PARSERS, "model", "clip"], 5)}
        usable = usable_settings(values, ["tiny"])
        request = on_page(file, **usable)
        assert all(request.settings()[name] == value for name, value in usable.items()), values


# ---- what a model supports -------------------------------------------------------------------------------


def test_a_model_gets_the_settings_that_it_uses_and_defaults_for_the_rest(file, predictor):
    settings = {"temperature": 0.3, "top_k": 9, "top_p": 0.5}
    request, config = on_page(file, labels=(1,), **settings), SimpleNamespace(classes=2, labels=1)
    used = {name: settings[name] for name in predictor.knobs & settings.keys()}
    assert request.sampling(predictor) == Sampling(**used)
    model = SimpleNamespace(knobs=frozenset({*settings, "labels"}), config=config)
    assert request.sampling(model) == Sampling(**settings) and request.condition(model) == Condition(labels=(1,))
    model = SimpleNamespace(knobs=frozenset())
    assert request.sampling(model) == Sampling() and request.condition(model) == Condition()


def test_labels_actions_and_gaps_are_refused_by_name_where_the_model_lacks_them(file, tiny):
    two = "tiny takes 2 numbers (push right, push up)."
    for model, changes, sentence in (
        (class_model(2), {"labels": [10]}, "Labels are 10, but tiny takes up to 2 of 0 to 9, or -1 for any."),
        (class_model(2), {"labels": [1, 2, 3]}, "Labels are 1, 2, 3, but tiny takes up to 2 of 0 to 9, or -1 for any."),
        (tiny, {"between": True}, "tiny only continues clips; it cannot fill a gap."),
        (action_model(), {"action": [0.5]}, f"Action is 0.5, but {two}"),
        (action_model(), {"action": [0.5, -1, 0]}, f"Action is 0.5, -1, 0, but {two}"),
        (action_model("open"), {"action": [0, 1]}, "Action is 0, 1, but tiny takes 1 number (open)."),
        (tiny, {"action": [0.5, -1]}, "Action is 0.5, -1, but tiny takes no action."),
    ):
        assert error_of(on_page(file, **changes).condition, model) == sentence
    for labels in ((), (0,), (9, 9), (-1,), (-1, 3)):
        assert on_page(file, labels=labels).condition(class_model(2)).labels == labels
    assert on_page(file, between=True, labels=[3]).condition(gap_model()) == Condition()  # it has no labels
    assert on_page(file, action=[0.5, -1]).condition(action_model()) == Condition(actions=((0.5, -1.0),))
    assert on_page(file, action="free").condition(action_model()) == Condition()


def test_labels_an_action_and_a_gap_exclude_each_other(file):
    for model, changes, others in (
        (class_model(), {"between": True}, [{"labels": [3]}]),
        (action_model(), {"action": [0.5, -1]}, [{"labels": [3]}, {"between": True}]),
    ):
        model.__class__ = type("Interpolator", (type(model),), {"frame": lambda *_: None})
        for other in others:
            assert error_of(on_page(file, **changes, **other).condition, model).endswith("choose one of them.")
            on_page(file, **other).condition(model)
        on_page(file, **changes).condition(model)
