"""The particles of training: the codes of the training data and the pool of joint states, moved by MALA.

Everything stays on the device, the step sizes included. The codes of the data never move in larger steps than those of
the pool: if they did, their mean would lead that of the pool, and the energy would follow the lead without end.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import BEST_ACCEPTANCE, State, Target, metropolis_step
from vpfb_core.methods.latent.joint_energy import LatentField
from vpfb_core.methods.latent.posterior import most_probable
from vpfb_core.methods.step import Batch, Moment

OF_DATA, OF_POOL = 0, 1  # the step sizes
TRAINING_CANDIDATES = 64  # codes from the prior, the best of which is the first code of a datum in training
RATE = 0.1  # at which the logarithm of a step size adapts
LIMITS = (1e-6, 1.0)  # of a step size


class Particles:
    """The codes of the training data, which the state of a run contains; the pool is in the field."""

    def __init__(self) -> None:
        self.codes: Tensor | None = None
        self._visited = torch.empty(0, dtype=torch.bool)  # which data have a code, on the CPU

    def tensors(self) -> dict[str, Tensor]:
        """The codes; NaN for data that have not been visited."""
        return {} if self.codes is None else {"codes": self.codes}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self.codes = tensors.get("codes")
        self._visited = torch.empty(0, dtype=torch.bool)
        if self.codes is not None:
            self._visited = ~self.codes.isnan().any(1).cpu()

    def codes_of(self, field: LatentField, batch: Batch, u: Tensor, at: Moment, steps: int, *, bound: bool) -> Tensor:
        """The codes of a batch, (B, k), after `steps` more steps of their chains.

        Args:
            field, batch, at: those of `Method.losses`.
            u: the noised data, (B, d).
            steps: the number of steps.
            bound: whether their step size is at most that of the pool.
        """
        assert batch.keys is not None
        draws = at.generator("codes")
        candidates = torch.randn(TRAINING_CANDIDATES, field.codes, generator=draws, device=u.device)
        stored = self._reserved(int(batch.keys.max()) + 1, field.codes, u.device)
        keys = batch.keys.to(u.device, non_blocking=True)
        z, new = stored[keys], ~self._visited[batch.keys]
        if bool(new.any()):
            rows = new.to(u.device)
            z[rows] = most_probable(field, u[rows], candidates)
        z, chance = move(field.given(u), z, field.step_sizes[OF_DATA], steps, draws)
        stored[keys] = z
        self._visited[batch.keys] = True
        _adapt(field.step_sizes, OF_DATA, chance)
        if bound:
            field.step_sizes[OF_DATA] = field.step_sizes.min()
        return z

    def _reserved(self, count: int, width: int, device: torch.device) -> Tensor:
        """The codes, with room for at least `count` data."""
        kept = torch.empty(0, width, device=device) if self.codes is None else self.codes.to(device)
        if len(kept) < count:
            more = torch.full((max(count, 2 * len(kept)) - len(kept), width), torch.nan, device=device)
            kept = torch.cat([kept, more])
            self._visited = torch.cat([self._visited, torch.zeros(len(more), dtype=torch.bool)])
        self.codes = kept
        return kept


def fresh(field: LatentField, count: int, draws: torch.Generator, at_once: int) -> Tensor:
    """States of the model without f, (count, d + k), which need no burn-in, computed `at_once` at a time."""
    state = torch.randn(count, field.dimension + field.codes, generator=draws, device=field.pool.device)
    parts = (part.split([field.dimension, field.codes], 1) for part in state.split(at_once))
    return torch.cat([field.generate(z, epsilon) for epsilon, z in parts])


def begin_pool(field: LatentField, at: Moment) -> None:
    """Fill the pool with samples of the model without f."""
    field.pool.copy_(fresh(field, len(field.pool), at.generator("first pool"), at.at_once))
    field.step_sizes[OF_POOL] = field.step_sizes[OF_DATA]
    field.pool_steps.zero_()


def from_pool(field: LatentField, count: int, at: Moment, steps: int) -> Tensor:
    """Some states of the pool, (count, d + k), after `steps` more steps of their chains."""
    draws = at.generator("pool")
    rows = torch.randperm(len(field.pool), generator=draws, device=field.pool.device)[:count]
    state, chance = move(field.joint(), field.pool[rows], field.step_sizes[OF_POOL], steps, draws)
    field.pool[rows] = state
    field.pool_steps += steps
    _adapt(field.step_sizes, OF_POOL, chance)
    return state


def move(target: Target, x: Tensor, eta: Tensor, steps: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """States x (N, …) after some steps of MALA, and the mean probability of acceptance, ()."""
    eta, free, chances = eta.expand(len(x)), torch.ones_like(x), []
    with torch.no_grad():
        now = State(x, *target(x))
        for _ in range(steps):
            xi = torch.randn(x.shape, generator=draws, device=x.device)
            uniform = torch.rand(len(x), generator=draws, device=x.device)
            now, chance, _ = metropolis_step(target, now, eta, xi, uniform, free)
            chances.append(chance.mean())
        return now.x, torch.stack(chances).mean()


def _adapt(step_sizes: Tensor, which: int, chance: Tensor) -> None:
    """Change a step size towards the best acceptance, in place."""
    step_sizes[which] = (step_sizes[which] * torch.exp(RATE * (chance - BEST_ACCEPTANCE))).clamp(*LIMITS)
