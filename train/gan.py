"""The VQGAN stage of a tokenizer (arXiv 2012.09841): a discriminator of patches makes the decoder sharp."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call

from stt.api import Batch, Loss, Model, Tokenizer
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


class AdversarialTokenizer(Model):
    """A tokenizer and its discriminator, which learn in the same step from one sum of losses.

    Hinge losses. The adversarial loss joins at optimizer step `start_step`. Its weight is adaptive: the gradient at the
    decoder's last layer is `weight` times as long as that of the reconstruction loss. With `decoder_only` the encoder
    and the codebook stay as they are, so that predictors trained on the codes stay valid. perceptual: distances
    (N,) of frames (N, C, H, W) in [-1, 1], which join the reconstruction loss, `perceptual_weight` times.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        weight: float = 0.5,
        start_step: int = 0,
        decoder_only: bool = False,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"weight is {weight}, must be above 0")
        self.config = tokenizer.config
        self.tokenizer, self.weight, self.start_step, self.decoder_only = tokenizer, weight, start_step, decoder_only
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.discriminator = PatchDiscriminator(tokenizer.config.channels)
        self.begin_step(0)
        if decoder_only:
            tokenizer.requires_grad_(False).decoder.requires_grad_(True)

    def train(self, mode: bool = True) -> AdversarialTokenizer:
        super().train(mode)
        if self.decoder_only:
            self.tokenizer.quantizer.eval()  # training mode would move the codebook
        return self

    def begin_step(self, step: int) -> None:
        self.adversarial = step >= self.start_step

    def loss(self, batch: Batch) -> Loss:
        video = batch.video
        codes = self.tokenizer.encode(video)
        real, fake = (rearrange(v, "b t c h w -> (b t) c h w") for v in (video, self.tokenizer.decode(codes.latents)))
        mse = F.mse_loss(fake.float(), real)
        parts = {"mse": mse.detach(), "commitment": codes.loss.detach()}
        reconstruction = mse
        if self.perceptual is not None:
            with torch.autocast(video.device.type, enabled=False):  # differences of nearly equal features
                distance = self.perceptual(fake.float(), real).mean()
            parts["perceptual"] = distance.detach()
            reconstruction = mse + self.perceptual_weight * distance
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        generator = -functional_call(self.discriminator, frozen, (fake,)).float().mean()
        discriminator = self.hinge_loss(real, fake.detach())
        scale = float(self.adversarial)  # 0 and not left out: data-parallel training needs a gradient for every weight
        weight = scale * self.adaptive_weight(reconstruction, generator)
        parts |= {"adversarial": generator.detach(), "adaptive_weight": weight, "discriminator": discriminator.detach()}
        return Loss(reconstruction + codes.loss + weight * generator + scale * discriminator, parts)

    def hinge_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        return (F.relu(1 - self.discriminator(real)).mean() + F.relu(1 + self.discriminator(fake)).mean()).float() / 2

    def adaptive_weight(self, reconstruction: Tensor, generator: Tensor) -> Tensor:
        """`weight` times the ratio of the gradients of the two losses at the decoder's last convolution."""
        last = [m for m in self.tokenizer.decoder.modules() if isinstance(m, nn.Conv2d)][-1].weight
        norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (reconstruction, generator)]
        return self.weight * (norms[0] / (norms[1] + 1e-6)).clamp(max=1e4).detach()
