from __future__ import annotations

import pytest
import torch

from stt.motion import (
    Layers,
    Motion,
    Shape,
    composite,
    features_size,
    match,
    match_patches,
    matches_size,
    shape_of,
    shift,
)


def squares(places, size: int = 24, side: int = 5, alpha: float = 0.0) -> Layers:
    """Two layers, each with a textured square at (y, x), on black; of a batch of one."""
    generator = torch.Generator().manual_seed(0)
    colour = torch.zeros(1, len(places), 1, size, size)
    for k, (y, x) in enumerate(places):
        colour[0, k, 0, y : y + side, x : x + side] = 0.2 + 0.8 * torch.rand(side, side, generator=generator)
    return Layers(torch.zeros(1, 1, size, size), colour, alpha * (colour > 0))


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (3, -2), (-4, 4), (0, 30), (-24, 0)])
def test_a_shift_moves_pixels_and_lets_zeros_in(dy, dx):
    image = torch.arange(1.0, 2 * 24 * 20 + 1).view(1, 2, 24, 20)
    moved = shift(image, torch.tensor([[dy, dx]]))
    expected = torch.zeros_like(image)
    for y in range(24):
        for x in range(20):
            if 0 <= y - dy < 24 and 0 <= x - dx < 20:
                expected[0, :, y, x] = image[0, :, y - dy, x - dx]
    assert torch.equal(moved, expected)


def test_images_of_a_batch_move_by_displacements_of_their_own():
    images = torch.rand(3, 1, 8, 8)
    displacement = torch.tensor([[0, 1], [2, 0], [-1, -1]])
    together = shift(images, displacement)
    for k in range(3):
        assert torch.equal(together[k : k + 1], shift(images[k : k + 1], displacement[k : k + 1]))


def test_light_adds_up_and_what_is_opaque_hides():
    colour = torch.tensor([0.4, 0.5]).view(1, 2, 1, 1, 1)
    background = torch.full((1, 1, 1, 1), 0.3)
    for alpha, expected in (((0.0, 0.0), 1.2), ((1.0, 0.0), 0.9), ((0.0, 1.0), 0.5)):
        frame = composite(Layers(background, colour, torch.tensor(alpha).view(1, 2, 1, 1, 1)))
        torch.testing.assert_close(frame.flatten(), torch.tensor([expected]))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_the_search_finds_where_layers_went_even_behind_each_other(alpha):
    layers = squares([(6, 6), (9, 12)], alpha=alpha)
    for displacement in ([[0, 0], [0, 0]], [[2, 3], [-1, -4]], [[3, 4], [0, -1]]):  # the last one crosses
        displacement = torch.tensor([displacement])
        found = match(layers, composite(layers.moved(displacement)).clamp(max=1), reach=5)
        assert torch.equal(found.displacement, displacement)


def test_the_search_scores_the_squared_error_up_to_a_constant():
    layers, frame = squares([(6, 6)], alpha=0.5), torch.rand(1, 1, 24, 24)
    layers = layers._replace(background=torch.rand(1, 1, 24, 24))
    errors = match(layers, frame, reach=3).errors[0, 0]
    true = torch.empty(7, 7)
    for i in range(7):
        for j in range(7):
            moved = layers.moved(torch.tensor([[[i - 3, j - 3]]]))
            true[i, j] = (composite(moved) - frame).square().sum()
    torch.testing.assert_close(errors - errors[0, 0], true - true[0, 0], atol=1e-3, rtol=1e-3)


def test_the_search_takes_frames_of_any_size_and_colour():
    colour = torch.zeros(2, 1, 3, 20, 36)
    colour[:, :, :, 5:9, 10:14] = torch.rand(2, 1, 3, 4, 4)
    layers = Layers(torch.zeros(2, 3, 20, 36), colour, torch.zeros(2, 1, 1, 20, 36))
    displacement = torch.tensor([[[5, -9]], [[-4, 12]]])
    assert torch.equal(match(layers, composite(layers.moved(displacement)), reach=12).displacement, displacement)


def test_a_shape_says_where_a_layer_lies_and_moves_with_it():
    layers = squares([(6, 10), (2, 3)], size=32)
    layers = layers._replace(colour=(layers.colour > 0).float())
    shape = shape_of(layers)
    expected = torch.tensor([8, 12, 6, 10, 10, 14]) / 32  # centre, first and last row, first and last column
    torch.testing.assert_close(shape.coordinates[0, 0], expected)
    assert shape.ink.tolist() == [[25.0, 25.0]]
    displacement = torch.tensor([[[3, -2], [0, 4]]])
    torch.testing.assert_close(
        shape.moved(displacement, 32, 32).coordinates, shape_of(layers.moved(displacement)).coordinates
    )


def test_features_tell_displacements_apart_and_hide_one_that_is_not_known():
    shape = Shape(*(part[:, None] for part in shape_of(squares([(6, 6), (2, 3)]))))
    known, unknown = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    made = [Motion(shape, torch.full((1, 1, 2, 2), d), known).features(4) for d in (-4, 0, 3)]
    assert all(f.shape == (1, 1, 2, features_size(4)) and f.isfinite().all() for f in made)
    assert not torch.equal(made[0], made[1]) and not torch.equal(made[1], made[2])
    hidden = [Motion(shape, torch.full((1, 1, 2, 2), d), unknown).features(4) for d in (-4, 3)]
    assert torch.equal(*hidden)


def test_patches_are_found_where_they_were():
    video = torch.rand(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    video[:, 1] = video[:, 0].roll((2, -3), dims=(2, 3))
    found = match_patches(video, patch=8, reach=4).view(4, 4, -1)[1:3, 1:3]  # rows and columns of patches
    small, large, *means = found.split([81, 81, 2, 2], dim=-1)
    for probs, mean in zip((small, large), means, strict=True):
        assert (probs.argmax(dim=-1) == (4 - 2) * 9 + (4 + 3)).all() and (probs.amax(dim=-1) > 0.9).all()
        torch.testing.assert_close(mean, torch.tensor([-2 / 4, 3 / 4]).expand(2, 2, 2), atol=0.1, rtol=0)


def test_patches_without_texture_could_come_from_anywhere():
    found = match_patches(torch.zeros(2, 3, 1, 16, 16), patch=4, reach=1)
    assert found.shape == (2, 2, 16, matches_size(1))
    torch.testing.assert_close(found[..., :18], torch.full((2, 2, 16, 18), 1 / 9))
