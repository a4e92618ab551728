"""The images that make a fair test of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ood_models import model_of

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import ImageSet, split
from vpfb_core.errors import ConfigError
from vpfb_core.uses.ood import sources


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_set_is_not_compared_with_itself_but_with_its_other_split() -> None:
    sources.check_different("mnist:train", "mnist:test")
    sources.check_different("mnist", "shuffled:mnist")
    sources.check_different("digits", "digits:test")
    for one, other in (("cifar", "cifar10"), ("mnist:test", "mnist:test"), ("cifar", "cifar10:test")):
        with pytest.raises(ConfigError, match="same set"):
            sources.check_different(one, other)


def test_a_training_set_without_a_test_split_is_tested_by_its_validation_images(
    digits: tuple[Model, ImageSet],
) -> None:
    model, held_out = digits
    loaded = sources.load_in_distribution(model, "digits", None)
    assert torch.equal(loaded.images, held_out.images)
    assert f"{len(held_out):,} validation images" in loaded.notes[-1]
    assert len(sources.load_in_distribution(model, "digits", 7)) == 7


def test_a_part_of_what_was_trained_on_is_called_optimistic(digits: tuple[Model, ImageSet]) -> None:
    model, _ = digits
    optimistic, limited = sources.load_in_distribution(model, "digits:test", 5).notes[-2:]
    assert "optimistic" in optimistic
    assert limited == "limited to 5 of 359, a fixed choice"


def test_images_that_were_all_trained_on_are_called_optimistic() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez("imgs.npz", images=images)
    model = model_of(shape=(1, 8, 8))
    fingerprint = vpfb.data.load("imgs.npz").fingerprint()
    model.about = {
        "data": {"name": "./imgs.npz", "fingerprint": fingerprint},
        "config": {"val_fraction": 0.0},
        "seed": 0,
    }
    loaded = sources.load_in_distribution(model, "imgs.npz", None)
    assert len(loaded) == 20
    assert "optimistic" in loaded.notes[-1]
    model.about["config"]["val_fraction"] = 0.25
    _, rows = split(vpfb.data.load("imgs.npz"), 0.25, 0)
    assert torch.equal(
        sources.load_in_distribution(model, "imgs.npz", None).images[:, 0], torch.from_numpy(images)[rows]
    )
    model.about["data"]["fingerprint"] = "other"
    assert len(sources.load_in_distribution(model, "imgs.npz", None)) == 20, "other images than it was trained on"


def test_out_of_distribution_images_are_brought_to_the_models_shape() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    np.savez("colour.npz", images=images)
    loaded = sources.load_out_of_distribution(model_of(shape=(1, 8, 8)), "colour.npz", 3)
    assert loaded.images.shape == (3, 1, 8, 8)
    assert sources.load_out_of_distribution(model_of(shape=(3, 6, 6)), "noise", 4).images.shape == (4, 3, 6, 6)
