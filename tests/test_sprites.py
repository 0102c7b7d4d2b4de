"""A frame is cut into sprites, and these are moved, composed and cropped."""

from __future__ import annotations

import math

import torch

from stt.sprites import AGENT, CROP, MAX_SPRITES, composite, crop_around, extract_sprites, match_velocities, warp_masks


def noise(*shape):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 1


def picture(*blocks, side=64):
    """A frame (1, 3, side, side) and its segmentation, of blocks (value, row, column, height, width), each of one
    colour; later ones are in front."""
    segmentation, frame = torch.zeros(1, side, side, dtype=torch.int64), torch.full((1, 3, side, side), -0.5)
    for value, row, column, height, width in blocks:
        where = (..., slice(row, row + height), slice(column, column + width))
        segmentation[where] = value
        frame[where] = noise(3, 9)[:, value, None, None]
    return frame, segmentation


def at(*poses):
    """Poses of sprites by number, the others at rest."""
    result = torch.zeros(1, MAX_SPRITES, 4)
    for sprite, pose in poses:
        result[0, sprite] = torch.tensor(pose)
    return result


def test_sprites_have_centroids_and_radii_and_those_that_are_missing_have_none():
    sprites = extract_sprites(*picture((1, 8, 20, 4, 4), (3, 30, 10, 10, 6)))
    assert sprites.masks.sum(dim=(-2, -1)).tolist() == [[16, 0, 60, 0, 0, 0, 0, 0, 0]]
    torch.testing.assert_close(sprites.centroids[0, [0, 2]], torch.tensor([[9.5, 21.5], [34.5, 12.5]]))
    torch.testing.assert_close(sprites.radii[0, 2], torch.tensor((99 / 12 + 35 / 12) ** 0.5))
    assert not sprites.radii[0, 3:].any()


def test_a_sprite_goes_on_behind_what_covers_its_middle_but_not_beyond_its_ends():
    frame, segmentation = picture((2, 20, 20, 12, 20), (AGENT, 10, 28, 18, 3))
    sprites = extract_sprites(frame, segmentation)
    assert sprites.masks[0, 1, 20:32, 20:40].all() and sprites.masks[0, 1].sum() == 240
    red = frame[0, 0, 30, 22]
    torch.testing.assert_close(sprites.textures[0, 1, 0, 20:32, 20:40], red.expand(12, 20))
    _, beside = picture((2, 20, 20, 12, 20), (AGENT, 10, 40, 18, 3))
    assert extract_sprites(frame, beside).masks[0, 1].sum() == 240


def test_at_rest_the_reference_is_drawn_and_where_a_sprite_was_the_background_around_it():
    frame, segmentation = picture((2, 20, 20, 8, 8), (AGENT, 40, 40, 6, 4))
    sprites = extract_sprites(frame, segmentation)
    frames, agent, objects, inpainted = composite(sprites, at())
    torch.testing.assert_close(frames, frame, atol=1e-5, rtol=0)
    assert torch.equal(agent[:, 0] > 0.5, segmentation == AGENT) and torch.equal(objects[:, 0] > 0.5, segmentation == 2)
    assert inpainted.max() < 1e-5
    frames, agent, objects, inpainted = composite(sprites, at((1, (-10.0, 3.0, 0.0, 0.0))))
    torch.testing.assert_close(frames[..., 10:18, 23:31], frame[..., 20:28, 20:28], atol=1e-4, rtol=0)
    assert objects[..., 10:18, 23:31].min() > 0.99
    assert inpainted[..., 19:29, 19:29].min() > 0.99  # and its rim
    assert inpainted[..., 19:29, 19:29].sum() == inpainted.sum()
    torch.testing.assert_close(frames[..., 19:29, 19:29], torch.full((1, 3, 10, 10), -0.5))


def test_sprites_turn_about_their_centroid_and_grow():
    sprites = extract_sprites(*picture((2, 30, 20, 4, 12)))
    turned = warp_masks(sprites.masks, sprites.centroids, at((1, (0.0, 0.0, math.pi / 2, 0.0))))[0, 1]
    assert turned[26:38, 24:28].min() > 0.99 and abs(turned.sum() - 48) < 0.1
    grown = warp_masks(sprites.masks, sprites.centroids, at((1, (0.0, 0.0, 0.0, math.log(2)))))[0, 1]
    assert abs(grown.sum() - 4 * 48) < 1 and grown[29:35, 15:37].min() > 0.99
    corner = torch.zeros(1, 64, 64, dtype=torch.int64)
    corner[0, 30, 20:32], corner[0, 24:31, 31] = 2, 2  # an L, to tell left from right
    sprites = extract_sprites(torch.zeros(1, 1, 64, 64), corner)
    turned = warp_masks(sprites.masks, sprites.centroids, at((1, (0.0, 0.0, math.pi / 2, 0.0))))[0, 1]
    centroid = sprites.centroids[0, 1]
    y, x = centroid + torch.tensor([24.0, 31.0]).sub(centroid).flip(0) * torch.tensor([-1, 1])
    assert turned[round(float(y)), round(float(x))] > 0.2  # (down, right) by a right angle: (-right, down)


def test_what_reaches_further_down_is_in_front():
    frame, segmentation = picture((2, 20, 20, 8, 8), (3, 40, 20, 8, 8))
    sprites = extract_sprites(frame, segmentation)
    frames = composite(sprites, at((1, (17.0, 0.0, 0.0, 0.0)))).frames
    torch.testing.assert_close(frames[..., 40:48, 20:28], frame[..., 40:48, 20:28], atol=1e-3, rtol=0)
    frames = composite(sprites, at((1, (23.0, 0.0, 0.0, 0.0)))).frames
    torch.testing.assert_close(frames[..., 43:51, 20:28], frame[..., 20:28, 20:28], atol=1e-3, rtol=0)


def test_crops_show_what_lies_around_a_centroid_and_nothing_beyond_the_edge():
    maps = noise(2, 3, 64, 64) + 2
    crops = crop_around(maps, torch.tensor([[[31.5, 31.5], [3.5, 60.5]]]).expand(2, -1, -1))
    assert crops.shape == (2, 2, 3, CROP, CROP)
    torch.testing.assert_close(crops[:, 0], maps[..., 16:48, 16:48], atol=1e-5, rtol=0)
    torch.testing.assert_close(crops[:, 1, :, 12:, :19], maps[..., :20, 45:], atol=1e-5, rtol=0)
    assert not crops[:, 1, :, :12].any() and not crops[:, 1, :, :, 19:].any()


def test_the_velocity_of_a_sprite_is_that_of_its_pixels_since_the_frame_before():
    before, _ = picture((2, 20, 20, 8, 8), (3, 40, 8, 6, 6), (AGENT, 10, 40, 12, 4))
    frame, segmentation = picture((2, 20, 20, 8, 8), (3, 37, 13, 6, 6), (AGENT, 12, 34, 12, 4))
    velocities = match_velocities(before, extract_sprites(frame, segmentation))
    wanted = at((0, (2.0, -6.0, 0.0, 0.0)), (2, (-3.0, 5.0, 0.0, 0.0)))
    torch.testing.assert_close(velocities, wanted, atol=0.15, rtol=0)
    assert torch.equal(velocities[:, [1, 3]], wanted[:, [1, 3]])  # what rests does so to the bit
    doubled = (maps.repeat_interleave(2, -1).repeat_interleave(2, -2) for maps in (before, frame, segmentation))
    before, frame, segmentation = doubled
    velocities = match_velocities(before, extract_sprites(frame, segmentation))
    torch.testing.assert_close(velocities, 2 * wanted, atol=0.3, rtol=0)


def test_block_matching_finds_half_a_pixel():
    row = torch.linspace(-1, 1, 64).mul(40).cos().expand(1, 1, 64, 64)
    segmentation = torch.zeros(1, 64, 64, dtype=torch.int64)
    segmentation[0, 20:40, 20:40] = 2
    moved = (row[..., :-1] + row[..., 1:]) / 2
    velocities = match_velocities(torch.cat([moved, row[..., -1:]], dim=-1), extract_sprites(row, segmentation))
    torch.testing.assert_close(velocities[0, 1, 1].abs(), torch.tensor(0.5), atol=0.15, rtol=0)
