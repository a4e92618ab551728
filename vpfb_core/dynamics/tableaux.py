"""ODE methods as tables of numbers, their costs, and time grids. The stepping is in `ode.py`.

Sources: Hairer, Nørsett & Wanner, *Solving Ordinary Differential Equations I* (1993), chapters II and III;
Bogacki & Shampine (1989); Dormand & Prince (1980).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeGuard

import numpy as np
from torch import Tensor

from vpfb_core.errors import ConfigError, did_you_mean
from vpfb_core.settings import whole_number

VectorField = Callable[[Tensor, Tensor], Tensor]  # x (N, ...), t (N,) → (N, ...)


class Slope(NamedTuple):
    """The value of f at one time, which later steps of a multistep method use."""

    t: float
    value: Tensor  # (N, ...)


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method: kᵢ = f(x + h Σⱼ aᵢⱼ kⱼ, t + cᵢ h), x ← x + h Σᵢ bᵢ kᵢ.

    Attributes:
        name: the name of the method.
        order: its order of accuracy.
        c: the times of the stages.
        a: the weights of the earlier stages; row i contains the i numbers before the diagonal.
        b: the weights of the step.
        embedded: b̂ of the error estimate h Σᵢ (bᵢ − b̂ᵢ) kᵢ, of one order lower; None for a fixed-step method. The last
            stage of a table with an error estimate is at the new point (first same as last), so that a step costs one
            evaluation less than it has stages.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    embedded: tuple[float, ...] | None = None

    def slopes(
        self,
        f: VectorField,
        x: Tensor,
        h: float | Tensor,
        time: Callable[[float], Tensor],
        first: Tensor,
    ) -> list[Tensor]:
        """The slopes kᵢ of one step from x, each (N, ...).

        Args:
            f: the right-hand side.
            x: the state, (N, ...).
            h: the length of the step, a number or broadcastable against x.
            time: maps cᵢ to t + cᵢ h, (N,).
            first: k₁ = f(x, t + c₁ h), which the caller has already.
        """
        k = [first]
        for c, row in zip(self.c[1:], self.a[1:], strict=True):
            k.append(f(x + h * combine(row, k), time(c)))
        return k

    def grid_step(
        self, f: VectorField, x: Tensor, grid: Sequence[float], i: int, history: list[Slope]
    ) -> tuple[Tensor, list[Slope]]:
        """The state at grid[i + 1] from x at grid[i], and the slopes that the next step can use, newest first."""
        del history
        now, after = grid[i], grid[i + 1]
        h = after - now

        def time(c: float) -> Tensor:
            return x.new_full((len(x),), after if c == 1 else now + c * h)

        k = self.slopes(f, x, h, time, first=f(x, time(self.c[0])))
        return x + h * combine(self.b, k), [Slope(now + self.c[0] * h, k[0])]

    @property
    def costs(self) -> tuple[int, int]:
        """Evaluations of f for the first step and for every later one, on a given grid."""
        return len(self.c), len(self.c)

    @property
    def error(self) -> tuple[float, ...]:
        """b − b̂, or () for a table without an error estimate."""
        return tuple(b - lower for b, lower in zip(self.b, self.embedded or (), strict=False))


@dataclass(frozen=True)
class AdamsBashforth:
    """An explicit multistep method, which integrates the polynomial through the latest slopes.

    It needs one evaluation per step. The first step is one of `start`, and the next steps use as many slopes as there
    are, up to `order`. A start of one order lower keeps the order of the method, since the number of steps of the lower
    order is fixed (Hairer et al., III.4). With equal numbers of evaluations such a start was also more accurate on the
    flow of a Gaussian mixture.

    Attributes:
        name: the name of the method.
        order: its order of accuracy, and the largest number of slopes.
        start: the method of the first step.
    """

    name: str
    order: int
    start: Tableau

    @property
    def costs(self) -> tuple[int, int]:
        """Evaluations of f for the first step and for every later one."""
        return self.start.costs[0], 1

    def grid_step(
        self, f: VectorField, x: Tensor, grid: Sequence[float], i: int, history: list[Slope]
    ) -> tuple[Tensor, list[Slope]]:
        """The state at grid[i + 1] from x at grid[i], and the slopes up to grid[i], newest first."""
        if i == 0:
            return self.start.grid_step(f, x, grid, i, history)
        slopes = [Slope(grid[i], f(x, x.new_full((len(x),), grid[i]))), *history][: self.order]
        weights = self.weights([slope.t for slope in slopes], grid[i + 1])
        return x + (grid[i + 1] - grid[i]) * combine(weights, [slope.value for slope in slopes]), slopes

    def weights(self, times: Sequence[float], t_next: float) -> list[float]:
        """The weights wⱼ = (1/h) ∫ Lⱼ dt over [times[0], t_next] of the slopes at `times`, newest first.

        Lⱼ are the Lagrange polynomials through `times`. The weights are found as the solution of the linear system that
        says that they integrate 1, s, s², … exactly, where s = (t − times[0])/h.
        """
        s = (np.asarray(times, dtype=np.float64) - times[0]) / (t_next - times[0])
        powers = np.vander(s, increasing=True).T
        weights: list[float] = np.linalg.solve(powers, 1.0 / np.arange(1, len(s) + 1)).tolist()
        return weights


Method = Tableau | AdamsBashforth


def combine(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """Σᵢ weightsᵢ slopesᵢ without the terms whose weight is zero, (N, ...)."""
    (w, k), *rest = [(w, k) for w, k in zip(weights, slopes, strict=True) if w != 0]
    total = w * k
    for w, k in rest:
        total = total.add(k, alpha=w)
    return total


EULER = Tableau("euler", 1, (0.0,), ((),), (1.0,))
MIDPOINT = Tableau("midpoint", 2, (0.0, 1 / 2), ((), (1 / 2,)), (0.0, 1.0))
HEUN = Tableau("heun", 2, (0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2))
RK4 = Tableau(
    "rk4",
    4,
    (0.0, 1 / 2, 1 / 2, 1.0),
    ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
# The midpoint method without its first stage. It needs one evaluation like Euler. It is of second order if f(x, t₀)
# does not depend on x, since moving x to the middle of the step then changes f by O(h²); else it is of first order.
HALFWAY = Tableau("halfway", 1, (1 / 2,), ((),), (1.0,))
AB2 = AdamsBashforth("ab2", 2, start=EULER)
AB3 = AdamsBashforth("ab3", 3, start=MIDPOINT)
# A flow from pure noise satisfies that condition: the velocity at its start is the mean of the data for every x.
ARC3 = AdamsBashforth("arc3", 3, start=HALFWAY)
BOSH3 = Tableau(
    "bosh3",
    3,
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9, 0.0),
    embedded=(7 / 24, 1 / 4, 1 / 3, 1 / 8),
)
DOPRI5 = Tableau(
    "dopri5",
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    embedded=(5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40),
)

MAX_NFE = 100_000  # evaluations of f per sample, whose times and steps are lists in memory

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for method in (ARC3, EULER, MIDPOINT, HEUN, RK4, AB2, AB3, BOSH3, DOPRI5)}
)


def is_adaptive(method: Method) -> TypeGuard[Tableau]:
    """Whether the method chooses its own steps, and takes tolerances instead of a grid."""
    return isinstance(method, Tableau) and method.embedded is not None


def find_method(name: str) -> Method:
    """The ODE method of that name.

    Raises:
        ConfigError: there is no such method; the message lists the methods, and the hint suggests the nearest one.
    """
    if name in METHODS:
        return METHODS[name]
    hint = did_you_mean(name, METHODS).strip()
    raise ConfigError(f"unknown ODE method {name!r}; there are {', '.join(METHODS)}", hint=hint or None)


def steps_for(name: str, nfe: int) -> int:
    """The largest number of steps of a fixed-step method within `nfe` evaluations of f.

    Raises:
        ConfigError: the method is unknown or adaptive, or `nfe` is too small for one step or larger than `MAX_NFE`.
    """
    method = find_method(name)
    if is_adaptive(method):
        fixed = ", ".join(name for name, other in METHODS.items() if not is_adaptive(other))
        raise ConfigError(
            f"{name!r} chooses its own steps, so their number is not known beforehand",
            hint=f"give it a tolerance, or use one of {fixed}",
        )
    nfe, (first, later) = whole_number("nfe", nfe), method.costs
    if nfe < first:
        raise ConfigError(f"nfe = {nfe} is too few for one step of {name!r}", hint=f"it needs at least {first}")
    if nfe > MAX_NFE:
        raise ConfigError(f"nfe = {nfe:,} is too many", hint=f"it may be at most {MAX_NFE:,}")
    return 1 + (nfe - first) // later


def check_interval(t0: float, t1: float) -> None:
    """Raise ConfigError unless the times are finite and different."""
    if not (math.isfinite(t0) and math.isfinite(t1) and t0 != t1):
        raise ConfigError(f"t0 and t1 must be finite and different, not {t0} and {t1}")


def time_grid(t0: float, t1: float, steps: int | None, grid: Sequence[float] | Tensor | None) -> list[float]:
    """The times of a fixed-step solve: `grid` if it is given, else `steps` equal steps from t0 to t1.

    Raises:
        ConfigError: neither or both are given, or the times are not finite and strictly monotone.
    """
    if (steps is None) == (grid is None):
        raise ConfigError("a fixed-step method needs either steps or grid", hint="for example steps=20")
    if grid is None:
        if not isinstance(steps, int | np.integer) or steps < 1:
            raise ConfigError(f"steps must be a whole number of at least 1, not {steps!r}")
        check_interval(t0, t1)
        times = np.linspace(t0, t1, steps + 1, dtype=np.float64)
    else:
        times = np.asarray(grid.tolist() if isinstance(grid, Tensor) else grid, dtype=np.float64)
        jumps = np.diff(times) if times.ndim == 1 else np.zeros(1)
        if not (len(jumps) and np.isfinite(times).all() and ((jumps > 0).all() or (jumps < 0).all())):
            raise ConfigError(f"grid must hold two or more finite, strictly monotone times, not {times.tolist()}")
    numbers: list[float] = times.tolist()
    return numbers
