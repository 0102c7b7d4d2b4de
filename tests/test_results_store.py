"""What predictions leave behind: runs that come back whole, and any of their files on demand."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from stt import results as module
from stt.models.stt import STT
from stt.request import Refused
from stt.results import FILE, NO_RUN, Result, Results
from stt.side_by_side import GUESSED, KNOWN
from stt.ui.server import load_runs
from stt.video import read_clip, read_metadata, to_uint8
from tests.conftest import TINY, lively
from tests.ui_fixtures import filler, moving_dot, run_of

STEMS = ("side-by-side", "future-1", "future-2", "future-3")
NAMES = [f"{stem}.{ending}" for stem in STEMS for ending in ("mp4", "gif")]
HOSTILE = [
    None, 3, "", "abc", ".", "..", "../..", "/etc", "a" * 65, "a/b/c/d", "run.npz", "nobody-knows-it", "a\0bcd", [], {},
    "%2e%2e", "....", "tiny\n", "𝔞𝔟𝔠𝔡",
]  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return moving_dot(tmp_path_factory.mktemp("clip") / "in.mp4", frames=7)


@pytest.fixture(scope="module")
def run(clip):
    """Five frames given, three futures of three frames, two of which are known."""
    model = lively(STT(TINY)).eval()
    model.weights = "tiny@1"
    return run_of(model, clip, prompt_frames=5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Results(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def kept(runs, run):
    return runs.put(run)


def assert_same(one: Result, two: Result) -> None:
    assert one.report == two.report
    for name in ("given", "futures", "truth", "surprise", "ending"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# ---- keeping ---------------------------------------------------------------------------------------------


def test_a_run_that_was_saved_comes_back_the_same(run, tmp_path):
    run.save(tmp_path / "a.npz")
    assert_same(Result.load(tmp_path / "a.npz"), run)
    bare = replace(run, truth=run.truth[:0], surprise=run.surprise[:0])
    bare.save(tmp_path / "b.npz")
    assert_same(Result.load(tmp_path / "b.npz"), bare)


def test_a_run_of_an_earlier_version_has_todays_settings(run, tmp_path):
    settings = {name: value for name, value in run.report["settings"].items() if name not in ("between", "action")}
    settings["steps"] = 2  # of a refiner
    report = {name: value for name, value in run.report.items() if name not in ("between", "ending_frames", "action")}
    arrays = {name: getattr(run, name) for name in ("given", "futures", "truth", "surprise")}
    np.savez(tmp_path / "old.npz", report=np.asarray(json.dumps(report | {"settings": settings})), **arrays)
    old = Result.load(tmp_path / "old.npz")
    assert old.report["between"] is old.report["settings"]["between"] is False
    assert (old.report["action"], old.report["settings"]["action"]) == ({}, [])
    assert old.report["settings"] == run.report["settings"]
    np.testing.assert_array_equal(old.alone(0), run.alone(0))
    np.testing.assert_array_equal(old.together(), run.together())


def test_a_kept_run_comes_back_under_its_id(runs, run, kept):
    name = kept.report["id"]
    assert kept.report == run.report | {"id": name} and "id" not in run.report
    assert_same(runs.get(name), kept)
    assert runs.put(run, "chosen-name").report["id"] == "chosen-name"
    assert_same(runs.get("chosen-name"), replace(run, report=run.report | {"id": "chosen-name"}))


def test_ids_cannot_be_guessed_and_always_pass(runs, run):
    names = {module.new_name() for _ in range(200)}
    assert len(names) == 200 and all(len(name) >= 16 for name in names)
    for name in names:
        with pytest.raises(Refused, match=NO_RUN):
            runs.get(name)


@pytest.mark.parametrize("name", HOSTILE, ids=lambda v: str(ascii(v))[:16])
def test_an_unknown_or_hostile_id_is_answered_with_one_sentence(runs, kept, name):
    for ask in (runs.get, lambda name: runs.file(name, "future-1.mp4")):
        with pytest.raises(Refused) as refusal:
            ask(name)
        assert str(refusal.value) == NO_RUN


def test_runs_outside_of_the_folder_are_out_of_reach(run, tmp_path):
    run.save(tmp_path / "secret" / FILE)
    runs = Results(tmp_path / "runs")
    runs.put(run)
    for name in ("../secret", "secret", str(tmp_path / "secret"), "..", "runs/../../secret"):
        with pytest.raises(Refused):
            runs.get(name)


def test_results_that_ship_with_the_app_are_there_and_a_broken_one_is_left_out(run, tmp_path, capsys):
    run.save(tmp_path / "two-rising.npz")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    (tmp_path / "half.npz").write_bytes((tmp_path / "two-rising.npz").read_bytes()[:999])
    np.savez(tmp_path / "other.npz", report=np.asarray("{}"))
    shipped = load_runs(sorted(tmp_path.glob("*.npz")))
    assert list(shipped) == ["two-rising"]
    complaints = capsys.readouterr().err
    assert all(name in complaints for name in ("broken.npz", "half.npz", "other.npz"))
    runs = Results(tmp_path / "runs", shipped)
    assert_same(runs.get("two-rising"), replace(run, report=run.report | {"id": "two-rising"}))
    path, title = runs.file("two-rising", "future-2.mp4")
    assert title == "tiny-seed-8.mp4" and read_metadata(path)["seed"] == 8


# ---- files -----------------------------------------------------------------------------------------------


def test_a_run_names_all_of_its_files(kept):
    assert kept.names == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_can_be_made_and_plays(runs, kept, name):
    path, _ = runs.file(kept.report["id"], name)
    clip = read_clip(path, size=16, channels=3)
    assert clip.source_frames == 5 + 3
    assert clip.fps == kept.fps == 10
    if name.startswith("side"):
        assert clip.source_size == kept.board.shape[::-1]
    else:
        future = kept.futures[int(name[7]) - 1]
        assert clip.source_size == (256, 256)
        shown = to_uint8(clip.video).astype(int)
        assert np.abs(shown - np.concatenate([kept.given, future])).max() <= 4


@pytest.mark.parametrize("name", NAMES)
def test_a_video_says_how_it_was_made_and_a_gif_cannot(runs, kept, clip, name):
    told = read_metadata(runs.file(kept.report["id"], name)[0])
    if name.endswith("gif"):
        assert told is None
        return
    alone = not name.startswith("side")
    asked = {"seed": 6 + int(name[7]), "futures": 1} if alone else {"seed": 7, "futures": 3}
    assert told == {
        "app": "stt", "model": "tiny", "frames": 3, "temperature": 1.0, "prompt_frames": 5, "top_k": 0, "top_p": 1.0,
        "stride": 1, "fit": "crop", "fps": 0.0, "labels": [], "between": False, "action": [], **asked,
        "family": "stt", "weights": "tiny@1",
        "clip": {"name": "in.mp4", "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}, "given": 5, "alone": alone,
    }  # fmt: skip


def test_side_by_side_all_futures_stand_at_the_same_moment_and_the_truth_goes_on_in_the_clips_place(kept):
    board, frames = kept.board, kept.together()
    assert frames.shape == (8, *board.shape, 3)

    def panel(moment: int, number: int) -> np.ndarray:
        y, x = (corner + 3 for corner in board.corner(number))
        side = 16 * board.factor
        return frames[moment, y : y + side : board.factor, x : x + side : board.factor]

    for t in range(8):
        clip = kept.given[t] if t < 5 else kept.truth[min(t - 5, 1)]  # where nothing is known it stands still
        np.testing.assert_array_equal(panel(t, 0), clip)
        for k in range(3):
            np.testing.assert_array_equal(panel(t, k + 1), kept.given[t] if t < 5 else kept.futures[k, t - 5])


def test_videos_of_a_filled_gap_go_on_with_the_clip(clip, tmp_path):
    run = run_of(filler(), clip, prompt_frames=2, between=True)  # of seven frames, three are missing
    alone, board, frames = run.alone(1)[:, ::16, ::16], run.board, run.together()
    np.testing.assert_array_equal(alone, np.concatenate([run.given, run.futures[1], run.ending]))
    assert len(frames) == len(alone) == 2 + 3 + 2
    corners = [tuple(frame[board.corner(1)]) for frame in frames]
    assert corners == [KNOWN] * 2 + [GUESSED] * 3 + [KNOWN] * 2
    for t, shown in enumerate([*run.given, *run.truth, *run.ending]):
        y, x = (corner + 3 for corner in board.corner(0))
        side = 16 * board.factor
        np.testing.assert_array_equal(frames[t, y : y + side : board.factor, x : x + side : board.factor], shown)


@pytest.mark.parametrize(
    "file",
    ["", "..", "../", "../x.mp4", "../../etc/passwd", "/etc/passwd", FILE,
     "future-0.mp4", "future-4.mp4", "future-9.mp4",
     "future--1.mp4", "future-1", "future-1.mkv", "future-1.mp4/", "side-by-side.webm",
     "FUTURE-1.MP4", "future-1.mp4 "],
)  # fmt: skip
def test_a_file_that_a_run_does_not_name_is_refused(runs, kept, file):
    before = sorted(runs.folder.rglob("*"))
    with pytest.raises(Refused, match=r"^There is no such file\.$"):
        runs.file(kept.report["id"], file)
    assert sorted(runs.folder.rglob("*")) == before


def test_a_download_is_called_after_its_model_and_seed(run, kept):
    titles = [kept.title(name) for name in ("side-by-side.mp4", "future-1.mp4", "future-3.gif")]
    assert titles == ["tiny-seeds-7-to-9-side-by-side.mp4", "tiny-seed-7.mp4", "tiny-seed-9.gif"]
    settings = run.report["settings"] | {"model": 'owner/a model@1 "\r\n../x'}
    strange = replace(run, report=run.report | {"settings": settings, "seeds": [4]})
    for name in ("side-by-side.mp4", "future-1.mp4"):
        assert not set(strange.title(name)) & set('/\\"\r\n ')


def test_two_runs_never_share_a_file(runs, run, kept):
    other = runs.put(replace(run, futures=255 - run.futures))
    assert other.report["id"] != kept.report["id"]
    for name in NAMES:
        (one, _), (two, _) = (runs.file(each.report["id"], name) for each in (kept, other))
        assert one != two and one.read_bytes() != two.read_bytes()


def test_a_file_is_made_once_even_when_many_ask_at_the_same_time(run, tmp_path, monkeypatch):
    made = []
    write = Result.write
    monkeypatch.setattr(Result, "write", lambda self, name, path: made.append(name) or write(self, name, path))
    runs = Results(tmp_path)
    name = runs.put(run).report["id"]
    assert not made  # before anybody asks
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda k: runs.file(name, NAMES[k % 2]), range(8)))
    assert sorted(made) == sorted(NAMES[:2])
    assert len(set(answers)) == 2 and all(path.stat().st_size for path, _ in answers)
