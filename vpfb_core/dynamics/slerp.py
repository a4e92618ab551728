"""Interpolation between prior points, along the sphere that normal noise lies on."""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError

# Below this sine of the turn between two vectors, the great circle through them is lost in rounding.
LEAST_SINE = 1e-4


def slerp(start: Tensor, end: Tensor, frames: int) -> Tensor:
    """Points on the way from each `start` to its `end`, equally far apart, both ends included.

    Spherical linear interpolation (Shoemake 1985, SIGGRAPH 19(3)): the direction turns at a constant rate, and the
    length goes straight from one to the other. The straight line between two normal vectors would pass through points
    that are too short by up to √2, where no noise lies. Vectors that are parallel or opposite to within rounding, or
    zero, are joined by that line all the same.

    Args:
        start, end: prior points, (N, …).
        frames: at least 2.
    Returns:
        (frames, N, …), whose first and last are `start` and `end`.
    Raises:
        ConfigError: fewer than two frames.
    """
    if frames < 2:
        raise ConfigError(f"{frames} frames: an interpolation shows both its ends, so it takes at least 2")
    a, b = start.double().flatten(1), end.double().flatten(1)
    fractions = torch.linspace(0, 1, frames, dtype=torch.float64, device=a.device)[:, None, None]
    line = (1 - fractions) * a + fractions * b
    first, last = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    tiny = torch.finfo(a.dtype).tiny
    from_start, from_end = a / first.clamp(min=tiny), b / last.clamp(min=tiny)
    turn = torch.acos((from_start * from_end).sum(1, keepdim=True).clamp(-1, 1))
    turns = (torch.sin(turn) > LEAST_SINE) & (first > 0) & (last > 0)
    length = ((1 - fractions) * first + fractions * last) / torch.where(turns, torch.sin(turn), 1.0)
    turned = length * (torch.sin((1 - fractions) * turn) * from_start + torch.sin(fractions * turn) * from_end)
    path = torch.where(turns, turned, line).reshape(frames, *start.shape).to(start.dtype)
    path[0], path[-1] = start, end
    return path


def rms_distance(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of two images each, in their units; (N, …) twice → (N,)."""
    return (first - second).flatten(1).square().mean(1).sqrt()
