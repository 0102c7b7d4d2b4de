"""The families by name; adding one is adding a line here."""

from __future__ import annotations

from stt.api import Config, Predictor, Tokenizer
from stt.models.stt import STT, STTConfig
from stt.models.timesformer import TimeSformer, TimeSformerConfig
from stt.tokenizer import FrameVQ, FrameVQConfig

FAMILIES: dict[str, type[Predictor]] = {"stt": STT, "timesformer": TimeSformer}
TOKENIZERS: dict[str, type[Tokenizer]] = {"frame_vq": FrameVQ}
CONFIGS: dict[str, type[Config]] = {"stt": STTConfig, "timesformer": TimeSformerConfig, "frame_vq": FrameVQConfig}
