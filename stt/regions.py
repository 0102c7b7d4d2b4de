"""Regions: the parts of a picture that move as wholes, and the ground behind them.

The layered representation of Wang and Adelson (1994), for the last frame of a prompt. Optical flow says what moves
otherwise than the camera; GrabCut (Rother et al. 2004) draws its outlines; each region has one similarity transform a
frame, found by RANSAC, and is followed back through the prompt, so that earlier frames show the ground behind it.

Pictures and flows are arrays (`stt.pictures`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stt.pictures import (
    Array,
    blurred,
    dilated,
    eroded,
    even_light,
    filled,
    inside_of,
    lengths,
    misfit_of,
    opened,
    sample,
    spread_flow,
    texture_of,
    touches_border,
    union,
)
from stt.region_course import Course, course_of
from stt.region_flow import NOISE, camera_flow, dis_flow, similarity_flow, similarity_of, steadied
from stt.region_masks import MOTION, SMALLEST, fast_parts, follow, moving_parts, split_part, without_holes

STRAIGHT_WANDER = 0.02  # wander of a region whose path is straight, as far as the prompt tells
WHOLE = 0.8  # share of a region that the picture shows in a frame whose place counts
BENDS = 0.8  # of the misfit of its similarity has a region that bends, at most


class Region(NamedTuple):
    mask: Array  # (H, W) bool: its pixels in the last frame
    turn: complex  # a pixel x + iy of it was at turn * (x + iy) + shift one frame before
    shift: complex
    bend: Array  # (H, W, 2) what the optical flow adds to that
    places: Array  # (T, 2) its position in each frame of the prompt, latest first, relative to the last frame's
    course: Course
    rigidity: float  # share of its pixels that move as the similarity says


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
    colours = even_light(frames.astype(np.float32) / 255)
    count, height, width = frames.shape[:3]
    still = np.zeros((height, width, 2), np.float32)
    textures = [texture_of(frame) for frame in frames]
    flows = [still] + [dis_flow(frames[t], frames[t - 1]) for t in range(1, count)]
    cameras = [still]
    cameras += [camera_flow(colours[t], colours[t - 1], flows[t], textures[t]) for t in range(1, count)]
    paths = [still]
    for camera in cameras[:0:-1]:
        paths.append(paths[-1] + sample(camera, paths[-1]))
    if count == 1:
        nothing = np.zeros((height, width), np.int8)
        return Scene([], cameras, still, colours[-1], nothing, paths)
    flow = steadied(flows)
    misfit = misfit_of(colours[-1], colours[-2], flow)
    masks = moving_parts(frames, colours, flow, cameras[-1], paths, misfit)
    masks = [part for mask in masks for part in split_part(mask, flow, textures[-1])]
    fast = fast_parts(frames, colours, cameras, paths, misfit, union(masks, misfit.shape))
    flow = flow.copy()
    for mask, displacement in fast:
        flow[mask] = displacement
        misfit[mask] = 0
    masks += [mask for mask, _ in fast]
    if np.any(cameras[-1]):  # what leaves a picture that moves is parallax of the ground
        masks = [mask for mask in masks if not touches_border(mask)]
    masks = sorted(masks, key=np.count_nonzero)[::-1][:most]
    regions, covers = [], []
    for mask in masks:
        places, cover = follow(mask, frames[::-1], flow)
        mask = _without_ground(mask, cover, colours, paths)
        if np.count_nonzero(mask) < SMALLEST * mask.size:
            continue
        steps = np.diff(places, axis=0)
        small = np.count_nonzero(mask) < 8 * SMALLEST * mask.size
        if small and len(steps) > 1 and lengths(steps[0] - steps[1]) > 0.7 + 0.5 * lengths(steps[0]):
            continue  # noise of the flow, not a thing
        turn, shift = similarity_of(mask, flow, textures[-1] * (misfit < 3 * NOISE))
        centre = complex(*np.argwhere(mask).mean(axis=0)[::-1])
        hidden = [k for k, part in enumerate(cover) if np.count_nonzero(part) < WHOLE * np.count_nonzero(cover[0])]
        course = course_of(places[: min(hidden, default=None)], -((turn - 1) * centre + shift))
        if course.steady or course.wander <= STRAIGHT_WANDER:  # straight on, though it may turn
            turn = 1 + 0j if course.acceleration else complex(abs(turn))
            shift = -course.velocity - (turn - 1) * centre
        rest = np.where(mask[..., None], flow - similarity_flow(turn, shift, height, width), 0)
        core = eroded(mask, 1) if eroded(mask, 1).sum() >= 12 else mask
        rigidity = float((lengths(rest[core]) < 0.5 + 0.1 * lengths(flow[core]).mean()).mean())
        bend = spread_flow(rest, (core & (misfit < 3 * NOISE)).astype(np.float32), 1.5)
        rigid, bent = (misfit_of(colours[-1], colours[-2], flow - part)[core].mean() for part in (rest, rest - bend))
        bend *= bent < BENDS * rigid
        regions.append(Region(mask, turn, shift, bend, places, course, rigidity))
        covers.append(cover)
    order = np.argsort([lengths((flow - cameras[-1])[region.mask]).mean() for region in regions]).astype(int)
    regions, covers = [regions[k] for k in order], [covers[k] for k in order]
    ground, age = _ground(colours, regions, covers, flows, cameras, paths)
    outside = eroded(~union([region.mask for region in regions], still[..., 0].shape), 3) & (misfit < 3 * NOISE)
    if np.any(cameras[-1]):  # then the flow is wrong where things enter
        outside &= eroded(inside_of(flow), 2)
    ground_flow = cameras[-1] + spread_flow(flow - cameras[-1], outside.astype(np.float32), 1.5)
    return Scene(regions, cameras[::-1], ground_flow.astype(np.float32), ground, age, paths)


def _without_ground(mask: Array, cover: list[Array], colours: Array, paths: list[Array]) -> Array:
    """A mask without what looks as it did before the region was there."""
    ground = np.zeros_like(mask)
    for k in range(1, len(cover)):
        clear = sample(dilated(cover[k], 2).astype(np.float32), paths[k]) < 0.05
        change = blurred(np.abs(colours[-1] - sample(colours[-1 - k], paths[k])).mean(axis=-1), 1)
        ground |= clear & inside_of(paths[k]) & (change < NOISE)
    return dilated(without_holes(opened(mask & ~ground, np.ones((3, 3), np.uint8))), 1) & mask


def _ground(
    colours: Array, regions: list[Region], covers: list[list[Array]], flows: list[Array], cameras: list[Array],
    paths: list[Array],
) -> tuple[Array, Array]:  # fmt: skip
    """The last picture without its regions: what earlier frames show there, else what lies around; and its age."""
    count, height, width = colours.shape[:3]
    hidden = union([region.mask for region in regions], (height, width))
    age = np.where(hidden, -1, 0).astype(np.int8)
    picture = colours[-1].copy()
    wide = dilated(hidden, 2)  # colours of regions bleed a little over their edges
    missing = wide.copy()
    for k in range(1, count):
        if not missing.any():
            break
        t = count - 1 - k
        later = max(t, 1)
        change = misfit_of(colours[later], colours[later - 1], cameras[later])
        moving = (change > NOISE) | (lengths(flows[later] - cameras[later]) > MOTION)
        moving |= union([cover[k] for cover in covers], (height, width))
        clear = sample(dilated(moving, 2).astype(np.float32), paths[k]) < 0.05
        usable = missing & clear & inside_of(paths[k])
        picture[usable] = sample(colours[t], paths[k])[usable]
        age[usable & hidden] = k
        missing &= ~usable
    if missing.any() and not missing.all():
        picture[missing] = filled(picture, missing)[missing]
    picture[~hidden] = colours[-1][~hidden]
    return picture, age
