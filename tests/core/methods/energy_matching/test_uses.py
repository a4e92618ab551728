"""Composition and inpainting with energies of clean data alone, on Gaussians whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.errors import ConfigError
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.energy_matching.two_phases import EnergyMatching, EnergyMatchingSettings
from vpfb_core.uses import composition

SIDE, N, TEMPERATURE = 2, 512, 0.1


class Gaussian(nn.Module):
    """V = ½ (x − c)ᵀ P (x − c), up to a constant."""

    def __init__(self, centre: float, precision: Tensor) -> None:
        super().__init__()
        self.centre, self.precision = nn.Parameter(torch.tensor(centre)), precision

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        away = (x - self.centre).flatten(1)
        return 0.5 * ((away @ self.precision) * away).sum(1) - 0.5 * x.flatten(1).square().sum(1)


def model(centre: float, precision: Tensor) -> Model:
    field = StaticEnergy(Gaussian(centre, precision), TEMPERATURE).eval().requires_grad_(False)
    settings = EnergyMatchingSettings(temperature=TEMPERATURE, contrast_share=0.5, condition_dropout=0.1)
    return Model(
        method=EnergyMatching(settings), field=field, network={}, statistics=ImageStatistics((0.5,), 0.25),
        shape=(1, SIDE, SIDE),
    )  # fmt: skip


def test_the_energies_of_a_product_are_added() -> None:
    eye = torch.eye(SIDE**2)
    both = composition.Composition("a: & b:", {"a": model(0.3, 2 * eye), "b": model(-0.3, 4 * eye)})
    drawn = composition.sample(both, N, seed=1, levels=20)
    assert drawn.acceptance is not None
    x = DATA_STD * drawn.data
    # The product of N(0.3, ε/2) and N(−0.3, ε/4) is N(−0.1, ε/6).
    deviation = math.sqrt(TEMPERATURE / 6)
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


def test_unknown_pixels_have_their_density_given_the_known_ones() -> None:
    precision = torch.eye(4) * 3.0
    precision[0, 1] = precision[1, 0] = 2.0
    image = torch.tensor([[[0.9, 0.5], [0.5, 0.5]]])
    known = torch.tensor([[[True, False], [False, False]]])
    trained = model(0.0, precision)
    found = trained.inpaint(image, known, N, seed=2, levels=20)
    assert found.nfe.tolist() == [20 + 51 + 201] * N
    z = (found.images - 0.5) / 0.25
    assert (found.images[:, 0, 0, 0] == image[0, 0, 0]).all()
    beside = DATA_STD * z[:, 0, 0, 1]
    # Given x₀ the mean of x₁ is −(2/3) x₀, and the variance is ε/3.
    deviation, mean = math.sqrt(TEMPERATURE / 3), -2 / 3 * DATA_STD * 0.4 / 0.25
    assert abs(float(beside.mean()) - mean) < 4 * deviation / math.sqrt(N)
    assert abs(float(beside.std()) / deviation - 1) < 4 / math.sqrt(2 * N)
