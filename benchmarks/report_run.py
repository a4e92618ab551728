"""The result of a finished run: its residual over time, its speed and memory, and 64 samples that are not selected.

    vpfb train --data mnist --time-budget 20m --out runs/mnist
    python benchmarks/report_run.py runs/mnist

Writes results/<machine kind>/run-<name>.json and .png, and prints the curve.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from record import folder, record, settings, show

import vpfb_core as vpfb
from vpfb_core.model.runs import Run
from vpfb_core.uses import pictures

LEFT_OUT = ("data.data_root", "data.download")  # of the settings: what concerns only the machine's disk


def residual_curve(path: Path) -> list[dict[str, float]]:
    """The lines of log.csv at which the held-out residual was measured."""
    curve: list[dict[str, float]] = []
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            residual = float(line["val_residual"] or "nan")
            if not curve or residual != curve[-1]["residual"]:
                curve.append({"step": int(line["step"]), "seconds": float(line["seconds"]), "residual": residual})
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", help="name of the file of results")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    run, model = Run(arguments.run), vpfb.load(arguments.run, device=arguments.device)
    name = f"run-{arguments.name or arguments.run.name}"
    curve = residual_curve(run.log)
    with run.log.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    show(
        ["step", "seconds", "held-out residual"],
        [[point["step"], f"{point['seconds']:.0f}", f"{point['residual']:.4f}"] for point in curve],
    )
    images = model.sample(64, seed=0).images
    grid = folder(model.device) / f"{name}.png"
    grid.write_bytes(pictures.png(pictures.tile(images)))
    about, config = model.about, settings(model)
    figures = {
        "images": about["data"]["images"],
        "parameters": model.parameter_count,
        "steps": about["step"],
        "seconds": about["seconds"],
        "images_per_second": about["step"] * config["optimiser.batch_size"] / about["seconds"],
        "memory_bytes": float(last["memory_bytes"]),
        "residual": curve,
        "config": {path: value for path, value in config.items() if path not in LEFT_OUT and value is not None}
        | {"data.source": Path(config["data.source"]).name},
        "trained_with": about["versions"],
    }
    record(name, figures, model.device)
    print(f"grid: {grid}")


if __name__ == "__main__":
    main()
