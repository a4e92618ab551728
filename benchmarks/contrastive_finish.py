"""A contrastive finish of the energy of `vpfb` at one low noise level, beside further regression for the same time.

    python benchmarks/contrastive_finish.py

The built-in model of the digits is trained on for a while in two ways: with its regression alone, and with a
contrastive term as well, which lowers the energy of data with noise of one level and raises that of a pool of chains of
MALA. Half of the chains begin at data and half at samples. Each model is then measured with longer chains at this level
from other data and from samples: their energies and those of data, in nats, and the accuracy of a 1-nearest-neighbour
classifier that tells their ends from data with as much noise, which is 0.5 if it cannot. The time is processor time.
Writes benchmarks/results/cpu/contrastive-finish.json.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
from record import record, show
from scipy.stats import ks_2samp
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.dynamics.langevin import langevin
from vpfb_core.methods.path.arc import ArcPosition
from vpfb_core.methods.vpfb.objectives import stein
from vpfb_core.training import ema
from vpfb_core.uses.evaluation.neighbours import compare

LEVEL = 0.1
BATCH, POOL = 32, 128
CHAINS, CHAIN_STEPS = 100, 150
PARTS = 3  # of the chains that are measured; the first adapts its steps


def continued(model: Model, data: Tensor, seconds: float, weight: float, chain_steps: int, lr: float) -> Model:
    """The model after further training, with averaged weights."""
    model = copy.deepcopy(model)
    field: Any = model.field
    average = copy.deepcopy(field)
    field.train().requires_grad_(True)
    optimizer = torch.optim.Adam(field.parameters(), lr=lr, betas=(0.9, 0.99))
    draws, place = torch.Generator().manual_seed(0), ArcPosition.at_level(LEVEL)

    def noised(z: Tensor) -> Tensor:
        return field.at_level(z, LEVEL, torch.randn(z.shape, generator=draws))

    def energy(x: Tensor) -> Tensor:
        return place.energy(x, field.potential.potential(x, x.new_full((len(x),), place.angle), None))

    samples = model.standardise(model.sample(POOL // 2, seed=1).images) if weight else data[:0]
    pool = noised(torch.cat([data[torch.randperm(len(data), generator=draws)[: POOL // 2]], samples]))
    scale = torch.ones(len(pool))
    began, step = time.process_time(), 0
    exponent = ema.power_exponent(0.05)
    while time.process_time() - began < seconds:
        z = data[torch.randint(len(data), (BATCH,), generator=draws)]
        optimizer.zero_grad()
        loss = stein(field.potential, field.potential.data_std * z, None, generator=draws, angles=field.angles)
        if weight:
            rows = torch.randperm(len(pool), generator=draws)[:BATCH]
            field.eval()
            walk = langevin(
                lambda x: field.energy_and_score(x, LEVEL), pool[rows], field.chain_variance(LEVEL), steps=chain_steps,
                seed=step, stream="negatives", scale=scale[rows], adapt=True,
            )  # fmt: skip
            field.train()
            pool[rows], scale[rows] = walk.x, walk.step_scale
            of_data, of_negatives = energy(torch.cat([noised(z), walk.x])).chunk(2)
            loss = loss + weight * (of_data.mean() - of_negatives.mean()) / z[0].numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(field.parameters(), 1.0)
        optimizer.step()
        step += 1
        ema.update([*average.parameters()], [parameter.detach() for parameter in field.parameters()], step, exponent)
    print(f"{step} steps", flush=True)
    field.load_state_dict(average.state_dict())
    field.eval().requires_grad_(False)
    return model


def measured(model: Model, data: Tensor, unseen: Tensor) -> dict[str, Any]:
    """The energies of data and of the ends of chains, and how well both can be told apart."""
    field: Any = model.field
    draws = torch.Generator().manual_seed(1)

    def noised(z: Tensor) -> Tensor:
        return field.at_level(z, LEVEL, torch.randn(z.shape, generator=draws))

    starts = {"data": noised(data[:CHAINS]), "samples": noised(model.standardise(model.sample(CHAINS, seed=2).images))}
    real = noised(unseen)
    found: dict[str, Any] = {"energy of data": float(field.energy(real, LEVEL).mean())}
    ends = {}
    for name, x in starts.items():
        scale = torch.ones(len(x))
        for part in range(PARTS):
            walk = langevin(
                lambda x: field.energy_and_score(x, LEVEL), x, field.chain_variance(LEVEL), steps=CHAIN_STEPS // PARTS,
                seed=part, stream=f"chains from {name}", scale=scale, adapt=part == 0,
            )  # fmt: skip
            x, scale = walk.x, walk.step_scale
        ends[name] = walk.energy
        count = min(len(x), len(real))
        found[f"energy from {name}"] = float(walk.energy.mean())
        found[f"1-NN from {name}"] = compare(x[:count].flatten(1), real[:count].flatten(1)).accuracy
    found["p"] = float(ks_2samp(ends["data"].numpy(), ends["samples"].numpy()).pvalue)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--weight", type=float, default=0.1, help="of the contrast, in nats per dimension")
    parser.add_argument("--chain-steps", type=int, default=5)
    parser.add_argument("--lr", type=float, default=5e-4)
    arguments = parser.parse_args()
    model = vpfb.load("digits")
    images = vpfb.data.load("digits")
    order = torch.randperm(len(images.data), generator=torch.Generator().manual_seed(0))
    z = model.statistics.standardise(images.data[order], model.device)
    data, unseen = z[CHAINS:], z[:CHAINS]
    ways = {"as it is": None, "regression": 0.0, "regression and contrast": arguments.weight}
    rows = []
    for name, weight in ways.items():
        settings = (arguments.seconds, weight, arguments.chain_steps, arguments.lr)
        trained = model if weight is None else continued(model, data, *settings)
        rows.append({"training": name, **measured(trained, data, unseen)})
        print(rows[-1], flush=True)
    show(
        list(rows[0]), [[value if isinstance(value, str) else f"{value:.3f}" for value in row.values()] for row in rows]
    )
    record("contrastive-finish", {"settings": vars(arguments), "rows": rows})


if __name__ == "__main__":
    main()
