"""The accuracy of learned log-densities of points in the plane, whose densities are known.

    python benchmarks/plane.py

Trains each set with `vpfb.train(TrainConfig(data=NAME))`, without other settings, and compares the log-density by the
flow with the exact one at 1,000 fresh points: the root mean square and the median of the error in nats, and its mean,
which estimates the divergence KL(exact ‖ learned). Prints a table and writes benchmarks/results/cpu/plane.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

from plane_densities import LOG_DENSITIES, fresh
from record import record, show

import vpfb_core as vpfb

POINTS = 1000


def measure(name: str) -> dict[str, Any]:
    """The error of the learned log-density of a set, in nats."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = vpfb.train(vpfb.TrainConfig(data=name, out=f"{folder}/run"))
        seconds = time.perf_counter() - began
        model = vpfb.load(result.run.path, device="cpu")
    points = fresh(name, POINTS)
    exact = LOG_DENSITIES[name](points)
    error = model.log_density(points, method="ode") - exact
    return {
        "set": name, "steps": model.about["step"], "seconds": seconds, "rms": float(error.square().mean().sqrt()),
        "median": float(error.abs().median()), "divergence": float(-error.mean()), "entropy": float(-exact.mean()),
    }  # fmt: skip


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = []
    for name in LOG_DENSITIES:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    show(
        ["set", "steps", "seconds", "RMS", "median", "KL"],
        [
            [row["set"], row["steps"], f"{row['seconds']:.0f}", f"{row['rms']:.3f}", f"{row['median']:.3f}",
             f"{row['divergence']:.4f}"]
            for row in rows
        ],
    )  # fmt: skip
    record("plane", rows)


if __name__ == "__main__":
    main()
