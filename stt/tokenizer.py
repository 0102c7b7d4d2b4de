"""FrameVQ and VideoVQ: each frame, or a few frames together, as a grid of codes, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from stt.api import Codes, Config, Tokenizer, Video
from stt.layers import (
    AttentionBlock,
    AxialAttention,
    CausalConv3d,
    ChannelNorm,
    PerFrame,
    ResBlock,
    VideoResBlock,
    group_norm,
    patchify,
    unpatchify,
)
from stt.quantize import FSQ, VectorQuantizer


@dataclass(frozen=True, kw_only=True)
class FrameVQConfig(Config):
    patch: int = 4  # pixels per side of the stem's patches
    widths: tuple[int, ...] = (64, 128)  # channels per resolution; each step after the first halves it
    blocks: int = 1  # residual blocks per resolution
    levels: tuple[int, ...] = (8,) * 8  # of each latent channel
    local: bool = False  # each code depends on its own pixels alone, so that what stands still keeps its codes

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
        return len(self.levels)


class FrameVQ(Tokenizer):
    """Convolutional autoencoder of single frames with discrete latents (VQ-VAE, arXiv 1711.00937).

    Where we differ: the quantizer is FSQ (arXiv 2309.15505), and the stem and the head work on patches, which spares
    the convolutions at full resolution.
    """

    def __init__(self, config: FrameVQConfig) -> None:
        super().__init__()
        self.config = c = config
        pixels = c.channels * c.patch**2
        self.encoder = (cell_encoder if c.local else frame_encoder)(pixels, c.widths, c.blocks, c.latent_dim)
        self.quantizer = FSQ(c.levels)
        self.decoder = frame_decoder(c)

    def encode(self, video: Video) -> Codes:
        """(B, T, C, H, W) -> ids (B, T, h, w, G) and latents (B, T, h, w, D)."""
        return self.quantizer(self.encoder(patchify(video, self.config.patch)).movedim(2, -1))

    def decode(self, latents: Tensor) -> Video:
        """(B, T, h, w, D) -> (B, T, C, H, W), not clamped."""
        z = rearrange(latents, "b t h w d -> (b t) d h w")
        return unpatchify(self.decoder(z), self.config.patch).unflatten(0, latents.shape[:2])


@torch.no_grad()
def frozen_codes(tokenizer: Tokenizer, video: Video) -> Codes:
    """Codes of clips for a network that trains on them.

    In single precision, as in prediction: under autocast to bfloat16 one code in twenty would be another.
    """
    with torch.autocast(video.device.type, enabled=False):
        return tokenizer.encode(video.float())


def frame_encoder(channels: int, widths: tuple[int, ...], blocks: int, out: int) -> PerFrame:
    """Overlapping strided convolutions, then attention: (B, T, channels, H, W) -> (B, T, out, h, w)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1)]
    for i, width in enumerate(widths):
        if i:
            layers.append(nn.Conv2d(widths[i - 1], width, 4, stride=2, padding=1))
        layers += [ResBlock(width) for _ in range(blocks)]
    last = widths[-1]
    return PerFrame(*layers, AttentionBlock(last), group_norm(last), nn.SiLU(), nn.Conv2d(last, out, 1))


def frame_decoder(c: FrameVQConfig) -> nn.Sequential:
    """(N, latent_dim, h, w) -> (N, pixels of a patch, H, W in patches)."""
    last = c.widths[-1]
    layers: list[nn.Module] = [nn.Conv2d(c.latent_dim, last, 3, padding=1), AttentionBlock(last)]
    for i in reversed(range(len(c.widths))):
        layers += [ResBlock(c.widths[i]) for _ in range(c.blocks)]
        if i:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(c.widths[i], c.widths[i - 1], 3, padding=1)]
    first = c.widths[0]
    layers += [group_norm(first), nn.SiLU(), nn.Conv2d(first, c.channels * c.patch**2, 3, padding=1)]
    return nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class VideoVQConfig(Config):
    frames: int = 2  # of a slice of codes: the stride in time
    patch: int = 4  # pixels per side of the stem's patches
    widths: tuple[int, ...] = (64, 128)  # channels per resolution; each step after the first halves it
    blocks: int = 1  # residual blocks per resolution
    codebook_size: int = 1024
    code_dim: int = 32
    commitment: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.downsampling:
            raise ValueError(f"image_size {self.image_size} is not a multiple of downsampling {self.downsampling}")

    @property
    def downsampling(self) -> int:
        """Pixels per side of a code, in space."""
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def grid(self) -> int:
        return self.image_size // self.downsampling

    @property
    def latent_dim(self) -> int:
        return self.code_dim


class VideoVQ(Tokenizer):
    """3D VQ autoencoder with axial attention (VideoGPT, arXiv 2104.10157): S slices of codes for S * frames frames.

    Where we differ: the decoder is causal, so that a video can be decoded slice by slice. And each code depends on its
    own pixels alone; only the decoder mixes positions. An encoder with overlapping kernels, attention or norms over
    whole frames stores details of an object in the codes of the background, where a predictor cannot guess them.
    """

    def __init__(self, config: VideoVQConfig) -> None:
        super().__init__()
        self.config = c = config
        pixels = c.frames * c.channels * c.patch**2
        self.encoder = cell_encoder(pixels, c.widths, c.blocks, c.latent_dim)
        self.quantizer = VectorQuantizer(c.codebook_size, c.code_dim, commitment=c.commitment)
        self.decoder = video_decoder(c.latent_dim, c.widths, c.blocks, pixels)

    @property
    def slice_frames(self) -> int:
        return self.config.frames

    def encode(self, video: Video) -> Codes:
        """(B, S * frames, C, H, W) -> ids (B, S, h, w, 1) and latents (B, S, h, w, D)."""
        c = self.config
        if video.shape[1] % c.frames:
            raise ValueError(f"the clip has {video.shape[1]} frames, must be a multiple of {c.frames}")
        x = patchify(rearrange(video, "b (s f) c h w -> b s (f c) h w", f=c.frames), c.patch)
        return self.quantizer(rearrange(self.encoder(x), "b s d h w -> b s h w d"))

    def decode(self, latents: Tensor) -> Video:
        """(B, S, h, w, D) -> (B, S * frames, C, H, W), not clamped."""
        c = self.config
        x = unpatchify(self.decoder(rearrange(latents, "b s h w d -> b s d h w")), c.patch)
        return rearrange(x, "b s (f c) h w -> b (s f) c h w", f=c.frames)


def cell_encoder(channels: int, widths: tuple[int, ...], blocks: int, out: int) -> PerFrame:
    """Strided convolutions whose kernels do not overlap: (B, T, channels, H, W) -> (B, T, out, h, w)."""
    layers: list[nn.Module] = [nn.Conv2d(channels, 2 * widths[0], 1)]
    for i, width in enumerate(widths):
        if i:
            layers.append(nn.Conv2d(2 * widths[i - 1], 2 * width, 2, stride=2))
        layers += [CellBlock(2 * width) for _ in range(blocks)]
    last = 2 * widths[-1]
    return PerFrame(*layers, ChannelNorm(last), nn.SiLU(), nn.Conv2d(last, out, 1))


class CellBlock(nn.Module):
    """An MLP at every position, with a skip, pre-normed. (N, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        up, down = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)
        self.body = nn.Sequential(ChannelNorm(channels), up, nn.SiLU(), down)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def video_encoder(channels: int, widths: tuple[int, ...], blocks: int, out: int) -> nn.Sequential:
    """Causal 3D resnet: (B, T, channels, H, W) -> (B, T, out, h, w), halved in space between the widths."""
    layers: list[nn.Module] = [CausalConv3d(channels, widths[0])]
    for i, width in enumerate(widths):
        if i:
            layers.append(PerFrame(nn.Conv2d(widths[i - 1], width, 4, stride=2, padding=1)))
        layers += [VideoResBlock(width) for _ in range(blocks)]
    last = widths[-1]
    return nn.Sequential(*layers, AxialAttention(last), PerFrame(ChannelNorm(last), nn.SiLU(), nn.Conv2d(last, out, 1)))


def video_decoder(channels: int, widths: tuple[int, ...], blocks: int, out: int) -> nn.Sequential:
    """(B, T, channels, h, w) -> (B, T, out, H, W), doubled in space between the widths."""
    layers: list[nn.Module] = [CausalConv3d(channels, widths[-1]), AxialAttention(widths[-1])]
    for i in reversed(range(len(widths))):
        layers += [VideoResBlock(widths[i]) for _ in range(blocks)]
        if i:
            layers.append(PerFrame(nn.Upsample(scale_factor=2), nn.Conv2d(widths[i], widths[i - 1], 3, padding=1)))
    first = widths[0]
    head = PerFrame(ChannelNorm(first), nn.SiLU(), nn.Conv2d(first, out, 3, padding=1))
    return nn.Sequential(*layers, head)
