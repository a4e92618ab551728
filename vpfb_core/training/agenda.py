"""What is due before the next step of a run: a line of the log, a check, a save, or the end."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from vpfb_core.config import RunSettings
from vpfb_core.machine.distributed import Group
from vpfb_core.training.clock import Clock

LOG_SECONDS = 2.0  # between lines of the log, unless log_every says otherwise
SAVE_SECONDS = 60.0  # between saves, unless save_every says otherwise; and at least so many times what a save takes:
SAVE_SHARE = 50
CHECK_SHARE = 5  # between checks, at least so many times what a check takes
CHECKS = 10  # checks per run, unless sample_every says otherwise


@dataclass(frozen=True)
class Due:
    """The tasks of all processes before the next step.

    Attributes:
        fraction: the share of the run that is done.
        log, check, save: whether a log line, a check or a save is due.
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
        settings: log_every, sample_every and save_every.
        clock: of the run.
        group: the processes that train; the clock of the first decides for all.
    """

    def __init__(self, settings: RunSettings, clock: Clock, group: Group) -> None:
        self.settings, self.clock, self.group = settings, clock, group
        self.next_check, self._checked_at = 0.0, -math.inf

    def due(self, step: int, line_began: float, saved_at: float, save_seconds: float, wish: bool) -> Due:
        """What to do before step number `step`: one message between the processes, which waits for no GPU.

        Args:
            line_began, saved_at: when the line of the log began, and when the run was saved, by the monotonic clock.
            save_seconds: that a save takes.
            wish: whether this process wishes to stop.
        """
        fraction, now = self.clock.fraction(step), time.monotonic()
        wishes = [
            self._is_due(self.settings.log_every, step, now - line_began > LOG_SECONDS),
            self._is_due(self.settings.sample_every, step, fraction >= self.next_check and self._can_afford_check(now)),
            self._is_due(self.settings.save_every, step, now - saved_at > max(SAVE_SECONDS, SAVE_SHARE * save_seconds)),
        ]
        mine = [fraction, *wishes] if self.group.first else [0.0] * 4
        fraction, *agreed = self.group.largest([*mine, wish])
        return Due(fraction, *map(bool, agreed))

    def checked(self, step: int) -> None:
        """Put off the next check: the run was just checked, or has just begun, after `step` steps."""
        self.next_check = self.clock.fraction(step) + 1 / CHECKS
        self._checked_at = time.monotonic()

    def _can_afford_check(self, now: float) -> bool:
        """Whether checks leave most of a time budget to the steps; few steps may fill it on a slow machine."""
        if self.clock.config.optimiser.time_budget is None:
            return True
        return now - self._checked_at >= CHECK_SHARE * self.clock.check_seconds

    @staticmethod
    def _is_due(every: int | None, step: int, otherwise: bool) -> bool:
        return otherwise if every is None else step % every == 0
