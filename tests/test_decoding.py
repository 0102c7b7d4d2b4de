"""Pictures and time as people's files have them: rates, HDR, fields, several streams, damage, rare containers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from stt import video as V
from stt.probe import Colours, probe
from stt.video import OWN_FILES, VideoError, decode_whole, read_clip
from tests.video_fixtures import (
    PLAIN,
    ffmpeg,
    make,
    nothing_is_left_behind,  # noqa: F401
)

GRAY16 = {"size": 16, "channels": 1}
RED = (230, 30, 30)
HEVC = "-c:v libx265 -preset ultrafast -x265-params log-level=none"


def ramp(path, seconds: float, rate: int = 30, select: str = "1"):
    """A clip whose gray level is its time in 1/100 s. select: which frames to keep, as an expression of ffmpeg."""
    levels = np.round(100 * np.arange(round(seconds * rate)) / rate).astype(np.uint8)
    raw = f"-f rawvideo -pix_fmt gray -s 32x32 -r {rate} -i -"
    options = f"-vf select='{select}' -fps_mode passthrough -pix_fmt gray -c:v libx264 -qp 0"
    ffmpeg(*raw.split(), *options.split(), path, data=np.repeat(levels, 32 * 32).tobytes())
    return path


def seconds_of(video: torch.Tensor) -> np.ndarray:
    """The time that each frame of a `ramp` shows."""
    return V.to_uint8(video)[:, 8, 8, 0] / 100


def notes_of(path, **options) -> str:
    return " ".join(read_clip(path, **(GRAY16 | {"channels": 3} | options)).notes)


# ---- time ------------------------------------------------------------------------------------------------


def test_a_clip_is_resampled_by_time_whatever_its_rate(tmp_path):
    for rate in (240, 60, 30, 25, 12):
        path = ramp(tmp_path / f"{rate}.mp4", 1.5, rate)
        clip = read_clip(path, **GRAY16, fps=10)
        assert (clip.fps, len(clip.video)) == (10, 15), rate
        assert clip.source_fps == pytest.approx(rate, rel=0.01)
        error = seconds_of(clip.video) - np.arange(15) / 10
        assert np.abs(error).max() <= 0.5 / rate + 0.011, rate  # the nearest frame
        assert any(f"The clip has {rate} frames per second" in note for note in clip.notes)
        with open(tmp_path / "raw", "w+b") as file:
            whole = decode_whole(path, file, **GRAY16, fps=10)
            pixels = np.fromfile(tmp_path / "raw", np.uint8).reshape(-1, 16, 16, 1)
        assert (whole.frames, whole.fps, whole.notes) == (15, 10, clip.notes)
        assert np.array_equal(pixels, V.to_uint8(clip.video)[..., :1])


def test_a_variable_rate_is_resampled_by_time(tmp_path):
    numbers = [n for n in range(75) if n < 30 or n % 7 == 0]  # 30 a second, then one in 7 of them
    for ending in ("mp4", "mkv"):
        path = ramp(tmp_path / f"clip.{ending}", 2.5, select="lt(n,30)+not(mod(n,7))")
        clip = read_clip(path, **GRAY16, fps=10)
        slots = np.arange(len(clip.video))[:, None] / 10
        nearest = np.abs(np.array(numbers) / 30 - slots).min(axis=1)
        assert len(clip.video) in (24, 25)
        assert np.abs(np.abs(seconds_of(clip.video) - slots[:, 0]) - nearest).max() < 0.011
        plain = read_clip(path, **GRAY16)
        assert "The clip's frame rate varies" in " ".join(plain.notes) and len(plain.video) < 40


def test_frames_are_repeated_where_the_clip_is_slower_and_the_note_says_so(tmp_path):
    path = ramp(tmp_path / "clip.mp4", 1, 10)
    clip = read_clip(path, **GRAY16, fps=30)
    assert len(clip.video) in (29, 30) and clip.source_frames == 10
    assert "The clip has 10 frames per second; frames are repeated to make 30." in clip.notes
    same = read_clip(path, **GRAY16, fps=10)
    assert torch.equal(same.video, read_clip(path, **GRAY16).video) and same.notes == ()


def test_time_begins_with_the_first_picture_and_one_picture_is_a_clip(tmp_path):
    ramp(tmp_path / "plain.mp4", 1)
    ffmpeg("-itsoffset", "0.43", "-i", tmp_path / "plain.mp4", "-c", "copy", "-copyts", tmp_path / "late.mkv")
    assert torch.equal(
        read_clip(tmp_path / "late.mkv", **GRAY16, fps=10).video,
        read_clip(tmp_path / "plain.mp4", **GRAY16, fps=10).video,
    )
    for ending in ("mp4", "gif", "mkv", "ts"):
        path = make(tmp_path / f"one.{ending}", "-frames:v 1" if ending == "gif" else f"{PLAIN} -frames:v 1")
        assert len(read_clip(path, **GRAY16, fps=10).video) == 1, ending


def test_a_resampled_clip_keeps_the_limits_on_frames_and_seconds(tmp_path):
    path = make(tmp_path / "clip.mkv", "-c:v mpeg4", "color=s=16x16:r=30:d=4")
    for fps, limits, frames, truncated in (
        (10, V.Limits(clip_seconds=3), 30, True), (10, V.Limits(frames=20), 20, True), (10, V.Limits(), 40, False),
    ):  # fmt: skip
        clip = read_clip(path, **GRAY16, fps=fps, limits=limits)
        assert (len(clip.video), clip.truncated) == (frames, truncated)
    assert len(read_clip(path, **GRAY16, fps=10, stride=2, max_frames=5).video) == 5
    for fps in (0, -1, float("nan"), 1e6):
        with pytest.raises(ValueError, match="fps"):
            read_clip(path, **GRAY16, fps=fps)


# ---- colours and fields ----------------------------------------------------------------------------------


def hdr(path, transfer: str):
    """RED, at the reference white of 203 cd/m2, as HDR of BT.2020."""
    linear = "zscale=t=linear:npl=203,format=gbrpf32le"
    coded = f"zscale=p=bt2020:t={transfer}:m=bt2020nc:r=tv:npl=203,format=yuv420p10le"
    tagged = "format=gbrp,setparams=colorspace=gbr:color_primaries=bt709:color_trc=bt709:range=pc"
    colours = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    make(path, f"{HEVC}:{colours} -vf {tagged},{linear},{coded}", "color=c=0xE61E1E:s=64x36:r=10:d=0.3")
    return path


def test_hdr_is_tone_mapped_to_what_the_standard_range_shows(tmp_path):
    for transfer, name in (("arib-std-b67", "HLG"), ("smpte2084", "PQ"), ("bt2020-10", None)):
        path = hdr(tmp_path / f"{transfer}.mov", transfer)
        for fit in ("crop", "pad"):
            clip = read_clip(path, size=16, channels=3, fit=fit)
            assert np.abs(V.to_uint8(clip.video)[:, 8, 8].astype(int) - RED).max() <= 15, (transfer, fit)
            assert len(clip.video) == 3
        note = "The clip is HDR" if name else "wider than an ordinary screen's"
        assert note in " ".join(clip.notes) and not re.search(r"BT\.|HLG|PQ", " ".join(clip.notes))
        assert (f"function {name}, tone-mapped" if name else "Colours of BT.2020") in " ".join(clip.details)
    assert read_clip(path, **GRAY16).video.std() < 0.01


def test_untagged_video_is_bt709_in_hd_and_bt601_in_sd(tmp_path):
    for size, matrix, name in (("320x240", "bt601", "BT.601"), ("1280x720", "bt709", "BT.709")):
        source = f"color=c=0xE61E1E:s={size}:r=10:d=0.2"
        options = f"-vf format=gbrp,scale=out_color_matrix={matrix},format=yuv420p -c:v libx264 -bsf:v h264_metadata="
        path = make(tmp_path / f"{size}.mp4", options + "matrix_coefficients=2", source)
        assert probe(path).colours == Colours()
        clip = read_clip(path, size=16, channels=3)
        assert np.abs(V.to_uint8(clip.video)[0, 8, 8].astype(int) - RED).max() <= 4, size
        assert clip.notes == ("The file does not say how it stores colours; they may look slightly off.",)
        assert f"read as {name}." in " ".join(clip.details)
        assert read_clip(path, **GRAY16).notes == ()  # gray needs no matrix
    tagged = f"{PLAIN} -vf scale=out_color_matrix=bt709 -colorspace bt709 -color_primaries bt709 -color_trc bt709"
    path = make(tmp_path / "tagged.mp4", tagged, "color=c=0xE61E1E:s=320x240:r=10:d=0.2")
    assert probe(path).colours.matrix == "bt709" and notes_of(path) == ""


def test_interlaced_fields_become_one_picture(tmp_path):
    # a bar that moves 8 pixels a field: woven fields make it a comb
    bar = "color=black:s=128x64:r=50:d=1[b];color=white:s=16x64:r=50:d=1[w];[b][w]overlay=x='8+2*n'"
    options = f"-vf interlace -flags +ildct+ilme -x264opts tff=1 {PLAIN}"
    path = make(tmp_path / "clip.MTS", f"{options} -f mpegts", bar)
    assert probe(path).interlaced
    clip = read_clip(path, size=64, channels=1)
    rows = V.to_uint8(clip.video)[5:20, 8:56, :, 0].astype(int)
    comb = np.abs(rows[:, 2:] + rows[:, :-2] - 2 * rows[:, 1:-1]).mean()
    assert comb < 2.5
    assert clip.source_frames == 25 and "come in halves" in " ".join(clip.notes)
    assert clip.details == ("Interlaced: two fields became one frame.",)
    assert not probe(make(tmp_path / "plain.mp4")).interlaced


@pytest.mark.parametrize(
    ("name", "options"), [("clip.mov", "-c:v qtrle -pix_fmt argb"), ("clip.webm", "-c:v libvpx-vp9 -pix_fmt yuva420p")]
)
def test_transparency_that_is_left_out_is_named(tmp_path, name, options):
    source = "color=c=red@0.3:s=64x64:r=10:d=0.5,format=rgba"
    assert "transparent parts" in notes_of(make(tmp_path / name, options, source), limits=OWN_FILES)
    opaque = make(tmp_path / f"opaque{name[4:]}", options.split(" -pix_fmt")[0] + " -pix_fmt " + (
        "rgb24" if "qtrle" in options else "yuv420p"))  # fmt: skip
    assert "transparent" not in notes_of(opaque, limits=OWN_FILES)


def test_of_several_video_streams_the_largest_is_read(tmp_path):
    small, large = (
        ("-f", "lavfi", "-i", "color=black:s=64x64:d=0.5"),
        ("-f", "lavfi", "-i", "color=white:s=128x96:d=0.5"),
    )
    for name, inputs in (("first", (*small, *large)), ("second", (*large, *small))):
        ffmpeg(*inputs, "-map", "0", "-map", "1", *PLAIN.split(), tmp_path / f"{name}.mp4")
        clip = read_clip(tmp_path / f"{name}.mp4", **GRAY16)
        assert clip.source_size == (128, 96) and clip.video.min() > 0.9, name
        assert "The file holds 2 videos; the largest, 128 x 96, was used." in clip.notes
    ffmpeg(*small, "-f", "lavfi", "-i", "color=white:s=4000x3000:r=1:d=1", "-map", "0", "-map", "1", *PLAIN.split(),
           "-preset", "ultrafast", tmp_path / "huge.mp4")  # fmt: skip
    assert read_clip(tmp_path / "huge.mp4", **GRAY16).source_size == (64, 64), "the larger one is beyond the limits"


# ---- damage ----------------------------------------------------------------------------------------------


def test_of_a_file_cut_short_a_note_says_how_much_could_be_read(tmp_path):
    sound = ("-f", "lavfi", "-i", "sine=d=4")
    for ending, options in {
        "mp4": f"{PLAIN} -movflags +faststart", "mov": f"{PLAIN} -movflags +faststart", "mkv": PLAIN,
        "webm": "-c:v libvpx -deadline realtime", "flv": "-c:v flv",
    }.items():  # fmt: skip
        for heard in (False, True):
            path = tmp_path / f"{heard}.{ending}"
            audio = ("-c:a", "libopus" if ending == "webm" else "aac") if heard else ()
            ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x96:r=25:d=4", *(sound if heard else ()), *options.split(),
                   *audio, path)  # fmt: skip
            assert "could be read" not in notes_of(path, limits=OWN_FILES), path.name
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            for rate in (None, 10):
                clip = read_clip(path, **GRAY16, fps=rate, limits=OWN_FILES)
                read, total = clip.notes[0].split(" frames could be read; the file is cut short")[0].split(" of ")
                assert abs(int(total) - 100) <= 1 and 20 < int(read) < 80, path.name
                assert abs(len(clip.video) / (rate or 25) - int(read) / 25) <= 0.2


def test_sound_that_lasts_longer_than_the_picture_is_no_damage(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x96:r=25:d=1", "-f", "lavfi", "-i", "sine=d=3", *PLAIN.split(),
           "-c:a", "aac", tmp_path / "clip.mp4")  # fmt: skip
    ffmpeg("-i", tmp_path / "clip.mp4", "-c", "copy", tmp_path / "clip.mkv")
    for ending in ("mp4", "mkv"):
        assert "could be read" not in notes_of(tmp_path / f"clip.{ending}")


def test_damage_in_the_middle_is_noted(tmp_path):
    for ending, options in {"mp4": PLAIN, "ts": f"{PLAIN} -f mpegts", "avi": "-c:v mpeg4", "mkv": PLAIN}.items():
        path = make(tmp_path / f"clip.{ending}", options, "testsrc2=s=160x120:r=25:d=4")
        data = bytearray(path.read_bytes())
        middle = slice(2 * len(data) // 5, 3 * len(data) // 5)
        data[middle] = bytes(len(data[middle]))
        path.write_bytes(data)
        assert re.search(r"damaged.* \d+ frames could be read|\d+ frames could be read.*damaged", notes_of(path)), (
            ending
        )


# ---- containers and codecs -------------------------------------------------------------------------------

OWN = {  # ending of the name: ffmpeg's options
    "ts": f"{PLAIN} -f mpegts", "mts": f"{PLAIN} -f mpegts", "m2ts": f"{PLAIN} -f mpegts -mpegts_m2ts_mode 1",
    "3gp": f"{PLAIN} -f 3gp", "h264": PLAIN, "hevc": f"-pix_fmt yuv420p {HEVC}", "ogv": "-c:v libtheora",
    "wmv": "-c:v wmv2", "flv": "-c:v flv", "mpg": "-c:v mpeg2video -r 25", "mov": "-c:v prores_ks",
    "mkv": "-c:v ffv1", "avi": "-c:v huffyuv",
}  # fmt: skip
SIZES = ("96x64", "64x96")
UPLOADS = ("ts", "mts", "m2ts", "3gp", "h264", "hevc", "ogv")


def test_files_of_ones_own_may_be_of_more_kinds_than_uploads(tmp_path):
    for ending, options in OWN.items():
        path = make(tmp_path / f"clip.{ending}", options, "testsrc2=s=128x96:r=25:d=0.8")
        clip = read_clip(path, **GRAY16, limits=OWN_FILES)
        assert len(clip.video) == 20 and clip.video.std() > 0.2, ending
        assert clip.fps == pytest.approx(25), ending
        assert f".{ending}" in V.VIDEO_ENDINGS
        if ending in UPLOADS:
            assert torch.equal(read_clip(path, **GRAY16).video, clip.video), ending
            assert f".{ending}" in V.UPLOAD_ENDINGS
        else:
            with pytest.raises(VideoError, match="is not supported; use"):
                read_clip(path, **GRAY16)


def test_a_stream_without_a_container_has_no_time_and_says_so(tmp_path):
    path = make(tmp_path / "clip.264", f"{PLAIN} -f h264", "testsrc2=s=64x64:r=25:d=1")
    assert "The file does not say how fast it plays; 25 frames per second were assumed." in notes_of(path)


def test_a_clip_whose_size_changes_says_so(tmp_path):
    parts = [make(tmp_path / f"{size}.264", f"{PLAIN} -f h264", f"testsrc2=s={size}:r=25:d=0.2") for size in SIZES]
    path = tmp_path / "both.264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    note = "The size of the picture changes within the clip; each frame was fitted by itself."
    assert note in notes_of(path) and note not in notes_of(parts[0])


def test_large_frames_are_read_from_ones_own_disk(tmp_path):
    for size in ("5760x3240", "5312x2988", "4096x2160"):
        path = make(tmp_path / f"{size}.mp4", f"{HEVC} -frames:v 2 -pix_fmt yuv420p", f"color=white:s={size}:r=30:d=1")
        clip = read_clip(path, **GRAY16, limits=OWN_FILES)
        assert "x".join(map(str, clip.source_size)) == size and clip.video.min() > 0.95
        with pytest.raises(VideoError, match=f"A frame is {size} pixels"):
            read_clip(path, **GRAY16)
