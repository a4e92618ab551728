"""How well a score tells strangers from members: AUROC, AUPR both ways, FPR at 95 % TPR.

Everywhere a higher score means more out-of-distribution, and only the order of the scores counts: an infinite score is
the most extreme there is, and a NaN, which has no place in any order, is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import DataError

NORMAL_975 = 1.959963984540054  # the 97.5 % point of the normal distribution
KEPT = 0.95  # share of the members that the threshold of `fpr95` keeps


@dataclass(frozen=True)
class Detection:
    """What a score is worth on one pair of sets.

    Attributes:
        auroc: probability that a stranger scores above a member, ties counting half.
        auroc_ci: its 95 % interval.
        aupr_in: area under precision and recall (average precision) with the members as positives, lowest score first.
        aupr_out: the same with the strangers as positives, highest score first.
        fpr95: share of the strangers taken for members where the threshold keeps 95 % of the members.
        n_in, n_out: how many members and strangers.
    """

    auroc: float
    auroc_ci: tuple[float, float]
    aupr_in: float
    aupr_out: float
    fpr95: float
    n_in: int
    n_out: int


def compare(members: Tensor, strangers: Tensor) -> Detection:
    """All measures for the scores of members (N_in,) and of strangers (N_out,).

    Raises:
        DataError: a set is empty, or a score is NaN.
    """
    return Detection(
        auroc=auroc(members, strangers),
        auroc_ci=auroc_interval(members, strangers),
        aupr_in=average_precision(-strangers, -members),
        aupr_out=average_precision(members, strangers),
        fpr95=fpr_at_tpr(members, strangers),
        n_in=len(members),
        n_out=len(strangers),
    )


def auroc(members: Tensor, strangers: Tensor) -> float:
    """P(stranger > member) + ½ P(equal), from ranks (Mann–Whitney). Arguments and errors as in `compare`."""
    return float(_placements(members, strangers).mean())


def auroc_interval(members: Tensor, strangers: Tensor) -> tuple[float, float]:
    """The 95 % interval of the AUROC: DeLong et al. 1988 on the logit scale, never narrower than ranks can tell.

    DeLong's variance is zero where the sets do not overlap, however few they are. The interval is therefore joined
    with that of Newcombe 2006 (Statistics in Medicine 25:559, method 5), which supposes nothing but the counts.
    Arguments and errors as in `compare`.
    """
    of_strangers = _placements(members, strangers)
    of_members = _placements(-strangers, -members)
    area = float(of_strangers.mean())
    variance = _variance_of_mean(of_strangers) + _variance_of_mean(of_members)
    low, high = _newcombe(area, len(members), len(strangers))
    if 0 < area < 1 and variance > 0:
        logit, width = math.log(area / (1 - area)), NORMAL_975 * variance**0.5 / (area * (1 - area))
        low, high = min(low, _logistic(logit - width)), max(high, _logistic(logit + width))
    return low, high


def average_precision(negatives: Tensor, positives: Tensor) -> float:
    """Σ (R_n − R_{n−1}) P_n over the thresholds from the highest score down. Errors as in `compare`.

    Args:
        negatives: their scores, (N,).
        positives: theirs, (M,), which should be higher.
    """
    _check(negatives, positives)
    scores = torch.cat([negatives, positives]).double()
    positive = torch.cat([torch.zeros(len(negatives)), torch.ones(len(positives))]).double()
    scores, order = scores.sort(descending=True, stable=True)
    last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])  # of its run of equal scores
    found = positive[order].cumsum(0)[last]
    taken = torch.arange(1, len(scores) + 1)[last]
    recall = found / len(positives)
    return float((torch.diff(recall, prepend=torch.zeros(1).double()) * found / taken).sum())


def fpr_at_tpr(members: Tensor, strangers: Tensor, kept: float = KEPT) -> float:
    """Share of the strangers at or below the lowest score that keeps at least `kept` of the members.

    Members are the positives, as is the custom: 0 is perfect, `kept` is chance. Other errors as in `compare`.
    """
    _check(members, strangers)
    needed = math.ceil(kept * len(members) - 1e-9)  # 0.95 · 20 is 19, whatever the floats say
    threshold = members.sort().values[max(needed, 1) - 1]
    return float((strangers <= threshold).double().mean())


def _placements(members: Tensor, strangers: Tensor) -> Tensor:
    """For each stranger the share of the members below it, equal ones counting half; float64 (N_out,)."""
    _check(members, strangers)
    ordered = members.sort().values
    below = torch.searchsorted(ordered, strangers.contiguous())
    not_above = torch.searchsorted(ordered, strangers.contiguous(), right=True)
    return (below + not_above).double() / (2 * len(members))


def _variance_of_mean(values: Tensor) -> float:
    return float(values.var() / len(values)) if len(values) > 1 else 0.0


def _newcombe(area: float, n_in: int, n_out: int) -> tuple[float, float]:
    """The areas whose own deviation puts the estimate at 1.96 of it, below and above, by bisection."""
    each = (n_in + n_out) / 2 - 1

    def deviation(true: float) -> float:
        spread = (1 - true) / (2 - true) + true / (1 + true)
        return math.sqrt(true * (1 - true) * (1 + each * spread) / (n_in * n_out))

    def bound(end: float) -> float:
        inside, outside = area, end
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(middle - area) <= NORMAL_975 * deviation(middle):
                inside = middle
            else:
                outside = middle
        return inside

    return bound(0.0), bound(1.0)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def _check(members: Tensor, strangers: Tensor) -> None:
    for name, scores in (("in-distribution", members), ("out-of-distribution", strangers)):
        if not len(scores):
            raise DataError(f"no {name} images: there is nothing to compare")
        if scores.isnan().any():
            index = int(scores.isnan().nonzero()[0])
            raise DataError(f"the score of {name} image {index} is NaN", hint="the model may have diverged")
