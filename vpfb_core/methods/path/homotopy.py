"""Homotopy schedules: how noise turns into data as time runs from 0 to 1.

The conditional homotopy is ρ(x | x̄, t) = N(x; μ(t) x̄, σ(t)² I), so that x = μ x̄ + σ ε with ε ~ N(0, I). It follows
from Bayes' rule, ρ ∝ q(x)^α p(x̄ | x)^β, with the prior q = N(0, ω² I) and the likelihood p = N(x̄; x, ν² I), which give
1/σ² = α/ω² + β/ν² and μ = β σ²/ν² (Loo et al. 2025, arXiv 2504.16262, section 3).

Training and sampling use the angle φ = atan2(μ a, σ) instead of time (`arc.py`), where every schedule is the same. A
schedule therefore matters only for its range of angles and for functions of (x, t).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to
from vpfb_core.errors import ConfigError

Time = Tensor | float

# After 60 bisections of [0, 1] an interval is smaller than the resolution of a float64.
_BISECTIONS = 60


def as_time(t: Time) -> Tensor:
    """t as a tensor of floats.

    A number becomes a float64 tensor of shape (), which keeps all its digits and does not change the dtype of a batch.
    """
    return t if isinstance(t, Tensor) and t.is_floating_point() else torch.as_tensor(t, dtype=torch.float64)


@dataclass(frozen=True)
class Homotopy(ABC):
    """A schedule (μ, σ) on t ∈ [0, 1], with W = μ̇ σ − μ σ̇ > 0.

    All functions of t are elementwise and take a tensor of any shape or a number.
    """

    name: ClassVar[str]

    @abstractmethod
    def mean(self, t: Time) -> Tensor:
        """μ(t), the coefficient of the data."""

    @abstractmethod
    def std(self, t: Time) -> Tensor:
        """σ(t), the standard deviation of the noise."""

    @abstractmethod
    def mean_derivative(self, t: Time) -> Tensor:
        """μ̇(t), the derivative of `mean`."""

    @abstractmethod
    def std_derivative(self, t: Time) -> Tensor:
        """σ̇(t), the derivative of `std`."""

    def wronskian(self, t: Time) -> Tensor:
        """W(t) = μ̇ σ − μ σ̇, which is positive; dφ/dt = a W / S²."""
        return self.mean_derivative(t) * self.std(t) - self.mean(t) * self.std_derivative(t)

    def angle(self, t: Time, data_std: float) -> Tensor:
        """φ(t) = atan2(μ a, σ) ∈ [0, π/2), the position of time t on the arc from noise to data.

        Args:
            t: homotopy time.
            data_std: a, the standard deviation of the standardised data.
        """
        return torch.atan2(self.mean(t) * data_std, self.std(t))

    def angle_range(self, data_std: float) -> tuple[float, float]:
        """(φ(0), φ(1)), the part of the arc that this schedule covers. The noise floor keeps φ(1) below π/2."""
        # The CPU is named, since the default device may be another one without float64.
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device="cpu")
        start, end = self.angle(ends, data_std).tolist()
        return start, end

    def time(self, angle: Tensor, data_std: float) -> Tensor:
        """t(φ), the inverse of `angle`. An angle outside of the schedule's range gives the nearest end.

        It is found by bisection, since μ/σ grows with t because of W > 0.
        """
        low, high = torch.zeros_like(angle), torch.ones_like(angle)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            early = self.angle(middle, data_std) < angle
            low, high = torch.where(early, middle, low), torch.where(early, high, middle)
        return 0.5 * (low + high)

    def sample(self, data: Tensor, t: Time, noise: Tensor) -> Tensor:
        """x = μ x̄ + σ ε, a sample of ρ(x | x̄, t), like data.

        Args:
            data: x̄, standardised, (N, …).
            t: homotopy time in [0, 1], (N,) or ().
            noise: ε, like data.
        """
        return expand_to(self.mean(t), data) * data + expand_to(self.std(t), data) * noise

    def to_dict(self) -> dict[str, Any]:
        """The name and the parameters, from which `from_dict` returns this schedule."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class OT(Homotopy):
    """The optimal-transport schedule with a noise floor, which the paper uses: μ = t, σ = 1 − (1 − σ_min) t, W = 1."""

    name = "ot"
    sigma_min: float = 1e-3

    def __post_init__(self) -> None:
        _require_floor(self.sigma_min)

    def mean(self, t: Time) -> Tensor:
        return as_time(t)

    def std(self, t: Time) -> Tensor:
        return 1 - (1 - self.sigma_min) * as_time(t)

    def mean_derivative(self, t: Time) -> Tensor:
        return torch.ones_like(as_time(t))

    def std_derivative(self, t: Time) -> Tensor:
        return torch.full_like(as_time(t), self.sigma_min - 1)

    def time(self, angle: Tensor, data_std: float) -> Tensor:
        sine, cosine = torch.sin(angle), torch.cos(angle)
        return (sine / (data_std * cosine + (1 - self.sigma_min) * sine)).clamp(0, 1)


@dataclass(frozen=True)
class VP(Homotopy):
    """The variance-preserving schedule with a noise floor: θ = arccos σ_min, μ = sin θt, σ = cos θt, W = θ."""

    name = "vp"
    sigma_min: float = 1e-3

    def __post_init__(self) -> None:
        _require_floor(self.sigma_min)

    @property
    def _theta(self) -> float:
        return math.acos(self.sigma_min)

    def mean(self, t: Time) -> Tensor:
        return torch.sin(self._theta * as_time(t))

    def std(self, t: Time) -> Tensor:
        return torch.cos(self._theta * as_time(t))

    def mean_derivative(self, t: Time) -> Tensor:
        return self._theta * torch.cos(self._theta * as_time(t))

    def std_derivative(self, t: Time) -> Tensor:
        return -self._theta * torch.sin(self._theta * as_time(t))

    def time(self, angle: Tensor, data_std: float) -> Tensor:
        return (torch.atan2(torch.sin(angle), data_std * torch.cos(angle)) / self._theta).clamp(0, 1)


@dataclass(frozen=True)
class LogHomotopy(Homotopy):
    """The log-homotopy from prior N(0, ω² I) to likelihood N(x̄; x, ν² I): α = 1 − t, β = (ν^(−2t) − 1)/(ν^(−2) − 1).

    With this β the noise falls as σ ≈ ν^t. The simpler β = t is not usable, since μ(0.001) = 0.91 at ν = 0.01. A
    subclass can define other α, β ≥ 0, not both 0 and with W > 0, by overriding the four functions.
    """

    name = "log-homotopy"
    omega: float = 1.0
    nu: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.omega < math.inf:
            raise ConfigError(f"omega = {self.omega}: the prior's standard deviation must be positive and finite")
        if not 0 < self.nu < 1:
            raise ConfigError(f"nu = {self.nu}: the likelihood's standard deviation must lie between 0 and 1")

    def prior_weight(self, t: Time) -> Tensor:
        """α(t)."""
        return 1 - as_time(t)

    def prior_weight_derivative(self, t: Time) -> Tensor:
        """α̇(t)."""
        return torch.full_like(as_time(t), -1.0)

    def likelihood_weight(self, t: Time) -> Tensor:
        """β(t)."""
        rate = -2 * math.log(self.nu)
        return torch.expm1(rate * as_time(t)) / math.expm1(rate)

    def likelihood_weight_derivative(self, t: Time) -> Tensor:
        """β̇(t)."""
        rate = -2 * math.log(self.nu)
        return rate * torch.exp(rate * as_time(t)) / math.expm1(rate)

    def _precision(self, t: Time) -> Tensor:
        return self.prior_weight(t) / self.omega**2 + self.likelihood_weight(t) / self.nu**2

    def _precision_derivative(self, t: Time) -> Tensor:
        return self.prior_weight_derivative(t) / self.omega**2 + self.likelihood_weight_derivative(t) / self.nu**2

    def mean(self, t: Time) -> Tensor:
        return self.likelihood_weight(t) / self.nu**2 / self._precision(t)

    def std(self, t: Time) -> Tensor:
        return self._precision(t).rsqrt()

    def mean_derivative(self, t: Time) -> Tensor:
        precision = self._precision(t)
        growth = self.likelihood_weight_derivative(t) / self.nu**2
        return (growth - self.mean(t) * self._precision_derivative(t)) / precision

    def std_derivative(self, t: Time) -> Tensor:
        return -0.5 * self._precision(t).pow(-1.5) * self._precision_derivative(t)


def _require_floor(sigma_min: float) -> None:
    if not 0 < sigma_min < 1:
        raise ConfigError(
            f"sigma_min = {sigma_min}: the noise floor must lie between 0 and 1",
            hint="densities are singular without a noise floor; 0.001 is invisible in 8-bit images",
        )


SCHEDULES: dict[str, type[Homotopy]] = {schedule.name: schedule for schedule in (OT, VP, LogHomotopy)}


def from_dict(description: dict[str, Any]) -> Homotopy:
    """The schedule of a description such as {"name": "ot", "sigma_min": 0.001}, the inverse of `Homotopy.to_dict`.

    Raises:
        ConfigError: the name or a parameter is unknown, or a value does not fit.
    """
    parameters = dict(description)
    name = parameters.pop("name", None)
    if name not in SCHEDULES:
        raise ConfigError(f"unknown schedule {name!r}", hint=f"schedules: {', '.join(SCHEDULES)}")
    try:
        return SCHEDULES[name](**parameters)
    except TypeError as error:
        raise ConfigError(f"schedule {name!r} does not have these parameters: {parameters}") from error
