"""Seconds and steps to a given held-out residual: `stein`, `ritz`, the authors' `official` loss, and flow matching.

    python benchmarks/race.py [--data digits] [--seconds 240]

All methods train the same U-Net by the same loop on the same batches. The method with the least time so far takes the
next step, so that all run under the same conditions. Only steps are timed. The residual is the held-out ‖v − y‖²/d,
where v is the velocity: the gradient of a potential, or the output of the network of flow matching. `official` runs
with the authors' learning rate, 10⁻⁴, and with ours.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import torch
from record import parsed, record, show

import vpfb_core as vpfb
from vpfb_core.config import parse_setting
from vpfb_core.data.batches import Batches
from vpfb_core.model.trained import TrainedModel
from vpfb_core.training import prepare
from vpfb_core.training.inputs import Inputs
from vpfb_core.training.trainer import Trainer

AUTHORS_RATE = 1e-4
CHECKS = 40  # per method


@dataclass
class Runner:
    """One of the five trainings, with (seconds, steps, residual) at every check."""

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
    parser.add_argument("--seconds", type=float, default=240.0, help="seconds of steps per training")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the run")
    arguments = parsed(parser)
    settings = dict(parse_setting(text) for text in arguments.set)
    plan = prepare(
        vpfb.TrainConfig(
            data=arguments.data, data_root=arguments.data_root, steps=10**9, device=arguments.device, **settings
        )
    )
    inputs = Inputs.of(plan)
    trainers = {
        "stein": inputs.trainer(),
        "ritz": inputs.trainer(objective="ritz"),
        "official": inputs.trainer(objective="official", lr=AUTHORS_RATE),
        "official, our rate": inputs.trainer(objective="official"),
        "flow matching": inputs.trainer(method="flow-matching"),
    }
    runners = {name: Runner(trainer, inputs.batches) for name, trainer in trainers.items()}
    checks = inputs.checks()

    def residual_of(trainer: Trainer) -> float:
        model = TrainedModel(trainer.method, trainer.average, plan.network, plan.statistics, plan.images.shape)
        return checks.validate(model)["val_residual"]

    waiting = list(runners.values())
    while waiting:
        runner_now = min(waiting, key=lambda one: one.seconds)
        due = (len(runner_now.path) + 1) * arguments.seconds / CHECKS
        runner_now.step(arguments.seconds)
        if runner_now.seconds >= due:
            residual = residual_of(runner_now.trainer)
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
        "batch_size": plan.config.optimiser.batch_size,
        "lr": plan.config.optimiser.lr,
        "path": {name: one.path for name, one in runners.items()},
        "reached": reached,
        "seconds_per_step": per_step,
    }
    record(f"race-{arguments.data}", figures, plan.device)


if __name__ == "__main__":
    main()
