"""The latent method on linear decoders, whose densities are known: codes, free energies, log Z and training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pretended_gpu import pretend
from sklearn.decomposition import FactorAnalysis
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vpfb_core.machine import precision
from vpfb_core.methods.latent import particles
from vpfb_core.methods.latent.joint_energy import LatentField
from vpfb_core.methods.latent.log_partition import LatentCalibration, log_partition
from vpfb_core.methods.latent.particles import OF_DATA, OF_POOL, move
from vpfb_core.methods.latent.posterior import marginal, most_probable, posterior
from vpfb_core.methods.latent.two_stages import Latent, LatentSettings, denoised
from vpfb_core.methods.step import Batch, DataShape, Moment, Validation
from vpfb_core.networks.decoder import Decoder

D, K, LEVEL = 6, 2, 0.3


class Quadratic(nn.Module):
    """f(u) = −½ Σ p_i u_i² from u in units of the noise, (N, 1), up to a constant."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.constant = nn.Parameter(weights), 0.0

    def forward(self, u: Tensor) -> Tensor:
        variance = LEVEL**2 / (1 + LEVEL**2)
        return self.constant - 0.5 * variance * (self.weights * u.square()).sum(1, keepdim=True)


def linear_field(pool: int = 8, *, tilt: Tensor | None = None, seed: int = 0) -> LatentField:
    """A field whose decoder is a matrix, with f = 0 or a quadratic f."""
    network = Decoder(K, dim=D)
    draws = torch.Generator().manual_seed(seed)
    network.generator = nn.Sequential(nn.Linear(K, D, bias=False))
    network.generator[0].weight.data = torch.randn(D, K, generator=draws)
    if tilt is not None:
        network.tilt = nn.Sequential(Quadratic(tilt))
    return LatentField(network, LEVEL, pool)


def matrix(field: LatentField) -> Tensor:
    return next(field.network.generator.parameters()).detach().double()


def quadratic(field: LatentField) -> Quadratic:
    (module,) = field.network.tilt
    assert isinstance(module, Quadratic)
    return module


def covariance(field: LatentField) -> Tensor:
    """The covariance of u without f: s² G Gᵀ + v I."""
    g = matrix(field)
    return field.signal**2 * g @ g.T + field.variance.item() * torch.eye(D, dtype=torch.float64)


def mean_log_likelihood(precision: Tensor, of_data: Tensor) -> float:
    """Of data with this second moment under a centred Gaussian."""
    return -0.5 * float(D * math.log(2 * math.pi) - torch.logdet(precision) + (precision * of_data).sum())


def moments(x: Tensor, field: LatentField) -> Tensor:
    """The second moment of the noised data, over all noise."""
    x = x.double()
    return field.signal**2 * x.T @ x / len(x) + field.noise**2 * torch.eye(D, dtype=torch.float64)


def code_of(field: LatentField, u: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the codes given u, and a root of their covariance."""
    g, v, s = matrix(field), field.variance.item(), field.signal
    spread = torch.linalg.inv(torch.eye(K, dtype=torch.float64) + s**2 * g.T @ g / v)
    return (u.double() @ g @ spread * s / v).float(), torch.linalg.cholesky(spread).float()


def points(count: int = 40, seed: int = 1) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


# --- what is estimated at a point -------------------------------------------------------------------------------------


def test_the_free_energy_and_its_gradient_are_those_of_the_gaussian() -> None:
    field, u = linear_field(tilt=torch.linspace(-0.2, 0.5, D)), points()
    exact = MultivariateNormal(torch.zeros(D, dtype=torch.float64), covariance(field))
    found = marginal(field, u)
    f = -0.5 * torch.linspace(-0.2, 0.5, D) * u.square()
    energy = -exact.log_prob(u.double()) - f.double().sum(1)
    assert (found.energy - energy).abs().max() < 0.05
    score = -torch.linalg.solve(covariance(field), u.double().T).T - torch.linspace(-0.2, 0.5, D) * u
    assert (found.score - score).norm(dim=1).max() < 0.1 * score.norm(dim=1).mean()


def test_codes_are_the_posterior_means_of_factor_analysis() -> None:
    field, u = linear_field(), points()
    expected, root = code_of(field, u)
    assert ((posterior(field, u, steps=600).code - expected).abs() < 0.5 * root.norm(dim=1)).all()


def test_chains_of_codes_keep_the_posterior_of_factor_analysis() -> None:
    field, u = linear_field(), points(1).expand(4000, D)
    mean, root = code_of(field, u)
    draws = torch.Generator().manual_seed(2)
    z = mean + torch.randn(4000, K, generator=draws) @ root.T
    z, acceptance = move(field.given(u), z, torch.tensor(0.1), 40, draws)
    assert 0.2 < acceptance < 0.9
    assert ((z.mean(0) - mean[0]).abs() < 4 * root.norm(dim=1) / 4000**0.5).all()
    covariance_of_codes = root @ root.T
    assert (z.T.cov() - covariance_of_codes).abs().max() < 4 * (2 / 4000) ** 0.5 * covariance_of_codes.max()


def test_a_datum_is_denoised_to_its_mean_given_the_noised_one() -> None:
    field, u = linear_field(), points()
    s, c = field.signal, field.noise
    of_data = (covariance(field) - c**2 * torch.eye(D, dtype=torch.float64)) / s**2
    expected = s * torch.linalg.solve(covariance(field), of_data).T @ u.double().T
    found = denoised(field, u, posterior(field, u, steps=600).pull)
    assert (found - expected.T).abs().max() < 0.1


def test_targets_of_chains_are_in_true_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "TF32_DEVICES", ("cpu",))
    field, seen = linear_field(tilt=torch.ones(D)), []
    for module in (field.network.generator, field.network.tilt):
        module.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.matmul.fp32_precision))
    field.joint()(torch.zeros(2, D + K))
    field.given(torch.zeros(2, D))(torch.zeros(2, K))
    assert seen == ["ieee"] * 3
    assert torch.backends.cuda.matmul.fp32_precision != "ieee"


def test_log_z_is_that_of_the_gaussian_integral() -> None:
    weights = torch.linspace(0.1, 0.6, D)
    field = linear_field(tilt=weights)
    field.step_sizes.fill_(0.05)
    inside = torch.eye(D, dtype=torch.float64) + weights.double().diag() @ covariance(field)
    found = log_partition(field, seed=0)
    assert found.error < 0.05
    assert found.log_partition == pytest.approx(-0.5 * float(torch.logdet(inside)), abs=0.05)
    assert found.constant(LEVEL) == -found.log_partition


def test_without_f_log_z_is_zero_and_a_calibration_survives_its_description() -> None:
    found = log_partition(linear_field(), seed=0, chains=32)
    assert (found.log_partition, found.error) == (pytest.approx(0.0, abs=1e-6), pytest.approx(0.0, abs=1e-6))
    assert LatentCalibration.from_dict(found.to_dict()) == found


def test_log_z_is_found_on_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    field = linear_field()
    with pretend("mps", monkeypatch) as gpu:
        assert log_partition(field.to(gpu.device), seed=0, chains=32).log_partition == pytest.approx(0.0, abs=1e-6)


def test_a_calibration_computes_no_more_chains_at_once_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    decode = Decoder.decode

    def counted(network: Decoder, z: Tensor) -> Tensor:
        sizes.append(len(z))
        return decode(network, z)

    monkeypatch.setattr(Decoder, "decode", counted)
    found = []
    for batch_size in (64, 24):
        sizes.clear()
        field = linear_field(pool=40, tilt=torch.linspace(0.5, 2, D))
        particles.begin_pool(field, Moment(0, at_once=batch_size))
        field.pool_steps += 1
        latent = Latent(LatentSettings(level=LEVEL, pool=40))
        calibration = latent.calibrate(field, Validation(torch.zeros(4, D)), (), 200, batch_size)
        assert calibration is not None
        found.append((calibration.log_partition, field.pool.clone()))
        assert max(sizes) <= batch_size
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("wrong", [{"level": "0.3"}, {"log_partition": math.nan}, {"error": 10**400}])
def test_a_wrong_description_of_a_calibration_is_refused(wrong: dict[str, object]) -> None:
    document = LatentCalibration(0.3, 1.0, 0.1, D).to_dict() | wrong
    with pytest.raises(ValueError, match="not finite numbers"):
        LatentCalibration.from_dict(document)


# --- training ---------------------------------------------------------------------------------------------------------


def factors(count: int, noise: Sequence[float] = (0.3, 0.6, 0.4, 0.5, 0.8, 1.0)) -> Tensor:
    """Data of two factors and noise of different deviations, of mean zero."""
    draws = torch.Generator().manual_seed(5)
    loadings = torch.tensor([[1.2, 0.0], [0.9, 0.5], [-0.7, 0.8], [0.0, 1.0], [0.3, -0.4], [0.0, 0.2]])
    x = torch.randn(count, K, generator=draws) @ loadings.T + torch.tensor(noise) * torch.randn(
        count, D, generator=draws
    )
    return x - x.mean(0)


def train(method: Latent, field: LatentField, x: Tensor, steps: int, fraction: float, lr: float = 0.03) -> None:
    """Train a field on all data at once, with an average of the last half of the weights."""
    optimiser = torch.optim.Adam(field.parameters(), lr=lr, betas=(0.9, 0.99))
    average: dict[str, Tensor] = {}
    batch = Batch(x, None, 0, len(x), torch.arange(len(x)))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        optimiser.zero_grad()
        for loss in method.losses(field, batch, Moment(step, fraction)):
            (loss.weight * loss.value(slice(0, len(x)))).backward()
        optimiser.step()
        if step >= steps // 2:
            for name, parameter in field.named_parameters():
                share = parameter.detach() / (steps - steps // 2)
                average[name] = average[name] + share if name in average else share
    for name, parameter in field.named_parameters():
        parameter.data.copy_(average[name])


def method(pool: int = 8, **settings: int) -> Latent:
    return Latent(LatentSettings.from_dict({"level": LEVEL, "pool": pool, "decoder_share": 0.5, **settings}))


def test_the_first_stage_finds_the_maximum_of_probabilistic_principal_components() -> None:
    x, field = factors(500), linear_field(seed=3)
    train(method(), field, x, 300, fraction=0.0, lr=0.05)
    of_data = moments(x, field)
    values = torch.linalg.eigvalsh(of_data).flip(0)
    rest = values[K:].mean()
    best = -0.5 * float(D * math.log(2 * math.pi) + values[:K].log().sum() + (D - K) * rest.log() + D)
    found = mean_log_likelihood(torch.linalg.inv(covariance(field)), of_data)
    assert best - 0.003 < found < best + 1e-6


@pytest.mark.slow
def test_both_stages_find_the_maximum_of_factor_analysis() -> None:
    """With a linear decoder and a quadratic f, the precision is a diagonal less a matrix of rank K."""
    x = factors(800, (0.5, 0.6, 0.5, 0.6, 0.8, 0.9))
    field, both = linear_field(pool=800, tilt=torch.zeros(D), seed=3), method(pool=800, pool_steps=8)
    train(both, field, x, 150, fraction=0.0, lr=0.05)
    train(both, field, x, 2500, fraction=0.9, lr=0.012)
    of_data = moments(x, field)
    rows = D**0.5 * torch.linalg.cholesky(of_data).T.numpy()
    analysis = FactorAnalysis(K, tol=1e-9, max_iter=20_000).fit(
        np.concatenate([rows, -rows])
    )  # whose moments are exact
    best = mean_log_likelihood(torch.from_numpy(analysis.get_precision()), of_data)
    weights = quadratic(field).weights.detach().double()
    found = mean_log_likelihood(torch.linalg.inv(covariance(field)) + weights.diag(), of_data)
    assert best - 0.003 < found < best + 1e-6


def test_the_second_stage_follows_the_gradient_of_the_likelihood() -> None:
    """With exact draws of codes and states, whose chains keep their densities. A constant in f must have no effect."""
    count, weights = 100_000, torch.linspace(0.0, 0.6, D)
    field, latent, at = linear_field(pool=count, tilt=weights), method(count), Moment(0, 0.9)
    quadratic(field).constant = 20.0
    field.step_sizes.fill_(0.02)
    field.pool_steps.fill_(1)
    x = factors(count)
    u = field.signal * x + field.noise * torch.randn(x.shape, generator=at.generator("noise"))
    draws = torch.Generator().manual_seed(7)
    precision = torch.linalg.inv(covariance(field)) + weights.double().diag()
    states = torch.randn(count, D, generator=draws) @ torch.linalg.cholesky(torch.linalg.inv(precision)).float().T
    (of_states, root), (of_data, _) = (code_of(field, each) for each in (states, u))
    field.pool.copy_(torch.cat([states, of_states + torch.randn(count, K, generator=draws) @ root.T], 1))
    latent.load_state({"codes": of_data + torch.randn(count, K, generator=draws) @ root.T})
    (loss,) = latent.losses(field, Batch(x, None, 0, count, torch.arange(count)), at)
    (loss.weight * loss.value(slice(0, count))).backward()

    g, spread, p = (each.detach().double().requires_grad_() for each in (matrix(field), field.log_spread, weights))
    s, c = field.signal, field.noise
    inside = s**2 * g @ g.T + (s**2 * spread.exp() + c**2) * torch.eye(D, dtype=torch.float64)
    precision = torch.linalg.inv(inside) + p.diag()
    of_u = u.double().T @ u.double() / count
    exact = torch.autograd.grad(0.5 / D * ((precision * of_u).sum() - torch.logdet(precision)), (g, spread, p))
    trained = next(field.network.generator.parameters()), field.log_spread, quadratic(field).weights
    for parameter, gradient in zip(trained, exact, strict=True):
        assert parameter.grad is not None
        assert (parameter.grad - gradient).abs().max() < 0.02 * gradient.abs().max() + 1e-3


def test_the_codes_of_data_never_move_in_larger_steps_than_the_pool() -> None:
    x, field, latent = factors(64), linear_field(pool=64, tilt=torch.zeros(D)), method(64)
    batch = Batch(x, None, 0, len(x), torch.arange(len(x)))
    list(latent.losses(field, batch, Moment(0, 0.9)))
    field.step_sizes.copy_(torch.tensor([0.5, 0.01]))
    for step in range(1, 4):
        list(latent.losses(field, batch, Moment(step, 0.9)))
        assert field.step_sizes[OF_DATA] <= field.step_sizes[OF_POOL]


@pytest.mark.parametrize(("of_data", "of_pool"), [(0.1, 0.04), (0.2, 0.05), (0.08, 0.02)])
def test_larger_steps_of_the_codes_are_unstable_from_the_stated_rate_on(of_data: float, of_pool: float) -> None:
    """The energy ½z² − a z: the means follow a, and a rises by their difference. docs/latent.md states the onset."""

    def growth(rate: float) -> float:
        step = np.array(
            [[1 - of_data, 0, of_data], [0, 1 - of_pool, of_pool], [rate, -rate, 1]]  # data, pool, a
        )
        return float(np.abs(np.linalg.eigvals(step)).max())

    onset = of_data * of_pool / (of_data - of_pool)
    assert growth(0.9 * onset) <= 1 + 1e-9
    assert growth(1.1 * onset) > 1 + 1e-6
    assert growth(10 * onset) > growth(2 * onset)


def test_the_field_belongs_to_the_shape_of_its_data() -> None:
    field = method().field(Decoder(3, channels=1, size=4), DataShape((1, 4, 4)))
    energy, score = field.energy_and_score(torch.zeros(5, 1, 4, 4), LEVEL)
    assert (energy.shape, score.shape) == ((5,), (5, 1, 4, 4))


def test_first_codes_are_looked_for_only_for_data_that_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[int] = []

    def counted(field: LatentField, u: Tensor, candidates: Tensor) -> Tensor:
        looked_for.append(len(u))
        return most_probable(field, u, candidates)

    monkeypatch.setattr(particles, "most_probable", counted)
    field, x = linear_field(), factors(8)
    known = particles.Particles()
    for step, keys in enumerate(([0, 1, 2], [1, 2, 0], [2, 7, 5])):
        known.codes_of(field, Batch(x[:3], None, 0, 3, torch.tensor(keys)), x[:3], Moment(step), 2, bound=False)
    assert looked_for == [3, 2]
    restored = particles.Particles()
    restored.load(known.tensors())
    batch = Batch(x[:3], None, 0, 3, torch.tensor([7, 0, 6]))
    restored.codes_of(field, batch, x[:3], Moment(3), 2, bound=False)
    assert looked_for == [3, 2, 1]
