"""How exact are differences of energies in float32, with and without TF32, at each noise level?

    python benchmarks/precision.py -m digits -m shapes

Neighbouring images are a point of the noise level and the proposal of a step of MALA from it, whose difference of
energies decides on acceptance. The energies in float64 are the reference. TF32 is emulated: inputs and weights of every
convolution and matrix product are rounded to 10 bits of the mantissa, as cuDNN does by default. A level carries a chain
if the differences in float32 are right to 0.05 nats (root mean square).
"""

from __future__ import annotations

import argparse
import copy
import math
from contextlib import nullcontext
from typing import Any

import torch
from record import parsed, record, show, training
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.machine.noise import normal

LEVELS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005)
TOLERANCE = 0.05  # nats
ATEN = torch.ops.aten
PRODUCTS = (
    ATEN.convolution.default, ATEN.convolution_backward.default, ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default,
)  # fmt: skip


def rounded(x: Any) -> Any:
    """A float32 tensor with 10 bits of the mantissa, rounded to nearest; anything else as it is."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class EmulatedTF32(TorchDispatchMode):
    """Convolutions and matrix products see inputs of 10 bits. Their sums are float32, as on the device."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*(map(rounded, args) if function in PRODUCTS else args), **(kwargs or {}))


def differences(model: Model, level: float, x: Tensor, moved: Tensor, condition: Tensor | None) -> Tensor:
    """E(moved) − E(x) at a level, (N,), float64."""
    before, after = (model.field.energy(points, level, condition).double() for points in (x, moved))
    return after - before


def neighbours(model: Model, data: Tensor, level: float, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """Points of a level and the proposals of MALA from them with a step of the usual size."""
    draws = normal(data.shape[1:], 0, range(2 * len(data)), "precision").to(data)
    x = model.field.at_level(data, level, draws[: len(data)])
    _, score = model.field.energy_and_score(x, level, condition)
    _, deviation = model.field.scales(level)
    eta = deviation**2 * data[0].numel() ** (-1 / 3)
    return x, x + eta * score + math.sqrt(2 * eta) * draws[len(data) :]


def measure(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    model = vpfb.load(name, device=arguments.device)
    data = model.sample(arguments.n, seed=0).images
    z = model.standardise(data)
    condition = None
    exact = copy.copy(model)
    exact.field = copy.deepcopy(model.field).double()
    assert model.field.levels is not None, f"{name} has no energy"
    rows = []
    for level in (level for level in LEVELS if level >= model.field.levels.lowest):
        x, moved = neighbours(model, z, level, condition)
        right = differences(exact, level, x.double(), moved.double(), condition)
        errors = {}
        for way, context in (("float32", nullcontext()), ("TF32", EmulatedTF32())):
            with context:
                errors[way] = float((differences(model, level, x, moved, condition) - right).square().mean().sqrt())
        rows.append({"model": name, "level": level, "spread": float(right.std()), **errors})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("-n", type=int, default=64, help="images per model")
    parser.add_argument("--name", default="precision", help="of the file of results")
    arguments = parsed(parser)
    rows = [row for name in arguments.model for row in measure(name, arguments)]
    show(
        ["model", "level", "spread, nats", "error in float32", "error in TF32", "carries a chain"],
        [
            [row["model"], f"{row['level']:g}", f"{row['spread']:.2f}", f"{row['float32']:.4f}", f"{row['TF32']:.4f}",
             "yes" if row["float32"] <= TOLERANCE else "no"]
            for row in rows
        ],
    )  # fmt: skip
    models = [vpfb.load(name, device=arguments.device) for name in arguments.model]
    about = {name: training(model) for name, model in zip(arguments.model, models, strict=True)}
    record(arguments.name, {"results": rows, "tolerance": TOLERANCE, "models": about}, models[0].device)


if __name__ == "__main__":
    main()
