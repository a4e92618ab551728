"""What a plan is carried out with: images split, statistics, batches, trainer, held-out residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vpfb_core.data import ImageSet
from vpfb_core.data.batches import Batches, Order
from vpfb_core.data.splits import split
from vpfb_core.data.statistics import Statistics
from vpfb_core.machine import distributed
from vpfb_core.training.held_out import HELD_OUT_IMAGES, held_out_of, spread
from vpfb_core.training.plan import Plan
from vpfb_core.training.trainer import Trainer
from vpfb_core.uses.evaluation.held_out import HeldOut


@dataclass(frozen=True)
class Inputs:
    """What training begins with.

    Attributes:
        rows: int64 (M,), which of the plan's images are trained on.
        measured: images that residuals are measured on: those held out, or where there are none, some of the others.
        batches: this process's share of every batch.
    """

    plan: Plan
    statistics: Statistics
    rows: Tensor
    measured: ImageSet
    batches: Batches

    @classmethod
    def of(cls, plan: Plan) -> Inputs:
        """Split the images of a plan, and begin to read them where they are streamed."""
        images, config = plan.images, plan.config
        rows, held_out_rows = split(images, config.val_fraction, config.seed)
        held_out = images.subset(held_out_rows)
        batch_size = config.batch_size or 1
        share = distributed.group().share(batch_size)
        order = Order(len(rows), batch_size, config.seed, config.augment == "flip", share)
        return cls(
            plan=plan,
            statistics=Statistics.of(images.sample),
            rows=rows,
            measured=held_out if len(held_out) else images.subset(spread(rows, HELD_OUT_IMAGES)),
            batches=images.batches(rows, order, plan.device, held_out),
        )

    def trainer(self, kind: type[Trainer] = Trainer, **settings: Any) -> Trainer:
        """A trainer as planned, or of another kind and with other settings to compare with."""
        config = self.plan.config.replace(**settings)
        return kind(config, self.plan.network, self.statistics, self.plan.device, distributed.group())

    def held_out(self, trainer: Trainer) -> HeldOut:
        """The residual, at the angles that the trainer draws."""
        return held_out_of(self.plan, self.measured, trainer, self.statistics)
