"""Clients that ask for all that they can get, beside one that asks now and then."""

from __future__ import annotations

import threading
import time
from statistics import median

import httpx

from tests.attack.application import answer, arguments, example, post, visitor
from tests.attack.outcome import Outcome


def seconds_of(client: httpx.Client, url: str, values: list) -> tuple[float, str]:
    since = time.monotonic()
    try:
        status, text = answer(client, url, values)
    except httpx.HTTPError as error:
        return time.monotonic() - since, f"{type(error).__name__}"
    return time.monotonic() - since, "" if "event: complete" in text else f"{status} {text[-150:]}"


def unread_posts(url: str, posts: int = 17, tries: int = 3, model: str = "digits-stt", frames: int = 40) -> Outcome:
    """Requests whose answers nobody reads, then another visitor of the same address."""
    outcome, clip = Outcome(), example(url)
    waits = []
    with visitor() as greedy, visitor() as polite:
        since = time.monotonic()
        statuses = [
            post(greedy, url, arguments(clip, model=model, frames=frames, futures=8, seed=k)).status_code
            for k in range(posts)
        ]
        took = time.monotonic() - since
        for k in range(tries):
            seconds, error = seconds_of(polite, url, arguments(clip, model=model, frames=2, futures=1, seed=k))
            waits.append(seconds)
            outcome.check(not error, f"visitor's try {k + 1}: {error}")
    accepted = statuses.count(200)
    outcome.figure = (
        f"{posts} posts in {took:.2f} s, {accepted} accepted; the visitor waited {max(waits):.2f} s at most"
    )
    return outcome


def greedy_clients(
    url: str, clients: int = 5, tries: int = 5, model: str = "digits-stt", frames: int = 20, addresses: bool = True
) -> Outcome:
    """The wait of a polite client beside greedy ones is at most twice its own time and one running request."""
    outcome, clip, done = Outcome(), example(url), threading.Event()
    large = arguments(clip, model=model, frames=frames, futures=4)
    small = arguments(clip, model=model, frames=max(frames // 4, 1), futures=1)
    finished, refused = [], []

    def worker(number: int, session: str) -> None:
        with visitor(f"127.0.1.{number + 1}" if addresses else "127.0.0.1") as client:
            while not done.is_set():
                seconds, error = seconds_of(client, url, large)
                (refused if error else finished).append(seconds)
                if error:
                    time.sleep(0.2)

    with visitor("127.0.2.1" if addresses else "127.0.0.1") as polite:
        seconds_of(polite, url, small)
        solo = median(seconds_of(polite, url, small)[0] for _ in range(3))
        running = median(seconds_of(polite, url, large)[0] for _ in range(2))
        threads = [threading.Thread(target=worker, args=(k, f"g{k}-{n}")) for k in range(clients) for n in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(2 * running)
        waits = []
        for k in range(tries):
            seconds, error = seconds_of(polite, url, small)
            waits.append(seconds)
            # reading the answers of the others takes time of the same processors
            outcome.check(not error and seconds <= 2 * solo + running + 0.5, f"try {k + 1}: {seconds:.2f} s {error}")
            time.sleep(solo)
        done.set()
        for thread in threads:
            thread.join()
    outcome.figure = (
        f"{clients} clients with 4 requests each: {max(waits):.2f} s at most, {solo:.2f} s alone, {running:.2f} s"
        f" one of theirs; {len(finished)} of theirs served, {len(refused)} turned away"
    )
    return outcome
