"""Files that are no videos, or hostile ones: each is a sentence, within the time and memory of the decoder."""

from __future__ import annotations

import random
import resource
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from stt import sandbox
from stt.encode import write_mp4
from stt.ffmpeg import LIMITS, VideoError
from stt.video import read_clip
from tests.attack.outcome import Outcome


def clips(folder: Path, mutants: int, seed: int) -> list[Path]:
    """Playlists and scripts that point elsewhere, wrong kinds of files, and a good clip with wrong bytes or cut off."""
    good = folder / "good.mp4"
    write_mp4(good, np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8), 10)
    data, chance = good.read_bytes(), random.Random(seed)
    contents = {
        "empty": b"", "a byte": b"x", "zeros": bytes(4096), "text": b"no video\n" * 99, "html": b"<html>" * 99,
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "network": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile good.mp4\n", "sdp": b"v=0\nm=video 9 RTP/AVP 96\nc=IN IP4 127.0.0.1\n",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(99), "zip": b"PK\3\4" + bytes(99), "svg": b"<svg xmlns='x'/>",
        "y4m bomb": b"YUV4MPEG2 W65000 H65000 F25:1\nFRAME\n", "pickle": b"\x80\4c__builtin__\nprint\n.",
    }  # fmt: skip
    for k in range(mutants):
        wrong = bytearray(data[: chance.choice((len(data), chance.randrange(1, len(data))))])
        for _ in range(chance.randint(1, 40)):
            wrong[chance.randrange(len(wrong))] = chance.randrange(256)
        contents[f"mutant {k}"] = bytes(wrong)
    files = []
    for name, content in contents.items():
        files.append(folder / f"{name.replace(' ', '-')}.mp4")
        files[-1].write_bytes(content)
    return files


def hostile_files(mutants: int = 184, seed: int = 0) -> Outcome:
    outcome, slowest = Outcome(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for path in clips(Path(folder), mutants, seed):
            since, failure = time.monotonic(), ""
            try:
                read_clip(path, size=32, channels=1)
            except VideoError as error:
                failure = "" if str(error).endswith(".") and "\n" not in str(error) else f"says {error}"
            except BaseException as error:
                failure = f"raises {type(error).__name__}"
            slowest = max(slowest, time.monotonic() - since)
            outcome.check(not failure and time.monotonic() - since < LIMITS.wall_seconds + 2, f"{path.stem}: {failure}")
    missing = sandbox.missing(imageio_ffmpeg.get_ffmpeg_exe())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    outcome.figure = f"the slowest {slowest:.1f} s, a child {memory:.0f} MB; {missing or 'sandboxed'}"
    return outcome
