"""Out-of-distribution scores by name. In every one of them a higher score means more out-of-distribution.

A scalar reads one property of an image and can be fooled by another: smooth images have high density under models of
detailed ones (Nalisnick et al. 2019, arXiv 1810.09136). `multiscale` compares many properties with those of the
training images at once, and is the default because it is best in the worst case over the pairs that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.model.reference import Reference
from vpfb_core.model.trained import TrainedModel
from vpfb_core.uses import density
from vpfb_core.uses.ood.readings import SCALAR_LEVEL, read, read_all, scalar_level

DEFAULT_SCORE = "multiscale"
ALL = "all"
DEFAULT_BATCH = 64


@dataclass(frozen=True)
class Batch:
    """Images to be scored, as a model sees them.

    Attributes:
        model: that judges.
        images: (N, C, H, W), uint8 or in [0, 1].
        first: the index of the first of them; noise of image i is fixed by (seed, i).
    """

    model: TrainedModel
    images: Tensor
    first: int
    seed: int

    @property
    def data(self) -> Tensor:
        """The images standardised to unit variance, on the model's device."""
        return self.model.standardise(self.images)

    @property
    def reference(self) -> Reference:
        assert self.model.reference is not None  # `score` has asked
        return self.model.reference


@dataclass(frozen=True)
class Score:
    """A score: what it is in one line, how a batch is scored, and what it needs beside the potential.

    Attributes:
        summary: for people.
        compute: a batch of N images → (N,), higher is more out-of-distribution.
        needs: what of the model calibration must have made: "reference", "calibration" or nothing.
        costly: left out of "all".
    """

    summary: str
    compute: Callable[[Batch], Tensor]
    needs: str | None = None
    costly: bool = False


def score(
    model: TrainedModel,
    images: Tensor,
    name: str = DEFAULT_SCORE,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int = DEFAULT_BATCH,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """How little images look like those that the model was trained on.

    Args:
        images: (N, C, H, W), uint8 or in [0, 1], of the model's shape.
        name: one of `SCORES`.
        seed: of the noise, for scores that draw any; that of image i is fixed by (seed, i).
        first: index of the first image, where these are a part of many.
        batch_size: images at once; the result does not depend on it.
        on_batch: hears how many images have been scored.
    Returns:
        float32 (N,) on the CPU; higher is more out-of-distribution.
    Raises:
        ConfigError: an unknown score, images that do not fit the model, a method without an energy, or a field without
            a class that was not trained.
        CheckpointError: the score needs what calibration makes, and the model lacks it.
    """
    chosen = require_ready(model, name)
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: at least one image must be scored at once")
    parts = []
    for start in range(0, len(images), batch_size):
        part = chosen.compute(Batch(model, images[start : start + batch_size], first + start, seed))
        parts.append(part.float().cpu())
        if on_batch is not None:
            on_batch(min(start + batch_size, len(images)))
    return torch.cat(parts) if parts else torch.empty(0)


def find_score(name: str) -> Score:
    """The score of that name. Raises ConfigError with the names that exist."""
    if name not in SCORES:
        raise ConfigError(f"no score {name!r}", hint=f"scores: {', '.join(SCORES)}")
    return SCORES[name]


def find_scores(names: Iterable[str]) -> list[str]:
    """The scores that are meant: each once, "all" for all that are not costly, none for the default.

    Raises ConfigError with the names that exist.
    """
    wanted: list[str] = []
    for name in names:
        wanted += [each for each in SCORES if not SCORES[each].costly] if name == ALL else [name]
    for name in wanted:
        find_score(name)
    return list(dict.fromkeys(wanted)) or [DEFAULT_SCORE]


def require_ready(model: TrainedModel, name: str) -> Score:
    """The score of that name, if the model has what it needs; errors as of `score`."""
    chosen = find_score(name)
    model.require("energy", "out-of-distribution detection")
    model.require_null("out-of-distribution detection")
    if not is_ready(model, name):
        raise CheckpointError(
            f"the score {name!r} needs a calibrated model: this one has no {chosen.needs}",
            hint="vpfb info --calibrate MODEL adds it; --score energy needs nothing",
        )
    return chosen


def is_ready(model: TrainedModel, name: str) -> bool:
    """Whether the model has what the score needs."""
    needs = find_score(name).needs
    return needs is None or getattr(model, needs) is not None


# --- the scores -------------------------------------------------------------------------------------------------------


def _multiscale(batch: Batch) -> Tensor:
    return batch.reference.strangeness(read_all(batch.model.field, batch.data, batch.reference.levels))


def _energy(batch: Batch) -> Tensor:
    return read(batch.model.field, batch.data, scalar_level(batch.model.field)).energy


def _gradient(batch: Batch) -> Tensor:
    return read(batch.model.field, batch.data, scalar_level(batch.model.field)).score_norm


def _typicality(batch: Batch) -> Tensor:
    return (_energy(batch) - batch.reference.typical_energy).abs()


def _density(batch: Batch) -> Tensor:
    return -density.log_density(batch.model, batch.images, seed=batch.seed, first=batch.first)


def _likelihood(batch: Batch) -> Tensor:
    return -density.log_density(batch.model, batch.images, method="ode", seed=batch.seed, first=batch.first)


SCORES: dict[str, Score] = {
    "multiscale": Score(
        "energies, score norms and features at ten levels, against those of training images", _multiscale, "reference"
    ),
    "energy": Score(f"energy, −log density at noise level {SCALAR_LEVEL:.2f}, up to a constant", _energy),
    "gradient": Score(
        f"norm of the score, the gradient of the log density, at noise level {SCALAR_LEVEL:.2f}", _gradient
    ),
    "typicality": Score("distance of the energy from that of a typical training image", _typicality, "reference"),
    "density": Score("−log density of the slightly blurred image, nats", _density, "calibration"),
    "likelihood": Score("−log likelihood by the flow, nats", _likelihood, costly=True),
}
