"""Negatives: where they start, where they end in a quadratic energy, and what becomes of those that escape."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vpfb_core.methods.energy_matching.negatives import Journey, draw_negatives
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.step import Batch, Moment


class Bowl(nn.Module):
    """V = ½ k ‖x − c‖², up to a constant."""

    def __init__(self, k: float, c: float) -> None:
        super().__init__()
        self.k, self.c = k, nn.Parameter(torch.tensor(c))

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        bowl = 0.5 * self.k * (x - self.c).square().flatten(1).sum(1)
        return bowl - 0.5 * x.square().flatten(1).sum(1)


def batch_of(data: Tensor) -> Batch:
    return Batch(data, None, 0, len(data))


def test_a_journey_is_counted_in_gradients() -> None:
    assert Journey(0.025, 2.0).evaluations == 80
    assert Journey(0.1, 0.5).evaluations == 5
    assert Journey(0.1, 0.5).chain_steps == 0


def test_even_rows_come_from_data_and_odd_rows_from_noise() -> None:
    """The descent of ½ k ‖x − c‖² by Euler steps shrinks the distance by (1 − k Δt) per step."""
    data = 3.0 + torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    found = draw_negatives(StaticEnergy(Bowl(0.5, 1.0), 1e-12), batch_of(data), Moment(0), Journey(0.25, 1.0))
    shrunk = (1 - 0.5 * 0.25) ** 4
    torch.testing.assert_close(DATA_STD * found[::2], 1.0 + shrunk * (DATA_STD * data[::2] - 1.0))
    begun = (DATA_STD * found[1::2] - 1.0) / shrunk + 1.0
    assert begun.abs().max() < 5, "standard normal noise"
    assert not torch.allclose(begun[0], begun[1])


def test_negatives_have_the_density_of_the_energy() -> None:
    k, temperature, n = 4.0, 0.25, 1_000
    field = StaticEnergy(Bowl(k, 0.5), temperature)
    data = torch.zeros(n, 1)
    x = DATA_STD * draw_negatives(field, batch_of(data), Moment(0), Journey(0.05, 2.5))
    variance = temperature / k / (1 - 0.05 * k / 2)  # that of unadjusted chains of this step
    assert abs(float(x.mean()) - 0.5) < 4 * math.sqrt(variance / n) + 0.5 * (1 - 0.05 * k) ** 50
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / n)


def test_negatives_depend_on_the_moment_and_leave_the_field_as_it_was() -> None:
    field, data = StaticEnergy(Bowl(1.0, 0.0), 0.1).train(), torch.ones(4, 3)
    first, again, later = (
        draw_negatives(field, batch_of(data), at, Journey(0.25, 2.0)) for at in map(Moment, (0, 0, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert field.training
    assert not first.requires_grad


def test_pixels_stay_within_the_range_of_the_data_of_their_channel() -> None:
    data = (
        torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        + torch.tensor([0.0, 5.0, -3.0])[:, None, None]
    )
    found = draw_negatives(StaticEnergy(Bowl(1.0, 0.0), 10.0), batch_of(data), Moment(0), Journey(0.25, 2.0))
    for channel in range(3):
        assert data[:, channel].min() <= found[:, channel].min() <= found[:, channel].max() <= data[:, channel].max()
    assert torch.isclose(found[:, 1].min(), data[:, 1].min())


def test_a_negative_that_escapes_to_infinity_is_not_a_number() -> None:
    found = draw_negatives(
        StaticEnergy(Bowl(-1e30, 0.0), 0.1), batch_of(torch.ones(4, 3)), Moment(0), Journey(0.25, 2.0)
    )
    assert found.isnan().any()
