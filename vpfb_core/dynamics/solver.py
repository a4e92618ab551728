"""The choice of an ODE solver: a method with a number of evaluations or with tolerances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vpfb_core.dynamics.ode import Solution, solve, steps_for
from vpfb_core.dynamics.tableaux import AB3, ARC3, find_method, is_adaptive
from vpfb_core.errors import ConfigError
from vpfb_core.names import SOLVER_ARGUMENTS
from vpfb_core.settings import number, require_name

DEFAULT_METHOD = ARC3.name
DEFAULT_NFE = 16
DEFAULT_TOLERANCE = 1e-4

Grid = Callable[[float, float, int], list[float]]  # (start, end, steps) → the steps + 1 times of a fixed-step solve


@dataclass(frozen=True)
class Solver:
    """The settings with which a flow is solved.

    Attributes:
        method: the name of an ODE method.
        nfe: the largest number of evaluations per sample of a fixed-step method; None for an adaptive method.
        rtol, atol: the tolerances of an adaptive method.
    """

    method: str
    nfe: int | None
    rtol: float
    atol: float

    @classmethod
    def choose(
        cls,
        method: str | None = None,
        nfe: int | None = None,
        rtol: float | None = None,
        atol: float | None = None,
    ) -> Solver:
        """The solver for the given settings.

        Without a method, a tolerance selects dopri5; otherwise the default is arc3 with 16 evaluations.

        Raises:
            ConfigError: the method is unknown, a tolerance is no number or out of range, or the settings exclude each
                other.
        """
        rtol = None if rtol is None else number("rtol", rtol)
        atol = None if atol is None else number("atol", atol)
        tolerance = rtol is not None or atol is not None
        if method is None:
            method = "dopri5" if tolerance and nfe is None else DEFAULT_METHOD
        adaptive = is_adaptive(find_method(method))
        if adaptive and nfe is not None:
            raise ConfigError(
                f"{method} chooses its own number of evaluations, so nfe = {nfe} cannot be met",
                hint="set `rtol` and `atol` with it, or use a fixed-step method",
            )
        if not adaptive and tolerance:
            raise ConfigError(
                f"{method} takes a fixed number of evaluations, not a tolerance",
                hint="set `nfe` with it, or use the method dopri5",
            )
        if not adaptive:
            nfe = DEFAULT_NFE if nfe is None else nfe
            steps_for(method, nfe)
        if rtol is not None and not 0 <= rtol < math.inf:
            raise ConfigError(f"rtol = {rtol:g} is not a tolerance", hint="use a value of at least 0")
        if atol is not None and not 0 < atol < math.inf:
            raise ConfigError(f"atol = {atol:g} is not an absolute tolerance", hint="use a value above 0")
        if rtol == 0 and atol is None:
            raise ConfigError("rtol = 0 needs an absolute tolerance", hint="set `atol` with it, above 0")
        first = DEFAULT_TOLERANCE if rtol is None else rtol
        return cls(method, nfe, first, first if atol is None else atol)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Solver:
        """The solver for arguments of `choose` by name, as functions pass them on. Raises ConfigError as `choose` does.

        A name that is unknown is a ConfigError as well.
        """
        return cls.choose(**{require_name(name, SOLVER_ARGUMENTS): value for name, value in arguments.items()})

    def in_words(self) -> str:
        """The name of the method, with the tolerances of an adaptive one."""
        return self.method if self.nfe else f"{self.method}, rtol {self.rtol:g}, atol {self.atol:g}"

    def solve(
        self,
        velocity: Callable[..., Tensor],
        x: Tensor,
        start: float,
        end: float,
        grid: Grid,
        *,
        args: tuple[Tensor, ...] = (),
        entry: float | None = None,
        integrals: int = 0,
        keep_path: bool = False,
    ) -> Solution:
        """Solve dx/ds = velocity(x, s, *args) from `start`, or from `entry` if it is given, to `end`.

        Args:
            start, end: times, in either order; time 0 is pure noise.
            grid: returns the times of a fixed-step solve.
            entry: the time of the points, if it is not `start`. Only the steps of the usual grid after it are taken.
            velocity, x, args, integrals, keep_path: as of `ode.solve`.
        Raises:
            ConfigError: `keep_path` is given with an adaptive method.
        """
        begin = start if entry is None else entry
        if self.nfe is not None:
            # arc3 does not evaluate the velocity at its first point, which is accurate only from pure noise (see
            # HALFWAY).
            elsewhere = self.method == ARC3.name and begin != 0
            method = AB3.name if elsewhere else self.method
            times = grid(start, end, steps_for(method, self.nfe))
            if entry is not None:
                times = [entry, *(time for time in times if time > entry)]
            return solve(velocity, x, method=method, args=args, grid=times, keep_path=keep_path)
        if keep_path:
            raise ConfigError(
                f"{self.method} chooses its own steps, so it keeps no path",
                hint="use a fixed-step method, such as arc3",
            )
        return solve(
            velocity, x, begin, end, self.method, args=args, rtol=self.rtol, atol=self.atol, integrals=integrals
        )


DEFAULT_SOLVER = Solver(DEFAULT_METHOD, DEFAULT_NFE, DEFAULT_TOLERANCE, DEFAULT_TOLERANCE)
ENCODING_SOLVER = Solver("dopri5", None, 1e-5, 1e-5)  # so accurate that encoding and decoding reproduce an image
