"""Object segmenter: which pixels are the agent's, and which are one object's (arXiv 1708.02551)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.layers import ResBlock, UNet, group_norm
from stt.sprites import AGENT, BACKGROUND, MAX_SPRITES, OUTSIDE, masks_of

CLASSES = 4  # of a pixel: outside, background, agent, object
PULL_MARGIN, PUSH_MARGIN = 0.5, 3.0  # distances of embeddings: to the object's mean at most, between means at least
MIN_OBJECT = 6  # pixels of 64x64


def light_unet(channels: int, out: int, width: int, scales: int) -> UNet:
    """A U-Net with twice the width at all scales but the finest, and a decoder at the finest alone."""
    upsample = nn.Upsample(scale_factor=2.0)
    ups = [nn.Sequential(upsample, nn.Conv2d(2 * width, width, 3, padding=1)), *(upsample for _ in range(scales - 2))]
    decoders = [
        nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU()), *(nn.Identity() for _ in range(scales - 2))
    ]  # fmt: skip
    return UNet(channels, out, (width, *(2 * width for _ in range(scales - 1))), ups, decoders)


class ObjectSegmenter(nn.Module):
    """Frames (N, C, H, W) -> embeddings (N, E, H, W) and class logits (N, CLASSES, H, W)."""

    def __init__(self, channels: int, embedding_dim: int, width: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.unet = light_unet(channels, embedding_dim + CLASSES, width, scales=2)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        embeddings, logits = self.unet(frames).split([self.embedding_dim, CLASSES], dim=1)
        return embeddings, logits

    def segment(self, frames: Tensor) -> Tensor:
        """Frames (N, C, H, W) -> segmentation (N, H, W)."""
        embeddings, logits = self(frames)
        classes, smallest = logits.argmax(dim=1) + OUTSIDE, MIN_OBJECT * (frames.shape[-1] / 64) ** 2
        return torch.stack([cluster(*each, smallest) for each in zip(embeddings, classes, strict=True)])

    def loss(self, frames: Tensor, segmentation: Tensor) -> Tensor:
        """Cross-entropy of the classes and the discriminative loss (arXiv 1708.02551) of objects' embeddings.

        frames (N, C, H, W), segmentation (N, H, W) -> scalar, nats and squared distances.
        """
        embeddings, logits = self(frames)
        ce = F.cross_entropy(logits, segmentation.clamp(max=AGENT + 1) - OUTSIDE)
        masks = masks_of(segmentation)[:, AGENT:].flatten(2)  # (N, K, P), objects only
        count = masks.sum(dim=-1)
        exists, embeddings = count > 0, embeddings.flatten(2)
        means = torch.einsum("nkp,nep->nke", masks, embeddings) / count.clamp_min(1)[..., None]
        distances = (embeddings[:, None] - means[..., None]).norm(dim=2)  # (N, K, P)
        pull = ((distances - PULL_MARGIN).clamp_min(0).square() * masks).sum(dim=-1) / count.clamp_min(1)
        apart = (means[:, :, None] - means[:, None]).square().sum(dim=-1).clamp_min(1e-6).sqrt()
        pairs = (exists[:, :, None] & exists[:, None]).triu(1)
        push = (PUSH_MARGIN - apart).clamp_min(0).square() * pairs
        return ce + pull.sum() / exists.sum().clamp_min(1) + push.sum() / pairs.sum().clamp_min(1)


def cluster(embeddings: Tensor, classes: Tensor, smallest: float) -> Tensor:
    """Embeddings (E, H, W) and pixel classes from OUTSIDE on (H, W) -> segmentation (H, W).

    Greedy: the pixel with the most similar pixels makes an object of them, down to `smallest` pixels. The rest join
    the object with the nearest mean.
    """
    of_objects = classes > AGENT
    segmentation = torch.where(of_objects, BACKGROUND, classes)
    points = embeddings[:, of_objects].T  # (P, E)
    similar, free = torch.cdist(points, points) < PUSH_MARGIN / 2, points.new_ones(len(points)).bool()
    means: list[Tensor] = []
    while len(means) < MAX_SPRITES - 1:
        votes = (similar & free).sum(dim=1) * free
        if not len(votes) or votes.max() < smallest:
            break
        members = similar[votes.argmax()] & free
        means.append(points[members].mean(dim=0))
        free &= ~members & ((points - means[-1]).norm(dim=1) > PUSH_MARGIN / 2)
    if means:
        segmentation[of_objects] = AGENT + 1 + torch.cdist(points, torch.stack(means)).argmin(dim=1)
    return segmentation
