"""The processor time of each out-of-distribution score per image, and of `vpfb score` on a folder of 1,000 pictures.

    python benchmarks/score_time.py -m runs/mnist --threads 1

Processor time does not depend on what else runs on the machine; on a GPU it says nothing. The pictures are noise of
64×64 pixels in colour, and `vpfb score` ranks them without a model. The time of its start is in the figure.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import parsed, record, show, training

import vpfb_core as vpfb
from vpfb_core.uses.ood import SCORES, score


def milliseconds(model: vpfb.Model, name: str, images: torch.Tensor) -> float:
    """The processor time of a score per image."""
    score(model, images[:2], name)
    began = time.process_time()
    score(model, images, name)
    return 1000 * (time.process_time() - began) / len(images)


def of_a_folder(count: int, side: int) -> float:
    """The processor time of `vpfb score` on a folder without a model, in seconds."""
    draws = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            picture = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(picture).save(Path(folder) / f"{number:04d}.png")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        line = [sys.executable, "-m", "vpfb_cli", "score", folder, "-o", "-", "-q", "--threads", "1"]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--slow-limit", type=int, default=4)
    arguments = parsed(parser)
    model = vpfb.load(arguments.model, device="cpu")
    images = torch.rand((arguments.limit, *model.shape), generator=torch.Generator().manual_seed(0))
    found = {
        name: milliseconds(model, name, images[: arguments.slow_limit] if SCORES[name].costly else images)
        for name in SCORES
    }
    folder = of_a_folder(1000, 64)
    show(["score", "ms per image"], [[name, f"{each:.1f}"] for name, each in found.items()])
    show(["command", "s"], [["vpfb score, 1,000 pictures of 64×64, without a model", f"{folder:.1f}"]])
    figures = {"model": training(model), "shape": list(model.shape), "milliseconds_per_image": found}
    record("score-time", figures | {"seconds_of_a_folder_of_1000": folder})


if __name__ == "__main__":
    main()
