"""Frames (T, H, W, 3) uint8 RGB -> files: enlarging by whole factors, mp4 with metadata, gif, png, jpeg."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path

import cv2
import imageio.v2 as imageio
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # (..., H, W, 3), RGB

LOSSLESS_SIDE = 128  # pixels: frames with a longer side become JPEG, smaller ones stay exact
JPEG_BLOCK = 16  # pixels a side that share their colour

MAX_METADATA = 65_536  # characters of JSON; a single argument of a program ends at 128 KiB


def enlarge(frames: Pixels, factor: int) -> Pixels:
    """(T, H, W, 3) -> (T, H * factor, W * factor, 3); every pixel becomes a square."""
    if factor < 1:
        raise ValueError(f"factor is {factor}, must be at least 1")
    size = frames.shape[2] * factor, frames.shape[1] * factor
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_NEAREST_EXACT) for frame in frames])


def png(image: Pixels) -> bytes:
    """An image (H, W, 3) as a PNG file, of one channel where the image is gray."""
    blue_first = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    gray = all(np.array_equal(image[..., 0], image[..., channel]) for channel in (1, 2))
    return cv2.imencode(".png", image[..., 0] if gray else blue_first)[1].tobytes()


def is_lossless(frames: Pixels) -> bool:
    """Whether frames (..., H, W, 3) are small enough to be stored and sent exactly."""
    return max(frames.shape[-3:-1]) <= LOSSLESS_SIDE


def shrink(frames: Pixels, side: int) -> Pixels:
    """(T, H, W, 3) with at most `side` pixels on the longer side, by area averages; smaller frames as they are."""
    height, width = frames.shape[1:3]
    scale = side / max(height, width)
    if scale >= 1:
        return frames
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def jpeg(image: Pixels, quality: int) -> bytes:
    """An image (H, W, 3) as a JPEG file."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


def pack_frames(frames: Pixels, quality: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Frames (..., H, W, 3) as JPEG: the bytes of all, and the number of axes, the shape, and each file's bytes."""
    files = [jpeg(frame, quality) for frame in frames.reshape(-1, *frames.shape[-3:])]
    index = [frames.ndim, *frames.shape, *map(len, files)]
    return np.frombuffer(b"".join(files), np.uint8), np.asarray(index, np.int64)


def unpack_frames(data: NDArray[np.uint8], index: NDArray[np.int64]) -> Pixels:
    """Reverses `pack_frames`, but for what JPEG loses."""
    axes = int(index[0])
    shape, lengths = index[1 : 1 + axes], index[1 + axes :]
    parts = np.split(data, np.cumsum(lengths)[:-1])
    frames = [np.asarray(cv2.imdecode(part, cv2.IMREAD_COLOR_RGB), np.uint8) for part in parts]
    return np.stack(frames).reshape(shape)


def write_mp4(path: str | Path, frames: Pixels, fps: float, metadata: dict | None = None) -> None:
    """Writes frames (T, H, W, 3) uint8 as H.264 that plays while it loads; odd sides grow by one pixel.

    `metadata` travels as JSON in the comment tag (`stt.video.read_metadata`). Chroma is halved: enlarge by 2 or more to
    keep single coloured pixels. Raises `OSError` when the file cannot be written.
    """
    comment = json.dumps(metadata) if metadata is not None else ""
    if len(comment) > MAX_METADATA:
        raise ValueError(f"metadata has {len(comment)} characters as JSON, at most {MAX_METADATA} fit")
    _check_frames(frames, fps)
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    # without the matrix and its tags, players guess it from the size of the frame
    colour = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int+full_chroma_inp"
    tags = "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv"
    options = f"-vf {colour} {tags} -crf 12 -movflags +faststart -f mp4".split()
    options += ["-metadata", f"comment={comment}"] if metadata is not None else []
    _encode(path, even, fps, "libx264", "yuv420p", options)


def write_gif(path: str | Path, frames: Pixels, fps: float) -> None:
    """Writes frames (T, H, W, 3) uint8 as a looping GIF of 256 colours; a delay is a multiple of 10 ms."""
    _check_frames(frames, fps)
    palette = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=none"
    _encode(path, frames, min(fps, 50), "gif", "pal8", f"-vf {palette} -loop 0 -f gif".split())


def _check_frames(frames: Pixels, fps: float) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames are {frames.dtype} {frames.shape}, must be uint8 (T, H, W, 3), not empty")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}, must be above 0")


def _encode(path: str | Path, frames: Pixels, fps: float, codec: str, pixels: str, options: list[str]) -> None:
    target = Path(path).absolute()
    # a plain name in a folder of its own: the target appears complete or not at all, and ffmpeg reads nothing
    # into an odd name; .mp4 even for a gif, for imageio's plugin refuses other endings
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / "clip.mp4"
        writer = imageio.get_writer(
            unfinished,
            format="FFMPEG",
            mode="I",
            fps=fps,
            codec=codec,
            pixelformat=pixels,
            quality=None,
            macro_block_size=2 if codec == "libx264" else 1,
            output_params=options,
        )
        try:
            with writer:
                for frame in frames:
                    writer.append_data(frame)
            written = unfinished.stat().st_size
        except OSError:  # its text is a command line
            written = 0
        if not written:  # imageio itself does not notice
            raise OSError(f"ffmpeg could not write {len(frames)} frames as {codec}")
        os.replace(unfinished, target)
