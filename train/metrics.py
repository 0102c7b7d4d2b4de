"""Figures of merit; every function takes frames on [0, 1] and leaves the averaging over clips to the caller."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

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
    """SSIM of each frame (Wang et al. 2004; Gaussian window of 11, sigma 1.5). (..., C, H, W) -> (...)."""
    lead = true.shape[:-3]
    flat = (x.reshape(-1, *true.shape[-3:]) for x in torch.broadcast_tensors(predicted, true))
    values = structural_similarity_index_measure(*flat, data_range=1.0, reduction="none")
    return values.reshape(lead)


FRAME_METRICS = {"mse": frame_mse, "psnr": frame_psnr, "ssim": frame_ssim}
HIGHER_IS_BETTER = {"mse": False, "psnr": True, "ssim": True}


def spread(futures: Video) -> Tensor:
    """How far futures lie apart: standard deviation over the futures, root-mean-square over pixels.

    (N, T, C, H, W) on [0, 1] -> (T,). Zero when all futures are the same.
    """
    return futures.var(dim=0).mean(dim=(-3, -2, -1)).sqrt()


def perplexity(ids: Tensor, size: int) -> tuple[float, float]:
    """Share of `size` codes in use, and the perplexity of their distribution, of ids of any shape."""
    probs = torch.bincount(ids.flatten(), minlength=size).double() / ids.numel()
    entropy = -(probs[probs > 0] * probs[probs > 0].log()).sum()
    return float((probs > 0).double().mean()), float(entropy.exp())
