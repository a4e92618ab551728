"""The potential and flow matching after the same time: distance of samples to real images, steps, memory and pictures.

    VPFB_DATA=data python benchmarks/equal_time.py --data mnist --minutes 2 8 20
    python benchmarks/equal_time.py --data ./faces --minutes 8 --samples 1000

Every method trains with the network of the preset. The potential trains with the network `encoder` as well, and with a
regression of the network's output first (`--set regression_share=0.3` or 0.6). As in tuning.py, a run has one thread,
and its clock is the processor time of that thread without evaluation. Runs go side by side, one per core, each in a
process of its own. A minute is one minute of two cores, so a run takes twice as much processor time. Samples have 16
evaluations, and are compared with real images over the features of the fitted classifier (`vpfb eval --fit-features`)
or of another extractor of `vpfb eval`. --models keeps the models.
"""

from __future__ import annotations

import argparse
import os
import resource
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from record import folder, record, show
from tuning import trial

from vpfb_core.machine import limits
from vpfb_core.uses import evaluation, pictures

TRIALS = {
    "potential": "",
    "potential, regression first": "regression_share=0.3",
    "potential, longer regression first": "regression_share=0.6",
    "potential, encoder": "network=encoder",
    "potential, encoder, regression first": "network=encoder regression_share=0.3",
    "flow matching": "method=flow-matching",
}
CORES = 2  # whose time a minute is
SHOWN = 64


def run(
    data: str, name: str, minutes: float, seed: int, samples: int, extractor: str, models: Path | None
) -> dict[str, Any]:
    """Train one model in this process. Returns the figures of its line, and writes a picture of its samples."""
    torch.set_num_threads(1)
    figures, model = trial(data, None, f"{TRIALS[name]} seed={seed}", 60 * CORES * minutes, levels=True)
    label = f"{Path(data).name}-{name.replace(', ', '-').replace(' ', '-')}-{minutes:g}m" + (f"-{seed}" if seed else "")
    if models is not None:
        models.mkdir(parents=True, exist_ok=True)
        model.save(models / f"{label}.safetensors")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    plan = evaluation.prepare(model, data, ("frechet", "1nn"), n=samples, extractor=extractor, download=False)
    report = evaluation.evaluate(model, plan)
    drawn = model.sample(SHOWN)
    (folder() / f"equal-time-{label}.png").write_bytes(pictures.png(pictures.tile(drawn.images)))
    return figures | {
        "name": name, "minutes": minutes, "seed": seed, "peak_gib": peak, "samples": samples, "nfe": report.nfe,
        "metrics": {name: figure.document() for name, figure in report.metrics.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 8.0, 20.0])
    parser.add_argument("--methods", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings")
    parser.add_argument("--models", type=Path, help="folder in which the models are kept")
    parser.add_argument("--samples", type=int, default=1000, help="samples, and real images at most")
    parser.add_argument("--extractor", default="classifier", help="features of the distances")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(int(limits.cores()), get_context("spawn"), max_tasks_per_child=1) as processes:
        common = (arguments.seed, arguments.samples, arguments.extractor, arguments.models)
        runs = [
            processes.submit(run, arguments.data, name, minutes, *common)
            for minutes in arguments.minutes
            for name in arguments.methods
        ]
        lines = [each.result() for each in runs]
    lengths = "-".join(f"{minutes:g}m" for minutes in arguments.minutes)
    seed = f"-seed-{arguments.seed}" if arguments.seed else ""
    record(f"equal-time-{Path(arguments.data).name}-{lengths}{seed}", lines)
    show(
        ["minutes of two cores", "method", "parameters", "steps", "residual", "Fréchet", "1-NN", "memory, GiB"],
        [
            [f"{line['minutes']:g}", line["name"], f"{line['parameters']:,}", line["steps"], f"{line['residual']:.4f}",
             f"{line['metrics']['frechet']['value']:.2f}", f"{line['metrics']['1nn']['value']:.3f}",
             f"{line['peak_gib']:.2f}"]
            for line in lines
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
