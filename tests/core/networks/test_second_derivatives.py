"""A training step differentiates twice: compiled, or with activations computed anew, it must come to the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.methods.vpfb import objectives
from vpfb_core.methods.vpfb.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.networks import compiling, convolution
from vpfb_core.networks.checkpointing import Checkpointed, checkpoint_activations

UNET = {"name": "unet", "channels": 1, "size": 8, "widths": [8, 16], "attention": [4], "classes": [3]}
PAPER = {"name": "paper-unet", "channels": 1, "size": 8, "widths": [8, 16], "blocks": 1, "attention": [4], "stem": 8}


def potential(description: dict[str, Any], dtype: torch.dtype = torch.float64, **settings: Any) -> Potential:
    made = Potential(networks.build(description | settings), OT()).to(dtype)
    draws = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.1, generator=draws)
    return made


def step(potential: Potential, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The gradient of a step; dropout, if any, draws the same each time."""
    draws = torch.Generator().manual_seed(1)
    data = torch.randn(4, 1, 8, 8, generator=draws, dtype=dtype)
    labels = torch.tensor([[0], [1], [2], [-1]])
    potential.zero_grad()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        objectives.stein(potential, data, labels, generator=draws).backward()
    return [parameter.grad for parameter in potential.parameters() if parameter.grad is not None]


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize("description", [UNET, PAPER], ids=["unet", "paper"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activations_that_are_computed_anew_change_no_gradient(description: dict[str, Any], dropout: float) -> None:
    model = potential(description, dropout=dropout).train()
    expected = step(model)
    checkpoint_activations(model.network)
    assert any(isinstance(module, Checkpointed) and module.checkpoint for module in model.modules())
    assert_close(step(model), expected, 1e-11)


def test_activations_are_computed_anew_in_the_precision_that_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, seen = convolution.convolution, []

    def watched(features: Tensor, *others: Any) -> Tensor:
        seen.append(features.dtype)
        return honest(features, *others)

    monkeypatch.setattr(convolution, "convolution", watched)
    model = potential(UNET, torch.float32)
    model.autocast_dtype = torch.bfloat16
    step(model, torch.float32)
    once = len(seen)
    checkpoint_activations(model.network)
    step(model, torch.float32)
    assert len(seen) > 3 * once, "each block is evaluated four times"
    assert set(seen) == {torch.bfloat16}


def test_activations_computed_anew_are_not_kept() -> None:
    data = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def kept(model: Potential) -> int:
        """Bytes that the graph of a loss holds on to."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            loss = objectives.stein(model, data, generator=torch.Generator().manual_seed(0))
        assert loss.requires_grad
        return sum(event.self_cpu_memory_usage for event in profile.key_averages())

    model = potential(UNET, torch.float32, blocks=4)
    everything = kept(model)
    checkpoint_activations(model.network)
    assert kept(model) < 0.6 * everything


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
def test_who_compiles_a_potential_by_another_way_gets_the_right_gradient_too() -> None:
    """Traced into, our layers would lose their second derivatives without a word."""
    model = potential(UNET)
    expected = step(model)
    nn.Module.compile(model, backend="eager", fullgraph=True)
    assert_close(step(model), expected, 1e-11)
