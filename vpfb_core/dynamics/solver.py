"""The choice of an ODE solver: a method, and how many evaluations or which tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from vpfb_core.dynamics.ode import Solution, solve, steps_for
from vpfb_core.dynamics.tableaux import AB3, ARC3, find_method, is_adaptive
from vpfb_core.errors import ConfigError

DEFAULT_METHOD = ARC3.name
DEFAULT_NFE = 16
DEFAULT_TOLERANCE = 1e-4

Grid = Callable[[float, float, int], list[float]]  # (start, end, steps) → the steps + 1 times of a fixed-step method


class Layout(NamedTuple):
    """A method of fixed step and the times that it steps on."""

    method: str
    grid: list[float]


@dataclass(frozen=True)
class Solver:
    """How a flow is solved: by a fixed-step method within `nfe` evaluations per sample, or by an adaptive one."""

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
        """The solver that these wishes mean: a tolerance asks for an adaptive method, else steps are fixed.

        Raises:
            ConfigError: an unknown method, or wishes that exclude each other.
        """
        tolerance = rtol is not None or atol is not None
        if method is None:
            method = "dopri5" if tolerance and nfe is None else DEFAULT_METHOD
        adaptive = is_adaptive(find_method(method))
        if adaptive and nfe is not None:
            raise ConfigError(
                f"{method} chooses its own number of evaluations, so nfe = {nfe} cannot be met",
                hint="set rtol and atol with it, or take a method of fixed step",
            )
        if not adaptive and tolerance:
            raise ConfigError(
                f"{method} takes a fixed number of evaluations, not a tolerance",
                hint="set nfe with it, or take the method dopri5",
            )
        if not adaptive:
            nfe = DEFAULT_NFE if nfe is None else nfe
            steps_for(method, nfe)
        first = DEFAULT_TOLERANCE if rtol is None else rtol
        return cls(method, nfe, first, first if atol is None else atol)

    @property
    def wishes(self) -> dict[str, Any]:
        """The arguments from which `choose` makes this solver."""
        if self.nfe is not None:
            return {"method": self.method, "nfe": self.nfe}
        return {"method": self.method, "rtol": self.rtol, "atol": self.atol}

    def in_words(self) -> str:
        """The method and, of an adaptive one, its tolerances."""
        return self.method if self.nfe else f"{self.method}, rtol {self.rtol:g}, atol {self.atol:g}"

    def layout(self, start: float, end: float, grid: Grid, *, entry: float | None = None) -> Layout | None:
        """The steps of this solver from `start` to `end`; None if it is adaptive.

        Args:
            start, end: times, in either order; time 0 is pure noise.
            grid: where a method of fixed step steps.
            entry: the time on the way at which the points lie already; the rest of the usual steps is taken.
        """
        if self.nfe is None:
            return None
        # `arc3` leaves its first point without looking at it, which only pure noise allows (`tableaux.HALFWAY`).
        elsewhere = self.method == ARC3.name and (start if entry is None else entry) != 0
        method = AB3.name if elsewhere else self.method
        times = grid(start, end, steps_for(method, self.nfe))
        return Layout(method, times if entry is None else [entry, *(time for time in times if time > entry)])

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
        keep_path: bool = False,
    ) -> Solution:
        """Follow dx/ds = velocity(x, s, *args) from `start` to `end`, or to it from `entry` on the way.

        Arguments as in `layout` and `ode.solve`.

        Raises:
            ConfigError: `keep_path` with an adaptive method.
        """
        layout = self.layout(start, end, grid, entry=entry)
        if layout is not None:
            return solve(velocity, x, method=layout.method, args=args, grid=layout.grid, keep_path=keep_path)
        if keep_path:
            raise ConfigError(
                f"{self.method} chooses its own steps, so it keeps no path",
                hint="take a method of fixed step, such as arc3",
            )
        begin = start if entry is None else entry
        return solve(velocity, x, begin, end, self.method, args=args, rtol=self.rtol, atol=self.atol)


DEFAULT_SOLVER = Solver(DEFAULT_METHOD, DEFAULT_NFE, DEFAULT_TOLERANCE, DEFAULT_TOLERANCE)
ENCODING_SOLVER = Solver("dopri5", None, 1e-5, 1e-5)  # an image that is encoded and decoded must come back the same
