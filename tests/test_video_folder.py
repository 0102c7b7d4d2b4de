"""A folder of videos as training clips: what is read, where clips lie, how they are split, labelled and packed."""

from __future__ import annotations

import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch

import train.data.index
from stt.video import read_clip
from tests.own_videos import ODD, odd_videos
from tests.video_fixtures import lossless, make, noise
from train.data.index import index_videos as index_folder
from train.data.readers import ReadOptions, detect_cuts
from train.data.video_folder import VideoFolder
from train.pack_videos import main as pack_main


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


def index_videos(folder, size: int, channels: int, fit: str, cache=None):
    return index_folder(folder, ReadOptions(size=size, channels=channels, fit=fit), cache)


def gray(folder, split="train", frames=4, **options) -> VideoFolder:
    return VideoFolder(folder, split, frames, 16, 1, **options)


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


# ---- what is read ------------------------------------------------------------------------------------


def test_twelve_odd_videos_become_clips_and_unusable_ones_are_named(tmp_path, capsys):
    odd = odd_videos(tmp_path / "clips")
    batch = VideoFolder(odd, "train", 5, 32, 3, cache=tmp_path).batch(6, seed=0, index=0)
    assert batch.video.shape == (6, 5, 3, 32, 32) and batch.video.dtype == torch.float32
    assert batch.video.min() >= -1 and batch.video.max() <= 1 and batch.video.std() > 0.2
    assert batch.actions is None and batch.labels is None
    videos = VideoFolder(odd, "test", 5, 32, 3, cache=tmp_path)
    videos.report()
    printed = capsys.readouterr().err
    assert "files    11 read, 1 of them too short; 2 passed over" in printed and "corrupt.mp4: The file is" in printed
    assert "short.mp4: 3 frames without a cut" in printed and "notes.txt: of a kind" in printed
    assert {v.name for v in index_videos(odd, 32, 3, "crop", tmp_path)[0]} == set(ODD)
    index = json.loads(next(tmp_path.glob("*/.stt-index.json")).read_text())["32x32x3-crop"]
    assert (index["i.m4v"]["size"], index["i.m4v"]["fps"], index["i.m4v"]["frames"]) == ([160, 90], 5, 20)


def test_frames_are_those_of_the_hardened_decoder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        make(tmp_path / name)
    videos = VideoFolder(tmp_path, "test", 5, 32, 3, fit="pad")
    held_out = next(v for v in index_videos(tmp_path, 32, 3, "pad")[0] if v.split == "test")
    expected = read_clip(tmp_path / held_out.name, size=32, channels=3, fit="pad").video
    torch.testing.assert_close(videos.held_out(1).video[0], expected)


def test_long_videos_are_read_to_their_end(tmp_path):
    for name in ("a.mp4", "b.avi"):
        make(tmp_path / name, "-c:v mpeg4", "testsrc2=s=16x16:r=100:d=40")  # an upload may have 1,500 frames
    assert [(v.first, v.last) for v in index_videos(tmp_path, 16, 1, "crop")[0]] == [(0, 4000)] * 2


def test_more_unreadable_files_than_a_twentieth_stop_with_all_their_names(tmp_path):
    arrays(tmp_path, 19)
    (tmp_path / "x.mp4").write_bytes(b"garbage")
    assert len(gray(tmp_path)) > 0
    (tmp_path / "18.npy").rename(tmp_path / "18.bak")
    (tmp_path / "y.npy").write_bytes(b"")
    message = r"2 of 20 files cannot be read, at most 5 % .*\n  x.mp4: .*\n  y.npy: "
    with pytest.raises(ValueError, match=message) as error:
        gray(tmp_path)
    assert "00.npy" not in str(error.value)


def ramp(shape: tuple[int, ...]) -> np.ndarray:
    """An array whose gray goes up by 10 along its axis of 9 frames; the second of two clips is brighter."""
    steps = np.arange(9, dtype=np.uint8) * 10
    array = np.broadcast_to(steps.reshape(-1, *[1] * (len(shape) - shape.index(9) - 1)), shape).copy()
    array[1:] += 100 * (shape[0] == 2)
    return array


def test_arrays_of_every_shape_are_read(tmp_path):
    for shape, clips in (((9, 20, 16), 1), ((9, 16, 20, 1), 1), ((9, 16, 20, 3), 1), ((2, 9, 16, 20), 2),
                         ((2, 9, 16, 20, 3), 2)):  # fmt: skip
        folder = tmp_path / str(shape)
        folder.mkdir()
        for name in ("a", "b"):
            np.save(folder / f"{name}.npy", ramp(shape))
        np.savez(folder / "c.npz", video=ramp(shape))
        for channels in (1, 3):
            video = VideoFolder(folder, "train", 9, 16, channels).batch(3, 0, 0).video
            assert video.shape == (3, 9, channels, 16, 16), shape
            assert (np.diff(numbers(video)) == 10).all(), shape
        assert len(index_videos(folder, 16, 1, "crop")[0]) == 3 * clips, shape


def test_other_arrays_are_refused_by_name_and_shape(tmp_path):
    video = np.zeros((5, 8, 8), np.uint8)
    for arrays, message in (
        ({"video": video.astype(np.float32)}, "it holds float32 values from 0 to 0: state black and white"),
        ({"video": np.zeros((5, 8, 8, 4, 2), np.uint8)}, r"it holds uint8 \(5, 8, 8, 4, 2\)"),
        ({"clip": video}, r"it holds \['clip'\], expected an array named video"),
        ({"video": video, "actions": np.zeros((4, 2))}, r"its actions have shape \(4, 2\), its video \(5, 8, 8\)"),
    ):
        np.savez(tmp_path / "wrong.npz", **arrays)
        with pytest.raises(ValueError, match=rf"1 of 1 files .*\n  wrong.npz: {message}"):
            gray(tmp_path)


def test_an_array_may_have_actions(tmp_path):
    for k in range(2):
        video = np.stack([counted(10, 20 * k), counted(10, 20 * k + 10)])
        np.savez(tmp_path / f"{k}.npz", video=video, actions=video[:, :, 0, :1] / 100)
    batch = gray(tmp_path).batch(8, 0, 0)
    np.testing.assert_allclose(batch.actions[..., 0] * 100, numbers(batch.video), atol=1e-4)


def test_damaged_packs_are_named(car):
    data = bytearray((car / "frames.mjpegpack").read_bytes())
    index = dict(np.load(car / "index.npz"))
    data[index["offsets"][7] : index["offsets"][7] + 300] = bytes(300)
    (car / "frames.mjpegpack").write_bytes(data)
    with pytest.raises(ValueError, match=r"frames.mjpegpack: frame 7 of 90 is not an image"):
        gray(car)
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
    np.savez(car / "index.npz", **dict(np.load(car / "index.npz")) | {"offsets": np.arange(91) * len(data)})
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("a", "b"):
        np.save(plain / f"{name}.npy", image[None].repeat(5, axis=0))
    for folder in (car, plain):
        video = VideoFolder(folder, "train", 4, 16, 3).batch(1, 0, 0).video
        red, green, blue = video[0].mean(dim=(0, 2, 3)).tolist()
        assert red > 0.5 and green < -0.9 and blue < -0.9


def test_black_bars_show_the_whole_picture(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.full((5, 20, 40, 1), 255, np.uint8))
    video = gray(tmp_path, fit="pad").batch(1, 0, 0).video
    assert (video[..., 4:12, :] == 1).all() and (video[..., :4, :] == -1).all() and (video[..., 12:, :] == -1).all()


def test_empty_folders_and_wrong_arguments_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        ValueError, match=r"holds no file that can be read: mp4, .*npz, frames.mjpegpack, or folders of frames"
    ):
        gray(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        gray(tmp_path / "nowhere")
    arrays(tmp_path, 3)
    for options, message in (
        ({"fit": "squash"}, "fit is 'squash'"), ({"stride": 0}, "stride 0"), ({"split": "val"}, "split is 'val'"),
        ({"frames": 99}, "everything in the train split is too short for a clip of 99 frames at stride 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            gray(tmp_path, **options)


# ---- the index ---------------------------------------------------------------------------------------


def test_only_new_and_changed_files_are_decoded(tmp_path, monkeypatch):
    decoded, decode = [], train.data.index.decode
    monkeypatch.setattr(
        train.data.index, "decode", lambda source, *rest: decoded.append(source.path.name) or decode(source, *rest)
    )
    arrays(tmp_path, 4)
    before = gray(tmp_path).batch(8, 0, 0).video
    assert sorted(decoded) == ["00.npy", "01.npy", "02.npy", "03.npy"]
    decoded.clear()
    assert torch.equal(gray(tmp_path).batch(8, 0, 0).video, before) and not decoded
    np.save(tmp_path / "02.npy", counted(10, 200))
    os.utime(tmp_path / "02.npy", ns=(1, 1))
    (tmp_path / "00.npy").unlink()
    gray(tmp_path), gray(tmp_path, "test")
    assert decoded == ["02.npy"]
    index = json.loads((tmp_path / ".stt-index.json").read_text())
    assert sorted(index["16x16x1-crop"]) == ["01.npy", "02.npy", "03.npy"]


def test_a_folder_that_is_read_only_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("STT_CACHE", str(tmp_path / "cache"))
    folder = arrays(tmp_path / "videos", 3)
    folder.chmod(0o555)
    gray(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["00.npy", "01.npy", "02.npy"]
    assert len(list((tmp_path / "cache" / "folders").glob("videos-*/.stt-index.json"))) == 1


# ---- where clips lie ---------------------------------------------------------------------------------


def test_a_hard_cut_is_found_and_no_clip_crosses_it(tmp_path):
    shots = noise(2, 8, 8).repeat(8, axis=1).repeat(8, axis=2)
    video = np.concatenate([shots[[0] * 9], shots[[1] * 11]])
    video[:, :8, :8] = 0
    for t, frame in enumerate(video):
        frame[t : t + 12, 20:40] = 255  # something moves all the time
    lossless(tmp_path / "a.mp4", video)
    lossless(tmp_path / "b.mp4", video[:9])
    shots = {(v.name, v.first, v.last) for v in index_videos(tmp_path, 64, 3, "crop")[0]}
    assert shots == {("a.mp4", 0, 9), ("a.mp4", 9, 20), ("b.mp4", 0, 9)}


def test_fast_motion_pans_and_noise_have_no_cuts():
    for speed in (1, 4, 12, 30):
        video = np.zeros((24, 64, 64, 3), np.uint8)
        for t, frame in enumerate(video):
            left = (t * speed) % 96 - 32  # enters and leaves
            frame[16:48, max(left, 0) : max(left + 32, 0)] = 255
        assert detect_cuts(video, [0]) == [], speed
    wide = np.random.default_rng(0).integers(0, 256, (8, 100), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    assert detect_cuts(np.stack([wide[:, 24 * t : 24 * t + 64] for t in range(20)]), [0]) == []
    assert detect_cuts(noise(12, 64, 64), [0]) == []


def test_clips_of_a_pack_never_cross_a_segment_and_bring_their_actions(car):
    videos = gray(car, frames=5, stride=2)
    batches = [videos.batch(16, 0, index) for index in range(12)]
    frames = np.concatenate([numbers(batch.video) for batch in batches])
    np.testing.assert_array_equal(frames - frames[:, :1], np.tile([0, 2, 4, 6, 8], (len(frames), 1)))
    segment = np.repeat([0, 1, 2, 3], [20, 3, 30, 37])
    assert (segment[frames] == segment[frames[:, :1]]).all() and 1 not in segment[frames]
    actions = torch.cat([batch.actions for batch in batches])
    assert actions.shape == (192, 5, 2)
    np.testing.assert_allclose(actions[..., 0] * 100, frames, atol=1e-4)
    held_out = segment[numbers(gray(car, "test", frames=5).batch(32, 0, 0).video)]
    assert not set(held_out.flatten()) & set(segment[frames].flatten())


def test_every_start_occurs_and_a_batch_depends_on_seed_and_index_alone(tmp_path):
    arrays(tmp_path, 2, frames=12)
    videos, again = gray(tmp_path, frames=5, stride=2), gray(tmp_path, frames=5, stride=2)
    first = numbers(torch.cat([videos.batch(16, 0, index).video for index in range(4)]))[:, 0]
    assert set(first - first.min()) == {0, 1, 2, 3} and len(videos) == 1
    expected = videos.batch(6, seed=3, index=7).video
    again.batch(2, seed=0, index=0)
    torch.manual_seed(5)
    assert torch.equal(again.batch(6, seed=3, index=7).video, expected)
    assert not torch.equal(again.batch(6, seed=3, index=8).video, expected)
    assert not torch.equal(again.batch(6, seed=4, index=7).video, expected)


def test_flip_mirrors_some_clips_but_none_with_actions(tmp_path, car):
    folder = tmp_path / "halves"
    folder.mkdir()
    video = np.zeros((8, 16, 16), np.uint8)
    video[:, :, :8] = 255
    for name in ("a", "b"):
        np.save(folder / f"{name}.npy", video)
    left = gray(folder, flip=True).batch(32, 0, 0).video[..., 0].mean(dim=(1, 2, 3))
    assert set(left.tolist()) == {-1.0, 1.0}
    assert (gray(folder).batch(32, 0, 0).video[..., 0] == 1).all()
    with pytest.raises(ValueError, match="has actions, which flip would not mirror"):
        gray(car, flip=True)


# ---- splits and classes ------------------------------------------------------------------------------


def test_about_a_tenth_is_held_out_and_always_the_same(tmp_path):
    for count, expected in ((2, 1), (12, 1), (20, 2), (40, 4)):
        folder = arrays(tmp_path / str(count), count)
        held_out = [{v.name for v in index_videos(folder, 16, 1, "crop")[0] if v.split == "test"} for _ in range(2)]
        assert len(held_out[0]) == expected and held_out[0] == held_out[1], count
    arrays(tmp_path / "1", 1)
    with pytest.raises(ValueError, match=r"has a train split alone, of 00.npy: another video is needed"):
        gray(tmp_path / "1")


def test_sub_folders_train_and_test_are_the_split(tmp_path):
    arrays(tmp_path / "train", 2)
    with pytest.raises(ValueError, match="split by sub-folders: train/ trained on: it needs a sub-folder test/"):
        gray(tmp_path)
    np.save(arrays(tmp_path / "test", 0) / "z.npy", counted(10, 200))
    assert numbers(gray(tmp_path, "test").batch(8, 0, 0).video).min() >= 200
    assert numbers(gray(tmp_path).batch(8, 0, 0).video).max() < 200
    assert gray(tmp_path).classes == () and gray(tmp_path).batch(2, 0, 0).labels is None


@pytest.mark.parametrize("splits", [("train", "test"), ("",)])
def test_class_sub_folders_are_labels_in_sorted_order(tmp_path, splits):
    for split in splits:
        for k, name in enumerate(("cat", "ant", "bee")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for n in range(4):
                np.save(folder / f"{n}.npy", counted(6, 60 * k))
    videos = gray(tmp_path)
    assert videos.classes == ("ant", "bee", "cat")
    batch = videos.batch(64, 0, 0)
    assert batch.labels.shape == (64, 1) and batch.labels.dtype == torch.int64
    drawn = numbers(batch.video)[:, 0] // 60  # cat 0, ant 1, bee 2
    assert (np.array([2, 0, 1])[drawn] == batch.labels[:, 0].numpy()).all() and len(set(drawn)) == 3


def test_held_out_clips_share_no_frame_take_turns_and_fewer_are_the_beginning_of_more(tmp_path):
    for split, count in (("train", 1), ("test", 3)):
        arrays(tmp_path / split, count, frames=10)
    videos = gray(tmp_path)
    frames = numbers(videos.held_out(5).video)
    assert frames[:, 0].tolist() == [0, 10, 20, 4, 14] and (np.diff(frames, axis=1) == 1).all()
    assert torch.equal(videos.held_out(2).video, videos.held_out(5).video[:2])
    assert torch.equal(gray(tmp_path, "test").held_out(5).video, videos.held_out(5).video)
    with pytest.raises(ValueError, match="count is 7, .* holds out 6 clips of 4 frames"):
        videos.held_out(7)


# ---- packed sets -------------------------------------------------------------------------------------


def test_a_packed_set_gives_the_same_clips_without_decoding(car, tmp_path, capsys, monkeypatch):
    before, out = gray(car).batch(8, 0, 0), tmp_path / "set"
    pack_main([str(car), str(out), "--size=16", "--channels=1"])
    printed = capsys.readouterr().out
    assert "MiB" in printed and "of them a second" in printed
    assert sorted(path.name for path in out.iterdir()) == ["account.json", "actions.npy", "frames.npy", "index.json"]
    monkeypatch.setattr(train.data.index, "decode", None)
    shutil.rmtree(car)
    after = gray(out).batch(8, 0, 0)
    assert torch.equal(after.video, before.video) and torch.equal(after.actions, before.actions)
    with pytest.raises(ValueError, match="is packed with image_size 16, not 32: pack it again"):
        VideoFolder(out, "train", 4, 32, 1)
    with pytest.raises(SystemExit, match="set is not empty"):
        pack_main([str(out), str(out)])


def test_damaged_files_of_a_set_are_made_again_or_named(tmp_path):
    folder, packed = arrays(tmp_path / "clips", 4), tmp_path / "set"
    before = gray(folder).batch(4, 0, 0).video
    index, whole = folder / ".stt-index.json", json.loads((folder / ".stt-index.json").read_text())
    for name in ("state", "fps", "frames", "size", "parts", "cuts", "notes", "options", "actions"):
        for value in (None, "x"):
            [entries] = json.loads(json.dumps(whole)).values()
            entries["00.npy"][name] = value
            index.write_text(json.dumps(dict.fromkeys(whole, entries)))
            videos = gray(folder)
            assert torch.equal(videos.batch(4, 0, 0).video, before), name
            assert "was damaged" in videos.account.text(), name
    for frames in folder.glob(".stt-frames/*/*.npy"):
        frames.write_bytes(frames.read_bytes()[:-9])
    assert torch.equal(gray(folder).batch(4, 0, 0).video, before)
    pack_main([str(folder), str(packed), "--size=16", "--channels=1"])
    (packed / "account.json").write_text('{"fol')
    assert torch.equal(gray(packed).batch(4, 0, 0).video, before)
    for name, data, message in (
        ("frames.npy", b"", "frames.npy is missing or damaged: pack the folder again"),
        ("frames.npy", (packed / "frames.npy").read_bytes()[:-9], "frames.npy is missing or damaged"),
        ("index.json", (packed / "index.json").read_bytes()[:-9], "packed set whose index.json is damaged"),
    ):
        (packed / name).write_bytes(data)
        with pytest.raises(ValueError, match=message):
            gray(packed)
