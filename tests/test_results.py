"""Results that come back whole, and their videos on demand."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest

from stt import results as module
from stt.models.stt import STT
from stt.request import RequestError
from stt.results import ARRAYS, FILE, NO_RESULT, Result, ResultStore
from stt.side_by_side import CLIP, FUTURE, SideBySide
from stt.ui.server import load_results
from stt.video import read_clip, read_metadata, to_uint8
from tests.conftest import TINY, lively
from tests.ui_fixtures import gap_model, moving_dot, result_of

STEMS = ("side-by-side", "future-1", "future-2", "future-3")
NAMES = [f"{stem}.{ending}" for stem in STEMS for ending in ("mp4", "gif")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return moving_dot(tmp_path_factory.mktemp("clip") / "in.mp4", frames=7)


@pytest.fixture(scope="module")
def result(clip):
    """A context of five frames, three futures of three frames, a truth of two."""
    model = lively(STT(TINY)).eval()
    model.weights_hash = "tiny@1"
    return result_of(model, clip, prompt_frames=5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return ResultStore(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def stored(store, result):
    return store.put(result)


def assert_same(one: Result, two: Result) -> None:
    assert one.report == two.report
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def panel(frame: np.ndarray, layout: SideBySide, number: int) -> np.ndarray:
    """The pixels of one panel, at the model's size."""
    y, x = (corner + 3 for corner in layout.corner(number))
    height, width = layout.picture
    return frame[y : y + height : layout.factor, x : x + width : layout.factor]


# ---- saving ----------------------------------------------------------------------------------------------


def test_a_saved_result_comes_back_the_same(result, tmp_path):
    for name, one in {"a": result, "b": replace(result, truth=result.truth[:0], surprise=result.surprise[:0])}.items():
        one.save(tmp_path / f"{name}.npz")
        assert_same(Result.load(tmp_path / f"{name}.npz"), one)


def test_a_file_of_an_earlier_version_loads(result, tmp_path):
    settings = {name: value for name, value in result.report["settings"].items() if name not in ("between", "action")}
    report = {name: v for name, v in result.report.items() if name not in ("between", "ending_frames", "action")}
    report |= {"settings": settings | {"steps": 2}}
    arrays = {name: getattr(result, name) for name in ("futures", "truth", "surprise")} | {"given": result.context}
    np.savez(tmp_path / "old.npz", report=np.asarray(json.dumps(report)), **arrays)
    old = Result.load(tmp_path / "old.npz")
    new = {"between": False, "ending_frames": 0, "action": {}}
    assert old.report == report | new | {"settings": result.report["settings"]}
    np.testing.assert_array_equal(old.single(0), result.single(0))
    np.testing.assert_array_equal(old.side_by_side(), result.side_by_side())


def test_the_store_gives_a_result_back_under_its_id(store, result, stored):
    assert stored.report == result.report | {"id": stored.report["id"]} and "id" not in result.report
    assert_same(store.get(stored.report["id"]), stored)
    assert store.put(result, "chosen-name").report["id"] == "chosen-name"
    assert store.get("chosen-name").report["id"] == "chosen-name"


def test_unknown_and_hostile_ids_get_one_sentence(store, result, stored, tmp_path):
    names = {module.new_id() for _ in range(200)}  # well-formed, but nobody's
    assert len(names) == 200 and all(len(name) >= 16 for name in names)
    result.save(tmp_path / "secret" / FILE)
    inside = ResultStore(tmp_path / "results")
    inside.put(result)
    hostile = [
        None, 3, "", "abc", ".", "..", "../..", "/etc", "a" * 65, "a/b/c/d", FILE, "nobody", "a\0bcd", [], {}, "....",
        "%2e%2e", "tiny\n", "𝔞𝔟𝔠𝔡", "../secret", "secret", str(tmp_path / "secret"), "results/../../secret",
    ]  # fmt: skip
    for name in [*names, *hostile]:
        for get in (store.get, inside.get, lambda name: store.video(name, "future-1.mp4")):
            with pytest.raises(RequestError) as error:
                get(name)
            assert str(error.value) == NO_RESULT


def test_shipped_results_are_in_the_store_and_broken_files_are_left_out(result, tmp_path, capsys):
    result.save(tmp_path / "two-rising.npz")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    (tmp_path / "half.npz").write_bytes((tmp_path / "two-rising.npz").read_bytes()[:999])
    np.savez(tmp_path / "other.npz", report=np.asarray("{}"))
    shipped = load_results(sorted(tmp_path.glob("*.npz")))
    assert list(shipped) == ["two-rising"]
    complaints = capsys.readouterr().err
    assert all(name in complaints for name in ("broken.npz", "half.npz", "other.npz"))
    store = ResultStore(tmp_path / "results", shipped)
    assert_same(store.get("two-rising"), replace(result, report=result.report | {"id": "two-rising"}))
    path, title = store.video("two-rising", "future-2.mp4")
    assert title == "tiny-seed-8.mp4" and read_metadata(path)["seed"] == 8
    (tmp_path / "two-rising.npz").unlink()  # its frames are read when they are asked for
    with pytest.raises(RequestError, match=NO_RESULT):
        store.get("two-rising")


# ---- videos ----------------------------------------------------------------------------------------------


def test_every_video_plays_and_an_mp4_knows_its_settings(store, stored, clip):
    assert stored.names == [*NAMES, "futures.zip"]
    settings = {
        "app": "stt", "model": "tiny", "frames": 3, "temperature": 1.0, "prompt_frames": 5, "top_k": 0, "top_p": 1.0,
        "stride": 0, "fit": "auto", "fps": 0.0, "labels": [], "between": False, "action": [], "family": "stt",
        "weights": "tiny@1", "clip": {"name": "in.mp4", "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()},
        "context": 5, "id": stored.report["id"],
    }  # fmt: skip
    for name in NAMES:
        path, _ = store.video(stored.report["id"], name)
        video = read_clip(path, size=16, channels=3)
        assert (video.source_frames, video.fps) == (5 + 3, 10), name
        if together := name.startswith("side"):
            assert video.source_size == stored.layout.shape[::-1]
        else:
            assert video.source_size == (256, 256)
            expected = np.concatenate([stored.context, stored.futures[int(name[7]) - 1]])
            assert np.abs(to_uint8(video.video).astype(int) - expected).max() <= 4
        seed = {"seed": 7, "futures": 3} if together else {"seed": 6 + int(name[7]), "futures": 1}
        metadata = settings | seed | {"alone": not together}
        assert read_metadata(path) == (metadata if name.endswith("mp4") else None), name


def test_side_by_side_all_panels_show_the_same_time_and_the_truth_follows_the_clip(stored):
    layout, frames = stored.layout, stored.side_by_side()
    assert frames.shape == (8, *layout.shape, 3)
    for t in range(8):
        clip = stored.context[t] if t < 5 else stored.truth[min(t - 5, 1)]  # beyond the truth it stands still
        np.testing.assert_array_equal(panel(frames[t], layout, 0), clip)
        for k in range(3):
            expected = stored.context[t] if t < 5 else stored.futures[k, t - 5]
            np.testing.assert_array_equal(panel(frames[t], layout, k + 1), expected)


def test_videos_of_a_filled_gap_go_on_with_the_clip(clip):
    result = result_of(gap_model(), clip, prompt_frames=2, between=True)  # a gap of three in seven frames
    single, layout, frames = result.single(1)[:, ::16, ::16], result.layout, result.side_by_side()
    np.testing.assert_array_equal(single, np.concatenate([result.context, result.futures[1], result.ending]))
    assert len(frames) == len(single) == 2 + 3 + 2
    assert [tuple(frame[layout.corner(1)]) for frame in frames] == [CLIP] * 2 + [FUTURE] * 3 + [CLIP] * 2
    for t, expected in enumerate([*result.context, *result.truth, *result.ending]):
        np.testing.assert_array_equal(panel(frames[t], layout, 0), expected)


def test_a_layout_fits_the_screen_and_its_panels_do_not_overlap():
    for size in ((16, 16), (64, 64), (128, 128), (288, 512), (512, 288), (6, 512)):
        large = max(size) > 128
        for futures in range(1, 9):
            layout = SideBySide(size, tuple(f"seed {k}" for k in range(futures)), 5, 10)
            height, width = layout.shape
            assert height % 2 == width % 2 == 0 and width <= (1602 if large else 842)
            assert height <= (902 if large else 486) or layout.factor == 1
            covered = np.zeros(layout.shape, int)
            for number in range(futures + 1):
                y, x = layout.corner(number)
                covered[y : y + layout.cell[0], x : x + layout.cell[1]] += 1
            assert covered.max() == 1 and covered.sum() == (futures + 1) * np.prod(layout.cell), (size, futures)


def test_other_file_names_are_refused_and_make_nothing(store, stored):
    before = sorted(store.folder.rglob("*"))
    for file in (
        "", "..", "../", "../x.mp4", "../../etc/passwd", "/etc/passwd", FILE, "future-0.mp4", "future-4.mp4",
        "future--1.mp4", "future-1", "future-1.mkv", "future-1.mp4/", "side-by-side.webm", "FUTURE-1.MP4",
        "future-1.mp4 ",
    ):  # fmt: skip
        with pytest.raises(RequestError, match=r"^There is no such file\.$"):
            store.video(stored.report["id"], file)
    assert sorted(store.folder.rglob("*")) == before


def test_all_futures_come_as_one_zip(store, stored):
    path, title = store.video(stored.report["id"], "futures.zip")
    assert title == "tiny-seeds-7-to-9.zip"
    with ZipFile(path) as archive:
        assert archive.namelist() == [f"tiny-seed-{seed}.mp4" for seed in (7, 8, 9)]
        assert all(info.file_size > 500 for info in archive.infolist())


def test_a_download_is_named_after_its_model_and_seed(result, stored):
    titles = [stored.title(name) for name in ("side-by-side.mp4", "future-1.mp4", "future-3.gif")]
    assert titles == ["tiny-seeds-7-to-9-side-by-side.mp4", "tiny-seed-7.mp4", "tiny-seed-9.gif"]
    settings = result.report["settings"] | {"model": 'owner/a model@1 "\r\n../x'}
    strange = replace(result, report=result.report | {"settings": settings, "seeds": [4]})
    for name in ("side-by-side.mp4", "future-1.mp4"):
        assert not set(strange.title(name)) & set('/\\"\r\n ')


def test_a_video_is_written_once_even_for_many_readers(result, tmp_path, monkeypatch):
    written, write = [], Result.write
    monkeypatch.setattr(Result, "write", lambda self, name, path: written.append(name) or write(self, name, path))
    store = ResultStore(tmp_path)
    name, other = store.put(result).report["id"], store.put(replace(result, futures=255 - result.futures)).report["id"]
    assert name != other and not written  # before the first reader
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: store.video(name, NAMES[k % 2]), range(8)))
    assert sorted(written) == sorted(NAMES[:2])
    assert len(set(answers)) == 2 and all(path.stat().st_size for path, _ in answers)
    assert store.video(other, NAMES[0])[0].read_bytes() != store.video(name, NAMES[0])[0].read_bytes()
