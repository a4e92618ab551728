"""The objectives: each a small function of (potential, data, condition, generator) that returns a loss.

`stein` and `ritz` estimate the Deep Ritz functional of Loo et al. 2025 (arXiv 2504.16262), J(Φ) = ½ E‖∇Φ‖² − E[Φ g],
written on the arc, where it is the same for every schedule. There μ = sin φ, σ = cos φ, time is φ and the innovation is
g = z·ε − tan φ (‖ε‖² − d). `official` is the authors' released loss. `contrast` is added to either of the first two
where there are conditions: it trains what gradients do not show, the energy that one class gives to another's pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.methods.vpfb import arc
from vpfb_core.methods.vpfb.potential import Potential

# Quantiles closer to 0 or 1 than this are coarse in float32.
_LEAST_SHARE = 1e-4


class Part(NamedTuple):
    """Which rows of a batch are at hand: `first` and those after it, of `total`.

    What is drawn is drawn for the whole batch and cut, so that the parts of a batch, each with a generator of the same
    seed, add up to it: on several devices, or one after the other where the batch does not fit into the memory.
    """

    first: int
    total: int

    def of(self, drawn: Tensor, count: int) -> Tensor:
        """The `count` rows of this part of what was drawn for all, (total, …)."""
        return drawn[self.first : self.first + count]


@dataclass(frozen=True)
class AngleDistribution:
    """Where training draws: ℓ = log tan φ (the log signal-to-noise ratio) from a normal, cut to the schedule's range.

    The defaults put the draws where the potential of 64 dimensions, or of fewer, is hard to learn. A weight in the loss
    instead does worse.
    """

    mean: float = 1.0
    std: float = 1.2

    @classmethod
    def for_dimensions(cls, d: int) -> AngleDistribution:
        """Where to draw for images of d numbers: nearer to noise the larger they are.

        A principal component that holds a given share of the variance stands out of the noise from tan²φ ~ 1/d on, so
        that log tan φ is shifted by −½ log d (compare Hoogeboom et al. 2023, arXiv 2301.11093) from what is best at
        d = 64. Without it nothing is learned of where things lie in a picture, and under which condition.
        """
        return cls(1.0 - 0.5 * math.log(max(d, 64) / 64), 1.2)

    def quantile(self, q: Tensor, angle_range: tuple[float, float]) -> Tensor:
        """φ at the quantiles q ∈ (0, 1), shaped like q.

        Raises:
            ConfigError: next to nothing of the distribution lies within the range.
        """
        low, high = (self._cumulative(angle) for angle in angle_range)
        if high - low < _LEAST_SHARE:
            raise ConfigError(
                f"angles drawn with log tan φ of mean {self.mean} and deviation {self.std} miss the schedule's range",
                hint=f"log tan φ ends at {math.log(math.tan(angle_range[1])):.3g} here",
            )
        q = low + (high - low) * q
        log_snr = self.mean + self.std * math.sqrt(2) * torch.erfinv(2 * q - 1)
        return torch.atan(torch.exp(log_snr)).clamp(*angle_range)

    def sample(self, n: int, angle_range: tuple[float, float], *, like: Tensor, generator: torch.Generator) -> Tensor:
        """n angles, stratified: one in each n-th of the distribution. (n,), dtype and device of `like`."""
        jitter = torch.rand(n, generator=generator, dtype=like.dtype, device=like.device)
        strata = torch.arange(n, dtype=like.dtype, device=like.device)
        return self.quantile((strata + jitter) / n, angle_range)

    def _cumulative(self, angle: float) -> float:
        if angle <= 0:
            return 0.0
        return 0.5 * (1 + math.erf((math.log(math.tan(angle)) - self.mean) / (self.std * math.sqrt(2))))


DEFAULT_ANGLES = AngleDistribution()


def residual(
    potential: Potential, data: Tensor, angle: Tensor, noise: Tensor, condition: Tensor | None = None
) -> Tensor:
    """‖∇N(u, φ) − y‖²/d for each sample, (N,); 1 on average for N = 0.

    Equal to λ(t) ‖∇Φ − u_cond‖²/d with λ = (S / a W)², whatever the schedule: with fixed draws on held-out data it
    compares any two models.

    Args:
        data: x̄, standardised to standard deviation a, (N, …).
        angle: φ, (N,).
        noise: ε, like data.
        condition: class indices, int64 (N, G), or None.
    """
    u, y = arc.point(data / potential.data_std, angle, noise)
    return (potential(u, angle, condition).gradient - y).flatten(1).square().mean(1)


class Objective(Protocol):
    """What every objective is: standardised data (N, …) in, a scalar loss out, all randomness from the generator."""

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
    """E‖∇N − y‖²/d: the Deep Ritz functional with Stein's identity E[N g] = E[∇N·y] applied to its second term.

    Same expectation and minimiser as `ritz`, far smaller variance.

    Args:
        data: x̄, standardised to standard deviation a, (N, …); each is drawn with ε and with −ε.
        condition: class indices, int64 (N, G), −1 for none; or None.
        generator: on the device of data; the only source of randomness.
        angles: where φ is drawn.
        part: which rows of a larger batch the data are; None: they are all of it. The loss is the mean over the part.
    Returns:
        the loss, ().
    """
    pairs = draw_pairs(data, condition, potential.angle_range, generator, angles, part)
    return residual(potential, pairs.data, pairs.angle, pairs.noise, pairs.condition).mean()


def ritz(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,
    part: Part | None = None,
) -> Tensor:
    """2 J/d = E[‖∇N‖² − 2 N g]/d, the functional as the paper has it; the same expected gradient as `stein`.

    N at the noiseless point of the arc, sin φ z, is a baseline that ε and −ε share, without which the variance is
    hundreds of times larger: E[N g] ≈ ½ Σ± (N(u±) − N(sin φ z)) g±. Arguments as in `stein`.
    """
    pairs = draw_pairs(data, condition, potential.angle_range, generator, angles, part)
    z, tangent = pairs.data / potential.data_std, torch.tan(pairs.angle)
    u, _ = arc.point(z, pairs.angle, pairs.noise)
    field = potential(u, pairs.angle, pairs.condition)
    noiseless, _ = arc.point(z[: len(data)], pairs.angle[: len(data)], torch.zeros_like(data))
    first_condition = None if pairs.condition is None else pairs.condition[: len(data)]
    baseline = potential.potential(noiseless, pairs.angle[: len(data)], first_condition).repeat(2)

    flat_z, flat_noise = z.flatten(1), pairs.noise.flatten(1)
    dimension = flat_z.shape[1]
    innovation = (flat_z * flat_noise).sum(1) - tangent * (flat_noise.square().sum(1) - dimension)
    kinetic = field.gradient.flatten(1).square().sum(1)
    return (kinetic - 2 * (field.value - baseline) * innovation).mean() / dimension


def official(
    potential: Potential,
    data: Tensor,
    condition: Tensor | None = None,
    *,
    generator: torch.Generator,
    angles: AngleDistribution = DEFAULT_ANGLES,  # noqa: ARG001  (the authors draw t uniformly)
    part: Part | None = None,
) -> Tensor:
    """The loss of the authors' released code, kept as the baseline to beat; for `UnpreconditionedPotential` on `ot`.

    L = mean(ΓΦ)/(std Γ · sg[std Φ] + 1e-8) + ½ mean_d (∇Φ)² + 0.1 mean (∂ₜΦ)² − mean_d(∇Φ ⊙ u)/(‖∇Φ‖‖u‖ + 1e-8)^t with
    u = x̄ − ε and Γ = (1 − t) mean_d(ε² − x̄ε) less its batch mean. Arguments as in `stein`; mean Γ, std Γ and std Φ are
    those of the rows at hand, so that parts do not add up to the batch.
    """
    part = part or Part(0, len(data))
    t = torch.rand(part.total, generator=generator, dtype=data.dtype, device=data.device)
    t = part.of(t, len(data)).requires_grad_()
    noise = _normal_like(data, generator, part)
    x = potential.homotopy.sample(data, t.detach(), noise).requires_grad_()
    phi = potential.value(x, t, condition)
    gradient, time_derivative = torch.autograd.grad(phi.sum(), (x, t), create_graph=True)

    time = t.detach()
    velocity, gradient = (data - noise).flatten(1), gradient.flatten(1)
    gamma = (1 - time) * (noise.square() - data * noise).flatten(1).mean(1)
    gamma = gamma - gamma.mean()
    covariance = (gamma * phi).mean() / (gamma.std() * phi.std().detach() + 1e-8)
    alignment = (gradient * velocity).mean(1) / (gradient.norm(dim=1) * velocity.norm(dim=1) + 1e-8).pow(time)
    kinetic = 0.5 * gradient.square().mean()
    return covariance + kinetic + 0.1 * time_derivative.square().mean() - alignment.mean()


OBJECTIVES: dict[str, Objective] = {"stein": stein, "ritz": ritz, "official": official}


@dataclass(frozen=True)
class Pairs:
    """2N draws: rows i and N + i share data, φ and condition, and have opposite noise.

    Pairing halves the cost of a given variance in data and φ, and cancels the odd part of the variance in ε.
    """

    data: Tensor
    angle: Tensor
    noise: Tensor
    condition: Tensor | None


def draw_pairs(
    data: Tensor,
    condition: Tensor | None,
    angle_range: tuple[float, float],
    generator: torch.Generator,
    angles: AngleDistribution,
    part: Part | None,
) -> Pairs:
    """Angles and noise for data; arguments as in `stein`."""
    part = part or Part(0, len(data))
    angle = angles.sample(part.total, angle_range, like=data, generator=generator)
    angle, noise = part.of(angle, len(data)), _normal_like(data, generator, part)
    return Pairs(
        data=torch.cat([data, data]),
        angle=torch.cat([angle, angle]),
        noise=torch.cat([noise, -noise]),
        condition=None if condition is None else torch.cat([condition, condition]),
    )


def _normal_like(data: Tensor, generator: torch.Generator, part: Part) -> Tensor:
    shape = (part.total, *data.shape[1:])
    return part.of(torch.randn(shape, generator=generator, dtype=data.dtype, device=data.device), len(data))
