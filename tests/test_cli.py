"""The command line: the app's own frames, and one sentence for whatever cannot be."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stt.__main__ as cli
from stt.api import MAX_SEED
from stt.checkpoint import load, save, weights_hash
from stt.models.stt import STT
from stt.models.timesformer import TimeSformer
from stt.prediction import IMAGINED, predict
from stt.request import Request
from stt.tokenizer import FrameVQ
from stt.video import read_clip, read_metadata
from tests.conftest import TINY_CONFIGS, TINY_TOKENIZER
from tests.ui_fixtures import dreamer, filler, moving_dot, pusher

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, tiny, monkeypatch):
    """A working directory with a clip and a model."""
    monkeypatch.chdir(tmp_path)
    moving_dot(tmp_path / "dot.mp4", frames=7)
    save(tiny, tmp_path / "tiny.safetensors", card={"command": "python -m train.predictor", "hardware": "an abacus"})
    return tmp_path


def call(*words: object) -> int:
    return cli.main(["predict", "dot.mp4", "--model", "tiny.safetensors", *map(str, words)])


def made_by_the_app(name: str, path: Path, **settings) -> bytes:
    request = Request(clip=Path("dot.mp4"), model="tiny", **settings)
    *_, run = predict(request, load("tiny.safetensors"))
    run.write(name, path)
    return path.read_bytes()


# ---- what is written ---------------------------------------------------------------------------------------


def test_a_prediction_is_the_very_file_that_the_app_makes(here):
    flags = "--frames 3 --futures 2 --seed 7 --temperature 0.5 --prompt-frames 4 --fit pad --fps 5 --stride 1"
    assert call(*flags.split(), "--out", "made.mp4") == 0
    settings = {"frames": 3, "futures": 2, "seed": 7, "temperature": 0.5, "prompt_frames": 4, "fit": "pad", "fps": 5.0}
    expected = made_by_the_app("side-by-side.mp4", here / "app.mp4", **settings)
    assert (here / "made.mp4").read_bytes() == expected
    told = read_metadata(here / "made.mp4")
    assert {name: told[name] for name in settings} == settings
    assert (told["model"], told["weights"]) == ("tiny", weights_hash(here / "tiny.safetensors"))


def test_one_future_is_written_alone_after_its_clip(here):
    assert call("--frames", 2, "--futures", 1, "--seed", 3) == 0
    expected = made_by_the_app("future-1.mp4", here / "app.mp4", frames=2, futures=1, seed=3)
    assert (here / "dot-future.mp4").read_bytes() == expected
    assert len(read_clip(here / "dot-future.mp4", size=16, channels=1).video) == 6 + 2  # it looks back six frames


def test_each_writes_every_future_under_its_seed(here):
    assert call("--frames", 2, "--futures", 2, "--seed", MAX_SEED, "--out", "a.b.mp4", "--each") == 0
    assert {path.name for path in here.glob("a*")} == {"a.b.mp4", f"a.b-seed-{MAX_SEED}.mp4", "a.b-seed-0.mp4"}
    alone = made_by_the_app("future-1.mp4", here / "app.mp4", frames=2, futures=1, seed=0)
    assert (here / "a.b-seed-0.mp4").read_bytes() == alone


def test_a_model_without_chance_writes_its_one_future_however_many_are_asked(here, capsys):
    save(TimeSformer(TINY_CONFIGS["timesformer"]), here / "tiny.safetensors")
    assert call("--frames", 2, "--futures", 2, "--seed", 1, "--out", "a.mp4", "--each") == 0
    assert {path.name for path in here.glob("a*")} == {"a.mp4", "a-seed-1.mp4"}
    assert capsys.readouterr().out.startswith("wrote a.mp4, a-seed-1.mp4\nmean future\n")


@pytest.mark.parametrize(("words", "labels"), [("3", [3]), ("3,7", [3, 7]), ("any", [-1]), ("-1", [-1])])
def test_digits_can_be_imagined(here, capsys, words, labels):
    save(dreamer(), here / "tiny.safetensors")
    assert call("--frames", 2, "--futures", 1, "--seed", 3, "--labels", words, "--report", "r.json") == 0
    report = json.loads((here / "r.json").read_text())
    assert report["settings"]["labels"] == labels and report["imagined"]
    assert IMAGINED in capsys.readouterr().out
    assert call("--frames", 2, "--labels", "3,10") == 2
    assert "stt: Labels are 3, 10, but tiny takes up to 2 of 0 to 9, or -1 for any.\n" in capsys.readouterr().err


def test_a_gap_can_be_filled(here, capsys):
    save(filler(), here / "tiny.safetensors")
    assert (
        call("--frames", 2, "--futures", 1, "--seed", 3, "--prompt-frames", 3, "--between", "--report", "r.json") == 0
    )
    report = json.loads((here / "r.json").read_text())
    assert report["between"] and (report["used_frames"], report["ending_frames"]) == (3, 2)
    assert len(read_clip(here / "dot-future.mp4", size=16, channels=1).video) == 7
    assert read_metadata(here / "dot-future.mp4")["between"]
    capsys.readouterr()
    assert call("--frames", 6, "--between") == 2
    assert "stt: A gap of 6 needs a clip of at least 8 frames" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "action"), [("0.5,-1", [0.5, -1]), ("-1,.5", [-1, 0.5]), ("free", [])])
def test_an_action_can_be_given_even_one_that_begins_with_a_minus(here, capsys, words, action):
    save(pusher(), here / "tiny.safetensors")
    assert call("--frames", 2, "--futures", 1, "--seed", 3, "--action", words, "--report", "r.json") == 0
    report = json.loads((here / "r.json").read_text())
    assert report["settings"]["action"] == read_metadata(here / "dot-future.mp4")["action"] == action
    assert report["action"] == dict(zip(("push right", "push up"), action, strict=False))
    capsys.readouterr()
    assert call("--frames", 2, "--action", "-0.5") == 2
    assert "stt: Action is -0.5, but tiny takes 2 numbers (push right, push up).\n" in capsys.readouterr().err
    assert cli.main(["info", "tiny.safetensors"]) == 0
    assert re.search("^actions +push right, push up$", capsys.readouterr().out, flags=re.M)


@pytest.mark.parametrize("futures", [1, 2])
def test_the_name_may_ask_for_a_gif(here, futures):
    assert call("--frames", 2, "--futures", futures, "--out", "one.GIF", "--each", "--seed", 1) == 0
    assert (here / "one.GIF").read_bytes()[:4] == (here / "one-seed-1.GIF").read_bytes()[:4] == b"GIF8"


def test_it_ends_with_files_seeds_and_notes_and_shows_progress_on_one_line(here, capsys):
    assert call("--frames", 3, "--futures", 2, "--report", "r.json") == 0
    out, err = capsys.readouterr()
    report = json.loads((here / "r.json").read_text())
    first, second = report["seeds"]
    assert second == first + 1
    wrote = "wrote dot-future.mp4, r.json"
    assert out.splitlines() == [wrote, f"seed {first}, seed {second}", *report["notes"]]
    assert report["notes"]
    assert re.search(r"\rframe 2 of 3, \d+ ms each, about .* left *\r", err)
    assert "\n" not in err


def test_a_report_on_standard_output_stands_there_alone(here, capsys):
    assert call("--frames", 1, "--futures", 1, "--seed", 5, "--report", "-") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["settings"]["seed"] == 5
    assert "wrote dot-future.mp4\nseed 5\n" in err


def test_without_a_model_the_shipped_one_predicts(here, monkeypatch, capsys):
    monkeypatch.setattr(cli, "SHIPPED", here / "tiny.safetensors")
    assert cli.main(["predict", "dot.mp4", "--frames", "1"]) == 0
    monkeypatch.setattr(cli, "SHIPPED", here / "gone.safetensors")
    assert cli.main(["predict", "dot.mp4", "--frames", "1"]) == 2
    assert "give one by --model" in capsys.readouterr().err


def test_info_tells_what_a_model_is(here, capsys):
    (here / "runs/a").mkdir(parents=True)
    (here / "tiny.safetensors").rename(here / "runs/a/model.safetensors")
    assert cli.main(["info", "runs/a"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("a\n")
    said = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.split("\n\n")[1].splitlines())
    assert said["family"] == "stt"
    assert said["frames"] == "16 x 16, gray"
    assert said["settings that it honours"] == "temperature"
    assert said["weights"] == weights_hash(here / "runs/a/model.safetensors")
    assert "python -m train.predictor" in out
    assert "an abacus" in out


# ---- what cannot be ----------------------------------------------------------------------------------------

BAD = {
    "--frames 0": "Frames must be a whole number from 1 to 40, not 0.",
    "--frames 2.5": "Frames must be a whole number from 1 to 40, not 2.5.",
    "--frames many": "argument --frames: invalid number value: 'many'",
    "--futures 9": "Futures must be",
    "--seed -1": "Seed must be",
    "--temperature nan": "Temperature must be",
    "--top-p 0": "Top-p must be",
    "--fit zoom": "Fit must be one of crop, pad",
    "--labels seven": 'Labels must be up to 4 whole numbers from -1 (any) to 999, not "seven".',
    "--action up": 'Action must be up to 8 numbers from -1 to 1, or free, not "up".',
    "--action -2,0": 'Action must be up to 8 numbers from -1 to 1, or free, not "-2,0".',
    "--action 0.5,-1": "Action is 0.5, -1, but tiny takes none; leave it out.",
    "--between": "tiny only continues clips and fills no gaps",
    "--prompt-frames 8": "Frames used as prompt is 8, but the clip has 7",
    "--device abacus": "abacus is no device of this machine",
    "--device meta": "meta is no device of this machine",
    "--out future.avi": "future.avi: a video's name ends in .mp4 or .gif",
    "--out none/future.mp4": "none/future.mp4 cannot be written: No such file or directory",
    "--out dot.mp4": "dot.mp4 is the clip itself",
    "--out link.mp4": "link.mp4 is the clip itself",
    "--out folder.mp4": "folder.mp4 is a folder",
    "--report report.txt": "report.txt: a report's name ends in .json",
    "--report none/r.json": "none/r.json cannot be written",
    "--model nope.safetensors": "no model at nope.safetensors",
    "--model folder.mp4": "no model at folder.mp4",
    "--model dot.mp4": "dot.mp4 is not a readable safetensors file",
    "--model tokenizer.safetensors": "tokenizer.safetensors holds a FrameVQ, which predicts nothing by itself",
    "--unknown 1": "unrecognized arguments: --unknown 1",
}


@pytest.mark.parametrize("words", BAD)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(here, words, capsys):
    (here / "folder.mp4").mkdir()
    (here / "link.mp4").symlink_to("dot.mp4")
    save(FrameVQ(TINY_TOKENIZER), here / "tokenizer.safetensors")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert call(*words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split("\r")[-1].startswith(f"stt: {BAD[words]}")
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        ("gone.mp4", "gone.mp4: The file does not exist."),
        (".", ".: This is a folder, not a video file."),
        ("tiny.safetensors", "tiny.safetensors: The file is damaged or not a video"),
    ],
)
def test_a_clip_that_cannot_be_read_is_one_sentence(here, clip, said, capsys):
    assert cli.main(["predict", clip, "--model", "tiny.safetensors", "--out", "o.mp4"]) == 2
    assert f"stt: {said}" in capsys.readouterr().err
    assert not (here / "o.mp4").exists()


def stop(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("place", [(STT, "step"), (np, "stack"), ("stt.encode.os", "replace")], ids=str)
def test_an_interrupted_prediction_ends_quietly_and_leaves_no_file(here, monkeypatch, capsys, place):
    before = sorted(here.rglob("*"))
    monkeypatch.setattr(*([".".join(place)] if isinstance(place[0], str) else place), stop)
    assert call("--frames", 2) == 130
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    monkeypatch.undo()
    assert sorted(here.rglob("*")) == before


# ---- as people start it ------------------------------------------------------------------------------------


def test_alone_it_prints_help_and_it_never_imports_gradio():
    code = (
        "import sys; from stt.__main__ import main; status = main([]); "
        "sys.exit(status or any(name.split('.')[0] in ('gradio', 'huggingface_hub') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout and "info" in done.stdout


def test_the_module_runs_and_its_status_tells_of_failure(tmp_path):
    command = [sys.executable, "-m", "stt", "predict", str(tmp_path / "gone.mp4"), "--frames", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "stt: Frames must be a whole number from 1 to 40, not 0.\n"


def test_the_readmes_commands_are_understood():
    commands = re.findall(r"-m stt +([^`\n]+)", (ROOT / "README.md").read_text())
    assert commands
    for words in commands:
        assert cli.parser().parse_args(shlex.split(words)).command
