"""Long runs on mixtures: chains move, and what comes out is still the data."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from problems import MIXTURES, Mixture, anisotropic, draw_at, exact_field, ring
from torch import Tensor

from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.uses.long_runs import long_run, noised

N = 600


def field_of(mixture: Mixture, floor: float = 0.01) -> PotentialField:
    return exact_field(mixture, OT(floor))


def data(mixture: Mixture, n: int = N, seed: int = 0) -> Tensor:
    return mixture.sample(n, torch.Generator().manual_seed(seed)) / mixture.std


def assert_moments_of(z: Tensor, mixture: Mixture) -> None:
    """First and second moments within four standard errors of those of the data, and third ones of many samples."""
    assert (z.mean(0).abs() < 4 * z.std(0) / math.sqrt(len(z))).all()
    products = z[:, :, None] * z[:, None]
    exact = mixture.covariance / mixture.std**2
    assert ((products.mean(0) - exact).abs() < 4 * products.std(0) / math.sqrt(len(z))).all()
    third = (data(mixture, 100_000, seed=9) ** 3).mean(0)
    assert (((z**3).mean(0) - third).abs() < 4 * (z**3).std(0) / math.sqrt(len(z))).all()


@pytest.mark.parametrize("name", ["anisotropic", "scattered"])
def test_samples_move_and_are_still_the_data(name: str) -> None:
    mixture = MIXTURES[name]
    z = data(mixture)
    run = long_run(field_of(mixture), z, steps=100, seed=0)
    assert_moments_of(run.data, mixture)
    assert (run.data - z).norm(dim=1).mean() > 0.2
    assert 0.4 < run.acceptance < 1


def test_a_run_at_a_high_level_forgets_where_it_began() -> None:
    mixture = anisotropic()
    z = data(mixture)[:1].expand(N, 2)
    run = long_run(field_of(mixture), z, steps=150, seed=0, level=1.0, solver=Solver.choose("rk4", nfe=60))
    assert_moments_of(run.data, mixture)


def test_chains_stay_on_the_ring_they_walk_along() -> None:
    mixture = ring(64)
    z = data(mixture, 100)
    run = long_run(field_of(mixture), z, steps=300, seed=0)
    radius, exact = run.data.norm(dim=1), data(mixture, 10_000).norm(dim=1)
    assert radius.min() > exact.min() - 0.1
    assert radius.max() < exact.max() + 0.1
    turn = torch.atan2(run.data[:, 1], run.data[:, 0]) - torch.atan2(z[:, 1], z[:, 0])
    assert (torch.cos(turn) < 0.9).double().mean() > 0.5, "most have gone 25 degrees or more"


def test_energies_run_from_the_start_to_the_end_and_evaluations_are_counted() -> None:
    mixture, steps = anisotropic(), 37
    seen: list[int] = []
    z = data(mixture, 30)
    solver = Solver.choose("euler", nfe=10)
    run = long_run(field_of(mixture), z, steps=steps, seed=0, solver=solver, on_step=seen.append)
    assert run.energy.shape == (steps + 1,)
    assert seen == list(range(1, steps + 1))
    after = run.nfe - (steps + 2)  # two chains, each with its start
    assert (after == after[0]).all()
    assert 1 <= after[0] <= 10
    # −log ρ at the level, of which the trace lacks the constant d/2 log 2π; the start is an exact sample.
    signal, noise = 1 / math.hypot(1, 0.1), 0.1 / math.hypot(1, 0.1)
    x = draw_at(mixture, 0.1, 20_000, seed=3)
    energies = -mixture.log_density(x, torch.tensor(signal / mixture.std), torch.tensor(noise)) - math.log(2 * math.pi)
    assert (run.energy - energies.mean()).abs().max() < 5 * energies.std() / math.sqrt(30)


def test_a_chain_does_not_depend_on_its_batch() -> None:
    z, field = data(anisotropic(), 5), field_of(anisotropic())
    whole = long_run(field, z, steps=30, seed=4)
    for i in range(5):
        alone = long_run(field, z[i : i + 1], steps=30, seed=4, first=i)
        torch.testing.assert_close(alone.data[0], whole.data[i], rtol=0, atol=1e-8)


def test_a_level_below_the_floor_is_the_floor() -> None:
    mixture = anisotropic()
    field = field_of(mixture, floor=0.2)
    low, floor = (long_run(field, data(mixture, 4), steps=5, seed=0, level=level) for level in (0.1, 0.4))
    torch.testing.assert_close(low.data, floor.data)


@pytest.mark.parametrize("floor", [0.01, 0.1])
def test_noise_is_added_up_to_the_level(floor: float) -> None:
    n, level, field = 4000, 0.3, field_of(anisotropic(), floor)
    lowest = field.levels.lowest
    _, there_already = field.scales(lowest)
    z = torch.ones(n, 2)
    x = field.at_level(z, lowest, torch.randn(n, 2, generator=torch.Generator().manual_seed(0)))
    there = noised(field, x, lowest, level, torch.randn(n, 2, generator=torch.Generator().manual_seed(1)))
    signal, deviation = 1 / math.hypot(1, level), level / math.hypot(1, level)
    assert deviation > there_already
    assert abs(there.mean() - signal) < 4 * deviation / math.sqrt(2 * n)
    assert abs(there.var() - deviation**2) < 4 * deviation**2 * math.sqrt(2 / (2 * n))
    torch.testing.assert_close(noised(field, x, lowest, lowest, torch.ones(n, 2)), x)


def test_impossible_runs_are_refused() -> None:
    field, z = field_of(anisotropic()), data(anisotropic(), 2)
    with pytest.raises(ConfigError, match="0 steps"):
        long_run(field, z, steps=0, seed=0)
    with pytest.raises(ConfigError, match="level -1"):
        long_run(field, z, steps=1, seed=0, level=-1)
    with pytest.raises(ConfigError, match="expected a number"):
        long_run(field, z, steps=1, seed=0, level=typing.cast(float, "low"))
