"""The losses and gradient norms of training steps, which stay on the device until they are needed."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from vpfb_core.machine.distributed import Group


class NotFiniteError(Exception):
    """The loss or the gradient of a step is not finite, so that the weights after it cannot be used."""

    def __init__(self, step: int, loss: float, norm: float) -> None:
        super().__init__(f"step {step}: the loss is {loss:g}, the gradient norm {norm:g}")


class Figures:
    """Losses, gradient norms and images per second.

    Args:
        batch_size: images per step over all processes.
        group: the processes, over which losses are averaged.

    Attributes:
        loss: the mean loss since the last line of the log.
        grad_norm: the gradient norm of the last step that was read.
    """

    def __init__(self, batch_size: int, group: Group) -> None:
        self.batch_size, self.group = batch_size, group
        self.loss = self.grad_norm = math.nan
        self._unread: list[tuple[Tensor, Tensor]] = []
        self._losses: list[float] = []
        self._rate = 0.0
        self.start(0)

    def start(self, step: int) -> None:
        """Begin a new line of the log after `step` steps."""
        self._losses.clear()
        self.line_began, self._first_step = time.monotonic(), step

    def leave_out(self, seconds: float) -> None:
        """Do not count a pause in the images per second of the current line of the log."""
        self.line_began += seconds

    def add(self, figures: tuple[Tensor, Tensor]) -> None:
        """Add the loss and the gradient norm of a step, which are on the device."""
        self._unread.append(figures)

    def read(self, step: int) -> None:
        """Wait for the device and read all figures up to `step` steps. All processes must call it.

        Raises:
            NotFiniteError: a figure is not finite. The later ones are dropped.
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
        """The number of images per second since the current line of the log began."""
        since = time.monotonic() - self.line_began
        if step == self._first_step:  # no step of this line is taken yet
            return self._rate
        if since > 1 or not self._rate:  # over less than a second the rate would fluctuate
            self._rate = (step - self._first_step) * self.batch_size / max(since, 1e-9)
        return self._rate
