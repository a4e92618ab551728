"""The composed density and its gradient against densities that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from composed_models import COLOURS, exact_model, gaussian
from problems import Mixture
from scipy.stats import multivariate_normal
from torch import Tensor

from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError
from vpfb_core.uses.composition import Composition

FREE = gaussian([0.1, -0.2], [[1.2, 0.3], [0.3, 0.9]])
RED = gaussian([0.8, -0.2], [[0.4, 0.1], [0.1, 0.3]])
GREEN = gaussian([-0.5, 0.5], [0.5, 0.6])
BLUE = gaussian([0.0, -1.0], [[0.3, -0.1], [-0.1, 0.5]])
MODEL = exact_model({(-1,): FREE, (0,): RED, (1,): GREEN, (2,): BLUE})
ALONE = {"r": exact_model({(): RED}, ()), "b": exact_model({(): BLUE}, ())}
ANGLES = [0.05, 0.6, 1.2, 1.5]


def points(n: int = 7) -> Tensor:
    return 1.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def images(u: Tensor) -> Tensor:
    """(N, 2) as pictures of the model's shape."""
    return u[:, None, None]


def exact_density(part: Mixture, u: Tensor, angle: float) -> Tensor:
    """log N(u; sin φ m, sin² φ V + cos² φ I), by scipy."""
    covariance = ((part.axes[0] * part.variances[0]) @ part.axes[0].mT / part.std**2).numpy()
    sine, cosine = math.sin(angle), math.cos(angle)
    blurred = multivariate_normal(sine * part.means[0].numpy() / part.std, sine**2 * covariance + cosine**2 * np.eye(2))
    return torch.from_numpy(blurred.logpdf(u.numpy()))


def composed_density(text: str, u: Tensor, angle: float, models: object = MODEL) -> Tensor:
    angles = torch.full((len(u),), angle, dtype=torch.float64)
    return Composition(text, models).field(images(u), angles).log_density  # type: ignore[arg-type]


def assert_equal_up_to_a_constant(found: Tensor, exact: Tensor) -> None:
    assert torch.allclose(found - found[0], exact - exact[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("angle", ANGLES)
def test_and_not_and_weights_are_products_of_powers_at_every_level(angle: float) -> None:
    u = points()
    free, red, green, blue = (exact_density(part, u, angle) for part in (FREE, RED, GREEN, BLUE))
    for text, exact in {
        "red": red,
        "red & green": red + green - free,
        "red & ~blue": red + free - blue,
        "2*red & 0.5*(green & ~blue)": free + 2 * (red - free) + 0.5 * (green - blue),
        "~~red": red,
    }.items():
        assert_equal_up_to_a_constant(composed_density(text, u, angle), exact)


@pytest.mark.parametrize("angle", ANGLES)
def test_classes_that_are_asked_for_together_are_the_density_of_both_and_a_weight_is_guidance(angle: float) -> None:
    u, groups = points(), (COLOURS[0], ConditionGroup("size", ("small", "large")))
    both = exact_model({(-1, -1): FREE, (0, -1): GREEN, (-1, 1): BLUE, (0, 1): RED}, groups)
    free, joint = (exact_density(part, u, angle) for part in (FREE, RED))
    assert_equal_up_to_a_constant(composed_density("red,large", u, angle, both), joint)
    assert_equal_up_to_a_constant(composed_density("4*red,large", u, angle, both), free + 4 * (joint - free))


def test_classes_together_are_no_side_of_a_mixture_unless_calibrated() -> None:
    groups = (COLOURS[0], ConditionGroup("size", ("small", "large")))
    model = exact_model({(-1, -1): FREE, (0, -1): GREEN, (-1, 1): BLUE}, groups)
    with pytest.raises(ConfigError, match="one class at a time, not for red,large") as raised:
        Composition("red,large | large", model)
    assert raised.value.hint == "red & large can be a side of |"


@pytest.mark.parametrize("angle", ANGLES)
def test_or_is_the_mixture_at_every_level(angle: float) -> None:
    u = points()
    free, red, green, blue = (exact_density(part, u, angle) for part in (FREE, RED, GREEN, BLUE))
    for text, exact in {
        "red | green": torch.logaddexp(red, green),
        "3*red | green | 0.5*blue": torch.logsumexp(torch.stack([red + math.log(6), green + math.log(2), blue]), 0),
        "blue & (red | green)": blue - free + torch.logaddexp(red, green),
        "~(red | green) & blue": blue + free - torch.logaddexp(red, green) + math.log(2),
        "(red & green) | blue": torch.logaddexp(red + green - free, blue),
    }.items():
        assert_equal_up_to_a_constant(composed_density(text, u, angle), exact)


def test_a_network_that_is_off_by_a_function_of_phi_mixes_in_the_same_proportions() -> None:
    shifted = exact_model({(-1,): FREE, (0,): RED, (1,): GREEN}, shifts={(0,): 5.0, (-1,): -3.0})
    found = composed_density("red | green", points(), 1.2, shifted)
    assert_equal_up_to_a_constant(found, composed_density("red | green", points(), 1.2))


@pytest.mark.parametrize("angle", ANGLES)
def test_a_model_of_another_name_is_one_of_the_same_composition(angle: float) -> None:
    u = points()
    free, red, blue = (exact_density(part, u, angle) for part in (FREE, RED, BLUE))
    models = {"x": MODEL, "y": exact_model({(-1,): FREE, (2,): BLUE})}
    assert_equal_up_to_a_constant(composed_density("x:red & y:blue", u, angle, models), red + blue - free)
    assert_equal_up_to_a_constant(composed_density("x:red | y:blue", u, angle, models), torch.logaddexp(red, blue))
    mixed = {None: MODEL, "b": ALONE["b"]}
    assert_equal_up_to_a_constant(composed_density("red & b:", u, angle, mixed), red + blue - free)


def test_a_product_of_unconditional_models_is_theirs_at_the_data_and_gaussian_at_the_prior() -> None:
    u = points()
    for text, red_weight, blue_weight in (("r: & b:", 1, 1), ("2*r: & b:", 2, 1), ("2*(r: & 0.5*~b:)", 2, -1)):
        angle = 0.5 * math.pi - 1e-7
        exact = red_weight * exact_density(RED, u, angle) + blue_weight * exact_density(BLUE, u, angle)
        found = composed_density(text, u, angle, ALONE)
        assert torch.allclose(found - found[0], exact - exact[0], rtol=1e-5, atol=1e-5)
        prior = composed_density(text, u, 1e-6, ALONE)
        assert torch.allclose(prior, -0.5 * u.square().sum(1), atol=1e-4)


@pytest.mark.parametrize("angle", ANGLES)
def test_a_mixture_of_unconditional_models_is_exact(angle: float) -> None:
    u = points()
    exact = torch.logaddexp(exact_density(RED, u, angle) + math.log(2), exact_density(BLUE, u, angle))
    assert_equal_up_to_a_constant(composed_density("2*r: | b:", u, angle, ALONE), exact)


@pytest.mark.parametrize("angle", [0.3, 1.2, 1.5])
@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("red & ~blue & 1.5*(green | 2*red)", MODEL),
        ("(red & ~green) | ~(blue | 3*green) | red", MODEL),
        ("2*(r: | 3*b:) & 0.5*~b:", ALONE),
        ("(r: & b:) | 2*b:", ALONE),
    ],
)
def test_score_is_the_gradient_of_the_log_density(text: str, models: object, angle: float) -> None:
    u, step = points(4), 1e-5
    composition = Composition(text, models)  # type: ignore[arg-type]
    angles = torch.full((len(u),), angle, dtype=torch.float64)
    _, score = composition.target(images(u), angles)
    for axis in (0, 1):
        nudge = step * torch.eye(2, dtype=torch.float64)[axis]
        higher = composition.field(images(u + nudge), angles).log_density
        lower = composition.field(images(u - nudge), angles).log_density
        assert torch.allclose(score[:, 0, 0, axis], (higher - lower) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("angle", ANGLES)
def test_the_flow_of_or_is_that_of_the_mixture(angle: float) -> None:
    u = points()
    angles = torch.full((len(u),), angle, dtype=torch.float64)
    both = Mixture(
        torch.tensor([0.75, 0.25], dtype=torch.float64), torch.cat([RED.means, GREEN.means]),
        torch.cat([RED.axes, GREEN.axes]), torch.cat([RED.variances, GREEN.variances]), RED.std,
    )  # fmt: skip
    velocity = Composition("3*red | green", MODEL).velocity(images(u), angles)
    assert torch.allclose(velocity[:, 0, 0], both.arc_velocity(u, angles), rtol=1e-9, atol=1e-9)


def test_a_density_is_evaluated_once_whatever_the_number_of_its_names() -> None:
    composition = Composition("red & 2*red | colour=red & blue", MODEL)
    assert len(composition.terms) == 3, "red, blue, and none"
    assert COLOURS[0].classes.index("blue") in {term.condition[0] for term in composition.terms}


def test_the_arc_of_several_models_is_what_all_cover() -> None:
    assert Composition("red", MODEL).angle_range == MODEL.potential.angle_range
    nearer = exact_model({(): RED}, ())
    nearer.potential.homotopy = type(nearer.potential.homotopy)(sigma_min=0.2)
    start, end = Composition("red & x:", {None: MODEL, "x": nearer}).angle_range
    assert (start, end) == nearer.potential.angle_range
    assert end < MODEL.potential.angle_range[1]
