"""Uses of an unconditional model: interpolation of real pictures, inpainting, and long chains over the data.

    vpfb train --data mnist --time-budget 20m --out runs/mnist
    python benchmarks/steering.py -m runs/mnist --data mnist [--steps 1000] [-n 128]

The pictures are the first of their class in the test split; they are not selected. Interpolation: pictures are encoded
by the reverse flow, decoded again, and interpolated between two classes (--between). Inpainting: the lower half of
pictures is hidden and drawn several times. Chains: samples before and after `--steps` steps of MALA; a
1-nearest-neighbour classifier separates each set from real pictures, and an accuracy of 0.5 is perfect. Writes
results/<machine kind>/steering-<data>.json and three pictures.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from digits import nearest_neighbour_accuracy
from record import folder, parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.dynamics.per_sample import rms_distance
from vpfb_core.uses import pictures

FRAMES = 10
COMPLETIONS = 7  # of each picture, which stands before them


def joined(model: Model, first: Tensor, second: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The reconstruction errors of pictures, and the interpolations between pairs of them, one per row."""
    images = torch.cat([first, second])
    codes = model.encode(images)
    back = model.decode(codes)
    start, end = codes.split(len(first))
    rows = model.interpolate(start, end, FRAMES)
    error = rms_distance(back, images)
    return {"reconstruction_rms": float(error.mean()), "worst": float(error.max())}, rows.flatten(0, 1)


def completed(model: Model, images: Tensor, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Pictures with a drawn lower half, and the distances between the answers to one picture in that half."""
    known = torch.zeros(1, *images.shape[-2:], dtype=torch.bool)
    known[:, : images.shape[-2] // 2] = True
    rows, apart = [], []
    for image in images:
        drawn = model.inpaint(image, known, COMPLETIONS, seed)
        rows += [torch.where(known, image, 0.5)[None], drawn.images]
        apart.append(drawn.apart)
    return {"apart": apart}, torch.cat(rows)


def walked(model: Model, real: Tensor, steps: int, seed: int) -> tuple[dict[str, Any], Tensor]:
    """The figures of samples against real pictures, before and after a long run from them."""
    samples = model.sample(len(real), seed).images
    after = model.long_run(samples, steps, seed)
    half = len(real) // 2
    figures = {
        "n": len(real),
        "steps": steps,
        "acceptance": after.acceptance,
        "moved": float(after.moved.mean()),
        "apart": after.apart,
        "accuracy_before": nearest_neighbour_accuracy(samples, real),
        "accuracy_after": nearest_neighbour_accuracy(after.images, real),
        "accuracy_real": nearest_neighbour_accuracy(real[:half], real[half : 2 * half]),
    }
    return figures, torch.cat([samples[:16], after.images[:16]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--between", nargs=2, default=["3", "8"], help="two classes")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("-n", type=int, default=128, help="number of samples, and of chains")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parsed(parser)
    model = vpfb.load(arguments.model, device=arguments.device)
    data = vpfb.data.load(arguments.data, split="test", root=arguments.data_root, conditional=True)
    images = data.images.float() / 255
    assert data.labels is not None
    classes = [data.labels[:, 0] == data.groups[0].classes.index(name) for name in arguments.between]

    first, second = (images[rows][: arguments.rows] for rows in classes)
    parts = {
        "joined": joined(model, first, second),
        "completed": completed(model, images[: arguments.rows], arguments.seed),
        "walked": walked(model, images[: arguments.n], arguments.steps, arguments.seed),
    }
    columns = {"joined": FRAMES, "completed": COMPLETIONS + 1, "walked": 16}
    for part, (_, shown) in parts.items():
        path = folder(model.device) / f"steering-{arguments.data}-{part}.png"
        path.write_bytes(pictures.png(pictures.tile(shown, columns=columns[part])))
    figures = {part: found for part, (found, _) in parts.items()}
    show(
        ["", "figure", "value"],
        [[part, key, str(value)] for part, found in figures.items() for key, value in found.items()],
    )
    figures["model"] = training(model)
    record(f"steering-{arguments.data}", figures, model.device)


if __name__ == "__main__":
    main()
