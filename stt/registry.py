"""Families and their configs, by name. A new family needs a line in each table."""

from __future__ import annotations

from stt.api import Config, Predictor, Tokenizer
from stt.models.layered import Layered, LayeredConfig
from stt.models.motion_gpt import MotionGPT, MotionGPTConfig
from stt.models.stt import STT, STTConfig
from stt.models.timesformer import TimeSformer, TimeSformerConfig
from stt.models.transframer import Transframer, TransframerConfig
from stt.models.videogpt import VideoGPT, VideoGPTConfig
from stt.motion_codes import MotionVQ, MotionVQConfig
from stt.tokenizer import FrameVQ, FrameVQConfig, VideoVQ, VideoVQConfig

FAMILIES: dict[str, type[Predictor]] = {
    "layered": Layered,
    "motion_gpt": MotionGPT,
    "stt": STT,
    "timesformer": TimeSformer,
    "transframer": Transframer,
    "videogpt": VideoGPT,
}
TOKENIZERS: dict[str, type[Tokenizer]] = {"frame_vq": FrameVQ, "motion_vq": MotionVQ, "video_vq": VideoVQ}
CONFIGS: dict[str, type[Config]] = {
    "layered": LayeredConfig,
    "motion_gpt": MotionGPTConfig,
    "stt": STTConfig,
    "timesformer": TimeSformerConfig,
    "transframer": TransframerConfig,
    "videogpt": VideoGPTConfig,
    "frame_vq": FrameVQConfig,
    "motion_vq": MotionVQConfig,
    "video_vq": VideoVQConfig,
}
