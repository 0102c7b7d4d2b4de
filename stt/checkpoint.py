"""A model as one safetensors file: weights, and a header with its family, config and card."""

from __future__ import annotations

import hashlib
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
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from stt.api import CompilesStep, Config, Model, Predictor
from stt.hub import FILE_NAME, NO_REPO, CheckpointError, download, hub_source, upload
from stt.migrations import migrated, migrated_weights
from stt.model_card import model_card, provenance
from stt.registry import CONFIGS, FAMILIES, TOKENIZERS

FORMAT = "1"
MAX_NESTING = 100  # levels of a header's config and card
MAX_NAME = 255  # bytes of a part of a path
MAX_HEADER = 8 * 2**20  # bytes; those of shipped files have 30,000
SPARE_BYTES = 64 * 2**20  # of buffers that a file does not hold, such as masks and tables


def build(family: str, config: Config) -> Model:
    return (FAMILIES | TOKENIZERS)[family](config)


def family_of(model: nn.Module) -> str:
    for name, cls in (FAMILIES | TOKENIZERS).items():
        if type(model) is cls:
            return name
    raise ValueError(f"{type(model).__name__} is in no family; families are {sorted(FAMILIES | TOKENIZERS)}")


def save(
    model: Model,
    path: str | Path,
    *,
    half: bool = False,
    card: dict[str, Any] | None = None,
) -> None:
    """Writes `model` to `path`, whole or not at all.

    half: float16 weights, for publishing; buffers, such as a codebook's counts, keep their precision. card: how it was
    made (command, data, hardware, scores); JSON.
    """
    path, buffers = Path(path), {name for name, _ in model.named_buffers()}
    tensors = {
        name: (t.half() if half and t.is_floating_point() and name not in buffers else t).detach().cpu().contiguous()
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


def check_writable(path: Path, *, folder: bool = False) -> None:
    """Raises ValueError before the work, not after it, where a file cannot be written.

    Its folder must exist. folder: `path` is a folder, which may be missing together with those above it.
    """
    name = str(path)
    if "\0" in name or any(len(os.fsencode(part)) > MAX_NAME for part in path.parts):
        raise ValueError(f"{name[:40]!r} cannot be written: no file can have this name.")
    place = path.absolute() if folder else path.absolute().parent
    if folder:
        while not place.exists() and place != place.parent:
            place = place.parent
    elif path.is_dir():
        raise ValueError(f"{path} is a folder.")
    if folder and not place.is_dir():
        raise ValueError(f"{path} cannot be made: {place.name} is a file, not a folder.")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}.") from None


def name_of(source: str | Path) -> str:
    """What to call a source: digits.safetensors digits, runs/a and runs/a/model.safetensors a, owner/repo as it is."""
    if hub := hub_source(source):
        return hub[0]
    path = Path(os.path.realpath(source))  # a link to itself is its own name; Path.resolve raises
    return path.parent.name if path.name == FILE_NAME else path.name.removesuffix(".safetensors")


def find(source: str | Path) -> Path:
    """A local file, a run's folder, or "owner/repo[@revision]" on the Hub -> a local file."""
    path = Path(source)
    if os.path.isdir(path):  # methods of Path raise for a name that no file can have
        path = path / FILE_NAME
    if os.path.isfile(path):
        return path
    if (hub := hub_source(source)) is None:
        raise FileNotFoundError(f"no model at {source}: give a .safetensors file, a run's folder or owner/repo")
    return download(*hub)


def read_header(path: Path) -> dict[str, Any]:
    """family, config (dict), card (dict), format; refuses what is not ours."""
    try:
        with open(path, "rb") as raw:
            if (size := int.from_bytes(raw.read(8), "little")) > MAX_HEADER:
                raise ValueError(f"its header has {size:,} bytes, at most {MAX_HEADER:,} are read")
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        missing = {"format", "family", "config"} - set(header)
        parts = {} if missing else {name: json.loads(header.get(name, "{}")) for name in ("config", "card")}
    except (SafetensorError, OSError, ValueError) as error:  # or JSON that Python cannot read
        raise CheckpointError(f"{path.name} is not a readable safetensors file: {one_line(error)}") from error
    except RecursionError:
        raise CheckpointError(f"{path.name} has a header that nests deeper than {MAX_NESTING} levels") from None
    if missing:
        raise CheckpointError(f"{path.name} is no model of this project: its header lacks {sorted(missing)}")
    if header["format"] != FORMAT:
        raise CheckpointError(f"{path.name} has format {header['format'][:20]}, this version reads {FORMAT}")
    if header["family"] not in CONFIGS:
        raise CheckpointError(f"{path.name} is of family {header['family'][:40]!r}, known are {sorted(CONFIGS)}")
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise CheckpointError(f"{path.name} has a {type(part).__name__} for a {name}, which must be a JSON object")
        if nesting(part) > MAX_NESTING:
            raise CheckpointError(f"{path.name} has a {name} that nests deeper than {MAX_NESTING} levels")
    if wrong := card_fault(parts["card"]):
        raise CheckpointError(f"{path.name} has a card whose {wrong}")
    return {"format": FORMAT, "family": header["family"], **parts}


def card_fault(card: dict[str, Any]) -> str:
    """What a card's parts that are read by programs must be, "" where they are that."""
    world, scores = card.get("world", {}), card.get("scores") or {}
    for name, part in {"world": world, "scores": scores}.items():
        if not isinstance(part, dict):
            return f"{name} is a {type(part).__name__}, must be an object"
    if wrong := next((name for name, part in scores.items() if not isinstance(part, dict)), None):
        return f"score {wrong[:40]!r} is no object"
    figures = {f"world's {name}": world.get(name, 1) for name in ("stride", "fps")}
    figures |= {f"surprise's {name}": scores.get("surprise", {}).get(name, 1) for name in ("frame_p99", "largest_p99")}
    figures |= {name: card.get(name, 1) for name in ("minutes", "steps", "clips")}
    for name, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            return f"{name} is no number of 0 or more"
    if not isinstance(card.get("command", ""), str):
        return "command is no text"
    try:
        provenance(card)
    except Exception:  # of figures that are no numbers, lists that are none, ...
        return "figures cannot be shown"
    return ""


def nesting(value: Any) -> int:
    """How deep dicts and lists lie in each other."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth, level = depth + 1, [item for v in level for item in (v.values() if isinstance(v, dict) else v)]
    return depth


def one_line(error: BaseException) -> str:
    """The message of an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    if not text or not isinstance(error, OSError | ValueError | SafetensorError):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 300 else f"{text[:297]}..."


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


def with_card(path: Path, card: dict[str, Any]) -> bytes:
    """The file with another card. Its tensors stay as they are, bit for bit, and so does its `weights_hash`."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        header["__metadata__"]["card"] = json.dumps(card, separators=(",", ":"))
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + file.read()


class ShapesOnly(TorchFunctionMode):
    """On the device "meta", leaves out operations for which PyTorch would import its compiler: that takes a second."""

    LEFT_OUT = (Tensor.normal_, nn.init.normal_, Tensor.mul)  # of a tensor and numbers: its shape stays

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self.LEFT_OUT:
            first, *others = [*args, *kwargs.values()]
            if first.is_meta and not any(isinstance(other, Tensor) for other in others):
                return first
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def expected_shapes(family: str, config: Config, limit: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's tensors by name, without memory for them: a file's header is not to be trusted.

    Raises ValueError as soon as there are more than `limit` parameters.
    """
    count = 0

    def check(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > limit:
            raise ValueError(f"it does not fit its own config, which needs more than its {limit} tensors")

    hook = register_module_parameter_registration_hook(check)
    try:
        with torch.device("meta"), ShapesOnly():
            model = build(family, config)
        held = model.state_dict()
        others = sum(t.numel() * t.element_size() for name, t in model.named_buffers() if name not in held)
        if others > SPARE_BYTES:
            raise ValueError(f"its config needs {others:,} bytes of tables, at most {SPARE_BYTES:,} are allowed")
        return {name: tuple(t.shape) for name, t in held.items()}
    finally:
        hook.remove()


def load_any(source: str | Path, device: torch.device | str = "cpu") -> Model:
    """`load` for tokenizers too."""
    device, path = usable_device(device), find(source)
    header = read_header(path)
    try:
        model = read_model(path, header, device)
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a header and tensors of a stranger may break a network anywhere
        raise CheckpointError(f"{path.name} cannot be loaded: {one_line(error)}") from error
    model.card, model.weights_hash = header["card"], weights_hash(path)
    return model.eval()


def read_model(path: Path, header: dict[str, Any], device: torch.device) -> Model:
    """The network of a file with its weights. Raises CheckpointError and whatever a wrong config breaks."""
    family = header["family"]
    config = CONFIGS[family].from_dict(migrated(family, header["config"]))
    with safe_open(path, framework="pt", device=str(device)) as file:
        names = migrated_weights(family, file.keys())
        shapes = {new: tuple(file.get_slice(old).get_shape()) for old, new in names.items()}
        expected = expected_shapes(family, config, limit=len(shapes))
        if shapes != expected:
            wrong = sorted(set(shapes.items()) ^ set(expected.items()))[0][0]
            raise CheckpointError(f"{path.name} does not fit its own config, first at {wrong!r}")
        tensors = {new: file.get_tensor(old) for old, new in names.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(f"{path.name} holds values that are not finite, first in {name!r}")
    model = build(family, config).to(device)
    model.load_state_dict(tensors, strict=True)
    return model


def usable_device(name: torch.device | str) -> torch.device:
    """The device of this name. Raises ValueError where this machine has none."""
    try:
        device = torch.device(name)
        if device.type == "cuda":  # asks without touching it: a GPU that is lent later is not there yet
            usable = torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
        else:
            usable = torch.zeros(1, device=device).tolist() == [0]
    except (RuntimeError, AssertionError, NotImplementedError):
        usable = False
    if not usable:
        raise ValueError(f"This machine has no device {name}; cpu is one.")
    return device


def load(source: str | Path, device: torch.device | str = "cpu", *, compile: bool = False) -> Predictor:
    """Loads a predictor in eval mode from a file, a run's folder or "owner/repo[@revision]" on the Hub.

    Its `card` says how it was made, its `weights_hash` which file it came from. compile: see `stt.api.CompilesStep`.
    Raises CheckpointError when the file is no predictor or the Hub does not give it, FileNotFoundError when
    there is none, ValueError when this machine does not have the device.
    """
    model = load_any(source, device)
    if not isinstance(model, Predictor):
        raise CheckpointError(f"{source} holds a {type(model).__name__}, which predicts nothing by itself")
    if compile and isinstance(model, CompilesStep):
        model.compile_step()
    return model


def push_to_hub(source: str | Path | Predictor, repo: str, **options: Any) -> str:
    """Uploads a predictor and its model card in one commit; returns "owner/repo@commit", which `load` takes.

    source: what `load` takes, whose file goes up as it is, or a model. options: those of `hub.upload`. Raises
    ValueError when the source is no predictor, CheckpointError when the Hub refuses; then no file of it is there.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise CheckpointError(NO_REPO.format(repo))
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(source, nn.Module):
            path = Path(folder) / FILE_NAME
            save(source, path, card=dict(source.card) if isinstance(source, Predictor) else None)
        else:
            path = find(source)
        card = model_card(read_header(path), load(path), repo)
        return upload({FILE_NAME: path, "README.md": card.encode()}, repo, **options)
