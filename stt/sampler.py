"""Sampling of futures: functions over any predictor, with one stream of noise per future."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from stt.api import MAX_SEED, Condition, Interpolates, Predictor, Sampling, Video


def checked_seed(seed: int) -> int:
    """The seed as an int, of any integer type but bool; raises ValueError unless it lies in 0 ... 2^31-1."""
    whole = isinstance(seed, SupportsIndex) and not isinstance(seed, bool)
    if not (whole and 0 <= operator.index(seed) <= MAX_SEED):
        raise ValueError(f"seed is {seed!r}, must be a whole number from 0 to {MAX_SEED}")
    return operator.index(seed)


def checked_frames(frames: int) -> int:
    """The number of frames as an int, of any integer type but bool; raises ValueError below 1."""
    if not isinstance(frames, SupportsIndex) or isinstance(frames, bool):
        raise ValueError(f"frames is {frames!r}, must be a whole number")
    if operator.index(frames) < 1:
        raise ValueError(f"frames is {frames}, must be at least 1")
    return operator.index(frames)


class SeededNoise:
    """One CPU generator per future, so that future k depends on seed k alone.

    Neither the number of futures in the batch nor the device changes what a future receives.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        if len(seeds) == 0:
            raise ValueError("seeds is empty, at least one is needed")
        self.device = device
        self.generators = [torch.Generator().manual_seed(checked_seed(seed)) for seed in seeds]

    @property
    def futures(self) -> int:
        return len(self.generators)

    def copy(self) -> SeededNoise:
        """Draws what this one would draw next."""
        other = copy.copy(self)
        other.generators = [generator.clone_state() for generator in self.generators]
        return other

    def normal(self, *shape: int) -> Tensor:
        draws = [torch.randn(shape, generator=g) for g in self.generators]
        return torch.stack(draws).to(self.device, non_blocking=True)

    def gumbel(self, *shape: int) -> Tensor:
        draws = [torch.rand(shape, generator=g) for g in self.generators]
        uniform = torch.stack(draws).clamp(1e-9, 1 - 1e-7)
        return (-torch.log(-torch.log(uniform))).to(self.device, non_blocking=True)


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Sets all but the `top_k` likeliest and the `top_p` nucleus (arXiv 1904.09751) to -inf. (..., K)."""
    if 0 < top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p < 1:
        ranked, order = logits.sort(dim=-1, descending=True)
        probs = ranked.softmax(dim=-1)
        before = probs.cumsum(dim=-1) - probs  # mass ahead of each code; the first is always kept
        drop = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


def sample_logits(logits: Tensor, sampling: Sampling, gumbel: Tensor) -> Tensor:
    """Draws one index from (..., K) logits by the Gumbel-max trick; returns (...) int64.

    Temperature divides the *logits*; at temperature 0 it is the argmax and `gumbel` is ignored.
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    logits = filter_logits(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    return (logits + gumbel).argmax(dim=-1)


def checked_clip(clip: Any) -> Tensor:
    """A clip (T, C, H, W) of floats, a tensor or a NumPy array, as it is on the CPU or elsewhere.

    Raises ValueError for whole numbers and for other axes. Warns where the values look like [0, 1].
    """
    try:
        clip = torch.as_tensor(clip)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"context is a {type(clip).__name__}, must be a tensor or an array of floats") from error
    if not clip.is_floating_point():
        raise ValueError(f"context is {clip.dtype}, must be floats in [-1, 1]: bytes become them by x / 127.5 - 1")
    if clip.ndim != 4:
        raise ValueError(f"context has {clip.ndim} axes, must be (T, C, H, W)")
    if clip.numel():
        low, high = (float(v) for v in clip.aminmax())
        if 0 <= low < high <= 1:
            warnings.warn(
                f"context values go from {low:.3f} to {high:.3f}, which looks like [0, 1]; the model takes [-1, 1], "
                "where 0 is middle gray: scale by 2 * x - 1, unless it is that bright",
                stacklevel=3,
            )
    return clip


def fit_context(model: Predictor, context: Video) -> Video:
    """Checks a prompt (B, T, C, H, W) and the model's precision, and keeps its last `context_frames` frames."""
    c = model.config
    if wrong := next((p.dtype for p in model.parameters() if p.dtype != torch.float32), None):
        raise ValueError(f"the model's weights are {wrong}, it predicts in torch.float32: call model.float()")
    if context.ndim != 5:
        raise ValueError(f"context has {context.ndim} axes, must be (B, T, C, H, W)")
    size = (c.channels, *(context.shape[3:] if model.whole_frames else 2 * [c.image_size]))
    if tuple(context.shape[2:]) != size or 0 in size:
        raise ValueError(f"context frames are {tuple(context.shape[2:])}, the model takes {size}")
    if context.shape[1] < 1:
        raise ValueError("context has 0 frames, at least 1 is needed")
    if not context.isfinite().all():
        raise ValueError("context values must be finite and lie in [-1, 1]: some are NaN or infinite")
    if context.abs().max() > 1.001:
        low, high = context.aminmax()
        raise ValueError(f"context values must be finite and lie in [-1, 1], they go from {low:g} to {high:g}")
    return context[:, -c.context_frames :]


def check_condition(model: Predictor, condition: Condition) -> None:
    """Raises ValueError for labels or actions that the model does not take."""
    for name in ("labels", "actions"):
        if getattr(condition, name) and name not in model.knobs:
            raise ValueError(f"{name} are given, a model of family {model.family} like this one takes none")
    width = len(model.config.actions)
    if condition.actions and len(condition.actions[0]) != width:
        raise ValueError(f"an action has {len(condition.actions[0])} numbers, the model takes {width}")


def rollout(
    model: Predictor,
    context: Tensor,
    frames: int,
    sampling: Sampling | None = None,
    seeds: Sequence[int] = (0,),
    condition: Condition | None = None,
) -> Iterator[Tensor]:
    """Continues one clip (T, C, H, W) in [-1, 1]; yields `frames` tensors (len(seeds), C, H, W).

    The clip is a tensor or a NumPy array of floats. The prompt is encoded once and shared; every yielded tensor is one
    time step of all futures. Raises ValueError at the call, not at the first frame; warns of a clip in [0, 1].
    """
    frames, context = checked_frames(frames), checked_clip(context)
    device = next(model.parameters()).device
    noise, condition = SeededNoise(seeds, device), condition or Condition()
    check_condition(model, condition)
    context = fit_context(model, context.to(device, torch.float32)[None])
    return _rollout(model, context, frames, sampling or Sampling(), noise, condition)


@torch.inference_mode()
def _rollout(
    model: Predictor, context: Tensor, frames: int, sampling: Sampling, noise: SeededNoise, condition: Condition
) -> Iterator[Tensor]:
    state = model.start(context, condition)
    done = 0
    while done < frames:
        chunk, state = model.step(state, sampling, noise)
        for t in range(min(chunk.shape[1], frames - done)):
            yield chunk[:, t].clamp(-1, 1)
            done += 1


def predict(
    model: Predictor,
    context: Tensor,
    frames: int,
    sampling: Sampling | None = None,
    seeds: Sequence[int] = (0,),
    condition: Condition | None = None,
) -> Video:
    """All of `rollout` at once: (len(seeds), frames, C, H, W)."""
    return torch.stack(list(rollout(model, context, frames, sampling, seeds, condition)), dim=1)


def between(
    model: Predictor,
    before: Tensor,
    after: Tensor,
    frames: int,
    sampling: Sampling | None = None,
    seeds: Sequence[int] = (0,),
) -> Iterator[Tensor]:
    """Fills the gap between two clips (T1, C, H, W) and (T2, C, H, W); yields `frames` tensors (len(seeds), C, H, W).

    Frames are drawn from both ends inwards, so that each has a neighbour, and joins the context. They are yielded in
    the order of time. Raises ValueError at the call, also for a model that does not interpolate.
    """
    frames, clips = checked_frames(frames), (checked_clip(before), checked_clip(after))
    if not isinstance(model, Interpolates):
        raise ValueError(f"models of family {model.family} only continue clips, they fill no gaps")
    device = next(model.parameters()).device
    noise, count = SeededNoise(seeds, device), model.config.context_frames
    before, after = (
        fit_context(model, clip.to(device, torch.float32)[None]).expand(noise.futures, -1, -1, -1, -1)
        for clip in (clips[0], clips[1][:count])
    )
    return _between(model, before, after, frames, sampling or Sampling(), noise, count)


@torch.inference_mode()
def _between(
    model: Interpolates, before: Tensor, after: Tensor, frames: int, sampling: Sampling, noise: SeededNoise, count: int
) -> Iterator[Tensor]:
    done = {t - before.shape[1]: frame for t, frame in enumerate(before.unbind(dim=1))}  # (F, C, H, W) by time
    done |= {t + frames: frame for t, frame in enumerate(after.unbind(dim=1))}
    yielded = 0
    for target in inwards(frames):
        nearest = sorted(done, key=lambda t: abs(t - target))
        times = [t for side in (-1, 1) for t in [t for t in nearest if (t - target) * side > 0][:count]]
        context = torch.stack([done[t] for t in times], dim=1)
        offsets = torch.tensor(times) - target
        done[target] = model.frame(context, offsets, sampling, noise)[:, 0].clamp(-1, 1)
        while yielded < frames and yielded in done:
            yield done[yielded]
            yielded += 1


def inwards(frames: int) -> list[int]:
    """0 ... frames - 1 from both ends in turn."""
    return sorted(range(frames), key=lambda t: min(2 * t, 2 * (frames - 1 - t) + 1))
