"""What can be trained, by name: DATA/FAMILY/SIZE. A preset is a network, its data and its schedule."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stt.api import Config
from stt.dct import DCTConfig
from stt.models.layered import LayeredConfig
from stt.models.motion_gpt import MotionGPTConfig
from stt.models.stt import STTConfig
from stt.models.timesformer import TimeSformerConfig
from stt.models.transframer import TransframerConfig
from stt.models.videogpt import VideoGPTConfig
from stt.motion_codes import MotionVQConfig
from stt.registry import CONFIGS
from stt.tokenizer import FrameVQConfig, VideoVQConfig
from train.data.moving_mnist import MovingMNIST, MovingMNISTConfig
from train.data.radar import RadarConfig, RadarDataset
from train.data.robot import RobotDataConfig, RobotDataset
from train.data.scenes import ScenesConfig, ScenesDataset
from train.data.tabletop import TabletopDataConfig, TabletopDataset
from train.data.video_folder import VideoFolder, VideoFolderConfig
from train.schedule import TrainerConfig

Dataset = MovingMNIST | TabletopDataset | RobotDataset | RadarDataset | VideoFolder | ScenesDataset


@dataclass(frozen=True, kw_only=True)
class Preset:
    """summary: what it learns, and its hardware and minutes; then, apart from that, a run that was measured, if any.

    A run that names a shipped model is the one of that model's card, whose flags differ from the preset's.
    """

    summary: str
    model: Config
    data: MovingMNISTConfig | TabletopDataConfig | RobotDataConfig | VideoFolderConfig | ScenesConfig | RadarConfig
    training: TrainerConfig
    tokenizer_preset: str = ""  # trained first where no tokenizer is given

    @property
    def family(self) -> str:
        return next(name for name, cls in CONFIGS.items() if cls is type(self.model))


# ---- data --------------------------------------------------------------------------------------------

two_digits = MovingMNISTConfig(kind="stochastic", digits=2)
two_digits_or_one = MovingMNISTConfig(kind="stochastic", digits=2, strokes=0.2, fewer_every=3)
one_digit = MovingMNISTConfig(kind="stochastic", digits=1)
mixed_digits = MovingMNISTConfig(kind="mixed", digits=2, strokes=0.2)
deterministic_digits = MovingMNISTConfig(kind="deterministic", digits=2, strokes=0.2)
tabletop = TabletopDataConfig(frames=20)
videos = VideoFolderConfig(frames=20)
car = VideoFolderConfig(frames=20, stride=2)
scenes = ScenesConfig(frames=16)
radar = RadarConfig(frames=12)

# ---- networks ----------------------------------------------------------------------------------------

digits_stt_cpu = STTConfig(layers=2, gaussian_grid=(0,) * 4)
digits_stt_gpu = STTConfig(layers=2, segmenter_width=48, dim=256, depth=6, heads=8, gaussian_grid=(0,) * 6)

motion_vq = MotionVQConfig()
motion_gpt = MotionGPTConfig(
    tokenizer=motion_vq, layers=2, classes=10, labels=2, guidance=2.0, drop_context=0.7, drop_labels=0.15
)
video_vq_cpu = VideoVQConfig()
video_vq_gpu = VideoVQConfig(blocks=2)
videogpt_cpu = VideoGPTConfig(tokenizer=video_vq_cpu, classes=10, drop_context=0.25, guidance=3.0)
videogpt_gpu = replace(videogpt_cpu, tokenizer=video_vq_gpu, dim=224, depth=5, heads=7, widths=(64, 96), labels=2)

timesformer_cpu = TimeSformerConfig(layers=2, reach=5)
timesformer_gpu = replace(timesformer_cpu, dim=256, depth=5, heads=8)

transframer_cpu = TransframerConfig(maps=("digits",))
transframer_gpu = replace(
    transframer_cpu, dim=256, depth=4, heads=8, widths=(96, 192), blocks=2, draft=64, residual_share=1.0
)

tabletop_vq_cpu = FrameVQConfig(channels=3, levels=(8,) * 12, local=True)
tabletop_vq_gpu = replace(tabletop_vq_cpu, widths=(80, 160), blocks=1)
tabletop_stt_cpu = STTConfig(
    channels=3,
    tokenizer=tabletop_vq_cpu,
    actions=("push right", "push up"),
    jitter=0.05,
    scheduled_sampling=0.4,
    kl_weight=0.25,
    context_frames=5,
    window=20,
)
tabletop_stt_gpu = replace(
    tabletop_stt_cpu, tokenizer=tabletop_vq_gpu, dim=160, depth=6, heads=5, gaussian_grid=(1, 2, 4, 8, 1, 2)
)
layered_cpu = LayeredConfig(channels=3, actions=("push right", "push up"))
layered_gpu = replace(layered_cpu, segmenter_width=32, agent_width=24, dynamics_width=44, compositor_width=48)

robot_stt_cpu = STTConfig(
    channels=3,
    flows=4,
    optical_flow=True,
    dim=160,
    heads=5,
    gaussian_grid=(0,) * 4,
    actions=("right", "forward", "up"),
    context_frames=12,
    scheduled_sampling=0.25,
)

robot_timesformer_cpu = TimeSformerConfig(channels=3, context_frames=5, source_frames=(1, 1, 2, 4), reach=5)
robot_motion_vq_cpu = MotionVQConfig(channels=3, threshold=0.3)
robot_motion_gpt_cpu = MotionGPTConfig(
    channels=3, tokenizer=robot_motion_vq_cpu, dim=112, heads=4, width=32, temperatures=(1.0, 0.5)
)
robot_transframer_cpu = TransframerConfig(channels=3, dct=DCTConfig(channels=3, block=4, quality=25))

scenes_stt_cpu = STTConfig(
    image_size=256, channels=3, regions=8, whole_frames=True, dim=64, depth=3, gaussian_grid=(0,) * 3, context_frames=10
)

scenes_flows_cpu = STTConfig(
    image_size=128, channels=3, patch=4, flows=2, flow_width=48, optical_flow=True, whole_frames=True, dim=160, heads=5,
    gaussian_grid=(0, 1, 0, 4), kl_weight=0.02, free_nats=3.0, context_frames=10,
)  # fmt: skip
radar_stt_cpu = replace(scenes_flows_cpu, scheduled_sampling=0.5)

videos_vq = FrameVQConfig(channels=3, levels=(8,) * 12)
videos_stt = STTConfig(channels=3, tokenizer=videos_vq, jitter=0.1, window=10)
car_stt_cpu = replace(videos_stt, actions=("steering", "throttle"), depth=3, gaussian_grid=(1, 2, 4))
car_vq_gpu = replace(videos_vq, image_size=128, widths=(64, 128, 128), levels=(8,) * 16)
car_stt_gpu = replace(
    car_stt_cpu, image_size=128, tokenizer=car_vq_gpu, dim=192, depth=7, heads=6, gaussian_grid=(1, 2, 4, 8, 1, 2, 4)
)

# ---- schedules ---------------------------------------------------------------------------------------

cpu_tokenizer = TrainerConfig(minutes=8, batch=16, lr=2e-3, ema=0.995)
cpu_predictor = TrainerConfig(minutes=60, batch=4, lr=1e-3, ema=0.998, muon=True)
gpu = TrainerConfig(minutes=20, batch=256, lr=1e-3, compile=True)

PRESETS: dict[str, Preset] = {
    "moving_mnist/stt/cpu": Preset(
        summary="STT with motion layers on Moving MNIST, one and two digits, deterministic and stochastic. One CPU "
        "core, 60 minutes; not measured. Measured: digits-stt, 86 minutes in three runs: MSE 47.5, SSIM (OpenSTL) "
        "0.929 (10 -> 10).",
        model=digits_stt_cpu, data=mixed_digits,
        training=replace(cpu_predictor, batch=8, lr=1.5e-3, muon=False),
    ),
    "moving_mnist/stt/gpu": Preset(
        summary="STT with motion layers on Moving MNIST, as moving_mnist/stt/cpu. One GPU, 20 minutes; not measured.",
        model=digits_stt_gpu, data=mixed_digits, training=replace(gpu, compile=False),
    ),
    "moving_mnist/timesformer/cpu": Preset(
        summary="TimeSformer on Moving MNIST, 10 -> 10. One CPU core, 60 minutes; not measured. Measured: "
        "digits-timesformer, 75 minutes with --segmenter digits-stt: MSE 24.2, SSIM (OpenSTL) 0.945.",
        model=timesformer_cpu, data=deterministic_digits, training=replace(cpu_predictor, batch=16, lr=3e-3),
    ),
    "moving_mnist/timesformer/gpu": Preset(
        summary="TimeSformer on Moving MNIST, 10 -> 10, 9M parameters. One GPU, 20 minutes; not measured.",
        model=timesformer_gpu, data=deterministic_digits,
        training=replace(gpu, batch=128, muon=True, lr=2e-3, compile=False),
    ),
    "moving_mnist/motion_vq/cpu": Preset(
        summary="MotionVQ tokenizer on Stochastic Moving MNIST, two digits. One CPU core, 5 minutes. "
        "Measured: PSNR 27.0 dB.",
        model=motion_vq, data=replace(two_digits_or_one, frames=10),
        training=replace(cpu_tokenizer, minutes=5, batch=8),
    ),
    "moving_mnist/motion_gpt/cpu": Preset(
        summary="MotionGPT with motion layers on Stochastic Moving MNIST, given frames or classes. One CPU core, 60 "
        "minutes; not measured. Measured: digits-motiongpt, 92 minutes with --segmenter digits-stt: "
        "both digits are named at frame 10 in 0.92 of the futures, in 0.93 of the imagined clips. It began as a "
        "network without layers of 174 minutes.",
        model=motion_gpt, data=replace(two_digits_or_one, frames=15),
        training=replace(cpu_predictor, batch=32, lr=2e-3),
        tokenizer_preset="moving_mnist/motion_vq/cpu",
    ),
    "moving_mnist/video_vq/gpu": Preset(
        summary="VideoVQ tokenizer on Stochastic Moving MNIST, two digits. One GPU, 4 minutes; not measured.",
        model=video_vq_gpu, data=replace(two_digits, frames=16), training=replace(gpu, minutes=4, batch=64),
    ),
    "moving_mnist/videogpt/gpu": Preset(
        summary="VideoGPT on Stochastic Moving MNIST, two digits, given frames or classes. One GPU, 20 minutes; "
        "not measured.",
        model=videogpt_gpu, data=replace(two_digits, frames=15), training=replace(gpu, batch=128, muon=True),
        tokenizer_preset="moving_mnist/video_vq/gpu",
    ),
    "moving_mnist/transframer/cpu": Preset(
        summary="Transframer on Stochastic Moving MNIST, two digits or one: any frame given others, and its "
        "segmentation. One CPU core, 60 minutes, with --segmenter digits-stt; not measured. Measured: "
        "digits-transframer, 36 minutes in two runs: PSNR 34.0 dB in gaps of 6 frames (optical flow: 14.0).",
        model=transframer_cpu, data=replace(two_digits_or_one, frames=12), training=replace(cpu_predictor, lr=1.5e-3),
    ),
    "moving_mnist/transframer/gpu": Preset(
        summary="Transframer on Stochastic Moving MNIST, as moving_mnist/transframer/cpu. One GPU, 20 minutes; not "
        "measured.",
        model=transframer_gpu, data=replace(two_digits_or_one, frames=12),
        training=replace(gpu, batch=128, muon=True, compile=False),
    ),
    "moving_mnist_one_digit/video_vq/cpu": Preset(
        summary="VideoVQ tokenizer on Stochastic Moving MNIST, one digit. One CPU core, 8 minutes; not "
        "measured. Measured: with --batch 4, 9 minutes: PSNR 25.8 dB.",
        model=video_vq_cpu, data=replace(one_digit, frames=16), training=replace(cpu_tokenizer, batch=3),
    ),
    "moving_mnist_one_digit/videogpt/cpu": Preset(
        summary="VideoGPT on Stochastic Moving MNIST, one digit, given frames or a class. Two CPU cores, 60 minutes; "
        "not measured. Measured: 104 minutes in two runs: MSE 62.3, best of 20 (5 -> 10, 64 prompts).",
        model=videogpt_cpu, data=replace(one_digit, frames=15), training=replace(cpu_predictor, batch=2),
        tokenizer_preset="moving_mnist_one_digit/video_vq/cpu",
    ),
    "tabletop/frame_vq/cpu": Preset(
        summary="FrameVQ tokenizer on the tabletop in colour. One CPU core, 20 minutes; not measured. "
        "Measured: 18 minutes: PSNR 30.7 dB.",
        model=tabletop_vq_cpu, data=tabletop, training=replace(cpu_tokenizer, minutes=20, batch=8),
    ),
    "tabletop/frame_vq/gpu": Preset(
        summary="FrameVQ tokenizer on the tabletop in colour. One GPU, 4 minutes; not measured.",
        model=tabletop_vq_gpu, data=tabletop, training=replace(gpu, minutes=4),
    ),
    "tabletop/stt/cpu": Preset(
        summary="STT with codes on the tabletop, with actions or without. Two CPU cores, 80 minutes; not measured. "
        "Measured: 388 minutes on one core and 54 on two: all objects are visible at frame 20 in 86 % of the futures, "
        "normalised energy distance 0.18.",
        model=tabletop_stt_cpu, data=tabletop, training=replace(cpu_predictor, minutes=80),
        tokenizer_preset="tabletop/frame_vq/cpu",
    ),
    "tabletop/stt/gpu": Preset(
        summary="STT with codes on the tabletop, with actions or without. One GPU, 20 minutes; not measured.",
        model=tabletop_stt_gpu, data=tabletop, training=replace(gpu, batch=192, muon=True),
        tokenizer_preset="tabletop/frame_vq/gpu",
    ),
    "tabletop/layered/cpu": Preset(
        summary="Layered on the tabletop, with actions or without, 0.4M parameters, all parts at once. Two CPU cores, "
        "80 minutes; not measured. Measured: tabletop-layered, 161 minutes in ten runs of single parts: all objects "
        "are visible at frame 20 in 99 % of the futures, normalised energy distance 0.15.",
        model=layered_cpu, data=tabletop, training=replace(cpu_predictor, minutes=80, batch=8, lr=3e-3, muon=False),
    ),
    "tabletop/layered/gpu": Preset(
        summary="Layered on the tabletop, with actions or without, 1.4M parameters. One GPU, 20 minutes; not measured.",
        model=layered_gpu, data=tabletop, training=replace(gpu, batch=64, lr=3e-3, compile=False),
    ),
    "robot/stt/cpu": Preset(
        summary="STT with flows on the robot, actions drawn or given. One CPU core, 32 minutes, then 78 that follow "
        "its own predictions (the chapter says how). Measured: robot-stt, these two: the hand is 2.1 of 64 pixels off "
        "after 10 frames of recorded actions.",
        model=robot_stt_cpu, data=RobotDataConfig(frames=8),
        training=replace(cpu_predictor, minutes=32, lr=1.5e-3, final_lr=0.3, muon=False),
    ),
    "robot/timesformer/cpu": Preset(
        summary="TimeSformer on the robot or on videos of --data, 5 -> 10. One CPU core, 25 minutes. Measured: "
        "PSNR 19.5 dB at frame 10 (copy: 17.0).",
        model=robot_timesformer_cpu, data=RobotDataConfig(frames=15),
        training=replace(cpu_predictor, minutes=25, batch=2, lr=3e-3),
    ),
    "robot/motion_vq/cpu": Preset(
        summary="MotionVQ tokenizer on the robot. One CPU core, 5 minutes; not measured.",
        model=robot_motion_vq_cpu, data=RobotDataConfig(frames=10),
        training=replace(cpu_tokenizer, minutes=5, batch=4),
    ),
    "robot/motion_gpt/cpu": Preset(
        summary="MotionGPT on the robot. One CPU core, 30 minutes. Measured: objects of the prompt are seen "
        "at frame 20 in 0.95 of the futures, the hand in 0.67.",
        model=robot_motion_gpt_cpu, data=RobotDataConfig(frames=12),
        training=replace(cpu_predictor, minutes=26, batch=3, lr=2e-3),
        tokenizer_preset="robot/motion_vq/cpu",
    ),
    "robot/transframer/cpu": Preset(
        summary="Transframer on the robot. One CPU core, 25 minutes. Measured: normalised energy "
        "distance 0.37 at frame 20; what moves leaves ghosts.",
        model=robot_transframer_cpu, data=RobotDataConfig(frames=8),
        training=replace(cpu_predictor, minutes=25, lr=1.5e-3),
    ),
    "scenes/stt/cpu": Preset(
        summary="STT with regions on generated scenes and on your own videos beside them, for clips of any kind. "
        "One CPU core, 30 minutes; not measured.",
        model=scenes_stt_cpu, data=scenes,
        training=replace(cpu_predictor, minutes=30, batch=8, lr=2e-3, final_lr=0.05, muon=False),
    ),
    "scenes_flows/stt/cpu": Preset(
        summary="STT with flows on generated scenes, which radar/stt/cpu starts from. One CPU core, 60 minutes; not "
        "measured. Measured: 227 minutes, 14,248 clips, frames of 10, scheduled_sampling 0.4.",
        model=scenes_flows_cpu, data=replace(scenes, frames=12),
        training=replace(cpu_predictor, muon=False, lr=1.5e-3),
    ),
    "radar/stt/cpu": Preset(
        summary="STT with flows on rain radar, ensemble nowcasts, from the weights of scenes_flows/stt/cpu. "
        "One CPU core, 22 minutes. Measured: 21 minutes, 151 steps: CRPS 0.061 mm/h 15 minutes ahead (STEPS: 0.046).",
        model=radar_stt_cpu, data=radar,
        training=replace(cpu_predictor, minutes=22, lr=6e-4, final_lr=0.05, muon=False),
    ),
    "videos/frame_vq/cpu": Preset(
        summary="FrameVQ tokenizer on your own videos, colour, 64x64. Two CPU cores, 8 minutes; not measured.",
        model=videos_vq, data=replace(videos, frames=2), training=cpu_tokenizer,
    ),
    "videos/stt/cpu": Preset(
        summary="STT with codes on your own videos, colour, 64x64. Two CPU cores, 30 minutes; not measured.",
        model=videos_stt, data=videos, training=replace(cpu_predictor, minutes=30),
        tokenizer_preset="videos/frame_vq/cpu",
    ),
    "car/frame_vq/cpu": Preset(
        summary="FrameVQ tokenizer on the camera of a toy car, 64x64 at 10 Hz. One CPU core, 12 minutes. "
        "Measured: PSNR 36.2 dB after 7 more minutes of the VQGAN stage.",
        model=videos_vq, data=replace(car, frames=2), training=replace(cpu_tokenizer, minutes=12),
    ),
    "car/frame_vq/gpu": Preset(
        summary="FrameVQ tokenizer on the camera of a toy car, 128x128 at 10 Hz. One GPU, 4 minutes; not measured.",
        model=car_vq_gpu, data=replace(car, frames=2), training=replace(gpu, minutes=4, batch=128),
    ),
    "car/stt/cpu": Preset(
        summary="STT with codes on the camera of a toy car, with actions or without, 64x64. One CPU core, 50 minutes; "
        "not measured. Measured: 52 minutes in two runs: PSNR 28.0 dB, best of 20 (5 -> 20; copy: 22.3 dB).",
        model=car_stt_cpu, data=car, training=replace(cpu_predictor, minutes=50),
        tokenizer_preset="car/frame_vq/cpu",
    ),
    "car/stt/gpu": Preset(
        summary="STT with codes on the camera of a toy car, with actions or without, 128x128. One GPU, 20 minutes; "
        "not measured.",
        model=car_stt_gpu, data=car, training=replace(gpu, batch=128, muon=True),
        tokenizer_preset="car/frame_vq/gpu",
    ),
}  # fmt: skip
