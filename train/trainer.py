"""The training loop that tokenizers and predictors share: one process or many, resumable exactly."""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from stt.api import Batch, Loss
from stt.checkpoint import FILE_NAME, save
from train import checkpoint
from train.logging import RunLog
from train.optim import MuonAdamW
from train.signals import Signals
from train.throughput import flops_per_clip, peak_flops

Batches = Callable[[int, int], Batch]  # (clips, index) -> a batch on the training device
Sheet = Callable[[nn.Module], np.ndarray]  # averaged model -> picture (H, W) or (H, W, 3) uint8
Score = Callable[[nn.Module], dict[str, float]]  # averaged model -> figures for the log


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long and how fast. The schedule ends at `steps` or after `minutes`, whichever is set."""

    minutes: float = 0.0  # wall time to train; 0 means by steps
    steps: int = 0  # optimizer steps to train; 0 means by minutes
    batch: int = 16  # clips at a time and process
    accumulate: int = 1  # batches a step and process, whose gradients are averaged
    lr: float = 1e-3
    warmup: float = 0.03  # fraction of the schedule
    final_lr: float = 0.02  # fraction of lr at the end
    weight_decay: float = 0.01
    clip: float = 1.0  # largest gradient norm
    muon: bool = False  # Muon instead of AdamW for weight matrices
    ema: float = 0.999  # decay of the averaged weights, which are what is saved
    seed: int = 0
    log_every: int = 20  # steps
    save_every: float = 5.0  # minutes
    sheet_every: float = 10.0  # minutes
    score_every: float = 5.0  # minutes
    compile: bool = False
    precision: str = "auto"  # "no", "bf16", or "auto": bf16 where the hardware multiplies it fast

    def __post_init__(self) -> None:
        if (self.minutes > 0) == (self.steps > 0):
            raise ValueError(f"set either minutes ({self.minutes}) or steps ({self.steps}), and not both")
        for name in ("batch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")

    def progress(self, step: int, elapsed: float) -> float:
        """Fraction of the schedule that is over, from optimizer steps and seconds."""
        return step / self.steps if self.steps else elapsed / (60 * self.minutes)

    def rate(self, progress: float) -> float:
        """Learning rate: linear warm-up, then half a cosine."""
        if progress < self.warmup:
            return self.lr * max(progress, 1e-3) / self.warmup
        along = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * along)))


class LossModule(nn.Module):
    """Gives `loss` the name that data-parallel wrappers call."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Loss:
        total, parts = self.model.loss(batch)
        if parts:  # new tensors: compiled, a loss that is also a part would come back detached as that is
            figures = torch.stack([part.detach().float() for part in parts.values()]).unbind()
            parts = dict(zip(parts, figures, strict=True))
        return Loss(total, parts)


def warmed_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor], None]:
    """Exponential moving average whose decay grows from 0 to `decay`, so that the first weights are soon forgotten."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        n = float(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def resolve_precision(precision: str, device: torch.device) -> str:
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16"
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if fast else "no"


def start_from(model: nn.Module, source: nn.Module) -> None:
    """Takes over the weights of a model that may lack parts, and prints what it lacks; SystemExit if it has others."""
    fresh, unknown = model.load_state_dict(source.state_dict(), strict=False)
    if unknown:
        raise SystemExit(f"the model to start from holds {unknown[0]!r}, which this preset lacks")
    for name in fresh:
        print(f"{name} begins anew")


def accelerator_for(precision: str, device: str | None) -> Accelerator:
    use_cpu = device == "cpu" or not torch.cuda.is_available()
    if device == "cuda" and use_cpu:
        raise SystemExit("--device cuda was asked for, but torch sees no CUDA device")
    kind = torch.device("cpu" if use_cpu else "cuda")
    threads = torch.get_num_threads()
    accelerator = Accelerator(cpu=use_cpu, mixed_precision=resolve_precision(precision, kind))
    if accelerator.num_processes == 1:
        torch.set_num_threads(threads)  # the library lowers it to the physical cores that it can see
    return accelerator


def as_process(main: Callable[[], object]) -> None:
    """Results a training command, then parts from its other processes, if any.

    Gloo's threads free the tensors of their last work a little later. Where Python ends meanwhile, that aborts a
    process that did all its work, so nothing may hold on to the group: its destructor waits for them. All leave
    together, with a SystemExit too; after another error, which may be one process's alone, others may wait for it.
    """
    leaving = None
    try:
        main()
    except SystemExit as error:
        leaving = error.with_traceback(None)  # whose frames hold the run
        leaving.__context__ = leaving.__cause__ = None
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # data-parallel wrappers hold the group, and lie in cycles
        torch.distributed.destroy_process_group()
    if leaving:
        raise leaving


class Trainer:
    """One training run: its folder, its state, its log."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        out: Path,
        accelerator: Accelerator,
        card: dict[str, Any],
        keep: Callable[[nn.Module], nn.Module] = lambda model: model,
    ) -> None:
        """keep: the part of what trains that is drawn and saved as a runnable model."""
        self.config, self.out, self.accelerator, self.card, self.keep = config, out, accelerator, card, keep
        self.raw = model.to(accelerator.device, memory_format=torch.channels_last)  # faster convolutions
        trainable = [p for p in model.parameters() if p.requires_grad]
        decay = {"weight_decay": config.weight_decay}
        groups = [
            {"params": [p for p in trainable if p.ndim == 2], "matrix": config.muon} | decay,
            {"params": [p for p in trainable if p.ndim > 2]} | decay,
            {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        ]
        fused = accelerator.device.type == "cuda"
        self.optimizer = MuonAdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=fused)
        self.average = AveragedModel(self.raw, multi_avg_fn=warmed_average(config.ema))
        module = LossModule(self.raw)
        self.module, self.optimizer = accelerator.prepare(module, self.optimizer)
        self.call = torch.compile(self.module) if config.compile else self.module
        self.step = self.clips = 0
        self.elapsed = 0.0
        self.saved = -1  # step of the newest checkpoint
        self.cost = self.peak = 0.0  # operations of a clip, and operations a second that all processes could do
        self.journal: RunLog | None = None  # the first process's

    @property
    def clips_a_step(self) -> int:
        return self.config.batch * self.config.accumulate * self.accelerator.num_processes

    @property
    def lr(self) -> float:
        return self.config.rate(self.config.progress(self.step, self.elapsed))

    @property
    def averaged(self) -> nn.Module:
        """The runnable model, with averaged weights."""
        return self.keep(self.average.module)

    def save(self) -> None:
        """Checkpoint to resume from, and the averaged weights as a runnable model.

        All processes call it, the first one writes. Raises on all of them: DiskFull, or FloatingPointError when weights
        are not finite.
        """
        if not all(bool(p.isfinite().all()) for p in self.raw.parameters()):
            raise FloatingPointError(f"weights are not finite after step {self.step}: they are not saved")
        failure = None
        if self.accelerator.is_main_process:
            try:
                self._write()
            except checkpoint.DiskFull as error:
                failure = error
        [failed] = self.largest(float(failure is not None))
        if failed:
            raise failure or checkpoint.DiskFull("the first process could not save")

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if self.saved != self.step:
            state = {
                "step": self.step,
                "clips": self.clips,
                "elapsed": self.elapsed,
                "model": self.raw.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            checkpoint.write(self.out, state)
            self.saved = self.step
        card = self.card | {"steps": self.step, "minutes": round(self.elapsed / 60, 1), "clips": self.clips}
        path = self.out / FILE_NAME
        with checkpoint.room_for(path, checkpoint.size_of(self.averaged.state_dict())):
            save(self.averaged, path, card=card)

    def resume(self) -> None:
        """Goes on from the newest valid checkpoint; from the beginning where none was written yet."""
        state = checkpoint.newest(self.out)
        if state is None:
            print(f"{self.out} holds no checkpoint yet: begins at step 0", file=sys.stderr)
        else:
            self.step, self.clips, self.elapsed = state["step"], state["clips"], state["elapsed"]
            self.saved = self.step
            self.raw.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])

    def largest(self, *values: float) -> list[float]:
        """Each value's largest over all processes, the same on all of them."""
        mine = torch.tensor([values], device=self.accelerator.device, dtype=torch.float64)
        return self.accelerator.gather(mine).amax(dim=0).tolist()

    def gauge(self, batches: Batches) -> None:
        """Measures what a clip costs and what the devices could do, so that the log can state their quotient."""
        self.cost = flops_per_clip(self.raw, batches(1, 0))
        self.peak = peak_flops(self.accelerator.device, self.accelerator.mixed_precision)
        self.peak *= self.accelerator.num_processes

    def train_step(self, batches: Batches) -> Loss:
        """One optimizer step; returns the mean loss of all its batches.

        Data and noise of a batch depend on the seed and its number alone. The numbers of a step's batches are the same
        for N processes as for one that accumulates N. Raises FloatingPointError on all processes, before the update,
        when a loss or a gradient is not finite on any.
        """
        c, acc = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        losses = []
        for part in range(c.accumulate):
            index = (self.step * c.accumulate + part) * acc.num_processes + acc.process_index
            batch = batches(c.batch, index)
            set_seed((c.seed * 1_000_003 + index) % 2**31)
            last = part == c.accumulate - 1
            with nullcontext() if last else acc.no_sync(self.module):
                with acc.autocast():
                    loss = self.call(batch)
                acc.backward(loss.total / c.accumulate)
            figures = (loss.total, *loss.parts.values())
            losses.append(torch.stack([torch.as_tensor(f, device=acc.device).detach().float() for f in figures]))
        norm = acc.clip_grad_norm_(self.module.parameters(), c.clip)
        mine = torch.cat([norm.detach().float().reshape(1), torch.stack(losses).mean(dim=0)])
        table = acc.gather(mine[None])  # (processes, figures)
        for process, (length, total) in enumerate(table[:, :2].tolist()):
            if not (math.isfinite(length) and math.isfinite(total)):
                raise FloatingPointError(
                    f"the loss is {total} and the gradient's norm {length} in process {process} at step {self.step}: "
                    "stopped before the update"
                )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.raw)
        self.step += 1
        self.clips += self.clips_a_step
        _, total, *parts = table.mean(dim=0)
        return Loss(total, dict(zip(loss.parts, parts, strict=True)))

    def log(self, figures: dict[str, float]) -> dict[str, float]:
        row = {"step": self.step, "clips": self.clips, "minutes": self.elapsed / 60} | figures
        row = {name: round(value, 6) for name, value in row.items()}
        if self.journal:
            self.journal.note(row)
        return row


def fit(run: Trainer, batches: Batches, sheet: Sheet | None = None, score: Score | None = None) -> None:
    """Trains until the schedule ends, saving, drawing and scoring as it goes.

    A SIGTERM or SIGINT to any process saves after the step and raises SystemExit with 143 or 130; a loss that is not
    finite or a full disk raises one with a message, and the checkpoints stay.
    """
    run.out.mkdir(parents=True, exist_ok=True)
    try:
        if run.accelerator.is_main_process:
            run.journal = RunLog(run.out, run.step)
        with Signals() as signals, bar_of(run) as bar:
            _fit(run, signals, bar, batches, sheet, score)
    except (FloatingPointError, checkpoint.DiskFull) as error:
        raise SystemExit(f"{run.out}: {error}") from error
    finally:
        if run.journal:
            run.journal.close()


def bar_of(run: Trainer) -> tqdm:
    done, hidden = run.config.progress(run.step, run.elapsed), not run.accelerator.is_main_process
    shown = "{percentage:5.1f}%|{bar}| {elapsed}<{remaining} {postfix}"
    return tqdm(total=1.0, initial=min(1.0, done), disable=hidden, bar_format=shown)


def _fit(run: Trainer, signals: Signals, bar: tqdm, batches: Batches, sheet: Sheet | None, score: Score | None) -> None:
    c = run.config
    run.gauge(batches)
    run.raw.train()
    begun = time.monotonic() - run.elapsed
    chores = [(c.save_every, run.save)]
    if sheet:
        chores.append((c.sheet_every, lambda: draw(run, sheet)))
    if score:
        chores.append((c.score_every, lambda: note(run, score)))
    done = [run.elapsed] * len(chores)
    mark_step, mark_time = run.step, run.elapsed
    signal = 0.0
    while c.progress(run.step, run.elapsed) < 1 and not signal:
        loss = run.train_step(batches)
        run.elapsed, signal = run.largest(time.monotonic() - begun, signals.number)  # all leave at the same step
        if run.step % c.log_every == 0:
            rate = (run.step - mark_step) * run.clips_a_step / max(run.elapsed - mark_time, 1e-9)
            speed = {"clips_per_s": rate, "tflops": rate * run.cost / 1e12, "of_peak": rate * run.cost / run.peak}
            lost = {"loss": loss.total} | loss.parts
            row = run.log(speed | {"lr": run.lr} | {name: float(value) for name, value in lost.items()})
            mark_step, mark_time = run.step, run.elapsed
            speed = f"{rate:.1f} clips/s, {row['of_peak']:.0%} of peak"
            bar.set_postfix_str(f"step {run.step} loss {row['loss']:.4f} {speed}")
        bar.update(min(1.0, c.progress(run.step, run.elapsed)) - bar.n)
        for i, (minutes, chore) in enumerate(chores):
            if run.elapsed - done[i] > 60 * minutes and not signal:
                done[i] = run.elapsed
                chore()
    for _, chore in chores[:1] if signal else chores:
        chore()
    [signal] = run.largest(max(signal, signals.number))
    if signal:
        raise SystemExit(128 + int(signal))


def note(run: Trainer, score: Score) -> None:
    """Logs how the averaged weights do on held-out clips; the minutes that this takes count as training."""
    if run.accelerator.is_main_process:
        with torch.inference_mode():
            run.log(score(run.averaged.eval()))


def draw(run: Trainer, sheet: Sheet) -> None:
    """Writes the picture of how the averaged weights do at this step."""
    if run.journal:
        with torch.inference_mode():
            picture = sheet(run.averaged.eval())
        run.journal.show(picture, run.step)


def rows_of_frames(rows: list[Tensor]) -> np.ndarray:
    """Clips (T, C, H, W) in [-1, 1] as rows of a picture (rows*H, T*W, 3) uint8; shorter rows are padded in gray."""
    longest = max(len(row) for row in rows)
    height, width = rows[0].shape[-2:]
    picture = np.full((len(rows) * (height + 2), longest * (width + 2), 3), 90, dtype=np.uint8)
    for i, row in enumerate(rows):
        frames = ((row.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
        for t, frame in enumerate(frames):
            y, x = i * (height + 2), t * (width + 2)
            picture[y : y + height, x : x + width] = frame.transpose(1, 2, 0)
    return picture
