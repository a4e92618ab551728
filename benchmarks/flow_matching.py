"""Held-out residual a step, and time a step: the potential beside plain flow matching with the same U-Net.

    python benchmarks/flow_matching.py [--data digits] [--steps 400]

Both are trained by the same loop on the same batches, angles and noise, with the same optimiser and average; the
velocity network answers du/dφ itself, without being the gradient of anything. The first steps of the two alternate, so
that the ratio of their times is taken side by side.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from record import record, show
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.data.split import split
from vpfb_core.model import Statistics
from vpfb_core.potential import ArcField, Potential
from vpfb_core.training import prepare
from vpfb_core.training.held_out import HeldOut
from vpfb_core.training.trainer import Trainer

TIMED_STEPS = 30


class VelocityNetwork(Potential):
    """Plain flow matching: the network is the velocity on the arc, and there is no energy."""

    def arc(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> ArcField:
        return ArcField(u.new_zeros(len(u)), self._run_network(u, angle, condition))

    forward = arc


class FlowMatching(Trainer):
    """The same training of a velocity network."""

    def _potential(self, network: dict[str, object]) -> Potential:
        ours = super()._potential(network)
        return VelocityNetwork(networks.build(network, self.config.seed), ours.homotopy, ours.data_std)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    plan = prepare(vpfb.TrainConfig(data=arguments.data, steps=arguments.steps))
    images, config = plan.images, plan.config
    train_rows, val_rows = split(images, config.val_fraction, config.seed)
    moments = Statistics.of(images.images)
    methods = {
        name: kind(config, plan.network, images.images[train_rows], None, moments, plan.device)
        for name, kind in (("potential (stein)", Trainer), ("flow matching", FlowMatching))
    }
    held_out = HeldOut.of(plan, val_rows, methods["flow matching"], moments)

    checks = [step for step in (50, 100, 200, 300, 400, 600, 800, 1200, 1600, 3200) if step <= arguments.steps]
    residuals: dict[str, dict[int, float]] = {name: {} for name in methods}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for step in range(arguments.steps):
        for name, trainer in methods.items():
            began = time.perf_counter()
            trainer.step(step, step / arguments.steps)
            if plan.device.type == "cuda":
                torch.cuda.synchronize()
            if 3 <= step < TIMED_STEPS:
                seconds[name].append(time.perf_counter() - began)
            if step + 1 in checks:
                residuals[name][step + 1] = held_out.residual(trainer.average)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["potential (stein)"] / medians["flow matching"]

    show(["steps", *methods], [[step, *(f"{residuals[name][step]:.4f}" for name in methods)] for step in checks])
    times = ", ".join(f"{name} {1000 * median:.0f} ms" for name, median in medians.items())
    print(f"a step: {times}; ratio {ratio:.2f}; {plan.parameters:,} parameters, {2 * (config.batch_size or 0)} points")
    figures = {
        "data": arguments.data, "parameters": plan.parameters, "points_a_step": 2 * (config.batch_size or 0),
        "residual": residuals, "seconds_a_step": medians, "step_ratio": ratio,
    }  # fmt: skip
    record(f"flow-matching-{arguments.data}", figures, plan.device)


if __name__ == "__main__":
    main()
