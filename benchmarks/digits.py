"""Three minutes of training on digits: how similar the samples are to real digits.

    python benchmarks/digits.py [--time-budget 3m] [--runs 1]

Trains with only a time budget and draws as many samples as there are digits. A leave-one-out 1-nearest-neighbour
classifier separates samples from real digits. An accuracy of 0.5 is perfect, and 1 means that they are separate.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch
from record import folder, record, show
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.uses import pictures
from vpfb_core.uses.evaluation import neighbours


def nearest_neighbour_accuracy(ours: Tensor, real: Tensor) -> float:
    """The leave-one-out accuracy of a 1-nearest-neighbour classifier of two sets of images (N, C, H, W)."""
    return neighbours.compare(ours.flatten(1), real.flatten(1)).accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time-budget", default="3m")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    images = vpfb.data.load("digits").images.float() / 255
    shuffled = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    half = len(images) // 2
    rows = []
    for seed in range(arguments.runs):
        with tempfile.TemporaryDirectory() as out:
            config = vpfb.TrainConfig(data="digits", time_budget=arguments.time_budget, out=out, seed=seed)
            result = vpfb.train(config)
        began = time.perf_counter()
        samples = result.model.sample(len(images), seed=seed).images
        seconds = time.perf_counter() - began
        if seed == 0:
            (folder() / "digits-3m.png").write_bytes(pictures.png(pictures.tile(samples[:64])))
        rows.append(
            {
                "seed": seed,
                "steps": result.step,
                "seconds": result.seconds,
                "residual": result.val_residual,
                "nearest_neighbour_accuracy": nearest_neighbour_accuracy(samples, images),
                "samples_per_second": len(samples) / seconds,
            }
        )
    floor = nearest_neighbour_accuracy(shuffled[:half], shuffled[half : 2 * half])
    show(
        list(rows[0]),
        [[f"{value:.4g}" if isinstance(value, float) else value for value in row.values()] for row in rows],
    )
    print(f"real digits against real digits: {floor:.3f}")
    record("digits", {"runs": rows, "real_against_real": floor, "samples": len(images)})


if __name__ == "__main__":
    main()
