"""The model that scores a data set."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from models import vpfb_model

import vpfb_core as vpfb
from vpfb_core import networks
from vpfb_core.data.image_statistics import ImageStatistics
from vpfb_core.data.source import ConditionGroup
from vpfb_core.methods.path.homotopy import OT
from vpfb_core.methods.vpfb.potential import Potential
from vpfb_core.model import runs
from vpfb_core.model.choice import Choice, Needs, choose, of_the_kind_of
from vpfb_core.model.lock import locked
from vpfb_core.model.runs import Run
from vpfb_core.uses.ood import fit_reference
from vpfb_core.uses.ood.scores import needs_of

MULTISCALE = needs_of(["multiscale"])


def run_trained_on(
    data: str, path: Path, age: int = 0, *, reference: bool = True, channels: int = 1, has_null: bool = True
) -> Path:
    """A run folder with a model of random weights, `age` seconds old."""
    network = {"name": "unet", "channels": channels, "size": 8, "widths": [4, 4], "classes": [] if has_null else [2]}
    potential = Potential(networks.build(network), OT(), 0.5)
    model = vpfb_model(
        potential, network=network, about={"data": {"name": data}}, has_null=has_null, shape=(channels, 8, 8),
        statistics=ImageStatistics((0.5,) * channels, 0.25),
        groups=() if has_null else (ConditionGroup("class", ("a", "b")),),
    )  # fmt: skip
    if reference:
        model.reference = fit_reference(model, torch.rand(3, channels, 8, 8, generator=torch.manual_seed(0)))
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
    assert choose("cifar", MULTISCALE) == choose("cifar:test", MULTISCALE) == Choice(wanted)
    assert choose("imgs", MULTISCALE) == choose("svhn", MULTISCALE) == Choice(newest)


def test_a_built_in_model_counts_for_its_own_set_only() -> None:
    for name, source in {"digits": "digits", "shapes": "shapes", "fashion": "fashion-mnist"}.items():
        assert choose(f"{source}:test", MULTISCALE).model == runs.builtin_models()[name]
        assert vpfb.load(name, device="cpu").about["data"]["name"] == source
    builtin = runs.builtin_models()["digits"]
    assert choose("mnist:test", MULTISCALE) == Choice(None)
    run_trained_on("mnist", Path("runs/001-mnist"))
    assert choose("digits", MULTISCALE) == Choice(builtin)


def test_a_run_that_cannot_be_read_is_passed_over() -> None:
    readable = run_trained_on("mnist", Path("runs/001-mnist"), age=9)
    run_trained_on("mnist", Path("runs/002-mnist")).write_bytes(b"no model")
    assert choose("mnist", MULTISCALE) == Choice(readable)


def test_a_run_that_lacks_what_is_needed_is_passed_over_and_named_if_it_comes_first() -> None:
    bare = run_trained_on("mnist", Path("runs/001-mnist"), age=9, reference=False)
    found = choose("mnist", MULTISCALE)
    assert found == Choice(None, bare, "runs/001-mnist has no reference yet; it is not used")
    assert choose("mnist", needs_of(["energy"])) == choose("mnist", needs_of(["all"])) == Choice(bare)
    other = run_trained_on("imgs", Path("runs/002-imgs"), age=1)
    assert choose("mnist", MULTISCALE) == Choice(other, bare, found.note), "of other data"
    assert choose("digits", MULTISCALE).model == runs.builtin_models()["digits"]
    newer = run_trained_on("mnist", Path("runs/003-mnist"), age=2)
    assert choose("mnist", MULTISCALE) == Choice(newer), "the bare run would not have been chosen"
    barest = run_trained_on("mnist", Path("runs/004-mnist"), reference=False)
    with locked(Run(barest.parent)):
        note = "runs/004-mnist is still training and has no reference yet; it is not used"
        assert choose("mnist", MULTISCALE) == Choice(newer, barest, note)


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        (Needs(frozenset({"code"})), None),
        (Needs(frozenset({"energy"}), frozenset({"calibration"})), "has no calibration yet"),
        (Needs(parts=frozenset({"calibration", "reference"})), "has no calibration yet"),
        (Needs(frozenset({"wings"})), "was trained with the method vpfb, which has no wings"),
    ],
)
def test_what_a_model_lacks_is_said(needs: Needs, words: str | None) -> None:
    path = run_trained_on("mnist", Path("runs/001-mnist"))
    found = choose("mnist", needs)
    assert found == (Choice(path) if words is None else Choice(None, path, f"runs/001-mnist {words}; it is not used"))


def test_a_model_without_an_unconditional_field_is_passed_over() -> None:
    run_trained_on("mnist", Path("runs/001-mnist"), has_null=False, reference=False)
    assert "was trained only with classes" in (choose("mnist", needs_of(["energy"])).note or "")


def test_a_run_of_other_data_must_be_of_the_same_kind() -> None:
    np.savez("colour.npz", images=np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8))
    colour = run_trained_on("imgs", Path("runs/001-imgs"), age=9, channels=3)
    run_trained_on("mnist", Path("runs/002-mnist"))
    assert choose("colour.npz", MULTISCALE, of_the_kind_of("colour.npz")) == Choice(colour)
    assert choose("moons", MULTISCALE, of_the_kind_of("moons")) == Choice(None)
