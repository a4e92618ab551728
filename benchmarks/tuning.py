"""The held-out residual of several settings after the same time of training, one line per trial.

    python benchmarks/tuning.py --data mnist --seconds 150 "batch_size=16" "batch_size=32 lr=8e-3" "widths=[32,64,64]"
    vpfb eval --fit-features --data mnist && python benchmarks/tuning.py --data mnist --samples 400 "angle_mean=0.5"

Every trial changes the given settings of the preset. It runs on one thread, and its clock is the CPU time of that
thread without evaluation, so that trials may run beside each other and beside other work. With --steps, every
trial takes that many steps instead, so that other work has no influence. The lines are added to those in the file of
results and replace earlier lines of the same trial. With --samples, the Fréchet distance of samples to real images,
over the features of a fitted classifier, is measured as well. With --levels, the residual close to each of seven noise
levels is measured at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from record import folder, record, show

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.config import parse_setting
from vpfb_core.machine.devices import keeping_freed_memory
from vpfb_core.training import prepare
from vpfb_core.training.inputs import Inputs
from vpfb_core.uses import evaluation

CHECKS = 4
LEVELS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # ℓ = log tan φ
NARROW = 0.05  # the standard deviation of ℓ around each of them
IMAGES_PER_LEVEL = 256


def trial(
    data: str,
    data_root: Path | None,
    words: str,
    seconds: float,
    samples: int = 0,
    levels: bool = False,
    steps: int | None = None,
) -> tuple[dict[str, Any], Model]:
    """Train from scratch, for `steps` if they are given. Returns the figures of the line, and the model."""
    settings = dict(map(parse_setting, words.split()))
    root = data_root and str(data_root)
    base = {"data": data, "data_root": root, "device": "cpu", "threads": 1, "time_budget": seconds}
    plan = prepare(vpfb.TrainConfig(**(base | settings)))
    inputs = Inputs.of(plan)
    trainer, checks = inputs.trainer(), inputs.checks()
    about = {"data": {"name": plan.images.name}}

    def measured_at(level: float, deviation: float) -> Model:
        """An untrained model of the trial, whose held-out figures are for these ℓ wherever the trial draws them."""
        method = inputs.trainer(angle_mean=level, angle_std=deviation).method
        field = method.field(networks.build(plan.network), plan.data_shape).eval().requires_grad_(False)
        return Model(method, field, plan.network, plan.statistics, plan.images.shape, plan.images.groups, about)

    model = measured_at(1.0, 1.2)  # as angles are drawn by default in few dimensions
    used, step, fraction = 0.0, 0, 0.0
    path: list[tuple[float, int, float]] = []
    with keeping_freed_memory(plan.device):
        while len(path) < CHECKS:
            began = time.process_time()
            trainer.step(inputs.batches[step], step, min(1.0, fraction))
            used, step = used + time.process_time() - began, step + 1
            fraction = step / steps if steps else used / seconds
            if fraction >= (len(path) + 1) / CHECKS:
                model.field.load_state_dict(trainer.average.state_dict())
                path.append((used, step, checks.validate(model)["val_residual"]))
    residuals: dict[str, float] = {}
    for level in LEVELS if levels else ():
        there = measured_at(level, NARROW)
        there.field.load_state_dict(trainer.average.state_dict())
        residuals[f"{level:g}"] = checks.validate(there, images=IMAGES_PER_LEVEL)["val_residual"]
    distance = None
    if samples:
        asked = evaluation.prepare(model, data, ("frechet",), n=samples, extractor="classifier", root=data_root)
        distance = evaluation.evaluate(model, asked).metrics["frechet"].value
    figures = {
        "trial": words, "seconds": used if steps else seconds, "parameters": plan.parameters,
        "algorithm": plan.config.optimiser.algorithm, "precision": plan.config.machine.precision,
        "batch_size": plan.config.optimiser.batch_size, "lr": plan.config.optimiser.lr, "steps": step,
        "residual": path[-1][2], "path": path, "frechet": distance, "samples": samples, "levels": residuals,
    }  # fmt: skip
    return figures, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--steps", type=int, help="of every trial, in place of the seconds")
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--levels", action="store_true")
    parser.add_argument("trials", nargs="*", default=[""])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = f"tuning-{Path(arguments.data).name}"
    for words in arguments.trials:
        line, _ = trial(
            arguments.data, arguments.data_root, words, arguments.seconds, arguments.samples, arguments.levels,
            arguments.steps,
        )  # fmt: skip
        path = folder() / f"{name}.json"
        lines = json.loads(path.read_text())["figures"] if path.exists() else []
        length = {"steps": arguments.steps} if arguments.steps else {"seconds": arguments.seconds}
        same = {"trial": words} | length
        lines = [known for known in lines if {key: known[key] for key in same} != same]
        record(name, sorted([*lines, line], key=lambda one: (one["seconds"], one["residual"])))
    show(
        ["CPU seconds", "trial", "parameters", "batch", "rate", "steps", "residual", "Fréchet"],
        [
            [f"{one['seconds']:.0f}", one["trial"] or "(preset)", f"{one['parameters']:,}", one["batch_size"],
             f"{one['lr']:g}", one["steps"], f"{one['residual']:.4f}",
             f"{one['frechet']:.2f}" if one.get("frechet") else "–"]
            for one in json.loads((folder() / f"{name}.json").read_text())["figures"]
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
