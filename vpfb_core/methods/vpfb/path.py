"""The path from noise to data: its settings, the angles at which training samples it, and fields on it.

Every method that trains on this path uses these. A point of the path is u = sin φ z + cos φ ε (`arc.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vpfb_core import names
from vpfb_core.errors import ConfigError
from vpfb_core.methods.base import MethodSettings
from vpfb_core.methods.fields import Field
from vpfb_core.methods.step import DataShape
from vpfb_core.methods.vpfb import arc, homotopy
from vpfb_core.methods.vpfb.homotopy import Homotopy
from vpfb_core.settings import setting

# Quantiles closer to 0 or 1 than this are coarse in float32.
_LEAST_SHARE = 1e-4
LEAST_UNIFORM_NOISE = 0.02  # cot φ; nearer to the data, energies are too inaccurate to be used


@dataclass(frozen=True)
class AngleDistribution:
    """The distribution of the angles φ in training.

    ℓ = log tan φ, the log signal-to-noise ratio, is normal, truncated to the range of the schedule. By default most
    angles are where a potential in 64 or fewer dimensions is hard to learn. A weight in the loss works less well.

    Attributes:
        mean: the mean of ℓ before truncation.
        std: the standard deviation of ℓ before truncation.
        uniform: the share of the training angles that is drawn uniformly in ℓ instead, from two standard deviations
            below the mean to `LEAST_UNIFORM_NOISE` or the end of the range. Quantiles do not contain this share.
    """

    mean: float = 1.0
    std: float = 1.2
    uniform: float = 0.0

    @classmethod
    def for_dimensions(cls, d: int) -> AngleDistribution:
        """The distribution for data of d dimensions: the larger d, the nearer to noise.

        A principal component with a given share of the variance becomes visible above the noise at tan² φ ~ 1/d. The
        mean of ℓ is therefore the best value at d = 64, shifted by −½ log (d/64) (compare Hoogeboom et al. 2023,
        arXiv 2301.11093). Without the shift a model does not learn the global layout of large images, nor how it
        depends on the condition.
        """
        return cls(1.0 - 0.5 * math.log(max(d, 64) / 64), 1.2)

    def quantile(self, q: Tensor, angle_range: tuple[float, float]) -> Tensor:
        """φ at the quantiles q ∈ (0, 1), shaped like q.

        Args:
            q: quantiles of the truncated distribution.
            angle_range: the angles between which the distribution is truncated.
        Raises:
            ConfigError: as of `truncation`.
        """
        low, high = self.truncation(angle_range)
        q = low + (high - low) * q
        log_snr = self.mean + self.std * math.sqrt(2) * torch.erfinv(2 * q - 1)
        return torch.atan(torch.exp(log_snr)).clamp(*angle_range)

    def truncation(self, angle_range: tuple[float, float]) -> tuple[float, float]:
        """The quantiles, before truncation, of the ends of a range of angles.

        Raises:
            ConfigError: almost nothing of the distribution lies within the range.
        """
        low, high = (self._cumulative(angle) for angle in angle_range)
        if high - low < _LEAST_SHARE:
            raise ConfigError(
                f"log tan phi with mean {self.mean} and standard deviation {self.std} misses the range of the schedule",
                hint=f"the range ends at log tan phi = {math.log(math.tan(angle_range[1])):.3g}",
            )
        return low, high

    def sample(self, n: int, angle_range: tuple[float, float], *, like: Tensor, generator: torch.Generator) -> Tensor:
        """n stratified angles, one in each n-th of the distribution, (n,), with the dtype and the device of `like`.

        The angles that are uniform in ℓ come first.
        """
        jitter = torch.rand(n, generator=generator, dtype=like.dtype, device=like.device)
        strata = torch.arange(n, dtype=like.dtype, device=like.device) + jitter
        first = round(self.uniform * n)
        normal = self.quantile((strata[first:] - first) / max(n - first, 1), angle_range)
        if not first:
            return normal
        low, high = self._uniform_range(angle_range)
        log_snr = low + (high - low) * strata[:first] / first
        return torch.cat([torch.atan(torch.exp(log_snr)), normal])

    def _uniform_range(self, angle_range: tuple[float, float]) -> tuple[float, float]:
        """The values of ℓ between which it is drawn uniformly."""
        start, end = (math.log(math.tan(angle)) if angle > 0 else -math.inf for angle in angle_range)
        return max(self.mean - 2 * self.std, start), min(-math.log(LEAST_UNIFORM_NOISE), end)

    def _cumulative(self, angle: float) -> float:
        """The cumulative distribution at φ before truncation."""
        if angle <= 0:
            return 0.0
        return 0.5 * (1 + math.erf((math.log(math.tan(angle)) - self.mean) / (self.std * math.sqrt(2))))


DEFAULT_ANGLES = AngleDistribution()


@dataclass(frozen=True)
class PathSettings(MethodSettings):
    """The settings of the path from noise to data, and of the angles at which training samples it."""

    schedule: str = setting("ot", help="Homotopy schedule from noise to data.", choices=names.SCHEDULES)
    floor: float | None = setting(
        None, help="Noise left at the data: sigma_min, or nu of the log-homotopy.", low=1e-6, high=0.5
    )
    data_std: float = setting(0.5, help="Standard deviation of the standardised data.", low=1e-3, high=1e3)
    angle_mean: float | None = setting(
        None, help="Mean of the log signal-to-noise ratio at which training draws.", low=-10, high=10
    )
    angle_std: float | None = setting(None, help="Standard deviation of that ratio.", low=1e-3, high=10)

    @property
    def homotopy(self) -> Homotopy:
        """The schedule."""
        parameters: dict[str, object] = {"name": self.schedule}
        if self.floor is not None:
            parameters["nu" if self.schedule == "log-homotopy" else "sigma_min"] = self.floor
        return homotopy.from_dict(parameters)

    @property
    def angles(self) -> AngleDistribution:
        """The distribution of the angles in training; where a value is not set, that of 64 dimensions."""
        default = AngleDistribution()
        mean = default.mean if self.angle_mean is None else self.angle_mean
        return AngleDistribution(mean, default.std if self.angle_std is None else self.angle_std)

    def require_angles(self) -> None:
        """Raise ConfigError if training would draw almost no angles within the range of the schedule."""
        self.angles.truncation(self.homotopy.angle_range(self.data_std))


def path_defaults(data: DataShape) -> dict[str, Any]:
    """The default values of `angle_mean` and `angle_std` for data of this shape."""
    angles = AngleDistribution.for_dimensions(data.dimension)
    return {"angle_mean": angles.mean, "angle_std": angles.std}


class PathField(Field):
    """A field on the path: its points are u, of unit variance at every level, and its positions are angles φ."""

    def scales(self, level: float) -> tuple[float, float]:
        place = arc.ArcPosition.at_level(level)
        return place.sine, place.cosine

    def position(self, level: float) -> float:
        return arc.angle(level)

    def level(self, position: float) -> float:
        return arc.level(position)

    def grid(self, start: float, end: float, steps: int) -> list[float]:
        return arc.grid(start, end, steps)
