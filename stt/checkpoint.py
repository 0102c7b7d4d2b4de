"""One safetensors file is one runnable model: its header holds the family, the config and how it was made."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import nn

from stt.api import Config, Predictor
from stt.card import model_card
from stt.migrations import migrated
from stt.registry import CONFIGS, FAMILIES, TOKENIZERS

FORMAT = "1"
FILE_NAME = "model.safetensors"
NO_REPO = "{!r} is no repository: give owner/name, in letters, digits, '-', '_' and '.'"


class CheckpointError(ValueError):
    """No model of ours, or one that the Hub neither gives nor takes; the message is one sentence."""


def build(family: str, config: Config) -> nn.Module:
    return (FAMILIES | TOKENIZERS)[family](config)


def family_of(model: nn.Module) -> str:
    for name, cls in (FAMILIES | TOKENIZERS).items():
        if type(model) is cls:
            return name
    raise ValueError(f"{type(model).__name__} is in no family; families are {sorted(FAMILIES | TOKENIZERS)}")


def save(
    model: nn.Module,
    path: str | Path,
    *,
    half: bool = False,
    card: dict[str, Any] | None = None,
) -> None:
    """Writes `model` to `path`, whole or not at all.

    half: float16 weights, for publishing. card: how it was made (command, data, hardware, scores); JSON.
    """
    path = Path(path)
    tensors = {
        name: (t.half() if half and t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in model.state_dict().items()
    }
    header = {
        "format": FORMAT,
        "family": family_of(model),
        "config": json.dumps(model.config.to_dict()),
        "card": json.dumps(card or {}, separators=(",", ":")),  # cards nest: without blanks a tenth smaller
    }
    data = serialize(tensors, metadata=header)
    write_whole(path, lambda file: file.write(data))


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file under a temporary name, syncs it, renames it, syncs the folder: it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        if hasattr(os, "O_DIRECTORY"):
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def hub_source(source: str | Path) -> tuple[str, str | None] | None:
    """("owner/repo", revision or None) of what is a name on the Hub and no path here; else None."""
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", str(source))
    if match is None or Path(source).exists() or str(source).endswith(".safetensors"):
        return None
    return match[1], match[2]


def name_of(source: str | Path) -> str:
    """What to call a source: digits.safetensors digits, runs/a and runs/a/model.safetensors a, owner/repo as it is."""
    if hub := hub_source(source):
        return hub[0]
    path = Path(source).resolve()
    return path.parent.name if path.name == FILE_NAME else path.name.removesuffix(".safetensors")


def is_pinned(source: str | Path) -> bool:
    """Whether a source stays what it is: all do but a Hub repository without a commit's 40 digits."""
    hub = hub_source(source)
    return hub is None or re.fullmatch("[0-9a-f]{40}", hub[1] or "") is not None


def find(source: str | Path) -> Path:
    """A local file, a run's folder, or "owner/repo[@revision]" on the Hub -> a local file."""
    path = Path(source)
    if path.is_dir():
        path = path / FILE_NAME
    if path.is_file():
        return path
    if (hub := hub_source(source)) is None:
        raise FileNotFoundError(f"no model at {source}: give a .safetensors file, a run's folder or owner/repo")
    from huggingface_hub import hf_hub_download

    repo, revision = hub
    with _plain_hub_errors(repo, revision):
        return Path(hf_hub_download(repo, FILE_NAME, revision=revision))


@contextmanager
def _plain_hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """What the Hub's client raises inside becomes a CheckpointError of one sentence."""
    from huggingface_hub import errors

    try:
        yield
    except CheckpointError:
        raise
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(_sentence(error, repo, revision)) from error


def _sentence(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # the answer behind "not in the cache either"
    status = getattr(getattr(error, "response", None), "status_code", None)
    name = f"{repo}@{revision}" if revision else repo
    match error:
        case errors.HFValidationError():
            return NO_REPO.format(repo)
        case errors.RevisionNotFoundError():
            return f"{repo} has no revision {revision or 'main'}"
        case errors.LocalEntryNotFoundError():
            return f"the Hub cannot be reached, and no copy of {name} is stored here"
        case errors.EntryNotFoundError():
            return f"{name} holds no {FILE_NAME}"
        case errors.HfHubHTTPError() if status in (401, 403, 404):
            return f"the Hub has no {repo}, or not for you ({status}): check the name, or `hf auth login`"
        case errors.HfHubHTTPError():
            return f"the Hub answered {status} for {name}"
        case errors.HTTPError() | ConnectionError():
            return f"the Hub cannot be reached for {name}"
    return f"{name}: {type(error).__name__}: {' '.join(str(error).split())}"


def read_header(path: Path) -> dict[str, Any]:
    """family, config (dict), card (dict), format; refuses what is not ours."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        missing = {"format", "family", "config"} - set(header)
        if missing:
            raise CheckpointError(f"{path.name} is no model of this project: its header lacks {sorted(missing)}")
        config, card = json.loads(header["config"]), json.loads(header.get("card", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path.name} is not a readable safetensors file: {error}") from error
    if header["format"] != FORMAT:
        raise CheckpointError(f"{path.name} has format {header['format']}, this version reads {FORMAT}")
    if header["family"] not in CONFIGS:
        raise CheckpointError(f"{path.name} is of family {header['family']!r}, known are {sorted(CONFIGS)}")
    if not isinstance(card, dict):
        raise CheckpointError(f"{path.name} has a {type(card).__name__} for a card, which must be a JSON object")
    return {"format": FORMAT, "family": header["family"], "config": config, "card": card}


def weights_hash(path: Path) -> str:
    """12 hex digits that name a file's tensors, family and config, but not its card.

    The same weights at another precision are another file, with other digits. Raises as `read_header`.
    """
    header = read_header(path)
    with open(path, "rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        del tensors["__metadata__"]
        named = json.dumps([header["family"], header["config"], tensors], sort_keys=True)
        return hashlib.file_digest(file, lambda: hashlib.sha256(named.encode())).hexdigest()[:12]


def load_any(source: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """`load` for tokenizers too."""
    path = find(source)
    header = read_header(path)
    try:
        config = CONFIGS[header["family"]].from_dict(migrated(header["family"], header["config"]))
        model = build(header["family"], config)
        expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        with safe_open(path, framework="pt", device=str(device)) as file:
            held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if held != expected:
                wrong = sorted(set(held.items()) ^ set(expected.items()))[0][0]
                raise CheckpointError(f"{path.name} does not fit its own config, first at {wrong!r}")
            tensors = {name: file.get_tensor(name) for name in held}
    except (TypeError, ValueError, SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path.name} cannot be loaded: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path.name} holds values that are not finite, first in {name!r}")
    model.to(device).load_state_dict(tensors, strict=True)
    model.card, model.weights = header["card"], weights_hash(path)
    return model.eval()


def load(source: str | Path, device: torch.device | str = "cpu", *, compile: bool = False) -> Predictor:
    """Loads a predictor in eval mode from a file, a run's folder or "owner/repo[@revision]" on the Hub.

    Its `card` says how it was made, its `weights` is the file's `weights_hash`. compile: see `Predictor.compile_step`.
    Raises CheckpointError when the file is no predictor or the Hub does not give it, FileNotFoundError when
    there is none.
    """
    model = load_any(source, device)
    if not isinstance(model, Predictor):
        raise CheckpointError(f"{source} holds a {type(model).__name__}, which predicts nothing by itself")
    if compile:
        model.compile_step()
    return model


def push_to_hub(
    source: str | Path | Predictor,
    repo: str,
    *,
    private: bool = False,
    branch: str | None = None,
    token: str | None = None,
    message: str = "Weights and model card",
) -> str:
    """Uploads a predictor and its model card in one commit; returns "owner/repo@commit", which `load` takes.

    source: what `load` takes, whose file goes up as it is, or a model. repo: made if there is none. private:
    refuses a repository that others can see. token: default is the machine's (`hf auth login`, HF_TOKEN).
    Raises ValueError when the source is no predictor, CheckpointError when the Hub refuses; then no file of it is
    there.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise CheckpointError(NO_REPO.format(repo))
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(source, nn.Module):
            path = Path(folder) / FILE_NAME
            save(source, path, card=dict(getattr(source, "card", {})))
        else:
            path = find(source)
        card = model_card(read_header(path), load(path), repo)
        files = {FILE_NAME: path, "README.md": card.encode()}
        with _plain_hub_errors(repo, branch):
            api = HfApi(token=token)
            api.create_repo(repo, private=private, exist_ok=True)
            if private and not api.model_info(repo).private:
                raise CheckpointError(f"{repo} is public already: make it private there, or publish without private")
            if branch:
                api.create_branch(repo, branch=branch, exist_ok=True)
            operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=file) for name, file in files.items()]
            commit = api.create_commit(repo, operations, commit_message=message, revision=branch)
    return f"{repo}@{commit.oid}"
