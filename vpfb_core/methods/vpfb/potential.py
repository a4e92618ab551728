"""The potential: a scalar field whose gradient is the velocity of a flow and whose value gives an energy.

The potential Φ is the exact potential of Gaussian data plus a learned difference N on the arc (`arc.py`):

    Φ(x, t) = ½ κ ‖x‖² + a W · N(x/S, φ),        κ = (a² μ μ̇ + σ σ̇)/S²,        S² = μ² a² + σ².

`Potential.arc` returns N and ∇N, which are all that training, flow and energies need. `value`, `velocity`, `score` and
`log_density` return the same potential in the coordinates (x, t) of Loo et al. 2025 (arXiv 2504.16262).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.per_sample import expand_to, squared_norm
from vpfb_core.errors import ConfigError
from vpfb_core.machine.precision import in_true_float32, run_in
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.homotopy import Homotopy, Time
from vpfb_core.methods.scalar import read_head, value_and_gradients
from vpfb_core.methods.vpfb.gauge import Gauge
from vpfb_core.networks.autograd_functions import tell_compiler


class ValueAndGradient(NamedTuple):
    """N and its derivatives at points of the arc.

    Attributes:
        value: N(u, φ), (N,), float32 or wider.
        gradient: ∇_u N(u, φ), which is the velocity du/dφ, like u.
        rate: ∂N/∂φ at fixed u, (N,); None if it was not requested.
    """

    value: Tensor
    gradient: Tensor
    rate: Tensor | None = None


class Potential(nn.Module):
    """The potential N(u, φ) of a network, and the paper's Φ, velocity, score and log-density that follow from it.

    If the network returns the shape of u, its output f is that of a denoising autoencoder, whose energy is the
    potential: N = ½‖u − f(u)‖² − ½‖u‖². This form was the most accurate one in our measurements. If the network returns
    (N,), its output is N. In both cases a last layer that is zero at initialisation gives N = 0, the exact flow of
    Gaussian data.

    Args:
        network: maps (u (N, …), φ (N,), condition (N, G) or None) to the shape of u or to (N,).
        homotopy: the schedule, which determines the range of angles and the functions of (x, t).
        data_std: a, the standard deviation of the standardised data x̄ per dimension.
        gauge: a function of the level and the condition that is added to N; None adds nothing.
    Raises:
        ConfigError: `data_std` is not a positive number.
    Attributes:
        autocast_dtype: the dtype in which the network alone runs; None leaves its own.
    """

    def __init__(
        self, network: nn.Module, homotopy: Homotopy, data_std: float = 0.5, gauge: Gauge | None = None
    ) -> None:
        super().__init__()
        if not 0 < data_std < math.inf:
            raise ConfigError(f"data_std = {data_std}: the standard deviation of the data must be positive")
        self.network = network
        self.gauge = gauge
        self.homotopy = homotopy
        self.data_std = data_std
        self.autocast_dtype: torch.dtype | None = None

    @property
    def angle_range(self) -> tuple[float, float]:
        """(φ(0), φ(1)), the part of the arc that the schedule covers."""
        return self.homotopy.angle_range(self.data_std)

    # --- on the arc ---------------------------------------------------------------------------------------------------

    def potential(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        """N(u, φ), (N,).

        Args:
            u: points of the arc, x/S, (N, …).
            angle: φ ∈ [0, π/2), (N,).
            condition: the class index in each condition group, int64 (N, G), −1 for none; None is unconditional.
        """
        value = read_head(u, self.output(u, angle, condition))
        return value if self.gauge is None else value + self.gauge(angle, condition).to(value.dtype)

    def arc(
        self, u: Tensor, angle: Tensor, condition: Tensor | None = None, *, with_rate: bool = False
    ) -> ValueAndGradient:
        """N and ∇_u N, and on request ∂N/∂φ, from one backward pass.

        They are differentiable in the parameters if autograd is enabled, and detached under `torch.no_grad`.

        Args:
            with_rate: whether ∂N/∂φ is computed. The other arguments are those of `potential`.
        """
        if with_rate:
            return ValueAndGradient(*value_and_gradients(self.potential, (u, angle), (condition,)))
        return ValueAndGradient(*value_and_gradients(self.potential, (u,), (angle, condition)))

    forward = arc  # torch.compile compiles `forward`, which therefore includes the gradient

    def compile(self, *args: Any, **settings: Any) -> None:
        """Compile `forward` in place for training. Arguments are those of `torch.compile`."""
        tell_compiler()
        super().compile(*args, **settings)

    def output(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        """The output of the network, of which `potential` is a function. Arguments are those of `potential`."""
        return run_in(self.autocast_dtype, self.network, u, angle, condition)

    # --- in the paper's coordinates -----------------------------------------------------------------------------------

    def value(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """Φ(x, t) = ½ κ ‖x‖² + a W N(x/S, φ), (N,).

        Args:
            x: points in the coordinates of standardised data, (N, …).
            t: homotopy time in [0, 1], (N,) or a number.
            condition: as in `potential`.
        """
        t = _times(x, t)
        scale = self.scale(t)
        arc_value = self.potential(x / expand_to(scale, x), self.angle(t), condition)
        return 0.5 * self._curvature(t) * squared_norm(x) + self.data_std * self.homotopy.wronskian(t) * arc_value

    def velocity(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """The velocity dx/dt = ∇Φ(x, t) = κ x + (a W / S) ∇_u N, like x. Arguments are those of `value`."""
        t = _times(x, t)
        scale = self.scale(t)
        gradient = self.arc(x / expand_to(scale, x), self.angle(t), condition).gradient
        stretch = self.data_std * self.homotopy.wronskian(t) / scale
        return expand_to(self._curvature(t), x) * x + expand_to(stretch, x) * gradient

    def score(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """The score ∇ log ρ̄(x, t) = (−u + tan φ ∇_u N)/S, like x. Arguments are those of `value`."""
        t = _times(x, t)
        scale, angle = self.scale(t), self.angle(t)
        u = x / expand_to(scale, x)
        gradient = self.arc(u, angle, condition).gradient
        return arc.score(u, gradient, torch.tan(angle)) / expand_to(scale, u)

    @in_true_float32
    def log_density(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """log ρ̄(x, t) up to a function of t, −½‖u‖² + tan φ N(u, φ) − d log S − ½ d log 2π, in nats, (N,).

        It is exact at t = 0 if φ(0) = 0. At other times it lacks a constant, which is the same for every x
        (`normaliser.py`). Near t = 1 it is not accurate, since tan φ multiplies the error of N; use it where
        σ/(μ a) ≥ 0.1. Arguments are those of `value`.
        """
        t = _times(x, t)
        scale, angle = self.scale(t), self.angle(t)
        u = x / expand_to(scale, x)
        energy = arc.energy(u, self.potential(u, angle, condition), torch.tan(angle))
        return -energy - u[0].numel() * (torch.log(scale) + 0.5 * math.log(2 * math.pi))

    def angle(self, t: Time) -> Tensor:
        """φ(t), like t."""
        return self.homotopy.angle(t, self.data_std)

    def scale(self, t: Time) -> Tensor:
        """S(t) = √(μ² a² + σ²), the standard deviation of x per dimension, like t."""
        return torch.hypot(self.homotopy.mean(t) * self.data_std, self.homotopy.std(t))

    def _curvature(self, t: Tensor) -> Tensor:
        """κ(t) = (a² μ μ̇ + σ σ̇)/S² = Ṡ/S."""
        schedule = self.homotopy
        growth = self.data_std**2 * schedule.mean(t) * schedule.mean_derivative(t)
        return (growth + schedule.std(t) * schedule.std_derivative(t)) / self.scale(t).square()


class UnpreconditionedPotential(Potential):
    """The potential of the authors' released code, Φ(x, t) = ½‖x − f(x, t)‖², as a baseline.

    It has no Gaussian part and no scaling. N is the difference between this Φ and the Gaussian part, so that flow,
    energy and residual are defined as for any potential.
    """

    def value(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        residue = x - self.output(x, self.angle(_times(x, t)), condition)
        return 0.5 * squared_norm(residue)

    def potential(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        t = self.homotopy.time(angle, self.data_std)
        x = expand_to(self.scale(t), u) * u
        gaussian = 0.5 * self._curvature(t) * squared_norm(x)
        return (self.value(x, t, condition) - gaussian) / (self.data_std * self.homotopy.wronskian(t))


def _times(x: Tensor, t: Time) -> Tensor:
    """t as (N,) in the dtype and on the device of x."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[0])
