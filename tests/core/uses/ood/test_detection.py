"""AUROC, AUPR and FPR against scikit-learn and against counting by hand, their sign included."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor

from vpfb_core.errors import DataError
from vpfb_core.uses.ood.detection import auroc, auroc_interval, average_precision, compare, fpr_at_tpr


def draw(seed: int, n_in: int, n_out: int, shift: float, ties: bool) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    in_scores, out_scores = torch.randn(n_in, generator=random), torch.randn(n_out, generator=random) + shift
    return (in_scores.mul(2).round(), out_scores.mul(2).round()) if ties else (in_scores, out_scores)


def labelled(in_scores: Tensor, out_scores: Tensor) -> tuple[list[int], list[float]]:
    return [0] * len(in_scores) + [1] * len(out_scores), torch.cat([in_scores, out_scores]).tolist()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("n_in", "n_out", "shift"), [(200, 200, 1.0), (37, 400, 2.5), (300, 11, -0.7), (5, 5, 0.0)])
def test_the_measures_are_those_of_scikit_learn(n_in: int, n_out: int, shift: float, ties: bool) -> None:
    in_scores, out_scores = draw(n_in, n_in, n_out, shift, ties)
    outside, scores = labelled(in_scores, out_scores)
    found = compare(in_scores, out_scores)
    assert found.auroc == pytest.approx(sklearn.roc_auc_score(outside, scores), abs=1e-12)
    assert found.aupr_out == pytest.approx(sklearn.average_precision_score(outside, scores), abs=1e-12)
    inside, turned = [1 - label for label in outside], [-score for score in scores]
    assert found.aupr_in == pytest.approx(sklearn.average_precision_score(inside, turned), abs=1e-12)
    false_positives, true_positives, _ = sklearn.roc_curve(inside, turned, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(float(false_positives[true_positives >= 0.95].min()), abs=1e-12)
    assert (found.n_in, found.n_out) == (n_in, n_out)


def test_a_higher_score_means_more_out_of_distribution() -> None:
    in_scores, out_scores = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([5.0, 6.0])
    found = compare(in_scores, out_scores)
    assert (found.auroc, found.aupr_in, found.aupr_out, found.fpr95) == (1, 1, 1, 0)
    turned = compare(-in_scores, -out_scores)
    assert (turned.auroc, turned.fpr95) == (0, 1)
    assert turned.aupr_in < 0.6
    assert turned.aupr_out < 0.6


def test_by_hand_with_a_tie() -> None:
    """Pairs (in, out): (1,1) equal, (1,3) right, (2,1) wrong, (2,3) right: 2.5 of 4."""
    assert auroc(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])) == 2.5 / 4


def test_only_the_order_counts() -> None:
    """torchmetrics squashes scores outside [0, 1] through a sigmoid, which makes large ones equal."""
    in_scores, out_scores = draw(0, 100, 100, 1.0, False)
    assert compare(in_scores * 1e4 + 1e5, out_scores * 1e4 + 1e5) == compare(in_scores, out_scores)
    assert auroc(in_scores, out_scores + 200) == 1


def test_an_infinite_score_is_the_most_extreme_and_nan_is_an_error_that_names_the_image() -> None:
    in_scores, out_scores = torch.tensor([0.0, 1.0]), torch.tensor([math.inf, 2.0, math.inf])
    assert auroc(in_scores, out_scores) == 1
    assert auroc(out_scores, in_scores) == 0
    assert average_precision(in_scores, out_scores) == 1
    with pytest.raises(DataError, match="in-distribution image 1 is NaN"):
        compare(torch.tensor([0.0, math.nan]), out_scores)
    with pytest.raises(DataError, match="out-of-distribution image 0 is NaN"):
        compare(in_scores, torch.tensor([math.nan]))


def test_an_empty_set_is_an_error() -> None:
    with pytest.raises(DataError, match="no out-of-distribution images"):
        compare(torch.zeros(3), torch.zeros(0))


def test_95_per_cent_of_twenty_images_are_nineteen() -> None:
    in_scores = torch.arange(20.0)
    assert fpr_at_tpr(in_scores, torch.tensor([17.5, 18.0, 18.5, 19.5])) == 0.5, "the threshold is the 19th, 18.0"
    assert fpr_at_tpr(torch.zeros(4), torch.zeros(4)) == 1, "equal scores cannot be told apart"


def test_the_interval_contains_the_true_area_95_times_in_100() -> None:
    """Of normal scores whose area is known; far from 1 and so near to it that DeLong's alone covers it too rarely."""
    random = torch.Generator().manual_seed(3)
    for true in (0.7, 0.95, 0.995):
        shift = math.sqrt(2) * float(torch.special.ndtri(torch.tensor(true)))
        trials = 300
        covered = 0
        for _ in range(trials):
            in_scores = torch.randn(120, generator=random)
            low, high = auroc_interval(in_scores, torch.randn(60, generator=random) + shift)
            covered += low <= true <= high
        assert covered / trials > 0.93


def test_the_interval_is_delongs_where_the_sets_overlap() -> None:
    """DeLong's variance counted pair by pair, on the logit scale."""
    in_scores, out_scores = draw(1, 60, 40, 0.8, True)
    wins = (out_scores[:, None] > in_scores).double() + 0.5 * (out_scores[:, None] == in_scores).double()
    area = float(wins.mean())
    variance = float(wins.mean(1).var() / 40 + wins.mean(0).var() / 60)
    reach = 1.96 * math.sqrt(variance) / (area * (1 - area))
    low, high = auroc_interval(in_scores, out_scores)
    odds = math.log(area / (1 - area))
    assert low <= 1 / (1 + math.exp(reach - odds)) + 1e-4
    assert high >= 1 / (1 + math.exp(-reach - odds)) - 1e-4
    assert high - low < 0.25


def test_a_perfect_area_of_few_images_is_not_certain() -> None:
    few, many = auroc_interval(torch.zeros(5), torch.ones(5)), auroc_interval(torch.zeros(2000), torch.ones(2000))
    assert few[1] == many[1] == 1
    assert few[0] < 0.75
    assert 0.995 < many[0] < 1
