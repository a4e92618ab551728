"""The inputs of a training run: split data, batches, trainer and checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vpfb_core.data import InMemory
from vpfb_core.data.batches import Batches, Order
from vpfb_core.data.splits import split
from vpfb_core.machine import distributed
from vpfb_core.methods.step import DataShape
from vpfb_core.training import presets
from vpfb_core.training.checks import VALIDATION_IMAGES, Checks, spread
from vpfb_core.training.plan import Plan
from vpfb_core.training.trainer import Trainer


@dataclass(frozen=True)
class Inputs:
    """The inputs of a training run.

    Attributes:
        plan: the plan of the run.
        rows: the rows of the training data in the plan's data, int64 (M,).
        measured: the validation data; some of the training data if none are held out.
        batches: this process's share of every batch.
    """

    plan: Plan
    rows: Tensor
    measured: InMemory
    batches: Batches

    @classmethod
    def of(cls, plan: Plan) -> Inputs:
        """The inputs of a plan. Streamed data begin to be read."""
        images, config = plan.images, plan.config
        rows, held_out_rows = split(images, config.data.val_fraction, config.run.seed)
        held_out = images.subset(held_out_rows)
        batch_size = config.optimiser.batch_size or 1
        share = distributed.group().share(batch_size)
        order = Order(len(rows), batch_size, config.run.seed, config.data.augment == "flip", share)
        return cls(
            plan=plan,
            rows=rows,
            measured=held_out if len(held_out) else images.subset(spread(rows, VALIDATION_IMAGES)),
            batches=images.batches(rows, order, plan.device, held_out),
        )

    def trainer(self, **settings: Any) -> Trainer:
        """The trainer of the plan, or one with other settings for a comparison, such as another method."""
        config, method = self.plan.config.replace(**settings), self.plan.method
        if settings:
            config = presets.resolve(config, self.plan.images, self.plan.device)
            method = presets.method_of(config, self.plan.images)
        images = self.plan.images
        labels = None if images.labels is None else images.labels[self.rows]
        shape = DataShape.of(images.shape, images.groups, labels)
        return Trainer(
            config, method, self.plan.network, shape, self.plan.statistics, self.plan.device,
            distributed.group(),
        )  # fmt: skip

    def checks(self) -> Checks:
        """The checks of the run."""
        return Checks(self.measured, self.plan.statistics, self.plan.device, self.plan.config.run.seed)
