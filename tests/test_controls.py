"""Controls that follow the model."""

from __future__ import annotations

import gradio as gr

from stt.models.layered import Layered, LayeredConfig
from stt.ui.controls import action_slider, action_updates, futures_update, gap_updates, label_dropdown, label_updates
from tests.ui_fixtures import action_model, class_model, gap_model


def test_label_dropdowns_offer_the_models_classes(tiny):
    first, second = (label_dropdown(class_model(), [3], place) for place in range(2))
    assert first["choices"][:3] == [("continue the clip", ""), ("any digit", -1), ("0", 0)]
    assert second["choices"] == first["choices"][1:] and second["choices"][-1] == ("9", 9)
    assert (first["value"], second["value"]) == (3, -1)
    for places, labels, visible in (
        (2, [], [True, False]), (2, [3], [True, True]), (2, [-1, 3], [True, True]), (1, [3], [True, False]),
        (0, [3], [False, False]),
    ):  # fmt: skip
        same, *dropdowns = label_updates(class_model(places) if places else tiny, labels, 2)
        assert [update["visible"] for update in dropdowns] == visible and same == gr.skip()
        assert all(update["value"] in [value for _, value in update["choices"]] for update in dropdowns)
    assert label_updates(class_model(1), [3, 7], 2)[0] == [3]  # labels that the model lacks are cleared
    assert label_updates(class_model(2), [12, 7, 8], 2)[0] == [7, 8]


def test_action_sliders_have_the_models_names_and_an_action_survives_if_its_length_fits(tiny):
    assert [action_slider(action_model(), True, place) for place in range(3)] == [
        {"label": "Push right", "visible": True}, {"label": "Push up", "visible": True}, {"label": "", "visible": False}
    ]  # fmt: skip
    assert not any(action_slider(*arguments, 0)["visible"] for arguments in ((action_model(), False), (tiny, True)))
    for axes, action, survives, checkbox, visible in (
        (2, [0.5, -1.0], True, True, [True, True, False]), (2, [], True, True, [False] * 3),
        (0, [0.5, -1.0], True, False, [False] * 3), (3, [0.5, -1.0], False, True, [False] * 3),
        (1, [0.5, -1.0], False, True, [False] * 3), (3, [0.0] * 3, True, True, [True] * 3),
    ):  # fmt: skip
        model = action_model(*(f"axis {k}" for k in range(axes))) if axes else tiny
        same, steer, *sliders = action_updates(model, action, 3)
        assert same == (gr.skip() if survives else []) and steer["visible"] == checkbox
        assert [update["visible"] for update in sliders] == visible
        assert all(("value" in update) == (not survives) for update in sliders)


def test_steer_says_what_its_numbers_mean_and_where_there_is_one_future_then():
    for model, one in ((action_model(), False), (Layered(LayeredConfig(actions=("push",))), True)):
        info = action_updates(model, [], 2)[1]["info"]
        assert "−1 in the opposite" in info and ("one future" in info) == one
        assert futures_update(model, [0.5], 1.0)["visible"] != one and futures_update(model, [], 1.0)["visible"]
        assert not futures_update(model, [], 0)["visible"]


def test_gaps_rename_a_control(tiny):
    for model, between, visible, label in (
        (gap_model(), True, True, "Gap length"), (gap_model(), False, True, "Frames"), (tiny, True, False, "Frames"),
    ):  # fmt: skip
        checkbox, frames = gap_updates(model, between)
        assert (checkbox["visible"], frames["label"]) == (visible, label)
