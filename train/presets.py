"""What is trained: network, data and schedule, by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stt.api import Config
from stt.models.layered import LayeredConfig
from stt.models.stt import STTConfig
from stt.models.timesformer import TimeSformerConfig
from stt.models.transframer import TransframerConfig
from stt.models.videogpt import VideoGPTConfig
from stt.registry import CONFIGS
from stt.tokenizer import FrameVQConfig, VideoVQConfig
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.data.tabletop import TabletopDataConfig, TabletopDataset
from train.data.video_folder import VideoFolder, VideoFolderConfig
from train.trainer import TrainerConfig

Videos = MovingMNIST | TabletopDataset | VideoFolder


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model's config, the world that it learns, and how; `summary` states what it is for."""

    summary: str
    model: Config
    world: MovingMNISTConfig | TabletopDataConfig | VideoFolderConfig
    loop: TrainerConfig
    tokenizer: str = ""  # preset of the tokenizer to train first where none is given

    @property
    def family(self) -> str:
        return next(name for name, cls in CONFIGS.items() if cls is type(self.model))


_two_digits = MovingMNISTConfig(kind="stochastic", digits=2)
_one_digit = MovingMNISTConfig(kind="stochastic", digits=1)
_mixed_digits = MovingMNISTConfig(kind="mixed", digits=2, strokes=0.2)
_moving_mnist = MovingMNISTConfig(kind="deterministic", digits=2, strokes=0.2)

_cpu_stt = STTConfig(layers=2, gaussian_grid=(0,) * 4)
_gpu_stt = STTConfig(layers=2, segmenter_width=48, dim=256, depth=6, heads=8, gaussian_grid=(0,) * 6)

_cpu_video_tokenizer = VideoVQConfig()
_gpu_video_tokenizer = VideoVQConfig(blocks=2)

_cpu_videogpt = VideoGPTConfig(tokenizer=_cpu_video_tokenizer, classes=10, drop_frames=0.25, guidance=3.0)
_gpu_videogpt = VideoGPTConfig(
    tokenizer=_gpu_video_tokenizer,
    dim=224,
    depth=5,
    heads=7,
    widths=(64, 96),
    classes=10,
    labels=2,
    drop_frames=0.25,
    guidance=3.0,
)

_cpu_timesformer = TimeSformerConfig()
_gpu_timesformer = TimeSformerConfig(dim=256, depth=5, heads=8)

_cpu_transframer = TransframerConfig(maps=("digits",))
_gpu_transframer = replace(
    _cpu_transframer, dim=256, depth=6, heads=8, widths=(96, 192), blocks=2, draft=64, most_triples=416
)

_tray = TabletopDataConfig(frames=20)
_cpu_tray_tokenizer = FrameVQConfig(channels=3, levels=(8,) * 12, local=True)
_gpu_tray_tokenizer = replace(_cpu_tray_tokenizer, widths=(80, 160), blocks=1)
_cpu_tray_stt = STTConfig(
    channels=3,
    tokenizer=_cpu_tray_tokenizer,
    actions=("push right", "push up"),
    jitter=0.05,
    scheduled_sampling=0.4,
    kl_weight=0.25,
    context_frames=5,
    window=20,
)
_gpu_tray_stt = replace(
    _cpu_tray_stt, tokenizer=_gpu_tray_tokenizer, dim=160, depth=6, heads=5, gaussian_grid=(1, 2, 4, 8, 1, 2)
)
_cpu_layered = LayeredConfig(channels=3, actions=("push right", "push up"))
_gpu_layered = replace(_cpu_layered, segmenter_width=32, agent_width=24, dynamics_width=44, compositor_width=48)

_own = VideoFolderConfig(frames=20)
_own_tokenizer = FrameVQConfig(channels=3, levels=(8,) * 12)
_own_stt = STTConfig(channels=3, tokenizer=_own_tokenizer, jitter=0.1, window=10)

_car = replace(_own, stride=2)
_car_stt = replace(_own_stt, actions=("steering", "throttle"), depth=3, gaussian_grid=(1, 2, 4))
_large_car_tokenizer = replace(_own_tokenizer, image_size=128, widths=(64, 128, 128), levels=(8,) * 16)
_large_car_stt = replace(
    _car_stt, image_size=128, tokenizer=_large_car_tokenizer, dim=192, depth=7, heads=6,
    gaussian_grid=(1, 2, 4, 8, 1, 2, 4),
)  # fmt: skip

_tokenizer_loop = TrainerConfig(minutes=8, batch=16, lr=2e-3, ema=0.995)
_predictor_loop = TrainerConfig(minutes=60, batch=4, lr=1e-3, ema=0.998, muon=True)
_gpu_loop = TrainerConfig(minutes=20, batch=256, lr=1e-3, compile=True)

PRESETS: dict[str, Preset] = {
    "digits_stt": Preset(
        summary="STT on moving digits, two or one, with chance and without; motion layers; sized for a GPU",
        model=_gpu_stt, world=_mixed_digits, loop=replace(_gpu_loop, compile=False),
    ),
    "cpu_digits_stt": Preset(
        summary="STT on moving digits, two or one, with chance and without; motion layers; sized for two CPU cores",
        model=_cpu_stt, world=_mixed_digits, loop=replace(_predictor_loop, batch=8, lr=1.5e-3, muon=False),
    ),
    "digits_video_tokenizer": Preset(
        summary="VideoVQ for two digits, sized for a GPU",
        model=_gpu_video_tokenizer, world=replace(_two_digits, frames=16), loop=replace(_gpu_loop, minutes=4, batch=64),
    ),
    "one_digit_video_tokenizer": Preset(
        summary="VideoVQ for one digit, sized for two CPU cores",
        model=_cpu_video_tokenizer, world=replace(_one_digit, frames=16), loop=replace(_tokenizer_loop, batch=3),
    ),
    "digits_videogpt": Preset(
        summary="VideoGPT on Stochastic Moving MNIST, given frames or two digits, sized for a GPU",
        model=_gpu_videogpt, world=replace(_two_digits, frames=15), loop=replace(_gpu_loop, batch=128, muon=True),
        tokenizer="digits_video_tokenizer",
    ),
    "one_digit_videogpt": Preset(
        summary="VideoGPT on Stochastic Moving MNIST, given frames or one digit, sized for two CPU cores",
        model=_cpu_videogpt, world=replace(_one_digit, frames=15), loop=replace(_predictor_loop, batch=2),
        tokenizer="one_digit_video_tokenizer",
    ),
    "digits_transframer": Preset(
        summary="Transframer on Stochastic Moving MNIST: any frame of four others', its segmentation; for a GPU",
        model=_gpu_transframer, world=replace(_two_digits, frames=10), loop=replace(_gpu_loop, batch=128, muon=True),
    ),
    "one_digit_transframer": Preset(
        summary="Transframer on Stochastic Moving MNIST with one digit: frames, segmentation; for two CPU cores",
        model=_cpu_transframer, world=replace(_one_digit, frames=10), loop=replace(_predictor_loop, batch=2),
    ),
    "tabletop_tokenizer": Preset(
        summary="FrameVQ for the tabletop in colour, sized for a GPU",
        model=_gpu_tray_tokenizer, world=_tray, loop=replace(_gpu_loop, minutes=4),
    ),
    "tabletop_stt": Preset(
        summary="STT on the tabletop, free or told what to push, sized for a GPU",
        model=_gpu_tray_stt, world=_tray, loop=replace(_gpu_loop, batch=192, muon=True),
        tokenizer="tabletop_tokenizer",
    ),
    "cpu_tabletop_tokenizer": Preset(
        summary="FrameVQ for the tabletop in colour, sized for two CPU cores",
        model=_cpu_tray_tokenizer, world=_tray, loop=replace(_tokenizer_loop, minutes=20, batch=8),
    ),
    "cpu_tabletop_stt": Preset(
        summary="STT on the tabletop, free or told what to push, sized for two CPU cores",
        model=_cpu_tray_stt, world=_tray, loop=replace(_predictor_loop, minutes=80),
        tokenizer="cpu_tabletop_tokenizer",
    ),
    "tabletop_layered": Preset(
        summary="sprites on the tabletop, free or told what to push, 1.4M parameters, sized for a GPU",
        model=_gpu_layered, world=_tray, loop=replace(_gpu_loop, batch=64, lr=3e-3, compile=False, muon=True),
    ),
    "cpu_tabletop_layered": Preset(
        summary="sprites on the tabletop, free or told what to push, 0.4M parameters, sized for two CPU cores",
        model=_cpu_layered, world=_tray, loop=replace(_predictor_loop, minutes=80, batch=8, lr=3e-3),
    ),
    "video_tokenizer": Preset(
        summary="FrameVQ for videos of one's own in colour, 64x64, sized for two CPU cores",
        model=_own_tokenizer, world=replace(_own, frames=2), loop=_tokenizer_loop,
    ),
    "video_stt": Preset(
        summary="STT on videos of one's own in colour, 64x64, sized for two CPU cores",
        model=_own_stt, world=_own, loop=replace(_predictor_loop, minutes=30),
        tokenizer="video_tokenizer",
    ),
    "car_tokenizer": Preset(
        summary="FrameVQ for a camera on a toy car, 64x64 at 10 Hz, sized for two CPU cores",
        model=_own_tokenizer, world=replace(_car, frames=2), loop=replace(_tokenizer_loop, minutes=12),
    ),
    "car_stt": Preset(
        summary="STT on a camera on a toy car, free or told how to steer, 64x64, sized for two CPU cores",
        model=_car_stt, world=_car, loop=replace(_predictor_loop, minutes=50),
        tokenizer="car_tokenizer",
    ),
    "car_tokenizer_128": Preset(
        summary="FrameVQ for a camera on a toy car, 128x128 at 10 Hz, sized for a GPU",
        model=_large_car_tokenizer, world=replace(_car, frames=2), loop=replace(_gpu_loop, minutes=4, batch=128),
    ),
    "car_stt_128": Preset(
        summary="STT on a camera on a toy car, free or told how to steer, 128x128, sized for a GPU",
        model=_large_car_stt, world=_car, loop=replace(_gpu_loop, batch=128, muon=True),
        tokenizer="car_tokenizer_128",
    ),
    "digits_timesformer": Preset(
        summary="TimeSformer on Moving MNIST 10 -> 10, 8M parameters, sized for a GPU; depth=16 is PredFormer's size",
        model=_gpu_timesformer, world=_moving_mnist, loop=replace(_gpu_loop, batch=128, muon=True, lr=2e-3),
    ),
    "cpu_digits_timesformer": Preset(
        summary="TimeSformer on Moving MNIST 10 -> 10, sized for two CPU cores",
        model=_cpu_timesformer, world=_moving_mnist, loop=replace(_predictor_loop, batch=2, lr=3e-3),
    ),
}  # fmt: skip
