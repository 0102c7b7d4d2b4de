"""Trains the judge of digits: python -m train.judge --mnist DIR --minutes 15 --out assets/judge.safetensors"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from stt.layers import ResBlock, group_norm, patchify
from stt.measures import unit
from train.data import DigitVideos, World

SIZE = 64  # pixels a side
MOST = 2  # digits of one kind in a frame
LARGE = 2**16  # weights of a tensor
WORLDS = tuple(World(kind=kind, digits=n, frames=1) for n in (1, 2) for kind in ("stochastic", "deterministic"))


class Judge(nn.Module):
    """Names the digits of a frame: for each of the ten, how often it is there. A plain residual network."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128), patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [nn.Conv2d(patch**2, widths[0], 3, stride=2, padding=1)]
        for i, width in enumerate(widths):
            if i:
                layers.append(nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1))
            layers += [ResBlock(width), ResBlock(width)]
        self.features = nn.Sequential(*layers, group_norm(widths[-1]), nn.SiLU())
        self.head = nn.Linear(2 * widths[-1], 10 * (MOST + 1))

    def embed(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> what the head sees of them (N, 256)."""
        if tuple(frames.shape[1:]) != (1, SIZE, SIZE):
            raise ValueError(f"frames are {tuple(frames.shape[1:])}, the judge reads (1, {SIZE}, {SIZE})")
        h = self.features(patchify(frames, self.patch))
        return torch.cat([h.mean(dim=(2, 3)), h.amax(dim=(2, 3))], dim=1)

    def named(self, embedded: Tensor) -> Tensor:
        """What `embed` gives, (..., 256) -> logits (..., 10, 3) of how often each digit is there."""
        return self.head(embedded).unflatten(-1, (10, MOST + 1))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames (N, 1, 64, 64) on [0, 1] -> logits (N, 10, 3) of how often each digit is there."""
        return self.named(self.embed(frames))

    @torch.inference_mode()
    def digits(self, frames: Tensor) -> Tensor:
        """Frames (..., 1, 64, 64) on [0, 1] -> (..., 10) how often each digit is there."""
        flat = frames.reshape(-1, *frames.shape[-3:])
        named = torch.cat([self(part).argmax(dim=-1) for part in flat.split(512)])
        return named.reshape(*frames.shape[:-3], 10)


def counts(labels: Tensor) -> Tensor:
    """Labels (..., D) -> (..., 10) how often each digit is there."""
    return F.one_hot(labels, 10).sum(dim=-2)


def load_judge(path: Path, device: torch.device | str = "cpu") -> Judge:
    judge = Judge().to(device)
    judge.load_state_dict(load_file(path, device=str(device)))
    return judge.eval()


def narrowed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """In half precision, the largest in 8 bits (E4M3), as which they name digits no worse: a scorer travels light."""
    kinds = {name: torch.float8_e4m3fn if t.numel() >= LARGE else torch.float16 for name, t in weights.items()}
    return {name: t.to(kinds[name]).cpu().contiguous() for name, t in weights.items()}


def exact_rates(judge: Judge, mnist: Path | None, frames: int = 2000) -> dict[str, float]:
    """Share of real held-out frames whose digits are all named right, per world."""
    rates = {}
    for world in WORLDS:
        clip = DigitVideos(world, mnist, "test").sample(frames, seed=0, index=0)
        device = next(judge.parameters()).device
        named = judge.digits(unit(clip.video[:, 0]).to(device)).cpu()
        rates[f"{world.kind}, {world.digits}"] = float((named == counts(clip.labels)).all(dim=-1).float().mean())
    return rates


def train(judge: Judge, mnist: Path | None, minutes: float, batch: int, lr: float, device: str) -> int:
    """Trains on frames of all WORLDS in turn; returns how many it saw."""
    sources = [DigitVideos(world, mnist, "train", device) for world in WORLDS]
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.05)
    begun, step = time.monotonic(), 0
    bar = tqdm(total=1.0, bar_format="{percentage:5.1f}%|{bar}| {elapsed}<{remaining} {postfix}")
    while (progress := (time.monotonic() - begun) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(progress / 0.05 + 1e-3, 1 - progress)
        clip = sources[step % len(sources)].sample(batch, seed=0, index=step)
        logits = judge(unit(clip.video[:, 0]))
        loss = F.cross_entropy(logits.flatten(0, 1), counts(clip.labels).to(logits.device).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        bar.update(progress - bar.n)
        if step % 50 == 0:
            bar.set_postfix_str(f"{step * batch} frames, loss {float(loss.detach()):.4f}")
    bar.close()
    return step * batch


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--mnist", type=Path, help="folder of the MNIST .gz files; downloaded when not given")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main() -> None:
    args = parser().parse_args()
    torch.manual_seed(0)
    judge = Judge().to(args.device, memory_format=torch.channels_last)
    seen = train(judge, args.mnist, args.minutes, args.batch, args.lr, args.device)
    rates = exact_rates(judge.eval(), args.mnist)
    print({name: round(rate, 4) for name, rate in rates.items()}, f"after {seen} frames")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        narrowed(judge.state_dict()),
        args.out,
        metadata={f"exact on {name}": f"{rate:.4f}" for name, rate in rates.items()},
    )


if __name__ == "__main__":
    main()
