"""Files of earlier versions in today's terms: fields of configs, names of weights, names of scores."""

from __future__ import annotations

import re
from collections.abc import Iterable
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
    "videogpt": {"dropout": None},  # of training alone
    "dct": {"clip": (0,)},
    "frame_vq": {
        "reference": (False,),
        "codebook_size": None,  # of a vector-quantized codebook; `levels` says whether a file has one
        "code_dim": None,
        "commitment": None,
    },
}
RENAMED = {
    "stt": {"own_past": "scheduled_sampling"},
    "layered": {"drawn_frames": "composited_frames"},
    "videogpt": {"drop_frames": "drop_context", "own_past": "reconstruct_context"},
}
NESTED = {  # fields that hold the config of another family
    "stt": {"tokenizer": "frame_vq"},
    "transframer": {"dct": "dct"},
    "videogpt": {"tokenizer": "video_vq"},
}

# By family: names of weights, old pattern and new name; the first pattern that matches counts
WEIGHTS: dict[str, dict[str, str]] = {
    "stt": {
        r"segmenter\.enter\.": "tokens.segmenter.unet.stem.",
        r"segmenter\.fine\.": "tokens.segmenter.unet.blocks.0.",
        r"segmenter\.middle\.": "tokens.segmenter.unet.blocks.1.",
        r"segmenter\.coarse\.": "tokens.segmenter.unet.blocks.2.",
        r"segmenter\.down\.": "tokens.segmenter.unet.down.0.",
        r"segmenter\.down_again\.": "tokens.segmenter.unet.down.1.",
        r"segmenter\.up\.": "tokens.segmenter.unet.ups.1.0.",
        r"segmenter\.up_again\.": "tokens.segmenter.unet.ups.0.0.",
        r"segmenter\.middle_again\.": "tokens.segmenter.unet.decoders.1.",
        r"segmenter\.fine_again\.": "tokens.segmenter.unet.decoders.0.",
        r"segmenter\.leave\.": "tokens.segmenter.unet.head.",
        r"tokenizer\.": "tokens.tokenizer.",
        r"target\.": "tokens.target.",
        r"head\.": "tokens.head.",
        r"go_on\.": "tokens.persistence.",
        r"act\.": "network.embed_action.",
    },
    "layered": {
        r"(segmenter|compositor)\.unet\.up\.": r"\1.unet.ups.0.1.",
        r"(segmenter|compositor)\.unet\.decoder\.": r"\1.unet.decoders.0.",
    },
    "motion_gpt": {
        r"(tokenizer|past|codes|pixels|neighbours|moved_on|blocks|norm|motion|residuals)\.": r"gpt.\1.",
        r"(rows|columns|begin)$": r"gpt.\1",
    },
    "timesformer": {r"(embed|embed_matches|head)\.": r"tokens.\1."},
}

# Scores of earlier files: names of protocols; patterns in names of figures and in descriptions, the new names
PROTOCOLS = {
    "truth": "simulated_futures",
    "motion": "motion_likelihood",
    "classes": "class_conditional",
    "moves": "pusher_distribution",
    "obedience": "action_following",
    "turns": "steering",
}
FIGURES = {
    r"\bjudge\b": "classifier",
    r"\bmotion told\b": "motion",
    r"`told`: steering at \+1 or -1": "`+1`, `-1`: steering",
    r"\btold\b": "conditioned",
    r"\bfree\b": "unconditional",
    r"\basked digits\b": "digits",
    r"\bpusher seen\b": "pusher visible",
    r"^ignorance$": "uniform",
    r"^world$": "oracle",
}


def migrated(family: str, config: dict[str, Any]) -> dict[str, Any]:
    """A file's config as its family has it today; ValueError where a value needs what is gone."""
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


def migrated_weights(family: str, names: Iterable[str]) -> dict[str, str]:
    """Names of a file's tensors -> their names in today's network."""
    names, patterns = list(names), WEIGHTS.get(family, {})
    if family == "stt":  # one name for two things
        embed = "embed_motion" if any(name.startswith("segmenter.") for name in names) else "embed_codes"
        patterns = patterns | {r"embed\.": f"tokens.{embed}."}
    renamed = {}
    for name in names:
        pattern = next((old for old in patterns if re.match(old, name)), None)
        renamed[name] = re.sub(f"^{pattern}", patterns[pattern], name) if pattern else name
    return renamed


def migrated_scores(scores: dict[str, Any]) -> dict[str, Any]:
    """A file's scores, by protocol, under today's names."""
    return {PROTOCOLS.get(name, name): _migrated_figures(figures) for name, figures in scores.items()}


def _migrated_figures(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {_migrated_figures(name): _migrated_figures(value) for name, value in figures.items()}
    if isinstance(figures, str):
        for old, new in FIGURES.items():
            figures = re.sub(old, new, figures)
    return figures
