"""A training run: its schedule, its steps, what it leaves behind, and what its commands build."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import stt
from stt.api import Batch
from stt.checkpoint import load_any, read_header
from stt.models.stt import STT, STTConfig
from stt.models.videogpt import VideoGPT
from tests.conftest import (
    TINY,
    TINY_CONFIGS,
    TINY_LAYERED,
    TINY_LAYERS,
    TINY_TIMESFORMER,
    TINY_TRANSFRAMER,
    TINY_VIDEOGPT,
    batch_of,
    built,
    clips,
    lively,
)
from train import predictor, tokenizer
from train.cli import start_from
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.predictor import build_predictor, context_frames, held_out_score, take_segmenter, train_only
from train.prefetch import Prefetcher
from train.presets import PRESETS
from train.processes import make_accelerator, resolve_precision
from train.schedule import TrainerConfig
from train.sheets import future_sheet, reconstruction_sheet
from train.trainer import LossModule, Trainer

ROOT = Path(__file__).parent.parent


def batches(model):
    return lambda size, number: Batch(clips(model, size, seed=number))


def run_of(model, out, card=None, **settings):
    config = TrainerConfig(**{"steps": 3, "batch": 2, "log_every": 1, "precision": "no"} | settings)
    return Trainer(model, config, out, make_accelerator("cpu"), card or {})


def trained(out, steps, resume=False, **settings):
    torch.manual_seed(0)
    run = run_of(STT(TINY), out, **{"steps": 4} | settings)
    if resume:
        run.resume()
    run.model.train()
    while run.step < steps:
        run.train_step(lambda number: batches(run.model)(2, number))
    run.save()
    return run


# ---- steps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("muon", [False, True])
def test_a_resumed_run_ends_bit_equal_to_one_that_never_stopped(tmp_path, muon):
    whole = trained(tmp_path / "whole", 4, muon=muon)
    trained(tmp_path / "parts", 2, muon=muon)
    parts = trained(tmp_path / "parts", 4, resume=True, muon=muon)
    for one, other in ((whole.model, parts.model), (whole.averaged, parts.averaged)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_run_that_goes_on_with_larger_batches_counts_its_clips(tmp_path):
    assert trained(tmp_path, 2).clips == 4
    run = run_of(STT(TINY), tmp_path, batch=3)
    run.resume()
    run.train_step(lambda number: batches(run.model)(3, number))
    assert (run.step, run.clips) == (3, 7)


def test_a_training_step_runs_in_bf16_and_keeps_float32_weights(tmp_path):
    for name in ("stt", "stt, layers", "timesformer", "videogpt", "transframer", "layered"):
        model = lively(built(TINY_CONFIGS[name]))
        run = run_of(model, tmp_path, precision="bf16", muon=True)
        run.model.train()
        before = [p.clone() for p in model.parameters() if p.requires_grad]
        dtypes = record_dtypes(model)
        run.train_step(lambda number, model=model: batch_of(model, clips(model)))
        assert (torch.bfloat16 in dtypes) == (name != "layered"), name  # whose loss is float32 by its own choice
        after = [p for p in model.parameters() if p.requires_grad]
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after), name
        assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True)), name
        assert run.mean_losses()["loss"] > -torch.inf, name


def record_dtypes(model):
    """A list that the types of what layers return are added to."""
    dtypes = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, out: dtypes.append(out.dtype))
    return dtypes


def test_every_process_makes_the_choices_of_a_step_from_the_step_alone(tmp_path):
    model, steps = STT(TINY), []
    model.begin_step = steps.append
    run = run_of(model, tmp_path, accumulate=2)
    for _ in range(2):
        run.train_step(lambda number: batches(model)(2, number))
    assert steps == [0, 1]


def test_the_average_soon_forgets_the_first_weights(tmp_path):
    run = trained(tmp_path, 4)
    torch.manual_seed(0)
    start = STT(TINY)
    moved = (run.model.tokens.head.weight - start.tokens.head.weight).norm()
    lag = (run.model.tokens.head.weight - run.averaged.tokens.head.weight).norm()
    assert 0 < lag < moved


def test_the_schedule_warms_up_and_ends_low():
    config = TrainerConfig(steps=100, lr=1.0, warmup=0.1, final_lr=0.02)
    rates = [config.learning_rate(config.progress(step, 0)) for step in range(101)]
    assert rates[0] < 0.05 and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0.02)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_settings_that_cannot_be_are_refused_with_numbers():
    for fields, message in (
        ({}, "minutes is 0.0 and steps 0: set one"),
        ({"minutes": 1.0, "steps": 2}, "minutes is 1.0 and steps 2: set one"),
        ({"steps": 1, "batch": 0}, "batch is 0, must be at least 1"),
        ({"steps": 1, "precision": "fp16"}, "precision is 'fp16', must be"),
        ({"steps": -1}, "steps is -1, must be 0 or more"),
        ({"steps": 1, "lr": float("nan")}, "lr is nan, must be 0 or more"),
        ({"minutes": float("inf")}, "minutes is inf"),
        ({"steps": 1, "lr": 0.0}, "lr is 0, must be above 0"),
        ({"steps": 1, "warmup": 1.0}, "warmup is 1.0, must be below 1"),
        ({"steps": 1, "seed": 2**32}, "must be below 2"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainerConfig(**fields)


def test_auto_takes_bf16_only_where_the_hardware_has_it(monkeypatch):
    for supported, precision in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(
            "torch.cuda.is_bf16_supported", lambda including_emulation=True, s=supported: including_emulation or s
        )
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda s=supported: s)
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
        for device in ("cuda", "cpu"):
            assert resolve_precision("auto", torch.device(device)) == precision, device
            assert resolve_precision("no", torch.device(device)) == "no"


@pytest.mark.slow
def test_a_compiled_tokenizer_learns_as_a_plain_one_does(tiny):
    """The loss of FSQ codes is also one of its parts: one tensor that is asked for twice."""
    module = LossModule(tiny.tokenizer.requires_grad_(True).eval())
    batch = Batch(clips(tiny, 2, 4))
    plain, compiled = (
        torch.autograd.grad(call(batch).total, list(tiny.tokenizer.parameters()))
        for call in (module, torch.compile(module))
    )
    torch.testing.assert_close(compiled, plain)


# ---- prefetch ----------------------------------------------------------------------------------------


def test_prefetching_gives_the_same_batches_in_the_same_order_from_one_thread():
    threads = set()

    def load(number):
        threads.add(threading.current_thread())
        return Batch(torch.full((1, 1, 1, 1, 1), float(number)), labels=torch.tensor([[number]]))

    with Prefetcher(load, 2, torch.device("cpu")) as prefetcher:
        for number in (1, 3, 5, 4, 6):  # out of order too
            batch = prefetcher(number)
            assert batch.video.item() == batch.labels.item() == number and batch.actions is None
    assert len(threads) == 1 and threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_the_next_batch_is_prepared_before_it_is_asked_for():
    ready = {number: threading.Event() for number in range(3)}

    def load(number):
        ready[number].set()
        return Batch(torch.zeros(1, 1, 1, 1, 1))

    with Prefetcher(load, 1, torch.device("cpu")) as prefetcher:
        prefetcher(0)
        assert ready[1].wait(timeout=10) and not ready[2].is_set()


def test_an_error_in_the_data_stops_the_run_at_its_batch_and_the_thread_ends(tmp_path):
    model = STT(TINY)

    def load(size, number):
        if number == 2:
            raise ValueError("clip 2 cannot be read")
        return batches(model)(size, number)

    run = run_of(model, tmp_path, steps=9)
    with pytest.raises(ValueError, match="clip 2 cannot be read"):
        run.fit(load)
    assert run.step == 2
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


# ---- what a run leaves -------------------------------------------------------------------------------


def test_a_run_leaves_a_runnable_model_a_log_and_a_picture(tmp_path):
    model = STT(TINY)
    run = run_of(model, tmp_path, card={"preset": "x"})
    run.fit(batches(model), lambda m: torch.zeros(4, 4, 3).byte().numpy())
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[-1]["clips"] == 6 and rows[0]["loss"] > 0
    for row in rows:
        assert 0 < row["of_peak"] < 1 and row["tflops"] > 0 and row["clips_per_s"] > 0
    assert stt.load(tmp_path).config == TINY
    assert list((tmp_path / "sheets").glob("*.png")) and not list(tmp_path.rglob("*.tmp"))


def test_the_log_states_the_mean_loss_since_its_last_row(tmp_path):
    losses = {}
    for every in (1, 2):
        torch.manual_seed(0)
        run = run_of(STT(TINY), tmp_path / str(every), steps=4, log_every=every)
        run.fit(batches(run.model))
        log = (tmp_path / str(every) / "log.jsonl").read_text().splitlines()
        losses[every] = [json.loads(line)["loss"] for line in log]
    assert losses[2] == pytest.approx([sum(losses[1][:2]) / 2, sum(losses[1][2:]) / 2], abs=2e-6)


def test_a_run_is_scored_now_and_then_and_at_its_end(tmp_path):
    run = run_of(STT(TINY), tmp_path, batch=1, score_every=1e-9, log_every=10)
    run.fit(batches(run.model), score=lambda model: {"held_out_mse": float(not model.training)})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 3] and all(row["held_out_mse"] == 1 for row in rows)


def test_what_is_due_every_0_minutes_comes_at_the_end_alone(tmp_path):
    seen = []
    run = run_of(STT(TINY), tmp_path, batch=1, save_every=0.0, sheet_every=0.0, score_every=0.0)
    run.fit(
        batches(run.model),
        lambda model: seen.append("sheet") or torch.zeros(4, 4, 3).byte().numpy(),
        lambda model: seen.append("score") or {},
    )
    assert sorted(seen) == ["score", "sheet"]
    assert [path.name for path in tmp_path.glob("checkpoint*.pt")] == ["checkpoint-00000003.pt"]


# ---- presets and commands ----------------------------------------------------------------------------


def test_every_preset_has_a_name_of_three_parts_a_promise_and_a_model_that_survives_its_own_json():
    for name, preset in PRESETS.items():
        _, family, size = name.split("/")
        assert family == preset.family and size in ("cpu", "gpu"), name
        assert "minutes" in preset.summary and ("not measured" in preset.summary or "Measured:" in preset.summary), name
        assert type(preset.model).from_dict(json.loads(json.dumps(preset.model.to_dict()))) == preset.model, name
        first = preset.tokenizer_preset
        assert not first or preset.model.tokenizer == PRESETS[first].model, name


def test_help_lists_every_preset_with_its_promise_and_the_default_of_every_flag():
    for command in (tokenizer, predictor):
        text = command.parser().format_help()
        assert all(name in text and preset.summary in text for name, preset in PRESETS.items())
        assert "highest learning rate [0.001]" in " ".join(text.split())


def test_a_run_may_start_from_a_model_that_lacks_a_part_but_not_from_another_network(tmp_path, tiny, capsys):
    acting = STT(replace(TINY, actions=("push",)))
    for name, model in (("tiny", tiny), ("acting", acting)):
        stt.save(model, tmp_path / name / "model.safetensors")
    start_from(acting, str(tmp_path / "tiny"))
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(re.fullmatch(r"network\.embed_action\.\S+ begins untrained", line) for line in lines)
    with pytest.raises(SystemExit, match=r"'network\.embed_action\.\S+', which this preset lacks"):
        start_from(STT(TINY), str(tmp_path / "acting"))


def test_some_parts_alone_may_be_trained():
    for parts in (["dynamics"], ["policy", "segmenter"], ["policy.crop", "compositor"]):
        model = built(TINY_LAYERED)
        train_only(model, *parts)
        names = {name for name, p in model.named_parameters() if p.requires_grad}
        assert names == {name for name, _ in model.named_parameters() if name.startswith(tuple(parts))}
    with pytest.raises(SystemExit, match="--only wings: the model's parts are segmenter, policy, .*, compositor$"):
        train_only(built(TINY_LAYERED), "policy", "wings")
    with pytest.raises(SystemExit, match="--only tokenizer: the model's parts are tokens, network"):  # frozen as it is
        train_only(STT(TINY), "network", "tokenizer")


def test_the_segmenter_of_another_model_is_taken_as_it_is(tmp_path, tiny):
    giver = lively(STT(TINY_LAYERS))
    stt.save(giver, tmp_path / "layers.safetensors")
    stt.save(tiny, tmp_path / "codes.safetensors")
    model = built(TINY_TRANSFRAMER)
    take_segmenter(model, str(tmp_path / "layers.safetensors"))
    assert torch.equal(model.segmenter.unet.head.weight, giver.tokens.segmenter.unet.head.weight)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        f"segmenter.{name}" for name, _ in model.segmenter.named_parameters()
    }
    with pytest.raises(SystemExit, match="codes.safetensors has no segmenter"):
        take_segmenter(model, str(tmp_path / "codes.safetensors"))
    with pytest.raises(SystemExit, match="this preset's network has no segmenter"):
        take_segmenter(built(TINY_TIMESFORMER), str(tmp_path / "layers.safetensors"))
    with pytest.raises(SystemExit, match="size mismatch"):
        take_segmenter(built(replace(TINY_TRANSFRAMER, segmenter_width=32)), str(tmp_path / "layers.safetensors"))


def test_only_a_family_with_a_tokenizer_takes_one(tmp_path, tiny):
    stt.save(tiny.tokenizer, tmp_path / "model.safetensors")
    preset = replace(PRESETS["videos/stt/cpu"], model=STTConfig.from_dict(TINY.to_dict()))
    model = build_predictor(preset, str(tmp_path))
    assert isinstance(model, STT) and torch.equal(model.tokenizer.decoder[-1].bias, tiny.tokenizer.decoder[-1].bias)
    preset = replace(preset, model=TINY_TIMESFORMER)
    assert build_predictor(preset, None).config == TINY_TIMESFORMER
    with pytest.raises(SystemExit, match="timesformer does not learn from actions here"):
        build_predictor(replace(preset, model=replace(TINY_TIMESFORMER, actions=("steer",))), None)
    with pytest.raises(SystemExit, match="has no tokenizer: leave out --tokenizer"):
        build_predictor(preset, str(tmp_path))


def test_mistakes_in_flags_end_in_one_sentence_before_anything_is_trained_or_written(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("train.data.digits.SYNTHETIC", {"train": 20, "test": 20})
    stt.save(tiny, tmp_path / "predictor.safetensors")
    stt.save(tiny.tokenizer, tmp_path / "frames.safetensors")
    (tmp_path / "file").touch()
    words = ["--device=cpu", "--strokes=1", "--steps=1", "--out=run", "--preset"]
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    for command, flags, message in (
        (predictor, "--tokenizer predictor.safetensors", "holds a STT, must be a VideoVQ tokenizer"),
        (predictor, "--tokenizer frames.safetensors", "holds a FrameVQ, must be a VideoVQ tokenizer"),
        (predictor, "--tokenizer none", "--tokenizer none: no model at none"),
        (predictor, "--tokenizer file", "file is not a readable safetensors file"),
        (predictor, "--start-from none", "--start-from none: no model at none"),
        (predictor, "--start-from predictor.safetensors", "--start-from predictor.safetensors: it"),
        (predictor, "--only wings", "--only wings: the model's parts are"),
        (predictor, "--set dim", "--set dim: must be NAME=VALUE"),
        (predictor, "--set =3", "--set =3: must be NAME=VALUE"),
        (predictor, "--set dims=3", r"VideoGPTConfig does not know \['dims'\]; it knows \['actions'"),
        (predictor, "--set dim=wide", "'wide' is no number, quoted text, list"),
        (predictor, "--set dim=(", "is no number, quoted text, list"),
        (predictor, "--set heads=0", "heads is 0, must be a whole number from 1"),
        (predictor, "--set heads=5", "dim is 192, must be a multiple of heads, which is 5"),
        (predictor, "--set dim=1.5", "dim is 1.5, must be a whole number"),
        (predictor, "--set widths=32", "widths is 32, must be a list"),
        (tokenizer, "--set widths=(9,18)", "the network cannot be built: "),
        (predictor, "--steps -1", "steps is -1, must be 0 or more"),
        (predictor, "--batch 0", "batch is 0, must be at least 1"),
        (predictor, "--lr nan", "lr is nan"),
        (predictor, "--frames 1", "clips have 1 frame, a predictor learns from 2 or more"),
        (predictor, "--strokes 2", "strokes is 2.0, must be between 0 and 1"),
        (predictor, "--mnist none --strokes 0.5", "t?rain-images-idx3-ubyte.gz is missing"),
        (predictor, "--data none", "--strokes does not apply to the folder clips"),
        (predictor, "--out file", "--out file cannot be made: file is a file, not a folder"),
        (predictor, "--out file/run", "--out file/run cannot be made: file is a file, not a folder"),
        (predictor, "--preset moving_mnist_one_digit/video_vq/cpu", "trains a tokenizer: use train.tokenizer"),
        (tokenizer, "--preset moving_mnist_one_digit/videogpt/cpu", "trains a predictor: use train.predictor"),
    ):
        name = "moving_mnist_one_digit/videogpt/cpu" if command is predictor else "moving_mnist_one_digit/video_vq/cpu"
        with pytest.raises(SystemExit, match=message) as caught:
            command.main([*words, name, *flags.split()])
        assert "\n" not in str(caught.value), flags
        assert set(tmp_path.iterdir()) == before, flags


def digits(frames, **fields):
    config = MovingMNISTConfig(**{"image_size": 16, "digits": 1, "frames": frames, "strokes": 1} | fields)
    return MovingMNIST(config, None, "test", count_strokes=20)


def test_a_sheet_shows_one_future_of_a_model_that_draws_nothing_and_three_of_others():
    for frames in (8, 9):
        video = digits(frames).batch(2, seed=1, index=0).video
        # truth, a tokenizer's reconstruction, futures
        for name, rows in (("stt", 5), ("videogpt", 5), ("timesformer", 2)):
            picture = future_sheet(video, 5)(built(TINY_CONFIGS[name]).eval())
            assert picture.shape == (2 * rows * 18, frames * 18, 3), (name, frames)
    picture = reconstruction_sheet(video)(built(TINY).tokenizer)
    assert picture.shape == (2 * 2 * 18, 9 * 18, 3)


def test_models_with_classes_learn_from_what_clips_show():
    batch = digits(7, digits=2).batch(3, seed=0, index=5)
    model = VideoGPT(replace(TINY_VIDEOGPT, classes=10, labels=2))
    assert batch.labels.shape == (3, 2) and model.loss(batch).total.isfinite()


def test_moving_mnist_scores_a_run_and_stochastic_clips_do_not():
    videos = digits(14, kind="deterministic")
    figures = held_out_score(videos, clips=3)(built(TINY_TIMESFORMER).eval())
    assert set(figures) == {"held_out_mse", "held_out_ssim"} and figures["held_out_mse"] > 0
    assert (context_frames(videos), context_frames(digits(14))) == (10, 5)
    for other in (digits(14), digits(10, kind="deterministic")):
        assert held_out_score(other) is None


@pytest.mark.slow
def test_the_commands_train_a_tokenizer_and_a_predictor_and_score_them(tmp_path):
    def run(*words):
        subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, check=True, timeout=300)

    small = ["--strokes", 1, "--frames", 6, "--batch", 2, "--steps", 3, "--device", "cpu"]
    run("train.predictor", "--preset", "moving_mnist_one_digit/videogpt/cpu", *small, "--out", tmp_path / "both")
    assert load_any(tmp_path / "both").config.tokenizer == load_any(tmp_path / "both" / "tokenizer").config
    run("train.predictor", "--preset", "moving_mnist/stt/cpu", *small, "--out", tmp_path / "stt")
    run("train.predictor", "--preset", "moving_mnist/stt/cpu", *small, "--out", tmp_path / "stt", "--resume")
    two = ["torch.distributed.run", "--nproc-per-node", 2, "-m"]  # a run of one process goes on with two
    more = [*small[:-4], "--steps", 5, *small[-2:]]
    run(*two, "train.predictor", "--preset", "moving_mnist/stt/cpu", *more, "--out", tmp_path / "stt", "--resume")
    assert read_header(tmp_path / "stt" / "model.safetensors")["card"]["clips"] == 3 * 2 + 2 * 4
    scores = tmp_path / "scores.json"
    counts = ["--clips", 2, "--futures", 2, "--prompts", 1, "--sets", 4, "--moving-clips", 2, "--strokes", 1]
    run("train.evaluate", "--model", tmp_path / "stt", "--json", scores, "--sheet", tmp_path / "sheet.png", *counts)
    assert json.loads(scores.read_text())["settings"]["clips"] == 2 and (tmp_path / "sheet.png").exists()
    assert isinstance(load_any(tmp_path / "stt"), STT)
