"""Files of earlier versions load, or are refused in one sentence."""

from __future__ import annotations

import json

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

import stt
from stt.checkpoint import CheckpointError
from stt.migrations import migrated, migrated_scores, migrated_weights
from tests.conftest import TINY

OLD = {"objective": "stt", "worn_past": 0.1, "transport": False, "refine_depth": 0, "keep": False, "steps": 1}


def with_fields(path, **fields) -> str:
    """The file at `path`, beside it, with more fields in its config."""
    with safe_open(path, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["config"] = json.dumps(json.loads(header["config"]) | fields)
    save_file(tensors, path.with_name("old.safetensors"), metadata=header)
    return str(path.with_name("old.safetensors"))


def test_an_old_file_without_what_is_gone_loads_as_it_was(tiny, tmp_path):
    stt.save(tiny, tmp_path / "model.safetensors")
    assert stt.load(with_fields(tmp_path / "model.safetensors", **OLD)).config == TINY


@pytest.mark.parametrize(
    ("name", "value"), [("objective", "stt_ancestor"), ("transport", True), ("refine_depth", 1), ("keep", True)]
)
def test_an_old_file_that_needs_what_is_gone_is_refused(tiny, tmp_path, name, value):
    stt.save(tiny, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"old.safetensors cannot be loaded: {name} is '?{value}'?, which this"):
        stt.load(with_fields(tmp_path / "model.safetensors", **OLD | {name: value}))


def test_fields_that_no_version_knew_are_still_refused(tiny, tmp_path):
    stt.save(tiny, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="STTConfig does not know"):
        stt.load(with_fields(tmp_path / "model.safetensors", wings=2))


def test_migrating_leaves_what_it_was_given_and_todays_configs_as_they_are():
    old = OLD | {"dim": 8}
    assert migrated("stt", old) == {"dim": 8} and "objective" in old
    assert migrated("stt", {"dim": 8}) == {"dim": 8}
    assert migrated("videogpt", {"objective": "x"}) == {"objective": "x"}


def test_a_field_of_another_name_and_the_config_of_a_tokenizer_are_migrated_too():
    old = {"own_past": 0.5, "tokenizer": {"patch": 4, "reference": False}}
    assert migrated("stt", old) == {"scheduled_sampling": 0.5, "tokenizer": {"patch": 4}}
    with pytest.raises(ValueError, match="reference is True, which this version of the family frame_vq no longer has"):
        migrated("stt", {"tokenizer": {"reference": True}})


def test_weights_of_a_timesformer_whose_patches_had_no_room_of_their_own_are_found():
    old = ["embed.weight", "embed_matches.bias", "head.opacity.weight", "units.0.mlp.up.weight"]
    new = ["tokens.embed.weight", "tokens.embed_matches.bias", "tokens.head.opacity.weight", "units.0.mlp.up.weight"]
    assert migrated_weights("timesformer", old) == dict(zip(old, new, strict=True))
    assert migrated_weights("timesformer", new) == dict(zip(new, new, strict=True))


def test_weights_of_a_motion_gpt_whose_network_had_no_room_of_its_own_are_found():
    old = ["tokenizer.books.0.codebook", "rows", "begin", "blocks.0.up.weight", "motion.out.bias"]
    new = [f"gpt.{name}" for name in old]
    assert migrated_weights("motion_gpt", old) == dict(zip(old, new, strict=True))
    kept = [*new, "layer_prediction.motion.head.bias", "layer_prediction.segmenter.unet.head.bias"]
    assert migrated_weights("motion_gpt", kept) == dict(zip(kept, kept, strict=True))


def test_scores_of_earlier_files_get_todays_names():
    old = {"truth": {"protocol": "the judge names `told`", "per_horizon": {"psnr told": [1.0], "world": [2.0]}}}
    new = {
        "protocol": "the classifier names `conditioned`",
        "per_horizon": {"psnr conditioned": [1.0], "oracle": [2.0]},
    }
    assert migrated_scores(old) == {"simulated_futures": new}
