"""Families and their configs, by name. A new family needs a line in each table."""

from __future__ import annotations

from stt.api import Config, Predictor, Tokenizer
from stt.models.layered import Layered, LayeredConfig
from stt.models.stt import STT, STTConfig
from stt.models.timesformer import TimeSformer, TimeSformerConfig
from stt.models.transframer import Transframer, TransframerConfig
from stt.models.videogpt import VideoGPT, VideoGPTConfig
from stt.tokenizer import FrameVQ, FrameVQConfig, VideoVQ, VideoVQConfig

FAMILIES: dict[str, type[Predictor]] = {
    "layered": Layered,
    "stt": STT,
    "timesformer": TimeSformer,
    "transframer": Transframer,
    "videogpt": VideoGPT,
}
TOKENIZERS: dict[str, type[Tokenizer]] = {"frame_vq": FrameVQ, "video_vq": VideoVQ}
CONFIGS: dict[str, type[Config]] = {
    "layered": LayeredConfig,
    "stt": STTConfig,
    "timesformer": TimeSformerConfig,
    "transframer": TransframerConfig,
    "videogpt": VideoGPTConfig,
    "frame_vq": FrameVQConfig,
    "video_vq": VideoVQConfig,
}
