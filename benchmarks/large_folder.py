"""A folder of very many pictures: seconds from `train` to the first step, and the memory of the process.

    python benchmarks/large_folder.py [--files 25000 100000] [--steps 200] [--threads 1]

Writes JPEG files of 32×32 in ten folders (pictures of `shapes`, each with its own noise), trains preset `tiny` on them
in a process of its own, and removes them. The memory is the largest resident set of that process, including torch:
before the data are read, at the first step, and after the last step, when every picture that was read is kept.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from record import record, show

import vpfb_core as vpfb
from vpfb_core import training

DRAWN = 1_000  # pictures; what is written is one of them and noise


def write(folder: Path, count: int) -> None:
    """`count` different JPEG files of 32×32 in ten sub-folders."""
    pictures = vpfb.data.load("shapes", size=32, limit=DRAWN).images.permute(0, 2, 3, 1).numpy().astype(np.int16)
    noise = np.random.default_rng(0)
    for kind in range(10):
        (folder / str(kind)).mkdir()
    for i in range(count):
        noisy = pictures[i % DRAWN] + noise.integers(-8, 9, pictures.shape[1:])
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / str(i % 10) / f"{i:06d}.jpg", quality=90)


def peak_mib() -> float:
    """The largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(folder: str, out: str, steps: int, threads: int) -> dict[str, float]:
    """The figures of one run."""
    figures, began = {"peak_mib_before": peak_mib()}, time.monotonic()

    def on_step(progress: training.Progress) -> None:
        if progress.step == 1:
            figures.update(seconds_to_first_step=time.monotonic() - began, peak_mib_first_step=peak_mib())

    config = vpfb.TrainConfig(
        data=folder, conditional=True, preset="tiny", device="cpu", steps=steps, threads=threads, out=out
    )
    plan = training.prepare(config)
    figures["seconds_to_plan"] = time.monotonic() - began
    training.run(plan, on_step=on_step)
    return figures | {"seconds": time.monotonic() - began, "peak_mib": peak_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    figures = {}
    for count in arguments.files:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "pictures")
            folder.mkdir()
            write(folder, count)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                words = (str(folder), str(Path(place, "run")), arguments.steps, arguments.threads)
                figures[count] = pool.apply(train, words)
    show(
        ["files", "seconds to plan", "to the first step", "MiB before", "at the first step", "in the end"],
        [
            [f"{count:,}", *(f"{found[name]:.1f}" for name in ("seconds_to_plan", "seconds_to_first_step")),
             *(f"{found[name]:.0f}" for name in ("peak_mib_before", "peak_mib_first_step", "peak_mib"))]
            for count, found in figures.items()
        ],
    )  # fmt: skip
    record("large-folder", {"runs": figures, "steps": arguments.steps})


if __name__ == "__main__":
    main()
