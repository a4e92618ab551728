"""The distribution of the angles at which training samples the path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.methods.path import arc

# Quantiles closer to 0 or 1 than this are coarse in float32.
_LEAST_SHARE = 1e-4
IMAGE_MEAN = 0.45  # the mean of ℓ for images of 64 pixels, chosen by the quality of samples
LEAST_UNIFORM_NOISE = 0.02  # cot φ; nearer to the data, energies are too inaccurate to be used


@dataclass(frozen=True)
class AngleDistribution:
    """The distribution of the angles φ in training.

    ℓ = log tan φ, the log signal-to-noise ratio, is normal, truncated to the range of the schedule. By default most
    angles are where a potential of vectors of 64 or fewer numbers is hard to learn. A weight in the loss works less
    well.

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
    def for_shape(cls, shape: tuple[int, ...]) -> AngleDistribution:
        """The distribution for images (C, H, W) or vectors (d,): the more pixels or numbers, the nearer to noise.

        A principal component with a given share of the variance becomes visible above the noise at tan² φ ~ 1/d. The
        mean of ℓ is therefore the best value at d = 64, shifted by −½ log (d/64) (compare Hoogeboom et al. 2023,
        arXiv 2301.11093). Without the shift a model does not learn the global layout of large images, nor how it
        depends on the condition. Channels are not counted, since those of an image are nearly alike.
        """
        is_image = len(shape) == 3
        d = math.prod(shape[1:] if is_image else shape)
        return cls((IMAGE_MEAN if is_image else cls.mean) - 0.5 * math.log(max(d, 64) / 64))

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
                hint=f"the range ends at log tan phi = {_log_snr(angle_range[1]):.3g}",
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
        start, end = (_log_snr(angle) for angle in angle_range)
        return max(self.mean - 2 * self.std, start), min(-math.log(LEAST_UNIFORM_NOISE), end)

    def _cumulative(self, angle: float) -> float:
        """The cumulative distribution at φ before truncation."""
        return 0.5 * (1 + math.erf((_log_snr(angle) - self.mean) / (self.std * math.sqrt(2))))


def _log_snr(angle: float) -> float:
    """ℓ = log tan φ of an angle; −∞ at φ = 0."""
    return -math.log(arc.level(angle))


DEFAULT_ANGLES = AngleDistribution()
