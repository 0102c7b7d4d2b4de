"""Measures the DCT codec beside real JPEG: python -m train.codec --mnist DIR --frames FOLDER --out assets/dct-curve.png

Prints a Markdown table of PSNR and triples a frame at several qualities, and draws it. Digits are Stochastic Moving
MNIST's; without --mnist all of them are drawn. Real frames come from a folder of pictures, which count as one clip in
the order of their names, or from a pack: `frames.mjpegpack`, JPEG files one after another, with `index.npz` beside it
(`offsets`, where each begins and the last ends; `segment`, another number wherever the recording broke).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from stt.api import Video
from stt.dct import DCTConfig, FrameDCT
from stt.measures import frame_psnr, unit
from stt.video import to_uint8
from train.data import DigitVideos, World

QUALITIES = (10, 25, 50, 75, 90, 95)
SETTINGS = {  # (block, background) of each kind of frames; JPEG's own first
    "digits": ((8, 128), (8, 0), (4, 0)),
    "real": ((8, 128), (4, 128)),
}
PICTURES = (".bmp", ".jpeg", ".jpg", ".png")
HELD_OUT = 2024  # seed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting at one quality; figures are means over frames unless they say otherwise."""

    frames: str  # which ones
    block: int
    background: int
    quality: int
    triples: float  # without the end
    most: int  # of any frame
    residual: float  # triples of the difference to the frame before, of all frames but the first of a clip
    psnr: float  # dB
    jpeg_psnr: float | None = None  # the same of Pillow's JPEG, where the setting is JPEG's
    jpeg_bytes: float | None = None  # of its file
    jpeg_data: float | None = None  # of these, without headers and tables


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="folder of the MNIST .gz files (else drawn digits)")
    parser.add_argument("--frames", type=Path, metavar="FOLDER", help="real frames: pictures, or a pack of JPEG files")
    parser.add_argument("--digits", type=int, default=1, help="digits a clip (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=16, help="clips of each kind (default: %(default)s)")
    parser.add_argument("--length", type=int, default=8, help="frames a clip (default: %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="pixels a side (default: %(default)s)")
    parser.add_argument("--qualities", type=int, nargs="+", default=QUALITIES, help="as JPEG counts: 1 to 100")
    parser.add_argument("--out", type=Path, default=Path("dct-curve.png"), help="picture to write (.png, .svg, .pdf)")
    return parser


# ---- frames ------------------------------------------------------------------------------------------


def digit_clips(mnist: Path | None, digits: int, clips: int, length: int, size: int) -> Video:
    """Held-out clips of Stochastic Moving MNIST; all digits are drawn where there is no MNIST."""
    world = World(image_size=size, digits=digits, frames=length, strokes=0.5 if mnist else 1.0)
    return DigitVideos(world, mnist, "test", count_strokes=1000).batch(clips, HELD_OUT, 0)


def real_clips(folder: Path, clips: int, length: int, size: int) -> Video:
    """Clips spread evenly over what the folder holds, none across a break. Raises SystemExit where there are none."""
    pack = folder / "frames.mjpegpack"
    if pack.is_file():
        with np.load(folder / "index.npz") as index:
            offsets, segment = index["offsets"], index["segment"]

        def read(i: int) -> io.BytesIO:
            return io.BytesIO(np.fromfile(pack, np.uint8, offsets[i + 1] - offsets[i], offset=offsets[i]).tobytes())
    else:
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
        segment = np.zeros(len(paths), int)
        read = paths.__getitem__
    starts = np.arange(len(segment) - length + 1) if len(segment) >= length else np.arange(0)
    starts = starts[segment[starts] == segment[starts + length - 1]]
    if not len(starts):
        raise SystemExit(f"{folder} holds no clip of {length} frames: neither a pack nor so many pictures")
    chosen = starts[np.linspace(0, len(starts) - 1, min(clips, len(starts))).round().astype(int)]
    return torch.stack([torch.stack([picture(read(s + t), size) for t in range(length)]) for s in chosen])


def picture(file: Path | io.BytesIO, size: int) -> Tensor:
    """The centre square of a picture (3, size, size) in [-1, 1]; every pixel is the mean of what it covers."""
    from PIL import Image

    with Image.open(file) as image:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        square = (left, top, left + side, top + side)
        small = image.convert("RGB").resize((size, size), Image.Resampling.BOX, box=square)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 127.5 - 1


# ---- figures -----------------------------------------------------------------------------------------


def psnr(decoded: Tensor, frames: Tensor) -> float:
    return frame_psnr(unit(decoded), unit(frames)).mean().item()


def jpeg(frames: Tensor, quality: int) -> tuple[Tensor, list[bytes]]:
    """Frames (N, C, H, W) through Pillow's encoder, 4:2:0, and back; with the files."""
    from PIL import Image

    decoded, files = [], []
    for pixels in to_uint8(frames):
        file = io.BytesIO()
        image = Image.fromarray(pixels)
        image = image if frames.shape[1] == 3 else image.getchannel(0)
        image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
        with Image.open(file) as again:
            decoded.append(torch.from_numpy(np.array(again)).reshape(*pixels.shape[:2], -1))
        files.append(file.getvalue())
    return rearrange(torch.stack(decoded), "n h w c -> n c h w").float() / 127.5 - 1, files


def image_data(file: bytes) -> int:
    """Bytes of a JPEG file after its headers and tables: walks its segments up to the scan."""
    at = 2
    while file[at + 1] != 0xDA:  # start of scan
        at += 2 + int.from_bytes(file[at + 2 : at + 4], "big")
    return len(file) - at - 2 - int.from_bytes(file[at + 2 : at + 4], "big")


def measured(name: str, video: Video, config: DCTConfig) -> Row:
    """Codes clips (B, T, C, H, W), and as JPEG too where the setting is JPEG's."""
    codec = FrameDCT(config)
    dense = codec.encode(video)
    counts = (dense != 0).sum(dim=(-3, -2, -1))
    residual = codec.residual(dense[:, 1:], dense[:, :-1])
    beside = {}
    if (config.block, config.background, config.spacing) == (8, 128, 2 if config.channels == 3 else 1):
        decoded, files = jpeg(video.flatten(0, 1), config.quality)
        beside = {
            "jpeg_psnr": psnr(decoded, video.flatten(0, 1)),
            "jpeg_bytes": float(np.mean([len(file) for file in files])),
            "jpeg_data": float(np.mean([image_data(file) for file in files])),
        }
    return Row(
        frames=name,
        block=config.block,
        background=config.background,
        quality=config.quality,
        triples=counts.double().mean().item(),
        most=int(counts.max()),
        residual=(residual != 0).sum(dim=(-3, -2, -1)).double().mean().item(),
        psnr=psnr(codec.decode(dense), video),
        **beside,
    )


COLUMNS: dict[str, Callable[[Row], str]] = {
    "frames": lambda r: r.frames,
    "block": lambda r: str(r.block),
    "background": lambda r: str(r.background),
    "quality": lambda r: str(r.quality),
    "triples a frame": lambda r: f"{r.triples:.0f}",
    "most": lambda r: str(r.most),
    "of the residual": lambda r: f"{r.residual:.0f}",
    "PSNR": lambda r: f"{r.psnr:.1f}",
    "JPEG: PSNR": lambda r: "" if r.jpeg_psnr is None else f"{r.jpeg_psnr:.1f}",
    "bytes (without headers)": lambda r: "" if r.jpeg_bytes is None else f"{r.jpeg_bytes:.0f} ({r.jpeg_data:.0f})",
}


def markdown(rows: list[Row]) -> str:
    lines = [list(COLUMNS), ["---"] * len(COLUMNS)]
    lines += [[cell(row) for cell in COLUMNS.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def drawn(rows: list[Row]) -> Any:
    """A figure: for each kind of frames PSNR against triples a frame and against quality."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    kinds = list(dict.fromkeys(row.frames for row in rows))
    figure = Figure(figsize=(11, 3.6 * len(kinds)), layout="constrained")
    for kind, (by_triples, by_quality) in zip(kinds, figure.subplots(len(kinds), 2, squeeze=False), strict=True):
        chosen = [row for row in rows if row.frames == kind]
        for i, (block, background) in enumerate(dict.fromkeys((row.block, row.background) for row in chosen)):
            curve = [row for row in chosen if (row.block, row.background) == (block, background)]
            quality, levels = [row.quality for row in curve], [row.psnr for row in curve]
            look = {"color": f"C{i}", "marker": "."}
            label = f"block {block}, background {background}"
            by_triples.plot([row.triples for row in curve], levels, label=label, **look)
            by_triples.plot([row.residual for row in curve], levels, label=f"{label}, residual", ls=":", **look)
            by_quality.plot(quality, levels, label=label, **look)
            if beside := [(row.quality, row.jpeg_psnr) for row in curve if row.jpeg_psnr is not None]:
                by_quality.plot(*zip(*beside, strict=True), label="Pillow's JPEG", color="black", ls="--", zorder=3)
        by_triples.set(title=kind, xlabel="triples a frame", ylabel="PSNR (dB)", xscale="log")
        by_triples.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        by_triples.xaxis.set_major_formatter("{x:g}")
        by_triples.xaxis.set_minor_formatter("")
        by_quality.set(title=kind, xlabel="quality", ylabel="PSNR (dB)")
        for panel in (by_triples, by_quality):
            panel.grid(alpha=0.3, which="both")
            panel.legend(fontsize="small")
    return figure


def main() -> None:
    args = parser().parse_args()
    torch.set_num_threads(1)
    name = f"{args.digits} digit{'s' if args.digits > 1 else ''}{'' if args.mnist else ', drawn'}"
    videos = {"digits": (name, digit_clips(args.mnist, args.digits, args.clips, args.length, args.size))}
    if args.frames:
        real = real_clips(args.frames, args.clips, args.length, args.size)
        videos["real"] = (f"{args.frames.name}, colour", real)
    rows = []
    for kind, (label, video) in videos.items():
        common = {"image_size": args.size, "channels": video.shape[2]}
        for block, background in SETTINGS[kind]:
            for quality in args.qualities:
                config = DCTConfig(**common, block=block, background=background, quality=quality)
                rows.append(measured(label, video, config))
    print(markdown(rows))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    drawn(rows).savefig(args.out, dpi=100)
    print(args.out)


if __name__ == "__main__":
    main()
