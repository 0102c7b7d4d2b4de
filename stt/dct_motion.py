"""Motion compensation on DCT cells, as video codecs predict: the nearest frame seen from shifted cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from stt.context_unet import Context
from stt.dct import FrameDCT

FAR = 3  # times the reach: the largest shift of a frame other than the nearest
AROUND = 4  # cells on each side over which agreement is averaged


def shifted_coefficients(codec: FrameDCT, frames: Tensor, shifts: Tensor, reach: int) -> Tensor:
    """Coefficients, in steps, of frames (B, C, H, W) at shifted cells: shifts (B, D, 2) -> (B, cells, D, K).

    Shifts are pixels (y, x), clamped to FAR * reach. Beyond the border lies the background.
    """
    c, far = codec.config, FAR * reach
    colours = torch.einsum("yc,bchw->byhw", codec.to_ycbcr.float(), (frames + 1) * 127.5)
    everywhere = []  # the coefficients of blocks at every pixel, by convolution with the cosines
    for component in range(c.channels):
        spacing = c.spacing if component else 1
        plane = colours[:, component : component + 1] - (0 if component else c.background)
        kernel = codec.basis.unflatten(-1, (c.block, c.block))
        kernel = kernel.repeat_interleave(spacing, 1).repeat_interleave(spacing, 2) / spacing**2
        kernel = (kernel / codec.steps[component, :, None, None]).float()[:, None]
        more = far + c.block * spacing - 1
        everywhere.append(F.conv2d(F.pad(plane, (far, more, far, more)), kernel))
    everywhere = rearrange(torch.stack(everywhere, dim=2), "b k c y x -> b (y x) (k c)")
    y, x = (shifts.clamp(-far, far) + far).unbind(dim=-1)  # (B, D)
    corner = torch.arange(c.grid, device=frames.device) * c.block
    rows, columns = corner[:, None, None, None] + y, corner[:, None, None] + x  # (h, 1, B, D), (w, B, D)
    index = rearrange(rows * (c.image_size + 2 * far) + columns, "h w b d -> b (h w d)")
    coefficients = everywhere.gather(1, index[..., None].expand(-1, -1, everywhere.shape[-1]))
    return rearrange(coefficients, "b (n d) k -> b n d k", n=c.positions)


@torch.no_grad()
def motion_evidence(codec: FrameDCT, context: Context, reach: int, num_others: int) -> tuple[Tensor, Tensor]:
    """The nearest frame under each of D motions in the place of the target, (B, cells, D, K), and evidence for each.

    The evidence (B, num_others, D, h, w) says how well every other frame, under the same constant motion, agrees with
    the nearest one around each cell: at most 1, 0 on average; 0 where it is absent, the motion is beyond FAR, or the
    nearest frame is the target itself.
    """
    c, side = codec.config, torch.arange(-reach, reach + 1, device=context.video.device)
    shifts = torch.cartesian_prod(side, side).expand(len(context.video), -1, -1)  # (B, D, 2)
    nearest = shifted_coefficients(codec, context.video[:, 0], shifts, reach)
    evidence = nearest.new_zeros(len(nearest), num_others, shifts.shape[1], c.grid, c.grid)
    time = context.offsets[:, :1]
    ratio = context.offsets[:, 1:] / torch.where(time == 0, 1, time)
    present = context.present[:, 1:] & (time != 0)
    for k in range(context.video.shape[1] - 1):
        other_shifts = (shifts * ratio[:, k, None, None]).round().long()
        inside = (other_shifts.abs() <= FAR * reach).all(dim=-1) & present[:, k, None]  # (B, D)
        other = shifted_coefficients(codec, context.video[:, k + 1], other_shifts, reach)
        error = ((nearest - other) * codec.brightness.flatten()).square().sum(dim=-1)
        error = rearrange(error, "b (h w) d -> b d h w", h=c.grid)
        error = F.avg_pool2d(error, 2 * AROUND + 1, stride=1, padding=AROUND)
        inside = inside[..., None, None]
        mean = (error * inside).sum(dim=1, keepdim=True) / inside.sum(dim=1, keepdim=True).clamp(min=1)
        evidence[:, k] = (mean - error) / (mean + 1e-4) * inside
    return nearest, evidence
