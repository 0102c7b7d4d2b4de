"""A Space whose GPU is lent for one function at a time, played by a stand-in for its package."""

from __future__ import annotations

import pickle
import sys
import types

import torch

from stt.api import Sampling, Surprise
from stt.prediction import compute
from stt.ui.zero_gpu import LONGEST, on_lent_gpu, seconds
from tests.conftest import clips


def lending(asked: list[float]) -> types.ModuleType:
    """Like the real one, sends what goes in and comes out through pickle, since the work is another process."""

    def gpu(duration):
        def decorate(work):
            def lent(*arguments):
                arguments = pickle.loads(pickle.dumps(arguments))
                asked.append(duration(*arguments))
                yield from (pickle.loads(pickle.dumps(event)) for event in work(*arguments))

            return lent

        return decorate

    module = types.ModuleType("spaces")
    module.GPU = gpu
    return module


def test_a_lent_gpu_gives_the_same_frames_and_is_asked_for_no_longer_than_needed(tiny, monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "spaces", lending(asked))
    video = clips(tiny, 1, frames=6)[0]
    work = (tiny, video[:4], video[4:], video[:0], 3, Sampling(), [7, 8])
    lent, plain = list(on_lent_gpu({"tiny": tiny})(*work)), list(compute(*work))
    assert len(lent) == 4 and isinstance(lent[-1], Surprise)
    for one, two in zip(lent, plain, strict=True):
        torch.testing.assert_close(one, two)
    assert len(asked) == 1 and 10 <= asked[0] < 20


def test_longer_requests_ask_for_more_up_to_a_limit():
    video = torch.zeros(5, 1, 64, 64)
    durations = [seconds("tiny", video, video, video, frames, Sampling(), range(8)) for frames in (1, 10, 40)]
    assert durations == sorted(set(durations))
    assert seconds("tiny", torch.zeros(5, 3, 256, 256), video, video, 40, Sampling(), range(8)) == LONGEST


def test_elsewhere_nothing_is_lent(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", None)  # importing it fails
    assert on_lent_gpu({"tiny": tiny}) is compute
