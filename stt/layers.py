"""Building blocks that more than one network uses."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Angles = tuple[Tensor, Tensor]  # cosines and sines of rotary positions, (N, d/2) each
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
    swapped = torch.cat([b, a], dim=-1)  # fewer passes over the memory than with halves
    return torch.addcmul(x * torch.cat([cos, cos], dim=-1), swapped, torch.cat([-sin, sin], dim=-1))


def rotary(positions: Tensor, dim: int, longest: float) -> Angles:
    """Angles of positions (N,) for `dim` channels as (cos, sin), each (N, dim/2).

    Wavelengths run geometrically from 2*pi positions to 2*pi*`longest`.
    """
    exponent = torch.arange(dim // 2, device=positions.device, dtype=torch.float32) / max(dim // 2 - 1, 1)
    angles = positions[:, None].float() * longest**-exponent  # (N, dim/2)
    return angles.cos(), angles.sin()


def rotary_grid(height: int, width: int, dim: int, device: torch.device) -> Angles:
    """Axial rotary angles of a grid's positions in raster order, each (height*width, dim/2)."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    cols = torch.arange(width, device=device).repeat(height)
    parts = [rotary(axis, dim // 2, longest=8.0) for axis in (rows, cols)]
    cos, sin = (torch.cat(halves, dim=-1) for halves in zip(*parts, strict=True))
    return cos, sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Scaled dot-product attention of heads (B, heads, N, d) over (B, heads, M, d); `mask` is True where to attend.

    In training on a CPU, short sequences take plain products: there the fused kernel's gradient is the slowest part.
    """
    if q.device.type != "cpu" or not q.requires_grad or k.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    logits = (q * q.shape[-1] ** -0.5) @ k.mT
    if causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return logits.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, D).

    `forward` attends with rotary positions. A caller that keeps a cache calls `project`, then `attend`.
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

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """Heads -> (B, N, D). `mask` is True where a query may attend; `causal` masks what comes later."""
        return self.out(rearrange(attend(q, k, v, mask, causal), "b h n d -> b n (h d)"))

    def forward(self, x: Tensor, angles: Angles, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.project(x)
        return self.attend(rotate(q, *angles), rotate(k, *angles), v, mask)


class CrossAttention(nn.Module):
    """Multi-head attention of (B, N, D) over a memory (B, M, D), whose keys and values are computed once."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, D) -> keys, values (B, heads, M, d)."""
        k, v = rearrange(self.kv(memory), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        return k, v

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """memory: from `remember`. `mask`, broadcast to (B, heads, N, M), is True where a query may attend."""
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        return self.out(rearrange(attend(q, *memory, mask), "b h n d -> b n (h d)"))


class ConvMLP(nn.Module):
    """MLP with a depthwise 3x3 convolution between its layers, so that neighbours mix. Tokens (B, h, w, D) -> same.

    Gated (SwiGLU, arXiv 2002.05202), it has two thirds of the width, so as many weights.
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
        h = h + self.mix(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # a channels-last view, no copy
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
    """Layers that apply to each frame of (B, T, C, H, W) on its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class CausalConv3d(nn.Module):
    """3D convolution with a kernel of 2 x 3 x 3, over a frame and the one before. (B, T, C, H, W) -> (B, T, out, H, W).

    Computed as a 2D convolution over the channels of both frames, with zeros before the first.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.body = PerFrame(nn.Conv2d(2 * channels, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        previous = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        return self.body(torch.cat([previous, x], dim=2))


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position, (N, C, H, W) -> same; a group norm would mix positions."""

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
            lines = h.movedim(axis, 3)  # (..., length, C)
            angles = rotary(torch.arange(length, device=x.device), x.shape[2] // attention.heads, longest=8.0)
            q, k, v = attention.project(lines.flatten(0, 2))
            y = attention.attend(rotate(q, *angles), rotate(k, *angles), v, causal=axis == 1)
            out = out + rearrange(y.unflatten(0, lines.shape[:3]).movedim(3, axis), "b t h w c -> b t c h w")
        return out


class UNet(nn.Module):
    """U-Net (arXiv 1505.04597) on patches of 2x2 pixels. Frames (N, C, H, W) -> (N, out, H, W) float32.

    Where we differ: skips are added, and the head also takes the input. widths: channels from the finest scale to the
    coarsest; H and W are multiples of 2**len(widths). `ups[i]` doubles scale i + 1 to widths[i]; `decoders[i]` follows
    at scale i. `bottleneck` is the block at the coarsest scale, a ResBlock if None.
    """

    patch = 2

    def __init__(
        self,
        channels: int,
        out: int,
        widths: tuple[int, ...],
        ups: Iterable[nn.Module],
        decoders: Iterable[nn.Module],
        bottleneck: nn.Module | None = None,
    ) -> None:
        super().__init__()
        pixels, pairs = channels * self.patch**2, pairwise(widths)
        self.stem = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList([*map(ResBlock, widths[:-1]), bottleneck or ResBlock(widths[-1])])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairs)
        self.ups, self.decoders = nn.ModuleList(ups), nn.ModuleList(decoders)
        self.head = nn.Conv2d(widths[0] + pixels, out * self.patch**2, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        patches = patchify(frames, self.patch)
        skips = [self.blocks[0](self.stem(patches))]
        for block, down in zip(self.blocks[1:], self.down, strict=True):
            skips.append(block(down(skips[-1])))
        x = skips.pop()
        for up, decoder in zip(reversed(self.ups), reversed(self.decoders), strict=True):
            x = decoder(skips.pop() + up(x))
        with torch.autocast(x.device.type, enabled=False):  # pixels take single precision
            return unpatchify(self.head(torch.cat([x.float(), patches.float()], dim=1)), self.patch)


class SpatialBlock(nn.Module):
    """Spatial attention, then MLP, each residual and pre-normed: (N, h, w, D) -> the same."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.space_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.space, self.mlp = Attention(dim, heads), ConvMLP(dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, dim = x.shape
        angles = rotary_grid(height, width, dim // self.space.heads, x.device)
        h = self.space(rearrange(self.space_norm(x), "n h w d -> n (h w) d"), angles)
        x = x + rearrange(h, "n (h w) d -> n h w d", h=height)
        return x + self.mlp(self.mlp_norm(x))
