"""The normaliser C(φ) of the explicit density log ρ_u(u, φ) = −½‖u‖² + tan φ · N(u, φ) + C(φ).

Adding a function of φ to N does not change the flow, so that C is not known beforehand. It follows from the data. Let
R(φ) = E‖∇N − y‖² be the denoising residual. The variational bound on the entropy of ρ_φ is

    h(φ) = (d/2) log 2πe − ∫ tan φ (d − R) dφ    from the prior to φ

(the I-MMSE relation of Guo, Shamai & Verdú 2005; the bound of Kingma et al. 2021, arXiv 2107.00630, on the arc). C(φ)
is chosen so that the mean of −log ρ_u over the data is h(φ). Half of the terms cancel:

    C(φ) = −(d/2) log 2π − E[tan φ · N(u, φ)] + ∫ tan φ · E[2 ∇N·y − ‖∇N‖²] dφ.

This needs no second derivative and no score of the data. In expectation it is, for every N, the integral of
C' = E[−Δ_u N − ∇N·score − ∂_φ(−½‖u‖² + tan φ N)] over u ~ ρ_φ.

For the exact N, exp(log ρ_u) with this C integrates to 1. For a learned N the deviation is of second order in the error
of N: if p is the normalised density of the energy, C_p its constant, and v the exact velocity, then

    C − C_p = KL(ρ_φ ‖ p) − ∫ tan φ E‖∇N − v‖² dφ.

In two dimensions, by quadrature, it was about −0.02, −0.09 and −0.36 nats at cot φ = 0.1 for energies with errors in
the form of waves of height 0.2, 0.5 and 1.

The anchor is an independent estimate of C_p: the mean over data of log p_flow minus the unnormalised log-density, where
p_flow is the likelihood of the flow. It differs from C_p by KL(ρ_φ ‖ p) − KL(ρ_φ ‖ p_flow), which was up to six times
as large in that example. An anchor that agrees with C shows that the potential is consistent with its own flow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from vpfb_core.errors import ConfigError
from vpfb_core.machine.container import finite_number
from vpfb_core.methods.path import arc

if TYPE_CHECKING:
    from vpfb_core.methods.vpfb.potential import Potential

LEVELS_PER_DECADE = 10
HIGHEST_NOISE = 10**1.5  # cot φ of the first level; at more noise the density hardly depends on the data
REPORTED = (2.0, 1.0, 0.5, 0.2, 0.1)  # cot φ of the levels in tables, as far as they are above the floor
LEAST_NOISE = 0.1  # the lowest level at which densities are reported, since tan φ multiplies the error of N


@dataclass(frozen=True)
class Constants:
    """C of one condition at every level, in nats.

    Attributes:
        value: C at each level.
        error: the standard error of C at each level.
        points: the number of data from which it was estimated.
    """

    value: tuple[float, ...]
    error: tuple[float, ...]
    points: int


@dataclass(frozen=True)
class Anchor:
    """The difference of the unconditional C by the flow's likelihood and C of the normaliser, in nats.

    Attributes:
        noise: cot φ of the level.
        difference: the difference.
        error: the standard error of the difference.
    """

    noise: float
    difference: float
    error: float


@dataclass(frozen=True)
class Normaliser:
    """C(φ) without a condition and for each single class, at levels uniform in log tan φ.

    Attributes:
        dimension: the number of values per datum, d.
        noise: cot φ of the levels, falling towards the data.
        constants: the constants by condition, which is the class index in each group, −1 for none. At most one index of
            a condition is a class.
        anchor: an independent estimate at the reported levels.
        seed: the seed of the noise of the estimate.
        lowest_for_chains: the lowest noise level at which energies are accurate enough for Markov chains
            (`chain_levels.py`); None if it was not measured.
    """

    dimension: int
    noise: tuple[float, ...]
    constants: Mapping[tuple[int, ...], Constants]
    anchor: tuple[Anchor, ...] = ()
    seed: int = 0
    lowest_for_chains: float | None = None

    @property
    def quoted_level(self) -> float:
        """cot φ of the level at which densities are reported by default: the lowest level not below 0.1."""
        return min((noise for noise in self.noise if noise > 0.99 * LEAST_NOISE), default=self.noise[-1])

    @property
    def reported(self) -> tuple[int, ...]:
        """The indices of the levels that tables contain."""
        wanted = [_level(noise) for noise in REPORTED]
        return tuple(i for i, noise in enumerate(self.noise) if _level(noise) in wanted)

    def constant(self, level: float, condition: Sequence[int] | None = None) -> float:
        """C in nats, by cubic interpolation in log tan φ between the levels.

        Above the first level the difference to −(d/2) log 2π, the value at the prior, is proportional to tan φ. Below
        the last level, which is less than one level above the floor, C is extrapolated linearly.

        Args:
            level: the noise level cot φ > 0; infinite at the prior.
            condition: the class index in each group, −1 for none; None is unconditional.
        Raises:
            ConfigError: the condition is not calibrated, for example because it has two classes.
        """
        values = self._of(self._null if condition is None else tuple(condition)).value
        prior, last = -0.5 * self.dimension * _LOG_2PI, len(self.noise) - 1
        if math.isinf(level):
            return prior
        position = LEVELS_PER_DECADE * (math.log10(self.noise[0]) - math.log10(level))
        if position < 0:
            return prior + (values[0] - prior) * self.noise[0] / level
        if position > last:
            return values[last] + (values[last] - values[max(last - 1, 0)]) * (position - last)
        from scipy.interpolate import krogh_interpolate  # takes a second, which drawing samples need not wait for

        # The four nearest levels; at either end the first or the last four.
        left = min(max(int(position) - 1, 0), max(last - 3, 0))
        nodes = range(left, min(left + 4, last + 1))
        return float(krogh_interpolate(nodes, [values[node] for node in nodes], position))

    def require_shape(self, dimension: int, groups: int) -> None:
        """Raise ValueError if the constants belong to another dimension or another number of condition groups."""
        if self.dimension != dimension or any(len(condition) != groups for condition in self.constants):
            raise ValueError("the normaliser belongs to other data or classes")

    def knows(self, condition: Sequence[int]) -> bool:
        """Whether this condition is calibrated."""
        return tuple(condition) in self.constants

    def shifted(self, nats: Mapping[tuple[int, ...], float]) -> Normaliser:
        """The normaliser with a number added to C of each condition. Conditions without a number are left out."""
        constants = {
            condition: replace(found, value=tuple(value + nats[condition] for value in found.value))
            for condition, found in self.constants.items() if condition in nats
        }  # fmt: skip
        return replace(self, constants=constants)

    @property
    def _null(self) -> tuple[int, ...]:
        """The unconditional condition, −1 in every group."""
        return next(condition for condition in self.constants if all(index < 0 for index in condition))

    def _of(self, condition: tuple[int, ...]) -> Constants:
        if condition not in self.constants:
            raise ConfigError(
                f"no normaliser for the class indices {list(condition)}",
                hint="densities are calibrated without a condition and for single classes",
            )
        return self.constants[condition]

    def describe(self, unit: float) -> list[dict[str, float | None]]:
        """The unconditional constants at the reported levels, one row of JSON values per level.

        Args:
            unit: the size of a standardised deviation of 1 in the unit of blur.
        """
        constants, anchors = self._of(self._null), {_level(anchor.noise): anchor for anchor in self.anchor}
        rows: list[dict[str, float | None]] = []
        for i in self.reported:
            noise = self.noise[i]
            anchor = anchors.get(_level(noise))
            rows.append({
                "noise": noise,
                "angle": arc.angle(noise),
                "blur": noise * unit,
                "constant": constants.value[i],
                "error": constants.error[i],
                "anchor_difference": anchor.difference if anchor else None,
                "anchor_error": anchor.error if anchor else None,
            })  # fmt: skip
        return rows

    def to_dict(self) -> dict[str, Any]:
        """JSON values from which `from_dict` returns this normaliser."""
        return {
            "dimension": self.dimension,
            "noise": list(self.noise),
            "constants": [{"condition": list(key), **asdict(value)} for key, value in self.constants.items()],
            "anchor": [asdict(anchor) for anchor in self.anchor],
            "seed": self.seed,
            "lowest_for_chains": self.lowest_for_chains,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Normaliser:
        """The normaliser that `to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: the document does not describe a normaliser.
        """
        constants = {
            tuple(entry["condition"]): Constants(
                tuple(map(finite_number, entry["value"])), tuple(map(finite_number, entry["error"])), entry["points"]
            )
            for entry in document["constants"]
        }
        noise = tuple(map(finite_number, document["noise"]))
        anchor = tuple(
            Anchor(**{name: finite_number(value) for name, value in entry.items()}) for entry in document["anchor"]
        )
        if any(not len(entry.value) == len(entry.error) == len(noise) for entry in constants.values()):
            raise ValueError("a normaliser needs one constant per level")
        lowest = document.get("lowest_for_chains")
        lowest = None if lowest is None else finite_number(lowest)
        if not noise or min(*noise, *(entry.noise for entry in anchor), 1 if lowest is None else lowest, 1) <= 0:
            raise ValueError("a normaliser needs noise levels above 0")
        if not any(all(type(index) is int and index < 0 for index in condition) for condition in constants):
            raise ValueError("a normaliser needs unconditional constants")
        if type(document["dimension"]) is not int or type(document["seed"]) is not int:
            raise ValueError("the dimension and the seed of a normaliser are whole numbers")
        return cls(document["dimension"], noise, constants, anchor, document["seed"], lowest)


_LOG_2PI = math.log(2 * math.pi)


def levels(potential: Potential) -> tuple[float, ...]:
    """The noise levels of a normaliser: cot φ = 10^(−k/10) for integers k, from `HIGHEST_NOISE` down to the floor."""
    start, floor = (arc.level(angle) for angle in potential.angle_range)
    first = math.ceil(-LEVELS_PER_DECADE * math.log10(min(start, HIGHEST_NOISE)) - 1e-9)
    last = math.floor(-LEVELS_PER_DECADE * math.log10(floor) + 1e-9)
    return tuple(10 ** (-k / LEVELS_PER_DECADE) for k in range(first, last + 1))


def _level(noise: float) -> int:
    """The number k of a level: ten times log₁₀ tan φ, rounded."""
    return round(-LEVELS_PER_DECADE * math.log10(noise))
