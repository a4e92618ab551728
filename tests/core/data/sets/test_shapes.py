from __future__ import annotations

import colorsys
import itertools
import math

import pytest
import torch
from present import present
from scipy import stats
from shapes_reader import read
from torch import Tensor

from vpfb_core import data
from vpfb_core.data.sets import shapes
from vpfb_core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def drawn() -> data.ImageSet:
    return shapes.draw(5_000, 16, seed=1)


def counts(labels: Tensor) -> Tensor:
    """How often each combination of classes occurs, (4, 4, 2, 2)."""
    sizes = [len(group.classes) for group in shapes.GROUPS]
    places = [int(math.prod(sizes[i + 1 :])) for i in range(len(sizes))]
    return torch.bincount(labels @ torch.tensor(places), minlength=math.prod(sizes)).reshape(sizes)


def test_shapes_are_ten_thousand_colour_pictures_of_16_pixels() -> None:
    found = data.load("shapes")
    assert found.images.shape == (10_000, 3, 16, 16)
    assert (found.labels, found.groups, found.flips) == (None, (), False)
    assert "10,000 colour images of 16x16" in found.notes[0]


def test_the_attributes_are_four_groups_whose_class_names_are_all_different() -> None:
    found = data.load("shapes", conditional=True, limit=10)
    assert [(group.name, len(group.classes)) for group in found.groups] == [
        ("shape", 4), ("colour", 4), ("size", 2), ("position", 2),
    ]  # fmt: skip
    names = [name for group in found.groups for name in group.classes]
    assert len(set(names)) == 12
    assert {"circle", "red", "large", "left"} < set(names)
    assert present(found.labels).shape == (10, 4)


@pytest.mark.parametrize("outline", range(len(shapes.OUTLINES)), ids=list(shapes.OUTLINES))
@pytest.mark.parametrize("size", [16, 64])
def test_the_covered_area_is_that_of_the_circle_of_the_same_radius(outline: int, size: int) -> None:
    radii = torch.tensor([0.14, 0.17, 0.20]).repeat(4)
    centres = torch.linspace(0.45, 0.55, 12)
    covered = shapes.coverage(torch.full((12,), outline), centres, centres.flip(0), radii, size, finer=64 // size)
    assert torch.allclose(covered.sum((1, 2)) / size**2, math.pi * radii**2, rtol=0.005)


def test_the_outlines_are_a_disc_a_square_an_equilateral_triangle_and_five_squares() -> None:
    radius = 0.25
    square, side, arm = (radius * math.sqrt(math.pi / area) for area in (1, math.sqrt(3) / 4, 5))
    boxes = {  # left, top, right and bottom, seen from the centre of mass
        "circle": (radius, radius, radius, radius),
        "square": (square / 2,) * 4,
        "triangle": (side / 2, side / math.sqrt(3), side / 2, side / math.sqrt(12)),
        "cross": (1.5 * arm,) * 4,
    }
    size = 512
    for index, name in enumerate(shapes.OUTLINES):
        middle = torch.tensor([0.5])
        inside = shapes.coverage(torch.tensor([index]), middle, middle, torch.tensor([radius]), size)[0] > 0.5
        across, down = torch.nonzero(inside.any(0))[:, 0], torch.nonzero(inside.any(1))[:, 0]
        left, top = 0.5 - across[0] / size, 0.5 - down[0] / size
        right, bottom = (across[-1] + 1) / size - 0.5, (down[-1] + 1) / size - 0.5
        assert [float(edge) for edge in (left, top, right, bottom)] == pytest.approx(boxes[name], abs=2 / size)


def test_the_names_mean_what_is_seen(drawn: data.ImageSet) -> None:
    images = drawn.images[:300].double() / 255
    ground = images[:, :, :1, :1]
    inside = (images - ground).abs().amax(1) > 0.3
    colours = [colorsys.rgb_to_hsv(*image[:, mask].mean(1)) for image, mask in zip(images, inside, strict=True)]
    hues = torch.tensor([0, 120, 240, 60])[present(drawn.labels)[:300, 1]]
    turned = (torch.tensor([hue * 360 for hue, _, _ in colours]) - hues + 180) % 360 - 180
    assert turned.abs().max() < 30  # nearer to its own name than to the next

    area = inside.sum((1, 2)) / 16**2
    assert torch.equal(area > 0.09, present(drawn.labels)[:300, 2] == 1)
    middle = inside.double().sum(1) @ torch.arange(0.5, 16).double() / inside.sum((1, 2))
    assert torch.equal(middle > 8, present(drawn.labels)[:300, 3] == 1)


def test_a_pixel_half_in_a_square_is_half_covered() -> None:
    half = math.sqrt(math.pi) / 2 * 0.2  # of the square's side
    column = torch.tensor([7.5 / 16 - half])  # its right edge runs through the middle of pixels 7
    covered = shapes.coverage(torch.tensor([1]), column, torch.tensor([0.5]), torch.tensor([0.2]), 16)[0]
    assert torch.allclose(covered[6:10, 6:9], torch.tensor([1, 0.5, 0]).expand(4, 3), atol=1e-3)


def test_drawing_twice_gives_the_same_pictures_and_another_seed_others() -> None:
    first, again, other = shapes.draw(50, seed=3), shapes.draw(50, seed=3), shapes.draw(50, seed=4)
    assert torch.equal(first.images, again.images)
    assert torch.equal(present(first.labels), present(again.labels))
    assert not (first.images == other.images).flatten(1).all(1).any()


def test_the_first_hundred_of_a_thousand_are_the_first_hundred() -> None:
    few, many = shapes.draw(100, seed=3), shapes.draw(1_000, seed=3)
    assert torch.equal(few.images, many.images[:100])
    assert torch.equal(present(few.labels), present(many.labels)[:100])


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    shapes.draw(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [8, 13, 16, 32, 64])
def test_pictures_of_any_size_show_the_same_scene(size: int) -> None:
    found, fine = shapes.draw(20, size), shapes.draw(20, 8 * size)
    assert found.images.shape == (20, 3, size, size)
    reduced = torch.nn.functional.avg_pool2d(fine.images.float(), 8)
    difference = (reduced - found.images).abs()
    assert difference.max() <= 16  # of 255: a corner is off by a quarter of one of its pixel's points, at least four
    assert difference.mean() < 0.5


def test_every_combination_is_as_likely_as_any_other(drawn: data.ImageSet) -> None:
    assert stats.chisquare(counts(present(drawn.labels)).flatten()).pvalue > 0.001


def test_each_two_attributes_are_independent(drawn: data.ImageSet) -> None:
    table = counts(present(drawn.labels))
    for pair in itertools.combinations(range(4), 2):
        others = tuple(axis for axis in range(4) if axis not in pair)
        assert stats.chi2_contingency(table.sum(others)).pvalue > 0.001


def test_nothing_touches_the_border(drawn: data.ImageSet) -> None:
    border = torch.ones(16, 16, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    pixels = drawn.images[:, :, border]
    assert torch.equal(pixels.amin(2), pixels.amax(2))


def test_without_leaves_out_exactly_what_it_names(drawn: data.ImageSet) -> None:
    combinations = (("circle", "red"), ("cross", "large", "left"))
    found = shapes.draw(5_000, 16, seed=1, without=combinations)
    table = counts(present(found.labels))
    forbidden = torch.zeros(4, 4, 2, 2, dtype=torch.bool)
    forbidden[0, 0] = True
    forbidden[3, :, 1, 0] = True
    assert int(table[forbidden].sum()) == 0
    assert stats.chisquare(table[~forbidden]).pvalue > 0.001
    kept = ~forbidden[tuple(present(drawn.labels).unbind(1))]
    assert torch.equal(found.images[kept], drawn.images[kept])


@pytest.mark.parametrize(
    ("without", "message"),
    [
        ([("circle", "purple")], "no class 'purple'"),
        ([("red", "blue")], "red and blue: the classes exclude each other"),
        ([("left",), ("right",)], "no shape is left without left and right"),
    ],
)
def test_leaving_out_what_cannot_be_is_refused(without: list[tuple[str, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shapes.draw(10, without=without)


def test_a_size_or_number_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match="7x7"):
        data.load("shapes", size=7)
    with pytest.raises(DataError, match=r"29\.3 GiB"):
        data.load("shapes", size=1024)


def test_a_largest_size_and_a_limit_are_kept_to() -> None:
    assert data.load("shapes", max_size=12, limit=20).images.shape == (20, 3, 12, 12)
    assert data.load("shapes", max_size=64, limit=20).images.shape == (20, 3, 16, 16)
    assert len(data.load("shapes", limit=20_000)) == 10_000


def test_grey_shapes_have_the_usual_luma_and_no_group_of_colours() -> None:
    grey = data.load("shapes", channels=1, conditional=True, limit=200)
    colour = data.load("shapes", conditional=True, limit=200)
    luma = torch.einsum("nchw,c->nhw", colour.images.double(), torch.tensor([0.299, 0.587, 0.114]).double())
    assert grey.images.shape == (200, 1, 16, 16)
    assert (grey.images[:, 0] - luma).abs().max() < 0.51
    assert [group.name for group in grey.groups] == ["shape", "size", "position"]
    assert torch.equal(present(grey.labels), present(colour.labels)[:, [0, 2, 3]])


@pytest.mark.parametrize(("size", "n"), [(16, 250), (32, 100), pytest.param(16, 1_000, marks=pytest.mark.slow)])
def test_the_reader_finds_every_attribute_of_clean_pictures(size: int, n: int) -> None:
    fresh = shapes.draw(n, size, seed=12345)
    readings = read(fresh.images)
    assert (readings.labels == present(fresh.labels)).all(1).double().mean() >= 0.999
    assert readings.misfit.max() < 0.01


def test_the_reader_sees_through_noise_and_blur() -> None:
    fresh = shapes.draw(300, 16, seed=6)
    images = fresh.images / 255
    noisy = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    for seen in (noisy, blurred):
        assert (read(seen).labels == present(fresh.labels)).all(1).double().mean() >= 0.995


def test_bytes_and_floats_read_the_same(drawn: data.ImageSet) -> None:
    assert torch.equal(read(drawn.images[:50]).labels, read(drawn.images[:50] / 255).labels)


def test_each_attribute_is_read_from_the_pixels_that_show_it() -> None:
    circle = torch.zeros(4, dtype=torch.int64)
    where = torch.tensor([0.30, 0.45, 0.55, 0.70])
    inside = shapes.coverage(circle, where, torch.full((4,), 0.5), torch.tensor([0.13, 0.16, 0.18, 0.21]), 24)
    blue = torch.tensor([0.2, 0.35, 0.9])[None, :, None, None]
    labels = read(0.1 + inside[:, None] * (blue - 0.1)).labels
    assert labels.tolist() == [[0, 2, 0, 0], [0, 2, 0, 0], [0, 2, 1, 1], [0, 2, 1, 1]]


def test_pictures_without_one_clear_shape_are_unclear(drawn: data.ImageSet) -> None:
    generator = torch.Generator().manual_seed(0)
    left = drawn.subset(present(drawn.labels)[:, 3] == 0).images[:100] / 255
    right = drawn.subset(present(drawn.labels)[:, 3] == 1).images[:100] / 255
    unclear = {
        "noise": torch.rand(100, 3, 16, 16, generator=generator),
        "one colour": torch.rand(100, 3, 1, 1, generator=generator).expand(100, 3, 16, 16),
        "averages of two": (left + right) / 2,
        "two shapes": torch.cat([left[..., :8], right[..., 8:]], 3),
    }
    shares = {name: float((read(images).labels == -1).all(1).double().mean()) for name, images in unclear.items()}
    assert min(shares.values()) >= 0.98, shares


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (3, 16, 16), (2, 3, 16, 8), (2, 3, 4, 4)])
def test_pictures_that_cannot_be_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot be read from pictures of shape"):
        read(torch.zeros(shape))


def test_no_pictures_have_no_readings() -> None:
    readings = read(torch.zeros(0, 3, 16, 16))
    assert (readings.labels.shape, readings.misfit.shape) == ((0, 4), (0,))
