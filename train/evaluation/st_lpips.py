"""ST-LPIPS: a perceptual distance that tolerates small shifts (Ghildyal and Liu, ECCV 2022, arXiv 2207.13686)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stt.api import Video

PACKAGE = "stlpips-pytorch"  # its wheel holds the weights, under the BSD-2 licence; none of its code is run
WEIGHTS = "stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth"
STAGES = ((0, 3, 64, 11, 2), (5, 64, 192, 5, 2), (9, 192, 384, 3, 1), (11, 384, 256, 3, 1), (13, 256, 256, 3, 1))


class BlurPool(nn.Module):
    """Halves features (N, C, H, W) with a fixed low-pass filter (arXiv 1904.11486), reflecting two pixels of border."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.empty(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.filt, stride=2, groups=x.shape[1])


class STLPIPS(nn.Module):
    """An AlexNet trained from scratch at 64x64, its features of five stages compared place by place.

    weights: the file `alex_shift_tolerant.pth`; without it, that of the installed package stlpips-pytorch. Frames have
    at least 32 pixels a side. Raises FileNotFoundError without weights, RuntimeError for those of another network.
    """

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(i, o, size, padding=pad) for _, i, o, size, pad in STAGES)
        self.blurs = nn.ModuleList(BlurPool(channels) for channels in (64, 64, 192))
        self.register_buffer("shift", torch.empty(1, 3, 1, 1))
        self.register_buffer("scale", torch.empty(1, 3, 1, 1))
        self.linear = nn.ParameterList(torch.empty(1, o, 1, 1) for _, _, o, _, _ in STAGES)
        state = torch.load(weights or installed_weights(), map_location="cpu", weights_only=True)
        names = {f"net.slice{k + 1}.{number}": f"convs.{k}" for k, (number, *_) in enumerate(STAGES)}
        names |= {"scaling_layer": "", "net.slice1.1": "blurs.0", "net.slice2.4": "blurs.1", "net.slice3.8": "blurs.2"}
        ours = {}
        for name, value in state.items():
            module, _, leaf = name.rpartition(".")
            if name.startswith("lin"):
                ours[f"linear.{name[3]}"] = value
            else:
                ours[f"{names.get(module, module)}.{leaf}".removeprefix(".")] = value
        self.load_state_dict(ours)
        self.requires_grad_(False).eval()

    def features(self, frames: Tensor) -> list[Tensor]:
        """Frames (N, C, H, W) in [-1, 1], gray or in colour -> each stage's features (N, D, h, w), of unit length."""
        x = (frames.expand(-1, 3, -1, -1) - self.shift) / self.scale
        x = F.relu(self.blurs[0](self.convs[0](x)))
        stages = [x]
        for k in (1, 2):
            x = self.blurs[k](F.max_pool2d(x, 3, stride=1))
            x = F.relu(self.convs[k](x))
            stages.append(x)
        for k in (3, 4):
            x = F.relu(self.convs[k](x))
            stages.append(x)
        return [x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10) for x in stages]

    def frame_distance(self, predicted: Tensor, true: Tensor) -> Tensor:
        """Distances of frames (..., T, C, H, W) and (..., T, C, H, W) or (T, C, H, W), on [0, 1] -> (..., T)."""
        clips = predicted.reshape(-1, *predicted.shape[-4:])
        if true.ndim == 4:  # one for all
            features = self.features(2 * true - 1)
            distances = [self.distance(self.features(2 * clip - 1), features) for clip in clips]
        else:
            pairs = zip(clips, true.reshape(clips.shape), strict=True)
            distances = [self(2 * a - 1, 2 * b - 1) for a, b in pairs]
        return torch.stack(distances).reshape(predicted.shape[:-3])

    def clip_statistics(self, clips: Video) -> Tensor:
        """Clips (N, T >= 2, C, H, W) on [0, 1] -> (N, 2, D): features, and absolute differences of successive frames'.

        Both are means over places and time, of all stages side by side.
        """
        return torch.stack([self._statistics(2 * clip - 1) for clip in clips])

    def _statistics(self, frames: Tensor) -> Tensor:
        stages = self.features(frames)
        still = torch.cat([x.mean(dim=(0, 2, 3)) for x in stages])
        return torch.stack([still, torch.cat([x.diff(dim=0).abs().mean(dim=(0, 2, 3)) for x in stages])])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances (N,) of frames (N, C, H, W) in [-1, 1]; 0 for equal ones."""
        return self.distance(self.features(a), self.features(b))

    def distance(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Of features of N frames -> (N,)."""
        stages = zip(a, b, self.linear, strict=True)
        return sum(((p - q).square() * weight).sum(dim=1).mean(dim=(1, 2)) for p, q, weight in stages)


def installed_weights() -> Path:
    """The weights that the package brings; FileNotFoundError where it is not installed."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(WEIGHTS)))
    except PackageNotFoundError:
        path = None
    if path is None or not path.is_file():
        raise FileNotFoundError(f"the weights of ST-LPIPS are missing: pip install --no-deps {PACKAGE}==0.0.2")
    return path
