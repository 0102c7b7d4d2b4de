"""ZeroGPU: on such a Space a GPU is lent to marked functions only, for as long as each says beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from stt.api import NO_CONDITION, Condition, Predictor, Sampling, Surprise
from stt.prediction import Compute, compute

LONGEST = 120  # seconds


def seconds(
    name: str,
    video: Tensor,
    truth: Tensor,
    ending: Tensor,
    frames: int,
    sampling: Sampling,
    seeds: Sequence[int],
    condition: Condition = NO_CONDITION,
) -> int:
    """How long to ask for the GPU, from the arguments of the work: shorter requests are served sooner.

    Generous for models of some 10M parameters; no such Space has been timed yet.
    """
    pixels = video[0].numel() / 64**2
    return min(LONGEST, round(10 + frames * (0.1 + 0.02 * pixels * len(seeds))))


def on_lent_gpu(models: Mapping[str, Predictor]) -> Compute:
    """`compute` as a function that a ZeroGPU Space lends its GPU to; plain `compute` everywhere else.

    Arguments and results travel between processes, so the model goes by its name.
    """
    try:
        import spaces
    except ImportError:
        return compute

    @spaces.GPU(duration=seconds)
    def lent(
        name: str,
        video: Tensor,
        truth: Tensor,
        ending: Tensor,
        frames: int,
        sampling: Sampling,
        seeds: Sequence[int],
        condition: Condition = NO_CONDITION,
    ) -> Iterator[Tensor | Surprise]:
        yield from compute(models[name], video, truth, ending, frames, sampling, seeds, condition)

    names = {id(model): name for name, model in models.items()}
    return lambda model, *rest: lent(names[id(model)], *rest)
