"""Regions: the parts of a picture that move as wholes, and the ground behind them.

The layered representation of Wang and Adelson (1994), for the last frame of a prompt. Optical flow says what moves
otherwise than the camera; GrabCut (Rother et al. 2004) draws its outlines; each region has one similarity transform a
frame, found by RANSAC, and is followed back through the prompt, so that earlier frames show the ground behind it.

Pictures here are arrays (H, W, 3): bytes, or floats on [0, 1]. Flows (H, W, 2) lead from a frame's pixels to where they
were in the frame before.
"""

from __future__ import annotations

import cmath
from typing import NamedTuple

import cv2
import numpy as np

Array = np.ndarray

NOISE = 0.035  # difference of colours, on [0, 1], that is none
MOTION = 0.4  # pixels a frame that a region moves otherwise than the ground, at least
CAMERA_SHARE = 0.25  # of a picture's texture that moves as the camera does, at least
SLOWEST_CAMERA = 0.3  # pixels a frame
PARALLAX = 0.3  # of the camera's motion, by which parts of a still ground differ
CELLS = 6  # a side, of which many must tell that the camera moves
FASTEST = 0.15  # of the longer side, in a frame
LARGEST_FAST = 0.05  # share of the picture of a thing that is looked for so far
SMALLEST = 0.0005  # share of the picture of a region
RIGID = 0.5  # share of a region's pixels that one similarity explains, at least
MOST_TURN, MOST_GROWTH = 0.3, 0.15  # of a region in one frame: radians, logarithm of its size


class Region(NamedTuple):
    mask: Array  # (H, W) bool: its pixels in the last frame
    turn: complex  # a pixel x + iy of it was at turn * (x + iy) + shift one frame before
    shift: complex
    bend: Array  # (H, W, 2) what the optical flow adds to that
    places: Array  # (T, 2) its position in each frame of the prompt, latest first, relative to the last frame's


class Scene(NamedTuple):
    """A prompt of T frames, at its end."""

    regions: list[Region]  # from the back to the front
    camera: list[Array]  # T flows of the ground, latest first; the first frame's is 0
    ground_flow: Array  # (H, W, 2) of the ground's own parts, too
    ground: Array  # (H, W, 3) floats: the picture without its regions
    age: Array  # (H, W) how many frames before the last one shows that pixel of the ground; -1: none does
    paths: list[Array]  # T flows from the last frame to the one so many frames before, along the camera's motion


def find_regions(frames: Array, most: int) -> Scene:
    """The scene of a prompt (T, H, W, 3) of bytes. most: regions at most, the largest ones."""
    colours = _even_light(frames.astype(np.float32) / 255)
    count, height, width = frames.shape[:3]
    still = np.zeros((height, width, 2), np.float32)
    textures = [_texture(frame) for frame in frames]
    flows = [still] + [dis_flow(frames[t], frames[t - 1]) for t in range(1, count)]
    cameras = [still]
    cameras += [_camera(colours[t], colours[t - 1], flows[t], textures[t]) for t in range(1, count)]
    paths = [still]
    for camera in cameras[:0:-1]:
        paths.append(paths[-1] + sample(camera, paths[-1]))
    if count == 1:
        nothing = np.zeros((height, width), np.int8)
        return Scene([], cameras, still, colours[-1], nothing, paths)
    flow = _steadied(flows)
    misfit = _misfit(colours[-1], colours[-2], flow)
    masks = _moving_parts(frames, colours, flow, cameras[-1], paths, misfit)
    masks = [part for mask in masks for part in _split(mask, flow, textures[-1])]
    fast = _fast_parts(frames, colours, cameras, paths, misfit, _union(masks, misfit.shape))
    flow = flow.copy()
    for mask, displacement in fast:
        flow[mask] = displacement
        misfit[mask] = 0
    masks += [mask for mask, _ in fast]
    if np.any(cameras[-1]):  # what leaves a picture that moves is parallax of the ground
        masks = [mask for mask in masks if not _touches_border(mask)]
    masks = sorted(masks, key=np.count_nonzero)[::-1][:most]
    regions, covers = [], []
    for mask in masks:
        places, cover = follow(mask, frames[::-1], flow)
        steps = np.diff(places, axis=0)
        small = np.count_nonzero(mask) < 8 * SMALLEST * mask.size
        if small and len(steps) > 1 and _length(steps[0] - steps[1]) > 0.7 + 0.5 * _length(steps[0]):
            continue  # noise of the flow, not a thing
        turn, shift = _similarity(mask, flow, textures[-1] * (misfit < 3 * NOISE))
        rest = np.where(mask[..., None], flow - similarity_flow(turn, shift, height, width), 0)
        core = _eroded(mask, 1) if _eroded(mask, 1).sum() >= 12 else mask
        bend = _spread(rest, (core & (misfit < 3 * NOISE)).astype(np.float32), 1.5)
        regions.append(Region(mask, turn, shift, bend, places))
        covers.append(cover)
    order = np.argsort([_length((flow - cameras[-1])[region.mask]).mean() for region in regions]).astype(int)
    regions, covers = [regions[k] for k in order], [covers[k] for k in order]
    ground, age = _ground(colours, regions, covers, flows, cameras, paths)
    outside = _eroded(~_union([region.mask for region in regions], still[..., 0].shape), 3) & (misfit < 3 * NOISE)
    ground_flow = cameras[-1] + _spread(flow - cameras[-1], outside.astype(np.float32), 1.5)
    return Scene(regions, cameras[::-1], ground_flow.astype(np.float32), ground, age, paths)


# ---- flow --------------------------------------------------------------------------------------------


def dis_flow(frame: Array, before: Array) -> Array:
    """DIS optical flow (arXiv 1603.03590) of a picture of bytes to the one before."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    height, width = frame.shape[:2]
    bars = [(0, max(16 - side, 0)) for side in (height, width)]  # DIS needs 16 pixels
    gray = [
        np.pad(cv2.cvtColor(np.ascontiguousarray(x), cv2.COLOR_RGB2GRAY), bars, mode="edge") for x in (frame, before)
    ]
    return np.asarray(dis.calc(gray[0], gray[1], np.zeros((*gray[0].shape, 2), np.float32)))[:height, :width]


def sample(picture: Array, flow: Array) -> Array:
    """A picture or flow (H, W, ...) as seen along a flow; beyond its borders it is mirrored."""
    at = pixels(*flow.shape[:2]) + flow
    return cv2.remap(picture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def pixels(height: int, width: int) -> Array:
    """The places (x, y) of all pixels, (H, W, 2)."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)


def similarity_flow(turn: complex, shift: complex, height: int, width: int) -> Array:
    """The flow x -> turn * x + shift - x of complex places x."""
    at = pixels(height, width)
    moved = (turn - 1) * (at[..., 0] + 1j * at[..., 1]) + shift
    return np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)


def _steadied(flows: list[Array]) -> Array:
    """The last flow, a little like the one before where both agree: their errors are independent."""
    flow = flows[-1]
    if len(flows) < 3:
        return flow
    older = sample(flows[-2], flow)
    agreement = 1 - _length(older - flow) / (0.3 + 0.4 * _length(flow))
    return flow + 0.4 * np.clip(agreement, 0, 1)[..., None] * (older - flow)


def _camera(frame: Array, before: Array, flow: Array, texture: Array) -> Array:
    """The ground's flow: that of most textured pixels, where it is better than a camera at rest all over the frame."""
    still = np.zeros_like(flow)
    tolerance = 0.4 + 0.05 * float(np.median(_length(flow)))
    matrix, share = _fit(cv2.estimateAffine2D, flow, texture, tolerance)
    if matrix is None or share < CAMERA_SHARE:
        return still
    at = pixels(*flow.shape[:2])
    affine = at @ matrix[:, :2].T + matrix[:, 2] - at
    near = _length(flow - affine) < 1 + 0.3 * _length(affine)  # perspective, not a thing that moves
    camera = (affine + _spread(flow - affine, texture * near, 0.06 * flow.shape[1])).astype(np.float32)
    better = _misfit(frame, before, still) - _misfit(frame, before, camera)
    votes = [_cells((sign * better > NOISE / 2).astype(np.float32)) for sign in (1, -1)]
    if _length(camera).mean() < SLOWEST_CAMERA:
        return still
    moving, resting = ((a > b) & (a > 0.01) for a, b in (votes, votes[::-1]))
    extent = [np.ptp(axis) + 1 for axis in np.nonzero(moving)] if moving.any() else [0, 0]
    wide = min(extent) >= CELLS / 2 and max(extent) >= CELLS - 1  # else it is a thing that moves
    return camera if wide and moving.sum() > 2 * resting.sum() else still


def _similarity(mask: Array, flow: Array, weight: Array) -> tuple[complex, complex]:
    """turn and shift of a region; where none explains it, its median displacement."""
    speed = float(_length(flow[mask]).mean())
    core = _eroded(mask, 1)
    core = core if core.sum() >= 12 else mask
    matrix, share = _fit(cv2.estimateAffinePartial2D, flow, core * weight, 0.5 + 0.1 * speed)
    if matrix is not None and share > RIGID and mask.sum() > 60:
        turn, shift = complex(matrix[0, 0], matrix[1, 0]), complex(matrix[0, 2], matrix[1, 2])
        growth, angle = cmath.polar(turn)
        if abs(angle) < MOST_TURN and abs(np.log(max(growth, 1e-9))) < MOST_GROWTH:
            return turn, shift
    right, down = np.median(flow[mask], axis=0)
    return 1 + 0j, complex(right, down)


def _fit(estimate: object, flow: Array, weight: Array, tolerance: float) -> tuple[Array | None, float]:
    """A matrix by RANSAC from pixels drawn by weight, and the share of them that it explains."""
    rows, columns = np.nonzero(weight > 0)
    if len(rows) < 20:
        return None, 0.0
    chances = weight[rows, columns].astype(np.float64)
    chosen = np.random.default_rng(0).choice(len(rows), min(len(rows), 2000), replace=False, p=chances / chances.sum())
    places = np.stack([columns[chosen], rows[chosen]], axis=-1).astype(np.float32)
    cv2.setRNGSeed(1)
    matrix, inliers = estimate(  # type: ignore[operator]
        places, places + flow[rows[chosen], columns[chosen]], method=cv2.RANSAC, ransacReprojThreshold=tolerance,
        maxIters=500, confidence=0.995, refineIters=10,
    )  # fmt: skip
    return (None, 0.0) if matrix is None else (matrix.astype(np.float32), float(inliers.mean()))


# ---- masks -------------------------------------------------------------------------------------------


def _moving_parts(
    frames: Array, colours: Array, flow: Array, camera: Array, paths: list[Array], misfit: Array
) -> list[Array]:
    """Masks of the connected parts of the last frame that move otherwise than the camera."""
    last, before = colours[-1], colours[-2]
    height, width = flow.shape[:2]
    speed = _length(flow - camera)
    least = MOTION + PARALLAX * (_length(camera) + _length(camera).mean())
    ahead = dis_flow(frames[-2], frames[-1])
    inside = _inside(flow)
    there_and_back = _length(flow + sample(ahead, flow)) < 0.5 + 0.1 * _length(flow)
    visible = _blur(there_and_back & inside, 1) > 0.5  # else it has just been uncovered
    static_misfit = _misfit(last, before, camera)
    changed = static_misfit.copy()
    for age in range(2, min(4, len(frames))):
        difference = _blur(np.abs(last - sample(colours[-1 - age], paths[age])).mean(axis=-1), 1)
        changed = np.maximum(changed, np.where(_inside(paths[age]), difference, 0))
    moving = (speed > least) & (misfit < static_misfit + 0.01) & visible
    sure = moving & (changed > 2 * NOISE) & (static_misfit > NOISE) & (misfit < 0.8 * static_misfit)
    sure = _opened(sure, np.ones((2, 2), np.uint8))
    possible = _closed(speed > 0.7 * least, np.ones((5, 5), np.uint8))
    count, labels = cv2.connectedComponents(possible.astype(np.uint8))
    seeds = np.bincount(labels[sure & possible], minlength=count)
    seeds[0] = 0
    possible = (seeds >= max(8, 0.4 * SMALLEST * flow[..., 0].size))[labels]
    sure &= possible
    if not sure.any():
        return []
    core = _opened(_closed(moving & (changed > NOISE) & possible, _disk(3)), _disk(2))
    hulls = np.zeros((height, width), np.uint8)  # what is even inside of them, such as a white roof, tells no motion
    for outline in cv2.findContours(core.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]:
        cv2.fillConvexPoly(hulls, cv2.convexHull(outline), 1)
    plain = (speed > least) & (misfit < NOISE) & visible  # the even inside of a thing
    core = _closed(core | ((hulls > 0) & (moving | plain)), _disk(2))
    guess = np.full((height, width), cv2.GC_BGD, np.uint8)
    guess[_dilated(core, 3) | (hulls > 0)] = cv2.GC_PR_BGD
    guess[core] = cv2.GC_PR_FGD
    guess[core & (sure | (_eroded(core, 3) & (static_misfit > NOISE)))] = cv2.GC_FGD
    uncovered = ~visible & inside & (speed > least) & (static_misfit > 2 * NOISE)
    guess[uncovered & (guess != cv2.GC_FGD)] = cv2.GC_BGD
    if (guess == cv2.GC_FGD).any() and (guess == cv2.GC_BGD).any():
        cv2.setRNGSeed(1)
        picture = np.ascontiguousarray(frames[-1][..., ::-1])
        cv2.grabCut(picture, guess, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    parts = (guess == cv2.GC_FGD) | (guess == cv2.GC_PR_FGD)
    parts = _without_holes(_opened(_closed(parts, np.ones((3, 3), np.uint8)), np.ones((3, 3), np.uint8)))
    count, labels, figures, _ = cv2.connectedComponentsWithStats(parts.astype(np.uint8))
    smallest = max(16, SMALLEST * parts.size)
    found = []
    for k in range(1, count):
        part, area = labels == k, figures[k, cv2.CC_STAT_AREA]
        clear = static_misfit[part].mean() > max(NOISE, 2 * misfit[part].mean())  # else a small one is a flow's error
        if area >= smallest and (clear or area >= 8 * smallest):
            found.append(_dilated(part, 1))  # edges are blurred over a pixel
    return found


def _fast_parts(
    frames: Array, colours: Array, cameras: list[Array], paths: list[Array], misfit: Array, known: Array
) -> list[tuple[Array, Array]]:
    """Masks of things too fast for the optical flow, and their displacements (right, down) to the frame before.

    They differ from what the two frames before show in their place, and are found elsewhere in the last of these.
    """
    if len(frames) < 3:
        return []
    new = _misfit(colours[-1], colours[-2], cameras[-1]) > 2 * NOISE
    new &= _blur(np.abs(colours[-1] - sample(colours[-3], paths[2])).mean(axis=-1), 1) > 2 * NOISE
    new = _opened(_closed(new & ~_dilated(known, 3), _disk(2)), _disk(1))
    count, labels, figures, _ = cv2.connectedComponentsWithStats(new.astype(np.uint8))
    reach = round(FASTEST * max(new.shape))
    found = []
    for k in range(1, count):
        mask, area = labels == k, figures[k, cv2.CC_STAT_AREA]
        if not max(16, SMALLEST * mask.size) <= area <= LARGEST_FAST * mask.size or misfit[mask].mean() < 1.5 * NOISE:
            continue
        rows, columns = np.nonzero(mask)
        box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        weight = np.repeat(mask[box].astype(np.float32)[..., None], 3, axis=2)
        corner, step = (int(columns.min()), int(rows.min())), np.zeros(2)
        for frame in frames[-2:-4:-1]:  # found in both frames before, at about the same pace
            at = corner[0] + round(step[0]), corner[1] + round(step[1])
            near = reach if not step.any() else reach // 4
            place = np.round(step) + _search(
                frames[-1][box].astype(np.float32), weight, frame, at, near, np.ones(2) * reach
            )
            moved = np.array([[1, 0, place[0]], [0, 1, place[1]]], np.float32)
            there = cv2.warpAffine(colours[-1], moved, mask.shape[::-1], flags=cv2.INTER_LINEAR)
            cover = cv2.warpAffine(mask.astype(np.uint8), moved, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0
            error = np.abs(there - frame.astype(np.float32) / 255).mean(axis=-1)
            if cover.sum() < 0.5 * area or error[cover].mean() > 1.5 * NOISE:
                break
            step = 2 * place if not step.any() else step
        else:
            found.append((mask, (step / 2).astype(np.float32)))
    return found


def _without_holes(mask: Array) -> Array:
    """A mask without small holes."""
    count, labels, figures, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8))
    small = figures[:, cv2.CC_STAT_AREA] < max(16, 0.1 * np.count_nonzero(mask))
    return mask | small[labels]


def _split(mask: Array, flow: Array, texture: Array) -> list[Array]:
    """A part that holds two things which each move as a whole, in opposite ways, becomes two."""
    tolerance = 0.5 + 0.12 * float(_length(flow[mask]).mean())
    if mask.sum() < 16 * SMALLEST * mask.size or _explained(mask, flow, texture, tolerance) > RIGID:
        return [mask]
    rows, columns = np.nonzero(mask)
    speed = float(_length(flow[mask]).mean()) + 0.3
    places = np.stack([columns / mask.shape[1], rows / mask.shape[0]], axis=-1)
    features = np.concatenate([1.5 * flow[mask] / speed, 2 * places], axis=-1).astype(np.float32)
    cv2.setRNGSeed(1)
    _, labels, centres = cv2.kmeans(
        features, 2, np.zeros((len(features), 1), np.int32), (3, 20, 0.1), 2, cv2.KMEANS_PP_CENTERS
    )
    first = np.zeros_like(mask)
    first[rows, columns] = labels[:, 0] == 0
    first = (cv2.medianBlur(first.astype(np.uint8), 5) > 0) & mask
    parts = [first, mask & ~first]
    apart = _length(centres[0, :2] - centres[1, :2]) > 0.6
    if not apart or min(part.sum() for part in parts) < 0.15 * mask.sum():
        return [mask]
    return parts if min(_explained(part, flow, texture, tolerance) for part in parts) > 0.8 else [mask]


def _explained(mask: Array, flow: Array, texture: Array, tolerance: float) -> float:
    return _fit(cv2.estimateAffinePartial2D, flow, mask * texture, tolerance)[1]


def follow(mask: Array, frames: Array, flow: Array) -> tuple[Array, list[Array]]:
    """Where a region of the first of some frames (T, H, W, 3) is in each of them, and masks of it there.

    Places (T, 2) are relative to the first frame's. flow: from the first frame to the second, about. Each frame is
    searched for the region's pixels near where its last step leads.
    """
    rows, columns = np.nonzero(mask)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    patch = frames[0][box].astype(np.float32)
    weight = np.repeat(mask[box].astype(np.float32)[..., None], 3, axis=2)
    step, place = np.median(flow[mask], axis=0).astype(np.float64), np.zeros(2)
    places, masks = [place], [mask]
    for frame in frames[1:]:
        reach = int(np.ceil(3 + 0.5 * np.abs(step).max()))
        guess = np.round(place + step).astype(int)
        found = guess + _search(patch, weight, frame, (box[1].start + guess[0], box[0].start + guess[1]), reach, step)
        step, place = 0.5 * step + 0.5 * (found - place), found
        places.append(place)
        move = np.array([[1, 0, place[0]], [0, 1, place[1]]], np.float32)
        masks.append(cv2.warpAffine(mask.astype(np.uint8), move, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0)
    return np.array(places, np.float32), masks


def _search(patch: Array, weight: Array, frame: Array, corner: tuple[int, int], reach: int, step: Array) -> Array:
    """The displacement (right, down), up to `reach` pixels from a corner, at which a frame looks most like a patch."""
    (left, top), (height, width) = (c - reach for c in corner), (side + 2 * reach for side in patch.shape[:2])
    border = max(0, -left, -top, left + width - frame.shape[1], top + height - frame.shape[0])
    if border > max(frame.shape):  # it is far outside of the picture
        return np.zeros(2)
    wide = cv2.copyMakeBorder(frame, border, border, border, border, cv2.BORDER_REPLICATE).astype(np.float32)
    area = wide[top + border : top + border + height, left + border : left + border + width]
    errors = cv2.matchTemplate(area, patch, cv2.TM_SQDIFF, mask=weight) / (255**2 * weight.sum())
    far = _length(pixels(2 * reach + 1, 2 * reach + 1) - reach)
    errors = errors + 2e-4 * far / max(1.0, float(_length(step)))
    row, column = (int(k) for k in np.unravel_index(np.argmin(errors), errors.shape))
    offsets = [_vertex(errors[row], column), _vertex(errors[:, column], row)]
    return np.array([column - reach, row - reach]) + offsets


def _vertex(values: Array, at: int) -> float:
    """The fraction of a step from a smallest value to the vertex of a parabola through it and its neighbours."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, least, after = (float(v) for v in values[at - 1 : at + 2])
    curvature = before - 2 * least + after
    return float(np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)) if curvature > 1e-9 else 0.0


# ---- ground ------------------------------------------------------------------------------------------


def _ground(
    colours: Array, regions: list[Region], covers: list[list[Array]], flows: list[Array], cameras: list[Array],
    paths: list[Array],
) -> tuple[Array, Array]:  # fmt: skip
    """The last picture without its regions: what earlier frames show there, else what lies around; and its age."""
    count, height, width = colours.shape[:3]
    hidden = _union([region.mask for region in regions], (height, width))
    age = np.where(hidden, -1, 0).astype(np.int8)
    picture = colours[-1].copy()
    wide = _dilated(hidden, 2)  # colours of regions bleed a little over their edges
    missing = wide.copy()
    for k in range(1, count):
        if not missing.any():
            break
        t = count - 1 - k
        later = max(t, 1)
        change = _misfit(colours[later], colours[later - 1], cameras[later])
        moving = (change > NOISE) | (_length(flows[later] - cameras[later]) > MOTION)
        moving |= _union([cover[k] for cover in covers], (height, width))
        clear = sample(_dilated(moving, 2).astype(np.float32), paths[k]) < 0.05
        usable = missing & clear & _inside(paths[k])
        picture[usable] = sample(colours[t], paths[k])[usable]
        age[usable & hidden] = k
        missing &= ~usable
    if missing.any() and not missing.all():
        filled = cv2.inpaint((255 * picture).round().astype(np.uint8), missing.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        picture[missing] = filled[missing].astype(np.float32) / 255
    picture[~hidden] = colours[-1][~hidden]
    return picture, age


# ---- pictures ----------------------------------------------------------------------------------------


def _misfit(frame: Array, before: Array, flow: Array) -> Array:
    return _blur(np.abs(frame - sample(before, flow)).mean(axis=-1), 1)


def _texture(frame: Array) -> Array:
    """How much a pixel's surroundings tell of its motion, from 0.02 to 1."""
    gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))
    return np.clip(_blur(edges, 2) / 80, 0.02, 1)


def _spread(flow: Array, weight: Array, sigma: float) -> Array:
    """Means of a flow by weight, with a Gaussian window; 0 where there is no weight near."""
    weight = weight.astype(np.float32)
    total = cv2.GaussianBlur(weight, (0, 0), sigma)
    sums = cv2.GaussianBlur((weight[..., None] * flow).astype(np.float32), (0, 0), sigma)
    return np.where(total[..., None] > 1e-3, sums / np.maximum(total, 1e-6)[..., None], 0).astype(np.float32)


def _even_light(colours: Array) -> Array:
    """Frames (T, H, W, 3), each as bright as the last one."""
    return colours + np.median(colours[-1:] - colours, axis=(1, 2), keepdims=True)


def _cells(picture: Array) -> Array:
    return cv2.resize(picture, (CELLS, CELLS), interpolation=cv2.INTER_AREA)


def _inside(flow: Array) -> Array:
    height, width = flow.shape[:2]
    at = pixels(height, width) + flow
    return (at >= 0).all(axis=-1) & (at[..., 0] <= width - 1) & (at[..., 1] <= height - 1)


def _length(vectors: Array) -> Array:
    return np.hypot(vectors[..., 0], vectors[..., 1])


def _blur(picture: Array, radius: int) -> Array:
    side = 2 * radius + 1
    return cv2.blur(picture.astype(np.float32), (side, side), borderType=cv2.BORDER_REFLECT)


def _touches_border(mask: Array) -> bool:
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


def _union(masks: list[Array], shape: tuple[int, ...]) -> Array:
    return np.logical_or.reduce(masks) if masks else np.zeros(shape, bool)


def _disk(radius: int) -> Array:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _dilated(mask: Array, radius: int) -> Array:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def _eroded(mask: Array, radius: int) -> Array:
    return cv2.erode(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0


def _opened(mask: Array, kernel: Array) -> Array:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def _closed(mask: Array, kernel: Array) -> Array:
    return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0
