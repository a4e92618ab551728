"""The field of a potential, around the exact N of Gaussian mixtures: energies, scores and velocities by noise level."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import MIXTURES, SCHEDULES, STD, Mixture, anisotropic, draw_at, exact_field
from torch import Tensor, nn

from vpfb_core.methods.fields import Field, Transports
from vpfb_core.methods.path.homotopy import OT, Homotopy
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.networks import MLP

LEVELS = (0.05, 0.3, 1.0, 5.0)
TIGHT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}

every_mixture = pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES.keys())
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def exact(mixture: Mixture, level: float, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(energy, score, velocity) at points of unit variance, from the mixture's own density."""
    angle = torch.full((len(x),), math.atan2(1, level), dtype=torch.float64)
    mean, std = torch.sin(angle) / mixture.std, torch.cos(angle)
    gaussian = 0.5 * mixture.dimension * math.log(2 * math.pi)
    energy = -mixture.log_density(x, mean, std) - gaussian
    return energy, mixture.score(x, mean, std), mixture.arc_velocity(x, angle)


@every_mixture
def test_energy_score_and_velocity_are_those_of_the_mixture_at_every_level(mixture: Mixture) -> None:
    field = exact_field(mixture)
    for level in LEVELS:
        x = draw_at(mixture, level, 32)
        energy, score, velocity = exact(mixture, level, x)
        torch.testing.assert_close(field.energy_and_score(x, level), (energy, score), **TIGHT)
        torch.testing.assert_close(field.energy_score_and_velocity(x, level), (energy, score, velocity), **TIGHT)
        torch.testing.assert_close(field.energy(x, level), energy, **TIGHT)


def test_a_field_that_computes_the_three_one_by_one_has_the_same_values() -> None:
    field, x = exact_field(anisotropic()), draw_at(anisotropic(), 0.5, 8)
    together = field.energy_score_and_velocity(x, 0.5)
    torch.testing.assert_close(Field.energy_score_and_velocity(field, x, 0.5), together, **TIGHT)


@every_mixture
def test_velocity_at_positions_of_their_own_is_that_of_the_mixture(mixture: Mixture) -> None:
    field, levels = exact_field(mixture), torch.tensor(LEVELS * 4)
    x = torch.cat([draw_at(mixture, float(level), 1, seed) for seed, level in enumerate(levels)])
    s = torch.tensor([field.position(float(level)) for level in levels], dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(field.velocity(x, s), mixture.arc_velocity(x, s), **TIGHT)


def test_velocity_can_be_differentiated_in_the_point_and_energies_carry_no_graph() -> None:
    field, x = exact_field(anisotropic()), draw_at(anisotropic(), 0.5, 6).requires_grad_()
    velocity = field.velocity(x, torch.full((6,), field.position(0.5), dtype=torch.float64))
    assert torch.autograd.grad(velocity.sum(), x)[0].abs().min() > 0
    for answer in (*field.energy_and_score(x, 0.5), *field.energy_score_and_velocity(x, 0.5), field.energy(x, 0.5)):
        assert not answer.requires_grad
    with torch.inference_mode():
        inside = field.energy_and_score(x + 0, 0.5)
    torch.testing.assert_close(inside, field.energy_and_score(x, 0.5))


def test_energy_falls_along_the_score() -> None:
    """The score is the gradient of the log density, and so that of the energy with the other sign."""
    field, x, h = exact_field(anisotropic()), draw_at(anisotropic(), 0.5, 20), 1e-5
    _, score = field.energy_and_score(x, 0.5)
    fallen = field.energy(x - h * score, 0.5) - field.energy(x + h * score, 0.5)
    torch.testing.assert_close(fallen / (2 * h), score.square().sum(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", [1e-6, 0.1, 1.0, 30.0])
def test_points_of_a_level_have_unit_variance_and_the_level_is_their_ratio_of_noise_to_data(level: float) -> None:
    field = exact_field(anisotropic())
    signal, deviation = field.scales(level)
    assert signal**2 + deviation**2 == pytest.approx(1, rel=1e-15)
    assert deviation / signal == pytest.approx(level, rel=1e-15)
    data, noise = torch.randn((2, 4, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(field.at_level(data, level, noise), (data + level * noise) / math.hypot(1, level))
    torch.testing.assert_close(field.at_level(data, level), data / math.hypot(1, level))


def test_pure_noise_holds_nothing_of_the_data() -> None:
    field = exact_field(anisotropic())
    assert field.scales(math.inf) == (0.0, 1.0)
    assert field.position(math.inf) == 0
    assert field.level(0.0) == math.inf


@every_schedule
def test_levels_of_a_schedule_are_its_ratios_of_noise_to_data(schedule: Homotopy) -> None:
    field = exact_field(anisotropic(), schedule)
    highest, lowest = (float(schedule.std(t) / schedule.mean(t)) / STD for t in (0.0, 1.0))
    assert field.levels.highest == pytest.approx(highest)
    assert field.levels.lowest == pytest.approx(lowest)
    start, end = field.span
    assert field.level(start) == field.levels.highest
    assert field.level(end) == field.levels.lowest
    assert field.position(field.levels.lowest) == pytest.approx(end, rel=1e-15)
    assert start < field.position(2 * lowest) < end


def test_grid_leads_from_the_first_position_to_the_last() -> None:
    field = exact_field(anisotropic())
    grid = field.grid(*field.span, 9)
    assert (len(grid), grid[0], grid[-1]) == (10, *field.span)


def test_condition_reaches_the_network_in_every_question() -> None:
    class Tilt(nn.Module):
        """N = (k + 1) Σ u for class k."""

        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            strength = torch.ones(len(u)) if condition is None else condition[:, 0] + 1.0
            return strength * u.sum(1)

    field, x = PotentialField(Potential(Tilt(), OT())), torch.ones(3, 2)
    condition, level = torch.tensor([[-1], [0], [4]]), 0.5
    strength = condition + 1.0
    tilt = strength[:, 0] * 2 / level
    everything = (1 - tilt, strength / level - x, strength.expand(3, 2))
    torch.testing.assert_close(field.energy_score_and_velocity(x, level, condition), everything)
    torch.testing.assert_close(field.energy_and_score(x, level, condition), (1 - tilt, strength / level - x))
    torch.testing.assert_close(field.energy(x, level, condition), 1 - tilt)
    torch.testing.assert_close(field.velocity(x, torch.ones(3), condition), strength.expand(3, 2))
    torch.testing.assert_close(field.energy(x, level), torch.full((3,), 1 - 2 / level))


def test_images_are_read_as_the_vectors_they_flatten_to() -> None:
    field, x = exact_field(anisotropic()), draw_at(anisotropic(), 0.3, 5)
    energy, score = field.energy_and_score(x.reshape(5, 1, 2, 1), 0.3)
    assert score.shape == (5, 1, 2, 1)
    torch.testing.assert_close((energy, score.flatten(1)), field.energy_and_score(x, 0.3))


def test_a_potential_field_has_an_energy_and_a_flow() -> None:
    field = exact_field(anisotropic())
    assert isinstance(field, Transports)


def test_training_precision_and_weights_are_those_of_the_potential() -> None:
    network = MLP(dim=2, width=8)
    field = PotentialField(Potential(network, OT()), has_null=False)
    assert field.network is network
    assert not field.has_null
    assert {id(parameter) for parameter in field.parameters()} == {id(parameter) for parameter in network.parameters()}
    field.autocast_dtype = torch.bfloat16
    assert field.potential.autocast_dtype == field.autocast_dtype == torch.bfloat16


def test_energy_of_a_float32_point_keeps_what_float32_holds_of_the_potential() -> None:
    """tan φ is a float64 number: the tangent of a float32 angle is off by 5 in 10,000 at tan φ = 1,000 alone."""
    level = 1e-3

    class One(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return torch.ones(len(u))

    field = PotentialField(Potential(One(), OT(1e-6)))
    energy = field.energy(torch.zeros(2, 2), level)
    torch.testing.assert_close(energy, torch.full((2,), -1 / level), rtol=1e-7, atol=0)
