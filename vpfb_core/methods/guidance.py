"""Guidance: a condition stated more strongly than the data state it, N = N_∅ + W (N_c − N_∅).

Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598), which mixes scores or velocities, is the same mixture
written on the potential. Here it keeps an energy: at every level the density of the chains is ρ_∅ (ρ_c/ρ_∅)^W up to a
constant, so that the Metropolis test holds. W = 1 is the condition itself, W = 0 none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import Target
from vpfb_core.errors import ConfigError
from vpfb_core.methods.vpfb.homotopy import expand_to
from vpfb_core.methods.vpfb.potential import ArcField, Potential


def guided_arc(
    potential: Potential, u: Tensor, angle: Tensor, condition: Tensor | None = None, guidance: float | None = None
) -> ArcField:
    """N_∅ + W (N_c − N_∅) and its gradient, for the price of two evaluations; N_c alone where W is None or 1.

    Args:
        u: points of the arc, (N, …).
        angle: φ, (N,).
        condition: c, class indices, int64 (N, G); None is none at all, and then there is nothing to guide.
        guidance: W.
    """
    if guidance is None or guidance == 1 or condition is None:
        return potential.arc(u, angle, condition)
    conditions = torch.cat([condition, torch.full_like(condition, -1)])
    value, gradient = potential.arc(torch.cat([u, u]), torch.cat([angle, angle]), conditions)
    (value, free), (gradient, free_gradient) = value.chunk(2), gradient.chunk(2)
    return ArcField(free + guidance * (value - free), free_gradient + guidance * (gradient - free_gradient))


def arc_velocity(potential: Potential, guidance: float | None = None) -> Callable[..., Tensor]:
    """The right-hand side of the flow, (u, φ[, condition]) → ∇_u N, guided as in `guided_arc`."""

    def velocity(u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        return guided_arc(potential, u, angle, condition, guidance).gradient

    return velocity


def arc_density(potential: Potential, condition: Tensor | None = None, guidance: float | None = None) -> Target:
    """The target of chains: −½‖u‖² + tan φ · N(u, φ), the log-density but for C(φ), and its gradient.

    Arguments as in `guided_arc`.
    """

    def target(u: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        field, tangent = guided_arc(potential, u, angle, condition, guidance), torch.tan(angle)
        log_density = tangent * field.value - 0.5 * u.flatten(1).square().sum(1)
        return log_density, expand_to(tangent, u) * field.gradient - u

    return target


def check_guidance(guidance: float | None, groups: Sequence[object]) -> None:
    """Whether a model with these condition groups can be guided by this weight.

    Raises:
        ConfigError: it is not finite, or the model is unconditional.
    """
    if guidance is not None and not math.isfinite(guidance):
        raise ConfigError(f"guidance {guidance} is not a finite number", hint="1 is the class itself; try 2")
    if guidance is not None and not groups:
        raise ConfigError(
            f"guidance {guidance:g}: this model is unconditional, so there is nothing to guide it towards",
            hint="train one with vpfb train --conditional",
        )
