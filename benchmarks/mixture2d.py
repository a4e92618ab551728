"""The accuracy of a learned log-density of a mixture of eight Gaussians in the plane, which is known in closed form.

    python benchmarks/mixture2d.py

Trains an MLP on samples of the mixture by `stein` and compares the learned log ρ̄(·, t) with the exact one, at points
of ρ̄(·, t). The figure is the standard deviation of the difference, since the loss leaves a constant free at every t.
Prints a table and writes benchmarks/results/cpu/mixture2d.json.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from problems import Mixture, draw, ring  # noqa: E402

from vpfb_core import networks  # noqa: E402
from vpfb_core.methods.vpfb.homotopy import OT, Homotopy  # noqa: E402
from vpfb_core.methods.vpfb.objectives import stein  # noqa: E402
from vpfb_core.methods.vpfb.path import DEFAULT_ANGLES, AngleDistribution  # noqa: E402
from vpfb_core.methods.vpfb.potential import Potential  # noqa: E402
from vpfb_core.training import ema  # noqa: E402

TIMES = (0.3, 0.5, 0.7, 0.9, 0.95)


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
    seed: int = 0


@dataclass(frozen=True)
class Accuracy:
    """The error of a learned potential at time t."""

    t: float
    log_density_error: float  # standard deviation of (learned − exact) log ρ̄, nats
    score_correlation: float


def train(mixture: Mixture, homotopy: Homotopy, settings: Settings = Settings()) -> Potential:
    """A potential with averaged weights, trained on fresh samples of the mixture: warm-up, then a cosine to 0."""
    draws = torch.Generator().manual_seed(settings.seed)
    description = {"name": "mlp", "dim": mixture.dimension, "width": settings.width, "depth": settings.depth}
    potential = Potential(networks.build(description, settings.seed), homotopy, mixture.std)
    average = copy.deepcopy(potential).requires_grad_(False)
    weights, averaged = [list(module.parameters()) for module in (potential, average)]
    optimizer = torch.optim.Adam(weights, lr=settings.lr, betas=(0.9, 0.99), fused=True)
    exponent = ema.power_exponent(settings.ema)
    for step in range(settings.steps):
        warm = min(1.0, (step + 1) / settings.warmup)
        optimizer.param_groups[0]["lr"] = settings.lr * warm * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        data = mixture.sample(settings.batch, draws).float()
        loss = stein(potential, data, generator=draws, angles=settings.angles)
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
    error = (log_density - mixture.log_density(x, mean, std)).std()
    exact_score = mixture.score(x, mean, std)
    correlation = torch.corrcoef(torch.stack([score.flatten(), exact_score.flatten()]))[0, 1]
    return Accuracy(t, float(error), float(correlation))


def main() -> None:
    from record import record, show  # beside this file, which the tests load by its path

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="the network is too small to gain from more")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    mixture, homotopy, runs = ring(std=1.0), OT(), []
    for seed in range(arguments.seeds):
        settings = Settings(steps=arguments.steps, seed=seed)
        began = time.perf_counter()
        potential = train(mixture, homotopy, settings)
        seconds = time.perf_counter() - began
        accuracies = [asdict(compare(potential, mixture, t)) for t in TIMES]
        runs.append({"settings": asdict(settings), "seconds": seconds, "accuracy": accuracies})
    rows: list[list[object]] = [
        [run["settings"]["seed"], f"{run['seconds']:.0f}", row["t"], f"{row['log_density_error']:.4f}",
         f"{row['score_correlation']:.5f}"]
        for run in runs
        for row in run["accuracy"]
    ]  # fmt: skip
    show(["seed", "seconds", "t", "std of log-density error", "score correlation"], rows)
    mixture_words = "8 Gaussians on a circle, standard deviation 1/8 of its radius; unit variance in each dimension"
    record("mixture2d", {"mixture": mixture_words, "schedule": homotopy.to_dict(), "runs": runs})


if __name__ == "__main__":
    main()
