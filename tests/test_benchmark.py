"""The benchmark of a model's stages: every family has all of them, and two checkouts take turns."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from stt.checkpoint import save
from stt.encode import write_mp4
from tests.conftest import TINY_CONFIGS, built
from train import benchmark
from train.benchmark import ROOT, STAGES, main, summary
from train.stages import Stages


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_mp4(path, (255 * torch.rand(6, 16, 16, 3)).byte().numpy(), fps=10)
    return path


def test_every_family_has_all_stages_and_counts_the_operations_of_its_network(clip):
    for name, config in TINY_CONFIGS.items():
        stages = Stages(built(config).eval(), clip, futures=2, frames=2, clock=time.perf_counter)
        weights = {name: p.clone() for name, p in stages.model.named_parameters()}
        stages.round(count=True)
        seconds = stages.round()
        assert seconds.keys() == {*STAGES, "step 1"} and min(seconds.values()) > 0, name
        draws = "prompt" if getattr(config, "regions", 0) else "step"  # the network reads the prompt alone
        assert min(stages.flops[part] for part in (draws, "loss", "backward")) > 0, name
        assert not stages.flops["mp4"] and not any(key[5:].isdigit() for key in stages.flops), name
        assert all(torch.equal(weights[key], p) for key, p in stages.model.named_parameters()), name


def test_ratios_are_medians_of_those_within_a_round(tmp_path):
    def worker(*seconds):
        rounds = [dict.fromkeys([*STAGES, "step 1"], s) for s in seconds]
        first = {
            "flops": {"step": 10.0},
            "peak_flops": 20.0,
            "memory": 3.0,
            "memory_training": 5.0,
            "memory_empty": 2.0,
        }
        return benchmark.Worker(tmp_path, None, first, rounds)

    figures = summary([worker(1.0, 10.0, 2.0), worker(2.0, 11.0, 4.0)])
    assert figures["stages"]["step"] == {"seconds": 2.0, "of_peak": 0.25, "ratio": 2.0}
    assert figures["last_step_over_first"] == 1
    assert "2.00" in benchmark.table("robot-stt", figures) and "25%" in benchmark.table("robot-stt", figures)


def test_two_checkouts_are_measured_in_turn_and_written_as_json(clip, tmp_path, capsys):
    path = tmp_path / "tiny.safetensors"
    save(built(TINY_CONFIGS["timesformer"]), path)
    sizes = ["--futures", "1", "--frames", "2", "--repeats", "1", "--threads", "1", "--device", "cpu"]
    main(
        ["--models", str(path), "--clip", str(clip), *sizes, "--against", str(ROOT), "--json", str(tmp_path / "b.json")]
    )
    assert "other / this" in capsys.readouterr().out
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["models"]["tiny"]["stages"]["step"]["ratio"] > 0 and written["threads"] == 1


def test_what_cannot_be_measured_is_answered_with_one_sentence(clip, tmp_path):
    for flags, sentence in (
        (["--models", "nowhere.safetensors"], "nowhere.safetensors is no file"),
        (["--against", str(tmp_path)], "is no checkout"),
        (["--repeats", "0"], "must be at least 1"),
        (["--models", str(clip), "--clip", str(clip)], "clip.mp4: the measurement of .* has failed"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            main(flags)


def test_shipped_models_have_a_prompt():
    assert all(
        benchmark.clip_of(Path(f"{name}.safetensors")).is_file() for name in ("robot-stt", "digits-stt", "other")
    )
