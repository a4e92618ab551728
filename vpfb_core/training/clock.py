"""How long a run has taken in all its sessions, and how much of it is done."""

from __future__ import annotations

import time

from vpfb_core.config import TrainConfig
from vpfb_core.uses.calibration import SHARE


class Clock:
    """The time of a run.

    Args:
        config: of the run.
        began: when its session began, by the monotonic clock, with the time that imports and data took; None is now.

    Attributes:
        check_seconds: what the last check took.
        calibration_seconds: what calibrating the model will take, by that.
    """

    def __init__(self, config: TrainConfig, began: float | None = None) -> None:
        self.config = config
        self._waited = 0.0 if began is None else time.monotonic() - began
        self.check_seconds = self.calibration_seconds = 0.0
        self.go_on(0.0)

    def go_on(self, seconds: float) -> None:
        """Count from here, after so many seconds."""
        self._before, self._started = seconds, time.monotonic()

    def seconds(self) -> float:
        """Spent on the run in all its sessions."""
        return self._before + time.monotonic() - self._started

    def fraction(self, step: int) -> float:
        """How much of the run is done after `step` steps, in [0, 1], by steps or by time, whichever is further."""
        by_steps = step / self.config.optimiser.steps if self.config.optimiser.steps else 0.0
        by_time = self._spent() / self._for_steps() if self.config.optimiser.time_budget else 0.0
        return min(1.0, max(by_steps, by_time))

    def deadline(self) -> float | None:
        """When the run has to be over, by the monotonic clock; None without a time budget."""
        budget = self.config.optimiser.time_budget
        return None if budget is None else time.monotonic() + budget - self._spent()

    def _spent(self) -> float:
        """Seconds of the time budget that are over, those before the run began included."""
        return self.seconds() + self._waited

    def _for_steps(self) -> float:
        """Seconds of the time budget in which steps are taken: at least half of it.

        What the last check, calibration and the last save will take is set aside.
        """
        budget = self.config.optimiser.time_budget or 0.0
        calibrating = min(self.calibration_seconds, SHARE / (1 + SHARE) * budget)
        return max(budget - calibrating - 1.5 * self.check_seconds - 1.0, 0.5 * budget, 1e-3)
