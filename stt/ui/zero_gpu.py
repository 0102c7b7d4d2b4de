"""ZeroGPU Spaces lend a GPU to marked functions only, for a time that each one announces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from stt.api import Predictor, Surprise
from stt.prediction import Compute, Job, compute

MAX_SECONDS = 120


def seconds(name: str, job: Job) -> int:
    """How long to ask for the GPU: shorter requests are served sooner.

    Generous for models of some 10M parameters; not yet measured on such a Space.
    """
    pixels = job.context[0].numel() / 64**2
    return min(MAX_SECONDS, round(10 + job.frames * (0.1 + 0.02 * pixels * len(job.seeds))))


def zero_gpu_compute(models: Mapping[str, Predictor]) -> Compute:
    """`compute` on the lent GPU of a ZeroGPU Space; plain `compute` everywhere else.

    Arguments and results travel between processes, so a model travels as its name.
    """
    try:
        import spaces
    except ImportError:
        return compute

    @spaces.GPU(duration=seconds)
    def lent(name: str, job: Job) -> Iterator[Tensor | Surprise]:
        yield from compute(models[name], job)

    names = {id(model): name for name, model in models.items()}
    return lambda model, job: lent(names[id(model)], job)
