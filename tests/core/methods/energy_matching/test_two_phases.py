"""The method: its settings, its phases, and how it draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vpfb_core import methods, names
from vpfb_core.errors import ConfigError
from vpfb_core.methods.energy_matching.static_energy import DATA_STD, StaticEnergy
from vpfb_core.methods.energy_matching.two_phases import EnergyMatching, EnergyMatchingSettings
from vpfb_core.methods.step import Batch, DataShape, Moment, Validation

DATA, POINTS = DataShape((1, 8, 8)), DataShape((2,))


def method(**settings: object) -> EnergyMatching:
    given = EnergyMatchingSettings.from_dict(settings)
    return EnergyMatching(given.completed(EnergyMatching.defaults(DATA, {**settings, "timed": True})))


class Zero(nn.Module):
    """f = 0, whose descent is −x."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.scale * x


# --- the two phases ---------------------------------------------------------------------------------------------------


def test_the_second_phase_takes_half_of_the_work_by_time_and_by_steps() -> None:
    timed = EnergyMatching.defaults(DATA, {"timed": True})["contrast_share"]
    counted = EnergyMatching.defaults(DATA, {"timed": False, "chain_steps": 40})["contrast_share"]
    assert timed == 0.5
    cost = EnergyMatchingSettings(chain_steps=40).cost
    assert counted * cost == pytest.approx(1 - counted)
    assert cost == pytest.approx((7 + 4 + 40 + 0.025 * 20) / 7)
    alone = EnergyMatching.defaults(POINTS, {"timed": False, "chain_steps": 40})["contrast_share"]
    assert alone * (cost - 1) == pytest.approx(1 - alone), "the second phase of points has no regression"


def test_the_share_is_announced_and_the_phase_begins_by_the_fraction_of_the_run() -> None:
    trained = method(contrast_share=0.25)
    (note,) = trained.notes()
    assert "the last 25.0% of the run" in note
    assert [trained.phase(fraction) for fraction in (0.0, 0.74, 0.75, 1.0)] == [0, 0, 1, 1]
    (note,) = method(contrast_share=0).notes()
    assert "tau = 1" in note
    assert method(contrast_share=0).phase(0.99) == 0


def test_the_contrast_belongs_to_the_second_phase() -> None:
    trained = method(contrast_share=0.5, chain_step=0.5)
    field = StaticEnergy(Zero(), 0.1)
    batch = Batch(torch.ones(4, 1, 8, 8), None, 0, 4)
    assert [loss.name for loss in trained.losses(field, batch, Moment(0, 0.4))] == ["flow"]
    losses = list(trained.losses(field, batch, Moment(0, 0.6)))
    assert [loss.name for loss in losses] == ["flow", "contrast"]
    assert losses[1].weight == pytest.approx(1 / 64)


class Seen(Zero):
    """Notes the numbers of points that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:
        self.counts.append(len(x))
        return super().forward(x, level, condition)


def test_a_step_in_parts_computes_no_more_points_at_once_and_the_same_losses_and_negatives() -> None:
    data = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    condition = torch.arange(6)[:, None] % 3

    def taken(at_once: int) -> tuple[list[Tensor], dict[str, Tensor], int]:
        trained, network = method(restarts=0.5, chain_step=0.1, trim=0.2), Seen()
        field, values = trained.field(network, DATA), []
        parts = [slice(first, first + at_once) for first in range(0, 6, at_once)]
        for step in range(4):
            for loss in trained.losses(field, Batch(data, condition, 0, 6), Moment(step, 0.9, at_once=at_once)):
                values.append(torch.stack([loss.value(rows).detach() for rows in parts]).mean())
        trained.held_out(field, Validation(data, condition).part(range(at_once)))
        return values, trained.state(), max(network.counts)

    (whole, negatives, all_at_once), (parts, same, few_at_once) = taken(6), taken(2)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(same, negatives)
    assert (all_at_once, few_at_once) == (12, 4), "each datum with its negative, or with two points of noise"


def test_the_descent_slows_down_at_the_data_in_the_second_phase_alone() -> None:
    """With blur² = temperature it slows down on the whole way, and V = ½ ‖x − a z‖² is exact for a single datum."""

    class AroundOnes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.centre = nn.Parameter(torch.tensor(DATA_STD))

        def forward(self, x: Tensor, level: None, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return -self.centre * x.flatten(1).sum(1)

    trained = method(contrast_share=0.5, chain_step=0.5, temperature=0.04, blur=0.2)
    assert trained.settings.arrival == pytest.approx(1.0)
    batch = Batch(torch.ones(4, 1, 8, 8), None, 0, 4)
    flow = []
    for at in (Moment(0, 0.4), Moment(0, 0.6)):
        loss = next(iter(trained.losses(StaticEnergy(AroundOnes(), 0.04), batch, at)))
        flow.append(float(loss.value(slice(0, 4)).detach()))
    assert flow[0] > 0.1
    assert flow[1] == pytest.approx(0.0, abs=1e-9)
    assert method(blur=0.0).settings.arrival == 0.0


def test_the_second_phase_of_points_is_the_contrast_alone_with_exact_chains_and_data_without_noise() -> None:
    chosen = EnergyMatching.defaults(POINTS, {})
    assert (chosen["flow_weight"], chosen["chains"], chosen["blur"]) == (0.0, "mala", 0.0)
    assert (chosen["chain_step"], chosen["chain_steps"]) == (0.1, 10), "longer chains than those of images"
    given = EnergyMatchingSettings(contrast_share=0.5)
    trained, batch = EnergyMatching(given.completed(chosen)), Batch(torch.ones(4, 2), None, 0, 4)
    names_of = [
        [loss.name for loss in trained.losses(StaticEnergy(Zero(), 0.1), batch, Moment(0, fraction))]
        for fraction in (0.4, 0.6)
    ]
    assert names_of == [["flow"], ["contrast"]]
    (contrast,) = trained.losses(StaticEnergy(Zero(), 0.1), batch, Moment(0, 0.6))
    assert contrast.weight == 8 / 2
    of_images = EnergyMatching.defaults(DATA, {})
    assert (of_images["flow_weight"], of_images["chains"], of_images["contrast_weight"]) == (1.0, "ula", 1.0)
    assert EnergyMatching.defaults(DATA, {"chains": "mala"})["blur"] == 0.0


def test_what_looks_at_the_whole_batch_is_not_divided_among_processes() -> None:
    for settings in ({}, {"contrast_share": 0, "coupling": "transport"}):
        with pytest.raises(ConfigError, match="look at the whole batch"):
            method(**settings).check(DATA, scalar=True, decay=0.5, processes=2)
    method(contrast_share=0).check(DATA, scalar=True, decay=0.5, processes=2)


def test_the_temperature_is_lower_for_large_data() -> None:
    assert EnergyMatching.defaults(DataShape((1, 28, 28)), {})["temperature"] == 0.1
    assert EnergyMatching.defaults(DataShape((3, 32, 32)), {})["temperature"] == 0.01


def test_the_noise_on_the_data_of_the_contrast_has_twice_the_variance_of_a_step() -> None:
    for data, asked in ((DATA, {}), (DataShape((3, 32, 32)), {}), (DATA, {"temperature": 0.03, "chain_step": 0.004})):
        chosen = EnergyMatching.defaults(data, asked) | asked
        assert chosen["blur"] ** 2 == pytest.approx(2 * 2 * chosen["temperature"] * chosen["chain_step"])
    assert EnergyMatching.defaults(DATA, {})["blur"] == pytest.approx(0.1)
    assert method(temperature=100, chain_step=1).settings.blur == 20.0, "the default is within the range of the setting"


def test_the_figures_of_held_out_data_show_whether_negatives_lie_as_low_as_data() -> None:
    trained, field = method(chain_step=0.5, blur=0.1), StaticEnergy(Zero(), 0.1)
    data = Validation(torch.zeros(3, 1, 8, 8))
    assert trained.held_out(field, data)["gap"].isnan().all()
    list(trained.losses(field, Batch(torch.ones(4, 1, 8, 8), None, 0, 4), Moment(0, 0.9)))
    kept = trained.state()
    mean = field.energy(kept["chains"][kept["begun"]]).mean()
    of_data = trained.held_out(field, Validation(torch.zeros(400, 1, 8, 8)))["gap"].mean() + mean
    # Zero data with noise of the deviation 0.1 have the energy ½ · 64 · 0.1² / 0.1 in the mean.
    assert float(of_data) == pytest.approx(0.5 * 64 * 0.1, rel=0.05)


def test_a_check_in_parts_evaluates_the_chains_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, field = method(chain_step=0.5, blur=0.0), StaticEnergy(Zero(), 0.1)
    list(trained.losses(field, Batch(torch.ones(4, 1, 8, 8), None, 0, 4), Moment(0, 0.9)))
    counts: list[int] = []
    energy = StaticEnergy.energy

    def counted(field: StaticEnergy, x: Tensor, *given: Any) -> Tensor:
        counts.append(len(x))
        return energy(field, x, *given)

    monkeypatch.setattr(StaticEnergy, "energy", counted)
    data = Validation(torch.zeros(6, 1, 8, 8))
    parts = [trained.held_out(field, data.part(rows))["gap"] for rows in (range(2), range(2, 6))]
    assert sorted(counts) == [2, 2, 2, 4], (
        "the chains of one batch in parts of the first size, and each part of the data"
    )
    whole = trained.held_out(field, Validation(torch.zeros(6, 1, 8, 8)))["gap"]
    assert torch.equal(torch.cat(parts), whole)


def test_a_run_says_at_its_end_how_many_chains_escaped() -> None:
    trained = method()
    assert trained.remarks() == ()
    trained.load_state({"escaped": torch.tensor(3)})
    assert "3 times" in trained.remarks()[0]


def test_the_residual_of_a_datum_does_not_depend_on_how_the_data_are_divided() -> None:
    trained, field = method(), StaticEnergy(Zero(), 0.1)
    data = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = trained.held_out(field, Validation(data, seed=3))["residual"]
    parts = [
        trained.held_out(field, Validation(data, seed=3, rows=rows))["residual"] for rows in (range(2), range(2, 6))
    ]
    assert torch.equal(torch.cat(parts), whole)


# --- sampling ---------------------------------------------------------------------------------------------------------


def codes() -> Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def draw(trained: EnergyMatching, codes: Tensor, first: int = 0, **arguments: object) -> Tensor:
    solver, options = methods.choose_sampling(trained, arguments)
    field = trained.field(Zero(), DATA)
    found = trained.draw(field, codes, None, solver, options=options, seed=5, first=first).require_success()
    assert len(set(found.nfe.tolist())) == 1
    return found.x


def evaluations(**arguments: object) -> tuple[int, float]:
    settings = {name: arguments.pop(name) for name in ("chain_step", "chains", "blur") if name in arguments}
    trained = method(**{"chain_step": 0.1, **settings})
    solver, options = methods.choose_sampling(trained, arguments)
    found = trained.draw(trained.field(Zero(), DATA), codes()[:1], None, solver, options=options)
    return int(found.nfe), float(found.t)


def test_until_time_one_there_is_only_the_descent() -> None:
    x = draw(method(), codes(), tau=1.0, nfe=400, method="rk4")
    torch.testing.assert_close(DATA_STD * x, codes() * torch.exp(torch.tensor(-1.0)))


def test_a_sample_depends_on_its_index_alone() -> None:
    whole = draw(method(chain_step=0.1), codes())
    assert torch.equal(draw(method(chain_step=0.1), codes()[4:], first=4), whole[4:])


def test_the_end_of_the_chain_is_the_mean_of_the_data_given_a_point_with_noise() -> None:
    """With V = ½‖x‖² data with noise have the variance ε, and their mean given x is (1 − blur²/ε) x."""
    noisy, clean = (draw(method(temperature=0.1, blur=blur, chain_step=0.1), codes()) for blur in (0.0, 0.2))
    torch.testing.assert_close(clean, (1 - 0.2**2 / 0.1) * noisy)


def test_a_path_ends_at_the_sample() -> None:
    trained = method(chain_step=0.1)
    solver, options = methods.choose_sampling(trained, {})
    found = trained.draw(trained.field(Zero(), DATA), codes(), None, solver, options=options, keep_path=True)
    assert found.path is not None
    assert torch.equal(found.path[-1], found.x)


def test_evaluations_are_shared_by_descent_and_chain() -> None:
    assert evaluations() == (40 + 12, 2.0)
    assert evaluations(tau=3.0) == (40 + 22, 3.0)
    assert evaluations(tau=1.0) == (40, 1.0)
    assert evaluations(tau=3.0, nfe=32) == (32, 3.0)
    assert evaluations(nfe=9) == (9, pytest.approx(1.3)), "without tau the chain takes half of the evaluations"
    assert [evaluations(nfe=few)[0] for few in (3, 4, 5, 6)] == [2, 4, 5, 6]
    assert evaluations(nfe=52) == evaluations()
    assert evaluations(nfe=2) == (2, 1.0)
    assert evaluations(nfe=1, method="euler") == (1, 1.0)
    assert evaluations(chain_step=0.025) == (40 + 42, 2.0)
    assert evaluations(chain_step=0.025, chains="mala", blur=0.0) == (40 + 41, 2.0)


def test_too_few_evaluations_for_the_time_are_refused() -> None:
    with pytest.raises(ConfigError, match="nfe = 12 leaves 0 evaluations for the descent, because the chain takes 22"):
        evaluations(tau=3.0, nfe=12)


def test_options_of_sampling_are_refused_by_methods_without_them() -> None:
    assert names.METHODS["energy-matching"].sampling == ("tau",)
    with pytest.raises(ConfigError, match="method vpfb is sampled without tau") as caught:
        methods.choose_sampling(methods.build("vpfb", {}), {"tau": 2.0})
    assert caught.value.hint == "methods that take it: energy-matching"
    with pytest.raises(ConfigError, match="tau"):
        methods.choose_sampling(method(), {"tau": 0.5})
