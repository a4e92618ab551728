"""How well energies agree across classes and noise levels: classification by energies and other figures.

    vpfb train --data digits --conditional --out runs/contrast
    vpfb train --data digits --conditional --set time_score=0.06 --set uniform_angles=0.2 --out runs/both
    python benchmarks/class_energies.py -m runs/contrast -m runs/both [-n 256] [--flow 32] [--seed 99]

The images are new ones for `shapes`, and otherwise the validation data of the model. They get noise of one level, and
the log-density under each class of a group is the energy with the constant of the class. Per level and group:

    right, nats     the class of the highest log-density: how often it is right, and the cross-entropy
    pairs           the share of pairs of images of two classes whose energies are lower as they are than exchanged;
                    constants cancel
    identity        log Σ p(c) ρ(x|c) − log ρ(x), which is 0 for consistent densities: mean and deviation over images

and over the images, without a class: the held-out residual, the deviation of the Fokker-Planck residual, and the
explicit log-density minus that of the flow. "calibrated" uses the constants of the model file, "as trained" the
constant of the prior, −(d/2) log 2π, at every level, which the time score trains for.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from fokker_planck import fokker_planck_residual
from record import parsed, record, settings, show, training
from torch import Tensor
from torch.nn.functional import softplus

import vpfb_core as vpfb
from vpfb_core import data
from vpfb_core.api import Model
from vpfb_core.data import InMemory
from vpfb_core.data.sets import shapes
from vpfb_core.dynamics.solver import Solver
from vpfb_core.machine import noise
from vpfb_core.methods.fields import Transports
from vpfb_core.methods.likelihood import log_likelihood
from vpfb_core.methods.step import Validation
from vpfb_core.methods.vpfb.field import PotentialField

LOG_RATIOS = (-0.5, 0.5, 1.5, 2.3)  # of data to noise: log tan φ
FLOW_LEVELS = (0.1, 0.2, 0.5)  # cot φ
BATCH, TOLERANCE = 256, 1e-3
EXACT_DIMENSION, PROBES = 64, 4  # of the Laplacian; with a few probes it varies by more than energies do
SETTINGS = ("method.contrast", "method.time_score", "method.uniform_angles", "optimiser.time_budget", "optimiser.steps")

Constant = Callable[[float, tuple[int, ...]], float]


def held_out(model: Model, source: str | None, n: int, seed: int) -> InMemory:
    """Images that the model has not been trained on, at most n, with their labels."""
    name = source or model.about["data"]["name"]
    if name == "shapes":
        return shapes.draw(n, model.shape[-1], seed)
    images = data.load(name, size=model.shape[-1], channels=model.shape[0], conditional=bool(model.groups))
    parts = model.split_of(images)
    assert parts is not None, f"{name} is not the data of the model"
    return images.subset(parts[1][:n])


def constants(model: Model) -> dict[str, Constant]:
    """The constants of the densities: those of the model file, and that of the prior."""
    prior = -0.5 * model.data_shape.dimension * math.log(2 * math.pi)
    found: dict[str, Constant] = {"as trained": lambda *_: prior}
    if (calibration := model.calibration) is not None:
        found["calibrated"] = lambda level, condition: calibration.constant(level, condition)
    return found


def energies(model: Model, x: Tensor, level: float, conditions: list[tuple[int, ...]]) -> Tensor:
    """The energy of each point under each condition, float64 (N, conditions)."""
    columns = []
    for condition in conditions:
        given = torch.tensor(condition, device=x.device).expand(len(x), -1) if condition else None
        parts = [
            model.field.energy(rows, level, None if given is None else given[: len(rows)]) for rows in x.split(BATCH)
        ]
        columns.append(torch.cat(parts).cpu().double())
    return torch.stack(columns, 1)


def classified(model: Model, images: InMemory, log_ratio: float, seed: int) -> dict[str, dict[str, Any]]:
    """The figures of each group at a ratio of data to noise."""
    level, labels, found = math.exp(-log_ratio), images.labels, {}
    assert labels is not None
    epsilon = noise.normal(model.shape, seed, range(len(images.images))).to(model.device)
    x = model.field.at_level(model.standardise(images.images), level, epsilon)
    null = (-1,) * len(model.groups)
    for place, group in enumerate(model.groups):
        ours, count = labels[:, place], len(group.classes)
        conditions = [(*null[:place], index, *null[place + 1 :]) for index in range(count)]
        energy = energies(model, x, level, [*conditions, null])
        figures: dict[str, Any] = {"pairs": pairs(energy, ours)}
        for name, constant in constants(model).items():
            shift = torch.tensor([constant(level, each) for each in [*conditions, null]], dtype=torch.float64)
            log_densities = shift - energy
            of_classes, of_all = log_densities[:, :-1], log_densities[:, -1]
            gap = torch.logsumexp(of_classes, 1) - math.log(count) - of_all
            figures[name] = {
                "right": float((of_classes.argmax(1) == ours).double().mean()),
                "nats": float(-torch.log_softmax(of_classes, 1).gather(1, ours[:, None]).mean()),
                "identity": float(gap.mean()),
                "identity_std": float(gap.std()),
            }
        found[group.name] = figures
    return found


def pairs(energy: Tensor, classes: Tensor) -> dict[str, float]:
    """The share of pairs of images of two classes that are right, and their cross-entropy in nats."""
    others, rows, shifted = classes.roll(1), torch.arange(len(classes)), torch.arange(len(classes)).roll(1)
    odds = energy[rows, others] + energy[shifted, classes] - energy[rows, classes] - energy[shifted, others]
    odds = odds[classes != others]
    return {"right": float((odds > 0).double().mean()), "nats": float(softplus(-odds).mean())}


def random_signs(z: Tensor, seed: int) -> Tensor | None:
    """The probes of the Laplacian, or None where it is computed exactly."""
    if z[0].numel() <= EXACT_DIMENSION:
        return None
    return noise.signs((PROBES, *z.shape[1:]), seed, range(len(z)), "probes").to(z)


def against_flow(model: Model, z: Tensor, seed: int) -> list[dict[str, float]]:
    """The explicit log-density minus that of the flow at `FLOW_LEVELS`, along one encoding of each image."""
    assert isinstance(model.field, Transports)
    epsilon = noise.normal(z.shape[1:], seed, range(len(z)), "flow").to(z)
    probes = random_signs(z, seed)
    null = (-1,) * len(model.groups)
    given = torch.tensor(null, device=z.device).expand(len(z), -1) if null else None
    positions = [model.field.position(level) for level in FLOW_LEVELS]
    start = model.field.at_level(z, FLOW_LEVELS[0], epsilon)
    solver = Solver.choose(rtol=TOLERANCE)
    flow = log_likelihood(model.field, start, positions, given, probes=probes, solver=solver)
    rows = []
    for level, u, of_flow in zip(FLOW_LEVELS, flow.x, flow.log_density, strict=True):
        energy = energies(model, u, level, [null])[:, 0]
        row = {"level": level}
        for name, constant in constants(model).items():
            row[name] = float((constant(level, null) - energy - of_flow.cpu().double()).mean())
        row["std"] = float((energy + of_flow.cpu().double()).std())
        rows.append(row)
    return rows


def consistency(model: Model, z: Tensor, seed: int) -> dict[str, float]:
    """The deviation of the Fokker-Planck residual over images, in nats per unit of log tan φ, by ratio."""
    assert isinstance(model.field, PotentialField)
    probes = random_signs(z, seed)
    epsilon = noise.normal(z.shape[1:], seed, range(len(z)), "flow").to(z)
    found = {}
    for ratio in LOG_RATIOS:
        level = math.exp(-ratio)
        u = model.field.at_level(z, level, epsilon)
        found[f"{ratio:g}"] = float(fokker_planck_residual(model.field, u, level, None, probes).std())
    return found


def figures_of(model: Model, images: InMemory, flow: int, seed: int) -> dict[str, Any]:
    """All figures of a model."""
    z, labels = model.standardise(images.images), images.labels
    condition = None if labels is None or not model.groups else labels.to(model.device)
    measured = model.method.held_out(model.field, Validation(z, condition, seed))
    levels = {f"{ratio:g}": classified(model, images, ratio, seed) for ratio in LOG_RATIOS if model.groups}
    return {
        "residual": float(measured["residual"].mean()),
        "classes": levels,
        "against_flow": against_flow(model, z[:flow], seed) if flow else [],
        "fokker_planck_std": consistency(model, z[:flow], seed) if flow else {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("--data", help="the data of the models, if their name is not enough")
    parser.add_argument("-n", type=int, default=256, help="images")
    parser.add_argument("--flow", type=int, default=32, help="images whose likelihood by the flow is computed")
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--name", default="class-energies", help="of the file of results")
    arguments = parsed(parser)
    rows, table = [], []
    for name in arguments.model:
        model = vpfb.load(name, device=arguments.device)
        images = held_out(model, arguments.data, arguments.n, arguments.seed)
        found = figures_of(model, images, arguments.flow, arguments.seed)
        kept = settings(model)
        about = {path.partition(".")[2]: kept.get(path) for path in SETTINGS} | training(model)
        rows.append({"model": name, "trained": about, "images": len(images.images), **found})
        for ratio, groups in found["classes"].items():
            for group, figures in groups.items():
                cells = [name, ratio, group, f"{figures['pairs']['right']:.0%}"]
                for kind in ("calibrated", "as trained"):
                    if kind in figures:
                        each = figures[kind]
                        cells.append(f"{each['right']:.1%} ({each['nats']:.2f})")
                        cells.append(f"{each['identity']:+.1f} ± {each['identity_std']:.1f}")
                    else:
                        cells += ["", ""]
                table.append(cells)
    if table:
        show(["model", "log tan φ", "group", "pairs", "calibrated", "identity", "as trained", "identity"], table)
    show(
        ["model", "residual", "cot φ", "explicit − flow, calibrated", "as trained", "deviation"],
        [
            [row["model"], f"{row['residual']:.4f}", each["level"], f"{each.get('calibrated', math.nan):+.2f}",
             f"{each['as trained']:+.2f}", f"{each['std']:.2f}"]
            for row in rows
            for each in row["against_flow"]
        ],
    )  # fmt: skip
    residuals = [[row["model"], *(f"{value:.2f}" for value in row["fokker_planck_std"].values())] for row in rows]
    show(["Fokker-Planck residual, deviation", *map(str, LOG_RATIOS)], residuals)
    record(arguments.name, rows, model.device)


if __name__ == "__main__":
    main()
