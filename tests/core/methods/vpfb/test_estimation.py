"""Constants of densities, estimated on exact and on wrong potentials, against closed forms and quadrature."""

from __future__ import annotations

import json
import math

import pytest
import torch
from problems import MIXTURES, ExactNetwork, Mixture, anisotropic, ring
from torch import Tensor, nn

from vpfb_core.errors import ConfigError, DivergedError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.estimation import calibrate
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.methods.vpfb.potential import Potential


class Wrong(nn.Module):
    """The exact N, shifted by a function of φ and, by `error`, bent in u as well."""

    def __init__(self, mixture: Mixture, error: float = 0.0) -> None:
        super().__init__()
        self.exact, self.error = ExactNetwork(mixture), error

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
        bend = torch.sin(angle) * torch.cos(angle) * torch.sin(2 * u[:, 0] + u[:, -1])
        return self.exact(u, angle) + 3 * torch.cos(5 * angle) + self.error * bend


def data(mixture: Mixture, n: int, seed: int = 0) -> Tensor:
    """z, float64 (n, d)."""
    return mixture.sample(n, torch.Generator().manual_seed(seed)) / mixture.std


def quadrature(potential: Potential, level: float, half_width: float = 5.0, points: int = 160) -> float:
    """C = −log ∫ exp(−energy) du in the plane, by the rectangle rule, whose error is e⁻²⁰ for noise of 0.1."""
    axis = torch.linspace(-half_width, half_width, points, dtype=torch.float64)
    energy = PotentialField(potential).energy(torch.cartesian_prod(axis, axis), level)
    return -float(torch.logsumexp(-energy, 0)) - 2 * math.log(axis[1] - axis[0])


def free_function(level: float) -> float:
    """What `Wrong` adds to the exact constant, −(d/2) log 2π."""
    return -3 / level * math.cos(5 * math.atan(1 / level))


@pytest.mark.parametrize("name", MIXTURES)
def test_normaliser_of_an_exact_potential_is_exact_within_its_error(name: str) -> None:
    mixture = MIXTURES[name]
    potential = Potential(Wrong(mixture), OT(sigma_min=0.05), mixture.std)
    normaliser = calibrate(potential, data(mixture, 256), points=256, anchor_points=0)
    constants = normaliser.constants[()]
    assert constants.points == 256
    for i in normaliser.reported:
        exact = -0.5 * mixture.dimension * math.log(2 * math.pi) + free_function(normaliser.noise[i])
        assert abs(constants.value[i] - exact) < 4 * constants.error[i] + 2e-3, normaliser.noise[i]
        assert constants.error[i] < 0.1


def test_stated_error_is_the_scatter_of_the_estimate() -> None:
    mixture = ring()
    potential = Potential(Wrong(mixture), OT(sigma_min=0.05), mixture.std)
    runs = [calibrate(potential, data(mixture, 32, i), seed=i, points=32, anchor_points=0) for i in range(24)]
    last = runs[0].reported[-1]
    values = torch.tensor([run.constants[()].value[last] for run in runs])
    stated = torch.tensor([run.constants[()].error[last] for run in runs]).mean()
    assert 0.6 * stated < values.std() < 1.6 * stated


@pytest.mark.parametrize("error", [0.2, -0.5])
def test_a_wrong_potential_is_normalised_to_second_order_in_its_error(error: float) -> None:
    """By quadrature. The energy is off by error · sin² φ · sin(…), and C by less than half the square of that."""
    mixture = anisotropic()
    potential = Potential(Wrong(mixture, error), OT(sigma_min=0.05), mixture.std)
    normaliser = calibrate(potential, data(mixture, 1024), points=1024, anchor_points=0)
    constants = normaliser.constants[()]
    for i in normaliser.reported[::2]:
        level = normaliser.noise[i]
        bound = 0.5 * (error / (1 + level**2)) ** 2
        assert abs(constants.value[i] - quadrature(potential, level)) < 4 * constants.error[i] + bound


def test_anchor_agrees_where_the_potential_is_exact_and_not_where_it_is_wrong() -> None:
    mixture = anisotropic()
    for error in (0.0, 1.0):
        potential = Potential(Wrong(mixture, error), OT(sigma_min=0.05), mixture.std)
        normaliser = calibrate(potential, data(mixture, 256), points=256, anchor_points=64)
        constants = normaliser.constants[()]
        assert [round(anchor.noise, 1) for anchor in normaliser.anchor] == [0.1, 0.2, 0.5, 1.0, 2.0]
        anchor, last = normaliser.anchor[0], normaliser.reported[-1]
        spread = 4 * math.hypot(anchor.error, constants.error[last]) + 2e-3
        assert (abs(anchor.difference) < spread) == (error == 0)


def test_density_with_its_normaliser_integrates_to_one_between_levels_too() -> None:
    mixture = ring()
    potential = Potential(Wrong(mixture), OT(sigma_min=0.05), mixture.std)
    normaliser = calibrate(potential, data(mixture, 512), points=512, anchor_points=0)
    for level in (30.0, 0.45, 0.14):
        assert normaliser.constant(level) == pytest.approx(quadrature(potential, level), abs=0.1)


class OfClass(nn.Module):
    """The exact N of the mixture that the condition names; of both in equal shares for none."""

    def __init__(self, mixtures: list[Mixture], both: Mixture) -> None:
        super().__init__()
        self.networks = [ExactNetwork(mixture) for mixture in [*mixtures, both]]

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        answers = torch.stack([network(u, angle) for network in self.networks])
        shift = 2.0 * condition[:, 0] * angle
        return answers[condition[:, 0], torch.arange(len(u))] + shift


def left_and_right() -> tuple[list[Mixture], Mixture]:
    """Two Gaussians on a line, and both together."""
    means, covariances = torch.tensor([[-0.4, 0.0], [0.4, 0.0]]), 0.09 * torch.eye(2).expand(2, 2, 2).double()
    variances, axes = torch.linalg.eigh(covariances)
    one = [
        Mixture(torch.ones(1).double(), means[i : i + 1].double(), axes[:1], variances[:1], 0.5) for i in (0, 1)
    ]  # fmt: skip
    return one, Mixture(torch.tensor([0.5, 0.5]).double(), means.double(), axes, variances, 0.5)


def test_every_class_has_its_own_normaliser_and_pairs_of_classes_have_none() -> None:
    mixtures, both = left_and_right()
    potential = Potential(OfClass(mixtures, both), OT(sigma_min=0.05), 0.5)
    z = torch.cat([data(mixture, 256, i) for i, mixture in enumerate(mixtures)])
    labels = torch.arange(2).repeat_interleave(256)[:, None]
    shuffled = torch.randperm(512, generator=torch.Generator().manual_seed(0))
    normaliser = calibrate(
        potential, z[shuffled], labels[shuffled], [2], points=512, class_points=256, anchor_points=16,
    )  # fmt: skip
    assert set(normaliser.constants) == {(-1,), (0,), (1,)}
    level = 0.2
    for index in (0, -1, 1):
        assert normaliser.knows([index])
        exact = -math.log(2 * math.pi) - 2 * index * math.atan(1 / level) / level
        assert normaliser.constant(level, [index]) == pytest.approx(exact, abs=0.15)
    assert normaliser.constant(level) == normaliser.constant(level, [-1])
    assert not normaliser.knows([2])
    with pytest.raises(ConfigError, match=r"\[2\]"):
        normaliser.constant(level, [2])


def test_classes_whose_energies_are_comparable_share_the_constants_of_all_data() -> None:
    """`OfClass` shifts N by 2φ per class index, which makes them incomparable, and by −2φ without a class."""
    mixtures, both = left_and_right()
    potential = Potential(OfClass(mixtures, both), OT(sigma_min=0.05), 0.5)
    labels = torch.arange(512)[:, None] % 2
    found = calibrate(potential, data(both, 512), labels, [2], points=512, anchor_points=0, shared=True)
    assert set(found.constants) == {(-1,), (0,), (1,)}
    exact = -math.log(2 * math.pi) + 2 * math.atan(1 / 0.2) / 0.2
    for index in (-1, 0, 1):
        assert found.constant(0.2, [index]) == pytest.approx(exact, abs=0.15)


def test_the_number_of_points_computed_at_once_changes_no_constant() -> None:
    mixtures, both = left_and_right()
    potential = Potential(OfClass(mixtures, both), OT(sigma_min=0.2), 0.5)
    z, labels = data(both, 20), torch.arange(20)[:, None] % 2
    few, many = (
        calibrate(potential, z, labels, [2], points=20, class_points=6, anchor_points=0, batch_size=size)
        for size in (7, 1000)
    )
    assert few.constants.keys() == many.constants.keys()
    for condition, constants in few.constants.items():
        assert constants.value == pytest.approx(many.constants[condition].value, rel=1e-6)
        assert constants.error == pytest.approx(many.constants[condition].error, rel=1e-5)


def test_a_class_without_data_is_left_out() -> None:
    mixtures, both = left_and_right()
    potential = Potential(OfClass(mixtures, both), OT(sigma_min=0.2), 0.5)
    labels = torch.zeros(8, 1, dtype=torch.int64)
    normaliser = calibrate(potential, data(both, 8), labels, [2], anchor_points=0)
    assert set(normaliser.constants) == {(-1,), (0,)}


def test_one_datum_is_enough_to_calibrate_on_and_its_density_is_the_noises() -> None:
    """ρ_φ is N(sin φ z, cos² φ I), which has the entropy of the noise."""
    z = torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    mixture = Mixture(torch.ones(1).double(), 0.5 * z, torch.eye(2)[None].double(), torch.zeros(1, 2).double(), 0.5)
    potential = Potential(Wrong(mixture), OT(sigma_min=0.05), 0.5)
    constants = calibrate(potential, z, anchor_points=0)
    i = constants.reported[-1]
    exact = -math.log(2 * math.pi) + free_function(0.1)
    assert constants.constants[()].value[i] == pytest.approx(exact, abs=4 * constants.constants[()].error[i] + 0.05)


def test_a_potential_that_is_not_finite_has_no_normaliser() -> None:
    class Broken(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:  # noqa: ARG002
            return u.sum(1) * torch.nan

    with pytest.raises(DivergedError):
        calibrate(Potential(Broken(), OT(sigma_min=0.1)), torch.zeros(4, 2))


def test_a_normaliser_survives_json() -> None:
    mixture = ring()
    potential = Potential(Wrong(mixture), OT(sigma_min=0.1), mixture.std)
    normaliser = calibrate(potential, data(mixture, 16), anchor_points=4)
    assert normaliser.anchor
    assert Normaliser.from_dict(json.loads(json.dumps(normaliser.to_dict()))) == normaliser
    broken = normaliser.to_dict()
    broken["noise"].pop()
    with pytest.raises(ValueError, match="level"):
        Normaliser.from_dict(broken)
