"""Short forms of the attacks of `python -m tests.attack`."""

from __future__ import annotations

import signal
import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from tests.attack import arguments, checkpoints, disk, ends, greedy, hostile_files, kills, memory
from tests.attack.application import application
from tests.ui_fixtures import served


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with served(tmp_path_factory.mktemp("attacked")) as app:
        yield SimpleNamespace(
            url=app.url, files=app.result_files, model="tiny", examples=app.examples, folder=app.folder
        )


def test_a_visitor_is_served_though_another_leaves_requests_whose_answers_nobody_reads(running):
    outcome = greedy.unread_posts(running.url, posts=5, tries=1, model="slow", frames=8)
    assert not outcome.failures and outcome.tried


def test_odd_requests_are_answered_with_sentences(running):
    outcome = arguments.api_arguments(running.url, "tiny", every=48)
    assert not outcome.failures and outcome.tried > 30


def test_uploads_that_break_off_leave_nothing_behind(running):
    assert not disk.broken_uploads(running, 2).failures


def test_forms_of_many_files_are_refused_and_leave_nothing_behind(running):
    assert not disk.many_files(running, 1).failures


def test_many_videos_at_once_are_made_one_by_one_and_the_page_answers_meanwhile(running):
    """The rest is asked to come back; a gone client's video is not made."""
    names = [f"{stem}.{kind}" for stem in ("side-by-side", "future-1", "future-2") for kind in ("gif", "mp4")]
    statuses = []

    def get(name: str) -> None:
        statuses.append(httpx.get(f"{running.url}runs/example-3--tiny/{name}", timeout=60).status_code)

    threads = [threading.Thread(target=get, args=(names[k % 6],)) for k in range(26)]
    for thread in threads:
        thread.start()
    since = time.monotonic()
    assert httpx.get(f"{running.url}gradio_api/info", timeout=60).status_code == 200
    assert time.monotonic() - since < 10
    for thread in threads:
        thread.join()
    assert set(statuses) <= {200, 503} and 200 in statuses
    assert httpx.get(f"{running.url}runs/example-3--tiny/future-1.gif", timeout=60).status_code == 200


def test_mutated_model_files_load_or_are_refused_with_one_sentence():
    outcome = checkpoints.mutated_headers(40, seed=1)
    assert not outcome.failures and outcome.tried == 40


def test_hostile_files_are_refused_with_one_sentence():
    outcome = hostile_files.hostile_files(2)
    assert not outcome.failures and outcome.tried == 16


@pytest.fixture(scope="module")
def app():
    with application(MALLOC_ARENA_MAX="1") as app:  # else a new thread takes memory of its own
        yield app


def test_growth_counts_a_leak_but_no_thread_that_starts_or_ends():
    sizes = [700.0, 760.0, 760.1, 772.0, 772.1, 772.2]
    assert memory.lasting_growth(sizes) < 1
    leaking = [size + 1.4 * 4 * k for k, size in enumerate(sizes)]  # a session's state in each of 4 predictions
    assert memory.lasting_growth(leaking) > 20 and memory.lasting_growth([*leaking[:-1], 700.0]) > 20


def test_an_app_keeps_its_size_and_ends_its_prediction_and_itself_at_a_signal(app):
    outcome = memory.predictions(app, 20, growth=4, warm_up=4, windows=5)
    if outcome.failures:  # a step of the allocator comes once, a leak each time
        outcome = memory.predictions(app, 20, growth=4, warm_up=4, windows=5)
    ends.end_while_running(app, "robot-stt", signal.SIGTERM, outcome, [])
    assert not outcome.failures


@pytest.mark.soak
def test_a_thousand_predictions_leave_memory_as_it_was():
    with application() as app:
        assert not memory.predictions(app).failures


@pytest.mark.soak
def test_two_thousand_mutated_model_files_load_or_are_refused():
    assert not checkpoints.mutated_headers().failures


@pytest.mark.soak
def test_two_processes_that_are_killed_end_bit_equal():
    assert not kills.two_processes().failures


@pytest.mark.soak
def test_idle_connections_do_not_keep_visitors_out():
    with application(limits="ulimit -n 256") as app:
        assert not ends.connections(app).failures
