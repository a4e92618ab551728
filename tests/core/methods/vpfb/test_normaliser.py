"""The normaliser: its levels, and how its constants are looked up and kept."""

from __future__ import annotations

import math

import numpy as np
import pytest
from problems import ExactNetwork, ring

from vpfb_core.methods.path.homotopy import OT, LogHomotopy
from vpfb_core.methods.vpfb.normaliser import Constants, Normaliser, levels
from vpfb_core.methods.vpfb.potential import Potential


def test_levels_reach_from_noise_to_the_floor_and_hold_the_reported_ones() -> None:
    mixture = ring()
    usual = levels(Potential(ExactNetwork(mixture), OT(sigma_min=1e-3), 0.5))
    assert usual[0] == pytest.approx(10**1.5)
    assert 2e-3 <= usual[-1] < 2e-3 * 10**0.1
    assert any(noise == pytest.approx(0.1) for noise in usual)
    high = Normaliser(2, levels(Potential(ExactNetwork(mixture), LogHomotopy(omega=0.5, nu=0.3), 0.5)), {})
    assert high.quoted_level == high.noise[-1] >= 0.6
    assert [round(high.noise[i], 1) for i in high.reported] == [2.0, 1.0]


def test_between_levels_the_constant_follows_a_cubic_and_towards_the_prior_the_gaussian() -> None:
    noise = tuple(10 ** (1 - k / 10) for k in range(21))
    cubic = np.polynomial.Polynomial([-4, 1, -0.2, 0.01])
    normaliser = Normaliser(6, noise, {(): Constants(tuple(cubic(np.arange(21))), (0.0,) * 21, 1)})
    for position in np.linspace(0, 20, 47):
        assert normaliser.constant(10 ** (1 - position / 10)) == pytest.approx(cubic(position), rel=1e-12)
    prior = normaliser.constant(math.inf)
    assert prior == pytest.approx(-3 * math.log(2 * math.pi))
    assert normaliser.constant(20.0) == pytest.approx(0.5 * (prior + cubic(0)))
    beyond = 2 * cubic(20) - cubic(19)
    assert normaliser.constant(noise[-1] * 10**-0.1) == pytest.approx(beyond), (
        "it is extrapolated by a line from the last level"
    )


def test_whole_numbers_of_json_become_floats_or_an_error() -> None:
    document = Normaliser(2, (1.0, 0.5), {(): Constants((-1.0, -2.0), (0.1, 0.1), 9)}).to_dict()
    document["noise"] = [2**64, 1]
    found = Normaliser.from_dict(document)
    assert found.noise == (2.0**64, 1.0)
    assert math.isfinite(found.constant(2.0))
    for value in (10**400, True, "1", None, math.inf):
        document["noise"] = [value, 1]
        with pytest.raises(ValueError, match="finite numbers"):
            Normaliser.from_dict(document)
