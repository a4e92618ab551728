"""The interface between a training method and everything else.

A method defines what is trained (a `Field`), how it is trained (`losses`), how samples are drawn (`draw`), and how
energies become densities (`calibrate`). Data, networks, solvers, chains, training runs, files and commands are shared
by all methods. They require only capabilities of a field (`fields.py`): an energy (`levels`, `energy_and_score`), a
flow (`Transports`), or a trained unconditional field (`has_null`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vpfb_core.dynamics.ode import Solution
from vpfb_core.dynamics.solver import ENCODING_SOLVER, Solver
from vpfb_core.errors import ConfigError
from vpfb_core.methods import transport
from vpfb_core.methods.fields import Calibration, Field, Transports
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment, Validation
from vpfb_core.settings import Settings, setting

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
        trains_scalars: whether it can train a network that returns one number per sample.
        faster_compiled: whether compiling the step, where it can be compiled, was found to make training faster.
    """

    name: ClassVar[str]
    figures: ClassVar[tuple[str, ...]] = ("residual",)
    judged: ClassVar[bool] = True
    Settings: ClassVar[type[MethodSettings]]
    SamplingOptions: ClassVar[type[MethodSampling]] = MethodSampling
    optimiser: ClassVar[Mapping[str, Any]] = {}
    trains_scalars: ClassVar[bool] = True
    faster_compiled: ClassVar[bool] = False

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

    def check(self, data: DataShape, *, scalar: bool, decay: float, processes: int) -> None:
        """Check that the settings fit the data, the network and the run.

        Args:
            data: the shape of the data that the model is for.
            scalar: whether the network returns one number per sample, and not the shape of its input.
            decay: the share of the run over which the learning rate falls.
            processes: the number of processes that divide a batch.
        Raises:
            ConfigError: they do not fit; the hint says what to change.
        """
        del data, scalar, decay, processes

    def notes(self) -> tuple[str, ...]:
        """Sentences that the user should read before a run begins."""
        return ()

    def remarks(self) -> tuple[str, ...]:
        """Sentences about what happened in a run, which the user should read at its end."""
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
        """Whether a training step can be compiled, with the same gradient."""
        return False

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
        """Figures for each datum of the validation data, (N,) each.

        The mean of the first figure chooses the best model; lower is better.
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
        """Samples from codes; by default from points of the prior along the flow of the field.

        Args:
            field: the field, which has a flow.
            codes: codes of unit variance, (N, *code_shape). By default they are points of the prior.
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
