"""Rain radar: composites of reflectivity, read as rain rates, and clips of them.

The Finnish Meteorological Institute publishes such composites as open data (CC BY 4.0): .pgm.gz files of 8 bits, one
every five minutes, one pixel a kilometre.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stt.api import Batch, Video
from train.data.digits import Split
from train.seeding import generator_for

NO_DATA = 255  # a pixel that no radar covers
ZR = 223.0, 1.53  # Z = a R^b, of rain in Finland (Leinonen et al. 2012)
DBZ = 5.0, 60.0  # black and white; less is dry
MINUTES = 5  # between composites
HEADER = re.compile(rb"P5\s(?P<comments>(?:#[^\n]*\n)*)\s*(?P<width>\d+)\s+(?P<height>\d+)\s+255\s")
MAX_PIXELS = 50_000_000


@dataclass(frozen=True, kw_only=True)
class RadarConfig:
    """What a preset trains on: parts of radar composites."""

    kind: Literal["radar"] = "radar"
    frames: int = 15  # per clip, five minutes each
    kilometres: int = 2  # a pixel's side: composites are averaged to it
    wet: float = 0.05  # smallest share of a clip's pixels with 0.1 mm/h or more


def read_composite(path: Path) -> tuple[np.ndarray, datetime]:
    """A .pgm or .pgm.gz -> rain in mm/h (H, W) float32, NaN where no radar looks, and its time (UTC).

    ValueError for a file of another kind, or one that is cut off.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    header = HEADER.match(data)
    time = re.search(rb"# obstime (\d{12})", header["comments"]) if header else None
    if header is None or time is None or b"Reflectivity" not in header["comments"]:
        raise ValueError(f"{path} is no 8-bit PGM of reflectivity with its time")
    width, height = int(header["width"]), int(header["height"])
    if not 0 < width * height <= MAX_PIXELS or len(data) - header.end() < width * height:
        raise ValueError(f"{path} holds {len(data) - header.end()} bytes of {width}x{height} pixels")
    pixels = np.frombuffer(data, np.uint8, width * height, header.end()).reshape(height, width)
    rain = rain_of(torch.arange(256.0) / 2 - 32).numpy()  # pixel p is (p - 64) / 2 dBZ
    rain[NO_DATA] = np.nan
    return rain[pixels], datetime.strptime(time[1].decode(), "%Y%m%d%H%M")


def rain_of(dbz: Tensor) -> Tensor:
    """Reflectivity in dBZ -> rain in mm/h; 0 below the lowest that counts."""
    a, b = ZR
    return torch.where(dbz <= DBZ[0], 0.0, (10 ** (dbz / 10) / a) ** (1 / b))


def to_video(rain: Tensor) -> Video:
    """Rain in mm/h -> [-1, 1], linear in dBZ; dry and missing are -1."""
    a, b = ZR
    dbz = 10 * torch.log10(a * rain.nan_to_num().clamp(min=1e-6) ** b)
    return (2 * (dbz - DBZ[0]) / (DBZ[1] - DBZ[0]) - 1).clamp(-1, 1)


def from_video(video: Video) -> Tensor:
    """The inverse of `to_video`, up to its range: mm/h."""
    return rain_of(DBZ[0] + (DBZ[1] - DBZ[0]) * (video.clamp(-1, 1) + 1) / 2)


class RadarDataset:
    """Clips of radar events; a batch depends on (split, size, seed, index) alone.

    folder: one sub-folder of composites an event; the last by name is held out, the others are trained on. Clips show
    squares of image_size pixels in gray, repeated for three channels, in which all is covered and it rains; those of
    the training split are mirrored and turned at random. Raises FileNotFoundError without two events, ValueError for
    events whose composites have gaps in time, are too few or too small.
    """

    def __init__(self, config: RadarConfig, folder: Path, split: Split, image_size: int, channels: int) -> None:
        self.config, self.split, self.image_size, self.channels = config, split, image_size, channels
        folders = sorted(path for path in Path(folder).iterdir() if path.is_dir()) if Path(folder).is_dir() else []
        if len(folders) < 2:
            raise FileNotFoundError(f"{folder} holds {len(folders)} radar events, needs 2: to train, and to test")
        self.names = [path.name for path in (folders[:-1] if split == "train" else folders[-1:])]
        self.events = [read_event(Path(folder) / name, config.kilometres) for name in self.names]
        for name, event in zip(self.names, self.events, strict=True):
            if len(event) < config.frames or min(event.shape[1:]) < image_size:
                raise ValueError(f"{name}: {tuple(event.shape)} is less than {config.frames} frames of {image_size}")

    def batch(self, size: int, seed: int, index: int) -> Batch:
        """Random clips (size, frames, C, H, W)."""
        generator = generator_for("radar", self.split, seed, index)
        clips = []
        for _ in range(size):
            clip = self.rain(generator)
            if self.split == "train":
                mirrored, turns = torch.randint(2, (), generator=generator), torch.randint(4, (), generator=generator)
                clip = torch.rot90(clip.flip(-1) if mirrored else clip, int(turns), (-2, -1))
            clips.append(to_video(clip))
        return Batch(torch.stack(clips)[:, :, None].repeat(1, 1, self.channels, 1, 1))

    def rain(self, generator: torch.Generator, tries: int = 1000) -> Tensor:
        """A random clip as recorded, (frames, H, W) mm/h. ValueError where none rains enough."""
        c, n = self.config, self.image_size
        for _ in range(tries):
            event = self.events[int(torch.randint(len(self.events), (), generator=generator))]
            sizes = (len(event) - c.frames, event.shape[1] - n, event.shape[2] - n)
            t, y, x = (int(torch.randint(size + 1, (), generator=generator)) for size in sizes)
            clip = event[t : t + c.frames, y : y + n, x : x + n]
            if not clip.isnan().any() and (clip >= 0.1).float().mean() >= c.wet:
                return clip
        raise ValueError(f"{', '.join(self.names)}: no part of {n} pixels is covered and wet ({c.wet:g})")


def read_event(folder: Path, kilometres: int) -> Tensor:
    """The composites of a folder in order of time, averaged to pixels of so many kilometres: (T, H, W) mm/h."""
    composites = sorted((read_composite(p) for p in folder.glob("*.pgm*")), key=lambda composite: composite[1])
    if not composites:
        raise ValueError(f"{folder} holds no .pgm or .pgm.gz")
    rain, times = zip(*composites, strict=True)
    if gaps := [a for a, b in zip(times, times[1:], strict=False) if b - a != timedelta(minutes=MINUTES)]:
        raise ValueError(f"{folder}: the composite after {gaps[0]:%H:%M} is not {MINUTES} minutes later")
    height, width = (side // kilometres * kilometres for side in rain[0].shape)
    blocks = np.stack(rain)[:, :height, :width].reshape(
        len(rain), height // kilometres, kilometres, width // kilometres, kilometres
    )
    return torch.from_numpy(blocks.mean(axis=(2, 4)))
