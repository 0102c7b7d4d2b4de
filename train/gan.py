"""The VQGAN stage of a tokenizer (arXiv 2012.09841): a discriminator of patches makes the decoder sharp."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call

from stt.api import Loss, Tokenizer, Video
from stt.layers import group_norm


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


class AdversarialTokenizer(nn.Module):
    """A tokenizer in training beside its discriminator; both learn from one loss and one optimizer.

    Hinge losses. The adversarial part joins after `start` calls, weighted so that its gradient at the decoder's last
    layer has `weight` times the length of the reconstruction's. With `decoder_only` codes keep their meaning, so
    that predictors trained on them stay valid. There is no perceptual term: it needs a backbone's weights.
    """

    def __init__(self, tokenizer: Tokenizer, weight: float = 0.5, start: int = 0, decoder_only: bool = False) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"weight is {weight}, must be above 0")
        self.tokenizer, self.weight, self.start, self.decoder_only = tokenizer, weight, start, decoder_only
        self.discriminator = PatchDiscriminator(tokenizer.config.channels)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        if decoder_only:
            tokenizer.requires_grad_(False).decoder.requires_grad_(True)

    def train(self, mode: bool = True) -> AdversarialTokenizer:
        super().train(mode)
        if self.decoder_only:
            self.tokenizer.quantizer.eval()  # a codebook that follows its data would change what codes mean
        return self

    def loss(self, video: Video) -> Loss:
        truth, decoded, codes = self.tokenizer.lesson(video)
        real, fake = (rearrange(v, "b t c h w -> (b t) c h w") for v in (truth, decoded))
        mse = F.mse_loss(fake.float(), real)
        reconstruction = mse + codes.loss
        parts = {"mse": mse.detach(), "commitment": codes.loss.detach()}
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
