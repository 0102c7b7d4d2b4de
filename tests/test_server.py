"""The served app without a browser: programs, raw requests, and what stays behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from stt.request import NO_CLIP
from stt.results import NO_RESULT
from stt.ui.backend import ARGUMENTS
from stt.video import read_clip, read_metadata
from tests.ui_fixtures import moving_dot, served

ROOT = Path(__file__).parent.parent
GOOD = {"model": "tiny", "frames": 2, "temperature": 1.0, "seed": 7, "futures": 2}


@pytest.fixture
def clip(tmp_path):
    return moving_dot(tmp_path / "clip.mp4")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("app")) as app:
        yield app


@pytest.fixture(scope="module")
def connect(running, tmp_path_factory):
    clients = []

    def another() -> Client:
        clients.append(Client(running.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads")))
        return clients[-1]

    yield another
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def client(connect):
    return connect()


def ask(client, clip, **changes):
    return client.predict(clip=clip, **{**GOOD, **changes}, api_name="/predict")


def frames_of(path) -> np.ndarray:
    return read_clip(path, size=16, channels=3).video.numpy()


# ---- programs --------------------------------------------------------------------------------------------


def test_a_client_gets_videos_the_seed_and_a_report(client, clip):
    """The clip is all that a client must give."""
    together, futures, seed, report = client.predict(clip=handle_file(clip), api_name="/predict")
    assert read_clip(together, size=64, channels=3).source_frames == 5 + 20
    assert [future["caption"] for future in futures] == [f"seed {seed + k}" for k in range(4)]
    assert [read_metadata(future["video"])["seed"] for future in futures] == report["seeds"]
    assert all(len(frames_of(future["video"])) == 5 + 20 for future in futures)
    assert report["used_frames"] == 5
    assert report["settings"] == {
        "model": "tiny", "frames": 20, "temperature": 1, "futures": 4, "top_k": 0, "top_p": 1, "stride": 0,
        "fit": "auto", "fps": 0, "labels": [], "between": False, "action": [], "seed": seed,
        "prompt_frames": 5,  # after the clip's last frame
    }  # fmt: skip
    assert ask(client, handle_file(clip), seed="", futures=1)[2] != seed


def test_every_setting_of_a_client_reaches_the_prediction(client, tmp_path):
    wide = moving_dot(tmp_path / "wide.mp4", frames=12, width=64)
    settings = {**GOOD, "temperature": 0.5, "prompt_frames": 4, "top_k": 3, "top_p": 0.5, "stride": 2}
    settings |= {"fit": "pad", "fps": 25, "labels": [3], "between": False, "action": []}
    together, _, _, report = client.predict(clip=handle_file(wide), **settings, api_name="/predict")
    assert report["settings"] == settings
    assert (report["clip_frames"], report["used_frames"], report["fps"]) == (6, 4, 25)
    assert len(report["scores"]["copy"]["error"]) == 2
    assert read_clip(together, size=16, channels=1).fps == 25


def test_a_client_can_imagine_steer_and_fill_gaps(client, clip):
    def frames_and_report(**changes):
        _, futures, _, report = ask(client, handle_file(clip), futures=1, **changes)
        return frames_of(futures[0]["video"])[5:], report

    for name, model, values, parsed in (
        ("labels", "classes", ("3, 7", [3, 7], ""), [[3, 7], [3, 7], []]),
        ("action", "actions", ("0.5, -1", [0.5, -1], "free"), [[0.5, -1], [0.5, -1], []]),
    ):
        answers = [frames_and_report(model=model, **{name: value}) for value in values]
        assert [report["settings"][name] for _, report in answers] == parsed
        (first, report), (same, _), (other, _) = answers
        np.testing.assert_array_equal(first, same)
        assert not np.array_equal(first, other)
        assert report["imagined"] == (name == "labels")
    assert report["action"] == {"push right": 0.5, "push up": -1}
    together, futures, _, report = ask(client, handle_file(clip), model="gaps", between=True)
    assert report["between"] and (report["used_frames"], report["ending_frames"]) == (2, 1)
    assert read_clip(together, size=64, channels=3).source_frames == len(frames_of(futures[1]["video"])) == 2 + 2 + 1


def test_two_clients_at_once_get_what_each_would_get_alone_and_the_same_seed_the_same_frames(
    client, connect, running, tmp_path
):
    files = [moving_dot(tmp_path / f"{k}.mp4", frames=7, start=5 * k) for k in range(2)]
    settings = [{"seed": 100 + 50 * k, "futures": 1 + k, "frames": 4, "prompt_frames": 5} for k in range(2)]
    clients = [client, connect()]

    def answer(k: int):
        return ask(clients[k], handle_file(files[k]), **settings[k])

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(answer, range(2)))
    alone = [answer(k) for k in range(2)]
    assert len({report["id"] for *_, report in together + alone}) == 4
    for k, (_, futures, seed, report) in enumerate(together):
        _, expected, _, other = alone[k]
        assert seed == report["seeds"][0] == settings[k]["seed"] and len(futures) == len(report["seeds"]) == 1 + k
        for name in ("settings", "seeds", "clip", "scores", "spread", "surprise"):
            assert report[name] == other[name]
        for one, two in zip(futures, expected, strict=True):
            np.testing.assert_array_equal(frames_of(one["video"]), frames_of(two["video"]))


def test_a_bad_argument_is_answered_with_one_sentence(client, clip):
    for changes, sentence in (
        ({"frames": 41}, "Frames must be a whole number from 1 to 40, not 41."),
        ({"futures": True}, "Futures must be a whole number from 1 to 8, not True."),
        ({"temperature": "hot"}, 'Temperature must be a number from 0 to 2, not "hot".'),
        ({"model": "<img>"}, 'Model must be one of actions, classes, gaps, slow, tiny, not "&lt;img&gt;".'),
        ({"prompt_frames": 6}, "Prompt frames is 6, but the clip has 5; choose at most 5."),
        ({"labels": [10], "model": "classes"}, "Labels are 10, but classes takes up to 2 of 0 to 9, or -1 for any."),
        ({"action": "1", "model": "actions"}, "Action is 1, but actions takes 2 numbers (push right, push up)."),
        ({"between": True}, "tiny only continues clips; it cannot fill a gap."),
        (
            {"between": True, "model": "gaps", "frames": 4},
            "A gap of 4 needs a clip of at least 6 frames, one before it and one after, but this one has 5.",
        ),
        ({"fit": None}, "Fit must be one of auto, crop, pad, not empty."),
        ({"clip": None}, NO_CLIP),
    ):
        with pytest.raises(AppError) as error:
            ask(client, **{"clip": handle_file(clip), **changes})
        assert str(error.value.message) == sentence


def test_a_bad_file_is_answered_with_one_sentence_and_the_next_good_one_works(client, running, clip, tmp_path):
    before = running.result_files()
    for number, content in enumerate((b"", b"this is no video\n" * 50, b"\0" * 5000)):
        bad = tmp_path / f"bad-{number}.mp4"
        bad.write_bytes(content)
        with pytest.raises(AppError) as error:
            ask(client, handle_file(bad))
        assert str(error.value.message).startswith("The file is ")
        assert str(running.folder) not in str(error.value)
    assert running.result_files() == before
    assert ask(client, handle_file(clip))[2] == 7


def test_a_cancelled_prediction_makes_room_for_the_next_and_leaves_no_file(client, running, clip):
    before = {path.parent for path in running.result_files()}
    job = client.submit(clip=handle_file(clip), model="slow", frames=40, futures=1, api_name="/predict")
    end = time.monotonic() + 10
    while not job.outputs():
        assert time.monotonic() < end, "it did not start"
        time.sleep(0.05)
    job.cancel()
    since = time.monotonic()
    ask(client, handle_file(clip))
    assert time.monotonic() - since < 6  # 40 frames would take 10 seconds, and one is predicted after the other
    assert len({path.parent for path in running.result_files()} - before) == 1  # the other one's


def test_the_api_is_the_prediction_and_the_list_of_models(client):
    described = client.view_api(return_format="dict", print_info=False)
    assert list(described["named_endpoints"]) == ["/predict", "/models"]
    assert not described["unnamed_endpoints"]
    parameters = described["named_endpoints"]["/predict"]["parameters"]
    assert tuple(p["parameter_name"] for p in parameters) == ARGUMENTS
    assert len(ARGUMENTS) == 15
    assert [p["parameter_name"] for p in parameters if not p["parameter_has_default"]] == ["clip"]
    assert not described["named_endpoints"]["/models"]["parameters"]


def test_the_models_are_listed_the_default_one_first(client):
    models = client.predict(api_name="/models")
    assert [model["name"] for model in models] == ["tiny", "slow", "classes", "gaps", "actions", "mean"]
    assert models[0] == {
        "name": "tiny", "family": "stt", "knobs": ["temperature"], "image_size": 16, "whole_frames": False,
        "channels": 1, "context_frames": 6, "classes": 0, "labels": 0, "interpolates": False, "actions": [],
        "fps": None, "weights": "tiny", "world": "Dots", "knows": "Dots, as tiny sees them.",
        "examples": [f"example-{k}" for k in range(4)],
    }  # fmt: skip
    assert models[1]["world"] == "Experimental" and models[2]["examples"] == ["example-0"]
    assert (models[2]["classes"], models[2]["labels"]) == (10, 2) and "labels" in models[2]["knobs"]
    assert [model["interpolates"] for model in models] == [False, False, False, True, False, False]
    assert models[4]["actions"] == ["push right", "push up"] and "actions" in models[4]["knobs"]


def test_the_readme_s_program_runs_as_it_is_written(running, tmp_path):
    program = re.search(r"```python\n(from gradio_client .*?)```", (ROOT / "README.md").read_text(), flags=re.S)[1]
    address = "http://127.0.0.1:7860/"
    assert address in program
    done = subprocess.run(
        [sys.executable, "-c", program.replace(address, running.url)],
        cwd=ROOT, env=os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[7, 8, 9, 10]" in done.stdout  # the report's seeds
    assert len(list(tmp_path.rglob("*.mp4"))) == 5  # side by side, and four futures


# ---- raw requests ----------------------------------------------------------------------------------------


def call(running, clip_data) -> str:
    """The raw answer of the endpoint, without a client that uploads on its own."""
    route = f"{running.url}gradio_api/call/predict"
    values = [clip_data, "tiny", 2, 1.0, 1, 1, 0, 0, 1.0, 1, "crop", 0, "", False, ""]
    event = httpx.post(route, json={"data": values}).json()["event_id"]
    return httpx.get(f"{route}/{event}", timeout=30).text


def test_examples_are_taken_and_other_files_of_the_server_are_not(running, clip):
    def as_file(path):
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

    assert "event: complete" in call(running, as_file(running.examples[0]))
    for path in ("/etc/passwd", "/etc", clip, "http://127.0.0.1:1/a.mp4", "https://example.com/a.mp4"):
        answer = call(running, as_file(path))
        assert "event: error" in answer
        assert "passwd" not in answer


def test_numbers_and_texts_of_any_size_are_answered_with_a_sentence(running):
    route = f"{running.url}gradio_api/call/predict"
    example = {"path": str(running.examples[0]), "meta": {"_type": "gradio.FileData"}}
    for values in ([10**400, 1.0], [2, 1e999], ["9" * 9000, 1.0], [{"a": [1]}, None]):
        body = json.dumps({"data": [example, "tiny", *values, 1, 1, 0, 0, 1.0, 1, "crop", 0, "", False, ""]})
        event = httpx.post(route, content=body, headers={"content-type": "application/json"}).json()["event_id"]
        answer = httpx.get(f"{route}/{event}", timeout=30).text
        assert "event: error" in answer and "must be" in answer and len(answer) < 500


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


# ---- results ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(client, running):
    return ask(client, handle_file(running.examples[0]), prompt_frames=4)[3]


def test_a_result_is_served_whole_for_the_player(running, report):
    answer = httpx.get(f"{running.url}runs/{report['id']}.json")
    assert answer.status_code == 200
    value = answer.json()
    assert (value["id"], value["state"], value["names"]) == (report["id"], "done", ["seed 7", "seed 8"])
    assert value["settings"] == report["settings"]
    assert value["report"]["scores"] == report["scores"]


def test_a_result_s_videos_are_saved_under_a_name_that_says_what_they_are(running, report, tmp_path):
    for name, kind, title in (
        ("side-by-side.mp4", "video/mp4", "tiny-seeds-7-to-8-side-by-side.mp4"),
        ("future-2.mp4", "video/mp4", "tiny-seed-8.mp4"),
        ("future-1.gif", "image/gif", "tiny-seed-7.gif"),
    ):
        answer = httpx.get(f"{running.url}runs/{report['id']}/{name}", timeout=30)
        assert answer.status_code == 200 and answer.headers["content-type"] == kind
        assert answer.headers["content-disposition"] == f'attachment; filename="{title}"'
        (tmp_path / title).write_bytes(answer.content)
        assert len(frames_of(tmp_path / title)) == 4 + 2


def test_an_unknown_path_is_answered_with_a_sentence_or_not_at_all(running, report):
    for path in (
        "nobody-knows-it.json", "nobody-knows-it/future-1.mp4", "%2e%2e%2f%2e%2e.json", "..%2f..%2fetc%2fpasswd.json",
        "%00.json", "a.json", "ID/result.npz", "ID/future-3.mp4", "ID/future-9.mp4", "ID/..%2fresult.npz", "ID/%2e%2e",
    ):  # fmt: skip
        answer = httpx.get(f"{running.url}runs/{path.replace('ID', report['id'])}")
        assert answer.status_code == 404, path
        if "%2f" not in path:
            assert answer.text == ("There is no such file." if path.startswith("ID/") else NO_RESULT), path
        assert str(running.folder) not in answer.text
