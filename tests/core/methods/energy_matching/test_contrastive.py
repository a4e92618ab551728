"""The two losses on fields whose values are known."""

from __future__ import annotations

import itertools

import pytest
import torch
from pretended_gpu import pretend
from torch import Tensor, nn

from vpfb_core.methods.energy_matching.contrastive import contrastive_loss, flow_loss, nearest, squared_error
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.step import Batch, Moment


class Slope(nn.Module):
    """Adds s x₁ to ½‖x‖²."""

    def __init__(self, s: float) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.tensor(s))

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.s * x[:, 0]


def batch_of(data: Tensor) -> Batch:
    return Batch(data, None, 0, len(data))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_regression_compares_the_descent_with_the_velocity_of_the_path() -> None:
    z, x0, t = normal(5, 3), normal(5, 3, seed=1), torch.linspace(0, 1, 5)
    x = (1 - t)[:, None] * x0 + t[:, None] * DATA_STD * z
    exact = (-x - torch.tensor([0.7, 0.0, 0.0]) - (DATA_STD * z - x0)).square().mean(1)
    torch.testing.assert_close(squared_error(StaticEnergy(Slope(0.7), 1.0), z, t, x0, None), exact)


class AroundOnes(nn.Module):
    """V = ½ k ‖x − a 1‖², up to a constant."""

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(k))

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return 0.5 * self.k * (x - DATA_STD).square().sum(1) - 0.5 * x.square().sum(1)


def test_from_the_arrival_on_the_regression_asks_for_the_score_of_a_datum_with_noise() -> None:
    """The density N(a z, b²) is exp(−V/ε) with V = ½ (ε/b²) ‖x − a z‖², and the arrival is b²/ε before the data."""
    temperature, blur = 0.1, 0.2
    arrival = blur**2 / temperature
    field, z, x0 = StaticEnergy(AroundOnes(temperature / blur**2), temperature), torch.ones(5, 3), normal(5, 3, seed=1)
    t = torch.tensor([0.0, 1 - 1.5 * arrival, 1 - arrival, 1 - 0.5 * arrival, 1.0])
    error = squared_error(field, z, t, x0, None, arrival)
    torch.testing.assert_close(error[2:], torch.zeros(3), atol=1e-9, rtol=0)
    assert (error[:2] > 0.1).all()
    before = squared_error(field, z, t, x0, None)
    assert torch.equal(error[:2], before[:2])
    assert before[4] > 0.1, "without it the regression asks for the full speed at the data"


@pytest.mark.parametrize("coupled", [False, True])
def test_the_losses_of_parts_of_a_batch_add_up(coupled: bool) -> None:
    data = normal(6, 3)
    loss = flow_loss(StaticEnergy(Slope(0.7), 1.0), batch_of(data), Moment(3), coupled=coupled)
    parts = 2 / 6 * loss(slice(0, 2)) + 4 / 6 * loss(slice(2, 6))
    torch.testing.assert_close(parts, loss(slice(0, 6)))


def test_transport_finds_the_assignment_of_least_cost_and_lowers_the_loss() -> None:
    data, noise = normal(5, 3), normal(5, 3, seed=1)
    costs = {
        order: float((data - noise[list(order)]).square().sum()) for order in itertools.permutations(range(len(data)))
    }
    assert tuple(nearest(data, noise).tolist()) == min(costs, key=costs.__getitem__)


def test_noise_is_assigned_to_data_on_mps_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    data, noise = normal(5, 3), normal(5, 3, seed=1)
    expected = nearest(data, noise)
    with pretend("mps", monkeypatch) as gpu:
        found = nearest(data.to(gpu.device), noise.to(gpu.device))
        assert found.device.type == "mps"
        assert torch.equal(found.cpu(), expected)


def test_the_contrast_is_the_difference_of_mean_values_without_the_highest_negatives() -> None:
    field = StaticEnergy(Slope(0.0), 1.0)
    data, negatives = torch.zeros(5, 2), torch.tensor([[2.0, 0.0], [4.0, 0.0], [6.0, 0.0], [8.0, 0.0], [100.0, 0.0]])
    values = 0.5 * (DATA_STD * negatives[:, 0]).square()
    loss = contrastive_loss(field, batch_of(data), batch_of(negatives), trim=0.2, margin=1e9, at_once=2)
    torch.testing.assert_close(loss(slice(0, 5)), -values[:4].mean())
    parts = 2 / 5 * loss(slice(0, 2)) + 3 / 5 * loss(slice(2, 5))
    torch.testing.assert_close(parts, loss(slice(0, 5)))


def test_the_contrast_lowers_data_and_raises_negatives_until_the_margin() -> None:
    field = StaticEnergy(Slope(0.0), 1.0)
    data, negatives = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    value = contrastive_loss(field, batch_of(data), batch_of(negatives), trim=0.0, margin=0.5, at_once=1)(slice(0, 1))
    value.backward()
    gradient = field.network.get_parameter("s").grad
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.tensor(DATA_STD * (2.0 - 1.0)))
    steep = contrastive_loss(field, batch_of(negatives), batch_of(data), trim=0.0, margin=0.1, at_once=1)(slice(0, 1))
    assert float(steep.detach()) == pytest.approx(-0.1)
    field.zero_grad()
    steep.backward()
    assert field.network.get_parameter("s").grad == 0, "no gradient at all would be no step of the optimiser"
