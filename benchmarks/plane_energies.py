"""Energy Matching of points in the plane: the density of the learned energy beside the exact one.

    python benchmarks/plane_energies.py

Trains each set twice with the same number of steps, with and without the contrastive term of the second phase. For
each model it computes the log-density of the energy, with its constant from a sum over a grid, and compares it with
the exact one at fresh points. It draws samples at several sampling times and computes the mean of their exact log-
density, which is minus the entropy if the samples are like the data, and the accuracy of a 1-nearest-neighbour
classifier that tells samples from fresh points, which is 0.5 if it cannot. Chains that start at data and at noise are
compared by a Kolmogorov-Smirnov test of their energies. Writes benchmarks/results/cpu/plane-energies.json and
figures.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
import torch
from plane_densities import LOG_DENSITIES, fresh
from record import folder, record, show
from scipy.stats import ks_2samp
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.dynamics.langevin import langevin
from vpfb_core.uses.evaluation.neighbours import compare
from vpfb_core.uses.plotting.model_plot import density_of_energy, plot
from vpfb_core.uses.plotting.two_columns import Window

SETS = ("moons", "eight-gaussians")
TIMES = (1.0, 1.5, 2.0, 3.0, 5.0)
POINTS, GRID = 1_000, 300
CHAINS, CHAIN_STEPS = 400, 200


def trained(name: str, steps: int, share: float | None) -> Model:
    """The model of a set after that many steps, of which `share` have the contrastive term; None is the default."""
    with tempfile.TemporaryDirectory() as runs:
        config = vpfb.TrainConfig(
            data=name, method="energy-matching", steps=steps, contrast_share=share, device="cpu", out=f"{runs}/run",
        )  # fmt: skip
        return vpfb.train(config).model


def density(model: Model, name: str) -> dict[str, float]:
    """How the log-density of the energy differs from the exact one at fresh points, in nats."""
    points = fresh(name, POINTS)
    window = Window.of(points.numpy())
    grid = torch.from_numpy(window.grid(GRID))
    # The first point of the grid gives the constant of the energy.
    some = torch.cat([grid[:1], points])
    energy = model.field.energy(model.statistics.standardise(some, model.device), 0.0).double()
    constant = density_of_energy(model, grid, window)[0] + energy[0]
    error = constant - energy[1:] - LOG_DENSITIES[name](points)
    return {"rms": float(error.square().mean().sqrt()), "divergence": float(-error.mean())}


def by_time(model: Model, name: str) -> list[dict[str, float]]:
    """The samples at each sampling time beside fresh points."""
    real, rows = fresh(name, POINTS), []
    for tau in TIMES:
        drawn = model.sample(POINTS, tau=tau).images.double()
        rows.append(
            {
                "tau": tau,
                "mean_log_density": float(LOG_DENSITIES[name](drawn).clamp(min=-100).mean()),
                "1nn": compare(drawn.float(), real.float()).accuracy,
            }
        )
    return rows


def two_starts(model: Model, name: str) -> dict[str, Any]:
    """The energies of chains of MALA from samples and from data, and a two-sample test of both."""
    field: Any = model.field
    starts: dict[str, Tensor] = {
        "noise": model.sample(CHAINS, tau=1.0).solution.x,
        "data": model.statistics.standardise(fresh(name, CHAINS), model.device),
    }
    energies = {}
    for start, x in starts.items():
        scale = torch.full((CHAINS,), 0.1, dtype=x.dtype)
        for part in range(2):
            walk = langevin(
                field.energy_and_score, x, field.chain_variance(0.0), steps=CHAIN_STEPS, seed=part,
                stream=f"chains from {start}", scale=scale, adapt=part == 0,
            )  # fmt: skip
            x, scale = walk.x, walk.step_scale
        energies[start] = walk.energy.numpy()
    test = ks_2samp(energies["noise"], energies["data"])
    return {
        "steps": 2 * CHAIN_STEPS, "mean_energy": {start: float(np.mean(each)) for start, each in energies.items()},
        "statistic": float(test.statistic), "p": float(test.pvalue),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--sets", nargs="*", default=SETS, choices=SETS)
    arguments = parser.parse_args()
    found = []
    for name in arguments.sets:
        rows = vpfb.data.load(name).data.double()
        entropy = float(-LOG_DENSITIES[name](fresh(name, 10 * POINTS)).mean())
        for phases, share in (("phase 1 alone", 0.0), ("both phases", None)):
            model = trained(name, arguments.steps, share)
            found.append(
                {"set": name, "phases": phases, "steps": model.about["step"], "seconds": model.about["seconds"],
                 "entropy": entropy, **density(model, name), "by_time": by_time(model, name),
                 "chains": two_starts(model, name)}
            )  # fmt: skip
            print(found[-1], flush=True)
            path = folder() / f"plane-energies-{name}-{phases.replace(' ', '-')}.png"
            path.write_bytes(plot(model, rows[:5_000], f"{name}, {phases}"))
    show(
        ["set", "phases", "RMS", "KL", *[f"log-density at τ = {tau:g}" for tau in TIMES], "entropy", "chains, p"],
        [
            [row["set"], row["phases"], f"{row['rms']:.2f}", f"{row['divergence']:.2f}",
             *[f"{each['mean_log_density']:.2f}" for each in row["by_time"]], f"{row['entropy']:.2f}",
             f"{row['chains']['p']:.2g}"]
            for row in found
        ],
    )  # fmt: skip
    record("plane-energies", found)


if __name__ == "__main__":
    main()
