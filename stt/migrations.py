"""Configs of files that earlier versions wrote, in today's terms: tables of the fields that are gone or renamed."""

from __future__ import annotations

from typing import Any

# By family: a field that is gone and the values that load without it, None for any. A field that goes is added here.
REMOVED: dict[str, dict[str, tuple[Any, ...] | None]] = {
    "stt": {
        "objective": ("stt",),
        "transport": (False,),
        "refine_depth": (0,),
        "keep": (False,),
        "steps": None,  # of a refiner
        "code_temperature": None,
        "worn_past": None,  # of training alone
    },
    "frame_vq": {"reference": (False,)},
}
RENAMED = {"stt": {"own_past": "scheduled_sampling"}}
NESTED = {"stt": {"tokenizer": "frame_vq"}}  # fields that hold the config of another family


def migrated(family: str, config: dict[str, Any]) -> dict[str, Any]:
    """A file's config as its family has it today; ValueError where a value asks for what is gone."""
    config = dict(config)
    for name, loads in REMOVED.get(family, {}).items():
        if name in config and loads is not None and config[name] not in loads:
            raise ValueError(f"{name} is {config[name]!r}, which this version of the family {family} no longer has")
        config.pop(name, None)
    for old, new in RENAMED.get(family, {}).items():
        if old in config:
            config[new] = config.pop(old)
    for name, other in NESTED.get(family, {}).items():
        if isinstance(config.get(name), dict):
            config[name] = migrated(other, config[name])
    return config
