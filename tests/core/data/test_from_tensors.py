"""Tensors and arrays of a program as data, with and without classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import vpfb_core as vpfb
from vpfb_core.data import ConditionGroup, ImageSet, InMemory, LoadOptions
from vpfb_core.errors import ConfigError, DataError

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_are_first_or_last_in_tensors_and_in_arrays(channels: int) -> None:
    first = torch.rand(6, channels, 8, 8, generator=torch.Generator().manual_seed(1))
    last = first.movedim(1, -1)
    expected = (first * 255).round().byte()
    for given in (first, first.numpy(), last, last.numpy()):
        assert torch.equal(vpfb.data.from_tensors(given).images, expected)
    tiny = torch.rand(4, 3, 3, 3)
    as_tensor, as_array = vpfb.data.from_tensors(tiny), vpfb.data.from_tensors(tiny.movedim(1, -1).numpy())
    assert torch.equal(as_tensor.images, as_array.images), "where both are possible, the type decides"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (torch.tensor([2, 0, 2, 7, 0, 2]), ("0", "2", "7")), (np.array([2, 0, 2, 7, 0, 2]), ("0", "2", "7")),
        (["cat", "ant", "cat", "dog", "ant", "cat"], ("ant", "cat", "dog")),
    ],
)  # fmt: skip
def test_labels_become_a_group_of_the_classes_that_occur(labels: Any, classes: tuple[str, ...]) -> None:
    for data in (IMAGES, torch.rand(6, 2)):
        found = vpfb.data.from_tensors(data, labels)
        assert found.groups == (ConditionGroup("class", classes),)
        assert found.labels is not None and found.labels.tolist() == [[1], [0], [1], [2], [0], [1]]


@pytest.mark.parametrize("labels", [[0, 1], torch.zeros(6, 1, dtype=torch.int64), torch.zeros(6), [None] * 6])
def test_labels_that_do_not_fit_are_refused_with_what_was_found(labels: Any) -> None:
    with pytest.raises(DataError, match=r"labels of dtype .* do not fit 6 images") as refused:
        vpfb.data.from_tensors(IMAGES, labels)
    assert refused.value.hint == "labels are whole numbers or names of shape (6,)"


def test_a_set_does_not_take_labels_of_classes_that_it_does_not_have() -> None:
    images, group = (IMAGES * 255).byte(), (ConditionGroup("class", ("a", "b")),)
    for wrong in (2, -2):
        with pytest.raises(ValueError, match=r"from -1 to \[1\]"):
            ImageSet("mine", images, torch.tensor([[wrong]] * 6), group)


@pytest.mark.parametrize(
    "data",
    [torch.utils.data.TensorDataset(IMAGES), [IMAGES[0]], (IMAGES, [0] * 6)],
    ids=lambda data: type(data).__name__,
)
def test_other_objects_are_refused_with_what_can_be_given(data: Any) -> None:
    with pytest.raises(ConfigError, match=f"data of type {type(data).__name__} cannot be used") as refused:
        vpfb.TrainConfig(data=data)
    assert "from_tensors(images, labels)" in str(refused.value.hint)


def found(data: Any, **settings: Any) -> InMemory:
    """The data of a training run that names them, with these settings."""
    config = vpfb.TrainConfig(data=data, **settings)
    options = LoadOptions(config.data.size, None, config.data.channels, label=config.data.label)
    return vpfb.data.find(config.data.source, options).in_memory()


def test_images_of_a_program_get_the_size_and_the_channels_of_the_settings() -> None:
    assert torch.equal(found(IMAGES).data, vpfb.data.from_tensors(IMAGES).data)
    grey = (40 * torch.arange(6)).byte()[:, None, None, None]
    enlarged = found(grey.expand(-1, 1, 8, 8), size=16, channels=3)
    assert torch.equal(enlarged.data, grey.expand(-1, 3, 16, 16))


def test_a_column_of_classes_that_is_none_is_refused() -> None:
    rows = torch.randn(30, 2)
    for data in (rows, vpfb.data.from_tensors(rows, [0, 1] * 15), "moons"):
        with pytest.raises(DataError, match="no classes in a column 'x0'"):
            found(data, label="x0")
    assert found("moons", label="class").shape == (2,)
