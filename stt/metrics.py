"""Error of a prediction against the truth, and spread of its futures.

Frame metrics take frames in [0, 1], from `unit`; the caller averages over clips.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stt.api import Video

SCALES = (1, 2, 4)  # pixels a side
SQUARE_WEIGHT = 5.0  # of the squared error beside the absolute ones


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
    """SSIM of each frame (Wang et al. 2004; Gaussian window of 11, sigma 1.5, data range 1). (..., C, H, W) -> (...).

    The average goes over the whole frame, mirrored at its border. Other windows and ranges give other figures:
    tables of OpenSTL compare with `frame_ssim_openstl` alone.
    Sides are 6 pixels or more. A frame of 64x64 takes about 1 ms on two CPU cores.
    """
    # imported here, so that `import stt` does not wait for it
    from torchmetrics.functional.image import structural_similarity_index_measure

    lead = torch.broadcast_shapes(predicted.shape, true.shape)[:-3]
    first, second = (x.reshape(-1, *x.shape[-3:]) for x in torch.broadcast_tensors(predicted, true))
    values = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)  # a pair only with the full image
    return values.reshape(lead)


def frame_ssim_openstl(predicted: Tensor, true: Tensor) -> Tensor:
    """SSIM of each frame as OpenSTL's tables have it (arXiv 2306.11249). (..., C, H, W) -> (...).

    OpenSTL calls scikit-image with its defaults for floats: a uniform window of 7x7, sample covariances, data range 2
    although frames lie in [0, 1], and 3 pixels left out on every side. Sides are 7 pixels or more.
    """
    side, c1, c2 = 7, (0.01 * 2) ** 2, (0.03 * 2) ** 2
    lead = true.shape[:-3]
    x, y = (v.reshape(-1, *true.shape[-3:]).double() for v in torch.broadcast_tensors(predicted, true))
    mean_x, mean_y, xx, yy, xy = (F.avg_pool2d(v, side, stride=1) for v in (x, y, x * x, y * y, x * y))
    sample = side**2 / (side**2 - 1)
    variances = sample * (xx - mean_x**2 + yy - mean_y**2)
    covariance = sample * (xy - mean_x * mean_y)
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    return values.mean(dim=(-3, -2, -1)).to(true.dtype).reshape(lead)


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


def multiscale_error(predicted: Video, true: Video) -> Tensor:
    """A loss: mean absolute and squared error of each frame of videos (B, T, C, H, W) in [-1, 1], (T,).

    Both are of differences on [0, 1]. The absolute one is averaged over squares of several sizes first: coarse ones
    lead what is off by some pixels.
    """
    difference = (predicted - true) / 2
    total = SQUARE_WEIGHT * difference.square().mean(dim=(0, 2, 3, 4))
    for scale in SCALES:
        pooled = F.avg_pool2d(difference.flatten(0, 1), scale).unflatten(0, difference.shape[:2])
        total = total + pooled.abs().mean(dim=(0, 2, 3, 4))
    return total
