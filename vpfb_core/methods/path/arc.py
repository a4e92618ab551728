"""The arc: coordinates from noise to data in which every schedule is the same.

With z = x̄/a (data of unit variance), u = x/S(t), S² = μ² a² + σ² and φ = atan2(μ a, σ) ∈ [0, π/2), every schedule
becomes

    u = sin φ · z + cos φ · ε            a point on the arc from noise to data; unit variance at every φ
    y = cos φ · z − sin φ · ε = du/dφ    its conditional velocity along the arc; unit variance

The potential N(u, φ) is the difference between Φ and the potential of Gaussian data (`potential.py`). It gives

    flow      du/dφ = ∇_u N(u, φ)
    energy    E = ½‖u‖² − tan φ · N(u, φ), which is −log ρ in nats up to C(φ)
    score     ∇_u log ρ = −u + tan φ · ∇_u N

The noise level of a point is cot φ = σ/(μ a), the ratio of noise to data. The sine, cosine and tangent of a level are
float64 numbers, since tan φ reaches 500 and multiplies the rounding error of a float32 angle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to, squared_norm, sum_per_sample

# The steps of the flow are spaced in a time τ with tan φ = r τ / (1 − τ), which is the time of straight paths to data
# of standard deviation r, as τ = τ_max (1 − (1 − q)^p) with q uniform. Steps are shortest where the flow leaves the
# noise, since its velocity changes most there. They are short again before the data, since no later step corrects the
# last one. r and p were chosen with benchmarks/solvers.py.
GRID_RATIO, GRID_POWER = 0.5, 1.3


@dataclass(frozen=True)
class ArcPosition:
    """A position on the arc: φ with its sine, cosine and tangent, as float64 numbers."""

    angle: float
    sine: float
    cosine: float
    tangent: float

    @classmethod
    def at_level(cls, level: float) -> ArcPosition:
        """The position of a noise level, 0 < level ≤ ∞."""
        length = math.hypot(1.0, level)
        if math.isinf(length):
            return cls(0.0, 0.0, 1.0, 0.0)
        return cls(math.atan2(1.0, level), 1 / length, level / length, 1 / level)

    def energy(self, u: Tensor, value: Tensor) -> Tensor:
        """The energy at points u (N, …) from N (N,), as in `energy`."""
        return energy(u, value, self.tangent)

    def score(self, u: Tensor, gradient: Tensor) -> Tensor:
        """The score at points u from ∇N, as in `score`."""
        return score(u, gradient, self.tangent)


def level(angle: float) -> float:
    """The noise level cot φ of an angle; infinite at φ = 0."""
    return math.cos(angle) / math.sin(angle) if angle > 0 else math.inf


def angle(level: float) -> float:
    """The angle φ of a noise level; the inverse of `level`."""
    return math.atan2(1.0, level)


def point(z: Tensor, angle: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """u = sin φ z + cos φ ε and its conditional velocity y = cos φ z − sin φ ε, both (N, …).

    Args:
        z: data of unit variance, (N, …).
        angle: φ of each datum, (N,).
        noise: ε, like z.
    """
    sine, cosine = expand_to(torch.sin(angle), z), expand_to(torch.cos(angle), z)
    return sine * z + cosine * noise, cosine * z - sine * noise


def innovation(z: Tensor, angle: Tensor, noise: Tensor) -> Tensor:
    """g = z·ε − tan φ (‖ε‖² − d), the derivative ∂ log p(u | z)/∂φ at fixed u, (N,); its mean over ε is 0.

    Up to a factor −2 and a constant it is γ in Loo et al. 2025 (arXiv 2504.16262), Proposition 1, with φ as the time.
    Arguments are those of `point`.
    """
    return sum_per_sample(z * noise) - torch.tan(angle) * (squared_norm(noise) - z[0].numel())


def energy(u: Tensor, value: Tensor, tangent: Tensor | float) -> Tensor:
    """The energy ½‖u‖² − tan φ · N in nats up to C(φ), (N,).

    Args:
        u: points of the arc, (N, …).
        value: N(u, φ), (N,).
        tangent: tan φ, a number or (N,).
    """
    return 0.5 * squared_norm(u) - tangent * value


def score(u: Tensor, gradient: Tensor, tangent: Tensor | float) -> Tensor:
    """The score −u + tan φ · ∇N, like u.

    Args:
        u: points of the arc, (N, …).
        gradient: ∇N(u, φ), like u.
        tangent: tan φ, a number or (N,).
    """
    return (expand_to(tangent, u) if isinstance(tangent, Tensor) else tangent) * gradient - u


def grid(start: float, end: float, steps: int) -> list[float]:
    """The `steps` + 1 angles of a fixed-step solve from `start` to `end`, in either direction."""
    low, high = min(start, end), max(start, end)
    first, last = (math.sin(angle) / (GRID_RATIO * math.cos(angle) + math.sin(angle)) for angle in (low, high))
    times = [last - (last - first) * (1 - i / steps) ** GRID_POWER for i in range(1, steps)]
    rising = [low, *(math.atan2(GRID_RATIO * time, 1 - time) for time in times), high]
    return rising if start < end else rising[::-1]
