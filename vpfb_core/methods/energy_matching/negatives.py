"""Negatives of the contrastive term: chains of the present energy that go on from training step to training step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import langevin
from vpfb_core.dynamics.per_sample import expand_to
from vpfb_core.dynamics.relaxation import Chain, relax
from vpfb_core.dynamics.solver import Solver
from vpfb_core.machine.micro_batch import parts_of
from vpfb_core.methods.energy_matching.static_energy import CLEAN, DATA_STD, StaticEnergy
from vpfb_core.methods.step import Batch, Moment

DESCENT_STEPS = 20  # from noise to data, by Euler's method
POOL = 4  # chains per datum of a batch
UNREACHABLE = 1e30  # the energy of points at which it is not finite, in nats


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


class Drawn(NamedTuple):
    """The negatives of a training step, which `Pool.keep` takes back.

    Attributes:
        batch: the negatives, as many as data.
        rows: the rows of their chains in the pool, int64 (N,).
        escaped: how many of the chains left for infinity and began anew.
    """

    batch: Batch
    rows: Tensor
    escaped: int


class Pool:
    """Chains that go on from training step to training step. Half of them start at data and half at noise.

    Attributes:
        x: the states of the chains, (K, …); empty before the first step.
        condition: their conditions, int64 (K, G), or None.
        begun: whether each chain has begun, bool (K,).
        escaped: how many chains have left for infinity so far, and began anew.
    """

    def __init__(self) -> None:
        self.escaped = 0
        self.x = torch.empty(0)
        self.condition: Tensor | None = None
        self.begun = torch.empty(0, dtype=torch.bool)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the chains, by name."""
        if not len(self.x):
            return {}
        condition = {} if self.condition is None else {"condition": self.condition}
        return {"chains": self.x, "begun": self.begun, "escaped": torch.tensor(self.escaped), **condition}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.x = tensors.get("chains", torch.empty(0))
        self.begun = tensors.get("begun", torch.empty(0, dtype=torch.bool))
        self.condition = tensors.get("condition")
        self.escaped = int(tensors.get("escaped", 0))

    def _move_to(self, device: torch.device) -> None:
        self.x, self.begun = self.x.to(device), self.begun.to(device)
        self.condition = None if self.condition is None else self.condition.to(device)

    def draw(self, field: StaticEnergy, batch: Batch, at: Moment, journey: Journey) -> Drawn:
        """Negatives after more steps of their chains. The pool stays as it is.

        A chain that the energy lets escape to infinity is at the datum of its row with noise instead.
        """
        n, device = len(batch.data), batch.data.device
        if not len(self.x):
            self.x = batch.data.new_zeros(POOL * n, *batch.data.shape[1:])
            self.condition = None if batch.condition is None else batch.condition.repeat(POOL, 1)
            self.begun = torch.zeros(POOL * n, dtype=torch.bool)
        self._move_to(device)
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
                    _rows(condition, from_noise), at.at_once,
                )  # fmt: skip
            x, lost = _walk(field, x, condition, journey, at)
        x = torch.where(lost.reshape(wide), starts, x)
        if condition is not None and batch.condition is not None:
            condition = torch.where(lost[:, None], batch.condition, condition)
        return Drawn(replace(batch, data=x, condition=condition), rows, int(lost.sum()))

    def mean_energy(self, field: StaticEnergy, device: torch.device, at_once: int) -> Tensor:
        """The mean energy of the chains in nats, (); NaN before they have begun.

        Args:
            field: the field.
            device: the device of the computation.
            at_once: the largest number of chains whose energies are computed at once.
        """
        if not bool(self.begun.any()):
            return torch.tensor(math.nan, device=device)
        self._move_to(device)
        x, condition = self.x[self.begun], _rows(self.condition, self.begun)
        parts = parts_of(len(x), at_once)
        return torch.cat([field.energy(x[rows], CLEAN, _rows(condition, rows)) for rows in parts]).mean()

    def keep(self, drawn: Drawn) -> None:
        """Let the chains go on from these negatives in a later step."""
        self.x[drawn.rows], self.begun[drawn.rows] = drawn.batch.data, True
        self.escaped += drawn.escaped
        if self.condition is not None and drawn.batch.condition is not None:
            self.condition[drawn.rows] = drawn.batch.condition


def blurred(batch: Batch, at: Moment, blur: float) -> Batch:
    """The data of a batch with noise of the standard deviation `blur` in x."""
    noise = torch.randn(batch.data.shape, generator=at.generator("blur"), device=batch.data.device)
    return replace(batch, data=batch.data + blur / DATA_STD * noise)


def _descend(field: StaticEnergy, x: Tensor, condition: Tensor | None, at_once: int) -> Tensor:
    """The ends of the descent from points of noise x, NaN where it failed."""

    def target(x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return field.energy_and_score(x, CLEAN, condition)

    ends = []
    for rows in parts_of(len(x), at_once):
        found = relax(
            target, x[rows], field.chain_variance(CLEAN), Solver.choose("euler", nfe=DESCENT_STEPS), Chain(0, 1.0),
            args=() if condition is None else (condition[rows],),
        )  # fmt: skip
        ends.append(torch.where(expand_to(found.status == 0, found.x), found.x, math.nan))
    return torch.cat(ends)


def _walk(
    field: StaticEnergy, x: Tensor, condition: Tensor | None, journey: Journey, at: Moment
) -> tuple[Tensor, Tensor]:
    """The ends of chains from the points x, and whether each chain has left for infinity, bool (N,)."""

    def target(x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        energy, score = field.energy_and_score(x, CLEAN, _rows(condition, rows))
        finite = energy.isfinite() & score.flatten(1).isfinite().all(1)
        return torch.where(finite, energy, UNREACHABLE), torch.where(expand_to(finite, score), score, 0.0)

    walks = [
        langevin(
            partial(target, rows=rows), x[rows], field.chain_variance(CLEAN), steps=journey.steps, seed=at.seed,
            stream=f"negatives {at.step} {at.rollbacks}", first=rows.start, method=journey.chains,
            scale=journey.step * x[0].numel() ** (1 / 3),
        )
        for rows in parts_of(len(x), at.at_once)
    ]  # fmt: skip
    return torch.cat([walk.x for walk in walks]), torch.cat([walk.energy for walk in walks]) >= UNREACHABLE


def _rows(condition: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    return None if condition is None else condition[rows]
