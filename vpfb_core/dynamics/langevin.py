"""Langevin chains at one noise level: MALA, which the explicit energy makes exact, and ULA.

A step is x' = x + η ∇log ρ + √(2η) ξ with η = c v d^(−1/3), v the variance of the noise at that level. The Metropolis
test takes the step with the chance that makes ρ stationary (Roberts and Tweedie 1996, Bernoulli 2, 341–363).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to, squared_norm
from vpfb_core.errors import ConfigError, SolverError
from vpfb_core.machine import noise

# x (N, …) → (energy, −log density up to a constant, (N,); score, the gradient of the log density, like x)
Target = Callable[[Tensor], tuple[Tensor, Tensor]]

CHAINS = ("mala", "ula")
BEST_ACCEPTANCE = 0.57  # of MALA in many dimensions (Roberts and Rosenthal 1998)
ADAPTATION = 0.3
SCALES = (0.02, 20.0)
DRAWN_AT_ONCE = 4096  # numbers per chain: a generator costs as much as the drawing of many


@dataclass(frozen=True)
class Walk:
    """What N chains did at one level.

    Attributes:
        x: where they ended, (N, …).
        energy: there, up to the target's constant, (N,).
        acceptance: share of the proposals that were accepted, over chains and steps; 1 for ULA.
        step_scale: c of each chain after the last step, (N,).
        trace: energy before the first and after each step, the mean over chains, (steps + 1,).
        evaluations: of the target, per chain.
    """

    x: Tensor
    energy: Tensor
    acceptance: float
    step_scale: Tensor
    trace: Tensor
    evaluations: int


def langevin(
    target: Target,
    x: Tensor,
    variance: float,
    *,
    steps: int,
    seed: int,
    stream: str,
    first: int = 0,
    method: str = "mala",
    scale: float | Tensor = 1.0,
    adapt: bool = False,
    mask: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Walk:
    """Walk `steps` steps from each point. What chain i draws at a step is fixed by (seed, stream, first + i, step).

    Args:
        target: energy and score; called without autograd.
        x: where the chains start, (N, …).
        variance: v, of the noise at the level of the chains, in the units of x.
        stream: the name of the noise; a different one for every level or call that is to be independent of this one.
        first: index of the first chain, where these are a part of many.
        method: "mala", or "ula", the same steps without the Metropolis test and therefore biased.
        scale: c, one for all or (N,), as `Walk.step_scale` returns it.
        adapt: c ← c·exp(0.3 (acceptance − 0.57)) in [0.02, 20] after each step, the acceptance being the chance of the
            chain's own proposal: no chain depends on the others of its batch. For burn-in, since a chain that adapts
            is not exact. ULA has no acceptance and keeps its c.
        mask: 1 where a chain may move and 0 where it may not, shaped like one sample (…) or like x; None is everywhere.
        on_step: called after each step with the number of steps done.
    Raises:
        ConfigError: no steps, or an unknown method.
        SolverError: the energy is not finite where a chain starts, or ULA has left the finite numbers.
    """
    if method not in CHAINS:
        raise ConfigError(f"unknown chain {method!r}", hint=f"chains: {', '.join(CHAINS)}")
    if steps < 1:
        raise ConfigError(f"steps = {steps}: a chain takes at least one step")
    free = torch.ones_like(x) if mask is None else mask.to(x).expand_as(x)
    unit = variance * free.flatten(1).sum(1).clamp(min=1) ** (-1 / 3)
    c = torch.as_tensor(scale, dtype=x.dtype, device=x.device).expand(len(x))
    draws = _draws(x, steps, seed, range(first, first + len(x)), stream)
    accepted = torch.zeros_like(c)
    with torch.no_grad():
        energy, score = target(x)
        if not energy.isfinite().all():
            raise SolverError(
                f"the energy is not finite at {int((~energy.isfinite()).sum())} of {len(x)} starting points",
                hint="the flow that led there is not to be trusted: use another solver, or train the model longer",
            )
        trace = [energy.mean()]
        for step, (xi, draw) in enumerate(draws):
            eta = c * unit
            wide = expand_to(eta, x)
            xi = xi * free
            proposal = x + wide * free * score + (2 * wide).sqrt() * xi
            new_energy, new_score = target(proposal)
            if method == "mala":
                back = squared_norm(x - proposal - wide * free * new_score)
                gain = energy - new_energy - back / (4 * eta) + 0.5 * squared_norm(xi)
                chance = torch.where(gain.isfinite(), gain.clamp(max=0).exp(), 0.0)
                moves = draw < chance
            else:
                chance, moves = torch.ones_like(c), torch.ones_like(c, dtype=torch.bool)
            x = torch.where(expand_to(moves, x), proposal, x)
            score = torch.where(expand_to(moves, x), new_score, score)
            energy = torch.where(moves, new_energy, energy)
            accepted = accepted + moves
            trace.append(energy.mean())
            if adapt and method == "mala":
                c = (c * torch.exp(ADAPTATION * (chance - BEST_ACCEPTANCE))).clamp(*SCALES)
            if on_step is not None:
                on_step(step + 1)
    if not energy.isfinite().all():
        raise SolverError(
            f"{int((~energy.isfinite()).sum())} of {len(x)} chains left the finite numbers",
            hint="mala refuses such steps; ula needs a smaller scale",
        )
    acceptance = float(accepted.mean()) / steps if len(x) else math.nan
    return Walk(x, energy, acceptance, c, torch.stack(trace), steps + 1)


def _draws(x: Tensor, steps: int, seed: int, chains: range, stream: str) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step, ξ shaped like x and a number from [0, 1) for the test of each chain, (N,).

    Drawn some steps at a time; how many depends on the shape alone, and so do the draws.
    """
    at_once = max(1, min(32, DRAWN_AT_ONCE // max(1, x[0].numel() if len(x) else 1)))
    for begin in range(0, steps, at_once):
        normal = noise.normal((at_once, *x.shape[1:]), seed, chains, f"{stream} {begin}")
        test = noise.uniform((at_once,), seed, chains, f"{stream} {begin} test") + 0.5
        for step in range(min(at_once, steps - begin)):
            yield normal[:, step].to(x), test[:, step].to(x)
