"""Error of a prediction against the truth, and spread of its futures.

Frame metrics take frames in [0, 1], from `unit`; the caller averages over clips.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stt.api import Video


def unit(video: Video) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return ((video + 1) / 2).clamp(0, 1)


def frame_mse(predicted: Tensor, true: Tensor) -> Tensor:
    """Squared error *summed* over a frame, as Moving MNIST reports it. (..., C, H, W) -> (...)."""
    return (predicted - true).square().sum(dim=(-3, -2, -1))


def frame_psnr(predicted: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB, at most 100. (..., C, H, W) -> (...)."""
    mean = (predicted - true).square().mean(dim=(-3, -2, -1))
    return -10 * torch.log10(mean.clamp(min=1e-10))


def frame_ssim(predicted: Tensor, true: Tensor) -> Tensor:
    """SSIM of each frame (Wang et al. 2004; Gaussian window of 11, sigma 1.5). (..., C, H, W) -> (...).

    The average goes over the whole frame, mirrored at its border; scikit-image leaves out 5 pixels on every side.
    Sides are 6 pixels or more. A frame of 64x64 takes about 1 ms on two CPU cores.
    """
    # imported here, so that `import stt` does not wait for it
    from torchmetrics.functional.image import structural_similarity_index_measure

    lead = torch.broadcast_shapes(predicted.shape, true.shape)[:-3]
    first, second = (x.reshape(-1, *x.shape[-3:]) for x in torch.broadcast_tensors(predicted, true))
    values = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)  # a pair only with the full image
    return values.reshape(lead)


def blended(first: Tensor, last: Tensor, frames: int) -> Tensor:
    """Two frames (C, H, W) -> `frames` between them (frames, C, H, W), blended linearly: the baseline for gaps."""
    return first.lerp(last, torch.linspace(0, 1, frames + 2, device=first.device)[1:-1, None, None, None])


FRAME_METRICS = {"mse": frame_mse, "psnr": frame_psnr, "ssim": frame_ssim}
HIGHER_IS_BETTER = {"mse": False, "psnr": True, "ssim": True}


def spread(futures: Video, correction: int = 0) -> Tensor:
    """Standard deviation of each pixel over the futures, root mean square over channels.

    futures (F, T, C, H, W) on [0, 1] -> (T, H, W); at most 0.5, where half of them are black and half are white.
    correction: 0 for the deviation of these futures, 1 for an estimate of all possible ones, from two or more.
    Raises ValueError for another number of axes.
    """
    if futures.ndim != 5:
        raise ValueError(f"futures have shape {tuple(futures.shape)}, must be (F, T, C, H, W)")
    return futures.var(dim=0, correction=correction).mean(dim=1).sqrt()
