"""What is due before the next step of a run: a line of the log, a check, a save, or the end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from vpfb_core.config import RunSettings
from vpfb_core.machine.distributed import Group
from vpfb_core.training.clock import Clock

# These hold unless log_every, save_every and sample_every are set.
LOG_SECONDS = 2.0  # the shortest time between log lines
SAVE_SECONDS = 60.0  # the shortest time between saves
SAVE_SHARE = 50  # the shortest time between saves, as a multiple of the duration of a save
CHECKS = 10  # the number of checks per run
CHECK_SHARE = 5  # the shortest time between checks in a time budget, as a multiple of the duration of a check


@dataclass(frozen=True)
class Due:
    """The tasks of all processes before the next step.

    Attributes:
        fraction: the share of the run that is done.
        log: whether a log line is due.
        check: whether a check is due.
        save: whether a save is due.
        stop: whether some process was asked to stop.
    """

    fraction: float
    log: bool
    check: bool
    save: bool
    stop: bool


class Agenda:
    """The schedule of log lines, checks and saves of a run, by steps or by time.

    Args:
        settings: the settings of the run, of which it uses log_every, sample_every and save_every.
        clock: the clock of the run.
        group: the processes that train. The clock of the first process decides for all.
    """

    def __init__(self, settings: RunSettings, clock: Clock, group: Group) -> None:
        self.settings, self.clock, self.group = settings, clock, group
        self.next_check, self._checked_at = 0.0, -math.inf

    def due(self, step: int, line_began: float, saved_at: float, save_seconds: float, should_stop: bool) -> Due:
        """The tasks before step number `step`. All processes must call this; it does not wait for a GPU.

        Args:
            step: the number of the next step.
            line_began: the time at which the current log line began, by the monotonic clock.
            saved_at: the time of the last save, by the monotonic clock.
            save_seconds: the duration of the last save.
            should_stop: whether this process was asked to stop.
        """
        fraction, now = self.clock.fraction(step), time.monotonic()
        check = fraction >= self.next_check and self._can_afford_check(step, now)
        tasks = [
            self._is_due(self.settings.log_every, step, now - line_began > LOG_SECONDS),
            self._is_due(self.settings.sample_every, step, check),
            self._is_due(self.settings.save_every, step, now - saved_at > max(SAVE_SECONDS, SAVE_SHARE * save_seconds)),
        ]
        mine = [fraction, *tasks] if self.group.first else [0.0] * 4
        fraction, *agreed = self.group.largest([*mine, should_stop])
        return Due(fraction, *map(bool, agreed))

    def checked(self, step: int) -> None:
        """Note that the model was checked after `step` steps, or that the session begins there."""
        self.next_check = self.clock.fraction(step) + 1 / CHECKS
        self._checked_at = time.monotonic()

    def _can_afford_check(self, step: int, now: float) -> bool:
        """Whether a check now leaves most of a time budget to the steps. Without a budget it always does.

        On a slow machine, few steps may fill the budget.
        """
        if self.clock.config.optimiser.time_budget is None:
            return True
        pause = CHECK_SHARE * self.clock.check_seconds
        return now - self._checked_at >= pause and self.clock.seconds_of_steps_left(step) >= pause

    @staticmethod
    def _is_due(every: int | None, step: int, otherwise: bool) -> bool:
        return otherwise if every is None else step % every == 0
