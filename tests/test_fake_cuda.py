"""Predictions and losses on a GPU that is not there: tensors without data show what stays on the CPU and what waits.

Operations check devices and shapes and compute nothing (torch's FakeTensorMode), so no CUDA is needed. What needs the
data of a tensor on the GPU, such as its value in an `if`, is an error: there the program would wait for the GPU.
"""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode, resolve_name

from stt.api import Batch, HasLikelihood, Sampling
from tests.conftest import TINY_CONFIGS, batch_of, built, clips

pytestmark = pytest.mark.fakecuda
COPIES = {"cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__"}  # from the GPU: the program waits


class NoWaits(TorchFunctionMode):
    """RuntimeError for what copies between the GPU and Python's objects."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = (resolve_name(function) or "").rpartition(".")[2], kwargs or {}
        on_gpu = bool(args) and isinstance(args[0], torch.Tensor) and args[0].device.type == "cuda"
        if name in COPIES and on_gpu:
            raise RuntimeError(f"{name} waits for the GPU")
        if function in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type == "cuda":
            raise RuntimeError("torch.tensor waits until the GPU has its numbers")
        return function(*args, **kwargs)


class FakeNoise:
    """Noise of one future, on the GPU at once."""

    futures = 2

    def normal(self, *shape):
        return torch.empty(self.futures, *shape, device="cuda")

    gumbel = normal


def to_cuda(value):
    return value.to("cuda") if isinstance(value, torch.Tensor) else value


def on_cuda(model: nn.Module) -> nn.Module:
    """Moves fake weights; `Module.to` would keep them on the CPU."""
    for module in model.modules():
        for name, p in module._parameters.items():
            module._parameters[name] = p if p is None else nn.Parameter(p.detach().to("cuda"), p.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = to_cuda(buffer)
    return model


@pytest.fixture(params=sorted(TINY_CONFIGS))
def model(request):
    with FakeTensorMode():
        yield on_cuda(built(TINY_CONFIGS[request.param]))


def test_a_step_needs_nothing_of_the_cpu_and_never_waits(model):
    model.eval()
    with torch.no_grad():
        state = model.start(clips(model, 1, 4).to("cuda"))
        for _ in range(2):
            with NoWaits():
                frames, state = model.step(state, Sampling(), FakeNoise())
            assert isinstance(frames, FakeTensor) and frames.device.type == "cuda"


def test_a_loss_and_its_gradients_need_nothing_of_the_cpu_and_never_wait(model):
    model.train()
    batch = model.prepare(batch_of(model, clips(model, 2, 6)))
    batch = Batch(**{field.name: to_cuda(getattr(batch, field.name)) for field in fields(Batch)})
    for step in range(2):
        model.begin_step(step)
        with NoWaits():
            loss = model.loss(batch)
            loss.total.backward()
        assert loss.total.device.type == "cuda" and loss.total.ndim == 0
    assert all(p.grad is None or p.grad.device.type == "cuda" for p in model.parameters())


def test_a_surprise_needs_nothing_of_the_cpu(model):
    if isinstance(model, HasLikelihood):
        surprise = model.eval().surprise(clips(model, 1, 6).to("cuda"))
        assert surprise.bits.device.type == surprise.per_cell.device.type == "cuda"
