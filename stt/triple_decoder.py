"""Transframer's decoder (arXiv 2203.09494): a causal transformer that writes a frame as sparse DCT triples.

A frame is a sequence of (channel, position, value), until an end (`stt.dct`). Where we differ from the paper:

- Positions follow a chain of hazards: each cell fires or is passed over, in the order of the sequence. A softmax over
  positions would have to unlearn, at every step, those that come later.
- What is written so far is encoded once a channel, by a small network (`Draft`), not by the whole U-Net.
- Triples carry no index, since their cells order them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from stt.api import Noise, Sampling
from stt.dct import FrameDCT
from stt.layers import Attention, CrossAttention, ResBlock
from stt.sampler import sample_logits

NEVER = -1e9  # logit of what must not be drawn; finite, so that a row of nothing else has gradients


class Scene(NamedTuple):
    """A context, encoded."""

    target: Tensor  # (B, W, h, w) features of the target frame, cell by cell
    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values of every block, (B, heads, M, d)
    memory_mask: Tensor  # (B, 1, 1, M) bool, which of them belong to frames that are present
    compensated: Tensor  # (B, cells, D, K) coefficients of the nearest frame under each motion, in steps
    evidence: Tensor  # (B, others, D, h, w) how well every other frame agrees with each motion

    def expand(self, batch: int) -> Scene:
        def grow(part: Tensor) -> Tensor:
            return part.expand(batch, *part.shape[1:])

        layers = tuple((grow(k), grow(v)) for k, v in self.layers)
        return Scene(grow(self.target), layers, *map(grow, self[2:]))

    def rows(self, index: Tensor) -> Scene:
        """Some of the batch, of what a Draft takes."""
        parts = {name: getattr(self, name)[index] for name in ("target", "compensated", "evidence")}
        return self._replace(**parts)


class Scores(NamedTuple):
    """Nats (B, N) of a frame's triples, each part given all before it; 0 after the end."""

    channel: Tensor  # or the end
    position: Tensor
    value: Tensor
    valid: Tensor  # bool, up to the end
    cell: Tensor  # int64, position in the frame, or h * w for the end

    @property
    def nats(self) -> Tensor:
        return self.channel + self.position + self.value


def embedding(table: Tensor, ids: Tensor) -> Tensor:
    """Rows (..., D) of a table (K, 1, D)."""
    return F.embedding(ids, table.flatten(1))


class Drafts(NamedTuple):
    """What each cell of M channels may hold."""

    hazards: Tensor  # (B, M, cells) logits that it holds anything
    features: Tensor  # (B, M, cells, C)
    compensated: Tensor  # (B, M, cells) its value in the motion-compensated nearest frame, in steps


class Draft(nn.Module):
    """What each cell of a channel may hold, given the frame's lower channels.

    Without it, the transformer has to find the triples of a cell and its neighbours among all before, which takes far
    more clips to learn. Attention over the nearest frame's shifts compensates motion, as video codecs do; convolutions
    would have to learn each shift by itself.
    """

    def __init__(self, channels: int, scene_width: int, width: int, reach: int, num_others: int) -> None:
        super().__init__()
        self.read_target = nn.Conv2d(scene_width, width, 1)
        self.read_written = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.channel = nn.Parameter(0.02 * torch.randn(channels, 1, width))
        self.body = ResBlock(width)
        self.displace = nn.Conv2d(width, (2 * reach + 1) ** 2, 1)
        self.trust = nn.Parameter(torch.full((num_others, 1, 1, 1), 10.0 / num_others))
        self.copies = nn.Conv2d(channels, width, 1)
        self.copy = nn.Conv2d(3, width, 1)
        self.mix = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 2 * width, 1), nn.SiLU(), nn.Conv2d(2 * width, width, 1))
        self.fires = nn.Conv2d(width, 1, 1)
        self.clear = nn.Parameter(torch.zeros(1))  # log of how much a compensated value says about a hazard
        nn.init.constant_(self.fires.bias, -2.0)  # most cells hold nothing

    def forward(self, scene: Scene, images: Tensor, channel: Tensor) -> Drafts:
        """images (B, 2 K, h, w), of which only channels below `channel` (B, M) count."""
        (b, m), k, side = channel.shape, len(self.channel), scene.target.shape[-1]
        below = torch.arange(k, device=channel.device) < channel[..., None]
        written = images[:, None] * below.repeat(1, 1, 2)[..., None, None]
        x = self.read_written(written.flatten(0, 1)).unflatten(0, (b, m)) + self.read_target(scene.target)[:, None]
        x = self.body((x + embedding(self.channel, channel)[..., None, None]).flatten(0, 1))

        evidence = (self.trust * scene.evidence).sum(dim=1)
        weights = self.displace(F.silu(x)).unflatten(0, (b, m)).float() + evidence[:, None]
        weights = rearrange(weights.softmax(dim=2), "b m d h w -> b (h w) m d")
        blocks = weights @ scene.compensated  # (B, cells, M, K)
        value = blocks.gather(-1, channel[:, None, :, None].expand(-1, side**2, -1, -1))[..., 0]  # (B, cells, M)
        scales = torch.stack([value / 8, value.sign() * value.abs().log1p(), torch.tanh(2 * value.abs() - 1)])
        x = x + self.copies(rearrange(blocks / 8, "b (h w) m k -> (b m) k h w", h=side))
        x = x + self.copy(rearrange(scales, "c b (h w) m -> (b m) c h w", h=side))
        x = x + self.mix(x)

        hazards = rearrange(self.fires(F.silu(x)), "(b m) 1 h w -> b m (h w)", b=b)
        hazards = hazards + self.clear.exp() * (value.mT.abs().clamp(max=1.5) - 0.5)  # half a step rounds to one
        return Drafts(hazards, rearrange(x, "(b m) c h w -> b m (h w) c", b=b), value.mT)


class Block(nn.Module):
    """Causal attention, cross-attention to the scene, MLP; each residual and pre-normed."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(dim) for _ in range(3))
        self.attention, self.cross = Attention(dim, heads), CrossAttention(dim, heads)
        self.up, self.down = nn.Linear(dim, dim * mlp_ratio), nn.Linear(dim * mlp_ratio, dim)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """A whole sequence (B, N, D) -> the same."""
        x = x + self.attention.attend(*self.attention.project(self.norm(x)), causal=True)
        return self._cross_and_mlp(x, memory, mask)

    def one(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor, cache: Tensor, at: int) -> Tensor:
        """Token `at` (B, 1, D); its key and value are written into the cache (2, B, heads, N, d)."""
        q, *new = self.attention.project(self.norm(x))
        cache[..., at : at + 1, :] = torch.stack(new)
        x = x + self.attention.attend(q, *cache[..., : at + 1, :])
        return self._cross_and_mlp(x, memory, mask)

    def _cross_and_mlp(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        x = x + self.cross(self.cross_norm(x), memory, mask)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class TripleDecoder(nn.Module):
    """Scores and draws the triples of a target frame, given its scene.

    A token holds its triple and the draft's features of its cell. The heads take the same features, so that a value
    depends on its surroundings from the start of training.
    """

    def __init__(
        self, codec: FrameDCT, *, dim: int, depth: int, heads: int, mlp_ratio: int, scene_width: int, draft: int,
        reach: int, num_others: int, max_triples: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.codec, self.max_triples, self.heads = codec, max_triples, heads
        c, k, side = codec.config, codec.config.dct_channels, codec.config.grid
        exists = codec.exists.view(k, -1)
        self.register_buffer("exists", exists, persistent=False)  # (K, cells)
        spacing = [c.spacing if i % c.channels else 1 for i in range(k)]
        last = [(side - 1) // step * step * (side + 1) for step in spacing]  # on the diagonal
        self.register_buffer("last", torch.tensor(last), persistent=False)  # position of every channel
        self.register_buffer("spacing", torch.tensor(spacing), persistent=False)

        self.draft = Draft(k, scene_width, draft, reach, num_others)
        self.begin = nn.Parameter(0.02 * torch.randn(dim))
        self.channel = nn.Parameter(0.02 * torch.randn(k, 1, dim))
        self.rows = nn.Parameter(0.02 * torch.randn(side, 1, dim))
        self.columns = nn.Parameter(0.02 * torch.randn(1, side, dim))
        self.value = nn.Parameter(0.02 * torch.randn(2 * codec.limit + 1, 1, dim))
        self.place = nn.Linear(draft, dim)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

        self.leave = nn.Linear(dim, k + 1)  # logits of the channel to move to, or the end
        self.query, self.query_channel = nn.Linear(dim, draft), nn.Parameter(0.02 * torch.randn(k, 1, draft))
        self.key, self.key_place = nn.Linear(scene_width, draft), nn.Linear(dim, draft)
        self.value_hidden, self.value_place = nn.Linear(dim, dim), nn.Linear(draft, dim)
        self.value_near = nn.Linear(4, dim)
        self.value_channel = nn.Parameter(0.02 * torch.randn(k, 1, dim))
        self.value_head = nn.Linear(dim, 2 * codec.limit + 2)
        for head in (self.leave, self.query, self.value_head):
            nn.init.normal_(head.weight, std=0.02)

    @property
    def places(self) -> Tensor:
        """(h * w, dim)"""
        return (self.rows + self.columns).flatten(0, 1)

    def token(self, channel: Tensor, position: Tensor, value: Tensor, features: Tensor) -> Tensor:
        """Triples (B, N) and the draft's features of their cells (B, N, C) -> (B, N, dim)."""
        triple = embedding(self.channel, channel) + embedding(self.value, value + self.codec.limit)
        return triple + F.embedding(position, self.places) + self.place(features)

    # ---- heads ---------------------------------------------------------------------------------------

    def keys(self, scene: Scene) -> Tensor:
        """Keys of the cells for queries of hidden states, (B, C, h * w)."""
        keys = self.key(rearrange(scene.target, "b w h v -> b (h v) w")) + self.key_place(self.places)
        return keys.mT * keys.shape[-1] ** -0.5

    def position_logits(
        self, hidden: Tensor, keys: Tensor, hazards: Tensor, channel: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which cell of a channel is the first to fire, of those after a position.

        hidden (B, N, dim), hazards (B, N, cells) of the channel (B, N) -> log probabilities of the cells (B, N, cells)
        and that all are passed over (B, N).
        """
        query = self.query(hidden) + embedding(self.query_channel, channel)
        logits = hazards.float() + (query @ keys).float()
        ahead = self.exists[channel] & (torch.arange(logits.shape[-1], device=logits.device) > after[..., None])
        passed = F.logsigmoid(-logits).masked_fill(~ahead, 0).cumsum(dim=-1)
        return (logits + passed).masked_fill(~ahead, NEVER), passed[..., -1]

    def channel_logits(self, hidden: Tensor, channel: Tensor, none: Tensor, after: Tensor) -> Tensor:
        """Log probabilities (B, N, K + 1) of the next triple's channel, or of the end.

        It stays in `channel` unless all its cells after position `after` are passed over, with log probability `none`.
        """
        choices = torch.arange(len(self.exists) + 1, device=hidden.device)
        leave = self.leave(hidden).float().masked_fill(choices <= channel[..., None], NEVER).log_softmax(dim=-1)
        stay = torch.log(-torch.expm1(none.clamp(max=-1e-6))).masked_fill(after >= self.last[channel], NEVER)
        return torch.where(choices == channel[..., None], stay[..., None], leave + none[..., None])

    def value_logits(
        self, hidden: Tensor, channel: Tensor, features: Tensor, neighbours: Tensor, compensated: Tensor
    ) -> Tensor:
        """(B, N, 2 limit): -limit ... -1, 1 ... limit. A Laplace-like peak near the compensated value, plus logits."""
        h = self.value_hidden(hidden) + embedding(self.value_channel, channel)
        h = self.value_head(F.silu(h + self.value_place(features) + self.value_near(neighbours))).float()
        offset, sharpness, logits = h.split([1, 1, h.shape[-1] - 2], dim=-1)
        sizes = torch.arange(1, self.codec.limit + 1, device=h.device)
        values = torch.cat([-sizes.flip(0), sizes])
        return logits - F.softplus(sharpness) * (values - compensated[..., None] - offset).abs()

    def neighbours(self, dense: Tensor, channel: Tensor, position: Tensor) -> Tensor:
        """Values beside a cell, of its channel and before its own: left and the three above. (B, N, 4)"""
        side, gap = self.codec.config.grid, self.spacing[channel][..., None]
        away = torch.tensor([[0, -1, -1, -1], [-1, -1, 0, 1]]).to(dense.device, non_blocking=True)
        row, column = (position // side)[..., None] + gap * away[0], (position % side)[..., None] + gap * away[1]
        inside = (row >= 0) & (column >= 0) & (column < side)
        cell = (channel[..., None] * side + row) * side + column
        values = dense.flatten(1).gather(1, cell.clamp(min=0).flatten(1)).view_as(cell) * inside
        return values.sign() * values.abs().float().log1p()

    # ---- teacher forcing -----------------------------------------------------------------------------

    def scores(self, scene: Scene, dense: Tensor) -> Scores:
        """Nats of images (B, K, h, w), triple by triple, up to max_triples."""
        k, cells = self.exists.shape
        longest = None if dense.device.type == "cpu" else self.max_triples  # a device should not wait for the length
        triples = self.codec.to_triples(dense, longest).first(self.max_triples)
        end, channel = triples.channel == k, triples.channel.clamp(max=k - 1)
        position, value = triples.position.masked_fill(end, 0), triples.value.masked_fill(end, 1)

        channels = torch.arange(k, device=dense.device).expand(len(dense), -1)
        drafts = self.draft(scene, self.codec.features(dense), channels)
        cell = channel * cells + position
        features = drafts.features.flatten(1, 2)
        features = features.gather(1, cell[..., None].expand(-1, -1, features.shape[-1]))  # (B, N, C)

        tokens = self.token(channel, position, value, features)
        x = torch.cat([self.begin.expand(len(tokens), 1, -1), tokens[:, :-1]], dim=1)
        for block, memory in zip(self.blocks, scene.layers, strict=True):
            x = block(x, memory, scene.memory_mask)
        hidden, keys = self.norm(x), self.keys(scene)

        last, after = F.pad(channel[:, :-1], (1, 0)), F.pad(position[:, :-1], (1, 0), value=-1)
        _, none = self.position_logits(hidden, keys, rows_of(drafts.hazards, last), last, after)
        channel_logits = self.channel_logits(hidden, last, none, after)
        after = torch.where(channel == last, after, -1)
        position_logits, _ = self.position_logits(hidden, keys, rows_of(drafts.hazards, channel), channel, after)
        neighbours, compensated = self.neighbours(dense, channel, position), drafts.compensated.flatten(1)
        value_logits = self.value_logits(hidden, channel, features, neighbours, compensated.gather(1, cell))

        valid = F.pad(~end[:, :-1], (1, 0), value=True)
        value_index = value + self.codec.limit - (value > 0).long()
        return Scores(
            channel=cross_entropy(channel_logits, triples.channel) * valid,
            position=cross_entropy(position_logits, position) * (valid & ~end),
            value=cross_entropy(value_logits, value_index) * (valid & ~end),
            valid=valid,
            cell=torch.where(end, cells, position),
        )

    # ---- sampling ------------------------------------------------------------------------------------

    def draw(self, scene: Scene, sampling: Sampling, noise: Noise) -> Tensor:
        """Dense images (F, K, h, w), triple by triple; what a frame has beyond max_triples is detail."""
        (k, cells), futures, limit = self.exists.shape, noise.futures, self.codec.limit
        parts = (k + 1, cells, 2 * limit)
        # all that a frame could need, so that a future's next frame does not depend on how long others' were
        gumbel = noise.gumbel(self.max_triples, 1, sum(parts)).split(parts, dim=-1) if sampling.temperature else None

        def choose(part: int, logits: Tensor, n: int) -> Tensor:
            return sample_logits(logits, sampling, gumbel[part][:, n] if gumbel else logits)

        keys, future = self.keys(scene), torch.arange(futures, device=self.begin.device)[:, None]
        dim = len(self.begin)
        caches = self.begin.new_zeros(len(self.blocks), 2, futures, self.heads, self.max_triples, dim // self.heads)
        side = self.codec.config.grid
        dense = torch.zeros(futures, k, side, side, dtype=torch.long, device=self.begin.device)
        channel, after = torch.zeros_like(future), torch.full_like(future, -1)
        ended = torch.zeros_like(future, dtype=torch.bool)
        drafts = self.draft(scene, self.codec.features(dense), channel)
        x = self.begin.expand(futures, 1, -1)
        for n in range(self.max_triples):
            for block, memory, cache in zip(self.blocks, scene.layers, caches, strict=True):
                x = block.one(x, memory, scene.memory_mask, cache, n)
            hidden = self.norm(x)
            position_logits, none = self.position_logits(hidden, keys, drafts.hazards, channel, after)
            choice = choose(0, self.channel_logits(hidden, channel, none, after), n)
            ended = ended | (choice == k)
            if ended.all():
                break
            moves = ~ended & (choice != channel)
            if moves.any():
                channel, after = torch.where(moves, choice, channel), torch.where(moves, -1, after)
                rows = moves[:, 0].nonzero()[:, 0]
                new = self.draft(scene.rows(rows), self.codec.features(dense[rows]), channel[rows])
                drafts = Drafts(*(old.index_copy(0, rows, part) for old, part in zip(drafts, new, strict=True)))
                position_logits, _ = self.position_logits(hidden, keys, drafts.hazards, channel, after)
            after = choose(1, position_logits, n)
            features, compensated = drafts.features[future, 0, after], drafts.compensated[future, 0, after]
            neighbours = self.neighbours(dense, channel, after)
            index = choose(2, self.value_logits(hidden, channel, features, neighbours, compensated), n)
            value = index - limit + (index >= limit).long()
            flat = dense.flatten(2)
            flat[future, channel, after] = torch.where(ended, flat[future, channel, after], value)
            x = self.token(channel, after, value, features)
        return dense


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N, D) of tables (B, K, D); by a product, whose gradient needs no scattering."""
    return F.one_hot(index, table.shape[1]).to(table.dtype) @ table


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(B, N, K), (B, N) -> nats (B, N)."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
