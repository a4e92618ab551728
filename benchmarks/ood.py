"""The AUROC of every out-of-distribution score for several sets, and the speed of each score.

    python benchmarks/ood.py --in mnist --out fashion-mnist noise constant shuffled:mnist [-m runs/mnist] [--limit 500]

Besides the named sets, the controls of vpfb ood are scored, which are altered copies of the in-distribution images and
the hardest cases. The model must be calibrated, by its training or by vpfb info
--calibrate. The likelihood is measured on fewer images (--slow-limit). The speed of each score is given in images per
second and as a multiple of that of the likelihood, measured in one process.
"""

from __future__ import annotations

import argparse
import time

from record import parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data.catalogue import canonical
from vpfb_core.model.choice import choose
from vpfb_core.uses.ood import SCORES, compare, score
from vpfb_core.uses.ood.altered import CONTROLS
from vpfb_core.uses.ood.scores import needs_of
from vpfb_core.uses.ood.sources import load_in_distribution, load_out_of_distribution

COLUMNS = 4  # of scores side by side, so that a table fits into 80 columns


def scored(model: Model, images: Tensor, name: str, slow_limit: int) -> tuple[Tensor, float]:
    """The scores, and the number of images scored per second."""
    images = images[:slow_limit] if SCORES[name].costly else images
    score(model, images[:2], name)
    began = time.perf_counter()
    return score(model, images, name), len(images) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in", dest="in_set", required=True)
    parser.add_argument("--out", dest="out_sets", nargs="+", required=True)
    parser.add_argument("-m", "--model")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--slow-limit", type=int, default=32)
    parser.add_argument("--scores", nargs="+", default=list(SCORES), choices=list(SCORES))
    parser.add_argument("--name", help="name of the file of results")
    arguments = parsed(parser)
    chosen = arguments.model or choose(arguments.in_set, needs_of(arguments.scores)).model
    if chosen is None:
        parser.error(f"no model for {arguments.in_set} has what these scores need; name one with -m")
    model = vpfb.load(chosen, device=arguments.device)
    inside = load_in_distribution(model, arguments.in_set, arguments.limit).images
    outside = {
        name: load_out_of_distribution(model, name, arguments.limit).images for name in arguments.out_sets
    } | {name: change(inside) for name, change in CONTROLS.items()}  # fmt: skip

    detections: dict[str, dict[str, dict[str, object]]] = {name: {} for name in outside}
    speeds: dict[str, float] = {}
    for name in arguments.scores:
        in_scores, speeds[name] = scored(model, inside, name, arguments.slow_limit)
        for out, images in outside.items():
            detections[out][name] = vars(compare(in_scores, scored(model, images, name, arguments.slow_limit)[0]))
    for first in range(0, len(arguments.scores), COLUMNS):
        names = arguments.scores[first : first + COLUMNS]
        rows = [[out, *(f"{found[name]['auroc']:.4f}" for name in names)] for out, found in detections.items()]
        show([f"AUROC, in: {arguments.in_set}", *names], rows)
    slowest = speeds.get("likelihood")
    show(
        ["score", "images per second", "× likelihood"],
        [[name, f"{speed:.1f}", f"{speed / slowest:.1f}" if slowest else ""] for name, speed in speeds.items()],
    )
    figures = {
        "in": arguments.in_set,
        "model": {"data": model.about.get("data")} | training(model),
        "detections": detections,
        "images_per_second": speeds,
        "times_the_likelihood": {name: speed / slowest for name, speed in speeds.items()} if slowest else None,
    }
    label = "".join(sign if sign.isalnum() else "-" for sign in canonical(arguments.in_set)).strip("-")
    record(f"ood-{arguments.name or label}", figures, model.device)


if __name__ == "__main__":
    main()
