"""The figures of the steps: left on the device until somebody wants to see them, and then looked at one by one."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from vpfb_core.machine.distributed import Group


class NotFiniteError(Exception):
    """A step whose loss or gradient is not finite; the weights after it are worthless."""

    def __init__(self, step: int, loss: float, norm: float) -> None:
        super().__init__(f"step {step}: the loss is {loss:g}, the gradient norm {norm:g}")


class Figures:
    """Losses, gradient norms and the rate.

    Args:
        batch_size: images a step, of all processes.
        group: the processes, whose losses are parts of a mean.

    Attributes:
        loss: mean since the last line of the log.
        grad_norm: of the last step that was read.
    """

    def __init__(self, batch_size: int, group: Group) -> None:
        self.batch_size, self.group = batch_size, group
        self.loss = self.grad_norm = math.nan
        self._unread: list[tuple[Tensor, Tensor]] = []
        self._losses: list[float] = []
        self._rate = 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Begin a line of the log after so many steps."""
        self._losses.clear()
        self.line_began, self._first_step = time.monotonic(), step

    def add(self, figures: tuple[Tensor, Tensor]) -> None:
        """Loss and gradient norm of a step, on the device."""
        self._unread.append(figures)

    def read(self, step: int) -> None:
        """Wait for the device and read all figures up to `step` steps. To be called by all processes.

        Raises:
            NotFiniteError: one is not finite; the later ones are dropped.
        """
        if not self._unread:
            return
        table = torch.stack([torch.stack(pair) for pair in self._unread])
        first = step - len(self._unread)
        self._unread.clear()
        for number, (loss, norm) in enumerate(self.group.mean(table).tolist(), start=first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NotFiniteError(number, loss, norm)
            self._losses.append(loss)
            self.grad_norm = norm
        self.loss = sum(self._losses) / len(self._losses)

    def images_per_second(self, step: int) -> float:
        """Since the line of the log began."""
        since = time.monotonic() - self.line_began
        if since > 1 or not self._rate:  # over less than a second it would jump
            self._rate = (step - self._first_step) * self.batch_size / max(since, 1e-9)
        return self._rate
