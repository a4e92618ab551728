"""The seam: what a training method is, and what everything else may ask of it.

A method is what is trained (a `Field`), how it is trained (`losses`), how it draws (`draw`), and what its energy means.
Data, networks, solvers, chains, training runs, files and commands are shared by all methods, and ask a field for a
capability: an energy (`levels`, `energy_and_score`), a flow (`Transports`), an unconditional field (`has_null`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.solver import Solver
from vpfb_core.machine import noise
from vpfb_core.methods import transport
from vpfb_core.settings import Settings, setting


class Field(nn.Module, ABC):
    """What is trained and kept in the model file: a network, and what the method reads from it.

    Points of a field, "x", are in its own coordinates: `at_level` makes them of data of unit variance and noise.

    Attributes:
        network: the network whose features describe an image; all parameters of the field are in its state_dict.
        levels: the noise levels at which it has an energy; None if it has none.
        has_null: whether the unconditional field is trained.
    """

    network: nn.Module
    levels: Levels | None = None
    has_null: bool = True
    autocast_dtype: torch.dtype | None = None  # in which the network alone runs in training; None is its own

    @abstractmethod
    def scales(self, level: float) -> tuple[float, float]:
        """How much of the data and of the noise a point of this level holds: (signal, noise)."""

    def at_level(self, data: Tensor, level: float, noise: Tensor | None = None) -> Tensor:
        """Data → a point of that level.

        Args:
            data: of unit variance, (N, …).
            noise: standard normal, like data; None adds none.
        """
        signal, deviation = self.scales(level)
        return signal * data if noise is None else signal * data + deviation * noise

    def energy_and_score(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The energy −log density in nats, up to a constant of the level, (N,); and ∇ log density, like x.

        Neither keeps a graph.

        Args:
            x: points of this level, (N, …).
            level: one of `levels`, for all points.
            condition: class index in each condition group, int64 (N, G), −1 for none; None for none at all.
        """
        raise NotImplementedError

    def energy(self, x: Tensor, level: float, condition: Tensor | None = None) -> Tensor:
        """The energy alone, where it costs less. Arguments as in `energy_and_score`."""
        return self.energy_and_score(x, level, condition)[0]

    def compile(self, *args: Any, **settings: Any) -> None:
        """Compile for training, in place; arguments as of `torch.compile`."""
        super().compile(*args, **settings)


@runtime_checkable
class Transports(Protocol):
    """A field with a flow from noise to data: ODE sampling, encoding and likelihood.

    Attributes:
        span: positions s of the prior and of the data along the flow; 0 is pure noise.
    """

    @property
    def span(self) -> tuple[float, float]: ...

    def velocity(self, x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        """dx/ds at positions s (N,), like x; differentiable in x where autograd is on."""
        ...

    def position(self, level: float) -> float:
        """The position of a noise level along the flow."""
        ...

    def level(self, position: float) -> float:
        """The noise level of a position, the inverse of `position`; infinite for pure noise."""
        ...

    def grid(self, start: float, end: float, steps: int) -> list[float]:
        """The steps + 1 positions on which a fixed-step solver steps, in either direction."""
        ...


@runtime_checkable
class EnergyFlow(Transports, Protocol):
    """A field that has an energy and a flow at once, so that composed densities have both."""

    def energy_and_velocity(self, x: Tensor, level: float, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The energy (N,) as in `Field.energy_and_score`, and the velocity there, like x."""
        ...


class Calibration(Protocol):
    """Constants C that make the energies of a field normalised densities: log density = −energy + C(level)."""

    @property
    def quoted_level(self) -> float:
        """The noise level nearest the data at which densities are quoted."""
        ...

    def constant(self, level: float, condition: Sequence[int] | None = None) -> float:
        """C in nats, under a condition (the class index in each group, −1 for none) or without.

        Raises:
            ConfigError: a condition that is not calibrated.
        """
        ...

    def require_shape(self, dimension: int, groups: int) -> None:
        """ValueError if the constants are of data of another dimension, or of another number of condition groups."""
        ...

    def knows(self, condition: Sequence[int]) -> bool:
        """Whether this condition is calibrated."""
        ...

    def describe(self, std: float) -> list[dict[str, float | None]]:
        """One row of JSON values per level that tables show; std: of the images, in units of [0, 1]."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as `Method.read_calibration` reads them."""
        ...


@dataclass(frozen=True)
class DataShape:
    """What a method knows of the data before it sees any.

    Attributes:
        shape: of a datum, (C, H, W) or (d,).
        classes: number of classes in each condition group.
    """

    shape: tuple[int, ...]
    classes: tuple[int, ...] = ()

    @property
    def dimension(self) -> int:
        """d, how many numbers a datum has."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch.

    Attributes:
        data: of unit variance, (N, …).
        condition: class indices, int64 (N, G), −1 for none; None for an unconditional model.
        first: the row of the whole batch with which the share begins.
        total: rows of the whole batch.
    """

    data: Tensor
    condition: Tensor | None
    first: int
    total: int

    def rows(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """(data, condition) of some of its rows."""
        return self.data[rows], None if self.condition is None else self.condition[rows]


@dataclass(frozen=True)
class Moment:
    """When a step is taken, and its random numbers.

    What is drawn at a step is drawn for the whole batch, by (seed, stream, step, rollbacks), and cut: how a batch is
    shared among processes and micro-batches changes only the order of sums.

    Attributes:
        step: counted from 0.
        fraction: share of the run that is done, in [0, 1].
        cooling: how far the learning rate has fallen, from 0 to 1.
        rollbacks: how often the run has returned to an earlier state.
        seed: of the run.
        device: on which random numbers are drawn.
    """

    step: int
    fraction: float = 0.0
    cooling: float = 0.0
    rollbacks: int = 0
    seed: int = 0
    device: torch.device | str = "cpu"

    def generator(self, stream: str) -> torch.Generator:
        """A fresh generator for one use; asked again for the same stream, it draws the same."""
        return noise.generator(self.seed, stream, self.step, self.rollbacks, device=self.device)


@dataclass(frozen=True)
class Loss:
    """One term of what a step minimises.

    Attributes:
        name: for logs and messages.
        value: rows of the batch (a slice) → the mean loss of these rows, ().
        weight: of the term in the sum.
        divisible: whether the means of parts, weighted by their rows, add up to the mean of the batch.
        unit: rows that must not be parted: parts begin at multiples of it, counted in the whole batch.
    """

    name: str
    value: Callable[[slice], Tensor]
    weight: float = 1.0
    divisible: bool = True
    unit: int = 1


@dataclass(frozen=True)
class Validation:
    """Held-out data with which a field is measured.

    Attributes:
        data: of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        seed: of what is drawn; the draws for datum i do not depend on how the data are divided.
        rows: which of the data are wanted; None is all.
    """

    data: Tensor
    condition: Tensor | None = None
    seed: int = 0
    rows: range | None = None


# Of one condition group, and of each of several: there a composition asks for one class and for nothing of the other
# groups, and with a half every set of groups is as likely as any other.
CONDITION_DROPOUT = (0.1, 0.5)


@dataclass(frozen=True)
class MethodSettings(Settings):
    """The settings of every method."""

    condition_dropout: float | None = setting(
        None, help="Share of the training images whose class is hidden, per condition group.", low=0, high=1
    )


class Method(ABC):
    """A way to train and use a generative model.

    Args:
        settings: of the class's `Settings`, resolved: nothing is None that `defaults` gives.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]] = ("residual",)  # that `held_out` answers, the most telling first
    Settings: ClassVar[type[MethodSettings]]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def defaults(cls, data: DataShape, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Values for the settings of the method that are None.

        Args:
            data: that the model is for.
            asked: the settings of the method that were asked for.
        """
        del asked
        return {"condition_dropout": CONDITION_DROPOUT[len(data.classes) > 1]}

    def check(self, data: DataShape, *, decay: float, processes: int) -> None:
        """Refuse settings that do not fit the data or the run.

        Args:
            decay: share of the run over which the learning rate falls.
            processes: that share a batch.
        Raises:
            ConfigError: with what to change.
        """
        del data, decay, processes

    @property
    def divisible(self) -> bool:
        """Whether a batch can be parted among processes and micro-batches."""
        return True

    @property
    def compilable(self) -> bool:
        """Whether `Field.compile` helps training."""
        return True

    @abstractmethod
    def field(self, network: nn.Module, data: DataShape) -> Field:
        """The field over a network."""

    @abstractmethod
    def losses(self, field: Any, batch: Batch, at: Moment) -> Iterable[Loss]:
        """The terms that a step minimises. Every parameter takes part in at least one of them."""

    def state(self) -> dict[str, Tensor]:
        """What the method itself keeps between steps, such as replay pools, by name."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        del tensors

    @abstractmethod
    def held_out(self, field: Any, data: Validation) -> dict[str, Tensor]:
        """Figures of each held-out datum, lower is better, (N,) each; the mean of the first chooses the best model."""

    def draw(
        self,
        field: Any,
        codes: Tensor,
        condition: Tensor | None,
        solver: Solver,
        *,
        guidance: float | None = None,
        keep_path: bool = False,
    ) -> Solution:
        """Prior points (N, …) → data of unit variance; by default along the field's flow.

        Raises:
            ConfigError: the field has no flow, and the method does not say how it draws.
        """
        return transport.decode(field, codes, condition, solver, guidance=guidance, keep_path=keep_path)

    def calibrate(
        self, field: Any, data: Validation, classes: Sequence[int], gradients: int | None, batch_size: int
    ) -> Calibration | None:
        """Constants that make energies densities; None where the method has none.

        Args:
            data: dequantised, in random order.
            classes: number of classes in each condition group.
            gradients: of the energy, about as many as may be spent; None is as many as it takes.
            batch_size: data computed at once.
        """
        del field, data, classes, gradients, batch_size
        return None

    def calibration_cost(self, field: Any, classes: Sequence[int]) -> int:
        """Gradients of the energy that `calibrate` takes with all care."""
        del field, classes
        return 0

    def read_calibration(self, document: Mapping[str, Any]) -> Calibration:
        """The inverse of `Calibration.to_dict`.

        Raises:
            ValueError: the document is not one of this method.
        """
        raise ValueError(f"the method {self.name} has no calibration: {sorted(document)}")

    def describe(self) -> dict[str, Any]:
        """Facts of the model for `vpfb info`, JSON values."""
        return {}
