"""Your own videos as training clips: what is read, where clips may lie, how they are split, packed and learnt."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import app as front_door
import train.data.index
import train.data.readers
from stt.checkpoint import read_header
from stt.ui import server
from stt.video import read_clip
from tests.simulator_fixtures import Desk
from tests.video_fixtures import PLAIN, lossless, make, noise
from train import predictor, publish
from train.cli import arguments, chosen, videos_of
from train.data.index import recordings
from train.data.readers import cuts
from train.data.video_folder import VideoFolder
from train.pack_videos import main as pack_main
from train.predictor import batches_of
from train.tokenizer import main

ROOT = Path(__file__).parent.parent

MJPEG, VP9 = "-pix_fmt yuvj420p -c:v mjpeg", "-pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 8"
ODD = {  # name: options, size, frames a second, seconds
    "a.mp4": (PLAIN, "64x48", 10, 2), "b.MP4": (PLAIN, "48x64", 25, 1), "c.mov": ("-c:v mpeg4", "64x64", 12, 1),
    "d.mkv": (VP9, "80x48", 10, 1), "e.webm": ("-c:v libvpx -deadline realtime", "32x32", 15, 1),
    "f.avi": (MJPEG, "64x48", 10, 1), "g.gif": ("-pix_fmt rgb8", "40x30", 10, 1), "h.mkv": (MJPEG, "18x100", 30, 1),
    "i.m4v": (PLAIN + " -f mp4", "160x90", 5, 4), "more/j.avi": ("-c:v mpeg4", "66x50", 24, 1),
    "short.mp4": (PLAIN, "64x48", 10, 0.3),
}  # fmt: skip


def counted(frames: int, first: int = 0, side: int = 16) -> np.ndarray:
    """Frames (T, side, side) uint8 whose gray is their number, so that a clip tells where it was cut."""
    return np.broadcast_to(np.arange(first, first + frames, dtype=np.uint8)[:, None, None], (frames, side, side)).copy()


def numbers(video: torch.Tensor) -> np.ndarray:
    """The grays (B, T) of such clips."""
    return ((video.mean(dim=(-1, -2, -3)) + 1) * 127.5).round().int().numpy()


def arrays(folder, count: int, frames: int = 10):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        np.save(folder / f"{k:02d}.npy", counted(frames, 10 * (k % 25)))
    return folder


def gray(folder, split="train", frames=4, **options) -> VideoFolder:
    return VideoFolder(folder, split, frames, 16, 1, **options)


def odd_videos(folder: Path, longer: int = 1) -> Path:
    """Twelve files: ten to use, one too short, one that is no video."""
    (folder / "more").mkdir(parents=True)
    for name, (options, size, rate, seconds) in ODD.items():
        make(folder / name, options, f"testsrc2=s={size}:r={rate}:d={seconds * longer}")
    (folder / "corrupt.mp4").write_bytes(b"\0\0\0\x18ftypisom" + noise(1, 8, 64).tobytes())
    (folder / "notes.txt").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    return odd_videos(tmp_path_factory.mktemp("odd") / "clips")


@pytest.fixture
def car(tmp_path):
    """A pack as of a toy car: 90 frames of 40x30 in segments of 20, 3, 30 and 37; action and gray are the number."""
    folder = tmp_path / "car"
    folder.mkdir()
    images = [cv2.imencode(".jpg", np.full((30, 40, 3), k, np.uint8))[1].tobytes() for k in range(90)]
    (folder / "frames.mjpegpack").write_bytes(b"".join(images))
    index = {
        "offsets": np.cumsum([0, *map(len, images)]),
        "actions": np.stack([np.arange(90) / 100, np.full(90, 0.5)], 1).astype(np.float32),
        "t_ms": np.arange(90) * 50,
        "segment": np.repeat([0, 1, 2, 3], [20, 3, 30, 37]),
    }
    np.savez(folder / "index.npz", **index)
    return folder


# what is read


def test_twelve_odd_videos_become_clips_and_what_cannot_be_used_is_named(odd, tmp_path, capsys):
    videos = VideoFolder(odd, "train", 5, 32, 3, cache=tmp_path)
    batch = videos.batch(6, seed=0, index=0)
    assert batch.shape == (6, 5, 3, 32, 32) and batch.dtype == torch.float32
    assert batch.min() >= -1 and batch.max() <= 1 and batch.std() > 0.2
    said = capsys.readouterr().err
    assert "skipped 1 of 12 files" in said and "corrupt.mp4: The file is" in said
    assert "short.mp4: 3 frames without a cut" in said
    used = {r.name for r in recordings(odd, 32, 3, "crop", tmp_path)[0]}
    assert used == set(ODD)
    index = json.loads(next(tmp_path.glob("*/.stt-index.json")).read_text())["32x32x3-crop"]
    assert (index["i.m4v"]["size"], index["i.m4v"]["fps"], index["i.m4v"]["frames"]) == ([160, 90], 5, 20)


def test_frames_are_those_of_the_hardened_decoder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        make(tmp_path / name)
    videos = VideoFolder(tmp_path, "test", 5, 32, 3, fit="pad")
    held = next(r for r in recordings(tmp_path, 32, 3, "pad")[0] if r.split == "test")
    expected = read_clip(tmp_path / held.name, size=32, channels=3, fit="pad").video
    torch.testing.assert_close(videos.held_out(1).video[0], expected)


def test_long_videos_are_read_to_their_end(tmp_path):
    for name in ("a.mp4", "b.avi"):
        make(tmp_path / name, "-c:v mpeg4", "testsrc2=s=16x16:r=100:d=150")  # ten times what an upload may have
    found = recordings(tmp_path, 16, 1, "crop")[0]
    assert [(r.first, r.last) for r in found] == [(0, 15000)] * 2


def test_more_unreadable_files_than_a_twentieth_stop_with_all_their_names(tmp_path):
    arrays(tmp_path, 19)
    (tmp_path / "x.mp4").write_bytes(b"garbage")
    assert len(gray(tmp_path)) > 0
    (tmp_path / "18.npy").rename(tmp_path / "18.bak")
    (tmp_path / "y.npy").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"2 of 20 files cannot be read, at most 5 % .*\n  x.mp4: .*\n  y.npy: "
    ) as error:
        gray(tmp_path)
    assert "00.npy" not in str(error.value)


@pytest.mark.parametrize("shape", [(9, 20, 16), (9, 16, 20, 1), (9, 16, 20, 3), (2, 9, 16, 20), (2, 9, 16, 20, 3)])
def test_arrays_of_every_shape_are_read(tmp_path, shape):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.full(shape, 255, np.uint8))
    np.savez(tmp_path / "c.npz", video=np.full(shape, 255, np.uint8))
    for channels in (1, 3):
        batch = VideoFolder(tmp_path, "train", 9, 16, channels).batch(3, 0, 0)
        assert batch.shape == (3, 9, channels, 16, 16) and (batch == 1).all()
    clips = shape[0] if len(shape) == 5 or shape[-1] == 20 else 1
    assert len(recordings(tmp_path, 16, 1, "crop")[0]) == 3 * clips


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"video": np.zeros((5, 8, 8), np.float32)}, r"it holds float32 \(5, 8, 8\), expected uint8"),
        ({"video": np.zeros((5, 8, 8, 4, 2), np.uint8)}, r"it holds uint8 \(5, 8, 8, 4, 2\)"),
        ({"clip": np.zeros((5, 8, 8), np.uint8)}, r"it holds \['clip'\], expected an array named video"),
        (
            {"video": np.zeros((5, 8, 8), np.uint8), "actions": np.zeros((4, 2))},
            r"its actions have shape \(4, 2\), its video \(5, 8, 8\)",
        ),
    ],
)
def test_arrays_of_something_else_are_refused_by_name_and_shape(tmp_path, content, message):
    np.savez(tmp_path / "wrong.npz", **content)
    with pytest.raises(ValueError, match=rf"1 of 1 files .*\n  wrong.npz: {message}"):
        gray(tmp_path)


def test_an_array_may_tell_what_was_done(tmp_path):
    for k in range(2):
        video = np.stack([counted(10, 20 * k), counted(10, 20 * k + 10)])
        np.savez(tmp_path / f"{k}.npz", video=video, actions=video[:, :, 0, :1] / 100)
    clips = gray(tmp_path).sample(8, 0, 0)
    np.testing.assert_allclose(clips.actions[..., 0] * 100, numbers(clips.video), atol=1e-4)


def test_a_damaged_image_of_a_pack_is_named_by_its_number(car):
    data = bytearray((car / "frames.mjpegpack").read_bytes())
    begin = np.load(car / "index.npz")["offsets"][7]
    data[begin : begin + 300] = bytes(300)
    (car / "frames.mjpegpack").write_bytes(data)
    with pytest.raises(ValueError, match=r"frames.mjpegpack: frame 7 of 90 is not an image"):
        gray(car)


def test_a_pack_without_its_whole_index_is_refused(car):
    np.savez(car / "index.npz", offsets=[0, 5], segment=[0])
    with pytest.raises(ValueError, match=r"frames.mjpegpack: index.npz lacks actions, t_ms"):
        gray(car)
    (car / "index.npz").unlink()
    with pytest.raises(ValueError, match=r"frames.mjpegpack: .*No such file .*index.npz"):
        gray(car)


def test_the_colours_of_a_pack_and_of_an_array_stay(car, tmp_path):
    image = np.zeros((30, 40, 3), np.uint8)
    image[:, :, 0] = 200  # red
    data = cv2.imencode(".jpg", image[..., ::-1])[1].tobytes()
    (car / "frames.mjpegpack").write_bytes(data * 90)
    index = dict(np.load(car / "index.npz")) | {"offsets": np.arange(91) * len(data)}
    np.savez(car / "index.npz", **index)
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for name in ("a", "b"):
        np.save(arrays / f"{name}.npy", image[None].repeat(5, axis=0))
    for folder in (car, arrays):
        red, green, blue = VideoFolder(folder, "train", 4, 16, 3).batch(1, 0, 0)[0].mean(dim=(0, 2, 3)).tolist()
        assert red > 0.5 and green < -0.9 and blue < -0.9


def test_black_bars_show_the_whole_picture(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.full((5, 20, 40, 1), 255, np.uint8))
    video = gray(tmp_path, fit="pad").batch(1, 0, 0)
    assert (video[..., 4:12, :] == 1).all() and (video[..., :4, :] == -1).all() and (video[..., 12:, :] == -1).all()


def test_a_folder_without_videos_says_what_it_could_hold(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"holds no file that can be read: mp4, .*npz or frames.mjpegpack"):
        gray(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        gray(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "squash"}, "fit is 'squash'"), ({"stride": 0}, "stride 0"), ({"split": "val"}, "split is 'val'"),
        ({"frames": 99}, r"everything in the train split is too short for a clip of 99 frames at stride 1"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_told(tmp_path, options, message):
    arrays(tmp_path, 3)
    with pytest.raises(ValueError, match=message):
        gray(tmp_path, **options)


# the index


def test_only_files_that_changed_are_opened_again(tmp_path, monkeypatch):
    opened, decode = [], train.data.index.decode
    monkeypatch.setattr(train.data.index, "decode", lambda path, *rest: opened.append(path.name) or decode(path, *rest))
    arrays(tmp_path, 4)
    before = gray(tmp_path).batch(8, 0, 0)
    assert sorted(opened) == ["00.npy", "01.npy", "02.npy", "03.npy"]
    opened.clear()
    assert torch.equal(gray(tmp_path).batch(8, 0, 0), before) and not opened
    np.save(tmp_path / "02.npy", counted(10, 200))
    os.utime(tmp_path / "02.npy", ns=(1, 1))
    gray(tmp_path), gray(tmp_path, "test")
    assert opened == ["02.npy"]
    (tmp_path / "03.npy").unlink()
    gray(tmp_path)
    assert opened == ["02.npy"]
    assert sorted(json.loads((tmp_path / ".stt-index.json").read_text())["16x16x1-crop"]) == [
        "00.npy",
        "01.npy",
        "02.npy",
    ]


def test_a_folder_that_is_read_only_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("STT_CACHE", str(tmp_path / "cache"))
    folder = arrays(tmp_path / "videos", 3)
    folder.chmod(0o555)
    gray(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["00.npy", "01.npy", "02.npy"]
    assert len(list((tmp_path / "cache" / "folders").glob("videos-*/.stt-index.json"))) == 1


# where clips lie


def test_a_hard_cut_is_found_and_no_clip_crosses_it(tmp_path):
    shots = noise(2, 8, 8).repeat(8, axis=1).repeat(8, axis=2)
    video = np.concatenate([shots[[0] * 9], shots[[1] * 11]])
    video[:, :8, :8] = 0
    for t, frame in enumerate(video):
        frame[t : t + 12, 20:40] = 255  # something moves all the time
    lossless(tmp_path / "a.mp4", video)
    lossless(tmp_path / "b.mp4", video[:9])
    runs = {(r.name, r.first, r.last) for r in recordings(tmp_path, 64, 3, "crop")[0]}
    assert runs == {("a.mp4", 0, 9), ("a.mp4", 9, 20), ("b.mp4", 0, 9)}


@pytest.mark.parametrize("speed", [1, 4, 12, 30])
def test_something_large_and_fast_is_no_cut(speed):
    video = np.zeros((24, 64, 64, 3), np.uint8)
    for t, frame in enumerate(video):
        left = (t * speed) % 96 - 32  # enters and leaves
        frame[16:48, max(left, 0) : max(left + 32, 0)] = 255
    assert cuts(video, [0]) == []


def test_a_panned_texture_is_no_cut_and_noise_has_none():
    wide = np.random.default_rng(0).integers(0, 256, (8, 100), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    assert cuts(np.stack([wide[:, 24 * t : 24 * t + 64] for t in range(20)]), [0]) == []
    assert cuts(noise(12, 64, 64), [0]) == []


def test_clips_of_a_pack_never_cross_a_segment_and_bring_their_actions(car):
    videos = gray(car, frames=5, stride=2)
    seen = [videos.sample(16, 0, index) for index in range(12)]
    found = np.concatenate([numbers(clips.video) for clips in seen])
    np.testing.assert_array_equal(found - found[:, :1], np.tile([0, 2, 4, 6, 8], (len(found), 1)))
    segment = np.repeat([0, 1, 2, 3], [20, 3, 30, 37])
    assert (segment[found] == segment[found[:, :1]]).all() and 1 not in segment[found]
    actions = torch.cat([clips.actions for clips in seen])
    assert actions.shape == (192, 5, 2)
    np.testing.assert_allclose(actions[..., 0] * 100, found, atol=1e-4)
    held = segment[numbers(gray(car, "test", frames=5).batch(32, 0, 0))]
    assert not set(held.flatten()) & set(segment[found].flatten())


def test_every_start_occurs(tmp_path):
    arrays(tmp_path, 2, frames=12)
    videos = gray(tmp_path, frames=5, stride=2)
    first = numbers(torch.cat([videos.batch(16, 0, index) for index in range(4)]))[:, 0]
    assert set(first - first.min()) == {0, 1, 2, 3}
    assert len(videos) == 1 and videos.span == 9


def test_a_batch_depends_on_seed_and_index_alone(tmp_path):
    arrays(tmp_path, 12)
    videos, again = gray(tmp_path), gray(tmp_path)
    wanted = videos.batch(6, seed=3, index=7)
    again.batch(2, seed=0, index=0)
    torch.manual_seed(5)
    assert torch.equal(again.batch(6, seed=3, index=7), wanted)
    assert not torch.equal(again.batch(6, seed=3, index=8), wanted)
    assert not torch.equal(again.batch(6, seed=4, index=7), wanted)


def test_flip_mirrors_some_clips(tmp_path):
    video = np.zeros((8, 16, 16), np.uint8)
    video[:, :, :8] = 255
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", video)
    left = gray(tmp_path, flip=True).batch(32, 0, 0)[..., 0].mean(dim=(1, 2, 3))
    assert set(left.tolist()) == {-1.0, 1.0}
    assert (gray(tmp_path).batch(32, 0, 0)[..., 0] == 1).all()


def test_flip_is_refused_where_actions_would_stay_as_they_are(car):
    with pytest.raises(ValueError, match="has actions, which flip would not turn"):
        gray(car, flip=True)


# splits and classes


def test_about_a_tenth_is_held_out_and_always_the_same(tmp_path):
    for count, held in ((2, 1), (12, 1), (20, 2), (40, 4)):
        folder = arrays(tmp_path / str(count), count)
        found = recordings(folder, 16, 1, "crop")[0]
        test = {r.name for r in found if r.split == "test"}
        assert len(test) == held
        assert test == {r.name for r in recordings(folder, 16, 1, "crop")[0] if r.split == "test"}


def test_a_single_recording_has_no_test_split(tmp_path):
    arrays(tmp_path, 1)
    with pytest.raises(ValueError, match=r"has a train split alone, of 00.npy: another recording is needed"):
        gray(tmp_path)


def test_sub_folders_train_and_test_tell_the_split(tmp_path):
    arrays(tmp_path / "train", 2)
    with pytest.raises(ValueError, match="files in train/ alone: it needs both"):
        gray(tmp_path)
    np.save(arrays(tmp_path / "test", 0) / "z.npy", counted(10, 200))
    assert numbers(gray(tmp_path, "test").batch(8, 0, 0)).min() >= 200
    assert numbers(gray(tmp_path).batch(8, 0, 0)).max() < 200
    assert gray(tmp_path).classes == () and gray(tmp_path).sample(2, 0, 0).labels is None


@pytest.mark.parametrize("told", [True, False])
def test_class_sub_folders_are_labels_in_sorted_order(tmp_path, told):
    for split in ("train", "test") if told else ("",):
        for k, name in enumerate(("cat", "ant", "bee")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for n in range(4):
                np.save(folder / f"{n}.npy", counted(6, 60 * k))
    videos = gray(tmp_path)
    assert videos.classes == ("ant", "bee", "cat")
    clips = videos.sample(64, 0, 0)
    assert clips.labels.shape == (64, 1) and clips.labels.dtype == torch.int64
    shown = numbers(clips.video)[:, 0] // 60  # cat 0, ant 1, bee 2
    assert (np.array([2, 0, 1])[shown] == clips.labels[:, 0].numpy()).all() and len(set(shown)) == 3


def test_held_out_clips_share_no_frame_and_fewer_are_the_beginning_of_more(tmp_path):
    arrays(tmp_path, 2, frames=13)
    videos = gray(tmp_path)
    held = numbers(videos.held_out(3).video)
    assert len(np.unique(held)) == 12 and (np.diff(held, axis=1) == 1).all()
    assert torch.equal(videos.held_out(2).video, videos.held_out(3).video[:2])
    assert torch.equal(gray(tmp_path, "test").held_out(3).video, videos.held_out(3).video)
    with pytest.raises(ValueError, match="count is 4, .* holds out 3 clips of 4 frames"):
        videos.held_out(4)


def test_held_out_recordings_take_turns(tmp_path):
    for split, count in (("train", 1), ("test", 3)):
        arrays(tmp_path / split, count, frames=10)
    assert numbers(gray(tmp_path).held_out(5).video)[:, 0].tolist() == [0, 10, 20, 4, 14]


# packed sets


def test_a_packed_set_gives_the_same_clips_without_decoding(car, tmp_path, capsys, monkeypatch):
    before = gray(car).sample(8, 0, 0)
    pack_main([str(car), str(tmp_path / "set"), "--size=16", "--channels=1"])
    assert "MiB" in (said := capsys.readouterr().out) and "of them a second" in said
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["actions.npy", "frames.npy", "index.json"]
    monkeypatch.setattr(train.data.index, "decode", None)
    shutil.rmtree(car)
    for found, wanted in zip(gray(tmp_path / "set").sample(8, 0, 0)[:2], before[:2], strict=True):
        assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match="is packed with image_size 16, not 32: pack it again"):
        VideoFolder(tmp_path / "set", "train", 4, 32, 1)


def test_packing_never_overwrites(car, tmp_path):
    with pytest.raises(SystemExit, match="car is not empty"):
        pack_main([str(car), str(car)])


# training


def asked(preset: str, *words):
    args = arguments("").parse_args(
        ["--preset", preset, "--out", "x", "--device", "cpu", "--frames", "8", *map(str, words)]
    )
    return chosen(args), args


def test_a_tokenizer_trains_on_a_folder_and_its_card_says_so(tmp_path):
    folder = arrays(tmp_path / "videos", 3)
    words = ["--preset=video_tokenizer", "--steps=2", "--batch=2", "--frames=2", "--stride=3", "--device=cpu"]
    main([*words, f"--data={folder}", f"--out={tmp_path / 'run'}"])
    card = read_header(tmp_path / "run" / "model.safetensors")["card"]
    assert card["world"] == {"kind": "folder", "frames": 2, "stride": 3, "fit": "crop", "flip": False}


def test_predictors_are_given_labels_and_actions_where_they_learn_them(car, tmp_path):
    for name in ("ant", "bee"):
        arrays(tmp_path / "classes" / name, 2)
    preset, args = asked("one_digit_videogpt", "--data", tmp_path / "classes")
    batch = batches_of(videos_of(preset, args, "train", "cpu"), preset)(2, 0)
    assert batch.video.shape == (2, 8, 1, 64, 64) and batch.labels.shape == (2, 1)
    preset, args = asked("cpu_tabletop_stt", "--data", car)
    batch = batches_of(videos_of(preset, args, "train", "cpu"), preset)(2, 0)
    assert batch.video.shape == (2, 8, 3, 64, 64) and batch.actions.shape == (2, 8, 2)
    preset, args = asked("cpu_digits_stt", "--data", car)
    assert batches_of(videos_of(preset, args, "train", "cpu"), preset)(2, 0).actions is None


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("one_digit_videogpt", "takes 10 classes, .* has no class sub-folders: add --set classes=0"),
        ("cpu_tabletop_stt", r'takes 2 actions, .* has no actions: add --set "actions=\(\)"'),
        ("one_digit_transframer", "learns maps of digits, .* has none"),
    ],
)
def test_what_a_folder_does_not_tell_a_model_is_said(tmp_path, preset, message):
    preset, args = asked(preset, "--data", arrays(tmp_path, 2))
    with pytest.raises(SystemExit, match=message):
        videos_of(preset, args, "train", "cpu")


def test_flags_and_folders_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="--stride means nothing to mixed clips"):
        asked("cpu_digits_stt", "--stride=2")
    with pytest.raises(SystemExit, match="--digits means nothing to folder clips"):
        asked("cpu_digits_stt", "--digits=1", "--data", tmp_path)
    preset, args = asked("cpu_digits_stt", "--data", tmp_path / "nowhere")
    with pytest.raises(SystemExit, match="nowhere is not a folder"):
        videos_of(preset, args, "train", "cpu")
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "index.json").write_text(json.dumps({"format": 2, "per_shard": 2, "crf": 20}))
    preset, args = asked("cpu_digits_stt", "--data", tmp_path)
    with pytest.raises(SystemExit, match="is a set of the tabletop, the preset cpu_digits_stt learns digits"):
        videos_of(preset, args, "train", "cpu")


# from a folder to the app

SMALL = ["--batch=2", "--set=dim=32", "--set=depth=2", "--set=heads=2", "--set=gaussian_grid=(1, 2)"]


def opened_in_the_app(monkeypatch, words: list[str]) -> dict:
    """The models that `python app.py` shows, by their names there."""
    shown = {}
    monkeypatch.setattr(server, "serve", lambda models, *_, **__: shown.update(models))
    front_door.main([*words, "--device", "cpu"])
    return shown


def plays(desk: Desk, clip: Path, **settings) -> None:
    """A prediction on the app's page, of what follows some frames of a clip."""
    run = desk.predict(Path(shutil.copy(clip, desk.uploads)), **{"frames": 2, "stride": 1, **settings})
    assert len(run.given) == 4 and run.futures.shape[:2] == (2, 2)


def test_a_model_of_odd_videos_is_published_and_plays_in_the_app(odd, tmp_path, monkeypatch):
    words = [f"--data={odd}", "--frames=5", "--steps=1", "--device=cpu"]
    tokenizer = ["--preset=video_tokenizer", "--batch=2", "--set=widths=(8, 16)", f"--out={tmp_path / 'tok'}"]
    main([*words, *tokenizer])
    predictor.main(
        [*words, "--preset=video_stt", f"--tokenizer={tmp_path / 'tok'}", f"--out={tmp_path / 'own'}", *SMALL]
    )
    publish.main([f"--model={tmp_path / 'own'}", f"--out={tmp_path / 'own.safetensors'}"])
    models = opened_in_the_app(monkeypatch, ["--models", str(tmp_path / "own.safetensors")])
    plays(Desk(tmp_path / "app", models), odd / "b.MP4", model="own")


def own_commands() -> list[list[str]]:
    """Those of the README's chapter, as words, but for what goes to the Hub."""
    chapter = (ROOT / "README.md").read_text().split("### Train on your own videos\n")[1].split("\n### ")[0]
    lines = "".join(re.findall(r"```bash\n(.*?)```", chapter, flags=re.S)).splitlines()
    return [shlex.split(line, comments=True) for line in lines if "--repo" not in line]


def test_the_chapter_on_own_videos_goes_from_a_folder_to_the_app():
    named = ["train.pack_videos", "train.predictor", "train.plot", "train.evaluate", "train.publish", "app.py", "stt"]
    assert [words[1] if words[1] == "app.py" else words[2] for words in own_commands()] == named


@pytest.mark.slow
def test_the_commands_of_the_chapter_on_own_videos_work_on_twelve_odd_ones(tmp_path, monkeypatch):
    odd_videos(tmp_path / "clips", longer=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    few = {"train.predictor": ["--steps=3", "--log-every=1", *SMALL], "train.evaluate": ["--clips=2", "--futures=2"]}
    for _, *words in own_commands():
        if words[0] == "app.py":
            models = opened_in_the_app(monkeypatch, words[1:])
            plays(Desk(tmp_path / "app", models), tmp_path / "clips" / "b.MP4", stride=3, model="own")
        else:
            subprocess.run([sys.executable, *words, *few.get(words[1], [])], check=True, timeout=600)
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"own", "own.png", "own.json", "own-sheet.png"}
    assert (tmp_path / "future.mp4").stat().st_size > 1000
