"""The composed density and its gradient against densities that are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from composed_models import COLOURS, exact_model, gaussian
from problems import Mixture
from scipy.stats import multivariate_normal
from torch import Tensor

from vpfb_core.api import Model
from vpfb_core.data.source import ConditionGroup
from vpfb_core.errors import ConfigError
from vpfb_core.methods.fields import Transports
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.model.tilt import Tilt
from vpfb_core.uses.composition import Composition

FREE = gaussian([0.1, -0.2], [[1.2, 0.3], [0.3, 0.9]])
RED = gaussian([0.8, -0.2], [[0.4, 0.1], [0.1, 0.3]])
GREEN = gaussian([-0.5, 0.5], [0.5, 0.6])
BLUE = gaussian([0.0, -1.0], [[0.3, -0.1], [-0.1, 0.5]])
Models = Model | Mapping[str, Model] | Mapping[str | None, Model]
MODEL = exact_model({(-1,): FREE, (0,): RED, (1,): GREEN, (2,): BLUE})
ALONE = {"r": exact_model({(): RED}, ()), "b": exact_model({(): BLUE}, ())}
LEVELS = [20.0, 1.5, 0.4, 0.07]


def points(n: int = 7) -> Tensor:
    return 1.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def images(x: Tensor) -> Tensor:
    """(N, 2) as pictures of the model's shape."""
    return x[:, None, None]


def scales(level: float) -> tuple[float, float]:
    """Data and noise in a point of unit variance, whose ratio of noise to data is `level`."""
    return 1 / math.hypot(1, level), level / math.hypot(1, level)


def exact_density(part: Mixture, x: Tensor, level: float) -> Tensor:
    """log N(x; s m, s² V + r² I) for s of the data and r of the noise, by scipy."""
    covariance = ((part.axes[0] * part.variances[0]) @ part.axes[0].mT / part.std**2).numpy()
    s, r = scales(level)
    blurred = multivariate_normal(s * part.means[0].numpy() / part.std, s**2 * covariance + r**2 * np.eye(2))
    return torch.from_numpy(blurred.logpdf(x.numpy()))


def composed_density(text: str, x: Tensor, level: float, models: Models = MODEL) -> Tensor:
    """Of the composition, up to a constant."""
    energy, _ = Composition(text, models).energy_and_score(images(x), level)
    return -energy


def assert_equal_up_to_a_constant(found: Tensor, exact: Tensor) -> None:
    assert torch.allclose(found - found[0], exact - exact[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_and_not_and_weights_are_products_of_powers_at_every_level(level: float) -> None:
    x = points()
    free, red, green, blue = (exact_density(part, x, level) for part in (FREE, RED, GREEN, BLUE))
    for text, exact in {
        "red": red,
        "red & green": red + green - free,
        "red & ~(blue & green)": red + 2 * free - blue - green,
        "2*red & 0.5*(green & ~(2*blue))": free + 2 * (red - free) + 0.5 * (green + free - 2 * blue),
        "~~red": red,
    }.items():
        assert_equal_up_to_a_constant(composed_density(text, x, level), exact)


@pytest.mark.parametrize("level", LEVELS)
def test_classes_joined_by_a_comma_are_the_density_of_both_and_a_weight_is_guidance(level: float) -> None:
    x, groups = points(), (COLOURS[0], ConditionGroup("size", ("small", "large")))
    both = exact_model({(-1, -1): FREE, (0, -1): GREEN, (-1, 1): BLUE, (0, 1): RED}, groups)
    free, joint = (exact_density(part, x, level) for part in (FREE, RED))
    assert_equal_up_to_a_constant(composed_density("red,large", x, level, both), joint)
    assert_equal_up_to_a_constant(composed_density("4*red,large", x, level, both), free + 4 * (joint - free))


def test_classes_together_are_no_side_of_a_mixture_unless_calibrated() -> None:
    groups = (COLOURS[0], ConditionGroup("size", ("small", "large")))
    model = exact_model({(-1, -1): FREE, (0, -1): GREEN, (-1, 1): BLUE}, groups)
    with pytest.raises(ConfigError, match="single classes, not for red,large") as raised:
        Composition("red,large | large", model)
    assert raised.value.hint == "use red & large as a side of |"


@pytest.mark.parametrize("level", LEVELS)
def test_or_is_the_mixture_at_every_level(level: float) -> None:
    x = points()
    free, red, green, blue = (exact_density(part, x, level) for part in (FREE, RED, GREEN, BLUE))
    for text, exact in {
        "red | green": torch.logaddexp(red, green),
        "3*red | green | 0.5*blue": torch.logsumexp(torch.stack([red + math.log(6), green + math.log(2), blue]), 0),
        "blue & (red | green)": blue - free + torch.logaddexp(red, green),
        "~blue": torch.logaddexp(red, green),
        "red & ~blue": red - free + torch.logaddexp(red, green),
        "~(red | 2*green) & blue": blue + free - torch.logaddexp(red, green + math.log(2)),
        "(red & green) | blue": torch.logaddexp(red + green - free, blue),
    }.items():
        assert_equal_up_to_a_constant(composed_density(text, x, level), exact)


@pytest.mark.parametrize("level", LEVELS[1:])
def test_classes_of_a_tilted_model_are_composed_as_tilted_densities(level: float) -> None:
    x, direction = points(), torch.tensor([0.75, -0.5], dtype=torch.float64)
    conditions = {(-1,): FREE, (0,): RED, (1,): GREEN, (2,): BLUE}
    parts = {condition: part.tilted(direction) for condition, part in conditions.items()}
    tilt = Tilt((), direction.reshape(1, 1, 2), {condition: float(value) for condition, (_, value) in parts.items()})
    free, red, green, blue = (exact_density(part, x, level) for part, _ in parts.values())
    for text, exact in {
        "red": red,
        "red & ~blue": red - free + torch.logaddexp(red, green),
        "red & ~(2*blue)": red + 2 * (free - blue),
        "red | green": torch.logaddexp(red, green),
        "blue & (red | green)": blue - free + torch.logaddexp(red, green),
    }.items():
        assert_equal_up_to_a_constant(composed_density(text, x, level, MODEL.with_tilt(tilt)), exact)


def test_a_network_that_is_off_by_a_function_of_the_level_mixes_in_the_same_proportions() -> None:
    shifted = exact_model({(-1,): FREE, (0,): RED, (1,): GREEN}, shifts={(0,): 5.0, (-1,): -3.0})
    found = composed_density("red | green", points(), 0.4, shifted)
    assert_equal_up_to_a_constant(found, composed_density("red | green", points(), 0.4))


@pytest.mark.parametrize("level", LEVELS)
def test_a_model_of_another_name_is_one_of_the_same_composition(level: float) -> None:
    x = points()
    free, red, blue = (exact_density(part, x, level) for part in (FREE, RED, BLUE))
    models = {"x": MODEL, "y": exact_model({(-1,): FREE, (2,): BLUE})}
    assert_equal_up_to_a_constant(composed_density("x:red & y:blue", x, level, models), red + blue - free)
    assert_equal_up_to_a_constant(composed_density("x:red | y:blue", x, level, models), torch.logaddexp(red, blue))
    mixed = {None: MODEL, "b": ALONE["b"]}
    assert_equal_up_to_a_constant(composed_density("red & b:", x, level, mixed), red + blue - free)


def test_a_product_of_unconditional_models_is_theirs_at_the_data_and_gaussian_at_the_prior() -> None:
    x = points()
    for text, red_weight, blue_weight in (("r: & b:", 1, 1), ("2*r: & b:", 2, 1), ("2*(r: & 0.5*~b:)", 2, -1)):
        exact = red_weight * exact_density(RED, x, 1e-7) + blue_weight * exact_density(BLUE, x, 1e-7)
        found = composed_density(text, x, 1e-7, ALONE)
        assert torch.allclose(found - found[0], exact - exact[0], rtol=1e-5, atol=1e-5)
        prior = composed_density(text, x, 1e6, ALONE)
        assert torch.allclose(prior, -0.5 * x.square().sum(1), atol=1e-4)


@pytest.mark.parametrize("level", LEVELS)
def test_a_mixture_of_unconditional_models_is_exact(level: float) -> None:
    x = points()
    exact = torch.logaddexp(exact_density(RED, x, level) + math.log(2), exact_density(BLUE, x, level))
    assert_equal_up_to_a_constant(composed_density("2*r: | b:", x, level, ALONE), exact)


@pytest.mark.parametrize("level", [3.0, 0.4, 0.07])
@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("red & ~blue & 1.5*(green | 2*red)", MODEL),
        ("(red & ~green) | ~(blue | 3*green) | red", MODEL),
        ("2*(r: | 3*b:) & 0.5*~b:", ALONE),
        ("(r: & b:) | 2*b:", ALONE),
    ],
)
def test_score_is_the_gradient_of_the_log_density(text: str, models: Models, level: float) -> None:
    x, step = points(4), 1e-5
    composition = Composition(text, models)
    _, score = composition.energy_and_score(images(x), level)
    for axis in (0, 1):
        nudge = step * torch.eye(2, dtype=torch.float64)[axis]
        higher, _ = composition.energy_and_score(images(x + nudge), level)
        lower, _ = composition.energy_and_score(images(x - nudge), level)
        assert torch.allclose(score[:, 0, 0, axis], (lower - higher) / (2 * step), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_the_flow_of_or_is_that_of_the_mixture(level: float) -> None:
    x = points()
    both = Mixture(
        torch.tensor([0.75, 0.25], dtype=torch.float64), torch.cat([RED.means, GREEN.means]),
        torch.cat([RED.axes, GREEN.axes]), torch.cat([RED.variances, GREEN.variances]), RED.std,
    )  # fmt: skip
    composition = Composition("3*red | green", MODEL)
    position = composition.position(level)
    velocity = composition.velocity(images(x), position)
    exact = both.arc_velocity(x, torch.full((len(x),), position, dtype=torch.float64))
    assert torch.allclose(velocity[:, 0, 0], exact, rtol=1e-9, atol=1e-9)


def test_a_density_is_evaluated_once_whatever_the_number_of_its_names() -> None:
    composition = Composition("red & 2*red | colour=red & blue", MODEL)
    assert len(composition.terms) == 3, "red, blue, and none"
    assert COLOURS[0].classes.index("blue") in {term.condition[0] for term in composition.terms}


def test_the_levels_of_several_models_are_those_that_all_have() -> None:
    assert isinstance(MODEL.field, Transports)
    alone = Composition("red", MODEL)
    assert alone.levels == MODEL.field.levels
    assert alone.start == MODEL.field.span[0]
    nearer = exact_model({(): RED}, (), schedule=OT(sigma_min=0.2))
    both = Composition("red & x:", {None: MODEL, "x": nearer})
    assert both.levels == nearer.field.levels
    assert both.levels.lowest > alone.levels.lowest
    assert both.start == alone.start


# --- the rate of the weights ------------------------------------------------------------------------------------------


def exact_log_density(text: str, x: Tensor, angle: Tensor, models: object = MODEL) -> Tensor:
    """log ρ of a composition of Gaussians with all constants, from the mixtures' own densities, (N,)."""
    s, r = torch.sin(angle), torch.cos(angle)
    free, red, green, blue = (part.log_density(x, s / part.std, r) for part in (FREE, RED, GREEN, BLUE))
    gaussian = -0.5 * x.square().sum(1) - math.log(2 * math.pi)
    return {
        "red": lambda: red,
        "red & green": lambda: red + green - free,
        "red & ~blue": lambda: red - free + torch.logaddexp(red, green) - math.log(2),
        "red & ~(2*blue)": lambda: red + 2 * (free - blue),
        "2*red & 0.5*(green & ~(2*blue))": lambda: free + 2 * (red - free) + 0.5 * (green + free - 2 * blue),
        "red | green": lambda: torch.logaddexp(red, green) - math.log(2),
        "(red & green) | 3*blue": lambda: torch.logaddexp(red + green - free, blue + math.log(3)) - math.log(4),
        "blue & (red | green)": lambda: blue - free + torch.logaddexp(red, green) - math.log(2),
        "r: & b:": lambda: red + blue - gaussian - 0.5 * s**2 * x.square().sum(1),
        "2*r: | b:": lambda: torch.logaddexp(red + math.log(2), blue) - math.log(3),
    }[text]()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "text",
    [
        "red", "red & green", "red & ~blue", "red & ~(2*blue)", "2*red & 0.5*(green & ~(2*blue))", "red | green",
        "(red & green) | 3*blue", "blue & (red | green)", "r: & b:", "2*r: | b:",
    ],
)  # fmt: skip
def test_the_rate_of_the_weights_is_the_departure_of_the_flow_from_the_density(text: str, level: float) -> None:
    """∂ₛ log ρ + ∇·v + v·∇log ρ, with every derivative taken by autograd from the exact densities."""
    models = ALONE if ":" in text else MODEL
    composition = Composition(text, models)
    s = composition.position(level)
    x = points().requires_grad_()
    angle = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    log_density = exact_log_density(text, x, angle)
    (score,) = torch.autograd.grad(log_density.sum(), x, retain_graph=True)
    change = torch.stack([torch.autograd.grad(one, angle, retain_graph=True)[0] for one in log_density])
    step = 1e-5
    divergence = torch.zeros(len(x), dtype=torch.float64)
    for axis in torch.eye(2, dtype=torch.float64):
        ahead, behind = (composition.velocity(images(x.detach() + e * step * axis), s).flatten(1) for e in (1, -1))
        divergence += ((ahead - behind) @ axis) / (2 * step)
    velocity = composition.velocity(images(x.detach()), s).flatten(1)
    exact = change + divergence + (velocity * score).sum(1)
    torch.testing.assert_close(composition.rate(images(x.detach()), s), exact, rtol=1e-6, atol=1e-6)
    if text in ("red", "red | green", "2*r: | b:"):
        assert float(exact.abs().max()) < 1e-6, "the flow of a name or a mixture carries its density"
    else:
        assert float(exact.abs().max()) > 1e-2 or level == LEVELS[0]
