"""How well each kind of outlier is told from members that were not trained on: vpfb and neighbours side by side.

    VPFB_DATA=data python benchmarks/outlier_sets.py faces -m runs/faces
    VPFB_DATA=data python benchmarks/outlier_sets.py mnist -m runs/mnist
    VPFB_DATA=data python benchmarks/outlier_sets.py fashion-mnist -m fashion

Faces are those of outliers.py: a fifth of `faces64` at 32×32 pixels are members, and the model is trained on the others
(`outliers.py --write-others`). The reference has training images only. Each set of outliers has as many pictures as the
members, and is made from other members or from another data set. `textures64` and `cifar10_jpeg` are folders of images
in the folder of data sets, and sets that are not there are left out. The package Hershey-Fonts draws letters.

Rows below the line are not in the means. Mirrored faces are in-distribution, since the training mirrors faces. Digits
that the same program draws as the letters show how much of a figure is the drawing: the AUROC of letters against them
is without it.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import outlier_kinds as sets
import torch
from outliers import EVERY, gradients, neighbours, pixels
from record import parsed, record, show, training
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.errors import DataError
from vpfb_core.model.identities import identities_of
from vpfb_core.model.reference import Reference
from vpfb_core.uses.ood import compare, fit_reference
from vpfb_core.uses.ood.fit import parts_of
from vpfb_core.uses.ood.fixed import describe_fixed
from vpfb_core.uses.ood.scores import assess

Method = Callable[[Tensor], Tensor]  # images to scores, higher for outliers


def images_of(root: Path, source: str, size: int, channels: int, **options: Any) -> Tensor | None:
    """The images of a data set or of a folder under the root; None if there is none."""
    name = str(root / source) if (root / source).is_dir() else source
    try:
        return vpfb.data.load(name, size=size, channels=channels, root=root, download=False, **options).images
    except DataError:
        return None


def spread(images: Tensor, count: int) -> Tensor:
    """`count` images from all over a set."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order[:count]]


def loaded(source: str, root: Path, count: int, members: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Training images, `count` members that are not among them, and the sets of outliers."""
    size, channels = (64, 3) if source == "faces" else (28, 1)
    names = [name for name in ("mnist", "fashion-mnist", "cifar10_jpeg", "textures64") if name != source]
    found = {name: images_of(root, name, size, 1 if "mnist" in name else channels, limit=count) for name in names}
    others = {name: images for name, images in found.items() if images is not None}
    if source == "faces":
        everything = images_of(root, "faces64", size, channels)
        assert everything is not None, "there is no folder faces64"
        rest = torch.arange(len(everything)) % EVERY > 0
        inside, changed = spread(everything[~rest], 2 * count).split(count)
        trained_on = sets.resized(spread(everything[rest], members), 32)
        return trained_on, sets.resized(inside, 32), sets.of_faces(changed, others)
    others["optical digits"] = vpfb.data.load("digits").images
    others["shapes"] = vpfb.data.load("shapes", limit=count).images
    tested, training_images = (images_of(root, source, size, channels, split=part) for part in ("test", "train"))
    assert tested is not None and training_images is not None, f"there is no {source}"
    inside, changed = spread(tested, 2 * count).split(count)
    others = {name: spread(images, count) for name, images in others.items()}
    return spread(training_images, members), inside, sets.of_greys(changed, others)


def fixed_descriptors(reference: Tensor) -> Method:
    """The score of vpfb without a model, with these images as the reference."""
    parts = parts_of(describe_fixed(reference))
    known = Reference(parts, identities_of(reference), torch.arange(len(reference)))
    return lambda images: known.assess(describe_fixed(images), identities_of(images)).score


def scored(model: vpfb.Model) -> Method:
    """The default score of a model."""
    return lambda images: assess(model, images).score


def without(model: vpfb.Model, kind: str) -> vpfb.Model:
    """The model with a reference that lacks a kind of evidence."""
    assert model.reference is not None
    fewer = copy.copy(model)
    parts = {name: part for name, part in model.reference.parts.items() if name != kind}
    fewer.reference = replace(model.reference, parts=parts)
    return fewer


def as_tensors(method: Callable[[Tensor], np.ndarray]) -> Method:
    """The method with scores that are tensors."""
    return lambda images: torch.from_numpy(method(images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", choices=["faces", "mnist", "fashion-mnist"])
    parser.add_argument("-m", "--model")
    parser.add_argument("--data-root", type=Path, default=os.environ.get("VPFB_DATA", "."))
    parser.add_argument("--limit", type=int, default=300, help="pictures per set")
    parser.add_argument("--members", type=int, default=2_500, help="training images in the reference")
    parser.add_argument("--fit", action="store_true", help="fit the reference of the model again")
    parser.add_argument("--name", help="name of the file of results")
    arguments = parsed(parser)
    source, count = arguments.source, arguments.limit
    trained_on, inside, outside = loaded(source, arguments.data_root, count, arguments.members)
    methods: dict[str, Method] = {
        "fixed descriptors": fixed_descriptors(trained_on),
        "HOG neighbours": as_tensors(neighbours(gradients, trained_on)),
        "pixel neighbours": as_tensors(neighbours(pixels, trained_on)),
    }
    figures: dict[str, Any] = {"in": source, "pictures": count, "members": arguments.members}
    if arguments.model is not None:
        model = vpfb.load(arguments.model, device=arguments.device)
        if arguments.fit:
            model.reference = fit_reference(model, trained_on, count=arguments.members)
        assert model.reference is not None, "the model has no reference: vpfb info --calibrate MODEL, or --fit"
        methods = {"multiscale": scored(model), "without altered": scored(without(model, "altered"))} | methods
        figures["model"] = training(model) | {"members": len(model.reference.rows)}
    apart = {"mirrored": outside.pop("mirrored")} if source == "faces" else {}
    scores = {name: method(inside) for name, method in methods.items()}
    aurocs = {
        out: {name: compare(scores[name], method(images)).auroc for name, method in methods.items()}
        for out, images in outside.items()
    }
    rows = [[out, *(f"{area:.3f}" for area in areas.values())] for out, areas in aurocs.items()]
    for label, summary in (("mean", lambda areas: sum(areas) / len(areas)), ("worst", min)):
        found = {name: summary([areas[name] for areas in aurocs.values()]) for name in methods}
        figures[label] = found
        rows.append([label, *(f"{area:.3f}" for area in found.values())])
    below = {
        out: {name: compare(scores[name], method(images)).auroc for name, method in methods.items()}
        for out, images in apart.items()
    }
    if source == "mnist":
        digits, letters = sets.drawn_digits(count), outside["drawn letters"]
        drawn = {name: method(digits) for name, method in methods.items()}
        below["drawn digits"] = {name: compare(scores[name], drawn[name]).auroc for name in methods}
        below["letters against drawn digits"] = {
            name: compare(drawn[name], method(letters)).auroc for name, method in methods.items()
        }
    rows += [[out, *(f"{area:.3f}" for area in areas.values())] for out, areas in below.items()]
    show([f"AUROC, in: {source}", *methods], rows)
    record(arguments.name or f"outlier-sets-{source}", figures | {"auroc": aurocs, "not_in_the_means": below})


if __name__ == "__main__":
    main()
