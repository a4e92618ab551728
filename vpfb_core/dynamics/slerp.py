"""Spherical interpolation between points of the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.machine.precision import sum_dtype

# If the sine of the turn between two vectors is smaller than this, rounding hides the great circle through them.
LEAST_SINE = 1e-4


def slerp(start: Tensor, end: Tensor, frames: int) -> Tensor:
    """Spherical linear interpolation from each `start` to its `end` (Shoemake 1985, SIGGRAPH 19(3)).

    The direction turns at a constant rate, and the length changes linearly. A straight line between two normal vectors
    would pass through points that are too short by up to √2, which noise almost never is. Vectors that are zero, or
    parallel or opposite up to rounding, are nevertheless joined by a straight line. It is computed in float64 where the
    device has it.

    Args:
        start, end: points of the prior, (N, …).
        frames: the number of points per path, at least 2.
    Returns:
        (frames, N, …); the first and the last frame are `start` and `end`.
    Raises:
        ConfigError: `frames` is below 2.
    """
    if frames < 2:
        raise ConfigError(f"{frames} frames: an interpolation includes both ends, so it needs at least 2")
    precise = sum_dtype(start)
    a, b = start.to(precise).flatten(1), end.to(precise).flatten(1)
    fractions = torch.linspace(0, 1, frames, dtype=precise, device=a.device)[:, None, None]
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
