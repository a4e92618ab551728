"""The estimate of the normaliser of a potential from data (see `normaliser.py` for the derivation).

It needs only values and gradients of the potential. A contrast with the mixture (`contrast.py`) trains the energies of
the classes and of all data relative to each other, so that one constant holds for all of them. Otherwise, each class
has a constant of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vpfb_core.data.statistics import EXACT_DIMENSION
from vpfb_core.dynamics.per_sample import squared_norm
from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import DivergedError, SolverError
from vpfb_core.machine import noise
from vpfb_core.methods.likelihood import Likelihood, log_likelihood
from vpfb_core.methods.path import arc
from vpfb_core.methods.path.arc import ArcPosition
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.normaliser import Anchor, Constants, Normaliser, levels
from vpfb_core.methods.vpfb.potential import Potential

POINTS, CLASS_POINTS, ANCHOR_POINTS = 256, 64, 64
ANCHOR_TOLERANCE = 1e-3
FEWEST = 4  # the least number of points of a class or of the anchor
FEWEST_POINTS = 16  # fewer data are repeated up to this number, each time with other noise
BATCH = 256
LEAST_EFFORT = 0.03  # with less effort the constants would be too inaccurate to use
ANCHOR_COST = 300  # gradients of N per point of the anchor: about a hundred evaluations with the divergence
_DIGITS = 7  # significant digits of the constants in the file, which is more than they are accurate to
_NOT_FINITE = "the normaliser is not finite, because the model's potential is not"


def calibrate(
    potential: Potential,
    z: Tensor,
    labels: Tensor | None = None,
    classes: Sequence[int] = (),
    *,
    seed: int = 0,
    points: int = POINTS,
    class_points: int = CLASS_POINTS,
    anchor_points: int = ANCHOR_POINTS,
    batch_size: int = BATCH,
    shared: bool = False,
) -> Normaliser:
    """Estimate C(φ) without a condition and for each class, and the anchor.

    A point costs two gradients of N (at ε and −ε) at each of about forty levels. A point of the anchor costs about a
    hundred evaluations of ∇N with its divergence.

    Args:
        potential: the potential.
        z: dequantised data of unit variance in random order, (n, …), on the device of the potential.
        labels: class indices, int64 (n, G), −1 where unknown; None without conditions.
        classes: the number of classes in each condition group.
        seed: the seed of the noise.
        points: the number of data for the unconditional constants.
        class_points: the number of data per class, unless `shared`. A class without data is left out.
        anchor_points: the number of data for the anchor; 0 leaves it out. It is also left out if the flow does not
            reach the prior.
        batch_size: the number of points that are computed at once.
        shared: whether the unconditional constants are those of the classes as well.
    Raises:
        DivergedError: the potential is not finite.
    """
    noises, null = levels(potential), (-1,) * len(classes)

    def estimated(condition: tuple[int, ...], rows: Tensor) -> Constants:
        return _summary(_constants(potential, z[rows], condition, noises, seed, batch_size))

    everything = _at_least_a_few(torch.arange(len(z)))
    constants = {null: estimated(null, everything[:points])}
    for condition, rows in _of_classes(labels, classes):
        constants[condition] = constants[null] if shared else estimated(condition, _at_least_a_few(rows)[:class_points])
    normaliser = Normaliser(z[0].numel(), noises, constants, seed=seed)
    if not anchor_points:
        return normaliser
    return replace(
        normaliser, anchor=_anchor(potential, z[everything[:anchor_points]], len(classes), normaliser, seed, batch_size)
    )


def counts(effort: float) -> dict[str, int]:
    """The numbers of points for a share `effort` of the full effort, as arguments of `calibrate`."""
    return {
        "points": round(effort * POINTS),
        "class_points": max(FEWEST, round(effort * CLASS_POINTS)),
        "anchor_points": max(FEWEST, round(effort * ANCHOR_POINTS)),
    }


def cost(noises: Sequence[float], classes: Sequence[int], shared: bool) -> int:
    """The number of gradients of N that `calibrate` takes with full effort, at these levels and classes."""
    points = POINTS + (0 if shared else sum(classes) * CLASS_POINTS)
    return 2 * len(noises) * points + ANCHOR_COST * ANCHOR_POINTS


def _of_classes(labels: Tensor | None, classes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Each class that has data, as a condition, with the rows of its data."""
    for group, count in enumerate(classes if labels is not None else ()):
        assert labels is not None
        for index in range(count):
            rows = (labels[:, group].cpu() == index).nonzero()[:, 0]
            if len(rows):
                yield (-1,) * group + (index,) + (-1,) * (len(classes) - group - 1), rows


def _at_least_a_few(rows: Tensor) -> Tensor:
    """The rows, repeated if there are fewer than `FEWEST_POINTS`."""
    return rows[torch.arange(max(len(rows), FEWEST_POINTS)) % len(rows)]


def _repeated(condition: tuple[int, ...], n: int, like: Tensor) -> Tensor | None:
    """The condition for n points, int64 (n, G); None without condition groups."""
    return torch.tensor(condition, device=like.device).expand(n, -1) if condition else None


def _constants(
    potential: Potential,
    z: Tensor,
    condition: tuple[int, ...],
    noises: Sequence[float],
    seed: int,
    batch_size: int,
) -> Tensor:
    """An estimate of C at each level from each datum, float64 (levels, n) on the CPU.

    Each level has noise of its own, since errors that the levels share would add up in the integral. The pair ±ε
    cancels the part of the error that is odd in ε. A regression on ‖ε‖², whose mean is known, removes most of the even
    part.
    """

    def gain_tilt_and_square(z: Tensor, epsilon: Tensor, angles: Tensor) -> Tensor:
        """2 ∇N·y − ‖∇N‖² and N at u, and ‖ε‖², (m, 3)."""
        u, y = arc.point(z, angles, epsilon)
        with torch.no_grad():
            field = potential.arc(u, angles, _repeated(condition, len(u), u))
        gradient = field.gradient
        gain = (gradient * (2 * y - gradient)).flatten(1).sum(1)
        return torch.stack([gain, field.value, squared_norm(epsilon)], 1)

    found = _with_noise_of_both_signs(gain_tilt_and_square, z, noises, seed, "calibration", batch_size).mean(1)
    gains, tilts = [], []
    for noise_level, (gain, tilt, square) in zip(noises, found.transpose(1, 2), strict=True):
        position, excess = ArcPosition.at_level(noise_level), square - z[0].numel()
        gains.append(position.sine**2 * _without(gain, excess))
        tilts.append(position.tangent * _without(tilt, excess))
    gain, tilt = torch.stack(gains), torch.stack(tilts)
    if not (gain.isfinite().all() and tilt.isfinite().all()):
        raise DivergedError(_NOT_FINITE, hint="train it again")
    prior = -0.5 * z[0].numel() * math.log(2 * math.pi)
    return prior + _integrate(gain, noises, arc.level(potential.angle_range[0])) - tilt


def _with_noise_of_both_signs(
    function: Callable[[Tensor, Tensor, Tensor], Tensor],
    z: Tensor,
    noises: Sequence[float],
    seed: int,
    stream: str,
    batch_size: int,
) -> Tensor:
    """A function at each level and datum, with noise ε and −ε, float64 (levels, 2, n, k) on the CPU.

    Several levels are computed at once, as far as they fit into a batch.

    Args:
        function: (z, ε, φ) of m points → (m, k).
        stream: the purpose of the noise; each level has a stream of its own.
    """
    n, found = len(z), []
    for levels_at_once in torch.arange(len(noises)).split(max(1, batch_size // (2 * n))):
        some = levels_at_once.tolist()
        drawn = torch.stack([noise.normal(z.shape[1:], seed, range(n), f"{stream} {level}") for level in some]).to(z)
        epsilon = torch.stack([drawn, -drawn], 1).flatten(0, 2)
        angles = z.new_tensor([arc.angle(noises[level]) for level in some]).repeat_interleave(2 * n)
        rows = torch.arange(n, device=z.device).repeat(2 * len(some))
        parts = [
            function(z[rows[points]], epsilon[points], angles[points])
            for points in torch.arange(len(rows), device=z.device).split(batch_size)
        ]
        found.append(torch.cat(parts).cpu().double().unflatten(0, (len(some), 2, n)))
    return torch.cat(found)


def _without(values: Tensor, excess: Tensor) -> Tensor:
    """The values (n,) minus their regression on `excess` (n,), a quantity whose mean is known to be zero."""
    slope = (values - values.mean()) @ excess / (excess - excess.mean()).square().sum().clamp(min=1e-12)
    return values - slope * excess


def _integrate(gains: Tensor, noises: Sequence[float], prior: float) -> Tensor:
    """The integral over log tan φ from the prior to each level, by a cubic spline through the levels, (levels, n).

    From the prior to the first level the integrand is taken as proportional to tan⁴ φ, since ∇N ∝ φ for an exact N.

    Args:
        gains: the integrand at each level and datum, (levels, n).
        noises: the levels.
        prior: the noise level of the prior.
    """
    before = 0.25 * gains[:1] * (1 - (noises[0] / prior) ** 4)
    if len(noises) == 1:
        return before
    from scipy.interpolate import CubicSpline  # takes a second, which drawing samples need not wait for

    log_tangents = [-math.log(noise) for noise in noises]
    integral = CubicSpline(log_tangents, gains.numpy(), axis=0).antiderivative()
    return before + torch.from_numpy(integral(log_tangents))


def _summary(estimates: Tensor) -> Constants:
    """The means and standard errors of estimates, (levels, n)."""
    n = estimates.shape[1]
    return Constants(_rounded(estimates.mean(1)), _rounded(estimates.std(1) / math.sqrt(n)), n)


def _rounded(values: Tensor) -> tuple[float, ...]:
    """The values with the number of digits that the file keeps."""
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())


def _anchor(
    potential: Potential, z: Tensor, groups: int, normaliser: Normaliser, seed: int, batch_size: int
) -> tuple[Anchor, ...]:
    """C by the likelihood of the flow at the reported levels, relative to the normaliser; () if the flow fails.

    One encoding per datum starts at the lowest level and passes through all of them.
    """
    field, noises = PotentialField(potential), sorted(normaliser.noise[i] for i in normaliser.reported)
    if not noises:
        return ()
    angles = [field.position(level) for level in noises]
    epsilon = noise.normal(z.shape[1:], seed, range(len(z)), "anchor").to(z)
    condition = _repeated((-1,) * groups, len(z), z)
    probes = None
    if z[0].numel() > EXACT_DIMENSION:
        probes = noise.signs((1, *z.shape[1:]), seed, range(len(z)), "anchor probes").to(z)
    start, solver = field.at_level(z, noises[0], epsilon), Solver.choose(rtol=ANCHOR_TOLERANCE)

    def likelihood(rows: Tensor) -> Likelihood:
        some, given = (None if table is None else table[rows] for table in (probes, condition))
        return log_likelihood(field, start[rows], angles, given, probes=some, solver=solver)

    try:
        found = [likelihood(rows) for rows in torch.arange(len(z), device=z.device).split(batch_size)]
    except SolverError:
        return ()
    path = torch.cat([part.x for part in found], 1)
    log_densities = torch.cat([part.log_density for part in found], 1)
    anchors = []
    for noise_level, u, log_density in zip(noises, path, log_densities, strict=True):
        energy = field.energy(u, noise_level, condition).cpu().double()
        kept = normaliser.constant(noise_level)
        differences = log_density.cpu().double() + energy - kept
        mean, error = differences.mean().item(), differences.std().item() / math.sqrt(len(u))
        anchors.append(Anchor(noise_level, *_rounded(torch.tensor([mean, error], dtype=torch.float64))))
    return tuple(anchors)
