from __future__ import annotations

import pytest
import torch
from present import present

from vpfb_core.data import ConditionGroup, ImageSet, split
from vpfb_core.errors import ConfigError


def noise(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 4, 4), dtype=torch.uint8, generator=generator)


def as_set(images: torch.Tensor) -> ImageSet:
    return ImageSet("test", images)


def test_the_two_sides_part_the_set_and_have_the_size_asked_for():
    train, val = split(as_set(noise(200)), 0.1, seed=0)
    assert len(val) == 20
    assert torch.cat([train, val]).sort().values.tolist() == list(range(200))
    assert train.dtype == val.dtype == torch.int64
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())


def test_the_held_out_pictures_do_not_depend_on_the_order_of_the_files():
    images = noise(100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    _, val = split(as_set(images), 0.2, seed=3)
    _, moved = split(as_set(images[order]), 0.2, seed=3)
    assert sorted(order[moved].tolist()) == val.tolist()


def test_another_seed_holds_out_others_and_the_same_seed_the_same():
    images = as_set(noise(100))
    assert split(images, 0.2, 1)[1].tolist() == split(images, 0.2, 1)[1].tolist()
    assert split(images, 0.2, 1)[1].tolist() != split(images, 0.2, 2)[1].tolist()


def test_exact_copies_stay_on_one_side():
    originals = noise(30)
    images = originals[torch.randint(0, 30, (300,), generator=torch.Generator().manual_seed(0))]
    train, val = split(as_set(images), 0.2, seed=0)
    seen = {image.numpy().tobytes() for image in images[train]}
    held = {image.numpy().tobytes() for image in images[val]}
    assert held
    assert not seen & held
    assert 40 <= len(val) <= 60


@pytest.mark.parametrize(("count", "fraction"), [(2, 0.01), (2, 0.9), (3, 0.9), (50, 0.001), (50, 0.9)])
def test_both_sides_have_at_least_one_picture(count, fraction):
    train, val = split(as_set(noise(count)), fraction, seed=0)
    assert len(train) >= 1
    assert len(val) >= 1


def test_two_pictures_of_which_one_is_common_are_still_parted():
    images = torch.cat([noise(1).repeat(99, 1, 1, 1), noise(1, seed=5)])
    train, val = split(as_set(images), 0.5, seed=0)
    assert (len(train), len(val)) == (99, 1)


def test_a_single_picture_is_on_both_sides():
    for images in (noise(1), noise(1).repeat(5, 1, 1, 1)):
        train, val = split(as_set(images), 0.1, seed=0)
        assert train.tolist() == val.tolist() == list(range(len(images)))


def test_an_empty_set_has_two_empty_sides():
    assert [len(side) for side in split(as_set(noise(0)), 0.1, seed=0)] == [0, 0]


def test_nothing_is_held_out_at_fraction_zero():
    train, val = split(as_set(noise(7)), 0.0, seed=0)
    assert train.tolist() == list(range(7))
    assert len(val) == 0


@pytest.mark.parametrize("fraction", [-0.1, 0.91, float("nan"), float("inf")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ConfigError, match="not between 0 and"):
        split(as_set(noise(7)), fraction, seed=0)


# --- classes ----------------------------------------------------------------------------------------------------------


def with_classes(classes: list[int], images: torch.Tensor | None = None) -> ImageSet:
    names = tuple(map(str, range(max(classes) + 1)))
    labels = torch.tensor(classes)[:, None]
    return ImageSet(
        "test", noise(len(classes)) if images is None else images, labels, (ConditionGroup("class", names),)
    )


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("sizes", [[1] * 40, [1, 50], [1, 2, 3, 4, 30], [2] * 20])
def test_every_class_keeps_an_image_to_train_on(sizes, fraction):
    images = with_classes([name for name, size in enumerate(sizes) for _ in range(size)])
    train, val = split(images, fraction, seed=0)
    assert set(present(images.labels)[train, 0].tolist()) == set(range(len(sizes)))
    assert len(train) + len(val) == len(images)
    assert bool(len(val)) == any(size > 1 for size in sizes)


def test_a_class_of_copies_is_not_held_out_whole():
    images = with_classes([0] * 30 + [1] * 5, torch.cat([noise(30), noise(1, seed=9).repeat(5, 1, 1, 1)]))
    for seed in range(5):
        train, _ = split(images, 0.9, seed)
        assert set(present(images.labels)[train, 0].tolist()) == {0, 1}


def test_every_value_of_every_attribute_keeps_an_image_and_unknown_ones_do_not_count():
    labels = torch.tensor([[0, 1], [1, 0], [0, 0], [-1, -1], [0, 0], [0, -1]])
    groups = (ConditionGroup("a", ("~a", "a")), ConditionGroup("b", ("~b", "b")))
    for seed in range(5):
        train, val = split(ImageSet("test", noise(6), labels, groups), 0.9, seed)
        assert {0, 1} <= set(train.tolist())
        assert 3 in val.tolist()


def test_the_split_of_large_classes_is_as_without_classes():
    images = noise(200)
    labels = torch.arange(200) % 10
    for ours, theirs in zip(
        split(with_classes(labels.tolist(), images), 0.1, 0), split(as_set(images), 0.1, 0), strict=True
    ):
        assert ours.tolist() == theirs.tolist()
