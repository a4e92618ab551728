"""The held-out residual: one figure that compares any two models of the same data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.machine import noise
from vpfb_core.methods.vpfb.objectives import DEFAULT_ANGLES, AngleDistribution, residual
from vpfb_core.methods.vpfb.potential import Potential

LARGEST_BATCH = 128


@dataclass(frozen=True)
class HeldOut:
    """Fixed held-out images with fixed angles and noise, so that residuals can be compared over a run."""

    data: Tensor
    labels: Tensor | None
    angle: Tensor
    noise: Tensor

    @classmethod
    def of(
        cls,
        data: Tensor,
        angle_range: tuple[float, float],
        labels: Tensor | None = None,
        *,
        angles: AngleDistribution = DEFAULT_ANGLES,
        seed: int = 0,
    ) -> HeldOut:
        """Noise and angles for images; the angles stand at equal quantiles of their distribution.

        Args:
            data: x̄, standardised, (N, C, H, W), on the potential's device.
            angle_range: of the schedule.
            labels: int64 (N, G), or None.
            angles: where training draws.
            seed: of noise and of the order of the angles.
        """
        # Strata in an order that has nothing to do with that of the images.
        order = torch.randperm(len(data), generator=noise.generator(seed, "held-out angles"))
        quantiles = ((order + 0.5) / len(data)).to(data.device)
        epsilon = noise.normal(data.shape[1:], seed, range(len(data)), "held-out").to(data.device)
        return cls(data, labels, angles.quantile(quantiles, angle_range), epsilon)

    def residuals(self, potential: Potential, batch_size: int = LARGEST_BATCH, *, rows: range | None = None) -> Tensor:
        """`objectives.residual` of each image, or of those in `rows`, (N,)."""
        wanted = torch.arange(len(self.data)) if rows is None else torch.arange(rows.start, rows.stop)
        parts = wanted.split(min(batch_size, LARGEST_BATCH))
        with torch.no_grad():
            values = [
                residual(potential, self.data[part], self.angle[part], self.noise[part],
                         None if self.labels is None else self.labels[part])
                for part in parts
            ]  # fmt: skip
        return torch.cat(values)

    def residual(self, potential: Potential, batch_size: int = LARGEST_BATCH) -> float:
        """Mean of `residuals`."""
        return float(self.residuals(potential, batch_size).mean())
