"""The normaliser C(φ) of the explicit density log ρ_u(u, φ) = −½‖u‖² + tan φ · N(u, φ) + C(φ).

N may be shifted by any function of φ without changing the flow, so C is not known beforehand. It follows from the
data: with R(φ) = E‖∇N − y‖², the denoising residual, the variational bound on the entropy of ρ_φ is (by the I-MMSE
relation of Guo, Shamai & Verdú 2005, and as the bound of Kingma et al. 2021, arXiv 2107.00630, written on the arc)

    h(φ) = (d/2) log 2πe − ∫ tan φ (d − R) dφ    from the prior to φ,

and C(φ) is what makes the mean of −log ρ_u over the data equal to it. Half of the terms cancel:

    C(φ) = −(d/2) log 2π − E[tan φ · N(u, φ)] + ∫ tan φ · E[2 ∇N·y − ‖∇N‖²] dφ.

No second derivative and no score of the data appear. In expectation this is the integral of
C' = E[−Δ_u N − ∇N·score − ∂_φ(−½‖u‖² + tan φ N)] over u ~ ρ_φ, whatever N is.

For the exact N, C makes exp(log ρ_u) integrate to 1. For a learned N it does so up to a difference of second order in
the error of N: with p the normalised density of the energy, C − C_p = KL(ρ_φ ‖ p) − ∫ tan φ E‖∇N − v‖² dφ, v the
exact velocity. In the plane, by quadrature, that was about −0.02, −0.09 and −0.36 nats at cot φ = 0.1 for energies off
by waves of height 0.2, 0.5 and 1. The anchor is an independent estimate of C_p: the mean over data of log p_flow less
the unnormalised log-density, by the flow's own likelihood. It differs from C_p by KL(ρ_φ ‖ p) − KL(ρ_φ ‖ p_flow), which
was up to six times as much there, so an anchor that agrees says that the potential is consistent with its own flow.

The constant of a class is that without condition plus their difference, which is known far better (`calibration.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from scipy.interpolate import krogh_interpolate

from vpfb_core.errors import ConfigError

if TYPE_CHECKING:
    from vpfb_core.methods.vpfb.potential import Potential

LEVELS_PER_DECADE = 10
HIGHEST_NOISE = 10**1.5  # cot φ of the first level; below it next to nothing of the data is left
REPORTED = (2.0, 1.0, 0.5, 0.2, 0.1)  # cot φ of the levels that tables show, where the floor lies below
LARGEST = 1e300  # of numbers that are read: NaN and infinity are not below it, and a whole number beyond is no float
LEAST_NOISE = 0.1  # no density is quoted at less: tan φ magnifies the error of N


@dataclass(frozen=True)
class Constants:
    """C of one condition at every level, nats, with its standard error."""

    value: tuple[float, ...]
    error: tuple[float, ...]
    points: int  # of the data that it was estimated from


@dataclass(frozen=True)
class Anchor:
    """C by the flow's likelihood less C as kept, without condition, at one level; nats."""

    noise: float  # cot φ
    difference: float
    error: float  # standard error of the difference


@dataclass(frozen=True)
class Normaliser:
    """C(φ) without condition and for each class alone, at levels uniform in log tan φ.

    Attributes:
        dimension: d.
        noise: cot φ of the levels, the noise-to-signal ratio, falling towards the data.
        constants: by condition: the class index in each group, −1 for none; at most one is a class.
        anchor: an independent estimate beside it.
        seed: of the noise that it was estimated with.
    """

    dimension: int
    noise: tuple[float, ...]
    constants: Mapping[tuple[int, ...], Constants]
    anchor: tuple[Anchor, ...] = ()
    seed: int = 0

    @property
    def quoted_level(self) -> float:
        """cot φ of the level nearest the data at which densities are quoted: the first at or above 0.1."""
        return min((noise for noise in self.noise if noise > 0.99 * LEAST_NOISE), default=self.noise[-1])

    @property
    def reported(self) -> tuple[int, ...]:
        """Indices of the levels that tables show."""
        wanted = [_level(noise) for noise in REPORTED]
        return tuple(i for i, noise in enumerate(self.noise) if _level(noise) in wanted)

    def constant(self, level: float, condition: Sequence[int] | None = None) -> float:
        """C at cot φ = level, by cubic interpolation in log tan φ between the levels, nats.

        Towards the prior it goes to −(d/2) log 2π in proportion to tan φ; past the last level, which is less than one
        level from the floor, it goes on as a line.

        Args:
            level: cot φ > 0; infinite for the prior.
            condition: the class index in each group, −1 for none; None is without condition.
        Raises:
            ConfigError: a condition that is not calibrated, such as two classes at once.
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
        # The four nearest levels; at either end of the row the four that are there.
        left = min(max(int(position) - 1, 0), max(last - 3, 0))
        nodes = range(left, min(left + 4, last + 1))
        return float(krogh_interpolate(nodes, [values[node] for node in nodes], position))

    def require_shape(self, dimension: int, groups: int) -> None:
        """ValueError if the constants are of data of another dimension, or of another number of condition groups."""
        if self.dimension != dimension or any(len(condition) != groups for condition in self.constants):
            raise ValueError("its normaliser is that of other data or classes")

    def knows(self, condition: Sequence[int]) -> bool:
        """Whether this condition is calibrated."""
        return tuple(condition) in self.constants

    @property
    def _null(self) -> tuple[int, ...]:
        return next(condition for condition in self.constants if all(index < 0 for index in condition))

    def _of(self, condition: tuple[int, ...]) -> Constants:
        if condition not in self.constants:
            raise ConfigError(
                f"no normaliser for the class indices {list(condition)}",
                hint="densities are calibrated without condition and for one class at a time",
            )
        return self.constants[condition]

    def describe(self, std: float) -> list[dict[str, float | None]]:
        """What there is to say of each reported level, without condition: JSON values.

        Args:
            std: of the images in units of [0, 1], for the blur in grey levels.
        """
        constants, anchors = self._of(self._null), {_level(anchor.noise): anchor for anchor in self.anchor}
        rows: list[dict[str, float | None]] = []
        for i in self.reported:
            noise = self.noise[i]
            anchor = anchors.get(_level(noise))
            rows.append({
                "noise": noise,
                "angle": math.atan(1 / noise),
                "blur": noise * std * 255,
                "constant": constants.value[i],
                "error": constants.error[i],
                "anchor_difference": anchor.difference if anchor else None,
                "anchor_error": anchor.error if anchor else None,
            })  # fmt: skip
        return rows

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as `from_dict` reads them and checkpoints keep them."""
        return {
            "dimension": self.dimension,
            "noise": list(self.noise),
            "constants": [{"condition": list(key), **asdict(value)} for key, value in self.constants.items()],
            "anchor": [asdict(anchor) for anchor in self.anchor],
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Normaliser:
        """The inverse of `to_dict`. Raises KeyError, TypeError or ValueError where the document is not one."""
        constants = {
            tuple(entry["condition"]): Constants(
                tuple(map(_number, entry["value"])), tuple(map(_number, entry["error"])), entry["points"]
            )
            for entry in document["constants"]
        }
        noise = tuple(map(_number, document["noise"]))
        anchor = tuple(
            Anchor(**{name: _number(value) for name, value in entry.items()}) for entry in document["anchor"]
        )
        if any(not len(entry.value) == len(entry.error) == len(noise) for entry in constants.values()):
            raise ValueError("a normaliser needs one constant per level")
        if not noise or min(*noise, *(entry.noise for entry in anchor), 1) <= 0:
            raise ValueError("a normaliser needs levels of noise above 0")
        if not any(all(type(index) is int and index < 0 for index in condition) for condition in constants):
            raise ValueError("a normaliser needs constants without condition")
        if type(document["dimension"]) is not int or type(document["seed"]) is not int:
            raise ValueError("the dimension and the seed of a normaliser are whole numbers")
        return cls(document["dimension"], noise, constants, anchor, document["seed"])


_LOG_2PI = math.log(2 * math.pi)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of JSON is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) < LARGEST  # type: ignore[arg-type]


def _number(value: object) -> float:
    if not is_number(value):
        raise ValueError("the figures of a normaliser are finite numbers")
    return float(value)


def levels(potential: Potential) -> tuple[float, ...]:
    """cot φ from `HIGHEST_NOISE` down to the floor, ten per decade, powers of ten and their tenths among them."""
    start, floor = potential.angle_range
    first = max(_level(HIGHEST_NOISE), math.ceil(LEVELS_PER_DECADE * math.log10(max(math.tan(start), 1e-9))))
    last = math.floor(LEVELS_PER_DECADE * math.log10(math.tan(floor)) + 1e-9)
    return tuple(10 ** (-k / LEVELS_PER_DECADE) for k in range(first, last + 1))


def _level(noise: float) -> int:
    """The number of a level: ten times log₁₀ tan φ."""
    return round(-LEVELS_PER_DECADE * math.log10(noise))
