"""The model that scores a data set, and the images that make a fair test of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from models import vpfb_model
from ood_models import model_of

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.api import Model
from vpfb_core.data import ImageSet, split
from vpfb_core.errors import CheckpointError, ConfigError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model import runs
from vpfb_core.uses.ood import choice


def run_trained_on(data: str, path: Path, age: int = 0) -> Path:
    """A run folder with a model of random weights, `age` seconds old."""
    network = {"name": "unet", "channels": 1, "size": 8, "widths": [4, 4], "classes": []}
    potential = Potential(networks.build(network), OT(), 0.5)
    model = vpfb_model(potential, network=network, about={"data": {"name": data}})
    model.save(path / "model.safetensors")
    (path / "config.toml").write_text("")
    for file in path.iterdir():
        os.utime(file, (1e9 - age, 1e9 - age))
    return path / "model.safetensors"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_newest_run_trained_on_the_set_is_taken() -> None:
    run_trained_on("cifar10", Path("runs/001-a"), age=30)
    wanted = run_trained_on("cifar10", Path("runs/002-b"), age=20)
    newest = run_trained_on("./imgs", Path("runs/003-c"), age=10)
    assert choice.choose_model("cifar") == wanted
    assert choice.choose_model("cifar:test") == wanted
    assert choice.choose_model("imgs") == newest
    assert choice.choose_model("svhn") == newest


def test_a_built_in_model_counts_for_its_own_set_only() -> None:
    for name, source in {"digits": "digits", "shapes": "shapes", "fashion": "fashion-mnist"}.items():
        assert choice.choose_model(f"{source}:test") == runs.builtin_models()[name]
        assert vpfb.load(name, device="cpu").about["data"]["name"] == source
    builtin = runs.builtin_models()["digits"]
    with pytest.raises(CheckpointError, match="mnist") as caught:
        choice.choose_model("mnist:test")
    assert caught.value.hint == "vpfb train --data mnist"
    run_trained_on("mnist", Path("runs/001-mnist"))
    assert choice.choose_model("digits") == builtin


def test_a_run_that_cannot_be_read_is_passed_over() -> None:
    readable = run_trained_on("mnist", Path("runs/001-mnist"), age=9)
    run_trained_on("mnist", Path("runs/002-mnist")).write_bytes(b"no model")
    assert choice.choose_model("mnist") == readable


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cifar", "cifar10:test", True),
        ("mnist", "fashion-mnist", False),
        ("./imgs", "imgs", True),
        ("imgs:test", "imgs/", True),
        ("mnist", "shuffled:mnist", False),
        ("digits", "./digits", False),
        ("shuffled:mnist", "shuffled:mnist:test", True),
    ],
)
def test_names_are_compared_without_alias_split_and_spelling(one: str, other: str, same: bool) -> None:
    assert choice.same_set(one, other) == same


def test_a_set_is_not_compared_with_itself_but_with_its_other_split() -> None:
    choice.check_different("mnist:train", "mnist:test")
    choice.check_different("mnist", "shuffled:mnist")
    choice.check_different("digits", "digits:test")
    for one, other in (("cifar", "cifar10"), ("mnist:test", "mnist:test"), ("cifar", "cifar10:test")):
        with pytest.raises(ConfigError, match="same set"):
            choice.check_different(one, other)


def test_a_training_set_without_a_test_split_is_tested_by_its_validation_images(
    digits: tuple[Model, ImageSet],
) -> None:
    model, held_out = digits
    loaded = choice.load_in_distribution(model, "digits", None)
    assert torch.equal(loaded.images, held_out.images)
    assert f"{len(held_out):,} validation images" in loaded.notes[-1]
    assert len(choice.load_in_distribution(model, "digits", 7)) == 7


def test_a_part_of_what_was_trained_on_is_called_optimistic(digits: tuple[Model, ImageSet]) -> None:
    model, _ = digits
    assert "optimistic" in choice.load_in_distribution(model, "digits:test", 5).notes[-1]


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
    loaded = choice.load_in_distribution(model, "imgs.npz", None)
    assert len(loaded) == 20
    assert "optimistic" in loaded.notes[-1]
    model.about["config"]["val_fraction"] = 0.25
    _, rows = split(vpfb.data.load("imgs.npz"), 0.25, 0)
    assert torch.equal(
        choice.load_in_distribution(model, "imgs.npz", None).images[:, 0], torch.from_numpy(images)[rows]
    )
    model.about["data"]["fingerprint"] = "other"
    assert len(choice.load_in_distribution(model, "imgs.npz", None)) == 20, "other images than it was trained on"


def test_out_of_distribution_images_are_brought_to_the_models_shape() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    np.savez("colour.npz", images=images)
    loaded = choice.load_out_of_distribution(model_of(shape=(1, 8, 8)), "colour.npz", 3)
    assert loaded.images.shape == (3, 1, 8, 8)
    assert choice.load_out_of_distribution(model_of(shape=(3, 6, 6)), "noise", 4).images.shape == (4, 3, 6, 6)
