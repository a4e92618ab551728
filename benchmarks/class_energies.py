"""How well energies distinguish classes: the assignment of two pictures to two classes of a group.

    vpfb train --data shapes --conditional --size 16 --time-budget 15m --out runs/with
    vpfb train --data shapes --conditional --size 16 --time-budget 15m --set contrast=0 --out runs/without
    python benchmarks/class_energies.py -m runs/without -m runs/with [-n 512] [--seed 99]

New pictures of `shapes` get noise of one level and are paired. A pair is right if the energies of its two classes, each
without a class of the other groups, are lower for the pictures as they are than for the exchanged pictures. Normalisers
cancel. Near the data, an exact density would be right nearly always. There the figure is the share of the Metropolis
tests between classes that the energy decides correctly. The second figure is the cross-entropy in nats. A guess has
0.69, and a larger value is worse than a guess.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from record import record, settings, show
from torch.nn.functional import softplus

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data.sets import shapes
from vpfb_core.machine import noise

LOG_RATIOS = (-1.5, -0.5, 0.5, 1.5, 2.5)  # of data to noise, in logarithms: log tan φ
BATCH = 256


def paired(model: Model, log_ratio: float, n: int, seed: int) -> dict[str, tuple[float, float]]:
    """The share of pairs that are right, and the cross-entropy in nats, by group, at a ratio of data to noise."""
    drawn = shapes.draw(n, model.shape[-1], seed)
    labels = drawn.labels
    assert labels is not None
    level = math.exp(-log_ratio)
    epsilon = noise.normal(model.shape, seed, range(n)).to(model.device)
    x = model.field.at_level(model.standardise(drawn.images), level, epsilon)

    def energy(group: int, classes: torch.Tensor) -> torch.Tensor:
        condition = torch.full_like(labels, -1)
        condition[:, group] = classes
        parts = zip(x.split(BATCH), condition.to(model.device).split(BATCH), strict=True)
        return torch.cat([model.field.energy(some, level, classes).cpu() for some, classes in parts])

    found = {}
    for place, group in enumerate(model.groups):
        ours = labels[:, place]
        theirs = ours.roll(n // 2)
        excess = energy(place, theirs) - energy(place, ours)
        odds = (excess[: n // 2] + excess[n // 2 :])[(ours != theirs)[: n // 2]]
        found[group.name] = (float((odds > 0).float().mean()), float(softplus(-odds).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "-m", "--model", action="append", required=True, help="a model trained on shapes with --conditional"
    )
    parser.add_argument("-n", type=int, default=512, help="number of pictures, even")
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--name", default="class-energies", help="name of the file of results")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    figures: list[dict[str, Any]] = []
    for name in arguments.model:
        model = vpfb.load(name, device=arguments.device)
        levels = {ratio: paired(model, ratio, arguments.n, arguments.seed) for ratio in LOG_RATIOS}
        kept, names = settings(model), ("method.contrast", "optimiser.time_budget", "machine.threads")
        about = {name.partition(".")[2]: kept.get(name) for name in names} | {"step": model.about["step"]}
        figures.append({"model": name, "trained": about, "levels": levels})
        show(
            [name, *(group.name for group in model.groups)],
            [
                [f"log tan φ = {ratio:g}", *(f"{share:.0%} ({nats:.2f})" for share, nats in row.values())]
                for ratio, row in levels.items()
            ],
        )
    record(arguments.name, figures, model.device)


if __name__ == "__main__":
    main()
