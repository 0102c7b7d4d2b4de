"""The app without a browser: what it accepts, what it answers, what it leaves behind."""

from __future__ import annotations

import math
import os
import time

import gradio as gr
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

import app as front_door
from stt.api import MAX_SEED
from stt.checkpoint import save
from stt.ui.board import GUESSED, KNOWN, Board
from stt.ui.callbacks import plain_errors
from stt.ui.janitor import Janitor
from stt.ui.prediction import Moment, Outcome, notes, predict, read_prompt
from stt.ui.request import NO_CLIP, Refused, Request, check
from stt.ui.server import load_models
from stt.video import read_clip, read_metadata
from tests.conftest import clips
from tests.ui_fixtures import moving_dot, served

# ---- what is asked for -----------------------------------------------------------------------------------

GOOD = {"model": "tiny", "frames": 10, "temperature": 1.0, "seed": 7, "futures": 4}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "clip.mp4").touch()
    return tmp_path / "clip.mp4"


def checked(file, **changes):
    values = {"clip": str(file), **GOOD, **changes}
    return check(**values, models=["tiny", "other"], folders=[file.parent])


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": 1}, {"frames": 40}, {"frames": 10.0}, {"temperature": 0}, {"temperature": 2}, {"seed": 0},
        {"seed": MAX_SEED}, {"futures": 1}, {"futures": 8}, {"model": "other"},
    ],
    ids=str,
)  # fmt: skip
def test_values_within_the_limits_are_taken(file, changes):
    request = checked(file, **changes)
    assert all(getattr(request, name) == value for name, value in changes.items())


@pytest.mark.parametrize("value", [None, True, False, 2.7, "3", "", math.nan, math.inf, 1e308, [], {}, 10**30, -1])
@pytest.mark.parametrize(("name", "numbers"), [("frames", "1 to 40"), ("futures", "1 to 8")])
def test_what_is_no_whole_number_in_range_is_refused_with_the_range(file, name, numbers, value):
    with pytest.raises(Refused, match=f"^{name.title()} must be a whole number from {numbers}, not .*\\.$"):
        checked(file, **{name: value})


@pytest.mark.parametrize(("name", "value"), [("frames", 0), ("frames", 41), ("futures", 0), ("futures", 9)])
def test_one_past_a_limit_is_refused(file, name, value):
    with pytest.raises(Refused, match=f"not {value}"):
        checked(file, **{name: value})


@pytest.mark.parametrize("value", [-0.01, 2.01, math.nan, math.inf, None, "1", True, []])
def test_a_temperature_out_of_range_is_refused(file, value):
    with pytest.raises(Refused, match="^Temperature must be a number from 0 to 2, not "):
        checked(file, temperature=value)


@pytest.mark.parametrize("value", [-1, MAX_SEED + 1, 1.5, "7", True, math.nan, [], {}])
def test_a_seed_out_of_range_is_refused(file, value):
    with pytest.raises(Refused, match=f"^Seed must be a whole number from 0 to {MAX_SEED}, not "):
        checked(file, seed=value)


@pytest.mark.parametrize("value", [None, ""])
def test_no_seed_draws_one(file, value):
    seeds = {checked(file, seed=value).seed for _ in range(5)}
    assert len(seeds) > 1
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


@pytest.mark.parametrize("value", [None, "nope", 3, ["tiny"], {}, "x" * 10_000])
def test_an_unknown_model_is_refused_with_the_known_ones(file, value):
    with pytest.raises(Refused, match="^Model must be one of other, tiny, not ") as refusal:
        checked(file, model=value)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("value", [None, "", {}, {"path": None}])
def test_no_clip_asks_for_one(file, value):
    with pytest.raises(Refused, match=NO_CLIP):
        checked(file, clip=value)


@pytest.mark.parametrize("value", ["/etc/passwd", "../secret.mp4", 3, ["a"], "a\0b", {"path": "/etc/passwd"}])
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


def test_seeds_count_up_and_wrap_around(file):
    assert checked(file, seed=MAX_SEED - 1, futures=3).seeds == [MAX_SEED - 1, MAX_SEED, 0]


def test_whatever_goes_wrong_becomes_one_harmless_sentence():
    with pytest.raises(gr.Error) as shown, plain_errors():
        raise Refused("not <b>bold</b>")
    assert shown.value.message == "not &lt;b&gt;bold&lt;/b&gt;"
    with pytest.raises(gr.Error) as shown, plain_errors():
        raise RuntimeError("/secret/path")
    assert shown.value.message == "Something went wrong on our side, please try again."


# ---- what is shown ---------------------------------------------------------------------------------------


def board_of(size: int, futures: int) -> Board:
    return Board(size, tuple(f"seed {k}" for k in range(futures)), 5, 10)


@pytest.mark.parametrize("futures", range(1, 9))
@pytest.mark.parametrize("size", [16, 64, 128])
def test_a_board_fits_beside_the_controls_and_its_panels_stand_apart(size, futures):
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


# ---- one prediction --------------------------------------------------------------------------------------


def outcome_of(model, folder, **changes) -> tuple[list[Moment], Outcome]:
    values = {"clip": moving_dot(folder / "in.mp4"), **GOOD, "frames": 3, "futures": 3, **changes}
    *moments, outcome = predict(Request(**values), model, folder)
    return moments, outcome


def test_a_prediction_shows_every_frame_and_ends_with_playable_files(tiny, tmp_path):
    moments, outcome = outcome_of(tiny, tmp_path)
    assert [m.predicted for m in moments] == [0, 1, 2, 3]
    together = read_clip(outcome.side_by_side, size=64, channels=3)
    assert together.source_frames == 5 + 3
    assert together.source_size == moments[0].board.shape[::-1]
    assert [caption for _, caption in outcome.futures] == ["seed 7", "seed 8", "seed 9"]
    assert all(read_clip(path, size=16, channels=1).source_frames == 3 for path, _ in outcome.futures)
    assert read_metadata(outcome.futures[1][0])["seed"] == 8
    assert outcome.report["seeds"] == [7, 8, 9]
    assert outcome.report["ms_per_frame"] > 0


def test_the_seed_under_a_future_gives_it_again_alone(tiny, tmp_path):
    together, _ = outcome_of(tiny, tmp_path)
    alone, _ = outcome_of(tiny, tmp_path, seed=9, futures=1)
    difference = np.abs(together[-1].futures[2].astype(int) - alone[-1].futures[0])
    assert difference.max() <= 1
    assert np.abs(together[-1].futures[0].astype(int) - alone[-1].futures[0]).max() > 1


def test_the_report_says_what_happened_to_the_clip(tiny, tmp_path):
    long_and_wide = moving_dot(tmp_path / "wide.mp4", frames=9, width=64)
    prompt = read_prompt(long_and_wide, tiny)
    assert len(prompt.video) == tiny.config.context_frames == 6
    said = " ".join(notes(Request(long_and_wide, "tiny", 3, 0.0, 0, 2), tiny, prompt))
    for part in ("last 6 of 9 frames", "cropped", "16 x 16", "no longer see the oldest", "every future is the same"):
        assert part in said


# ---- starting --------------------------------------------------------------------------------------------


def test_models_come_from_files_and_folders_and_broken_ones_are_left_out(tiny, tmp_path, capsys):
    save(tiny, tmp_path / "digits.safetensors")
    save(tiny, tmp_path / "run/model.safetensors")
    (tmp_path / "broken.safetensors").write_text("no weights")
    models = load_models([str(tmp_path), str(tmp_path / "run")], "cpu")
    assert list(models) == ["digits", "run"]
    assert "broken.safetensors" in capsys.readouterr().err
    video = clips(tiny, 1)[0]
    assert models["run"].loss(video[None]).total.isfinite()


def test_a_models_variants_stand_behind_it_so_that_the_plain_name_is_preset(tiny, tmp_path):
    for name in ("digits-stt-ancestor", "digits-stt"):
        save(tiny, tmp_path / f"{name}.safetensors")
    assert list(load_models([str(tmp_path)], "cpu")) == ["digits-stt", "digits-stt-ancestor"]


def test_without_a_model_the_app_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no model found in"):
        front_door.main(["--models", str(tmp_path)])


def test_the_janitor_removes_what_is_old_or_too_much(tmp_path):
    now = time.time()
    for k, age in enumerate([10, 20, 30, 5000]):
        path = tmp_path / f"folder-{k}" / "video.mp4"
        path.parent.mkdir()
        path.write_bytes(b"0" * 100)
        os.utime(path, (now - age, now - age))
    os.utime(tmp_path / "folder-3", (now - 5000, now - 5000))
    janitor = Janitor(tmp_path, keep=3600, quota=250)
    assert janitor.sweep() == 2
    assert sorted(p.parent.name for p in tmp_path.rglob("*.mp4")) == ["folder-0", "folder-1"]
    assert janitor.sweep() == 0


# ---- through the server ----------------------------------------------------------------------------------


@pytest.fixture
def clip(tmp_path):
    return moving_dot(tmp_path / "clip.mp4")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture(scope="module")
def client(running, tmp_path_factory):
    client = Client(running.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))
    yield client
    client.close()


def ask(client, clip, **changes):
    values = {**GOOD, "frames": 2, "futures": 2, **changes}
    return client.predict(clip=clip, **values, api_name="/predict")


def frames_of(path) -> np.ndarray:
    return read_clip(path, size=16, channels=3).video.numpy()


def test_a_client_gets_videos_the_used_seed_and_a_report(client, running, clip):
    together, futures, seed, report = ask(client, handle_file(clip), futures=3)
    assert read_clip(together, size=64, channels=3).source_frames == 5 + 2
    assert [future["caption"] for future in futures] == ["seed 7", "seed 8", "seed 9"]
    assert seed == 7
    assert report["model"] == "tiny"
    assert report["used_frames"] == 5
    assert running.run_folders() == []


def test_the_same_seed_gives_the_same_frames_twice(client, clip):
    first, second, other = (ask(client, handle_file(clip), seed=seed)[1] for seed in (7, 7, 100))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(frames_of(one["video"]), frames_of(two["video"]))
    assert not np.array_equal(frames_of(first[0]["video"]), frames_of(other[0]["video"]))


def test_a_client_without_a_seed_gets_a_random_one(client, clip):
    seeds = {ask(client, handle_file(clip), seed=seed, futures=1)[2] for seed in (None, None, "")}
    assert len(seeds) == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frames": 41}, "Frames must be a whole number from 1 to 40, not 41."),
        ({"futures": True}, "Futures must be a whole number from 1 to 8, not True."),
        ({"temperature": "hot"}, 'Temperature must be a number from 0 to 2, not "hot".'),
        ({"seed": 2**31}, "Seed must be a whole number from 0 to 2147483647, not 2147483648."),
        ({"model": "<img>"}, 'Model must be one of slow, tiny, not "&lt;img&gt;".'),
        ({"clip": None}, NO_CLIP),
    ],
    ids=str,
)
def test_a_bad_argument_is_answered_with_one_sentence(client, clip, changes, sentence):
    with pytest.raises(AppError) as refusal:
        ask(client, **{"clip": handle_file(clip), **changes})
    assert str(refusal.value.message) == sentence


@pytest.mark.parametrize("content", [b"", b"this is no video\n" * 50, b"\0" * 5000])
def test_a_bad_file_is_answered_with_one_sentence_and_the_next_good_one_works(client, running, clip, tmp_path, content):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(content)
    with pytest.raises(AppError) as refusal:
        ask(client, handle_file(bad))
    assert str(refusal.value.message).startswith("The file is ")
    assert str(running.folder) not in str(refusal.value)
    assert ask(client, handle_file(clip))[2] == 7
    assert running.run_folders() == []


def test_a_cancelled_prediction_stops_and_leaves_no_file(client, running, clip):
    job = client.submit(handle_file(clip), "slow", 40, 1.0, 0, 1, api_name="/predict")
    wait_until(job.outputs)
    assert running.run_folders()
    job.cancel()
    wait_until(lambda: not running.run_folders(), seconds=5)  # 40 frames would take 10


def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def call(running, clip_data) -> str:
    """The raw answer of the endpoint, without a client that uploads on its own."""
    route = f"{running.url}gradio_api/call/predict"
    event = httpx.post(route, json={"data": [clip_data, "tiny", 2, 1.0, 1, 1]}).json()["event_id"]
    return httpx.get(f"{route}/{event}", timeout=30).text


def test_examples_are_taken_and_other_files_of_the_server_are_not(running, clip):
    def as_file(path):
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

    assert "event: complete" in call(running, as_file(running.examples[0]))
    for path in ("/etc/passwd", "/etc", clip, "http://127.0.0.1:1/a.mp4", "https://example.com/a.mp4"):
        answer = call(running, as_file(path))
        assert "event: error" in answer
        assert "passwd" not in answer


def test_closed_routes_and_large_bodies_are_turned_away(running):
    api = f"{running.url}gradio_api"
    for route in ("process_recording", "monitoring", "component_server", "proxy=http://x", "file=http://x"):
        assert httpx.post(f"{api}/{route}").status_code == 404
    assert httpx.post(f"{api}/queue/join", content=b"x" * 1_000_001).status_code == 413

    def endless_field():
        yield b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
        yield from (b"x" * 1_000_000 for _ in range(30))

    form = {"content-type": "multipart/form-data; boundary=b"}
    assert httpx.post(f"{api}/upload", content=endless_field(), headers=form).status_code == 413
    big = {"files": ("a.mp4", b"0" * 25_100_000)}
    assert httpx.post(f"{api}/upload", files=big).status_code == 413


def test_only_the_prediction_is_a_public_endpoint(client):
    described = client.view_api(return_format="dict", print_info=False)
    assert list(described["named_endpoints"]) == ["/predict"]
    names = [p["parameter_name"] for p in described["named_endpoints"]["/predict"]["parameters"]]
    assert names == ["clip", "model", "frames", "temperature", "seed", "futures"]
    assert not described["unnamed_endpoints"]
