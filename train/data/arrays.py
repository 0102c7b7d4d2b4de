"""Arrays on disk that are larger than memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from stt.checkpoint import write_whole


def write_frames(path: Path, shape: tuple[int, ...], frames: Iterable[np.ndarray]) -> None:
    """Writes uint8 arrays, one after the other, as one .npy file of this shape: whole or not at all."""

    def write(file) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for frame in frames:
            file.write(np.ascontiguousarray(frame, np.uint8).data)

    write_whole(path, write)
