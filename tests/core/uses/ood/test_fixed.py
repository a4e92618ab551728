"""Fixed descriptors and controls: what they notice, and what they do not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from vpfb_core.data import ImageSet
from vpfb_core.model.neighbourhood import Neighbourhood
from vpfb_core.model.reference import Reference
from vpfb_core.uses.ood.altered import BLUR, CONTROLS, blurred, with_a_hole
from vpfb_core.uses.ood.fit import first_copies
from vpfb_core.uses.ood.fixed import BANDS, CELLS, COLOUR_WEIGHT, EDGES, LIGHT, describe_fixed, gradient_histograms
from vpfb_core.uses.ood.ranking import rank_without_model


def images_of(count: int, channels: int = 3, side: int = 16) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=draws)


@pytest.mark.parametrize("degrees", [0, 40, 80, 120, 160])
def test_a_ramp_has_its_direction_in_every_cell(degrees: int) -> None:
    """The nine directions of edges are 20° apart."""
    down, across = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    angle = math.radians(degrees)
    ramp = 0.01 * (math.cos(angle) * across + math.sin(angle) * down)
    cells = gradient_histograms(ramp[None], math.pi, EDGES).reshape(EDGES, CELLS, CELLS)[:, 1:-1, 1:-1]
    assert (cells.argmax(0) == degrees // 20).all()


def test_a_negative_has_the_same_edges_and_another_shading() -> None:
    found, negative = describe_fixed(images_of(4)), describe_fixed(255 - images_of(4))
    assert torch.allclose(found["shape"], negative["shape"], atol=1e-3)
    assert not torch.allclose(found["shading"], negative["shading"], atol=0.1)


def test_details_depend_on_sharpness_and_not_on_places() -> None:
    images = images_of(4)
    found = describe_fixed(images)["detail"]
    assert torch.allclose(found, describe_fixed(images.flip(3))["detail"], atol=1e-4)
    assert (describe_fixed(blurred(images))["detail"][:, 0] < found[:, 0] - 1).all()


def test_the_last_details_are_the_mean_brightness_and_red_and_blue_against_it_wherever_they_are() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[0, :, :4] = torch.tensor([0.9, 0.6, 0.0])[:, None, None]  # a quarter is orange
    colour = describe_fixed(image)["detail"][:, -3:]
    assert torch.allclose(colour, COLOUR_WEIGHT * torch.tensor([[0.5, 0.4, -0.5]]) / 4)
    assert torch.allclose(colour, describe_fixed(image.flip(2))["detail"][:, -3:])
    assert describe_fixed(images_of(2, channels=1, side=32))["detail"].shape == (2, BANDS)


def test_each_region_has_its_own_edges_and_shading() -> None:
    images = images_of(3, channels=1, side=32)
    found = describe_fixed(images)
    assert found["part"].shape == (3, CELLS**2, EDGES + LIGHT)
    moved = images.clone()
    moved[:, :, :4, :4] = 1 - moved[:, :, :4, :4]  # the first place of the grid
    changed = (describe_fixed(moved)["part"] - found["part"]).abs().amax(2).view(3, CELLS, CELLS)
    assert (changed[:, 0, 0] > 0.1).all()
    assert (changed[:, 3:] < 1e-6).all()
    assert (changed[:, :, 3:] < 1e-6).all()
    assert torch.allclose(found["part"][..., :EDGES].mT.flatten(1), found["shape"])


def test_a_reference_that_knows_no_colours_compares_the_other_details() -> None:
    """As a file of an earlier version has it."""
    tables = describe_fixed(images_of(60))
    earlier = {"detail": Neighbourhood.of(tables["detail"][:, :-3])}
    reference = Reference(earlier, torch.empty(0, dtype=torch.int64), torch.arange(60))
    other = {"detail": torch.cat([tables["detail"][:, :-3], tables["detail"][:, -3:] + 9], 1)}
    nobody = torch.zeros(60, dtype=torch.int64)
    assert torch.equal(reference.assess(tables, nobody).score, reference.assess(other, nobody).score)


@pytest.mark.parametrize(("channels", "side"), [(1, 4), (1, 8), (3, 28), (3, 64), (1, 31)])
def test_images_of_every_size_have_descriptors(channels: int, side: int) -> None:
    images = images_of(3, channels, side)
    found = describe_fixed(images)
    assert all(len(table) == 3 and table.isfinite().all() for table in found.values())
    assert all(torch.equal(found[kind], table) for kind, table in describe_fixed(images.float() / 255).items())
    assert describe_fixed(torch.randn(3, 5)) == {}


def test_an_outlier_is_found_among_copies_without_a_model_and_names_its_neighbours() -> None:
    usual = (images_of(1).float() * 0.2 + images_of(60).float() * 0.02).to(torch.uint8)
    ranking = rank_without_model(ImageSet("folder", torch.cat([usual, images_of(61)[60:]])))
    assert ranking.ranked[0].index == 60
    assert ranking.ranked[0].flagged
    assert all(len(one.nearest) == 3 and one.index not in one.nearest for one in ranking.ranked)
    assert ranking.reference == "folder"


def test_many_near_copies_of_an_outlier_do_not_hide_each_other() -> None:
    draws = torch.Generator().manual_seed(1)
    usual = images_of(1).float() * 0.5 + images_of(60).float() * 0.4
    copies = images_of(61)[60:].float() + 2 * torch.randn(7, 3, 16, 16, generator=draws)
    images = torch.cat([usual, copies]).clamp(0, 255).to(torch.uint8)
    assert first_copies(images).tolist() == [*range(60), *[60] * 7]
    assert {one.index for one in rank_without_model(ImageSet("folder", images)).ranked[:7]} == set(range(60, 67))


def test_images_that_are_all_equal_are_no_near_copies() -> None:
    assert first_copies(images_of(1).expand(9, -1, -1, -1)).tolist() == list(range(9))


def test_the_blur_is_that_of_torchvision_and_a_hole_is_a_square() -> None:
    images = images_of(3)
    expected = gaussian_blur(torch.nn.functional.pad(images.float(), (3, 3, 3, 3), mode="replicate"), 7, BLUR)
    assert torch.allclose(blurred(images).float(), expected[:, :, 3:-3, 3:-3], atol=1)
    changed = (with_a_hole(images) != images).any(1)
    assert changed.any(2).sum(1).tolist() == changed.any(1).sum(1).tolist() == [4, 4, 4]


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_keep_shape_and_type_and_change_every_image(name: str) -> None:
    images = images_of(5)
    found = CONTROLS[name](images)
    assert (found.shape, found.dtype) == (images.shape, images.dtype)
    assert (found != images).flatten(1).any(1).all()
