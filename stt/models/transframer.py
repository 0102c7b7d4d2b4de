"""Transframer: draws the frame that is asked for, given frames around it, as a sequence of sparse DCT triples.

A U-Net sees the frames that are there, each with its time from the asked-for one; a causal transformer writes the
asked-for frame as (channel, position, value), one triple after the other, until an end (arXiv 2203.09494; the sequence
is that of arXiv 2103.03841). As any frame may be asked for, the same network predicts and fills gaps; asked for another
image of a frame, such as which digit lies where, it draws that.

Where we differ. Positions follow a chain of hazards: every cell fires or is passed over, in the order of the sequence.
A softmax over places would have to unlearn, at every step, the places that come later. The asked-for frame is a slot
of the U-Net by itself, so that its features lie cell by cell where triples will; what is drawn of it so far is seen
once a channel, by a small network (`Draft`), in the place of the original's further passes of the whole U-Net. Triples
carry no index, since their cells order them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from stt.api import (
    NO_CONDITION,
    Batch,
    Condition,
    Config,
    Loss,
    Noise,
    Predictor,
    PredictorConfig,
    Sampling,
    Surprise,
    Video,
)
from stt.dct import DCTConfig, FrameDCT
from stt.layers import Attention, AttentionBlock, CrossAttention, ResBlock, rotary
from stt.sampler import sample_logits

NEVER = -1e9  # logit of what must not be drawn; finite, so that a row of nothing else has gradients
WAVES = 32  # sines and cosines of a time
FAR = 3  # times the reach, the most that a frame beyond the nearest is displaced
AROUND = 4  # cells on each side that tell a cell's motion


@dataclass(frozen=True, kw_only=True)
class TransframerConfig(PredictorConfig):
    dct: DCTConfig = field(default_factory=lambda: DCTConfig(channels=1, block=4, background=0, quality=25))
    context_frames: int = 4  # most frames that are seen; any fewer will do
    dim: int = 128
    depth: int = 4  # blocks of the decoder
    heads: int = 4
    mlp_ratio: int = 4
    widths: tuple[int, ...] = (64, 128)  # of the U-Net, from the DCT's grid to the one that the decoder attends to
    blocks: int = 2  # of the U-Net at its lowest resolution
    draft: int = 48  # width of the network that sees what is drawn
    most_triples: int = 224  # of a frame; what a longer one has beyond, always fine detail, is left out
    reach: int = 5  # pixels, per axis, by which the nearest frame may be displaced
    residual: bool = False  # triples are what the frame differs from the nearest one that is there
    between: float = 0.3  # share of training clips whose asked-for frame has frames on both sides
    short_context: float = 0.1  # share of the others that see a random number of frames
    own_past: float = 0.5  # share of training clips whose context is as if it had been drawn: coded, with mistakes
    mistakes: float = 0.5  # of their triples, most that are lacking, and how far values are off
    maps: tuple[str, ...] = ()  # other images of a frame that may be asked for, by name
    map_share: float = 0.15  # share of training clips that ask for one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_frames != 1:
            raise ValueError(f"chunk_frames is {self.chunk_frames}, must be 1: frames are drawn one by one")
        for name in ("image_size", "channels"):
            if getattr(self, name) != getattr(self.dct, name):
                raise ValueError(f"{name} is {getattr(self, name)}, its dct's is {getattr(self.dct, name)}")
        if not self.widths or self.dct.grid % 2 ** (len(self.widths) - 1):
            raise ValueError(f"{len(self.widths)} widths halve a grid of {self.dct.grid} cells too often")
        for name in ("widths", "dim", "draft"):
            value = getattr(self, name)
            if any(width < 16 or width % 16 for width in (value if name == "widths" else (value,))):
                raise ValueError(f"{name} is {value}, must be a multiple of 16")
        if not 1 <= self.most_triples <= self.dct.longest:
            raise ValueError(f"most_triples is {self.most_triples}, must be 1 to {self.dct.longest}, all of a frame")
        if self.reach < 0:
            raise ValueError(f"reach is {self.reach}, must be 0 or more")
        for name in ("between", "short_context", "own_past", "mistakes", "map_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be between 0 and 1")

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        return {"dct": DCTConfig}

    @property
    def others(self) -> int:
        """Frames beside the nearest one."""
        return max(self.context_frames - 1, 1)


class Context(NamedTuple):
    """Frames around the one that is asked for, the nearest first, sides in turn."""

    video: Video  # (B, S, C, H, W)
    dense: Tensor  # (B, S, K, h, w) int64
    offsets: Tensor  # (B, S) int64, times from the asked-for frame: negative is before it
    held: Tensor  # (B, S) bool, whether the slot holds a frame; the first always does
    notes: Tensor  # (B, S + 1, A + M) actions, and which map is asked for; the asked-for frame's last


class Scene(NamedTuple):
    """What the U-Net makes of a context."""

    asked: Tensor  # (B, W, h, w) features of the asked-for frame, cell by cell
    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values of every block, (B, heads, M, d)
    seen: Tensor  # (B, 1, 1, M) bool, which of them belong to frames
    displaced: Tensor  # (B, cells, D, K) coefficients of the nearest frame, displaced, in steps
    motion: Tensor  # (B, others, D, h, w) how well every other frame agrees with each displacement
    reference: Tensor  # (B, K, h, w) int64, what residuals are taken of

    def expand(self, batch: int) -> Scene:
        layers = tuple((k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in self.layers)
        rest = (part.expand(batch, *part.shape[1:]) for part in (self.asked, self.seen, *self[3:]))
        asked, seen, *others = rest
        return Scene(asked, layers, seen, *others)

    def rows(self, index: Tensor) -> Scene:
        """Some of the batch, of what a Draft looks at."""
        kept = {name: getattr(self, name)[index] for name in ("asked", "displaced", "motion")}
        return self._replace(**kept)


class Scores(NamedTuple):
    """Nats (B, N) of a frame's triples, each part given all before it; 0 after the end."""

    channel: Tensor  # or the end
    position: Tensor
    value: Tensor
    alive: Tensor  # bool, up to the end
    place: Tensor  # int64, cell of the frame, or h * w for the end

    @property
    def nats(self) -> Tensor:
        return self.channel + self.position + self.value


def nearest(offsets: Tensor, held: Tensor, count: int) -> Tensor:
    """Indices (B, min(count, T)) of the frames nearest to time 0, sides in turn, those that are not there last."""
    side, far = offsets > 0, offsets.abs()
    nearer = (side[:, None] == side[..., None]) & (far[:, None] < far[..., None]) & held[:, None]
    rank = nearer.sum(dim=-1) + ~held * held.shape[1]
    return (rank * 2 * (far.amax() + 1) + 2 * far + side).argsort(dim=-1, stable=True)[:, :count]


def look(table: Tensor, ids: Tensor) -> Tensor:
    """Rows (..., D) of a table (K, 1, D), which has three axes so that it is not taken for a matrix in training."""
    return F.embedding(ids, table.flatten(1))


class TimeAttention(nn.Module):
    """Every cell sees its own place in all frames that are there. (B, S, C, h, w) -> same."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        _, _, _, height, width = x.shape
        cells = self.norm(rearrange(x, "b s c h w -> (b h w) s c"))
        mask = repeat(there, "b s -> (b n) 1 1 s", n=height * width)
        h = self.attention.attend(*self.attention.project(cells), mask=mask)
        return x + rearrange(h, "(b h w) s c -> b s c h w", h=height, w=width)


class Level(nn.Module):
    """One resolution of the U-Net on its way down: per frame a convolution, then attention. (B, S, C, h, w) -> same."""

    def __init__(self, width: int, blocks: int, dim: int, lowest: bool) -> None:
        super().__init__()
        self.note = nn.Linear(dim, width)
        self.convs = nn.ModuleList(ResBlock(width) for _ in range(blocks))
        self.space = nn.ModuleList(AttentionBlock(width) for _ in range(blocks * lowest))
        self.times = nn.ModuleList(TimeAttention(width) for _ in range(blocks))

    def forward(self, x: Tensor, note: Tensor, there: Tensor) -> Tensor:
        slots = x.shape[1]
        x = x + self.note(note)[..., None, None]
        for i, (conv, time) in enumerate(zip(self.convs, self.times, strict=True)):
            h = conv(x.flatten(0, 1))
            if self.space:
                h = self.space[i](h)
            x = time(h.unflatten(0, (-1, slots)), there)
        return x


class Up(nn.Module):
    """Back to a finer resolution, for the asked-for frame alone, which looks at the others' cells once more."""

    def __init__(self, coarse: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.grow = nn.Conv2d(coarse, 4 * width, 1)
        self.norm, self.others = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)
        self.convs = nn.Sequential(ResBlock(width), ResBlock(width))

    def forward(self, x: Tensor, fine: Tensor, there: Tensor) -> Tensor:
        """x (B, coarse, h/2, w/2), all frames at the finer resolution (B, S, width, h, w) -> (B, width, h, w)."""
        _, _, _, height, width = fine.shape
        x = F.pixel_shuffle(self.grow(x), 2) + fine[:, -1]
        memory = self.attention.remember(self.others(rearrange(fine, "b s c h w -> (b h w) s c")))
        mask = repeat(there, "b s -> (b n) 1 1 s", n=height * width)
        h = self.attention(self.norm(rearrange(x, "b c h w -> (b h w) 1 c")), memory, mask)
        return self.convs(x + rearrange(h, "(b h w) 1 c -> b c h w", h=height, w=width))


class ContextUNet(nn.Module):
    """Frames and their annotations -> features of the asked-for frame, and of all frames at the lowest resolution."""

    def __init__(self, config: TransframerConfig) -> None:
        super().__init__()
        c = config
        self.annotate = nn.Sequential(
            nn.Linear(WAVES + 1 + len(c.actions) + len(c.maps), c.dim), nn.SiLU(), nn.Linear(c.dim, c.dim)
        )
        self.embed = nn.Conv2d(2 * c.dct.dct_channels, c.widths[0], 3, padding=1)
        self.motion = nn.Conv2d(c.others * (2 * c.reach + 1) ** 2, c.widths[0], 3, padding=1)
        steps = list(zip(c.widths[:-1], c.widths[1:], strict=True))
        self.levels = nn.ModuleList(Level(width, 1, c.dim, lowest=False) for width in c.widths[:-1])
        self.downs = nn.ModuleList(nn.Conv2d(fine, coarse, 4, stride=2, padding=1) for fine, coarse in steps)
        self.lowest = Level(c.widths[-1], c.blocks, c.dim, lowest=True)
        self.ups = nn.ModuleList(Up(coarse, fine) for fine, coarse in reversed(steps))

    def forward(self, images: Tensor, context: Context, motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """images (B, S, C, h, w), motion (B, N, D, h, w) -> (B, W, h, w), (B, S + 1, W', h', w'), (B, S + 1, dim)."""
        there = F.pad(context.held, (0, 1), value=True)  # the asked-for frame comes last, as an empty image
        images = F.pad(images * context.held[..., None, None, None], (0, 0, 0, 0, 0, 0, 0, 1))
        times = torch.cat(rotary(F.pad(context.offsets, (0, 1)).flatten(), WAVES, longest=16.0), dim=-1)
        held = F.pad(context.held, (0, 1)).to(images.dtype)[..., None]
        note = self.annotate(torch.cat([times.unflatten(0, there.shape), held, context.notes], dim=-1))
        x = self.embed(images.flatten(0, 1)).unflatten(0, there.shape)
        x = torch.cat([x[:, :-1], x[:, -1:] + self.motion(motion.flatten(1, 2))[:, None]], dim=1)
        fine = []
        for level, down in zip(self.levels, self.downs, strict=True):
            fine.append(level(x, note, there))
            x = down(fine[-1].flatten(0, 1)).unflatten(0, there.shape)
        x = self.lowest(x, note, there)
        asked = x[:, -1]
        for up in self.ups:
            asked = up(asked, fine.pop(), there)
        return asked, x, note


class Drafts(NamedTuple):
    """What each cell of some channels may hold; (B, M) channels."""

    hazards: Tensor  # (B, M, cells) logits that it holds anything
    features: Tensor  # (B, M, cells, C)
    copied: Tensor  # (B, M, cells) the value that it would have as a copy of the nearest frame, in steps


class Draft(nn.Module):
    """What each cell of a channel may hold, given the frame's lower channels.

    Without it the transformer has to find, among all triples before, those of a cell and its neighbours: it learns
    that in the end, from far more clips than it takes a convolution to begin with it. Likewise for motion: attention
    over the displaced nearest frame, as video codecs predict, says at once what a network of convolutions would have
    to learn for every displacement by itself.
    """

    def __init__(self, config: TransframerConfig) -> None:
        super().__init__()
        c, k = config, config.dct.dct_channels
        self.asked = nn.Conv2d(c.widths[0], c.draft, 1)
        self.drawn = nn.Conv2d(2 * k, c.draft, 3, padding=1)
        self.channel = nn.Parameter(0.02 * torch.randn(k, 1, c.draft))
        self.body = ResBlock(c.draft)
        self.displace = nn.Conv2d(c.draft, (2 * c.reach + 1) ** 2, 1)
        self.trust = nn.Parameter(torch.full((c.others, 1, 1, 1), 10.0 / c.others))
        self.copies = nn.Conv2d(k, c.draft, 1)
        self.copy = nn.Conv2d(3, c.draft, 1)
        self.mix = nn.Sequential(
            nn.SiLU(), nn.Conv2d(c.draft, 2 * c.draft, 1), nn.SiLU(), nn.Conv2d(2 * c.draft, c.draft, 1)
        )
        self.fires = nn.Conv2d(c.draft, 1, 1)
        self.clear = nn.Parameter(torch.zeros(1))  # log of how much a copied value says of whether a cell fires
        nn.init.constant_(self.fires.bias, -2.0)  # most cells hold nothing

    def forward(self, scene: Scene, images: Tensor, channel: Tensor) -> Drafts:
        """images (B, 2 K, h, w), channel (B, M): of the images nothing but the channels below `channel` counts."""
        asked = scene.asked
        (b, m), k, side = channel.shape, len(self.channel), asked.shape[-1]
        below = torch.arange(k, device=channel.device) < channel[..., None]
        drawn = images[:, None] * below.repeat(1, 1, 2)[..., None, None]
        x = self.drawn(drawn.flatten(0, 1)).unflatten(0, (b, m)) + self.asked(asked)[:, None]
        x = self.body((x + look(self.channel, channel)[..., None, None]).flatten(0, 1))
        agreed = (self.trust * scene.motion).sum(dim=1)
        weights = self.displace(F.silu(x)).unflatten(0, (b, m)).float() + agreed[:, None]
        weights = rearrange(weights.softmax(dim=2), "b m d h w -> b (h w) m d")
        copies = weights @ scene.displaced  # (B, cells, M, K)
        copied = copies.gather(-1, channel[:, None, :, None].expand(-1, side**2, -1, -1))[..., 0]  # (B, cells, M)
        seen = torch.stack([copied / 8, copied.sign() * copied.abs().log1p(), torch.tanh(2 * copied.abs() - 1)])
        x = x + self.copies(rearrange(copies / 8, "b (h w) m k -> (b m) k h w", h=side))
        x = x + self.copy(rearrange(seen, "c b (h w) m -> (b m) c h w", h=side))
        x = x + self.mix(x)
        hazards = rearrange(self.fires(F.silu(x)), "(b m) 1 h w -> b m (h w)", b=b)
        hazards = hazards + self.clear.exp() * (copied.mT.abs().clamp(max=1.5) - 0.5)  # half a step rounds to one
        return Drafts(hazards, rearrange(x, "(b m) c h w -> b m (h w) c", b=b), copied.mT)


class Block(nn.Module):
    """Causal attention, cross-attention to the scene, MLP; each residual and pre-normed."""

    def __init__(self, config: TransframerConfig) -> None:
        super().__init__()
        c = config
        self.norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(c.dim) for _ in range(3))
        self.attention = Attention(c.dim, c.heads)
        self.cross = CrossAttention(c.dim, c.heads)
        self.up, self.down = nn.Linear(c.dim, c.dim * c.mlp_ratio), nn.Linear(c.dim * c.mlp_ratio, c.dim)

    def _rest(self, x: Tensor, memory: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        x = x + self.cross(self.cross_norm(x), memory, seen)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], seen: Tensor) -> Tensor:
        """A whole sequence (B, N, D) -> the same."""
        x = x + self.attention.attend(*self.attention.project(self.norm(x)), causal=True)
        return self._rest(x, memory, seen)

    def one(self, x: Tensor, memory: tuple[Tensor, Tensor], seen: Tensor, cache: Tensor, at: int) -> Tensor:
        """Token `at` (B, 1, D); its key and value are written into the cache (2, B, heads, N, d)."""
        q, *new = self.attention.project(self.norm(x))
        cache[..., at : at + 1, :] = torch.stack(new)
        x = x + self.attention.attend(q, *cache[..., : at + 1, :])
        return self._rest(x, memory, seen)


class TransframerState(NamedTuple):
    recent: Video  # (B, 1 ... context_frames, C, H, W): the prompt's end, then predictions


class Transframer(Predictor):
    family: ClassVar[str] = "transframer"
    knobs: frozenset[str] = frozenset({"temperature", "top_k", "top_p"})
    exists: Tensor  # (K, cells) bool

    def __init__(self, config: TransframerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.codec = FrameDCT(c.dct)
        k, side, small = c.dct.dct_channels, c.dct.grid, c.dct.grid // 2 ** (len(c.widths) - 1)
        unit = self.codec.steps.T.flatten() / (127.5 * c.dct.block)  # of a step, in [-1, 1]'s brightness
        self.register_buffer("unit", unit.float()[:, None, None], persistent=False)
        self.register_buffer("exists", self.codec.exists.view(k, -1), persistent=False)
        spacing = [1 if i % c.channels == 0 else c.dct.spacing for i in range(k)]
        last = self.exists.shape[1] - 1 - self.exists.flip(1).int().argmax(dim=1)
        self.register_buffer("last", last, persistent=False)  # position of every channel
        self.register_buffer("spacing", torch.tensor(spacing), persistent=False)

        self.unet = ContextUNet(c)
        self.memory, self.memory_note = nn.Linear(c.widths[-1], c.dim), nn.Linear(c.dim, c.dim)
        self.memory_rows = nn.Parameter(0.02 * torch.randn(small, 1, c.dim))
        self.memory_columns = nn.Parameter(0.02 * torch.randn(1, small, c.dim))

        # A token sees, beside its own triple, the draft's features of its cell: what the context and the channels
        # below say of that very place. The heads look up the same, so that a value is local from the start.
        self.draft = Draft(c)
        self.begin = nn.Parameter(0.02 * torch.randn(c.dim))
        self.channel = nn.Parameter(0.02 * torch.randn(k, 1, c.dim))
        self.rows = nn.Parameter(0.02 * torch.randn(side, 1, c.dim))
        self.columns = nn.Parameter(0.02 * torch.randn(1, side, c.dim))
        self.value = nn.Parameter(0.02 * torch.randn(2 * self.codec.limit + 1, 1, c.dim))
        self.place = nn.Linear(c.draft, c.dim)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.dim)

        self.leave = nn.Linear(c.dim, k + 1)  # for which channel, or the end
        self.query, self.query_channel = nn.Linear(c.dim, c.draft), nn.Parameter(0.02 * torch.randn(k, 1, c.draft))
        self.key, self.key_place = nn.Linear(c.widths[0], c.draft), nn.Linear(c.dim, c.draft)
        self.value_hidden, self.value_place = nn.Linear(c.dim, c.dim), nn.Linear(c.draft, c.dim)
        self.value_near = nn.Linear(4, c.dim)
        self.value_channel = nn.Parameter(0.02 * torch.randn(k, 1, c.dim))
        self.value_head = nn.Linear(c.dim, 2 * self.codec.limit + 2)
        for head in (self.leave, self.query, self.value_head):
            nn.init.normal_(head.weight, std=0.02)

    # ---- network -------------------------------------------------------------------------------------

    def images(self, dense: Tensor) -> Tensor:
        """Dense images (..., K, h, w) as networks see them: brightness, and the logarithm of steps. (..., 2 K, h, w)"""
        logs = dense.sign() * dense.abs().float().log1p() / math.log1p(self.codec.limit)
        return torch.cat([dense * self.unit, logs], dim=-3)

    def scene(self, context: Context) -> Scene:
        displaced, motion = self.motion(context)
        asked, low, note = self.unet(self.images(context.dense), context, motion)
        memory = self.memory(rearrange(low, "b s c h w -> b s h w c"))
        memory = memory + self.memory_note(note)[:, :, None, None] + self.memory_rows + self.memory_columns
        there = F.pad(context.held, (0, 1), value=True)
        seen = repeat(there, "b s -> b 1 1 (s n)", n=low.shape[-2] * low.shape[-1])
        memory = rearrange(memory, "b s h w d -> b (s h w) d")
        layers = tuple(block.cross.remember(memory) for block in self.blocks)
        return Scene(asked, layers, seen, displaced, motion, context.dense[:, 0])

    def displaced(self, frames: Tensor, shifts: Tensor) -> Tensor:
        """Coefficients, in steps, of frames (B, C, H, W) seen from shifted cells: shifts (B, D, 2) -> (B, cells, D, K).

        Shifts are pixels (y, x), cut to those that FAR times `reach` allows; beyond the border lies the background.
        """
        c, far = self.config, FAR * self.config.reach
        colours = torch.einsum("yc,bchw->byhw", self.codec.to_ycbcr.float(), (frames + 1) * 127.5)
        everywhere = []
        for component in range(c.channels):
            spacing = c.dct.spacing if component else 1
            plane = colours[:, component : component + 1] - (0 if component else c.dct.background)
            kernel = self.codec.basis.unflatten(-1, (c.dct.block, c.dct.block))
            kernel = kernel.repeat_interleave(spacing, 1).repeat_interleave(spacing, 2) / spacing**2
            kernel = (kernel / self.codec.steps[component, :, None, None]).float()[:, None]
            more = far + c.dct.block * spacing - 1
            everywhere.append(F.conv2d(F.pad(plane, (far, more, far, more)), kernel))
        everywhere = rearrange(torch.stack(everywhere, dim=2), "b k c y x -> b (y x) (k c)")
        y, x = (shifts.clamp(-far, far) + far).unbind(dim=-1)  # (B, D)
        corner = torch.arange(c.dct.grid, device=frames.device) * c.dct.block
        rows, columns = corner[:, None, None, None] + y, corner[:, None, None] + x  # (h, 1, B, D), (w, B, D)
        index = rearrange(rows * (c.image_size + 2 * far) + columns, "h w b d -> b (h w d)")
        found = everywhere.gather(1, index[..., None].expand(-1, -1, everywhere.shape[-1]))
        return rearrange(found, "b (n d) k -> b n d k", n=c.dct.positions)

    @torch.no_grad()
    def motion(self, context: Context) -> tuple[Tensor, Tensor]:
        """The nearest frame as each motion would have it in the place of the asked-for one, (B, cells, D, K).

        And how well every other frame agrees, had it moved alike, around each cell (B, others, D, h, w):
        at most 1, 0 on average; 0 where none is there, the motion is beyond FAR, or the asked-for frame is there.
        """
        c, side = self.config, torch.arange(-self.config.reach, self.config.reach + 1, device=context.video.device)
        shifts = torch.cartesian_prod(side, side).expand(len(context.video), -1, -1)  # (B, D, 2)
        nearest = self.displaced(context.video[:, 0], shifts)
        agreed = nearest.new_zeros(len(nearest), c.others, shifts.shape[1], c.dct.grid, c.dct.grid)
        away = context.offsets[:, :1]
        pace = context.offsets[:, 1:] / torch.where(away == 0, 1, away)  # a map lies where its own frame does
        there = context.held[:, 1:] & (away != 0)
        for k in range(context.video.shape[1] - 1):
            moved = (shifts * pace[:, k, None, None]).round().long()
            near = (moved.abs() <= FAR * c.reach).all(dim=-1) & there[:, k, None]  # (B, D)
            off = (nearest - self.displaced(context.video[:, k + 1], moved)) * self.unit.flatten()
            off = rearrange(off.square().sum(dim=-1), "b (h w) d -> b d h w", h=c.dct.grid)
            off = F.avg_pool2d(off, 2 * AROUND + 1, stride=1, padding=AROUND)
            near = near[..., None, None]
            mean = (off * near).sum(dim=1, keepdim=True) / near.sum(dim=1, keepdim=True).clamp(min=1)
            agreed[:, k] = (mean - off) / (mean + 1e-4) * near
        return nearest, agreed

    @property
    def places(self) -> Tensor:
        """(h * w, dim)"""
        return (self.rows + self.columns).flatten(0, 1)

    def keys(self, scene: Scene) -> Tensor:
        """What a hidden state may look for among the cells, (B, C, h * w)."""
        keys = self.key(rearrange(scene.asked, "b w h v -> b (h v) w")) + self.key_place(self.places)
        return keys.mT * keys.shape[-1] ** -0.5

    def token(self, channel: Tensor, position: Tensor, value: Tensor, features: Tensor) -> Tensor:
        """Triples (B, N) and the draft's features of their cells (B, N, C) -> (B, N, dim)."""
        triple = look(self.channel, channel) + look(self.value, value + self.codec.limit)
        return triple + F.embedding(position, self.places) + self.place(features)

    def near(self, dense: Tensor, channel: Tensor, position: Tensor) -> Tensor:
        """Values beside a cell, of its channel, that come before its own: left and the three above. (B, N, 4)"""
        side, gap = self.config.dct.grid, self.spacing[channel][..., None]
        away = torch.tensor([[0, -1, -1, -1], [-1, -1, 0, 1]], device=dense.device)
        row, column = (position // side)[..., None] + gap * away[0], (position % side)[..., None] + gap * away[1]
        inside = (row >= 0) & (column >= 0) & (column < side)
        cell = (channel[..., None] * side + row) * side + column
        found = dense.flatten(1).gather(1, cell.clamp(min=0).flatten(1)).view_as(cell) * inside
        return found.sign() * found.abs().float().log1p()

    def first(
        self, hidden: Tensor, keys: Tensor, hazards: Tensor, channel: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which cell of a channel is the first to fire, of those after a position.

        hidden (B, N, dim), hazards (B, N, cells) of the channel (B, N) -> log probabilities of the cells (B, N, cells)
        and that all are passed over (B, N).
        """
        query = self.query(hidden) + look(self.query_channel, channel)
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

    def value_logits(self, hidden: Tensor, channel: Tensor, features: Tensor, near: Tensor, copied: Tensor) -> Tensor:
        """(B, N, 2 limit): -limit ... -1, 1 ... limit."""
        h = self.value_hidden(hidden) + look(self.value_channel, channel)
        h = self.value_head(F.silu(h + self.value_place(features) + self.value_near(near))).float()
        moved, sharp, free = h.split([1, 1, h.shape[-1] - 2], dim=-1)
        sizes = torch.arange(1, self.codec.limit + 1, device=h.device)
        values = torch.cat([-sizes.flip(0), sizes])
        return free - F.softplus(sharp) * (values - copied[..., None] - moved).abs()

    def scores(self, scene: Scene, dense: Tensor) -> Scores:
        """How likely images (B, K, h, w) are, triple by triple: of no more than most_triples."""
        c, k = self.config, len(self.exists)
        longest = None if dense.device.type == "cpu" else c.most_triples  # a device should not wait to know the length
        triples = self.codec.to_triples(dense, longest).first(c.most_triples)
        end, channel = triples.channel == k, triples.channel.clamp(max=k - 1)
        position, value = triples.position.masked_fill(end, 0), triples.value.masked_fill(end, 1)

        every = torch.arange(k, device=dense.device).expand(len(dense), -1)
        drafts = self.draft(scene, self.images(dense), every)
        cell = channel * self.exists.shape[1] + position
        features = drafts.features.flatten(1, 2)
        features = features.gather(1, cell[..., None].expand(-1, -1, features.shape[-1]))  # (B, N, C)

        tokens = self.token(channel, position, value, features)
        x = torch.cat([self.begin.expand(len(tokens), 1, -1), tokens[:, :-1]], dim=1)
        for block, memory in zip(self.blocks, scene.layers, strict=True):
            x = block(x, memory, scene.seen)
        hidden, keys = self.norm(x), self.keys(scene)

        now, after = F.pad(channel[:, :-1], (1, 0)), F.pad(position[:, :-1], (1, 0), value=-1)
        _, none = self.first(hidden, keys, rows_of(drafts.hazards, now), now, after)
        channels = self.channel_logits(hidden, now, none, after)
        begun = torch.where(channel == now, after, -1)
        positions, _ = self.first(hidden, keys, rows_of(drafts.hazards, channel), channel, begun)
        near, copied = self.near(dense, channel, position), drafts.copied.flatten(1).gather(1, cell)
        values = self.value_logits(hidden, channel, features, near, copied)
        alive = F.pad(~end[:, :-1], (1, 0), value=True)
        return Scores(
            channel=cross_entropy(channels, triples.channel) * alive,
            position=cross_entropy(positions, position) * (alive & ~end),
            value=cross_entropy(values, self._choice(value)) * (alive & ~end),
            alive=alive,
            place=torch.where(end, self.exists.shape[1], position),
        )

    def _choice(self, value: Tensor) -> Tensor:
        """-limit ... -1, 1 ... limit -> 0 ... 2 limit - 1."""
        return value + self.codec.limit - (value > 0).long()

    # ---- training ------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Loss:
        """Cross-entropy of one frame of each clip given others, in nats a triple; the parts are nats a triple too.

        Maps are the other images that the config names, without which none is asked for; actions annotate the frames.
        """
        c, video, maps = self.config, batch.video, batch.maps
        actions = batch.actions if c.actions else None
        known = 0 if maps is None else maps.shape[1]
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, training needs at least 2")
        if maps is not None and (known != len(c.maps) or maps.shape[2:] != video.shape[1:]):
            raise ValueError(f"maps are {tuple(maps.shape)}, must be {len(c.maps)} a frame of {tuple(video.shape)}")
        asked, held, wanted = self.task(len(video), video.shape[1], known, video.device)
        offsets = torch.arange(video.shape[1], device=video.device) - asked[:, None]
        each = torch.arange(len(video), device=video.device)
        if actions is not None:
            actions = torch.cat([actions, actions[each, asked][:, None]], dim=1)
        context = self.as_drawn(video)
        scene = self.scene(self._context(context, offsets, held, wanted, actions))
        images = video[:, None] if maps is None else torch.cat([video[:, None], maps], dim=1)
        scores = self.scores(scene, self._target(images[each, wanted, asked], scene))
        count = scores.alive.sum()
        ce = {name: getattr(scores, name).sum() / count for name in ("channel", "position", "value")}
        total = sum(ce.values())
        bits = scores.nats.detach().sum() / (math.log(2) * video[:, 0].numel())
        return Loss(total, {f"ce_{name}": part.detach() for name, part in ce.items()} | {"bits_per_dim": bits})

    @torch.no_grad()
    def as_drawn(self, video: Video) -> Video:
        """Clips, some of them as if this model had drawn them: triples are lacking, their values are off."""
        c, dense = self.config, self.codec.encode(video)
        own, wrong = torch.rand(2, len(video), 1, 1, 1, 1, device=video.device)
        wrong = c.mistakes * wrong
        off = (wrong * (1 + dense.abs()) * torch.randn(dense.shape, device=video.device)).round().long()
        kept = (dense != 0) & (torch.rand(dense.shape, device=video.device) >= wrong / 2)
        drawn = ((dense + off) * kept).clamp(-self.codec.limit, self.codec.limit)
        return torch.where(own < c.own_past, self.codec.decode(drawn), video)

    def task(self, batch: int, frames: int, maps: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Draws which frame of each clip is asked for (B,), which others are there (B, T), and what of it (B,).

        That is 0 for the frame itself, from 1 on for one of the maps; for these the frame mostly is there as well.
        """
        c = self.config

        def below(ends: Tensor) -> Tensor:
            """Whole numbers 0 ... ends - 1."""
            return (torch.rand(ends.shape, device=device) * ends).long().clamp(max=ends - 1)

        def chance(share: float | Tensor, *shape: int) -> Tensor:
            return torch.rand(shape, device=device) < share

        times = torch.arange(frames, device=device)
        between = chance(c.between, batch) & (frames > 2)
        asked = 1 + below(frames - 1 - between.long())
        full = torch.full_like(asked, c.context_frames)
        count = torch.where(chance(c.short_context, batch), 1 + below(full), full)
        ahead = (times - asked[:, None] + count[:, None] >= 0) & (times < asked[:, None])
        # in between: a gap around the asked-for frame; beyond it all frames are there, or a random part of them
        # often next to it, as when gaps are filled from their ends
        left, right = below(asked)[:, None], (asked + 1 + below((frames - 1 - asked).clamp(min=1)))[:, None]
        left = torch.where(chance(0.4, batch, 1), asked[:, None] - 1, left)
        right = torch.where(chance(0.4, batch, 1), asked[:, None] + 1, right)
        share = 2 * torch.rand(batch, 1, device=device)
        around = (times == left) | (times == right) | ((times < left) | (times > right)) & chance(share, batch, frames)
        held = torch.where(between[:, None], around, ahead)
        wanted = (1 + below(torch.full_like(asked, maps))) * chance(c.map_share, batch) if maps else 0 * asked
        return asked, held | (times == asked[:, None]) & (wanted > 0)[:, None] & chance(0.75, batch, 1), wanted

    def _context(
        self,
        video: Video,
        offsets: Tensor,
        held: Tensor,
        wanted: Tensor | None = None,
        actions: Tensor | None = None,
    ) -> Context:
        """The nearest frames of those that are there; offsets and held are (B, T), wanted (B,) as `task` draws it."""
        c, index = self.config, nearest(offsets, held, self.config.context_frames)
        each = torch.arange(len(video), device=video.device)[:, None]
        notes = video.new_zeros(len(video), index.shape[1] + 1, len(c.actions) + len(c.maps))
        if actions is not None:
            notes[..., : len(c.actions)] = torch.cat([actions[each, index], actions[:, -1:]], dim=1)
        if wanted is not None:
            notes[:, -1, len(c.actions) :] = F.one_hot(wanted, len(c.maps) + 1)[:, 1:].to(notes.dtype)
        dense = self.codec.encode(video[each, index])
        return Context(video[each, index], dense, offsets.gather(1, index), held.gather(1, index), notes)

    def _target(self, frames: Tensor, scene: Scene) -> Tensor:
        """Frames (B, C, H, W) -> the dense images whose triples are written."""
        dense = self.codec.encode(frames)
        return self.codec.residual(dense, scene.reference) if self.config.residual else dense

    # ---- likelihood ----------------------------------------------------------------------------------

    @torch.inference_mode()
    def surprise(self, video: Video) -> Surprise:
        """Bits of every frame's triples given the frames before it: exact for triples, not for pixels.

        A triple's bits lie in its cell, those of the end everywhere.
        What a frame has beyond most_triples costs nothing.
        """
        c = self.config
        if video.shape[1] < 2:
            raise ValueError(f"clips have {video.shape[1]} frames, a surprise needs at least 2")
        where = []
        for t in range(1, video.shape[1]):
            scene = self.scene(self._past(video[:, max(0, t - c.context_frames) : t]))
            scores = self.scores(scene, self._target(video[:, t], scene))
            cells = scores.nats.new_zeros(len(video), c.dct.positions + 1)
            cells = cells.scatter_add(1, scores.place, scores.nats)
            cells = cells[:, :-1] + cells[:, -1:] / c.dct.positions
            where.append(cells.clamp(min=0) / (math.log(2) * c.dct.block**2 * c.channels))
        where = torch.stack(where, dim=1).unflatten(-1, (c.dct.grid, c.dct.grid))
        return Surprise(where.mean(dim=(-2, -1)), where)

    def _past(self, frames: Video) -> Context:
        """Frames right before the one that is asked for."""
        offsets = torch.arange(-frames.shape[1], 0, device=frames.device).expand(len(frames), -1)
        return self._context(frames, offsets, torch.ones_like(offsets, dtype=torch.bool))

    # ---- prediction ----------------------------------------------------------------------------------

    def start(self, context: Video, condition: Condition = NO_CONDITION) -> TransframerState:
        return TransframerState(context[:, -self.config.context_frames :])

    def step(self, state: TransframerState, sampling: Sampling, noise: Noise) -> tuple[Video, TransframerState]:
        frame = self._drawn(self.scene(self._past(state.recent)), sampling, noise)
        recent = state.recent.expand(noise.futures, -1, -1, -1, -1)
        return frame, TransframerState(torch.cat([recent, frame], dim=1)[:, -self.config.context_frames :])

    def frame(
        self,
        context: Video,
        offsets: Tensor,
        sampling: Sampling,
        noise: Noise,
        actions: Tensor | None = None,
        ask: str = "",
    ) -> Video:
        """As `Predictor.frame`; of more than context_frames the nearest on both sides count.

        actions: (B, T + 1, A), the asked-for frame's last. ask: which of the config's maps of that frame is
        wanted in its place; then the frame itself, of time 0, may be among the others.
        """
        if context.shape[1] < 1 or tuple(offsets.shape) != (context.shape[1],):
            raise ValueError(f"context has {context.shape[1]} frames, offsets are {offsets.tolist()}")
        if ask and ask not in self.config.maps:
            raise ValueError(f"{ask!r} is asked for, the model knows {list(self.config.maps)}")
        if offsets.is_floating_point() or not (ask or offsets.all()):
            raise ValueError(f"offsets are {offsets.tolist()}, must be whole and not 0: that is the asked-for frame")
        offsets = offsets.to(context.device).expand(len(context), -1)
        wanted = torch.full_like(offsets[:, 0], 1 + self.config.maps.index(ask) if ask else 0)
        scene = self.scene(self._context(context, offsets, torch.ones_like(offsets).bool(), wanted, actions))
        return self._drawn(scene, sampling, noise)

    def _drawn(self, scene: Scene, sampling: Sampling, noise: Noise) -> Video:
        dense = self.draw(scene.expand(noise.futures), sampling, noise)
        if self.config.residual:
            dense = self.codec.restored(dense, scene.reference)
        return self.codec.decode(dense)[:, None]

    def draw(self, scene: Scene, sampling: Sampling, noise: Noise) -> Tensor:
        """Dense images (F, K, h, w), triple by triple; what is left out at most_triples is detail."""
        c, (k, cells), futures = self.config, self.exists.shape, noise.futures
        parts = (k + 1, cells, 2 * self.codec.limit)
        # all that a frame could need, so that a future's next frame does not depend on how long others' were
        gumbel = noise.gumbel(c.most_triples, 1, sum(parts)).split(parts, dim=-1) if sampling.temperature else None

        def choose(part: int, logits: Tensor, n: int) -> Tensor:
            return sample_logits(logits, sampling, gumbel[part][:, n] if gumbel else logits)

        keys, every = self.keys(scene), torch.arange(futures, device=self.begin.device)[:, None]
        cache = self.begin.new_zeros(c.depth, 2, futures, c.heads, c.most_triples, c.dim // c.heads)
        dense = torch.zeros(futures, k, c.dct.grid, c.dct.grid, dtype=torch.long, device=self.begin.device)
        channel, after = torch.zeros_like(every), torch.full_like(every, -1)
        ended = torch.zeros_like(every, dtype=torch.bool)
        drafts = self.draft(scene, self.images(dense), channel)
        x = self.begin.expand(futures, 1, -1)
        for n in range(c.most_triples):
            for block, memory, kept in zip(self.blocks, scene.layers, cache, strict=True):
                x = block.one(x, memory, scene.seen, kept, n)
            hidden = self.norm(x)
            fires, none = self.first(hidden, keys, drafts.hazards, channel, after)
            chosen = choose(0, self.channel_logits(hidden, channel, none, after), n)
            ended = ended | (chosen == k)
            if ended.all():
                break
            moved = ~ended & (chosen != channel)
            if moved.any():
                channel, after = torch.where(moved, chosen, channel), torch.where(moved, -1, after)
                rows = moved[:, 0].nonzero()[:, 0]
                new = self.draft(scene.rows(rows), self.images(dense[rows]), channel[rows])
                drafts = Drafts(*(old.index_copy(0, rows, part) for old, part in zip(drafts, new, strict=True)))
                fires, _ = self.first(hidden, keys, drafts.hazards, channel, after)
            after = choose(1, fires, n)
            features, copied = drafts.features[every, 0, after], drafts.copied[every, 0, after]
            near = self.near(dense, channel, after)
            value = choose(2, self.value_logits(hidden, channel, features, near, copied), n)
            value = value - self.codec.limit + (value >= self.codec.limit).long()
            flat = dense.flatten(2)
            flat[every, channel, after] = torch.where(ended, flat[every, channel, after], value)
            x = self.token(channel, after, value, features)
        return dense


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N, D) of tables (B, K, D); by a product, whose gradient needs no scattering."""
    return F.one_hot(index, table.shape[1]).to(table.dtype) @ table


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(B, N, K), (B, N) -> nats (B, N)."""
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
