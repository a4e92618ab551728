"""The density of training images: against scikit-learn, in files, and where sets are small or all alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ood_models import images_of, model_of
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import ImageSet
from vpfb_core.errors import CheckpointError, DataError
from vpfb_core.machine import container as checkpoint
from vpfb_core.model.identities import identities_of
from vpfb_core.model.neighbourhood import NEIGHBOURS, SPACING_WEIGHT, Neighbourhood, NullDistribution, principal_axes
from vpfb_core.model.reference import ALTERED, Reference
from vpfb_core.uses import ood
from vpfb_core.uses.ood.scores import assess


def points(n: int, d: int = 4, seed: int = 0) -> Tensor:
    """Correlated normal points of very different scales."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(99)) * torch.logspace(-2, 3, d)
    return torch.randn(n, d, generator=random) @ mixing + 100


@pytest.mark.parametrize(("n", "d"), [(200, 5), (90, 100), (300, 200)])
def test_the_axes_are_principal_components(n: int, d: int) -> None:
    centred = points(n, d)
    centred = (centred - centred.mean(0)) / centred.std(0)
    variances, axes = principal_axes(centred)
    found = PCA(len(variances)).fit(centred.numpy())
    assert torch.allclose(
        variances.flip(0), torch.from_numpy(found.explained_variance_).float() * (n - 1) / n, rtol=1e-3
    )
    assert torch.allclose(
        (axes.flip(1).T @ torch.from_numpy(found.components_).float().T).abs(), torch.eye(len(variances)), atol=1e-2
    )


def test_with_all_axes_distances_are_those_of_the_descriptors_but_for_the_stretch() -> None:
    known = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    neighbourhood = Neighbourhood.of(known)
    assert neighbourhood.axes.shape == (3, 3)
    space = known @ neighbourhood.axes * neighbourhood.stretch[:-1]
    expected = torch.cdist(space, space)
    expected += torch.diag(torch.full((500,), torch.inf))
    found, _ = neighbourhood._distances(neighbourhood.points, torch.arange(500))
    assert torch.allclose(found, expected.topk(NEIGHBOURS, largest=False).values, atol=5e-3)


def test_what_is_outside_of_the_axes_counts_in_the_distance() -> None:
    known = torch.randn(64, 40, generator=torch.Generator().manual_seed(0)) * torch.logspace(1, -1, 40)
    neighbourhood = Neighbourhood.of(known)
    assert neighbourhood.axes.shape == (40, 1)
    outside = torch.linalg.svd(neighbourhood.axes)[0][:, 1:].sum(1)
    image = neighbourhood.mean[None]
    moved = [float(statistics(neighbourhood, image + distance * outside)) for distance in (0, 5, 50)]
    assert moved == sorted(moved)
    assert moved[2] > moved[0] + 1


NOT_IN_REFERENCE = torch.full((50,), -1)


def statistics(neighbourhood: Neighbourhood, descriptors: Tensor) -> Tensor:
    """The statistics of images that are not in the reference."""
    return neighbourhood.neighbours(descriptors, torch.full((len(descriptors),), -1)).statistic


def test_the_space_is_that_of_the_usual_members() -> None:
    """A tenth of outliers, however far out, leaves the space almost alone."""
    known = points(400)
    scattered = torch.cat([known[:-40], 1e5 * points(40, seed=1)])
    clean, mixed = Neighbourhood.of(known), Neighbourhood.of(scattered)
    assert ((mixed.mean - clean.mean).abs() < 0.2 * known.std(0)).all()
    assert torch.allclose(mixed.stretch, clean.stretch, rtol=0.2)


def test_the_statistic_is_the_log_distance_less_a_quarter_of_the_neighbours_own() -> None:
    neighbourhood = Neighbourhood.of(points(300))
    others = neighbourhood._project(points(50, seed=1))[:, :-1].numpy()  # there is nothing outside of all four axes
    space = neighbourhood.points[:, :-1].numpy()
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(space)
    own_distances, own_rows = nearest.kneighbors(space)
    distances, rows = nearest.kneighbors(others, NEIGHBOURS)
    spacing = np.log(own_distances[:, 1:].mean(1))
    found = neighbourhood.neighbours(points(50, seed=1), NOT_IN_REFERENCE)
    expected = np.log(distances.mean(1)) - SPACING_WEIGHT * spacing[rows].mean(1)
    assert torch.allclose(found.statistic, torch.from_numpy(expected).float(), atol=1e-2)
    assert np.array_equal(found.nearest.numpy(), rows[:, :3])
    known = spacing - SPACING_WEIGHT * spacing[own_rows[:, 1:]].mean(1)
    assert torch.allclose(neighbourhood.leave_one_out.statistic, torch.from_numpy(known).float(), atol=1e-2)


def test_a_member_is_left_out_of_its_own_neighbours() -> None:
    known = points(100)
    neighbourhood = Neighbourhood.of(known)
    found = neighbourhood.neighbours(known[:50], torch.arange(50))
    assert torch.allclose(found.statistic, neighbourhood.leave_one_out.statistic[:50], atol=1e-2)
    assert torch.equal(neighbourhood.neighbours(known[:50], NOT_IN_REFERENCE).nearest[:, 0], torch.arange(50))
    assert not (found.nearest == torch.arange(50)[:, None]).any()


def test_the_nearest_images_are_of_the_same_kind_although_most_of_a_distance_is_outside_of_the_axes() -> None:
    random = torch.Generator().manual_seed(0)
    kinds = torch.arange(300) % 4
    centres = 20 * torch.nn.functional.one_hot(kinds, 1000).float()
    scale = 0.5 + torch.rand(300, 1, generator=random)  # with it, a few images are the least far out for all others
    nearest = Neighbourhood.of(centres + scale * torch.randn(300, 1000, generator=random)).leave_one_out.nearest
    assert nearest.shape == (300, 3)
    assert (kinds[nearest] == kinds[:, None]).float().mean() > 0.95


def test_members_are_recognised_by_their_values_as_bytes_or_as_floats() -> None:
    images = torch.randint(0, 256, (90, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = identities_of(images)
    assert len(found.unique()) == 90
    assert torch.equal(found, identities_of(images.float() / 255))
    assert torch.equal(found[5:7], identities_of(images[5:7]))


def test_among_images_that_vary_much_a_distance_counts_less() -> None:
    """Two clusters, one ten times as wide: the point beside the narrow one is nearer to it, and yet the odder."""
    random = torch.Generator().manual_seed(0)
    narrow, wide = (torch.randn(200, 2, generator=random) * width for width in (0.1, 1.0))
    neighbourhood = Neighbourhood.of(torch.cat([narrow - 10, wide + 10]))
    beside_narrow, beside_wide = torch.tensor([[-9.3, -10.0]]), torch.tensor([[12.7, 10.0]])
    assert statistics(neighbourhood, beside_narrow) > statistics(neighbourhood, beside_wide)


def test_far_points_have_higher_statistics_in_every_direction() -> None:
    known, usual = torch.randn(2, 500, 6, generator=torch.Generator().manual_seed(0))
    neighbourhood = Neighbourhood.of(known)
    for direction in torch.cat([torch.eye(6), -torch.eye(6)]):
        assert float(statistics(neighbourhood, 8 * direction[None])) > float(statistics(neighbourhood, usual).max())


def test_p_values_of_new_members_are_uniform_and_a_tenth_of_outliers_does_not_change_the_tail() -> None:
    random = torch.Generator().manual_seed(0)
    clean, new = NullDistribution(torch.randn(2000, generator=random)), torch.randn(2000, generator=random)
    shares = torch.tensor([0.5, 0.2, 0.1, 0.01])
    found = (-clean.surprise(new)).exp()
    assert torch.allclose((found[:, None] <= shares).double().mean(0), shares.double(), atol=0.02)
    near, far = (NullDistribution(torch.cat([clean.values[:1800], torch.full((200,), value)])) for value in (1e5, 1e9))
    assert torch.equal(near.surprise(new), far.surprise(new))
    assert float((-near.surprise(torch.tensor([1e5]))).exp()) < 1e-3, "though a tenth of the reference is like it"


def test_every_kind_of_evidence_counts() -> None:
    parts = {"recording": Neighbourhood.of(points(300, 20)), "content": Neighbourhood.of(points(300, 6))}
    reference = Reference(parts, torch.arange(300), torch.arange(300), (1.0,) * 10)
    usual = {"recording": points(50, 20, 1), "content": points(50, 6, 1)}
    found = reference.assess(usual, NOT_IN_REFERENCE)
    for kind in parts:
        moved = reference.assess(usual | {kind: usual[kind] + 1e4}, NOT_IN_REFERENCE)
        assert (moved.score > found.score).all()
        assert (moved.evidence[kind] < 1e-3).all()
    assert torch.allclose(torch.stack(list(found.evidence.values())).log().norm(3, dim=0), found.score, rtol=1e-3)
    assert torch.equal(found.nearest, parts["content"].neighbours(usual["content"], NOT_IN_REFERENCE).nearest)


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
    assert other > same + 3


def test_one_image_and_a_diverged_model_are_errors() -> None:
    with pytest.raises(DataError, match="1 image"):
        ood.fit_reference(model_of(), images_of(1))
    with pytest.raises(DataError, match="not finite"):
        ood.fit_reference(model_of(lambda u, angle: u.sum(1) / 0), images_of(4))


@pytest.mark.parametrize(("count", "steps", "trained"), [(300, 100, True), (300, 99, False), (255, 100, False)])
def test_detectors_of_alterations_need_enough_images_and_steps(count: int, steps: int, trained: bool) -> None:
    model, images = model_of(shape=(1, 4, 4)), images_of(count, shape=(1, 4, 4)).clamp(0, 1)
    reference = ood.fit_reference(model, images, count=40, steps=steps)
    assert (ALTERED in reference.parts) is trained
    assert len(reference.rows) == 40
    if trained:
        assert len(reference.parts[ALTERED]) == 40, "others are for the training only"
        model.reference = reference
        pasted = images[:40].clone()
        pasted[:, :, :2, :2] = 1.0
        found = assess(model, pasted).evidence[ALTERED]
        assert found.log().mean() < assess(model, images[-40:]).evidence[ALTERED].log().mean()


def test_an_alteration_counts_half_as_much_again() -> None:
    parts = {kind: Neighbourhood.of(points(200, seed=seed)) for seed, kind in enumerate(("detail", ALTERED))}
    found = Reference(parts, torch.empty(0), torch.empty(0)).assess(
        {"detail": points(20, seed=8), ALTERED: points(20, seed=9)}, torch.zeros(20)
    )
    detail, altered = (found.evidence[kind].log() for kind in ("detail", ALTERED))
    torch.testing.assert_close(found.score, (detail.abs() ** 3 + (1.5 * altered).abs() ** 3) ** (1 / 3))


def test_of_many_images_the_same_ones_are_chosen() -> None:
    model, images = model_of(), images_of(40)
    first, again = (ood.fit_reference(model, images, count=10) for _ in range(2))
    assert len(first.rows) == 10
    assert torch.equal(first.rows, again.rows)


def test_a_file_brings_the_reference_back(digits: tuple[Model, ImageSet], tmp_path: Path) -> None:
    model, held_out = digits
    model.save(tmp_path / "model.safetensors")
    loaded = vpfb.load(tmp_path / "model.safetensors", device="cpu")
    assert torch.equal(ood.score(loaded, held_out.images[:9]), ood.score(model, held_out.images[:9]))
    assert model.reference is not None
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.reference.tensors().values())
    assert size < 3 * 2**20


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("reference/levels"),
        lambda tensors: tensors.pop("reference/recording/points"),
        lambda tensors: tensors.update({"reference/levels": torch.ones(3)}),
        lambda tensors: tensors.update({"reference/content/points": torch.zeros(5, 1)}),
        lambda tensors: tensors.update({"reference/recording/mean": torch.zeros(())}),
        lambda tensors: tensors.pop("reference/part/usual"),
        lambda tensors: tensors.update({"reference/part/points": torch.zeros(3, 5, 6)}),
        lambda tensors: tensors["reference/part/unit"].mul_(0),
        lambda tensors: tensors.pop("reference/altered/0.fine.0.weight"),
        lambda tensors: tensors.update({"reference/altered/1.coarse_head.bias": torch.zeros(2)}),
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
