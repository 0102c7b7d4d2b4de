"""Predictions and losses on a GPU that is not there: tensors without data show what stays on the CPU and what waits.

Operations check devices and shapes and compute nothing (torch's FakeTensorMode), so no CUDA is needed. What needs the
data of a tensor on the GPU, such as its value in an `if`, is an error: there the program would wait for the GPU.
Gradients need torch's CUDA build, so losses go forward only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode, resolve_name

from stt.api import Batch, HasLikelihood, Predictor, Sampling
from stt.region_tokens import RegionState
from tests.conftest import TINY_CONFIGS, batch_of, built, clips

pytestmark = pytest.mark.fakecuda
COPIES = {"cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__"}  # from the GPU: the program waits
WAITS = {"transframer", "transframer, colour", "transframer, maps"}  # a frame ends where all futures have drawn an end
WAITS |= {"layered", "layered, steered"}  # a prompt's pixels become objects one after the other


class CUDA(TorchFunctionMode):
    """Raises RuntimeError for what waits for the GPU, and copies to it, which torch's CPU build cannot even pretend."""

    def __torch_function__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = (resolve_name(function) or "").rpartition(".")[2], kwargs or {}
        on_gpu = bool(args) and isinstance(args[0], Tensor) and args[0].device.type == "cuda"
        if name in COPIES and on_gpu:
            raise RuntimeError(f"{name} waits for the GPU")
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            raise RuntimeError("torch.tensor waits until the GPU has its numbers")
        if name == "to":
            target = [getattr(a, "device", a) for a in (*args[1:], *kwargs.values())]
            target = [torch.device(a) for a in target if isinstance(a, str | torch.device)] or [args[0].device]
            dtypes = [getattr(a, "dtype", a) for a in (*args[1:], *kwargs.values())]
            dtypes = [a for a in dtypes if isinstance(a, torch.dtype)] or [args[0].dtype]
            if on_gpu and target[0].type == "cpu":
                raise RuntimeError("to waits for the GPU")
            if target[0].type == "cuda":
                return torch.empty_like(args[0], device="cuda", dtype=dtypes[0])
        if name == "__getitem__" and on_gpu:
            index = [a.to("meta") if isinstance(a, Tensor) else a for a in flat_index(args[1])]
            picked = torch.empty_like(args[0], device="meta")[*index]
            return torch.empty(picked.shape, dtype=picked.dtype, device="cuda")
        if name == "__invert__" and on_gpu:
            return torch.bitwise_not(args[0])
        if name == "__setitem__" and on_gpu:
            return None
        if name in ("grid_sample", "grid_sampler"):  # has no shape function without a device
            assert args[0].device == args[1].device
            return args[0].new_empty(*args[0].shape[:2], *args[1].shape[1:3])
        return function(*args, **kwargs)


def flat_index(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


REGIONS = {name for name, config in TINY_CONFIGS.items() if getattr(config, "regions", 0)}  # the CPU finds them


class FakeNoise:
    futures = 2

    def normal(self, *shape: int) -> Tensor:
        return torch.empty(self.futures, *shape, device="cuda")

    gumbel = normal


def on_cuda(x: Any) -> Any:
    return torch.empty(x.shape, dtype=x.dtype, device="cuda") if isinstance(x, Tensor) else x


def cuda_model(name: str) -> Predictor:
    model = built(TINY_CONFIGS[name]).requires_grad_(False)
    with FakeTensorMode() as model.mode:
        for module in model.modules():
            for key, p in module._parameters.items():
                module._parameters[key] = p if p is None else nn.Parameter(on_cuda(p), requires_grad=False)
            for key, buffer in module._buffers.items():
                module._buffers[key] = on_cuda(buffer)
    return model


@pytest.mark.parametrize("name", sorted(TINY_CONFIGS.keys() - WAITS))
def test_a_step_stays_on_the_gpu_and_never_waits(name):
    found = built(TINY_CONFIGS[name]).eval()
    found = found.start(clips(found, 1, 4)) if name in REGIONS else None
    model = cuda_model(name).eval()
    with model.mode, torch.no_grad(), CUDA():
        context = on_cuda(clips(model, 1, 4))
        if getattr(model.config, "optical_flow", False):  # is computed on the CPU, once a prompt
            model.tokens.motion_of = lambda video: video.new_empty(*video.shape[:2], 2, *video.shape[3:])
        state = RegionState(*(on_cuda(part) for part in found)) if name in REGIONS else model.start(context)
        for _ in range(2):
            frames, state = model.step(state, Sampling(), FakeNoise())
        assert frames.device.type == "cuda" and frames.shape[0] == FakeNoise.futures


@pytest.mark.parametrize("name", sorted(TINY_CONFIGS.keys() - REGIONS))
def test_a_loss_stays_on_the_gpu_and_never_waits(name):
    model = cuda_model(name).train()
    batch = model.prepare(batch_of(model, clips(model, 2, 9 if "gpt" in name else 6)))
    with model.mode, torch.no_grad(), CUDA():
        batch = Batch(**{field.name: on_cuda(getattr(batch, field.name)) for field in fields(Batch)})
        for step in range(2):
            model.begin_step(step)
            loss = model.loss(batch)
            assert loss.total.device.type == "cuda" and loss.total.ndim == 0


@pytest.mark.parametrize("name", sorted(TINY_CONFIGS.keys() - REGIONS))
def test_a_surprise_stays_on_the_gpu(name):
    model = cuda_model(name).eval()
    if isinstance(model, HasLikelihood):
        with model.mode, torch.no_grad(), CUDA():
            if getattr(model.config, "optical_flow", False):
                model.tokens.motion_of = lambda video: video.new_empty(*video.shape[:2], 2, *video.shape[3:])
            surprise = type(model).surprise.__wrapped__(model, on_cuda(clips(model, 1, 6)))
            assert surprise.bits.device.type == surprise.per_cell.device.type == "cuda"
