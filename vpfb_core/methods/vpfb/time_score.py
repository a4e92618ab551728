"""The time score, which trains the energy itself where gradients leave it open.

The gradient of N does not determine how high the energies of separate modes or classes are relative to each other. The
derivative of the log-density along the arc does. With h = ∂ log p(u | z)/∂ℓ at fixed u and ℓ = log tan φ,

    h = sin φ cos φ z·ε − sin² φ (‖ε‖² − d),        E[h | u] = ∂ log ρ(u, φ)/∂ℓ,

so that ∂ log ρ/∂ℓ is the least-squares regression of h on u (time score matching, Choi et al. 2022, arXiv 2111.11010;
with the gradient, dual score matching, Guth et al. 2025, arXiv 2506.05310). At φ = 0 the density is exactly N(0, I) for
every N and every condition, and log ρ = −½‖u‖² − (d/2) log 2π + tan φ · N is therefore normalised at the minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import mean_squared_error
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.angles import DEFAULT_ANGLES, AngleDistribution
from vpfb_core.methods.path.draws import Part, draw_pairs
from vpfb_core.methods.vpfb.potential import Potential, ValueAndGradient


def time_score_error(field: ValueAndGradient, z: Tensor, angle: Tensor, noise: Tensor) -> Tensor:
    """(∂ log ρ/∂ℓ of a potential − h)² of each point, (N,), relative to the variance of h over all data.

    It is divided by max(1, tan φ), so that the noise of its gradient in N is the same at every level.

    Args:
        field: N, ∇N and ∂N/∂φ at the points.
        z, angle, noise: the points, as in `arc.point`.
    """
    sine, cosine = torch.sin(angle), torch.cos(angle)
    assert field.rate is not None
    dimension = z[0].numel()
    # Both sides are divided by sin φ, so that no factor vanishes at φ = 0.
    predicted = (field.value + sine * cosine * field.rate) / cosine
    innovation = cosine * arc.innovation(z, angle, noise)
    variance = dimension * (1 + sine.square())
    return (predicted - innovation).square() / (variance * torch.tan(angle).clamp(min=1))


def stein_and_time_score(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    weight: float,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,
    part: Part | None = None,
) -> Tensor:
    """The loss `objectives.stein` plus `weight` times the mean `time_score_error` of the same points.

    The points share one backward pass. The other arguments are those of `objectives.stein`.
    """
    pairs = draw_pairs(data, condition, potential.angle_range, generator, angles, part)
    z = pairs.data / potential.data_std
    u, y = arc.point(z, pairs.angle, pairs.noise)
    field = potential(u, pairs.angle, pairs.condition, with_rate=True)
    error = time_score_error(field, z, pairs.angle, pairs.noise)
    return (mean_squared_error(field.gradient, y) + weight * error).mean()
