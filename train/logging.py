"""What a run writes while it trains: log.jsonl, sheets, and TensorBoard events where TensorBoard is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from stt.checkpoint import write_whole
from train.checkpoint import disk_full_check

LOG_FILE = "log.jsonl"


class RunLog:
    """The log of a run, for the first process. Every method raises DiskFull."""

    def __init__(self, out: Path, step: int) -> None:
        """step: where the run begins or resumes. Later rows, and a last line that was cut off, are deleted."""
        self.out, self.path, self.tensorboard = out, out / LOG_FILE, tensorboard_writer(out / "tensorboard", step)
        if self.path.is_file():
            lines = self.path.read_text(errors="replace").splitlines(keepends=True)
            text = "".join(line for line in lines if is_row_until(line, step))
            with disk_full_check(self.path):
                write_whole(self.path, lambda file: file.write(text.encode()))

    def write(self, row: dict[str, float]) -> None:
        with disk_full_check(self.path), open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.tensorboard:
            for name in row.keys() - {"step"}:
                self.tensorboard.add_scalar(name, row[name], row["step"])

    def write_sheet(self, picture: np.ndarray, step: int) -> None:
        """picture: (H, W) or (H, W, 3) uint8."""
        path = self.out / "sheets" / f"{step:07d}.png"
        with disk_full_check(path.parent):
            path.parent.mkdir(exist_ok=True)
            iio.imwrite(path, picture)
        if self.tensorboard:
            self.tensorboard.add_image("sheet", picture, step, dataformats="HWC"[: picture.ndim])

    def close(self) -> None:
        if self.tensorboard:
            self.tensorboard.close()


def is_row_until(line: str, step: int) -> bool:
    """Whether a line of the log is complete and not later than the step."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except ValueError:
        return False


def tensorboard_writer(folder: Path, step: int) -> Any:
    """None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
