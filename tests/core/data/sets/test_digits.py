from __future__ import annotations

import numpy as np
import pytest
import torch
from present import present

from vpfb_core import data


def test_digits_are_1797_grey_pictures_of_8_pixels():
    digits = data.load("digits")
    assert digits.images.shape == (1797, 1, 8, 8)
    assert digits.images.dtype == torch.uint8
    assert (int(digits.images.min()), int(digits.images.max())) == (0, 255)
    assert digits.labels is None
    assert digits.name == "digits"


def test_digits_equal_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits()
    digits = data.load("digits", conditional=True)
    assert np.abs(digits.images[:, 0].numpy() - original.images * 255 / 16).max() <= 0.5
    assert present(digits.labels)[:, 0].tolist() == original.target.tolist()


def test_digits_have_ten_classes_named_by_the_figure():
    digits = data.load("digits", conditional=True)
    assert [(group.name, group.classes) for group in digits.groups] == [("class", tuple("0123456789"))]
    assert torch.bincount(present(digits.labels)[:, 0], minlength=10).min() > 150


def test_digits_are_never_flipped_not_even_in_colour():
    assert not data.load("digits").flips
    assert not data.load("digits", channels=3).flips


def test_digits_come_at_any_size_and_in_three_channels():
    digits = data.load("digits", size=16, channels=3)
    assert digits.images.shape == (1797, 3, 16, 16)
    assert torch.equal(digits.images[:, 0], digits.images[:, 2])
    assert "enlarged" in " ".join(digits.notes)
