"""The time score: what its minimum is, what it adds to gradients, and how a batch may be divided."""

from __future__ import annotations

import math

import pytest
import torch
from fokker_planck import fokker_planck_residual
from present import present
from problems import STD, ExactNetwork, Mixture, anisotropic, draw_at, exact_field, ring, scattered
from torch import Tensor, nn

from vpfb_core import networks
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.draws import Part
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.gauge import Gauge
from vpfb_core.methods.vpfb.objectives import stein
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.methods.vpfb.time_score import stein_and_time_score, time_score_error

ANGLES = AngleDistribution(0.3, 0.8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Classes(nn.Module):
    """The exact N of two classes, which are the halves of a ring, and of both together."""

    def __init__(self) -> None:
        super().__init__()
        whole = ring(4)
        self.mixtures = [whole, whole.part(slice(0, 2)), whole.part(slice(2, 4))]

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        found = torch.stack([ExactNetwork(mixture)(u, angle) for mixture in self.mixtures])
        rows = torch.zeros(len(u), dtype=torch.int64) if condition is None else condition[:, 0] + 1
        return found.gather(0, rows[None])[0]

    def sample(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Data of both classes and of neither, and their conditions."""
        parts = [mixture.sample(n, generator(seed + i)) for i, mixture in enumerate(self.mixtures)]
        return torch.cat(parts), torch.arange(-1, 2).repeat_interleave(n)[:, None]


class Shift(nn.Module):
    """An exact N with an offset that only the time score sees: c(φ) for points on the right of each mixture."""

    def __init__(self, exact: nn.Module) -> None:
        super().__init__()
        self.exact = exact
        self.strength = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.exact(u, angle, condition) + self.strength * torch.sigmoid(4 * u[:, 0]) * torch.sin(angle)


def errors(network: nn.Module, data: Tensor, condition: Tensor | None = None, seed: int = 1) -> Tensor:
    """The time-score error at the same draws for every network."""
    draws = generator(seed)
    noise = torch.randn(data.shape, generator=draws, dtype=data.dtype)
    angle = ANGLES.sample(len(data), (0.0, 1.5), like=data, generator=draws)
    angle = angle[torch.randperm(len(data), generator=draws)]
    u, _ = arc.point(data / STD, angle, noise)
    field = Potential(network, OT()).arc(u, angle, condition, with_rate=True)
    return time_score_error(field, data / STD, angle, noise)


# --- the derivative ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", [True, False])
def test_the_rate_is_the_derivative_in_the_angle_from_the_same_evaluation(grad: bool) -> None:
    calls = []
    network = networks.build({"name": "mlp", "dim": 3, "width": 16, "depth": 2, "classes": [2]}, 0).double()
    nn.init.normal_(network.get_parameter("last.weight"), generator=generator())
    network.register_forward_hook(lambda *_: calls.append(1))
    potential = Potential(network, OT(), STD, Gauge(3, (2,)).double())
    nn.init.normal_(present(potential.gauge).weights, generator=generator())
    u, angle = torch.randn(5, 3, generator=generator(), dtype=torch.float64), torch.linspace(0.1, 1.5, 5).double()
    condition = torch.tensor([[0], [1], [-1], [0], [1]])
    with torch.set_grad_enabled(grad):
        value, gradient, rate = potential.arc(u, angle, condition, with_rate=True)
    assert len(calls) == 1
    step = 1e-5
    ahead, behind = (potential.potential(u, angle + sign * step, condition) for sign in (1, -1))
    torch.testing.assert_close(rate, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)
    plain = potential.arc(u, angle, condition)
    torch.testing.assert_close((value, gradient), (plain.value, plain.gradient))
    assert plain.rate is None
    assert present(rate).requires_grad == grad


def test_the_traced_derivatives_are_those_of_eager_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    description = {"name": "unet", "channels": 1, "size": 8, "widths": [8, 16], "classes": [2]}
    potential = Potential(networks.build(description, 0), OT(), STD, Gauge(64, (2,)))
    nn.init.normal_(potential.network.get_parameter("last.weight"), std=0.1, generator=generator())
    u, angle = torch.randn(3, 1, 8, 8, generator=generator()), torch.tensor([0.2, 0.8, 1.4])
    condition = torch.tensor([[0], [1], [-1]])
    eager = potential.arc(u, angle, condition, with_rate=True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    traced = potential.arc(u, angle, condition, with_rate=True)
    torch.testing.assert_close(tuple(traced), tuple(eager), rtol=1e-4, atol=1e-4)


def test_the_parameters_receive_the_derivative_of_the_rate_through_a_u_net() -> None:
    description = {"name": "unet", "channels": 1, "size": 8, "widths": [8, 8], "attention": [4], "classes": [2],
                   "prototypes": True, "position_embedding": True}  # fmt: skip
    potential = Potential(networks.build(description, 0), OT(), STD, Gauge(64, (2,))).double()
    draws = generator(2)
    for parameter in potential.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    data, condition = 0.5 * torch.randn(4, 1, 8, 8, generator=draws, dtype=torch.float64), torch.arange(4)[:, None] % 2

    def loss() -> Tensor:
        return stein_and_time_score(potential, data, condition, weight=0.7, generator=generator(), angles=ANGLES)

    loss().backward()
    direction = [torch.randn(each.shape, generator=draws, dtype=torch.float64) for each in potential.parameters()]
    gradients = [present(each.grad) for each in potential.parameters()]
    slope = sum(float((each * way).sum()) for each, way in zip(gradients, direction, strict=True))
    step, values = 1e-6, []
    for sign in (1, -2):
        for parameter, way in zip(potential.parameters(), direction, strict=True):
            parameter.data += sign * step * way
        values.append(float(loss().detach()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


# --- the minimum ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", [ring(), anisotropic(), scattered()], ids=["ring", "anisotropic", "scattered"])
def test_the_exact_potential_leaves_no_slope_and_every_shift_of_a_mode_raises_the_loss(mixture: Mixture) -> None:
    n = 20_000
    network, data = Shift(ExactNetwork(mixture)), mixture.sample(n, generator(3))
    require_minimum(network, data, None)


def test_the_exact_potentials_of_classes_and_of_all_data_are_the_minimum_together() -> None:
    data, condition = Classes().sample(7000)
    require_minimum(Shift(Classes()), data, condition)


def require_minimum(network: Shift, data: Tensor, condition: Tensor | None) -> None:
    """In expectation the loss has its minimum at strength 0, within four standard errors of the slope."""
    strength, values = 0.3, {}
    for sign in (-1, 0, 1):
        network.strength.data.fill_(sign * strength)
        values[sign] = errors(network, data, condition).detach()
    slopes = (values[1] - values[-1]) / (2 * strength)  # the loss is a quadratic function of the strength
    assert abs(slopes.mean()) < 4 * slopes.std() / math.sqrt(len(data))
    curvature = values[1] + values[-1] - 2 * values[0]
    assert curvature.mean() > 10 * curvature.std() / math.sqrt(len(data))


def test_the_error_of_pure_noise_data_is_one_where_the_weight_is_one() -> None:
    """For N = 0 the loss is the variance of h, by which it is divided, on average over data of unit variance."""
    data = STD * torch.randn(20_000, 3, generator=generator(), dtype=torch.float64)
    angle, noise = torch.full((len(data),), 0.6).double(), torch.randn(data.shape, generator=generator(1)).double()
    u, _ = arc.point(data / STD, angle, noise)

    class Zero(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return 0 * u.sum(1) + 0 * angle

    field = Potential(Zero(), OT()).arc(u, angle, with_rate=True)
    found = time_score_error(field, data / STD, angle, noise).detach()
    assert abs(found.mean() - 1) < 4 * found.std() / math.sqrt(len(data))


# --- the gauge --------------------------------------------------------------------------------------------------------


def test_the_gauge_moves_energies_by_level_and_class_and_leaves_the_flow_alone() -> None:
    gauge = Gauge(6, (2, 3)).double()
    angle = torch.linspace(0.0, 1.5, 7).double()
    assert torch.equal(gauge(angle), torch.zeros_like(angle))
    for parameter in gauge.parameters():
        nn.init.normal_(parameter, generator=generator())
    plain, shifted = (Potential(Classes(), OT(), STD, each) for each in (None, gauge))
    u, condition = torch.randn(7, 2, generator=generator()).double(), torch.tensor([[-1, 2]]).expand(7, -1)
    torch.testing.assert_close(shifted.arc(u, angle, condition).gradient, plain.arc(u, angle, condition).gradient)
    moved = shifted.potential(u, angle, condition) - plain.potential(u, angle, condition)
    torch.testing.assert_close(moved, gauge(angle, condition))
    assert not torch.isclose(gauge(angle, condition)[1:], gauge(angle)[1:]).any()
    hidden = torch.tensor([[-1, -1]]).expand(7, -1)
    torch.testing.assert_close(gauge(angle, hidden), gauge(angle))


def test_the_gauge_can_take_the_form_of_a_constant_of_the_energy_at_every_level() -> None:
    """log of a variance that changes along the arc, times cot φ, as the gauge must be for narrow Gaussian data."""
    angle = torch.linspace(0.15, 1.55, 200).double()
    wanted = -0.5 * torch.log(torch.cos(angle) ** 2 + (0.05 * torch.sin(angle)) ** 2) / torch.tan(angle)
    gauge = Gauge(1).double()
    columns = []
    for k in range(len(gauge.weights)):
        gauge.weights.data = nn.functional.one_hot(torch.tensor(k), len(gauge.weights)).double()
        columns.append(gauge(angle).detach())
    basis = torch.stack(columns, 1)
    fitted = basis @ torch.linalg.lstsq(basis, wanted[:, None]).solution
    assert (torch.tan(angle) * (fitted[:, 0] - wanted)).abs().max() < 0.02  # in nats per dimension


# --- batches ----------------------------------------------------------------------------------------------------------


def test_without_weight_the_loss_is_that_of_stein() -> None:
    potential, data = Potential(ExactNetwork(anisotropic()), OT()), anisotropic().sample(9, generator())
    found = stein_and_time_score(potential, data, weight=0.0, generator=generator(), angles=ANGLES)
    torch.testing.assert_close(found, stein(potential, data, generator=generator(), angles=ANGLES))


def test_losses_of_parts_add_up_to_the_batch() -> None:
    data, condition = Classes().sample(4)
    potential, angles = Potential(Classes(), OT()), AngleDistribution(0.3, 0.8, uniform=0.3)

    def loss(rows: slice) -> Tensor:
        return stein_and_time_score(
            potential, data[rows], condition[rows], weight=0.5, generator=generator(), angles=angles,
            part=Part(rows.start, len(data)),
        )  # fmt: skip

    parts = [slice(0, 5), slice(5, 12)]
    added = sum((rows.stop - rows.start) / 12 * loss(rows) for rows in parts)
    torch.testing.assert_close(added, loss(slice(0, 12)))


# --- the Fokker–Planck residual ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [3.0, 0.7, 0.15])
@pytest.mark.parametrize("mixture", [ring(), scattered()], ids=["ring", "scattered"])
def test_the_fokker_planck_residual_of_an_exact_potential_is_zero(mixture: Mixture, level: float) -> None:
    found = fokker_planck_residual(exact_field(mixture), draw_at(mixture, level, 40), level)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-7)


def test_the_fokker_planck_residual_is_the_rate_at_which_an_offset_of_a_mode_changes() -> None:
    mixture, level = ring(), 0.4
    network, u = Shift(ExactNetwork(mixture)), draw_at(mixture, 0.4, 30)
    network.strength.data.fill_(1e-5)
    found = fokker_planck_residual(PotentialField(Potential(network, OT())), u, level)
    # To first order: the change of tan φ δN, minus that of the flow, for δN = sin φ sigmoid(4 u₁) = sin φ f.
    u1, angle = u[:, 0].clone().requires_grad_(), torch.tensor(math.atan(1 / level), dtype=torch.float64)
    f = torch.sigmoid(4 * u1)
    (slope,) = torch.autograd.grad(f.sum(), u1, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), u1)
    sine, cosine, tangent = torch.sin(angle), torch.cos(angle), torch.tan(angle)
    velocity = mixture.arc_velocity(u, angle.expand(len(u)))[:, 0]
    of_energy = (2 * sine + tangent**2 * sine) * f  # of tan φ sin φ in φ
    of_flow = sine * (u1 * slope - curvature - 2 * tangent * velocity * slope)
    expected = 1e-5 * sine * cosine * (of_energy - of_flow)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-3, atol=1e-8)
