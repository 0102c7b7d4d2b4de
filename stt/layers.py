"""Building blocks that more than one network uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def patchify(video: Tensor, patch: int) -> Tensor:
    """(..., C, h*p, w*p) -> (..., p*p*C, h, w): squares of `patch` pixels become channels."""
    if video.shape[-1] % patch or video.shape[-2] % patch:
        raise ValueError(f"frame {tuple(video.shape[-2:])} is not a multiple of patch {patch}")
    return rearrange(video, "... c (h p) (w q) -> ... (p q c) h w", p=patch, q=patch)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Inverse of `patchify`."""
    return rearrange(patches, "... (p q c) h w -> ... c (h p) (w q)", p=patch, q=patch)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions (arXiv 2104.09864) to x (..., N, d); cos and sin are (N, d/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def rotary(positions: Tensor, dim: int, longest: float) -> tuple[Tensor, Tensor]:
    """Angles of positions (N,) for `dim` channels as (cos, sin), each (N, dim/2).

    Wavelengths run geometrically from 2*pi positions to 2*pi*`longest`.
    """
    exponent = torch.arange(dim // 2, device=positions.device, dtype=torch.float32) / max(dim // 2 - 1, 1)
    angles = positions[:, None].float() * longest**-exponent  # (N, dim/2)
    return angles.cos(), angles.sin()


def rotary_grid(height: int, width: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Axial rotary angles of a grid's positions in raster order, each (height*width, dim/2)."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    cols = torch.arange(width, device=device).repeat(height)
    parts = [rotary(axis, dim // 2, longest=8.0) for axis in (rows, cols)]
    cos, sin = (torch.cat(halves, dim=-1) for halves in zip(*parts, strict=True))
    return cos, sin


class Attention(nn.Module):
    """Multi-head attention over (B, N, D); positions enter as rotary angles (cos, sin).

    `forward` may continue a cache: keys and values are returned so that the caller can keep them.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % (4 * heads):
            raise ValueError(f"dim {dim} is not a multiple of 4 x {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> queries, keys, values (B, heads, N, d)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Heads -> (B, N, D). `mask` is True where a query may look."""
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(rearrange(h, "b h n d -> b n (h d)"))

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x)
        return self.attend(rotate(q, *angles), rotate(k, *angles), v, mask)


class ConvMLP(nn.Module):
    """MLP with a depthwise 3x3 convolution between its layers: motion is local and the same everywhere.

    Tokens (B, h, w, D); the view as channels-last images costs no copy.
    """

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, dim * ratio)
        self.mix = nn.Conv2d(dim * ratio, dim * ratio, 3, padding=1, groups=dim * ratio)
        self.down = nn.Linear(dim * ratio, dim)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x)
        h = h + self.mix(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.down(F.silu(h))


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(8, channels // 4), channels)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a skip, pre-normed. (B, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            group_norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class AttentionBlock(nn.Module):
    """Self-attention over the positions of a feature map, with a skip. (B, C, H, W) -> same."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = Attention(channels, heads)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = rearrange(self.norm(x), "b c h w -> b (h w) c")
        angles = rotary_grid(height, width, h.shape[-1] // self.attention.heads, x.device)
        h = self.attention(h, angles)
        return x + rearrange(h, "b (h w) c -> b c h w", h=height)
