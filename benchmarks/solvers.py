"""Accuracy against cost of solvers: the distance to the converged samples by the number of gradient evaluations.

    python benchmarks/solvers.py [-m digits] [--data digits] [-n 128] [--device auto] [--threads N]

All solvers start from the same noise. The reference is dopri5 with a tolerance of 1e-6. Each solve has two figures:

- the root mean square distance to the reference, in standard deviations of the data, and the median distance over the
  samples (a few samples near a branching of paths end elsewhere and dominate the mean);
- the increase of the Fréchet distance to the real images over that of the reference, in the space of the 16 leading
  principal components of the real pixels, with the standard error of a jackknife. Only this increase has a meaning.

Writes results/<machine kind>/solvers-<data>.json and .png.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fidelity import Fidelity
from record import folder, parsed, record, show
from solver_grids import fitted, grids, measured
from solver_plot import plot
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.dynamics.ode import METHODS, solve, steps_for
from vpfb_core.dynamics.solver import Solver
from vpfb_core.dynamics.tableaux import is_adaptive
from vpfb_core.machine import noise
from vpfb_core.methods.transport import decode
from vpfb_core.methods.vpfb.field import PotentialField

NFES = (4, 6, 8, 10, 12, 16, 20, 24, 40)
GRID_NFES = {"midpoint": (10, 20), "ab2": (10, 20), "ab3": (10, 20), "arc3": (6, 10, 14, 20)}
SHOWN_NFES = (6, 10, 20)
TOLERANCES = (0.1, 0.03, 0.01, 0.003, 0.001)
FIXED = [name for name, method in METHODS.items() if not is_adaptive(method)]
ADAPTIVE = [name for name, method in METHODS.items() if is_adaptive(method)]
TRUTH = Solver.choose("dopri5", rtol=1e-6)
FITTING_SAMPLES, FITTING_NFE, MEASURING_SAMPLES = 32, 10, 16
BATCH = 64

Steps = Callable[[int], Sequence[float]]  # number of steps → their angles


@dataclass(frozen=True)
class Flow:
    """The flow of a model from fixed noise."""

    field: PotentialField
    noise: Tensor  # (N, …)

    @classmethod
    def of(cls, model: vpfb.Model, first: int, n: int) -> Flow:
        assert isinstance(model.field, PotentialField)
        return cls(model.field, noise.normal(model.shape, 0, range(first, first + n)).to(model.device))

    def adaptive(self, solver: Solver) -> tuple[Tensor, float]:
        """The ends of the flow, (N, …), and the mean number of evaluations, for a solver with a tolerance."""
        parts = [decode(self.field, some, solver=solver).require_success() for some in self.noise.split(BATCH)]
        return torch.cat([part.x for part in parts]), float(torch.cat([part.nfe for part in parts]).double().mean())

    def stepped(self, method: str, nfe: int, grid: Steps) -> Tensor:
        """The ends of the flow and the number of evaluations, for a solver on a grid."""
        angles = grid(steps_for(method, nfe))
        with torch.no_grad():
            parts = [
                solve(self.field.velocity, some, method=method, grid=angles).require_success()
                for some in self.noise.split(BATCH)
            ]
        return torch.cat([part.x for part in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="digits")
    parser.add_argument("--data", default="digits", help="the real images of the Fréchet distance")
    parser.add_argument("-n", type=int, default=128, help="number of samples")
    arguments = parsed(parser)
    model = vpfb.load(arguments.model, device=arguments.device)
    field = model.field
    assert isinstance(field, PotentialField)
    flow, other = Flow.of(model, 0, arguments.n), Flow.of(model, arguments.n, FITTING_SAMPLES)
    fidelity = Fidelity.of(model, vpfb.data.load(arguments.data).images[:10_000], flow.adaptive(TRUTH)[0])

    rows: list[dict[str, Any]] = []

    def note(solver: str, grid: str, nfe: float, ends: Tensor) -> None:
        rows.append({"solver": solver, "grid": grid, "nfe": nfe, **fidelity.figures(ends)})

    for method, nfe in itertools.product(FIXED, NFES):
        if nfe >= METHODS[method].costs[0]:
            note(method, "default", nfe, flow.stepped(method, nfe, lambda steps: field.grid(*field.span, steps)))
    for method, tolerance in itertools.product(ADAPTIVE, TOLERANCES):
        ends, evaluations = flow.adaptive(Solver.choose(method, rtol=tolerance))
        note(method, f"tolerance {tolerance:g}", evaluations, ends)

    layouts = grids(field) | measured(field, other.noise[:MEASURING_SAMPLES])
    truth = other.adaptive(TRUTH)[0]

    def distance(grid: Steps) -> float:
        return float((other.stepped("arc3", FITTING_NFE, grid) - truth).square().flatten(1).mean(1).sqrt().median())

    powers, layouts["fitted to the model"] = fitted(field, distance)
    for (name, grid), (method, nfes) in itertools.product(layouts.items(), GRID_NFES.items()):
        for nfe in nfes:
            note(method, name, nfe, flow.stepped(method, nfe, grid))

    name = f"solvers-{arguments.data}"
    picture = folder(model.device) / f"{name}.png"
    picture.write_bytes(plot(rows))
    figures = {
        "samples": arguments.n,
        "real": len(fidelity.real),
        "converged": {"frechet": fidelity.truth_frechet, "solver": "dopri5, rtol 1e-6"},
        "fitted_powers": powers,
        "solves": rows,
    }
    record(name, figures, model.device)
    show(["solver", "grid", *(f"at {nfe}" for nfe in SHOWN_NFES)], compact(rows))


def compact(rows: list[dict[str, Any]]) -> list[list[object]]:
    """One row per solver and grid: distances and increases of the Fréchet distance by evaluations."""
    lines: dict[tuple[str, str], dict[float, str]] = {}
    for row in rows:
        figures = f"{row['rms']:.3f} {row['frechet_excess']:+.1%}"
        if row["solver"] in ADAPTIVE:
            lines[row["solver"], row["grid"]] = {SHOWN_NFES[-1]: f"{figures} (at {row['nfe']:.0f})"}
        else:
            lines.setdefault((row["solver"], row["grid"]), {})[row["nfe"]] = figures
    return [[*names, *(cells.get(nfe, "") for nfe in SHOWN_NFES)] for names, cells in lines.items()]


if __name__ == "__main__":
    main()
