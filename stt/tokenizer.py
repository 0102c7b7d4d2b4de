"""FrameVQ: every frame on its own becomes a grid of codes, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Codes, Config, Loss, Tokenizer, Video
from stt.layers import AttentionBlock, ResBlock, group_norm, patchify, unpatchify
from stt.quantize import FSQ, VectorQuantizer


@dataclass(frozen=True, kw_only=True)
class FrameVQConfig(Config):
    patch: int = 4  # pixels per side of the stem's patches
    widths: tuple[int, ...] = (64, 128)  # channels per resolution; each step after the first halves it
    blocks: int = 1  # residual blocks per resolution
    levels: tuple[int, ...] = (8,) * 8  # FSQ; empty means a vector-quantized codebook instead
    codebook_size: int = 512
    code_dim: int = 32  # channels of a vector-quantized code
    commitment: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.downsampling:
            raise ValueError(f"image_size {self.image_size} is not a multiple of downsampling {self.downsampling}")

    @property
    def downsampling(self) -> int:
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def grid(self) -> int:
        return self.image_size // self.downsampling

    @property
    def latent_dim(self) -> int:
        return len(self.levels) or self.code_dim


class FrameVQ(Tokenizer):
    """Convolutional VQ autoencoder of single frames (VQ-VAE, arXiv 1711.00937).

    Where we differ: the stem and the head work on patches, which spares the convolutions at full
    resolution that would cost most, and the codes may be FSQ's.
    """

    def __init__(self, config: FrameVQConfig) -> None:
        super().__init__()
        self.config = c = config
        self.encoder = self._encoder(c)
        self.quantizer = (
            FSQ(c.levels) if c.levels else VectorQuantizer(c.codebook_size, c.code_dim, commitment=c.commitment)
        )
        self.decoder = self._decoder(c)

    @staticmethod
    def _encoder(c: FrameVQConfig) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Conv2d(c.channels * c.patch**2, c.widths[0], 3, padding=1)]
        for i, width in enumerate(c.widths):
            if i:
                layers.append(nn.Conv2d(c.widths[i - 1], width, 4, stride=2, padding=1))
            layers += [ResBlock(width) for _ in range(c.blocks)]
        last = c.widths[-1]
        layers += [AttentionBlock(last), group_norm(last), nn.SiLU(), nn.Conv2d(last, c.latent_dim, 1)]
        return nn.Sequential(*layers)

    @staticmethod
    def _decoder(c: FrameVQConfig) -> nn.Sequential:
        last = c.widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(c.latent_dim, last, 3, padding=1), AttentionBlock(last)]
        for i in reversed(range(len(c.widths))):
            layers += [ResBlock(c.widths[i]) for _ in range(c.blocks)]
            if i:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(c.widths[i], c.widths[i - 1], 3, padding=1)]
        first = c.widths[0]
        layers += [group_norm(first), nn.SiLU(), nn.Conv2d(first, c.channels * c.patch**2, 3, padding=1)]
        return nn.Sequential(*layers)

    def encode(self, video: Video) -> Codes:
        """(B, T, C, H, W) -> ids (B, T, h, w, G) and latents (B, T, h, w, D)."""
        frames = rearrange(video, "b t c h w -> (b t) c h w")
        z = self.encoder(patchify(frames, self.config.patch))
        z = rearrange(z, "(b t) d h w -> b t h w d", b=video.shape[0])
        return self.quantizer(z)

    def decode(self, latents: Tensor) -> Video:
        """(B, T, h, w, D) -> (B, T, C, H, W), not clamped."""
        z = rearrange(latents, "b t h w d -> (b t) d h w")
        frames = unpatchify(self.decoder(z), self.config.patch)
        return rearrange(frames, "(b t) c h w -> b t c h w", b=latents.shape[0])

    def loss(self, video: Video) -> Loss:
        codes = self.encode(video)
        reconstruction = F.mse_loss(self.decode(codes.latents).float(), video)
        total = reconstruction + codes.loss
        return Loss(total, {"mse": reconstruction.detach(), "commitment": codes.loss.detach()})
