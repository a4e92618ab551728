"""Potentials of tilted data: the density of the data z is multiplied by exp(ℓ·z) for a fixed direction ℓ.

The density of the data given a point u of the arc is exponential in (sin φ/cos² φ) u. A tilt therefore shifts the point
at which the potential is evaluated. For every N, with δ = ℓ cos² φ/sin φ and log Z = log E exp(ℓ·z),

    N^ℓ(u, φ)      = N(u + δ, φ) + tan φ (u·δ + ½‖δ‖²)
    ∇N^ℓ(u, φ)     = ∇N(u + δ, φ) + cos φ ℓ
    log ρ^ℓ(u, φ)  = log ρ(u + δ, φ) + (u·δ + ½‖δ‖²)/cos² φ − log Z

so that C^ℓ(φ) = C(φ) − log Z. The flow, the energies and the scores of the tilted data cost no further evaluations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to, sum_per_sample
from vpfb_core.methods.vpfb.potential import Potential

# Near φ = 0 the shift would leave the points that the network knows. Below this sin φ the direction is shortened in
# proportion to sin φ, so that the field at each φ remains that of tilted data, and next to nothing moves there.
LEAST_SINE = 0.05


class TiltedPotential(Potential):
    """The potential of tilted data. It shares the network of the given potential, and its tensors have the same names.

    Args:
        potential: the potential of the data.
        direction: ℓ, of the shape of a datum of unit variance.
    """

    direction: Tensor

    def __init__(self, potential: Potential, direction: Tensor) -> None:
        super().__init__(potential.network, potential.homotopy, potential.data_std, potential.gauge)
        self.register_buffer("direction", direction, persistent=False)
        self._untilted = potential.potential  # the function alone, so that no tensor is held under two names

    def potential(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        sine, cosine = torch.sin(angle), torch.cos(angle)
        shift = expand_to(cosine.square() / sine.clamp(min=LEAST_SINE), u) * self.direction.to(u.dtype)
        rise = sum_per_sample(shift * (u + 0.5 * shift))
        return self._untilted(u + shift, angle, condition) + sine / cosine * rise
