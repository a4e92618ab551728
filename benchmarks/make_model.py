"""Train a class-conditional model that is part of the package.

    python benchmarks/make_model.py digits
    python benchmarks/make_model.py shapes
    VPFB_DATA=data python benchmarks/make_model.py fashion --run runs/fashion

A model is a run of `vpfb train`. That of the digits has a fixed number of steps, so that the result is the same for the
same machine, versions and number of threads. The number of steps of the others depends on the machine. A run that was
stopped goes on in its folder. The model is calibrated with full effort and written to vpfb_core/assets.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import vpfb_core as vpfb
from vpfb_core.model import model_file
from vpfb_core.training import Progress
from vpfb_core.uses.calibration import calibrate
from vpfb_core.uses.ood import fit_reference

ASSETS = Path(vpfb.__file__).parent / "assets"
LARGEST = 4.5 * 2**20  # bytes
MEMBERS = {"digits": 1_200, "shapes": 1_200, "fashion": 800}  # images of the reference, which is too large with more
HALF = {"fashion"}  # models that would be too large if their weights were not in half precision
MINUTE = 60.0

SETTINGS: dict[str, dict[str, Any]] = {
    # With more steps the held-out residual turns up again: 1,618 images are few. The model in the package has a
    # residual of 0.2941. After it, the order of sums in the contrast changed, and the same command gives one of 0.2947.
    "digits": {"data": "digits", "steps": 2000, "condition_dropout": 0.2, "threads": 1},
    # The model in the package took 4,500 steps in 53 minutes, with an earlier form of the contrast, and then 2,234
    # steps more, with --init, in 20 minutes with lr=0.0025 and decay=1, both with compile=on on one thread.
    "shapes": {"data": "shapes", "time_budget": 30 * MINUTE},
    # The model in the package took 7,587 steps in two hours, with an earlier form of the contrast, and then 1,973 steps
    # more, with --init, in 25 minutes with lr=0.0025 and decay=1, both with compile=on on one thread.
    "fashion": {"data": "fashion-mnist", "time_budget": 120 * MINUTE},
}


def tell(progress: Progress) -> None:
    if progress.step % 100 == 0:
        print(f"step {progress.step}: residual {progress.val_residual:.4f}, {progress.seconds:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=SETTINGS)
    parser.add_argument("--run", type=Path, help="the folder of the run; a temporary one if it is not given")
    parser.add_argument("--threads", type=int, help="threads of the processor")
    arguments = parser.parse_args()
    settings = SETTINGS[arguments.name] | ({"threads": arguments.threads} if arguments.threads else {})
    with tempfile.TemporaryDirectory() as temporary:
        out = str(arguments.run or temporary)
        config = vpfb.TrainConfig(conditional=True, device="cpu", out=out, resume="auto", **settings)
        result = vpfb.train(config, on_step=tell)
    model, images = result.model, vpfb.data.load(settings["data"], conditional=True)
    parts = model.split_of(images)
    assert parts is not None
    weights = torch.float16 if arguments.name in HALF else torch.float32
    for parameter in model.field.parameters():
        parameter.copy_(parameter.to(weights))  # before the calibration, which is then that of the weights in the file
    calibrate(model, images, trained_on=parts[0])
    model.reference = fit_reference(model, images.in_memory().data, count=MEMBERS[arguments.name])
    model.about["config"]["data"]["data_root"] = None  # a folder of this machine
    path = ASSETS / f"{arguments.name}.safetensors"
    model_file.save(model, path, weights=weights)
    size = path.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{size} bytes are too many for the package")
    residual = model.about["figures"]["val_residual"]
    print(f"{path}: {size} bytes, {result.step} steps, held-out residual {residual:.4f}")


if __name__ == "__main__":
    main()
