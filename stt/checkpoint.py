"""One safetensors file is one runnable model: its header holds the family, the config and how it was made."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import nn

from stt.api import Config, Predictor
from stt.registry import CONFIGS, FAMILIES, TOKENIZERS

FORMAT = "1"
FILE_NAME = "model.safetensors"


class CheckpointError(ValueError):
    """A file that does not hold a model of ours; the message is one sentence."""


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
        "card": json.dumps(card or {}),
    }
    data = serialize(tensors, metadata=header)
    write_whole(path, lambda file: file.write(data))


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file under a temporary name, syncs it and renames it, so that it exists whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with open(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def find(source: str | Path) -> Path:
    """A local file, a run's folder, or "owner/repo[@revision]" on the Hub -> a local file."""
    path = Path(source)
    if path.is_dir():
        path = path / FILE_NAME
    if path.is_file():
        return path
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", str(source))
    if match is None or str(source).endswith(".safetensors"):
        raise FileNotFoundError(f"no model at {source}: give a .safetensors file, a run's folder or owner/repo")
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(match[1], FILE_NAME, revision=match[2]))


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
    return {"format": FORMAT, "family": header["family"], "config": config, "card": card}


def load_any(source: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """`load` for tokenizers too."""
    path = find(source)
    header = read_header(path)
    try:
        config = CONFIGS[header["family"]].from_dict(header["config"])
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
    return model.eval()


def load(source: str | Path, device: torch.device | str = "cpu") -> Predictor:
    """Loads a predictor in eval mode from a file, a run's folder or "owner/repo[@revision]" on the Hub.

    Raises CheckpointError when the file is no predictor, FileNotFoundError when there is none.
    """
    model = load_any(source, device)
    if not isinstance(model, Predictor):
        raise CheckpointError(f"{source} holds a {type(model).__name__}, which predicts nothing by itself")
    return model
