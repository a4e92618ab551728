"""The duration of a training step as a multiple of plain flow matching with the same network and batch.

    python benchmarks/train_step.py [--preset small] [--size 28] [--channels 1] [--precisions fp32 bf16]
        [--layouts contiguous "channels last"] [--compile]

The pictures are random, since the duration does not depend on them. All variants alternate in one run, and each figure
is the least of several. `--compile` adds a compiled variant of each, which takes minutes to compile.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import torch
from record import parsed, record, show
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import methods, networks
from vpfb_core.data import ImageSet
from vpfb_core.machine.devices import keeping_freed_memory, resolve_device
from vpfb_core.methods.fields import Transports
from vpfb_core.methods.step import Batch, DataShape, Loss, Moment
from vpfb_core.training import presets

KINDS: dict[str, tuple[str, dict[str, object]]] = {  # name → method and its settings
    "stein": ("vpfb", {}),
    "official": ("vpfb", {"objective": "official"}),
    "flow matching": ("flow-matching", {}),
}

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


class Variant:
    """One way to compute the step."""

    def __init__(
        self, network: dict[str, object], data: Tensor, precision: str, layout: str, *, compiled: bool
    ) -> None:
        self.compiled = compiled  # but not `official`, which asks for more than the gradient
        self.name = ", ".join([precision, layout, *["compiled"] * compiled])
        self.data, self.seconds = data, dict.fromkeys([*KINDS, "gradient", "forward"], float("inf"))
        self.moment = Moment(0, device=data.device)
        draws = torch.Generator(device=data.device).manual_seed(0)
        self.methods = {name: methods.build(*kind) for name, kind in KINDS.items()}
        self.fields = {}
        for name, method in self.methods.items():
            field = method.field(networks.build(network), DataShape(tuple(data.shape[1:])))
            field.to(data.device, memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
            field.autocast_dtype = torch.bfloat16 if precision == "bf16" else None
            for parameter in field.parameters():  # layers that start at zero would be too easy
                torch.nn.init.normal_(parameter, std=0.05, generator=draws)
            if compiled and method.compilable:
                field.compile()
            self.fields[name] = field

    def measure(self) -> None:
        """Every figure once; the least is kept."""
        x, s = torch.cat([self.data, self.data]), torch.ones(2 * len(self.data), device=self.data.device)
        for name, field in self.fields.items():
            # The authors draw one noise per image: twice the images make the same number of points.
            data = x if name == "official" else self.data
            (loss,) = self.methods[name].losses(field, Batch(data, None, 0, len(data)), self.moment)
            self._time(name, _differentiate, loss, len(data))
            field.zero_grad()
        with torch.no_grad():
            ours = self.fields["stein"].requires_grad_(False)
            assert isinstance(ours, Transports)
            self._time("gradient", ours.velocity, x, s)
            self._time("forward", ours.network, x, s)
            ours.requires_grad_(True)

    def _time(self, name: str, work: Callable[..., object], *arguments: object) -> None:
        began = time.perf_counter()
        work(*arguments)
        if self.data.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[name] = min(self.seconds[name], time.perf_counter() - began)


def _differentiate(loss: Loss, count: int) -> None:
    loss.value(slice(0, count)).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small", choices=list(presets.PRESETS))
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--channels", type=int, default=1, choices=[1, 3])
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16"])
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--name", help="name of the file of results")
    arguments = parsed(parser)
    device = resolve_device(arguments.device)
    shape = (arguments.channels, arguments.size, arguments.size)
    images = ImageSet("random", torch.zeros(1, *shape, dtype=torch.uint8))
    asked = vpfb.TrainConfig(data="random", preset=arguments.preset, batch_size=arguments.batch_size)
    config = presets.resolve(asked, images, device)
    network = presets.network_description(config, images)
    batch_size = config.optimiser.batch_size or 1  # resolved
    data = torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0)).to(device)

    variants = [
        Variant(network, data, precision, layout, compiled=compiled)
        for precision, layout, compiled in itertools.product(
            arguments.precisions, arguments.layouts, [False, True][: 1 + arguments.compile]
        )
    ]
    with keeping_freed_memory(device):
        for _ in range(arguments.repeats):
            for variant in variants:
                variant.measure()

    rows = []
    for variant in variants:
        seconds, base = variant.seconds, variant.seconds["flow matching"]
        official = "" if variant.compiled else f"{seconds['official'] / base:.2f}"
        stein, gradient = f"{seconds['stein'] / base:.2f}", f"{seconds['gradient'] / seconds['forward']:.2f}"
        rows.append([variant.name, f"{1000 * seconds['stein']:.0f}", stein, official, gradient])
    show(["", "step, ms", "stein / flow matching", "official / flow matching", "gradient / forward"], rows)
    parameters = sum(parameter.numel() for parameter in variants[0].fields["stein"].parameters())
    figures = {
        "preset": arguments.preset, "shape": shape, "points_per_step": 2 * len(data), "parameters": parameters,
        "seconds": {variant.name: variant.seconds for variant in variants},
    }  # fmt: skip
    record(arguments.name or f"train-step-{arguments.preset}-{arguments.size}", figures, device)


if __name__ == "__main__":
    main()
