"""Precision, recall, density, coverage, two-sample accuracy: against other libraries, and which way each points."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from vpfb_core.uses.evaluation import neighbours
from vpfb_core.uses.evaluation.neighbours import compare


def normal(n: int, dimension: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def modes(count: int, each: int, seed: int) -> Tensor:
    """Points around centres that are far apart."""
    centres = 100 * torch.eye(count, 8, dtype=torch.float64)
    return (centres[:, None] + normal(count * each, 8, seed).view(count, each, 8)).flatten(0, 1)


def pairs() -> list[tuple[Tensor, Tensor]]:
    return [
        (0.8 * normal(70, 5), normal(60, 5, seed=1)),
        (0.5 + normal(50, 3), normal(80, 3, seed=1)),
        (modes(2, 30, 0), modes(4, 20, 1)),
    ]


@pytest.mark.parametrize("pair", range(3))
def test_precision_and_recall_are_torch_fidelitys(pair: int) -> None:
    samples, real = pairs()[pair]
    theirs = prc_features_to_metric(samples, real, prc_neighborhood=3, verbose=False)
    found = compare(samples, real)
    assert found.precision == pytest.approx(theirs[KEY_METRIC_PRECISION])
    assert found.recall == pytest.approx(theirs[KEY_METRIC_RECALL])


@pytest.mark.parametrize("pair", range(3))
def test_density_and_coverage_count_what_their_paper_counts(pair: int) -> None:
    """Balls to the fifth neighbour of each real image, searched by scikit-learn."""
    samples, real = (points.numpy() for points in pairs()[pair])
    radii = NearestNeighbors(n_neighbors=6).fit(real).kneighbors(real)[0][:, 5]
    tree = NearestNeighbors(algorithm="kd_tree").fit(samples)
    inside = [
        len(tree.radius_neighbors([centre], radius, return_distance=False)[0])
        for centre, radius in zip(real, radii, strict=True)
    ]
    found = compare(*pairs()[pair])
    assert found.density == pytest.approx(sum(inside) / (5 * len(samples)))
    assert found.coverage == pytest.approx(np.mean(np.array(inside) > 0))


@pytest.mark.parametrize("pair", range(3))
def test_accuracy_is_that_of_a_leave_one_out_classifier(pair: int) -> None:
    samples, real = pairs()[pair]
    points = torch.cat([samples, real]).numpy()
    _, nearest = NearestNeighbors(n_neighbors=2).fit(points).kneighbors(points)
    of_samples = np.arange(len(points)) < len(samples)
    right = of_samples[nearest[:, 1]] == of_samples
    found = compare(samples, real)
    assert found.accuracy == pytest.approx(right.mean())
    assert found.accuracy_samples == pytest.approx(right[of_samples].mean())
    assert found.accuracy_real == pytest.approx(right[~of_samples].mean())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, real = pairs()[0]
    whole = compare(samples, real)
    monkeypatch.setattr(neighbours, "ROWS", 9)
    assert astuple(compare(samples, real)) == pytest.approx(astuple(whole))


# --- which way each points --------------------------------------------------------------------------------------------


def test_samples_of_one_mode_are_precise_and_recall_little() -> None:
    real = modes(8, 25, 0)
    found = compare(modes(1, 200, 1), real)
    assert found.precision > 0.8
    assert found.recall < 0.2
    assert found.density > 0.7
    assert found.coverage < 0.2
    assert found.accuracy > 0.5


def test_samples_of_all_modes_and_of_nowhere_recall_all_and_are_imprecise() -> None:
    real = modes(2, 50, 0)
    nowhere = -1000 * torch.eye(8, dtype=torch.float64)[:1] + 0.1 * normal(300, 8, seed=5)
    found = compare(torch.cat([modes(2, 50, 1), nowhere]), real)
    assert found.precision < 0.3
    assert found.recall > 0.7
    assert found.density < 0.4
    assert found.coverage > 0.9


def test_the_real_images_themselves_are_perfect_and_known_for_copies() -> None:
    points = normal(60, 5)
    found = compare(points, points.clone())
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(1, abs=0.02)  # each ball ends at an image, which rounding puts on either side
    assert found.accuracy == 0


def test_sets_far_apart_share_nothing() -> None:
    found = compare(1000 + normal(30, 4), normal(30, 4, seed=1))
    assert (found.precision, found.recall, found.density, found.coverage, found.accuracy) == (0, 0, 0, 0, 1)


def test_sets_of_one_distribution_are_separated_half_of_the_time() -> None:
    found = compare(normal(500, 4), normal(500, 4, seed=1))
    assert found.accuracy == pytest.approx(0.5, abs=0.05)
    assert found.density == pytest.approx(1, abs=0.1)


def test_a_tie_counts_half() -> None:
    """Twelve times the same point: its neighbours of both sets are equally near."""
    points = torch.zeros(6, 2)
    assert compare(points, points).accuracy == 0.5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_ties_are_ties_whatever_the_rounding(scale: float) -> None:
    """Each point stands twice in either set, so that both sets hold a copy of it."""
    points = (scale * normal(40, 30)).repeat(2, 1)
    found = compare(points, points.flip(0))
    assert (found.accuracy, found.accuracy_real, found.accuracy_samples) == (0.5, 0.5, 0.5)


def test_more_noise_is_worse() -> None:
    real = normal(300, 6)
    found = [compare(normal(300, 6, seed=1) * scale, real) for scale in (1, 2, 4)]
    for name in ("precision", "density", "coverage"):
        values = [getattr(each, name) for each in found]
        assert values == sorted(values, reverse=True)
        assert values[2] < 0.5 * values[0]
    accuracies = [each.accuracy for each in found]
    assert accuracies == sorted(accuracies)
    assert accuracies[2] > 0.75
