"""How long a run has taken in all its sessions, and how much of it is done."""

from __future__ import annotations

import time

from vpfb_core.config import TrainConfig
from vpfb_core.uses.calibration import SHARE


class Clock:
    """The time of a run.

    Attributes:
        check_seconds: what the last check took.
        calibration_seconds: what calibrating the model will take, by that.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.check_seconds = self.calibration_seconds = 0.0
        self.go_on(0.0)

    def go_on(self, seconds: float) -> None:
        """Count from here, after so many seconds."""
        self._before, self._started = seconds, time.monotonic()

    def seconds(self) -> float:
        """Spent on the run in all its sessions."""
        return self._before + time.monotonic() - self._started

    def fraction(self, step: int) -> float:
        """How much of the run is done after `step` steps, in [0, 1], by steps or by time, whichever is further.

        Of a time budget, what the last check, calibration and the last save will take is set aside.
        """
        by_steps = step / self.config.optimiser.steps if self.config.optimiser.steps else 0.0
        by_time = 0.0
        if self.config.optimiser.time_budget:
            calibrating = min(self.calibration_seconds, SHARE / (1 + SHARE) * self.config.optimiser.time_budget)
            available = max(self.config.optimiser.time_budget - calibrating - 1.5 * self.check_seconds - 1.0, 1e-3)
            by_time = self.seconds() / available
        return min(1.0, max(by_steps, by_time))
