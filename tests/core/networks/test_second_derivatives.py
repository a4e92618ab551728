"""A training step differentiates the network twice; compiled, it has the same gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.methods.vpfb import objectives
from vpfb_core.methods.vpfb.gauge import Gauge
from vpfb_core.methods.vpfb.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.methods.vpfb.time_score import stein_and_time_score
from vpfb_core.networks import compiling

UNET = {"name": "unet", "channels": 1, "size": 8, "widths": [8, 16], "attention": [4], "classes": [3]}
PAPER = {"name": "paper-unet", "channels": 1, "size": 8, "widths": [8, 16], "blocks": 1, "attention": [4], "stem": 8}


def potential(description: dict[str, Any], dtype: torch.dtype = torch.float64, **settings: Any) -> Potential:
    made = Potential(networks.build(description | settings), OT()).to(dtype)
    draws = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1, generator=draws)
    return made


def step(potential: Potential, dtype: torch.dtype = torch.float64, time_score: float = 0.0) -> list[Tensor]:
    """The gradient of a step; dropout, if any, draws the same each time."""
    draws = torch.Generator().manual_seed(1)
    data = torch.randn(4, 1, 8, 8, generator=draws, dtype=dtype)
    labels = torch.tensor([[0], [1], [2], [-1]])
    potential.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        if time_score:
            loss = stein_and_time_score(potential, data, labels, weight=time_score, generator=draws)
        else:
            loss = objectives.stein(potential, data, labels, generator=draws)
        loss.backward()
    return [parameter.grad for parameter in potential.parameters() if parameter.grad is not None]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The compiler as it is before anybody has told it of our layers, and after the test again."""
    monkeypatch.setattr(compiling, "_told", False)
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("untold")
def test_a_compiled_step_has_the_gradient_of_the_eager_one() -> None:
    model = potential(UNET)
    expected = step(model)
    model.compile(backend="aot_eager", fullgraph=True)
    assert_close(step(model), expected, 1e-11)


@pytest.mark.usefixtures("untold")
def test_a_compiled_step_with_the_time_score_has_the_gradient_of_the_eager_one() -> None:
    model = potential(UNET)
    model.gauge = Gauge(64, (3,)).double()
    expected = step(model, time_score=0.5)
    assert expected[-1].abs().max() > 0, "the gauge is trained"
    model.compile(backend="aot_eager", fullgraph=True)
    assert_close(step(model, time_score=0.5), expected, 1e-11)


@pytest.mark.usefixtures("untold")
def test_who_compiles_a_potential_by_another_way_gets_the_right_gradient_too() -> None:
    """Traced into, our layers would lose their second derivatives without a word."""
    model = potential(UNET)
    expected = step(model)
    nn.Module.compile(model, backend="eager", fullgraph=True)
    assert_close(step(model), expected, 1e-11)
