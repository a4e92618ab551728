"""What a method trains: a field, its flow, and the constants of its energies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.machine import precision

DIFFERENCE = 0.1  # the step of the difference of scores, in standard deviations of the chains
ENERGIES = ("energy", "energy_and_score", "energy_score_and_velocity")  # the methods of a field that return an energy


class Field(nn.Module, ABC):
    """What is trained and saved in the model file: a network and its interpretation by the method.

    The points x of a field have coordinates of their own; `at_level` computes them from data and noise. The methods of
    a subclass that are named in `ENERGIES` run without TF32, which is not accurate enough for energies.

    Attributes:
        network: the network, whose features describe an image. All parameters of the field are in its state_dict.
        levels: the noise levels at which the field has an energy; None if it has no energy.
        has_null: whether the unconditional field is trained.
        blur: the standard deviation of further noise in points of the lowest level, in the units of data.
        flat: the curvature of the energy, in units of 1/`chain_variance`, below which a direction counts as flat.
        autocast_dtype: the dtype in which the network alone runs in training; None leaves its own.
        optional: the beginnings of the names of tensors without which a run may start from the weights of a model.
    """

    network: nn.Module
    levels: Levels | None = None
    has_null: bool = True
    optional: tuple[str, ...] = ()
    blur: float = 0.0
    flat: float = 0.5
    autocast_dtype: torch.dtype | None = None

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for name in ENERGIES:
            if name in vars(cls):
                setattr(cls, name, precision.in_true_float32(vars(cls)[name]))

    @abstractmethod
    def scales(self, level: float) -> tuple[float, float]:
        """The factors of the data and of the noise in a point of this level, which may be infinite: (signal, noise)."""

    def at_level(self, data: Tensor, level: float, noise: Tensor | None = None) -> Tensor:
        """Points of a noise level, like data.

        Args:
            data: data of unit variance, (N, …).
            level: the noise level of all points.
            noise: standard normal noise, like data; None adds no noise.
        """
        signal, deviation = self.scales(level)
        return signal * data if noise is None else signal * data + deviation * noise

    def chain_variance(self, level: float) -> float:
        """The variance in whose units chains at a level measure their steps: that of the noise in its points."""
        return self.scales(level)[1] ** 2

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The energy and the score at points of a noise level.

        Args:
            x: points of this level, (N, …).
            level: the noise level of all points, one of `levels`.
            condition: the class index in each condition group, int64 (N, G), −1 for none; None is unconditional.
        Returns:
            The energy, −log density in nats up to a constant that depends only on the level and the condition, (N,),
            and the score, ∇ log density, like x. Both are detached.
        """
        raise NotImplementedError

    def use_calibration(self, calibration: Calibration) -> None:
        """Take over what a calibration measured of the field. By default there is nothing to take over."""
        del calibration

    def denoised(self, x: Tensor, target: Callable[[Tensor], tuple[Tensor, Tensor]]) -> tuple[Tensor, int]:
        """Data from points of the lowest level, and the evaluations per point that this takes.

        Points without `blur` are data. Otherwise each point is replaced by the mean of the data given it (Tweedie).

        Args:
            x: points of the lowest level, (N, …).
            target: returns the energy and the score of the density at this level, which may be guided or composed.
        """
        if not self.blur:
            return x, 0
        _, score = target(x)
        return x + self.blur**2 * score, 1

    def hessian_product(self, x: Tensor, level: float, direction: Tensor) -> Tensor:
        """The Hessian of the unconditional energy at points x (N, …) times a direction, like x.

        By default it is a symmetric difference of the score.
        """
        step = DIFFERENCE * math.sqrt(self.chain_variance(level))
        wide = step / direction.flatten(1).norm(dim=1).clamp(min=1e-30).reshape(-1, *[1] * (x.ndim - 1))
        ahead, behind = (self.energy_and_score(x + sign * wide * direction, level)[1] for sign in (1, -1))
        return (behind - ahead) / (2 * wide)

    def energy(self, x: Tensor, level: float, condition: Tensor | None = None) -> Tensor:
        """The energy alone, (N,), which may cost less. Arguments are those of `energy_and_score`."""
        return self.energy_and_score(x, level, condition)[0]

    def energy_score_and_velocity(
        self, x: Tensor, level: float, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The energy, the score and the velocity of the flow, like x, which is zero without a flow.

        Where they have parts in common, a field computes these once. Arguments are those of `energy_and_score`.
        """
        energy, score = self.energy_and_score(x, level, condition)
        if not isinstance(self, Transports):
            return energy, score, torch.zeros_like(x)
        with torch.no_grad():
            return energy, score, self.velocity(x, x.new_full((len(x),), self.position(level)), condition)


@runtime_checkable
class Transports(Protocol):
    """A field with a flow from noise to data, which allows sampling by an ODE, encoding and the flow's likelihood.

    Attributes:
        span: the positions s of the prior and of the data along the flow; 0 is pure noise.
    """

    @property
    def span(self) -> tuple[float, float]: ...

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        """The velocity dx/ds at positions s (N,), like x. It is differentiable in x if autograd is enabled."""
        ...

    def position(self, level: float) -> float:
        """The position of a noise level along the flow."""
        ...

    def level(self, position: float) -> float:
        """The noise level of a position; infinite for pure noise. It is the inverse of `position`."""
        ...

    def grid(self, start: float, end: float, steps: int) -> list[float]:
        """The steps + 1 positions of a fixed-step solve from `start` to `end`, in either direction."""
        ...


class Calibration(Protocol):
    """The constants C that turn the energies of a field into normalised densities: log density = −energy + C(level)."""

    @property
    def quoted_level(self) -> float:
        """The noise level at which densities are reported by default, the nearest reliable one to the data."""
        ...

    def constant(self, level: float, condition: Sequence[int] | None = None) -> float:
        """C at a noise level, in nats.

        Args:
            level: the noise level.
            condition: the class index in each condition group, −1 for none; None is unconditional.
        Raises:
            ConfigError: the condition is not calibrated.
        """
        ...

    def require_shape(self, dimension: int, groups: int) -> None:
        """Raise ValueError if the constants are for another dimension or another number of condition groups."""
        ...

    def knows(self, condition: Sequence[int]) -> bool:
        """Whether this condition is calibrated."""
        ...

    def describe(self, unit: float) -> list[dict[str, float | None]]:
        """One row of JSON values per level for tables.

        Args:
            unit: the size of a standardised deviation of 1 in the unit of blur (`Statistics.unit`).
        """
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON values from which `Method.read_calibration` returns this calibration."""
        ...
