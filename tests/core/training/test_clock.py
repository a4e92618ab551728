"""The clock of a run: what counts as done, and what a time budget is spent on, by a clock that tests set."""

from __future__ import annotations

import types

import pytest

import vpfb_core as vpfb
from vpfb_core.config import RunSettings
from vpfb_core.machine import distributed
from vpfb_core.training import agenda, clock
from vpfb_core.training.agenda import Agenda, Due
from vpfb_core.training.clock import Clock


class Now:
    """The monotonic clock of `clock` and `agenda`."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(agenda, "CHECKS", 10)
    for module in (clock, agenda):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=now.monotonic))
    return now


def config(**settings: float) -> vpfb.TrainConfig:
    return vpfb.TrainConfig(data="digits", **settings)


def test_without_a_budget_the_steps_alone_count(now: Now) -> None:
    of_steps = Clock(config(steps=8))
    now.seconds += 1e6
    assert [of_steps.fraction(step) for step in (0, 2, 8, 9)] == [0, 0.25, 1, 1]
    assert of_steps.deadline() is None


def test_of_steps_and_time_whichever_is_further_counts(now: Now) -> None:
    both = Clock(config(steps=100, time_budget=101.0))  # a second is kept for the last save
    now.seconds += 30
    assert both.fraction(10) == pytest.approx(0.3)
    assert both.fraction(90) == pytest.approx(0.9)


@pytest.mark.parametrize("check_seconds", [0.0, 10.0, 1e6])
@pytest.mark.parametrize("began", [0.0, 33.0])
def test_at_least_half_of_a_budget_goes_into_steps_that_begin_in_its_first_third(
    now: Now, check_seconds: float, began: float
) -> None:
    budget = Clock(config(time_budget=100.0))
    budget.check_seconds = budget.calibration_seconds = check_seconds
    now.seconds += began
    budget.begin_steps()
    now.seconds += 49.9
    assert budget.fraction(0) < 1
    now.seconds += 50 - began
    assert budget.fraction(0) == 1, "and something is left for the last check"


def test_three_quarters_of_what_is_left_go_into_steps_where_it_took_long_to_get_there(now: Now) -> None:
    budget = Clock(config(time_budget=100.0), now.seconds - 20)
    budget.check_seconds = 1000.0
    now.seconds += 60
    assert budget.fraction(0) == 1
    budget.begin_steps()  # after 80 s
    now.seconds += 14.9
    assert budget.fraction(0) < 1
    now.seconds += 0.2
    assert budget.fraction(0) == 1


def test_the_time_before_the_run_counts_and_the_deadline_is_the_end_of_the_budget(now: Now) -> None:
    began = now.seconds
    now.seconds += 30  # imports and data
    budget = Clock(config(time_budget=107.0), began)  # 7 s are kept for saving, a fifth of these 30 s among them
    assert budget.fraction(0) == pytest.approx(0.3)
    assert budget.seconds() == 0, "of the run itself"
    now.seconds += 20
    assert budget.deadline() == pytest.approx(began + 107)
    assert not budget.is_over()
    now.seconds += 58
    assert budget.is_over()


def test_a_resumed_run_counts_the_time_of_its_earlier_sessions(now: Now) -> None:
    budget = Clock(config(time_budget=101.0))
    budget.go_on(40.0)
    now.seconds += 10
    assert (budget.seconds(), budget.fraction(0)) == (50, pytest.approx(0.5))
    assert budget.deadline() == pytest.approx(now.seconds + 51)


# --- the agenda -------------------------------------------------------------------------------------------------------


def due(settings: RunSettings, now: Now, step: int = 0, ago: float = 0.0, save: float = 0.0, stop: bool = False) -> Due:
    """What is due when the log line and the save are `ago` seconds old and a save takes `save` seconds."""
    plan = Agenda(settings, Clock(config(steps=100)), distributed.group())
    plan.checked(0)
    return plan.due(step, now.seconds - ago, now.seconds - ago, save, stop)


def test_intervals_that_are_set_count_steps(now: Now) -> None:
    settings = RunSettings(log_every=2, sample_every=3, save_every=5)
    found = [due(settings, now, step, ago=1e9) for step in (2, 3, 5, 7, 30)]
    assert [(each.log, each.check, each.save) for each in found] == [
        (True, False, False), (False, True, False), (False, False, True), (False, False, False), (True, True, True),
    ]  # fmt: skip


def test_without_settings_lines_and_saves_go_by_the_clock_and_checks_by_the_share_of_the_run(now: Now) -> None:
    settings = RunSettings()
    assert [due(settings, now, ago=ago).log for ago in (1.9, 2.1)] == [False, True]
    assert [due(settings, now, ago=ago).save for ago in (59, 61)] == [False, True]
    assert [due(settings, now, step).check for step in (9, 10)] == [False, True]


def checks(run: Clock, now: Now, waits: list[float], check_seconds: float) -> list[bool]:
    """Whether a check is due at step 5 after each of the waits, after a first check that took `check_seconds`."""
    plan = Agenda(RunSettings(), run, distributed.group())
    run.check_seconds = check_seconds
    plan.checked(0)
    found = []
    for wait in waits:
        now.seconds += wait
        found.append(plan.due(5, now.seconds, now.seconds, 0.0, False).check)
    return found


def test_a_slow_check_is_put_off_so_that_most_of_the_time_is_left_to_the_steps(now: Now) -> None:
    run = Clock(config(steps=10, time_budget=1e6))
    assert checks(run, now, [8.0] * 3, check_seconds=4.0) == [False, False, True]


def test_no_check_is_made_shortly_before_the_one_at_the_end(now: Now) -> None:
    run = Clock(config(time_budget=101.0))
    assert checks(run, now, [45.0] * 2, check_seconds=2.0) == [True, False]


def test_a_check_fits_into_a_budget_until_less_time_is_left_than_it_takes(now: Now) -> None:
    run, endless = Clock(config(time_budget=100.0)), Clock(config(steps=5))
    run.check_seconds = endless.check_seconds = 10.0
    found = []
    for _ in range(2):
        now.seconds += 49
        found.append((run.leaves_time_for_a_check(), endless.leaves_time_for_a_check()))
    assert found == [(True, True), (False, True)]


def test_a_check_leaves_the_time_of_the_calibration(now: Now) -> None:
    run = Clock(config(time_budget=110.0))  # at most 0.15 / 1.15 of it are for the calibration, which is 14.3 s
    run.check_seconds, run.calibration_seconds = 10.0, 1000.0
    found = []
    for wait in (84, 3):
        now.seconds += wait
        found.append(run.leaves_time_for_a_check())
    assert found == [True, False]
    run.reference_seconds = 45.0
    now.seconds -= 31
    assert not run.leaves_time_for_a_check(), "54 s are left, of which the smallest reference takes 45"
    run.calibration_seconds = 0.0
    assert run.leaves_time_for_a_check(), "a method without an energy is not calibrated"


def test_a_slow_save_is_put_off_in_proportion(now: Now) -> None:
    assert [due(RunSettings(), now, ago=ago, save=4.0).save for ago in (199, 201)] == [False, True]


def test_a_request_to_stop_is_due(now: Now) -> None:
    assert [due(RunSettings(), now, stop=stop).stop for stop in (False, True)] == [False, True]
