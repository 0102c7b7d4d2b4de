"""What of a folder is trained on and what is held out, at which frame rate, with which classes and actions."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest

from stt.checkpoint import read_header
from stt.models.stt import STT, STTConfig
from tests.conftest import TINY
from tests.test_video_folder import arrays, counted, gray, numbers
from tests.video_fixtures import make
from train import predictor, publish, tokenizer
from train.data.splits import hashed
from train.data.video_folder import VideoFolderConfig
from train.evaluation.videos import held_out, trained_on
from train.pack_videos import main as pack_main

RAMP = "color=black:s=32x32:r={rate}:d={seconds},format=gray,geq=lum='20+40*T'"  # gray levels tell the time
LOSSLESS = "-c:v libx264 -qp 0 -pix_fmt gray"


def folders(root, *names: str, frames: int = 10):
    """A file in each of some folders, whose gray says which folder it is in."""
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True, exist_ok=True)
        np.save(root / name / f"{k}.npy", counted(frames, 40 * k))
    return root


def held_out_of(folder) -> set[str]:
    return set(gray(folder, "test").names["test"])


# ---- splits ------------------------------------------------------------------------------------------


def test_split_folders_are_known_by_their_usual_names_in_any_case(tmp_path):
    for k, (train, test) in enumerate((("Train", "Test"), ("TRAINING", "testing"), ("train", "val"),
                                       ("train", "Valid"), ("train", "validation"), ("train", "dev"),
                                       ("train_videos", "Test Set"), ("training", "holdout"))):  # fmt: skip
        folder = folders(tmp_path / str(k), train, test)
        assert numbers(gray(folder).batch(8, 0, 0).video).max() < 40, train
        assert numbers(gray(folder, "test").batch(8, 0, 0).video).min() >= 40, test
        assert (
            f"by sub-folders: {train}/ trained on, {test}/ held out; 1 to train on, 1 held out"
            in gray(folder).account.text()
        )
        assert gray(folder).classes == ()


def test_folders_around_and_inside_a_split_are_seen_through(tmp_path):
    for k, (names, classes) in enumerate((
        (("all/train", "all/test"), ()), (("all/Train/ant", "all/Train/bee", "all/test/ant"), ("ant", "bee")),
        (("ant/train", "ant/test", "bee/train", "bee/test"), ("ant", "bee")),
    )):  # fmt: skip
        videos = gray(folders(tmp_path / str(k), *names))
        assert videos.classes == classes, names
        assert all("train" in name.lower() for name in videos.names["train"]), names
        assert all("test" in name for name in videos.names["test"]), names
    videos = gray(folders(tmp_path / "x", "DCIM/100APPLE", "DCIM/101APPLE"))
    assert videos.classes == ("100APPLE", "101APPLE")
    (tmp_path / "z" / "only").mkdir(parents=True)
    for name in ("a", "b"):
        np.save(tmp_path / "z" / "only" / f"{name}.npy", counted(10))
    assert gray(tmp_path / "z").classes == ()  # one folder around all is no class


def test_what_lies_outside_the_split_is_named(tmp_path):
    folder = folders(tmp_path, "train", "test", "valid", "extra")
    np.save(tmp_path / "loose.npy", counted(10, 200))
    videos = gray(folder)
    assert videos.names == {"train": ["train/0.npy"], "test": ["test/1.npy"]}
    assert videos.account.passed_over == {
        "valid/2.npy": "valid/ is used for nothing beside train/ and test/",
        "extra/3.npy": "outside train/ and test/",
        "loose.npy": "outside train/ and test/",
    }


def test_a_folder_of_test_clips_alone_can_be_scored_and_packed_but_not_trained_on(tmp_path):
    folder = folders(tmp_path / "clips", "Test")
    assert len(gray(folder, "test").held_out(2).video) == 2
    with pytest.raises(ValueError, match="Test/ held out: it can be scored, but to train it needs a sub-folder train/"):
        gray(folder)
    pack_main([str(folder), str(tmp_path / "set"), "--size=16", "--channels=1"])
    assert len(gray(tmp_path / "set", "test").held_out(2).video) == 2


def test_a_split_is_kept_when_the_folder_grows_and_when_it_is_packed(tmp_path):
    folder = arrays(tmp_path / "clips", 20)
    before = held_out_of(folder)
    arrays(folder, 40)
    after = held_out_of(folder)
    new = {f"{k:02d}.npy" for k in range(20, 40)}
    assert len(before) == 2 and after - new == before and len(after) == 4
    assert set(json.loads((folder / ".stt-split.json").read_text())) == {f"{k:02d}.npy" for k in range(40)}
    pack_main([str(folder), str(tmp_path / "set"), "--size=16", "--channels=1"])
    assert held_out_of(tmp_path / "set") == after
    for name in after:
        (folder / name).unlink()
    with pytest.raises(ValueError, match="all 36 of its files were trained on before, none is held out: add others"):
        gray(folder)
    arrays(folder, 60)
    assert held_out_of(folder) >= after and len(held_out_of(folder) - after) > 0  # those that came back, and new ones
    (folder / ".stt-split.json").write_text('{"00.npy": "tr')
    with pytest.raises(ValueError, match=r"stt-split.json cannot be read .*: mend it, or delete it to split anew"):
        gray(folder)
    (folder / ".stt-split.json").write_text('{"00.npy": "Test"}')
    with pytest.raises(ValueError, match=r"00.npy is 'Test', must be train or test"):
        gray(folder)


def test_a_split_is_kept_when_a_folder_becomes_read_only_and_back(tmp_path, monkeypatch):
    monkeypatch.setenv("STT_CACHE", str(tmp_path / "cache"))
    folder = arrays(tmp_path / "clips", 20)
    before = held_out_of(folder)
    for mode, files in ((0o555, 40), (0o755, 60), (0o555, 80)):
        folder.chmod(0o755)
        arrays(folder, files)
        folder.chmod(mode)
        after = held_out_of(folder)
        assert after & {f"{k:02d}.npy" for k in range(files - 20)} == before and len(after) > len(before), files
        before = after


def test_a_card_names_the_files_and_scoring_tells_which_of_them_were_trained_on(tmp_path, capsys):
    folder = arrays(tmp_path / "clips", 12)
    words = ["--preset=videos/frame_vq/cpu", "--steps=1", "--batch=2", "--device=cpu", "--set=widths=(8, 16)"]
    tokenizer.main([*words, "--set=image_size=16", "--set=channels=1", f"--data={folder}", f"--out={tmp_path / 'tok'}"])
    card = read_header(tmp_path / "tok" / "model.safetensors")["card"]
    assert card["files"] == gray(folder).names and len(card["files"]["test"]) == 1
    args = argparse.Namespace(
        data=folder, horizon=2, clips=9, device="cpu", layout="", float_range=None, int_range=None
    )
    model = STT(STTConfig.from_dict(TINY.to_dict()))
    published = publish.portable_card(card)
    assert published == publish.portable_card(published) and card["files"]["train"][0] not in json.dumps(published)
    model.card = {"tokenizer": card}
    assert "trained on" not in held_out(model, VideoFolderConfig(), args)[1]
    (folder / ".stt-split.json").unlink()  # the folder is split anew, with others
    (folder / card["files"]["test"][0]).unlink()
    for model.card in ({"tokenizer": card}, published):
        capsys.readouterr()
        source = held_out(model, VideoFolderConfig(), args)[1]
        assert "1 of 1 files trained on" in source
        assert "has trained on files of these names, which" in capsys.readouterr().err
    for trained, names, hits in (
        (["a.npz#0", "b"], ["a.npz#1", "c"], []), (["a.npz#0"], ["a.npz"], ["a.npz"]),
        (["a.npz"], ["a.npz#1"], ["a.npz#1"]), (["a.npz#1"], ["a.npz#1"], ["a.npz#1"]),
    ):  # fmt: skip
        for files in (trained, [hashed(name) for name in trained]):
            assert trained_on({"files": {"train": files}}, names) == hits, (files, names)


# ---- classes and actions -----------------------------------------------------------------------------


def test_a_loose_file_beside_class_folders_leaves_no_classes_and_is_named(tmp_path):
    folder = folders(tmp_path, "cat", "dog")
    assert gray(folder).classes == ("cat", "dog")
    np.save(tmp_path / "loose.npy", counted(10, 200))
    assert gray(folder).classes == ()
    assert "classes  none: loose.npy lies beside cat/, dog/" in gray(folder).account.text()


def test_actions_in_degrees_or_not_finite_stop_before_training(tmp_path):
    words = ["--preset=videos/stt/cpu", "--set=actions=('turn',)", "--steps=1", "--device=cpu", "--frames=4"]
    for k, (actions, message) in enumerate((
        (np.linspace(-30, 30, 20)[:, None], "0.npz: actions go from -30 to 30"),
        (np.full((20, 1), np.nan), "0.npz: actions are not all finite"),
    )):  # fmt: skip
        folder = tmp_path / str(k)
        folder.mkdir()
        for n in range(2):
            np.savez(folder / f"{n}.npz", video=counted(20), actions=actions if n == 0 else np.zeros((20, 1)))
        with pytest.raises(ValueError, match=rf"takes actions from -1 to 1:\n  {message}"):
            gray(folder).check_actions()
        with pytest.raises(SystemExit, match=message):
            predictor.main([*words, f"--data={folder}", f"--out={tmp_path / 'run'}"])
        assert not (tmp_path / "run" / "tokenizer").exists()
        assert "a model takes -1 to 1" in gray(folder).account.actions
    np.savez(tmp_path / "0" / "2.npz", video=counted(20))
    assert gray(tmp_path / "0").account.actions == "none: 1 file lacks them, such as 2.npz"


# ---- frame rates -------------------------------------------------------------------------------------


def speeds(videos) -> np.ndarray:
    """Gray levels from frame to frame of clips whose gray tells the time."""
    return np.concatenate([np.diff(numbers(videos.batch(16, 0, k).video)) for k in range(4)])


def test_slow_motion_and_other_rates_are_resampled_by_time_to_the_median_rate(tmp_path):
    for name, rate, seconds in (("a.mp4", 30, 4), ("b.mp4", 30, 4), ("slow.mov", 240, 4), ("film.mkv", 24, 4)):
        make(tmp_path / name, LOSSLESS, RAMP.format(rate=rate, seconds=seconds))
    videos = gray(tmp_path, frames=16)
    assert videos.fps == 30 and speeds(videos).min() >= 0 and speeds(videos).max() <= 3  # 40/30 levels a frame
    tenth = gray(tmp_path, frames=8, fps=10)
    assert set(np.unique(speeds(tenth))) <= {3, 4, 5} and abs(speeds(tenth).mean() - 4) < 0.05
    assert gray(tmp_path, frames=8, stride=3).fps == 10
    text = tenth.account.text()
    assert "rates    24 to 240 frames a second, median 30" in text
    assert "at 10 frames a second; 4 of 4 files have other rates and are resampled" in text
    assert gray(tmp_path, frames=4, fps=60).account.slower == ["a.mp4", "b.mp4", "film.mkv"]


def test_a_rate_of_29_97_counts_as_30(tmp_path):
    for name, rate in (("a.mp4", 30), ("b.mp4", 30), ("ntsc.mp4", "30000/1001")):
        make(tmp_path / name, LOSSLESS, RAMP.format(rate=rate, seconds=2))
    assert gray(tmp_path).account.resampled == []


def test_a_variable_rate_is_resampled_by_timestamps(tmp_path):
    source = RAMP.format(rate=60, seconds=4) + ",select='if(lt(t,2),not(mod(n,2)),not(mod(n,6)))'"
    for name in ("a.mp4", "b.mkv"):
        make(tmp_path / name, f"-fps_mode vfr {LOSSLESS}", source)  # 30 frames a second, then 10
    videos = gray(tmp_path, frames=5, fps=5)
    assert abs(speeds(videos).mean() - 8) < 0.2 and set(np.unique(speeds(videos))) <= {6, 7, 8, 9, 10}
    assert any("varies" in note for note in videos.account.notes["a.mp4"])


def test_a_packed_set_keeps_the_rates_and_may_store_fewer_frames(tmp_path):
    for name, rate in (("a.mp4", 30), ("b.mp4", 30), ("slow.mov", 120)):
        make(tmp_path / "clips" / name if (tmp_path / "clips").mkdir(exist_ok=True) is None else "", LOSSLESS,
             RAMP.format(rate=rate, seconds=3))  # fmt: skip
    expected = gray(tmp_path / "clips", frames=6, fps=10)
    for name, words, frames in (("all", [], 540), ("few", ["--fps=10"], 90)):
        pack_main([str(tmp_path / "clips"), str(tmp_path / name), "--size=16", "--channels=1", *words])
        packed = gray(tmp_path / name, frames=6, fps=10)
        assert packed.account.frames == frames and packed.names == expected.names, name
        assert abs(speeds(packed).mean() - 4) < 0.05, name
    assert gray(tmp_path / "all", frames=6).fps == 30 and gray(tmp_path / "few", frames=6).fps == 10
    index = json.loads((tmp_path / "all" / "index.json").read_text())
    rows = [row[:5] for row in index["recordings"]]  # as the first format had them
    (tmp_path / "all" / "index.json").write_text(json.dumps(index | {"format": 1, "recordings": rows}))
    assert gray(tmp_path / "all", frames=6, stride=3).fps == 0


def test_the_rate_is_in_the_card_and_stays_in_a_published_one(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        make(tmp_path / "clips" / name if (tmp_path / "clips").mkdir(exist_ok=True) is None else "", LOSSLESS,
             RAMP.format(rate=30, seconds=2))  # fmt: skip
    words = ["--preset=videos/frame_vq/cpu", "--steps=1", "--batch=2", "--device=cpu", "--set=widths=(8, 16)"]
    words += ["--set=image_size=16", f"--data={tmp_path / 'clips'}"]
    for flags, rate in ((["--fps=10"], 10), (["--stride=2"], 15), ([], 30)):
        out = tmp_path / f"run{rate}"
        tokenizer.main([*words, *flags, f"--out={out}"])
        publish.main([f"--model={out}", f"--out={out}.safetensors"])
        assert read_header(out.with_suffix(".safetensors"))["card"]["world"]["fps"] == rate, flags
    with pytest.raises(SystemExit, match="--fps says the rate by itself, and so does --stride"):
        tokenizer.main([*words, "--fps=10", "--stride=2", f"--out={tmp_path / 'both'}"])


# ---- files of one's own ------------------------------------------------------------------------------


def test_containers_and_codecs_of_cameras_and_editors_are_read(tmp_path):
    plain = "-pix_fmt yuv420p"
    for name, options in {
        "dashcam.ts": f"{plain} -c:v libx264", "camcorder.MTS": f"{plain} -c:v libx264 -f mpegts",
        "disc.m2ts": f"{plain} -c:v libx264 -f mpegts", "phone.3gp": f"{plain} -c:v libx264",
        "old.wmv": f"{plain} -c:v wmv2", "dvd.mpg": f"{plain} -c:v mpeg2video -r 25", "web.flv": f"{plain} -c:v flv",
        "free.ogv": f"{plain} -c:v libtheora", "raw.h264": f"{plain} -c:v libx264", "cut.mov": "-c:v prores_ks",
        "archive.mkv": "-c:v ffv1", "editor.avi": "-c:v huffyuv -pix_fmt yuv422p", "UPPER.MOV": f"{plain} -c:v libx264",
    }.items():  # fmt: skip
        make(tmp_path / name, options, "testsrc2=s=64x48:r=25:d=0.6")
    make(tmp_path / "action.mp4", f"{plain} -c:v libx264 -preset ultrafast", "color=gray:s=5312x2988:r=25:d=0.24")
    account = gray(tmp_path, frames=5).account
    assert account.files == 14 and not account.passed_over, account.text()
    assert account.sizes == {"64x48": 13, "5312x2988": 1}


def test_a_file_that_is_cut_short_is_used_as_far_as_it_goes_and_named(tmp_path):
    for name in ("a.mp4", "b.mp4", "cut.mp4"):
        make(tmp_path / name, "-pix_fmt yuv420p -c:v libx264 -g 10 -movflags +faststart", "testsrc2=s=64x48:r=30:d=4")
    data = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    videos = gray(tmp_path)
    assert videos.account.files == 3
    [note] = [note for note in videos.account.notes["cut.mp4"] if "could be read" in note]
    assert " of 120 frames could be read" in note and note in videos.account.text()
