"""Out-of-distribution scores by name. For every score, higher means more out-of-distribution.

A score that measures one property of an image can fail because of another: smooth images have a high density under
models of detailed images (Nalisnick et al. 2019, arXiv 1810.09136). `multiscale` compares many properties with those of
training images. It is the default because it was the best score in the worst case of the pairs of data sets that we
measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from vpfb_core.data.statistics import Values
from vpfb_core.errors import CheckpointError, ConfigError, FeatureError, VPFBError
from vpfb_core.model.choice import Needs
from vpfb_core.model.detector import pictures_of
from vpfb_core.model.identities import identities_of
from vpfb_core.model.reference import ALTERED, Reference, Verdict
from vpfb_core.model.trained import TrainedModel
from vpfb_core.settings import require_index, require_seed
from vpfb_core.uses.density import Density
from vpfb_core.uses.draw import batches
from vpfb_core.uses.ood.descriptors import SCALAR_LEVEL, Described, scalar_level
from vpfb_core.uses.ood.fixed import describe_fixed
from vpfb_core.uses.ood.intrinsic_dimension import local_dimension

DEFAULT_SCORE = "multiscale"
ALL = "all"
DEFAULT_BATCH = 64
Part = TypeVar("Part")


@dataclass(frozen=True)
class Batch:
    """A batch of images for one or several scores, which share what they compute.

    Attributes:
        model: the model.
        images: images that `TrainedModel.checked` has accepted, (N, C, H, W).
        first: the index of the first image of the batch.
        seed: the seed of the noise, which for image i depends only on (seed, i).
    """

    model: TrainedModel
    images: Tensor
    first: int
    seed: int

    @cached_property
    def described(self) -> Described:
        """The images at the noise levels of the model."""
        return self._described(self.model)

    @cached_property
    def untilted(self) -> Described:
        """The images at the noise levels of the model without its tilt, to which the reference belongs."""
        base = self.model.untilted
        return self.described if base.field is self.model.field else self._described(base)

    def _described(self, model: TrainedModel) -> Described:
        reference = self.model.reference
        return Described(model.field, self.data, 1 if reference is None else reference.regions)

    @cached_property
    def verdict(self) -> Verdict:
        """The multi-scale score with its p-values and the nearest reference images."""
        reference = self.reference
        descriptors = self.untilted.evidence(reference.levels)
        descriptors |= describe_fixed(self.images) | reference.describe_own(self.images)
        if ALTERED in reference.parts:
            descriptors[ALTERED] = pictures_of(self.images)
        return reference.assess(descriptors, identities_of(self.images))

    @cached_property
    def data(self) -> Tensor:
        """The images with unit variance, on the device of the model."""
        return self.model.statistics.standardise(self.images, self.model.device)

    @property
    def reference(self) -> Reference:
        """The reference of the model."""
        assert self.model.reference is not None  # `require_ready` has checked it
        return self.model.reference


@dataclass(frozen=True)
class Score:
    """An out-of-distribution score.

    Attributes:
        summary: one line that says what the score is.
        compute: maps a batch of N images to scores (N,); higher is more out-of-distribution.
        needs: the attribute of the model that calibration must have set, "reference" or "calibration"; None if none.
        costly: whether "all" leaves this score out.
        capability: the capability that the method must have.
    """

    summary: str
    compute: Callable[[Batch], Tensor]
    needs: str | None = None
    costly: bool = False
    capability: str = "free-energy"


def score(
    model: TrainedModel,
    images: Values,
    name: str = DEFAULT_SCORE,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """The out-of-distribution scores of images.

    Args:
        model: the model.
        images: (N, C, H, W), uint8 or in [0, 1], in the shape of the model.
        name: the name of the score, one of `SCORES`.
        seed: the seed of the noise of scores that use noise, which for image i depends only on (seed, i).
        first: the index of the first image, if these images are a part of a larger set.
        batch_size: the number of images that are scored at once. The result does not depend on it.
        on_batch: called with the number of images that are scored.
    Returns:
        float32 (N,) on the CPU; higher is more out-of-distribution.
    Raises:
        ConfigError: the score is unknown, the images do not fit the model, the method has no energy, or the
            unconditional field was not trained.
        CheckpointError: the score needs a calibrated model.
    """
    chosen = require_ready(model, name)
    parts = in_batches(chosen.compute, model, images, seed, first, batch_size, on_batch)
    return torch.cat([part.float().cpu() for part in parts]) if parts else torch.empty(0)


def assess(
    model: TrainedModel,
    images: Values,
    *,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> Verdict:
    """The default score of images with its p-values by kind of evidence and the nearest reference images.

    Arguments and errors are those of `score`, but there is at least one image.
    """
    require_ready(model, DEFAULT_SCORE)
    parts = in_batches(lambda batch: batch.verdict, model, images, batch_size=batch_size, on_batch=on_batch)
    return Verdict.joined(parts)


def in_batches(
    compute: Callable[[Batch], Part],
    model: TrainedModel,
    images: Values,
    seed: int = 0,
    first: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> list[Part]:
    """What is computed for each batch of images. Other arguments are those of `score`.

    Raises:
        FeatureError: a feature of a network of the user's own is not finite.
    """
    images, seed, first, parts = model.checked(images), require_seed(seed), require_index("first", first), []
    for rows in batches(len(images), batch_size):
        try:
            parts.append(compute(Batch(model, images[rows], first + rows.start, seed)))
        except FeatureError as error:
            raise FeatureError(error.network, rows.start + error.row) from error
        if on_batch is not None:
            on_batch(rows.stop)
    return parts


def find_score(name: str) -> Score:
    """The score of that name.

    Raises:
        ConfigError: there is no such score; the hint lists the scores.
    """
    if name not in SCORES:
        raise ConfigError(f"unknown score {name!r}", hint=f"scores: {', '.join(SCORES)}")
    return SCORES[name]


def find_scores(names: Iterable[str]) -> list[str]:
    """The distinct names of scores. "all" stands for all that are not costly, and no name for the default score.

    Raises:
        ConfigError: there is no such score; the hint lists the scores.
    """
    wanted: list[str] = []
    for name in names:
        wanted += [each for each in SCORES if not SCORES[each].costly] if name == ALL else [name]
    for name in wanted:
        find_score(name)
    return list(dict.fromkeys(wanted)) or [DEFAULT_SCORE]


def require_ready(model: TrainedModel, name: str) -> Score:
    """The score of that name, if the model has what it needs. Errors are those of `score`."""
    chosen = find_score(name)
    model.require("free-energy", "out-of-distribution detection")
    model.require(chosen.capability, f"the score {name}")
    model.require_null("out-of-distribution detection")
    if chosen.needs is not None and getattr(model, chosen.needs) is None:
        raise CheckpointError(
            f"the score {name!r} needs a calibrated model, but this one has no {chosen.needs}",
            hint="vpfb info --calibrate MODEL adds it; `score=energy` needs no calibration",
        )
    return chosen


def is_ready(model: TrainedModel, name: str) -> bool:
    """Whether the model has what the score needs."""
    try:
        require_ready(model, name)
    except VPFBError:
        return False
    return True


def needs_of(names: Iterable[str]) -> Needs:
    """What a model must have for scores of these names, of which "all" asks for nothing but an energy."""
    scores = [find_score(name) for name in names if name != ALL]
    return Needs(
        frozenset({"free-energy", *(score.capability for score in scores)}),
        frozenset(score.needs for score in scores if score.needs is not None),
    )


# --- the scores -------------------------------------------------------------------------------------------------------


def _multiscale(batch: Batch) -> Tensor:
    return batch.verdict.score


def _energy(batch: Batch) -> Tensor:
    return batch.described.energy(scalar_level(batch.model.field))


def _gradient(batch: Batch) -> Tensor:
    return batch.described.at(scalar_level(batch.model.field)).score_norm


def _typicality(batch: Batch) -> Tensor:
    energy = batch.untilted.energy(scalar_level(batch.untilted.field))
    return (energy - batch.reference.typical_energy).abs()


def _density(batch: Batch) -> Tensor:
    return -Density.choose(batch.model, seed=batch.seed).of(batch.images, batch.first)


def _likelihood(batch: Batch) -> Tensor:
    return -Density.choose(batch.model, "ode", seed=batch.seed).of(batch.images, batch.first)


def _dimension(batch: Batch) -> Tensor:
    field = batch.model.field
    return local_dimension(field, batch.data, scalar_level(field), batch.seed, batch.first)


SCORES: dict[str, Score] = {
    "multiscale": Score(
        "energies, score norms and features at ten noise levels, compared with training images",
        _multiscale,
        "reference",
    ),
    "energy": Score(f"energy, -log density at noise level {SCALAR_LEVEL:.2f}, up to a constant", _energy),
    "gradient": Score(
        f"norm of the score, the gradient of the log density, at noise level {SCALAR_LEVEL:.2f}", _gradient
    ),
    "typicality": Score("distance of the energy from the mean energy of training images", _typicality, "reference"),
    "density": Score(
        "-log density of the slightly blurred image, in nats", _density, "calibration", capability="density"
    ),
    "dimension": Score(
        f"local intrinsic dimension: directions without curvature of the energy at noise level {SCALAR_LEVEL:.2f}",
        _dimension,
        costly=True,
        capability="energy",
    ),
    "likelihood": Score("-log likelihood by the flow, in nats", _likelihood, costly=True, capability="flow"),
}
