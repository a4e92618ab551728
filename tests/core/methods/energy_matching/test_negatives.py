"""Negatives: where their chains start, how they go on, and what becomes of those that escape."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vpfb_core.methods.energy_matching.negatives import DESCENT_STEPS, POOL, Journey, Pool, blurred
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.step import Batch, Moment

ALWAYS = Journey(step=0.05, steps=1, restarts=1.0, blur=0.0)


class Bowl(nn.Module):
    """V = ½ k ‖x − c‖², up to a constant."""

    def __init__(self, k: float, c: float) -> None:
        super().__init__()
        self.k, self.c = k, nn.Parameter(torch.tensor(c))

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        bowl = 0.5 * self.k * (x - self.c).square().flatten(1).sum(1)
        return bowl - 0.5 * x.square().flatten(1).sum(1)


def batch_of(data: Tensor, condition: Tensor | None = None) -> Batch:
    return Batch(data, condition, 0, len(data))


def take(pool: Pool, field: StaticEnergy, batch: Batch, step: int, journey: Journey) -> Batch:
    """The negatives of a step, which the pool keeps."""
    drawn = pool.draw(field, batch, Moment(step), journey)
    pool.keep(drawn)
    return drawn.batch


def test_a_journey_is_counted_in_gradients() -> None:
    assert Journey(0.025, 10, 0.1, 0.1).evaluations == 10 + 0.05 * DESCENT_STEPS
    assert Journey(0.025, 10, 0.0, 0.1).evaluations == 10


def test_chains_start_at_data_or_at_the_end_of_the_descent_from_noise() -> None:
    """The descent of ½ k ‖x − c‖² by Euler steps shrinks the distance by (1 − k Δt) per step."""
    k, centre, n = 0.5, 1.0, 64
    data = torch.full((n, 5), 30.0)
    found = DATA_STD * take(Pool(), StaticEnergy(Bowl(k, centre), 1e-12), batch_of(data), 0, ALWAYS).data
    one = 1 - k * ALWAYS.step
    from_data = (found - centre).mean(1) > 5
    assert 16 < int(from_data.sum()) < 48, "half of them"
    expected = (centre + one * (DATA_STD * data - centre))[from_data]
    torch.testing.assert_close(found[from_data], expected)
    begun = (found[~from_data] - centre) / (one * (1 - k / DESCENT_STEPS) ** DESCENT_STEPS) + centre
    assert abs(float(begun.mean())) < 4 / math.sqrt(begun.numel()), "standard normal noise"
    assert abs(float(begun.std()) - 1) < 4 / math.sqrt(2 * begun.numel())


def test_data_at_which_chains_start_have_the_noise_of_the_energy() -> None:
    data, journey = torch.zeros(64, 50), replace(ALWAYS, blur=0.2)
    found = DATA_STD * take(Pool(), StaticEnergy(Bowl(1e-9, 0.0), 1e-12), batch_of(data), 0, journey).data
    spread = found.std(1)
    assert ((spread - 0.2).abs() < 0.1).sum() + ((spread - 1).abs() < 0.5).sum() == 64
    assert abs(float(spread[spread < 0.5].mean()) - 0.2) < 0.02
    noised = DATA_STD * (blurred(batch_of(data), Moment(0), 0.2).data - data)
    assert abs(float(noised.std()) - 0.2) < 4 * 0.2 / math.sqrt(2 * noised.numel())


def test_chains_go_on_from_step_to_step_and_reach_the_density_of_the_energy() -> None:
    k, temperature, n = 4.0, 0.25, 200
    pool, field, batch = Pool(), StaticEnergy(Bowl(k, 0.5), temperature), batch_of(torch.full((n, 1), 2.0))
    journey = Journey(step=0.05, steps=2, restarts=0.0, blur=0.0)
    first = take(pool, field, batch, 0, journey)
    assert DATA_STD * first.data.mean() > 0.6, "these have only begun"
    for step in range(1, 24 * POOL):
        take(pool, field, batch, step, journey)
    assert pool.begun.all()
    x, count = DATA_STD * pool.x, POOL * n
    variance = temperature / k / (1 - 0.05 * k / 2)  # that of unadjusted chains of this step
    assert abs(float(x.mean()) - 0.5) < 4 * math.sqrt(variance / count)
    assert abs(float(x.var()) / variance - 1) < 4 * math.sqrt(2 / count)


def test_a_chain_keeps_its_class_until_it_starts_anew() -> None:
    field, pool = StaticEnergy(Bowl(1.0, 0.0), 0.1), Pool()
    ones, twos = (batch_of(torch.zeros(4, 3), torch.full((4, 1), label)) for label in (1, 2))
    stay = replace(ALWAYS, restarts=0.0)
    for step in range(10 * POOL):
        take(pool, field, ones, step, stay)
    for step, journey, label in ((1000, stay, 1), (1001, ALWAYS, 2)):
        condition = take(pool, field, twos, step, journey).condition
        assert condition is not None
        assert condition.tolist() == [[label]] * 4


def test_negatives_depend_on_the_moment_and_on_what_was_kept_alone() -> None:
    field, data = StaticEnergy(Bowl(1.0, 0.0), 0.1).train(), batch_of(torch.ones(4, 3))
    pool, journey = Pool(), replace(ALWAYS, restarts=0.3)
    take(pool, field, data, 0, journey)
    first, again = (pool.draw(field, data, Moment(1), journey) for _ in range(2))
    assert torch.equal(first.batch.data, again.batch.data), "what is not kept leaves no trace"
    restored = Pool()
    restored.load({name: tensor.clone() for name, tensor in pool.tensors().items()})
    for step in range(1, 5):
        ours, theirs = (take(each, field, data, step, journey) for each in (pool, restored))
        assert torch.equal(ours.data, theirs.data)
    assert field.training
    assert not ours.data.requires_grad


def test_the_mean_energy_of_the_chains_is_that_of_those_that_have_begun_in_nats() -> None:
    field, pool = StaticEnergy(Bowl(1.0, 0.0), 0.1), Pool()
    assert pool.mean_energy(field, torch.device("cpu"), 2).isnan()
    begun = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    pool.load({"chains": torch.cat([begun, torch.full((3, 2), 99.0)]), "begun": torch.arange(5) < 2})
    exact = torch.tensor(0.5 / 0.1 * DATA_STD**2 * (1 + 4) / 2)
    torch.testing.assert_close(pool.mean_energy(field, torch.device("cpu"), 2), exact)


class Ledge(nn.Module):
    """V = ½ ‖x‖² where x₁ < 5; beyond that the energy is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return 0 * self.scale * torch.where(x[:, 0] < 5, x[:, 0], math.nan)


@pytest.mark.parametrize("chains", ["ula", "mala"])
def test_a_chain_that_escapes_begins_anew_at_its_datum_and_leaves_the_others_alone(chains: str) -> None:
    pool, field, batch = Pool(), StaticEnergy(Ledge(), 0.1), batch_of(torch.full((4, 3), 0.5))
    journey = replace(ALWAYS, restarts=0.0, chains=chains)
    here = torch.full((4 * POOL, 3), 1.0)
    pool.load({"chains": here.clone(), "begun": torch.ones(4 * POOL, dtype=torch.bool)})
    undisturbed = pool.draw(field, batch, Moment(7), journey)
    here[undisturbed.rows[2], 0] = 20.0
    pool.load({"chains": here, "begun": torch.ones(4 * POOL, dtype=torch.bool)})
    found = take(pool, field, batch, 7, journey)
    assert torch.equal(found.data[2], batch.data[2])
    others = torch.tensor([0, 1, 3])
    assert torch.equal(found.data[others], undisturbed.batch.data[others])
    assert pool.escaped == 1
    restored = Pool()
    restored.load(pool.tensors())
    assert restored.escaped == 1
