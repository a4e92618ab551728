"""The options of the commands that draw images: classes, and the solver of the flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from vpfb_cli.options import MODEL, at_least_one, option
from vpfb_cli.wording import one_of
from vpfb_core.errors import ConfigError, counted, singular
from vpfb_core.names import SOLVERS

if TYPE_CHECKING:
    from vpfb_cli.output import Output
    from vpfb_core.api import Model
    from vpfb_core.dynamics.solver import Solver

FLOW = "Flow"


@dataclass(frozen=True)
class Condition:
    """The classes of the samples, and the guidance towards them."""

    class_: Annotated[
        list[str] | None,
        option(
            "--class NAME", MODEL, "Class to draw, or attributes joined by commas. If repeated, the classes alternate."
        ),
    ] = None
    guidance: Annotated[
        float | None,
        option(
            "--guidance W",
            MODEL,
            "Guidance weight. Above 1, classes are clearer and less varied. Doubles the evaluations.",
            show_default="1, no guidance",
        ),
    ] = None

    def require_within(self, count: int, noun: str) -> None:
        """Refuse more classes than samples, of which some would have no sample.

        Args:
            count: the number of samples.
            noun: what they are called, in the plural.
        Raises:
            ConfigError: there are more classes.
        """
        classes = len(self.class_ or ())
        if classes > count:
            raise ConfigError(
                f"{counted(classes, 'classes')} were given for {counted(count, noun)}",
                hint=f"each {singular(noun)} has one class, or several attributes joined by commas",
            )

    def guidance_for(self, say: Output, model: Model) -> float | None:
        """The guidance weight; None, after a warning, if a model with classes draws none in particular."""
        if self.guidance is not None and model.groups and not self.class_:
            say.warn(f"--guidance {self.guidance:g} has no effect: no --class was given")
            return None
        return self.guidance


@dataclass(frozen=True)
class Flow:
    """The solver of the flow."""

    solver: Annotated[
        str | None,
        option(
            "--solver NAME",
            FLOW,
            f"ODE solver: {one_of(SOLVERS)}. bosh3 and dopri5 take --rtol and --atol, the others --nfe.",
            show_default="arc3, or dopri5 with a tolerance",
        ),
    ] = None
    nfe: Annotated[
        int | None,
        option(
            "--nfe N",
            FLOW,
            "Number of gradient evaluations per image or row.",
            callback=at_least_one,
            show_default="16, or set by the command or the method",
        ),
    ] = None
    rtol: Annotated[float | None, option("--rtol TOL", FLOW, "Relative tolerance.", show_default="0.0001")] = None
    atol: Annotated[
        float | None,
        option(
            "--atol TOL",
            FLOW,
            "Absolute tolerance, in standard deviations of the data.",
            show_default="that of --rtol",
        ),
    ] = None

    @property
    def given(self) -> dict[str, object]:
        """The options that were given, by name."""
        values = {"--solver": self.solver, "--nfe": self.nfe, "--rtol": self.rtol, "--atol": self.atol}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that were given, as arguments of `Solver.choose`."""
        values = {"method": self.solver, "nfe": self.nfe, "rtol": self.rtol, "atol": self.atol}
        return {name: value for name, value in values.items() if value is not None}

    def choose(self) -> Solver:
        """The solver of these options; the default solver if none was given."""
        from vpfb_core.dynamics.solver import Solver

        return Solver.choose(**self.arguments)
