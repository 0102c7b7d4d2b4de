"""The command line: the videos of the app, and one sentence for every error."""

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
from stt import default_model
from stt.api import MAX_SEED
from stt.checkpoint import load, save, weights_hash
from stt.models.stt import STT
from stt.models.timesformer import TimeSformer
from stt.prediction import predict
from stt.report import IMAGINED
from stt.request import Request
from stt.tokenizer import FrameVQ
from stt.video import read_clip, read_metadata
from tests.conftest import TINY_CONFIGS, TINY_TOKENIZER
from tests.ui_fixtures import action_model, class_model, gap_model, moving_dot
from tests.video_fixtures import make

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


def report_of(*words: object) -> dict:
    """The report of two frames of one future."""
    assert call("--frames", 2, "--futures", 1, "--seed", 3, "--report", "r.json", *words) == 0
    return json.loads(Path("r.json").read_text())


def made_by_the_app(name: str, path: Path, **settings) -> bytes:
    *_, result = predict(Request(clip=Path("dot.mp4"), model="tiny", **settings), load("tiny.safetensors"))
    result.write(name, path)
    return path.read_bytes()


# ---- what is written ---------------------------------------------------------------------------------------


def test_a_prediction_writes_the_same_videos_as_the_app(here):
    flags = "--frames 3 --futures 2 --seed 7 --temperature 0.5 --prompt-frames 4 --fit pad --fps 5 --stride 1"
    assert call(*flags.split(), "--out", "made.mp4") == 0
    settings = {"frames": 3, "futures": 2, "seed": 7, "temperature": 0.5, "prompt_frames": 4, "fit": "pad", "fps": 5.0}
    settings["stride"] = 1
    assert (here / "made.mp4").read_bytes() == made_by_the_app("side-by-side.mp4", here / "app.mp4", **settings)
    metadata = read_metadata(here / "made.mp4")
    assert {name: metadata[name] for name in settings} == settings
    assert (metadata["model"], metadata["weights"]) == ("tiny", weights_hash(here / "tiny.safetensors"))

    assert call("--frames", 2, "--futures", 1, "--seed", 3) == 0  # one future: after its clip
    alone = made_by_the_app("future-1.mp4", here / "app.mp4", frames=2, futures=1, seed=3)
    assert (here / "dot-future.mp4").read_bytes() == alone
    assert len(read_clip(here / "dot-future.mp4", size=16, channels=1).video) == 6 + 2  # it looks back six frames


def test_each_writes_every_future_under_its_seed(here):
    assert call("--frames", 2, "--futures", 2, "--seed", MAX_SEED, "--out", "a.b.mp4", "--each") == 0
    assert {path.name for path in here.glob("a*")} == {"a.b.mp4", f"a.b-seed-{MAX_SEED}.mp4", "a.b-seed-0.mp4"}
    alone = made_by_the_app("future-1.mp4", here / "app.mp4", frames=2, futures=1, seed=0)
    assert (here / "a.b-seed-0.mp4").read_bytes() == alone
    for futures in (1, 2):
        assert call("--frames", 2, "--futures", futures, "--out", "one.GIF", "--each", "--seed", 1) == 0
        assert (here / "one.GIF").read_bytes()[:4] == (here / "one-seed-1.GIF").read_bytes()[:4] == b"GIF8"


def test_a_model_without_chance_writes_its_one_future(here, capsys):
    save(TimeSformer(TINY_CONFIGS["timesformer"]), here / "tiny.safetensors")
    assert call("--frames", 2, "--futures", 2, "--seed", 1, "--out", "a.mp4", "--each") == 0
    assert {path.name for path in here.glob("a*")} == {"a.mp4", "a-seed-1.mp4"}
    assert capsys.readouterr().out.startswith("wrote a.mp4, a-seed-1.mp4\nonly future\n")


def test_labels_a_gap_and_an_action_reach_the_model(here, capsys):
    save(class_model(), here / "tiny.safetensors")
    for words, labels in (("3,7", [3, 7]), ("any", [-1]), ("-1", [-1])):
        report = report_of("--labels", words)
        assert report["settings"]["labels"] == labels and report["imagined"]
        assert IMAGINED in capsys.readouterr().out

    save(gap_model(), here / "tiny.safetensors")
    report = report_of("--prompt-frames", 3, "--between")
    assert report["between"] and (report["used_frames"], report["ending_frames"]) == (3, 2)
    assert len(read_clip(here / "dot-future.mp4", size=16, channels=1).video) == 7
    assert read_metadata(here / "dot-future.mp4")["between"]

    save(action_model(), here / "tiny.safetensors")
    for words, action in (("0.5,-1", [0.5, -1]), ("-1,.5", [-1, 0.5]), ("free", [])):
        report = report_of("--action", words)
        assert report["settings"]["action"] == read_metadata(here / "dot-future.mp4")["action"] == action
        assert report["action"] == dict(zip(("push right", "push up"), action, strict=False))
    capsys.readouterr()
    assert cli.main(["info", "tiny.safetensors"]) == 0
    assert re.search("^actions +push right, push up$", capsys.readouterr().out, flags=re.M)


def test_the_page_s_limits_do_not_bind_the_command_line(here):
    report = report_of("--temperature", "2.5", "--top-k", 2000)
    assert (report["settings"]["temperature"], report["settings"]["top_k"]) == (2.5, 2000)
    assert call("--frames", 41, "--futures", 9, "--seed", 1, "--report", "r.json") == 0
    report = json.loads((here / "r.json").read_text())
    assert (report["predicted_frames"], len(report["seeds"])) == (41, 9)


def test_it_prints_files_seeds_and_notes_and_shows_progress_on_one_line(here, capsys):
    assert call("--frames", 3, "--futures", 2, "--prompt-frames", 1, "--report", "r.json") == 0
    out, err = capsys.readouterr()
    report = json.loads((here / "r.json").read_text())
    first, second = report["seeds"]
    assert second == first + 1 and report["notes"]
    assert out.splitlines() == ["wrote dot-future.mp4, r.json", f"seed {first}, seed {second}", *report["notes"]]
    assert re.search(r"\rpredicted 2 of 3, \d+ ms each, about .* left *\r", err) and "\n" not in err
    assert call("--frames", 1, "--futures", 1, "--seed", 5, "--report", "-") == 0  # the report alone on stdout
    out, err = capsys.readouterr()
    assert json.loads(out)["settings"]["seed"] == 5 and "wrote dot-future.mp4\nseed 5\n" in err


def test_without_a_model_the_default_one_predicts(here, monkeypatch, capsys):
    monkeypatch.setattr(default_model, "FOLDERS", (here / "none", here))
    monkeypatch.setattr(default_model, "NAME", "tiny.safetensors")
    assert cli.main(["predict", "dot.mp4", "--frames", "1"]) == 0
    (here / "tiny.safetensors").unlink()
    assert cli.main(["predict", "dot.mp4", "--frames", "1"]) == 2
    assert capsys.readouterr().err.endswith(
        "stt: the default model tiny.safetensors is not installed; choose a model with --model\n"
    )


def test_info_describes_a_model(here, capsys):
    (here / "runs/a").mkdir(parents=True)
    (here / "tiny.safetensors").rename(here / "runs/a/model.safetensors")
    assert cli.main(["info", "runs/a"]) == 0
    out = capsys.readouterr().out
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.split("\n\n")[1].splitlines())
    weights = weights_hash(here / "runs/a/model.safetensors")
    expected = {"family": "stt", "frames": "16 x 16, gray", "settings": "temperature", "weights": weights}
    assert out.startswith("a\n") and rows.items() >= expected.items()
    assert "python -m train.predictor" in out and "an abacus" in out


# ---- errors ------------------------------------------------------------------------------------------------

BAD = {
    "--frames 0": "Frames must be a whole number of at least 1, not 0.",
    "--frames 2.5": "Frames must be a whole number of at least 1, not 2.5.",
    "--frames many": "argument --frames: invalid number value: 'many'",
    "--seed -1": "Seed must be",
    "--temperature nan": "Temperature must be",
    "--top-p 0": "Top-p must be",
    "--fit zoom": "Fit must be one of auto, crop, pad",
    "--labels seven": 'Labels must be whole numbers from -1 (any) up, not "seven".',
    "--action up": 'Action must be numbers from -1 to 1, or free, not "up".',
    "--action -2,0": 'Action must be numbers from -1 to 1, or free, not "-2,0".',
    "--action 0.5,-1": "Action is 0.5, -1, but tiny takes no action.",
    "--between": "tiny only continues clips; it cannot fill a gap.",
    "--prompt-frames 8": "Prompt frames is 8, but the clip has 7",
    "--device abacus": "This machine has no device abacus",
    "--device meta": "This machine has no device meta",
    "--device cuda:77": "This machine has no device cuda:77",
    "--out future.avi": "future.avi: a video's name ends in .mp4 or .gif",
    "--out none/future.mp4": "none/future.mp4 cannot be written: No such file or directory",
    "--out dot.mp4": "dot.mp4 is the clip itself",
    "--out link.mp4": "link.mp4 is the clip itself",
    "--out folder.mp4": "folder.mp4 is a folder",
    "--report report.txt": "report.txt: a report's name ends in .json",
    "--report none/r.json": "none/r.json cannot be written",
    "--report dot.mp4/r.json": "dot.mp4/r.json cannot be written: Not a directory",
    "--model nope.safetensors": "no model at nope.safetensors",
    "--model folder.mp4": "no model at folder.mp4",
    "--model dot.mp4": "dot.mp4 is not a readable safetensors file",
    "--model tokenizer.safetensors": "tokenizer.safetensors holds a FrameVQ, which predicts nothing by itself",
    "--unknown 1": "unrecognized arguments: --unknown 1",
}


def test_every_error_is_one_sentence_and_leaves_no_file(here, capsys):
    (here / "folder.mp4").mkdir()
    (here / "link.mp4").symlink_to("dot.mp4")
    save(FrameVQ(TINY_TOKENIZER), here / "tokenizer.safetensors")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for words, sentence in BAD.items():
        assert call(*words.split()) == 2, words
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1, words
        assert err.split("\r")[-1].startswith(f"stt: {sentence}"), words
    for clip, sentence in {
        "gone.mp4": "The file does not exist.", ".": "This is a folder, not a video file.",
        "tiny.safetensors": "The file is damaged or not a video",
    }.items():  # fmt: skip
        assert cli.main(["predict", clip, "--model", "tiny.safetensors", "--out", "o.mp4"]) == 2
        assert f"stt: {clip}: {sentence}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_an_interrupted_prediction_ends_quietly_and_leaves_no_file(here, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    before = sorted(here.rglob("*"))
    for place in ((STT, "step"), (np, "stack"), ("stt.encode.os.replace",)):
        with monkeypatch.context() as patch:
            patch.setattr(*place, interrupt)
            assert call("--frames", 2) == 130
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        assert sorted(here.rglob("*")) == before, place


# ---- as a program ------------------------------------------------------------------------------------------


def test_it_starts_without_heavy_libraries_and_its_exit_status_tells_of_failure():
    code = (
        "import sys; from stt.__main__ import main; status = main([]); print(*sys.modules); "
        "main(['predict', 'gone.mp4', '--frames', '0']); sys.exit(7 + status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    help_text, _, modules = done.stdout.strip().rpartition("\n")
    assert done.returncode == 7 and "predict" in help_text and "info" in help_text
    assert not {"gradio", "huggingface_hub", "torchmetrics"} & set(modules.split())
    assert done.stderr == "stt: Frames must be a whole number of at least 1, not 0.\n"


def test_the_readmes_commands_parse():
    commands = re.findall(r"-m stt +([^`\n]+)", (ROOT / "README.md").read_text())
    assert commands
    for words in commands:
        assert cli.parser().parse_args(shlex.split(words)).command


def test_a_file_of_ones_own_may_be_of_any_kind_and_is_used_at_the_models_rate(here, tiny, capsys):
    save(tiny, here / "tiny.safetensors", card={"world": {"fps": 10}})
    make(here / "clip.mov", "-c:v prores_ks", "testsrc2=s=64x64:r=30:d=1")
    (here / "dot.mp4").unlink()
    (here / "clip.mov").rename(here / "dot.mp4")
    assert call("--frames", 2, "--futures", 1) == 0
    out = capsys.readouterr().out
    assert "The clip has 30 frames per second; the frames nearest in time make 10 a second." in out
    assert report_of()["clip_frames"] == 10 and report_of("--stride", 1)["clip_frames"] == 30
    assert cli.main(["info", "tiny.safetensors"]) == 0
    assert "10 per second" in capsys.readouterr().out
