import math

import torch

from stt.things import CROP, GUEST, LAYERS, composed, crops, layered, paces_of, warped


def noise(*shape):
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(0)) - 1


def picture(*blocks, side=64):
    """Of what pixels show: blocks (what, row, column, height, width), later ones in front; and a look for each."""
    shown, look = torch.zeros(1, side, side, dtype=torch.int64), torch.full((1, 3, side, side), -0.5)
    for what, row, column, height, width in blocks:
        where = (..., slice(row, row + height), slice(column, column + width))
        shown[where] = what
        look[where] = noise(3, 9)[:, what, None, None]
    return look, shown


def at(*poses):
    """Poses of layers by number, the others at rest."""
    found = torch.zeros(1, LAYERS, 4)
    for layer, pose in poses:
        found[0, layer] = torch.tensor(pose)
    return found


def test_things_have_middles_and_sizes_and_what_is_not_there_has_none():
    look, shown = picture((1, 8, 20, 4, 4), (3, 30, 10, 10, 6))
    things = layered(look, shown)
    assert things.masks.sum(dim=(-2, -1)).tolist() == [[16, 0, 60, 0, 0, 0, 0, 0, 0]]
    torch.testing.assert_close(things.middles[0, [0, 2]], torch.tensor([[9.5, 21.5], [34.5, 12.5]]))
    torch.testing.assert_close(things.sizes[0, 2], torch.tensor((99 / 12 + 35 / 12) ** 0.5))
    assert not things.sizes[0, 3:].any()


def test_a_thing_goes_on_behind_what_stands_in_front_of_its_middle_but_not_beyond_its_ends():
    look, shown = picture((2, 20, 20, 12, 20), (GUEST, 10, 28, 18, 3))
    things = layered(look, shown)
    assert things.masks[0, 1, 20:32, 20:40].all() and things.masks[0, 1].sum() == 240
    red = look[0, 0, 30, 22]
    torch.testing.assert_close(things.looks[0, 1, 0, 20:32, 20:40], red.expand(12, 20))
    _, beside = picture((2, 20, 20, 12, 20), (GUEST, 10, 40, 18, 3))
    assert layered(look, beside).masks[0, 1].sum() == 240


def test_at_rest_the_reference_is_drawn_and_where_a_thing_was_what_is_around_it():
    look, shown = picture((2, 20, 20, 8, 8), (GUEST, 40, 40, 6, 4))
    things = layered(look, shown)
    frames, guest, others, bare = composed(things, at())
    torch.testing.assert_close(frames, look, atol=1e-5, rtol=0)
    assert torch.equal(guest[:, 0] > 0.5, shown == GUEST) and torch.equal(others[:, 0] > 0.5, shown == 2)
    assert bare.max() < 1e-5
    frames, guest, others, bare = composed(things, at((1, (-10.0, 3.0, 0.0, 0.0))))
    torch.testing.assert_close(frames[..., 10:18, 23:31], look[..., 20:28, 20:28], atol=1e-4, rtol=0)
    assert others[..., 10:18, 23:31].min() > 0.99
    assert bare[..., 19:29, 19:29].min() > 0.99 and bare[..., 19:29, 19:29].sum() == bare.sum()  # and its rim
    torch.testing.assert_close(frames[..., 19:29, 19:29], torch.full((1, 3, 10, 10), -0.5))


def test_layers_turn_about_their_middle_and_grow():
    look, shown = picture((2, 30, 20, 4, 12))
    things = layered(look, shown)
    turned = warped(things.masks, things.middles, at((1, (0.0, 0.0, math.pi / 2, 0.0))))[0, 1]
    assert turned[26:38, 24:28].min() > 0.99 and abs(turned.sum() - 48) < 0.1
    grown = warped(things.masks, things.middles, at((1, (0.0, 0.0, 0.0, math.log(2)))))[0, 1]
    assert abs(grown.sum() - 4 * 48) < 1 and grown[29:35, 15:37].min() > 0.99
    corner = torch.zeros(1, 64, 64, dtype=torch.int64)
    corner[0, 30, 20:32], corner[0, 24:31, 31] = 2, 2  # an L, to tell left from right
    things = layered(torch.zeros(1, 1, 64, 64), corner)
    turned = warped(things.masks, things.middles, at((1, (0.0, 0.0, math.pi / 2, 0.0))))[0, 1]
    y, x = things.middles[0, 1] + torch.tensor([24.0, 31.0]).sub(things.middles[0, 1]).flip(0) * torch.tensor([-1, 1])
    assert turned[round(float(y)), round(float(x))] > 0.2  # (down, right) by a right angle: (-right, down)


def test_what_reaches_further_down_is_in_front():
    look, shown = picture((2, 20, 20, 8, 8), (3, 40, 20, 8, 8))
    things = layered(look, shown)
    frames, *_ = composed(things, at((1, (17.0, 0.0, 0.0, 0.0))))
    torch.testing.assert_close(frames[..., 40:48, 20:28], look[..., 40:48, 20:28], atol=1e-3, rtol=0)
    frames, *_ = composed(things, at((1, (23.0, 0.0, 0.0, 0.0))))
    torch.testing.assert_close(frames[..., 43:51, 20:28], look[..., 20:28, 20:28], atol=1e-3, rtol=0)


def test_crops_show_what_lies_around_a_middle_and_nothing_beyond_the_edge():
    maps = noise(2, 3, 64, 64) + 2
    found = crops(maps, torch.tensor([[[31.5, 31.5], [3.5, 60.5]]]).expand(2, -1, -1))
    assert found.shape == (2, 2, 3, CROP, CROP)
    torch.testing.assert_close(found[:, 0], maps[..., 16:48, 16:48], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 1, :, 12:, :19], maps[..., :20, 45:], atol=1e-5, rtol=0)
    assert not found[:, 1, :, :12].any() and not found[:, 1, :, :, 19:].any()


def test_the_pace_of_things_is_that_of_their_look_in_the_frame_before():
    before, _ = picture((2, 20, 20, 8, 8), (3, 40, 8, 6, 6), (GUEST, 10, 40, 12, 4))
    look, shown = picture((2, 20, 20, 8, 8), (3, 37, 13, 6, 6), (GUEST, 12, 34, 12, 4))
    found = paces_of(before, layered(look, shown))
    wanted = at((0, (2.0, -6.0, 0.0, 0.0)), (2, (-3.0, 5.0, 0.0, 0.0)))
    torch.testing.assert_close(found, wanted, atol=0.15, rtol=0)
    assert torch.equal(found[:, [1, 3]], wanted[:, [1, 3]])  # what rests does so to the bit
    double = (of.repeat_interleave(2, -1).repeat_interleave(2, -2) for of in (before, look, shown))
    before, look, shown = double
    torch.testing.assert_close(paces_of(before, layered(look, shown)), 2 * wanted, atol=0.3, rtol=0)


def test_half_a_pixel_is_told_from_how_much_neighbours_differ():
    row = torch.linspace(-1, 1, 64).mul(40).cos().expand(1, 1, 64, 64)
    shown = torch.zeros(1, 64, 64, dtype=torch.int64)
    shown[0, 20:40, 20:40] = 2
    moved = (row[..., :-1] + row[..., 1:]) / 2
    found = paces_of(torch.cat([moved, row[..., -1:]], dim=-1), layered(row, shown))
    torch.testing.assert_close(found[0, 1, 1].abs(), torch.tensor(0.5), atol=0.15, rtol=0)
