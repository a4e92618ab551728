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

from record import parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.methods.fields import Transports
from vpfb_core.uses import evaluation

Velocity = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def exchanged(early: Transports, late: Transports, at: float) -> Velocity:
    """The velocity of `early` below ℓ = `at`, where there is more noise, and that of `late` from there on."""
    before, after, noise = early.velocity, late.velocity, math.exp(-at)

    def velocity(x: Tensor, s: Tensor, condition: Tensor | None = None) -> Tensor:
        level = early.level(float(s[0]))  # all points of a fixed grid are at one position
        return (after if level <= noise else before)(x, s, condition)

    return velocity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs=2)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--at", type=float, nargs="+", default=[0.0])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--name", default="exchanged-levels")
    arguments = parsed(parser)
    one, other = (vpfb.load(path, device=arguments.device) for path in arguments.models)
    ours, theirs = one.field, other.field
    assert isinstance(ours, Transports) and isinstance(theirs, Transports)
    plan = evaluation.prepare(one, arguments.data, ("frechet",), n=arguments.samples, extractor="classifier")
    ways: dict[str, Velocity] = {"the first": ours.velocity, "the second": theirs.velocity}
    for at in arguments.at:
        ways[f"the first, then the second from ℓ = {at:g} on"] = exchanged(ours, theirs, at)
        ways[f"the second, then the first from ℓ = {at:g} on"] = exchanged(theirs, ours, at)
    found = {}
    for name, velocity in ways.items():
        ours.velocity = velocity  # type: ignore[assignment, method-assign]
        found[name] = evaluation.evaluate(one, plan).metrics["frechet"].value
    show(["velocity of", "Fréchet"], [[name, f"{value:.2f}"] for name, value in found.items()])
    about = [training(one), training(other)]
    record(arguments.name, {"frechet": found, "samples": arguments.samples, "models": about}, one.device)


if __name__ == "__main__":
    main()
