"""What keeps one visitor from costing another: places in the queue, room on the disk, costs, connections."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import HTTPException

from stt import sandbox
from stt.request import Request, RequestError
from stt.ui import fair_queue
from stt.ui.cleanup import Cleanup, own_folder
from stt.ui.connections import bounded, close_idle
from stt.ui.costs import Costs
from stt.ui.fair_queue import PLACES, FairQueue, address_of
from stt.ui.streams import PER_ADDRESS, StreamCount, Streams, network_of


class Function:
    """What a queue reads of a function of the page."""

    concurrency_id, concurrency_limit, api_name, connection = "gpu", 1, "predict", "sse"
    validator = fn = time_limit = None
    batch = False


class Visitors:
    """A fair queue without an app."""

    def __init__(self, **options) -> None:
        blocks = SimpleNamespace(fns={0: Function()})
        settings = {"live_updates": True, "concurrency_count": 4, "update_intervals": 1, "max_size": 8}
        self.queue = FairQueue(Streams(), blocks=blocks, **settings | options)
        self.queue.active_jobs = [None] * 4

    async def ask(self, session: str | None, address: str = "1.1.1.1", listens: bool = True) -> str:
        body = SimpleNamespace(fn_index=0, session_hash=session, event_id=None)
        request = SimpleNamespace(client=SimpleNamespace(host=address))
        accepted, name, _ = await self.queue.push(body, request, None)
        assert accepted
        if listens:
            self.queue.streams.open(session or name, address)
        return name

    def next(self) -> str | None:
        """The id of the request that runs next; it ends at once."""
        events = self.queue.get_events()
        return events[0][0]._id if events else None


@pytest.fixture(autouse=True)
def no_session_state(monkeypatch):
    monkeypatch.setattr("gradio.route_utils.get_fn", lambda blocks, name, body: blocks.fns[body.fn_index])
    monkeypatch.setattr(fair_queue, "SETTLING", 0.05)


def test_a_client_has_three_places_and_another_one_its_own():
    async def visit():
        visitors = Visitors()
        for _ in range(PLACES):
            await visitors.ask("greedy")
        with pytest.raises(HTTPException, match="3 requests") as error:
            await visitors.ask("greedy")
        assert error.value.status_code == 429
        await visitors.ask("polite")
        for _ in range(PLACES):
            await visitors.ask(None)  # calls without a session are one client
        with pytest.raises(HTTPException, match="3 requests"):
            await visitors.ask(None)

    asyncio.run(visit())


def test_behind_a_trusted_proxy_an_address_is_one_client_whatever_its_sessions():
    async def visit():
        visitors = Visitors(by_address=True)
        for k in range(PLACES):
            await visitors.ask(f"session {k}", "2.2.2.2")
        with pytest.raises(HTTPException, match="3 requests"):
            await visitors.ask("another session", "2.2.2.2")
        await visitors.ask("a", "2.2.2.3")

    asyncio.run(visit())


def test_whoever_computed_least_goes_first():
    async def visit():
        visitors = Visitors()
        greedy = [await visitors.ask("greedy") for _ in range(2)]
        polite = await visitors.ask("polite")
        visitors.queue.usage.add("greedy", 30)
        assert [visitors.next() for _ in range(4)] == [polite, *greedy, None]

    asyncio.run(visit())


def test_an_address_with_one_request_goes_before_one_with_several_until_it_has_computed_much_more():
    async def visit():
        for seconds, first in ((0, True), (5, True), (20, False)):
            visitors = Visitors()
            several = [await visitors.ask("greedy", "5.5.5.5") for _ in range(3)]
            one = await visitors.ask("polite", "6.6.6.6")
            visitors.queue.usage.add(network_of("6.6.6.6"), seconds)
            assert visitors.next() == (one if first else several[0]), seconds

    asyncio.run(visit())


def test_computing_costs_only_where_others_waited_for_it(monkeypatch):
    async def visit():
        async def processed(self, *_, **__):
            pass

        monkeypatch.setattr(fair_queue.Queue, "process_events", processed)
        for others, counted in ((False, False), (True, True)):
            visitors = Visitors()
            await visitors.ask("me")
            events, *_ = visitors.queue.get_events()
            if others:
                await visitors.ask("another", "7.7.7.7")
            await visitors.queue.process_events(events, False, 0.0)
            assert (visitors.queue.usage.at(time.monotonic(), "me") > 0) == counted

    asyncio.run(visit())


def test_what_nobody_listens_to_is_not_begun_and_gives_its_place_away():
    async def visit():
        visitors = Visitors(max_size=4)
        unread = [await visitors.ask(None, listens=False) for _ in range(3)]
        assert visitors.next() is None
        read = await visitors.ask(None)  # of the same address: it waits until the others had time to listen
        assert visitors.next() == read
        assert unread[0] not in visitors.queue.event_ids_to_events
        for k in range(4):
            await asyncio.sleep(2 * fair_queue.SETTLING)
            await visitors.ask(f"late {k}", f"3.3.3.{k}", listens=k > 0)
        assert len(visitors.queue) == 4
        visitors.queue.drop_waiting("The app stops.")
        assert len(visitors.queue) == 0

    asyncio.run(visit())


def test_a_full_queue_costs_whoever_has_most_in_it():
    async def visit():
        visitors = Visitors(max_size=4)
        own = [await visitors.ask(f"tab {k}", "4.4.4.4") for k in range(4)]
        with pytest.raises(HTTPException, match="The app is busy: 4 requests are waiting"):
            await visitors.ask("tab 5", "4.4.4.4")
        await visitors.ask("one", "5.5.5.5")
        assert own[-1] not in visitors.queue.event_ids_to_events and len(visitors.queue) == 4

    asyncio.run(visit())


def test_addresses_of_one_household_count_as_one():
    def of(host):
        return address_of(SimpleNamespace(client=SimpleNamespace(host=host)))

    assert of("2001:db8::1") == of("2001:db8::ffff") != of("2001:db8:0:1::1")
    assert (of("10.0.0.1"), of("testclient")) == ("10.0.0.1", "testclient")


def test_an_address_has_a_share_of_the_connections_and_another_one_its_own():
    async def visit():
        streams, opened, done = Streams(connections=0), [], asyncio.Event()

        async def app(scope, receive, send):
            opened.append(scope["client"][0])
            await done.wait()

        async def ask(address, kind, path="/"):
            answers = []

            async def send(message):
                answers.append(message)

            scope = {"type": kind, "path": path, "method": "GET", "client": (address, 1), "query_string": b""}
            await StreamCount(app, streams)(scope, None, send)
            return answers[0].get("status", answers[0]["type"]) if answers else None

        requests = [asyncio.create_task(ask("1.1.1.1", "http")) for _ in range(PER_ADDRESS + 1)]
        await asyncio.sleep(0.05)
        assert await ask("1.1.1.1", "websocket") == "websocket.close"
        requests.append(asyncio.create_task(ask("2.2.2.2", "http")))
        starts = asyncio.create_task(ask("1.1.1.1", "http", "/gradio_api/startup-events"))  # the app's own
        await asyncio.sleep(0.05)
        done.set()
        assert (await asyncio.gather(*requests)).count(429) == 1 and await starts is None
        assert opened.count("1.1.1.1") == PER_ADDRESS + 1 and opened.count("2.2.2.2") == 1 and not streams.requests

    asyncio.run(visit())


# ---- disk ------------------------------------------------------------------------------------------------


def file_of(folder: Path, name: str, size: int, age: float = 0.0) -> Path:
    path = folder / name / "clip.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"0" * size)
    stamp = time.time() - age

    os.utime(path, (stamp, stamp))
    return path


def test_many_small_files_go_as_a_large_one_does(tmp_path):
    cleanup = Cleanup(tmp_path, reserve=0, most=5)
    polite = file_of(tmp_path, "polite", 3, age=500)
    cleanup.own(polite, "a")
    for k in range(9):
        cleanup.own(file_of(tmp_path, f"flood {k}", 0, age=k), "b")
    cleanup.make_room(0)
    assert polite.is_file() and len(list(tmp_path.rglob("*.mp4"))) == 5
    assert len(list(tmp_path.glob("*/"))) == 6  # theirs and the one for uploads: folders go with their files


def test_a_folder_that_the_system_removed_is_made_again(tmp_path):
    cleanup = Cleanup(tmp_path / "app", reserve=0)
    for work in (cleanup.sweep, lambda: cleanup.make_room(1)):
        shutil.rmtree(cleanup.folder, ignore_errors=True)
        work()
    assert (tmp_path / "app" / "files").is_dir() and (tmp_path / "app").stat().st_mode & 0o077 == 0


def test_a_link_of_somebody_else_is_not_the_apps_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "other").mkdir()
    own = tmp_path / f"stt-app-{os.getuid()}"
    own.symlink_to(tmp_path / "other")
    assert own_folder() not in (own, tmp_path / "other")
    own.unlink()
    assert own_folder() == own_folder() == own


def test_a_flood_costs_the_files_of_whoever_floods_before_the_quota_is_passed(tmp_path):
    cleanup = Cleanup(tmp_path, quota=1000, reserve=0)
    polite = file_of(tmp_path, "polite", 300, age=50)
    cleanup.own(polite, "1.1.1.1")
    flood = [file_of(tmp_path, f"flood-{k}", 200, age=40 - k) for k in range(3)]
    for path in flood:
        cleanup.own(path, "2.2.2.2")
    cleanup.make_room(300)
    assert [path.exists() for path in (polite, *flood)] == [True, False, True, True]


def test_a_full_disk_is_named_and_costs_nothing_where_others_filled_it(tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    own = file_of(tmp_path, "own", 500)
    cleanup = Cleanup(tmp_path, reserve=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1_500_000))
    with pytest.raises(RequestError, match=r"disk is full: 0 MB are free for this app, 25.0 MB are needed"):
        cleanup.make_room(25_000_000)
    assert own.exists()
    cleanup.make_room(400_000)


# ---- costs -----------------------------------------------------------------------------------------------


def test_a_request_that_costs_too_much_is_refused_with_the_numbers():
    costs, request = Costs(limit=60), Request(Path("clip.mp4"), "slow", frames=40, futures=8)
    costs.check(request)  # nothing is measured yet
    costs.add(request, futures=4, frames=10, seconds=20)
    with pytest.raises(RequestError) as error:
        costs.check(request)
    assert str(error.value) == (
        "40 frames of 8 futures take about 160 s here, at 500 ms each; the limit is 60 s: choose at most 15 frames, or"
        " fewer futures."
    )
    costs.check(Request(Path("clip.mp4"), "slow", frames=15, futures=8))


# ---- connections -----------------------------------------------------------------------------------------


class Connection:
    """As uvicorn's: a request under way is a cycle whose response is not complete."""

    def __init__(self, host: str = "", cycle: object = None, connections: set | None = None) -> None:
        self.cycle, self.client, self.closed = cycle, (host, 1), False
        self.connections = set() if connections is None else connections
        self.transport = SimpleNamespace(close=self.close, is_closing=lambda: self.closed)

    def connection_made(self, transport: object) -> None:
        self.connections.add(self)

    def close(self) -> None:
        self.closed = True


def test_connections_that_never_send_a_request_are_closed(monkeypatch):
    monkeypatch.setattr("stt.ui.connections.PAUSE", 0.01)
    busy, idle = Connection(cycle=SimpleNamespace(response_complete=False)), Connection()
    server = SimpleNamespace(
        config=SimpleNamespace(http_protocol_class=Connection),
        server_state=SimpleNamespace(connections=[busy, idle, SimpleNamespace()]),  # the last one is a WebSocket
    )

    async def look() -> None:
        task = asyncio.create_task(close_idle(lambda: server, 4))
        await asyncio.sleep(0.05)
        assert not busy.closed and not idle.closed and server.config.limit_concurrency == 4
        monkeypatch.setattr("stt.ui.connections.IDLE", 0.0)
        await asyncio.sleep(0.05)
        task.cancel()

    asyncio.run(look())
    assert idle.closed and not busy.closed


def test_a_burst_of_connections_costs_its_address_the_oldest_at_once_and_nobody_else():
    """A visitor who came first and has sent nothing yet keeps his connection, and room stays for the next one."""
    connections, made = set(), []
    kind = bounded(Connection, most=4)
    for host in ("visitor", *["greedy"] * 20, "another"):
        made.append(kind(host, connections=connections))
        made[-1].connection_made(made[-1].transport)
    assert [one.client[0] for one in made if not one.closed] == ["visitor", "greedy", "greedy", "another"]
    assert not any(one.closed for one in made[-3:])


# ---- sandbox ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
def test_a_decoder_has_no_files_and_no_network(tmp_path):
    import imageio_ffmpeg

    program = imageio_ffmpeg.get_ffmpeg_exe()
    if why := sandbox.missing(program):
        pytest.skip(why)
    secret = tmp_path / "secret"
    secret.write_text("x")
    for script, works in (
        ("cat /etc/passwd", False), (f"exec {program} -version", True), (f". {secret}", False),
        (f"echo > {tmp_path}/new", False), (f"{program} -i http://127.0.0.1:9/", False), ("ls /", False),
    ):  # fmt: skip
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with sandbox.popen(["/bin/sh", "-c", script], program, **options) as child:
            text = child.communicate(timeout=20)[0].decode()
        assert (child.returncode == 0) == works, (script, text)
    assert "Operation not permitted" in network_error(program)
    assert not (tmp_path / "new").exists()


def network_error(program: str) -> str:
    command = [program, "-hide_banner", "-i", "http://127.0.0.1:9/"]
    with sandbox.popen(command, program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        return child.communicate(timeout=20)[0].decode()


def test_a_system_without_a_sandbox_says_so_and_decodes(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    sandbox.missing.cache_clear()
    try:
        assert sandbox.missing(sys.executable) == f"{sys.platform} on abacus has no sandbox that this program knows"
        with sandbox.popen([sys.executable, "-c", "print(1)"], sys.executable, stdout=subprocess.PIPE) as child:
            assert child.communicate()[0] == b"1\n"
    finally:
        sandbox.missing.cache_clear()
