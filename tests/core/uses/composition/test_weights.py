"""Sequential Monte Carlo: the shares of modes and the normaliser of a product, against integrals over a grid."""

from __future__ import annotations

import math

import pytest
import torch
from composed_models import SCHEDULE, exact_model, gaussian
from problems import STD, Mixture
from torch import Tensor

from vpfb_core.uses.composition import Composed, Composition, sample

N = 600
APART = 1.2  # the modes lie at plus and minus this in the first dimension


def two_modes(share: float, narrow: float, wide: float) -> Mixture:
    """A mixture of two Gaussians in the plane with the given share of the right one, and variances of both."""
    means = STD * torch.tensor([[APART, 0.0], [-APART, 0.0]], dtype=torch.float64)
    variances = STD**2 * torch.tensor([[narrow, narrow], [wide, wide]], dtype=torch.float64)
    return Mixture(
        torch.tensor([share, 1 - share], dtype=torch.float64), means, torch.eye(2, dtype=torch.float64).expand(2, 2, 2),
        variances, STD,
    )  # fmt: skip


FREE = gaussian([0.0, 0.0], [1.5, 1.5])
RED = two_modes(0.3, 0.1, 0.25)
GREEN = two_modes(0.7, 0.3, 0.4)
MODEL = exact_model({(-1,): FREE, (0,): RED, (1,): GREEN})
EXPONENTS = {"red & green": (-1, 1, 1), "red & ~green": (1, 1, -1), "2*red": (-1, 2, 0)}


def integrated(text: str) -> tuple[float, float]:
    """The share of the right half and the logarithm of the integral of Π ρ^w at the floor, by a sum over a grid."""
    angle = torch.tensor(SCHEDULE.angle_range(STD)[1], dtype=torch.float64)
    axis = torch.linspace(-5, 5, 801, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    densities = [part.log_density(x, torch.sin(angle) / STD, torch.cos(angle)) for part in (FREE, RED, GREEN)]
    product = torch.stack([w * density for w, density in zip(EXPONENTS[text], densities, strict=True)]).sum(0).exp()
    total = float(product.sum()) * float(axis[1] - axis[0]) ** 2
    return float(product[x[:, 0] > 0].sum() / product.sum()), math.log(total)


def right(drawn: Composed) -> float:
    return float((drawn.data.flatten(1)[:, 0] > 0).double().mean())


@pytest.mark.parametrize(
    "text", ["2*red", *(pytest.param(text, marks=pytest.mark.slow) for text in ("red & green", "red & ~green"))]
)
def test_smc_draws_each_mode_as_often_as_the_product_has_it_and_knows_its_normaliser(text: str) -> None:
    share, normaliser = integrated(text)
    drawn = sample(Composition(text, MODEL), N, seed=2, mcmc="smc", levels=20, batch_size=N)
    assert right(drawn) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / (N / 2)) + 0.01)
    assert drawn.log_normaliser == pytest.approx(normaliser, abs=0.1)
    assert drawn.resampled is not None
    assert drawn.resampled >= 1


@pytest.mark.slow
def test_mala_alone_leaves_the_modes_in_the_shares_of_the_flow() -> None:
    share, _ = integrated("2*red")
    drawn = sample(Composition("2*red", MODEL), N, seed=2, levels=25, batch_size=N)
    assert abs(right(drawn) - share) > 4 * math.sqrt(share * (1 - share) / N)
    assert drawn.log_normaliser is None


def test_the_weights_of_a_mixture_are_equal_and_its_normaliser_is_one() -> None:
    drawn = sample(Composition("3*red | green", MODEL), 30, seed=0, mcmc="smc", levels=8)
    assert drawn.log_normaliser == pytest.approx(0, abs=1e-4)
    assert drawn.resampled == 1, "only at the end"
    plain = sample(Composition("3*red | green", MODEL), 30, seed=0, mcmc="mala", levels=8)
    assert torch.allclose(drawn.data, plain.data, atol=1e-4), "equal weights copy nothing"


@pytest.mark.slow
def test_an_unconditional_product_has_weights_too() -> None:
    models = {"r": exact_model({(): RED}, ()), "g": exact_model({(): GREEN}, ())}
    drawn = sample(Composition("r: & g:", models), N, seed=1, mcmc="smc", batch_size=N)
    angle = torch.tensor(SCHEDULE.angle_range(STD)[1], dtype=torch.float64)
    axis = torch.linspace(-4, 4, 401, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    both = torch.stack([part.log_density(x, torch.sin(angle) / STD, torch.cos(angle)) for part in (RED, GREEN)])
    product = both.sum(0).exp()
    share = float(product[x[:, 0] > 0].sum() / product.sum())
    assert right(drawn) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / (N / 3)) + 0.01)


def test_a_population_is_fixed_by_its_seed_and_its_size_and_not_by_the_batch() -> None:
    def draw(n: int, batch_size: int = 64) -> Tensor:
        return sample(Composition("2*red", MODEL), n, seed=5, mcmc="smc", levels=4, batch_size=batch_size).data

    twelve = draw(12)
    assert torch.allclose(twelve, draw(12, batch_size=5), atol=1e-5)
    assert not torch.allclose(twelve[:6], draw(6), atol=1e-2)


def test_evaluations_for_the_weights_are_counted() -> None:
    drawn = sample(Composition("red & green", MODEL), 2, seed=0, mcmc="smc", levels=3)
    assert drawn.nfe == 3 * (2 + 5 + 2) * 3
    assert drawn.acceptance is not None
    assert len(drawn.acceptance) == 3
