"""Level triples of the Transframer: a map of a frame as its motion layers, each painted in one gray level.

They come first in a map's sequence (channel "level", position = layer, value = gray level), as the palettes of screen
content coding: a segmentation is flat inside of things, and DCT triples only mend their edges.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Sampling
from stt.layers import ResBlock
from stt.motion import Layers, shape_of, shift
from stt.sampler import sample_logits
from stt.triple_decoder import Block, cross_entropy

LEVELS = 21  # gray levels, evenly spaced; the first is black
SOLID = 0.5  # least colour of a pixel that belongs to a layer


def solid(layers: Layers) -> Tensor:
    """Which pixels belong to each layer, (B, K, H, W)."""
    return layers.colour.mean(dim=2) > SOLID


def painted(layers: Layers, levels: Tensor, channels: int) -> Tensor:
    """Layers in gray levels (B, K), the brightest in front -> (B, channels, H, W) in [-1, 1]."""
    gray = (solid(layers) * levels[..., None, None]).amax(dim=1, keepdim=True) / (LEVELS - 1)
    return (2 * gray - 1).expand(-1, channels, -1, -1)


def levels_of(layers: Layers, images: Tensor) -> Tensor:
    """The level (B, K) that most pixels of a layer have in maps (B, C, H, W) in [-1, 1]; black of an empty one."""
    gray = ((images.mean(dim=1) + 1) / 2 * (LEVELS - 1)).round().long().clamp(0, LEVELS - 1)
    counts = torch.einsum("bkhw,bhwl->bkl", solid(layers).float(), F.one_hot(gray, LEVELS).float())
    return counts.argmax(dim=-1)


class LevelDecoder(nn.Module):
    """A distribution over each layer's level in a map, given those of the layers before it.

    A convolutional network sees each layer by itself, in the middle of the frame.
    """

    def __init__(
        self, count: int, channels: int, num_maps: int, width: int, dim: int, heads: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        wide = 2 * width
        self.see = nn.Sequential(
            nn.Conv2d(channels, width // 2, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1), ResBlock(width),
            nn.Conv2d(width, wide, 3, stride=2, padding=1), ResBlock(wide),
        )  # fmt: skip
        self.project = nn.Linear(2 * wide, dim)
        self.map = nn.Parameter(0.02 * torch.randn(num_maps, 1, dim))
        self.layer = nn.Parameter(0.02 * torch.randn(count, dim))
        self.level = nn.Parameter(0.02 * torch.randn(LEVELS, 1, dim))
        self.block, self.norm = Block(dim, heads, mlp_ratio), nn.LayerNorm(dim)
        self.head = nn.Linear(dim, LEVELS)

    def tokens(self, layers: Layers, map_index: int) -> Tensor:
        """map_index: from 1 on -> (B, K, dim)"""
        b, k, _, height, width = layers.colour.shape
        y, x = (0.5 - shape_of(layers).coordinates[..., :2]).unbind(dim=-1)
        away = torch.stack([y * height, x * width], dim=-1).round().long()
        middle = shift(layers.colour.flatten(0, 1), away.flatten(0, 1))
        h = self.see(2 * middle - 1)
        h = torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=-1)
        return rearrange(self.project(h), "(b k) d -> b k d", b=b) + self.map[map_index - 1] + self.layer

    def logits(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """Tokens (B, K, dim) and the first levels (B, n) -> logits of those and of the next, (B, n + 1, LEVELS)."""
        x = tokens[:, : levels.shape[1] + 1] + F.pad(F.embedding(levels, self.level.flatten(1)), (0, 0, 1, 0))
        return self.head(self.norm(self.block(x, self.block.remember(tokens)))).float()

    def nats(self, layers: Layers, map_index: int, levels: Tensor) -> Tensor:
        """Negative log-likelihood of levels (B, K): (B, K)."""
        logits = self.logits(self.tokens(layers, map_index), levels[:, :-1])
        return cross_entropy(logits, levels)

    def draw(self, layers: Layers, map_index: int, sampling: Sampling, gumbel: Tensor | None) -> Tensor:
        """gumbel (F, K, LEVELS) -> levels (F, K)."""
        tokens = self.tokens(layers, map_index)
        levels = torch.zeros(tokens.shape[:1] + (0,), dtype=torch.long, device=tokens.device)
        for k in range(tokens.shape[1]):
            logits = self.logits(tokens, levels)[:, -1]
            level = sample_logits(logits, sampling, logits if gumbel is None else gumbel[:, k])
            levels = torch.cat([levels, level[:, None]], dim=1)
        return levels
