"""Train the conditional model of `shapes` that is part of the package and that `vpfb compose` uses in its examples.

    python benchmarks/make_shapes_model.py

It takes a quarter of an hour on two cores, like a run of a user. The number of steps depends on the machine. The model
is calibrated with full effort and written to vpfb_core/assets/shapes.safetensors.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import vpfb_core as vpfb
from vpfb_core.uses.calibration import calibrate

ASSET = Path(vpfb.__file__).parent / "assets" / "shapes.safetensors"


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    images = vpfb.data.load("shapes", conditional=True)
    with tempfile.TemporaryDirectory() as out:
        config = vpfb.TrainConfig(data="shapes", conditional=True, time_budget=15 * 60, device="cpu", out=out)
        result = vpfb.train(config)
    parts = result.model.split_of(images)
    assert parts is not None
    calibrate(result.model, images.subset(parts[0]))
    result.model.save(ASSET)
    print(f"{ASSET}: {result.step} steps, held-out residual {result.model.about['figures']['val_residual']:.4f}")


if __name__ == "__main__":
    main()
