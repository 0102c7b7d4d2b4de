"""How fast VideoGPT draws codes, with its cache, without, and beside the original: python -m train.benchmark

Every sampler draws whole sequences from nothing, in turns on the same machine, so that their ratios hold where their
seconds do not. Codes are drawn, no frames decoded, but in the row that says so: tokenizers may differ in size.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor, nn

from stt.api import Sampling
from stt.checkpoint import load
from stt.models.videogpt import VideoGPT, VideoGPTConfig
from stt.sampler import SeededNoise, sample_logits
from stt.tokenizer import VideoVQConfig

CACHED = "ours"
DEFAULT = VideoGPTConfig()
Sampler = Callable[[int], Tensor]  # number of sequences -> their codes, or the latents of those (F, S, h, w, ...)


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    seconds: float  # a sequence, median of the rounds
    codes: float  # a second
    ratio: float  # of its seconds to those of the cached sampler in the same round, median of the rounds


# ---- ours --------------------------------------------------------------------------------------------


def random_model(*, dim: int, depth: int, heads: int, slices: int, grid: int, codebook_size: int) -> VideoGPT:
    """Random weights, unconditional: no frames to attend to and no classes."""
    side = grid * VideoVQConfig().downsampling
    tokenizer = VideoVQConfig(image_size=side, codebook_size=codebook_size)
    config = VideoGPTConfig(
        image_size=side, tokenizer=tokenizer, context_frames=1, slices=slices, dim=dim, depth=depth, heads=heads,
        frame_conditioning=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return VideoGPT(config).eval()


def nothing(model: VideoGPT) -> Tensor:
    """A prompt without frames."""
    c = model.config
    return model.begin.new_zeros(1, 0, c.channels, c.image_size, c.image_size)


def without_frames(model: VideoGPT) -> VideoGPT:
    """A copy that draws the same codes and returns black frames."""
    c, drawing = model.config, copy.deepcopy(model)

    def decode(latents: Tensor) -> Tensor:
        frames = latents.shape[1] * c.chunk_frames
        return latents.new_zeros(len(latents), frames, c.channels, c.image_size, c.image_size)

    drawing.tokenizer.decode = decode
    return drawing


def compiled(model: VideoGPT) -> VideoGPT:
    """A copy whose step from one code to the next is compiled."""
    model = copy.deepcopy(model)
    model.compile_step()
    return model


@torch.inference_mode()
def cached(model: VideoGPT, futures: int, sampling: Sampling) -> Tensor:
    """Latents (F, S, h, w, D) of whole sequences, drawn as `stt.rollout` draws them; future k from seed k."""
    noise = SeededNoise(range(futures), model.begin.device)
    state = model.start(nothing(model))
    for _ in range(model.config.slices):
        _, state = model.step(state, sampling, noise)
    return state.latents


@torch.inference_mode()
def naive(model: VideoGPT, futures: int, sampling: Sampling, whole: bool) -> Tensor:
    """The same latents without a cache: for every code the logits of all codes are computed anew.

    whole: of the whole sequence, as if its length were fixed, else of the slices that have begun.
    """
    c, side = model.config, model.config.tokenizer.grid
    noise = SeededNoise(range(futures), model.begin.device)
    memory, label = model.remember(nothing(model)), model.label(None)
    memory = memory.expand(futures) if memory else None
    latents = model.begin.new_zeros(futures, c.slices, side, side, c.tokenizer.latent_dim)
    for s in range(c.slices):
        gumbel = noise.gumbel(c.cells, c.tokenizer.codebook_size)
        for j in range(c.cells):
            logits, _ = model.logits(latents if whole else latents[:, : s + 1], memory, label)
            ids = sample_logits(logits[:, s * c.cells + j], sampling, gumbel[:, j])
            latents[:, s, j // side, j % side] = model.tokenizer.quantizer.embed(ids[:, None])
    return latents


def check_same(ours: Tensor, other: Tensor, name: str) -> None:
    """Raises RuntimeError unless both drew the same codes: their times could not be compared."""
    if differing := int((ours != other).any(dim=-1).sum()):
        raise RuntimeError(f"{name}: {differing} of {ours[..., 0].numel()} codes are not those drawn with the cache")


# ---- the original ------------------------------------------------------------------------------------


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Makes `videogpt` the package in `folder`, and stands in for what its sampler needs only to be imported."""

    class LightningModule(nn.Module):
        def save_hyperparameters(self) -> None:
            pass

    modules = {name: ModuleType(name) for name in ("videogpt", "pytorch_lightning", "skvideo", "skvideo.io")}
    modules["videogpt.download"] = ModuleType("videogpt.download")
    modules["videogpt"].__path__ = [str(folder / "videogpt")]  # its __init__ would import its data sets
    modules["pytorch_lightning"].LightningModule = LightningModule
    modules["skvideo"].io = modules["skvideo.io"]
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in list(sys.modules):
            if name.split(".")[0] in modules:
                del sys.modules[name]
        sys.modules.update(before)


def original(folder: Path, config: VideoGPTConfig, device: torch.device | str) -> tuple[Sampler, nn.Module]:
    """The sampler of github.com/wilson1yan/VideoGPT at the sizes of `config`, from a checkout; and its network.

    Equal to ours: layers, width, heads, 4-fold MLPs, the codebook's size and width, slices and grid, the order of
    codes, a cache of keys and values, float32, temperature 1, no conditioning, random weights. Its own: attention
    always over the whole length with a mask, a sigmoid GELU, positions side by side instead of summed, neither the
    slice before as an input nor biases at both ends, `torch.multinomial` instead of seeded noise, a loss with
    every code. Not timed: its tokenizer's decoder, and its progress bar.
    Raises ValueError where there is no checkout or it does not take these sizes.
    """
    if not (folder / "videogpt" / "gpt.py").is_file():
        raise ValueError(f"{folder} holds no videogpt/gpt.py: give a checkout of github.com/wilson1yan/VideoGPT")
    c, t = config, config.tokenizer
    if c.dim % 3:
        raise ValueError(f"dim is {c.dim}, the original takes multiples of 3")
    vq = SimpleNamespace(
        embedding_dim=t.latent_dim, n_codes=t.codebook_size, n_hiddens=8, n_res_layers=1,
        downsample=(c.chunk_frames, t.downsampling, t.downsampling), sequence_length=c.slices * c.chunk_frames,
        resolution=c.image_size,
    )  # fmt: skip
    gpt = SimpleNamespace(
        vqvae="", n_cond_frames=0, class_cond=False, class_cond_dim=None, hidden_dim=c.dim, heads=c.heads,
        layers=c.depth, dropout=0.0, attn_type="full", attn_dropout=0.0, resolution=c.image_size,
    )  # fmt: skip
    with importable(folder):
        tokenizer = importlib.import_module("videogpt.vqvae").VQVAE(vq)
        sys.modules["videogpt.download"].load_vqvae = lambda name: tokenizer
        module = importlib.import_module("videogpt.gpt")
        module.tqdm = iter
        model = module.VideoGPT(gpt).to(device).eval()
    drawn: list[Tensor] = []

    def decode(codes: Tensor) -> Tensor:
        drawn[:] = [codes]
        return codes

    model.vqvae.decode = decode

    def sample(futures: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its way of indexing is deprecated
            model.sample(futures)
        return drawn[0]

    return sample, model


# ---- timing ------------------------------------------------------------------------------------------


def samplers(model: VideoGPT, *, compile: bool = False) -> dict[str, Sampler]:
    """By the names of their rows; the cached one comes first."""
    sampling, drawing = Sampling(), without_frames(model)
    rows: dict[str, Sampler] = {CACHED: lambda futures: cached(drawing, futures, sampling)}
    if compile:
        fused = compiled(drawing)
        rows[f"{CACHED}, compiled"] = lambda futures: cached(fused, futures, sampling)
    rows[f"{CACHED}, with frames"] = lambda futures: cached(model, futures, sampling)
    rows["no cache, slices begun"] = lambda futures: naive(model, futures, sampling, whole=False)
    rows["no cache, whole sequence"] = lambda futures: naive(model, futures, sampling, whole=True)
    return rows


def timed(sampler: Sampler, futures: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    sampler(futures)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def measure(
    ours: dict[str, Sampler], others: dict[str, Sampler], futures: int, repeats: int, codes: int, device: torch.device
) -> list[Row]:
    """Times of all samplers, each `repeats` times, in rounds of one run each; every other round goes backwards.

    All of ours must draw the same codes, which the first, untimed round checks. codes: of a sequence.
    """
    reference = ours[CACHED](futures)
    for name, sampler in ours.items():
        check_same(reference, sampler(futures), name)
    for sampler in others.values():
        sampler(futures)
    everyone = ours | others
    seconds: dict[str, list[float]] = {name: [] for name in everyone}
    for turn in range(repeats):
        for name in list(everyone)[:: -1 if turn % 2 else 1]:
            seconds[name].append(timed(everyone[name], futures, device) / futures)
    rows = []
    for name, times in seconds.items():
        middle = statistics.median(times)
        ratio = statistics.median(t / base for t, base in zip(times, seconds[CACHED], strict=True))
        rows.append(Row(name=name, seconds=middle, codes=codes / middle, ratio=ratio))
    return rows


def table(rows: list[Row]) -> str:
    lines = [f"{'sampler':<26}{'s/sequence':>12}{'codes/s':>10}{'times ours':>12}"]
    lines += [f"{r.name:<26}{r.seconds:>12.3f}{r.codes:>10.0f}{r.ratio:>12.2f}" for r in rows]
    return "\n".join(lines)


def heading(model: VideoGPT, device: torch.device, repeats: int) -> str:
    c, t = model.config, model.config.tokenizer
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else f"threads {torch.get_num_threads()}"
    sizes = f"dim {c.dim}, depth {c.depth}, heads {c.heads}, {c.slices} slices of {t.grid}x{t.grid} codes"
    lines = [
        f"{sizes} of {t.codebook_size}, {parameters(model) / 1e6:.2f}M parameters",
        f"{device.type} ({chip}), torch {torch.__version__}, float32, median of {repeats}",
    ]
    return "\n".join(lines)


def parameters(model: nn.Module) -> int:
    """Without a tokenizer's, which is frozen."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m train.benchmark", description=__doc__)
    p.add_argument("--model", help="a VideoGPT's weights, as `stt.load` takes them; else random ones of these sizes")
    for name in ("dim", "depth", "heads", "slices"):
        p.add_argument(f"--{name}", type=int, default=getattr(DEFAULT, name))
    p.add_argument("--grid", type=int, default=DEFAULT.tokenizer.grid, help="codes per side of a slice")
    p.add_argument("--codebook-size", type=int, default=DEFAULT.tokenizer.codebook_size)
    p.add_argument("--original", type=Path, metavar="DIR", help="checkout of github.com/wilson1yan/VideoGPT")
    p.add_argument("--futures", type=int, nargs="+", default=[1], help="sequences at once; a table for each number")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--compile", action="store_true", help="also with torch.compile")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    return p


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    if min(*args.futures, args.repeats, args.threads) < 1:
        raise SystemExit("benchmark: futures, repeats and threads must be at least 1")
    device = torch.device(args.device)
    torch.set_num_threads(args.threads)
    sizes = {name: getattr(args, name) for name in ("dim", "depth", "heads", "slices", "grid", "codebook_size")}
    others: dict[str, Sampler] = {}
    try:
        model = load(args.model, device) if args.model else random_model(**sizes).to(device)
        if not isinstance(model, VideoGPT):
            raise ValueError(f"{args.model} is of family {model.family}, not {VideoGPT.family}")
        if args.original:
            others["the original"], network = original(args.original, model.config, device)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"benchmark: {error}") from error
    c = model.config
    print(heading(model, device, args.repeats))
    if others:
        print(f"the original: {parameters(network) / 1e6:.2f}M parameters, unconditional")
        if c.frame_conditioning or c.classes:
            print("ours has layers for its conditions, which the original, unconditional, has not")
    rows = samplers(model, compile=args.compile)
    for futures in args.futures:
        measured = measure(rows, others, futures, args.repeats, c.slices * c.cells, device)
        print(f"\n{futures} at once\n{table(measured)}", flush=True)


if __name__ == "__main__":
    main()
