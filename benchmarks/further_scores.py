"""Scores of outliers, each alone and as further evidence beside that of `multiscale`, less the kind `denoising`.

    python benchmarks/further_scores.py digits
    VPFB_DATA=data python benchmarks/further_scores.py mnist -m runs/mnist --background fashion

The outliers are near ones: altered copies of members, and for MNIST letters that a program draws. All scores are
computed without noise at three noise levels. As evidence, a score is the neighbourhood of its values at all levels
among those of training images, with a p-value like that of the other kinds of evidence.

- score norms: the logarithms of |score|. `multiscale` with them beside it is that of the product.
- likelihood ratio: the energy minus that of a background model of other images (Ren et al. 2019).
- eigenvalue: the largest eigenvalue of the covariance of the denoised image. It is a falling function of the smallest
  eigenvalue of the Hessian of the energy, which six steps of Lanczos find.
- score over curvature: |score|² over the Laplacian of the energy, which one random direction estimates.
- classes: the smallest energy of the image in a class minus its energy without a class, and that energy of a class
  itself, for a model with classes.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
from outlier_sets import loaded, spread
from record import parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.machine import noise
from vpfb_core.model.neighbourhood import Neighbourhood
from vpfb_core.uses.ood import compare
from vpfb_core.uses.ood.altered import CONTROLS
from vpfb_core.uses.ood.descriptors import DENOISING_LEVELS
from vpfb_core.uses.ood.intrinsic_dimension import lanczos
from vpfb_core.uses.ood.scores import assess

STEPS = 6  # of Lanczos
NEAR = ("turned", "mirrored", "with a hole", "blended", "averaged in pairs", "shifted", "thick", "drawn letters")
Candidates = dict[str, Tensor]  # the values (N, levels) of N images by the name of the score


def candidates(model: Model, background: Model | None, images: Tensor, seed: int) -> Candidates:
    """The values of all scores, float64."""
    columns: dict[str, list[Tensor]] = {}
    data = model.standardise(images)
    probes = noise.normal((data[0].numel(),), seed, range(len(data)), "further scores").to(data)
    for level in DENOISING_LEVELS:
        x = model.field.at_level(data, level)
        energy, score = model.field.energy_and_score(x, level)
        norms = score.flatten(1).norm(dim=1)
        found = {"energy": energy, "score norms": norms.log()}

        def product(directions: Tensor, x: Tensor = x, level: float = level) -> Tensor:
            return model.field.hessian_product(x, level, directions.reshape(x.shape).to(x)).flatten(1)

        nodes, weights = lanczos(product, probes, STEPS)
        found["eigenvalue"] = -nodes.min(1).values
        found["score over curvature"] = norms.square() / ((nodes * weights).sum(1) * x[0].numel())
        if background is not None:
            there = background.field.at_level(background.standardise(images), level)
            found["likelihood ratio"] = energy - background.field.energy(there, level)
        if model.groups:
            classes = range(len(model.groups[0].classes))
            each = [model.field.energy(x, level, torch.full((len(x), 1), one)) for one in classes]
            least = torch.stack(each).min(0).values
            found |= {"energy of a class": least, "class against none": least - energy}
        for name, values in found.items():
            columns.setdefault(name, []).append(values.detach().cpu().double())
    return {name: torch.stack(values, 1) for name, values in columns.items()}


def evidence(members: Tensor) -> Neighbourhood:
    """The neighbourhood of members with these values."""
    low, high = members.quantile(torch.tensor([0.1, 0.9]).double(), 0)
    return Neighbourhood.of(members.float(), (high - low).clamp(min=1e-9))


def surprise(known: Neighbourhood, values: Tensor) -> Tensor:
    nobody = torch.full((len(values),), -1)
    return known.null.surprise(known.neighbours(values.float(), nobody).statistic)


def near_outliers(model: Model, source: str, root: Path, count: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Training images, members that were not trained on, and sets of outliers."""
    if source != "digits":
        trained_on, inside, outside = loaded(source, root, count, 300)
        return trained_on, inside, {name: outside[name] for name in NEAR if name in outside}
    digits = vpfb.data.load("digits", conditional=True)
    parts = model.split_of(digits)
    assert parts is not None
    inside, changed = spread(digits.images[parts[1]], 2 * count).split(count)
    return digits.images[parts[0]][:300], inside, {name: change(changed) for name, change in CONTROLS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["digits", "mnist", "fashion-mnist", "faces"])
    parser.add_argument("-m", "--model", help="the model; of digits, the built-in one")
    parser.add_argument("--background", help="a model of other images of the same shape")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VPFB_DATA", "."))
    parser.add_argument("--limit", type=int, default=100, help="pictures per set")
    parser.add_argument("--use", type=int, default=100, help="of which so many are scored")
    arguments = parsed(parser)
    model = vpfb.load(arguments.model or arguments.source, device=arguments.device)
    background = None if arguments.background is None else vpfb.load(arguments.background, device=arguments.device)
    trained_on, inside, outside = near_outliers(model, arguments.source, arguments.data_root, arguments.limit)
    sets = {"": inside} | outside
    usual = candidates(model, background, trained_on[: 3 * arguments.use], 0)
    values = {name: candidates(model, background, images[: arguments.use], 1) for name, images in sets.items()}
    assert model.reference is not None, "the model has no reference: vpfb info --calibrate MODEL"
    kinds = {kind: part for kind, part in model.reference.parts.items() if kind != "denoising"}
    model.reference = replace(model.reference, parts=kinds)
    base = {name: assess(model, images[: arguments.use]).score.double() for name, images in sets.items()}

    def areas(scores: dict[str, Tensor]) -> dict[str, float]:
        return {out: compare(scores[""].float(), scores[out].float()).auroc for out in outside}

    found: dict[str, dict[str, dict[str, float]]] = {"multiscale": {"alone": areas(base)}}
    for name, members in usual.items():
        known = evidence(members)
        more = {out: surprise(known, each[name]) for out, each in values.items()}
        found[name] = {
            f"level {level:.2g}": areas({out: each[name][:, i] for out, each in values.items()})
            for i, level in enumerate(DENOISING_LEVELS)
        }
        found[name] |= {
            "neighbours": areas(more),
            "beside multiscale": areas({out: (base[out].square() + more[out].square()).sqrt() for out in base}),
        }
    rows = [
        [name, how, *(f"{area:.3f}" for area in each.values()), f"{sum(each.values()) / len(each):.3f}"]
        for name, ways in found.items()
        for how, each in ways.items()
    ]
    show([f"AUROC, in: {arguments.source}", "", *outside, "mean"], rows)
    figures = {"in": arguments.source, "model": training(model), "levels": DENOISING_LEVELS, "auroc": found}
    record(f"further-scores-{arguments.source}", figures, model.device)


if __name__ == "__main__":
    main()
