"""Tiny models that behave like the real ones."""

from __future__ import annotations

import pytest
import torch

from stt.api import Batch, Predictor, PredictorConfig
from stt.dct import DCTConfig
from stt.models.layered import LayeredConfig
from stt.models.motion_gpt import MotionGPTConfig
from stt.models.stt import STT, STTConfig
from stt.models.timesformer import TimeSformerConfig
from stt.models.transframer import TransframerConfig
from stt.models.videogpt import VideoGPTConfig
from stt.motion_codes import MotionVQConfig
from stt.registry import CONFIGS, FAMILIES
from stt.sprites import MAX_SPRITES
from stt.tokenizer import FrameVQConfig, VideoVQConfig

TINY_TOKENIZER = FrameVQConfig(image_size=16, patch=2, widths=(8, 16), levels=(5, 5, 4))
TINY = STTConfig(
    image_size=16, tokenizer=TINY_TOKENIZER, context_frames=6, dim=32, depth=2, heads=2, mlp_ratio=2,
    gaussian_grid=(1, 2), gaussian_dim=4,
)  # fmt: skip
TINY_LAYERS = STTConfig(
    image_size=16, layers=2, reach=2, segmenter_width=16, context_frames=6, dim=32, depth=2, heads=2, mlp_ratio=2,
    gaussian_grid=(0, 0),
)  # fmt: skip
TINY_FLOWS = STTConfig(
    image_size=16, channels=3, flows=2, flow_width=16, context_frames=6, dim=32, depth=2, heads=2, mlp_ratio=2,
    gaussian_grid=(0, 0), actions=("push",),
)  # fmt: skip
TINY_REGIONS = STTConfig(
    image_size=32, channels=3, regions=2, whole_frames=True, context_frames=6, dim=32, depth=2, heads=2, mlp_ratio=2,
    gaussian_grid=(0, 0),
)  # fmt: skip
TINY_TIMESFORMER = TimeSformerConfig(
    image_size=16, context_frames=6, chunk_frames=4, patch=4, dim=32, depth=2, heads=2, mlp_ratio=2,
    source_frames=(1, 1, 3), reach=2,
)  # fmt: skip
TINY_VIDEO_TOKENIZER = VideoVQConfig(image_size=16, frames=2, patch=2, widths=(8, 16), codebook_size=32, code_dim=8)
TINY_VIDEOGPT = VideoGPTConfig(
    image_size=16, tokenizer=TINY_VIDEO_TOKENIZER, context_frames=4, slices=3, dim=32, depth=2, heads=2, mlp_ratio=2,
    widths=(8, 16),
)  # fmt: skip
TINY_MOTION_VQ = MotionVQConfig(image_size=16, reach=2, codebook_size=16, filter_width=4)
TINY_MOTION_GPT = MotionGPTConfig(
    image_size=16, tokenizer=TINY_MOTION_VQ, context_frames=4, dim=32, depth=2, heads=2, mlp_ratio=2, width=8,
)  # fmt: skip
TINY_DCT = DCTConfig(image_size=16, channels=1, block=4, background=128, quality=10)
TINY_TRANSFRAMER = TransframerConfig(
    image_size=16, dct=TINY_DCT, context_frames=3, layers=2, reach=2, segmenter_width=16, threshold=0.01, dim=32,
    depth=2, heads=2, mlp_ratio=2, widths=(16, 32), blocks=1, draft=16, max_triples=96,
)  # fmt: skip
TINY_LAYERED = LayeredConfig(
    image_size=16, context_frames=6, segmenter_width=8, agent_width=4, dynamics_width=4, compositor_width=8,
    agent_starts=4, composited_frames=2,
)  # fmt: skip
TINY_CONFIGS = {
    "stt": TINY,
    "stt, layers": TINY_LAYERS,
    "stt, layers in colour": STTConfig.from_dict(TINY_LAYERS.to_dict() | {"channels": 3, "reach": 3}),
    "stt, flows": TINY_FLOWS,
    "stt, flows without actions": STTConfig.from_dict(
        TINY_FLOWS.to_dict() | {"channels": 1, "actions": (), "gaussian_grid": (1, 2), "gaussian_dim": 4}
    ),
    "stt, flows from optical flow": STTConfig.from_dict(
        TINY_FLOWS.to_dict()
        | {"actions": (), "patch": 1, "optical_flow": True, "whole_frames": True, "gaussian_grid": (0, 2)}
    ),
    "stt, regions": TINY_REGIONS,
    "stt, regions in gray": STTConfig.from_dict(TINY_REGIONS.to_dict() | {"channels": 1, "whole_frames": False}),
    "stt, colour": STTConfig.from_dict(
        TINY.to_dict() | {"channels": 3, "tokenizer": TINY_TOKENIZER.to_dict() | {"channels": 3}}
    ),
    "layered": TINY_LAYERED,
    "layered, steered": LayeredConfig.from_dict(TINY_LAYERED.to_dict() | {"channels": 3, "actions": ("push",)}),
    "timesformer": TINY_TIMESFORMER,
    "timesformer, layers": TimeSformerConfig.from_dict(
        TINY_TIMESFORMER.to_dict() | {"source_frames": [], "layers": 2, "segmenter_width": 16}
    ),
    "videogpt": TINY_VIDEOGPT,
    "videogpt, unconditional": VideoGPTConfig.from_dict(
        TINY_VIDEOGPT.to_dict() | {"frame_conditioning": False, "slices": 4}
    ),
    "motion_gpt": TINY_MOTION_GPT,
    "motion_gpt, layers": MotionGPTConfig.from_dict(TINY_MOTION_GPT.to_dict() | {"layers": 2, "segmenter_width": 16}),
    "motion_gpt, colour": MotionGPTConfig.from_dict(
        TINY_MOTION_GPT.to_dict() | {"channels": 3, "tokenizer": TINY_MOTION_VQ.to_dict() | {"channels": 3}}
    ),
    "transframer": TINY_TRANSFRAMER,
    "transframer, colour": TransframerConfig.from_dict(
        TINY_TRANSFRAMER.to_dict() | {"channels": 3, "dct": TINY_DCT.to_dict() | {"channels": 3}}
    ),
    "transframer, maps": TransframerConfig.from_dict(TINY_TRANSFRAMER.to_dict() | {"maps": ["digits"]}),
    "timesformer, colour": TimeSformerConfig.from_dict(TINY_TIMESFORMER.to_dict() | {"channels": 3}),
}


def built(config: PredictorConfig) -> Predictor:
    """A network of the family whose config this is."""
    return next(FAMILIES[name] for name, cls in CONFIGS.items() if cls is type(config))(config)


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights large enough that chance and context show in the frames."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.5 / parameter[0].numel() ** 0.5)
    return model


@pytest.fixture(autouse=True)
def _one_thread_and_a_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=sorted(TINY_CONFIGS))
def predictor(request):
    """Every family, tiny, in eval mode."""
    return lively(built(TINY_CONFIGS[request.param])).eval()


@pytest.fixture
def tiny():
    return lively(STT(TINY)).eval()


@pytest.fixture
def models():
    """As an app holds them, the preset one first."""
    return {name: lively(STT(TINY)).eval() for name in ("tiny", "other")}


@pytest.fixture
def page(tmp_path, models):
    from tests.page_fixtures import FakePage

    return FakePage(tmp_path / "app", models)


@pytest.fixture
def notices(monkeypatch):
    """The app's messages to its visitor."""
    messages = []
    for kind in ("Info", "Warning"):
        monkeypatch.setattr(f"gradio.{kind}", lambda text, **_: messages.append(text))
    return messages


def clips(model, batch: int = 2, frames: int = 5, seed: int = 1) -> torch.Tensor:
    """Random videos (B, T, C, H, W) in [-1, 1] of the model's size; for regions, something moves in them."""
    c = model.config
    generator = torch.Generator().manual_seed(seed)
    video = torch.rand(batch, frames, c.channels, c.image_size, c.image_size, generator=generator) * 2 - 1
    if not getattr(c, "regions", 0):
        return video
    side = c.image_size // 2
    thing = 0.6 + 0.4 * torch.nn.functional.interpolate(video[:, 0, :, : side // 2, : side // 2], (side, side))
    video = (0.2 * video[:, :1] - 0.5).expand_as(video).clone()
    for k in range(frames):  # the thing goes right and back again
        x = abs((2 * k) % (2 * side) - side)
        video[:, k, :, 4 : 4 + side, x : x + side] = thing
    return video


def batch_of(model, video: torch.Tensor) -> Batch:
    """What `loss` takes: videos, actions where flows need them, maps, and for layered an agent and an object."""
    actions = 0.5 * torch.ones(*video.shape[:2], len(model.config.actions)) if model.config.actions else None
    if isinstance(model, STT) and model.config.flows:
        return Batch(video, actions)
    if names := getattr(model.config, "maps", ()):
        return Batch(video, maps=video.sign()[:, None].expand(-1, len(names), -1, -1, -1, -1))
    if not isinstance(model.config, LayeredConfig):
        return Batch(video)
    segmentation = torch.zeros(len(video), video.shape[1], *video.shape[-2:], dtype=torch.int64)
    segmentation[..., 2:6, 2:6], segmentation[..., 6:12, 2:8] = 1, 2
    poses = torch.zeros(len(video), video.shape[1], MAX_SPRITES, 4)
    poses[..., 0] = 0.5 * torch.arange(video.shape[1])[:, None]
    return Batch(video, actions, poses=poses[:, None] - poses[:, :, None], segmentation=segmentation)
