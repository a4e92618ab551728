"""Samples of a tilted density by independence Metropolis, for statistics whose tilt is known for samples only.

Each sample is compared with further samples of the model. A proposal x' takes the place of x with probability
min(1, exp(λ·(T(x') − T(x)))), so that the tilted density is stationary. If exp(λ·T)/Z is at most w, the distance from
it in total variation is at most (1 − 1/w)^R after R rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vpfb_core.dynamics.ode import Status
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.machine import noise
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.drawn import Drawn
from vpfb_core.uses.measuring.measures import Measures


def settle(model: TrainedModel, propose: Callable[[int], Drawn], seed: int, first: int) -> Drawn:
    """Samples of a tilted model. The random numbers of sample i depend only on (seed, first + i).

    Args:
        model: a model whose tilt has rounds.
        propose: draws as many samples as are wanted from the model without rounds, with a given seed.
        seed: the seed of the first samples, from which those of the proposals are derived.
        first: the index of the first sample.
    Raises:
        CheckpointError: this version does not know a statistic of the tilt.
    """
    assert model.tilt is not None
    try:
        measures = Measures.of(model, [each.name for each in model.tilt.unshifted])
    except ConfigError as error:
        raise CheckpointError(f"the tilt of the model cannot be followed: {error}") from error
    weights = torch.tensor([each.weight for each in model.tilt.unshifted], dtype=torch.float64)

    def exponent(drawn: Drawn) -> Tensor:
        found = measures.measure(drawn.images) @ weights
        return torch.where(drawn.status == Status.SUCCESS, found, -torch.inf)  # a sample that failed is replaced

    current = propose(seed)
    height = exponent(current)
    for index in range(1, model.tilt.rounds + 1):
        proposal = propose(noise.derive_seed(seed, "tilt round", index))
        proposed = exponent(proposal)
        draws = noise.uniform((), seed, range(first, first + len(height)), f"tilt round {index}") + 0.5
        accepted = torch.log(draws) < proposed - height
        height = torch.where(accepted, proposed, height)
        current = _mixed(accepted, proposal, current)
    return current


def _mixed(accepted: Tensor, proposal: Drawn, current: Drawn) -> Drawn:
    """The proposals where they are accepted, and the current samples elsewhere; evaluations of both are counted."""

    def choose(new: Tensor, old: Tensor, axis: int = 0) -> Tensor:
        mask = accepted.reshape(*[1] * axis, -1, *[1] * (new.ndim - 1 - axis))
        return torch.where(mask, new, old)

    new, old = proposal.solution, current.solution
    chosen: dict[str, Any] = {name: choose(getattr(new, name), getattr(old, name)) for name in ("x", "t", "status")}
    counts = {name: getattr(new, name) + getattr(old, name) for name in ("nfe", "accepted", "rejected")}
    if new.path is not None and old.path is not None:
        chosen["path"] = choose(new.path, old.path, 1)
    path = None
    if proposal.path is not None and current.path is not None:
        path = choose(proposal.path, current.path, 1)
    images = choose(proposal.images, current.images)
    return replace(current, images=images, solution=replace(old, **chosen, **counts), path=path)
