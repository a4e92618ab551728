"""A training step differentiates the network twice; compiled, it has the same gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb import objectives
from vpfb_core.methods.vpfb.gauge import Gauge
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.methods.vpfb.time_score import stein_and_time_score
from vpfb_core.networks.convolution import Conv2d
from vpfb_core.networks.embedding import ConditionEmbedding
from vpfb_core.networks.normalization import NormSiLU

UNET = {"name": "unet", "channels": 1, "size": 8, "widths": [8, 16], "attention": [4], "classes": [3]}


class OurLayers(nn.Module):
    """The layers with derivatives of their own, once each: compiling a U-Net takes ten seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = ConditionEmbedding(4, (3,))
        self.first, self.norm, self.last = Conv2d(1, 4, 3, padding=1), NormSiLU(2, 4), Conv2d(4, 1, 3, padding=1)

    def forward(self, u: Tensor, level: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        embedding = self.embedding(u, level, condition)
        return self.last(self.norm(self.first(u), embedding, embedding))


every_network = pytest.mark.parametrize(
    "network", [OurLayers, pytest.param(lambda: networks.build(UNET), marks=pytest.mark.slow)], ids=["layers", "unet"]
)


def potential(network: nn.Module) -> Potential:
    made = Potential(network, OT()).double()
    draws = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1, generator=draws)
    return made


def step(potential: Potential, time_score: float = 0.0) -> list[Tensor]:
    """The gradient of a step."""
    draws = torch.Generator().manual_seed(1)
    data = torch.randn(4, 1, 8, 8, generator=draws, dtype=torch.float64)
    labels = torch.tensor([[0], [1], [2], [-1]])
    potential.zero_grad()
    if time_score:
        loss = stein_and_time_score(potential, data, labels, weight=time_score, generator=draws)
    else:
        loss = objectives.stein(potential, data, labels, generator=draws)
    loss.backward()
    return [parameter.grad for parameter in potential.parameters() if parameter.grad is not None]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.mark.usefixtures("untold")
@every_network
def test_a_compiled_step_has_the_gradient_of_the_eager_one(network: Callable[[], nn.Module]) -> None:
    model = potential(network())
    expected = step(model)
    model.compile(backend="aot_eager", fullgraph=True)
    assert_close(step(model), expected, 1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("untold")
@every_network
def test_a_compiled_step_with_the_time_score_has_the_gradient_of_the_eager_one(
    network: Callable[[], nn.Module],
) -> None:
    model = potential(network())
    model.gauge = Gauge(64, (3,)).double()
    expected = step(model, time_score=0.5)
    assert expected[-1].abs().max() > 0, "the gauge is trained"
    model.compile(backend="aot_eager", fullgraph=True)
    assert_close(step(model, time_score=0.5), expected, 1e-11)


@pytest.mark.usefixtures("untold")
@every_network
def test_who_compiles_a_potential_by_another_way_gets_the_right_gradient_too(network: Callable[[], nn.Module]) -> None:
    """Traced into, our layers would lose their second derivatives without a word."""
    model = potential(network())
    expected = step(model)
    nn.Module.compile(model, backend="eager", fullgraph=True)
    assert_close(step(model), expected, 1e-11)
