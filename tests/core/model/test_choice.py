"""The model that scores a data set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from models import vpfb_model

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.errors import CheckpointError
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model import choice, runs


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
