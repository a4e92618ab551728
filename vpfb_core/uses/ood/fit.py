"""The fit of the reference of the multi-scale score: to training images of a model, or to a folder without a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vpfb_core.data.image_statistics import in_unit_range
from vpfb_core.errors import DataError
from vpfb_core.machine import noise
from vpfb_core.model.detector import HALVES, Alterations, halves_of, pictures_of
from vpfb_core.model.identities import identities_of
from vpfb_core.model.neighbourhood import Neighbourhood, spread
from vpfb_core.model.reference import KINDS, OWN, Descriptors, Part, Reference, Verdict
from vpfb_core.model.regions import Regions
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses.ood import detectors
from vpfb_core.uses.ood.descriptors import REGIONS, Described, levels_of, scalar_level
from vpfb_core.uses.ood.fixed import describe_fixed

IMAGES = 2_500  # the default number of reference images; a Fashion-MNIST model detected fewer outliers with 1,000
COPY = 0.3  # of the usual distance from the nearest image, below which images are near copies
_SMALL = 8  # the side of the small pictures by which near copies are found
_BATCH = 256  # images whose fixed descriptors are computed at once


def fit_reference(
    model: TrainedModel,
    images: Tensor,
    *,
    count: int = IMAGES,
    rows: Tensor | None = None,
    batch_size: int = 64,
    steps: int = detectors.STEPS,
) -> Reference:
    """The reference of a model, from descriptors of images. It costs a gradient per image and level.

    Args:
        model: the model.
        images: in-distribution images, such as those of its training, uint8 or in [0, 1], (N, C, H, W) in the model's
            shape, N ≥ 2.
        count: the largest number of images that are used. Of more, the same random ones are always chosen.
        rows: the row of each image in the data of the training, int64 (N,); None if it is the index of the image.
        batch_size: the number of images that are computed at once.
        steps: the number of training steps of each detector of alterations; they need 100, and 256 images.
    Raises:
        DataError: there are fewer than two images, or a descriptor is not finite.
        ConfigError: the method has no energy, or the unconditional field was not trained.
    """
    model.require("free-energy", "an out-of-distribution reference")
    model.require_null("an out-of-distribution reference")
    chosen = _choose(images, 0, count)
    levels, scalar = levels_of(model.field), scalar_level(model.field)
    found: list[Descriptors] = []
    energies: list[Tensor] = []
    for some in chosen.split(batch_size):
        described = Described(model.field, model.standardise(images[some]), REGIONS)
        found.append(described.evidence(levels) | describe_fixed(images[some]))
        energies.append(described.energy(scalar).cpu().double())
    reference = Reference(
        parts_of({kind: torch.cat([each[kind] for each in found]) for kind in found[0]}),
        identities_of(images[chosen]),
        chosen if rows is None else rows[chosen],
        levels,
        float(torch.cat(energies).mean()),
        REGIONS,
    )
    steps = detectors.affordable(steps, tuple(images.shape[1:]), len(images))
    if not steps:
        return reference
    others = torch.randperm(len(images), generator=noise.generator(0, "detectors"))
    others = others[~torch.isin(others, chosen)][: max(0, detectors.useful(steps) - len(chosen))]
    return with_detectors(reference, pictures_of(images[torch.cat([chosen, others])]), device=model.device, steps=steps)


def with_detectors(
    reference: Reference,
    pictures: Tensor,
    *,
    device: torch.device,
    steps: int = detectors.STEPS,
    on_step: Callable[[], object] = lambda: None,
) -> Reference:
    """A reference with detectors of alterations. Where nearly all images are in one half, it is the reference itself.

    Args:
        reference: the reference.
        pictures: the pictures (`pictures_of`) of its images, in their order, and then of others of the same data, uint8
            (N, C, H, W).
        device: the device of the training.
        steps: the number of training steps of each detector.
        on_step: called before each step.
    """
    if halves_of(pictures).bincount(minlength=HALVES).min() < detectors.FEWEST_IMAGES / 4:
        return reference
    trained = detectors.train(pictures, device, steps, on_step)
    return reference.with_detectors(Alterations.of(trained, pictures[: len(reference.identities)]))


def assess_without_model(images: Tensor, *, seed: int = 0, own: Callable[[Tensor], Tensor] | None = None) -> Verdict:
    """The verdict on each image among the others by their fixed descriptors, without a model.

    Near copies of an image are assessed as it is, each without the others.

    Args:
        seed: the seed of the choice of the others, if there are more than `IMAGES`.
        own: the function from images to the features of a network of the user's own (`own_features.find`); None for no
            such features. Images and errors are those of `fit_reference`.
    """
    chosen, identities = _choose(images, seed, IMAGES), identities_of(images)
    first = chosen[first_copies(images[chosen])]
    identities[chosen] = identities[first]  # copies are left out of each other's neighbours
    chosen = first.unique()
    found = [describe_fixed(some) for some in images.split(_BATCH)]
    descriptors = {kind: torch.cat([each[kind] for each in found])[chosen] for kind in found[0]}
    reference = Reference(parts_of(descriptors), identities[chosen], chosen)
    if own is not None:
        features = own(images)
        reference = reference.with_own(features[chosen], own)
        found = [each | {OWN: some} for each, some in zip(found, features.split(_BATCH), strict=True)]
    return Verdict.joined(
        [reference.assess(each, some) for each, some in zip(found, identities.split(_BATCH), strict=True)]
    )


def first_copies(images: Tensor) -> Tensor:
    """The first near copy of each image, int64 (N,); the image itself if no earlier one is a near copy.

    A near copy is much nearer than the nearest other image usually is, as small pictures of 8×8 pixels. Otherwise many
    copies of one outlier would be each other's neighbours, and look more typical than anything else.

    Args:
        images: uint8 or in [0, 1], (N, C, H, W), N ≥ 2.
    """
    small = F.adaptive_avg_pool2d(in_unit_range(images), _SMALL).flatten(1)
    distances = torch.cdist(small, small, compute_mode="donot_use_mm_for_euclid_dist")
    usual = distances.topk(2, largest=False).values[:, 1].median()
    near = (distances < COPY * usual) | torch.eye(len(images), dtype=torch.bool, device=images.device)
    first = near.int().argmax(1)
    while not torch.equal(first, first[first]):
        first = first[first]
    return first


def _choose(images: Tensor, seed: int, count: int) -> Tensor:
    """The rows of at most `count` images, increasing."""
    if len(images) < 2:
        raise DataError(
            f"an out-of-distribution reference cannot be fitted to {len(images)} image(s)", hint="it needs at least 2"
        )
    return torch.randperm(len(images), generator=noise.generator(seed, "reference"))[:count].sort().values


def parts_of(descriptors: Descriptors) -> dict[str, Part]:
    """What is known of each kind of evidence, from the descriptors of all reference images.

    Raises:
        DataError: a descriptor is not finite.
    """
    if not all(table.isfinite().all() for table in descriptors.values()):
        raise DataError(
            "the model's energies of its training images are not finite", hint="the training may have diverged"
        )
    return {kind: _part(kind, descriptors[kind]) for kind in KINDS if kind in descriptors}


def _part(kind: str, table: Tensor) -> Part:
    """What is known of one kind of evidence, from the descriptors of all reference images."""
    if kind == "part":
        return Regions.of(table)
    # Energies and norms at different levels have different units. All other descriptors of one kind share theirs.
    return Neighbourhood.of(table, spread(table) if kind in ("recording", "denoising") else None)
