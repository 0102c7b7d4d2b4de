"""Batches prepared in the background while the one before trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


class Prefetcher:
    """Calls `load` for the next batch in one background thread; a batch is the same with and without it.

    load: number of a batch -> tuple of tensors (or None). stride: from the number of one batch to that of the next.
    An error in `load` is raised by the call that asks for that batch. As a context manager it ends the thread.
    """

    def __init__(self, load: Callable[[int], Any], stride: int, device: torch.device) -> None:
        self.load, self.stride, self.device = load, stride, device
        self.next_number, self.next_batch = -1, Future()
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.shutdown(cancel_futures=True)

    def __call__(self, number: int) -> Any:
        """The batch of this number, on the device; begins to prepare the next one."""
        batch = self.next_batch if number == self.next_number else self.thread.submit(self._prepare, number)
        self.next_number = number + self.stride
        self.next_batch = self.thread.submit(self._prepare, self.next_number)
        return batch.result()

    def _prepare(self, number: int) -> Any:
        return to_device(self.load(number), self.device)


def to_device(batch: Any, device: torch.device) -> Any:
    """A tuple of tensors (or None) on the device; from the CPU to CUDA through pinned memory."""

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.device == device:
            return value
        if device.type == "cuda" and value.device.type == "cpu":
            value = value.pin_memory()
        return value.to(device, non_blocking=True)

    return tuple(map(move, batch))
