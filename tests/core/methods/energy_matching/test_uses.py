"""Composition and inpainting with energies of clean data alone, on Gaussians whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.dynamics.relaxation import Chain, relax
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.energy_matching.two_phases import EnergyMatching, EnergyMatchingSettings
from vpfb_core.uses import composition, long_runs
from vpfb_core.uses.plotting.model_plot import density_of_energy
from vpfb_core.uses.plotting.two_columns import Window

SIDE, N, TEMPERATURE, BLUR = 2, 256, 0.1, 0.1


class Gaussian(nn.Module):
    """V = ½ (x − c)ᵀ P (x − c), up to a constant."""

    def __init__(self, centre: float, precision: Tensor) -> None:
        super().__init__()
        self.centre, self.precision = nn.Parameter(torch.tensor(centre)), precision

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        away = (x - self.centre).flatten(1)
        return 0.5 * ((away @ self.precision) * away).sum(1) - 0.5 * x.flatten(1).square().sum(1)


def model(centre: float, precision: Tensor, blur: float = 0.0) -> Model:
    """A model of a Gaussian whose data have noise of the standard deviation `blur` in x."""
    network = Gaussian(centre, precision)
    field = StaticEnergy(network, TEMPERATURE, blur=blur / DATA_STD).eval().requires_grad_(False)
    settings = EnergyMatchingSettings(temperature=TEMPERATURE, contrast_share=0.5, condition_dropout=0.1)
    return Model(
        method=EnergyMatching(settings), field=field, network={}, statistics=ImageStatistics((0.5,), 0.25),
        shape=(1, SIDE, SIDE),
    )  # fmt: skip


@pytest.mark.parametrize("blur", [0.0, BLUR])
def test_the_energies_of_a_product_are_added_and_its_noise_is_removed(blur: float) -> None:
    eye = torch.eye(SIDE**2)
    both = composition.Composition("a: & b:", {"a": model(0.3, 2 * eye, blur), "b": model(-0.3, 4 * eye, 2 * blur)})
    drawn = composition.sample(both, N, seed=1, levels=20, batch_size=N)
    assert drawn.acceptance is not None
    assert drawn.nfe == 2 * (20 + 51 + 41 + (blur > 0))
    x = DATA_STD * drawn.data
    # The product of N(0.3, ε/2) and N(−0.3, ε/4) is N(−0.1, ε/6). Removing noise shrinks it by 1 − 6 blur²/ε.
    deviation = math.sqrt(TEMPERATURE / 6) * (1 - 6 * blur**2 / TEMPERATURE)
    assert abs(float(x.mean()) + 0.1) < 4 * deviation / math.sqrt(x.numel())
    assert abs(float(x.std()) / deviation - 1) < 4 / math.sqrt(2 * x.numel())
    few = composition.sample(both, 3, seed=1, first=4, levels=20)
    torch.testing.assert_close(few.data, drawn.data[4:7])


def test_what_needs_noise_levels_or_constants_is_refused() -> None:
    models = {"a": model(0.3, torch.eye(4)), "b": model(-0.3, torch.eye(4))}
    for mcmc in ("none", "smc"):
        with pytest.raises(ConfigError, match="needs a flow through noise levels"):
            composition.sample(composition.Composition("a: & b:", models), 2, mcmc=mcmc)
    with pytest.raises(ConfigError, match=r"\| in a composition needs energies of known normalisation"):
        composition.Composition("a: | b:", models)


@pytest.mark.parametrize("blur", [0.0, BLUR])
def test_unknown_pixels_have_their_density_given_the_known_ones(blur: float) -> None:
    precision = torch.eye(4) * 3.0
    precision[0, 1] = precision[1, 0] = 2.0
    image = torch.tensor([[[0.9, 0.5], [0.5, 0.5]]])
    known = torch.tensor([[[True, False], [False, False]]])
    trained = model(0.0, precision, blur)
    found = trained.inpaint(image, known, N, seed=2, levels=20)
    assert found.nfe.tolist() == [20 + 51 + 201 + (blur > 0)] * N
    z = (found.images - 0.5) / 0.25
    assert (found.images[:, 0, 0, 0] == image[0, 0, 0]).all()
    beside = DATA_STD * z[:, 0, 0, 1]
    # Given x₀ the mean of x₁ is −(2/3) x₀, and the variance is ε/3. Without noise it is closer to this mean.
    deviation, mean = math.sqrt(TEMPERATURE / 3) * (1 - 3 * blur**2 / TEMPERATURE), -2 / 3 * DATA_STD * 0.4 / 0.25
    assert abs(float(beside.mean()) - mean) < 4 * deviation / math.sqrt(N)
    assert abs(float(beside.std()) / deviation - 1) < 4 / math.sqrt(2 * N)


def test_a_long_run_begins_with_the_noise_of_the_density_and_ends_without_it() -> None:
    """Data N(0, ε/k − blur²) have the density N(0, ε/k) with noise. Their means given a point with noise are known."""
    k = 4.0
    noisy, spread = TEMPERATURE / k, TEMPERATURE / k - BLUR**2
    data = math.sqrt(spread) / DATA_STD * torch.randn(N, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    found = long_runs.long_run(model(0.0, k * torch.eye(SIDE**2), BLUR).field, data, steps=60, seed=3)
    x = DATA_STD * found.data
    deviation = spread / math.sqrt(noisy)  # the mean given x̃ is (spread/noisy) x̃
    assert abs(float(x.std()) / deviation - 1) < 4 / math.sqrt(2 * x.numel())
    assert found.nfe.tolist() == [13 + 49 + 1] * N
    start = float(found.energy[0])  # half the number of dimensions
    assert abs(start - SIDE**2 / 2) < 4 * math.sqrt(SIDE**2 / 2 / N)


def test_chains_have_the_density_of_the_energy_by_an_integral_over_a_grid() -> None:
    """An energy of a random network in two dimensions, whose density has no name."""
    net = networks.build({"name": "mlp", "dim": 2, "width": 16, "depth": 2}, 0)
    draws = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=draws)
    field = StaticEnergy(net, 0.5)
    axis = torch.linspace(-5, 5, 201)
    grid = torch.cartesian_prod(axis, axis)
    weights = torch.softmax(-field.energy(grid / DATA_STD).double(), 0)
    mean = weights @ grid.double()
    deviation = (weights @ (grid.double() - mean).square()).sqrt()
    assert weights.reshape(201, 201)[[0, -1]].sum() < 1e-6, "the grid is large enough"

    n = 1_000
    start = torch.randn(n, 2, generator=draws) / DATA_STD
    found = relax(
        field.energy_and_score, start, field.chain_variance(0.0), Solver.choose("euler", nfe=10),
        Chain(300, 0.3, seed=1, method="mala"),
    )  # fmt: skip
    x = DATA_STD * found.x.double()
    assert ((x.mean(0) - mean).abs() < 4 * deviation / math.sqrt(n)).all()
    right = weights[grid[:, 0] > mean[0]].sum()
    assert abs(float((x[:, 0] > mean[0]).double().mean() - right)) < 4 * 0.5 / math.sqrt(n)
    assert ((x.std(0) / deviation - 1).abs() < 0.1).all()


def test_the_plotted_density_of_two_columns_is_that_of_the_energy_in_the_units_of_the_columns() -> None:
    statistics = TableStatistics.of(torch.tensor([[1.0, 30.0], [3.0, 10.0], [2.0, 50.0]]).double(), ("a", "b"))
    field = StaticEnergy(Gaussian(0.2, torch.diag(torch.tensor([1.0, 4.0]))), TEMPERATURE).eval().requires_grad_(False)
    settings = EnergyMatchingSettings(temperature=TEMPERATURE, contrast_share=0.5, condition_dropout=0.1)
    of_rows = Model(method=EnergyMatching(settings), field=field, network={}, statistics=statistics, shape=(2,))
    # x = DATA_STD · z, so that z has the mean 0.2 / DATA_STD and the variances ε / (DATA_STD² P).
    mean, deviation = (torch.tensor(each).double() for each in (statistics.mean, statistics.std))
    centre = mean + deviation * 0.2 / DATA_STD
    spread = deviation / DATA_STD * torch.tensor([TEMPERATURE, TEMPERATURE / 4]).double().sqrt()
    low, high = (centre + sign * 7 * spread for sign in (-1, 1))
    window = Window((float(low[0]), float(high[0])), (float(low[1]), float(high[1])))
    points = torch.from_numpy(window.grid(200))
    exact = torch.distributions.Normal(centre, spread).log_prob(points).sum(1)
    found = density_of_energy(of_rows, points, window)
    near = exact > exact.max() - 8
    torch.testing.assert_close(found[near], exact[near], atol=2e-3, rtol=0)
