"""The Fokker–Planck residual, which shows without training or calibration how consistent energies are across levels.

The exact density of the arc satisfies the continuity equation of its flow,

    ∂ log ρ/∂φ = −ΔN + u·∇N − tan φ ‖∇N‖².

The left side needs N itself, the right side only its gradient. Their difference is therefore what the offsets that a
gradient leaves open change from one level to the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import squared_norm, sum_per_sample
from vpfb_core.methods.likelihood import velocity_and_divergence
from vpfb_core.methods.vpfb.field import PotentialField


def fokker_planck_residual(
    field: PotentialField, u: Tensor, level: float, condition: Tensor | None = None, probes: Tensor | None = None
) -> Tensor:
    """∂ log ρ/∂ℓ of the energy minus that of the flow, with ℓ = log tan φ, in nats at each point, (N,).

    It is zero for an exact N whose gauge makes the density normalised. For a field without such a gauge only its
    deviation over the points of a level is meaningful.

    Args:
        field: the field of a potential.
        u: points of the noise level, (N, …).
        level: cot φ of all points.
        condition: class indices, int64 (N, G), or None.
        probes: random signs for the estimate of ΔN, (N, probes, …); None computes it exactly.
    """
    angle = u.new_full((len(u),), field.position(level))
    with torch.no_grad():
        value, gradient, rate = field.potential.arc(u, angle, condition, with_rate=True)
    assert rate is not None
    _, laplacian = velocity_and_divergence(field, u, angle, condition, probes)
    sine, cosine, tangent = torch.sin(angle), torch.cos(angle), torch.tan(angle)
    of_energy = tangent * (value + sine * cosine * rate)
    of_flow = sine * cosine * (sum_per_sample(u * gradient) - laplacian - tangent * squared_norm(gradient))
    return of_energy - of_flow
