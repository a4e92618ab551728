"""Guidance on Gaussian classes, where the guided density and its flow are known."""

from __future__ import annotations

import math
import typing

import pytest
import torch
from torch import Tensor, nn

from vpfb_core.dynamics.langevin import langevin
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError
from vpfb_core.methods.guidance import Guided, check_guidance
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.transport import decode, encode
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.potential import Potential

PRECISE = Solver.choose("dopri5", rtol=1e-9, atol=1e-9)
MEANS = torch.tensor([[0.0, 0.0], [1.0, -0.5], [-2.0, 0.3]], dtype=torch.float64)
SPREADS = torch.tensor([1.0, 0.4, 0.7], dtype=torch.float64)
WEIGHTS = [0.0, 0.5, 1.0, 2.5]


class Classes(nn.Module):
    """The exact N where z ~ N(mₖ, sₖ² I) in class k and N(0, I) without one."""

    def __init__(self, spreads: Tensor = SPREADS) -> None:
        super().__init__()
        self.spreads = spreads

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        index = torch.zeros(len(u), dtype=torch.int64) if condition is None else condition[:, 0] + 1
        sine, cosine = torch.sin(angle), torch.cos(angle)
        variance = (sine * self.spreads[index]).square() + cosine.square()
        offset = u - sine[:, None] * MEANS[index]
        log_density = -0.5 * offset.square().sum(1) / variance - torch.log(variance)
        tangent = torch.tan(angle)
        noise_only = tangent < 1e-9  # N(u, 0) = u · E[z]
        excess = (log_density + 0.5 * u.square().sum(1)) / torch.where(noise_only, 1.0, tangent)
        return torch.where(noise_only, (u * MEANS[index]).sum(1), excess)


def field_of(spreads: Tensor = SPREADS) -> PotentialField:
    return PotentialField(Potential(Classes(spreads), OT(0.01), 0.5))


def normal(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def guided_gaussian(angle: float, k: int, weight: float) -> tuple[Tensor, float]:
    """Mean and variance of N(0, 1)^(1 − W) N(sin φ mₖ, vₖ)^W."""
    sine, cosine = math.sin(angle), math.cos(angle)
    variance = float((sine * SPREADS[k]) ** 2) + cosine**2
    precision = (1 - weight) + weight / variance
    return weight * sine * MEANS[k] / variance / precision, 1 / precision


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("angle", [0.3, 1.0, 1.5])
def test_the_guided_energy_and_score_are_those_of_the_class_to_the_power_of_the_weight(
    angle: float, weight: float
) -> None:
    x = normal(50)
    for k in (1, 2):
        condition = torch.full((50, 1), k - 1)
        energy, score = Guided(field_of(), weight).energy_and_score(x, 1 / math.tan(angle), condition)
        mean, variance = guided_gaussian(angle, k, weight)
        exact = 0.5 * (x - mean).square().sum(1) / variance
        torch.testing.assert_close(energy - energy[0], exact - exact[0])
        torch.testing.assert_close(score, (mean - x) / variance)


def test_the_weight_one_is_the_class_and_the_weight_zero_is_none() -> None:
    field, x, level = field_of(), normal(8), 1.2
    condition = torch.arange(8)[:, None] % 2
    position = torch.full((8,), field.position(level), dtype=torch.float64)

    def everything(weight: float | None, condition: Tensor | None) -> tuple[Tensor, ...]:
        guided = Guided(field, weight)
        return *guided.energy_and_score(x, level, condition), guided.velocity(x, position, condition)

    plain = (*field.energy_and_score(x, level, condition), field.velocity(x, position, condition))
    none = (*field.energy_and_score(x, level), field.velocity(x, position))
    for found, exact in [
        (everything(1.0, condition), plain),
        (everything(None, condition), plain),
        (everything(0.0, condition), none),
        (everything(3.0, torch.full((8, 1), -1)), none),
        (everything(3.0, None), none),
    ]:
        torch.testing.assert_close(found, exact)
    for stated, once in zip(everything(2.0, condition), plain, strict=True):
        assert not torch.isclose(stated, once).any()


@pytest.mark.parametrize("solver", [PRECISE, Solver.choose("ab3", nfe=60)], ids=["dopri5", "ab3"])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_the_guided_flow_carries_classes_of_unit_width_by_the_weight_times_their_mean(
    weight: float, solver: Solver
) -> None:
    # du/dφ = W cos φ mₖ, so u(φ) = u₀ + W sin φ mₖ.
    field, codes = field_of(torch.ones(3, dtype=torch.float64)), normal(6)
    condition = torch.tensor([[0], [1], [-1], [0], [1], [-1]])
    start, end = field.span
    z = decode(field, codes, condition, solver, guidance=weight).require_success().x
    exact = codes + weight * (math.sin(end) - math.sin(start)) * MEANS[condition[:, 0] + 1]
    torch.testing.assert_close(z, exact, rtol=0, atol=1e-4)
    back = encode(field, z, condition, solver, guidance=weight).require_success().x
    torch.testing.assert_close(back, codes, rtol=0, atol=2e-4)


@pytest.mark.parametrize("solver", [PRECISE, Solver.choose("ab2", nfe=40), Solver.choose("ab2", nfe=1)])
def test_points_on_their_way_are_decoded_from_where_they_are(solver: Solver) -> None:
    field, u = field_of(torch.ones(3, dtype=torch.float64)), normal(4)
    condition = torch.ones(4, 1, dtype=torch.int64)
    begin, end = 1.2, field.span[1]
    z = decode(field, u, condition, solver, start=begin).require_success().x
    atol = 0.6 if solver.nfe == 1 else 1e-3
    torch.testing.assert_close(z, u + (math.sin(end) - math.sin(begin)) * MEANS[2], rtol=0, atol=atol)


def test_mala_in_the_guided_density_has_its_mean_and_variance() -> None:
    n, angle, weight = 2000, 1.1, 2.0
    condition = torch.ones(n, 1, dtype=torch.int64)
    guided, start = Guided(field_of(), weight), torch.zeros(n, 2, dtype=torch.float64)
    walk = langevin(
        lambda x: guided.energy_and_score(x, 1 / math.tan(angle), condition), start, math.cos(angle) ** 2,
        steps=80, seed=0, stream="test", scale=2.0,
    )  # fmt: skip
    mean, variance = guided_gaussian(angle, 2, weight)
    assert ((walk.x.mean(0) - mean).abs() < 4 * math.sqrt(variance / n)).all()
    assert ((walk.x.var(0) - variance).abs() < 4 * variance * math.sqrt(2 / n)).all()


def test_guidance_needs_classes_and_a_finite_weight() -> None:
    check_guidance(None, ())
    check_guidance(-2.0, ("a group",))
    with pytest.raises(ConfigError, match=r"guidance 2 needs a class, but this model is unconditional"):
        check_guidance(2.0, ())
    with pytest.raises(ConfigError, match="nan"):
        check_guidance(math.nan, ("a group",))
    with pytest.raises(ConfigError, match="guidance = 'two': expected a number"):
        check_guidance(typing.cast(float, "two"), ("a group",))
