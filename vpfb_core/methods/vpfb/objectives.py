"""The objectives: functions of (potential, data, condition, generator) that return a loss.

`stein` and `ritz` estimate the Deep Ritz functional of Loo et al. 2025 (arXiv 2504.16262), J(Φ) = ½ E‖∇Φ‖² − E[Φ g],
on the arc, where it is the same for every schedule: μ = sin φ, σ = cos φ, the time is φ, and the innovation is
g = z·ε − tan φ (‖ε‖² − d). `official` is the loss of the authors' released code. Conditional training adds the loss of
`contrast.py` to `stein` or `ritz`. `regression` prepares a network for either.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import mean_squared_error, squared_norm
from vpfb_core.errors import ConfigError
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.angles import DEFAULT_ANGLES, AngleDistribution
from vpfb_core.methods.path.draws import Part, draw_pairs, normal_like
from vpfb_core.methods.vpfb.potential import Potential

NEEDS_SHAPE = "the regression needs a network whose output has the shape of its input"


def residual(
    potential: Potential, data: Tensor, angle: Tensor, noise: Tensor, condition: Tensor | None = None
) -> Tensor:
    """The residual ‖∇N(u, φ) − y‖²/d of each sample, (N,). Its mean is 1 for N = 0.

    It equals λ(t) ‖∇Φ − u_cond‖²/d with λ = (S / a W)² for every schedule. With fixed angles and noise on validation
    data it therefore compares any two models.

    Args:
        potential: the potential N.
        data: x̄, standardised to standard deviation a, (N, …).
        angle: φ, (N,).
        noise: ε, like data.
        condition: class indices, int64 (N, G), or None.
    """
    u, y = arc.point(data / potential.data_std, angle, noise)
    return mean_squared_error(potential(u, angle, condition).gradient, y)


class Objective(Protocol):
    """A loss function of standardised data (N, …) whose only source of randomness is the generator."""

    def __call__(
        self,
        potential: Potential,
        data: Tensor,
        condition: Tensor | None = None,
        *,
        generator: torch.Generator,
        angles: AngleDistribution = DEFAULT_ANGLES,
        part: Part | None = None,
    ) -> Tensor: ...


def stein(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,
    part: Part | None = None,
) -> Tensor:
    """E‖∇N − y‖²/d, the Deep Ritz functional with Stein's identity E[N g] = E[∇N·y] in its second term.

    It has the expected gradient and the minimiser of `ritz`, and a much smaller variance.

    Args:
        potential: the potential N.
        data: x̄, standardised to standard deviation a, (N, …). Each datum is used with ε and with −ε.
        condition: class indices, int64 (N, G), −1 for none; or None.
        generator: the only source of randomness, on the device of the data.
        angles: the distribution of φ.
        part: the part of a batch that the data are; None if they are the whole batch.
    Returns:
        The mean loss of the data, ().
    """
    pairs = draw_pairs(data, condition, potential.angle_range, generator, angles, part)
    return residual(potential, pairs.data, pairs.angle, pairs.noise, pairs.condition).mean()


def regression(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,
    part: Part | None = None,
) -> Tensor:
    """E‖2f + y‖²/d for the output f of the network, which begins a run at half the cost per step.

    If the velocity is v = A u with a small symmetric matrix A, the potential N = ½‖f‖² − u·f of f = −½ v is ½ u·A u, up
    to the second order in A. The regression of −2f on y therefore teaches a network most of what the potential needs,
    without a second derivative. ∇N is the velocity only after more training with `stein`. Arguments are those of
    `stein`.

    Raises:
        ConfigError: the output of the network is N itself.
    """
    pairs = draw_pairs(data, condition, potential.angle_range, generator, angles, part)
    u, y = arc.point(pairs.data / potential.data_std, pairs.angle, pairs.noise)
    output = potential.output(u, pairs.angle, pairs.condition)
    if output.shape != u.shape:
        raise ConfigError(NEEDS_SHAPE, hint="use a network such as unet")
    return (2 * output + y).square().mean()


def ritz(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,
    part: Part | None = None,
) -> Tensor:
    """2 J/d = E[‖∇N‖² − 2 N g]/d, the functional in the form of the paper. Arguments are those of `stein`.

    N at the noiseless point sin φ z is subtracted as a baseline that ε and −ε share:
    E[N g] ≈ ½ Σ± (N(u±) − N(sin φ z)) g±. Without it the variance is hundreds of times larger.
    """
    pairs = draw_pairs(data, condition, potential.angle_range, generator, angles, part)
    z = pairs.data / potential.data_std
    u, _ = arc.point(z, pairs.angle, pairs.noise)
    field = potential(u, pairs.angle, pairs.condition)
    noiseless, _ = arc.point(z[: len(data)], pairs.angle[: len(data)], torch.zeros_like(data))
    first_condition = None if pairs.condition is None else pairs.condition[: len(data)]
    baseline = potential.potential(noiseless, pairs.angle[: len(data)], first_condition).repeat(2)

    innovation = arc.innovation(z, pairs.angle, pairs.noise)
    return (squared_norm(field.gradient) - 2 * (field.value - baseline) * innovation).mean() / z[0].numel()


def official(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,  # noqa: ARG001  (the authors draw t uniformly)
    part: Part | None = None,
) -> Tensor:
    """The loss of the authors' released code, as a baseline, for an `UnpreconditionedPotential` with the schedule OT.

    L = mean(ΓΦ)/(std Γ · sg[std Φ] + 1e-8) + ½ mean_d (∇Φ)² + 0.1 mean (∂ₜΦ)² − mean_d(∇Φ ⊙ u)/(‖∇Φ‖‖u‖ + 1e-8)^t with
    u = x̄ − ε and Γ = (1 − t) mean_d(ε² − x̄ε) minus its batch mean. Arguments are those of `stein`. The mean of Γ and
    the standard deviations of Γ and Φ are taken over the given rows, so that the losses of parts do not add up to that
    of the batch. A part of one row has no first term.

    Raises:
        ConfigError: the batch has one row.
    """
    part = part or Part(0, len(data))
    if part.total < 2:
        raise ConfigError("the objective 'official' is a covariance over the batch, which needs at least 2 data")
    t = torch.rand(part.total, generator=generator, dtype=data.dtype, device=data.device)
    t = part.of(t, len(data)).requires_grad_()
    noise = normal_like(data, generator, part)
    x = potential.homotopy.sample(data, t.detach(), noise).requires_grad_()
    phi = potential.value(x, t, condition)
    gradient, time_derivative = torch.autograd.grad(phi.sum(), (x, t), create_graph=True)

    time = t.detach()
    velocity, gradient = (data - noise).flatten(1), gradient.flatten(1)
    gamma = (1 - time) * (noise.square() - data * noise).flatten(1).mean(1)
    gamma = gamma - gamma.mean()
    covariance = phi.new_zeros(())
    if len(data) > 1:
        covariance = (gamma * phi).mean() / (gamma.std() * phi.std().detach() + 1e-8)
    alignment = (gradient * velocity).mean(1) / (gradient.norm(dim=1) * velocity.norm(dim=1) + 1e-8).pow(time)
    kinetic = 0.5 * gradient.square().mean()
    return covariance + kinetic + 0.1 * time_derivative.square().mean() - alignment.mean()


OBJECTIVES: dict[str, Objective] = {"stein": stein, "ritz": ritz, "official": official}
