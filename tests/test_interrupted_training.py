"""What a training run survives: kills, signals, bad steps, full disks, torn files, lost processes."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch

from stt.checkpoint import load_any, read_header
from tests.interrupted_training import MISHAPS, QuickRun, equal, final, train
from train import checkpoint, cli, predictor, tokenizer
from train.cli import preset_of
from train.logging import RunLog
from train.processes import run_as_process

ROOT = Path(__file__).parent.parent
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
TWO = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def python(*words, timeout=300):
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=ONE_THREAD, timeout=timeout, capture_output=True, text=True)


def steps_of(out):
    return [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]


# ---- kills -------------------------------------------------------------------------------------------


def kills(tmp_path, steps, runs, each):
    done = python("tests.interrupted_training", tmp_path, "--steps", steps, "--runs", runs, "--kills", each)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_killed_twice_ends_bit_equal_to_one_that_is_left_alone(tmp_path):
    count = kills(tmp_path, 6, runs=1, each=2)
    assert count["kills"] == 2 and count["equal"] == 1


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_bit_equal(tmp_path):
    for steps, runs, each in ((20, 20, 1), (60, 1, 20)):
        count = kills(tmp_path / str(runs), steps, runs, each)
        assert count["kills"] == runs * each and count["equal"] == runs, count


# ---- checkpoints -------------------------------------------------------------------------------------


def test_the_last_two_checkpoints_are_kept_with_checksums_that_sha256sum_reads(tmp_path):
    train(tmp_path, 3)
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert names == [f"checkpoint-0000000{step}.pt{ending}" for step in (2, 3) for ending in ("", ".sha256")]
    checked = subprocess.run(["sha256sum", "--check", *names[1::2]], cwd=tmp_path, capture_output=True, text=True)
    assert checked.stdout.count("OK") == 2


def torn(path):
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def emptied(path):
    path.write_bytes(b"")


def unsigned(path):
    checkpoint.digest_path(path).unlink()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_continues_exactly(tmp_path, capfd):
    train(tmp_path / "whole", 3)
    whole = final(tmp_path / "whole")
    for harm in (torn, flipped, emptied, unsigned):
        out = shutil.copytree(tmp_path / "whole", tmp_path / harm.__name__)
        harm(checkpoint.list_checkpoints(out)[-1])
        run = train(out, 3, resume=True)
        message = capfd.readouterr().err
        why = "checkpoint-00000003.pt.sha256 is missing" if harm is unsigned else "SHA-256 does not match"
        assert "skips " in message and f"checkpoint-00000003.pt: {why}" in message.replace("its ", ""), harm
        assert run.step == 3 and equal(final(out), whole) and steps_of(out) == [1, 2, 3], harm


def test_without_a_valid_checkpoint_a_run_does_not_resume(tmp_path):
    train(tmp_path, 1)
    for path in checkpoint.list_checkpoints(tmp_path):
        torn(path)
    with pytest.raises(SystemExit, match="holds no valid checkpoint to resume from"):
        train(tmp_path, 2, resume=True)
    for path in checkpoint.list_checkpoints(tmp_path):
        path.unlink()
    with pytest.raises(SystemExit, match="holds no valid checkpoint"):  # its model is there
        train(tmp_path, 2, resume=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_at_step_0(tmp_path, capfd):
    train(tmp_path / "whole", 2)
    train(tmp_path / "killed", 2, resume=True)
    assert "holds no checkpoint yet: the run begins at step 0" in capfd.readouterr().err
    assert equal(final(tmp_path / "whole"), final(tmp_path / "killed"))


def test_leftovers_of_a_killed_save_go_with_the_next_one(tmp_path):
    for name in ("checkpoint-00000009.ptxyz.tmp", "checkpoint-00000009.pt.sha256", "model.safetensorsxyz.tmp"):
        (tmp_path / name).write_text("half")
    train(tmp_path, 1)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("checkpoint-00000009*"))


# ---- signals -----------------------------------------------------------------------------------------


def test_a_signal_saves_after_the_step_and_leaves_with_its_code(tmp_path, monkeypatch):
    train(tmp_path / "whole", 3)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        out = tmp_path / str(code)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "SIGTERM", number)  # what the helper sends
            before = signal.getsignal(number)
            with pytest.raises(SystemExit) as left:
                train(out, 3, mishap="term", at=1, save_every=9.0)
        assert left.value.code == code and signal.getsignal(number) is before
        assert final(out)["step"] == 2 and load_any(out)
        train(out, 3, resume=True)
        assert equal(final(out), final(tmp_path / "whole"))


def test_a_second_signal_ends_the_process_at_once():
    code = "import time; from train.signals import Signals\nwith Signals(): print(1, flush=True); time.sleep(99)"
    for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)):
        with subprocess.Popen(
            [sys.executable, "-c", f"{code}; time.sleep(99)"], cwd=ROOT, stdout=-1, stderr=-1
        ) as process:
            process.stdout.readline()
            process.send_signal(first)
            assert b"saves after this step" in process.stderr.readline() + process.stderr.readline()
            assert process.poll() is None
            process.send_signal(second)
            assert process.wait(5) == -second


# ---- steps that are not finite, disks that are full --------------------------------------------------


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_loss_that_is_not_finite_stops_before_the_update_though_its_gradient_is(tmp_path, log_every):
    """However seldom the log, and with it the check, is due."""
    with pytest.raises(SystemExit, match=r"loss is inf and .* norm [\d.]+ in process 0 at step 2: stopped before"):
        train(tmp_path / "bad", 4, mishap="inf", at=2, log_every=log_every)
    assert final(tmp_path / "bad")["step"] == 2
    train(tmp_path / "bad", 4, resume=True)
    train(tmp_path / "whole", 4)
    assert equal(final(tmp_path / "bad"), final(tmp_path / "whole"))


def test_the_steps_from_one_that_is_not_finite_on_leave_the_weights_as_they_are(tmp_path):
    weights = []

    class Recorded(QuickRun):
        def train_step(self, batch_of):
            super().train_step(batch_of)
            weights.append(copy.deepcopy(self.model.state_dict()))

    with pytest.raises(SystemExit, match="loss is inf"):
        train(tmp_path, 4, mishap="inf", at=2, log_every=4, save_every=9.0, run_class=Recorded)
    assert [equal(one, two) for one, two in pairwise(weights)] == [False, True, True]
    assert not list(tmp_path.glob("checkpoint-*"))


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run = train(tmp_path, 2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        run.model.tokens.head.bias[0] = torch.inf
    run.step = 3
    with pytest.raises(FloatingPointError, match="not finite after step 3: they are not saved"):
        run.save()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_with_the_bytes_needed_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        train(tmp_path, 4, mishap="term", at=1)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("checkpoint-*")}
    monkeypatch.setattr(checkpoint.HashingFile, "write", full)
    told = r"no space for \S+checkpoint-00000003.pt: about [\d,]+ bytes are needed, [\d,]+ bytes are free"
    with pytest.raises(SystemExit, match=told) as left:
        train(tmp_path, 4, resume=True)
    assert isinstance(left.value.code, str)  # which Python prints, and exits with 1
    assert {path.name: path.read_bytes() for path in tmp_path.glob("checkpoint-*")} == before
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.undo()
    train(tmp_path, 4, resume=True)
    train(tmp_path / "whole", 4)
    assert equal(final(tmp_path), final(tmp_path / "whole"))


def test_a_disk_too_full_for_the_model_or_the_log_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("train.trainer.save", full)
    with pytest.raises(SystemExit, match=r"no space for \S+model.safetensors: about"):
        train(tmp_path, 2)
    monkeypatch.setattr("train.logging.json.dumps", full)
    with pytest.raises(SystemExit, match=r"no space for \S+log.jsonl: [\d,]+ bytes are free"):
        train(tmp_path, 2, resume=True)


def test_another_error_of_a_file_stays_itself(tmp_path):
    with pytest.raises(FileNotFoundError), checkpoint.disk_full_check(tmp_path / "x"):
        (tmp_path / "nowhere" / "x").read_text()


# ---- settings ----------------------------------------------------------------------------------------

SMALL = ["--strokes", "1", "--frames", "6", "--batch", "2", "--device", "cpu"]


def settled(module, out, *words):
    args = cli.parse(module.parser(), [*map(str, words), "--out", str(out)])
    cli.save_flags(args, resumed=args.resume)
    return args


def test_resuming_takes_all_flags_from_the_run_and_those_beside_it_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tok").mkdir()
    words = [
        "--preset",
        "moving_mnist_one_digit/videogpt/cpu",
        "--tokenizer",
        "tok",
        "--mnist",
        "digits",
        "--set",
        "depth=3",
    ]
    first = settled(predictor, "run", *words, "--no-muon", "--minutes", 5, "--batch", 3)
    again = settled(predictor, "run", "--resume")
    assert Path(again.mnist) == tmp_path / "digits" and again.tokenizer == str(tmp_path / "tok")
    assert preset_of(again) == preset_of(first) and again.command == first.command
    other = settled(predictor, "run", "--resume", "--steps", 7, "--batch", 4, "--set", "depth=5")
    training = preset_of(other).training
    assert (training.steps, training.minutes, training.batch, training.muon) == (7, 0, 4, False)
    assert preset_of(other).model.depth == 5
    assert other.command == [*first.command, "--steps", "7", "--batch", "4", "--set", "depth=5"]
    assert settled(predictor, "run", "--resume", *words).command == [*other.command, *words]
    kept = settled(predictor, "run", "--resume")
    assert preset_of(kept) == replace(preset_of(other), model=replace(preset_of(other).model, depth=3))
    back = preset_of(settled(predictor, "run", "--resume", "--minutes", 9)).training
    assert (back.steps, back.minutes) == (0, 9)


def test_a_command_that_resumes_from_the_start_may_be_given_again(tmp_path):
    words = ["--preset", "moving_mnist_one_digit/video_vq/cpu", "--steps", "3", "--resume"]
    first, second = (settled(tokenizer, tmp_path, *words) for _ in range(2))
    assert vars(first) == vars(second)


def test_a_run_is_resumed_by_its_own_command_and_begun_in_a_folder_of_its_own(tmp_path, capsys):
    settled(tokenizer, tmp_path, "--preset", "moving_mnist_one_digit/video_vq/cpu")
    with pytest.raises(SystemExit, match=r"is a run of train\.tokenizer, not of train\.predictor"):
        settled(predictor, tmp_path, "--resume")
    (tmp_path / "checkpoint-00000005.pt").touch()
    with pytest.raises(SystemExit, match=r"holds a run \(checkpoint-00000005.pt\): add --resume to continue it"):
        settled(tokenizer, tmp_path, "--preset", "moving_mnist_one_digit/video_vq/cpu")
    for words in ([], ["--resume"]):
        with pytest.raises(SystemExit):
            settled(tokenizer, tmp_path / "new", *words)
        assert "--preset is missing" in capsys.readouterr().err


def test_a_damaged_file_of_flags_is_named(tmp_path):
    for text in ("{", "[]", '{"flags": {}, "command": []}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(SystemExit, match="run.json is damaged"):
            settled(tokenizer, tmp_path, "--resume")


def test_a_commands_run_resumes_with_nothing_but_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.digits.SYNTHETIC", {"train": 20, "test": 20})
    out = tmp_path / "tok"
    tiny = ["--set", "widths=(8, 16)", "--set", "code_dim=8"]
    tokenizer.main(
        ["--preset", "moving_mnist_one_digit/video_vq/cpu", *SMALL, *tiny, "--steps", "1", "--out", str(out)]
    )
    tokenizer.main(["--resume", "--out", str(out), "--steps", "2"])
    tokenizer.main(["--resume", "--out", str(out)])
    card = read_header(out / "model.safetensors")["card"]
    assert card["steps"] == 2 and card["command"].endswith("--out tok --steps 2")
    assert str(tmp_path) not in json.dumps(card)
    with pytest.raises(SystemExit, match="does not fit these flags: .*size mismatch"):  # these are not saved
        tokenizer.main(["--resume", "--out", str(out), "--set", "widths=(16, 32)"])
    tokenizer.main(["--resume", "--out", str(out), "--steps", "3"])
    assert final(out)["step"] == 3


@pytest.mark.slow
def test_a_run_left_while_its_tokenizer_trains_goes_on_with_it(tmp_path):
    words = ["train.predictor", "--preset", "moving_mnist_one_digit/videogpt/cpu", *SMALL, "--out"]
    command = [sys.executable, "-m", *words, str(tmp_path / "both"), "--steps", "6"]
    with subprocess.Popen(command, cwd=ROOT, env=ONE_THREAD, stderr=subprocess.PIPE) as begun:
        told = b""
        while b"16.7%" not in told and begun.poll() is None:
            told += begun.stderr.read1()
        begun.terminate()
        begun.communicate(timeout=60)
    assert begun.returncode == 143 and not (tmp_path / "both" / "model.safetensors").exists()
    assert 0 < final(tmp_path / "both" / "tokenizer")["step"] < 6
    assert python("train.predictor", "--resume", "--out", tmp_path / "both").returncode == 0
    assert python(*words, tmp_path / "whole", "--steps", 6).returncode == 0
    for part in ("tokenizer", "."):
        assert equal(final(tmp_path / "both" / part), final(tmp_path / "whole" / part))


# ---- several processes -------------------------------------------------------------------------------


def assert_close(one, two):
    """The same losses and weights, but for the order of sums."""
    rows = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (one, two)]
    assert [(r["step"], r["clips"]) for r in rows[0]] == [(r["step"], r["clips"]) for r in rows[1]]
    np.testing.assert_allclose([r["loss"] for r in rows[0]], [r["loss"] for r in rows[1]], rtol=1e-4)
    a, b = (final(out)["average"] for out in (one, two))
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=1e-4, msg=name)


def test_two_processes_train_as_one_that_accumulates_two_batches(tmp_path):
    done = python(*TWO, "tests.interrupted_training", tmp_path / "two", "--steps", 5)
    assert done.returncode == 0, done.stderr
    train(tmp_path / "one", 5, accumulate=2)
    assert_close(tmp_path / "one", tmp_path / "two")
    train(tmp_path / "half", 5)
    with pytest.raises(AssertionError):
        assert_close(tmp_path / "half", tmp_path / "two")


@pytest.mark.parametrize(
    ("mishap", "rank"),
    [pytest.param(*case, marks=() if case == ("kill", 1) else pytest.mark.slow) for case in product(MISHAPS, (0, 1))],
)
def test_what_befalls_one_process_stops_all_within_a_minute_and_the_run_resumes(tmp_path, mishap, rank):
    begun = time.monotonic()
    words = ["tests.interrupted_training", tmp_path / "two", "--steps", 5]
    done = python(*TWO, *words, "--mishap", mishap, "--at", 3, "--rank", rank)
    assert done.returncode != 0 and time.monotonic() - begun < 60
    assert final(tmp_path / "two")["step"] == (4 if mishap == "term" else 3)
    if mishap == "inf":
        assert done.stderr.count(f"in process {rank} at step 3: stopped before the update") == 2
    if mishap == "term":
        codes = [int(code) for code in re.findall(r"exitcode  : (-?\d+)", done.stderr)]
        # the launcher's own SIGTERM, which follows the first exit, may find the other process on its way out
        assert 143 in codes and set(codes) <= {143, -signal.SIGTERM}
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    done = python(*TWO, *words, "--resume")
    assert done.returncode == 0, done.stderr
    train(tmp_path / "one", 5, accumulate=2)
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_saves_a_run_of_two_processes(tmp_path, number):
    words = [*TWO, "tests.interrupted_training", str(tmp_path), "--steps", "2000"]
    launcher = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, env=ONE_THREAD, stderr=subprocess.DEVNULL)
    while not checkpoint.list_checkpoints(tmp_path) and launcher.poll() is None:
        time.sleep(0.1)
    launcher.send_signal(number)
    assert launcher.wait(60) == 1  # its own code; the processes' are 143 and 130
    assert final(tmp_path)["step"] == steps_of(tmp_path)[-1] > 0 and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("error", [None, SystemExit(143), ValueError("one process's own")])
def test_processes_part_at_the_end_and_when_all_leave_but_not_when_one_fails(tmp_path, error):
    def main():
        torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", world_size=1, rank=0)
        wrapper = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
        held = [wrapper]
        held.append(held)  # a cycle
        if error:
            raise error

    try:
        if error is None:
            run_as_process(main)
        else:
            with pytest.raises(type(error)) as met:
                run_as_process(main)
            assert met.value is error
        threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
        together = not isinstance(error, ValueError)
        assert torch.distributed.is_initialized() != together
        assert not (together and "pt_gloo_runloop" in threads)  # they are waited for, not only told to end
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


# ---- watching ----------------------------------------------------------------------------------------


def test_curves_and_sheets_go_to_tensorboard_where_it_is_installed(tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            seen.append((folder, purge_step))

        def __getattr__(self, name):
            return lambda *args, **more: seen.append((name, *args[:1], *args[2:], *more.values()))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    run_log = RunLog(tmp_path, 4)
    run_log.write({"step": 5, "loss": 0.5})
    run_log.write_sheet(np.zeros((4, 4, 3), np.uint8), 5)
    run_log.write_sheet(np.zeros((4, 4), np.uint8), 6)
    run_log.close()
    assert seen[0] == (str(tmp_path / "tensorboard"), 5) and ("add_scalar", "loss", 5) in seen
    assert (
        ("add_image", "sheet", 5, "HWC") in seen and ("add_image", "sheet", 6, "HW") in seen and seen[-1] == ("close",)
    )


def test_a_run_logs_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(tmp_path, 2)
    assert steps_of(tmp_path) == [1, 2] and not (tmp_path / "tensorboard").exists()


def test_a_log_forgets_what_came_after_the_checkpoint_and_a_line_that_was_cut_off(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n\0\0\n{"step": 3}\n{"st')
    RunLog(tmp_path, 2).write({"step": 3, "loss": 1.0})
    assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "loss": 1.0}\n'
