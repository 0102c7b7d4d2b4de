"""How long and how fast a run trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


def described(default: Any, text: str) -> Any:
    """A field with a default and the text of its flag."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long and how fast a run trains. Its schedule ends after `minutes` or after `steps`, whichever is not 0."""

    minutes: float = described(0.0, "wall time of the run")
    steps: int = described(0, "optimizer steps of the run, in the place of --minutes")
    batch: int = described(16, "clips of a batch, in each process")
    accumulate: int = described(1, "batches whose gradients are averaged in one step, in each process")
    lr: float = described(1e-3, "highest learning rate")
    warmup: float = described(0.03, "fraction of the schedule in which the learning rate rises")
    final_lr: float = described(0.02, "learning rate at the end, as a fraction of --lr")
    weight_decay: float = described(0.01, "weight decay of matrices and kernels")
    max_grad_norm: float = described(1.0, "longer gradients are scaled down to this norm")
    muon: bool = described(False, "Muon for hidden matrices, or AdamW for all parameters")
    ema: float = described(0.999, "decay of the averaged weights, which are the ones saved")
    seed: int = described(0, "of the first weights, the data and the noise")
    log_every: int = described(20, "steps between two rows of the log")
    save_every: float = described(5.0, "minutes between two checkpoints; 0: one at the end")
    sheet_every: float = described(10.0, "minutes between two pictures of predictions; 0: one at the end")
    score_every: float = described(5.0, "minutes between two scores on held-out clips; 0: at the end")
    compile: bool = described(False, "use torch.compile")
    precision: str = described("auto", "no (float32), bf16, or auto: bf16 where the hardware is fast at it")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0 <= value < math.inf:  # a NaN too
                raise ValueError(f"{name} is {value}, must be 0 or more")
        if (self.minutes > 0) == (self.steps > 0):
            raise ValueError(f"minutes is {self.minutes} and steps {self.steps}: set one of them above 0, not both")
        for name in ("batch", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        for name in ("lr", "max_grad_norm"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name} is 0, must be above 0")
        for name in ("warmup", "ema"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be below 1")
        if self.seed >= 2**32:
            raise ValueError(f"seed is {self.seed}, must be below 2^32")
        if self.precision not in ("auto", "no", "bf16"):
            raise ValueError(f"precision is {self.precision!r}, must be 'auto', 'no' or 'bf16'")

    def progress(self, step: int, elapsed: float) -> float:
        """Fraction of the schedule that is over, from optimizer steps and seconds."""
        return step / self.steps if self.steps else elapsed / (60 * self.minutes)

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up, then half a cosine."""
        if progress < self.warmup:
            return self.lr * max(progress, 1e-3) / self.warmup
        fraction = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        return self.lr * (self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * fraction)))
