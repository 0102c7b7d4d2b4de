"""The training loop of tokenizers and predictors: one process or many, resumable exactly."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm import tqdm

from stt.api import Batch, Loss, Model
from stt.checkpoint import FILE_NAME, save
from train import checkpoint
from train.logging import RunLog
from train.optim import MuonAdamW, parameter_groups
from train.prefetch import Prefetcher, to_device
from train.processes import resolve_precision
from train.schedule import TrainerConfig
from train.signals import Signals
from train.throughput import flops_per_clip, peak_flops

Batches = Callable[[int, int], Batch]  # (clips, number) -> batch, on the CPU or on the training device
Sheet = Callable[[nn.Module], np.ndarray]  # averaged model -> picture (H, W) or (H, W, 3) uint8
Score = Callable[[nn.Module], dict[str, float]]  # averaged model -> figures for the log


class LossModule(nn.Module):
    """`loss` under the name that data-parallel wrappers call."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Loss:
        total, parts, _ = self.model.loss(batch)
        if parts:  # new tensors: a compiled loss that is also one of its parts would come back detached
            values = torch.stack([part.detach().float() for part in parts.values()]).unbind()
            parts = dict(zip(parts, values, strict=True))
        return Loss(total.float(), parts)


class Trainer:
    """One training run: its folder, its state, its log."""

    def __init__(
        self,
        model: Model,
        config: TrainerConfig,
        out: Path,
        accelerator: Accelerator,
        card: dict[str, Any],
        runnable: Callable[[nn.Module], nn.Module] = lambda model: model,
        clipped: Sequence[nn.Module] = (),
    ) -> None:
        """runnable: returns the part of `model` that is scored and saved. clipped: parts of the model; the gradients of
        each are clipped by their own norm. By default the model is one part."""
        self.config, self.out, self.accelerator, self.card = config, out, accelerator, card
        self.runnable, self.clipped = runnable, clipped or (model,)
        device = accelerator.device
        self.model = model.to(device, memory_format=torch.channels_last)  # faster convolutions
        self.precision = resolve_precision(config.precision, device)
        groups = parameter_groups(model, muon=config.muon, weight_decay=config.weight_decay)
        optimizer = MuonAdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True)
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        self.loss_module, self.optimizer = accelerator.prepare(LossModule(self.model), optimizer)
        if config.compile:  # integers that `begin_step` chooses become symbols: no program for each of them
            torch._dynamo.config.allow_unspec_int_on_nn_module = True
        self.compute_loss = torch.compile(self.loss_module) if config.compile else self.loss_module
        self.step = self.clips = 0
        self.elapsed = 0.0  # seconds
        self.saved_step = -1  # of the newest checkpoint
        self.non_finite = torch.zeros((), device=device)  # 1 from the first step that is not finite
        self.unchecked: list[Tensor] = []  # on the device, a step each: (processes, gradient norm + loss + its parts)
        self.unlogged: list[Tensor] = []  # the same, after the check, on the CPU
        self.loss_names: list[str] = []
        self.flops_per_clip = 0.0
        self.peak_flops = 0.0  # a second, of all processes together
        self.run_log: RunLog | None = None  # of the first process

    @property
    def clips_per_step(self) -> int:
        return self.config.batch * self.config.accumulate * self.accelerator.num_processes

    @property
    def lr(self) -> float:
        return self.config.learning_rate(self.config.progress(self.step, self.elapsed))

    @property
    def averaged_model(self) -> nn.Module:
        """The runnable model with averaged weights, in eval mode."""
        return self.runnable(self.averaged).eval()

    # ---- one step ------------------------------------------------------------------------------------

    def prefetcher(self, batches: Batches) -> Prefetcher:
        """The batches of this process by their numbers."""
        device, processes = self.accelerator.device, self.accelerator.num_processes
        return Prefetcher(lambda number: self.model.prepare(batches(self.config.batch, number)), processes, device)

    def train_step(self, batch_of: Callable[[int], Batch]) -> None:
        """One optimizer step.

        The data and the noise of a batch depend on the seed and on its number alone. The numbers of a step's batches
        are the same for N processes as for one that accumulates N. A loss or a gradient that is not finite in any
        process makes this step, and all later ones, leave the weights as they are; `check` raises an error then.
        """
        c, acc = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self.model.begin_step(self.step)
        losses = []
        for part in range(c.accumulate):
            number = (self.step * c.accumulate + part) * acc.num_processes + acc.process_index
            batch = batch_of(number)
            set_seed((c.seed * 1_000_003 + number) % 2**31)
            last = part == c.accumulate - 1
            with nullcontext() if last else acc.no_sync(self.loss_module):
                with torch.autocast(acc.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    loss = self.compute_loss(batch)
                acc.backward(loss.total / c.accumulate)
            losses.append(torch.stack([loss.total.detach(), *loss.parts.values()]))
        norms = [acc.clip_grad_norm_(part.parameters(), c.max_grad_norm) for part in self.clipped]
        row = torch.cat([torch.stack(norms).amax(dim=0, keepdim=True), torch.stack(losses).mean(dim=0)])
        row = acc.gather(row[None])  # (processes, figures)
        self.non_finite = torch.maximum(self.non_finite, 1 - row[:, :2].isfinite().all().float())
        self.optimizer.optimizer.found_inf = self.non_finite
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._update_average()
        self.unchecked.append(row)
        self.loss_names = ["loss", *loss.parts]
        self.step += 1
        self.clips += self.clips_per_step

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential moving average. Its decay grows from 0 to `ema`, so that the first weights are soon forgotten."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step)) if self.step else 0.0
        pairs = zip(self.averaged.parameters(), self.model.parameters(), strict=True)
        averages, weights = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)

    def check(self) -> None:
        """Waits for the device. FloatingPointError in all processes if a step since the last call was not finite."""
        if not self.unchecked:
            return
        rows = torch.stack(self.unchecked).cpu()  # (steps, processes, figures)
        first = self.step - len(rows)
        self.unchecked = []
        self.unlogged += rows
        failures = (~rows[..., :2].isfinite().all(dim=-1)).nonzero().tolist()
        if failures:
            step, process = failures[0]
            norm, loss = rows[step, process, :2].tolist()
            raise FloatingPointError(
                f"the loss is {loss} and the gradient's norm {norm} in process {process} at step {first + step}: "
                "stopped before the update"
            )

    def mean_losses(self) -> dict[str, float]:
        """The loss and its parts, averaged over the steps since the last call. Raises like `check`."""
        self.check()
        means = torch.stack(self.unlogged).mean(dim=(0, 1))[1:]
        self.unlogged = []
        return dict(zip(self.loss_names, means.tolist(), strict=True))

    # ---- state ---------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint to resume from, and the averaged weights as a runnable model.

        All processes call it, the first one writes. Raises in all of them: DiskFull, or FloatingPointError if a step
        or the weights are not finite; then nothing is written.
        """
        self.check()
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise FloatingPointError(f"weights are not finite after step {self.step}: they are not saved")
        failure = None
        if self.accelerator.is_main_process:
            try:
                self._write()
            except checkpoint.DiskFull as error:
                failure = error
        [failed] = self.maximum(float(failure is not None))
        if failed:
            raise failure or checkpoint.DiskFull("the first process could not save")

    def _write(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if self.saved_step != self.step:
            state = {
                "step": self.step,
                "clips": self.clips,
                "elapsed": self.elapsed,
                "model": self.model.state_dict(),
                "average": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            checkpoint.write(self.out, state)
            self.saved_step = self.step
        card = self.card | {"steps": self.step, "minutes": round(self.elapsed / 60, 1), "clips": self.clips}
        path = self.out / FILE_NAME
        with checkpoint.disk_full_check(path, checkpoint.num_bytes(self.averaged_model.state_dict())):
            save(self.averaged_model, path, card=card)

    def resume(self) -> None:
        """Continues from the newest valid checkpoint, from the beginning where there is none yet."""
        state = checkpoint.read_newest(self.out)
        if state is None:
            print(f"{self.out} holds no checkpoint yet: the run begins at step 0", file=sys.stderr)
        else:
            self.step, self.clips, self.elapsed = state["step"], state["clips"], state["elapsed"]
            self.saved_step = self.step
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])

    def maximum(self, *values: float) -> list[float]:
        """The largest of each value over all processes, the same in all of them."""
        if self.accelerator.num_processes == 1:
            return list(values)
        row = torch.tensor([values], device=self.accelerator.device, dtype=torch.float64)
        return self.accelerator.gather(row).amax(dim=0).tolist()

    # ---- log and sheets ------------------------------------------------------------------------------------

    def measure_flops(self, batches: Batches) -> None:
        """Counts the operations of a clip and measures the devices' peak; the log states the share of it in use."""
        self.flops_per_clip = flops_per_clip(self.model, to_device(batches(1, 0), self.accelerator.device))
        self.peak_flops = peak_flops(self.accelerator.device, self.precision) * self.accelerator.num_processes

    def speed(self, step: int, elapsed: float) -> dict[str, float]:
        """Clips and operations a second since a step and its time, and the latter as a share of what is possible."""
        rate = (self.step - step) * self.clips_per_step / max(self.elapsed - elapsed, 1e-9)
        flops = rate * self.flops_per_clip
        self.peak_flops = max(self.peak_flops, flops)  # other programs may have slowed its measurement
        return {"clips_per_s": rate, "tflops": flops / 1e12, "of_peak": flops / self.peak_flops}

    def log(self, figures: dict[str, float]) -> dict[str, float]:
        """Writes a row; returns it."""
        row = {"step": self.step, "clips": self.clips, "minutes": self.elapsed / 60} | figures
        row = {name: round(value, 6) for name, value in row.items()}
        if self.run_log:
            self.run_log.write(row)
        return row

    @torch.inference_mode()
    def log_scores(self, score: Score) -> None:
        """Logs the averaged model's figures on held-out clips. The minutes that this takes count as training."""
        if self.run_log:
            self.log(score(self.averaged_model))

    @torch.inference_mode()
    def write_sheet(self, sheet: Sheet) -> None:
        """Writes a picture of what the averaged model predicts at this step."""
        if self.run_log:
            self.run_log.write_sheet(sheet(self.averaged_model), self.step)

    # ---- the loop ------------------------------------------------------------------------------------

    def fit(self, batches: Batches, sheet: Sheet | None = None, score: Score | None = None) -> None:
        """Trains until the schedule ends; saves, draws sheets and scores on the way.

        A SIGTERM or SIGINT to any process saves and raises SystemExit with code 143 or 130. A loss that is not finite
        or a full disk raises one with a message, and the checkpoints stay.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            if self.accelerator.is_main_process:
                self.run_log = RunLog(self.out, self.step)
            periodic = [(self.config.save_every, self.save)]  # minutes between two calls
            if sheet:
                periodic.append((self.config.sheet_every, lambda: self.write_sheet(sheet)))
            if score:
                periodic.append((self.config.score_every, lambda: self.log_scores(score)))
            with Signals() as signals, self._progress_bar() as bar, self.prefetcher(batches) as batch_of:
                begin = time.monotonic() - self.elapsed
                self.measure_flops(batches)
                self._fit(signals, bar, batch_of, periodic, begin)
        except (FloatingPointError, checkpoint.DiskFull) as error:
            raise SystemExit(f"{self.out}: {error}") from error
        finally:
            if self.run_log:
                self.run_log.close()

    def _progress_bar(self) -> tqdm:
        progress, hidden = self.config.progress(self.step, self.elapsed), not self.accelerator.is_main_process
        if not hidden:
            length = f"{self.config.minutes:g} minutes" if self.config.minutes else f"{self.config.steps} steps"
            print(f"Training {type(self.averaged_model).__name__} for {length}, into {self.out}", file=sys.stderr)
        text = "{percentage:5.1f}%|{bar}| {elapsed}<{remaining} {postfix}"
        return tqdm(total=1.0, initial=min(1.0, progress), disable=hidden, bar_format=text)

    def _fit(
        self,
        signals: Signals,
        bar: tqdm,
        batch_of: Prefetcher,
        periodic: list[tuple[float, Callable[[], None]]],
        begin: float,
    ) -> None:
        """periodic: functions, and the minutes between two calls of each. All are called at the end of the schedule,
        after a signal only the first. begin: when the schedule began, of time.monotonic."""
        c = self.config
        self.model.train()
        last_call = [self.elapsed] * len(periodic)
        last_log = self.step, self.elapsed
        # Processes compare their clocks and signals: every step where that is free, else when the log waits for the
        # device.
        on_cpu = self.accelerator.device.type == "cpu"
        compare_always = self.accelerator.num_processes == 1 or on_cpu
        signal, first, speed = 0.0, self.step + 1, ""
        while c.progress(self.step, self.elapsed) < 1 and not signal:
            self.train_step(batch_of)
            log_now = self.step % c.log_every == 0
            losses = self.mean_losses() if log_now else {}
            if log_now or compare_always:
                self.elapsed, signal = self.maximum(time.monotonic() - begin, signals.number)
            if log_now:
                row = self.log(self.speed(*last_log) | {"lr": self.lr} | losses)
                last_log = self.step, self.elapsed
                speed = f"{row['clips_per_s']:.1f} clips/s, {row['of_peak']:.0%} of peak"
                bar.set_postfix_str(f"step {self.step} loss {row['loss']:.4f} {speed}", refresh=False)
            elif self.step == first or on_cpu:  # a GPU would have to be waited for
                loss = float(self.unchecked[-1][:, 1].mean())
                bar.set_postfix_str(f"step {self.step} loss {loss:.4f} {speed}", refresh=self.step == first)
            bar.update(min(1.0, c.progress(self.step, self.elapsed)) - bar.n)
            for i, (minutes, call) in enumerate(periodic):
                if 0 < 60 * minutes < self.elapsed - last_call[i] and not signal:
                    last_call[i] = self.elapsed
                    call()
        for _, call in periodic[:1] if signal else periodic:
            call()
        [signal] = self.maximum(max(signal, signals.number))
        if signal:
            raise SystemExit(128 + int(signal))
