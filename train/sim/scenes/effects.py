"""What a camera, a codec and an editor add to a rendered clip, (T, H, W, 3) uint8."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from train.sim.scenes.motion import SUBSTEPS, smooth


def frame_times(rng: Generator, frames: int) -> np.ndarray:
    """The moment of each frame, in frames: 0, 1, 2, ...; rarely frames repeat, as where the rate was converted."""
    times = np.arange(frames)
    return np.floor(times * rng.choice([0.5, 2 / 3, 0.8])).astype(int) if rng.uniform() < 0.03 else times


def develop(rng: Generator, clip: np.ndarray) -> np.ndarray:
    """Exposure, flicker, defocus, vignette, sensor noise, compression and black bars, each on some clips."""
    frames, height, width = clip.shape[:3]
    gain, blur = exposure(rng, frames), defocus(rng, frames, max(height, width) / 128)
    grain = sensor_noise(rng, height, width)
    quality = int(rng.integers(25, 90)) if rng.uniform() < 0.2 else 0
    shade = vignette(rng, height, width)
    for k in range(frames):
        frame = clip[k]
        if blur[k] > 0.2:
            frame = cv2.GaussianBlur(frame, (0, 0), blur[k])
        if shade is not None:
            frame = cv2.multiply(frame, shade, dtype=cv2.CV_8U)
        if abs(gain[k] - 1) > 1e-3:
            frame = cv2.convertScaleAbs(frame, alpha=gain[k])
        if grain is not None:
            y, x = rng.integers(0, 33, 2)
            frame = cv2.add(frame, grain[y : y + height, x : x + width], dtype=cv2.CV_8U)
        if quality:
            _, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
            frame = cv2.imdecode(data, cv2.IMREAD_COLOR)
        clip[k] = frame
    if rng.uniform() < 0.03:
        bar = int(rng.uniform(0.04, 0.18) * (height if width >= height else width))
        bars = clip if width >= height else clip.transpose(0, 2, 1, 3)
        bars[:, :bar] = bars[:, bars.shape[1] - bar :] = 0
    return clip


def exposure(rng: Generator, frames: int) -> np.ndarray:
    """Gains (frames,): constant, drifting, changing at once, or flickering."""
    gain, form = np.full(frames, np.exp(rng.normal(0, 0.1))), rng.choice(4, p=[0.78, 0.12, 0.04, 0.06])
    if form == 1:
        gain = gain * np.exp(rng.uniform(0.05, 0.4) * smooth(rng, frames * SUBSTEPS, rng.uniform(4, 16))[::SUBSTEPS])
    elif form == 2:
        gain = np.where(np.arange(frames) < rng.integers(1, frames + 1), gain, gain * np.exp(rng.normal(0, 0.3)))
    elif form == 3:
        gain = gain * (
            1 + rng.uniform(0.01, 0.1) * np.sin(rng.uniform(0.5, 3.1) * np.arange(frames) + rng.uniform(0, 6))
        )
    return gain


def defocus(rng: Generator, frames: int, unit: float) -> np.ndarray:
    """Deviations (frames,) of a Gaussian blur in pixels: mostly 0."""
    form = rng.choice(3, p=[0.74, 0.23, 0.03])
    if form == 0:
        return np.zeros(frames)
    sigma = np.full(frames, unit * rng.gamma(2, 0.35))
    return sigma * (1 + 0.8 * smooth(rng, frames * SUBSTEPS, 8)[::SUBSTEPS]) if form == 2 else sigma


def sensor_noise(rng: Generator, height: int, width: int) -> np.ndarray | None:
    """Noise (height + 32, width + 32, 3) int16, of which each frame takes a part at random; None on some clips."""
    if rng.uniform() < 0.4:
        return None
    sigma = min(np.exp(rng.normal(0.4, 0.8)), 10.0)
    shape = height + 32, width + 32, 1 if rng.uniform() < 0.4 else 3
    grain = rng.standard_normal(shape, np.float32)
    if rng.uniform() < 0.3:  # coarser, as after a codec or a small sensor
        grain = 1.8 * cv2.GaussianBlur(grain, (0, 0), 0.7).reshape(shape)
    return np.repeat(np.rint(sigma * grain), 4 - shape[2] if shape[2] == 1 else 1, axis=2).astype(np.int16)


def vignette(rng: Generator, height: int, width: int) -> np.ndarray | None:
    if rng.uniform() > 0.08:
        return None
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    shade = 1 - rng.uniform(0.1, 0.5) * (x * x + y * y) / 2
    return np.repeat(shade[..., None], 3, axis=2).astype(np.float32)
