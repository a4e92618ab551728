"""What a plan is carried out with: data split, statistics, batches, trainer, checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vpfb_core import methods
from vpfb_core.data import ImageSet
from vpfb_core.data.batches import Batches, Order
from vpfb_core.data.splits import split
from vpfb_core.data.statistics import Statistics
from vpfb_core.machine import distributed
from vpfb_core.training.checks import VALIDATION_IMAGES, Checks, spread
from vpfb_core.training.plan import Plan
from vpfb_core.training.trainer import Trainer


@dataclass(frozen=True)
class Inputs:
    """What training begins with.

    Attributes:
        rows: int64 (M,), which of the plan's data are trained on.
        measured: data for validation: those held out, or where there are none, some of the others.
        batches: this process's share of every batch.
    """

    plan: Plan
    statistics: Statistics
    rows: Tensor
    measured: ImageSet
    batches: Batches

    @classmethod
    def of(cls, plan: Plan) -> Inputs:
        """Split the data of a plan, and begin to read them where they are streamed."""
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
            measured=held_out if len(held_out) else images.subset(spread(rows, VALIDATION_IMAGES)),
            batches=images.batches(rows, order, plan.device, held_out),
        )

    def trainer(self, method: str | None = None, **settings: Any) -> Trainer:
        """A trainer as planned, or with another method or other settings to compare with."""
        config = self.plan.config.replace(**settings)
        chosen = self.plan.method
        if method is not None or settings:
            kind = methods.find(method or config.method)
            asked = {name: value for name, value in config.to_dict().items() if name in kind.Settings.names()}
            chosen = methods.build(kind.name, asked)
        return Trainer(
            config, chosen, self.plan.network, self.plan.data_shape, self.statistics, self.plan.device,
            distributed.group(),
        )  # fmt: skip

    def checks(self, batch_size: int) -> Checks:
        """The checks of the run, with at most so many images computed at once."""
        return Checks(self.measured, self.statistics, self.plan.device, self.plan.config.seed, batch_size)
