"""Normalised densities: of a mixture of Gaussians against the exact ones, and of digits by the energy and by the flow.

    python benchmarks/density.py

An MLP is trained on the mixture as in mixture2d.py and calibrated. The figures are the root mean square of learned
minus exact log-density at points of ρ̄(·, t), by one forward pass and by the flow; the normaliser against quadrature;
and the error of the flow's likelihood for the exact potential, which is that of the solver alone. For the built-in
model of digits, the figures are bits per dimension of the same blurred held-out images by both methods, and those of
the images without blur by the flow. Prints tables and writes benchmarks/results/cpu/density.json.
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any

import torch
from mixture2d import TIMES, Settings, train
from problems import Mixture, draw, exact_field, ring  # mixture2d has made it importable
from record import record, show
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import data
from vpfb_core.dynamics.solver import Solver
from vpfb_core.methods.likelihood import log_likelihood
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.estimation import calibrate
from vpfb_core.methods.vpfb.field import PotentialField
from vpfb_core.methods.vpfb.normaliser import Normaliser
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.uses import calibration

LEVELS = (2.0, 1.0, 0.5, 0.2, 0.1)
PRECISE = Solver.choose("dopri5", rtol=1e-5)


def rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def quadrature(field: PotentialField, level: float) -> float:
    """−log ∫ exp(−energy) du over the plane, by the rectangle rule."""
    axis = torch.linspace(-5, 5, 801, dtype=torch.float64)
    energy = [field.energy(part, level) for part in torch.cartesian_prod(axis, axis).split(2**16)]
    return -float(torch.logsumexp(-torch.cat(energy), 0)) - 2 * math.log(axis[1] - axis[0])


def compare(potential: Potential, normaliser: Normaliser, mixture: Mixture, t: float, points: int) -> dict[str, Any]:
    """The learned density against the exact one at time t. The flow is evaluated at a twentieth of the points."""
    field, homotopy = PotentialField(potential), potential.homotopy
    x, times = draw(mixture, homotopy, t, points, seed=1)
    scale, angle = float(potential.scale(times[:1])), float(potential.angle(times[:1]))
    exact = mixture.log_density(x, homotopy.mean(times), homotopy.std(times))
    u, level = x / scale, field.level(angle)
    constant = normaliser.constant(level)
    explicit = constant - field.energy(u, level) - 2 * math.log(scale)
    few = points // 20
    flow, solver_only = (
        log_likelihood(each, u[:few], [angle], solver=PRECISE).log_density[0] - 2 * math.log(scale) - exact[:few]
        for each in (field, exact_field(mixture, homotopy))
    )
    return {
        "t": t,
        "explicit_rms": rms(explicit - exact),
        "explicit_std": float((explicit - exact).std()),
        "normaliser_error": constant - quadrature(field, level),
        "flow_rms": rms(flow),
        "flow_mean": float(flow.mean()),
        "exact_potential_flow_rms": rms(solver_only),
    }


def mixture_figures(steps: int, seeds: int) -> list[dict[str, Any]]:
    mixture, rows = ring(std=1.0), []
    for seed in range(seeds):
        potential = train(mixture, OT(), Settings(steps=steps, seed=seed)).double()
        z = mixture.sample(2048, torch.Generator().manual_seed(100 + seed)) / mixture.std
        normaliser = calibrate(potential, z, seed=seed, points=2048)
        rows += [{"seed": seed, **compare(potential, normaliser, mixture, t, 4096)} for t in TIMES]
    return rows


def digits_figures(images: int) -> dict[str, Any]:
    """Bits per dimension of held-out digits."""
    model, digits = vpfb.load("digits", device="cpu"), data.load("digits", conditional=True)
    train_rows, held_out = data.split(digits, 0.1, 0)
    calibration.calibrate(model, digits.subset(train_rows))
    assert model.calibration is not None
    shown = digits.images[held_out[:images]]
    rows = []
    for level in LEVELS:
        explicit = model.bits_per_dim(shown, level=level)
        flow = model.bits_per_dim(shown, method="ode", level=level)
        rows.append({"noise": level, "blur": model.blur(level), "explicit": float(explicit.mean()),
                     "flow": float(flow.mean()), "difference": float((explicit - flow).mean()),
                     "difference_std": float((explicit - flow).std())})  # fmt: skip
    whole = model.bits_per_dim(shown, method="ode")
    return {
        "images": len(shown),
        "levels": rows,
        "flow": float(whole.mean()),
        "flow_error": float(whole.std()) / math.sqrt(len(shown)),
        "normaliser": model.calibration.describe(model.statistics.unit[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    rows = mixture_figures(arguments.steps, arguments.seeds)
    columns = {"explicit_rms": "rms", "explicit_std": "std", "normaliser_error": "C error", "flow_rms": "flow rms",
               "flow_mean": "flow mean", "exact_potential_flow_rms": "exact N, flow"}  # fmt: skip
    table = [
        [row["seed"], row["t"], *(f"{row[name]:.1g}" if "exact_" in name else f"{row[name]:.4f}" for name in columns)]
        for row in rows
    ]
    show(["seed", "t", *columns.values()], table)
    digits = digits_figures(arguments.images)
    names = ["noise", "blur", "explicit", "flow", "difference", "difference_std"]
    print()
    show(names, [[f"{row[name]:.3f}" for name in names] for row in digits["levels"]])
    print(f"the images themselves, by the flow: {digits['flow']:.3f} ± {digits['flow_error']:.3f} bits/dim")
    sys.stdout.flush()
    record("density", {"mixture": rows, "digits": digits})


if __name__ == "__main__":
    main()
