"""A method that this one file adds, in every command: denoising score matching (Vincent 2011) of an energy.

Points are x = cos φ z + sin φ ε. Denoising gives the score S of their density, and their flow is
dx/dφ = E[-sin φ z + cos φ ε | x] = -tan φ (x + S).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cli_runner import Vpfb
from torch import Tensor, nn

import vpfb_core
from vpfb_core import methods, names
from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.statistics import Statistics
from vpfb_core.data.table_statistics import TableStatistics
from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.langevin import Target, Walk, langevin
from vpfb_core.dynamics.per_sample import expand_to
from vpfb_core.machine import noise
from vpfb_core.methods.base import Method, MethodSettings
from vpfb_core.methods.fields import Field
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.uses import chains, composition, inpainting, long_runs
from vpfb_core.uses.composition import sampling
from vpfb_core.uses.plotting.model_plot import density_of_energy
from vpfb_core.uses.plotting.two_columns import Window

LOW, HIGH = 0.2, 1.5


class DenoisingField(Field):
    """The energy ½|x|² + ⟨x, network(x, φ)⟩ at an angle φ."""

    levels = Levels(highest=math.tan(HIGH), lowest=math.tan(LOW))
    span = (HIGH, LOW)
    has_null = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def scales(self, level: float) -> tuple[float, float]:
        return math.cos(math.atan(level)), math.sin(math.atan(level))

    def chain_variance(self, level: float) -> float:
        return 0.7 * self.scales(level)[1] ** 2

    def forward(self, x: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        half = 0.5 * x.flatten(1).square().sum(1)
        output = self.network(x, angle, condition)
        return half + (output if output.ndim == 1 else (x * output).flatten(1).sum(1))

    def energy_and_gradient(self, x: Tensor, angle: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            energy = self(x, angle, condition)
            (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=differentiable)
        return energy, gradient

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        angle = torch.full((len(x),), math.atan(level)).to(x)
        with torch.no_grad():
            energy, gradient = self.energy_and_gradient(x, angle, condition)
        return energy.detach(), -gradient

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        gradient = self.energy_and_gradient(x, s, condition)[1]
        return expand_to(s.tan(), x) * (gradient - x)

    def position(self, level: float) -> float:
        return math.atan(level)

    def level(self, position: float) -> float:
        return math.tan(position)

    def grid(self, start: float, end: float, steps: int) -> list[float]:
        return [start + (end - start) * i / steps for i in range(steps + 1)]


class Denoising(Method):
    """The gradient of the energy is regressed on the noise."""

    name = "denoising"
    Settings = MethodSettings

    def field(self, network: nn.Module, data: DataShape) -> DenoisingField:  # noqa: ARG002
        return DenoisingField(network)

    def losses(self, field: DenoisingField, batch: Batch, at: Moment) -> Iterable[Loss]:
        draws, shape = at.generator("denoising"), (batch.total, *batch.data.shape[1:])
        angles = LOW + (HIGH - LOW) * torch.rand(batch.total, generator=draws)
        epsilon = torch.randn(shape, generator=draws)

        def mean(rows: slice) -> Tensor:
            z, condition = batch.rows(rows)
            whole = batch.in_whole(rows)
            return squared_error(field, z, angles[whole], epsilon[whole], condition).mean()

        yield Loss("denoising", mean)

    def held_out(self, field: DenoisingField, data: Validation) -> dict[str, Tensor]:
        rows, z, condition = data.share()
        angles = torch.tensor([LOW + (HIGH - LOW) * (i + 0.5) / len(data.data) for i in rows])
        epsilon = noise.normal(z.shape[1:], data.seed, rows, "held-out")
        with torch.no_grad():
            return {"residual": squared_error(field, z, angles, epsilon, condition)}


def squared_error(field: DenoisingField, z: Tensor, angle: Tensor, epsilon: Tensor, condition: Any) -> Tensor:
    """The squared error of the noise that the gradient of the energy predicts, per value, (N,)."""
    x = expand_to(angle.cos(), z) * z + expand_to(angle.sin(), z) * epsilon
    gradient = field.energy_and_gradient(x, angle, condition)[1]
    return (expand_to(angle.sin(), z) * gradient - epsilon).flatten(1).square().mean(1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "METHODS", dict(names.METHODS))
    monkeypatch.setattr(methods, "_registered", {})
    methods.register(Denoising, summary="denoising score matching", gives=("energy", "flow"))


def test_the_gaussian_field_is_exact() -> None:
    """Without a network the energy is that of the standard normal, whose flow stands still."""
    field = DenoisingField(Nothing())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    energy, score = field.energy_and_score(x, 1.0)
    torch.testing.assert_close(
        energy, -torch.distributions.Normal(0, 1).log_prob(x).sum(1) - 1.5 * math.log(2 * math.pi)
    )
    torch.testing.assert_close(score, -x)
    torch.testing.assert_close(field.velocity(x, torch.full((5,), 0.7)), torch.zeros_like(x))


class Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(x)


def model_of(shape: tuple[int, ...], statistics: Statistics) -> Model:
    """A model of standard normal data in the units of the field."""
    field = DenoisingField(Nothing()).eval()
    return Model(method=Denoising(MethodSettings()), field=field, network={}, statistics=statistics, shape=shape)


@pytest.mark.parametrize("use", [sampling, inpainting, long_runs], ids=lambda use: use.__name__.rpartition(".")[2])
def test_chains_measure_their_steps_in_the_units_of_the_field(use: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    variances: list[float] = []

    def recorded(target: Target, x: Tensor, variance: float, **settings: Any) -> Walk:
        variances.append(variance)
        return langevin(target, x, variance, **settings)

    monkeypatch.setattr(use, "langevin", recorded)
    model = model_of((1, 2, 2), ImageStatistics((0.5,), 0.25))
    images = torch.full((2, 1, 2, 2), 0.5)
    if use is sampling:
        composition.sample(composition.Composition("a: & b:", {"a": model, "b": model}), 2, levels=3)
    elif use is inpainting:
        chains.inpaint(model, images[0], torch.tensor([[[True, False], [True, True]]]), 2, levels=3)
    else:
        chains.long_run(model, images, 2, level=math.tan(LOW))
    assert min(variances) == pytest.approx(0.7 * math.sin(LOW) ** 2)


def test_the_plotted_density_is_that_of_the_lowest_level_of_the_energy() -> None:
    """Data that are standard normal have the variance 1 + level² with the noise of that level."""
    statistics = TableStatistics.of(torch.tensor([[1.0, 30.0], [3.0, 10.0], [2.0, 50.0]]).double(), ("a", "b"))
    model = model_of((2,), statistics)
    centre, deviation = (torch.tensor(each).double() for each in (statistics.mean, statistics.std))
    spread = deviation / math.cos(LOW)
    (left, low), (right, high) = ((centre + sign * 7 * spread).tolist() for sign in (-1, 1))
    window = Window((left, right), (low, high))
    points = torch.from_numpy(window.grid(100))
    exact = torch.distributions.Normal(centre, spread).log_prob(points).sum(1)
    near = exact > exact.max() - 8
    torch.testing.assert_close(density_of_energy(model, points, window)[near], exact[near], atol=2e-3, rtol=0)


def test_a_method_in_one_file_trains_resumes_samples_detects_and_is_evaluated(vpfb: Vpfb) -> None:
    trained = ["train", "--data", "digits", "--method", "denoising", "--preset", "tiny"]
    trained += ["--val-fraction", "0.02", "--set", "decay=0", "--set", "widths=[8]"]
    for command in (
        [*trained, "--steps", "2", "--out", "run"],
        ["train", "--resume", "run", "--steps", "4"],
        [*trained, "--steps", "4", "--out", "whole"],
    ):
        ran = vpfb(*command)
        assert ran.code == 0, ran.err
    resumed, whole = (vpfb_core.load(run).field.state_dict() for run in ("run", "whole"))
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name

    assert vpfb("sample", "-m", "run", "-n", "4", "--nfe", "4", "-o", "grid.png").code == 0
    assert Path("grid.png").stat().st_size > 0

    detected = vpfb(
        "ood", "-m", "run", "--in", "digits", "--out", "noise", "--limit", "8", "--score", "energy", "--json"
    )
    assert detected.code == 0, detected.err
    assert 0 <= detected.json["results"][0]["auroc"] <= 1

    evaluated = vpfb("eval", "-m", "run", "--data", "digits", "-n", "16", "--nfe", "4", "--json")
    assert evaluated.code == 0, evaluated.err
    assert evaluated.json["metrics"]["residual"]["value"] > 0
