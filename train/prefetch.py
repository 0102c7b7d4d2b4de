"""Batches prepared in the background while the one before trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from stt.api import Batch


class Prefetcher:
    """Calls `load` for the next batch in one background thread; a batch is the same with and without it.

    load: number of a batch -> batch. stride: from the number of one batch to that of the next.
    An error in `load` is raised by the call that asks for that batch. As a context manager it ends the thread.
    """

    def __init__(self, load: Callable[[int], Batch], stride: int, device: torch.device) -> None:
        self.load, self.stride, self.device = load, stride, device
        self.next_number, self.next_batch = -1, Future()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def __call__(self, number: int) -> Batch:
        """The batch of this number, on the device; begins to prepare the next one."""
        batch = self.next_batch if number == self.next_number else self.thread.submit(self._prepare, number)
        self.next_number = number + self.stride
        self.next_batch = self.thread.submit(self._prepare, self.next_number)
        return batch.result()

    def _prepare(self, number: int) -> Batch:
        return to_device(self.load(number), self.device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on the device; from the CPU to CUDA through pinned memory, so that nothing waits."""

    def move(part: Tensor | None) -> Tensor | None:
        if part is not None and device.type == "cuda" and part.device.type == "cpu":
            part = part.pin_memory()
        return None if part is None else part.to(device, non_blocking=True)

    return Batch(*map(move, vars(batch).values()))
