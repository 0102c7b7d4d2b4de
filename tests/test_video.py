"""Files that must be read, files that must be refused in one sentence, and what the limits are."""

from __future__ import annotations

import math
import os
import re
import subprocess
import zipfile

import cv2
import numpy as np
import pytest
import torch

from stt import video as V
from stt.encode import enlarge, write_gif, write_mp4
from stt.ffmpeg import LOG_BYTES, limited
from stt.video import Limits, VideoError, probe, read_clip
from tests.video_fixtures import (
    PLAIN,
    SOURCE,
    digits,
    ffmpeg,
    lossless,
    make,
    noise,
    nothing_is_left_behind,  # noqa: F401
)

GRAY64 = {"size": 64, "channels": 1}
ENCODERS = {
    "h264": "libx264 -preset ultrafast",
    "hevc": "libx265 -preset ultrafast -x265-params log-level=none",
    "vp8": "libvpx -deadline realtime",
    "vp9": "libvpx-vp9 -deadline realtime -cpu-used 8",
    "av1": "libsvtav1 -preset 12 -svtav1-params logical-processors=1",
    "mpeg4": "mpeg4",
    "mjpeg": "mjpeg -strict unofficial",
}
HOLDS = {
    "mp4": "h264 hevc vp9 av1 mpeg4 mjpeg",
    "mov": "h264 hevc mpeg4 mjpeg",
    "mkv": "h264 hevc vp8 vp9 av1 mpeg4 mjpeg",
    "webm": "vp8 vp9 av1",
    "avi": "h264 mpeg4 mjpeg",
}
PAIRS = [(container, codec) for container, codecs in HOLDS.items() for codec in codecs.split()]


def refusal(path, limits: Limits = V.LIMITS) -> str:
    """The sentence that refuses a file, fit to be shown."""
    with pytest.raises(VideoError) as caught:
        read_clip(path, **GRAY64, limits=limits)
    sentence = str(caught.value)
    assert re.fullmatch(r"[A-Z][^\n<>\\]*\.", sentence)
    assert not re.search(r"\. [A-Z]", sentence), "more than one sentence"
    assert "/" not in sentence
    assert "Traceback" not in sentence
    assert len(sentence) < 160
    return sentence


# What must be read


def test_every_container_holds_every_codec(tmp_path):
    for container, codec in PAIRS:
        # SVT-AV1 refuses small frames
        options = f"-pix_fmt yuv420p -c:v {ENCODERS[codec]}"
        path = make(tmp_path / f"{codec}.{container}", options, "testsrc2=s=128x96:r=10:d=0.5")
        clip, source = read_clip(path, **GRAY64), probe(path)
        assert (source.width, source.height, source.codec) == (128, 96, codec), (container, codec)
        assert source.container == {"mov": "mp4", "mkv": "matroska", "webm": "matroska"}.get(container, container)
        assert clip.video.shape == (5, 1, 64, 64) and clip.video.dtype == torch.float32
        assert clip.video.std() > 0.2
        assert (clip.fps, clip.source_size, clip.source_frames) == (10, (128, 96), 5)
        assert (clip.truncated, clip.cropped) == (False, True)


def test_a_gif_is_read_exactly(tmp_path):
    write_gif(tmp_path / "clip.gif", digits(), fps=10)
    clip = read_clip(tmp_path / "clip.gif", size=64, channels=3)
    assert clip.fps == 10
    assert np.array_equal(V.to_uint8(clip.video), digits())
    assert probe(tmp_path / "clip.gif").codec == "gif"


def test_a_clip_of_the_models_size_stays_exactly_itself(tmp_path):
    frames = noise(3, 64, 64)
    path = lossless(tmp_path / "clip.mkv", frames)
    assert np.array_equal(V.to_uint8(read_clip(path, size=64, channels=3).video), frames)


def test_a_gray_clip_reaches_black_and_white(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, None, :, None], (2, 256, 1, 3))
    write_mp4(tmp_path / "clip.mp4", ramp, fps=10)
    video = read_clip(tmp_path / "clip.mp4", size=256, channels=1).video
    assert (video.min(), video.max()) == (-1, 1)
    assert np.abs(V.to_uint8(video).astype(int) - ramp).max() <= 2


def test_shrinking_averages_and_never_squashes(tmp_path):
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in noise(2, 150, 230)])
    path = lossless(tmp_path / "clip.mkv", frames)
    expected = [cv2.resize(f[:, 40:190], (64, 64), interpolation=cv2.INTER_AREA) for f in frames]
    shrunk = V.to_uint8(read_clip(path, size=64, channels=3).video)
    assert np.abs(shrunk.astype(int) - np.stack(expected)).max() <= 2


def test_enlarging_by_a_whole_factor_repeats_pixels(tmp_path):
    frames = noise(2, 32, 32)
    path = lossless(tmp_path / "clip.mkv", frames)
    assert np.array_equal(V.to_uint8(read_clip(path, size=64, channels=3).video), enlarge(frames, 2))
    smooth = V.to_uint8(read_clip(path, size=80, channels=3).video)
    expected = np.stack([cv2.resize(f, (80, 80), interpolation=cv2.INTER_LINEAR) for f in frames])
    assert np.abs(smooth.astype(int) - expected).max() <= 2


def test_rotation_is_honoured(tmp_path):
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[:, :, 48:] = 255  # the right half is white
    upright = lossless(tmp_path / "upright.mp4", frames)
    ffmpeg("-display_rotation", "90", "-i", upright, "-c", "copy", tmp_path / "turned.mp4")
    clip = read_clip(tmp_path / "turned.mp4", **GRAY64)
    assert clip.source_size == (64, 96)
    assert clip.cropped
    assert clip.video[0, 0, :30].mean() > 0.95, "a quarter turn against the clock puts the right half on top"
    assert clip.video[0, 0, 34:].mean() < -0.95


def test_pixels_that_are_not_square_are_not_squashed(tmp_path):
    path = make(tmp_path / "clip.mkv", "-vf setsar=2/1 -pix_fmt yuv420p -c:v libx264", "color=s=64x128:d=0.5")
    assert not read_clip(path, **GRAY64).cropped
    assert probe(path).pixel_aspect == 2


def padded(frames: np.ndarray, size: int, aspect: float) -> np.ndarray:
    """The whole picture of frames (T, H, W, 3) on black, as OpenCV makes it."""
    width, height = (max(1, math.floor(size * min(1, ratio) + 0.5)) for ratio in (aspect, 1 / aspect))
    kernel = cv2.INTER_AREA if max(frames.shape[1:3]) >= size else cv2.INTER_LINEAR
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((len(frames), size, size, 3), np.uint8)
    for canvas, frame in zip(square, frames, strict=True):
        canvas[top : top + height, left : left + width] = cv2.resize(frame, (width, height), interpolation=kernel)
    return square


def test_padding_shows_the_whole_picture_on_black(tmp_path):
    for height, width in ((150, 230), (231, 97), (33, 65), (31, 17), (200, 16), (16, 4000)):
        frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in noise(2, height, width)])
        path = lossless(tmp_path / "clip.mkv", frames)
        for size in (63, 80):
            clip = read_clip(path, size=size, channels=3, fit="pad")
            error = np.abs(V.to_uint8(clip.video).astype(int) - padded(frames, size, width / height)).max()
            assert error <= 2, (height, width, size)
            assert (clip.cropped, clip.padded, clip.source_size) == (False, True, (width, height))


def test_bars_are_black_in_every_pixel_format(tmp_path):
    for pixels in ("yuv420p", "yuvj420p", "gray"):
        path = make(tmp_path / "clip.mkv", f"-pix_fmt {pixels} -c:v libx264", "color=white:s=96x54:d=0.2")
        for channels in (1, 3):
            column = read_clip(path, size=64, channels=channels, fit="pad").video.mean(dim=(0, 1, 3))
            assert column[:14].eq(-1).all() and column[50:].eq(-1).all(), (pixels, channels)
            assert column[14:50].min() > 0.98


def test_a_square_clip_is_neither_padded_nor_cropped(tmp_path):
    frames = noise(2, 64, 64)
    path = lossless(tmp_path / "clip.mkv", frames)
    for fit in ("crop", "pad"):
        clip = read_clip(path, size=64, channels=3, fit=fit)
        assert np.array_equal(V.to_uint8(clip.video), frames)
        assert (clip.cropped, clip.padded) == (False, False)


def test_a_bar_thinner_than_half_a_pixel_is_no_bar(tmp_path):
    path = make(tmp_path / "clip.mkv", source="color=white:s=640x636:d=0.2")
    clip = read_clip(path, **GRAY64, fit="pad")
    assert not clip.padded
    assert clip.video.min() > 0.98


def test_padding_by_a_whole_factor_repeats_pixels(tmp_path):
    frames = noise(2, 16, 32)
    clip = read_clip(lossless(tmp_path / "clip.mkv", frames), size=64, channels=3, fit="pad")
    assert np.array_equal(V.to_uint8(clip.video)[:, 16:48], enlarge(frames, 2))


def test_padding_honours_pixels_that_are_not_square_and_rotation(tmp_path):
    frames = np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in noise(2, 144, 96)])
    upright = lossless(tmp_path / "upright.mp4", frames)
    ffmpeg("-i", upright, "-c", "copy", "-bsf:v", "h264_metadata=sample_aspect_ratio=3/1", tmp_path / "wide.mp4")
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "wide.mp4", "-c", "copy", tmp_path / "turned.mp4")
    for name, shown, aspect in (("wide", frames, 2), ("turned", np.rot90(frames, axes=(1, 2)), 0.5)):
        clip = read_clip(tmp_path / f"{name}.mp4", size=64, channels=3, fit="pad")
        assert np.abs(V.to_uint8(clip.video).astype(int) - padded(shown, 64, aspect)).max() <= 2
        assert clip.padded


def test_odd_sizes_and_pixel_formats_are_read(tmp_path):
    for pixels, size in (("yuv444p", "65x33"), ("yuv420p10le", "66x34"), ("gray", "65x33"), ("yuvj420p", "66x34")):
        path = make(tmp_path / "clip.mkv", f"-pix_fmt {pixels} -c:v libx264", f"testsrc=s={size}:r=10:d=0.3")
        clip = read_clip(path, size=32, channels=3)
        assert clip.video.shape == (3, 3, 32, 32), pixels
        assert f"{clip.source_size[0]}x{clip.source_size[1]}" == size
        assert clip.video.std() > 0.2


def test_one_frame_is_a_clip(tmp_path):
    clip = read_clip(make(tmp_path / "clip.mp4", f"{PLAIN} -frames:v 1"), **GRAY64)
    assert clip.video.shape == (1, 1, 64, 64)
    assert clip.fps == 10


def test_stride_keeps_every_nth_frame_and_slows_the_rate(tmp_path):
    path = make(tmp_path / "clip.mp4", source="testsrc2=s=64x64:r=10:d=1")
    whole, third = read_clip(path, **GRAY64), read_clip(path, **GRAY64, stride=3)
    assert torch.equal(third.video, whole.video[::3])
    assert third.fps == pytest.approx(10 / 3)
    assert (third.source_frames, third.truncated) == (10, False)


def test_max_frames_counts_frames_after_the_stride(tmp_path):
    path = make(tmp_path / "clip.mp4", source="testsrc2=s=64x64:r=10:d=1")
    clip = read_clip(path, **GRAY64, stride=2, max_frames=3)
    assert (len(clip.video), clip.source_frames, clip.truncated) == (3, 5, True)
    assert not read_clip(path, **GRAY64, max_frames=10).truncated


def test_irregular_frames_get_their_average_rate(tmp_path):
    # frames 0, 1, 4, 5, 8, 9 ... of 40 a second: 20 a second on average, while the stream claims otherwise
    uneven = "-vf select=lt(mod(n\\,4)\\,2) -fps_mode passthrough -pix_fmt yuv420p -c:v libx264"
    path = make(tmp_path / "clip.mkv", uneven, "testsrc2=s=64x64:r=40:d=2")
    clip = read_clip(path, **GRAY64)
    assert clip.source_frames == 40
    assert clip.fps == pytest.approx(20, abs=1)


def test_a_change_of_size_in_the_middle_is_fitted_anew(tmp_path):
    parts = [
        make(tmp_path / f"{s}.ts", "-c:v mpeg4 -f mpegts", f"testsrc2=s={s}:r=10:d=0.5") for s in ("64x48", "96x96")
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(p.read_bytes() for p in parts))
    ffmpeg("-i", tmp_path / "both.ts", "-c", "copy", tmp_path / "clip.mkv")
    assert read_clip(tmp_path / "clip.mkv", **GRAY64).video.shape[1:] == (1, 64, 64)
    video = read_clip(tmp_path / "clip.mkv", **GRAY64, fit="pad").video
    assert video.shape[1:] == (1, 64, 64)
    assert video[0, 0, :8].eq(-1).all() and video[-1, 0, :8].std() > 0.1, "only the first part has bars"


# Limits, at the limit and one beyond


def test_a_file_may_be_as_large_as_the_limit_and_no_larger(tmp_path):
    path = make(tmp_path / "clip.mkv")
    with path.open("ab") as file:
        file.truncate(V.LIMITS.file_bytes)
    read_clip(path, **GRAY64)
    with path.open("ab") as file:
        file.truncate(V.LIMITS.file_bytes + 1)
    assert refusal(path) == "The file is 25.1 MB; the limit is 25 MB."


def test_a_side_has_16_to_4096_pixels_and_a_frame_at_most_8294400(tmp_path):
    for size, fits in (("16x16", True), ("4096x16", True), ("15x64", False), ("4097x16", False), ("2x2", False)):
        path = make(tmp_path / "clip.mkv", "-pix_fmt yuv444p -c:v mjpeg", f"color=s={size}:r=10:d=0.1")
        if fits:
            assert read_clip(path, **GRAY64).source_frames == 1
        else:
            assert refusal(path).startswith(f"A frame is {size} pixels; the limits are 16 to 4096 pixels a side")
    options = "-pix_fmt yuv444p -c:v libx264 -preset ultrafast -frames:v 1"
    path = make(tmp_path / "clip.mp4", options, "color=s=4096x2025:d=1")
    assert read_clip(path, **GRAY64).source_size == (4096, 2025)
    assert "8,294,400 pixels in all" in refusal(make(tmp_path / "clip.mp4", options, "color=s=4096x2026:d=1"))


def test_the_first_600_frames_and_the_first_60_seconds_are_used(tmp_path):
    for rate, most in ((30, 600), (2, 120)):
        for frames in (most, most + 1):
            path = make(tmp_path / "clip.mkv", "-c:v mpeg4", f"color=s=16x16:r={rate}:d={frames / rate}")
            clip = read_clip(path, size=16, channels=1)
            assert (clip.source_frames, clip.truncated) == (most, frames > most)


def test_decoding_ends_at_the_wall_clock_limit(tmp_path):
    limits = Limits(wall_seconds=0.002)
    assert refusal(make(tmp_path / "clip.mp4"), limits).startswith("Decoding takes longer than 0.002 s")


def test_decoding_ends_at_the_memory_limit(tmp_path):
    path = make(tmp_path / "clip.mp4", f"{PLAIN} -preset ultrafast -frames:v 1", "color=s=3840x2160:d=1")
    read_clip(path, **GRAY64)
    refusal(path, Limits(memory_bytes=150_000_000))


def test_the_child_process_runs_under_the_limits():
    query = ["/bin/sh", "-c", "ulimit -t; ulimit -v; ulimit -n; ulimit -f; ulimit -c"]
    shown = subprocess.run(limited(query, V.LIMITS), capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["10", str(1_500_000_000 // 1024), "64", str(LOG_BYTES // 512), "0"]


def test_rates_are_kept_within_1_and_120_frames_a_second(tmp_path):
    slow = make(tmp_path / "slow.mkv", "-c:v mpeg4", "color=s=16x16:r=1/2:d=8")
    fast = make(tmp_path / "fast.mkv", "-c:v mpeg4", "color=s=16x16:r=240:d=0.1")
    assert read_clip(slow, size=16, channels=1).fps == 1
    assert read_clip(fast, size=16, channels=1).fps == 120


def test_arguments_are_checked(tmp_path):
    for wrong in ({"channels": 2}, {"size": 0}, {"fit": "squash"}, {"stride": 0}, {"max_frames": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            read_clip(tmp_path / "any.mp4", **(GRAY64 | wrong))


# What must be refused


def _png() -> bytes:
    return cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1].tobytes()


NOT_CLIPS = {
    "one byte": b"\0",
    "noise": np.random.default_rng(1).bytes(4096),
    "text": b"This is not a clip.\n" * 50,
    "html": b"<!doctype html><html><body><script>alert(1)</script></body></html>",
    "png": _png(),
    "jpeg": cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes(),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "playlist of a file": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "playlist of a page": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "concat of itself": b"ffconcat version 1.0\nfile clip.mp4\n",
    "concat of a sibling": b"ffconcat version 1.0\nfile good.mp4\n",
    "concat of a page": b"ffconcat version 1.0\nfile http://127.0.0.1:9/a.mp4\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "gif without frames": b"GIF89a\x40\0\x40\0\x80\0\0\0\0\0\xff\xff\xff;",
}


def test_other_files_are_refused(tmp_path):
    make(tmp_path / "good.mp4")
    for kind, content in NOT_CLIPS.items():
        ending = "gif" if kind in ("svg", "text", "gif without frames") else "mp4"
        (tmp_path / f"clip.{ending}").write_bytes(content)
        assert re.search("damaged or not a video|kind of file|no frame", refusal(tmp_path / f"clip.{ending}")), kind
        if "gif" not in kind:  # that one is a whole gif, only without a picture
            with pytest.raises(VideoError):
                V.read_metadata(tmp_path / f"clip.{ending}")


def test_a_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "clip.mp4", "w") as archive:
        archive.writestr("a.txt", "text")
    refusal(tmp_path / "clip.mp4")


def test_an_empty_a_missing_file_a_folder_and_a_pipe_are_named_as_such(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refusal(tmp_path / "empty.mp4") == "The file is empty."
    assert refusal(tmp_path / "none.mp4") == "The file does not exist."
    assert refusal(tmp_path / "folder.mp4") == "This is a folder, not a video file."
    assert refusal(tmp_path / "pipe.mp4") == "This is not a regular file."
    assert refusal("a\0b.mp4") == "The file cannot be opened."
    assert refusal("a" * 400 + ".mp4") == "The file cannot be opened."


def test_a_clip_without_its_index_is_incomplete(tmp_path):
    path = make(tmp_path / "clip.mp4", source="testsrc2=s=320x240:r=10:d=2")
    path.write_bytes(path.read_bytes()[:-4000])
    assert refusal(path) == "The file is incomplete: its index is missing."


def test_of_a_truncated_file_the_start_is_read(tmp_path):
    codecs = {"webm": "-c:v libvpx -deadline realtime", "gif": "", "avi": "-c:v mpeg4", "mkv": PLAIN}
    for container, options in (codecs | {"mp4": f"{PLAIN} -movflags +faststart"}).items():
        path = make(tmp_path / f"clip.{container}", options, "testsrc2=s=160x120:r=10:d=2")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 1 <= read_clip(path, **GRAY64).source_frames < 20, container


def test_flipped_bytes_give_a_clip_or_a_sentence(tmp_path):
    good = make(tmp_path / "good.mp4").read_bytes()
    rng = np.random.default_rng(2)
    for trial in range(6):
        data = np.frombuffer(good, np.uint8).copy()
        data[rng.integers(0, len(data), len(data) // 100)] = rng.integers(0, 256, len(data) // 100)
        path = tmp_path / f"{trial}.mp4"
        path.write_bytes(data.tobytes())
        try:
            assert read_clip(path, **GRAY64).video.abs().max() <= 1
        except VideoError:
            refusal(path)


def test_sound_alone_is_refused_and_sound_beside_a_clip_is_ignored(tmp_path):
    sound = "-c:a aac -f mp4"
    assert refusal(make(tmp_path / "a.mp4", sound, "sine=d=0.5")) == "The clip has no video stream."
    ffmpeg("-f", "lavfi", "-i", SOURCE, "-f", "lavfi", "-i", "sine=d=0.5", *PLAIN.split(), tmp_path / "b.mp4")
    assert read_clip(tmp_path / "b.mp4", **GRAY64).source_frames == 5


def test_a_clip_without_frames_is_refused(tmp_path):
    path = make(tmp_path / "clip.mkv", f"{PLAIN} -frames:v 0")
    refusal(path)


def test_a_bomb_of_huge_frames_is_refused_before_it_is_decoded(tmp_path):
    options = f"{PLAIN} -preset ultrafast -frames:v 1"
    path = make(tmp_path / "bomb.mp4", options, "color=s=8192x8192:d=1")
    assert path.stat().st_size < 200_000
    assert refusal(path).startswith("A frame is 8192x8192 pixels")


def test_other_codecs_are_refused_by_name(tmp_path):
    for codec in ("magicyuv", "ffv1", "prores"):
        path = make(tmp_path / "clip.mkv", f"-c:v {codec}")
        assert refusal(path).startswith(f"The codec {codec} is not supported; use H.264")


def test_a_file_has_at_most_8_streams(tmp_path):
    for container in ("mkv", "mp4", "avi"):
        eight = make(tmp_path / f"eight.{container}", "-c:v mpeg4" + " -map 0:v" * 8)
        assert read_clip(eight, **GRAY64).source_frames == 5
        nine = make(tmp_path / f"nine.{container}", "-c:v mpeg4" + " -map 0:v" * 9)
        assert refusal(nine) == "The file has more than 8 streams."


WEIRD = [
    "img%03d.mp4",
    "-i.mp4",
    "concat:a|b.mp4",
    "a" * 240 + ".mp4",
    "new\nline.mp4",
    "<img onerror=x>.mp4",
    "?*.mp4",
]


def test_a_name_is_only_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in WEIRD:
        write_mp4(name, digits(5), fps=10, metadata={"seed": 1})
        assert read_clip(name, **GRAY64).source_frames == 5, name
        assert V.read_metadata(name) == {"seed": 1}
        (tmp_path / name).write_bytes(b"text")
        refusal(name)


def test_metadata_of_others_is_none(tmp_path):
    assert V.read_metadata(make(tmp_path / "none.mp4")) is None
    for comment in ("hello", "[1]", "[" * 50_000):
        ffmpeg(
            "-i",
            tmp_path / "none.mp4",
            "-c",
            "copy",
            "-metadata",
            f"comment={comment}",
            tmp_path / "other.mp4",
        )
        assert V.read_metadata(tmp_path / "other.mp4") is None


def test_uint8_and_back_is_exact():
    frames = torch.arange(256).reshape(1, 1, 16, 16)
    assert np.array_equal(V.to_uint8(frames / 127.5 - 1)[0, ..., 0], frames[0, 0].numpy())
    assert V.to_uint8(torch.full((1, 3, 2, 2), 7.0)).max() == 255
    with pytest.raises(ValueError, match="shape"):
        V.to_uint8(torch.zeros(1, 2, 8, 8))
