"""The objectives: where they are minimal, and what their gradients have in common."""

from __future__ import annotations

import math

import pytest
import torch
from present import present
from problems import STD, ExactNetwork, Mixture, anisotropic, ring, scattered
from torch import Tensor, nn

from vpfb_core.dynamics.per_sample import expand_to
from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.draws import Part
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.objectives import OBJECTIVES, Objective, official, regression, residual, ritz, stein
from vpfb_core.methods.vpfb.potential import Potential, UnpreconditionedPotential

every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bump(nn.Module):
    """A perturbation of a potential: strength · sin(k·u + φ)."""

    wave = torch.tensor([1.1, -0.7], dtype=torch.float64)

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.strength * torch.sin(u @ self.wave + angle)


class Sum(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        return sum((part(u, angle, condition) for part in self.parts), torch.zeros((), dtype=u.dtype))


class Small(nn.Module):
    """A fixed small network with a scalar answer, 27 parameters, float64."""

    def __init__(self, dimension: int = 2, width: int = 5) -> None:
        super().__init__()
        self.inner = nn.Linear(dimension + 1, width, dtype=torch.float64)
        self.outer = nn.Linear(width, 1, bias=False, dtype=torch.float64)
        draws = generator(3)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.outer(torch.tanh(self.inner(torch.cat([u, angle[:, None]], 1)))).squeeze(1)


class Recorder(nn.Module):
    """Answers in the shape of u by c · u and remembers what it was asked."""

    def __init__(self, gain: float = 0.4) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))
        self.calls: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls.append((u, angle, condition))
        return self.gain * u + 0 * expand_to(angle, u)


def residuals(network: nn.Module, mixture: Mixture, n: int = 20_000) -> Tensor:
    """Per-sample residuals at the same draws for every network."""
    draws = generator(1)
    data = mixture.sample(n, draws)
    noise = torch.randn(data.shape, generator=draws, dtype=torch.float64)
    angle = AngleDistribution(0.5, 1.0).sample(n, (0.0, 1.5), like=data, generator=draws)
    return residual(Potential(network, OT(), STD), data, angle, noise)


# --- the functional ---------------------------------------------------------------------------------------------------


def test_residual_of_the_zero_potential_is_1_on_average() -> None:
    class Zero(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return 0 * u.sum(1)

    values = residuals(Zero(), scattered())
    assert abs(values.mean() - 1) < 4 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("strength", [-0.5, -0.1, 0.1, 0.5])
def test_residual_rises_from_the_exact_potential_by_the_square_of_the_perturbation(strength: float) -> None:
    # The exact ∇N is the conditional mean of y, so any perturbation δ adds E‖∇δ‖²/d and nothing else.
    mixture = anisotropic()
    exact = ExactNetwork(mixture)
    excess = residuals(Sum(exact, Bump(strength)), mixture) - residuals(exact, mixture)

    draws = generator(1)
    data = mixture.sample(len(excess), draws)
    noise = torch.randn(data.shape, generator=draws, dtype=torch.float64)
    angle = AngleDistribution(0.5, 1.0).sample(len(excess), (0.0, 1.5), like=data, generator=draws)
    u = torch.sin(angle)[:, None] * data / STD + torch.cos(angle)[:, None] * noise
    square = strength**2 * torch.cos(u @ Bump.wave + angle).square() * Bump.wave.square().sum() / 2

    difference = excess - square
    assert abs(difference.mean()) < 4 * difference.std() / math.sqrt(len(difference))
    assert excess.mean() > 0


def gradients(objective: Objective, network: nn.Module, batches: int, angles: AngleDistribution) -> Tensor:
    """The gradient in all parameters for each of many batches, (batches, P); batch i is the same for any objective."""
    mixture, potential, rows = anisotropic(), Potential(network, OT(0.1), STD), []
    for i in range(batches):
        draws = generator(100 + i)
        data = mixture.sample(512, draws)
        loss = objective(potential, data, generator=draws, angles=angles)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]))
    return torch.stack(rows)


@pytest.mark.parametrize("angles", [AngleDistribution(), AngleDistribution(-1.0, 0.8)], ids=["default", "noisy"])
def test_ritz_and_stein_have_the_same_expected_gradient_and_ritz_the_larger_variance(angles: AngleDistribution) -> None:
    network = Small()
    by_stein, by_ritz = (gradients(objective, network, 60, angles) for objective in (stein, ritz))
    # stein's loss is ‖∇N − y‖² where ritz has ‖∇N‖² − 2 N g, so the two agree without a factor.
    difference = by_ritz - by_stein
    z = difference.mean(0) / (difference.std(0) / math.sqrt(len(difference)))
    assert z.abs().max() < 4  # the largest of 20 correlated normal variables
    assert z.square().mean() < 3
    # The comparison has teeth: the mean gradient itself is far from zero.
    assert (by_stein.mean(0) / (by_stein.std(0) / math.sqrt(len(by_stein)))).abs().max() > 20
    assert by_ritz.var(0).sum() > by_stein.var(0).sum()


def test_ritz_of_a_linear_potential_has_its_exact_expectation() -> None:
    # N = b·u: E‖∇N‖² = ‖b‖², and E[N g] = E[b·y] = 0 since both z and ε have mean zero given φ.
    class Linear(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return u @ torch.tensor([0.6, -0.8], dtype=u.dtype)

    mixture, potential = ring(), Potential(Linear(), OT(0.1), STD)
    losses = []
    for i in range(40):
        draws = generator(i)
        losses.append(ritz(potential, mixture.sample(1024, draws), generator=draws))
    values = torch.stack(losses)
    assert abs(values.mean() - 0.5) < 4 * values.std() / math.sqrt(len(values))  # ‖b‖²/d


@pytest.mark.parametrize("objective", [stein, ritz])
def test_a_free_function_of_the_angle_does_not_change_the_loss(objective: Objective) -> None:
    # In ritz the baseline takes it out exactly; without one it would be noise of mean zero.
    class Free(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return 10 * torch.exp(angle)

    network, data = Small(), anisotropic().sample(64, generator())
    losses = [
        objective(Potential(each, OT(0.1), STD), data, generator=generator(1))
        for each in (network, Sum(network, Free()))
    ]
    torch.testing.assert_close(*losses)


def test_stein_is_the_mean_residual_over_opposite_noise() -> None:
    network = Recorder()
    data = anisotropic().sample(32, generator())
    loss = stein(Potential(network, OT(), STD), data, generator=generator(1))
    (u, angle, _) = network.calls[0]
    assert torch.equal(angle[:32], angle[32:])
    sine, cosine = torch.sin(angle)[:, None], torch.cos(angle)[:, None]
    z = torch.cat([data, data]) / STD
    noise = (u.detach() - sine * z) / cosine
    torch.testing.assert_close(noise[:32], -noise[32:])
    # f = c u gives N = (½ c² − c) ‖u‖² and ∇N = (c² − 2c) u.
    gradient = (0.4**2 - 2 * 0.4) * u.detach()
    expected = (gradient - (cosine * z - sine * noise)).square().mean()
    torch.testing.assert_close(loss.detach(), expected)


# --- the authors' loss ------------------------------------------------------------------------------------------------


def test_official_loss_of_a_linear_denoiser_is_the_authors_formula() -> None:
    # f = c x gives Φ = ½ (1 − c)² ‖x‖², ∇Φ = (1 − c)² x and ∂ₜΦ = 0; draws are read off from what the network saw.
    network, schedule = Recorder(0.4), OT(1e-6)
    data = scattered().sample(16, generator())
    loss = official(UnpreconditionedPotential(network, schedule, STD), data, generator=generator(1))
    x, angle = (tensor.detach() for tensor in network.calls[0][:2])
    signal = torch.tan(angle) / STD  # t/σ
    t = signal / (1 + (1 - 1e-6) * signal)
    noise = (x - t[:, None] * data) / (1 - (1 - 1e-6) * t)[:, None]

    n, d, k = 16, 5, (1 - 0.4) ** 2
    gamma, alignment, kinetic, phi = [], [], [], []
    for i in range(n):
        xi, ei, zi = (tensor[i].tolist() for tensor in (x, noise, data))
        ti = t[i].item()
        grad, velocity = [k * a for a in xi], [b - e for b, e in zip(zi, ei, strict=True)]
        phi.append(0.5 * k * sum(a * a for a in xi))
        gamma.append((1 - ti) * sum(e * e - b * e for b, e in zip(zi, ei, strict=True)) / d)
        dot = sum(g * v for g, v in zip(grad, velocity, strict=True)) / d
        norms = math.hypot(*grad) * math.hypot(*velocity)
        alignment.append(dot / (norms + 1e-8) ** ti)
        kinetic.append(0.5 * sum(g * g for g in grad) / d)
    centred = [g - sum(gamma) / n for g in gamma]
    std_gamma = math.sqrt(sum(g * g for g in centred) / (n - 1))
    mean_phi = sum(phi) / n
    std_phi = math.sqrt(sum((p - mean_phi) ** 2 for p in phi) / (n - 1))
    covariance = sum(g * p for g, p in zip(centred, phi, strict=True)) / n / (std_gamma * std_phi + 1e-8)
    expected = covariance + (sum(kinetic) - sum(alignment)) / n
    assert loss.item() == pytest.approx(expected, rel=1e-6)  # t is recovered from an angle

    # In k: Γ's term is linear, since std Φ is held; the kinetic term is quadratic, the alignment a power 1 − t.
    loss.backward()
    falling = sum((1 - ti) * each for ti, each in zip(t.tolist(), alignment, strict=True))
    slope = (covariance + (2 * sum(kinetic) - falling) / n) / k
    assert present(network.gain.grad).item() == pytest.approx(-2 * (1 - 0.4) * slope, rel=1e-6)


def test_official_loss_refuses_a_batch_of_one_and_takes_a_part_of_one() -> None:
    potential = UnpreconditionedPotential(ExactNetwork(ring()), OT(0.02), STD)
    with pytest.raises(ConfigError, match="needs at least 2 data"):
        official(potential, torch.zeros(1, 2), generator=generator(0))
    assert official(potential, torch.zeros(1, 2), generator=generator(0), part=Part(2, 3)).isfinite()


def test_official_loss_penalises_change_in_time() -> None:
    # f = x − √(2 s(φ)) e₁ gives Φ = s, a function of time alone: Γ is centred, ∇Φ = 0, only 0.1 mean (∂ₜΦ)² is left.
    class Clock(nn.Module):
        def forward(self, x: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            # tan φ = a t/σ; invert to t, then Φ = 3 t + 1.
            signal = torch.tan(angle) / STD
            t = signal / (1 + (1 - 1e-6) * signal)
            shift = torch.zeros_like(x)
            shift[:, 0] = 1
            return x - torch.sqrt(2 * (3 * t + 1))[:, None] * shift

    data = scattered().sample(256, generator())
    potential = UnpreconditionedPotential(Clock(), OT(1e-6), STD)
    draws = generator(1)
    loss = official(potential, data, generator=draws)
    # The covariance of Γ with Φ, both functions of the same draws, is what remains beside 0.1 · 3².
    draws = generator(1)
    t = torch.rand(256, generator=draws, dtype=torch.float64)
    noise = torch.randn(data.shape, generator=draws, dtype=torch.float64)
    gamma = (1 - t) * (noise**2 - data * noise).mean(1)
    phi = 3 * t + 1
    correlation = torch.corrcoef(torch.stack([gamma, phi]))[0, 1] * 255 / 256
    assert loss.item() == pytest.approx(0.9 + correlation.item(), rel=1e-5)


def test_official_gradient_is_finite_and_reaches_the_network() -> None:
    network = Recorder()
    loss = official(
        UnpreconditionedPotential(network, OT(), STD), ring().sample(64, generator()), generator=generator()
    )
    loss.backward()
    assert loss.isfinite()
    assert present(network.gain.grad).isfinite()
    assert network.gain.grad != 0


# --- what all have in common ------------------------------------------------------------------------------------------


@every_objective
@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)])
def test_loss_is_a_scalar_and_differentiable_for_vectors_and_images(
    objective: Objective, shape: tuple[int, ...]
) -> None:
    network = Recorder()
    kind = UnpreconditionedPotential if objective is official else Potential
    data = STD * torch.randn(8, *shape, generator=generator(), dtype=torch.float64)
    loss = objective(kind(network, OT(), STD), data, generator=generator(1))
    assert loss.shape == ()
    loss.backward()
    assert present(network.gain.grad).isfinite()


@every_objective
def test_randomness_comes_from_the_generator_alone(objective: Objective) -> None:
    kind = UnpreconditionedPotential if objective is official else Potential
    potential, data = kind(Recorder(), OT(), STD), ring().sample(16, generator())
    before = torch.get_rng_state()
    first = objective(potential, data, generator=generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(objective(potential, data, generator=generator(1)), first)
    assert not torch.equal(objective(potential, data, generator=generator(2)), first)


@every_objective
def test_condition_of_each_sample_goes_with_it(objective: Objective) -> None:
    network = Recorder()
    kind = UnpreconditionedPotential if objective is official else Potential
    data = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None] * 1e3  # the network can tell samples apart
    condition = torch.stack([torch.arange(8), -torch.ones(8, dtype=torch.int64)], 1)
    objective(kind(network, OT(), STD), data, condition, generator=generator())
    for u, angle, seen in network.calls:
        scale = 1.0 if objective is official else STD
        fraction = (
            torch.tan(angle) / STD / (1 + 0.999 * torch.tan(angle) / STD) if objective is official else torch.sin(angle)
        )
        index = (u.detach()[:, 0] * scale / fraction.detach() / 1e3).round().long() - 1
        clear = fraction > 0.05  # else noise hides the sample
        assert clear.sum() >= len(u) // 2
        assert torch.equal(present(seen)[clear, 0], index[clear])
        assert (present(seen)[:, 1] == -1).all()


@every_objective
def test_no_condition_stays_none(objective: Objective) -> None:
    network = Recorder()
    kind = UnpreconditionedPotential if objective is official else Potential
    objective(kind(network, OT(), STD), ring().sample(8, generator()), generator=generator())
    assert network.calls
    assert all(condition is None for _, _, condition in network.calls)


def test_the_regression_is_least_where_the_potential_has_the_velocity_to_second_order() -> None:
    """Gaussian data of standard deviation b have the velocity A u, A = sin φ cos φ (b² − 1)/(b² sin²φ + cos²φ)."""
    deviation, angle = 1.1, torch.full((1 << 16,), 0.5, dtype=torch.float64)
    slope = (
        math.sin(0.5) * math.cos(0.5) * (deviation**2 - 1) / (deviation**2 * math.sin(0.5) ** 2 + math.cos(0.5) ** 2)
    )

    class Linear(nn.Module):
        def __init__(self, gain: float) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return self.gain * u

    class OneAngle(AngleDistribution):
        def sample(self, n: int, *_: object, **__: object) -> Tensor:
            return angle[:n]

    data = STD * deviation * torch.randn(1 << 16, 2, generator=generator(1), dtype=torch.float64)
    network = Linear(-slope / 2)
    model = Potential(network, OT())
    loss = regression(model, data, generator=generator(), angles=OneAngle())
    loss.backward()
    assert abs(float(present(network.gain.grad))) < 0.02
    u = data[:4] / STD
    assert torch.allclose(model(u, angle[:4]).gradient, slope * u, atol=1.01 * slope**2 / 4 * float(u.abs().max()))


def test_the_regression_needs_an_output_with_the_shape_of_its_input() -> None:
    with pytest.raises(ConfigError, match="shape of its input"):
        regression(Potential(Small(), OT()), anisotropic().sample(4, generator(1)), generator=generator())
