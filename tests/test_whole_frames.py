"""A model that takes whole frames, from a wide clip to what the page, a program and a file get."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from stt.live import LiveSession
from stt.prediction import predict
from stt.prompt import read_prompt
from stt.results import Result
from stt.ui.endpoints import Endpoints
from stt.ui.player import progress_value, result_value
from stt.video import read_clip
from tests.conftest import TINY_CONFIGS, built
from tests.page_fixtures import event_of
from tests.ui_fixtures import moving_dot, request_for

WIDTH, HEIGHT = 200, 90


@pytest.fixture(scope="module")
def model():
    return built(TINY_CONFIGS["stt, flows from optical flow"]).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return moving_dot(tmp_path_factory.mktemp("clip") / "wide.mp4", frames=7, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def events(model, clip):
    """The progress's first value of the page, its last one, and the result."""
    values, value = [], None
    for event in predict(request_for(clip, prompt_frames=4, frames=3, futures=2), model):
        if isinstance(event, Result):
            return values[0], values[-1], replace(event, report=event.report | {"id": "some-id"})
        value = progress_value(value, event, "some-id")
        values.append(value)
    raise AssertionError("no result")


def cells(source: str, value: dict) -> np.ndarray:
    """The frames of a strip, (rows, columns, H, W, 3)."""
    data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
    image = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    (width, height), (wide, high) = value["size"], value["cell"]
    rows, columns = image.shape[0] // high, image.shape[1] // wide
    return image.reshape(rows, high, columns, wide, 3).swapaxes(1, 2)[:, :, :height, :width]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(10 * np.log10(255**2 / np.square(a.astype(float) - b).mean().clip(1e-9)))


def test_a_wide_clip_keeps_its_shape_and_a_square_is_a_choice(model, clip):
    for fit, size in (("auto", (HEIGHT, WIDTH)), ("crop", (HEIGHT, HEIGHT)), ("pad", (WIDTH, WIDTH))):
        prompt = read_prompt(request_for(clip, fit=fit), model)
        assert prompt.context.shape[2:] == size, fit
        assert prompt.clip.cropped == (fit == "crop")


def test_the_page_gets_large_frames_as_jpeg_that_do_not_bleed_into_each_other(events):
    first, last, result = events
    assert result.futures.shape == (2, 3, HEIGHT, WIDTH, 3)
    value = result_value(result)
    assert value["size"] == first["size"] == [WIDTH, HEIGHT] and value["cell"] == [208, 96]
    assert all(part["src"].startswith("data:image/jpeg") for part in value["strips"] + last["strips"])
    assert psnr(cells(value["context"], value)[0], result.context) > 35
    for futures in (
        cells(value["strips"][0]["src"], value),
        np.concatenate([cells(p["src"], value) for p in last["strips"]], 1),
    ):
        assert psnr(futures, result.futures) > 35


def test_large_results_are_stored_small_and_come_back(events, tmp_path):
    result = events[2]
    result.save(tmp_path / "result.npz")
    assert (tmp_path / "result.npz").stat().st_size < 0.1 * result.bytes
    again = Result.load(tmp_path / "result.npz")
    assert again.report == result.report
    np.testing.assert_array_equal(again.surprise, result.surprise)
    for name in ("context", "futures", "truth"):
        assert psnr(getattr(again, name), getattr(result, name)) > 40, name
    assert again.ending.shape == result.ending.shape


def test_its_videos_have_the_shape_of_the_clip(events, tmp_path):
    result = events[2]
    result.write("future-1.mp4", tmp_path / "one.mp4")
    one = read_clip(tmp_path / "one.mp4", size=512, channels=3, fit="whole").video
    assert one.shape == (7, 3, 2 * HEIGHT, 2 * WIDTH)
    layout = result.layout
    assert layout.picture == (HEIGHT, WIDTH) and result.side_by_side().shape == (7, *layout.shape, 3)


def test_the_page_shows_a_wide_clip_predicts_it_and_continues_a_future(page, model, clip):
    page.backend.models["whole"] = model
    mine = page.uploads / "mine.mp4"
    mine.write_bytes(clip.read_bytes())
    shown = page.choose(mine, model="whole", fit="auto").player
    assert (shown["state"], shown["size"]) == ("ready", [WIDTH, HEIGHT])
    result = page.predict(mine, model="whole", fit="auto", frames=2, futures=1)
    assert result.futures.shape == (1, 2, HEIGHT, WIDTH, 3)
    _, path = page.callbacks.extend(event_of(result=result.report["id"], future=0))
    longer = read_prompt(request_for(Path(path)), model)
    assert longer.clip.video.shape[2:] == (2 * HEIGHT, 2 * WIDTH)
    listed = Endpoints(page.backend).list_models()[-1]
    assert listed["whole_frames"] and listed["image_size"] == 512


def test_a_live_session_of_large_frames_remembers_fewer(model, clip):
    context = read_prompt(request_for(clip), model, whole_size=128).context
    assert context.shape[2:] == (58, 128)
    session = LiveSession(model, context)
    assert session.step().shape == (3, 58, 128)
    assert session.max_frames == 600
    large = LiveSession(model, context[..., :1, :1].expand(-1, -1, 512, 512))
    assert large.max_frames < 200
