"""Starting the app: which models it finds, and what keeps its folder small."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path

import pytest
import torch

import app as front_door
from stt.api import Batch
from stt.checkpoint import save
from stt.ui import server
from stt.ui.cleanup import Cleanup
from stt.ui.layout import knobs, stride_info
from stt.ui.server import load_models
from tests.conftest import TINY_CONFIGS, built, clips


def test_models_come_from_files_and_folders_and_broken_ones_are_left_out(tiny, tmp_path, capsys):
    save(tiny, tmp_path / "digits.safetensors")
    save(tiny, tmp_path / "run/model.safetensors")
    (tmp_path / "broken.safetensors").write_text("no weights")
    models = load_models([str(tmp_path), str(tmp_path / "run")], "cpu")
    assert list(models) == ["digits", "run"]
    assert "broken.safetensors" in capsys.readouterr().err
    video = clips(tiny, 1)[0]
    assert models["run"].loss(Batch(video[None])).total.isfinite()


def test_a_models_variants_stand_behind_it_so_that_the_plain_name_is_preset(tiny, tmp_path):
    for name in ("digits-stt-large", "digits-stt"):
        save(tiny, tmp_path / f"{name}.safetensors")
    assert list(load_models([str(tmp_path)], "cpu")) == ["digits-stt", "digits-stt-large"]


def test_a_file_that_is_named_before_its_folder_comes_first_and_once(tiny, tmp_path):
    for name in ("car-stt", "digits-stt", "tabletop-layered"):
        save(tiny, tmp_path / f"{name}.safetensors")
    sources = [str(tmp_path / "digits-stt.safetensors"), str(tmp_path)]
    assert list(load_models(sources, "cpu")) == ["digits-stt", "car-stt", "tabletop-layered"]


def test_the_app_opens_with_the_tabletop_and_offers_all_that_ship():
    names = [path.stem for path in Path(front_door.SHIPPED[1]).glob("*.safetensors")]
    models = list(load_models(front_door.parse([]).models, "cpu"))
    assert models[0] == "digits-stt" and sorted(models) == sorted(names)


def test_models_are_compiled_where_that_is_asked_for_and_can_be_done(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: "compiled")
    save(tiny, tmp_path / "a.safetensors")
    save(built(TINY_CONFIGS["videogpt"]), tmp_path / "b.safetensors")
    asked = []
    monkeypatch.setattr(server, "serve", lambda models, *_, **__: asked.append(models))
    front_door.main(["--models", str(tmp_path), "--device", "cpu", "--compile"])
    front_door.main(["--models", str(tmp_path), "--device", "cpu"])
    compiled, plain = (models["b"].one for models in asked)
    assert compiled == "compiled" and callable(plain) and list(asked[0]) == ["a", "b"]


def test_without_a_model_the_app_says_so(tmp_path):
    with pytest.raises(SystemExit, match="no model found in"):
        front_door.main(["--models", str(tmp_path)])


def test_the_janitor_removes_what_is_old_or_too_much(tmp_path):
    now = time.time()
    for k, age in enumerate([10, 20, 30, 5000]):
        path = tmp_path / f"folder-{k}" / "video.mp4"
        path.parent.mkdir()
        path.write_bytes(b"0" * 100)
        os.utime(path, (now - age, now - age))
    os.utime(tmp_path / "folder-3", (now - 5000, now - 5000))
    janitor = Cleanup(tmp_path, keep=3600, quota=250)
    assert janitor.sweep() == 2
    assert sorted(p.parent.name for p in tmp_path.rglob("*.mp4")) == ["folder-0", "folder-1"]
    assert janitor.sweep() == 0


def test_the_stride_tells_what_the_model_learned_at(tiny):
    model = copy.deepcopy(tiny)
    for world, told in (({}, "faster motion"), ({"stride": 1}, "faster motion"), ({"stride": 3}, "learned at 3")):
        model.card = {"world": world}
        assert stride_info(model).endswith(told)
        assert knobs(model)[-1]["info"] == stride_info(model)
