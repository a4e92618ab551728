"""Samples of two models that take turns along the flow: at which noise levels one of them is worse.

    VPFB_DATA=data python benchmarks/equal_time.py --minutes 8 --seed 1 --models models
    VPFB_DATA=data python benchmarks/exchanged_levels.py models/ONE.safetensors models/OTHER.safetensors --data mnist

The first model gives the velocity above a noise level and the second one below it, and the other way round. Levels are
given as ℓ = log tan φ, which is 0 where data and noise are equally strong and falls towards noise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

import torch
from record import record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.methods.fields import Transports
from vpfb_core.uses import evaluation

Velocity = Callable[..., Tensor]


def exchanged(early: Velocity, late: Velocity, at: float) -> Velocity:
    """The velocity of `early` below ℓ = `at`, where there is more noise, and that of `late` from there on."""

    def velocity(x: Tensor, s: Tensor | float, *rest: object, **options: object) -> Tensor:
        angle = float(s.flatten()[0]) if isinstance(s, Tensor) else s  # all points of a fixed grid are at one angle
        return (late if math.tan(angle) >= math.exp(at) else early)(x, s, *rest, **options)

    return velocity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs=2)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--at", type=float, nargs="+", default=[0.0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--name", default="exchanged-levels")
    arguments = parser.parse_args()
    one, other = (vpfb.load(path, device="cpu") for path in arguments.models)
    assert isinstance(one.field, Transports) and isinstance(other.field, Transports)
    plan = evaluation.prepare(one, arguments.data, ("frechet",), n=arguments.samples, extractor="classifier")
    ours, theirs = one.field.velocity, other.field.velocity
    ways: dict[str, Velocity] = {"the first": ours, "the second": theirs}
    for at in arguments.at:
        ways[f"the first, then the second from ℓ = {at:g} on"] = exchanged(ours, theirs, at)
        ways[f"the second, then the first from ℓ = {at:g} on"] = exchanged(theirs, ours, at)
    found = {}
    for name, velocity in ways.items():
        one.field.velocity = velocity  # type: ignore[method-assign]
        found[name] = evaluation.evaluate(one, plan).metrics["frechet"].value
    show(["velocity of", "Fréchet"], [[name, f"{value:.2f}"] for name, value in found.items()])
    record(arguments.name, {"frechet": found, "samples": arguments.samples, "models": [training(one), training(other)]})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
