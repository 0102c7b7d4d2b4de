"""Measures the stages of a prediction and of a training step in one process; `train.benchmark` runs it.

    python -P train/stages.py MODEL CLIP --futures 4 --frames 10

It reads lines from its standard input: each one asks for a round, in which every stage runs once. It answers each with
a line of JSON on its standard output; the first answer is of an untimed round and has what does not change between
rounds. The `stt` and `train` on PYTHONPATH are measured, so two processes compare two checkouts.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import stt
from stt.api import Batch, Predictor, Sampling
from stt.encode import write_mp4
from stt.sampler import SeededNoise
from stt.side_by_side import SideBySide
from stt.sprites import MAX_SPRITES
from stt.video import read_clip, to_uint8
from train.optim import MuonAdamW, parameter_groups
from train.throughput import FlopCounter

CONTEXT = 5  # frames of the prompt
CLIPS, CLIP_FRAMES = 2, 6  # of a training batch
COPY_BYTES = 2**28


class Stages:
    """The stages of one model on one device; `clock` returns seconds, after all work on the device is done."""

    def __init__(self, model: Predictor, clip: Path, futures: int, frames: int, clock: Callable[[], float]) -> None:
        self.model, self.clip, self.futures, self.frames, self.clock = model, clip, futures, frames, clock
        self.device = next(model.parameters()).device
        self.optimizer = MuonAdamW(parameter_groups(model, muon=False, weight_decay=0.01), lr=0.0, fused=True)
        self.batch = training_batch(model, self.decoded()).to(self.device)
        self.flops: dict[str, float] = {}
        self.memory = 0.0  # megabytes, of a prediction

    def decoded(self) -> Tensor:
        """The clip (T, C, H, W) as the model reads it, on the CPU."""
        c = self.model.config
        fit = {"fit": "whole"} if self.model.whole_frames else {}
        return read_clip(self.clip, size=c.image_size, channels=c.channels, **fit).video

    def round(self, *, count: bool = False) -> dict[str, float]:
        """Seconds of each stage; per frame of all futures for `step`, `draw` and `mp4`, whole otherwise.

        count: counts operations instead, for `flops`; the seconds then mean nothing.
        """
        seconds: dict[str, float] = {}

        def timed(name: str, function: Callable[[], Any]) -> Any:
            begin = self.clock()
            if count:
                with FlopCounter() as counter:
                    result = function()
                self.flops[name] = counter.total
            else:
                result = function()
            seconds[name] = self.clock() - begin
            return result

        video = timed("decode", self.decoded)
        context = video[:CONTEXT].to(self.device)
        with torch.no_grad() if count else torch.inference_mode():  # the latter hides operations from the counter
            frames = self.predict(context, timed, seconds)
        if count:
            self.memory = memory(self.device)
        pictures = timed("draw", lambda: self.draw(context, frames))
        with tempfile.TemporaryDirectory() as folder:
            timed("mp4", lambda: write_mp4(Path(folder) / "clip.mp4", pictures, fps=10))
        self.train(timed)
        return seconds

    def predict(self, context: Tensor, timed: Callable, seconds: dict[str, float]) -> Tensor:
        """Frames (F, T, C, H, W). Adds the seconds and operations of a mean step, and of the last ones."""
        noise, sampling = SeededNoise(range(self.futures), self.device), Sampling()
        state = timed("prompt", lambda: self.model.start(context[None]))
        chunks, steps = [], range(-(-self.frames // self.model.config.chunk_frames))
        for k in steps:
            chunk, state = timed(f"step {k}", lambda state=state: self.model.step(state, sampling, noise))
            chunks.append(chunk)
        each = [seconds.pop(f"step {k}") / self.model.config.chunk_frames for k in steps]
        seconds["step"], seconds["step 1"], seconds["step n"] = float(np.median(each)), each[0], each[-1]
        if self.flops:
            counts = [self.flops.pop(f"step {k}", 0.0) / self.model.config.chunk_frames for k in steps]
            self.flops |= {"step": sum(counts) / len(counts)} if any(counts) else {}
        return torch.cat(chunks, dim=1)[:, : self.frames]

    def draw(self, context: Tensor, frames: Tensor) -> np.ndarray:
        """Pictures (T, H, W, 3) of the clip and its futures side by side."""
        clip, futures = to_uint8(context.cpu()), [to_uint8(future.cpu()) for future in frames]
        names = tuple(f"seed {k}" for k in range(self.futures))
        layout = SideBySide(clip.shape[1:3], names, len(clip), frames.shape[1])
        before = [layout.draw(frame, [frame] * self.futures, t) for t, frame in enumerate(clip)]
        after = [layout.draw(clip[-1], [*each], len(clip) + t) for t, each in enumerate(zip(*futures, strict=True))]
        return np.stack(before + after)

    def train(self, timed: Callable) -> None:
        """Loss, backward pass and optimizer of a training step; the learning rate is 0, so the weights stay."""
        torch.manual_seed(0)
        self.model.train()
        loss = timed("loss", lambda: self.model.loss(self.batch).total)
        timed("backward", loss.backward)
        timed("optimizer", self.optimizer.step)
        self.optimizer.zero_grad()
        self.model.eval()


def training_batch(model: Predictor, clip: Tensor) -> Batch:
    """Clips (B, T, C, H, W) with whatever a family's loss reads: actions of 0, and two sprites that go down."""
    chunk = model.config.chunk_frames
    frames = -(-max(CLIP_FRAMES, chunk + 1) // 2) * 2 + (model.family == "videogpt")
    longer = clip.repeat(-(-frames // len(clip)), 1, 1, 1)[:frames]
    video = longer.expand(CLIPS, *longer.shape).contiguous()
    actions = torch.zeros(CLIPS, frames, len(model.config.actions)) if model.config.actions else None
    if model.family != "layered":
        return Batch(video, actions)
    height, width = video.shape[-2:]
    segmentation = torch.zeros(CLIPS, frames, height, width, dtype=torch.int64)
    segmentation[..., : height // 4, : width // 4], segmentation[..., height // 2 :, width // 2 :] = 1, 2
    poses = torch.zeros(CLIPS, frames, MAX_SPRITES, 4)
    poses[..., 0] = 0.5 * torch.arange(frames)[:, None]
    return Batch(video, actions, poses=poses[:, None] - poses[:, :, None], segmentation=segmentation)


def product_flops(clock: Callable[[], float], device: torch.device) -> float:
    """Operations a second of a product of large matrices in single precision."""
    side = 8192 if device.type == "cuda" else 1024
    a, best = torch.randn(side, side, device=device), float("inf")
    for _ in range(10):
        begin = clock()
        a @ a
        best = min(best, clock() - begin)
    return 2 * side**3 / best


def copy_bytes(clock: Callable[[], float], device: torch.device) -> float:
    """Bytes a second that the device reads and writes as it copies a large tensor."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(5):
        begin = clock()
        target.copy_(source)
        best = min(best, clock() - begin)
    return 2 * COPY_BYTES / best


def now(device: torch.device, *, cpu_time: bool = False) -> float:
    """Seconds; cpu_time: of the processor, in this process and the programs that it waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if not cpu_time:
        return time.perf_counter()
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def memory(device: torch.device) -> float:
    """Most megabytes so far: of the process, or of the tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--futures", type=int, required=True)
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    empty = memory(device)
    clock = partial(now, device, cpu_time=args.cpu_time)
    stages = Stages(stt.load(args.model, device), args.clip, args.futures, args.frames, clock)
    sys.stdin.readline()
    stages.round(count=True)
    first = {"memory": stages.memory, "memory_training": memory(device), "memory_empty": empty, "flops": stages.flops}
    first |= {"peak_flops": product_flops(clock, device), "copy_bytes": copy_bytes(clock, device)}
    print(json.dumps(first), flush=True)
    for _ in sys.stdin:
        print(json.dumps(stages.round()), flush=True)


if __name__ == "__main__":
    main()
