"""Negatives of the contrastive term: samples of the present energy, by descents and chains from data and from noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.dynamics.relaxation import Chain, relax
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import SolverError
from vpfb_core.methods.energy_matching.static_energy import CLEAN, StaticEnergy
from vpfb_core.methods.step import Batch, Moment

AT_ONCE = 128  # the number of chains that are computed at once


@dataclass(frozen=True)
class Journey:
    """How a negative gets from noise to data: the descent until t = 1, then a chain.

    Attributes:
        step: Δt, the length of a step of both.
        time: the time at which the chain ends.
    """

    step: float
    time: float

    @property
    def solver(self) -> Solver:
        """The solver of the descent."""
        return Solver.choose("euler", nfe=max(1, round(min(self.time, 1.0) / self.step)))

    @property
    def chain_steps(self) -> int:
        """The number of steps of the chain."""
        return max(0, round((self.time - 1) / self.step))

    @property
    def evaluations(self) -> int:
        """Gradients per negative."""
        return (self.solver.nfe or 0) + self.chain_steps


def draw_negatives(field: StaticEnergy, batch: Batch, at: Moment, journey: Journey) -> Tensor:
    """One negative per datum, like the data: from the datum itself in even rows, from noise in odd rows.

    A chain that the energy lets escape to infinity gives NaN. Pixels are kept within the range of those of the batch.
    """
    noise = torch.randn(batch.data.shape, generator=at.generator("negatives"), device=batch.data.device)
    from_noise = torch.arange(len(batch.data), device=noise.device) % 2 == 1
    wide = from_noise.reshape(-1, *[1] * (noise.ndim - 1))
    start = torch.where(wide, field.at_level(torch.zeros_like(noise), math.inf, noise), batch.data)
    ends = []
    with field.measuring():
        for first in range(0, len(start), AT_ONCE):
            rows = slice(first, first + AT_ONCE)
            condition = () if batch.condition is None else (batch.condition[rows],)
            chain = Chain(
                journey.chain_steps, journey.step, at.seed, f"negatives {at.step} {at.rollbacks}", first=first
            )
            try:
                found = relax(
                    lambda x, condition=None: field.energy_and_score(x, CLEAN, condition), start[rows],
                    field.chain_variance(CLEAN), journey.solver, chain, args=condition, until=min(journey.time, 1.0),
                )  # fmt: skip
                ends.append(torch.where((found.status == 0).reshape(-1, *[1] * (noise.ndim - 1)), found.x, math.nan))
            except SolverError:
                ends.append(torch.full_like(start[rows], math.nan))
    return _within_range(torch.cat(ends), batch.data)


def _within_range(negatives: Tensor, data: Tensor) -> Tensor:
    """Images with values between the smallest and the largest of each channel of the data; vectors as they are."""
    if data.ndim != 4:
        return negatives
    lowest, highest = data.amin((0, 2, 3), keepdim=True), data.amax((0, 2, 3), keepdim=True)
    return torch.minimum(torch.maximum(negatives, lowest), highest)
