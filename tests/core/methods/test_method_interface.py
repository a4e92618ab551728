"""The method interface: methods by name, what they give, the draws of a moment, and methods that state nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vpfb_core import methods, names
from vpfb_core.data.source import ConditionGroup
from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.solver import DEFAULT_SOLVER
from vpfb_core.errors import ConfigError
from vpfb_core.methods.base import CONDITION_DROPOUT, Method, MethodSettings
from vpfb_core.methods.fields import Field
from vpfb_core.methods.flow_matching import FlowMatching
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.methods.vpfb.method import VPFB


class Plain(Field):
    """The energy of the standard normal, at one level, without a flow."""

    levels = Levels(1.0, 1.0)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def scales(self, level: float) -> tuple[float, float]:
        return 1.0, level

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return 0.5 * x.flatten(1).square().sum(1), -x


class Least(Method):
    """States no more than it must."""

    name = "least"
    Settings = MethodSettings

    def field(self, network: nn.Module, data: DataShape) -> Plain:  # noqa: ARG002
        return Plain(network)

    def losses(self, field: Any, batch: Batch, at: Moment) -> Iterable[Loss]:  # noqa: ARG002
        return []

    def held_out(self, field: Any, data: Validation) -> dict[str, Tensor]:  # noqa: ARG002
        return {"residual": torch.zeros(len(data.data))}


@pytest.fixture
def least(monkeypatch: pytest.MonkeyPatch) -> Least:
    """Registered for one test."""
    monkeypatch.setattr(names, "METHODS", dict(names.METHODS))
    monkeypatch.setattr(methods, "_registered", {})
    methods.register(Least, summary="the least that a method is", gives=("energy",))
    return Least(MethodSettings())


# --- by name ----------------------------------------------------------------------------------------------------------


def test_methods_are_found_by_name_and_built_with_their_settings() -> None:
    assert methods.find("vpfb") is VPFB
    built = methods.build("flow-matching", {"schedule": "vp", "floor": 0.1})
    assert isinstance(built, FlowMatching)
    assert (built.settings.schedule, built.settings.floor) == ("vp", 0.1)


def test_unknown_methods_and_settings_are_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="flow-machting") as caught:
        methods.find("flow-machting")
    assert "did you mean 'flow-matching'?" in str(caught.value.hint)
    assert "vpfb" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="schedul") as caught:
        methods.build("vpfb", {"schedul": "ot"})
    assert "schedule" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="objective"):
        methods.build("flow-matching", {"objective": "stein"})


def test_a_registered_method_is_found_and_gives_what_it_says(least: Least) -> None:
    assert methods.find("least") is Least
    assert isinstance(methods.build("least", {}), Least)
    assert methods.gives("least", "energy")
    assert not methods.gives("least", "flow")
    assert not methods.gives("nothing", "energy")
    assert "least" in names.methods_with("energy")
    methods.require("energy", least.name, "a chain")


@pytest.mark.parametrize(("capability", "what"), [("flow", "a flow from noise to data"), ("energy", "an energy")])
def test_a_use_that_a_method_cannot_serve_is_refused_with_those_that_can(
    least: Least, capability: str, what: str
) -> None:
    name = {"flow": least.name, "energy": "flow-matching"}[capability]
    with pytest.raises(ConfigError, match=rf"a use needs {what}, which .* method {name} does not have") as caught:
        methods.require(capability, name, "a use")
    assert "vpfb" in str(caught.value.hint)


# --- what a method is that states nothing -----------------------------------------------------------------------------


def test_a_method_that_states_nothing_has_no_state_calibration_or_demands(least: Least) -> None:
    field, data = least.field(nn.Identity(), DataShape((2,))), Validation(torch.zeros(3, 2))
    assert (least.state(), least.figures) == ({}, ("residual",))
    assert least.divisible
    assert not least.compilable
    assert least.calibrate(field, data, (), None, 8) is None
    assert least.calibration_cost(field, (3,)) == 0
    least.load_state({})
    least.check(DataShape((2,)), scalar=True, decay=0.5, processes=4)
    with pytest.raises(ValueError, match="least has no calibration"):
        least.read_calibration({"dimension": 2})


def test_a_method_without_a_flow_has_to_say_how_it_draws(least: Least) -> None:
    field = least.field(nn.Identity(), DataShape((2,)))
    with pytest.raises(ConfigError, match="the method least has no flow"):
        least.draw(field, torch.zeros(3, 2), None, DEFAULT_SOLVER)


def test_a_field_states_energies_alone_and_points_of_a_level_by_what_it_must_state(least: Least) -> None:
    field, x = least.field(nn.Identity(), DataShape((2,))), torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(field.energy(x, 1.0), torch.tensor([12.5, 0.5]))
    torch.testing.assert_close(field.at_level(x, 0.5, torch.ones(2, 2)), x + 0.5)
    assert field.has_null
    assert field.autocast_dtype is None


def test_classes_are_hidden_more_often_where_there_are_several_groups() -> None:
    for classes, share in (((), 0), ((10,), 0), ((4, 2), 1), ((4, 2, 2), 1)):
        assert Least.defaults(DataShape((2,), classes), {})["condition_dropout"] == CONDITION_DROPOUT[share]


# --- values of the interface ------------------------------------------------------------------------------------------


def test_draws_of_a_moment_are_fixed_by_seed_stream_step_and_rollbacks() -> None:
    def drawn(stream: str = "step", step: int = 3, **others: Any) -> Tensor:
        return torch.rand(4, generator=Moment(step, seed=others.pop("seed", 1), **others).generator(stream))

    first, before = drawn(), torch.get_rng_state()
    assert torch.equal(drawn(fraction=0.7, cooling=0.2), first), "the clock decides nothing"
    for other in (drawn("contrast"), drawn(step=4), drawn(rollbacks=1), drawn(seed=2)):
        assert not torch.isclose(other, first).any()
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_of_a_batch_keep_data_and_condition_together() -> None:
    data, condition = torch.arange(10.0).reshape(5, 2), torch.arange(5)[:, None]
    some, known = Batch(data, condition, 7, 40).rows(slice(1, 3))
    assert known is not None
    assert some.tolist() == [[2, 3], [4, 5]]
    assert known.tolist() == [[1], [2]]
    assert Batch(data, None, 0, 5).rows(slice(0, 2))[1] is None


def test_the_dimension_of_data_is_how_many_numbers_a_datum_has() -> None:
    assert DataShape((3, 8, 8)).dimension == 192
    assert DataShape((7,)).dimension == 7


def test_shares_of_classes_are_those_of_the_labelled_data() -> None:
    groups = [ConditionGroup("class", ("a", "b", "c")), ConditionGroup("old", ("~old", "old"))]
    labels = torch.tensor([[0, -1], [2, -1], [-1, -1], [0, -1], [0, -1]])
    found = DataShape.of((1, 2, 2), groups, labels)
    assert found.classes == (3, 2)
    assert found.shares == ((0.75, 0.0, 0.25), ()), "and nothing where nothing is labelled"
    assert DataShape.of((1, 2, 2), groups).shares == ()
