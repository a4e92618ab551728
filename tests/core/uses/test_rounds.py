"""Independence Metropolis on two points, against the powers of its transition matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from models import vpfb_model
from problems import ExactNetwork, isotropic_gaussian

from vpfb_core.api import Model
from vpfb_core.dynamics.ode import Solution, Status
from vpfb_core.machine import noise
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model.tilt import Tilt, TiltedStatistic
from vpfb_core.uses.drawn import Drawn
from vpfb_core.uses.rounds import settle

N, WEIGHT = 3000, 1.2


def tilted(rounds: int) -> Model:
    model = vpfb_model(Potential(ExactNetwork(isotropic_gaussian(4)), OT()), shape=(1, 2, 2))
    statistic = TiltedStatistic("brightness", 0.7, WEIGHT, shifted=False)
    return model.with_tilt(Tilt((statistic,), torch.zeros(1, 2, 2), {}, rounds))


def coins(seed: int, first: int = 0, count: int = N) -> Drawn:
    """Images that are black or white with probability ½ each."""
    white = (noise.uniform((), seed, range(first, first + count), "coin") > 0).float()
    images = white[:, None, None, None].expand(-1, 1, 2, 2)
    counts = torch.ones(count, dtype=torch.int64)
    return Drawn(images, Solution(images, white, 3 * counts, counts, 0 * counts, 0 * counts))


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_the_share_after_some_rounds_is_that_of_the_transition_matrix(rounds: int) -> None:
    drawn = settle(tilted(rounds), coins, 0, 0)
    fall = 0.5 * math.exp(-WEIGHT)
    transition = np.array([[0.5, 0.5], [fall, 1 - fall]])  # from black, from white
    share = (np.array([0.5, 0.5]) @ np.linalg.matrix_power(transition, rounds))[1]
    assert float(drawn.images.mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / N))
    assert bool((drawn.nfe == 3 * (rounds + 1)).all())
    target = math.exp(WEIGHT) / (1 + math.exp(WEIGHT))
    worst = 2 * target
    assert target - share <= (1 - 1 / worst) ** rounds


def test_sample_i_depends_on_the_seed_and_i_alone() -> None:
    model = tilted(3)
    whole = settle(model, coins, 7, 0).images
    assert torch.equal(settle(model, lambda seed: coins(seed, 40, 9), 7, 40).images, whole[40:49])
    assert not torch.equal(settle(model, coins, 8, 0).images, whole)


def test_a_sample_that_failed_is_replaced_by_one_that_did_not() -> None:
    def failing_first(seed: int) -> Drawn:
        drawn = coins(seed, 0, 8)
        if seed == 0:
            drawn.status.fill_(Status.NON_FINITE)
        return drawn

    assert settle(tilted(1), failing_first, 0, 0).status.tolist() == [0] * 8
