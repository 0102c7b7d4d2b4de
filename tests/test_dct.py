"""The DCT codec: frames <-> dense images <-> triples."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image

from stt.dct import DCTConfig, FrameDCT, Triples, basis, steps, zigzag
from stt.metrics import frame_psnr, unit

GRAY = DCTConfig(image_size=32, channels=1, quality=50)
COLOUR = DCTConfig(image_size=32, channels=3, quality=50)
CONFIGS = {
    "gray": GRAY,
    "digits": DCTConfig(image_size=32, channels=1, quality=75, block=4, background=0),
    "big blocks": DCTConfig(image_size=32, channels=1, block=16),
    "colour": COLOUR,
    "colour, 4:4:4": DCTConfig(image_size=32, channels=3, subsampling=1),
    "colour, chroma of a quarter": DCTConfig(image_size=32, channels=3, subsampling=4),
    "colour, small blocks": DCTConfig(image_size=32, channels=3, block=4),
}


CODECS = [FrameDCT(config) for config in CONFIGS.values()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(config: DCTConfig, *lead: int, seed: int = 0) -> torch.Tensor:
    """Frames of pixels that know nothing of each other."""
    shape = (*lead, config.channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=generator(seed)) * 2 - 1


def natural(count: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """Frames (N, C, H, W) on the 256 shades whose spectrum falls as that of photographs does."""
    white = torch.fft.rfft2(torch.randn(count, channels, size, size, generator=generator(seed)))
    frequency = (torch.fft.fftfreq(size)[:, None].square() + torch.fft.rfftfreq(size).square()).sqrt()
    smooth = torch.fft.irfft2(white / frequency.clamp(min=1 / size) ** 1.5, s=(size, size))
    smooth = smooth / smooth.std(dim=(-3, -2, -1), keepdim=True) * 0.3
    if channels == 3:  # colours of photographs lie near gray
        smooth = 0.3 * smooth + 0.7 * smooth.mean(dim=1, keepdim=True)
    return ((smooth.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def random_triples(codec: FrameDCT, count: int, seed: int) -> Triples:
    """A valid sequence (N,) of up to `count` triples anywhere, of any value, then some ends."""
    c, g = codec.config, generator(seed)
    cells = codec.exists.nonzero()[:, 0]
    cells = cells[torch.randperm(len(cells), generator=g)[:count]].sort().values
    size = torch.randint(1, codec.limit + 1, cells.shape, generator=g)
    value = size * (torch.randint(2, cells.shape, generator=g) * 2 - 1)
    ends = torch.full((seed % 3,), c.dct_channels)
    return Triples(
        torch.cat([cells // c.positions, ends]),
        torch.cat([cells % c.positions, torch.zeros_like(ends)]),
        torch.cat([value, torch.zeros_like(ends)]),
    )


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return frame_psnr(unit(a), unit(b))


# ---- transform and tables ----------------------------------------------------------------------------


def test_the_basis_is_orthonormal():
    for block in (4, 8, 16):
        waves = basis(block)
        torch.testing.assert_close(waves @ waves.T, torch.eye(block**2, dtype=torch.float64))


def test_the_zigzag_turns_as_jpegs_does():
    assert zigzag(8)[:10] == [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0)]
    assert zigzag(8)[-3:] == [(6, 7), (7, 6), (7, 7)]
    assert len(set(zigzag(16))) == 256


def test_steps_are_those_that_pillows_encoder_writes():
    for quality in (1, 10, 49, 50, 75, 90, 100):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        written = Image.open(file).quantization
        for table, chroma in enumerate((False, True)):
            grid = np.array(written[table]).reshape(8, 8)
            assert steps(quality, 8, chroma) == tuple(grid[pair] for pair in zigzag(8))


def test_other_blocks_quantise_the_same_frequency_with_the_same_step():
    of = {block: dict(zip(zigzag(block), steps(50, block, False), strict=True)) for block in (4, 8, 16)}
    assert all(of[4][v, u] == of[8][2 * v, 2 * u] for v, u in of[4])
    assert all(of[16][2 * v, 2 * u] == of[8][v, u] for v, u in of[8])


def test_channels_go_from_low_to_high_frequencies_and_components_take_turns():
    codec = FrameDCT(COLOUR)
    flat = torch.tensor([0.9, -0.2, 0.3])[:, None, None].expand(3, 32, 32)
    assert set((codec.encode(flat) != 0).nonzero()[:, 0].tolist()) == {0, 1, 2}
    stripes = torch.linspace(-0.5, 0.5, 8).repeat(4).expand(3, 32, 32)  # gray, falling off sideways in every block
    channels = set((codec.encode(stripes) != 0).nonzero()[:, 0].tolist())
    assert 3 in channels and all(channel % 3 == 0 for channel in channels)


def test_chroma_lies_in_the_upper_left_of_the_cells_that_it_covers():
    dense = FrameDCT(COLOUR).encode(noise(COLOUR))
    chroma = rearrange(dense, "(k c) h w -> c k h w", c=3)[1:]
    assert chroma[..., ::2, ::2].any()
    assert not chroma[..., 1::2, :].any() and not chroma[..., :, 1::2].any()


def test_a_frame_of_the_background_costs_nothing():
    for config, shade in ((CONFIGS["digits"], -1.0), (GRAY, 128 / 127.5 - 1)):
        assert not FrameDCT(config).encode(torch.full((1, 32, 32), shade)).any()


def test_sizes_follow_from_the_config():
    assert (GRAY.dct_channels, GRAY.grid, GRAY.positions, GRAY.longest) == (64, 4, 16, 1024)
    assert (COLOUR.dct_channels, COLOUR.grid, COLOUR.positions, COLOUR.longest) == (192, 4, 16, 64 * (16 + 2 * 4))
    assert DCTConfig.from_dict(COLOUR.to_dict()) == COLOUR


# ---- round trips -------------------------------------------------------------------------------------


def test_frames_come_back_nearly_exactly_at_quality_100():
    for config in (GRAY, DCTConfig(image_size=32, channels=3, subsampling=1)):
        best = FrameDCT(DCTConfig.from_dict(config.to_dict() | {"quality": 100}))
        frames = noise(config, 4)
        assert psnr(best.decode(best.encode(frames)), frames).min() > 50


def test_no_difference_of_two_frames_has_a_value_beyond_the_limit():
    for codec in CODECS:
        c, unlimited = codec.config, FrameDCT(codec.config)
        unlimited.limit = 10**6
        waves = codec.basis.sign().unflatten(-1, (1, c.block, c.block)).repeat(1, c.channels, c.grid, c.grid)
        frames = torch.cat(
            [waves, -waves, noise(c, 8).sign()]
        )  # blocks that are all of one frequency, as loud as can be
        assert 0.9 * codec.limit <= unlimited.encode_residual(frames, -frames).abs().max() <= codec.limit, c
        assert unlimited.encode(frames).abs().max() <= codec.limit, c


def test_a_residual_corrects_a_prediction_and_is_empty_where_nothing_is_wrong():
    for codec in CODECS:
        frames, predicted = noise(codec.config, 2), noise(codec.config, 2).flip(0)
        assert not codec.encode_residual(frames, frames).any()
        corrected = codec.decode_residual(codec.encode_residual(frames, predicted), predicted)
        off, rest = ((image - frames).square().mean() for image in (predicted, corrected))
        assert rest < 0.7 * off, codec
        assert torch.equal(codec.decode_residual(torch.zeros_like(codec.encode(frames)), predicted), predicted)


def test_any_number_of_batch_dimensions_gives_what_single_frames_give():
    for codec in CODECS:
        frames = noise(codec.config, 2, 3)
        dense = codec.encode(frames)
        decoded, triples = codec.decode(dense), codec.to_triples(dense)
        assert dense.shape == (2, 3, codec.config.dct_channels, codec.config.grid, codec.config.grid)
        assert decoded.shape == frames.shape and decoded.dtype == torch.float32
        assert torch.equal(codec.from_triples(triples), dense)
        alone = codec.encode(frames[1, 2])
        assert torch.equal(alone, dense[1, 2])
        torch.testing.assert_close(codec.decode(alone), decoded[1, 2])
        for part, whole in zip(codec.to_triples(alone), triples, strict=True):
            assert torch.equal(part, whole[1, 2][: len(part)])


def test_inputs_are_left_as_they_were():
    for codec in CODECS:
        frames = noise(codec.config, 2)
        kept = frames.clone()
        dense = codec.encode(frames)
        dense_kept = dense.clone()
        triples = codec.to_triples(dense)
        kept_triples = Triples(*(part.clone() for part in triples))
        codec.decode(dense), codec.from_triples(triples)
        assert torch.equal(frames, kept) and torch.equal(dense, dense_kept)
        assert all(torch.equal(a, b) for a, b in zip(triples, kept_triples, strict=True))


def test_sequences_are_in_order_without_zeros_and_end():
    for codec in CODECS:
        triples = codec.to_triples(codec.encode(torch.stack([noise(codec.config), noise(codec.config) * 0.05])))
        end = triples.channel == codec.config.dct_channels
        assert end[:, -1].all() and end.sum(dim=-1).min() == 1
        assert torch.equal(triples.value == 0, end)
        cell = triples.channel * codec.config.positions + triples.position
        assert ((cell.diff() > 0) | end[:, 1:]).all()


def test_a_budget_fixes_the_length_and_keeps_the_lowest_frequencies():
    for codec in CODECS:
        dense = codec.encode(noise(codec.config, 2))
        whole = codec.to_triples(dense)
        for longest in (0, 7, whole.channel.shape[-1] + 5):
            cut = codec.to_triples(dense, longest)
            assert cut.channel.shape == (2, longest + 1)
            assert (cut.channel[:, -1] == codec.config.dct_channels).all()
            for part, full in zip(cut.first(longest), whole.first(longest), strict=True):
                assert torch.equal(part[:, : full.shape[-1]], full)
        assert torch.equal(codec.from_triples(cut), dense)


# ---- every valid sequence ----------------------------------------------------------------------------


def test_every_valid_sequence_decodes_to_a_frame_wherever_it_is_cut():
    for codec, seed in product(CODECS, range(5)):
        count = (0, 1, 5, 50, codec.config.longest)[seed % 5]
        triples = random_triples(codec, count, seed)
        dense = codec.from_triples(triples)
        again = codec.to_triples(dense)
        length = min(count, codec.config.longest)
        assert all(torch.equal(a[:length], b[:length]) for a, b in zip(triples, again, strict=True))
        for cut in {0, 1, length // 3, length, len(triples.channel)}:
            short = codec.from_triples(triples.first(cut))
            assert torch.equal(short[short != 0], dense[short != 0])
            frame = codec.decode(short)
            assert frame.shape == noise(codec.config).shape
            assert frame.isfinite().all() and frame.abs().max() <= 1


def test_walking_through_open_cells_makes_valid_sequences():
    for codec in CODECS:
        g, c = generator(3), codec.config
        channel, position, walk = torch.tensor([0]), torch.tensor([-1]), []
        while (cells := codec.open_cells(channel, position)).any():
            rows = cells.any(dim=-1)[0].nonzero()[:, 0]
            channel = rows[:40][torch.randint(len(rows[:40]), (1,), generator=g)]
            columns = cells[0, channel[0]].nonzero()[:, 0]
            position = columns[torch.randint(len(columns), (1,), generator=g)]
            walk.append((channel, position))
        parts = [torch.cat(part) for part in zip(*walk, strict=True)]
        assert codec.from_triples(Triples(*parts, torch.ones_like(parts[0]))).sum() == len(walk)
        assert not codec.open_cells(torch.tensor(c.dct_channels), torch.tensor(0)).any()
        everything = codec.open_cells(torch.tensor([[0]]), torch.tensor([[-1]]))
        assert everything.shape == (1, 1, c.dct_channels, c.positions) and everything.sum() == c.longest


def test_a_longer_part_of_a_sequence_is_never_worse():
    codec, frames = FrameDCT(GRAY), natural(1, 1, 32) * 0.4
    triples = codec.to_triples(codec.encode(frames))
    cuts = range(0, triples.channel.shape[-1] + 1, 3)
    levels = torch.cat([psnr(codec.decode(codec.from_triples(triples.first(cut))), frames) for cut in cuts])
    assert (levels.diff() >= 0).all() and levels[-1] > levels[0] + 10


INVALID = [
    ((65, 0, 1), "channels are 0 to 63, then the end"),
    ((-1, 0, 1), "channels are 0 to 63"),
    ((3, 16, 1), "positions 0 to 15"),
    ((3, -1, 1), "positions 0 to 15"),
    ((3, 4, 0), "values are -204 to 204 without 0"),
    ((3, 4, 205), "values are -204 to 204"),
    ((3, 4, -(2**63)), "values are -204 to 204"),
    ((2, 4, 1), "must ascend"),
    ((2, 5, 1), "must ascend"),
    ((1, 9, 1), "must ascend"),
]


def test_an_invalid_triple_is_named_with_its_numbers():
    for triple, words in INVALID:
        valid = [(0, 0, 1), (3, 5, 1)], [(2, 5, -102), triple]  # the second sequence is not
        triples = Triples(*torch.tensor(valid).unbind(dim=-1))
        numbers = "channel {}, position {}, value {}".format(*triple)
        with pytest.raises(ValueError, match=rf"triple 1 of sequence \(1,\) is {numbers}: .*{words}"):
            FrameDCT(GRAY).from_triples(triples)


def test_what_stands_beside_an_end_means_nothing():
    triples = Triples(*torch.tensor([(2, 5, 7), (64, -3, 999)]).unbind(dim=-1))
    assert FrameDCT(GRAY).from_triples(triples).sum() == 7


def test_nothing_but_ends_follows_an_end():
    triples = Triples(torch.tensor([1, 64, 2]), torch.tensor([0, 0, 0]), torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match="triple 2 is channel 2.*nothing but ends may follow an end"):
        FrameDCT(GRAY).from_triples(triples)


def test_chroma_between_its_blocks_is_refused():
    triples = Triples(torch.tensor([1]), torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(ValueError, match="of chroma in every row and column that 2 divides"):
        FrameDCT(COLOUR).from_triples(triples)


def test_the_tables_stay_exact_when_the_network_is_cast():
    frames = torch.rand(2, 3, 32, 32) * 2 - 1
    codec = FrameDCT(DCTConfig(image_size=32, channels=3))
    dense = codec.encode(frames)
    for cast in (codec.half(), codec.bfloat16(), codec.float(), codec.double()):
        assert torch.equal(cast.encode(frames), dense) and cast.decode(dense).dtype == torch.float32


def test_a_config_that_cannot_be_is_refused_with_its_numbers():
    for values, words in (
        ({"image_size": 36}, "image_size 36 is not a multiple of block 8$"),
        ({"image_size": 40, "channels": 3}, "image_size 40 is not a multiple of block 8 x subsampling 2"),
        ({"quality": 0}, "quality is 0, must be a whole number from 1"),
        ({"quality": 101}, "quality is 101, must be 1 to 100"),
        ({"block": 5}, "block is 5, must be 4, 8 or 16"),
        ({"subsampling": 3}, "subsampling is 3"),
        ({"background": 256}, "background is 256"),
        ({"channels": 2}, "channels is 2"),
    ):
        with pytest.raises(ValueError, match=words):
            DCTConfig(**values)


def test_wrong_shapes_and_types_are_refused_with_their_numbers():
    codec = FrameDCT(GRAY)
    with pytest.raises(ValueError, match=r"\(2, 1, 64, 64\), must be float"):
        codec.encode(torch.zeros(2, 1, 64, 64))
    with pytest.raises(ValueError, match="uint8"):
        codec.encode(torch.zeros(1, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(64, 8, 8\)"):
        codec.decode(torch.zeros(64, 8, 8))
    with pytest.raises(ValueError, match="float32, must be integers"):
        codec.to_triples(torch.zeros(64, 4, 4))
    with pytest.raises(ValueError, match="longest is -1"):
        codec.to_triples(torch.zeros(64, 4, 4, dtype=torch.int64), longest=-1)
    with pytest.raises(ValueError, match="shapes"):
        codec.from_triples(Triples(torch.zeros(2).long(), torch.zeros(2).long(), torch.zeros(3).long()))
    with pytest.raises(ValueError, match="must be integers"):
        codec.from_triples(Triples(torch.zeros(2).long(), torch.zeros(2).long(), torch.zeros(2)))


# ---- quality, and JPEG -------------------------------------------------------------------------------


def test_higher_quality_is_never_worse_and_never_shorter():
    for channels, block in product((1, 3), (4, 8, 16)):
        frames = natural(4, channels, 64)
        levels, lengths = [], []
        for quality in (1, 5, 10, 25, 50, 75, 90, 95, 100):
            codec = FrameDCT(DCTConfig(channels=channels, block=block, quality=quality))
            dense = codec.encode(frames)
            levels.append(psnr(codec.decode(dense), frames).mean())
            lengths.append((dense != 0).sum())
        assert levels == sorted(levels) and lengths == sorted(lengths)
        assert levels[-1] > levels[0] + 8


def test_autocast_changes_nothing():
    for codec in CODECS:
        frames = noise(codec.config, 2)
        dense = codec.encode(frames)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(codec.encode(frames), dense)
            within = codec.decode(dense)
        assert torch.equal(within, codec.decode(dense))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_triples_even_under_autocast():
    for codec in CODECS:
        frames = noise(codec.config, 8)
        here = codec.to_triples(codec.encode(frames))
        codec.cuda()
        with torch.autocast("cuda", torch.bfloat16):
            there = codec.to_triples(codec.encode(frames.cuda()))
            decoded = codec.decode(codec.from_triples(there))
        assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
        torch.testing.assert_close(decoded.cpu(), codec.cpu().decode(codec.from_triples(here)))
