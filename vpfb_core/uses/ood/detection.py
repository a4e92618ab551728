"""Measures of how well a score detects out-of-distribution images: AUROC, AUPR of both classes, and FPR at 95 % TPR.

A higher score always means more out-of-distribution. The measures depend only on the order of the scores. Infinite
scores are allowed; NaN cannot be ordered and is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpfb_core.errors import DataError

NORMAL_975 = 1.959963984540054  # the 97.5 % point of the normal distribution
TPR = 0.95  # the true positive rate of `fpr95`


@dataclass(frozen=True)
class Detection:
    """The measures of one score for one pair of sets.

    Attributes:
        auroc: the probability that an out-of-distribution image has a higher score than an in-distribution image, where
            a tie counts one half.
        auroc_ci: the 95 % confidence interval of the AUROC.
        aupr_in: the area under the precision-recall curve (average precision) with in-distribution images as positives.
        aupr_out: the same with out-of-distribution images as positives.
        fpr95: the share of out-of-distribution images below the threshold that accepts 95 % of the in-distribution
            images.
        n_in, n_out: the number of images in each set.
    """

    auroc: float
    auroc_ci: tuple[float, float]
    aupr_in: float
    aupr_out: float
    fpr95: float
    n_in: int
    n_out: int


def compare(in_scores: Tensor, out_scores: Tensor) -> Detection:
    """All measures for the scores of in-distribution images (N_in,) and out-of-distribution images (N_out,).

    Raises:
        DataError: a set is empty, or a score is NaN.
    """
    return Detection(
        auroc=auroc(in_scores, out_scores),
        auroc_ci=auroc_interval(in_scores, out_scores),
        aupr_in=average_precision(-out_scores, -in_scores),
        aupr_out=average_precision(in_scores, out_scores),
        fpr95=fpr_at_tpr(in_scores, out_scores),
        n_in=len(in_scores),
        n_out=len(out_scores),
    )


def auroc(in_scores: Tensor, out_scores: Tensor) -> float:
    """P(out > in) + ½ P(out = in), from ranks (Mann–Whitney). Arguments and errors are those of `compare`."""
    return float(_placements(in_scores, out_scores).mean())


def auroc_interval(in_scores: Tensor, out_scores: Tensor) -> tuple[float, float]:
    """The 95 % confidence interval of the AUROC: DeLong et al. 1988 on the logit scale, united with Newcombe 2006.

    DeLong's variance is zero for sets that do not overlap, however small they are. The interval therefore includes that
    of Newcombe (Statistics in Medicine 25:559, method 5), which depends only on the AUROC and the numbers of images.
    Arguments and errors are those of `compare`.
    """
    out_placements = _placements(in_scores, out_scores)
    in_placements = _placements(-out_scores, -in_scores)
    area = float(out_placements.mean())
    variance = _variance_of_mean(out_placements) + _variance_of_mean(in_placements)
    low, high = _newcombe(area, len(in_scores), len(out_scores))
    if 0 < area < 1 and variance > 0:
        logit, width = math.log(area / (1 - area)), NORMAL_975 * variance**0.5 / (area * (1 - area))
        low, high = min(low, _logistic(logit - width)), max(high, _logistic(logit + width))
    return low, high


def average_precision(negatives: Tensor, positives: Tensor) -> float:
    """The average precision Σ (Rₙ − Rₙ₋₁) Pₙ over the thresholds from the highest score down.

    Args:
        negatives: the scores of the negatives, (N,).
        positives: the scores of the positives, which should be higher, (M,).
    Raises:
        DataError: a set is empty, or a score is NaN.
    """
    _check(negatives, positives)
    scores = torch.cat([negatives, positives]).double()
    positive = torch.cat([torch.zeros(len(negatives)), torch.ones(len(positives))]).double()
    scores, order = scores.sort(descending=True, stable=True)
    # Equal scores share one threshold, so that only the last one of them counts.
    last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])
    found = positive[order].cumsum(0)[last]
    taken = torch.arange(1, len(scores) + 1)[last]
    recall = found / len(positives)
    return float((torch.diff(recall, prepend=torch.zeros(1).double()) * found / taken).sum())


def fpr_at_tpr(in_scores: Tensor, out_scores: Tensor) -> float:
    """The share of out-of-distribution images at or below the threshold that accepts a share `TPR` of the others.

    In-distribution images are the positives, as is usual. 0 is perfect, and `TPR` is chance. Errors are those of
    `compare`.
    """
    _check(in_scores, out_scores)
    needed = math.ceil(TPR * len(in_scores) - 1e-9)  # 0.95 · 20 must give 19 despite rounding
    threshold = in_scores.sort().values[max(needed, 1) - 1]
    return float((out_scores <= threshold).double().mean())


def _placements(in_scores: Tensor, out_scores: Tensor) -> Tensor:
    """For each out score, the share of in scores below it, where equal ones count one half, float64 (N_out,)."""
    _check(in_scores, out_scores)
    ordered = in_scores.sort().values
    below = torch.searchsorted(ordered, out_scores.contiguous())
    not_above = torch.searchsorted(ordered, out_scores.contiguous(), right=True)
    return (below + not_above).double() / (2 * len(in_scores))


def _variance_of_mean(values: Tensor) -> float:
    return float(values.var() / len(values)) if len(values) > 1 else 0.0


def _newcombe(area: float, n_in: int, n_out: int) -> tuple[float, float]:
    """The lower and the upper area that are 1.96 of their own standard errors away from the estimate, by bisection."""
    each = (n_in + n_out) / 2 - 1

    def standard_error(true: float) -> float:
        spread = (1 - true) / (2 - true) + true / (1 + true)
        return math.sqrt(true * (1 - true) * (1 + each * spread) / (n_in * n_out))

    def bound(end: float) -> float:
        inside, outside = area, end
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(middle - area) <= NORMAL_975 * standard_error(middle):
                inside = middle
            else:
                outside = middle
        return inside

    return bound(0.0), bound(1.0)


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def _check(in_scores: Tensor, out_scores: Tensor) -> None:
    for name, scores in (("in-distribution", in_scores), ("out-of-distribution", out_scores)):
        if not len(scores):
            raise DataError(f"there are no {name} images to compare")
        if scores.isnan().any():
            index = int(scores.isnan().nonzero()[0])
            raise DataError(f"the score of {name} image {index} is NaN", hint="the training may have diverged")
