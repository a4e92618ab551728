"""Langevin chains at one noise level: MALA, which is exact because the energy is explicit, and ULA.

A step proposes x' = x + η ∇log ρ + √(2η) ξ with η = c v d^(−1/3), where v is the variance of the noise at that level
and d is the dimension. MALA accepts the proposal with the probability that makes ρ the stationary density (Roberts and
Tweedie 1996, Bernoulli 2, 341–363).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vpfb_core.dynamics.per_sample import expand_to, squared_norm
from vpfb_core.errors import ConfigError, SolverError
from vpfb_core.machine.counter_noise import ChainNoise

# x (N, …) → (energy: −log density up to a constant, (N,); score: the gradient of the log density, like x)
Target = Callable[[Tensor], tuple[Tensor, Tensor]]

CHAINS = ("mala", "ula")
BEST_ACCEPTANCE = 0.57  # the optimal acceptance of MALA in many dimensions (Roberts and Rosenthal 1998)
ADAPTATION = 0.3  # the rate at which the logarithm of a step scale adapts
SCALES = (0.02, 20.0)  # the limits of an adapted step scale


class State(NamedTuple):
    """The states of N chains.

    Attributes:
        x: (N, …).
        energy: the energy of x, (N,).
        score: the score at x, like x.
    """

    x: Tensor
    energy: Tensor
    score: Tensor


@dataclass(frozen=True)
class Walk:
    """The result of N chains at one level.

    Attributes:
        x: the final states, (N, …).
        energy: the energy of the final states, up to the constant of the target, (N,).
        acceptance: the share of accepted proposals over all chains and steps; 1 for ULA.
        step_scale: the scale c of each chain after the last step, (N,).
        trace: the mean energy over the chains before the first step and after each step, (steps + 1,).
        evaluations: evaluations of the target per chain.
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
    """Run N Langevin chains from the points x.

    The random numbers of chain i are fixed by (seed, stream, first + i, step) and do not depend on the batch.

    Args:
        target: returns energy and score; it is called without autograd.
        x: the initial states, (N, …).
        variance: v, the variance of the noise at this level, in the squared units of x.
        steps: the number of steps.
        seed: the seed of all chains.
        stream: the name of the noise. Levels and calls that should be independent need different names.
        first: the index of the first chain, if these chains are a part of a larger set.
        method: "mala" or "ula". ULA takes the same steps without the Metropolis test and is therefore biased.
        scale: c, one number or (N,), as in `Walk.step_scale`.
        adapt: whether c adapts after each step: c ← c·exp(0.3 (acceptance − 0.57)), kept in [0.02, 20]. The acceptance
            is the probability of the chain's own proposal, so that no chain depends on the others of its batch.
            Adaptation is meant for the burn-in, since an adapting chain is not exact. ULA keeps its c.
        mask: 1 where a chain may move and 0 where it may not, shaped like one sample (…) or like x. None lets it move
            everywhere.
        on_step: called after each step with the number of steps done.
    Raises:
        ConfigError: `steps` is below 1, or the method is unknown.
        SolverError: the energy of an initial state is not finite, or a chain of ULA became non-finite.
    """
    if method not in CHAINS:
        raise ConfigError(f"unknown chain {method!r}", hint=f"chains: {', '.join(CHAINS)}")
    if steps < 1:
        raise ConfigError(f"steps = {steps}: a chain takes at least one step")
    free = torch.ones_like(x) if mask is None else mask.to(x).expand_as(x)
    unit = variance * free.flatten(1).sum(1).clamp(min=1) ** (-1 / 3)
    c = torch.as_tensor(scale, dtype=x.dtype, device=x.device).expand(len(x))
    draws = ChainNoise(seed, stream, first, x, steps)
    accepted = torch.zeros_like(c)
    with torch.no_grad():
        now = State(x, *target(x))
        if lost := _not_finite(now.energy):
            raise SolverError(
                f"the energy is not finite at {lost} of {len(x)} starting points",
                hint="the flow to these points is inaccurate: use another solver, or train the model longer",
            )
        trace = [now.energy.mean()]
        for step in range(steps):
            eta = c * unit
            xi = draws.normal(step) * free
            if method == "mala":
                now, chance, moves = metropolis_step(target, now, eta, xi, draws.uniform(step), free)
            else:
                moved = _proposal(now, eta, xi, free)
                now, chance, moves = State(moved, *target(moved)), torch.ones_like(c), torch.ones_like(c)
            accepted = accepted + moves
            trace.append(now.energy.mean())
            if adapt and method == "mala":
                c = (c * torch.exp(ADAPTATION * (chance - BEST_ACCEPTANCE))).clamp(*SCALES)
            if on_step is not None:
                on_step(step + 1)
    if method == "ula" and (lost := _not_finite(now.energy)):
        raise SolverError(
            f"{lost} of {len(x)} chains became non-finite",
            hint="use mala, which rejects such steps, or give ula a smaller scale",
        )
    acceptance = float(accepted.mean()) / steps if len(x) else math.nan
    return Walk(now.x, now.energy, acceptance, c, torch.stack(trace), steps + 1)


def in_parts(target: Target, at_once: int) -> Target:
    """A target that is evaluated at no more than `at_once` points at a time."""

    def evaluated(x: Tensor) -> tuple[Tensor, Tensor]:
        energies, scores = zip(*(target(part) for part in x.split(at_once)), strict=True)
        return torch.cat(energies), torch.cat(scores)

    return evaluated


def metropolis_step(
    target: Target, now: State, eta: Tensor, xi: Tensor, uniform: Tensor, free: Tensor
) -> tuple[State, Tensor, Tensor]:
    """One step of MALA from given random numbers. Nothing is synchronised with the host.

    Args:
        target: returns energy and score.
        now: the present states.
        eta: η of each chain, (N,).
        xi: standard normal noise, like x, that is zero where a chain may not move.
        uniform: numbers uniform in (0, 1], (N,).
        free: 1 where a chain may move and 0 where it may not, like x.
    Returns:
        The next states, the probability that the proposal is accepted, (N,), and whether it was, bool (N,).
    """
    proposal = _proposal(now, eta, xi, free)
    energy, score = target(proposal)
    back = squared_norm(now.x - proposal - expand_to(eta, proposal) * free * score)
    gain = now.energy - energy - back / (4 * eta) + 0.5 * squared_norm(xi)
    chance = torch.where(gain.isfinite(), gain.clamp(max=0).exp(), 0.0)
    moves = uniform < chance
    wide = expand_to(moves, proposal)
    moved = State(
        torch.where(wide, proposal, now.x), torch.where(moves, energy, now.energy), torch.where(wide, score, now.score)
    )
    return moved, chance, moves


def _proposal(now: State, eta: Tensor, xi: Tensor, free: Tensor) -> Tensor:
    wide = expand_to(eta, now.x)
    return now.x + wide * free * now.score + (2 * wide).sqrt() * xi


def _not_finite(energy: Tensor) -> int:
    """The number of energies that are not finite, for which the host waits."""
    return int((~energy.isfinite()).sum())
