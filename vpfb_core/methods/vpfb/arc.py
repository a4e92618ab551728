"""The arc: one coordinate system in which every schedule is the same.

With z = x̄/a (data of unit variance), u = x/S(t) and φ = atan2(μ a, σ) ∈ [0, π/2), every schedule becomes

    u = sin φ · z + cos φ · ε            a point on the arc from noise to data; unit variance at every φ
    y = cos φ · z − sin φ · ε = du/dφ    its conditional velocity along the arc; unit variance

and with a potential N(u, φ) written around that of Gaussian data,

    flow      du/dφ = ∇_u N(u, φ)
    energy    E = ½‖u‖² − tan φ · N(u, φ),  −log ρ up to C(φ), in nats
    score     ∇_u log ρ = −u + tan φ · ∇_u N

The noise level of a point is cot φ = σ/(μ a), the ratio of noise to data. Sines, cosines and tangents of a level are
float64 numbers: tan φ reaches 500 and magnifies the rounding of a float32 angle by as much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to, squared_norm

# Steps of the flow are laid out by a time τ with tan φ = r τ / (1 − τ), that of straight paths to data of deviation r,
# as τ = τ_max (1 − (1 − q)^p): finest where the flow leaves the noise and bends most, and finer again before the data,
# so that the last step, which nothing corrects, is short. Chosen by benchmarks/solvers.py.
GRID_RATIO, GRID_POWER = 0.5, 1.3


@dataclass(frozen=True)
class Place:
    """A place on the arc, in float64."""

    angle: float
    sine: float
    cosine: float
    tangent: float

    @classmethod
    def at_level(cls, level: float) -> Place:
        """The place where the ratio of noise to data is `level`; 0 < level ≤ ∞."""
        length = math.hypot(1.0, level)
        if math.isinf(length):
            return cls(0.0, 0.0, 1.0, 0.0)
        return cls(math.atan2(1.0, level), 1 / length, level / length, 1 / level)

    def energy(self, u: Tensor, value: Tensor) -> Tensor:
        """½‖u‖² − tan φ · N, nats up to C(φ), (N,)."""
        return 0.5 * squared_norm(u) - self.tangent * value

    def score(self, u: Tensor, gradient: Tensor) -> Tensor:
        """−u + tan φ · ∇N, like u."""
        return self.tangent * gradient - u


def level(angle: float) -> float:
    """cot φ; infinite at φ = 0."""
    return math.cos(angle) / math.sin(angle) if angle > 0 else math.inf


def angle(level: float) -> float:
    """φ, the inverse of `level`."""
    return math.atan2(1.0, level)


def point(z: Tensor, angle: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """u = sin φ z + cos φ ε and its conditional velocity y = cos φ z − sin φ ε, both (N, …).

    Args:
        z: data of unit variance, (N, …).
        angle: φ, (N,).
        noise: ε, like z.
    """
    sine, cosine = expand_to(torch.sin(angle), z), expand_to(torch.cos(angle), z)
    return sine * z + cosine * noise, cosine * z - sine * noise


def grid(start: float, end: float, steps: int) -> list[float]:
    """The `steps` + 1 angles from `start` to `end` on which a fixed-step solver steps, in either direction."""
    low, high = min(start, end), max(start, end)
    first, last = (math.sin(angle) / (GRID_RATIO * math.cos(angle) + math.sin(angle)) for angle in (low, high))
    times = [last - (last - first) * (1 - i / steps) ** GRID_POWER for i in range(1, steps)]
    rising = [low, *(math.atan2(GRID_RATIO * time, 1 - time) for time in times), high]
    return rising if start < end else rising[::-1]
