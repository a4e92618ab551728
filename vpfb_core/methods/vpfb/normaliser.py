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

The constant of a class is that without condition plus their difference, which is known far better (`calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from vpfb_core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from vpfb_core.methods.vpfb.potential import Potential

LEVELS_A_DECADE = 10
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
    def least_noise(self) -> float:
        """cot φ of the level nearest the data at which densities are quoted: the first at or above 0.1."""
        return min((noise for noise in self.noise if noise > 0.99 * LEAST_NOISE), default=self.noise[-1])

    @property
    def reported(self) -> tuple[int, ...]:
        """Indices of the levels that tables show."""
        wanted = [_level(noise) for noise in REPORTED]
        return tuple(i for i, noise in enumerate(self.noise) if _level(noise) in wanted)

    def constant(self, angle: Tensor, condition: Tensor | None = None) -> Tensor:
        """C(φ) for each sample, by cubic interpolation in log tan φ between levels; (N,), dtype of `angle`.

        Towards the prior it goes to −(d/2) log 2π in proportion to tan φ; past the last level, less than one from the
        floor, it goes on as a line.

        Args:
            angle: φ, (N,).
            condition: class indices, int64 (N, G), or None.
        Raises:
            ConfigError: a condition that is not calibrated, such as two classes at once.
        """
        return _interpolate(self._rows(condition, angle), self.noise, angle, -0.5 * self.dimension * _LOG_2PI)

    def _rows(self, condition: Tensor | None, like: Tensor) -> Tensor:
        """The constants of each sample, (N, levels)."""
        import torch

        if condition is None:
            values = torch.tensor(self._of(self._null).value, dtype=like.dtype, device=like.device)
            return values.expand(len(like), -1)
        distinct, which = condition.unique(dim=0, return_inverse=True)
        rows = [self._of(tuple(row)).value for row in distinct.tolist()]
        return torch.tensor(rows, dtype=like.dtype, device=like.device)[which]

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
            raise ValueError("a normaliser needs one constant a level")
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
    """cot φ from `HIGHEST_NOISE` down to the floor, ten a decade, powers of ten and their tenths among them."""
    start, floor = potential.angle_range
    first = max(_level(HIGHEST_NOISE), math.ceil(LEVELS_A_DECADE * math.log10(max(math.tan(start), 1e-9))))
    last = math.floor(LEVELS_A_DECADE * math.log10(math.tan(floor)) + 1e-9)
    return tuple(10 ** (-k / LEVELS_A_DECADE) for k in range(first, last + 1))


def _level(noise: float) -> int:
    """The number of a level: ten times log₁₀ tan φ."""
    return round(-LEVELS_A_DECADE * math.log10(noise))


def _interpolate(values: Tensor, noise: Sequence[float], angle: Tensor, prior: float) -> Tensor:
    """Values (N, levels) at angles (N,), in numbers of levels from the first."""
    import torch

    tangent, last = torch.tan(angle), len(noise) - 1
    position = LEVELS_A_DECADE * (torch.log10(tangent.clamp(min=1e-30)) + math.log10(noise[0]))
    cell = position.floor().long().clamp(0, max(last - 1, 0))
    # The four nearest levels; at either end of the row a cubic through the four that are there.
    left = (cell - 1).clamp(0, max(last - 3, 0))
    nodes = left[:, None] + torch.arange(min(4, last + 1), device=angle.device)
    known = values.gather(1, nodes)
    inside = (_lagrange_weights(position.clamp(0, last) - left, nodes.shape[1]) * known).sum(1)
    below = prior + (values[:, 0] - prior) * (tangent * noise[0])
    slope = values[:, last] - values[:, max(last - 1, 0)]
    beyond = values[:, last] + slope * (position - last)
    return torch.where(position < 0, below, torch.where(position > last, beyond, inside))


def _lagrange_weights(position: Tensor, count: int) -> Tensor:
    """Weights of the nodes 0 … count − 1 at a position among them, (N, count)."""
    import torch

    weights = [torch.ones_like(position) for _ in range(count)]
    for node in range(count):
        for other in range(count):
            if other != node:
                weights[node] = weights[node] * (position - other) / (node - other)
    return torch.stack(weights, 1)
