"""Pictures of digits: those of MNIST, and synthetic ones."""

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
SYNTHETIC = {"train": 20_000, "test": 4_000}  # synthetic digits by default; they take seconds to draw


class MNIST(NamedTuple):
    images: Tensor  # (N, 28, 28) uint8
    labels: Tensor  # (N,) int64


def load_mnist(directory: Path | None, split: Split, md5: Mapping[str, str] = MNIST_MD5) -> MNIST:
    """Reads one split from a folder of idx .gz files; None downloads to $STT_CACHE or ~/.cache/stt first.

    Raises FileNotFoundError where a file is missing, ValueError where its checksum or header is wrong, and
    ConnectionError where it cannot be downloaded.
    """
    names = f"{PREFIX[split]}-images-idx3-ubyte.gz", f"{PREFIX[split]}-labels-idx1-ubyte.gz"
    paths = [Path(directory) / name if directory else _downloaded(name, md5[name]) for name in names]
    images, labels = (_parse_idx(gzip.decompress(_read(path, md5[path.name])), path.name) for path in paths)
    return MNIST(torch.from_numpy(images), torch.from_numpy(labels).long())


def _read(path: Path, md5: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; put the four MNIST .gz files there, or give no folder to download")
    return _checked(path.read_bytes(), md5, path)


def _checked(data: bytes, md5: str, source: Path | str) -> bytes:
    actual = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise ValueError(f"{source} has md5 {actual}, expected {md5}; fetch it again")
    return data


def _downloaded(name: str, md5: str) -> Path:
    """The cached file; downloads it if it is not there, and keeps it only if its checksum is right."""
    path = Path(os.environ.get("STT_CACHE") or Path.home() / ".cache" / "stt") / "mnist" / name
    if path.is_file():
        return path
    try:
        with urllib.request.urlopen(MNIST_MIRROR + name, timeout=60) as reply:
            data = _checked(reply.read(), md5, MNIST_MIRROR + name)
    except (urllib.error.URLError, TimeoutError) as error:
        raise ConnectionError(
            f"cannot download {MNIST_MIRROR}{name} ({error}); put the file into {path.parent}, "
            "or train on synthetic digits alone with strokes 1"
        ) from error
    write_whole(path, lambda file: file.write(data))
    return path


def _parse_idx(data: bytes, name: str) -> np.ndarray:
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
    """A bank of digit images: those of MNIST first, then the synthetic ones."""

    images: Tensor  # (N, h, w) uint8, on the device that renders
    labels: Tensor  # (N,) int64, on the CPU
    scanned: int  # how many are MNIST's
    strokes: float  # share of synthetic digits among those chosen

    def choose(self, batch: int, digits: int, generator: Generator) -> Tensor:
        """Random indices (B, D) on the CPU, a synthetic digit with probability `strokes`."""
        synthetic = torch.rand(batch, digits, generator=generator) < self.strokes
        within = torch.rand(batch, digits, generator=generator, dtype=torch.float64)
        rest = len(self.labels) - self.scanned
        return torch.where(synthetic, self.scanned + (within * rest).long(), (within * self.scanned).long())

    def pictures(self, ids: Tensor) -> Tensor:
        """Indices (B, D) -> (B, D, h, w) float on [0, 1]."""
        return self.images[ids.to(self.images.device)].float().div_(255)


def load_glyphs(
    mnist_dir: Path | None,
    split: Split,
    strokes: float = 0.5,
    size: int = 32,
    count_strokes: int | None = None,
    device: torch.device | str = "cpu",
    md5: Mapping[str, str] = MNIST_MD5,
) -> Glyphs:
    """MNIST resized to `size` (bilinear, as SVG does) and synthetic digits; `strokes` 1 needs no file.

    The split chooses MNIST's own split and the synthetic digits' random stream, so train and test share no digit.
    Digits are drawn on the CPU, so that a bank is the same on every device.
    """
    images, labels = [torch.empty(0, size, size, dtype=torch.uint8)], [torch.empty(0, dtype=torch.int64)]
    if strokes < 1:
        scans = load_mnist(mnist_dir, split, md5)
        images.append(_resized(scans.images, size))
        labels.append(scans.labels)
    scanned = sum(len(part) for part in labels)
    if strokes > 0:
        labels.append(torch.arange(count_strokes or SYNTHETIC[split]) % 10)
        synthetic = draw_digits(labels[-1], generator_for("strokes", split, 0), size)
        images.append(synthetic.mul(255).round().to(torch.uint8))
    return Glyphs(torch.cat(images).to(device), torch.cat(labels), scanned, strokes)


def _resized(images: Tensor, size: int) -> Tensor:
    """(N, H, W) uint8 -> (N, size, size) uint8."""
    if images.shape[-1] == size:
        return images
    resized = F.interpolate(images[:, None].float(), size=(size, size), mode="bilinear", antialias=True)
    return resized[:, 0].round().to(torch.uint8)
