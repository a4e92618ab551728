"""The choice of a solver: a method, and how many evaluations or which tolerance."""

from __future__ import annotations

from typing import Any

import pytest

from vpfb_core.dynamics.solver import DEFAULT_NFE, DEFAULT_SOLVER, DEFAULT_TOLERANCE, Solver
from vpfb_core.dynamics.tableaux import METHODS, is_adaptive
from vpfb_core.errors import ConfigError

ADAPTIVE = [name for name, method in METHODS.items() if is_adaptive(method)]
FIXED = [name for name in METHODS if name not in ADAPTIVE]


def test_default_is_a_fixed_method_within_a_budget() -> None:
    assert Solver.choose() == DEFAULT_SOLVER
    assert DEFAULT_SOLVER.nfe == DEFAULT_NFE


def test_a_tolerance_alone_asks_for_dopri5() -> None:
    assert Solver.choose(rtol=1e-6) == Solver("dopri5", None, 1e-6, 1e-6)
    assert Solver.choose(rtol=1e-6, atol=1e-3) == Solver("dopri5", None, 1e-6, 1e-3)
    assert Solver.choose(atol=1e-3) == Solver("dopri5", None, DEFAULT_TOLERANCE, 1e-3)


@pytest.mark.parametrize("method", FIXED)
def test_fixed_method_takes_a_budget_and_no_tolerance(method: str) -> None:
    assert Solver.choose(method).nfe == DEFAULT_NFE
    assert Solver.choose(method, nfe=40).nfe == 40
    with pytest.raises(ConfigError, match="not a tolerance"):
        Solver.choose(method, rtol=1e-4)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_adaptive_method_takes_a_tolerance_and_no_budget(method: str) -> None:
    assert Solver.choose(method).nfe is None
    assert Solver.choose(method, rtol=1e-7).rtol == 1e-7
    with pytest.raises(ConfigError, match="nfe = 20"):
        Solver.choose(method, nfe=20)


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="not a tolerance"):
        Solver.choose(nfe=20, rtol=1e-4)


@pytest.mark.parametrize(
    ("tolerances", "message"),
    [({"rtol": -1.0}, "^rtol = -1 "), ({"rtol": float("nan")}, "^rtol = nan "), ({"atol": 0.0}, "^atol = 0 "),
     ({"rtol": 1e-3, "atol": -2.0}, "^atol = -2 "), ({"rtol": 0.0}, "^rtol = 0 needs an absolute")],
)  # fmt: skip
def test_a_wrong_tolerance_is_refused_by_its_own_name(tolerances: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Solver.choose(**tolerances)


@pytest.mark.parametrize(("method", "nfe"), [("rk4", 3), ("heun", 1), ("ab2", 0), ("euler", -5)])
def test_budget_below_one_step_is_refused(method: str, nfe: int) -> None:
    with pytest.raises(ConfigError, match=f"nfe = {nfe}"):
        Solver.choose(method, nfe=nfe)


def test_unknown_method_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="dopri") as caught:
        Solver.choose("dopri")
    assert caught.value.hint is not None
    assert "dopri5" in caught.value.hint
