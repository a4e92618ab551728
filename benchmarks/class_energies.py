"""Do the energies know the classes? Of two pictures of two classes of a group, which is which.

    vpfb train --data shapes --conditional --size 16 --time-budget 15m --out runs/with
    vpfb train --data shapes --conditional --size 16 --time-budget 15m --set contrast=0 --out runs/without
    python benchmarks/class_energies.py -m runs/without -m runs/with [-n 512] [--seed 99]

Pictures of `shapes` that no run has seen are put on the arc at one angle and paired. A pair is right if the energies of
its two classes, each with no class of the other groups, are lower for the pictures as they are than for the pictures
exchanged; normalisers cancel. Where an exact density would be right nearly always, as near the data, this is the share
of the Metropolis tests between classes that an energy decides as it should. Beside it the cross-entropy in nats: 0.69
is a guess, more than that is worse than none.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from record import record, show
from torch.nn.functional import softplus

import vpfb_core as vpfb
from vpfb_core.data.sets import shapes
from vpfb_core.machine import noise
from vpfb_core.methods.vpfb.objectives import arc_point
from vpfb_core.model.trained import Model

LEVELS = (-1.5, -0.5, 0.5, 1.5, 2.5)  # ℓ = log tan φ
BATCH = 256


def paired(model: Model, level: float, n: int, seed: int) -> dict[str, tuple[float, float]]:
    """Group → (share of pairs that are right, cross-entropy in nats) at log tan φ = level."""
    drawn = shapes.draw(n, model.shape[-1], seed)
    labels = drawn.labels
    assert labels is not None
    angle = torch.full((n,), math.atan(math.exp(level)))
    z = model.statistics.standardise(drawn.images)
    u, _ = arc_point(z, angle, noise.normal(model.shape, seed, range(n)))

    def energy(group: int, classes: torch.Tensor) -> torch.Tensor:
        condition = torch.full_like(labels, -1)
        condition[:, group] = classes
        with torch.no_grad():
            values = [
                model.potential.potential(*(part.to(model.device) for part in parts)).cpu()
                for parts in zip(u.split(BATCH), angle.split(BATCH), condition.split(BATCH), strict=True)
            ]
        return -math.exp(level) * torch.cat(values)

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
    parser.add_argument("-m", "--model", action="append", required=True, help="trained on shapes with --conditional")
    parser.add_argument("-n", type=int, default=512, help="pictures, an even number")
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--name", default="class-energies", help="of the file of results")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    figures: list[dict[str, Any]] = []
    for name in arguments.model:
        model = vpfb.load(name, device=arguments.device)
        levels = {level: paired(model, level, arguments.n, arguments.seed) for level in LEVELS}
        config = model.about["config"]
        about = {key: config.get(key) for key in ("contrast", "time_budget", "threads")} | {"step": model.about["step"]}
        figures.append({"model": name, "trained": about, "levels": levels})
        show(
            [name, *(group.name for group in model.groups)],
            [
                [f"log tan φ = {level:g}", *(f"{share:.0%} ({nats:.2f})" for share, nats in row.values())]
                for level, row in levels.items()
            ],
        )
    record(arguments.name, figures, model.device)


if __name__ == "__main__":
    main()
