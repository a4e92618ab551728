"""Negatives of the contrastive term: chains of the present energy that go on from training step to training step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import langevin
from vpfb_core.dynamics.relaxation import Chain, relax
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import SolverError
from vpfb_core.methods.energy_matching.static_energy import CLEAN, DATA_STD, StaticEnergy
from vpfb_core.methods.step import Batch, Moment

AT_ONCE = 128  # the number of chains that are computed at once
DESCENT_STEPS = 20  # from noise to data, by Euler's method
POOL = 4  # chains per datum of a batch


@dataclass(frozen=True)
class Journey:
    """How negatives move.

    Attributes:
        step: the length of a step of a chain, in time.
        steps: the number of steps of each chain per training step.
        restarts: the share of the negatives whose chains start anew.
        blur: the standard deviation in x of the noise on the data at which chains start.
        chains: "mala" or "ula".
    """

    step: float
    steps: int
    restarts: float
    blur: float
    chains: str = "ula"

    @property
    def evaluations(self) -> float:
        """Gradients per negative, in the mean."""
        return self.steps + self.restarts / 2 * DESCENT_STEPS


class Pool:
    """Chains that go on from training step to training step. Half of them start at data and half at noise.

    Attributes:
        x: the states of the chains, (K, …); empty before the first step.
        condition: their conditions, int64 (K, G), or None.
        begun: whether each chain has begun, bool (K,).
    """

    def __init__(self) -> None:
        self.x = torch.empty(0)
        self.condition: Tensor | None = None
        self.begun = torch.empty(0, dtype=torch.bool)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the chains, by name."""
        if not len(self.x):
            return {}
        condition = {} if self.condition is None else {"condition": self.condition}
        return {"chains": self.x, "begun": self.begun, **condition}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.x = tensors.get("chains", torch.empty(0))
        self.begun = tensors.get("begun", torch.empty(0, dtype=torch.bool))
        self.condition = tensors.get("condition")

    def _place(self, device: torch.device) -> None:
        self.x, self.begun = self.x.to(device), self.begun.to(device)
        self.condition = None if self.condition is None else self.condition.to(device)

    def draw(self, field: StaticEnergy, batch: Batch, at: Moment, journey: Journey) -> tuple[Batch, Tensor]:
        """As many negatives as data, after more steps of their chains, and the rows of the pool for `keep`.

        A chain that the energy lets escape to infinity gives NaN.
        """
        n, device = len(batch.data), batch.data.device
        if not len(self.x):
            self.x = batch.data.new_zeros(POOL * n, *batch.data.shape[1:])
            self.condition = None if batch.condition is None else batch.condition.repeat(POOL, 1)
            self.begun = torch.zeros(POOL * n, dtype=torch.bool)
        self._place(device)
        draws = at.generator("negatives")
        rows = torch.randperm(len(self.x), generator=draws, device=device)[:n]
        begins = (torch.rand(n, generator=draws, device=device) < journey.restarts) | ~self.begun[rows]
        from_noise = begins & (torch.rand(n, generator=draws, device=device) < 0.5)
        noise = torch.randn(batch.data.shape, generator=draws, device=device)
        wide = [n] + [1] * (noise.ndim - 1)
        starts = batch.data + journey.blur / DATA_STD * noise
        x = torch.where(begins.reshape(wide), starts, self.x[rows])
        condition = None
        if self.condition is not None and batch.condition is not None:
            condition = torch.where(begins[:, None], batch.condition, self.condition[rows])
        with field.measuring():
            if bool(from_noise.any()):
                x[from_noise] = _descend(
                    field, field.at_level(torch.zeros_like(noise), math.inf, noise)[from_noise],
                    None if condition is None else condition[from_noise],
                )  # fmt: skip
            x = _walk(field, x, condition, journey, at)
        return replace(batch, data=x, condition=condition), rows

    def gap(self, field: StaticEnergy, data: Tensor, condition: Tensor | None) -> Tensor:
        """The energy of each datum in nats minus the mean energy of the chains, (N,); NaN before they have begun."""
        if not bool(self.begun.any()):
            return data.new_full((len(data),), math.nan)
        self._place(data.device)
        conditions = None if self.condition is None else self.condition[self.begun]
        return field.energy(data, CLEAN, condition) - field.energy(self.x[self.begun], CLEAN, conditions).mean()

    def keep(self, negatives: Batch, rows: Tensor) -> None:
        """Let the chains in these rows go on from the negatives in a later step."""
        self.x[rows], self.begun[rows] = negatives.data, True
        if self.condition is not None and negatives.condition is not None:
            self.condition[rows] = negatives.condition


def blurred(batch: Batch, at: Moment, blur: float) -> Batch:
    """The data of a batch with noise of the standard deviation `blur` in x."""
    noise = torch.randn(batch.data.shape, generator=at.generator("blur"), device=batch.data.device)
    return replace(batch, data=batch.data + blur / DATA_STD * noise)


def _descend(field: StaticEnergy, x: Tensor, condition: Tensor | None) -> Tensor:
    def target(x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return field.energy_and_score(x, CLEAN, condition)

    found = relax(
        target, x, field.chain_variance(CLEAN), Solver.choose("euler", nfe=DESCENT_STEPS), Chain(0, 1.0),
        args=() if condition is None else (condition,),
    )  # fmt: skip
    return torch.where((found.status == 0).reshape(-1, *[1] * (x.ndim - 1)), found.x, math.nan)


def _walk(field: StaticEnergy, x: Tensor, condition: Tensor | None, journey: Journey, at: Moment) -> Tensor:
    """The ends of chains from the points x."""
    ends = []
    for first in range(0, len(x), AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        target = partial(field.energy_and_score, level=CLEAN, condition=None if condition is None else condition[rows])
        try:
            walked = langevin(
                target, x[rows], field.chain_variance(CLEAN), steps=journey.steps, seed=at.seed,
                stream=f"negatives {at.step} {at.rollbacks}", first=first, method=journey.chains,
                scale=journey.step * x[0].numel() ** (1 / 3),
            )  # fmt: skip
            ends.append(walked.x)
        except SolverError:
            ends.append(torch.full_like(x[rows], math.nan))
    return torch.cat(ends)
