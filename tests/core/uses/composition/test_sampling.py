"""Composed samples: exact with MALA where the flow alone is biased."""

from __future__ import annotations

import math
from typing import Any

import pytest
import shapes_reader
import torch
from composed_models import exact_model, gaussian, moments, product
from problems import Mixture
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.errors import ConfigError
from vpfb_core.uses.composition import Composed, Composition, sample

# Independent dimensions, so that every sample is many draws of the same three densities.
D, N = 32, 100
FREE = gaussian([0.1] * D, [1.1] * D)
RED = gaussian([0.8] * D, [0.3] * D)
GREEN = gaussian([-0.4] * D, [0.6] * D)
MANY = exact_model({(-1,): FREE, (0,): RED, (1,): GREEN})

# In the plane, where proportions and correlations show.
PLANE: dict[tuple[int, ...], Mixture] = {
    (-1,): gaussian([0.0, 0.0], [1.0, 1.0]),
    (0,): gaussian([1.0, 0.0], [[0.4, 0.2], [0.2, 0.4]]),
    (1,): gaussian([-1.0, 0.5], [0.1, 0.1]),
}


def drawn(text: str, model: Model, n: int = N, **settings: Any) -> Tensor:
    """Data of unit variance, (n, d), float64."""
    found = sample(Composition(text, model), n, seed=1, batch_size=1000, **settings)
    return found.data.flatten(1).double()


def errors(z: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """Of mean and variance, over all dimensions alike, in units of their sampling errors."""
    m, v = float(mean[0]), float(covariance[0, 0])
    return (
        (float(z.mean()) - m) / math.sqrt(v / z.numel()),
        (float((z - m).square().mean()) / v - 1) / math.sqrt(2 / z.numel()),
    )


CASES = {
    "red & green": [(FREE, -1.0), (RED, 1.0), (GREEN, 1.0)],
    "2*red": [(FREE, -1.0), (RED, 2.0)],
    "red & ~green": [(FREE, 1.0), (RED, 1.0), (GREEN, -1.0)],
}


@pytest.mark.slow
@pytest.mark.parametrize("text", CASES)
def test_mala_draws_the_exact_product(text: str) -> None:
    z = drawn(text, MANY)
    assert max(map(abs, errors(z, *product(CASES[text])))) < 4


@pytest.mark.parametrize("text", CASES)
def test_the_flow_alone_is_biased_by_as_much_as_it_must_be(text: str) -> None:
    z = drawn(text, MANY, mcmc="none")
    mean, covariance = product(CASES[text])
    assert max(map(abs, errors(z, mean, covariance))) > 8
    # The velocity of a Gaussian class is linear in u; so is the sum, and the flow's variance is the product of powers.
    variance = math.prod(float(moments(part)[1][0, 0]) ** weight for part, weight in CASES[text])
    assert float(z.var()) == pytest.approx(variance, abs=4 * variance * math.sqrt(2 / z.numel()))


def test_mala_draws_the_exact_product_in_the_plane() -> None:
    z = drawn("red & 0.5*green", exact_model(PLANE), n=250, levels=16)
    mean, covariance = product([(PLANE[(-1,)], -0.5), (PLANE[(0,)], 1.0), (PLANE[(1,)], 0.5)])
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (z - mean).mT, upper=False)
    assert whitened.mean(1).abs().max() < 4 / math.sqrt(250)
    spread = whitened @ whitened.mT / 250
    assert (spread - torch.eye(2)).abs().max() < 4 * math.sqrt(2 / 250)


@pytest.mark.parametrize(
    ("text", "share"), [("red | green", 0.5), ("3*red | green", 0.75), ("green | 0.25*(red | red)", 0.2)]
)
def test_or_keeps_its_proportions_by_the_flow_alone(text: str, share: float) -> None:
    z = drawn(text, exact_model(PLANE, shifts={(0,): 2.0}), n=1000, mcmc="none")
    red = z[:, 0] > -0.2
    assert float(red.double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1000) + 0.01)


def test_each_side_of_or_is_itself() -> None:
    z = drawn("red | green", exact_model(PLANE), n=1000, mcmc="none")
    mean, covariance = moments(PLANE[(1,)])
    green = z[(z - mean).norm(dim=1) < 3.5 * math.sqrt(float(covariance[0, 0]))]
    whitened = (green - mean) / math.sqrt(float(covariance[0, 0]))
    assert whitened.mean(0).abs().max() < 0.2
    assert (whitened.mT @ whitened / len(green) - torch.eye(2)).abs().max() < 0.25


def test_an_error_of_a_nat_in_one_constant_moves_the_proportions() -> None:
    z = drawn("red | green", exact_model(PLANE, errors={(0,): 1.0}), n=1000, mcmc="none")
    share = math.e / (1 + math.e)
    assert float((z[:, 0] > -0.2).double().mean()) == pytest.approx(share, abs=4 * math.sqrt(0.2 / 1000) + 0.01)


def test_or_with_mala_keeps_its_proportions() -> None:
    z = drawn("3*red | green", exact_model(PLANE), n=200, levels=16)
    assert float((z[:, 0] > -0.2).double().mean()) == pytest.approx(0.75, abs=4 * math.sqrt(0.1875 / 200))


def test_unconditional_models_multiply_exactly_with_mala_and_not_at_all_without() -> None:
    models = {"r": exact_model({(): RED}, ()), "g": exact_model({(): GREEN}, ())}
    composition = Composition("r: & g:", models)
    z = sample(composition, N, seed=1, batch_size=1000, levels=16).data.flatten(1).double()
    assert max(map(abs, errors(z, *product([(RED, 1.0), (GREEN, 1.0)])))) < 4
    for text in ("r: & g:", "(r: & g:) | g:", "2*r:"):
        with pytest.raises(ConfigError, match="does not sample from it"):
            sample(Composition(text, models), 1, mcmc="none")
    for text in ("r:", "2*r: | g:"):
        sample(Composition(text, models), 1, mcmc="none", levels=2)


def test_ula_comes_near_the_product_too() -> None:
    z = drawn("red & green", MANY, mcmc="ula", levels=25)
    mean, covariance = product(CASES["red & green"])
    assert float(z.var()) == pytest.approx(float(covariance[0, 0]), rel=0.08)
    assert float(z.mean()) == pytest.approx(float(mean[0]), abs=0.04)


# --- what comes back --------------------------------------------------------------------------------------------------


LEVELS = 3


def few(n: int, text: str = "red & green", **settings: Any) -> Composed:
    return sample(Composition(text, exact_model(PLANE)), n, seed=5, levels=LEVELS, **settings)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    six = few(6)
    assert six.images.shape == (6, 1, 1, 2)
    assert six.images.dtype == torch.float32
    assert bool(((six.images >= 0) & (six.images <= 1)).all())
    for mcmc in ("mala", "none"):
        z = six.data if mcmc == "mala" else few(6, mcmc=mcmc).data
        assert torch.allclose(z, few(6, mcmc=mcmc, batch_size=4).data, atol=1e-5)
        assert torch.allclose(z[4:], few(2, mcmc=mcmc, first=4).data, atol=1e-5)
        assert not torch.allclose(z[:2], few(2, mcmc=mcmc, first=4).data, atol=0.1)


def test_the_acceptance_is_that_of_each_level() -> None:
    acceptance = few(40).acceptance
    assert acceptance is not None
    assert len(acceptance) == LEVELS
    assert all(0 <= share <= 1 for share in acceptance)
    adapted = sample(Composition("red & green", MANY), 16, seed=0).acceptance
    assert adapted is not None
    assert sum(adapted) / len(adapted) == pytest.approx(0.6, abs=0.12)
    assert few(2, mcmc="none").acceptance is None
    assert few(2, mcmc="ula").acceptance is None


def test_evaluations_are_counted_for_every_term() -> None:
    assert few(1, mcmc="none").nfe == LEVELS * 2 * 3
    assert few(1, mcmc_steps=7).nfe == LEVELS * (2 + 8) * 3


def test_a_model_composes_its_classes_and_those_of_others() -> None:
    model, settings = exact_model(PLANE), dict[str, Any](seed=1, levels=3, mcmc="none")
    for text, others in (("red | green", {}), ("red & other:green", {"other": model})):
        found = model.compose(text, 2, others=others, **settings)
        expected = sample(Composition(text, {None: model, "other": model}), 2, **settings)
        assert torch.equal(found.data, expected.data)
        assert found.nfe == expected.nfe


def test_progress_rises_to_one() -> None:
    heard: list[float] = []
    few(3, batch_size=2, on_level=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mcmc": "nuts"}, "unknown mcmc 'nuts'"),
        ({"mcmc": "none", "mcmc_steps": 3}, "without mcmc"),
        ({"n": 0}, "n = 0"),
        ({"levels": 1}, "levels = 1"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sample(Composition("red", MANY), **{"n": 1, **settings})


@pytest.mark.parametrize("mcmc", ["none", pytest.param("mala", marks=pytest.mark.slow)])
def test_the_model_in_the_package_draws_what_the_expression_says(mcmc: str) -> None:
    """As a reader of pixels sees it; by chance one picture in sixteen would be right, and by one class one in four."""
    model = vpfb.load("shapes", device="cpu")
    drawn = sample(Composition("circle & red", model), 8, seed=0, levels=12, mcmc=mcmc)
    labels = shapes_reader.read(drawn.images).labels
    assert int((labels[:, :2] == 0).all(1).sum()) >= 6
