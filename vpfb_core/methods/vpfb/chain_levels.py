"""The lowest noise level at which Markov chains can run on the energies of a potential, by measurement.

The energy is ½‖u‖² − tan φ · N. Near the data tan φ multiplies the rounding error of N, until it decides on the
acceptance of a proposal. How near depends on the network and on the number of dimensions.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.machine.precision import exact, exact_device
from vpfb_core.methods.fields import Field
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential

POINTS = 16
TOLERANCE = 0.05  # nats: the largest root mean square error of differences of energies
HIGHEST_MEASURED = 0.2  # the noise level from which on differences are measured; at more noise chains always run


def lowest_for_chains(
    potential: Potential, z: Tensor, noises: Sequence[float], condition: Tensor | None = None, seed: int = 0
) -> float:
    """The lowest noise level down to which differences of energies are right to `TOLERANCE`.

    The energies of the potential are compared with those of its copy in float64. The error grows towards the data, so
    that the level is found by bisection.

    Args:
        potential: the potential.
        z: data of unit variance, (n, …).
        noises: the noise levels to choose from, falling.
        condition: the class indices of the data, int64 (n, G), or None.
        seed: the seed of the noise.
    """
    reference = PotentialField(copy.deepcopy(potential).to(exact_device(z.device)).double())
    field = PotentialField(potential)
    if condition is not None:
        condition = condition.to(z.device)

    def is_too_low(level: float) -> bool:
        if level >= HIGHEST_MEASURED:
            return False
        x, moved = neighbours(field, z, level, condition, seed)
        right = differences(reference, level, exact(x), exact(moved), condition)
        error = differences(field, level, x, moved, condition) - right
        return not float(error.square().mean().sqrt()) < TOLERANCE

    return noises[max(0, bisect_left(noises, True, key=is_too_low) - 1)]


def neighbours(
    field: Field, z: Tensor, level: float, condition: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Points of a noise level and proposals of MALA from them with a step of the usual size, both like z."""
    draws = noise.normal(z.shape[1:], seed, range(2 * len(z)), "neighbours").to(z)
    x = field.at_level(z, level, draws[: len(z)])
    _, score = field.energy_and_score(x, level, condition)
    eta = field.chain_variance(level) * z[0].numel() ** (-1 / 3)
    return x, x + eta * score + math.sqrt(2 * eta) * draws[len(z) :]


def differences(field: Field, level: float, x: Tensor, moved: Tensor, condition: Tensor | None = None) -> Tensor:
    """E(moved) − E(x) at a noise level, (N,), float64 on the CPU."""
    if condition is not None:
        condition = condition.to(x.device)
    before, after = (field.energy(points, level, condition).cpu().double() for points in (x, moved))
    return after - before
