"""The held-out residual: one figure that compares any two models of the same data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core import noise
from vpfb_core.data import ImageSet
from vpfb_core.model import Statistics
from vpfb_core.objectives import residual
from vpfb_core.potential import Potential
from vpfb_core.training.plan import Plan
from vpfb_core.training.trainer import Trainer

HELD_OUT_IMAGES = 512  # of the held-out images, those that are measured


@dataclass(frozen=True)
class HeldOut:
    """Fixed held-out images with fixed angles and noise, so that residuals can be compared over a run."""

    data: Tensor
    labels: Tensor | None
    angle: Tensor
    noise: Tensor

    @classmethod
    def of(cls, plan: Plan, held_out: ImageSet, trainer: Trainer, statistics: Statistics) -> HeldOut:
        """`HELD_OUT_IMAGES` of the images; angles stand at equal quantiles of where training draws them."""
        rows, device = spread(torch.arange(len(held_out)), HELD_OUT_IMAGES), plan.device
        images, labels = held_out.images[rows].to(device), held_out.labels
        # Strata in an order that has nothing to do with that of the images.
        order = torch.randperm(len(rows), generator=noise.generator(plan.config.seed, "held-out angles"))
        quantiles = ((order + 0.5) / len(rows)).to(device)
        return cls(
            data=statistics.standardise(images) * plan.config.data_std,
            labels=None if labels is None else labels[rows].to(device),
            angle=trainer.angles.quantile(quantiles, trainer.potential.angle_range),
            noise=noise.normal(images.shape[1:], plan.config.seed, range(len(rows)), "held-out").to(device),
        )

    def residual(self, potential: Potential, batch_size: int = 128) -> float:
        """Mean of `objectives.residual`."""
        rows = torch.arange(len(self.data)).split(min(batch_size, 128))
        with torch.no_grad():
            parts = [
                residual(potential, self.data[part], self.angle[part], self.noise[part],
                         None if self.labels is None else self.labels[part])
                for part in rows
            ]  # fmt: skip
        return float(torch.cat(parts).mean())


def spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, at equal distances: folders are sorted by class."""
    if len(rows) <= most:
        return rows
    return rows[torch.arange(most) * len(rows) // most]
