"""VPFB as a training method: its losses, its held-out figure, its defaults, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from present import present
from problems import (
    STD,
    anisotropic,
    exact_field,
    isotropic_gaussian,
)
from torch import Tensor, nn

from vpfb_core.dynamics.per_sample import expand_to
from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.draws import ValidationPoints
from vpfb_core.methods.path.homotopy import OT, VP, Homotopy, LogHomotopy
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.methods.vpfb.contrast import contrast
from vpfb_core.methods.vpfb.method import CONTRAST, LEAST_RAMP, VPFB, VPFBSettings
from vpfb_core.methods.vpfb.normaliser import levels
from vpfb_core.methods.vpfb.objectives import OBJECTIVES
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.methods.vpfb.time_score import stein_and_time_score

PLANE = DataShape((2,))
CLASSES = DataShape((2,), (3,))


class Small(nn.Module):
    """A fixed small potential that depends on the class."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3 + groups, 6, dtype=torch.float64), nn.Linear(6, 1, dtype=torch.float64)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        known = torch.zeros(len(u), 1, dtype=u.dtype) if condition is None else condition.to(u.dtype)
        return self.outer(torch.tanh(self.inner(torch.cat([u, angle[:, None], known], 1)))).squeeze(1)


class Denoiser(nn.Module):
    """Answers half of its input, in its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.gain * u + 0 * expand_to(angle, u)


def vpfb(**settings: Any) -> VPFB:
    return VPFB(VPFBSettings(**settings))


def batch(n: int, condition: Tensor | None = None) -> Batch:
    data = anisotropic().sample(n, torch.Generator().manual_seed(4)) / STD
    return Batch(data, condition, 0, n, None, condition, () if condition is None else (torch.tensor([0.2, 0.3, 0.5]),))


def values(losses: list[Loss], n: int) -> dict[str, float]:
    return {loss.name: float(loss.value(slice(0, n)).detach()) for loss in losses}


# --- losses -----------------------------------------------------------------------------------------------------------


def test_a_run_regresses_the_output_of_its_network_for_the_share_that_was_asked_for() -> None:
    method, n = vpfb(regression_share=0.3), 9
    field = method.field(Denoiser(), PLANE)
    names = {
        at: [loss.name for loss in method.losses(field, batch(n), Moment(5, fraction=at))] for at in (0, 0.29, 0.3, 1)
    }
    assert names == {0: ["regression"], 0.29: ["regression"], 0.3: ["stein"], 1: ["stein"]}
    assert [method.phase(fraction) for fraction in names] == [0, 0, 1, 1]
    assert [vpfb(regression_share=0.0).phase(fraction) for fraction in (0, 1)] == [0, 0]


def test_the_regression_is_refused_for_a_network_whose_output_is_the_potential() -> None:
    method = vpfb(regression_share=0.3)
    (loss,) = method.losses(method.field(Small(), PLANE), batch(4), Moment(0))
    with pytest.raises(ConfigError, match="shape of its input"):
        loss.value(slice(0, 4))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_objective_of_standardised_data_with_the_draws_of_the_moment(name: str) -> None:
    method, network, n, moment = vpfb(objective=name, angle_mean=0.3), Denoiser(), 9, Moment(5, rollbacks=1, seed=2)
    field, given = method.field(network, PLANE), batch(9)
    (loss,) = method.losses(field, given, moment)
    kind = UnpreconditionedPotential if name == "official" else Potential
    expected = OBJECTIVES[name](
        kind(network, OT(), STD), given.data * STD, generator=moment.generator("step"),
        angles=AngleDistribution(0.3, 1.2),
    )  # fmt: skip
    torch.testing.assert_close(loss.value(slice(0, n)), expected)
    assert (loss.name, loss.weight, loss.divisible) == (name, 1.0, name != "official")
    assert method.divisible == method.compilable == (name != "official")


@pytest.mark.parametrize("name", ["stein", "ritz"])
def test_losses_of_parts_and_of_processes_add_up_to_the_batch(name: str) -> None:
    method, n = vpfb(objective=name, contrast=0.3), 12
    field, condition = method.field(Small(), CLASSES), torch.arange(12)[:, None] % 3
    given, moment = batch(n, condition), Moment(1, cooling=0.5)
    whole = values(list(method.losses(field, given, moment)), n)
    shares = [
        Batch(given.data[rows], condition[rows], rows.start, n, None, condition[rows], given.shares)
        for rows in (slice(0, 4), slice(4, 12))
    ]
    found = dict.fromkeys(whole, 0.0)
    for share in shares:
        for loss in method.losses(field, share, moment):
            for rows in (slice(0, 4), slice(4, len(share.data))):
                if rows.start < rows.stop:
                    found[loss.name] += (rows.stop - rows.start) / n * float(loss.value(rows).detach())
    assert found == pytest.approx(whole, rel=1e-12)


def test_contrast_sets_in_while_the_learning_rate_falls_with_the_weight_of_how_far_it_has_fallen() -> None:
    method, condition = vpfb(contrast=0.4, mixture=True), torch.tensor([[0], [1], [2], [0]])
    field, given = method.field(Small(), CLASSES), batch(4, condition)
    assert [loss.name for loss in method.losses(field, given, Moment(3, fraction=0.2))] == ["stein"]
    at = Moment(3, fraction=0.75, cooling=0.5)
    losses = {loss.name: loss for loss in method.losses(field, given, at)}
    assert list(losses) == ["contrast", "stein"]
    assert losses["contrast"].weight == pytest.approx(0.5 * 0.4)
    expected = contrast(
        field.potential, given.data * STD, condition, group=0, shares=given.shares[0],
        generator=at.generator("contrast"),
    )  # fmt: skip
    torch.testing.assert_close(losses["contrast"].value(slice(0, 4)), expected)
    assert [loss.name for loss in method.losses(field, batch(4), at)] == ["stein"], "there are no conditions"
    assert [loss.name for loss in vpfb(contrast=0.0).losses(field, given, at)] == ["stein"]


def test_a_step_contrasts_the_classes_of_one_group_and_the_next_step_those_of_the_next() -> None:
    """Labels that are hidden from the objective are still known to the contrast."""
    data, labels = DataShape((2,), (3, 2)), torch.tensor([[0, 1], [1, 0], [2, 1], [0, 0], [1, 1], [2, 0]])
    method, field = vpfb(contrast=0.4, mixture=True), vpfb().field(Small(groups=2), data)
    hidden, shares = torch.full_like(labels, -1), (torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.5, 0.5]))
    given = Batch(batch(6).data, hidden, 0, 6, None, labels, shares)
    for step in range(4):
        at = Moment(step, cooling=0.5)
        found = values(list(method.losses(field, given, at)), 6)["contrast"]
        expected = contrast(
            field.potential, given.data * STD, labels, group=step % 2, shares=shares[step % 2],
            generator=at.generator("contrast"),
        )  # fmt: skip
        assert found == float(expected.detach())


@pytest.mark.parametrize(("dropout", "terms"), [(0.2, 2), (0.0, 1)])
def test_without_a_trained_unconditional_field_the_contrast_compares_classes_alone(dropout: float, terms: int) -> None:
    method, condition = vpfb(contrast=0.4, mixture=True, condition_dropout=dropout), torch.tensor([[0], [1], [2], [0]])
    field, given, at = method.field(Small(), CLASSES), batch(4, condition), Moment(3, cooling=0.5)
    expected = contrast(
        field.potential, given.data * STD, condition, group=0, shares=given.shares[0], mixture=terms == 2,
        generator=at.generator("contrast"),
    )  # fmt: skip
    assert values(list(method.losses(field, given, at)), 4)["contrast"] == float(expected.detach())


def test_the_time_score_reaches_its_weight_as_the_learning_rate_falls_and_trains_the_gauge_from_the_beginning() -> None:
    method, condition = vpfb(time_score=0.4, uniform_angles=0.25), torch.tensor([[0], [1], [2], [0]])
    field, given = method.field(Small(), CLASSES), batch(4, condition)
    for cooling, weight in ((0.0, 0.4 * LEAST_RAMP), (0.5, 0.2)):
        at = Moment(3, cooling=cooling)
        (loss,) = method.losses(field, given, at)
        expected = stein_and_time_score(
            field.potential, given.data * STD, condition, weight=weight, generator=at.generator("step"),
            angles=AngleDistribution(uniform=0.25),
        )  # fmt: skip
        torch.testing.assert_close(loss.value(slice(0, 4)), expected)
        gradients = torch.autograd.grad(loss.value(slice(0, 4)), list(present(field.potential.gauge).parameters()))
        assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert vpfb(time_score=0.0).field(Small(), CLASSES).potential.gauge is None
    assert vpfb().field(Small(), CLASSES).potential.gauge is None, "as in files that do not know the setting"


# --- the held-out figure ----------------------------------------------------------------------------------------------


def test_held_out_residual_of_the_exact_potential_is_the_variance_that_a_point_leaves_open() -> None:
    """Of isotropic Gaussian data N is 0, and a point says nothing of its velocity: the residual is 1."""
    mixture, n = isotropic_gaussian(), 4000
    data = mixture.sample(n, torch.Generator().manual_seed(0)) / mixture.std
    found = vpfb().held_out(exact_field(mixture), Validation(data))["residual"]
    assert abs(found.mean() - 1) < 4 * found.std() / math.sqrt(n)
    assert not found.requires_grad


def test_held_out_draws_are_fixed_per_datum_and_angles_are_at_equal_quantiles() -> None:
    data, condition = batch(40).data, torch.arange(40)[:, None] % 3
    angles, angle_range = AngleDistribution(0.2, 0.9), OT().angle_range(STD)
    whole = ValidationPoints.of(angle_range, angles, Validation(data, condition, 6))
    part = ValidationPoints.of(angle_range, angles, Validation(data, condition, 6, range(10, 25)))
    for name in ("data", "condition", "angle", "noise"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[10:25], rtol=0, atol=0)
    middles = (torch.arange(40) + 0.5) / 40
    torch.testing.assert_close(whole.angle.sort().values, angles.quantile(middles, angle_range))
    assert (whole.angle.diff() < 0).any(), "in an order that has nothing to do with the data's"
    other = ValidationPoints.of(angle_range, angles, Validation(data, condition, 7))
    assert not torch.isclose(other.noise, whole.noise).any()


def test_held_out_residual_goes_with_the_condition() -> None:
    field, data = vpfb().field(Small(), CLASSES), batch(6).data
    first, second = (
        vpfb().held_out(field, Validation(data, torch.full((6, 1), index)))["residual"] for index in (0, 2)
    )
    assert not torch.isclose(first, second).any()


# --- settings ---------------------------------------------------------------------------------------------------------


def test_contrast_is_weighed_by_default_where_there_are_classes_and_the_rate_falls() -> None:
    assert VPFB.defaults(CLASSES, {})["contrast"] == CONTRAST
    assert VPFB.defaults(DataShape((3, 16, 16), (3,)), {})["contrast"] == pytest.approx(2.6 / 768)
    for data, asked in ((PLANE, {}), (CLASSES, {"decay": 0}), (CLASSES, {"objective": "official"})):
        assert VPFB.defaults(data, asked)["contrast"] == 0


@pytest.mark.parametrize(
    ("settings", "data", "run", "words"),
    [
        ({"objective": "official", "schedule": "vp"}, PLANE, {}, "schedule ot only"),
        ({"objective": "official"}, PLANE, {"processes": 2}, "whole batch"),
        ({"contrast": 0.1}, PLANE, {}, "this run has none"),
        ({"contrast": 0.1}, CLASSES, {"decay": 0.0}, "decay=0"),
        ({"time_score": 0.1}, PLANE, {"decay": 0.0}, "decay=0"),
        ({"time_score": 0.1, "objective": "ritz"}, PLANE, {}, "not ritz"),
        ({"regression_share": 0.3}, PLANE, {"scalar": True}, "shape of its input"),
        ({"objective": "official"}, PLANE, {"scalar": True}, "shape of its input"),
        ({"angle_mean": 9.0, "angle_std": 0.1}, PLANE, {}, "misses the range of the schedule"),
    ],
)
def test_settings_that_do_not_fit_the_data_or_the_run_are_refused(
    settings: dict[str, Any], data: DataShape, run: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        vpfb(**settings).check(data, **{"scalar": False, "decay": 0.5, "processes": 1, **run})
    vpfb().check(data, scalar=True, decay=0.5, processes=2)


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({}, OT()),
        ({"floor": 0.01}, OT(0.01)),
        ({"schedule": "vp"}, VP()),
        ({"schedule": "vp", "floor": 0.1}, VP(0.1)),
        ({"schedule": "log-homotopy"}, LogHomotopy()),
        ({"schedule": "log-homotopy", "floor": 0.2}, LogHomotopy(nu=0.2)),
    ],
)
def test_settings_name_a_schedule_and_its_floor(settings: dict[str, Any], schedule: Homotopy) -> None:
    assert VPFBSettings(**settings).homotopy == schedule


@pytest.mark.parametrize(("objective", "kind"), [("stein", Potential), ("official", UnpreconditionedPotential)])
def test_the_objective_decides_the_kind_of_potential(objective: str, kind: type) -> None:
    field = vpfb(objective=objective).field(Denoiser(), PLANE)
    assert type(field.potential) is kind


def test_the_unconditional_field_is_trained_unless_no_class_is_ever_hidden() -> None:
    for dropout, data, has_null in ((0.0, CLASSES, False), (0.1, CLASSES, True), (0.0, PLANE, True)):
        assert vpfb(condition_dropout=dropout).field(Small(), data).has_null == has_null


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_takes_what_may_be_spent_and_leaves_out_what_would_be_worthless() -> None:
    method, field = vpfb(), exact_field(anisotropic(), OT(0.1))
    data = Validation(batch(600).data)
    cost = method.calibration_cost(field, ())
    assert method.calibrate(field, data, (), cost // 100, 256) is None
    found = method.calibrate(field, data, (), cost // 8, 256)
    assert found is not None
    assert 16 <= found.constants[()].points < 256
    exact = -math.log(2 * math.pi)
    assert found.constant(found.quoted_level) == pytest.approx(exact, abs=0.3)
    assert method.read_calibration(found.to_dict()) == found
    assert found.noise == levels(field.potential)


def test_calibrating_classes_costs_more() -> None:
    field = exact_field(anisotropic())
    assert vpfb().calibration_cost(field, (10,)) > vpfb().calibration_cost(field, ())
