"""How exact are differences of energies in float32, with and without TF32, at each noise level?

    python benchmarks/precision.py [-m digits] [--device cuda]

Neighbouring images are a point of the noise level and the proposal of a step of MALA from it, whose difference of
energies decides on acceptance. The same energies in float64 on the CPU are the reference. A level carries a chain if
the differences in float32 are right to 0.05 nats (root mean square). The exit code is 1 if this is not so at a level at
which chains run.

On CUDA, TF32 is real. The energies are computed with torch's own settings, which allow it to convolutions; after a
program has allowed it everywhere; and once more as if vpfb did not switch it off for energies. On a CPU, TF32 is
emulated: inputs and weights of every convolution and matrix product are rounded to 10 bits of the mantissa, as cuDNN
does by default.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from record import parsed, record, show, training
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.dynamics.ladder import Levels
from vpfb_core.machine import precision
from vpfb_core.methods.fields import Field
from vpfb_core.methods.vpfb.chain_levels import TOLERANCE, differences, neighbours
from vpfb_core.model.runs import builtin_models

LEVELS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005)
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


@contextmanager
def tf32_allowed() -> Iterator[None]:
    """Inside this context, the process allows TF32 to everything, as a program that trains quickly does."""
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def unprotected() -> Iterator[None]:
    """Inside this context, the process allows TF32 to everything, and energies use it."""
    with tf32_allowed(), patch.object(precision, "TF32_DEVICES", ()):
        yield


Ways = dict[str, Callable[[], AbstractContextManager[object]]]  # to compute energies, by name

PROTECTED: dict[str, Ways] = {  # by the type of the device; these must be exact
    "cuda": {"torch's settings": nullcontext, "TF32 allowed": tf32_allowed},
    "cpu": {"float32": nullcontext},
}
UNPROTECTED: dict[str, Ways] = {"cuda": {"TF32": unprotected}, "cpu": {"TF32": EmulatedTF32}}


def levels_of(name: str, field: Field) -> Levels:
    """The levels at which a field has an energy."""
    if field.levels is None:
        raise SystemExit(f"{name} has no energy")
    return field.levels


def measure(name: str, model: Model, n: int) -> list[dict[str, Any]]:
    """The root mean square error of differences at each level, by the way in which energies are computed."""
    field = model.field
    data = model.standardise(model.sample(n, seed=0).images)
    exact = copy.deepcopy(field).cpu().double()
    ways, levels = PROTECTED[model.device.type] | UNPROTECTED[model.device.type], levels_of(name, field)
    rows = []
    for level in (level for level in LEVELS if level >= levels.lowest):
        x, moved = neighbours(field, data, level)
        right = differences(exact, level, x.cpu().double(), moved.cpu().double())
        errors = {}
        for way, context in ways.items():
            with context():
                errors[way] = float((differences(field, level, x, moved) - right).square().mean().sqrt())
        carries = all(errors[way] < TOLERANCE for way in PROTECTED[model.device.type])  # not if one is NaN
        rows.append(
            {"model": name, "level": level, "spread": float(right.std()), **errors, "carries a chain": carries,
             "chains run": levels.allow_chains(level)}
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", action="append", help="by default every built-in model")
    parser.add_argument("-n", type=int, default=64, help="images per model")
    parser.add_argument("--name", default="precision", help="of the file of results")
    arguments = parsed(parser)
    names = arguments.model or sorted(builtin_models())
    models = {name: vpfb.load(name, device=arguments.device) for name in names}
    device = models[names[0]].device
    rows = [row for name, model in models.items() for row in measure(name, model, arguments.n)]
    ways = [*PROTECTED[device.type], *UNPROTECTED[device.type]]
    show(
        ["model", "level", "spread, nats", *(f"error, {way}" for way in ways), "carries a chain", "chains run"],
        [
            [row["model"], f"{row['level']:g}", f"{row['spread']:.2f}", *(f"{row[way]:.4f}" for way in ways),
             *("yes" if row[what] else "no" for what in ("carries a chain", "chains run"))]
            for row in rows
        ],
    )  # fmt: skip
    about = {name: training(model) for name, model in models.items()}
    record(arguments.name, {"results": rows, "tolerance": TOLERANCE, "models": about}, device)
    if wrong := [row for row in rows if row["chains run"] and not row["carries a chain"]]:
        places = ", ".join(f"{row['model']} at {row['level']:g}" for row in wrong)
        raise SystemExit(f"energies are not exact enough for the chains of {places}")


if __name__ == "__main__":
    main()
