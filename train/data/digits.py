"""Pictures of digits: MNIST's own, and digits drawn with random strokes."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from stt.checkpoint import write_whole
from train.data.strokes import draw_digits
from train.seeding import generator_for

Split = Literal["train", "test"]

MNIST_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
PREFIX = {"train": "train", "test": "t10k"}
DRAWN = {"train": 20_000, "test": 4_000}  # digits that we draw unless told otherwise; seconds of work


class Mnist(NamedTuple):
    images: Tensor  # (N, 28, 28) uint8
    labels: Tensor  # (N,) int64


def mnist(directory: Path | None, split: Split, md5: Mapping[str, str] = MNIST_MD5) -> Mnist:
    """Reads one split from a folder of idx .gz files; None downloads to $STT_CACHE or ~/.cache/stt first.

    Raises FileNotFoundError where a file is missing, ValueError where its checksum or header is wrong, and
    ConnectionError where it cannot be downloaded.
    """
    names = f"{PREFIX[split]}-images-idx3-ubyte.gz", f"{PREFIX[split]}-labels-idx1-ubyte.gz"
    paths = [Path(directory) / name if directory else _cached(name, md5[name]) for name in names]
    packed = [_read(path, md5[path.name]) for path in paths]
    images, labels = (_idx(gzip.decompress(data), name) for data, name in zip(packed, names, strict=True))
    return Mnist(torch.from_numpy(images), torch.from_numpy(labels).long())


def _read(path: Path, md5: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; put the four MNIST .gz files there, or give no folder to download")
    return _checked(path.read_bytes(), md5, path)


def _checked(data: bytes, md5: str, source: Path | str) -> bytes:
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{source} has md5 {found}, expected {md5}; fetch it again")
    return data


def _cached(name: str, md5: str) -> Path:
    """Where the downloaded file lies; fetches it if it is not there yet, and keeps it only if it is right."""
    folder = Path(os.environ.get("STT_CACHE") or Path.home() / ".cache" / "stt") / "mnist"
    path = folder / name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(MNIST_MIRROR + name, timeout=60) as reply:
            data = _checked(reply.read(), md5, MNIST_MIRROR + name)
    except (urllib.error.URLError, TimeoutError) as error:
        raise ConnectionError(
            f"cannot download {MNIST_MIRROR}{name} ({error}); put the file into {folder}, "
            "or train on drawn digits alone with strokes 1"
        ) from error
    write_whole(path, lambda file: file.write(data))
    return path


def _idx(data: bytes, name: str) -> np.ndarray:
    """An idx file of bytes: 0, 0, type 8, dimensions, sizes (big-endian int32), values."""
    if len(data) < 4 or data[:3] != b"\0\0\x08":
        raise ValueError(f"{name} is not an idx file of bytes: it begins with {data[:4].hex()}")
    begin = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data, ">i4", count=data[3], offset=4))
    values = np.frombuffer(data, np.uint8, offset=begin)
    if values.size != np.prod(shape):
        raise ValueError(f"{name} holds {values.size} values, but its header says {shape}")
    return values.reshape(shape).copy()


@dataclass(frozen=True)
class Glyphs:
    """A bank of digit images: those of MNIST first, then the drawn ones."""

    images: Tensor  # (N, h, w) uint8, on the device that renders
    labels: Tensor  # (N,) int64, on the CPU
    scanned: int  # how many are MNIST's
    strokes: float  # share of drawn digits among those chosen

    def choose(self, batch: int, digits: int, generator: Generator) -> Tensor:
        """Random indices (B, D) on the CPU, a drawn digit with probability `strokes`."""
        drawn = torch.rand(batch, digits, generator=generator) < self.strokes
        within = torch.rand(batch, digits, generator=generator, dtype=torch.float64)
        rest = len(self.labels) - self.scanned
        return torch.where(drawn, self.scanned + (within * rest).long(), (within * self.scanned).long())

    def pictures(self, ids: Tensor) -> Tensor:
        """Indices (B, D) -> (B, D, h, w) float on [0, 1]."""
        return self.images[ids.to(self.images.device)].float().div_(255)


def digit_bank(
    mnist_dir: Path | None,
    split: Split,
    strokes: float = 0.5,
    size: int = 32,
    count_strokes: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    md5: Mapping[str, str] = MNIST_MD5,
) -> Glyphs:
    """MNIST resized to `size` (bilinear, as SVG does) and digits that we draw; `strokes` 1 needs no file.

    The split chooses MNIST's own split and the drawn digits' random stream, so train and test share no digit.
    Drawing happens on the CPU, so that a bank is the same on every device.
    """
    if not 0 <= strokes <= 1:
        raise ValueError(f"strokes is {strokes}, must be between 0 and 1")
    images, labels = [torch.empty(0, size, size, dtype=torch.uint8)], [torch.empty(0, dtype=torch.int64)]
    if strokes < 1:
        scans = mnist(mnist_dir, split, md5)
        images.append(_resized(scans.images, size))
        labels.append(scans.labels)
    scanned = sum(len(part) for part in labels)
    if strokes > 0:
        wanted = torch.arange(count_strokes or DRAWN[split]) % 10
        drawn = draw_digits(wanted, generator_for("strokes", split, seed), size)
        images.append(drawn.mul(255).round().to(torch.uint8))
        labels.append(wanted)
    return Glyphs(torch.cat(images).to(device), torch.cat(labels), scanned, strokes)


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    gray = rearrange(images, "n h w -> n 1 h w").float()
    resized = F.interpolate(gray, size=(size, size), mode="bilinear", antialias=True)
    return rearrange(resized, "n 1 h w -> n h w").round().to(torch.uint8)
