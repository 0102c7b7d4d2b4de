"""What is read of a folder and how: arrays, folders of frames, lists, links; and what is passed over."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest
import torch

from tests.video_fixtures import make
from train.data.arrays import ArrayOptions
from train.data.video_folder import VideoFolder


def moving(clips: int, frames: int, side: int = 16, channels: int = 1) -> np.ndarray:
    """Clips (N, T, side, side, C) uint8 of a bar that moves over a texture of its own."""
    textures = np.random.default_rng(0).integers(0, 120, (clips, 1, side, side, channels), dtype=np.uint8)
    video = np.broadcast_to(textures, (clips, frames, side, side, channels)).copy()
    for t in range(frames):
        video[:, t, :, t % side : t % side + 4] = 250
    return video


def opened(folder, split="train", channels=1, frames=5, **options) -> VideoFolder:
    return VideoFolder(folder, split, frames, 16, channels, **options)


def read_pixels(folder, channels=1, **options) -> torch.Tensor:
    """The frames of all clips of a folder in the order of their names, (T, H, W, C) uint8."""
    videos = opened(folder, channels=channels, frames=1, **options)
    arrays = {v.pixels: videos._open(v.pixels) for side in ("train", "test") for v in videos._videos[side]}
    return np.concatenate([arrays[path] for path in sorted(arrays)])


def twice(folder, array, name="a") -> None:
    """Saves an array under two names, since a folder needs two files."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", array)
    np.save(folder / f"{name}-again.npy", array)


# ---- arrays ------------------------------------------------------------------------------------------


def test_the_axes_of_an_array_are_recognised_or_refused_with_the_readings_named(tmp_path):
    gray, colour = moving(12, 9)[..., 0], moving(12, 9, channels=3)
    for k, (array, message) in enumerate((
        (gray, "12 clips of 9 frames"),  # nthw
        (gray.swapaxes(0, 1), "axes tnhw: 12 clips of 9 frames"),  # as mnist_test_seq.npy
        (colour.swapaxes(0, 1), "axes tnhwc: 12 clips of 9 frames, colour"),
        (np.moveaxis(colour, 4, 2), "axes ntchw: 12 clips of 9 frames, colour"),
        (np.moveaxis(colour, 4, 2).swapaxes(0, 1), "axes tnchw: 12 clips of 9 frames, colour"),
        (np.moveaxis(colour, 4, 1), "axes ncthw: 12 clips of 9 frames, colour"),
        (np.moveaxis(colour[0], 3, 1), "axes tchw: 1 clip of 9 frames, colour"),
        (gray[0][:, None], "axes tchw: 1 clip of 9 frames, gray"),
    )):  # fmt: skip
        twice(tmp_path / str(k), array)
        videos = opened(tmp_path / str(k), channels=3)
        assert message in videos.account.text() or k == 0, (array.shape, videos.account.text())
        expected = videos.batch(4, 0, 0).video
        assert expected.shape == (4, 5, 3, 16, 16)
        bars = (expected.mean(dim=(2, 3)) > 0.9).int().argmax(dim=-1)  # (4, 5): where the bar is
        assert (bars.diff(dim=1) == 1).all(), array.shape
    random = np.random.default_rng(0).integers(0, 255, (12, 9, 16, 16), dtype=np.uint8)
    for array, message in (
        (random, r"nthw \(12 clips of 9 frames\) or tnhw \(9 clips of 12 frames\): choose by --layout"),
        (np.moveaxis(colour[0], 3, 0), r"cthw \(1 clip of 9 frames, colour\) or nthw \(3 clips"),
        (np.moveaxis(gray[0], 0, 2)[:, :, [0] * 20], r"thw \(.*\) or hwt \(1 clip of 20 frames\)"),
        (gray[0, 0], r"holds uint8 \(16, 16\), expected a layout such as thwc"),
        (np.zeros((16, 16, 3), np.uint8), r"holds uint8 \(16, 16, 3\), expected a layout"),
    ):
        twice(tmp_path / "refused", array)
        with pytest.raises(ValueError, match=message):
            opened(tmp_path / "refused")


def test_a_layout_that_is_chosen_holds_for_arrays_of_so_many_axes_and_is_remembered(tmp_path):
    random = np.random.default_rng(0).integers(0, 255, (12, 9, 16, 16), dtype=np.uint8)
    twice(tmp_path, random)
    twice(tmp_path, moving(1, 9)[0], "b")
    videos = opened(tmp_path, arrays=ArrayOptions(layout="tnhw"))
    assert "a.npy: axes tnhw: 9 clips of 12 frames" in videos.account.text().replace("a-again.npy, ", "")
    assert opened(tmp_path).account.text() == videos.account.text()
    assert "12 clips of 9 frames" in opened(tmp_path, arrays=ArrayOptions(layout="nthw")).account.text()
    for layout in ("nth", "tthw", "xthw"):
        with pytest.raises(ValueError, match="layout is"):
            ArrayOptions(layout=layout)


def test_values_that_are_no_bytes_need_a_stated_range_and_become_the_same_pixels(tmp_path):
    video = moving(1, 9)[0]
    unit, wide = video / np.float32(255), video.astype(np.uint16) * 257
    expected = None
    for k, (array, options, message) in enumerate((
        (video, {}, ""), (unit, {"float_range": (0, 1)}, "float32 values from 0 (black) to 1 (white)"),
        (unit * 2 - 1, {"float_range": (-1, 1)}, "float32 values from -1"), (wide, {}, "uint16 values from 0"),
        (wide // 16, {"int_range": (0, 4095)}, "uint16 values from 0 (black) to 4095"),
        (video.astype(np.int64), {"int_range": (0, 255)}, "int64 values"),
    )):  # fmt: skip
        twice(tmp_path / str(k), array)
        pixels = read_pixels(tmp_path / str(k), arrays=ArrayOptions(**options))
        expected = pixels if expected is None else expected
        assert np.abs(pixels.astype(int) - expected).max() <= 1, array.dtype
        assert message in opened(tmp_path / str(k)).account.text(), array.dtype
    twice(tmp_path / "bool", video > 200)
    assert set(np.unique(read_pixels(tmp_path / "bool"))) == {0, 255}
    for array, options, message in (
        (unit * 2 - 1, {}, "float32 values from -1 to 0.96.*: state black and white, such as --float-range -1 1"),
        (video.astype(np.int64), {}, "int64 values from 0 to 250: .* --int-range 0 255"),
        (video.astype(np.float32), {"float_range": (0, 1)}, "values from 0 to 250, outside --float-range 0 1"),
        (np.where(unit > 0.9, np.nan, unit), {"float_range": (0, 1)}, "not finite"),
        (video.astype(complex), {}, "holds complex128"),
    ):
        twice(tmp_path / "refused", array)
        with pytest.raises(ValueError, match=message):
            opened(tmp_path / "refused", arrays=ArrayOptions(**options))


def test_an_archive_may_state_its_frame_rate(tmp_path):
    for name in ("a", "b"):
        np.savez(tmp_path / name, video=moving(1, 30)[0], fps=20)
    assert opened(tmp_path).fps == 20 and opened(tmp_path, stride=2).fps == 10


# ---- folders of frames -------------------------------------------------------------------------------


def write_pictures(folder, frames, pattern="frame%d.png", convert=lambda frame: frame) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, frame in enumerate(frames, 1):
        frame = convert(frame)
        frame = frame[..., [2, 1, 0, 3][: frame.shape[2]]] if frame.shape[2] > 2 else frame
        assert cv2.imwrite(str(folder / (pattern % k)), frame)


def test_a_folder_of_pictures_is_one_clip_in_natural_order(tmp_path):
    video = moving(1, 12, channels=3)[0]
    video[..., 0] //= 2  # so that red and blue differ

    def transparent(frame):
        return np.concatenate([frame, np.full_like(frame[..., :1], 255)], axis=2)

    def veiled(frame):  # what is transparent is black
        return np.concatenate([frame, np.zeros_like(frame[..., :1])], axis=2)

    for name, pattern, convert, tolerance in (
        ("png", "frame%d.png", lambda frame: frame, 0), ("bmp", "%d.BMP", lambda frame: frame, 0),
        ("webp", "%03d.webp", lambda frame: frame, 1), ("jpg", "f_%d.jpeg", lambda frame: frame, 30),
        ("deep", "%d.png", lambda frame: frame.astype(np.uint16) * 257, 0), ("alpha", "%d.png", transparent, 0),
        ("tiff", "%d.tif", lambda frame: frame, 0),
    ):  # fmt: skip
        for clip in ("one", "two"):
            write_pictures(tmp_path / name / clip, video, pattern, convert)
        pixels = read_pixels(tmp_path / name, channels=3)
        assert len(pixels) == 24, name
        assert np.abs(pixels[:12].astype(int) - video).mean() <= tolerance, name
        assert np.abs(pixels[:12].astype(int) - video).max() <= 1 or tolerance, name
    write_pictures(tmp_path / "veiled" / "one", video, convert=veiled)
    write_pictures(tmp_path / "veiled" / "two", video[..., :1])
    assert set(np.unique(read_pixels(tmp_path / "veiled", channels=3)[:12])) == {0}
    videos = opened(tmp_path / "deep")
    assert "2 files without a rate" in videos.account.text() and "uint16 values" in videos.account.text()


def test_pictures_that_make_no_clip_are_passed_over_or_refused_by_name(tmp_path):
    for clip in ("one", "two"):
        write_pictures(tmp_path / clip, moving(1, 8)[0])
    write_pictures(tmp_path / "cover", moving(1, 1)[0])
    make(tmp_path / "phone" / "IMG_0001.mp4" if (tmp_path / "phone").mkdir() is None else None)
    write_pictures(tmp_path / "phone", moving(1, 3)[0])
    passed = opened(tmp_path).account.passed_over
    assert passed["cover/frame1.png"] == "one picture" and "beside videos" in passed["phone/frame2.png"]
    cv2.imwrite(str(tmp_path / "two" / "frame4.png"), np.zeros((20, 16), np.uint8))
    assert "frame4.png has 16x20 pixels, frame1.png 16x16" in opened(tmp_path).account.passed_over["two"]


def test_lists_name_the_frames_of_a_clip_or_the_files_of_a_set(tmp_path):
    video = moving(1, 8)[0]
    write_pictures(tmp_path / "frames", video)
    for k in (1, 2):
        lines = [f"file 'frames/frame{t}.png'" for t in range(8, 0, -1)]  # backwards
        (tmp_path / f"{k}.txt").write_text("\n".join(["# a clip", "", *lines]))
    np.testing.assert_array_equal(read_pixels(tmp_path)[:8], video[::-1])
    assert opened(tmp_path).account.files == 2  # the folder of frames is the lists' alone
    make(tmp_path / "far" / "away.mp4" if (tmp_path / "far").mkdir() is None else None)
    lines = [str(tmp_path / "far" / "away.mp4"), "frames 3", "lost.mp4 1", "1.txt"]
    (tmp_path / "set.lst").write_text("\n".join(lines))
    listed = opened(tmp_path / "set.lst", frames=3)
    assert sorted(listed.names["train"] + listed.names["test"]) == ["far/away.mp4", "frames"]
    assert listed.account.passed_over == {"lost.mp4": "is not there", "1.txt": "of a kind that is not read"}
    with pytest.raises(ValueError, match="away.mp4 is a file: give its folder, or a .txt list"):
        opened(tmp_path / "far" / "away.mp4")


# ---- links and what is passed over -------------------------------------------------------------------


def test_links_are_followed_once_and_those_that_lead_nowhere_are_named(tmp_path):
    for name in ("cat", "dog"):
        folder = tmp_path / "disk" / name
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", moving(1, 9)[0])
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).symlink_to(folder)
    (tmp_path / "set" / "dog" / "again").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "cat" / "lost.mp4").symlink_to(tmp_path / "nowhere.mp4")
    videos = opened(tmp_path / "set")
    assert videos.classes == ("cat", "dog") and videos.account.files == 2
    assert videos.account.passed_over["cat/lost.mp4"] == "a link that leads nowhere"
    assert "read already" in videos.account.passed_over["dog/again"]


def test_the_account_names_everything_that_is_passed_over_as_text_and_as_json(tmp_path, capsys):
    for k in range(3):
        np.save(tmp_path / f"{k}.npy", moving(1, 9)[0])
    np.save(tmp_path / "short.npy", moving(1, 3)[0])
    for name in ("notes.md", "a.srt", ".hidden.mp4"):
        (tmp_path / name).write_text("x")
    videos = opened(tmp_path)
    videos.report()
    videos.report()
    text = capsys.readouterr().err
    assert text.count(f"{tmp_path}\n") == 1
    for line in (
        "files    4 read, 1 of them too short; 2 passed over",
        "frames   30 of 16x16", "rates    4 files without a rate",
        "clips    2 to train on and 1 held out, of 5 frames", "classes  none", "actions  none",
        "a.srt, notes.md: of a kind that is not read", "short.npy: 3 frames without a cut, a clip takes 5",
    ):  # fmt: skip
        assert line in text, line
    account = json.loads((tmp_path / ".stt-account.json").read_text())
    assert account["rates"] == {"unknown": 4} and account["passed_over"].keys() == {"a.srt", "notes.md"}
    assert account["clips"] == {"frames": 5, "fps": 0.0, "stride": 1, "train": 2, "test": 1}


def test_a_damaged_index_is_made_again_and_said(tmp_path):
    twice(tmp_path, moving(1, 9)[0])
    before = opened(tmp_path).batch(4, 0, 0).video
    index = tmp_path / ".stt-index.json"
    for text in (index.read_text()[:-20], "[]", '{"16x16x1-crop": {"a.npy": 3}}'):
        index.write_text(text)
        videos = opened(tmp_path)
        assert torch.equal(videos.batch(4, 0, 0).video, before)
        assert ".stt-index.json: was damaged: all files were decoded again" in videos.account.text()
    assert "was damaged" not in opened(tmp_path).account.text()


def test_odd_names_copies_and_links_to_files_are_named(tmp_path):
    bar = moving(3, 9)
    for name, video in (("two\nlines", bar[0]), ("a", bar[1]), ("copy of a", bar[1]), ("b#1", bar[2])):
        np.save(tmp_path / f"{name}.npy", video)
    np.save(tmp_path / os.fsdecode(b"latin\xe9.npy"), bar[0])
    (tmp_path / "link.npy").symlink_to(tmp_path / "a.npy")
    (tmp_path / "out").mkdir()
    for name in ("frames.npy", "index.json"):
        (tmp_path / "out" / name).write_text("{}")
    videos = opened(tmp_path)
    assert videos.account.passed_over == {
        "latin\\xe9.npy": "its name is no UTF-8 text: rename it", "link.npy": "the same file as a.npy",
        "out/frames.npy": "part of a packed set", "out/index.json": "part of a packed set",
    }  # fmt: skip
    assert videos.account.notes == {"copy of a.npy": ["the same content as a.npy"]} and videos.classes == ()
    write_pictures(tmp_path, bar[0])
    (tmp_path / "text").mkdir()
    (tmp_path / "two\nlines.npy").rename(tmp_path / "text" / "two\nlines.npy")
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    text = opened(tmp_path).account.text()
    assert "classes  none: its own frames lies beside text/" in text


def test_what_speaks_against_one_clip_in_a_folder_of_frames_is_said(tmp_path):
    video = moving(1, 8)[0]
    for name, patterns in (("even", ["f%d.png"]), ("mixed", ["a%d.png", "b%d.png"]), ("gap", ["f%d.png"])):
        for pattern in patterns:
            write_pictures(tmp_path / name, video, pattern)
    (tmp_path / "gap" / "f4.png").unlink()
    assert opened(tmp_path).account.notes == {
        "gap": ["the numbers of its pictures are not evenly spaced, first near f3.png"],
        "mixed": ["pictures of 2 names, a#.png, b#.png, are one clip"],
    }


def test_a_list_keeps_names_and_split_when_it_grows_and_says_what_is_not_there(tmp_path):
    for name in ("sub/a", "sub/b", "sub/c", "far/d"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", moving(1, 9)[0])
    listed = tmp_path / "here" / "set.txt"
    listed.parent.mkdir()
    lines = ["../sub/a.npy", "../sub/b.npy", "../far/../sub/b.npy"]
    listed.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    before = opened(listed).names
    listed.write_text("\n".join([*lines, "../far/d.npy", str(tmp_path / "sub" / "c.npy"), "lost.mp4"]))
    after = opened(listed)
    assert all(set(before[side]) <= set(after.names[side]) for side in before)
    assert after.account.files == 4 and after.account.passed_over == {"lost.mp4": "is not there"}
    listed.write_text("nowhere.mp4 cat\n")
    with pytest.raises(ValueError, match=r"holds no file that can be read.*\n  nowhere.mp4 cat: is not there"):
        opened(listed)
    np.save(listed.parent / "z.npy", moving(1, 9)[0])
    listed.write_text("z.npy\nnowhere.mp4")
    with pytest.raises(ValueError, match=r"of z.npy: another video is needed\n  nowhere.mp4: is not there"):
        opened(listed)


def test_masks_rates_and_sizes_of_arrays_are_checked(tmp_path):
    video = moving(1, 9)[0]
    twice(tmp_path / "mask", (video > 200).astype(np.uint8))
    assert set(np.unique(read_pixels(tmp_path / "mask"))) == {0, 255}
    assert "uint8 values from 0 (black) to 1 (white)" in opened(tmp_path / "mask").account.text()
    twice(tmp_path / "hwtc", np.zeros((16, 16, 30, 3), np.uint8))
    twice(tmp_path / "number", np.array(3))
    for folder, message in (
        ("hwtc", r"thwc \(1 clip of 16 frames, colour\) or hwtc \(1 clip of 30 frames"), ("number", "holds int64 ()"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            opened(tmp_path / folder)
    for fps in ([30, 30], -5, np.nan, "x"):
        for name in ("a", "b"):
            np.savez(tmp_path / f"{name}.npz", video=video, fps=fps)
        with pytest.raises(ValueError, match="its fps is .*, must be a number from 0 to 1000"):
            opened(tmp_path)
