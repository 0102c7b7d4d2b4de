"""Files of models with mutated headers: each loads or is refused with one sentence, at once, without memory for it."""

from __future__ import annotations

import copy
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stt.api import Predictor
from stt.checkpoint import load_any, save
from stt.model_card import facts, model_card, provenance
from tests.attack.outcome import Outcome
from tests.conftest import TINY_CONFIGS, built

SECONDS = 2.0  # of a processor, for one file
MEGABYTES = 500.0
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 8, 64, 255, 4096, 65536, 65537, 10**9, 2**63, 10**400, 0.5, 1e308, -1e-308,
    "", "x", "\u202e\0", [], {}, [0], [[]], [1, 2, 4], [8] * 5000, {"a": 1}, [None], "64", [65536, 65536], "x" * 10_000,
)  # fmt: skip
CARD = {
    "preset": "digits/stt", "command": "python -m train.predictor", "steps": 3, "minutes": 1.5, "clips": 6,
    "world": {"kind": "digits", "fps": 10.0, "stride": 1}, "tokenizer": {"command": "python -m train.tokenizer"},
    "scores": {
        "surprise": {"frame_p99": 0.2, "protocol": "x"},
        "moving_mnist": {"per_horizon": {"mse": [1.0, None], "mse copy": [2.0, 3.0]}, "mean": {"mse": 1.0}},
    },
}  # fmt: skip


def seeds(folder: Path) -> list[Path]:
    """A file for each family."""
    files = []
    for k, (name, config) in enumerate(TINY_CONFIGS.items()):
        files.append(folder / f"seed-{k}.safetensors")
        save(built(config), files[-1], card=CARD | {"preset": name})
    return files


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all items of nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*above, key)
        yield from places(item, (*above, key))


def mutate(value: Any, chance: random.Random) -> Any:
    """A copy with one to three items replaced, removed, renamed, doubled or nested."""
    value = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if not (paths := list(places(value))):
            return chance.choice(ODD)
        *above, key = chance.choice(paths)
        parent = value
        for step in above:
            parent = parent[step]
        how = chance.choice("rrrrrrdnkwl")
        if how == "r":
            parent[key] = copy.deepcopy(chance.choice(ODD))
        elif how == "d" or (how == "k" and isinstance(parent, list)):
            del parent[key]
        elif how == "k":
            parent[chance.choice(("x", "dim", "depth", "", "__metadata__"))] = parent.pop(key)
        elif how == "n":
            for _ in range(chance.choice((1, 90, 101))):
                parent[key] = [parent[key]]
        elif how == "w" and isinstance(parent[key], int | float):
            parent[key] = parent[key] * chance.choice((-1, 2, 0.5, 1000, 10**6))
        elif isinstance(parent[key], list):
            parent[key] = parent[key] * chance.choice((2, 100))
    return value


def mutant(data: bytes, chance: random.Random) -> bytes:
    """A file with another header, or with wrong bytes."""
    size = int.from_bytes(data[:8], "little")
    if chance.random() < 0.15:
        wrong = bytearray(data[: chance.choice((len(data), len(data), size + 8, 7, chance.randrange(len(data))))])
        for _ in range(chance.randint(0, 8)):
            if wrong:
                wrong[chance.randrange(min(len(wrong), size + 8))] = chance.randrange(256)
        return bytes(wrong)
    header = json.loads(data[8 : 8 + size])
    meta = header["__metadata__"]
    part = chance.choice(("config", "config", "config", "config", "card", "card", "tensors", "meta"))
    if part in meta:
        meta[part] = text(mutate(json.loads(meta[part]), chance), chance)
    elif part == "meta":
        header["__metadata__"] = mutate(meta, chance)
    else:
        header = (
            mutate({k: v for k, v in header.items() if k != "__metadata__"}, chance) | {"__metadata__": meta}
            if chance.random() < 0.5
            else mutate(header, chance)
        )
    raw = text(header, chance).encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(8, "little") + raw + data[8 + size :]


def text(value: Any, chance: random.Random) -> str:
    """JSON, now and then of another kind."""
    written = json.dumps(value)
    deep = written.replace("1", "[" * 100_000 + "]" * 100_000, 1)
    long = written.replace("1", "9" * 5000, 1)
    return chance.choice((*[written] * 20, written[:-1], written.replace("1", "NaN", 1), deep, long))


def mutated_headers(count: int = 2000, seed: int = 0) -> Outcome:
    """Loads so many mutants, and says of those that load what they are."""
    outcome, chance, slowest, largest, loaded = Outcome(), random.Random(seed), 0.0, 0.0, 0
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        originals = [path.read_bytes() for path in seeds(Path(folder))]
        path = Path(folder) / "mutant.safetensors"
        for k in range(count):
            path.write_bytes(mutant(chance.choice(originals), chance))
            before, begun = peak(), time.process_time()
            failure = ""
            try:
                load_and_describe(path)
                loaded += 1
            except (ValueError, OSError) as error:
                if "\n" in str(error) or len(str(error)) > 600 or "allocate" in str(error):
                    failure = f"says {str(error)[:200]!r}"
            except BaseException as error:
                failure = f"raises {type(error).__name__}: {str(error)[:100]}"
            seconds, grown = time.process_time() - begun, peak() - before
            slowest, largest = max(slowest, seconds), max(largest, grown)
            if seconds > SECONDS or grown > MEGABYTES:
                failure = failure or f"takes {seconds:.1f} s and {grown:.0f} MB"
            outcome.check(not failure, f"mutant {k} of seed {seed}: {failure}")
    outcome.figure = f"{loaded} load; the slowest takes {slowest:.2f} s, the largest {largest:.0f} MB"
    return outcome


def load_and_describe(path: Path) -> None:
    model = load_any(path)
    provenance(model.card)
    if isinstance(model, Predictor):
        facts(model)
        model_card({"card": dict(model.card)}, model, "owner/name")


def peak() -> float:
    """The most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
