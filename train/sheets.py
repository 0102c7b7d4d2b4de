"""Pictures of clips in rows: truth, reconstructions, futures."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def rows_of_frames(rows: list[Tensor]) -> np.ndarray:
    """Clips (T, C, H, W) in [-1, 1] as rows of a picture (rows*H, T*W, 3) uint8; shorter rows end in gray."""
    longest = max(len(row) for row in rows)
    height, width = rows[0].shape[-2:]
    picture = np.full((len(rows) * (height + 2), longest * (width + 2), 3), 90, dtype=np.uint8)
    for i, row in enumerate(rows):
        frames = ((row.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
        for t, frame in enumerate(frames):
            y, x = i * (height + 2), t * (width + 2)
            picture[y : y + height, x : x + width] = frame.transpose(1, 2, 0)
    return picture
