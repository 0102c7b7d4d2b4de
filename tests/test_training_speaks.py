"""What a training run tells whoever started it."""

from __future__ import annotations

import json
import re
import time
from types import SimpleNamespace

import pytest

from train import cli, predictor, tokenizer
from train.cli import FLAGS_FILE
from train.presets import PRESETS

QUICK = ["--strokes", "1", "--batch", "1", "--device", "cpu"]


def test_a_run_names_its_phases_its_first_loss_and_what_to_do_next(tmp_path, capsys):
    words = ["--preset", "moving_mnist_one_digit/videogpt/cpu", *QUICK, "--steps", "1"]
    predictor.main([*words, "--out", str(tmp_path / "run")])
    text = capsys.readouterr().err
    phases = re.findall(r"Training (\w+) for 1 steps, into (\S+)", text)
    assert phases == [("VideoVQ", str(tmp_path / "run/tokenizer")), ("VideoGPT", str(tmp_path / "run"))]
    assert len(set(re.findall(r"step 1 loss ([\d.]+)", text))) == 2
    (end,) = re.findall(r"saved to .*", text)
    assert end == f"saved to {tmp_path / 'run'}; now run python app.py --models {tmp_path / 'run'}"


def test_the_minutes_of_a_command_cover_its_tokenizer_too(tmp_path, monkeypatch):
    schedules = {}

    class Trained(Exception):
        pass

    class FakeTrainer:
        def __init__(self, model, config, out, *_, **__):
            schedules[out.name] = config.minutes
            if out.name == "run":
                raise Trained

        def fit(self, *_):
            pass

    monkeypatch.setattr(tokenizer, "Trainer", FakeTrainer)
    monkeypatch.setattr(predictor, "Trainer", FakeTrainer)
    monkeypatch.setattr("train.cli.resume", lambda *_: None)
    monkeypatch.setattr("train.cli.training_card", lambda *_: {})
    preset = "moving_mnist_one_digit/videogpt/cpu"
    monkeypatch.setattr(
        predictor, "build_predictor", lambda preset, source: predictor.build(preset.family, preset.model)
    )
    with pytest.raises(Trained):
        predictor.main(["--preset", preset, *QUICK, "--minutes", "6", "--out", str(tmp_path / "run")])
    own, whole = PRESETS[PRESETS[preset].tokenizer_preset].training.minutes, PRESETS[preset].training.minutes
    assert schedules["tokenizer"] == pytest.approx(6 * own / (own + whole), abs=0.1)
    assert 5.5 < sum(schedules.values()) <= 6
    flags = json.loads((tmp_path / "run" / FLAGS_FILE).read_text())["flags"]
    assert flags["minutes"] == schedules["run"]  # so that a resumed run goes on with what is left


def test_a_tokenizer_is_trained_on_the_clips_of_its_predictor(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(tokenizer, "main", lambda words, alone: given.append(cli.parse(tokenizer.parser(), words)))
    words = ["--preset", "robot/motion_gpt/cpu", "--data", str(tmp_path), "--partial", "--out", str(tmp_path / "run")]
    args = cli.parse(predictor.parser(), words)
    predictor.train_tokenizer(args, PRESETS[args.preset])
    (flags,) = given
    assert (flags.preset, flags.data, flags.partial, flags.flip) == ("robot/motion_vq/cpu", tmp_path, True, None)


def test_the_minutes_of_a_command_cover_the_reading_of_its_clips(monkeypatch):
    for minutes, resume, seconds, left in ((6.0, False, 60, 5.0), (6.0, True, 60, 6.0), (None, False, 60, None)):
        args = SimpleNamespace(minutes=minutes, resume=resume)
        cli.charge(args, time.monotonic() - seconds)
        assert args.minutes == (left and pytest.approx(left, abs=0.01))


def test_a_preset_for_a_gpu_names_the_one_for_a_cpu(tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise SystemExit

    monkeypatch.setattr("train.predictor.open_dataset", stop)
    for preset, said in (("moving_mnist/stt/gpu", True), ("moving_mnist/stt/cpu", False)):
        with pytest.raises(SystemExit):
            predictor.main(["--preset", preset, *QUICK, "--steps", "1", "--out", str(tmp_path / "run")])
        assert ("moving_mnist/stt/cpu is sized for it" in capsys.readouterr().err) == said
