"""FrameVQ and VideoVQ: every frame on its own, or a few together, become a grid of codes, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    levels: tuple[int, ...] = (8,) * 8  # FSQ; empty means a vector-quantized codebook instead
    codebook_size: int = 512
    code_dim: int = 32  # channels of a vector-quantized code
    commitment: float = 0.25
    local: bool = False  # codes are each of its own pixels alone: what stands still keeps its codes
    reference: bool = False  # codes tell what is other than in a reference frame that both sides know

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

    Where we differ: the stem and the head work on patches, which spares the convolutions at full resolution that would
    cost most, and the codes may be FSQ's. With a reference, an earlier frame of the same clip, codes need to say
    only what has changed (as in iVideoGPT, arXiv 2405.15223), and pixels that have not are copied through a mask.
    """

    def __init__(self, config: FrameVQConfig) -> None:
        super().__init__()
        self.config = c = config
        seen = (1 + c.reference) * c.channels * c.patch**2
        self.encoder = (cell_encoder if c.local else frame_encoder)(seen, c.widths, c.blocks, c.latent_dim)
        self.quantizer = (
            FSQ(c.levels) if c.levels else VectorQuantizer(c.codebook_size, c.code_dim, commitment=c.commitment)
        )
        self.decoder = ReferenceDecoder(c) if c.reference else frame_decoder(c)

    def encode(self, video: Video, reference: Video | None = None) -> Codes:
        """(B, T, C, H, W) -> ids (B, T, h, w, G) and latents (B, T, h, w, D).

        reference (B, 1, C, H, W) or (B, T, ...), of configs that take one: the first frame if not given.
        """
        if self.config.reference:
            reference = video[:, :1] if reference is None else reference
            video = torch.cat([video, reference.expand_as(video)], dim=2)
        return self.quantizer(self.encoder(patchify(video, self.config.patch)).movedim(2, -1))

    def decode(self, latents: Tensor, reference: Video | None = None) -> Video:
        """(B, T, h, w, D) -> (B, T, C, H, W), not clamped; `reference` as it was encoded with, B or 1 of them."""
        b, t = latents.shape[:2]
        z = rearrange(latents, "b t h w d -> (b t) d h w")
        if not self.config.reference:
            return unpatchify(self.decoder(z), self.config.patch).unflatten(0, (b, t))
        if reference is None:
            raise ValueError("this tokenizer decodes frames beside a reference (B, 1, C, H, W), and none was given")
        reference = reference.expand(b, t, *reference.shape[2:])
        return self.decoder(z, reference.flatten(0, 1)).unflatten(0, (b, t))

    def reconstructed(self, video: Video) -> Video:
        """With a reference, it is the clip's first frame."""
        reference = video[:, :1] if self.config.reference else None
        return self.decode(self.encode(video, reference).latents, reference)

    def autoencode(self, video: Video) -> tuple[Video, Video, Codes]:
        """With a reference: one random frame of each clip beside another."""
        if not self.config.reference:
            return super().autoencode(video)
        order = torch.rand(video.shape[:2], device=video.device).argsort(dim=1)
        each = torch.arange(len(video), device=video.device)
        truth, reference = (video[each, order[:, k]][:, None] for k in (0, -1))
        codes = self.encode(truth, reference)
        return truth, self.decode(codes.latents, reference), codes


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


class ReferenceDecoder(nn.Module):
    """(N, latent_dim, h, w) and reference frames (N, C, H, W) -> frames: new pixels, or the reference's, by a mask."""

    def __init__(self, c: FrameVQConfig) -> None:
        super().__init__()
        self.patch = c.patch
        widths, last = c.widths, c.widths[-1]
        self.stem = nn.Conv2d(c.channels * c.patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.look = nn.Sequential(*(ResBlock(last) for _ in range(c.blocks)))
        self.codes = nn.Conv2d(c.latent_dim, last, 3, padding=1)
        self.join = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths)
        self.attention = AttentionBlock(last)
        self.draw = nn.ModuleList(nn.Sequential(*(ResBlock(w) for _ in range(c.blocks))) for w in widths)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in zip(widths, widths[1:], strict=False))
        self.norm = group_norm(widths[0])
        self.head = nn.Conv2d(widths[0], (c.channels + 1) * c.patch**2, 3, padding=1)

    def forward(self, z: Tensor, reference: Tensor) -> Tensor:
        seen = [self.stem(patchify(reference, self.patch))]
        for down in self.down:
            seen.append(down(F.silu(seen[-1])))
        seen[-1] = self.look(seen[-1])
        x = self.codes(z)
        for i in reversed(range(len(seen))):
            x = self.join[i](torch.cat([x, seen[i]], dim=1))
            x = self.draw[i](x if i < len(seen) - 1 else self.attention(x))
            if i:
                x = self.up[i - 1](F.interpolate(x, scale_factor=2.0))
        new = unpatchify(self.head(F.silu(self.norm(x))), self.patch)
        kept = new[:, -1:].sigmoid()
        return kept * reference + (1 - kept) * new[:, :-1]


@dataclass(frozen=True, kw_only=True)
class VideoVQConfig(Config):
    frames: int = 2  # that share a slice of codes: the stride in time
    patch: int = 4  # pixels per side of the stem's patches
    widths: tuple[int, ...] = (64, 128)  # channels per resolution; each step after the first halves it
    blocks: int = 1  # residual blocks per resolution
    codebook_size: int = 1024
    code_dim: int = 32
    commitment: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}, must be at least 1")
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

    Where we differ: frames do not depend on later codes, so that a video can be decoded slice by slice as it is drawn.
    And codes are local, each of its own pixels alone, only the decoder looks around: an encoder that does, by
    attention, overlapping kernels or norms over whole frames, hides what it cannot say of a digit in the codes of the
    black around it, where no predictor can guess it.
    """

    def __init__(self, config: VideoVQConfig) -> None:
        super().__init__()
        self.config = c = config
        pixels = c.frames * c.channels * c.patch**2
        self.encoder = cell_encoder(pixels, c.widths, c.blocks, c.latent_dim)
        self.quantizer = VectorQuantizer(c.codebook_size, c.code_dim, commitment=c.commitment)
        self.decoder = video_decoder(c.latent_dim, c.widths, c.blocks, pixels)

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
    """A causal 3D resnet: (B, T, channels, H, W) -> (B, T, out, h, w), halved in space between the widths."""
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
