"""How fast training could be: operations that a clip costs, and what the device reaches on a large matrix product."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from stt.api import Batch

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Operations(TorchDispatchMode):
    """Adds up the multiplications and additions of matrix products and convolutions.

    Differs from torch's FlopCounterMode, which takes the gradient of a depthwise convolution for a dense one's and
    fails on parts without gradients.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket is torch.ops.aten.convolution_backward:
            gradient, weight, wanted = args[0], args[2], args[-1]
            self.total += convolution(gradient, weight) * (wanted[0] + wanted[1])  # of the input, of the weight
        elif func._overloadpacket is torch.ops.aten.convolution:
            self.total += convolution(out, args[1])
        elif (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def convolution(out: Tensor, weight: Tensor) -> int:
    """Operations of a convolution from its output (B, C, ...) and weight (C, C_in / groups, ...)."""
    return 2 * out.numel() * weight[0].numel()


def flops_per_clip(model: nn.Module, batch: Batch, draws: int = 4) -> float:
    """Floating-point operations that a step spends on one clip: the loss and its gradients.

    Matrix products, convolutions and attention count, nothing else. A loss that chooses at random what to compute is
    averaged over `draws`. The model and the random state are left as they were.
    """
    model = copy.deepcopy(model).train()
    cuda = [batch.video.device] if batch.video.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), sdpa_kernel(SDPBackend.MATH), Operations() as operations:
        for seed in range(draws):
            torch.manual_seed(seed)
            model.loss(batch).total.backward()
    return operations.total / draws / len(batch)


def peak_flops(device: torch.device, precision: str, seconds: float = 0.5) -> float:
    """Operations a second that this process reaches on its best product of two large matrices.

    Measured, so that it holds for any device and number of threads; a data sheet promises more.
    """
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=DTYPES[precision])
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        begun = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best
