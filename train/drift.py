"""What a tokenizer's decoder has to draw in use: a predictor's codes, not those of true frames."""

from __future__ import annotations

import torch
from torch import nn

from stt.api import Codes, Video
from stt.checkpoint import family_of, load_any
from stt.models.stt import STT
from stt.tokenizer import FrameVQ

DRAWN = 6  # frames of each clip that the decoder draws in a step


def relived_by(predictor: STT, tokenizer: FrameVQ, video: Video) -> tuple[Video, Video, Codes]:
    """For `AdversarialTokenizer`: frames of clips that follow each other (B, T', C, H, W), what the tokenizer draws of
    them when the predictor, told by its posterior what comes, has predicted them upon its predictions, and the codes.

    Raises ValueError for clips of fewer than 3 frames: one is given, and the last is not predicted.
    """
    if video.shape[1] < 3:
        raise ValueError(f"clips have {video.shape[1]} frames, what a predictor drifts to needs at least 3 (--frames)")
    given = int(torch.randint(1, min(predictor.config.context_frames, video.shape[1] - 2) + 1, ()))
    codes, latents = predictor.relived(video, given)
    last = video.shape[1] - 1
    count = min(DRAWN, last - given)
    start = int(torch.randint(given, last - count + 1, ()))
    reference = video[:, given - 1 : given] if tokenizer.config.reference else None
    shown = slice(start, start + count)
    return video[:, shown], tokenizer.decode(latents[:, shown], reference), codes


def predictor_for(tokenizer: FrameVQ, source: str) -> STT:
    """The STT of a file or run folder; SystemExit where it is none, or where the tokenizer's codes are not its own."""
    predictor = load_any(source)
    if not isinstance(predictor, STT):
        raise SystemExit(f"--predictor {source} is of the family {family_of(predictor)}, must be of stt")
    if strange := unlike(tokenizer, predictor.tokenizer):
        raise SystemExit(f"--predictor {source} predicts other codes than the tokenizer's, first at {strange!r}")
    return predictor


def unlike(tokenizer: nn.Module, other: nn.Module) -> str | None:
    """The first weight, but for decoders', that two tokenizers do not share in half precision, as they ship."""
    mine, theirs = (
        {name: tensor.half() for name, tensor in of.state_dict().items() if not name.startswith("decoder.")}
        for of in (tokenizer, other)
    )
    shared = [name for name in mine if name in theirs and mine[name].shape == theirs[name].shape]
    return next((name for name in mine if name not in shared or not torch.equal(mine[name], theirs[name])), None)
