"""Where what a frame of the tabletop shows goes later, computed from poses: what `stt.transport` learns from."""

from __future__ import annotations

import torch
from torch import Tensor

PUSHER_HEIGHT = 0.11  # metres of its ball's middle over the tray, give or take 0.01


def owners(shown: Tensor, patch: int) -> Tensor:
    """Which body squares of `patch` pixels a side are of, (..., h, w) int64: the last of what their pixels show.

    shown (..., H, W): 0 what is fixed, 1 the pusher, 2 and on the objects.
    """
    return shown.unfold(-2, patch, patch).unfold(-2, patch, patch).amax(dim=(-2, -1)).long()


def tracks(cameras: Tensor, owner: Tensor, poses: Tensor, patch: int) -> Tensor:
    """How far squares of the first R of T frames have gone by each frame: (B, R, T, 2, h, w), in pixels down and right.

    cameras (B, 13): rotation (9) and place (3) in the world, focal length in pixels. owner (B, R, h, w): see `owners`.
    poses (B, T, K, 7): place and turn (quaternion, w first) of the pusher and the objects. patch: pixels a side.

    Things keep the face that they show: they move along and turn about the vertical, and do not topple or roll. Of the
    pusher, which codes draw well and which goes out of reach, there are no tracks (nan).
    """
    b, r, h, w = owner.shape
    turned, eye, focal = cameras[:, :9].unflatten(1, (3, 3)), cameras[:, 9:12], cameras[:, 12, None, None]
    middle = (w * patch - 1) / 2
    rows = torch.arange(h, device=owner.device)[:, None] * patch + (patch - 1) / 2
    columns = torch.arange(w, device=owner.device) * patch + (patch - 1) / 2
    across, up = (columns - middle).expand(h, w) / focal, -(rows - middle).expand(h, w) / focal
    rays = torch.einsum("bij,bhwj->bhwi", turned, torch.stack([across, up, -torch.ones_like(up)], dim=-1))[:, None]

    body = (owner - 1).clamp_min(0)
    batch = torch.arange(b, device=owner.device)[:, None, None, None]
    place, spin = poses[..., :3], spins(poses[..., 3:])
    frame = torch.arange(r, device=owner.device)[:, None, None]
    place_now, spin_now = place[batch, frame, body], spin[batch, frame, body]  # (B, R, h, w, ...)
    eye = eye[:, None, None, None]
    seen = eye + rays * ((place_now[..., 2:] - eye[..., 2:]) / rays[..., 2:])  # at the height of the body's middle
    x, y, z = (seen - place_now)[:, :, None].unbind(dim=-1)

    frame = torch.arange(poses.shape[1], device=owner.device)[:, None, None]
    batch, body = batch[..., None], body[:, :, None]
    angle = spin[batch, frame, body] - spin_now[:, :, None]  # (B, R, T, h, w)
    cos, sin = angle.cos(), angle.sin()
    later = torch.stack([cos * x - sin * y, sin * x + cos * y, z.expand_as(angle)], dim=-1) + place[batch, frame, body]
    x, y, z = torch.einsum("bij,brthwi->brthwj", turned, later - eye[:, :, None]).unbind(dim=-1)
    focal = focal[:, None, None]
    gone = torch.stack([-focal * y / -z + middle - rows, focal * x / -z + middle - columns], dim=3)
    gone = torch.where((owner > 0)[:, :, None, None], gone, 0.0)
    return gone.masked_fill((owner == 1)[:, :, None, None], torch.nan)


def spins(turns: Tensor) -> Tensor:
    """Quaternions (B, T, K, 4), w first -> the angle (B, T, K) about the vertical since the first frame, in radians.

    The sum of small turns: of a whole one, what rolls has none that is told apart.
    """
    before, after = turns[:, :-1], turns[:, 1:]
    (a, b, c, d), (w, x, y, z) = before.unbind(dim=-1), after.unbind(dim=-1)
    whole, vertical = w * a + x * b + y * c + z * d, z * a - w * d + y * b - x * c
    steps = 2 * torch.atan2(vertical * torch.where(whole < 0, -1.0, 1.0), whole.abs().clamp_min(1e-9))
    return torch.cat([torch.zeros_like(steps[:, :1]), steps], dim=1).cumsum(dim=1)
