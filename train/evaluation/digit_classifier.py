"""A classifier of the digits in a frame, and how it is trained."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Generator, Tensor, nn

from stt.api import Video
from stt.layers import ResBlock, group_norm, patchify
from stt.metrics import unit
from train.data.bouncing import deterministic_start, render, simulate_deterministic, stochastic_start
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.optim import MuonAdamW
from train.seeding import generator_for

SIZE = 64  # pixels a side
MAX_DIGITS = 2  # in a frame
KINDS = ("stochastic", "deterministic")
FP8_NUMEL = 2**16  # weights of tensors that are stored in 8 bits


@cache
def digit_sets() -> Tensor:
    """Every multiset of at most MAX_DIGITS digits, the empty one first, as counts of each digit: (66, 10)."""
    singles = torch.eye(10, dtype=torch.int64)
    first, second = torch.combinations(torch.arange(10), MAX_DIGITS, with_replacement=True).unbind(dim=1)
    return torch.cat([torch.zeros(1, 10, dtype=torch.int64), singles, singles[first] + singles[second]])


def digit_counts(labels: Tensor) -> Tensor:
    """Labels (..., D) -> (..., 10) how often each digit occurs."""
    return F.one_hot(labels, 10).sum(dim=-2)


class DigitClassifier(nn.Module):
    """Classifies a frame into the 66 sets of at most two digits.

    A residual network whose head scores how often each digit occurs; the score of a set is the sum over digits.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128), blocks: int = 2, patch: int = 4) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [nn.Conv2d(patch**2, widths[0], 3, padding=1)]
        for i, width in enumerate(widths):
            if i:
                layers.append(nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1))
            layers += [ResBlock(width) for _ in range(blocks)]
        self.features = nn.Sequential(*layers, group_norm(widths[-1]), nn.SiLU())
        dim = 2 * widths[-1]
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, 10 * (MAX_DIGITS + 1)))
        self.register_buffer("sets", F.one_hot(digit_sets(), MAX_DIGITS + 1).float(), persistent=False)  # (66, 10, 3)

    def feature_map(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> (N, 128, 8, 8)."""
        if tuple(frames.shape[1:]) != (1, SIZE, SIZE):
            raise ValueError(f"frames are {tuple(frames.shape[1:])}, the classifier reads (1, {SIZE}, {SIZE})")
        return self.features(patchify(frames, self.patch))

    def embed(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> (N, 640), see `pool`."""
        return pool(self.feature_map(frames))

    def set_log_probs(self, embedding: Tensor) -> Tensor:
        """Embeddings (..., 640) -> log-probabilities (..., 66) of the digit sets, wherever digits are."""
        *quarters, most = embedding.chunk(5, dim=-1)
        scores = self.head(torch.cat([sum(quarters) / 4, most], dim=-1)).unflatten(-1, (10, MAX_DIGITS + 1)).float()
        return torch.einsum("... k c, s k c -> ... s", scores, self.sets).log_softmax(dim=-1)

    def count_log_probs(self, embedding: Tensor) -> Tensor:
        """Embeddings (..., 640) -> log-probabilities (..., 10, 3) of how often each digit occurs."""
        probs = torch.einsum(
            "... s, s k c -> ... k c", self.set_log_probs(embedding).double().exp(), self.sets.double()
        )
        return probs.clamp(min=1e-30).log().float()

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> log-probabilities (N, 10, 3) of how often each digit occurs."""
        return self.count_log_probs(self.embed(frames))

    @torch.inference_mode()
    def classify(self, frames: Tensor) -> Tensor:
        """Frames (..., 1, 64, 64) on [0, 1] -> (..., 10) how often each digit occurs, in the likeliest set."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        best = torch.cat([self.set_log_probs(self.embed(part)).argmax(dim=-1) for part in flat.split(128)])
        return digit_sets().to(best.device)[best].reshape(*frames.shape[:-3], 10)


def classified_exactly(classifier: DigitClassifier, video: Video, labels: Tensor) -> Tensor:
    """Whether the classifier reads just these digits, (B or 1, D), in each frame of (B, T, C, H, W): (B, T) bool."""
    counts = classifier.classify(unit(video))  # (B, T, 10)
    return (counts == digit_counts(labels)[:, None].to(counts.device)).all(dim=-1)


def pool(features: Tensor) -> Tensor:
    """Mean over each quarter of the frame, and maximum over all positions: (N, C, h, w) -> (N, 5 * C)."""
    quarters = F.adaptive_avg_pool2d(features, 2)  # (N, C, 2, 2)
    return torch.cat([rearrange(quarters, "n c y x -> n (y x c)"), features.amax(dim=(2, 3))], dim=1)


def load_digit_classifier(path: Path, device: torch.device | str = "cpu") -> DigitClassifier:
    classifier = DigitClassifier().to(device)
    classifier.load_state_dict(load_file(path, device=str(device)))
    return classifier.eval()


def save_digit_classifier(classifier: DigitClassifier, path: Path, accuracy: dict[str, float]) -> None:
    """Weights in half precision, the largest in 8 bits (E4M3), which classify no worse; accuracies in the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: t.to(torch.float8_e4m3fn if t.numel() >= FP8_NUMEL else torch.float16).cpu().contiguous()
        for name, t in classifier.state_dict().items()
    }
    save_file(weights, path, metadata={f"exact on {name}": f"{rate:.4f}" for name, rate in accuracy.items()})


@torch.inference_mode()
def accuracy_of(classifier: DigitClassifier, mnist: Path | None, frames: int = 4000) -> dict[str, float]:
    """Share of frames of MNIST's test digits whose digits are all classified right, by kind and number of digits."""
    rates, device = {}, next(classifier.parameters()).device
    for digits in range(1, MAX_DIGITS + 1):
        for kind in KINDS:
            config = MovingMNISTConfig(kind=kind, digits=digits, frames=1, strokes=0.0)
            clip = MovingMNIST(config, mnist, "test").sample(frames, seed=0, index=0)
            counts = classifier.classify(unit(clip.video[:, 0]).to(device)).cpu()
            rates[f"{kind}, {digits}"] = float((counts == digit_counts(clip.labels)).all(dim=-1).float().mean())
    return rates


# ---- training ----------------------------------------------------------------------------------------


class LabelledFrames(NamedTuple):
    frames: Tensor  # (B, 1, 64, 64) on [0, 1]
    labels: Tensor  # (B, 2) int64
    visible: Tensor  # (B, 2) bool, whether that digit is there
    centres: Tensor  # (B, 2, 2) pixels as (y, x)


def labelled_frames(videos: MovingMNIST, batch: int, seed: int, index: int) -> LabelledFrames:
    """Training frames of two digits, at times one or none, slightly warped; half of the pairs lie close together."""
    c, generator = videos.config, generator_for("classifier", videos.split, seed, index)
    ids = videos.bank.choose(batch, MAX_DIGITS, generator)
    visible = torch.rand(batch, generator=generator)[:, None] > torch.tensor([0.02, 0.32])  # 2 % of none, 30 % of one
    glyphs = warp(videos.bank.pictures(ids), generator) * visible[..., None, None].to(videos.device)
    if c.kind == "stochastic":
        positions = stochastic_start(batch, MAX_DIGITS, generator).position.clamp(0, SIZE - c.digit_size - 1)
    else:
        start = deterministic_start(batch, MAX_DIGITS, generator)
        positions = simulate_deterministic(start, 1, SIZE, c.digit_size).positions[:, 0]  # (B, 2, 2) int64
    near = positions[:, 0] + (8 * torch.randn(batch, 2, generator=generator)).round().long()
    near = near.clamp(0, SIZE - c.digit_size - 1)
    close = torch.rand(batch, generator=generator) < 0.5
    positions[:, 1] = torch.where(close[:, None], near, positions[:, 1])
    frames = unit(render(glyphs, positions[:, None].to(videos.device), SIZE, c.overlap)[:, 0])
    return LabelledFrames(frames, videos.bank.labels[ids], visible, positions.float() + c.digit_size / 2)


def warp(glyphs: Tensor, generator: Generator) -> Tensor:
    """Glyphs (B, D, h, w), each rotated, scaled, sheared and shifted a little at random."""
    flat = glyphs.flatten(0, 1)[:, None]  # (B * D, 1, h, w)
    noise = torch.randn(len(flat), 2, 3, generator=generator).clamp(-2, 2)
    affine = torch.eye(2, 3) + noise * torch.tensor([0.07, 0.07, 0.03])
    grid = F.affine_grid(affine.to(flat.device), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, grid, align_corners=False)[:, 0].unflatten(0, glyphs.shape[:2])


def set_ids(data: LabelledFrames) -> Tensor:
    """The row of `digit_sets` that each frame shows, (B,)."""
    counts = (F.one_hot(data.labels, 10) * data.visible[..., None]).sum(dim=1)  # (B, 10)
    return (counts[:, None] == digit_sets()).all(dim=-1).float().argmax(dim=-1)


def centre_map(data: LabelledFrames, side: int = 8, reach: float = 7.0) -> Tensor:
    """Which digits have their centre within `reach` pixels of a cell's, (B, 10, side, side) of 0 and 1."""
    cells = (torch.arange(side) + 0.5) * SIZE / side
    near = (data.centres[..., None] - cells).abs() < reach  # (B, D, 2, side)
    near = near[:, :, 0, :, None] & near[:, :, 1, None, :] & data.visible[..., None, None]  # (B, D, side, side)
    classes = F.one_hot(data.labels, 10).float()  # (B, D, 10)
    return torch.einsum("b d k, b d h w -> b k h w", classes, near.float()).clamp(max=1)


def classifier_loss(classifier: DigitClassifier, locate: nn.Conv2d, data: LabelledFrames) -> Tensor:
    """Cross-entropy of the digit set, and of each digit's centre by place, which helps to separate two digits."""
    device = data.frames.device
    with torch.autocast(device.type, torch.bfloat16):
        features = classifier.feature_map(data.frames)
        embedding, located = pool(features), locate(features)
    set_loss = F.nll_loss(classifier.set_log_probs(embedding.float()), set_ids(data).to(device))
    centres = F.binary_cross_entropy_with_logits(located.float(), centre_map(data).to(device), reduction="sum")
    return set_loss + 0.1 * centres / len(data.frames)


def optimizer_of(classifier: DigitClassifier, locate: nn.Conv2d, lr: float) -> MuonAdamW:
    """Muon for the kernels and matrices between hidden layers, AdamW for the rest."""
    weights = [*classifier.parameters(), *locate.parameters()]
    outer = {id(p) for module in (classifier.features[0], classifier.head[-1], locate) for p in module.parameters()}
    hidden = [p for p in weights if p.ndim >= 2 and id(p) not in outer]
    rest = [p for p in weights if p.ndim < 2 or id(p) in outer]
    groups = [{"params": hidden, "muon": True, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return MuonAdamW(groups, lr=lr, betas=(0.9, 0.98))


def train_digit_classifier(
    classifier: DigitClassifier,
    mnist: Path | None,
    minutes: float,
    batch: int,
    lr: float,
    seed: int,
    report: Callable[[int, float, float], None],
    every: float = 5.0,
) -> int:
    """Trains on frames of both KINDS in turn; returns how many. Reports frames, minutes and loss every 5 minutes."""
    device = next(classifier.parameters()).device
    configs = [MovingMNISTConfig(kind=kind, frames=1, strokes=0.25) for kind in KINDS]
    sources = [MovingMNIST(config, mnist, "train", device) for config in configs]
    locate = nn.Conv2d(128, 10, 1).to(device)
    optimizer = optimizer_of(classifier, locate, lr)
    begun, step, reports, mean = time.monotonic(), 0, 1, torch.zeros((), device=device)
    while (elapsed := (time.monotonic() - begun) / 60) < minutes:
        progress = elapsed / minutes
        for group in optimizer.param_groups:
            group["lr"] = lr * min(progress / 0.02 + 1e-2, 1.0, (1 - progress) / 0.7)
        loss = classifier_loss(classifier, locate, labelled_frames(sources[step % len(sources)], batch, seed, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        mean.lerp_(loss.detach(), max(1 / step, 0.01))
        if elapsed >= every * reports:
            report(step * batch, elapsed, float(mean))
            reports += 1
    return step * batch
