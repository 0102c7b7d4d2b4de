"""Weights to and from the Hub, against a stand-in of its client: no network."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from torch import nn

import app as front_door
import stt
from stt.api import Predictor
from stt.checkpoint import CheckpointError, find, load_any, push_to_hub, read_header, save, weights_hash
from stt.default_model import default_model
from stt.hub import is_pinned
from stt.model_card import model_card
from stt.tokenizer import FrameVQ
from tests.conftest import TINY_TOKENIZER
from tests.ui_fixtures import moving_dot
from train import publish

SCORES = {
    "best_of": {
        "protocol": "5 -> 10, 256 prompts",
        "per_horizon": {"psnr best": [27.04, 25.0, 24.0, 23.0, 20.3], "psnr copy": [18.7, None]},
        "mean": {"psnr best": 24.0},
        "seconds_per_frame": 0.0074,
    },
    "spread": {"protocol": "8 futures", "by_temperature": {"1.0": 0.0971}},
}
TOKENIZER = {"command": "python -m train.tokenizer --out tok", "minutes": 5.0, "clips": 6464}
CARD = {
    "command": "python -m train.predictor --mnist /home/me/mnist --out runs/stt",
    "world": {"kind": "stochastic", "digits": 1},
    "minutes": 47.0,
    "clips": 11992,
    "hardware": "two CPU cores",
    "converted": "from another file.",
    "tokenizer": TOKENIZER,
    "start_from": {"command": "python -m train.predictor --out first", "tokenizer": TOKENIZER},
}


class FakeHub:
    """Keeps what commits hold, by repository and commit, and writes down the calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.commits, self.error, self.public = folder, [], {}, None, False

    def _call(self, name: str, /, **values) -> None:
        self.calls.append((name, values))
        if self.error:
            raise self.error

    def create_repo(self, repo, *, private, exist_ok):
        self._call("create_repo", repo=repo, private=private, exist_ok=exist_ok)

    def create_branch(self, repo, *, branch, exist_ok):
        self._call("create_branch", branch=branch, exist_ok=exist_ok)

    def model_info(self, repo):
        return SimpleNamespace(private=not self.public)

    def create_commit(self, repo, operations, *, commit_message, revision):
        files = {}
        for operation in operations:
            with operation.as_file() as file:
                files[operation.path_in_repo] = file.read()
        self._call("create_commit", files=sorted(files), message=commit_message, revision=revision)
        oid = f"{len(self.commits) + 1:040x}"
        self.commits[repo, oid] = self.commits[repo, None] = files
        return SimpleNamespace(oid=oid)

    def hf_hub_download(self, repo, name, *, revision):
        self._call("download", repo=repo, name=name, revision=revision)
        path = self.folder / name
        path.write_bytes(self.commits[repo, revision][name])
        return str(path)

    def named(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    hub = FakeHub(tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token=None: hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub.hf_hub_download)
    return hub


@pytest.fixture
def run(tiny, tmp_path):
    """A run's folder, as training leaves it."""
    save(tiny, tmp_path / "run" / "model.safetensors", card=CARD)
    return tmp_path / "run"


@pytest.fixture
def published(run, hub, tmp_path, capsys):
    """What `train.publish` uploaded: its pinned source and the files of its commit."""
    (tmp_path / "scores.json").write_text(json.dumps(SCORES))
    publish.main(["--model", str(run), "--repo", "owner/name", "--scores", str(tmp_path / "scores.json")])
    source = capsys.readouterr().out.splitlines()[-1]
    return source, hub.commits["owner/name", source.partition("@")[2]]


def answer(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    message = f"{status} Client Error.\n\nFor url: x.\nPlease make sure."
    return kind(message, response=SimpleNamespace(status_code=status, headers={}, request=None))


# ---- there and back --------------------------------------------------------------------------------------


def test_a_published_model_loads_from_its_pinned_source_with_the_same_weights(published, tiny, hub):
    source, _ = published
    loaded = stt.load(source)
    for name, tensor in tiny.state_dict().items():
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[name], expected), name
    assert hub.calls[-1] == ("download", {"repo": "owner/name", "name": "model.safetensors", "revision": f"{1:040x}"})
    assert find(source).parent == hub.folder and [p.name for p in hub.folder.iterdir()] == ["model.safetensors"]


def test_one_commit_holds_weights_and_card(published, hub):
    source, files = published
    assert source == f"owner/name@{1:040x}" and is_pinned(source)
    assert hub.named() == ["create_repo", "create_commit"]
    assert hub.calls[0][1] == {"repo": "owner/name", "private": False, "exist_ok": True}
    assert sorted(files) == ["README.md", "model.safetensors"]


def test_a_model_in_memory_goes_up_as_it_is_and_onto_a_branch_if_asked(tiny, hub):
    tiny.card = {"hardware": "one H200"}
    source = push_to_hub(tiny, "owner/name", branch="trial", message="First")
    assert hub.named() == ["create_repo", "create_branch", "create_commit"]
    assert hub.calls[-1][1]["revision"] == "trial" and hub.calls[-1][1]["message"] == "First"
    loaded = stt.load(source)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), tiny.state_dict().values(), strict=True))
    assert loaded.card == {"hardware": "one H200"}


def test_publishing_writes_here_too_if_asked_and_needs_one_of_both(run, hub, tmp_path):
    out = tmp_path / "out" / "name.safetensors"
    publish.main(["--model", str(run), "--out", str(out)])
    assert stt.load(out).card["hardware"] == "two CPU cores" and not hub.calls
    publish.main(["--model", str(run), "--out", str(out), "--repo", "owner/name"])
    assert hub.commits["owner/name", None]["model.safetensors"] == out.read_bytes()
    with pytest.raises(SystemExit, match="^publish: give --out FILE, --repo owner/name or both$"):
        publish.main(["--model", str(run)])


# ---- the card --------------------------------------------------------------------------------------------


def test_the_card_tells_commands_scores_and_use_but_no_folders(published):
    card = published[1]["README.md"].decode()
    front, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert {"library_name: stt", "license: mit", "pipeline_tag: image-to-video"} <= set(front.splitlines())
    assert "  - video-prediction" in front
    for text_part in (
        "`python -m train.predictor --mnist mnist --out runs/stt` (47.0 minutes, 11,992 clips)",
        "two CPU cores",
        "Converted from another file.",
        "Data: kind stochastic, digits 1.",
        "16 x 16, gray",
        "up to 6 frames",
        "| frame 1 / 5 | best | copy |",
        "| psnr | 27 / 20.3 | 18.7 / – |",
        "- seconds_per_frame: 0.0074",
        "- by_temperature: 1.0 0.0971",
        "pip install .",
        'read_clip("clip.mp4", size=16, channels=1)',
        'stt.load("owner/name@REVISION")',
        "stt.Sampling(temperature=1.0)",
    ):
        assert text_part in text, text_part
    assert "/home" not in card and "/tmp" not in card
    assert text.count("train.tokenizer") == 1 and text.index("train.tokenizer") < text.index("--out first")


def test_the_cards_front_matter_is_what_the_hub_reads(published):
    from huggingface_hub import ModelCard

    data = ModelCard(published[1]["README.md"].decode()).data.to_dict()
    assert data == {
        "library_name": "stt", "pipeline_tag": "image-to-video", "license": "mit", "tags": ["video-prediction"],
    }  # fmt: skip


def test_a_model_without_a_card_says_so_and_its_example_runs(tmp_path, monkeypatch, predictor):
    save(predictor, tmp_path / "model.safetensors")
    card = model_card(read_header(tmp_path / "model.safetensors"), predictor, "owner/name")
    assert "does not say how it was made" in card and "Scores" not in card
    moving_dot(tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stt, "load", lambda source: predictor)
    exec(re.search(r"```python\n(.*?)```", card, flags=re.S)[1].replace("frames=10", "frames=2"), {})


def test_the_weights_keep_their_name_when_the_card_changes_but_not_when_a_tensor_does(run, tiny, tmp_path):
    path = run / "model.safetensors"
    before = weights_hash(path)
    save(tiny, path, card={"anything": "longer " * 100})
    assert weights_hash(path) == before and len(before) == 12 and int(before, 16)
    with torch.no_grad():
        tiny.tokens.head.bias[0] += 1
    save(tiny, path, card=CARD)
    assert weights_hash(path) != before


def test_a_loaded_model_knows_its_card_and_its_weights(run, tmp_path):
    model = stt.load(run)
    assert model.card == CARD and model.weights_hash == weights_hash(run / "model.safetensors")
    assert dict(Predictor.card) == {} and Predictor.weights_hash == ""
    save(FrameVQ(TINY_TOKENIZER), tmp_path / "tok.safetensors", card=TOKENIZER)
    assert load_any(tmp_path / "tok.safetensors").card == TOKENIZER


# ---- what goes wrong -------------------------------------------------------------------------------------

AT = "owner/name@abc"
UNREACHABLE = errors.LocalEntryNotFoundError("An error happened.\nCheck your connection.")
DOWN = errors.LocalEntryNotFoundError("An error happened.")
DOWN.__cause__ = answer(errors.HfHubHTTPError, 503)
FAILURES = [
    (UNREACHABLE, f"the Hub cannot be reached, and no copy of {AT} is stored here"),
    (DOWN, f"the Hub answered 503 for {AT}"),
    (errors.OfflineModeIsEnabled("Offline.\nUnset it."), f"the Hub cannot be reached for {AT}"),
    (errors.HTTPError("connect"), f"the Hub cannot be reached for {AT}"),
    (answer(errors.RepositoryNotFoundError, 404), "the Hub has no owner/name, or not for you (404)"),
    (answer(errors.GatedRepoError, 403), "the Hub has no owner/name, or not for you (403)"),
    (answer(errors.HfHubHTTPError, 401), "the Hub has no owner/name, or not for you (401)"),
    (answer(errors.RevisionNotFoundError, 404), "owner/name has no revision abc"),
    (answer(errors.RemoteEntryNotFoundError, 404), f"{AT} holds no model.safetensors"),
    (errors.HFValidationError("Repo id must.\nUse."), "'owner/name' is no repository: give owner/name"),
    (OSError(28, "No space left\non device"), f"{AT}: OSError: [Errno 28] No space left on device"),
]


def test_a_failure_of_the_hub_is_one_sentence_in_both_directions(hub, tiny):
    for error, sentence in FAILURES:
        hub.error = error
        for attempt in (lambda: stt.load(AT), lambda: push_to_hub(tiny, "owner/name", branch="abc")):
            with pytest.raises(CheckpointError) as caught:
                attempt()
            assert str(caught.value).startswith(sentence) and "\n" not in str(caught.value)
            assert caught.value.__cause__ is error
    assert not hub.commits


def test_a_refused_upload_ends_the_command_with_its_reason(run, hub):
    hub.error = answer(errors.HfHubHTTPError, 401)
    with pytest.raises(SystemExit, match=r"^publish: the Hub has no owner/name, or not for you \(401\)"):
        publish.main(["--model", str(run), "--repo", "owner/name"])


def test_a_malformed_repository_is_refused_before_any_call(hub, tiny):
    for repo in ("name", "a/b/c", "owner/", "owner/na me", "owner/name@abc", ""):
        with pytest.raises(CheckpointError, match=r"is no repository: give owner/name"):
            push_to_hub(tiny, repo)
    assert not hub.calls


def test_what_is_no_predictor_is_not_uploaded(hub, tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    for source, reason in (
        (nn.Linear(2, 2), "Linear is in no family"),
        (FrameVQ(TINY_TOKENIZER), "FrameVQ, which predicts nothing"),
        (tmp_path / "text.safetensors", "not a readable safetensors file"),
    ):
        with pytest.raises(ValueError, match=reason):
            push_to_hub(source, "owner/name")
    assert not hub.calls


def test_what_is_meant_to_be_private_never_goes_to_a_public_repository(hub, tiny):
    push_to_hub(tiny, "owner/mine", private=True)
    hub.public = True
    with pytest.raises(CheckpointError, match="owner/name is public already"):
        push_to_hub(tiny, "owner/name", private=True)
    assert hub.named().count("create_commit") == 1


# ---- the app ---------------------------------------------------------------------------------------------


def started(monkeypatch, arguments: list[str]) -> list[str]:
    """The sources that the app would load."""
    loaded = []
    server = SimpleNamespace(load_models=lambda sources, *_, **__: loaded.extend(sources), serve=lambda *a, **k: None)
    monkeypatch.setitem(sys.modules, "stt.ui.server", server)
    front_door.main(arguments)
    return loaded


def test_the_app_takes_its_models_from_stt_models_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("STT_MODELS", f" owner/name@{'a' * 40}, runs/stt ,")
    assert started(monkeypatch, []) == [f"owner/name@{'a' * 40}", "runs/stt"]
    assert started(monkeypatch, ["--models", "other.safetensors"]) == ["other.safetensors"]
    monkeypatch.setenv("STT_MODELS", " ")
    assert started(monkeypatch, [])[0] == str(default_model())


def test_the_app_says_which_sources_are_not_pinned(monkeypatch, capsys, run):
    pinned = f"owner/name@{'a' * 40}"
    started(monkeypatch, ["--models", "owner/name", "owner/name@main", pinned, str(run), "runs/none.safetensors"])
    notices = capsys.readouterr().err.splitlines()
    assert [line.split(" is not pinned")[0] for line in notices] == ["app: owner/name", "app: owner/name@main"]
