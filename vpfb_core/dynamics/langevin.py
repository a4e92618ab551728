"""Langevin chains at one level of the arc: MALA, which the explicit energy makes exact, and ULA.

In x, a step is x' = x + η ∇log ρ + √(2η) ξ with η = c σ² d^(−1/3). On the arc, u = x/S and σ/S = cos φ, so that the
step there is η = c cos² φ d^(−1/3), whatever the schedule. The Metropolis test takes the step with the chance that
makes ρ stationary (Roberts and Tweedie 1996, Bernoulli 2, 341–363).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import ConfigError, SolverError
from vpfb_core.machine import noise
from vpfb_core.methods.vpfb.homotopy import expand_to

# (u (N, …), φ (N,)) → (log-density up to a constant (N,), its gradient in u, shaped like u)
Target = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

CHAINS = ("mala", "ula")
BEST_ACCEPTANCE = 0.57  # of MALA in many dimensions (Roberts and Rosenthal 1998)
ADAPTATION = 0.3
SCALES = (0.02, 20.0)
DRAWN_AT_ONCE = 4096  # numbers a chain: a generator costs as much as the drawing of many


@dataclass(frozen=True)
class Walk:
    """What N chains did at one level.

    Attributes:
        u: where they ended, (N, …).
        log_density: there, up to the target's constant, (N,).
        acceptance: share of the proposals taken, over chains and steps; 1 for ULA.
        step_scale: c of each chain after the last step, (N,).
        trace: log-density before the first and after each step, the mean over chains, (steps + 1,).
        evaluations: of the target, a chain.
    """

    u: Tensor
    log_density: Tensor
    acceptance: float
    step_scale: Tensor
    trace: Tensor
    evaluations: int


def langevin(
    target: Target,
    u: Tensor,
    angle: Tensor,
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
        target: log-density and gradient; called without autograd.
        u: where the chains start, (N, …).
        angle: φ, (N,).
        stream: the name of the noise; another one for every level or call that is to be independent of this one.
        first: index of the first chain, where these are a part of many.
        method: "mala", or "ula", the same steps without the Metropolis test and therefore biased.
        scale: c, one for all or (N,), as `Walk.step_scale` returns it.
        adapt: c ← c·exp(0.3 (acceptance − 0.57)) in [0.02, 20] after each step, the acceptance being the chance of the
            chain's own proposal: no chain depends on the others of its batch. For burn-in, since a chain that adapts
            is not exact. ULA has no acceptance and keeps its c.
        mask: 1 where a chain may move and 0 where it may not, shaped like one sample (…) or like u; None is everywhere.
        on_step: called after each step with the number of steps done.
    Raises:
        ConfigError: no steps, or an unknown method.
        SolverError: the target is not finite where a chain starts, or ULA has left the finite numbers.
    """
    if method not in CHAINS:
        raise ConfigError(f"unknown chain {method!r}", hint=f"chains: {', '.join(CHAINS)}")
    if steps < 1:
        raise ConfigError(f"steps = {steps}: a chain takes at least one")
    free = torch.ones_like(u) if mask is None else mask.to(u).expand_as(u)
    unit = torch.cos(angle).square() * free.flatten(1).sum(1).clamp(min=1) ** (-1 / 3)
    c = torch.as_tensor(scale, dtype=u.dtype, device=u.device).expand(len(u))
    draws = _draws(u, steps, seed, range(first, first + len(u)), stream)
    taken = torch.zeros_like(c)
    with torch.no_grad():
        log_density, score = target(u, angle)
        if not log_density.isfinite().all():
            raise SolverError(
                f"the log-density is not finite at {int((~log_density.isfinite()).sum())} of {len(u)} starting points",
                hint="the flow that led there is not to be trusted: another solver, or train the model longer",
            )
        trace = [log_density.mean()]
        for step, (xi, draw) in enumerate(draws):
            eta = c * unit
            wide = expand_to(eta, u)
            xi = xi * free
            proposal = u + wide * free * score + (2 * wide).sqrt() * xi
            new_density, new_score = target(proposal, angle)
            if method == "mala":
                back = (u - proposal - wide * free * new_score).flatten(1).square().sum(1)
                gain = new_density - log_density - back / (4 * eta) + 0.5 * xi.flatten(1).square().sum(1)
                chance = torch.where(gain.isfinite(), gain.clamp(max=0).exp(), 0.0)
                moves = draw < chance
            else:
                chance, moves = torch.ones_like(c), torch.ones_like(c, dtype=torch.bool)
            u = torch.where(expand_to(moves, u), proposal, u)
            score = torch.where(expand_to(moves, u), new_score, score)
            log_density = torch.where(moves, new_density, log_density)
            taken = taken + moves
            trace.append(log_density.mean())
            if adapt and method == "mala":
                c = (c * torch.exp(ADAPTATION * (chance - BEST_ACCEPTANCE))).clamp(*SCALES)
            if on_step is not None:
                on_step(step + 1)
    if not log_density.isfinite().all():
        raise SolverError(
            f"{int((~log_density.isfinite()).sum())} of {len(u)} chains left the finite numbers",
            hint="mala refuses such steps; ula needs a smaller scale",
        )
    acceptance = float(taken.mean()) / steps if len(u) else math.nan
    return Walk(u, log_density, acceptance, c, torch.stack(trace), steps + 1)


def _draws(u: Tensor, steps: int, seed: int, chains: range, stream: str) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step, ξ shaped like u and a number from [0, 1) for the test of each chain, (N,).

    Drawn some steps at a time; how many depends on the shape alone, and so do the draws.
    """
    at_once = max(1, min(32, DRAWN_AT_ONCE // max(1, u[0].numel() if len(u) else 1)))
    for begin in range(0, steps, at_once):
        normal = noise.normal((at_once, *u.shape[1:]), seed, chains, f"{stream} {begin}")
        test = noise.uniform((at_once,), seed, chains, f"{stream} {begin} test") + 0.5
        for step in range(min(at_once, steps - begin)):
            yield normal[:, step].to(u), test[:, step].to(u)
