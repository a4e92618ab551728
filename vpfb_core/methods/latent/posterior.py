"""The codes of given data: chains of the density of codes, and the free energy and its gradient.

The density of a code z given a noised datum u is proportional to p(u, z), and f does not change it. Chains begin at the
best of some codes that are drawn from the prior. All data share the same random numbers, so that what is found for a
datum depends on the datum alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from vpfb_core.dynamics.langevin import ADAPTATION, BEST_ACCEPTANCE, State, metropolis_step
from vpfb_core.machine.counter_noise import ChainNoise
from vpfb_core.methods.scalar import value_and_gradients

if TYPE_CHECKING:
    from vpfb_core.methods.latent.joint_energy import LatentField

ENCODING_CANDIDATES = 256  # codes from the prior among which a chain of an encoded datum chooses its beginning
BURN_IN, STEPS = 60, 60  # the steps in which a chain adapts its step size, and those over which it is averaged
DRAWS = 128  # of the importance sampling of the free energy
LEAST_VARIANCE = 1e-3  # that is added to each number of a code, whose variance is at most about 1
WIDENING = 1.5  # of the covariance of its proposals, whose tails must not be lighter than those of the codes


class Posterior(NamedTuple):
    """The codes of N data.

    Attributes:
        code: the mean of the codes, (N, k).
        covariance: their covariance, (N, k, k).
        pull: the mean of ∇ log p(u | z) in u, (N, d).
    """

    code: Tensor
    covariance: Tensor
    pull: Tensor


class Marginal(NamedTuple):
    """The density of N noised data without their codes.

    Attributes:
        code: the mean of the codes, (N, k).
        energy: −log p(u) − log Z in nats, (N,).
        score: ∇ log p(u), (N, d).
    """

    code: Tensor
    energy: Tensor
    score: Tensor


def posterior(field: LatentField, u: Tensor, steps: int = STEPS, start: Tensor | None = None) -> Posterior:
    """The mean and the covariance of codes over some steps of MALA.

    Args:
        field: the field.
        u: flattened points, (N, d).
        steps: the number of steps after the burn-in.
        start: codes (N, k) that are draws given u, from which no burn-in is needed; None looks for a beginning.
    """
    with torch.no_grad():
        pulls, codes = torch.zeros_like(u), []
        burn_in = BURN_IN if start is None else 0
        for state in _walk(field, u, _beginning(field, u) if start is None else start, burn_in, steps):
            codes.append(state.x)
            pulls += (field.signal * field.network.decode(state.x) - u) / field.variance
        drawn = torch.stack(codes, 1)
        code = drawn.mean(1)
        apart = drawn - code[:, None]
        return Posterior(code, apart.mT @ apart / steps, pulls / steps)


def marginal(field: LatentField, u: Tensor) -> Marginal:
    """The free energy of flattened points u (N, d), by importance sampling around their codes, and its gradient.

    The proposals are normal, with the mean and the widened covariance of the codes.
    """
    found = posterior(field, u)
    count, k = found.code.shape
    # A chain is short. Its covariance is drawn to its diagonal, so that it has a root.
    spread = found.covariance.diagonal(dim1=1, dim2=2)
    covariance = WIDENING * (0.8 * found.covariance + torch.diag_embed(0.2 * spread + LEAST_VARIANCE))
    root = torch.linalg.cholesky(covariance)
    epsilon = ChainNoise(0, "free energy", 0, u.new_empty(DRAWS, k)).normal(0)
    z = found.code[:, None] + torch.einsum("nij,mj->nmi", root, epsilon)
    log_proposal = -0.5 * (epsilon.square().sum(1) + k * math.log(2 * math.pi)) - root.diagonal(
        dim1=1, dim2=2
    ).log().sum(1, keepdim=True)
    with torch.no_grad():
        means = field.signal * field.network.decode(z.reshape(-1, k)).reshape(count, DRAWS, -1)
        variance = field.variance
        squares = (u[:, None] - means).square().sum(2) / variance + z.square().sum(2)
        log_coded = -0.5 * (squares + field.constant(variance))
        weights = log_coded - log_proposal
        tilt, gradient = value_and_gradients(field.tilt, (u,))
        energy = math.log(DRAWS) - torch.logsumexp(weights, 1) - tilt
        pull = torch.einsum("nm,nmd->nd", torch.softmax(weights, 1), means) - u
        return Marginal(found.code, energy, gradient + pull / variance)


def most_probable(field: LatentField, u: Tensor, candidates: Tensor) -> Tensor:
    """For each flattened point u (N, d), the most probable of some codes (candidates, k), (N, k)."""
    with torch.no_grad():
        means = field.signal * field.network.decode(candidates)
        apart = torch.cdist(u, means).square() / field.variance + candidates.square().sum(1)
        return candidates[apart.argmin(1)]


def _beginning(field: LatentField, u: Tensor) -> Tensor:
    """The beginnings of chains of codes of points u (N, d), (N, k)."""
    return most_probable(
        field, u, ChainNoise(0, "candidates", 0, u.new_empty(ENCODING_CANDIDATES, field.codes)).normal(0)
    )


def _walk(field: LatentField, u: Tensor, z: Tensor, burn_in: int, steps: int) -> Iterator[State]:
    """The states of chains of codes after their burn-in, one after the other."""
    target, draws = field.given(u), ChainNoise(0, "posterior", 0, z[:1], burn_in + steps)
    eta, free = field.step_sizes[0].expand(len(z)), torch.ones_like(z)
    now = State(z, *target(z))
    for step in range(burn_in + steps):
        xi, uniform = draws.normal(step).expand_as(z), draws.uniform(step).expand(len(z))
        now, chance, _ = metropolis_step(target, now, eta, xi, uniform, free)
        if step < burn_in:
            eta = eta * torch.exp(ADAPTATION * (chance - BEST_ACCEPTANCE))
        else:
            yield now
