"""The density of training images: against scikit-learn, in files, and where sets are small or all alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ood_models import images_of, model_of
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import ImageSet
from vpfb_core.errors import CheckpointError, DataError
from vpfb_core.machine import container as checkpoint
from vpfb_core.model.reference import NEIGHBOURS, Descriptors, Neighbourhood, Reference, shrunk_covariance
from vpfb_core.uses import ood


def points(n: int, d: int = 4, seed: int = 0) -> Tensor:
    """Correlated normal points of very different scales."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) * torch.logspace(-2, 3, d)
    return torch.randn(n, d, generator=random) @ mixing + 100


@pytest.mark.parametrize(("n", "d"), [(200, 5), (20, 40), (3, 7)])
def test_the_covariance_is_that_of_ledoit_and_wolf(n: int, d: int) -> None:
    centred = points(n, d).double()
    centred -= centred.mean(0)
    expected, _ = ledoit_wolf(centred.numpy(), assume_centered=True)
    assert torch.allclose(shrunk_covariance(centred), torch.from_numpy(expected), rtol=1e-9)


def test_the_space_is_white_but_for_the_shrinkage() -> None:
    """Directions of little variance, which few points know badly, are stretched less than to variance 1."""
    covariance = torch.cov(Neighbourhood.of(points(4000)).points.T)
    variances = covariance.diagonal()
    assert torch.allclose(covariance, torch.diag(variances), atol=1e-5)
    assert torch.allclose(variances[1:], torch.ones(3), atol=0.01)
    assert 0.9 < variances[0] < 1


def test_the_outlier_score_is_the_standardised_log_distance_less_half_of_the_neighbours_own() -> None:
    neighbourhood = Neighbourhood.of(points(300))
    others = (points(50, seed=1) - neighbourhood.mean) @ neighbourhood.axes
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(neighbourhood.points.numpy())
    own_distances, own_rows = nearest.kneighbors(neighbourhood.points.numpy())
    distances, rows = nearest.kneighbors(others.numpy(), NEIGHBOURS)
    spacing = np.log(own_distances[:, 1:].mean(1))
    usual = spacing - spacing[own_rows[:, 1:]].mean(1) / 2
    expected = (np.log(distances.mean(1)) - spacing[rows].mean(1) / 2 - usual.mean()) / usual.std()
    found = neighbourhood.outlier_score(points(50, seed=1))
    assert torch.allclose(found, torch.from_numpy(expected).float(), atol=1e-3)


def test_among_images_that_vary_much_a_distance_counts_less() -> None:
    """Two clusters, one ten times as wide: the point beside the narrow one is nearer to it, and yet the odder."""
    random = torch.Generator().manual_seed(0)
    narrow, wide = (torch.randn(200, 2, generator=random) * width for width in (0.1, 1.0))
    neighbourhood = Neighbourhood.of(torch.cat([narrow - 10, wide + 10]))
    beside_narrow, beside_wide = torch.tensor([[-9.3, -10.0]]), torch.tensor([[14.0, 10.0]])
    assert neighbourhood.outlier_score(beside_narrow) > neighbourhood.outlier_score(beside_wide)


def test_far_points_have_higher_scores_in_every_direction() -> None:
    neighbourhood = Neighbourhood.of(points(500))
    usual = neighbourhood.outlier_score(points(200, seed=1))
    directions = torch.linalg.pinv(neighbourhood.axes)
    for direction in torch.cat([directions, -directions]):
        far = neighbourhood.outlier_score((neighbourhood.mean + 8 * direction)[None])
        assert float(far) > float(usual.max())


def test_both_descriptors_count() -> None:
    parts = Neighbourhood.of(points(300, 20)), Neighbourhood.of(points(300, 6))
    reference = Reference((1.0,) * 10, 0.0, *parts)
    usual = Descriptors(points(50, 20, 1), points(50, 6, 1))
    scores = reference.outlier_score(usual)
    moved = [Descriptors(usual.scalars + 1e4, usual.features), Descriptors(usual.scalars, usual.features + 1e4)]
    assert all((reference.outlier_score(descriptors) > scores).all() for descriptors in moved)
    scalars, features = (part.outlier_score(descriptor) for part, descriptor in zip(parts, usual, strict=True))
    assert torch.allclose(scores, scalars + 2 * features)
    alone = Reference((1.0,) * 10, 0.0, parts[0], None)
    assert torch.equal(alone.outlier_score(usual), parts[0].outlier_score(usual.scalars))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_few_images_are_enough(count: int) -> None:
    model = model_of()
    model.reference = ood.fit_reference(model, images_of(count))
    near, far = ood.score(model, images_of(count)), ood.score(model, images_of(count).round())
    assert near.isfinite().all()
    assert far.min() > near.max()


def test_copies_of_one_image_have_a_reference() -> None:
    model = model_of()
    model.reference = ood.fit_reference(model, images_of(1).expand(30, -1, -1, -1))
    same, other = ood.score(model, images_of(1)), ood.score(model, images_of(1, seed=5))
    assert same.isfinite().all()
    assert other > same + 10


def test_one_image_and_a_diverged_model_are_errors() -> None:
    with pytest.raises(DataError, match="1 image"):
        ood.fit_reference(model_of(), images_of(1))
    with pytest.raises(DataError, match="not finite"):
        ood.fit_reference(model_of(lambda u, angle: u.sum(1) / 0), images_of(4))


def test_the_choice_of_images_depends_on_the_seed_and_is_counted() -> None:
    model, images = model_of(), images_of(40)
    heard: list[int] = []
    first, again, other = (ood.fit_reference(model, images, seed=seed, count=10) for seed in (0, 0, 1))
    assert len(first.scalars.points) == 10
    assert torch.equal(first.scalars.points, again.scalars.points)
    assert not torch.allclose(first.scalars.points, other.scalars.points)
    ood.fit_reference(model, images, count=30, batch_size=20, on_batch=heard.append)
    assert heard == [20, 30]


def test_a_file_brings_the_reference_back(digits: tuple[Model, ImageSet], tmp_path: Path) -> None:
    model, held_out = digits
    model.save(tmp_path / "model.safetensors")
    loaded = vpfb.load(tmp_path / "model.safetensors", device="cpu")
    assert torch.equal(ood.score(loaded, held_out.images[:9]), ood.score(model, held_out.images[:9]))
    assert model.reference is not None
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.reference.tensors().values())
    assert size < 2**20


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("reference/levels"),
        lambda tensors: tensors.pop("reference/scalars/points"),
        lambda tensors: tensors.update({"reference/levels": torch.ones(3)}),
        lambda tensors: tensors.update({"reference/features/points": torch.zeros(5, 1)}),
        lambda tensors: tensors.update({"reference/scalars/mean": torch.zeros(())}),
    ],
)
def test_a_reference_that_does_not_fit_is_a_checkpoint_error(
    change: Any, digits: tuple[Model, ImageSet], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    digits[0].save(path)
    stored = checkpoint.read(path, "model")
    change(stored.tensors)
    kept = {key: value for key, value in stored.document.items() if key not in ("format", "kind")}
    checkpoint.write(path, "model", stored.tensors, kept)
    with pytest.raises(CheckpointError):
        vpfb.load(path)
