"""The distribution of the angles in training, against a truncated normal distribution of scipy."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from problems import STD
from scipy import stats
from torch import Tensor

from vpfb_core.errors import ConfigError
from vpfb_core.methods.path.angles import LEAST_UNIFORM_NOISE, AngleDistribution
from vpfb_core.methods.path.homotopy import OT, VP

RANGES = {"ot": OT().angle_range(STD), "vp": VP(0.1).angle_range(STD), "inner": (0.3, 1.2)}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def truncated(angles: AngleDistribution, angle_range: tuple[float, float]) -> stats.rv_continuous:
    low, high = (math.log(math.tan(angle)) if angle > 0 else -math.inf for angle in angle_range)
    bounds = ((low - angles.mean) / angles.std, (high - angles.mean) / angles.std)
    return stats.truncnorm(*bounds, loc=angles.mean, scale=angles.std)


@pytest.mark.parametrize("angle_range", RANGES.values(), ids=RANGES.keys())
@pytest.mark.parametrize("angles", [AngleDistribution(), AngleDistribution(-0.5, 2.0)], ids=["default", "wide"])
def test_log_tangent_is_a_normal_cut_to_the_range(angles: AngleDistribution, angle_range: tuple[float, float]) -> None:
    like = torch.zeros((), dtype=torch.float64)
    angle = angles.sample(20_000, angle_range, like=like, generator=generator())
    log_snr = torch.log(torch.tan(angle))
    exact = truncated(angles, angle_range)
    # Stratification makes errors far smaller than 1/√n; 1e-3 would catch a wrong mean, deviation or cut.
    assert log_snr.mean().item() == pytest.approx(exact.mean(), abs=1e-3)
    assert log_snr.std().item() == pytest.approx(exact.std(), abs=1e-3)
    assert stats.kstest(log_snr.numpy(), exact.cdf).statistic < 1e-3


@pytest.mark.parametrize("angle_range", RANGES.values(), ids=RANGES.keys())
def test_one_angle_falls_into_each_stratum(angle_range: tuple[float, float]) -> None:
    like = torch.zeros((), dtype=torch.float64)
    angle = AngleDistribution().sample(100, angle_range, like=like, generator=generator())
    quantiles = truncated(AngleDistribution(), angle_range).cdf(torch.log(torch.tan(angle)).numpy())
    assert (quantiles * 100).astype(int).tolist() == list(range(100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angles", [AngleDistribution(), AngleDistribution(4.0, 3.0), AngleDistribution(-6.0, 2.0)])
def test_angles_are_finite_and_within_the_range(angles: AngleDistribution, dtype: torch.dtype) -> None:
    for low, high in RANGES.values():
        angle = angles.sample(10_000, (low, high), like=torch.zeros((), dtype=dtype), generator=generator())
        assert angle.dtype == dtype
        assert angle.min() >= torch.tensor(low, dtype=dtype)
        assert angle.max() <= torch.tensor(high, dtype=dtype)
        assert angle.isfinite().all()


def test_angles_at_the_ends_of_the_quantiles_are_the_ends_of_the_range() -> None:
    for low, high in RANGES.values():
        ends = AngleDistribution().quantile(torch.tensor([0.0, 1.0], dtype=torch.float64), (low, high))
        torch.testing.assert_close(ends, torch.tensor([low, high], dtype=torch.float64))


def test_draws_for_larger_images_and_longer_vectors_lie_nearer_to_noise() -> None:
    of = AngleDistribution.for_shape
    assert of((2,)) == of((64,)) == AngleDistribution()
    assert of((1, 4, 4)) == of((1, 8, 8)) == of((3, 8, 8)) == AngleDistribution(0.45)
    for few, many in ((of((784,)), of((4 * 784,))), (of((1, 28, 28)), of((1, 56, 56)))):
        # A component of the same share of the variance is as large as the noise at half the tan φ.
        assert few.mean - many.mean == pytest.approx(math.log(2))
        assert few.std == many.std


@pytest.mark.parametrize("angles", [AngleDistribution(10.0, 0.5), AngleDistribution(8.0, 0.1)])
def test_distribution_that_misses_the_range_is_refused(angles: AngleDistribution) -> None:
    with pytest.raises(ConfigError, match=f"mean {angles.mean}"):
        angles.quantile(torch.tensor([0.5]), OT().angle_range(STD))


def test_angles_are_the_generators_and_no_others() -> None:
    like = torch.zeros(())
    draw: Callable[[int], Tensor] = lambda seed: AngleDistribution().sample(  # noqa: E731
        50, (0.0, 1.5), like=like, generator=generator(seed)
    )
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_a_share_of_the_training_angles_is_uniform_in_the_log_of_the_tangent_and_the_rest_is_as_without_it() -> None:
    n, angle_range = 4000, OT().angle_range(0.5)
    angles = AngleDistribution(1.0, 1.2, uniform=0.25)
    drawn = angles.sample(n, angle_range, like=torch.zeros(1).double(), generator=torch.Generator().manual_seed(0))
    log_ratio = torch.log(torch.tan(drawn))
    low, high = 1.0 - 2 * 1.2, -math.log(LEAST_UNIFORM_NOISE)
    uniform = stats.kstest(log_ratio[: n // 4].numpy(), stats.uniform(low, high - low).cdf)
    assert uniform.statistic < 1.01 / (n // 4), "one angle in each stratum"
    normal = stats.kstest(log_ratio[n // 4 :].numpy(), truncated(angles, angle_range).cdf)
    assert normal.statistic < 1.01 / (n - n // 4)
    middles = (torch.arange(40).double() + 0.5) / 40
    assert torch.equal(angles.quantile(middles, angle_range), AngleDistribution().quantile(middles, angle_range))
