"""Seconds and steps to a given held-out residual: `stein`, `ritz`, the authors' `official` loss, and flow matching.

    python benchmarks/race.py [--data digits] [--seconds 240]

All train the same U-Net by the same loop on the same batches. Whichever has had the least time takes the next step,
so that they meet the same conditions; only steps are timed. The residual is the held-out ‖∇N − y‖²/d of METHOD: for the
velocity network that of its answer, for the authors' potential that of its gradient. `official` runs with the authors'
learning rate, 10⁻⁴, and with ours.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import torch
from record import parsed, record, show
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.config import parse_setting
from vpfb_core.data.batches import Batches
from vpfb_core.methods.vpfb.potential import ArcField, Potential
from vpfb_core.training import prepare
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.trainer import Trainer

AUTHORS_RATE = 1e-4
CHECKS = 40  # a method


class VelocityNetwork(Potential):
    """Plain flow matching: the network is the velocity on the arc, and there is no energy."""

    def arc(self, u: Tensor, angle: Tensor, condition: Tensor | None = None) -> ArcField:
        return ArcField(u.new_zeros(len(u)), self._run_network(u, angle, condition))

    forward = arc


class FlowMatching(Trainer):
    """The same training of a velocity network."""

    def _potential(self, network: dict[str, object]) -> Potential:
        ours = super()._potential(network)
        plain = VelocityNetwork(networks.build(network, self.config.seed), ours.homotopy, ours.data_std)
        plain.autocast_dtype = ours.autocast_dtype
        return plain


@dataclass
class Runner:
    """One of the four on its way: (seconds, steps, residual) at every check."""

    trainer: Trainer
    batches: Batches
    seconds: float = 0.0
    steps: int = 0
    path: list[tuple[float, int, float]] = field(default_factory=list)

    def step(self, budget: float) -> None:
        began = time.perf_counter()
        self.trainer.step(self.batches[self.steps], self.steps, min(1.0, self.seconds / budget))
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - began
        self.steps += 1

    def first_below(self, residual: float) -> tuple[float, int] | None:
        return next(((seconds, steps) for seconds, steps, found in self.path if found <= residual), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--seconds", type=float, default=240.0, help="of steps, for each of them")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the run")
    arguments = parsed(parser)
    settings = dict(parse_setting(text) for text in arguments.set)
    plan = prepare(
        vpfb.TrainConfig(
            data=arguments.data, data_root=arguments.data_root, steps=10**9, device=arguments.device, **settings
        )
    )
    config, inputs = plan.config, Inputs.of(plan)
    trainers = {
        "stein": inputs.trainer(),
        "ritz": inputs.trainer(objective="ritz"),
        "official": inputs.trainer(objective="official", lr=AUTHORS_RATE),
        "official, our rate": inputs.trainer(objective="official"),
        "flow matching": inputs.trainer(FlowMatching),
    }
    runners = {name: Runner(trainer, inputs.batches) for name, trainer in trainers.items()}
    held_out = inputs.held_out(trainers["stein"])
    waiting = list(runners.values())
    while waiting:
        runner_now = min(waiting, key=lambda one: one.seconds)
        due = (len(runner_now.path) + 1) * arguments.seconds / CHECKS
        runner_now.step(arguments.seconds)
        if runner_now.seconds >= due:
            residual = held_out.residual(runner_now.trainer.average)
            runner_now.path.append((runner_now.seconds, runner_now.steps, residual))
        if runner_now.seconds >= arguments.seconds:
            waiting.remove(runner_now)

    best = min(residual for _, _, residual in runners["stein"].path)
    targets = [round(best * factor, 3) for factor in (2.0, 1.5, 1.25, 1.1, 1.05)]
    reached = {name: {target: one.first_below(target) for target in targets} for name, one in runners.items()}

    def cell(found: tuple[float, int] | None) -> str:
        return "not reached" if found is None else f"{found[0]:.0f} s, {found[1]} steps"

    show(["residual", *runners], [[target, *(cell(reached[name][target]) for name in runners)] for target in targets])
    ends = {name: one.path[-1] for name, one in runners.items()}
    print(", ".join(f"{name}: {residual:.4f} after {steps} steps" for name, (_, steps, residual) in ends.items()))
    per_step = {name: one.seconds / one.steps for name, one in runners.items()}
    print("a step, as a multiple of flow matching: ", end="")
    print(", ".join(f"{name} {seconds / per_step['flow matching']:.2f}" for name, seconds in per_step.items()))
    figures = {
        "data": arguments.data,
        "parameters": plan.parameters,
        "batch_size": config.batch_size,
        "lr": config.lr,
        "path": {name: one.path for name, one in runners.items()},
        "reached": reached,
        "seconds_a_step": per_step,
    }
    record(f"race-{arguments.data}", figures, plan.device)


if __name__ == "__main__":
    main()
