"""Times VideoGPT's sampling with a cache, without one, and in the original code: python -m train.benchmark_videogpt

Every sampler draws whole sequences without a prompt. The samplers take turns on the same machine, so that ratios of
their times hold where the times themselves do not. They draw codes and decode no frames, except in the row that says
so, since tokenizers may differ in size.
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

CACHED = "cache"
DEFAULT = VideoGPTConfig()
Sampler = Callable[[int], Tensor]  # number of sequences -> their codes, or the latents of those (F, S, h, w, ...)


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str
    seconds: float  # per sequence, median of the rounds
    codes: float  # per second
    ratio: float  # its time over that of the cached sampler in the same round, median of the rounds


# ---- this project --------------------------------------------------------------------------------------------


def random_model(*, dim: int, depth: int, heads: int, slices: int, grid: int, codebook_size: int) -> VideoGPT:
    """Random weights, unconditional: no frame conditioning, no classes."""
    side = grid * VideoVQConfig().downsampling
    tokenizer = VideoVQConfig(image_size=side, codebook_size=codebook_size)
    config = VideoGPTConfig(
        image_size=side, tokenizer=tokenizer, context_frames=1, slices=slices, dim=dim, depth=depth, heads=heads,
        frame_conditioning=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return VideoGPT(config).eval()


def empty_prompt(model: VideoGPT) -> Tensor:
    """No frames, (1, 0, C, H, W)."""
    c = model.config
    return model.begin.new_zeros(1, 0, c.channels, c.image_size, c.image_size)


def without_frames(model: VideoGPT) -> VideoGPT:
    """A copy that draws the same codes and decodes them to blank frames."""
    c, bare = model.config, copy.deepcopy(model)

    def decode(latents: Tensor) -> Tensor:
        frames = latents.shape[1] * c.chunk_frames
        return latents.new_zeros(len(latents), frames, c.channels, c.image_size, c.image_size)

    bare.tokenizer.decode = decode
    return bare


def compiled(model: VideoGPT) -> VideoGPT:
    """A copy that computes one code after another by a compiled function."""
    model = copy.deepcopy(model)
    model.compile_step()
    return model


@torch.inference_mode()
def cached(model: VideoGPT, futures: int, sampling: Sampling) -> Tensor:
    """Latents (F, S, h, w, D) of whole sequences as `stt.rollout` draws them, future k from seed k."""
    noise = SeededNoise(range(futures), model.begin.device)
    state = model.start(empty_prompt(model))
    for _ in range(model.config.slices):
        _, state = model.step(state, sampling, noise)
    return state.latents


@torch.inference_mode()
def naive(model: VideoGPT, futures: int, sampling: Sampling, whole: bool) -> Tensor:
    """The same latents without a cache: for every code, the logits of all codes are computed again.

    whole: logits of the whole sequence, else of the slices up to the current one.
    """
    c, side = model.config, model.config.tokenizer.grid
    noise = SeededNoise(range(futures), model.begin.device)
    memory, label = model.remember(empty_prompt(model)), model.label(None)
    memory = memory.expand(futures) if memory else None
    latents = model.begin.new_zeros(futures, c.slices, side, side, c.tokenizer.latent_dim)
    for s in range(c.slices):
        gumbel = noise.gumbel(c.cells, c.tokenizer.codebook_size)
        for j in range(c.cells):
            logits, _ = model.logits(latents if whole else latents[:, : s + 1], memory, label)
            ids = sample_logits(logits[:, s * c.cells + j], sampling, gumbel[:, j])
            latents[:, s, j // side, j % side] = model.tokenizer.quantizer.embed(ids[:, None])
    return latents


def check_same(cached: Tensor, other: Tensor, name: str) -> None:
    """RuntimeError unless both are the same codes, since only then their times can be compared."""
    if different := int((cached != other).any(dim=-1).sum()):
        raise RuntimeError(f"{name}: {different} of {cached[..., 0].numel()} codes differ from those of the cache")


# ---- the original ------------------------------------------------------------------------------------


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Makes `videogpt` in `folder` importable, with stand-ins for packages that its sampler imports and never uses."""

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
    """The sampler of a checkout of github.com/wilson1yan/VideoGPT at the sizes of `config`, and its network.

    The same as here: layers, width, heads, 4-fold MLPs, size and width of the codebook, slices and grid, order of the
    codes, a cache of keys and values, float32, temperature 1, no conditioning, random weights. Different there:
    attention over the whole length with a mask, a sigmoid GELU, concatenated positions, no input from the slice
    before, no biases at both ends, `torch.multinomial`, and a loss with every code. Its tokenizer's decoder and its
    progress bar are not timed. ValueError without a checkout, or for sizes that it does not take.
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
    sampled: list[Tensor] = []

    def decode(codes: Tensor) -> Tensor:
        sampled[:] = [codes]
        return codes

    model.vqvae.decode = decode

    def sample(futures: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its indexing is deprecated
            model.sample(futures)
        return sampled[0]

    return sample, model


# ---- timing ------------------------------------------------------------------------------------------


def samplers(model: VideoGPT, *, compile: bool = False) -> dict[str, Sampler]:
    """This project's samplers by the names of their rows, the cached one first."""
    sampling, bare = Sampling(), without_frames(model)
    rows: dict[str, Sampler] = {CACHED: lambda futures: cached(bare, futures, sampling)}
    if compile:
        fused = compiled(bare)
        rows[f"{CACHED}, compiled"] = lambda futures: cached(fused, futures, sampling)
    rows[f"{CACHED}, with frames"] = lambda futures: cached(model, futures, sampling)
    rows["no cache, slices so far"] = lambda futures: naive(model, futures, sampling, whole=False)
    rows["no cache, whole sequence"] = lambda futures: naive(model, futures, sampling, whole=True)
    return rows


def timed(sampler: Sampler, futures: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    sampler(futures)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def measure(
    own: dict[str, Sampler], others: dict[str, Sampler], futures: int, repeats: int, codes: int, device: torch.device
) -> list[Row]:
    """Times of all samplers, in `repeats` rounds of one run each; every other round goes backwards.

    An untimed first round checks that all of `own` draw the same codes. codes: number in a sequence.
    """
    reference = own[CACHED](futures)
    for name, sampler in own.items():
        check_same(reference, sampler(futures), name)
    for sampler in others.values():
        sampler(futures)
    samplers = own | others
    seconds: dict[str, list[float]] = {name: [] for name in samplers}
    for turn in range(repeats):
        for name in list(samplers)[:: -1 if turn % 2 else 1]:
            seconds[name].append(timed(samplers[name], futures, device) / futures)
    rows = []
    for name, times in seconds.items():
        median = statistics.median(times)
        ratio = statistics.median(t / base for t, base in zip(times, seconds[CACHED], strict=True))
        rows.append(Row(name=name, seconds=median, codes=codes / median, ratio=ratio))
    return rows


def table(rows: list[Row]) -> str:
    lines = [f"{'sampler':<26}{'s/sequence':>12}{'codes/s':>10}{'vs. cache':>12}"]
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
    """Number of trainable parameters, so without the tokenizer's."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m train.benchmark_videogpt",
        description="Times VideoGPT's sampling with a cache, without one, and in the original code.",
    )
    p.add_argument("--model", help="file, run folder or Hub name of a VideoGPT; without it, random weights are used")
    for name in ("dim", "depth", "heads", "slices"):
        text = f"size of the random network, default {getattr(DEFAULT, name)}"
        p.add_argument(f"--{name}", type=int, default=getattr(DEFAULT, name), help=text)
    p.add_argument("--grid", type=int, default=DEFAULT.tokenizer.grid, help="codes along a side of a slice")
    p.add_argument("--codebook-size", type=int, default=DEFAULT.tokenizer.codebook_size, help="number of codes")
    p.add_argument("--original", type=Path, metavar="DIR", help="a checkout of github.com/wilson1yan/VideoGPT")
    p.add_argument("--futures", type=int, nargs="+", default=[1], help="sequences at once; each number gets a table")
    p.add_argument("--repeats", type=int, default=3, help="timed runs of each sampler")
    p.add_argument("--compile", action="store_true", help="time a compiled sampler too")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
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
            others["original"], network = original(args.original, model.config, device)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"benchmark: {error}") from error
    c = model.config
    print(heading(model, device, args.repeats))
    if others:
        print(f"original: {parameters(network) / 1e6:.2f}M parameters, unconditional")
        if c.frame_conditioning or c.classes:
            print("this network has layers for its conditions, the original, unconditional, has none")
    rows = samplers(model, compile=args.compile)
    for futures in args.futures:
        times = measure(rows, others, futures, args.repeats, c.slices * c.cells, device)
        print(f"\n{futures} at once\n{table(times)}", flush=True)


if __name__ == "__main__":
    main()
