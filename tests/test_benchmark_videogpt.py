"""The benchmark of VideoGPT's samplers: they draw the same codes, and what cannot be measured is said."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from stt.api import Sampling
from stt.checkpoint import save
from stt.models.stt import STT
from stt.models.videogpt import VideoGPT
from tests.conftest import TINY, TINY_VIDEOGPT, lively
from train.benchmark_videogpt import cached, check_same, compiled, main, naive, original, random_model, without_frames

SIZES = {"dim": 24, "depth": 1, "heads": 2, "slices": 2, "grid": 2, "codebook_size": 16}
FLAGS = [word for name, size in SIZES.items() for word in (f"--{name.replace('_', '-')}", str(size))]
FLAGS += ["--device", "cpu", "--threads", "1", "--repeats", "2"]

# A stand-in for the original with the names that the benchmark imports and calls.
ORIGINAL = {
    "__init__.py": "raise ImportError('the data sets are not here')",
    "vqvae.py": """
import pytorch_lightning as pl
class VQVAE(pl.LightningModule):
    def __init__(self, args):
        super().__init__()
        self.save_hyperparameters()
        self.latent_shape = (args.sequence_length // args.downsample[0],) + (args.resolution // args.downsample[1],) * 2
        self.n_codes = args.n_codes
    def decode(self, codes):
        raise AssertionError('frames are not part of it')
""",
    "gpt.py": """
import skvideo.io
import torch
from tqdm import tqdm
import pytorch_lightning as pl
class VideoGPT(pl.LightningModule):
    def __init__(self, args):
        super().__init__()
        from .download import load_vqvae
        self.vqvae = load_vqvae(args.vqvae)
        self.fc_in = torch.nn.Linear(args.hidden_dim, args.layers)
    def sample(self, n):
        codes = torch.full((n, *self.vqvae.latent_shape), self.vqvae.n_codes - 1)
        for _ in tqdm(range(3)):
            pass
        return self.vqvae.decode(codes)
""",
}


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "videogpt").mkdir()
    for name, text in ORIGINAL.items():
        (tmp_path / "videogpt" / name).write_text(text)
    return tmp_path


def test_codes_with_and_without_the_cache_are_the_same():
    for changes in ({}, {"classes": 3}, {"frame_conditioning": False, "slices": 4}):
        model = lively(VideoGPT(replace(TINY_VIDEOGPT, **changes))).eval()
        codes = cached(model, 2, Sampling())
        assert codes.unique(dim=0).shape[0] == 2 and codes.flatten(0, 3).unique(dim=0).shape[0] > 2, changes
        for whole in (False, True):
            assert torch.equal(codes, naive(model, 2, Sampling(), whole=whole)), (changes, whole)


def test_codes_are_the_same_when_no_frames_are_decoded():
    model = lively(random_model(**SIZES))
    bare = without_frames(model)
    assert torch.equal(cached(model, 2, Sampling()), cached(bare, 2, Sampling()))
    latents = cached(model, 1, Sampling())
    assert bare.tokenizer.decode(latents).shape == model.tokenizer.decode(latents).shape


def test_compiling_changes_a_copy_alone(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: "compiled")
    model = random_model(**SIZES)
    assert compiled(model).compiled_one == "compiled" and model.compiled_one is None


def test_other_codes_are_an_error():
    model = lively(random_model(**SIZES))
    codes = cached(model, 2, Sampling())
    other = codes.clone()
    other[1, 0, 0, 1] += 1
    with pytest.raises(RuntimeError, match="no cache: 1 of 16 codes differ from those of the cache"):
        check_same(codes, other, "no cache")


def test_the_original_draws_as_many_codes_and_leaves_no_modules_behind(checkout):
    config = random_model(**SIZES).config
    before = set(sys.modules)
    sample, _ = original(checkout, config, "cpu")
    assert torch.equal(sample(3), torch.full((3, 2, 2, 2), 15))
    assert not {name.split(".")[0] for name in set(sys.modules) - before} & {"videogpt", "pytorch_lightning", "skvideo"}


def test_the_table_has_a_row_for_every_sampler(checkout, capsys):
    main([*FLAGS, "--futures", "1", "2", "--original", str(checkout)])
    out = capsys.readouterr().out
    assert "dim 24, depth 1, heads 2, 2 slices of 2x2 codes of 16" in out and "cpu (threads 1)" in out
    for futures in ("1 at once", "2 at once"):
        rows = out.split(futures)[1].strip().split("\n\n")[0].splitlines()
        assert [row[:26].strip() for row in rows] == [
            "sampler", "cache", "cache, with frames", "no cache, slices so far", "no cache, whole sequence", "original"
        ]  # fmt: skip
        assert rows[1].split()[-1] == "1.00"


def test_a_model_of_any_size_can_be_measured_by_its_file(tmp_path, capsys):
    save(lively(VideoGPT(TINY_VIDEOGPT)), tmp_path / "model.safetensors")
    main(["--model", str(tmp_path / "model.safetensors"), "--device", "cpu", "--threads", "1", "--repeats", "1"])
    assert "dim 32, depth 2, heads 2, 3 slices of 4x4 codes of 32" in capsys.readouterr().out


def test_what_cannot_be_measured_is_answered_with_one_sentence(checkout, tmp_path):
    save(STT(TINY), tmp_path / "stt.safetensors")
    for flags, sentence in (
        (["--original", "nowhere"], "nowhere holds no videogpt/gpt.py: give a checkout of github.com"),
        (["--model", "nowhere.safetensors"], "no model at nowhere.safetensors"),
        (["--model", str(tmp_path / "stt.safetensors")], "is of family stt, not videogpt"),
        (["--heads", "5"], "dim is 24, must be a multiple of heads, which is 5"),
        (["--dim", "32", "--original", str(checkout)], "dim is 32, the original takes multiples of 3"),
        (["--repeats", "0"], "futures, repeats and threads must be at least 1"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            main([*FLAGS, *flags])
