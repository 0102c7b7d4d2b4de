"""Pictures of clips in rows: truth, reconstructions, futures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stt.api import NO_CONDITION, Condition, Predictor, Sampling, Tokenizer, Video
from stt.sampler import predict


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


def reconstruction_sheet(clips: Video) -> Callable[[nn.Module], np.ndarray]:
    """For each clip a row of truth and a row of its reconstruction."""

    def sheet(model: Tokenizer) -> np.ndarray:
        decoded = model.reconstructed(clips)
        return rows_of_frames([row for pair in zip(clips, decoded, strict=True) for row in pair])

    return sheet


def future_sheet(clips: Video, context: int) -> Callable[[nn.Module], np.ndarray]:
    """For each clip rows of truth, of its reconstruction if there is a tokenizer, and of up to three futures."""

    def sheet(model: Predictor) -> np.ndarray:
        rows = []
        for clip in clips:
            rows.append(clip)
            if (tokenizer := model.frozen_tokenizer) is not None:
                first = len(clip) % tokenizer.slice_frames  # it takes whole slices
                rows.append(tokenizer.reconstructed(clip[None, first:])[0])
            seeds = [0, 1, 2] if model.knobs else [0]
            futures = predict(model, clip[:context], len(clip) - context, seeds=seeds)
            rows += [torch.cat([clip[:context], future]) for future in futures]
        return rows_of_frames(rows)

    return sheet


def contact_sheet(
    model: Predictor,
    clips: Video,
    sampling: Sampling,
    conditions: Sequence[Sequence[Condition]] = (),
    context: int = 5,
    every: int = 1,
) -> np.ndarray:
    """Rows of each clip: the true one, futures of seeds 0 to 2, and one of seed 0 under each of its conditions.

    Of a model without chance there is one future. Shows every so many frames.
    """
    rows = []
    for k, clip in enumerate(clips):
        rows.append(clip)
        free = [0, 1, 2] if model.knobs else [0]
        for condition, seeds in [(NO_CONDITION, free), *((c, [0]) for c in (conditions[k] if conditions else ()))]:
            futures = predict(model, clip[:context], len(clip) - context, sampling, seeds, condition)
            rows += [torch.cat([clip[:context], future]) for future in futures]
    return rows_of_frames([row[::every] for row in rows])
