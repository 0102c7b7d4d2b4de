"""What a run writes down to be watched: log.jsonl, sheets, and TensorBoard's events where that is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from stt.checkpoint import write_whole
from train.checkpoint import room_for

LOG = "log.jsonl"


class RunLog:
    """For the first process. All of it raises DiskFull."""

    def __init__(self, out: Path, step: int) -> None:
        """A run that resumes at a step forgets what was written down after it, and a last line that was cut off."""
        self.out, self.log, self.board = out, out / LOG, board(out / "tensorboard", step)
        if self.log.is_file():
            lines = self.log.read_text(errors="replace").splitlines(keepends=True)
            kept = "".join(line for line in lines if stands(line, step))
            with room_for(self.log):
                write_whole(self.log, lambda file: file.write(kept.encode()))

    def note(self, row: dict[str, float]) -> None:
        with room_for(self.log), open(self.log, "a") as file:
            file.write(json.dumps(row) + "\n")
        if self.board:
            for name in row.keys() - {"step"}:
                self.board.add_scalar(name, row[name], row["step"])

    def show(self, picture: np.ndarray, step: int) -> None:
        """picture: (H, W) or (H, W, 3) uint8."""
        path = self.out / "sheets" / f"{step:07d}.png"
        with room_for(path.parent):
            path.parent.mkdir(exist_ok=True)
            iio.imwrite(path, picture)
        if self.board:
            self.board.add_image("sheet", picture, step, dataformats="HWC"[: picture.ndim])

    def close(self) -> None:
        if self.board:
            self.board.close()


def stands(line: str, step: int) -> bool:
    """Whether a line of the log is whole and not from after the step."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except ValueError:
        return False


def board(folder: Path, step: int) -> Any:
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)
