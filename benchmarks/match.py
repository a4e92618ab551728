"""Statistics of samples that are matched: brightness from -2 to +2 deviations, and the statistics of the data.

    python benchmarks/match.py [-m digits] [--data digits] [-n 512] [--picture docs/pictures/brightness.png]

First part: samples of a model with the brightness of the data, moved by up to two standard deviations of real images,
at no further evaluations. Second part: samples with the contrast, the edges and the classes of the data, by further
proposals. Each row gives the mean gap over the matched statistics in standard errors, and the Frechet distance of
pixels to the real images, before and after. Fresh samples are measured, not those of the fit. Writes
results/<machine kind>/match-<data>.json and, with --picture, a grid whose rows are brightness from -2 to +2 deviations
and whose columns have the same noise.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from record import parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.uses import pictures
from vpfb_core.uses.evaluation.distances import frechet
from vpfb_core.uses.matching.tilting import Targets, fit
from vpfb_core.uses.measuring.gaps import gaps
from vpfb_core.uses.measuring.measures import Measures

DEVIATIONS = (-2, -1, 0, 1, 2)
COLUMNS = 16
SETS = (("contrast",), ("edges",), ("classes",), ("contrast", "edges", "classes"))


def moved(model: Model, real: Tensor, n: int, seed: int) -> tuple[list[dict[str, Any]], Tensor]:
    """The figures of samples of other brightness, and some samples of each from the same noise."""
    measures = Measures.of(model, ["brightness"])
    brightness = measures.measure(real)
    rows, shown = [], []
    for deviations in DEVIATIONS:
        target = float(brightness.mean() + deviations * brightness.std())
        began = time.monotonic()
        tilt = fit(model, {"brightness": target}, seed=seed)
        seconds = time.monotonic() - began
        tilted = model.with_tilt(tilt)
        found = measures.measure(tilted.sample(n, seed + 1).images)
        shown.append(tilted.sample(COLUMNS, seed).images)
        rows.append({
            "deviations": deviations, "target": target, "reached": float(found.mean()),
            "error": float(found.std()) / n**0.5, "ess": tilt.ess, "nats": tilt.nats, "fit_seconds": seconds,
        })  # fmt: skip
    return rows, torch.cat(shown)


def matched(model: Model, real: Tensor, names: Sequence[str], n: int, seed: int) -> dict[str, Any]:
    """The figures of samples with some statistics of the data."""
    measures = Measures.of(model, names)
    of_real = measures.measure(real)
    means = dict(zip(measures.columns, of_real.mean(0).tolist(), strict=True))
    tilt = fit(model, Targets(means, len(real)), seed=seed, count=1024)
    row: dict[str, Any] = {"statistics": list(names), "ess": tilt.ess, "nats": tilt.nats, "rounds": tilt.rounds}
    for name, each in (("before", model), ("after", model.with_tilt(tilt))):
        drawn = each.sample(n, seed + 1)
        images = each.statistics.stored(drawn.images)
        apart = [abs(gap.gap_se) for gap in gaps(measures.columns, measures.measure(images), of_real)]
        row[name] = {
            "gap_se": sum(apart) / len(apart), "evaluations": float(drawn.nfe.double().mean()),
            "frechet": frechet(images.flatten(1).float() / 255, real.flatten(1).float() / 255),
        }  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("-n", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path)
    arguments = parsed(parser)
    model = vpfb.load(arguments.model, device=arguments.device)
    real = vpfb.data.load(arguments.data, **model.reading).images
    brightness, shown = moved(model, real, arguments.n, arguments.seed)
    if arguments.picture is not None:
        arguments.picture.write_bytes(pictures.png(pictures.tile(shown, columns=COLUMNS)))
    show(
        ["deviations", "target", "samples", "effective share", "nats"],
        [[f"{row['deviations']:+d}", f"{row['target']:.4f}", f"{row['reached']:.4f} +/- {row['error']:.4f}",
          f"{row['ess']:.3f}", f"{row['nats']:.2f}"] for row in brightness],
    )  # fmt: skip
    sets = [matched(model, real, names, arguments.n, arguments.seed) for names in SETS]
    show(
        ["statistics", "rounds", "effective share", "nats", "gap before", "gap after", "frechet before", "after"],
        [[", ".join(row["statistics"]), row["rounds"], f"{row['ess']:.3f}", f"{row['nats']:.3f}",
          f"{row['before']['gap_se']:.1f}", f"{row['after']['gap_se']:.1f}", f"{row['before']['frechet']:.4f}",
          f"{row['after']['frechet']:.4f}"] for row in sets],
    )  # fmt: skip
    figures = {"n": arguments.n, "brightness": brightness, "sets": sets, "model": training(model)}
    record(f"match-{arguments.data}", figures, model.device)


if __name__ == "__main__":
    main()
