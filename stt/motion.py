"""Motion layers: a clip as a few images that move as wholes (layered motion, Wang and Adelson 1994).

Geometry without weights: moving layers, compositing them, and block matching. `stt.segmenter` learns which pixels
belong to which layer. Frames are on [0, 1] here; displacements are (y, x) in whole pixels.

`stt.sprites` has a matcher of its own: it compares sprites that have masks to one frame by absolute differences, and
refines to fractions of a pixel. Layers here overlap and add up, so they are matched jointly, by squared errors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDS = 2  # of the search; in the second, each layer is matched to what all others leave unexplained
VISIBLE = 0.3  # least colour of a pixel in a layer's bounding box
FREQUENCIES = 8  # of the sinusoids that encode a coordinate
COORDINATES = 6  # centroid and bounding box
PRESENT = 10.0  # least ink of a layer that is not empty, in pixels
LARGE = 400.0  # ink of a large one, of 64x64


class Layers(NamedTuple):
    """A background and K layers in front of it, the last one frontmost; colours are premultiplied by alpha.

    A layer of alpha 0 adds its light to what lies behind, one of alpha 1 hides it.
    """

    background: Tensor  # (B, C, H, W)
    colour: Tensor  # (B, K, C, H, W)
    alpha: Tensor  # (B, K, 1, H, W)

    def moved(self, displacement: Tensor) -> Layers:
        """Every layer moved by its displacement (B, K, 2) int64; the background stays. Pixels that leave are lost."""
        pixels = torch.cat([self.colour, self.alpha], dim=2)  # (B, K, C + 1, H, W)
        pixels = shift(pixels.flatten(0, 1), displacement.flatten(0, 1)).view_as(pixels)
        return Layers(self.background, pixels[:, :, :-1], pixels[:, :, -1:])

    def expand(self, batch: int) -> Layers:
        return Layers(*(t.expand(batch, *t.shape[1:]) for t in self))


def shift(images: Tensor, displacement: Tensor) -> Tensor:
    """Images (N, C, H, W) moved by (N, 2) int64 pixels each; zeros come in at the edges."""
    n, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) - displacement[:, :1]  # (N, H) where each row comes from
    columns = torch.arange(width, device=images.device) - displacement[:, 1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]  # (N, H, W)
    source = source.view(n, 1, -1).expand(n, channels, -1)
    return images.flatten(2).gather(2, source).view_as(images) * inside[:, None]


def composite(layers: Layers) -> Tensor:
    """Composites layers back to front (over operator, Porter and Duff 1984): (B, C, H, W), may exceed 1."""
    frame = layers.background
    for colour, alpha in zip(layers.colour.unbind(dim=1), layers.alpha.unbind(dim=1), strict=True):
        frame = colour + (1 - alpha) * frame
    return frame


def leaky_clamp(frame: Tensor) -> Tensor:
    """Clamped to at most 1, with a tenth of the gradient left above."""
    return frame - 0.9 * F.relu(frame - 1)


def sinusoids(x: Tensor) -> Tensor:
    """Numbers (..., n) -> sines, then cosines (..., 2 n FREQUENCIES), of wavelength 2 and its octaves below."""
    angles = (x[..., None] * (math.pi * 2.0 ** torch.arange(FREQUENCIES, device=x.device))).flatten(-2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def splat_matrix(position: Tensor, std: Tensor, length: int, size: int) -> Tensor:
    """Moves a line of `length` pixels into one of `size` pixels: probabilities (..., size, length).

    Its first pixel lands at a normal variable of mean `position` and standard deviation `std`, (...) each in pixels,
    rounded. Entry [y, p] is the probability that pixel p lands at y.
    """
    edges = torch.arange(1 - length, size + 1, device=position.device) - 0.5
    cdf = 0.5 * torch.erf((edges - position[..., None]) * (2**-0.5 / std[..., None]))  # (..., size + length)
    return cdf.diff(dim=-1).unfold(-1, length, 1).flip(-1)  # the share at displacement y - p: a Toeplitz matrix


class Match(NamedTuple):
    """Displacements of layers from one frame to the next."""

    displacement: Tensor  # (B, K, 2) int64, of the least error
    errors: Tensor  # (B, K, S, S) squared error of the frame at every displacement, up to a constant per layer


@torch.no_grad()
def match(layers: Layers, frame: Tensor, reach: int) -> Match:
    """Block matching of whole layers: displacements of up to `reach` pixels an axis with the least squared error.

    frame (B, C, H, W). S = 2 * reach + 1. All displacements are scored at once by cross-correlation in the Fourier
    domain, so a longer reach costs little. Layers are matched in turn (coordinate descent).
    """
    count, side = layers.colour.shape[1], 2 * reach + 1
    size = [(n + reach + 7) // 8 * 8 for n in frame.shape[-2:]]  # padded, so that nothing wraps around

    def spectrum(images: Tensor) -> Tensor:
        return torch.fft.rfft2(images.float(), s=size)

    colour, alpha = layers.colour, layers.alpha
    parts = colour, alpha, alpha.square(), colour * alpha, colour.square().sum(dim=2)
    of_colour, of_alpha, of_square, of_product, of_energy = (spectrum(part).conj() for part in parts)
    of_energy = of_energy * spectrum(torch.ones_like(frame[0, 0]))  # (B, K, ...): only what stays in the frame counts
    window = torch.arange(-reach, reach + 1, device=frame.device)
    rows, columns = window % size[0], window % size[1]
    best: dict[int, Tensor] = {}
    errors: dict[int, Tensor] = {}
    placed: list[tuple[Tensor, Tensor] | None] = [None] * count
    for _ in range(ROUNDS):
        for k in range(count):
            others = [pair for j, pair in enumerate(placed) if j != k and pair is not None]
            behind = layers.background
            for other_colour, other_alpha in others:
                behind = other_colour + (1 - other_alpha) * behind
            behind = behind.clamp(max=1)
            residual = frame - behind
            # |residual - colour + alpha behind|^2 - |residual|^2; each product with a moved image is a correlation
            terms = (of_colour[:, k] * spectrum(residual) + of_product[:, k] * spectrum(behind)).sum(dim=1)
            terms = of_alpha[:, k, 0] * spectrum((behind * residual).sum(dim=1)) - terms
            terms = 2 * terms + of_square[:, k, 0] * spectrum(behind.square().sum(dim=1)) + of_energy[:, k]
            error = torch.fft.irfft2(terms, s=size)[:, rows][:, :, columns]
            index = error.flatten(1).argmin(dim=1)
            best[k] = torch.stack([index // side, index % side], dim=-1) - reach
            errors[k] = error
            placed[k] = shift(colour[:, k], best[k]), shift(alpha[:, k], best[k])
    return Match(*(torch.stack(list(part.values()), dim=1) for part in (best, errors)))


NOISE = 150.0  # nats of evidence in a mean squared error of 1 over a patch's window


@torch.no_grad()
def match_patches(frames: Tensor, patch: int, reach: int) -> Tensor:
    """Block matching of each frame's patches in the frame before, displacements of up to `reach` pixels an axis.

    frames (B, T, C, H, W) in [-1, 1] -> (B, T - 1, patches, matches_size(reach)): probabilities of all displacements
    by the squared error of the patch, and of a window of patch + 8 pixels around it, which tells more of a lone thing
    and less of two that meet; then the means, row and column, of both in units of `reach`.
    """
    gray = (frames.float().mean(dim=2) + 1) / 2  # (B, T, H, W)
    now, before = gray[:, 1:].flatten(0, 1)[:, None], gray[:, :-1].flatten(0, 1)[:, None]
    height, width = gray.shape[-2:]
    before, side = F.pad(before, 4 * [reach], mode="replicate"), 2 * reach + 1
    errors = []
    for dy in range(side):
        moved = [before[:, :, dy : dy + height, dx : dx + width] for dx in range(side)]
        row = (now - torch.cat(moved, dim=1)).square()
        small = F.avg_pool2d(row, patch)
        large = F.avg_pool2d(row, patch + 8, patch, padding=4, count_include_pad=False)
        errors.append(torch.stack([small, large]))
    probs = (-NOISE * torch.cat(errors, dim=2)).softmax(dim=2)  # (2, B * (T - 1), side^2, h, w)
    at = (torch.arange(side, device=probs.device) - reach) / reach
    means = torch.einsum("m n d h w, d a -> m n a h w", probs, torch.cartesian_prod(at, at))
    return torch.cat([*probs, *means], dim=1).flatten(2).mT.unflatten(0, (len(frames), -1))


def matches_size(reach: int) -> int:
    return 2 * ((2 * reach + 1) ** 2 + 2)


class Shape(NamedTuple):
    """Position, extent and ink of layers, the input of their tokens."""

    coordinates: (
        Tensor  # (..., K, 6) centroid y, x; bounding box top, bottom, left, right; in units of the frame's side
    )
    ink: Tensor  # (..., K) sum of the colour over pixels, mean over channels

    def moved(self, displacement: Tensor, height: int, width: int) -> Shape:
        """After displacements (..., K, 2) in pixels of a frame of this size."""
        y, x = displacement[..., 0] / height, displacement[..., 1] / width
        return Shape(self.coordinates + torch.stack([y, x, y, y, x, x], dim=-1), self.ink)


@torch.no_grad()
def shape_of(layers: Layers) -> Shape:
    colour = layers.colour.mean(dim=2).clamp(0, 1)  # (B, K, H, W)
    height, width = colour.shape[-2:]
    ys, xs = torch.arange(height, device=colour.device) / height, torch.arange(width, device=colour.device) / width
    ink = colour.sum(dim=(2, 3))
    total = ink.clamp_min(1e-3)
    coordinates = [(colour.sum(dim=3) * ys).sum(dim=2) / total, (colour.sum(dim=2) * xs).sum(dim=2) / total]
    for along, profile in ((ys, colour.amax(dim=3)), (xs, colour.amax(dim=2))):  # (B, K, H), (B, K, W)
        visible = profile > VISIBLE
        coordinates.append(torch.where(visible, along, 1.0).amin(dim=2))
        coordinates.append(torch.where(visible, along, 0.0).amax(dim=2))
    return Shape(torch.stack(coordinates, dim=-1), ink)


class Motion(NamedTuple):
    """Shapes of layers in T frames, and the displacement before each."""

    shape: Shape  # (B, T, K, ...)
    displacement: Tensor  # (B, T, K, 2) int64 pixels, from the frame before
    has_previous: Tensor  # (B or 1, T, 1, 1) bool: whether there is a frame before

    @classmethod
    def of(cls, shapes: list[Shape], matches: list[Match]) -> Motion:
        """From the shapes of T frames (B, K, ...) and the T - 1 matches between them."""
        shape = Shape(*(torch.stack(part, dim=1) for part in zip(*shapes, strict=True)))
        b, t, k = shape.ink.shape
        first = torch.zeros(b, k, 2, dtype=torch.int64, device=shape.ink.device)
        displacement = torch.stack([first, *(m.displacement for m in matches)], dim=1)
        return cls(shape, displacement, (torch.arange(t, device=first.device) > 0)[None, :, None, None])

    def during(self, frames: slice) -> Motion:
        return Motion(
            Shape(*(part[:, frames] for part in self.shape)), self.displacement[:, frames], self.has_previous[:, frames]
        )

    def expand(self, batch: int) -> Motion:
        shape = Shape(*(part.expand(batch, *part.shape[1:]) for part in self.shape))
        return Motion(shape, self.displacement.expand(batch, *self.displacement.shape[1:]), self.has_previous)

    def next(self, displacement: Tensor, height: int, width: int) -> Motion:
        """Motion of the next frame, after a single one (T = 1), given displacements (B, 1, K, 2)."""
        return Motion(self.shape.moved(displacement, height, width), displacement, torch.ones_like(self.has_previous))

    def indices(self, reach: int) -> Tensor:
        """Displacements as indices (B, T, K) of a row-major grid of (2 * reach + 1)^2."""
        y, x = (self.displacement + reach).unbind(dim=-1)
        return y * (2 * reach + 1) + x

    def features(self, reach: int) -> Tensor:
        """Inputs of layers' tokens (B, T, K, features_size(reach)): coordinates, their sinusoids, ink, displacement."""
        ink = self.shape.ink[..., None]
        has_previous = self.has_previous.to(ink.dtype).expand_as(ink)
        one_hot = F.one_hot(self.displacement + reach, 2 * reach + 1).flatten(-2)
        displacement = torch.cat([self.displacement / reach, one_hot], dim=-1) * has_previous
        present = (ink > PRESENT).to(ink.dtype)
        scaled = (ink / LARGE).clamp(max=2)
        return torch.cat(
            [self.shape.coordinates, sinusoids(self.shape.coordinates), scaled, present, displacement, has_previous],
            dim=-1,
        )


def features_size(reach: int) -> int:
    return COORDINATES * (1 + 2 * FREQUENCIES) + 2 + 2 * (1 + 2 * reach + 1) + 1
