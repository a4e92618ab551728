"""The interface between a training method and everything else.

A method defines what is trained (a `Field`), how it is trained (`losses`), how samples are drawn (`draw`), and how
energies become densities (`calibrate`). Data, networks, solvers, chains, training runs, files and commands are shared
by all methods. They require only capabilities of a field: an energy (`levels`, `energy_and_score`), a flow
(`Transports`), or a trained unconditional field (`has_null`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vpfb_core.dynamics.ladder import Levels
from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.solver import ENCODING_SOLVER, Solver
from vpfb_core.errors import ConfigError
from vpfb_core.machine import noise, precision
from vpfb_core.methods import transport
from vpfb_core.settings import Settings, setting

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
        flat: the curvature of the energy, in units of 1/`chain_variance`, below which a direction counts as flat.
        autocast_dtype: the dtype in which the network alone runs in training; None leaves its own.
        optional: the beginnings of the names of tensors without which a run may start from the weights of a model.
    """

    network: nn.Module
    levels: Levels | None = None
    has_null: bool = True
    optional: tuple[str, ...] = ()
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


@runtime_checkable
class EnergyFlow(Transports, Protocol):
    """A field with both an energy and a flow, so that compositions of its densities have both."""

    def energy_score_and_velocity(
        self, x: Tensor, level: float, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The energy (N,), the score and the velocity, like x. Arguments are those of `Field.energy_and_score`."""
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


@dataclass(frozen=True)
class DataShape:
    """The shape of the data and the numbers of classes.

    Attributes:
        shape: the shape of a datum, (C, H, W) or (d,).
        classes: the number of classes in each condition group.
    """

    shape: tuple[int, ...]
    classes: tuple[int, ...] = ()

    @property
    def dimension(self) -> int:
        """The number of values per datum, d."""
        return int(torch.Size(self.shape).numel())


@dataclass(frozen=True)
class Batch:
    """The share of a batch that this process computes.

    Attributes:
        data: data of unit variance, (N, …).
        condition: class indices, int64 (N, G), −1 for none; None for an unconditional model.
        first: the row of the whole batch with which the share begins.
        total: the number of rows of the whole batch.
        keys: a number for each datum by which a method recognises it in other steps, int64 (N,), on the CPU.
    """

    data: Tensor
    condition: Tensor | None
    first: int
    total: int
    keys: Tensor | None = None

    def rows(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """The data and the condition of some rows."""
        return self.data[rows], None if self.condition is None else self.condition[rows]

    def in_whole(self, rows: slice) -> slice:
        """The rows of the whole batch that some rows of this share are."""
        return slice(self.first + rows.start, self.first + rows.stop)


@dataclass(frozen=True)
class Moment:
    """A moment of a training run, and the random numbers of its step.

    Random numbers are drawn for the whole batch by (seed, stream, step, rollbacks) and then cut. Dividing a batch among
    processes and micro-batches therefore changes only the order of sums.

    Attributes:
        step: the number of the step, from 0.
        fraction: the share of the run that is done, in [0, 1].
        cooling: how far the learning rate has fallen, from 0 to 1.
        rollbacks: how often the run has returned to an earlier state.
        seed: the seed of the run.
        device: the device on which random numbers are drawn.
    """

    step: int
    fraction: float = 0.0
    cooling: float = 0.0
    rollbacks: int = 0
    seed: int = 0
    device: torch.device | str = "cpu"

    def generator(self, stream: str) -> torch.Generator:
        """A new generator for one purpose. Every generator of the same stream draws the same numbers."""
        return noise.generator(self.seed, stream, self.step, self.rollbacks, device=self.device)


@dataclass(frozen=True)
class Loss:
    """One term of the training loss.

    Attributes:
        name: the name of the term in logs and messages.
        value: maps a slice of rows of the batch to the mean loss of these rows, ().
        weight: the weight of the term in the sum.
        divisible: whether the mean losses of parts, weighted by their numbers of rows, add up to that of the batch.
        unit: the number of rows that must stay together. Parts begin at multiples of it, counted in the whole batch.
    """

    name: str
    value: Callable[[slice], Tensor]
    weight: float = 1.0
    divisible: bool = True
    unit: int = 1


@dataclass(frozen=True)
class Validation:
    """Validation data on which a field is evaluated.

    Attributes:
        data: data of unit variance, (N, …).
        condition: class indices, int64 (N, G), or None.
        seed: the seed of the noise. The noise of datum i does not depend on how the data are divided.
        rows: the rows of the data that are evaluated; None evaluates all.
    """

    data: Tensor
    condition: Tensor | None = None
    seed: int = 0
    rows: range | None = None

    def share(self) -> tuple[range, Tensor, Tensor | None]:
        """The rows that are evaluated, their data and their condition."""
        rows = self.rows or range(len(self.data))
        chosen = slice(rows.start, rows.stop)
        return rows, self.data[chosen], None if self.condition is None else self.condition[chosen]


# The default with one condition group, and with several. A composition conditions on one group and leaves the others
# open, and with a probability of one half every subset of several groups is trained equally often.
CONDITION_DROPOUT = (0.1, 0.5)


@dataclass(frozen=True)
class MethodSettings(Settings):
    """The settings of every method."""

    condition_dropout: float | None = setting(
        None, help="Share of the training images whose class is hidden, per condition group.", low=0, high=1
    )


@dataclass(frozen=True)
class MethodSampling(Settings):
    """The options of sampling that only one method has, beside the solver; by default there are none."""


class Method(ABC):
    """A way to train and use a generative model.

    Args:
        settings: an instance of the class's `Settings` in which no setting is None that `defaults` contains.
    Attributes:
        name: the name of the method.
        figures: the names of the figures that `held_out` returns. The first one chooses the best model.
        judged: whether the first figure judges all that is trained, so that a run may end with its best weights.
        Settings: the class of the settings.
        SamplingOptions: the class of the options of `draw` that only this method has, beside the solver.
        optimiser: settings of the optimiser that replace those of a preset.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]] = ("residual",)
    judged: ClassVar[bool] = True
    Settings: ClassVar[type[MethodSettings]]
    SamplingOptions: ClassVar[type[MethodSampling]] = MethodSampling
    optimiser: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def defaults(cls, data: DataShape, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The values of settings that are None.

        Args:
            data: the shape of the data that the model is for.
            asked: the settings that were given, `decay` of the optimiser, and `timed`, which says whether the run has a
                time budget.
        """
        del asked
        return {"condition_dropout": CONDITION_DROPOUT[len(data.classes) > 1]}

    @classmethod
    def added_settings(cls) -> dict[str, Any]:
        """The settings that runs of earlier versions did not have, with the values that describe those runs."""
        return {}

    def check(self, data: DataShape, *, decay: float, processes: int) -> None:
        """Check that the settings fit the data and the run.

        Args:
            data: the shape of the data that the model is for.
            decay: the share of the run over which the learning rate falls.
            processes: the number of processes that divide a batch.
        Raises:
            ConfigError: they do not fit; the hint says what to change.
        """
        del data, decay, processes

    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should read before a run begins."""
        return ()

    def phase(self, fraction: float) -> int:
        """The phase of a run of which `fraction` is done, from 0 on.

        When a new phase begins, the weights become their average, from which it starts, and a new average begins.
        """
        del fraction
        return 0

    def rate(self, parameter: str, phase: int) -> float:
        """The factor of the learning rate of a parameter in a phase.

        Args:
            parameter: the name of the parameter in the field.
            phase: the phase of the run.
        """
        del parameter, phase
        return 1.0

    def trains_null(self, data: DataShape) -> bool:
        """Whether the unconditional field is trained on data of this shape."""
        return not data.classes or self.settings.condition_dropout != 0

    @property
    def divisible(self) -> bool:
        """Whether a batch can be divided among processes and micro-batches."""
        return True

    @property
    def compilable(self) -> bool:
        """Whether compiling the field makes training faster."""
        return True

    @abstractmethod
    def field(self, network: nn.Module, data: DataShape) -> Field:
        """The field of a network."""

    @abstractmethod
    def losses(self, field: Any, batch: Batch, at: Moment) -> Iterable[Loss]:
        """The terms of the training loss for a batch. Every parameter occurs in at least one of them."""

    def state(self) -> dict[str, Tensor]:
        """The tensors that the method keeps between steps, such as replay pools, by name."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        del tensors

    @abstractmethod
    def held_out(self, field: Any, data: Validation) -> dict[str, Tensor]:
        """Figures for each datum of the validation data, (N,) each. Lower is better.

        The mean of the first figure chooses the best model.
        """

    def choose_solver(self, options: Any, given: Mapping[str, Any]) -> Solver:
        """The solver of `draw`.

        Args:
            options: an instance of `SamplingOptions`.
            given: the settings of the solver that the user gave, which are those of `Solver.choose`.
        """
        del options
        return Solver.choose(**given)

    def draw(
        self,
        field: Any,
        codes: Tensor,
        condition: Tensor | None,
        solver: Solver,
        *,
        options: Any = None,
        seed: int = 0,
        first: int = 0,
        guidance: float | None = None,
        keep_path: bool = False,
    ) -> Solution:
        """Samples from points of the prior; by default along the flow of the field.

        Args:
            field: the field, which has a flow.
            codes: points of the prior, (N, …).
            condition: class indices, int64 (N, G), or None.
            solver: the solver, which `choose_solver` returned.
            options: an instance of `SamplingOptions`; None is the default.
            seed, first: further random numbers of sample i depend only on (seed, first + i).
            guidance: the guidance weight; None uses none.
            keep_path: whether the state at every step is kept.
        Returns:
            A `Solution` whose x are data of unit variance, (N, …).
        """
        del options, seed, first
        if not isinstance(field, Transports):
            raise ConfigError(f"the method {self.name} has no flow and no other way to draw samples")
        return transport.decode(field, codes, condition, solver, guidance=guidance, keep_path=keep_path)

    def code_shape(self, field: Any, data: DataShape) -> tuple[int, ...]:
        """The shape of the code of a datum; by default that of the datum itself. Codes have unit variance.

        Args:
            field: the field.
            data: the shape of the data that the model is for.
        """
        del field
        return data.shape

    def encode(
        self,
        field: Any,
        data: Tensor,
        condition: Tensor | None,
        solver: Solver | None = None,
        *,
        guidance: float | None = None,
    ) -> Solution:
        """The codes of data; by default the points of the prior from which they come along the flow of the field.

        Args:
            field: the field.
            data: data of unit variance, (N, …).
            condition: class indices, int64 (N, G), or None.
            solver: the solver; None is the default of the method.
            guidance: the guidance weight; None uses none.
        Returns:
            A `Solution` whose x are the codes, (N, *code_shape).
        """
        return transport.encode(field, data, condition, solver or ENCODING_SOLVER, guidance=guidance)

    def decode(
        self,
        field: Any,
        codes: Tensor,
        condition: Tensor | None,
        solver: Solver | None = None,
        *,
        guidance: float | None = None,
    ) -> Solution:
        """The data of codes; the inverse of `encode`, whose arguments it takes.

        Returns:
            A `Solution` whose x are data of unit variance, (N, …).
        """
        return transport.decode(field, codes, condition, solver or ENCODING_SOLVER, guidance=guidance)

    def calibrate(
        self, field: Any, data: Validation, classes: Sequence[int], gradients: int | None, batch_size: int
    ) -> Calibration | None:
        """The constants that turn energies into densities; None if there are none or the effort is too small.

        Args:
            field: the field.
            data: dequantised data in random order.
            classes: the number of classes in each condition group.
            gradients: the approximate number of gradients of the energy to spend; None spends the full effort.
            batch_size: the number of data that are computed at once.
        """
        del field, data, classes, gradients, batch_size
        return None

    def calibration_cost(self, field: Any, classes: Sequence[int]) -> int:
        """The number of gradients of the energy that `calibrate` takes with full effort."""
        del field, classes
        return 0

    def tilted(self, field: Any, direction: Tensor) -> Field:
        """The field of data z whose density is multiplied by exp(direction·z), at every noise level and condition.

        It shares the parameters of the field, under the same names. Its energies are those of the tilted densities,
        up to constants that `tilted_calibration` gives.

        Args:
            field: the field of the data.
            direction: of the shape of a datum.
        Raises:
            ConfigError: the method does not know this field.
        """
        del field, direction
        raise ConfigError(f"the method {self.name} has no field of tilted data")

    def tilted_calibration(self, calibration: Any, log_partitions: Mapping[tuple[int, ...], float]) -> Calibration:
        """The calibration of a tilted field, from that of the field.

        Args:
            calibration: the calibration of the field.
            log_partitions: log E exp(direction·z) under each condition. Other conditions are left out.
        """
        del calibration, log_partitions
        raise ConfigError(f"the method {self.name} has no field of tilted data")

    def read_calibration(self, document: Mapping[str, Any]) -> Calibration:
        """The calibration that `Calibration.to_dict` described.

        Raises:
            ValueError: the document is not a calibration of this method.
        """
        raise ValueError(f"the method {self.name} has no calibration: {sorted(document)}")

    def describe(self) -> dict[str, Any]:
        """Facts about the model for `vpfb info`, as JSON values by name."""
        return {}
