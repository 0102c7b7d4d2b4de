from __future__ import annotations

import json
import resource
import time

import pytest
import torch
from safetensors.torch import save as serialize
from safetensors.torch import save_file

import stt
from stt.checkpoint import CheckpointError, load_any, read_header
from stt.tokenizer import FrameVQ, VideoVQ
from stt.ui.server import load_models
from tests.conftest import TINY_TOKENIZER, TINY_VIDEO_TOKENIZER, clips


@pytest.fixture
def saved(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    stt.save(tiny, path, card={"minutes": 3})
    return path


def test_the_header_says_what_the_file_is(saved):
    header = read_header(saved)
    assert header["family"] == "stt" and header["config"]["dim"] == 32 and header["card"] == {"minutes": 3}


def test_a_runs_folder_is_as_good_as_its_file(saved):
    assert stt.load(saved.parent).config == stt.load(saved).config


def test_a_hub_repository_is_fetched_by_name_and_revision(saved, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: asked.append((a, k)) or str(saved))
    stt.load("owner/repo")
    stt.load("owner/repo@abc123")
    assert asked == [
        (("owner/repo", "model.safetensors"), {"revision": None}),
        (("owner/repo", "model.safetensors"), {"revision": "abc123"}),
    ]


def test_half_precision_halves_the_file_and_hardly_moves_the_frames(tiny, saved, tmp_path):
    stt.save(tiny, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * saved.stat().st_size
    loaded = stt.load(tmp_path / "half.safetensors")
    assert all(t.dtype != torch.float16 for t in loaded.state_dict().values())


def test_half_precision_keeps_the_counts_of_a_codebook_and_old_files_of_half_counts_still_load(tmp_path):
    model = VideoVQ(TINY_VIDEO_TOKENIZER)
    model.quantizer.count.fill_(1e6)  # beyond float16's 65,504
    stt.save(model, tmp_path / "half.safetensors", half=True)
    loaded = load_any(tmp_path / "half.safetensors")
    assert loaded.quantizer.count.eq(1e6).all() and loaded.quantizer.codebook.equal(model.quantizer.codebook)
    rewrite(tmp_path / "half.safetensors", change_tensors=lambda t: t | {"quantizer.count": torch.ones(32).half()})
    assert load_any(tmp_path / "half.safetensors").quantizer.count.dtype == torch.float32


def test_a_header_of_an_enormous_network_is_refused_before_that_is_built(saved):
    """2**16 channels would take terabytes, as many blocks minutes."""
    config = read_header(saved)["config"]
    for change in ({"dim": 2**16}, {"depth": 2**16, "gaussian_grid": [0] * 2**16}):
        rewrite(saved, {"config": json.dumps(config | change)})
        begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CheckpointError, match="does not fit its own config"):
            stt.load(saved)
        assert time.monotonic() - begun < 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_a_tokenizer_is_saved_the_same_way_but_is_no_predictor(tmp_path):
    model = FrameVQ(TINY_TOKENIZER)
    stt.save(model, tmp_path / "tok.safetensors")
    assert load_any(tmp_path / "tok.safetensors").config == TINY_TOKENIZER
    with pytest.raises(CheckpointError, match="FrameVQ, which predicts nothing"):
        stt.load(tmp_path / "tok.safetensors")


def test_a_failed_save_leaves_the_old_file_and_no_other(tiny, saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        stt.save(tiny, saved)
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


def test_a_missing_file_is_named_together_with_what_would_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="give a .safetensors file, a run's folder or owner/repo"):
        stt.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"x", b"not safetensors at all" * 50, b"\x80\x04pickle"])
def test_a_file_that_is_no_safetensors_is_refused_in_one_sentence(content, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a readable safetensors file") as caught:
        stt.load(path)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_truncated_file_is_refused(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        stt.load(saved)


def rewrite(path, change_header=None, change_tensors=None):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header |= change_header or {}
    save_file((change_tensors or (lambda t: t))(tensors), path, metadata=header)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "gpt"}, "family 'gpt'"),
        ({"format": "99"}, "format 99, this version reads 1"),
        ({"config": "{"}, "not a readable"),
        ({"config": json.dumps({"dims": 3})}, r"does not know \['dims'\]"),
        ({"config": json.dumps({"objective": "guess"})}, "objective is 'guess'"),
    ],
)
def test_a_header_that_lies_is_refused_with_the_reason(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        stt.load(saved)


HEADERS = {  # config, card -> what is said of it
    ('{"dim": 1000000000}', "{}"): "dim is 1000000000, must be a whole number from 1 to 65536",
    ('{"heads": 0}', "{}"): "heads is 0, must be a whole number from 1",
    ('{"heads": 3}', "{}"): "dim is 128, must be a multiple of heads, which is 3",
    ('{"dim": "128"}', "{}"): "dim is '128', must be a whole number",
    ('{"dim": true}', "{}"): "dim is True, must be a whole number",
    ('{"dim": null}', "{}"): "dim is None, must be a whole number",
    ('{"jitter": NaN}', "{}"): "jitter is nan, must be a number",
    ('{"actions": [1]}', "{}"): "must be a list, each a text",
    ('{"gaussian_grid": 4}', "{}"): "gaussian_grid is 4, must be a list",
    ('{"tokenizer": null}', "{}"): "a model has one of the four",
    ('{"tokenizer": 3}', "{}"): "tokenizer is 3, must be a FrameVQConfig",
    ('{"tokenizer": {"widths": []}}', "{}"): "widths is .., must be a list of one or more",
    ('{"tokenizer": {"image_size": 1000000}}', "{}"): "image_size is 1000000, must be a whole number",
    ('{"refine_depth": 1000000}', "{}"): "refine_depth is 1000000, which this version",
    ('{"tokenizer": {}, "gaussian_grid": [0], "depth": 1}', "{}"): "which needs more than its 0 tensors",
    ("[]", "{}"): "has a list for a config, which must be a JSON object",
    ('[["dim", 3]]', "{}"): "has a list for a config",
    ("3", "{}"): "has a int for a config",
    ("[" * 100_000 + "]" * 100_000, "{}"): "nests deeper than 100 levels",
    ('{"a":' * 500 + "1" + "}" * 500, "{}"): "has a config that nests deeper than 100 levels",
    ("{}", "[" * 100_000 + "]" * 100_000): "nests deeper than 100 levels",
    ("{}", '{"start_from":' * 300 + "1" + "}" * 300): "has a card that nests deeper than 100 levels",
    ("{}", "[]"): "has a list for a card",
    ("{}", '{"world": 3}'): "has a card whose world is a int, must be an object",
    ("{}", '{"world": {"stride": "2"}}'): "world's stride is no number",
    ("{}", '{"scores": {"surprise": 3}}'): "score 'surprise' is no object",
    ("{}", '{"scores": {"surprise": {"frame_p99": "high"}}}'): "surprise's frame_p99 is no number",
    ("{}", '{"scores": {"surprise": {"largest_p99": -1}}}'): "surprise's largest_p99 is no number",
    ("{}", '{"command": ["python"]}'): "command is no text",
}


def test_headers_of_strangers_are_refused_at_once_in_one_sentence_and_the_app_goes_on_without_them(
    tiny, tmp_path, capsys
):
    for k, (config, card) in enumerate(HEADERS):
        header = {"format": "1", "family": "stt", "config": config, "card": card}
        (tmp_path / f"{k}.safetensors").write_bytes(serialize({}, metadata=header))
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for k, message in enumerate(HEADERS.values()):
        with pytest.raises(CheckpointError, match=message) as caught:
            stt.load(tmp_path / f"{k}.safetensors")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400, message
    assert time.monotonic() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    stt.save(tiny, tmp_path / "good.safetensors")
    assert list(load_models([str(tmp_path)], "cpu")) == ["good"]
    assert capsys.readouterr().err.count("left out") == len(HEADERS)


def test_a_network_that_a_wrong_size_breaks_is_refused_whatever_it_raises(saved):
    config = read_header(saved)["config"]
    for change in ({"dim": 2**16, "heads": 2**16}, {"tokenizer": config["tokenizer"] | {"widths": [9, 18]}}):
        rewrite(saved, {"config": json.dumps(config | change)})
        with pytest.raises(CheckpointError, match="cannot be loaded|does not fit") as caught:
            stt.load(saved)
        assert "\n" not in str(caught.value)


def test_a_device_that_the_machine_lacks_is_named_before_the_file_is_read(tmp_path):
    for name in ("abacus", "cuda:77", "meta"):
        with pytest.raises(ValueError, match=f"This machine has no device {name}; cpu is one"):
            stt.load(tmp_path / "none.safetensors", name)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no model of this project"):
        stt.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {n: v for n, v in t.items() if n != "tokens.head.weight"},
        lambda t: t | {"extra": torch.zeros(1)},
        lambda t: t | {"tokens.head.weight": t["tokens.head.weight"][:1].contiguous()},
    ],
)
def test_missing_extra_and_misshapen_weights_are_refused(saved, change):
    rewrite(saved, change_tensors=change)
    with pytest.raises(CheckpointError, match="does not fit its own config"):
        stt.load(saved)


def test_weights_that_are_not_finite_are_refused(saved):
    rewrite(saved, change_tensors=lambda t: t | {"tokens.head.bias": t["tokens.head.bias"] * torch.nan})
    with pytest.raises(CheckpointError, match="not finite, first in 'tokens.head.bias'"):
        stt.load(saved)


def test_the_loaded_model_predicts_as_the_saved_one(tiny, saved):
    context = clips(tiny)[0]
    assert torch.equal(stt.predict(tiny, context, 3), stt.predict(stt.load(saved), context, 3))
