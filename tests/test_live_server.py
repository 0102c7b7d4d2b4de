"""The socket of live sessions: frames and actions, the queue, and what ends a session."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from stt.api import Condition, Sampling
from stt.live import LiveSession
from stt.models.stt import STT
from stt.prediction import Job, compute
from stt.prompt import read_prompt
from stt.request import RequestError
from stt.results import ResultStore
from stt.sampler import predict
from stt.ui import live_controls
from stt.ui.backend import Backend
from stt.ui.live import HEADER, NO_MACHINE, UNREAD_MESSAGES, Live, Outbox, live_request
from stt.ui.live_controls import FULL, IDLE, YOURS, axis_controls
from stt.ui.server import load_results
from stt.video import to_uint8
from tests.conftest import TINY, lively
from tests.ui_fixtures import Slow, action_model, moving_dot, result_of

SETTINGS = {"model": "actions", "seed": 7, "temperature": 1.0}


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    models = {"actions": action_model(), "plain": lively(STT(TINY)).eval(), "slow": lively(Slow(TINY)).eval()}
    example = moving_dot(folder / "example.mp4")
    for name, model in models.items():
        model.weights_hash = name
    result_of(models["plain"], example, model="plain", prompt_frames=5).save(folder / "example--plain.npz")
    shipped = load_results([folder / "example--plain.npz"])
    return Backend(models, ResultStore(folder / "results", shipped), folder, [example])


@pytest.fixture
def live(backend):
    return Live(backend, cores=1)


@contextmanager
def client_of(live: Live):
    app = Starlette(routes=[WebSocketRoute("/live", live.serve)])
    with TestClient(app) as client:
        yield client


class Player:
    """A browser, in short: it acknowledges every frame."""

    def __init__(self, socket) -> None:
        self.socket, self.count = socket, 0

    def send(self, **message) -> None:
        self.socket.send_text(json.dumps(message))

    def next(self):
        """A message's dict, or (branch, number, count, pixels) of a frame."""
        message = self.socket.receive()
        if "bytes" in message:
            self.count += 1
            self.send(ack=self.count)
            branch, number, count, _ = HEADER.unpack(message["bytes"][: HEADER.size])
            return branch, number, count, np.frombuffer(message["bytes"][HEADER.size :], np.uint8).reshape(16, 16, 3)
        if message["type"] == "websocket.close":
            raise WebSocketDisconnect(message["code"])
        return json.loads(message["text"])

    def until(self, key: str):
        """The first message with this key, and the frames before it."""
        frames = []
        while True:
            message = self.next()
            if isinstance(message, dict) and key in message:
                return message[key], frames
            if isinstance(message, dict) and "end" in message:
                raise AssertionError(message["end"])
            frames.append(message)

    def frames(self, count: int):
        frames = []
        while len(frames) < count:
            if isinstance(message := self.next(), tuple):
                frames.append(message)
        return frames


@contextmanager
def playing(client, **settings):
    with client.websocket_connect("/live") as socket:
        player = Player(socket)
        player.send(start=SETTINGS | settings)
        yield player


def wait_until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


# ---- playing ---------------------------------------------------------------------------------------------


def test_frames_follow_the_actions_and_are_those_of_predict(live, backend):
    with client_of(live) as client, playing(client) as player:
        player.send(action=[0, 0], count=1)
        ready, _ = player.until("ready")
        assert (ready["model"], ready["size"], ready["fps"], ready["seed"]) == ("actions", [16, 16], 10.0, 7)
        assert [axis["control"] for axis in ready["axes"]] == ["horizontal", "vertical"]
        first = player.frames(4)
        player.send(action=[1, 0.5], count=2)
        frames = first + player.frames(9)
    numbers, counts = [frame[1] for frame in frames], [frame[2] for frame in frames]
    assert numbers == list(range(13)) and counts == sorted(counts) and counts[-1] == 2
    actions = {0: (), 1: (0.0, 0.0), 2: (1.0, 0.5)}
    model, request = backend.models["actions"], live_request(backend, SETTINGS)
    context = read_prompt(request, model).context
    np.testing.assert_array_equal(frames[0][3], to_uint8(context)[-1])
    session = LiveSession(model, context, seed=7)
    for _, number, count, pixels in frames[1:]:
        np.testing.assert_array_equal(pixels, to_uint8(session.step(actions[count])[None])[0], err_msg=str(number))
    last = [actions[count] for count in counts[1:] if count]
    if counts[1]:
        expected = predict(model, context, 12, seeds=[7], condition=Condition(actions=tuple(last)))
        np.testing.assert_array_equal(frames[-1][3], to_uint8(expected[0, -1:])[0])


def test_without_actions_an_endless_future_streams_at_the_rate_of_play(live):
    with client_of(live) as client, playing(client, model="plain") as player:
        ready, _ = player.until("ready")
        assert ready["axes"] == []
        player.frames(5)
        began = time.perf_counter()
        player.frames(10)
        assert time.perf_counter() - began > 0.8  # not faster than ten frames a second


def test_a_slow_browser_gets_no_more_frames_than_it_draws(live):
    with client_of(live) as client, client.websocket_connect("/live") as socket:
        player = Player(socket)
        player.send(start=SETTINGS)
        time.sleep(1.5)
        player.send(pause=True)
        time.sleep(0.3)
        received = 0
        player.send(swap=True)
        while "text" in (message := socket.receive()) and "branch" not in message["text"] or "bytes" in message:
            received += "bytes" in message
        assert 1 <= received <= live_controls.WINDOW


def test_a_fork_shows_the_moment_again_with_another_seed_and_a_swap_returns(live):
    with client_of(live) as client, playing(client) as player:
        player.send(action=[1, 0], count=1)
        player.until("ready")
        first = {frame[1]: frame[3] for frame in player.frames(9)}
        player.send(fork=4, seed=8)
        change, late = player.until("branch")
        assert (change["id"], change["at"], change["seed"]) == (1, 4, 8)
        first |= {frame[1]: frame[3] for frame in late}
        second = player.frames(4)
        assert [frame[:2] for frame in second] == [(1, n) for n in range(5, 9)]
        assert any((frame[3] != first[frame[1]]).any() for frame in second)
        player.send(swap=True)
        change, _ = player.until("branch")
        assert (change["id"], change["seed"]) == (0, 7) and change["at"] >= 8
        assert player.frames(1)[0][:2] == (0, change["at"] + 1)
        player.send(fork=4, seed=None)  # the same chance, and the same action: the same frames
        player.until("branch")
        for _, number, _, pixels in player.frames(4):
            np.testing.assert_array_equal(pixels, first[number])


def test_who_starts_again_sees_the_clip_and_the_same_frames_in_a_branch_alone(live):
    with client_of(live) as client, playing(client, seed=7) as player:
        first = player.frames(4)
        player.send(fork=2, seed=8)
        player.until("branch")
        player.send(restart=True)
        change, _ = player.until("branch")
        assert change["fresh"] and (change["at"], change["seed"]) == (0, 7)
        again = player.frames(4)
        assert {frame[0] for frame in again} == {change["id"]} and [frame[1] for frame in again] == [0, 1, 2, 3]
        for before, after in zip(first, again, strict=True):
            np.testing.assert_array_equal(before[3], after[3])


def test_a_recording_becomes_a_result(live, backend):
    with client_of(live) as client, playing(client) as player:
        player.send(action=[-1, 0], count=1)
        frames = player.frames(6)
        player.send(pause=True)
        player.send(save=True)
        saved, more = player.until("saved")
        player.send(save=True)  # of the same frames: the same result
        assert player.until("saved")[0] == saved
    result = backend.results.get(saved["id"])
    np.testing.assert_array_equal(result.futures[0], np.stack([frame[3] for frame in (frames + more)[1:]]))
    assert result.report["seeds"] == [7] and result.report["live"] and result.report["actions"][-1] == [-1.0, 0.0]
    assert backend.results.video(saved["id"], "future-1.mp4")[0].stat().st_size > 500
    assert backend.clips.of_result(saved["id"]) == backend.examples[0]


# ---- places ----------------------------------------------------------------------------------------------


def test_visitors_wait_in_line_and_a_closed_tab_frees_its_place(live):
    with client_of(live) as client:
        with playing(client) as first:
            first.until("ready")
            with playing(client) as third:
                assert third.until("wait")[0] == 1
                with playing(client) as last:
                    assert last.until("wait")[0] == 2
                third.socket.close()
                wait_until(lambda: len(live.line.tickets) == 1)
            with playing(client) as second:
                assert second.until("wait")[0] == 1
                first.socket.close()
                second.until("ready")
                assert second.frames(2)
        wait_until(lambda: live.line.playing == 0)


def test_too_long_a_line_is_closed(live, monkeypatch):
    monkeypatch.setattr(live_controls, "MAX_WAITING", 0)
    with client_of(live) as client, playing(client) as first:
        first.until("ready")
        with playing(client) as second:
            assert second.next() == {"end": FULL}


def test_addresses_take_turns_and_who_has_most_gives_way(monkeypatch):
    monkeypatch.setattr(live_controls, "MAX_WAITING", 3)

    async def visit():
        line = live_controls.Line(1)
        greedy = [line.enter("a") for _ in range(4)]
        polite = line.enter("b")  # in a full line
        with pytest.raises(RequestError, match="Too many"):
            line.ahead(greedy[-1])
        assert [line.ahead(ticket) for ticket in (*greedy[:3], polite)] == [0, 2, 3, 1]
        with pytest.raises(RequestError, match="Too many"):
            line.enter("a")
        for ticket in (greedy[-1], greedy[0]):
            line.leave(ticket)
        assert line.ahead(polite) == 0

    asyncio.run(visit())


def test_a_session_whose_messages_nobody_reads_ends():
    async def visit():
        out = Outbox(asyncio.get_running_loop())
        for _ in range(UNREAD_MESSAGES + 1):
            out.put({})
        with pytest.raises(live_controls.Ended, match="does not keep up"):
            out.send({})

    asyncio.run(visit())


def test_behind_a_proxy_an_address_has_few_places(backend):
    live = Live(backend, cores=4, by_address=True)
    with client_of(live) as client, playing(client) as first, playing(client) as second, playing(client) as third:
        first.until("ready")
        second.until("ready")
        assert third.next() == {"end": YOURS}


def test_nobody_there_ends_a_session_and_a_held_key_keeps_it(live, monkeypatch):
    monkeypatch.setattr(live_controls, "IDLE_SECONDS", 0.5)
    with client_of(live) as client, playing(client) as player:
        player.send(action=[1, 0], count=1)
        player.frames(12)  # more than a second
        player.send(action=[0, 0], count=2)
        with pytest.raises(AssertionError, match=IDLE):
            player.until("never")
        with pytest.raises(WebSocketDisconnect):
            player.next()
        wait_until(lambda: live.line.playing == 0)


def test_predictions_leave_a_core_to_each_visitor(backend):
    live, seen = Live(backend, cores=2), []
    model, context = backend.models["plain"], torch.zeros(3, 1, 16, 16)

    def spy(model, job):
        seen.append(torch.get_num_threads())
        yield from compute(model, job)

    def one_job():
        job = Job(context, context[:0], context[:0], 1, Sampling(), Condition(), (0,))
        assert len(list(live.compute_beside(spy)(model, job))) >= 1

    for _ in range(2):
        thread = threading.Thread(target=one_job)
        thread.start()
        thread.join()
        live.line.enter()
    torch.set_num_threads(1)
    assert seen == [2, 1]


# ---- what is refused -------------------------------------------------------------------------------------


def test_every_refusal_is_one_sentence(live, monkeypatch):
    cases = {
        "Model must be one of": {"model": "nothing"},
        "The clip must be an example": {"clip": "/etc/passwd"},
        "Seed must be a whole number": {"seed": -1},
        "Temperature must be": {"temperature": "hot"},
    }
    with client_of(live) as client:
        for start, settings in cases.items():
            with playing(client, **settings) as player:
                assert player.next()["end"].startswith(start), start
        for action, text in (
            ([1, 0, 0], "Action has 3 numbers"),
            ([5, 0], "Action must be"),
            ({"a": 1}, "Action must"),
        ):
            with playing(client) as player:
                player.send(action=action, count=1)
                with pytest.raises(AssertionError, match=text):
                    player.until("never")
        with client.websocket_connect("/live") as socket:
            Player(socket).send(start=[1, 2])
            answers = iter(Player(socket).next, None)
            answer = next(one for one in answers if "wait" not in one)  # the session before may still be ending
            assert answer == {"end": "The settings must be an object."}
        monkeypatch.setenv("SPACES_ZERO_GPU", "true")
        with playing(client) as player:
            assert player.next() == {"end": NO_MACHINE}
    wait_until(lambda: live.line.playing == 0)


def test_foreign_pages_and_messages_that_no_page_sends_are_cut_off(live):
    with client_of(live) as client:
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("/live", headers={"origin": "https://evil.org"}),
        ):
            pass
        for message in ("x" * 10_000, "not json", "[]", "[" * 8000, "3"):
            with client.websocket_connect("/live", headers={"origin": "http://testserver"}) as socket:
                socket.send_text(message)
                assert socket.receive()["type"] == "websocket.close", message[:10]
        with client.websocket_connect("/live") as socket:
            socket.send_bytes(b"\0")
            assert socket.receive()["type"] == "websocket.close"
        with playing(client) as player:
            for strange in ({"fork": "x", "seed": "y"}, {"ack": -5}, {"pause": 3}, {"save": "yes"}, {"nothing": {}}):
                player.send(**strange)
            assert player.frames(3)


# ---- keys ------------------------------------------------------------------------------------------------


def test_the_names_of_actions_say_which_keys_drive_them():
    cases = {
        ("push right", "push up"): [("horizontal", 1), ("vertical", 1)],
        ("steering", "throttle"): [("horizontal", 1), ("vertical", 1)],
        ("right", "forward", "up"): [("horizontal", 1), ("vertical", 1), ("extra", 1)],
        ("up", "left"): [("vertical", 1), ("horizontal", -1)],
        ("push",): [("horizontal", 1)],
        ("grip", "down", "roll", "tilt"): [("horizontal", 1), ("vertical", -1), ("extra", 1), ("extra", 1)],
        (): [],
    }
    for names, expected in cases.items():
        controls = axis_controls(names)
        assert [(one["control"], one["sign"]) for one in controls] == expected, names
        assert [one["name"] for one in controls] == list(names)
