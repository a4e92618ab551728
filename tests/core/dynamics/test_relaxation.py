"""Relaxation in a quadratic energy, whose descent and whose stationary distribution are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vpfb_core.dynamics.relaxation import Chain, relax
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import SolverError

MEAN = torch.tensor([0.5, -1.0])
PRECISION = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
VARIANCE = 0.3


def quadratic(x: Tensor) -> tuple[Tensor, Tensor]:
    """Energy and score of the normal distribution of this mean and precision."""
    pull = (x - MEAN) @ PRECISION
    return 0.5 * (pull * (x - MEAN)).sum(1), -pull


def starts(n: int) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def test_the_flow_is_the_matrix_exponential_of_the_quadratic() -> None:
    x = starts(5)
    found = relax(quadratic, x, VARIANCE, Solver.choose("rk4", nfe=80), Chain(0, 0.1))
    exact = MEAN + (x - MEAN) @ torch.linalg.matrix_exp(-VARIANCE * PRECISION)
    torch.testing.assert_close(found.x, exact, rtol=1e-5, atol=1e-5)
    assert (found.t == 1).all()
    assert (found.nfe == 80).all()


def test_chains_of_mala_reach_the_normal_distribution() -> None:
    n = 20_000
    chain = Chain(100, 0.8, seed=3, method="mala")
    found = relax(quadratic, starts(n), VARIANCE, Solver.choose("euler", nfe=5), chain)
    covariance = PRECISION.inverse()
    error = (covariance.diagonal() / n).sqrt()
    assert ((found.x.mean(0) - MEAN).abs() < 4 * error).all()
    torch.testing.assert_close(found.x.T.cov(), covariance, atol=4 * math.sqrt(2 / n), rtol=0.0)
    assert torch.allclose(found.t, torch.tensor(81.0))


def test_unadjusted_chains_reach_the_known_distribution_of_their_step() -> None:
    """With x' = x − η P (x − m) + √(2η) ξ the covariance is (P (1 − η P/2))⁻¹."""
    n, step = 20_000, 0.5
    found = relax(quadratic, starts(n), VARIANCE, Solver.choose("euler", nfe=5), Chain(150, step, seed=4))
    eta = VARIANCE * step
    covariance = (PRECISION @ (torch.eye(2) - 0.5 * eta * PRECISION)).inverse()
    torch.testing.assert_close(found.x.T.cov(), covariance, atol=4 * math.sqrt(2 / n), rtol=0.0)


def test_a_sample_depends_on_seed_and_index_alone_and_evaluations_are_counted() -> None:
    x, solver = starts(6), Solver.choose("heun", nfe=4)
    calls = []

    def counted(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(x))
        return quadratic(x)

    whole = relax(counted, x, VARIANCE, solver, Chain(3, 0.1, seed=1), keep_path=True)
    part = relax(quadratic, x[4:], VARIANCE, solver, Chain(3, 0.1, seed=1, first=4))
    assert torch.equal(part.x, whole.x[4:])
    assert whole.nfe.tolist() == [len(calls)] * 6
    assert whole.path is not None
    assert torch.equal(whole.path[-1], whole.x)
    assert not torch.equal(relax(quadratic, x, VARIANCE, solver, Chain(3, 0.1, seed=2)).x, whole.x)


def test_a_flow_that_escapes_is_a_status_and_a_chain_that_escapes_is_an_error() -> None:
    def uphill(x: Tensor) -> tuple[Tensor, Tensor]:
        return -x.pow(4).sum(1), 1e3 * x.pow(3)

    found = relax(uphill, starts(2), 1.0, Solver.choose("euler", nfe=8), Chain(5, 0.1))
    assert (found.status != 0).all()
    with pytest.raises(SolverError, match="non-finite"):
        relax(lambda x: (x.sum(1), 1e30 * x**3), 1e-8 * starts(2), 1.0, Solver.choose("euler", nfe=1), Chain(5, 0.1))
