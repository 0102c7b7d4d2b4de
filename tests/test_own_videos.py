"""From a folder of one's own videos to a model that plays in the app."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import app as front_door
from stt.checkpoint import read_header
from stt.ui import server
from tests.own_videos import odd_files, odd_videos
from tests.page_fixtures import FakePage
from train import evaluate, pack_videos, predictor, publish, tokenizer
from train.cli import preset_of, training_parser
from train.datasets import open_dataset

ROOT = Path(__file__).parent.parent
SMALL = ["--batch=2", "--set=dim=32", "--set=depth=2", "--set=heads=2", "--set=gaussian_grid=(1, 2)"]
COMMANDS = ["train.pack_videos", "train.predictor", "train.plot", "train.evaluate", "train.publish", "app.py", "stt"]


def arrays(folder: Path, **more) -> Path:
    folder.mkdir(parents=True)
    for k in range(2):
        np.savez(folder / f"{k}.npz", video=np.full((10, 16, 16), 100 * k, np.uint8), **more)
    return folder


def dataset(name: str, *words):
    words = ["--preset", name, "--out", "x", "--device", "cpu", "--frames", "8", *map(str, words)]
    args = training_parser("train.predictor", "").parse_args(words)
    return open_dataset(preset_of(args), args, "train", "cpu")


def test_batches_hold_the_classes_and_actions_of_a_folder(tmp_path):
    for name in ("ant", "bee"):
        arrays(tmp_path / "classes" / name)
    batch = dataset("moving_mnist_one_digit/videogpt/cpu", "--data", tmp_path / "classes").batch(2, 0, 0)
    assert batch.video.shape == (2, 8, 1, 64, 64) and batch.labels.shape == (2, 1) and batch.actions is None
    car = arrays(tmp_path / "car", actions=np.zeros((10, 2)))
    batch = dataset("tabletop/stt/cpu", "--data", car).batch(2, 0, 0)
    assert batch.video.shape == (2, 8, 3, 64, 64) and batch.actions.shape == (2, 8, 2) and batch.labels is None


def test_flags_and_folders_that_do_not_suit_a_preset_are_refused(tmp_path):
    plain, stored, digits = arrays(tmp_path / "plain"), tmp_path / "stored", "moving_mnist/stt/cpu"
    np.save(tmp_path / "loose.npy", np.zeros((10, 16, 16), np.uint8))
    (stored / "train").mkdir(parents=True)
    (stored / "train" / "index.json").write_text(json.dumps({"format": 2, "per_shard": 2, "crf": 20}))
    for name, words, message in (
        (
            "moving_mnist_one_digit/videogpt/cpu",
            ["--data", plain],
            "takes 10 classes, .* no class sub-folders: add --set classes=0",
        ),
        (
            "moving_mnist_one_digit/videogpt/cpu",
            ["--data", tmp_path],
            r"takes 10 classes, .* no class sub-folders \(loose.npy lies beside plain/\): add --set classes=0",
        ),
        ("tabletop/stt/cpu", ["--data", plain], r'takes 2 actions, .* has no actions: add --set "actions=\(\)"'),
        ("moving_mnist/transframer/cpu", ["--data", plain], "learns maps of digits, .* has none"),
        (digits, ["--stride=2"], "--stride does not apply to the mixed clips"),
        (digits, ["--digits=1", "--data", tmp_path], "--digits does not apply to the folder clips"),
        (digits, ["--data", tmp_path / "nowhere"], "nowhere is not a folder"),
        (digits, ["--data", stored], "holds tabletop clips, but the preset moving_mnist/stt/cpu learns digits"),
    ):
        with pytest.raises(SystemExit, match=message):
            dataset(name, *words)


def opened_in_the_app(monkeypatch, words: list[str]) -> dict:
    """The models that `python app.py` shows, by their names there."""
    models = {}
    monkeypatch.setattr(server, "serve", lambda shown, *_, **__: models.update(shown))
    front_door.main([*words, "--device", "cpu"])
    return models


def plays(page: FakePage, clip: Path, **settings) -> None:
    """A prediction on the app's page, of what follows some frames of a clip."""
    result = page.predict(Path(shutil.copy(clip, page.uploads)), **{"frames": 2, "stride": 1, **settings})
    assert len(result.context) == 4 and result.futures.shape[:2] == (2, 2)


def without_encoder(text: str) -> str:
    """An account without the numbers of frames that depend on how ffmpeg's encoders fill a file, which is then cut."""
    return re.sub(r"\d+ of 120 frames|[\d,]+ of 13 sizes", "", text)


def test_a_folder_of_odd_files_is_packed_trained_on_scored_published_and_played(tmp_path, monkeypatch, capsys):
    odd, own = odd_files(tmp_path / "clips"), tmp_path / "own"
    pack_videos.main([str(odd), str(tmp_path / "set"), "--float-range", "0", "1"])
    account = capsys.readouterr().err
    account = account[account.index("  files ") : account.index("(white)", account.index("unit.npy: float32"))]
    assert without_encoder(account) in without_encoder((ROOT / "train" / "README.md").read_text()), account
    words = [f"--data={tmp_path / 'set'}", "--fps=10", "--steps=3", "--frames=6", "--device=cpu", "--batch=2"]
    small = ["--preset=videos/frame_vq/cpu", "--set=widths=(8, 16)", f"--out={tmp_path / 'tok'}"]
    tokenizer.main([*words, *small])
    predictor.main([*words, "--preset=videos/stt/cpu", f"--tokenizer={tmp_path / 'tok'}", f"--out={own}", *SMALL])
    files = ["--json", tmp_path / "own.json", "--sheet", tmp_path / "own.png"]
    few = ["--device=cpu", "--clips=2", "--futures=2", "--horizon=2", "--only", "best_of"]
    evaluate.main([f"--model={own}", f"--data={tmp_path / 'set'}", *few, *map(str, files)])
    scores = json.loads((tmp_path / "own.json").read_text())
    assert "held out, 10 frames a second" in scores["best_of"]["protocol"]
    assert scores["best_of"]["mean"]["psnr copy"] > 5
    publish.main([f"--model={own}", f"--out={own}.safetensors"])
    card = read_header(tmp_path / "own.safetensors")["card"]
    assert card["world"] == {"kind": "folder", "frames": 6, "fps": 10, "stride": 1, "fit": "crop", "flip": False}
    assert len(card["files"]["train"] + card["files"]["test"]) == 23 and "files" not in card["tokenizer"]
    models = opened_in_the_app(monkeypatch, ["--models", f"{own}.safetensors"])
    plays(FakePage(tmp_path / "app", models), odd / "b.MP4", model="own")


def documented_commands() -> list[list[str]]:
    """Those of the chapter on own videos, as words, except what goes to the Hub."""
    chapter = (ROOT / "train" / "README.md").read_text().split("## Your own videos\n")[1].split("\n## ")[0]
    lines = "".join(re.findall(r"```bash\n(.*?)```", chapter, flags=re.S)).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines if "--repo" not in line]
    return [command for command in words if command and Path(command[0]).name == "python"]


def test_the_chapter_on_own_videos_goes_from_a_folder_to_the_app():
    named = [words[1] if words[1] == "app.py" else words[2] for words in documented_commands()]
    assert set(COMMANDS) <= set(named)


@pytest.mark.slow
def test_the_commands_of_the_chapter_on_own_videos_work_on_twelve_odd_ones(tmp_path, monkeypatch):
    odd_videos(tmp_path / "clips", longer=8)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    few = {"train.predictor": ["--steps=3", "--log-every=1", *SMALL], "train.evaluate": ["--clips=2", "--futures=2"]}
    for _, *words in documented_commands():
        if words[0] == "app.py":
            models = opened_in_the_app(monkeypatch, words[1:])
            plays(FakePage(tmp_path / "app", models), tmp_path / "clips" / "b.MP4", model="own")
        else:
            subprocess.run([sys.executable, *words, *few.get(words[1], [])], check=True, timeout=600)
    assert {path.name for path in (tmp_path / "runs").iterdir()} >= {"own", "own.png", "own.json", "own-sheet.png"}
    assert (tmp_path / "future.mp4").stat().st_size > 1000
