"""Patch tokens of the TimeSformer: squares of a frame are embedded, and decoded to frames.

Block matching tells tokens how their patch moved, and target tokens may splat pixels of the context.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from stt.api import Video
from stt.layers import patchify, unpatchify
from stt.motion import match_patches, matches_size, splat_matrix


class PatchTokens(nn.Module):
    """Frames (B, T, C, H, W) in [-1, 1] as tokens (B, T, N, D) in raster order, and back.

    source_frames: whose patches are splatted, 1 is the context's last; none: patches are painted anew. reach: of block
    matching, in pixels an axis; 0 for none.
    """

    def __init__(self, channels: int, patch: int, source_frames: tuple[int, ...], reach: int, dim: int) -> None:
        super().__init__()
        self.patch, self.reach = patch, reach
        pixels = patch**2 * channels
        self.embed = nn.Linear(pixels, dim)
        if reach:
            self.embed_matches = nn.Linear(matches_size(reach), dim)
        if source_frames:
            self.head: nn.Module = SplatHead(channels, patch, source_frames, dim)
        else:
            self.head = nn.Linear(dim, pixels)
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.constant_(self.head.bias, -1.0)  # a black frame

    def scene(self, context: Video) -> Video:
        return context

    def context(self, scene: Video) -> Tensor:
        """Tokens of the context, (B, T, N, D)."""
        tokens = self.embed(rearrange(patchify(scene, self.patch), "b t d h w -> b t (h w) d"))
        if self.reach:
            matches = self.embed_matches(match_patches(scene, self.patch, self.reach))
            tokens = torch.cat([tokens[:, :1], tokens[:, 1:] + matches], dim=1)
        return tokens

    def targets(self, tokens: Tensor, scene: Video, count: int) -> Tensor:
        """What target tokens begin as, given those of the context: those of the last frame, (B, 1, N, D)."""
        return tokens[:, -1:]

    def decode(self, tokens: Tensor, scene: Video) -> Video:
        """Target tokens (B, T, h, w, D) -> (B, T, C, H, W), not yet clamped."""
        if isinstance(self.head, SplatHead):
            return self.head(tokens, scene)
        return unpatchify(rearrange(self.head(tokens), "b t h w d -> b t d h w"), self.patch)


class SplatHead(nn.Module):
    """Decodes target tokens to frames: each token splats its patch of the context, and paints the background there.

    Target tokens are initialised with the last frame's, so each can say where its patch will be at its time: a normal
    distribution over displacements, independent in rows and columns. The expected picture, which a squared error
    asks for, is a product of three matrices: rows, patch, columns. It is sharp where the displacement is certain.
    Patches have an opacity for each pixel. Where several meet they are averaged; where none is, the background shows:
    the last frame or new pixels. After softmax splatting (arXiv 2003.05534), of distributions in place of flows.
    """

    def __init__(self, channels: int, patch: int, source_frames: tuple[int, ...], dim: int) -> None:
        super().__init__()
        self.patch, self.source_frames = patch, source_frames
        count, pixels = len(source_frames), patch**2
        self.displacement = nn.Linear(dim, count * 6)
        self.opacity = nn.Linear(dim, count * pixels)
        self.pixel_opacity = nn.Sequential(  # the part of the logit that the pixels themselves decide
            nn.Conv2d(channels, 16, 5, padding=2), nn.SiLU(), nn.Conv2d(16, 1, 3, padding=1)
        )
        self.background = nn.Linear(dim, pixels * (channels + 1))  # colours, and their share beside the last frame
        for layer in (self.displacement, self.opacity, self.background):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.opacity.bias, -1.0)

    def forward(self, tokens: Tensor, context: Video) -> Video:
        """tokens (B, T, h, w, D) and context (B, F, C, H, W) -> (B, T, C, H, W)."""
        patch, count = self.patch, len(self.source_frames)
        frames = torch.stack([context[:, -min(age, context.shape[1])] for age in self.source_frames], dim=1).float()
        logits = unpatchify(rearrange(self.opacity(tokens), "b t h w (k d) -> b t k d h w", k=count), patch)
        logits = logits + self.pixel_opacity(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])[:, None]
        opacity = logits.float().sigmoid()  # (B, T, K, 1, H, W)
        patches = torch.cat([opacity * frames[:, None], opacity], dim=3)
        patches = rearrange(patches, "b t k c (h p) (w q) -> b t c (k h w) p q", p=patch, q=patch)
        rows, columns = self._splat_matrices(tokens)
        splatted = torch.einsum("btnyp,btcnpq->btcnyq", rows, patches)
        splatted = torch.einsum("btcnyq,btnxq->btcyx", splatted, columns)
        colour, coverage = splatted[:, :, :-1], splatted[:, :, -1:]
        painted = unpatchify(rearrange(self.background(tokens), "b t h w d -> b t d h w"), patch).float()
        background = torch.lerp(context[:, -1:].float(), painted[:, :, :-1], painted[:, :, -1:].sigmoid())
        return colour / coverage.clamp(min=1) + (1 - coverage).clamp(min=0) * background

    def _splat_matrices(self, tokens: Tensor) -> list[Tensor]:
        """For rows and for columns (B, T, K h w, S, p): the share of each of a patch's p in each of the frame's S."""
        device, (rows, columns), patch = tokens.device, tokens.shape[2:4], self.patch  # of a square frame
        with torch.autocast(device.type, enabled=False):  # bfloat16 has too few digits for positions
            normals = self.displacement(tokens.float())
        normals = rearrange(normals, "b t h w (k d two) -> d two b t (k h w)", d=3, two=2)
        ahead = torch.arange(1, tokens.shape[1] + 1, device=device)[:, None]
        means = 8 * normals[0] + 4 * ahead * normals[1]  # pixels: a displacement and a velocity
        stds = 3 * normals[2].clamp(-3, 1.8).exp()
        start = patch * torch.arange(rows, device=device)
        starts = start.repeat_interleave(columns), start.repeat(rows)
        return [
            splat_matrix(mean + first.repeat(len(self.source_frames)), std, patch, rows * patch)
            for mean, std, first in zip(means, stds, starts, strict=True)
        ]
