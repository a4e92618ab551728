"""The reference of the multi-scale out-of-distribution score: descriptors of its images, by kind of evidence.

Reference images are in-distribution, such as training images. For each kind of evidence, an image has a statistic
with a p-value p (`neighbourhood.py`), and the score is a norm of all -log p.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vpfb_core.model.detector import Alterations
from vpfb_core.model.neighbourhood import Neighbourhood, Neighbours, NullDistribution
from vpfb_core.model.regions import Regions

ALTERED = "altered"
# The kinds of evidence: energies and score norms of the model at its noise levels; score norms at three of them, which
# say how much the model would change the image to remove noise; strength of details of each size and the mean colour;
# features of the model; directions of edges; directions from dark to light; both directions in the most unusual region;
# what networks say that were trained to tell altered images.
KINDS = ("recording", "denoising", "detail", "content", "shape", "shading", "part", ALTERED)
OWN = "network"  # the kind of evidence from a network of the user's own
_EARLIER_NAMES = {"scalars": "recording", "features": "content"}  # the kinds in files of earlier versions

# How much the surprise of a kind counts; 1 if it is not here. Three kinds say how an image was recorded and four what
# it shows, and those of each are correlated. One kind says whether it was altered.
_WEIGHTS = {ALTERED: 1.5}
# The norm of the surprises that is the score. Compared with their sum (Fisher), it found more outliers, since most
# outliers are very unusual in one way only. With the Euclidean norm, averages of two images were missed, and with the
# maximum, digits that were turned.
_NORM = 3

# The descriptors (N, F) of N images by kind of evidence, on the CPU. Those of `part` are (N, P, F), for P regions, and
# those of `altered` the pictures that detectors are given, uint8 (N, C, H, W).
Descriptors = dict[str, Tensor]


class Part(Protocol):
    """What a reference knows of one kind of evidence. The p-values of its statistic are by the null distribution."""

    @property
    def null(self) -> NullDistribution: ...
    def __len__(self) -> int: ...
    def neighbours(self, descriptors: Tensor, own: Tensor) -> Neighbours: ...
    def tensors(self) -> dict[str, Tensor]: ...


_PARTS: dict[str, type[Neighbourhood | Regions | Alterations]] = {"part": Regions, ALTERED: Alterations}


class Verdict(NamedTuple):
    """The score of N images relative to a reference, with what it is based on.

    Attributes:
        score: the multi-scale score, (N,); higher is more out-of-distribution.
        p_value: the share of reference images that have at least this score, (N,); None if the score is not calibrated.
        evidence: the p-values (N,) by kind of evidence.
        nearest: the rows of the reference images that are nearest to each image, in the data that the reference was
            fitted to, int64 (N, K); K = 0 if the rows are not known.
    """

    score: Tensor
    p_value: Tensor | None
    evidence: Mapping[str, Tensor]
    nearest: Tensor

    @classmethod
    def of(cls, score: Tensor) -> Verdict:
        """A score (N,) that is not calibrated by a reference."""
        return cls(score, None, {}, torch.empty(len(score), 0, dtype=torch.int64))

    @classmethod
    def joined(cls, parts: Sequence[Verdict]) -> Verdict:
        """The verdict of the images of several batches, of which there is at least one, by the same score."""
        kinds = parts[0].evidence
        p_values = [part.p_value for part in parts if part.p_value is not None]
        return cls(
            torch.cat([part.score for part in parts]),
            torch.cat(p_values) if p_values else None,
            {kind: torch.cat([part.evidence[kind] for part in parts]) for kind in kinds},
            torch.cat([part.nearest for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference of the multi-scale score: what is known of its M images.

    Attributes:
        parts: what is known of each kind of evidence.
        identities: a number for each reference image by which it is recognised (`identities.py`), int64 (M,); empty if
            they are not known.
        rows: the rows of the reference images in the data that the reference was fitted to, int64 (M,); empty if they
            are not known.
        levels: the noise levels of the descriptors of a model; () without a model.
        typical_energy: the mean energy of these images at the level of the scalar scores, in nats up to a constant.
        regions: the side of the grid of regions over which features of the model are averaged.
        own: the function from images to the features of a network of the user's own; None if there is none. No file
            contains it.
    """

    parts: Mapping[str, Part]
    identities: Tensor
    rows: Tensor
    levels: tuple[float, ...] = ()
    typical_energy: float = 0.0
    regions: int = 1
    own: Callable[[Tensor], Tensor] | None = None

    def with_own(self, features: Tensor, own: Callable[[Tensor], Tensor]) -> Reference:
        """The reference with features of a network of the user's own, (M, F), as a further kind of evidence."""
        return replace(self, parts={**self.parts, OWN: Neighbourhood.of(features)}, own=own)

    def with_detectors(self, alterations: Alterations) -> Reference:
        """The reference with detectors of alterations as a further kind of evidence."""
        return replace(self, parts={**self.parts, ALTERED: alterations})

    def describe_own(self, images: Tensor) -> Descriptors:
        """The features of images (N, C, H, W) by the network of the user's own; none if there is no such network."""
        return {} if self.own is None else {OWN: self.own(images)}

    def assess(self, descriptors: Descriptors, identities: Tensor) -> Verdict:
        """The verdict on N images with these descriptors and identities (N,).

        A reference image is left out of its own neighbours.
        """
        own = self._own(identities)
        detail = self.parts.get("detail")
        if isinstance(detail, Neighbourhood):  # in an earlier version without colours, which are the last of them
            descriptors = {**descriptors, "detail": descriptors["detail"][:, : len(detail.mean)]}
        found = {kind: part.neighbours(descriptors[kind], own) for kind, part in self.parts.items()}
        surprises = {kind: self.parts[kind].null.surprise(each.statistic) for kind, each in found.items()}
        score = _combined(surprises)
        nearest = (found.get(OWN) or found.get("content") or next(iter(found.values()))).nearest
        return Verdict(
            score=score.float(),
            p_value=(-self._null.surprise(score)).exp().float(),
            evidence={kind: (-surprise).exp().float() for kind, surprise in surprises.items()},
            nearest=self.rows[nearest] if len(self.rows) else nearest[:, :0],
        )

    @cached_property
    def _null(self) -> NullDistribution:
        """The distribution of the score among reference images."""
        surprises = {kind: part.null.surprise(part.null.values) for kind, part in self.parts.items()}
        return NullDistribution(_combined(surprises))

    def _own(self, identities: Tensor) -> Tensor:
        """The index of the reference image that each image is, int64 (N,); −1 if it is none."""
        if not len(self.identities):
            return torch.full((len(identities),), -1)
        same = identities[:, None] == self.identities
        return torch.where(same.any(1), same.int().argmax(1), -1)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the reference by name, for a model file."""
        tensors = {
            "levels": torch.tensor(self.levels, dtype=torch.float64),
            "typical_energy": torch.tensor(self.typical_energy, dtype=torch.float64),
            "places": torch.tensor(self.regions),
            "identities": self.identities,
            "rows": self.rows,
        }
        for kind, part in self.parts.items():
            if kind == OWN:
                continue
            tensors |= {f"{kind}/{name}": tensor for name, tensor in part.tensors().items()}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Reference:
        """The reference with these tensors, of this version or of an earlier one.

        Raises:
            KeyError, ValueError: a tensor is missing or does not fit the others.
        """
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("the reference contains numbers that are not finite")
        if tensors["levels"].ndim != 1 or tensors["typical_energy"].ndim != 0 or not (tensors["levels"] >= 0).all():
            raise ValueError("the levels of the reference are not numbers from 0 on")

        def part(kind: str, name: str) -> Part:
            own = {
                each.removeprefix(f"{name}/"): tensor for each, tensor in tensors.items() if each.startswith(f"{name}/")
            }
            return _PARTS.get(kind, Neighbourhood).from_tensors(_of_today(own) if name in _EARLIER_NAMES else own)

        names = {each.rpartition("/")[0] for each in tensors if "/" in each}
        kinds = {_EARLIER_NAMES.get(name, name): name for name in names}
        parts = {kind: part(kind, kinds[kind]) for kind in KINDS if kind in kinds}
        identities, rows = (tensors.get(name, torch.empty(0, dtype=torch.int64)) for name in ("identities", "rows"))
        counts = {len(part) for part in parts.values()}
        regions = tensors.get("places", torch.tensor(1))
        if len(counts) != 1 or any(each.dtype != torch.int64 for each in (identities, rows, regions)):
            raise ValueError("the parts of the reference do not fit each other")
        if any(len(each) and each.shape != (*counts,) for each in (identities, rows)) or not 1 <= int(regions) <= 64:
            raise ValueError("the images of the reference do not fit each other")
        levels, recording = tuple(tensors["levels"].tolist()), parts["recording"]
        assert isinstance(recording, Neighbourhood)
        if len(recording.mean) != 2 * len(levels):
            raise ValueError(f"the reference has {len(recording.mean)} scalars for {len(levels)} levels")
        return cls(parts, identities, rows, levels, float(tensors["typical_energy"]), int(regions))


def _combined(surprises: Mapping[str, Tensor]) -> Tensor:
    """The score of N images whose p-values have these negative logarithms (N,) by kind of evidence, (N,)."""
    return torch.stack([_WEIGHTS.get(kind, 1.0) * surprise for kind, surprise in surprises.items()]).norm(_NORM, dim=0)


def _of_today(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a neighbourhood of an earlier version, whose axes were stretched, as those of today.

    Nothing outside of the axes counted.

    Raises:
        KeyError, ValueError: a tensor is missing or has another number of dimensions.
    """
    points = tensors["points"].float()
    count, axes = points.shape
    return tensors | {
        "unit": torch.ones_like(tensors["mean"]),
        "stretch": torch.cat([torch.ones(axes), torch.zeros(1)]),
        "points": torch.cat([points, torch.zeros(count, 1)], 1),
    }
