"""A Space whose GPU is lent for one function at a time, played by a stand-in for its package."""

from __future__ import annotations

import pickle
import sys
import types

import torch

from stt.api import Condition, Sampling, Surprise
from stt.prediction import Job, compute
from stt.ui.zero_gpu import MAX_SECONDS, seconds, zero_gpu_compute
from tests.conftest import clips


def job_of(context: torch.Tensor, frames: int, seeds: tuple[int, ...]) -> Job:
    nothing = context[:0]
    return Job(context, nothing, nothing, frames, Sampling(), Condition(), seeds)


def lending(durations: list[float]) -> types.ModuleType:
    """Like the real one, sends what goes in and comes out through pickle, since the work is another process."""

    def gpu(duration):
        def decorate(work):
            def lent(*arguments):
                arguments = pickle.loads(pickle.dumps(arguments))
                durations.append(duration(*arguments))
                yield from (pickle.loads(pickle.dumps(event)) for event in work(*arguments))

            return lent

        return decorate

    module = types.ModuleType("spaces")
    module.GPU = gpu
    return module


def test_a_lent_gpu_gives_the_same_frames_in_a_short_time(tiny, monkeypatch):
    durations = []
    monkeypatch.setitem(sys.modules, "spaces", lending(durations))
    video = clips(tiny, 1, frames=6)[0]
    job = job_of(video[:4], 3, (7, 8))._replace(truth=video[4:])
    lent, plain = list(zero_gpu_compute({"tiny": tiny})(tiny, job)), list(compute(tiny, job))
    assert len(lent) == 4 and isinstance(lent[-1], Surprise)
    for one, two in zip(lent, plain, strict=True):
        torch.testing.assert_close(one, two)
    assert len(durations) == 1 and 10 <= durations[0] < 20


def test_longer_requests_ask_for_more_up_to_a_limit():
    seeds = tuple(range(8))
    durations = [seconds("tiny", job_of(torch.zeros(5, 1, 64, 64), frames, seeds)) for frames in (1, 10, 40)]
    assert durations == sorted(set(durations))
    assert seconds("tiny", job_of(torch.zeros(5, 3, 256, 256), 40, seeds)) == MAX_SECONDS


def test_elsewhere_nothing_is_lent(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", None)  # importing it fails
    assert zero_gpu_compute({"tiny": tiny}) is compute
