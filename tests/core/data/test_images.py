from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vpfb_core import data
from vpfb_core.data import ConditionGroup, ImageSet
from vpfb_core.data.load_options import LoadOptions
from vpfb_core.errors import ConfigError


@pytest.fixture
def labelled() -> ImageSet:
    images = torch.arange(5 * 16, dtype=torch.uint8).reshape(5, 1, 4, 4)
    groups = (ConditionGroup("class", ("a", "b")), ConditionGroup("red", ("~red", "red")))
    labels = torch.tensor([[0, 1], [1, -1], [0, 0], [1, 1], [-1, 0]])
    return ImageSet("test", images, labels, groups, files=tuple("vwxyz"))


def test_a_subset_takes_images_labels_and_files_along_in_the_order_asked(labelled):
    part = labelled.subset(torch.tensor([3, 0]))
    assert torch.equal(part.images, labelled.images[[3, 0]])
    assert part.labels.tolist() == [[1, 1], [0, 1]]
    assert part.files == ("y", "v")
    assert part.groups == labelled.groups
    assert labelled.subset(torch.tensor([False, True, False, False, True])).files == ("w", "z")


def test_an_empty_subset_is_a_set(labelled):
    part = labelled.subset(torch.tensor([], dtype=torch.int64))
    assert len(part) == 0
    assert part.labels.shape == (0, 2)
    assert len(part.fingerprint()) == 64


def test_the_fingerprint_sees_a_pixel_a_label_a_name_and_the_order_but_not_the_notes(labelled):
    changed = labelled.images.clone()
    changed[4, 0, 3, 3] += 1
    relabelled = labelled.labels.clone()
    relabelled[0, 0] = 1
    others = [
        replace(labelled, data=changed),
        replace(labelled, labels=relabelled),
        replace(labelled, labels=None, groups=()),
        replace(labelled, groups=(ConditionGroup("class", ("a", "c")), labelled.groups[1])),
        labelled.subset(torch.tensor([1, 0, 2, 3, 4])),
        replace(labelled, data=labelled.images.reshape(5, 4, 2, 2)),
    ]
    prints = [other.fingerprint() for other in others]
    assert len({labelled.fingerprint(), *prints}) == 7
    assert replace(labelled, name="other", notes=("x",)).fingerprint() == labelled.fingerprint()


def test_labels_that_do_not_fit_the_groups_are_refused(labelled):
    for wrong in ({"labels": None}, {"labels": labelled.labels[:, :1]}, {"groups": ()}, {"files": ("v",)}):
        with pytest.raises(ValueError, match=r"need labels|file names"):
            replace(labelled, **wrong)


@pytest.mark.parametrize(
    "option", [{"size": 3}, {"size": 1025}, {"max_size": 0}, {"channels": 2}, {"channels": 0}, {"workers": -1}]
)
def test_options_out_of_range_are_refused_for_every_source(option):
    with pytest.raises(ConfigError):
        LoadOptions(**option)
    with pytest.raises(ConfigError):
        data.load("digits", **option)
