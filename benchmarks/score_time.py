"""The processor time of each out-of-distribution score per image, and of `vpfb score` on a folder of 1,000 pictures.

    python benchmarks/score_time.py -m runs/mnist --threads 1
    python benchmarks/score_time.py --folder-model runs/faces

Processor time does not depend on what else runs on the machine; on a GPU it says nothing. The pictures of the folder
are noise of 64×64 pixels in colour. `vpfb score` ranks them without a model, and with --folder-model by that model as
well. Its start is in both times, that of a clock and that of the processor.
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


def of_a_folder(count: int, side: int, model: str | None = None) -> dict[str, float]:
    """The seconds that `vpfb score` takes for a folder of pictures, with a model or without."""
    draws = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            picture = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(picture).save(Path(folder) / f"{number:04d}.png")
        by = [] if model is None else ["-m", str(Path(model).resolve())]
        threads = ["--threads", str(torch.get_num_threads())]
        line = [sys.executable, "-m", "vpfb_cli", "score", folder, *by, "-o", "-", "-q", "--device", "cpu", *threads]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="the model whose scores are measured per image")
    parser.add_argument("--folder-model", help="a model by which the folder is ranked as well")
    parser.add_argument("--limit", type=int, default=32)
    parser.add_argument("--slow-limit", type=int, default=4)
    arguments = parsed(parser)
    if arguments.model is not None:
        model = vpfb.load(arguments.model, device="cpu")
        images = torch.rand((arguments.limit, *model.shape), generator=torch.Generator().manual_seed(0))
        found = {
            name: milliseconds(model, name, images[: arguments.slow_limit] if SCORES[name].costly else images)
            for name in SCORES
        }
        show(["score", "ms per image"], [[name, f"{each:.1f}"] for name, each in found.items()])
        figures = {"model": training(model), "shape": list(model.shape), "milliseconds_per_image": found}
        record("score-time", figures)
    folders = {"without a model": of_a_folder(1000, 64)}
    if arguments.folder_model is not None:
        folders["with a model"] = of_a_folder(1000, 64, arguments.folder_model)
    rows = [[how, f"{each['seconds']:.1f}", f"{each['processor_seconds']:.1f}"] for how, each in folders.items()]
    show(["vpfb score, 1,000 pictures of 64×64", "s", "s of a processor"], rows)
    record("score-time-folder", folders)


if __name__ == "__main__":
    main()
