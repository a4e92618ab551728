"""Estimate the normaliser of a potential from data: forward passes and gradients only (see `normaliser.py`).

A class's constant is that without condition plus their difference, and the difference is Bennett's acceptance ratio
(1976) between the two densities: what either adds up over an image is common to both and drops out, so that with as
many points it is ten times as exact as the constant itself. "or" lives on these differences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from vpfb_core.dynamics.solver import Solver
from vpfb_core.errors import DivergedError, SolverError
from vpfb_core.machine import noise
from vpfb_core.methods.likelihood import EXACT_TRACE_DIMENSION, Likelihood, log_likelihood
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.normaliser import Anchor, Constants, Normaliser, levels
from vpfb_core.methods.vpfb.potential import Potential

POINTS, CLASS_POINTS, ANCHOR_POINTS = 256, 64, 64
ANCHOR_TOLERANCE = 1e-3
FEWEST = 4  # points of a class or of the anchor
FEWEST_POINTS = 16  # where the data are fewer, they take turns, each time with other noise
BATCH = 256
LEAST_EFFORT = 0.03  # with less, the constants would be worthless
CLASS_COST = 1.5  # of a point of a class, in points without one: eight values of N for two gradients
ANCHOR_COST = 300  # gradients of N per point of the anchor: a hundred evaluations, each with the divergence
# Of −(d/2) log 2π and the like: more digits would only fill the file.
_DIGITS = 7
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
    unconditional: bool = True,
) -> Normaliser:
    """C(φ) without condition and for each class, and the anchor beside it.

    A point of the data takes a gradient of N at two points of the arc (ε and −ε) at each of some forty levels; a point
    of a class takes eight values of N there; a point of the anchor takes some hundred evaluations of ∇N and its
    divergence.

    Args:
        z: data in units of its standard deviation, dequantised, in random order, (n, …), on the potential's device.
        labels: int64 (n, G), −1 where unknown; None without conditions.
        classes: number of classes in each condition group.
        seed: of the noise.
        points: how many of the data to use without condition.
        class_points: how many of each class. A class without data is left out.
        batch_size: points of the arc at once.
        anchor_points: how many for the anchor; 0 leaves it out, and so does a flow that does not reach the prior.
        unconditional: whether the potential has learned to do without a condition. If not, the classes have no measure
            in common, and each is estimated by itself.
    Raises:
        DivergedError: the potential is not finite.
    """
    noises, null = levels(potential), (-1,) * len(classes)

    def alone(condition: tuple[int, ...], rows: Tensor) -> Constants:
        given = _repeated(condition, len(rows), z)
        return _summary(_constants(potential, z[rows], given, noises, seed, batch_size))

    everything = _at_least_a_few(torch.arange(len(z)))
    constants, others = {null: alone(null, everything[:points])}, everything[:class_points]
    for condition, rows in _of_classes(labels, classes):
        if not unconditional:
            constants[condition] = alone(condition, _at_least_a_few(rows)[:class_points])
            continue
        own = _at_least_a_few(rows.flip(0))[:class_points]  # from the other end, so that few images are in both
        ratios = _log_ratios(potential, z[torch.cat([others, own])], condition, noises, seed, batch_size)
        constants[condition] = _relative(constants[null], *_bennett(ratios, len(others)), len(own))
    normaliser = Normaliser(z[0].numel(), noises, constants, seed=seed)
    if not anchor_points:
        return normaliser
    return replace(
        normaliser, anchor=_anchor(potential, z[everything[:anchor_points]], len(classes), normaliser, seed, batch_size)
    )


def counts(effort: float) -> dict[str, int]:
    """The numbers of points for a share `effort` of the full care."""
    return {
        "points": round(effort * POINTS),
        "class_points": max(FEWEST, round(effort * CLASS_POINTS)),
        "anchor_points": max(FEWEST, round(effort * ANCHOR_POINTS)),
    }


def cost(noises: Sequence[float], classes: Sequence[int]) -> int:
    """Gradients of N that `calibrate` takes at full effort."""
    points = POINTS + round(CLASS_COST * sum(classes) * CLASS_POINTS)
    return 2 * len(noises) * points + ANCHOR_COST * ANCHOR_POINTS


def _of_classes(labels: Tensor | None, classes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Every class as a condition, and the rows of the data that belong to it; not those that have none."""
    for group, count in enumerate(classes if labels is not None else ()):
        assert labels is not None
        for index in range(count):
            rows = (labels[:, group].cpu() == index).nonzero()[:, 0]
            if len(rows):
                yield (-1,) * group + (index,) + (-1,) * (len(classes) - group - 1), rows


def _at_least_a_few(rows: Tensor) -> Tensor:
    return rows[torch.arange(max(len(rows), FEWEST_POINTS)) % len(rows)]


def _repeated(condition: tuple[int, ...], n: int, like: Tensor) -> Tensor | None:
    return torch.tensor(condition, device=like.device).expand(n, -1) if condition else None


def _constants(
    potential: Potential, z: Tensor, condition: Tensor | None, noises: Sequence[float], seed: int, batch_size: int
) -> Tensor:
    """An estimate of C at each level from each image, float64 (levels, n) on the CPU.

    The noise of every level is drawn anew, since what is shared between levels adds up; ±ε cancel what is odd in it,
    and its length, known on average, takes out most of what is even.
    """
    gains, tilts = [], []
    for level, cotangent in enumerate(noises):
        angle = math.atan(1 / cotangent)
        epsilon = noise.normal(z.shape[1:], seed, range(len(z)), f"calibration {level}").to(z)
        parts = [
            _pair(potential, z[rows], epsilon[rows], angle, None if condition is None else condition[rows])
            for rows in torch.arange(len(z), device=z.device).split(batch_size)
        ]
        gain, tilt = (torch.cat(values).cpu().double() for values in zip(*parts, strict=True))
        excess = epsilon.cpu().double().flatten(1).square().sum(1) - z[0].numel()
        gains.append(math.sin(angle) ** 2 * _without(gain, excess))
        tilts.append(math.tan(angle) * _without(tilt, excess))
    gain, tilt = torch.stack(gains), torch.stack(tilts)
    if not (gain.isfinite().all() and tilt.isfinite().all()):
        raise DivergedError(_NOT_FINITE, hint="train it again")
    prior = -0.5 * z[0].numel() * math.log(2 * math.pi)
    return prior + _integrate(gain, noises, potential.angle_range[0]) - tilt


def _pair(
    potential: Potential, z: Tensor, epsilon: Tensor, angle: float, condition: Tensor | None
) -> tuple[Tensor, Tensor]:
    """2 ∇N·y − ‖∇N‖² and N at u, each the mean of ε and −ε, (n,)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    angles = z.new_full((len(z),), angle)
    gain, tilt = torch.zeros_like(angles), torch.zeros_like(angles)
    for sign in (1, -1):
        u, y = sine * z + sign * cosine * epsilon, cosine * z - sign * sine * epsilon
        with torch.no_grad():
            field = potential.arc(u, angles, condition)
        gradient = field.gradient
        gain = gain + 0.5 * (gradient * (2 * y - gradient)).flatten(1).sum(1)
        tilt = tilt + 0.5 * field.value
    return gain, tilt


def _log_ratios(
    potential: Potential, z: Tensor, condition: tuple[int, ...], noises: Sequence[float], seed: int, batch_size: int
) -> Tensor:
    """tan φ (N(u, φ | condition) − N(u, φ)) at points u of the arc, float64 (levels, 2, n): of ε and of −ε."""
    ratios = torch.empty(len(noises), 2, len(z), dtype=torch.float64)
    given, none = _repeated(condition, len(z), z), _repeated((-1,) * len(condition), len(z), z)
    assert given is not None and none is not None
    for level, cotangent in enumerate(noises):
        angle = math.atan(1 / cotangent)
        epsilon = noise.normal(z.shape[1:], seed, range(len(z)), f"calibration {condition} {level}").to(z)
        for i, sign in enumerate((1, -1)):
            for rows in torch.arange(len(z), device=z.device).split(batch_size):
                u = math.sin(angle) * z[rows] + sign * math.cos(angle) * epsilon[rows]
                angles = z.new_full((len(rows),), angle)
                with torch.no_grad():
                    of_class, of_all = (potential.potential(u, angles, known[rows]) for known in (given, none))
                ratios[level, i, rows.cpu()] = math.tan(angle) * (of_class - of_all).cpu().double()
    return ratios


def _bennett(ratios: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The shift c that makes exp(ratio + c) the ratio of two normalised densities, and its standard error; (levels,).

    It is where as many points are taken for the class's as there are (Bennett 1976; Shirts et al. 2003, eq. 8): the
    intercept of a logistic regression. The error counts ε and −ε as one point.

    Args:
        ratios: log-ratios, class over all, (levels, 2, n + m), of n points of all data and then m of the class.
    """
    if not ratios.isfinite().all():
        raise DivergedError(_NOT_FINITE, hint="train it again")
    m = ratios.shape[2] - n
    low, high = -ratios.amax((1, 2)) - 50, -ratios.amin((1, 2)) + 50
    shift, taken = low, ratios
    for _ in range(80):
        shift = 0.5 * (low + high)
        taken = torch.sigmoid(ratios + shift[:, None, None] + math.log(m / n))
        too_many = taken.mean(1).sum(1) > m
        low, high = torch.where(too_many, low, shift), torch.where(too_many, shift, high)
    information = (taken * (1 - taken)).mean(1).sum(1).clamp(min=1e-12)
    return shift, (1 / information - 1 / n - 1 / m).clamp(min=0).sqrt()


def _relative(base: Constants, differences: Tensor, errors: Tensor, points: int) -> Constants:
    """Constants from others and the differences to them, at every level."""
    values = torch.tensor(base.value, dtype=torch.float64) + differences
    spread = torch.tensor(base.error, dtype=torch.float64).hypot(errors)
    return Constants(_rounded(values), _rounded(spread), points)


def _without(values: Tensor, excess: Tensor) -> Tensor:
    """Values less what they owe to a quantity of mean zero, by the slope of the regression; (n,)."""
    slope = (values - values.mean()) @ excess / (excess - excess.mean()).square().sum().clamp(min=1e-12)
    return values - slope * excess


def _integrate(gains: Tensor, noises: Sequence[float], start: float) -> Tensor:
    """∫ from the prior to each level, over log tan φ, by a cubic spline through the levels; (levels, n).

    Before the first level, where ∇N ∝ φ for an exact N, the integrand falls as tan⁴ φ.
    """
    before = 0.25 * gains[:1] * (1 - (math.tan(start) * noises[0]) ** 4)
    if len(noises) == 1:
        return before
    places = [-math.log(noise) for noise in noises]
    integral = CubicSpline(places, gains.numpy(), axis=0).antiderivative()
    return before + torch.from_numpy(integral(places))


def _summary(estimates: Tensor) -> Constants:
    n = estimates.shape[1]
    return Constants(_rounded(estimates.mean(1)), _rounded(estimates.std(1) / math.sqrt(n)), n)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values.tolist())


def _anchor(
    potential: Potential, z: Tensor, groups: int, normaliser: Normaliser, seed: int, batch_size: int
) -> tuple[Anchor, ...]:
    """C by the flow's likelihood at the reported levels: one encoding, from the least noise on, passes them all."""
    field, noises = PotentialField(potential), sorted(normaliser.noise[i] for i in normaliser.reported)
    if not noises:
        return ()
    angles = [math.atan(1 / noise) for noise in noises]
    epsilon = noise.normal(z.shape[1:], seed, range(len(z)), "anchor").to(z)
    condition = _repeated((-1,) * groups, len(z), z)
    probes = None
    if z[0].numel() > EXACT_TRACE_DIMENSION:
        probes = noise.signs((1, *z.shape[1:]), seed, range(len(z)), "anchor probes").to(z)
    start, solver = math.sin(angles[0]) * z + math.cos(angles[0]) * epsilon, Solver.choose(rtol=ANCHOR_TOLERANCE)

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
