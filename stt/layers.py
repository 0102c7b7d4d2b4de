"""Building blocks that more than one network uses."""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 128  # positions


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


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product attention of heads (B, heads, N, d) over (B, heads, M, d); `mask` is True where to look.

    In training on a CPU the fused kernel's gradient takes longer than all else where sequences are short: plain
    products there.
    """
    short = q.device.type == "cpu" and q.requires_grad and k.shape[-2] <= SHORT
    with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, dropout_p=dropout)


class Attention(nn.Module):
    """Multi-head attention over (B, N, D); positions enter as rotary angles (cos, sin).

    `forward` may continue a cache: keys and values are returned so that the caller can keep them.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % (4 * heads):
            raise ValueError(f"dim {dim} is not a multiple of 4 x {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) -> queries, keys, values (B, heads, N, d)."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Heads -> (B, N, D). `mask` is True where a query may look; `causal` is the mask of what came before."""
        dropout = self.dropout if self.training else 0.0
        h = attend(q, k, v, mask, causal, dropout)
        return self.out(rearrange(h, "b h n d -> b n (h d)"))

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x)
        return self.attend(rotate(q, *angles), rotate(k, *angles), v, mask)


class CrossAttention(nn.Module):
    """Multi-head attention of (B, N, D) over memories (B, M, D), whose keys and values are computed once."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, D) -> keys, values (B, heads, M, d)."""
        k, v = rearrange(self.kv(memory), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        return k, v

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """`mask`, broadcast to (B, heads, N, M), is True where a query may look."""
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        dropout = self.dropout if self.training else 0.0
        h = attend(q, *memory, mask, dropout=dropout)
        return self.out(rearrange(h, "b h n d -> b n (h d)"))


class ConvMLP(nn.Module):
    """MLP with a depthwise 3x3 convolution between its layers: motion is local and the same everywhere.

    Tokens (B, h, w, D); the view as channels-last images costs no copy. Gated (SwiGLU, arXiv 2002.05202), it has two
    thirds of the width, so as many weights.
    """

    def __init__(self, dim: int, ratio: int, gated: bool = False) -> None:
        super().__init__()
        self.gated = gated
        hidden = 2 * dim * ratio // 3 // 8 * 8 if gated else dim * ratio
        self.up = nn.Linear(dim, 2 * hidden if gated else hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        h, *gate = self.up(x).chunk(2 if self.gated else 1, dim=-1)
        h = h + self.mix(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.down(h * F.silu(gate[0]) if gate else F.silu(h))


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


class PerFrame(nn.Sequential):
    """Layers that take every frame of (B, T, C, H, W) by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class CausalConv3d(nn.Module):
    """3D convolution whose kernel of 2 x 3 x 3 sees a frame and the one before it. (B, T, C, H, W) -> same H, W.

    Computed in 2D over the channels of both frames; before the first lies a frame of zeros.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = PerFrame(nn.Conv2d(2 * channels, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return self.body(torch.cat([before, x], dim=2))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position, (N, C, H, W) -> same: unlike a group norm it mixes no places."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class VideoResBlock(nn.Module):
    """A 3D convolution over time and space and one over space, with a skip, pre-normed. (B, T, C, H, W) -> same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            PerFrame(ChannelNorm(channels), nn.SiLU()),
            CausalConv3d(channels, channels),
            PerFrame(ChannelNorm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class AxialAttention(nn.Module):
    """Attention along time (causal), columns and rows (arXiv 1912.12180), summed. (B, T, C, H, W) -> same."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = PerFrame(ChannelNorm(channels))
        self.axes = nn.ModuleList(Attention(channels, heads) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = rearrange(self.norm(x), "b t c h w -> b t h w c")
        out = x
        for axis, (length, attention) in enumerate(zip(h.shape[1:4], self.axes, strict=True), 1):
            along = h.movedim(axis, 3)  # the axis comes last but the channels
            angles = rotary(torch.arange(length, device=x.device), x.shape[2] // attention.heads, longest=8.0)
            q, k, v = attention.project(along.flatten(0, 2))
            seen = attention.attend(rotate(q, *angles), rotate(k, *angles), v, causal=axis == 1)
            out = out + rearrange(seen.unflatten(0, along.shape[:3]).movedim(3, axis), "b t h w c -> b t c h w")
        return out


class UNet(nn.Module):
    """U-Net (arXiv 1505.04597) on squares of 2x2 pixels. Frames (N, C, H, W) -> (N, out, H, W).

    Where we differ: skips are added, and the head sees the input again. width: channels of the finest scale, all
    others have twice as many; H and W are multiples of 2**scales.
    """

    patch = 2

    def __init__(self, channels: int, out: int, width: int, scales: int) -> None:
        super().__init__()
        widths = [width, *(2 * width for _ in range(scales - 1))]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.stem = nn.Conv2d(channels * self.patch**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(each) for each in widths)
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairs)
        self.up = nn.Conv2d(widths[-1], width, 3, padding=1)  # only the finest scale has another width
        self.decoder = nn.Sequential(ResBlock(width), group_norm(width), nn.SiLU())
        self.head = nn.Conv2d(width + channels * self.patch**2, out * self.patch**2, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        patches = patchify(frames, self.patch)
        skips = [self.blocks[0](self.stem(patches))]
        for block, down in zip(self.blocks[1:], self.down, strict=True):
            skips.append(block(down(skips[-1])))
        x = skips.pop()
        while skips:
            skip, x = skips.pop(), F.interpolate(x, scale_factor=2.0)
            x = skip + (x if skips else self.up(x))
        return unpatchify(self.head(torch.cat([self.decoder(x), patches], dim=1)), self.patch)
