"""The VQGAN stage of a tokenizer (arXiv 2012.09841): a discriminator of patches makes the decoder sharp."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call

from stt.api import Batch, Loss, Tokenizer
from stt.layers import group_norm

VGG16 = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}
POOLED = (5, 10, 17, 24)  # layers whose input is pooled first


class PatchDiscriminator(nn.Module):
    """Frames (N, C, H, W) -> logits (N, 1, H/8, W/8), each of a patch of 38 pixels a side: real is positive."""

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(2):
            layers += [nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), group_norm(2 * width), nn.LeakyReLU(0.2)]
            width *= 2
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        return self.body(frames)


class PerceptualDistance(nn.Module):
    """How far apart frames are in the features of a VGG16 that learned ImageNet (arXiv 1603.08155).

    As LPIPS (arXiv 1801.03924) with equal weights: the squared difference of features of unit length, averaged over
    places and summed over five layers. `weights` is a file of torchvision's vgg16, .pth or .safetensors.
    Raises FileNotFoundError, or ValueError for a file of another network.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        layers, channels = {}, 3
        for number, width in VGG16.items():
            layers[number] = nn.Conv2d(channels, width, 3, padding=1)
            channels = width
        found = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, weights_only=True)
        wanted = {f"features.{number}.{name}" for number in layers for name in ("weight", "bias")}
        if missing := sorted(wanted - set(found)):
            raise ValueError(f"{weights.name} lacks {missing[0]} and {len(missing) - 1} more of torchvision's vgg16")
        for number, layer in layers.items():
            layer.load_state_dict({name: found[f"features.{number}.{name}"] for name in ("weight", "bias")})
            if number in POOLED or not self.stages:
                self.stages.append(nn.Sequential())
            self.stages[-1].extend([layer, nn.ReLU()])
        self.requires_grad_(False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Frames (N, C, H, W) in [-1, 1], gray or in colour -> a scalar."""
        a, b = ((((x + 1) / 2).expand(-1, 3, -1, -1) - self.mean) / self.std for x in (a, b))
        total = a.new_zeros(())
        for k, stage in enumerate(self.stages):
            a, b = (stage(F.max_pool2d(x, 2) if k else x) for x in (a, b))
            total = total + (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean()
        return total


class AdversarialTokenizer(nn.Module):
    """A tokenizer in training beside its discriminator; both learn from one loss and one optimizer.

    Hinge losses. The adversarial part joins after `start` calls, weighted so that its gradient at the decoder's last
    layer has `weight` times the length of the reconstruction's. With `decoder_only` codes keep their meaning, so
    that predictors trained on them stay valid. A `perceptual` distance of frames joins the reconstruction from the
    beginning; VQGAN has one, and it needs a backbone's weights.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        weight: float = 0.5,
        start: int = 0,
        decoder_only: bool = False,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"weight is {weight}, must be above 0")
        self.tokenizer, self.weight, self.start, self.decoder_only = tokenizer, weight, start, decoder_only
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.discriminator = PatchDiscriminator(tokenizer.config.channels)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        if decoder_only:
            tokenizer.requires_grad_(False).decoder.requires_grad_(True)

    def train(self, mode: bool = True) -> AdversarialTokenizer:
        super().train(mode)
        if self.decoder_only:
            self.tokenizer.quantizer.eval()  # a codebook that follows its data would change what codes mean
        return self

    def loss(self, batch: Batch) -> Loss:
        video = batch.video
        codes = self.tokenizer.encode(video)
        real, fake = (rearrange(v, "b t c h w -> (b t) c h w") for v in (video, self.tokenizer.decode(codes.latents)))
        mse = F.mse_loss(fake.float(), real)
        parts = {"mse": mse.detach(), "commitment": codes.loss.detach()}
        if self.perceptual is not None:
            distance = self.perceptual(fake, real).float()
            mse = mse + self.perceptual_weight * distance
            parts["perceptual"] = distance.detach()
        reconstruction = mse + codes.loss
        on = float(self.calls >= self.start)
        self.calls += 1
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        deceived = -functional_call(self.discriminator, frozen, (fake,)).float().mean()
        weight = on * self._adaptive_weight(mse, deceived)
        told_apart = self._hinge(real, fake.detach())
        parts |= {"adversarial": deceived.detach(), "adaptive_weight": weight, "discriminator": told_apart.detach()}
        return Loss(reconstruction + weight * deceived + on * told_apart, parts)

    def _hinge(self, real: Tensor, fake: Tensor) -> Tensor:
        return (F.relu(1 - self.discriminator(real)).mean() + F.relu(1 + self.discriminator(fake)).mean()).float() / 2

    def _adaptive_weight(self, reconstruction: Tensor, deceived: Tensor) -> Tensor:
        last = [m for m in self.tokenizer.decoder.modules() if isinstance(m, nn.Conv2d)][-1].weight
        norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, deceived)]
        return self.weight * (norms[0] / (norms[1] + 1e-6)).clamp(max=1e4).detach()
