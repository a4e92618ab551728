"""The contrast of classes: what it is minimal at, and which energies it asks for."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from present import present
from problems import STD
from scipy import stats
from torch import Tensor, nn

from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.draws import Part
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.contrast import MOST_CLASSES, contrast
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.networks.unet import UNet


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Classes(nn.Module):
    """N of two Gaussian classes on the line, their means `apart` from 0 on either side, and of both without a class.

    Exact for gain 1 and offsets 0: then −½u² + tan φ N is log ρ(u, φ | class) up to a function of φ.

    Args:
        gain: a factor of all log-densities.
        offset: what is added to that of the second class, in nats, where the data are alone.
        off_all: what is added to that of both, in nats.
    """

    spread = 0.25  # variance of a class, in units of that of both
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def __init__(self, gain: float = 1.0, offset: float = 0.0, off_all: float = 0.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float64))
        self.off_all = nn.Parameter(torch.tensor(off_all, dtype=torch.float64))
        self.apart = math.sqrt(1 - self.spread)

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        x, index, sine, cosine = u[:, 0], present(condition)[:, 0], torch.sin(angle), torch.cos(angle)
        deviation = torch.sqrt(self.spread * sine**2 + cosine**2)
        logs = torch.stack([self._log(x, sign * self.apart * sine, deviation) for sign in (-1, 1)])
        both = torch.logsumexp(logs + self.shares.log()[:, None], 0) + self.off_all
        of_class = logs.gather(0, index.clamp(min=0)[None])[0]
        log_density = torch.where(index < 0, both, of_class)
        offset = self.offset * index.clamp(min=0) * torch.sin(angle)
        return (0.5 * x**2 + self.gain * log_density + offset) / torch.tan(angle)

    def _log(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        return torch.distributions.Normal(mean, deviation).log_prob(x)


def two_classes(n: int) -> tuple[Tensor, Tensor]:
    """Data of `Classes`, one after the other at random, with the class of each."""
    draws = generator(5)
    condition = (torch.rand((n, 1), generator=draws) < Classes.shares[1]).long()
    z = (2 * condition - 1) * math.sqrt(1 - Classes.spread)
    return STD * (z + math.sqrt(Classes.spread) * torch.randn(n, 1, generator=draws, dtype=torch.float64)), condition


def contrasted(network: Classes, n: int = 400_000, **options: Any) -> Tensor:
    data, labels = two_classes(n)
    settings = {"group": 0, "shares": Classes.shares, "angles": AngleDistribution(-0.3, 1.0), **options}
    return contrast(Potential(network, OT(), STD), data, labels, generator=generator(1), **settings)


@pytest.mark.parametrize("mixture", [True, False])
def test_contrast_is_least_at_the_exact_energies(mixture: bool) -> None:
    exact = Classes()
    (slope,) = torch.autograd.grad(contrasted(exact, mixture=mixture), exact.gain)
    elsewhere = [Classes(gain=gain) for gain in (0.7, 1.4)]
    slopes = [torch.autograd.grad(contrasted(network, mixture=mixture), network.gain)[0] for network in elsewhere]
    assert slopes[0] < -0.01
    assert slopes[1] > 0.01
    assert abs(slope) < 0.1 * min(map(abs, slopes)), "0 but for the error of 100,000 points"


@pytest.mark.parametrize("name", ["offset", "off_all"])
def test_contrast_is_least_without_a_constant_between_the_energies_of_classes_and_of_all_data(name: str) -> None:
    slopes: list[Tensor] = []
    for offset in (-1.0, 0.0, 1.0):
        network = Classes(**{name: offset})
        slopes += torch.autograd.grad(contrasted(network), getattr(network, name))
    assert slopes[0] < -0.01
    assert slopes[2] > 0.01
    assert abs(slopes[1]) < 0.1 * min(-slopes[0], slopes[2]), "0 but for the error of 100,000 points"


def test_contrast_is_the_cross_entropy_of_the_classes_by_bayes_and_the_distance_from_their_mixture() -> None:
    """At one angle the expected cross-entropy is an integral, taken by quadrature."""
    angle = 0.6
    angles = AngleDistribution(math.log(math.tan(angle)), 1e-3)
    network, grid = Classes(), torch.linspace(-6, 6, 601, dtype=torch.float64)
    deviation = math.sqrt(Classes.spread * math.sin(angle) ** 2 + math.cos(angle) ** 2)
    joint = torch.stack([
        share * torch.from_numpy(stats.norm(sign * network.apart * math.sin(angle), deviation).pdf(grid))
        for share, sign in zip(Classes.shares, (-1, 1), strict=True)
    ])  # fmt: skip
    entropy = -float((joint * torch.log(joint / joint.sum(0))).sum()) * float(grid[1] - grid[0])
    assert float(contrasted(network, angles=angles).detach()) == pytest.approx(entropy, rel=0.01)
    # 0.5 nats from the mixture cost ½ · 0.5², and 3 nats 3 − ½.
    for off, cost in ((0.5, 0.125), (-3.0, 2.5)):
        found = contrasted(Classes(off_all=off), angles=angles)
        assert float(found.detach()) == pytest.approx(entropy + cost, rel=0.01)
    alone = contrasted(Classes(off_all=3.0), angles=angles, mixture=False)
    assert float(alone.detach()) == pytest.approx(entropy, rel=0.01)


def test_a_point_without_a_label_is_compared_with_the_mixture_alone() -> None:
    data, labels = two_classes(400)
    potential = Potential(Classes(off_all=-3.0), OT(), STD)
    angles = AngleDistribution(-0.3, 1e-3)
    settings: Any = {"group": 0, "shares": Classes.shares, "angles": angles}
    found = contrast(potential, data, torch.full_like(labels, -1), generator=generator(1), **settings)
    assert float(found.detach()) == pytest.approx(2.5)


@pytest.mark.parametrize("cuts", [[0, 2, 4, 11], [0, 3, 8, 11], [0, 1, 10, 11]])
def test_contrast_of_parts_adds_up_to_the_batch(cuts: list[int]) -> None:
    data, labels = two_classes(11)
    potential = Potential(Classes(), OT(), STD)
    settings: Any = {"group": 0, "shares": Classes.shares}
    whole = contrast(potential, data, labels, generator=generator(1), **settings)
    parts = [
        contrast(potential, data[i:j], labels[i:j], generator=generator(1), part=Part(i, 11), **settings) * (j - i) / 11
        for i, j in pairwise(cuts)
    ]
    assert float(torch.stack(parts).sum().detach()) == pytest.approx(float(whole.detach()), rel=1e-12)


class Listening(nn.Module):
    """N = 0, which keeps the conditions that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Tensor | None = None

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor) -> Tensor:  # noqa: ARG002
        self.asked = condition
        return 0 * u[:, 0]


def listened(labels: Tensor, group: int, shares: Tensor) -> tuple[float, Tensor]:
    """The contrast of N = 0, and the conditions of each point that it asked for, (points, conditions, groups)."""
    network, data = Listening(), torch.randn(len(labels), 2, dtype=torch.float64)
    angles = AngleDistribution(-0.3, 1e-3)  # at which every point has the weight 1
    found = contrast(
        Potential(network, OT(), STD), data, labels, group=group, shares=shares, generator=generator(1), angles=angles
    )
    asked = present(network.asked)
    conditions = min(len(shares), MOST_CLASSES) + 1
    return float(found), asked.unflatten(0, (conditions, -1)).transpose(0, 1)


def test_contrast_asks_about_all_classes_of_one_group_and_leaves_the_others_open() -> None:
    labels = torch.randint(3, (900, 2), generator=generator(2))
    _, asked = listened(labels, 1, torch.tensor([0.2, 0.3, 0.5]))
    assert torch.equal(asked[:, 0, 1], labels[::4, 1]), "the own class first"
    assert torch.equal(asked[:, :-1, 1].sort(1).values, torch.arange(3).expand(len(asked), 3))
    assert (asked[:, -1] == -1).all(), "and the unconditional energy last"
    assert (asked[..., 0] == -1).all()


def test_of_many_classes_some_are_drawn() -> None:
    """With equal energies the cross-entropy is that of a choice among ten, and each of nine others stands for 39/9."""
    labels, shares = torch.randint(40, (4000, 1), generator=generator(2)), torch.full((40,), 1 / 40)
    found, asked = listened(labels, 0, shares)
    assert found == pytest.approx(math.log(10), rel=1e-6), "and the mixture is the energy of all data"
    assert torch.equal(asked[:, 0], labels[::4])
    others = asked[:, 1:-1, 0]
    assert (others.sort(1).values.diff(dim=1) > 0).all()
    assert (others != asked[:, :1, 0]).all()
    counts = torch.bincount(others.flatten(), minlength=40).double()
    assert counts.std() < 4 * counts.mean().sqrt()


class Known(nn.Module):
    """Energies of 40 classes of points that say nothing but their number: N = log-odds / tan φ of the class."""

    def __init__(self) -> None:
        super().__init__()
        self.log_odds = nn.Parameter(torch.zeros(40, dtype=torch.float64))

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor) -> Tensor:
        return 0 * u[:, 0] + self.log_odds[condition[:, 0]] / torch.tan(angle)


def test_drawing_classes_does_not_move_the_minimum() -> None:
    """All points are of the first class in 3 of 4 cases and else of the second, with equal shares of 40 classes."""
    network = Known()
    with torch.no_grad():
        network.log_odds[:] = -20
        network.log_odds[:2] = torch.tensor([3.0, 1.0]).log()
    labels = (torch.rand((80_000, 1), generator=generator(2)) < 0.25).long()
    data = torch.zeros(len(labels), 1, dtype=torch.float64)
    found = contrast(
        Potential(network, OT(), STD), data, labels, group=0, shares=torch.full((40,), 1 / 40), mixture=False,
        generator=generator(1), angles=AngleDistribution(-0.3, 1e-3),
    )  # fmt: skip
    (slope,) = torch.autograd.grad(found, network.log_odds)
    assert abs(slope[0]) < 0.005, "0 but for the error of 20,000 points; 0.05 if others stood for several"


def test_points_without_a_label_draw_classes_that_have_data() -> None:
    shares = torch.zeros(40)
    shares[:3] = torch.tensor([0.2, 0.3, 0.5])
    found, asked = listened(torch.full((400, 1), -1), 0, shares)
    assert found == pytest.approx(0, abs=1e-12)
    assert torch.equal(asked[:, :3, 0].sort(1).values, torch.arange(3).expand(len(asked), 3))


def test_a_class_without_data_has_no_share_in_the_mixture() -> None:
    labels = torch.randint(2, (600, 1), generator=generator(2))
    found, _ = listened(labels, 0, torch.tensor([0.5, 0.5, 0.0]))
    assert found == pytest.approx(math.log(2), rel=1e-6)


def test_the_contrast_is_in_float32_where_training_is_in_bf16() -> None:
    """Near the data, log-odds are small differences of energies that bf16 rounds to several nats."""
    network = UNet(1, 8, widths=[8, 8], classes=[2])
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator())
    potential = Potential(network, OT())
    data, condition = torch.randn(8, 1, 8, 8, generator=generator()), torch.arange(8)[:, None] % 2
    settings: Any = {"group": 0, "shares": torch.tensor([0.5, 0.5])}
    exact = contrast(potential, data, condition, generator=generator(), **settings)
    potential.autocast_dtype = torch.bfloat16
    assert torch.equal(contrast(potential, data, condition, generator=generator(), **settings), exact)
