"""What a published file holds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import stt
from stt.checkpoint import load_any, read_header, weights_hash
from tests.conftest import TINY_CONFIGS, built, clips
from train import publish
from train.publish import check_saved, portable_card, with_decoder

ASSETS = Path(__file__).parent.parent / "assets" / "models"


def test_a_published_model_is_loaded_again_and_is_the_trained_one_in_half_precision(tmp_path):
    for name in ("stt", "videogpt", "timesformer"):
        model = built(TINY_CONFIGS[name]).eval()
        run, out = tmp_path / name / "model.safetensors", tmp_path / f"{name}.safetensors"
        stt.save(model, run, card={"command": "python -m x --out /home/me/runs/a", "preset": "of an older version"})
        publish.main(["--model", str(run.parent), "--out", str(out), "--hardware", "one CPU core"])
        loaded = stt.load(out)
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[key], tensor, rtol=1e-3, atol=1e-6, msg=f"{name} {key}")
        assert out.stat().st_size < 0.7 * run.stat().st_size
        assert loaded.card["command"] == "python -m x --out a" and loaded.card["hardware"] == "one CPU core"
        shown = stt.predict(loaded, clips(model)[0], 2, stt.Sampling(temperature=0), seeds=[0])
        assert shown.isfinite().all()


def test_a_file_that_does_not_hold_the_model_is_never_published(tmp_path, tiny, monkeypatch):
    run, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    stt.save(tiny, run)
    out.write_bytes(b"the file before")
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.tokens.head.bias[0] += 0.01
    monkeypatch.setattr(publish, "save", lambda model, path, **more: stt.save(other, path))
    with pytest.raises(SystemExit, match="holds other values, first in 'tokens.head.bias'"):
        publish.main(["--model", str(run), "--out", str(out)])
    with torch.no_grad():
        other.tokens.head.bias[0] = torch.inf
    with pytest.raises(SystemExit, match=r"cannot be loaded: .*not finite, first in 'tokens.head.bias'"):
        publish.main(["--model", str(run), "--out", str(out)])
    assert out.read_bytes() == b"the file before"
    check_saved(tiny, run)


def test_a_shipped_file_is_published_again_with_the_same_weights_and_new_scores_beside_the_old(tmp_path):
    for name in ("tabletop-layered", "digits-stt"):
        path, out, scores = ASSETS / f"{name}.safetensors", tmp_path / "out.safetensors", tmp_path / "scores.json"
        scores.write_text(json.dumps({"best_of": {"protocol": "new", "mean": {"psnr best": 12.3456}}}))
        publish.main(["--model", str(path), "--scores", str(scores), "--out", str(out)])
        old, new = read_header(path)["card"], read_header(out)["card"]
        best = {"best_of": {"protocol": "new", "mean": {"psnr best": 12.35}}}
        assert new == old | {"scores": old["scores"] | best}
        assert weights_hash(out) == weights_hash(path) and tensor_bytes(out) == tensor_bytes(path)


def test_what_a_card_says_of_clips_that_a_model_knows_is_measured_on_what_ships(tmp_path, monkeypatch):
    model, checked = built(TINY_CONFIGS["motion_gpt"]), []

    def self_check(request, model):
        checked.append((request.clip, model.config.temperatures, model.training))
        yield SimpleNamespace(error=0.1 * len(checked))

    monkeypatch.setattr(publish, "self_check", self_check)
    stt.save(model, tmp_path / "model.safetensors")
    words = ["--set", "temperatures=0.5,0.25", "--check", "a.mp4", "b.mp4", "--out", str(tmp_path / "out.safetensors")]
    publish.main(["--model", str(tmp_path), *words])
    assert checked == [(Path(name), (0.5, 0.25), False) for name in ("a.mp4", "b.mp4")]
    assert read_header(tmp_path / "out.safetensors")["card"]["self_check"]["error"] == 0.2


def tensor_bytes(path):
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_a_published_model_takes_a_decoder_only_from_a_tokenizer_with_the_same_codes(tmp_path, tiny):
    sharper, other = copy.deepcopy(tiny.tokenizer), copy.deepcopy(tiny.tokenizer)
    with torch.no_grad():
        sharper.decoder[-1].bias += 1
        other.encoder[0].bias += 1
    for name, made in (("sharper", sharper), ("other", other)):
        stt.save(made, tmp_path / name / "model.safetensors")
    changed = with_decoder(tiny, str(tmp_path / "sharper"))
    assert torch.equal(changed.tokenizer.decoder[-1].bias, sharper.decoder[-1].bias)
    assert torch.equal(changed.tokens.head.weight, tiny.tokens.head.weight)
    with pytest.raises(SystemExit, match=r"its codes are not those .* 'encoder\.0\.bias'"):
        with_decoder(tiny, str(tmp_path / "other"))
    assert load_any(tmp_path / "other").config == tiny.tokenizer.config


def test_a_published_card_names_no_folder_of_the_machine():
    card = {
        "command": "python -m x --sheet-every 9 --out /home/me/runs/a --save-every=3",
        "tokenizer": {"command": "y ../data/b --mnist=/home/me/c", "steps": 3, "scores": {"truth": {}}},
        "scores": {"truth": {"energy": 0.1}},
    }
    assert portable_card(card) == {
        "command": "python -m x --out a",
        "tokenizer": {"command": "y b --mnist=c", "steps": 3},
        "scores": {"truth": {"energy": 0.1}},
    }
    assert "home" not in json.dumps(portable_card(card))


def test_a_published_card_names_a_tokenizer_once_for_all_the_runs_with_it():
    new, old = {"command": "t --out new"}, {"command": "t --out old"}
    first = {"command": "p --out c", "tokenizer": old, "start_from": {"command": "p --out d", "tokenizer": old}}
    card = {"tokenizer": new, "start_from": {"command": "p --out b", "tokenizer": new, "start_from": first}}
    published = portable_card(card)
    assert published == {
        "tokenizer": new,
        "start_from": {
            "command": "p --out b",
            "start_from": {"command": "p --out c", "tokenizer": old, "start_from": {"command": "p --out d"}},
        },
    }
    assert portable_card(published) == published


def test_a_published_card_names_its_own_decoder_and_none_before():
    last, first = ({"command": f"t --out {name}"} for name in ("last", "first"))
    begin = {"command": "p --out a", "decoder": first}
    card = {"command": "p --out c", "start_from": {"command": "p --out b", "decoder": last, "start_from": begin}}
    without = {"command": "p --out b", "decoder": last, "start_from": {"command": "p --out a"}}
    assert portable_card(card) == {"command": "p --out c", "start_from": without}
    assert portable_card(card | {"decoder": first})["start_from"].keys() == {"command", "start_from"}


def test_mistakes_end_in_one_sentence_and_write_nothing(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stt.save(tiny, tmp_path / "m.safetensors")
    (tmp_path / "file").touch()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.json").write_text("{}")
    before = set(tmp_path.iterdir())
    for words, message in (
        ("--out file/x.safetensors", "file is a file, not a folder"),
        (f"--out {tmp_path}", "is a folder"),
        ("--out x --model none", "no model at none"),
        ("--out x --model file", "file is not a readable safetensors file"),
        ("--out x --scores none.json", "--scores none.json: .*No such file"),
        ("--out x --scores file", "--scores file: Expecting value"),
        ("--out x --scores list.json", "--scores list.json holds no scores of train.evaluate"),
        ("--out x --scores empty.json", "--scores empty.json holds no scores of train.evaluate"),
        ("--out x --decoder none", "no model at none"),
        ("--out x --set dim", "--set dim: must be NAME=VALUE"),
        ("--out x --set dim=64", "--set dim=64: the weights do not fit"),
    ):
        with pytest.raises(SystemExit, match=message) as caught:
            publish.main(["--model", "m.safetensors", *words.split()])
        assert "\n" not in str(caught.value), words
        assert set(tmp_path.iterdir()) == before, words
