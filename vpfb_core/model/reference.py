"""The reference of the multi-scale out-of-distribution score: descriptors of members, by kind of evidence.

Members are pictures that belong, such as those of the training. For each kind of evidence, the statistic of an image is
the log distance of its descriptors from their nearest neighbours among those of the members, in a whitened space. A
member is left out of its own neighbours, so that the statistics of members say what is usual, and pictures of the
training set are judged like others. Each statistic has a p-value, and the score is Fisher's combination of them, minus
the sum of their logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from vpfb_core.errors import CheckpointError

AXES = 64  # the largest number of principal directions
NEIGHBOURS = 5
NEAREST = 3  # the number of neighbours that a judgement names
# The weight of the neighbours' own spacing: 0 gives the plain distance, 1 the local outlier factor (Breunig et al.
# 2000). It corrects for kinds of images that vary more than others. 0.5 was the best value in the worst case.
SPACING_WEIGHT = 0.5
ROBUST_SHARE = 0.9  # the share of the members, the most usual ones, that defines the space
TAIL = 0.25  # the share of the members that are in the tail, whose p-values are exponential
_SMALLEST_DISTANCE = 1e-3  # in whitened units, so that duplicate images do not have a log distance of minus infinity
_SMALLEST_SPREAD = 0.05  # of the statistics in the tail, for sets of almost equal images
KINDS = ("recording", "content", "shape")  # of evidence: drawn or recorded, showing, or shaped in an unusual way
OWN = "network"  # the kind of evidence from a network of the user's own
_EARLIER_NAMES = {"scalars": "recording", "features": "content"}  # the kinds in files of earlier versions

Descriptors = dict[str, Tensor]  # the descriptors (N, F) of N images by kind of evidence, on the CPU


@dataclass(frozen=True, eq=False)
class Usual:
    """The distribution of a statistic among members.

    Attributes:
        values: the statistic of each member, (M,).
    """

    values: Tensor

    @cached_property
    def _ordered(self) -> Tensor:
        return self.values.double().sort().values

    @cached_property
    def _tail(self) -> tuple[float, float]:
        """Where the tail begins, and its scale.

        The scale is the maximum likelihood of an exponential tail of which the most unusual members are only known to
        be beyond the last one that defines what is usual. They may be outliers, and how far out they are is ignored.
        """
        start, end = (float(self._ordered.quantile(share, interpolation="lower")) for share in (1 - TAIL, ROBUST_SHARE))
        excess = (self._ordered[self._ordered > start] - start).clamp(max=end - start)
        known = max(1, int((excess < end - start).sum()))
        return start, max(float(excess.sum()) / known, _SMALLEST_SPREAD)

    def surprise(self, statistics: Tensor) -> Tensor:
        """The negative logarithms of the p-values of statistics (N,), float64 (N,).

        The p-value is the share of members that are at least as unusual, and beyond the beginning of the tail that of
        the exponential tail.
        """
        statistics = statistics.double().contiguous()
        not_below = len(self._ordered) - torch.searchsorted(self._ordered, statistics)
        body = -((1 + not_below) / (1 + len(self._ordered))).log()
        start, scale = self._tail
        tail = (statistics - start) / scale - torch.tensor(TAIL).log()
        return torch.where(statistics > start, tail, body)


class Neighbours(NamedTuple):
    """The neighbours of N images.

    Attributes:
        statistic: the log distance from the neighbours, relative to half of their own spacing, (N,).
        nearest: the members that are nearest, nearest first, int64 (N, K).
    """

    statistic: Tensor
    nearest: Tensor


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """A whitened space of descriptors with the points of members.

    Attributes:
        mean: the mean of the descriptors, (F,).
        axes: maps centred descriptors to the space, where they have about unit variance, (F, K).
        points: the points of the members, (M, K).
    """

    mean: Tensor
    axes: Tensor
    points: Tensor

    @classmethod
    def of(cls, descriptors: Tensor) -> Neighbourhood:
        """The neighbourhood of members with these descriptors, (M, F), M ≥ 2.

        The most unusual members do not define the space.
        """
        first = cls._of(descriptors, descriptors)
        kept = first.members.statistic.argsort()[: max(2, round(ROBUST_SHARE * len(descriptors)))]
        return cls._of(descriptors, descriptors[kept])

    @classmethod
    def _of(cls, descriptors: Tensor, usual: Tensor) -> Neighbourhood:
        """The neighbourhood of members in the space that some of them define."""
        usual = usual.double()
        mean, scale = usual.mean(0), usual.std(0, correction=0)
        scale = scale.clamp(min=1e-6 * float(usual.abs().max()) + 1e-12)
        variances, directions = principal_axes((usual - mean) / scale)
        axes = directions / variances.clamp(min=1e-6).sqrt() / scale[:, None]
        return cls(mean.float(), axes.float(), ((descriptors.double() - mean) @ axes).float())

    @cached_property
    def members(self) -> Neighbours:
        """The neighbours of the members, each of which is left out of its own."""
        return self._neighbours(self.points, torch.arange(len(self.points)))

    @cached_property
    def usual(self) -> Usual:
        """The distribution of the statistic among members."""
        return Usual(self.members.statistic)

    @cached_property
    def _spacing(self) -> Tensor:
        """The log distance of each member from its neighbours, (M,)."""
        return _log_mean(self._distances(self.points, torch.arange(len(self.points)))[0])

    def neighbours(self, descriptors: Tensor, own: Tensor) -> Neighbours:
        """The neighbours of images with these descriptors, (N, F).

        Args:
            descriptors: (N, F).
            own: the member that is the image itself and is left out, int64 (N,); −1 if there is none.
        Raises:
            CheckpointError: the descriptors have another dimension than those of the members.
        """
        if descriptors.shape[1] != len(self.mean):
            raise CheckpointError(
                f"the model computes {descriptors.shape[1]} descriptors per image, but its reference has "
                f"{len(self.mean)}",
                hint="fit the reference again with vpfb info --calibrate MODEL",
            )
        points = ((descriptors.double() - self.mean.double()) @ self.axes.double()).float()
        return self._neighbours(points, own)

    def _neighbours(self, points: Tensor, own: Tensor) -> Neighbours:
        distances, rows = self._distances(points, own)
        return Neighbours(_log_mean(distances) - SPACING_WEIGHT * self._spacing[rows].mean(1), rows[:, :NEAREST])

    def _distances(self, points: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """The distances of points (N, K) from their neighbours, and which members these are, (N, k) each."""
        distances = torch.cdist(points, self.points)
        itself = (own >= 0).nonzero()[:, 0]
        distances[itself, own[itself]] = torch.inf
        found = distances.topk(min(NEIGHBOURS, len(self.points) - 1), largest=False)
        return found.values, found.indices


def _log_mean(distances: Tensor) -> Tensor:
    """The logarithm of the mean distance, (N, k) → (N,)."""
    return distances.mean(1).clamp(min=_SMALLEST_DISTANCE).log()


class Judgement(NamedTuple):
    """How well N images fit a reference.

    Attributes:
        score: the multi-scale score, (N,); higher is more out-of-distribution.
        p_value: the share of members that have at least this score, (N,); None if the score is not calibrated.
        evidence: the p-values (N,) by kind of evidence.
        nearest: the rows of the members that are nearest to each image, in the data that the reference was fitted to,
            int64 (N, K); K = 0 if the rows are not known.
    """

    score: Tensor
    p_value: Tensor | None
    evidence: Mapping[str, Tensor]
    nearest: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Judgement]) -> Judgement:
        """The judgement of the images of several batches, of which there is at least one."""
        kinds = parts[0].evidence
        return cls(
            torch.cat([part.score for part in parts]),
            torch.cat([part.p_value for part in parts if part.p_value is not None]),
            {kind: torch.cat([part.evidence[kind] for part in parts]) for kind in kinds},
            torch.cat([part.nearest for part in parts]),
        )


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference of the multi-scale score: what is known of M members.

    Attributes:
        parts: the neighbourhood of each kind of evidence.
        identities: a number for each member by which it is recognised (`identities_of`), int64 (M,); empty if they are
            not known.
        rows: the rows of the members in the data that the reference was fitted to, int64 (M,); empty if they are not
            known.
        levels: the noise levels of the descriptors of a model; () without a model.
        typical_energy: the mean energy of members at the level of the scalar scores, in nats up to a constant.
        places: the side of the map of places over which features of the model are averaged.
        own: the function from images to the features of a network of the user's own; None if there is none. No file
            contains it.
    """

    parts: Mapping[str, Neighbourhood]
    identities: Tensor
    rows: Tensor
    levels: tuple[float, ...] = ()
    typical_energy: float = 0.0
    places: int = 1
    own: Callable[[Tensor], Tensor] | None = None

    def with_own(self, features: Tensor, own: Callable[[Tensor], Tensor]) -> Reference:
        """The reference with features of a network of the user's own, (M, F), as a further kind of evidence."""
        return replace(self, parts={**self.parts, OWN: Neighbourhood.of(features)}, own=own)

    def describe_own(self, images: Tensor) -> Descriptors:
        """The features of images (N, C, H, W) by the network of the user's own; none if there is no such network."""
        return {} if self.own is None else {OWN: self.own(images)}

    def judge(self, descriptors: Descriptors, identities: Tensor) -> Judgement:
        """How well N images with these descriptors and identities (N,) fit. A member is left out of its neighbours."""
        own = self._own(identities)
        found = {kind: part.neighbours(descriptors[kind], own) for kind, part in self.parts.items()}
        surprises = {kind: self.parts[kind].usual.surprise(each.statistic) for kind, each in found.items()}
        score = torch.stack(list(surprises.values())).sum(0)
        nearest = (found.get(OWN) or found.get("content") or next(iter(found.values()))).nearest
        return Judgement(
            score=score.float(),
            p_value=(-self._combined.surprise(score)).exp().float(),
            evidence={kind: (-surprise).exp().float() for kind, surprise in surprises.items()},
            nearest=self.rows[nearest] if len(self.rows) else nearest[:, :0],
        )

    @cached_property
    def _combined(self) -> Usual:
        """The distribution of the score among members."""
        return Usual(torch.stack([part.usual.surprise(part.usual.values) for part in self.parts.values()]).sum(0))

    def _own(self, identities: Tensor) -> Tensor:
        """The member that each image is, int64 (N,); −1 if it is none."""
        if not len(self.identities):
            return torch.full((len(identities),), -1)
        same = identities[:, None] == self.identities
        return torch.where(same.any(1), same.int().argmax(1), -1)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the reference by name, for a model file."""
        tensors = {
            "levels": torch.tensor(self.levels, dtype=torch.float64),
            "typical_energy": torch.tensor(self.typical_energy, dtype=torch.float64),
            "places": torch.tensor(self.places),
            "identities": self.identities,
            "rows": self.rows,
        }
        for kind, part in self.parts.items():
            if kind == OWN:
                continue
            tensors |= {f"{kind}/mean": part.mean, f"{kind}/axes": part.axes, f"{kind}/points": part.points}
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

        def part(name: str) -> Neighbourhood:
            found = Neighbourhood(*(tensors[f"{name}/{field}"] for field in ("mean", "axes", "points")))
            if [tensor.ndim for tensor in (found.mean, found.axes, found.points)] != [1, 2, 2]:
                raise ValueError(f"the {name} of the reference have the wrong dimensions")
            if not all(tensor.is_floating_point() for tensor in (found.mean, found.axes, found.points)):
                raise ValueError(f"the {name} of the reference are not floating-point numbers")
            (_, axes), (points, width) = found.axes.shape, found.points.shape
            if axes != width or found.mean.shape != found.axes.shape[:1] or points < 2:
                raise ValueError(f"the {name} of the reference do not fit each other")
            return found

        names = {each.rpartition("/")[0] for each in tensors if "/" in each}
        found = {_EARLIER_NAMES.get(name, name): part(name) for name in names}
        parts = {kind: found[kind] for kind in KINDS if kind in found}
        identities, rows = (tensors.get(name, torch.empty(0, dtype=torch.int64)) for name in ("identities", "rows"))
        counts = {len(part.points) for part in parts.values()}
        places = tensors.get("places", torch.tensor(1))
        if len(counts) != 1 or any(each.dtype != torch.int64 for each in (identities, rows, places)):
            raise ValueError("the parts of the reference do not fit each other")
        if any(len(each) and each.shape != (*counts,) for each in (identities, rows)) or not 1 <= int(places) <= 64:
            raise ValueError("the members of the reference do not fit each other")
        levels = tuple(tensors["levels"].tolist())
        if len(parts["recording"].mean) != 2 * len(levels):
            raise ValueError(f"the reference has {len(parts['recording'].mean)} scalars for {len(levels)} levels")
        return cls(parts, identities, rows, levels, float(tensors["typical_energy"]), int(places))


def identities_of(values: Tensor) -> Tensor:
    """A number for each of N images or rows that equal ones share and others do not, int64 (N,).

    It is a random linear form of the bits of the values modulo 2⁶⁴.
    """
    images = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    bits = images.flatten(1).contiguous().cpu().view(torch.int32).long()
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator)
    return torch.cat([(part * factors).sum(1) for part in bits.split(64)])


def principal_axes(centred: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (K,) of the shrunk covariance of M centred points (M, F), and its eigenvectors (F, K).

    The covariance is shrunk towards a multiple of the identity, which makes that of few points in many dimensions
    usable (Ledoit and Wolf 2004, Journal of Multivariate Analysis 88:365). K is at most `AXES`, M and F.
    """
    count, dimension = centred.shape
    # The matrix of the inner products of points has the same eigenvalues; the smaller of both matrices is used.
    wide = dimension > count
    matrix = (centred @ centred.T if wide else centred.T @ centred) / count
    mean, square = matrix.diagonal().sum() / dimension, matrix.square().sum()
    apart = square - dimension * mean.square()
    error = (centred.square().sum(1).square().mean() - square) / count
    share = min(1.0, float(error / apart)) if apart > 0 else 0.0
    variances, vectors = torch.linalg.eigh(matrix)
    variances, vectors = variances[-AXES:].clamp(min=0), vectors[:, -AXES:]
    if wide:
        vectors = centred.T @ vectors / (count * variances).sqrt().clamp(min=1e-12)
    return (1 - share) * variances + share * mean, vectors
