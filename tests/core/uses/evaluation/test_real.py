"""Which real images a model is held against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import write_mnist
from ood_models import model_of

import vpfb_core as vpfb
from vpfb_core.api import Model
from vpfb_core.data import split
from vpfb_core.errors import ConfigError, DataError
from vpfb_core.uses.evaluation import real


@pytest.fixture(scope="module")
def digits() -> Model:
    return vpfb.load("digits", device="cpu")


def test_of_a_set_with_splits_the_test_split_is_taken(tmp_path: Path) -> None:
    written = write_mnist(tmp_path)
    model = model_of(shape=(1, 28, 28))
    found = real.load(model, "mnist", None, fewest=1, root=tmp_path)
    assert found.split == found.unseen_split == "test"
    assert np.array_equal(found.images[:, 0].numpy(), written["test"])
    assert torch.equal(found.unseen, found.images)
    train = real.load(model, "mnist:train", None, fewest=1, root=tmp_path)
    assert train.split == "train"
    assert np.array_equal(train.images[:, 0].numpy(), written["train"])


def test_images_come_in_the_models_shape_by_a_stated_rule(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    found = real.load(model_of(shape=(3, 8, 8)), "mnist", 4, fewest=1, root=tmp_path)
    assert found.images.shape == (4, 3, 8, 8)
    assert found.resize == "centre square, Lanczos to 8×8, colour"


@pytest.mark.parametrize(
    ("trained_on", "source", "words"),
    [
        ("mnist", "mnist", None),
        ("mnist", "mnist:train", "may have been trained on these images"),
        ("mnist:test", "mnist", "may have been trained on these images"),
        ("digits", "mnist", "trained on 'digits', not on 'mnist'"),
    ],
)
def test_a_model_that_knows_the_images_or_others_is_warned_about(
    tmp_path: Path, trained_on: str, source: str, words: str | None
) -> None:
    write_mnist(tmp_path)
    model = model_of(shape=(1, 28, 28))
    model.about = {"data": {"name": trained_on, "fingerprint": "of another version"}}
    found = real.load(model, source, None, fewest=1, root=tmp_path)
    expected = [] if words is None else [words]
    assert all(words in warning for words, warning in zip(expected, found.warnings, strict=True))


def test_what_training_held_out_is_known_of_the_very_same_set(digits: Model) -> None:
    found = real.load(digits, "digits", 300, fewest=1)
    images = vpfb.data.load("digits")
    _, held_out = split(images, 0.1, 0)
    assert (found.split, len(found.images)) == ("all", 300)
    assert found.unseen_split == "held out"
    assert torch.equal(found.unseen, images.images[held_out])
    labels = vpfb.data.load("digits", conditional=True).labels
    assert labels is not None
    assert found.unseen_labels is not None
    assert torch.equal(found.unseen_labels, labels[held_out])
    assert len(found.warnings) == 1
    assert "trained on these images" in found.warnings[0]
    few = real.load(digits, "digits", 20, fewest=1)
    everything = {image.numpy().tobytes() for image in found.unseen}
    assert len(few.unseen) == 20
    assert {image.numpy().tobytes() for image in few.unseen} <= everything


def test_a_run_that_held_nothing_out_is_measured_on_what_there_is(digits: Model) -> None:
    model = vpfb.load("digits", device="cpu")
    config = model.about["config"]
    model.about = model.about | {"config": config | {"data": config["data"] | {"val_fraction": 0}}}
    found = real.load(model, "digits", 50, fewest=1)
    assert found.unseen_split == "all"
    assert torch.equal(found.unseen, found.images)
    assert found.warnings


def test_fewer_images_are_a_part_of_more_and_do_not_depend_on_chance(digits: Model) -> None:
    few, many = (real.load(digits, "digits", n, fewest=1).images for n in (30, 200))
    assert {image.numpy().tobytes() for image in few} <= {image.numpy().tobytes() for image in many}
    assert torch.equal(few, real.load(digits, "digits", 30, fewest=1).images)


@pytest.mark.parametrize(
    ("device", "side", "count"),
    [("cpu", 8, 1_000), ("cpu", 28, 500), ("cpu", 64, 100), ("cpu", 256, 100), ("cuda", 256, 10_000)],
)
def test_the_usual_number_fits_the_device(device: str, side: int, count: int) -> None:
    assert real.usual_count(torch.device(device), (3, side, side)) == count


def test_a_number_that_is_too_small_or_too_large_is_an_error(digits: Model) -> None:
    with pytest.raises(ConfigError, match="`n=5` is too few"):
        real.load(digits, "digits", 5, fewest=6)
    with pytest.raises(DataError, match="1,797 images, and 2,000 are needed") as raised:
        real.load(digits, "digits", 2000, fewest=6)
    assert "`n=1797`" in str(raised.value.hint)


def test_a_set_of_too_few_images_is_an_error(digits: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", np.zeros((5, 8, 8), np.uint8))
    with pytest.raises(DataError, match="5 images, and 6 are needed"):
        real.load(digits, str(tmp_path / "few.npy"), None, fewest=6)
