"""The types that every part of the project shares: pixels in, pixels out.

    Video = (B, T, C, H, W) float32 in [-1, 1]     the only layout outside a model family

Tokens of any kind stay private to the family that makes them.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, NoneType
from typing import Any, ClassVar, NamedTuple, Protocol, Self, get_args, get_origin, get_type_hints, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Video = Tensor  # (B, T, C, H, W) float32 in [-1, 1]

WHOLE_SIZE = 512  # pixels of the longer side of frames, for models that take whole ones
MAX_SEED = 2**31 - 1  # exact in a browser's number field
MAX_SIZE = 2**16  # of a config's whole numbers: no network is larger, and a header is not to be trusted
MAY_BE_ZERO = {"background", "blocks", "gaussian_grid", "reach", "rounds"}  # and fields whose default is 0


@dataclass(frozen=True, kw_only=True)
class Config:
    """The sizes and options of a network. Its checkpoint stores it as JSON.

    Raises ValueError for a value that is not of its field's type or that no network can have.
    """

    image_size: int = 64
    channels: int = 1

    def __post_init__(self) -> None:
        hints = _type_hints(type(self))  # type: ignore[arg-type]  # mypy takes a class for one of its instances
        for field in dataclasses.fields(self):
            if wrong := _fault(getattr(self, field.name), hints[field.name], field):
                raise ValueError(f"{field.name} is {_short(getattr(self, field.name))}, must be {wrong}")
        dim, heads = getattr(self, "dim", 1), getattr(self, "heads", 1)
        if dim % heads:
            raise ValueError(f"dim is {dim}, must be a multiple of heads, which is {heads}")
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}, must be 1 (gray) or 3 (colour)")
        if not 8 <= self.image_size <= 4096:
            raise ValueError(f"image_size is {self.image_size}, must be 8 to 4096")

    def check_shares(self, *names: str) -> None:
        """Raises ValueError unless each of these fields is between 0 and 1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be between 0 and 1")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds a config from JSON values; lists become tuples, nested dicts nested configs."""
        if not isinstance(values, dict):
            raise ValueError(f"a config is {_short(values)}, must be an object")
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ValueError(f"{cls.__name__} does not know {_short(unknown)}; it knows {sorted(fields)}")
        nested = cls.nested()
        kwargs: dict[str, Any] = {}
        for name, value in values.items():
            if name in nested and isinstance(value, dict):
                value = nested[name].from_dict(value)
            kwargs[name] = tuple(value) if isinstance(value, list) else value
        return cls(**kwargs)

    @classmethod
    def nested(cls) -> dict[str, type[Config]]:
        """Fields that hold another config, e.g. the frozen tokenizer's."""
        return {}


@cache
def _type_hints(cls: type[Config]) -> dict[str, Any]:
    return get_type_hints(cls)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fault(value: Any, hint: Any, field: dataclasses.Field[Any]) -> str:
    """What the value of a field of this type must be, "" where it is that."""
    if NoneType in get_args(hint):
        return "" if value is None else _fault(value, get_args(hint)[0], field)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return "a list"
        if not value and field.default != ():
            return "a list of one or more"
        return next((f"a list, each {wrong}" for v in value if (wrong := _fault(v, get_args(hint)[0], field))), "")
    if hint is int:
        least = 0 if field.default == 0 or field.name in MAY_BE_ZERO else 1
        whole = isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_SIZE
        return "" if whole else f"a whole number from {least} to {MAX_SIZE}"
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return "" if number else "a number"
    names: dict[Any, str] = {bool: "true or false", str: "a text"}
    return "" if isinstance(value, hint) else names.get(hint, f"a {getattr(hint, '__name__', hint)}")


@dataclass(frozen=True, kw_only=True)
class PredictorConfig(Config):
    """The fields that the app and `rollout` read from every predictor."""

    context_frames: int = 20  # frames of a prompt that are used: its last ones
    chunk_frames: int = 1  # frames that one step returns
    actions: tuple[str, ...] = ()  # a name for each number of an action, for controls; numbers are from -1 to 1


@dataclass(frozen=True)
class Batch:
    """B clips of T frames, and annotations; a field is None where the data set lacks it.

    Poses are relative to a reference frame, which is one of the first R frames of the clip. `stt.sprites` defines poses
    and segmentations.
    """

    video: Video  # (B, T, C, H, W)
    actions: Tensor | None = None  # (B, T, A) in [-1, 1]; action t leads from frame t to frame t + 1, the last to none
    labels: Tensor | None = None  # (B, L) int64 classes that a clip shows, -1 for none
    maps: Tensor | None = None  # (B, M, T, C, H, W) M images aligned with each frame, such as segmentations
    poses: Tensor | None = None  # (B, R, T, K, 4) pose of sprite k at frame t relative to reference frame r
    segmentation: Tensor | None = None  # (B, R, H, W) int64 sprite of each pixel of a reference frame
    off_policy: Tensor | None = None  # (B,) bool, clips whose actions a policy must not imitate
    flow: Tensor | None = None  # (B, T, 2, H, W) backward optical flow of each frame, 0 for the first

    def __len__(self) -> int:
        return len(self.video)

    def to(self, device: torch.device | str) -> Batch:
        parts: dict[str, Any] = {name: part if part is None else part.to(device) for name, part in vars(self).items()}
        return Batch(**parts)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a prediction follows beside its prompt. A predictor's `knobs` names the fields that it takes."""

    labels: tuple[int, ...] = ()  # classes to generate from nothing, -1 for any; empty: the prompt is continued
    actions: tuple[tuple[float, ...], ...] = ()  # one a new frame, the last is repeated; empty: the model chooses

    def __post_init__(self) -> None:
        if any(label < -1 for label in self.labels):
            raise ValueError(f"labels are {self.labels}, each must be a class or -1 (any)")
        if len({len(row) for row in self.actions}) > 1 or not all(-1 <= v <= 1 for row in self.actions for v in row):
            raise ValueError(f"actions are {self.actions}, must be rows of equal length, of numbers between -1 and 1")

    def action(self, frame: int) -> tuple[float, ...] | None:
        """The action that leads to this frame of the future, counted from 0; None leaves it to the model."""
        return self.actions[min(frame, len(self.actions) - 1)] if self.actions else None


NO_CONDITION = Condition()


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How futures are drawn. A predictor's `knobs` names the fields that change its futures."""

    temperature: float = 1.0  # 0 is deterministic
    top_k: int = 0  # 0 keeps every code
    top_p: float = 1.0  # 1 keeps every code

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}, must be 0 or more")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}, must be 0 (keep all) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}, must be above 0 and at most 1")


class PredictedFrames(NamedTuple):
    """Frames that a loss compares, both (B, T, C, H, W)."""

    predicted: Tensor
    true: Tensor


class Loss(NamedTuple):
    total: Tensor  # scalar to differentiate
    parts: dict[str, Tensor]  # detached scalars for the log
    frames: PredictedFrames | None = None  # of a predictor that predicts pixels


class Codes(NamedTuple):
    ids: Tensor  # (..., G) int64, one index per code group
    latents: Tensor  # (..., D) the codebook's vectors of the ids; straight-through gradient
    loss: Tensor  # scalar commitment loss (zero where there is none)


class Surprise(NamedTuple):
    """Negative log-likelihood of each frame but the first, given the frames before it."""

    bits: Tensor  # (B, T-1) bits per pixel and channel
    per_cell: Tensor  # (B, T-1, h, w) bits per pixel and channel of each cell of a grid; their mean is `bits`


class Noise(Protocol):
    """Source of randomness with one independent stream per future."""

    @property
    def futures(self) -> int: ...

    def normal(self, *shape: int) -> Tensor:
        """(futures, *shape) standard normal."""
        ...

    def gumbel(self, *shape: int) -> Tensor:
        """(futures, *shape) standard Gumbel."""
        ...


class Model(nn.Module, ABC):
    """A network that the trainer can train."""

    config: Config
    card: Mapping[str, Any] = MappingProxyType({})  # how it was made and scored; stt.checkpoint.load sets it
    weights_hash: str = ""  # of the file that it came from; stt.checkpoint.load sets it

    @abstractmethod
    def loss(self, batch: Batch) -> Loss:
        """Training loss of clips. It reads the fields that the family needs and ignores the others.

        Noise comes from torch's global generator.
        """

    def prepare(self, batch: Batch) -> Batch:
        """Adds to clips on the CPU what `loss` needs and no weight changes.

        The trainer calls it in the background, so that neither the step nor a GPU waits. `loss` computes what is
        missing.
        """
        return batch

    def begin_step(self, step: int) -> None:
        """Chooses what all clips of a training step share, such as the length of the context.

        The choice depends on `step` alone, so that all processes make the same one and none waits. It is made outside
        `loss`, so that `loss` compiles as a whole. It holds until the next call; before the first call, `loss` uses
        the value that the constructor sets.
        """


class Tokenizer(Model):
    """Frames <-> codes. `encode` and `decode` are inverse up to the reconstruction error."""

    @property
    def slice_frames(self) -> int:
        """Frames that are coded together. The number of a clip's frames is a multiple of it."""
        return 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each group."""
        sizes: tuple[int, ...] = self.get_submodule("quantizer").sizes  # type: ignore[assignment]
        return sizes

    @abstractmethod
    def encode(self, video: Video) -> Codes: ...

    @abstractmethod
    def decode(self, latents: Tensor) -> Video: ...

    def reconstructed(self, video: Video) -> Video:
        """Encodes and decodes clips (B, T, C, H, W). The result is not clamped."""
        return self.decode(self.encode(video).latents)

    def loss(self, batch: Batch) -> Loss:
        codes = self.encode(batch.video)
        mse = F.mse_loss(self.decode(codes.latents).float(), batch.video)
        return Loss(mse + codes.loss, {"mse": mse.detach(), "commitment": codes.loss.detach()})


class Predictor(Model):
    """A model that continues a clip. In `start` and `step` randomness enters only as `noise`."""

    family: ClassVar[str]
    knobs: frozenset[str]  # fields of Sampling and of Condition that change the result
    config: PredictorConfig
    random_actions_only = False  # without chance once the action is given: all futures are the same
    whole_frames = False  # takes frames of any size, best up to WHOLE_SIZE, else squares of image_size

    @property
    def frozen_tokenizer(self) -> Tokenizer | None:
        """The tokenizer whose codes the network predicts, if there is one."""
        return next((part for part in self.modules() if isinstance(part, Tokenizer)), None)

    @abstractmethod
    def start(self, context: Video, condition: Condition = NO_CONDITION) -> Any:
        """Encodes prompts (B, T >= 1, C, H, W) once; the state feeds `step`."""

    @abstractmethod
    def step(self, state: Any, sampling: Sampling, noise: Noise) -> tuple[Video, Any]:
        """Returns the next chunk (B, chunk_frames, C, H, W) and the state after it, and does not change `state`.

        B is `noise.futures`; a state of batch 1 serves any number of futures.
        """

    def follow(self, state: Any, condition: Condition) -> Any:
        """The state with another condition for the frames to come; for models that take actions."""
        return state._replace(condition=condition)


# ---- what only some families can do, tested with `isinstance` ------------------------------------------


@runtime_checkable
class Interpolates(Protocol):
    def frame(self, context: Video, offsets: Tensor, sampling: Sampling, noise: Noise) -> Video:
        """One frame (noise.futures, 1, C, H, W) given others (B, T, C, H, W) before and after it, B 1 or the futures.

        offsets (T,) are the others' times relative to it: -1 is the frame before it, 2 the second after it.
        """
        ...


@runtime_checkable
class HasLikelihood(Protocol):
    def surprise(self, video: Video) -> Surprise:
        """How unlikely each frame of clips (B, T >= 2, C, H, W) but the first is; the same on every call.

        The family says what is scored (its codes, or displacements and residuals; never pixels as such) and whether
        the bits are exact, a bound or an estimate. So bits of two families do not compare. Frames that are coded
        together share their bits evenly. T may exceed context_frames: the window slides. Raises ValueError below 2
        frames.
        """
        ...


@runtime_checkable
class CompilesStep(Protocol):
    def compile_step(self) -> None:
        """Compiles the function that `step` calls most often. The first calls then take longer, all later ones less."""
        ...
