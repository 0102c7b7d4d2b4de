"""How fast training could be: operations of a clip, and what the device reaches on a product of large matrices."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stt.api import Batch, Model

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}


class FlopCounter(TorchDispatchMode):
    """Counts the multiplications and additions of matrix products and convolutions.

    Differs from torch's FlopCounterMode, which counts the gradient of a depthwise convolution as that of a dense one
    and fails on parts without gradients.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            gradient, weight, needs_gradient = args[0], args[2], args[-1]  # the last: of input, weight and bias
            self.total += convolution_flops(gradient, weight) * sum(needs_gradient[:2])
        elif func._overloadpacket is torch.ops.aten.convolution:
            self.total += convolution_flops(out, args[1])
        elif (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def convolution_flops(out: Tensor, weight: Tensor) -> int:
    """Operations of a convolution from its output (B, C, ...) and weight (C, C_in / groups, ...)."""
    return 2 * out.numel() * weight[0].numel()


def flops_per_clip(model: Model, batch: Batch, steps: int = 4) -> float:
    """Floating-point operations that a training step spends on one clip: the loss and its gradients.

    Counts matrix products, convolutions and attention, nothing else. The mean over some steps, since a loss may choose
    at random what it computes. The model and the random state stay as they are.
    """
    model = copy.deepcopy(model).train()
    cuda = [batch.video.device] if batch.video.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), sdpa_kernel(SDPBackend.MATH), FlopCounter() as counter:
        for step in range(steps):
            torch.manual_seed(step)
            model.begin_step(step)
            model.loss(batch).total.backward()
    return counter.total / steps / len(batch)


def peak_flops(device: torch.device, precision: str, seconds: float = 0.3) -> float:
    """Operations a second of this process on its fastest product of two large matrices, in a precision of DTYPES.

    Measured, so that it holds for any device and number of threads. A data sheet promises more.
    """
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        begin = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * side**3 / best
