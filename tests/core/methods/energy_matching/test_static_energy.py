"""The field: its energy and descent for known networks, and the straight path in its coordinates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy

UNET = {"name": "unet", "channels": 1, "size": 8, "widths": [8, 8], "dropout": 0.5, "classes": [2]}


class Constant(nn.Module):
    """f = c for every x."""

    def __init__(self, c: Tensor) -> None:
        super().__init__()
        self.c = nn.Parameter(c)

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        assert level is None, "the energy has no time"
        return self.c.expand_as(x)


def points(n: int = 4) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0))


def test_a_constant_denoiser_gives_a_quadratic_energy_around_it() -> None:
    c, z, temperature = torch.tensor([1.0, -2.0, 0.5]), points(), 0.2
    field = StaticEnergy(Constant(c), temperature)
    distance = DATA_STD * z - c
    energy, score = field.energy_and_score(z)
    torch.testing.assert_close(energy, 0.5 * distance.square().sum(1) / temperature)
    torch.testing.assert_close(score, -DATA_STD * distance / temperature)
    torch.testing.assert_close(field.descent(z), -distance)
    torch.testing.assert_close(field.energy(z), energy)


def test_one_number_per_sample_is_added_to_a_quadratic() -> None:
    class Linear(nn.Module):
        def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return 3 * x[:, 0]

    field, z = StaticEnergy(Linear(), 1.0), points()
    torch.testing.assert_close(field.descent(z), -DATA_STD * z - torch.tensor([3.0, 0.0, 0.0]))


def test_the_descent_in_the_coordinates_of_data_is_the_score_in_units_of_the_variance_of_chains() -> None:
    field = StaticEnergy(Constant(torch.ones(3)), 0.3)
    z = points()
    _, score = field.energy_and_score(z)
    torch.testing.assert_close(field.chain_variance(0.0) * score, field.descent(z) / DATA_STD)


def test_levels_are_places_on_the_straight_path_from_noise_to_data() -> None:
    field = StaticEnergy(Constant(torch.ones(3)), 0.3)
    z, x0 = points(), points().flip(0)
    assert torch.equal(field.at_level(z, 0.0), z)
    torch.testing.assert_close(field.at_level(z, math.inf, x0), x0 / DATA_STD)
    for t in (0.2, 0.7):
        level = (1 - t) / (DATA_STD * t)
        torch.testing.assert_close(field.at_level(z, level, x0), ((1 - t) * x0 + t * DATA_STD * z) / DATA_STD)


def test_the_descent_is_the_derivative_of_the_energy_of_a_u_net() -> None:
    net = networks.build(UNET, 0)
    nn.init.normal_(net.get_parameter("last.weight"), std=0.2)
    field = StaticEnergy(net, 0.1).double().eval()
    z = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    way, condition = torch.ones_like(z), torch.tensor([[0], [1], [-1]])
    _, score = field.energy_and_score(z, 0.0, condition)
    ahead, behind = (field.energy(z + sign * 1e-5 * way, 0.0, condition) for sign in (1, -1))
    torch.testing.assert_close(-(score * way).flatten(1).sum(1), (ahead - behind) / 2e-5, rtol=1e-6, atol=1e-6)


def test_values_are_measured_without_dropout_and_without_autocast() -> None:
    net = networks.build(UNET, 0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    field = StaticEnergy(net, 0.1).train()
    field.autocast_dtype = torch.bfloat16
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with field.measuring():
        measured = field.value(z)
        assert torch.equal(field.value(z), measured), "dropout is off"
    assert field.training
    assert field.autocast_dtype == torch.bfloat16
    field.autocast_dtype = None
    assert torch.equal(field.eval().value(z), measured)
