"""The duration of a run over all its sessions, and the share of the run that is done."""

from __future__ import annotations

import math
import time

from vpfb_core.config import TrainConfig
from vpfb_core.uses.calibration import SHARE

# The time in which a process saves and ends, as a share of that in which it got ready; both are long on a busy machine.
LEAVING_SHARE = 0.2
# The largest share for the end of a run of the time that a budget leaves when the steps begin.
ENDING_SHARE = 1 / 4


class Clock:
    """The clock of a run.

    Args:
        config: the configuration of the run.
        began: the time at which the session began, before imports and the loading of data, by the monotonic clock; None
            is now.

    Attributes:
        check_seconds: the expected duration of a check of full effort.
        calibration_seconds: the expected duration of the calibration.
        reference_seconds: the expected duration of the smallest reference, for which time is kept in a short run too.
    """

    def __init__(self, config: TrainConfig, began: float | None = None) -> None:
        self.config = config
        self._waited = 0.0 if began is None else time.monotonic() - began
        self.check_seconds = self.calibration_seconds = self.reference_seconds = self._steps_began = 0.0
        self.go_on(0.0)

    def go_on(self, seconds: float) -> None:
        """Continue the clock after a number of seconds in earlier sessions."""
        self._before, self._started = seconds, time.monotonic()

    def seconds(self) -> float:
        """The duration of the run over all its sessions."""
        return self._before + time.monotonic() - self._started

    def fraction(self, step: int) -> float:
        """The share of the run that is done after `step` steps, by steps or by time, whichever is larger."""
        by_steps = step / self.config.optimiser.steps if self.config.optimiser.steps else 0.0
        by_time = self._spent() / self._for_steps() if self.config.optimiser.time_budget else 0.0
        return min(1.0, max(by_steps, by_time))

    def begin_steps(self) -> None:
        """Note that everything before the first step of this session is done."""
        self._steps_began = self._spent()

    def deadline(self) -> float | None:
        """The time at which the run must end, by the monotonic clock; None without a time budget."""
        budget = self.config.optimiser.time_budget
        return None if budget is None else time.monotonic() + budget - self._spent()

    def is_over(self) -> bool:
        """Whether the time budget is used up."""
        deadline = self.deadline()
        return deadline is not None and time.monotonic() > deadline

    def seconds_of_steps_left(self, step: int) -> float:
        """The time that is left for steps after `step` steps; infinite without a time budget."""
        if self.config.optimiser.time_budget is None:
            return math.inf
        return (1 - self.fraction(step)) * self._for_steps()

    def leaves_time_for_a_check(self) -> bool:
        """Whether a check of full effort ends within the time budget, before the time of the calibration."""
        deadline = self.deadline()
        return deadline is None or time.monotonic() + self.check_seconds + self._for_calibration() <= deadline

    def _spent(self) -> float:
        """The part of the time budget that is used, including the time before the run began, in seconds."""
        return self.seconds() + self._waited

    def _for_steps(self) -> float:
        """The part of the time budget for training steps, in seconds.

        The last check, the calibration and the last save get the rest: at most a quarter of what is left of the
        budget when the steps begin. Half of the whole budget is thus for steps where a third of it was over by then; a
        busy machine may take longer to get there.
        """
        budget = self.config.optimiser.time_budget or 0.0
        saving = 1.0 + LEAVING_SHARE * self._waited
        at_least = budget - ENDING_SHARE * (budget - min(self._steps_began, budget))
        return max(budget - self._for_calibration() - 1.5 * self.check_seconds - saving, at_least, 1e-3)

    def _for_calibration(self) -> float:
        """The part of the time budget for the calibration, in seconds."""
        budget = self.config.optimiser.time_budget or 0.0
        return min(self.calibration_seconds, max(SHARE / (1 + SHARE) * budget, self.reference_seconds))
