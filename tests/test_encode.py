"""Videos that are written play everywhere and keep their pixels."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from stt.encode import MAX_METADATA, enlarge, png, write_gif, write_mp4
from stt.video import probe, read_clip, read_metadata, to_uint8
from tests.video_fixtures import digits, nothing_is_left_behind, psnr  # noqa: F401


def boxes(path: Path) -> list[str]:
    """Names of an mp4's outer boxes, in order."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        names.append(name.decode())
        at += length
    return names


def test_enlarging_makes_every_pixel_a_square():
    frames = digits(2, side=40)
    for factor in (1, 3, 7, 16):
        assert np.array_equal(enlarge(frames, factor), np.kron(frames, np.ones((1, factor, factor, 1), np.uint8)))
    with pytest.raises(ValueError, match="factor is 0"):
        enlarge(frames, 0)


def test_mp4_keeps_gray_pixel_art_above_50_db(tmp_path):
    for factor in (1, 4):
        write_mp4(tmp_path / "clip.mp4", enlarge(digits(), factor), fps=12.5)
        clip = read_clip(tmp_path / "clip.mp4", size=64, channels=1)
        assert (len(clip.video), clip.fps) == (20, 12.5)
        assert psnr(to_uint8(clip.video), digits()) > 50, factor


def test_mp4_keeps_colours_when_pixels_are_enlarged(tmp_path):
    colours = digits() // 2
    colours[..., 0] += 100
    colours[:, 40:, :, 2] = 200
    write_mp4(tmp_path / "clip.mp4", enlarge(colours, 4), fps=10)
    assert psnr(to_uint8(read_clip(tmp_path / "clip.mp4", size=64, channels=3).video), colours) > 40


def test_mp4_plays_while_it_loads_and_has_even_sides(tmp_path):
    write_mp4(tmp_path / "clip.mp4", digits()[:, :33, :61], fps=10)
    names = boxes(tmp_path / "clip.mp4")
    assert names.index("moov") < names.index("mdat")
    source = probe(tmp_path / "clip.mp4")
    assert (source.width, source.height, source.codec) == (62, 34, "h264")
    assert b"avc1" in (tmp_path / "clip.mp4").read_bytes()


def test_metadata_comes_back_as_it_was(tmp_path):
    for values in ({}, {"seed": 3, "text": 'é=;#\\"\n[x]\n', "list": [1, 2.5, None]}, {"long": "x" * 60_000}):
        write_mp4(tmp_path / "clip.mp4", digits(2), fps=10, metadata=values)
        assert read_metadata(tmp_path / "clip.mp4") == values


def test_a_png_keeps_its_pixels_and_a_gray_one_has_one_channel():
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for image, channels in ((colours, 3), (colours[..., :1].repeat(3, axis=-1), 1)):
        decoded = cv2.imdecode(np.frombuffer(png(image), np.uint8), cv2.IMREAD_UNCHANGED)
        assert decoded.shape == (5, 7, 3)[: 3 if channels == 3 else 2]
        expected = image[..., ::-1] if channels == 3 else image[..., 0]
        np.testing.assert_array_equal(decoded, expected)


def test_metadata_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="65536"):
        write_mp4(tmp_path / "clip.mp4", digits(2), fps=10, metadata={"long": "x" * MAX_METADATA})


@pytest.mark.parametrize("write", [write_mp4, write_gif])
def test_what_cannot_be_written_leaves_no_file(tmp_path, write):
    for frames, fps in (
        (digits(0), 10),
        (digits(2).astype(float), 10),
        (digits(2)[..., :1], 10),
        (digits(2), 0),
    ):
        with pytest.raises(ValueError):
            write(tmp_path / "clip", frames, fps)
    with pytest.raises(OSError):
        write(tmp_path / "no" / "clip", digits(2), 10)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write(tmp_path / "folder", digits(2), 10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "temp"]
