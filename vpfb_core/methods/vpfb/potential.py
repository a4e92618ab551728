"""The potential: one scalar field whose gradient carries noise to data, and whose value is the energy.

Everything runs on the arc. With z = x̄/a, u = x/S and φ = atan2(μ a, σ), every schedule becomes

    u = sin φ · z + cos φ · ε            a point on the arc from noise to data; unit variance at every φ
    y = cos φ · z − sin φ · ε = du/dφ    its conditional velocity along the arc; unit variance

and the potential is written around the exact potential of Gaussian data,

    Φ(x, t) = ½ κ ‖x‖² + a W · N(x/S, φ),        κ = (a² μ μ̇ + σ σ̇)/S²,        S² = μ² a² + σ².

`Potential.arc` gives N and ∇N, which is all that training, flow and energies use; `value`, `velocity`, `score` and
`log_density` read the same field in the coordinates (x, t) of Loo et al. 2025 (arXiv 2504.16262).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.per_sample import expand_to
from vpfb_core.methods.vpfb.homotopy import Homotopy, Time
from vpfb_core.networks.compiling import tell_compiler


class ArcField(NamedTuple):
    """N and its gradient at points of the arc."""

    value: Tensor  # N(u, φ), (N,), float32 or wider
    gradient: Tensor  # ∇_u N(u, φ), shaped and typed like u: the velocity du/dφ


class Potential(nn.Module):
    """N(u, φ) over any network, and the paper's Φ, velocity, score and log-density that follow from it.

    A network that answers in the shape of u is read as a denoiser f, N = ½‖u − f(u)‖² − ½‖u‖², the energy of a
    denoising autoencoder (the best head in our measurements); one that answers (N,) is N itself. Either way a
    zero-initialised last layer starts at N = 0, the exact flow of Gaussian data.

    Args:
        network: maps (u (N, …), φ (N,), condition (N, G) or None) to the shape of u or to (N,).
        homotopy: the schedule; it matters only for the functions of (x, t).
        data_std: a, the standard deviation of the standardised data x̄ per dimension.
    """

    def __init__(self, network: nn.Module, homotopy: Homotopy, data_std: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.homotopy = homotopy
        self.data_std = data_std
        self.autocast_dtype: torch.dtype | None = None  # run the network (only) in this precision

    @property
    def angle_range(self) -> tuple[float, float]:
        """(φ(0), φ(1)): the part of the arc that the schedule covers."""
        return self.homotopy.angle_range(self.data_std)

    # --- on the arc ---------------------------------------------------------------------------------------------------

    def potential(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        """N(u, φ), (N,).

        Args:
            u: points of the arc, x/S, (N, …).
            angle: φ ∈ [0, π/2), (N,).
            condition: class index in each condition group, int64 (N, G), −1 for none; or None for none at all.
        """
        return _read_head(u, self._run_network(u, angle, condition))

    def arc(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> ArcField:
        """N and ∇_u N. Differentiable in the parameters where autograd is on; under `torch.no_grad` nothing is kept.

        Arguments as in `potential`.
        """
        if torch.is_grad_enabled():
            if torch.compiler.is_compiling():
                return self._traced_arc(u, angle, condition)
            u = u if u.requires_grad else u.detach().requires_grad_()
            value = self.potential(u, angle, condition)
            (gradient,) = torch.autograd.grad(value.sum(), u, create_graph=True)
            return ArcField(value, gradient)
        # Copies, because tensors made under torch.inference_mode cannot be differentiated.
        with torch.inference_mode(False), torch.enable_grad():
            u, angle = u.detach().clone().requires_grad_(), angle.clone()
            value = self.potential(u, angle, None if condition is None else condition.clone())
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return ArcField(value.detach(), gradient)

    forward = arc  # a wrapper such as DistributedDataParallel sees the gradient, not only the value

    def _traced_arc(self, u: Tensor, angle: Tensor, condition: Tensor | None) -> ArcField:
        """`arc` by torch.func.grad, which torch.compile can see through; its bookkeeping would slow down eager mode."""

        def total(u: Tensor) -> tuple[Tensor, Tensor]:
            value = self.potential(u, angle, condition)
            return value.sum(), value

        gradient, value = torch.func.grad(total, has_aux=True)(u)
        return ArcField(value, gradient)

    def compile(self, *args: Any, **settings: Any) -> None:
        """Compile `forward` in place for training; arguments as of `torch.compile`."""
        tell_compiler()
        super().compile(*args, **settings)

    def _run_network(self, u: Tensor, angle: Tensor, condition: Tensor | None) -> Tensor:
        if self.autocast_dtype is None:
            return self.network(u, angle, condition)
        with torch.autocast(u.device.type, dtype=self.autocast_dtype):
            return self.network(u, angle, condition).float()

    # --- in the paper's coordinates -----------------------------------------------------------------------------------

    def value(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """Φ(x, t) = ½ κ ‖x‖² + a W N(x/S, φ), (N,).

        Args:
            x: (N, …), in the coordinates of standardised data.
            t: homotopy time in [0, 1], (N,) or a float.
            condition: as in `potential`.
        """
        t = _times(x, t)
        scale = self.scale(t)
        arc_value = self.potential(x / expand_to(scale, x), self.angle(t), condition)
        return 0.5 * self._curvature(t) * _squared_norm(x) + self.data_std * self.homotopy.wronskian(t) * arc_value

    def velocity(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """∇Φ(x, t) = κ x + (a W / S) ∇_u N, shaped like x: the flow dx/dt. Arguments as in `value`."""
        t = _times(x, t)
        scale = self.scale(t)
        gradient = self.arc(x / expand_to(scale, x), self.angle(t), condition).gradient
        stretch = self.data_std * self.homotopy.wronskian(t) / scale
        return expand_to(self._curvature(t), x) * x + expand_to(stretch, x) * gradient

    def score(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """∇ log ρ̄(x, t) = (−u + tan φ ∇_u N)/S, shaped like x. Arguments as in `value`."""
        t = _times(x, t)
        scale, angle = self.scale(t), self.angle(t)
        u = x / expand_to(scale, x)
        gradient = self.arc(u, angle, condition).gradient
        return (expand_to(torch.tan(angle), u) * gradient - u) / expand_to(scale, u)

    def log_density(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        """log ρ̄(x, t) up to a function of t: −½‖u‖² + tan φ N(u, φ) − d log S − ½ d log 2π, in nats, (N,).

        Exact at t = 0 where φ(0) = 0; elsewhere a constant C(φ), the same for every x, is missing. At the floor
        (t = 1) tan φ is large and the figure useless: ask where σ/(μ a) ≥ 0.1. Arguments as in `value`.
        """
        t = _times(x, t)
        scale, angle = self.scale(t), self.angle(t)
        u = x / expand_to(scale, x)
        gaussian = -0.5 * _squared_norm(u) - u[0].numel() * (torch.log(scale) + 0.5 * math.log(2 * math.pi))
        return gaussian + torch.tan(angle) * self.potential(u, angle, condition)

    def angle(self, t: Time) -> Tensor:
        """φ(t) on the arc, shaped like t."""
        return self.homotopy.angle(t, self.data_std)

    def scale(self, t: Time) -> Tensor:
        """S(t) = √(μ² a² + σ²), the standard deviation of x per dimension, shaped like t."""
        return torch.hypot(self.homotopy.mean(t) * self.data_std, self.homotopy.std(t))

    def _curvature(self, t: Tensor) -> Tensor:
        """κ(t) = (a² μ μ̇ + σ σ̇)/S² = Ṡ/S."""
        schedule = self.homotopy
        growth = self.data_std**2 * schedule.mean(t) * schedule.mean_derivative(t)
        return (growth + schedule.std(t) * schedule.std_derivative(t)) / self.scale(t).square()


class UnpreconditionedPotential(Potential):
    """Φ(x, t) = ½‖x − f(x, t)‖², the authors' potential: no Gaussian part and no scaling. The baseline to beat.

    N is what this Φ leaves over the Gaussian part, so that flow, energy and residual are read as from any potential.
    """

    def value(self, x: Tensor, t: Time, condition: Tensor | None = None) -> Tensor:
        residue = x - self._run_network(x, self.angle(_times(x, t)), condition)
        return 0.5 * _squared_norm(residue)

    def potential(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        t = self.homotopy.time(angle, self.data_std)
        x = expand_to(self.scale(t), u) * u
        gaussian = 0.5 * self._curvature(t) * _squared_norm(x)
        return (self.value(x, t, condition) - gaussian) / (self.data_std * self.homotopy.wronskian(t))


def _read_head(u: Tensor, output: Tensor) -> Tensor:
    """N from the network's answer: itself if (N,), else ½‖u − f‖² − ½‖u‖² = ½‖f‖² − u·f, in u's precision."""
    if output.ndim == 1:
        return output
    return (output * (0.5 * output - u)).flatten(1).sum(1)


def _squared_norm(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1)


def _times(x: Tensor, t: Time) -> Tensor:
    """t as (N,) beside x."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(x.shape[0])
