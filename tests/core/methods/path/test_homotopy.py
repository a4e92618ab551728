"""The schedules against autograd, finite differences, Bayes' rule and quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from problems import SCHEDULES, PowerHomotopy
from torch import Tensor
from torch.distributions import Normal

from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.homotopy import OT, VP, Homotopy, LogHomotopy, from_dict

TIMES = torch.linspace(0, 1, 41, dtype=torch.float64)
LOG_HOMOTOPIES = {name: schedule for name, schedule in SCHEDULES.items() if isinstance(schedule, LogHomotopy)}

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
every_log_homotopy = pytest.mark.parametrize("schedule", LOG_HOMOTOPIES.values(), ids=LOG_HOMOTOPIES.keys())


def gaussian(std: float, mean: float = 0.0) -> Normal:
    """N(mean, std²) in float64, where Normal makes float32 of numbers."""
    return Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


def draws(n: int = 41, d: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    return data, noise


@every_schedule
@pytest.mark.parametrize("function", ["mean", "std"])
def test_derivative_is_that_of_the_function(schedule: Homotopy, function: str) -> None:
    t = TIMES.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(getattr(schedule, function)(t).sum(), t)
    torch.testing.assert_close(getattr(schedule, f"{function}_derivative")(TIMES), by_autograd, rtol=1e-10, atol=1e-10)


@every_schedule
@pytest.mark.parametrize("function", ["mean", "std"])
def test_derivative_agrees_with_finite_differences(schedule: Homotopy, function: str) -> None:
    inner, h = TIMES[1:-1], 1e-5
    differences = (getattr(schedule, function)(inner + h) - getattr(schedule, function)(inner - h)) / (2 * h)
    # The error of a central difference is h²/6 times a third derivative, at most about 1e4 here.
    torch.testing.assert_close(getattr(schedule, f"{function}_derivative")(inner), differences, rtol=1e-6, atol=1e-6)


@every_schedule
def test_wronskian_is_positive_and_the_angle_rises_at_its_rate(schedule: Homotopy) -> None:
    assert (schedule.wronskian(TIMES) > 0).all()
    for a in (0.5, 1.0, 2.0):
        t = TIMES.clone().requires_grad_()
        (rise,) = torch.autograd.grad(schedule.angle(t, a).sum(), t)
        variance = (schedule.mean(TIMES) * a).square() + schedule.std(TIMES).square()
        torch.testing.assert_close(rise, a * schedule.wronskian(TIMES) / variance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("schedule", "expected"), [(OT(), 1.0), (OT(0.2), 1.0), (VP(0.1), math.acos(0.1))])
def test_wronskian_of_ot_and_vp_is_constant(schedule: Homotopy, expected: float) -> None:
    torch.testing.assert_close(schedule.wronskian(TIMES), torch.full_like(TIMES, expected))


@every_log_homotopy
def test_log_homotopy_is_the_product_of_prior_and_likelihood(schedule: LogHomotopy) -> None:
    x, datum = torch.linspace(-3, 3, 101, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    for t in TIMES:
        prior = schedule.prior_weight(t) * gaussian(schedule.omega).log_prob(x)
        likelihood = schedule.likelihood_weight(t) * Normal(x, schedule.nu).log_prob(datum)
        conditional = Normal(schedule.mean(t) * datum, schedule.std(t)).log_prob(x)
        # Equal up to the normaliser, which does not depend on x.
        excess = prior + likelihood - conditional
        scale = 1 + conditional.abs().max().item()
        assert (excess - excess[0]).abs().max() < 1e-12 * scale


@pytest.mark.parametrize("schedule", [OT(1e-3), OT(0.1)])
def test_ot_is_the_product_with_the_stated_weights(schedule: OT) -> None:
    x, datum = torch.linspace(-3, 3, 101, dtype=torch.float64), torch.tensor(1.3, dtype=torch.float64)
    for t in TIMES:
        variance = schedule.std(t).square()
        product = (1 - t) / variance * gaussian(1.0).log_prob(x) + t / variance * Normal(x, 1.0).log_prob(datum)
        conditional = Normal(schedule.mean(t) * datum, schedule.std(t)).log_prob(x)
        excess = product - conditional
        # (1 − t) + t = 1 gives the precision 1/σ² only with these weights.
        assert (excess - excess[0]).abs().max() < 1e-12 * (1 + conditional.abs().max().item())


def test_product_density_has_mean_and_deviation_of_the_conditional_by_quadrature() -> None:
    schedule, t, datum = PowerHomotopy(omega=0.8, nu=0.2), 0.3, 0.7
    x = torch.linspace(-6, 6, 24001, dtype=torch.float64)
    log_product = schedule.prior_weight(t) * gaussian(0.8).log_prob(x)
    log_product = log_product + schedule.likelihood_weight(t) * gaussian(0.2, datum).log_prob(x)
    density = torch.softmax(log_product, 0)
    mean = (density * x).sum().item()
    std = (density * (x - mean).square()).sum().sqrt().item()
    assert mean == pytest.approx(schedule.mean(t).item() * datum, rel=1e-10)
    assert std == pytest.approx(schedule.std(t).item(), rel=1e-10)


@every_schedule
def test_a_sample_of_images_is_that_of_the_vectors_they_flatten_to(schedule: Homotopy) -> None:
    data, noise = draws(d=12)
    image = schedule.sample(data.reshape(-1, 3, 2, 2), TIMES, noise.reshape(-1, 3, 2, 2))
    vector = schedule.mean(TIMES)[:, None] * data + schedule.std(TIMES)[:, None] * noise
    torch.testing.assert_close(image.flatten(1), vector)


@every_schedule
@pytest.mark.parametrize("a", [0.25, 0.5, 1.0])
def test_time_of_the_angle_of_a_time_is_that_time(schedule: Homotopy, a: float) -> None:
    torch.testing.assert_close(schedule.time(schedule.angle(TIMES, a), a), TIMES, rtol=0, atol=1e-11)


@every_schedule
def test_time_of_an_angle_beyond_the_range_is_the_nearest_end(schedule: Homotopy) -> None:
    start, end = schedule.angle_range(0.5)
    angles = torch.tensor([start - 0.1, end + 1e-4, math.pi / 2], dtype=torch.float64)
    torch.testing.assert_close(schedule.time(angles, 0.5), torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))


@every_schedule
def test_angle_range_runs_upwards_and_stays_below_the_singular_end(schedule: Homotopy) -> None:
    start, end = schedule.angle_range(0.5)
    assert 0 <= start < end < math.pi / 2
    noiseless_start = schedule.mean(0.0).item() == 0
    assert (start == 0) == noiseless_start
    assert math.tan(end) == pytest.approx(0.5 * schedule.mean(1.0).item() / schedule.std(1.0).item())


@pytest.mark.parametrize(
    ("schedule", "at_0", "at_1"),
    [
        (OT(0.01), (0, 1), (1, 0.01)),
        (VP(0.01), (0, 1), (math.sqrt(1 - 1e-4), 0.01)),
        (LogHomotopy(), (0, 1), (1, 0.01)),
        (LogHomotopy(omega=2.0, nu=0.1), (0, 2), (1, 0.1)),
        (PowerHomotopy(omega=0.8, nu=0.2), (0, 0.8), (1, 0.2)),
    ],
)
def test_schedule_starts_at_the_prior_and_ends_at_the_floor(
    schedule: Homotopy, at_0: tuple[float, float], at_1: tuple[float, float]
) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.mean(ends), torch.tensor([at_0[0], at_1[0]], dtype=torch.float64))
    torch.testing.assert_close(schedule.std(ends), torch.tensor([at_0[1], at_1[1]], dtype=torch.float64))


def test_noise_of_the_default_log_homotopy_falls_like_a_power() -> None:
    # To first order the excess is ½ t ν^(2t).
    excess = LogHomotopy(nu=0.01).std(TIMES) / 0.01**TIMES - 1
    assert (excess[TIMES > 0.2].abs() <= TIMES[TIMES > 0.2] * 1e-4 ** TIMES[TIMES > 0.2]).all()


@every_schedule
@pytest.mark.parametrize("function", ["mean", "std", "mean_derivative", "std_derivative", "wronskian"])
def test_a_number_is_a_time_like_any_tensor(schedule: Homotopy, function: str) -> None:
    for t in (0, 0.3, 1, 1.0):
        tensor = getattr(schedule, function)(torch.tensor(t, dtype=torch.float64))
        torch.testing.assert_close(getattr(schedule, function)(t).double(), tensor, rtol=0, atol=0)
        assert getattr(schedule, function)(torch.tensor([t], dtype=torch.float32)).dtype == torch.float32
    whole = getattr(schedule, function)(torch.tensor([0, 1]))
    torch.testing.assert_close(whole, getattr(schedule, function)(torch.tensor([0, 1], dtype=torch.float64)))


@every_schedule
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_number_keeps_dtype_and_precision_of_the_data(schedule: Homotopy, dtype: torch.dtype) -> None:
    data, noise = (tensor.to(dtype) for tensor in draws())
    tolerance = 1e-14 if dtype == torch.float64 else 1e-5
    by_number = schedule.sample(data, 0.7, noise)
    by_tensor = schedule.sample(data, torch.full((len(data),), 0.7, dtype=dtype), noise)
    assert by_number.dtype == dtype
    torch.testing.assert_close(by_number, by_tensor, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("schedule", [OT(0.02), VP(0.03), LogHomotopy(omega=1.5, nu=0.2)])
def test_description_rebuilds_the_schedule(schedule: Homotopy) -> None:
    assert from_dict(schedule.to_dict()) == schedule
    assert schedule.to_dict()["name"] == schedule.name


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 2.0, math.nan])
@pytest.mark.parametrize("schedule", [OT, VP])
def test_floor_outside_0_to_1_is_refused_with_its_value(schedule: type[Homotopy], value: float) -> None:
    with pytest.raises(ConfigError, match=f"sigma_min = {value}"):
        schedule(sigma_min=value)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "parameters", [{"omega": 0.0}, {"omega": -1.0}, {"omega": math.nan}, {"omega": math.inf}, {"nu": 0.0}, {"nu": 1.0}]
)
def test_log_homotopy_without_a_proper_prior_and_likelihood_is_refused(parameters: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(parameters))):
        LogHomotopy(**parameters)


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"name": "linear"},
        {"name": "ot", "nu": 0.1},
        {"name": "ot", "sigma_min": "low"},
        {"name": "vp", "sigma_min": 0},
    ],
)
def test_description_that_is_no_schedule_is_a_config_error(description: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        from_dict(description)
