"""Flow matching on Gaussian mixtures, whose velocity and conditional variances are known."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from problems import MIXTURES, STD, Mixture, anisotropic, correlated_gaussian, draw_at
from torch import Tensor, nn

from vpfb_core.api import Model
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import ConfigError
from vpfb_core.methods import transport
from vpfb_core.methods.fields import Transports
from vpfb_core.methods.flow_matching import FlowMatching, VelocityField
from vpfb_core.methods.likelihood import log_likelihood
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.path_settings import PathSettings
from vpfb_core.methods.step import Batch, DataShape, Moment, Validation
from vpfb_core.networks import MLP

PRECISE = Solver.choose("dopri5", rtol=1e-9, atol=1e-9)
PLANE = DataShape((2,))


class ExactVelocity(nn.Module):
    """The velocity of a mixture, and a bend of `strength` that turns its points away from their way."""

    wave = torch.tensor([1.1, -0.7], dtype=torch.float64)

    def __init__(self, mixture: Mixture, strength: float = 0.0) -> None:
        super().__init__()
        self.mixture = mixture
        self.strength = nn.Parameter(torch.tensor(strength, dtype=torch.float64))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        flat = u.flatten(1).double()
        velocity = self.mixture.arc_velocity(flat, angle.double())
        return (velocity + self.strength * self.bend(flat)).reshape(u.shape).to(u.dtype)

    def bend(self, u: Tensor) -> Tensor:
        return torch.sin(u @ self.wave[: u.shape[1]])[:, None].expand_as(u) if u.shape[1] == 2 else 0 * u


class Perceptron(nn.Module):
    """A small network that answers in the shape of its input."""

    def __init__(self, d: int = 2, width: int = 32) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(d + 1, width), nn.Linear(width, d)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(0))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.outer(torch.tanh(self.inner(torch.cat([u, angle[:, None]], 1))))


def flow_matching(**settings: Any) -> FlowMatching:
    return FlowMatching(PathSettings(floor=0.01, **settings))


def field_of(mixture: Mixture, **settings: Any) -> VelocityField:
    return flow_matching(**settings).field(ExactVelocity(mixture), DataShape((mixture.dimension,)))


def batch_of(mixture: Mixture, n: int, seed: int = 0) -> Batch:
    data = mixture.sample(n, torch.Generator().manual_seed(seed)) / mixture.std
    return Batch(data, None, 0, n)


def loss_of(method: FlowMatching, field: VelocityField, batch: Batch, rows: slice | None = None) -> Tensor:
    (loss,) = method.losses(field, batch, Moment(3, seed=7))
    return loss.value(rows or slice(0, len(batch.data)))


def normal(n: int, d: int = 2) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def floor_of_gaussian(mixture: Mixture, angle: Tensor) -> Tensor:
    """E Var(y | u)/d of one Gaussian: v/(v sin² φ + cos² φ) along an axis on which z has the variance v."""
    v = mixture.variances[0] / mixture.std**2
    return (v / (v * torch.sin(angle)[:, None].square() + torch.cos(angle)[:, None].square())).mean(1)


# --- what it is minimal at --------------------------------------------------------------------------------------------


def test_loss_at_the_exact_velocity_of_a_gaussian_is_the_variance_that_a_point_leaves_open() -> None:
    mixture, method, n = correlated_gaussian(), flow_matching(), 100_000
    found = loss_of(method, field_of(mixture), batch_of(mixture, n))
    middles = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    floor = floor_of_gaussian(mixture, AngleDistribution().quantile(middles, field_of(mixture).span)).mean()
    assert 0.4 < floor < 0.9
    # ‖f − y‖²/d has about the deviation of its mean, so that this is about five standard errors.
    assert found.item() == pytest.approx(floor.item(), abs=5 * floor.item() / math.sqrt(n))


@pytest.mark.parametrize("strength", [0.5, *(pytest.param(s, marks=pytest.mark.slow) for s in (-0.5, 0.1))])
def test_loss_rises_from_the_exact_velocity_by_the_square_of_what_is_added(strength: float) -> None:
    mixture, method, n = anisotropic(), flow_matching(), 20_000
    networks = [ExactVelocity(mixture, each) for each in (0.0, strength)]
    fields = [method.field(network, PLANE) for network in networks]
    validation = Validation(batch_of(mixture, n).data, seed=2)
    exact, bent = (method.held_out(field, validation)["residual"] for field in fields)
    seen: list[Tensor] = []
    handle = networks[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    method.held_out(fields[0], validation)
    handle.remove()
    difference = bent - exact - strength**2 * networks[0].bend(seen[0]).square().mean(1)
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(n)
    assert bent.mean() > exact.mean()


@pytest.mark.parametrize("level", [0.4, 1.0, 3.0])
def test_a_linear_network_that_minimises_the_loss_is_the_exact_velocity_of_gaussian_data(level: float) -> None:
    """At one level the loss is a quadratic form of the matrix, and one step of Newton's method leads to its least."""

    class Linear(nn.Module):
        def __init__(self, matrix: Tensor) -> None:
            super().__init__()
            self.matrix = matrix

        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return u @ self.matrix

    mixture, n = correlated_gaussian(0.8), 20_000
    method, batch = flow_matching(angle_mean=-math.log(level), angle_std=1e-3), batch_of(mixture, n)

    def loss(entries: Tensor) -> Tensor:
        return loss_of(method, VelocityField(Linear(entries.reshape(2, 2)), method.settings), batch)

    start = torch.zeros(4, dtype=torch.float64)
    gradient, hessian = torch.func.grad(loss)(start), torch.autograd.functional.hessian(loss, start)
    found = (start - torch.linalg.solve(hessian, gradient)).reshape(2, 2)
    # Along (1, ±1) z has the variances 1 ± 0.8, and the flow u ∝ √(v sin² φ + cos² φ).
    angle = math.atan2(1, level)
    rates = [(v - 1) * math.sin(angle) * math.cos(angle) / (v * math.sin(angle) ** 2 + math.cos(angle) ** 2)
             for v in (1.8, 0.2)]  # fmt: skip
    even, odd = sum(rates) / 2, (rates[0] - rates[1]) / 2
    exact = torch.tensor([[even, odd], [odd, even]], dtype=torch.float64)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)
    assert exact.abs().max() > 0.1


def test_residual_of_no_velocity_is_1_on_average_and_does_not_depend_on_the_division() -> None:
    class Zero(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return 0 * u

    method, n = flow_matching(), 4000
    field, data = method.field(Zero(), PLANE), batch_of(anisotropic(), n).data
    whole = method.held_out(field, Validation(data, seed=3))["residual"]
    assert abs(whole.mean() - 1) < 4 * whole.std() / math.sqrt(n)
    parts = [method.held_out(field, Validation(data, None, 3, rows))["residual"]
             for rows in (range(1000), range(1000, n))]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts), whole)


def test_losses_of_parts_and_of_processes_add_up_to_the_batch() -> None:
    mixture, method, n = anisotropic(), flow_matching(), 11
    field, batch = method.field(Perceptron().double(), PLANE), batch_of(mixture, n)
    whole = loss_of(method, field, batch)
    for edges in ([0, 4, 11], [0, 1, 2, 11]):
        parts = [loss_of(method, field, batch, slice(*edge)) * (edge[1] - edge[0]) / n for edge in pairwise(edges)]
        torch.testing.assert_close(torch.stack(parts).sum(), whole)
    shares = [loss_of(method, field, Batch(batch.data[rows], None, rows.start, n)) * (rows.stop - rows.start) / n
              for rows in (slice(0, 5), slice(5, 11))]  # fmt: skip
    torch.testing.assert_close(torch.stack(shares).sum(), whole)


def test_training_lowers_the_held_out_residual_to_near_its_floor() -> None:
    mixture, method = correlated_gaussian(0.9), flow_matching()
    network = Perceptron()
    field, optimizer = method.field(network, PLANE), torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(150):
        data = mixture.sample(256, torch.Generator().manual_seed(step)).float() / mixture.std
        (loss,) = method.losses(field, Batch(data, None, 0, 256), Moment(step))
        optimizer.zero_grad()
        loss.value(slice(0, 256)).backward()
        optimizer.step()
    validation = Validation((mixture.sample(4000, torch.Generator().manual_seed(999)) / mixture.std).float())
    learned = method.held_out(field, validation)["residual"].mean()
    exact = method.held_out(field_of(mixture), validation)["residual"].mean()
    assert 1 - learned > 0.7 * (1 - exact), "most of what there is to be learned"
    assert learned > exact - 0.01
    assert exact < 0.9


# --- what it draws ----------------------------------------------------------------------------------------------------


def stretched(codes: Tensor, correlation: float, end: float) -> Tensor:
    """Where the exact flow of the correlated Gaussian carries codes: √(1 ± correlation sin² φ) along the axes."""
    along, across = (math.sqrt(1 + sign * correlation * math.sin(end) ** 2) for sign in (1, -1))
    first, second = along * (codes[:, 0] + codes[:, 1]) / 2, across * (codes[:, 0] - codes[:, 1]) / 2
    return torch.stack([first + second, first - second], 1)


def test_drawing_a_correlated_gaussian_stretches_noise_along_its_axes() -> None:
    field, codes = field_of(correlated_gaussian(0.8)), normal(32)
    drawn = flow_matching().draw(field, codes, None, PRECISE).require_success().x
    torch.testing.assert_close(drawn, stretched(codes, 0.8, field.span[1]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["ring", "anisotropic", "scattered"])
def test_encoding_what_was_drawn_returns_to_the_noise(name: str) -> None:
    mixture = MIXTURES[name]
    field, codes = field_of(mixture), normal(24, mixture.dimension)
    drawn = flow_matching().draw(field, codes, None, PRECISE).require_success().x
    back = transport.encode(field, drawn, solver=PRECISE).require_success().x
    torch.testing.assert_close(back, codes, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MIXTURES)
def test_likelihood_by_the_flow_is_the_density_of_the_mixture(name: str) -> None:
    mixture, level = MIXTURES[name], 0.1
    field, u = field_of(mixture), draw_at(mixture, level, 6)
    found = log_likelihood(field, u, [field.position(level)], solver=Solver.choose("dopri5", rtol=1e-5))
    signal, deviation = field.scales(level)
    mean, std = torch.tensor([signal / mixture.std, deviation], dtype=torch.float64)
    torch.testing.assert_close(found.log_density[0], mixture.log_density(u, mean, std), rtol=0, atol=3e-4)


@pytest.mark.parametrize("level", [1e-6, 0.1, 3.0, math.inf])
def test_levels_and_positions_are_each_others_inverse_and_say_how_much_a_point_holds(level: float) -> None:
    field = field_of(anisotropic())
    signal, deviation = field.scales(level)
    assert signal**2 + deviation**2 == pytest.approx(1)
    assert field.level(field.position(level)) == pytest.approx(level, rel=1e-9)
    assert math.tan(field.position(level)) * deviation == pytest.approx(signal, rel=1e-9)


def model_of(mixture: Mixture) -> Model:
    """A model of pictures of 1×2 pixels, grey values 0.5 ± 0.1."""
    field = flow_matching().field(ExactVelocity(mixture).float(), DataShape((1, 1, 2)))
    field.requires_grad_(False)
    return Model(flow_matching(), field, {}, ImageStatistics((0.5,), 0.1), (1, 1, 2))


def test_a_model_samples_encodes_and_interpolates() -> None:
    model = model_of(correlated_gaussian(0.8))
    assert isinstance(model.field, Transports)
    drawn = model.sample(6, seed=3, method="dopri5", rtol=1e-5)
    assert drawn.images.shape == (6, 1, 1, 2)
    codes = model.encode(drawn.images)
    exact = 0.5 + 0.1 * stretched(codes.flatten(1), 0.8, model.field.span[1])
    torch.testing.assert_close(drawn.images.flatten(1), exact.clamp(0, 1), rtol=0, atol=1e-3)
    frames = model.interpolate(codes[:1], codes[1:2], 5)
    torch.testing.assert_close(frames[0, [0, -1]], drawn.images[:2], rtol=0, atol=1e-3)


def test_a_model_has_the_likelihood_of_its_flow() -> None:
    """Of images as they are: their density with the noise of the lowest level on them."""
    mixture, model = correlated_gaussian(0.8), model_of(correlated_gaussian(0.8))
    images = (0.5 + 0.1 * mixture.sample(5, torch.Generator().manual_seed(0)) / STD).float()
    found = model.log_density(images.reshape(5, 1, 1, 2), method="ode", dequantise=False, rtol=1e-6)
    assert isinstance(model.field, Transports)
    level = model.field.level(model.field.span[1])
    covariance = 0.01 * (mixture.covariance / STD**2 + level**2 * torch.eye(2, dtype=torch.float64))
    density = torch.distributions.MultivariateNormal(torch.full((2,), 0.5, dtype=torch.float64), covariance)
    torch.testing.assert_close(found, density.log_prob(images.double()), rtol=0, atol=2e-3)


# --- what it has not --------------------------------------------------------------------------------------------------


def test_a_velocity_field_has_a_flow_and_no_energy() -> None:
    field = field_of(anisotropic())
    assert isinstance(field, Transports)
    assert field.levels is None
    with pytest.raises(NotImplementedError):
        field.energy_and_score(normal(2), 0.5)


def test_what_needs_an_energy_is_refused_in_a_sentence_that_names_the_methods_that_have_one() -> None:
    model, image = model_of(anisotropic()), torch.full((1, 1, 1, 2), 0.5)
    known = torch.tensor([[[True, False]]])
    uses = {
        "out-of-distribution detection": (lambda: model.score(image, "energy"), "vpfb, energy-matching, latent"),
        "a Langevin chain": (lambda: model.long_run(image, 3), "vpfb, energy-matching"),
        "inpainting": (lambda: model.inpaint(image[0], known, 1), "vpfb, energy-matching"),
    }
    for use, (call, others) in uses.items():
        with pytest.raises(ConfigError, match=rf"^{use} needs an energy.*method flow-matching") as caught:
            call()
        assert caught.value.hint == f"methods that have one: {others}"
    with pytest.raises(ConfigError, match=r"^an explicit density needs energies of known norm.*method flow-matching"):
        model.log_density(image)


# --- conditions and precision -----------------------------------------------------------------------------------------


def test_each_sample_goes_with_its_condition_and_has_no_null_without_dropout() -> None:
    class Steady(nn.Module):
        """The velocity k of class k."""

        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            assert condition is not None
            return condition.to(u.dtype).expand_as(u)

    data, method = DataShape((2,), (5,)), flow_matching(condition_dropout=0.1)
    field, codes, condition = method.field(Steady(), data), normal(4), torch.tensor([[-1], [0], [1], [4]])
    start, end = field.span
    drawn = method.draw(field, codes, condition, Solver.choose("euler", nfe=3)).x
    torch.testing.assert_close(drawn, codes + condition * (end - start))
    # ‖k − y‖²/d over ε and −ε, at the same draws for every k, is that of y and k² less twice k times the mean of y.
    losses = {k: loss_of(method, field, Batch(codes, torch.full((4, 1), k), 0, 4)) for k in (-1, 0, 1, 4)}
    even = (losses[1] + losses[-1]) / 2 - losses[0]
    torch.testing.assert_close(even, torch.ones((), dtype=torch.float64))
    odd = (losses[1] - losses[-1]) / 2
    torch.testing.assert_close(losses[4], losses[0] + 4 * odd + 16 * even)
    assert field.has_null
    assert not flow_matching(condition_dropout=0.0).field(Steady(), data).has_null
    assert flow_matching(condition_dropout=0.0).field(Steady(), PLANE).has_null, "there is nothing but the null"


def test_a_network_in_bf16_answers_in_float32() -> None:
    field, u, s = flow_matching().field(Perceptron(), PLANE), normal(8).float(), torch.linspace(0.1, 1.5, 8)
    exact = field.velocity(u, s)
    field.autocast_dtype = torch.bfloat16
    rounded = field.velocity(u, s)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


def test_a_network_that_answers_a_number_is_refused() -> None:
    """On the line, (N,) − (N, 1) would be a table of differences, and no error."""
    with pytest.raises(ConfigError, match="has the shape of its input"):
        flow_matching().field(MLP(dim=1), DataShape((1,))).velocity(normal(3, 1).float(), torch.ones(3))


def test_where_training_draws_follows_the_size_unless_it_is_set() -> None:
    chosen = FlowMatching.defaults(DataShape((1, 28, 28)), {})
    assert chosen["angle_mean"] == AngleDistribution.for_shape((1, 28, 28)).mean
    settings = PathSettings(angle_mean=0.3).completed(chosen)
    assert (settings.angle_mean, settings.angle_std, settings.condition_dropout) == (0.3, 1.2, 0.1)
    field = FlowMatching(settings).field(MLP(dim=2), PLANE)
    assert field.angles == AngleDistribution(0.3, 1.2)
