"""The lowest noise level of chains, of potentials whose rounding error is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from models import vpfb_model
from torch import Tensor, nn

from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.chain_levels import lowest_for_chains
from vpfb_core.methods.vpfb.field import LEAST_FOR_CHAINS
from vpfb_core.methods.vpfb.normaliser import Constants, Normaliser
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model.tilt import Tilt

NOISES = tuple(10 ** (-k / 10) for k in range(-15, 25))


class Rounded(nn.Module):
    """N = 0 in float64, and ±error in float32 for class 1, with a sign that neighbouring points do not share."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        value = self.error * torch.sign(torch.sin(1e4 * u[:, 0])) if u.dtype == torch.float32 else u.new_zeros(len(u))
        return value + self.weight * u[:, 0] if condition is None else value * condition[:, 0]


@pytest.mark.parametrize("steps", [12, 16])
def test_chains_end_at_the_level_from_which_on_rounding_exceeds_a_twentieth_of_a_nat(steps: int) -> None:
    """Differences are off by √2 error/level, root mean square, since half of them are off by twice the error."""
    error = 0.05 / 2**0.5 * 10 ** (-(steps + 0.5) / 10)
    z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    potential = Potential(Rounded(error), OT())
    assert lowest_for_chains(potential, z, NOISES) == NOISES[15 + steps]
    for index, lowest in ((1, NOISES[15 + steps]), (0, NOISES[-1])):
        assert lowest_for_chains(potential, z, NOISES, torch.full((1000, 1), index)) == lowest


def test_a_model_has_chains_down_to_the_level_that_its_calibration_measured() -> None:
    zeros = (0.0,) * len(NOISES)
    calibration = Normaliser(64, NOISES, {(): Constants(zeros, zeros, 1)}, lowest_for_chains=0.007)
    document = calibration.to_dict()
    model = vpfb_model(Potential(Rounded(0.0), OT()), normaliser=Normaliser.from_dict(document))
    tilted = model.with_tilt(Tilt((), torch.ones(1, 8, 8), {(): 0.0}))
    for each in (model, tilted):
        assert each.field.levels is not None
        assert each.field.levels.lowest_for_chains == 0.007
    del document["lowest_for_chains"]
    earlier = vpfb_model(Potential(Rounded(0.0), OT()), normaliser=Normaliser.from_dict(document))
    assert earlier.field.levels is not None
    assert earlier.field.levels.lowest_for_chains == LEAST_FOR_CHAINS
    with pytest.raises(ValueError, match="above 0"):
        Normaliser.from_dict(replace(calibration, lowest_for_chains=-1.0).to_dict())
