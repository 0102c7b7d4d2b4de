"""Codebooks: vectors (..., D) <-> code ids (..., G).

Both quantizers offer `forward(z) -> Codes`, `embed(ids) -> latents` and `sizes`, the number of codes in
each of the G groups. A vector quantizer has one group of K codes; FSQ has one group per latent channel,
so that a predictor classifies each channel's level, not their product.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Codes


class FSQ(nn.Module):
    """Finite scalar quantization (arXiv 2309.15505): every channel is rounded to one of its levels.

    Latents lie in [-1, 1]; a channel with L levels takes L equally spaced values including both ends.
    Unlike the paper, ids stay per channel.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels are {levels}, each must be at least 2")
        self.sizes = tuple(levels)
        self.dim = len(levels)
        self.register_buffer("radius", (torch.tensor(levels, dtype=torch.float32) - 1) / 2, persistent=False)

    def forward(self, z: Tensor) -> Codes:
        """z (..., D) unbounded -> Codes with ids (..., D); the gradient passes through the rounding."""
        bounded = (torch.tanh(z.float()) + 1) * self.radius  # (0, L-1)
        ids = bounded.round()
        straight = bounded + (ids - bounded).detach()
        return Codes(ids.long(), straight / self.radius - 1, z.new_zeros(()))

    def embed(self, ids: Tensor) -> Tensor:
        """ids (..., D) -> latents (..., D) in [-1, 1]."""
        return ids / self.radius - 1

    def extra_repr(self) -> str:
        return f"levels={self.sizes}"


class VectorQuantizer(nn.Module):
    """VQ with a codebook that follows the encoder by moving averages (arXiv 1711.00937, appendix A).

    The codebook starts from latents of the first batch in training. A code whose average count falls below `dead`
    restarts from a latent of the batch, drawn in proportion to its squared error (as in k-means++): where most latents
    are alike, uniform draws would only duplicate codes. All state is in buffers, so a resumed run continues exactly. On
    several processes the averages are sums over all of them.
    """

    def __init__(
        self, codebook_size: int, dim: int, decay: float = 0.99, commitment: float = 0.25, dead: float = 0.1
    ) -> None:
        super().__init__()
        if codebook_size < 2:
            raise ValueError(f"codebook_size is {codebook_size}, must be at least 2")
        self.sizes = (codebook_size,)
        self.dim, self.decay, self.commitment, self.dead = dim, decay, commitment, dead
        self.register_buffer("codebook", torch.randn(codebook_size, dim))
        self.register_buffer("count", torch.ones(codebook_size))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, z: Tensor) -> Codes:
        """z (..., D) -> Codes with ids (..., 1)."""
        flat = z.float().reshape(-1, self.dim)  # (N, D)
        if self.training:
            self._initialise(flat)
        ids = torch.cdist(flat, self.codebook).argmin(dim=-1)  # (N,)
        chosen = F.embedding(ids, self.codebook)
        if self.training:
            self._follow(flat, ids, (flat - chosen).square().sum(dim=-1))
        loss = self.commitment * F.mse_loss(flat, chosen)
        straight = flat + (chosen - flat).detach()
        return Codes(ids.reshape(*z.shape[:-1], 1), straight.reshape(z.shape), loss)

    def embed(self, ids: Tensor) -> Tensor:
        """ids (..., 1) -> latents (..., D)."""
        return F.embedding(ids[..., 0], self.codebook)

    @torch.no_grad()
    def _follow(self, flat: Tensor, ids: Tensor, error: Tensor) -> None:
        """Moves each code towards the mean of its latents (N, D), by ids and squared errors (N,)."""
        count = torch.zeros_like(self.count).index_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
        total = torch.zeros_like(self.codebook).index_add_(0, ids, flat)
        if dist.is_initialized():
            dist.all_reduce(count)
            dist.all_reduce(total)
        total = torch.lerp(self.codebook * self.count[:, None], total, 1 - self.decay)
        self.count.lerp_(count, 1 - self.decay)
        used = self.count > 1e-5
        self.codebook.copy_(torch.where(used[:, None], total / self.count[:, None], self.codebook))
        picks = torch.multinomial(error + 1e-9, len(self.count), replacement=True)
        self._restart(self.count < self.dead, flat[picks])

    @torch.no_grad()
    def _initialise(self, flat: Tensor) -> None:
        """Moves all codes onto random latents (N, D), once. Nothing here waits for the device."""
        picks = torch.randint(len(flat), self.count.shape, device=flat.device)
        self._restart(~self.initialised.expand_as(self.count), flat[picks])
        self.initialised.fill_(True)

    @torch.no_grad()
    def _restart(self, restarted: Tensor, latents: Tensor) -> None:
        """Moves the codes marked in `restarted` (K,) onto latents (K, D)."""
        if dist.is_initialized():
            dist.broadcast(latents, src=0)
        self.codebook.copy_(torch.where(restarted[:, None], latents, self.codebook))
        # a low count, so that a code that no latent comes near soon restarts again
        self.count.masked_fill_(restarted, 2 * self.dead)

    def extra_repr(self) -> str:
        return f"codebook_size={self.sizes[0]}, dim={self.dim}"
