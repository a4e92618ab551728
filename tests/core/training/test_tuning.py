"""The trial of the benchmarks that compare settings at equal time."""

from __future__ import annotations

from tuning import CHECKS, trial


def test_a_trial_is_checked_at_the_quarters_of_its_time() -> None:
    seconds = 1.0
    figures, model = trial("digits", None, "widths=[8] batch_size=8", seconds)
    times, steps, residuals = zip(*figures["path"], strict=True)
    assert len(times) == CHECKS
    assert all(time >= (quarter + 1) * seconds / CHECKS for quarter, time in enumerate(times))
    assert figures["steps"] == steps[-1] and figures["residual"] == residuals[-1]
    assert model.shape == (1, 8, 8)
