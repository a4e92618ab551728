"""What a potential says of a clean image along the arc: energies, scores, and what its network sees.

Images are brought to the length that they have at a level and not noised, u = sin φ · z: noised copies tell less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vpfb_core.methods.vpfb.potential import Potential

# Noise-to-signal ratios cot φ, geometric: from where only the coarse shape is left down to the finest detail.
LEVELS = tuple(3.0 * (0.05 / 3.0) ** (i / 9) for i in range(10))
SCALAR_LEVEL = LEVELS[5]  # 0.31, where the scores that read a single level read it: the best in the worst case
FEATURE_EVERY = 3  # features are taken at every third level, from the second on; more of them say the same


def levels_of(potential: Potential) -> tuple[float, ...]:
    """Those of `LEVELS` that the schedule reaches: beyond its floor nothing was learned."""
    return tuple(level for level in LEVELS if level >= _floor(potential))


def scalar_level(potential: Potential) -> float:
    """`SCALAR_LEVEL`, or the floor of the schedule if that comes first."""
    return max(SCALAR_LEVEL, _floor(potential))


def _floor(potential: Potential) -> float:
    return 1 / math.tan(potential.angle_range[1])


class Reading(NamedTuple):
    """At one level."""

    energy: Tensor  # E = ½‖u‖² − tan φ N(u, φ), in nats up to C(φ), (N,)
    score_norm: Tensor  # ‖∇_u log ρ‖ = ‖−u + tan φ ∇N‖, (N,)
    features: Tensor  # mean and deviation over positions of the network's coarsest layer, (N, F); F = 0 without one


class Readings(NamedTuple):
    """At all levels, on the CPU."""

    scalars: Tensor  # energies and log score norms, (N, 2 · levels)
    features: Tensor  # (N, F'); F' = 0 if the network has no coarsest layer


def read(potential: Potential, z: Tensor, level: float) -> Reading:
    """The reading of images at one level.

    Args:
        z: images in units of their standard deviation, (N, …), on the potential's device.
        level: cot φ > 0, the noise in units of the signal.
    """
    angle = math.atan2(1.0, level)
    u = math.sin(angle) * z
    with torch.no_grad(), _coarsest_layer(potential.network) as seen:
        field = potential.arc(u, torch.full((len(u),), angle, dtype=u.dtype, device=u.device))
    return Reading(
        energy=0.5 * u.flatten(1).square().sum(1) - math.tan(angle) * field.value,
        score_norm=(math.tan(angle) * field.gradient - u).flatten(1).norm(dim=1),
        features=torch.cat([_pooled(layer) for layer in seen], 1) if seen else u.new_empty(len(u), 0),
    )


def read_all(potential: Potential, z: Tensor, levels: Sequence[float]) -> Readings:
    """The readings at several levels as one table. Arguments as in `read`."""
    readings = [read(potential, z, level) for level in levels]
    energies = [reading.energy for reading in readings]
    log_norms = [reading.score_norm.clamp(min=1e-12).log() for reading in readings]
    features = [reading.features for reading in readings[1::FEATURE_EVERY]]
    return Readings(torch.stack([*energies, *log_norms], 1).cpu(), torch.cat(features, 1).cpu())


@contextmanager
def _coarsest_layer(network: nn.Module) -> Iterator[list[Tensor]]:
    """Listen to the middle of a U-Net while it is evaluated: its outputs, (N, channels, h, w)."""
    seen: list[Tensor] = []
    middle = getattr(network, "middle", None)
    if not isinstance(middle, nn.Module):
        yield seen
        return
    handle = middle.register_forward_hook(lambda _layer, _inputs, output: seen.append(output.detach().float()))
    try:
        yield seen
    finally:
        handle.remove()


def _pooled(layer: Tensor) -> Tensor:
    positions = layer.flatten(2)
    return torch.cat([positions.mean(2), positions.std(2, correction=0)], 1)
