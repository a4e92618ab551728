"""The potential around the exact N of a Gaussian mixture must give the exact velocity, score, energy and density."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from present import present
from problems import MIXTURES, SCHEDULES, STD, ExactNetwork, Mixture, anisotropic, correlated_gaussian, draw, scattered
from torch import Tensor, nn

from vpfb_core.errors import ConfigError
from vpfb_core.machine.precision import full_float32
from vpfb_core.methods.path.homotopy import OT, VP, Homotopy
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential
from vpfb_core.networks import MLP, UNet

TIMES = (0.05, 0.3, 0.5, 0.7, 0.9)
TIGHT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
every_mixture = pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES.keys())


def exact_potential(mixture: Mixture, schedule: Homotopy = OT()) -> Potential:
    return Potential(ExactNetwork(mixture), schedule, STD)


def shuffle_weights(module: nn.Module, std: float = 0.3) -> None:
    """Give every weight a value, the zero-initialised ones too."""
    draws = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data = std * torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype)


class Zero(nn.Module):
    """N = 0."""

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return 0 * u.flatten(1).sum(1)


class Swirl(nn.Module):
    """A smooth f(u, φ) in the shape of u, not a gradient field."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        flat = u.flatten(1)
        turned = torch.roll(flat, 1, dims=1) * torch.cos(angle)[:, None]
        return torch.tanh(self.gain * flat + 0.5 * turned).reshape(u.shape)


class FreeFunctionOfAngle(nn.Module):
    """The exact N and a function of φ alone, which no objective sees."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.exact = ExactNetwork(mixture)

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.exact(u, angle) + torch.exp(angle)


# --- exact answers on mixtures ----------------------------------------------------------------------------------------


@every_mixture
def test_gradient_on_the_arc_is_the_expected_velocity_of_the_arc(mixture: Mixture) -> None:
    draws = torch.Generator().manual_seed(0)
    angle = torch.linspace(0, 1.53, 64, dtype=torch.float64)
    z = mixture.sample(64, draws) / STD
    noise = torch.randn(z.shape, generator=draws, dtype=torch.float64)
    u = torch.sin(angle)[:, None] * z + torch.cos(angle)[:, None] * noise
    field = exact_potential(mixture).arc(u, angle)
    torch.testing.assert_close(field.gradient, mixture.arc_velocity(u, angle), **TIGHT)
    torch.testing.assert_close(field.value, exact_potential(mixture).potential(u, angle))


@every_schedule
def test_velocity_of_gaussian_mixture_is_the_expected_conditional_velocity(schedule: Homotopy) -> None:
    for mixture, t in itertools.product(MIXTURES.values(), (0.0, *TIMES)):
        potential = exact_potential(mixture, schedule)
        x, times = draw(mixture, schedule, t)
        torch.testing.assert_close(potential.velocity(x, times), mixture.velocity(schedule, x, times), **TIGHT)


@every_schedule
def test_score_of_gaussian_mixture_is_the_gradient_of_its_log_density(schedule: Homotopy) -> None:
    for mixture, t in itertools.product(MIXTURES.values(), (0.0, *TIMES)):
        potential = exact_potential(mixture, schedule)
        x, times = draw(mixture, schedule, t)
        exact = mixture.score(x, schedule.mean(times), schedule.std(times))
        torch.testing.assert_close(potential.score(x, times), exact, **TIGHT)


@every_schedule
def test_energy_of_gaussian_mixture_matches_log_density_at_every_t(schedule: Homotopy) -> None:
    for mixture, t in itertools.product(MIXTURES.values(), (0.0, *TIMES, 1.0)):
        potential = exact_potential(mixture, schedule)
        x, times = draw(mixture, schedule, t)
        exact = mixture.log_density(x, schedule.mean(times), schedule.std(times))
        torch.testing.assert_close(potential.log_density(x, times), exact, **TIGHT)


@every_schedule
def test_a_free_function_of_the_angle_shifts_the_log_density_by_a_constant(schedule: Homotopy) -> None:
    mixture = anisotropic()
    potential = Potential(FreeFunctionOfAngle(mixture), schedule, STD)
    for t in TIMES:
        x, times = draw(mixture, schedule, t)
        exact = mixture.log_density(x, schedule.mean(times), schedule.std(times))
        excess = potential.log_density(x, times) - exact
        torch.testing.assert_close(excess, excess[:1].expand(len(x)), **TIGHT)
        assert excess[0] > 0.01
        torch.testing.assert_close(potential.velocity(x, times), mixture.velocity(schedule, x, times), **TIGHT)


@pytest.mark.parametrize("name", [name for name, schedule in SCHEDULES.items() if schedule.mean(0.0) == 0])
def test_log_density_at_the_start_is_that_of_the_prior_for_any_network(name: str) -> None:
    schedule, mixture = SCHEDULES[name], scattered()
    network = MLP(dim=5, width=16).double()
    shuffle_weights(network)
    x, _ = draw(mixture, schedule, 0.0)
    prior = torch.distributions.Normal(0.0, schedule.std(0.0)).log_prob(x).sum(1)
    torch.testing.assert_close(Potential(network, schedule, STD).log_density(x, 0.0), prior)


@every_schedule
def test_potential_differences_are_those_of_the_known_potential_of_the_mixture(schedule: Homotopy) -> None:
    # u = μ̇ x̄ + σ̇ ε with E[ε | x] = −σ score makes ∇Φ = (μ̇/μ) x + (σ² μ̇/μ − σ σ̇) score, whose potential is known.
    mixture = anisotropic()
    for t in TIMES:
        x, times = draw(mixture, schedule, t)
        mean, std = schedule.mean(times), schedule.std(times)
        rate = schedule.mean_derivative(times) / mean
        log_density = mixture.log_density(x, mean, std)
        exact = 0.5 * rate * x.square().sum(1) + (std**2 * rate - std * schedule.std_derivative(times)) * log_density
        value = exact_potential(mixture, schedule).value(x, times)
        torch.testing.assert_close(value - value[0], exact - exact[0], **TIGHT)


@every_schedule
def test_zero_network_gives_the_exact_flow_of_gaussian_data(schedule: Homotopy) -> None:
    mixture, potential = MIXTURES["isotropic Gaussian"], Potential(Zero(), schedule, STD)
    for t in (0.0, *TIMES, 1.0):
        x, times = draw(mixture, schedule, t)
        std = torch.sqrt((schedule.mean(times) * STD) ** 2 + schedule.std(times) ** 2)
        torch.testing.assert_close(potential.scale(times), std)
        later = times.clone().requires_grad_()
        growth = torch.log((schedule.mean(later) * STD) ** 2 + schedule.std(later) ** 2) / 2
        (rate,) = torch.autograd.grad(growth.sum(), later)  # every point moves in proportion to the deviation
        torch.testing.assert_close(potential.velocity(x, times), rate[:, None] * x, **TIGHT)
        torch.testing.assert_close(potential.score(x, times), -x / std[:, None].square(), **TIGHT)
        log_density = torch.distributions.Normal(0.0, std[:, None]).log_prob(x).sum(1)
        torch.testing.assert_close(potential.log_density(x, times), log_density, **TIGHT)


def test_potential_of_a_correlated_gaussian_is_the_known_quadratic_form() -> None:
    # Along an axis of variance v (of z) the exact flow is u ∝ √(v sin² φ + cos² φ), so N is half its logarithmic rate.
    mixture, angle = correlated_gaussian(0.8), torch.full((32,), 0.9, dtype=torch.float64)
    u = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along, across = (u[:, 0] + u[:, 1]) / math.sqrt(2), (u[:, 0] - u[:, 1]) / math.sqrt(2)
    sine, cosine = math.sin(0.9), math.cos(0.9)
    rates = [(v - 1) * sine * cosine / (v * sine**2 + cosine**2) for v in (1.8, 0.2)]
    exact = 0.5 * (rates[0] * along.square() + rates[1] * across.square())
    value = exact_potential(mixture).potential(u, angle)
    torch.testing.assert_close(value - value[0], exact - exact[0], **TIGHT)


@every_schedule
@pytest.mark.parametrize("t", [0.1, 0.4, 0.8])
def test_potential_solves_the_weak_poisson_equation(schedule: Homotopy, t: float) -> None:
    # E_ρ̄[∇Φ·∇h] = d/dt E_ρ̄[h]: the left by quadrature over the plane, the right from moments of Gaussians.
    mixture = anisotropic()
    mean, std = float(schedule.mean(t)), float(schedule.std(t))
    narrowest = math.sqrt(mean**2 * mixture.variances.min() + std**2)
    widest = math.sqrt(mean**2 * mixture.variances.max() + std**2)
    reach = mean * mixture.means.abs().max().item() + 8 * widest
    axis = torch.linspace(-reach, reach, 2 * math.ceil(2 * reach / narrowest) + 1, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    mass = torch.exp(mixture.log_density(x, schedule.mean(t), schedule.std(t))) * cell
    assert mass.sum().item() == pytest.approx(1, abs=1e-9)
    velocity = exact_potential(mixture, schedule).velocity(x, t)

    wave = torch.tensor([0.9, -1.4], dtype=torch.float64)
    gradients = {
        "x₁": torch.tensor([1.0, 0.0], dtype=torch.float64).expand(len(x), 2),
        "x₁²": torch.stack([2 * x[:, 0], 0 * x[:, 0]], 1),
        "x₁ x₂": x.flip(1),
        "cos k·x": -torch.sin(x @ wave)[:, None] * wave,
        "sin k·x": torch.cos(x @ wave)[:, None] * wave,
    }

    def expectations(t: Tensor) -> Tensor:
        mean, std = schedule.mean(t), schedule.std(t)
        covariance = mean**2 * mixture.covariance + std**2 * torch.eye(2, dtype=torch.float64)
        spread = mixture.axes * mixture.variances[:, None] @ mixture.axes.mT
        damping = torch.exp(-0.5 * (mean**2 * (wave @ spread @ wave) + std**2 * wave.square().sum()))
        phase = mean * (mixture.means @ wave)
        cosine = (mixture.weights * damping * torch.cos(phase)).sum()
        sine = (mixture.weights * damping * torch.sin(phase)).sum()
        return torch.stack([0 * t, covariance[0, 0], covariance[0, 1], cosine, sine])

    rates = torch.func.jacfwd(expectations)(torch.tensor(t, dtype=torch.float64))
    for (name, gradient), rate in zip(gradients.items(), rates, strict=True):
        transported = (mass * (velocity * gradient).sum(1)).sum()
        assert transported.item() == pytest.approx(rate.item(), rel=1e-8, abs=1e-8), name


# --- reading the network ----------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("kind", [Potential, UnpreconditionedPotential])
def test_velocity_is_the_gradient_of_the_value(schedule: Homotopy, kind: type[Potential]) -> None:
    potential = kind(Swirl(), schedule, STD)
    for t in TIMES:
        x, times = draw(scattered(), schedule, t)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(potential.value(x, times).sum(), x)
        torch.testing.assert_close(potential.velocity(x, times), gradient, **TIGHT)


def test_network_in_the_shape_of_u_is_read_as_a_denoiser() -> None:
    u = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = torch.linspace(0, 1.5, 16, dtype=torch.float64)
    network = Swirl()
    value = Potential(network, OT()).potential(u, angle)
    denoised = network(u, angle)
    expected = [0.5 * (a - b).square().sum() - 0.5 * a.square().sum() for a, b in zip(u, denoised, strict=True)]
    torch.testing.assert_close(value, torch.stack(expected))


def test_unpreconditioned_value_is_half_the_squared_distance_to_the_network() -> None:
    network, schedule = Swirl(), OT()
    x, times = draw(scattered(), schedule, 0.6)
    value = UnpreconditionedPotential(network, schedule, STD).value(x, times)
    angle = torch.atan2(STD * times, schedule.std(times))
    torch.testing.assert_close(value, 0.5 * (x - network(x, angle)).square().sum(1))


@every_schedule
def test_unpreconditioned_potential_reads_the_same_on_the_arc_as_in_x_and_t(schedule: Homotopy) -> None:
    potential = UnpreconditionedPotential(Swirl(), schedule, STD)
    for t in TIMES:
        x, times = draw(scattered(), schedule, t)
        # Potential.value builds Φ from the arc; UnpreconditionedPotential.value has it from the network.
        torch.testing.assert_close(Potential.value(potential, x, times), potential.value(x, times), **TIGHT)


def test_images_are_read_as_the_vectors_they_flatten_to() -> None:
    mixture, schedule = scattered(12), VP()
    potential = exact_potential(mixture, schedule)
    x, times = draw(mixture, schedule, 0.6)
    images = x.reshape(-1, 3, 2, 2)
    for function in (potential.velocity, potential.score):
        assert function(images, times).shape == images.shape
        torch.testing.assert_close(function(images, times).flatten(1), function(x, times))
    for function in (potential.value, potential.log_density):
        torch.testing.assert_close(function(images, times), function(x, times))


@every_schedule
def test_a_number_is_a_time_like_a_tensor_of_it(schedule: Homotopy) -> None:
    potential = exact_potential(anisotropic(), schedule)
    x, times = draw(anisotropic(), schedule, 0.7)
    for function in (potential.value, potential.velocity, potential.score, potential.log_density):
        torch.testing.assert_close(function(x, 0.7), function(x, times))
    torch.testing.assert_close(potential.angle(0.7), potential.angle(times)[0], check_dtype=False)
    torch.testing.assert_close(potential.scale(0.7), potential.scale(times)[0], check_dtype=False)


def test_angles_of_the_schedule_and_of_the_potential_agree() -> None:
    for schedule in SCHEDULES.values():
        potential = Potential(Zero(), schedule, STD)
        assert potential.angle_range == schedule.angle_range(STD)
        assert potential.angle(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == list(potential.angle_range)


def test_condition_reaches_the_network() -> None:
    class Tilt(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            assert condition is not None
            return condition[:, 0] * u.flatten(1).sum(1)

    potential = Potential(Tilt(), OT(), STD)
    u, angle = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.5)
    condition = torch.tensor([[-1], [0], [1], [2]])
    expected = condition.expand(4, 3).float()
    torch.testing.assert_close(potential(u, angle, condition).gradient, expected)
    shift = potential.velocity(u, 0.5, condition) - Potential(Zero(), OT(), STD).velocity(u, 0.5)
    torch.testing.assert_close(shift, expected * (STD / potential.scale(0.5)).float())
    for function in (potential.value, potential.score, potential.log_density):
        assert not torch.equal(function(u, 0.5, condition), function(u, 0.5, condition.flip(0)))


# --- graphs and precision ---------------------------------------------------------------------------------------------


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    mlp, unet = MLP(dim=3, width=16), UNet(channels=1, size=8, widths=(8, 16), attention=(4,))
    for network in (mlp, unet):
        shuffle_weights(network, 0.1)
    return {"mlp": (mlp, (3,)), "unet": (unet, (1, 8, 8))}


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_arc_without_autograd_equals_arc_with_it_and_keeps_no_graph(name: str) -> None:
    network, shape = networks()[name]
    potential = Potential(network, OT())
    u, angle = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1.5, 5)
    recorded = potential(u, angle)
    with torch.no_grad():
        plain = potential(u, angle)
    assert not plain.value.requires_grad
    assert not plain.gradient.requires_grad
    assert not u.requires_grad
    torch.testing.assert_close(plain.value, recorded.value)
    torch.testing.assert_close(plain.gradient, recorded.gradient)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_potential_in_use_keeps_half_of_what_training_needs() -> None:
    network, shape = networks()["unet"]
    potential, u = Potential(network, OT()), torch.ones(4, *shape)
    kept: dict[int, tuple[int, torch.UntypedStorage]] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def bytes_kept(training: bool) -> int:
        potential.requires_grad_(training)
        kept.clear()

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no address is used twice
            return tensor

        with torch.no_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            potential.arc(u, torch.ones(4))
        return sum(size for size, _ in kept.values())

    assert bytes_kept(training=False) < 0.6 * bytes_kept(training=True)


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_gradient_reaches_every_parameter_through_the_gradient_in_u(name: str) -> None:
    network, shape = networks()[name]
    u, angle = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 1.5, 5)
    Potential(network, OT())(u, angle).gradient.square().sum().backward()
    untouched = [
        key for key, parameter in network.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert untouched == []


def test_derivative_of_the_gradient_in_the_parameters_agrees_with_finite_differences() -> None:
    network = Swirl()
    potential = Potential(network, OT())
    u = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = torch.linspace(0.1, 1.5, 6, dtype=torch.float64)

    def loss() -> Tensor:
        return (potential(u, angle).gradient - 1).square().sum()

    loss().backward()
    derivative, h = present(network.gain.grad), 1e-6
    network.gain.data += h
    above = loss().item()
    network.gain.data -= 2 * h
    assert (above - loss().item()) / (2 * h) == pytest.approx(derivative.item(), rel=1e-7)


@pytest.mark.parametrize("name", ["mlp", "unet"])
@pytest.mark.parametrize("recording", [True, False])
def test_network_in_bf16_gives_value_and_gradient_in_float32(name: str, recording: bool) -> None:
    network, shape = networks()[name]
    potential = Potential(network, OT())
    u, angle = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 1.5, 5)
    exact = potential(u, angle)
    potential.autocast_dtype = torch.bfloat16
    with torch.set_grad_enabled(recording):
        field = potential(u, angle)
    assert field.value.dtype == torch.float32
    assert field.gradient.dtype == torch.float32
    error = (field.gradient - exact.gradient).norm() / exact.gradient.norm()
    assert 0 < error < 0.05  # bf16 keeps eight bits
    if recording:
        field.gradient.square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)


def test_a_potential_in_float32_is_that_without_autocast_which_stays_as_it_was() -> None:
    network, shape = networks()["unet"]
    potential = Potential(network, OT())
    u, angle = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)), torch.linspace(0.1, 1.5, 5)
    exact = potential.potential(u, angle)
    potential.autocast_dtype = torch.bfloat16
    assert not torch.equal(potential.potential(u, angle), exact)
    with full_float32(potential, u.device):
        assert torch.equal(potential.potential(u, angle), exact)
    assert potential.autocast_dtype == torch.bfloat16


def test_the_gradient_is_the_same_under_inference_mode() -> None:
    network = MLP(3, classes=[2])
    potential = Potential(network, OT())
    with torch.no_grad():
        network.last.weight += 1
    u, angle, condition = (
        torch.randn(5, 3, generator=torch.Generator().manual_seed(0)),
        torch.full((5,), 0.7),
        torch.zeros(5, 1).long(),
    )
    with torch.no_grad():
        expected = potential.arc(u, angle, condition)
    with torch.inference_mode():
        field = potential.arc(u + 0, angle + 0, condition + 0)
    torch.testing.assert_close(field.gradient, expected.gradient)
    torch.testing.assert_close(field.value, expected.value)


@pytest.mark.parametrize("std", [0.0, -0.5, math.inf, math.nan])
def test_data_without_a_deviation_are_refused(std: float) -> None:
    with pytest.raises(ConfigError, match="data_std"):
        Potential(MLP(2), OT(), std)
