"""python -m tests.attack: attacks this copy's app and training runs on 127.0.0.1, and prints what they withstood.

It takes about half an hour of two processor cores; --short takes minutes. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from typing import Any

from tests.attack import arguments, checkpoints, disk, ends, greedy, hostile_files, kills, memory
from tests.attack.application import Application, application, small_disk
from tests.attack.outcome import Outcome

Attack = tuple[str, Callable[[], Outcome]]


@contextmanager
def when_needed(**options: Any) -> Iterator[Callable[[], Application]]:
    """An app that the first call starts: attacks that are left out cost no start."""
    with ExitStack() as stack:
        yield cache(lambda: stack.enter_context(application(**options)))


def attacks(short: bool) -> Iterator[Attack]:
    """Name and attack, one after the other: some share an app, which runs while they are drawn."""
    yield "hostile files", partial(hostile_files.hostile_files, 20 if short else 184)
    yield "mutated model files", partial(checkpoints.mutated_headers, 200 if short else 2000)
    with when_needed() as app:
        yield "unread requests", lambda: greedy.unread_posts(app().url)
        yield "greedy clients", lambda: greedy.greedy_clients(app().url)
        yield "arguments", lambda: arguments.api_arguments(app(), every=10 if short else 1)
        yield "forms of many files", lambda: disk.many_files(app(), 2 if short else 10)
        yield "one address", lambda: ends.one_address(app())
        yield "broken uploads", lambda: disk.broken_uploads(app())
        yield "soak", lambda: memory.predictions(app(), 100 if short else 1000)
        yield "second signal", lambda: ends.second_signal(app())
    with when_needed(limits="ulimit -n 256") as app:
        yield "idle connections", lambda: ends.connections(app())
    with small_disk() as folder:
        if folder is not None:
            with when_needed(disk=folder) as app:
                yield "a visitor's flood", lambda: disk.flood(app(), 300 * 2**20 - 200e6)
                yield "full disk", lambda: disk.full_disk(app())
    yield "signals", ends.signals
    yield "mistakes", partial(ends.mistakes, 4 if short else 1)
    yield "kills", partial(kills.one_process, 3 if short else 20)
    yield "kills, slow disk", partial(kills.one_process, 1 if short else 5, 2, slow=0.1)
    yield "kills, two processes", partial(kills.two_processes, 1 if short else 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer of each")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="attacks whose names hold one of these words")
    options = parser.parse_args()
    print(f"{'attack':22} {'tried':>6} {'handled':>8} {'failed':>7} {'minutes':>8}  measured")
    failed = 0
    for name, attack in attacks(options.short):
        if options.only and not any(word in name for word in options.only):
            continue
        since = time.monotonic()
        outcome = attack()
        failed += len(outcome.failures)
        counts = (
            f"{outcome.tried:6} {outcome.handled:8} {len(outcome.failures):7} {(time.monotonic() - since) / 60:8.1f}"
        )
        print(f"{name:22} {counts}  {outcome.figure}", flush=True)
        for failure in outcome.failures[:10]:
            print(f"    {failure}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
