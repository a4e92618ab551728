"""The accuracy of a learned log-density of a mixture of eight Gaussians in the plane, which is known in closed form.

    python benchmarks/mixture2d.py [--time-score 0.5] [--classes 2]

Trains an MLP on the mixture's samples by `stein`, with the weight of the time score that is given, and compares the
learned log ρ̄(·, t) with the exact one at points of ρ̄(·, t). The standard deviation of the difference leaves a constant
free at every t; the root mean square does not, and is meaningful with the time score only. With classes, neighbouring
Gaussians share a class, and the log-ratio of the first two classes is compared at points of both, likewise without a
constant. Prints a table and writes benchmarks/results/cpu/mixture2d.json, or the file that --name names.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from problems import Mixture, draw, ring  # noqa: E402

from vpfb_core import networks  # noqa: E402
from vpfb_core.methods.path.angles import DEFAULT_ANGLES, AngleDistribution  # noqa: E402
from vpfb_core.methods.path.homotopy import OT, Homotopy  # noqa: E402
from vpfb_core.methods.vpfb.contrast import contrast  # noqa: E402
from vpfb_core.methods.vpfb.gauge import Gauge  # noqa: E402
from vpfb_core.methods.vpfb.objectives import stein  # noqa: E402
from vpfb_core.methods.vpfb.potential import Potential  # noqa: E402
from vpfb_core.methods.vpfb.time_score import stein_and_time_score  # noqa: E402
from vpfb_core.training import ema  # noqa: E402

TIMES = (0.3, 0.5, 0.7, 0.9, 0.95)
UNDECIDED = 5.0  # nats, at most, of the log-ratio at a point that either class may have drawn


@dataclass(frozen=True)
class Settings:
    """The settings of the training. A step evaluates the potential at 2 · `batch` points: each datum has ε and −ε."""

    steps: int = 3000
    batch: int = 512
    lr: float = 5e-3
    warmup: int = 100
    ema: float = 0.05  # width of the average of the weights, relative to the run
    width: int = 128
    depth: int = 3
    angles: AngleDistribution = DEFAULT_ANGLES
    time_score: float = 0.0  # weight, reached linearly over the run
    contrast: float = 0.0  # weight, reached likewise
    classes: int = 0
    dropout: float = 0.2  # share of the points whose class is hidden
    seed: int = 0


@dataclass(frozen=True)
class Accuracy:
    """The error of a learned potential at time t."""

    t: float
    log_density_error: float  # standard deviation of (learned − exact) log ρ̄, nats
    log_density_rms: float  # root mean square of the same, in which no constant is free
    score_correlation: float


def train(mixture: Mixture, homotopy: Homotopy, settings: Settings = Settings()) -> Potential:
    """A potential with averaged weights, trained on fresh samples of the mixture: warm-up, then a cosine to 0."""
    draws = torch.Generator().manual_seed(settings.seed)
    classes = (settings.classes,) if settings.classes else ()
    description = {
        "name": "mlp", "dim": mixture.dimension, "width": settings.width, "depth": settings.depth,
        "classes": list(classes),
    }  # fmt: skip
    gauge = Gauge(mixture.dimension, classes) if settings.time_score else None
    potential = Potential(networks.build(description, settings.seed), homotopy, mixture.std, gauge)
    average = copy.deepcopy(potential).requires_grad_(False)
    weights, averaged = list(potential.parameters()), [weight.detach() for weight in average.parameters()]
    optimizer = torch.optim.Adam(weights, lr=settings.lr, betas=(0.9, 0.99), fused=True)
    exponent = ema.power_exponent(settings.ema)
    for step in range(settings.steps):
        warm = min(1.0, (step + 1) / settings.warmup)
        optimizer.param_groups[0]["lr"] = settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        data, component = mixture.labelled(settings.batch, draws)
        data = data.float()
        labels = (component * settings.classes // len(mixture.weights))[:, None]
        condition = None
        if classes:
            condition = labels.masked_fill(torch.rand(labels.shape, generator=draws) < settings.dropout, -1)
        given, ramp = (potential, data, condition), (step + 1) / settings.steps
        if settings.time_score:
            weight = settings.time_score * ramp
            loss = stein_and_time_score(*given, weight=weight, generator=draws, angles=settings.angles)
        else:
            loss = stein(*given, generator=draws, angles=settings.angles)
        if settings.contrast and classes:
            loss = loss + settings.contrast * ramp * contrast(
                potential, data, labels, group=0, shares=torch.full((settings.classes,), 1 / settings.classes),
                generator=draws, angles=settings.angles,
            )  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(averaged, [weight.detach() for weight in weights], step + 1, exponent)
    return average


def compare(potential: Potential, mixture: Mixture, t: float, n: int = 8192) -> Accuracy:
    """The learned log-density against the exact one at n points of ρ̄(·, t)."""
    homotopy = potential.homotopy
    x, times = draw(mixture, homotopy, t, n, seed=1)
    mean, std = homotopy.mean(times), homotopy.std(times)
    with torch.no_grad():
        log_density, score = potential.log_density(x.float(), t).double(), potential.score(x.float(), t).double()
    error = log_density - mixture.log_density(x, mean, std)
    exact_score = mixture.score(x, mean, std)
    correlation = torch.corrcoef(torch.stack([score.flatten(), exact_score.flatten()]))[0, 1]
    return Accuracy(t, float(error.std()), float(error.square().mean().sqrt()), float(correlation))


def compare_classes(potential: Potential, mixture: Mixture, classes: int, t: float, n: int = 8192) -> dict[str, float]:
    """The learned log-ratio of the first two classes minus the exact one at n points of each: mean and RMS in nats.

    Far from the other class the exact ratio is tens or hundreds of nats, and no sample of that class says how many. So
    the root mean square is also given over the points at which a ratio of at most `UNDECIDED` nats decides.
    """
    homotopy, size = potential.homotopy, len(mixture.weights) // classes
    parts = [mixture.part(slice(size * i, size * (i + 1))) for i in range(2)]
    x = torch.cat([draw(part, homotopy, t, n, seed=i)[0] for i, part in enumerate(parts)])
    times = torch.full((len(x),), t, dtype=torch.float64)
    mean, std = homotopy.mean(times), homotopy.std(times)
    with torch.no_grad():
        learned = [potential.log_density(x.float(), t, torch.full((len(x), 1), index)).double() for index in range(2)]
    exact = [part.log_density(x, mean, std) for part in parts]
    ratio = exact[0] - exact[1]
    error = learned[0] - learned[1] - ratio
    undecided = ratio.abs() <= UNDECIDED
    return {
        "t": t, "mean": float(error.mean()), "rms": float(error.square().mean().sqrt()),
        "undecided": float(undecided.double().mean()), "rms_undecided": float(error[undecided].square().mean().sqrt()),
        "largest": float(ratio.abs().max()), "right": float(((learned[0] > learned[1]) == (ratio > 0)).double().mean()),
    }  # fmt: skip


def main() -> None:
    from record import record, show  # beside this file, which the tests load by its path

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--time-score", type=float, default=0.0, help="weight of the time score")
    parser.add_argument("--contrast", type=float, default=0.0, help="weight of the contrast of classes")
    parser.add_argument("--classes", type=int, default=0, help="0 or a divisor of 8")
    parser.add_argument("--uniform", type=float, default=0.0, help="share of the angles that are uniform")
    parser.add_argument("--name", default="mixture2d", help="of the file of results")
    parser.add_argument("--threads", type=int, default=1, help="the network is too small to gain from more")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    mixture, homotopy = ring(std=1.0), OT()
    runs: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        settings = Settings(
            steps=arguments.steps, batch=arguments.batch, time_score=arguments.time_score,
            contrast=arguments.contrast, classes=arguments.classes, seed=seed,
            angles=replace(DEFAULT_ANGLES, uniform=arguments.uniform),
        )  # fmt: skip
        began = time.perf_counter()
        potential = train(mixture, homotopy, settings)
        seconds = time.perf_counter() - began
        accuracies = [asdict(compare(potential, mixture, t)) for t in TIMES]
        ratios = [compare_classes(potential, mixture, settings.classes, t) for t in TIMES if settings.classes]
        runs.append({"settings": asdict(settings), "seconds": seconds, "accuracy": accuracies, "log_ratios": ratios})
    rows: list[list[object]] = [
        [run["settings"]["seed"], f"{run['seconds']:.0f}", row["t"], f"{row['log_density_error']:.4f}",
         f"{row['log_density_rms']:.4f}", f"{row['score_correlation']:.5f}"]
        for run in runs
        for row in run["accuracy"]
    ]  # fmt: skip
    show(["seed", "seconds", "t", "std of log-density error", "RMS", "score correlation"], rows)
    if arguments.classes:
        rows = [
            [run["settings"]["seed"], row["t"], f"{row['mean']:+.3f}", f"{row['rms']:.3f}",
             f"{row['rms_undecided']:.3f}", f"{row['undecided']:.1%}", f"{row['largest']:.0f}", f"{row['right']:.2%}"]
            for run in runs
            for row in run["log_ratios"]
        ]  # fmt: skip
        headings = ["seed", "t", "log-ratio of classes, mean error", "RMS", "RMS of the undecided", "share of points"]
        show([*headings, "largest ratio, nats", "same sign"], rows)
    mixture_words = "8 Gaussians on a circle, standard deviation 1/8 of its radius; unit variance in each dimension"
    record(arguments.name, {"mixture": mixture_words, "schedule": homotopy.to_dict(), "runs": runs})


if __name__ == "__main__":
    main()
