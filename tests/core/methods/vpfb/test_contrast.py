"""The contrast of conditions: what it is minimal at, and which pairs it asks about."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from present import present
from problems import STD
from scipy import stats
from torch import Tensor, nn

from vpfb_core.methods.path.angles import AngleDistribution
from vpfb_core.methods.path.draws import Part
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.contrast import contrast
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.networks.unet import UNet


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Classes(nn.Module):
    """N of two Gaussian classes on the line, their means `apart` from 0 on either side, and of both without a class.

    Exact for gain 1 and offset 0: then −½u² + tan φ N is log ρ(u, φ | class) up to a function of φ.
    """

    spread = 0.25  # variance of a class, in units of that of both

    def __init__(self, gain: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float64))
        self.apart = math.sqrt(1 - self.spread)

    def forward(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        x, index, sine, cosine = u[:, 0], present(condition)[:, 0], torch.sin(angle), torch.cos(angle)
        deviation = torch.sqrt(self.spread * sine**2 + cosine**2)
        logs = torch.stack([self._log(x, sign * self.apart * sine, deviation) for sign in (-1, 1)])
        both = torch.logsumexp(logs, 0) - math.log(2)
        of_class = logs.gather(0, index.clamp(min=0)[None])[0]
        log_density = torch.where(index < 0, both, of_class)
        return (0.5 * x**2 + self.gain * log_density + self.offset * index * torch.sin(angle)) / torch.tan(angle)

    def _log(self, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        return torch.distributions.Normal(mean, deviation).log_prob(x)


def two_classes(n: int) -> tuple[Tensor, Tensor]:
    """Data of `Classes`, one after the other at random, with the class of each."""
    draws = generator(5)
    condition = torch.randint(2, (n, 1), generator=draws)
    z = (2 * condition - 1) * math.sqrt(1 - Classes.spread)
    return STD * (z + math.sqrt(Classes.spread) * torch.randn(n, 1, generator=draws, dtype=torch.float64)), condition


def contrasted(network: Classes, n: int = 400_000) -> Tensor:
    data, condition = two_classes(n)
    angles = AngleDistribution(-0.3, 1.0)
    return contrast(Potential(network, OT(), STD), data, condition, generator=generator(1), angles=angles)


def test_contrast_is_least_at_the_exact_energies() -> None:
    exact = Classes()
    (slope,) = torch.autograd.grad(contrasted(exact), exact.gain)
    elsewhere = [Classes(gain=gain) for gain in (0.7, 1.4)]
    slopes = [torch.autograd.grad(contrasted(network), network.gain)[0] for network in elsewhere]
    assert slopes[0] < -0.01
    assert slopes[1] > 0.01
    assert abs(slope) < 0.1 * min(map(abs, slopes)), "0 but for the error of 100,000 pairs"


def test_contrast_is_least_without_a_constant_between_the_energies_of_classes() -> None:
    slopes: list[Tensor] = []
    for offset in (-1.0, 0.0, 1.0):
        network = Classes(offset=offset)
        slopes += torch.autograd.grad(contrasted(network), network.offset)
    assert slopes[0] < -0.01
    assert slopes[2] > 0.01
    assert abs(slopes[1]) < 0.1 * min(-slopes[0], slopes[2]), "0 but for the error of 100,000 pairs"


def test_contrast_is_the_cross_entropy_of_the_classes_by_bayes() -> None:
    """At one angle the expected loss is a sum of two integrals, taken by quadrature."""
    angle = 0.6
    network, potential_angles = Classes(), AngleDistribution(math.log(math.tan(angle)), 1e-3)
    data, condition = two_classes(400_000)
    found = contrast(Potential(network, OT(), STD), data, condition, generator=generator(1), angles=potential_angles)

    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)
    step = float(grid[1] - grid[0])
    deviation = math.sqrt(Classes.spread * math.sin(angle) ** 2 + math.cos(angle) ** 2)
    ones = [stats.norm(sign * network.apart * math.sin(angle), deviation).pdf(grid) for sign in (-1, 1)]
    density = {-1: torch.from_numpy(ones[0] + ones[1]) / 2, 0: torch.from_numpy(ones[0]), 1: torch.from_numpy(ones[1])}

    def entropy(c: int, other: int) -> float:
        return float((density[c] * torch.log1p(density[other] / density[c])).sum()) * step

    pairs = [(c, other) for c in (0, 1) for other in (0, 1, -1, -1)]
    expected = sum(entropy(c, other) + entropy(other, c) for c, other in pairs) / len(pairs)
    assert float(found.detach()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("cuts", [[0, 2, 4, 11], [0, 3, 8, 11], [0, 4, 10, 11]])
def test_contrast_of_parts_adds_up_to_the_batch(cuts: list[int]) -> None:
    data, condition = two_classes(11)
    potential = Potential(Classes(), OT(), STD)
    whole = contrast(potential, data, condition, generator=generator(1))
    parts = [
        contrast(potential, data[i:j], condition[i:j], generator=generator(1), part=Part(i, 11)) * (j - i) / 11
        for i, j in pairwise(cuts)
    ]
    assert float(torch.stack(parts).sum().detach()) == pytest.approx(float(whole.detach()), rel=1e-12)


def test_contrast_leaves_out_a_pair_that_is_cut_and_is_0_without_one() -> None:
    data, condition = two_classes(8)
    potential = Potential(Classes(), OT(), STD)
    assert contrast(potential, data[1:4], condition[1:4], generator=generator(1), part=Part(1, 8)) == 0
    assert contrast(potential, data[:1], condition[:1], generator=generator(1)) == 0
    assert contrast(potential, data, None, generator=generator(1)) == 0


def test_contrast_asks_about_one_group_at_a_time_and_about_each_as_often() -> None:
    """A colour that gives itself away would else be all that is learned: the conditions that the network is asked."""
    asked = []

    class Listening(nn.Module):
        def forward(self, u: Tensor, angle: Tensor, condition: Tensor) -> Tensor:  # noqa: ARG002
            asked.append(condition)
            return 0 * u[:, 0]

    n = 4 * 3000
    condition = torch.randint(3, (n, 3), generator=generator(2))
    condition[::4, 2] = -1  # the first of a pair has no third class: only the others can be asked about
    contrast(Potential(Listening(), OT(), STD), torch.randn(n, 2), condition, generator=generator(1))
    ours, theirs = asked[0].chunk(4)[:2]
    known = asked[0] >= 0
    assert known.sum(1).max() == 1
    assert (ours >= 0).sum(1).eq(1).all()
    for right, rows in ((ours, condition[::4]), (theirs, condition[1::4])):
        assert torch.equal(right[right >= 0], rows[right >= 0])
    assert (ours >= 0).double().mean(0) == pytest.approx(torch.tensor([0.5, 0.5, 0.0]), abs=0.03)
    assert float((theirs >= 0).any(1).double().mean()) == pytest.approx(0.5, abs=0.03)


def test_the_contrast_is_in_float32_where_training_is_in_bf16() -> None:
    """Near the data, log-odds are small differences of energies that bf16 rounds to several nats."""
    network = UNet(1, 8, widths=[8, 8], classes=[2])
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator())
    potential = Potential(network, OT())
    data, condition = torch.randn(8, 1, 8, 8, generator=generator()), torch.arange(8)[:, None] % 2
    exact = contrast(potential, data, condition, generator=generator())
    potential.autocast_dtype = torch.bfloat16
    assert torch.equal(contrast(potential, data, condition, generator=generator()), exact)
