from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from vpfb_core import data
from vpfb_core.errors import DataError


@pytest.mark.parametrize("source", ["noise", "constant", "shuffled:digits", "shuffled:noise"])
def test_a_control_is_the_same_every_time(source):
    assert data.load(source, size=8).fingerprint() == data.load(source, size=8).fingerprint()


@pytest.mark.parametrize("source", ["noise", "constant"])
def test_an_image_of_a_control_is_fixed_by_its_number(source):
    few, many = data.load(source, size=8, limit=5).images, data.load(source, size=8, limit=50).images
    assert torch.equal(few, many[:5])
    assert len(many.flatten(1).unique(dim=0)) == 50


@pytest.mark.parametrize("source", ["noise", "constant"])
def test_controls_take_the_shape_asked_for(source):
    assert data.load(source).images.shape == (1_000, 3, 32, 32)
    assert data.load(source, max_size=16).images.shape == (1_000, 3, 16, 16)
    assert data.load(source, size=28, channels=1, limit=2_000).images.shape == (1_000, 1, 28, 28)


def test_noise_has_every_byte_equally_often_and_independently():
    images = data.load("noise", size=16, limit=200).images.long()
    assert chisquare(torch.bincount(images.flatten(), minlength=256).numpy()).pvalue > 1e-3
    plane = images.flatten(1)
    high = plane >= 128
    neighbours = torch.bincount((2 * high[:, :-1].long() + high[:, 1:].long()).flatten(), minlength=4)
    assert abs(np.corrcoef(plane[:, :-1].flatten(), plane[:, 1:].flatten())[0, 1]) < 0.01
    assert neighbours.min() > 0.24 * neighbours.sum()


def test_constant_images_have_one_colour_each_and_all_colours_equally_often():
    images = data.load("constant", size=8).images
    assert torch.equal(images, images[:, :, :1, :1].expand_as(images))
    levels = torch.bincount(images[:, :, 0, 0].flatten().long() // 16, minlength=16)
    assert chisquare(levels.numpy()).pvalue > 1e-3
    assert not torch.equal(images[:, 0], images[:, 1])


def test_shuffling_keeps_the_colours_of_each_image_and_moves_them():
    original, shuffled = data.load("digits", channels=3), data.load("shuffled:digits", channels=3)
    assert shuffled.images.shape == original.images.shape
    assert torch.equal(shuffled.images.flatten(2).sort().values, original.images.flatten(2).sort().values)
    assert torch.equal(shuffled.images[:, 0], shuffled.images[:, 2]), "the channels of a pixel stay together"
    assert (shuffled.images != original.images).flatten(1).any(1).all()


def test_each_image_is_shuffled_in_its_own_order(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 16, 16).repeat(20, 0)
    np.save(tmp_path / "ramp.npy", ramp)
    shuffled = data.load(f"shuffled:{tmp_path / 'ramp.npy'}").images.flatten(1)
    assert len(shuffled.unique(dim=0)) == 20
    correlation = np.corrcoef(shuffled.double().numpy())
    assert np.abs(correlation - np.eye(20)).max() < 0.35


def test_shuffling_reaches_the_split_of_what_it_shuffles():
    plain, shuffled = data.load("digits:test"), data.load("shuffled:digits:test")
    assert torch.equal(plain.images.flatten(1).sort().values, shuffled.images.flatten(1).sort().values)
    assert shuffled.name == "shuffled:digits:test"


def test_shuffling_nothing_or_something_unknown_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="names no set to shuffle"):
        data.load("shuffled:")
    with pytest.raises(DataError, match="named 'qqqq'"):
        data.load("shuffled:qqqq")


@pytest.mark.parametrize("source", ["noise", "constant"])
def test_controls_have_no_classes(source):
    with pytest.raises(DataError, match="has no classes"):
        data.load(source, conditional=True)
